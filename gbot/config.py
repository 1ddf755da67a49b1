"""The settings: one table. :mod:`gbot.config_sources` is the way to it from flags, environment and file.

The fields of Config are the table: name, type, default and one sentence each. Everything else follows from it. The
setting ``stop_timeout`` is the flag ``--stop-timeout``, the environment variable ``GBOT_STOP_TIMEOUT`` and the key
``stop-timeout`` of the TOML file. Secrets have no flag: a command line can be read by every user of the machine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from gbot import kinds
from gbot.database.address import NoAddress
from gbot.errors import ConfigError
from gbot.kinds import Kind
from gbot.limiter import Limit

ENV_PREFIX = "GBOT_"
INBOX_MAX_MEMORY = 100_000
INBOX_MAX_STORED = 1_000_000


def _setting(
    kind: Kind, default: Any, sentence: str, *, flag: bool = True, secret: bool = False, shown: bool = True
) -> Any:
    """``secret`` is never shown, ``shown=False`` only not as a part of the whole: it may hold a password."""
    metadata = {"kind": kind, "sentence": sentence, "flag": flag, "secret": secret}
    return dataclasses.field(default=default, metadata=metadata, repr=shown and not secret)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Every setting of ``gbot serve``. ``config_sources.load`` is the way to make one."""

    host: str = _setting(
        kinds.ADDRESS, "127.0.0.1", "Address to listen on; :: takes IPv4 as well, unix:/PATH is a socket."
    )
    port: int = _setting(kinds.integer(0, 65535), 4000, "TCP port to listen on; 0 takes a free one.")
    pool: int = _setting(kinds.integer(1, 1_000_000), 5000, "How many handlers may run at once, a greenlet each.")
    platforms: tuple[str, ...] = _setting(
        kinds.words("line", "messenger", "plain"),
        (),
        "Platforms to serve; by default those with a secret, or plain if none has.",
    )
    inbox: str = _setting(
        kinds.INBOX,
        "sqlite:",
        "Where accepted events rest: sqlite: is a file in the state directory, sqlite:///PATH another one, "
        "mysql://USER@HOST/DATABASE is shared by several nodes, memory: is lost on a crash.",
        shown=False,
    )
    inbox_max: int | None = _setting(
        kinds.integer(1, 100_000_000),
        None,
        "How many events may wait, run or be dead; above it deliveries get 503. "
        f"By default {INBOX_MAX_MEMORY} in memory: and {INBOX_MAX_STORED} elsewhere.",
    )
    inbox_bytes_max: int = _setting(
        kinds.integer(1024, 2**40, "BYTES"),
        64 * 1024 * 1024,
        "How many bytes of deliveries may be in memory and not stored (memory: never stores them); "
        "above it deliveries get 503.",
    )
    ack: str = _setting(
        kinds.choice("stored", "received"),
        "stored",
        "When deliveries are answered: once stored, or as soon as received, which loses events in a crash.",
    )
    dedup_window: float = _setting(
        kinds.seconds(60, 30 * 86_400),
        25 * 3600.0,
        "How long an event's id is remembered, so that one that the platform sends again does not run again; "
        "memory: remembers the last 100,000 ids at most.",
    )
    attempts_max: int = _setting(
        kinds.integer(1, 1000), 5, "How often an event is run in all when its handler fails; then it is kept as dead."
    )
    order: str = _setting(
        kinds.choice("strict", "relaxed"),
        "strict",
        "Whether a conversation's later events wait while one is to be tried again, or overtake it.",
    )
    keep_done: float = _setting(
        kinds.seconds(1, 366 * 86_400, "not at all"), 0.0, "How long events are kept when they are done; 0: not at all."
    )
    state_ttl: float = _setting(
        kinds.seconds(60, 3660 * 86_400), 30 * 86_400.0, "How long ctx.state is kept after its last change."
    )
    lanes: tuple[tuple[str, Limit], ...] | None = _setting(
        kinds.LANES,
        None,
        "Limits of requests to the platforms' APIs instead of their own, such as "
        "'line.push: 500/s; line.reply: 2000/s, 200 at once' or 'line.all: 1 at once, 100ms apart'.",
    )
    merge_window: float = _setting(
        kinds.seconds(0.001, 5, "not at all"),
        0.02,
        "How long a push waits for others with the same message, to leave with them in one request; 0: not at all.",
    )
    db: str | None = _setting(
        kinds.DATABASE,
        None,
        "The bot's own database, for ctx.db: mysql://USER@HOST/DATABASE; with a password only in GBOT_DB or the file.",
        shown=False,
    )
    db_pool: int = _setting(
        kinds.integer(1, 100_000),
        50,
        "How many connections to it this node may have open; a handler waits for a free one.",
    )
    db_warm: int = _setting(
        kinds.integer(0, 100_000), 10, "How many of them are opened at the start, and kept open when nobody needs them."
    )
    db_wait_timeout: float = _setting(
        kinds.seconds(0.01, 3600),
        5.0,
        "How long a handler waits for a connection when all are in use; then its event is put off.",
    )
    db_hold_warning: float = _setting(
        kinds.seconds(0.1, 86_400, "never"), 30.0, "A connection that a handler holds for longer is logged; 0: never."
    )
    db_share: int = _setting(
        kinds.integer(1, 10_000), 1, "How many nodes, this one included, share the database's connections evenly."
    )
    db_oversize: str = _setting(
        kinds.choice("refuse", "clamp"),
        "refuse",
        "When db-pool is more than this node's share of max_connections, or than the open-file limit leaves: "
        "refuse to start, or take what there is.",
    )
    body_bytes_max: int = _setting(
        kinds.integer(1024, 100 * 1024 * 1024, "BYTES"), 1024 * 1024, "The largest delivery taken, in bytes."
    )
    connections_max: int = _setting(
        kinds.integer(1, 1_000_000), 10_000, "How many connections may be open; above it new ones wait."
    )
    handler_timeout: float = _setting(
        kinds.seconds(0.1, 86_400, "none"), 60.0, "How long a handler may run before it is stopped; 0: no limit."
    )
    stop_timeout: float = _setting(kinds.seconds(0, 3600), 25.0, "How long running handlers get to finish on stop.")
    tls_cert: str | None = _setting(
        kinds.PATH, None, "Certificate chain (PEM); with --tls-key the server speaks HTTPS."
    )
    tls_key: str | None = _setting(kinds.PATH, None, "Private key (PEM) of the certificate.")
    log_format: str = _setting(kinds.choice("text", "json"), "text", "How log lines look.")
    log_level: str = _setting(
        kinds.choice("debug", "info", "warning", "error"), "info", "The least severe lines to log."
    )
    sample_interval: float = _setting(
        kinds.seconds(0.5, 3600, "never"),
        10.0,
        "How often a line with greenlets, CPU and memory is logged; 0 for never.",
    )
    line_channel_secret: tuple[str, ...] = _setting(
        kinds.secrets(2), (), "LINE channel secret; two separated by a comma while rotating.", flag=False, secret=True
    )
    line_channel_access_token: tuple[str, ...] = _setting(
        kinds.secrets(1), (), "LINE channel access token, needed to reply and push.", flag=False, secret=True
    )
    line_api_base: str = _setting(
        kinds.API_BASE, "https://api.line.me", "Where the LINE API is, for tests against another one.", flag=False
    )
    line_content_base: str = _setting(
        kinds.API_BASE, "https://api-data.line.me", "Where LINE has images and files, for tests.", flag=False
    )
    messenger_app_secret: tuple[str, ...] = _setting(
        kinds.secrets(2), (), "Messenger app secret; two separated by a comma while rotating.", flag=False, secret=True
    )
    messenger_verify_token: tuple[str, ...] = _setting(
        kinds.secrets(1), (), "The verify token that Messenger's webhook is set up with.", flag=False, secret=True
    )
    messenger_page_token: tuple[str, ...] = _setting(
        kinds.secrets(1), (), "Messenger page access token, needed to reply and push.", flag=False, secret=True
    )
    messenger_api_base: str = _setting(
        kinds.API_BASE, "https://graph.facebook.com/v23.0", "Where the Graph API is, with its version.", flag=False
    )

    def lanes_of(self, platform: str) -> dict[str, Limit]:
        """The limits in ``lanes`` that are for this platform, by endpoint."""
        prefix = f"{platform}."
        return {name.removeprefix(prefix): limit for name, limit in self.lanes or () if name.startswith(prefix)}

    @property
    def entries_max(self) -> int:
        """``inbox_max``, or what it is by default for this kind of inbox."""
        if self.inbox_max is not None:
            return self.inbox_max
        return INBOX_MAX_MEMORY if self.inbox == "memory:" else INBOX_MAX_STORED


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table."""

    name: str
    kind: Kind
    default: Any
    sentence: str
    has_flag: bool
    is_secret: bool
    is_url: bool  # which may hold a password

    @property
    def key(self) -> str:
        """Its name in the TOML file and, after two hyphens, on the command line."""
        return self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return ENV_PREFIX + self.name.upper()

    def read(self, text: str, written_as: str, source: str) -> Any:
        """The value that a text stands for. Raises ConfigError."""
        try:
            return self.kind.read(text)
        except NoAddress as error:
            self.refuse(text, written_as, source, error.problem)
        except ValueError:
            self.refuse(text, written_as, source)

    def refuse(self, given: object, written_as: str, source: str, problem: str = "") -> NoReturn:
        """``problem``: what a URL has or lacks, in words that repeat nothing of it."""
        if self.is_secret and given == "":
            shown = "nothing"
        elif self.is_secret or "@" in str(given) or (self.is_url and _may_hold_a_password(str(given))):
            hidden = "is not shown because it is secret, or may hold a password"
            shown = f"one that {problem}, and {hidden}" if problem else f"a value that {hidden}"
        else:
            shown = repr(given)
        raise ConfigError(written_as, self.kind.expected, shown, source)


def _may_hold_a_password(url: str) -> bool:
    """Also of one that is written wrongly; not of a kind of inbox that is, nor of a path."""
    rest = url.partition(":")[2].removesuffix("\n")
    return url.startswith("mysql:") or ":" in rest or bool(rest and not rest.startswith("/"))


def _table() -> dict[str, Setting]:
    rows = (
        Setting(
            row.name,
            row.metadata["kind"],
            row.default,
            row.metadata["sentence"],
            row.metadata["flag"],
            row.metadata["secret"],
            not row.repr and not row.metadata["secret"],
        )
        for row in dataclasses.fields(Config)
    )
    return {row.name: row for row in rows}


SETTINGS: Mapping[str, Setting] = _table()
