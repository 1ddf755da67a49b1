"""The settings: one table, and the way from flags, environment and file to a frozen Config.

The fields of Config are the table: name, type, default and one sentence each. Everything else follows from it. The
setting ``stop_timeout`` is the flag ``--stop-timeout``, the environment variable ``GBOT_STOP_TIMEOUT`` and the key
``stop-timeout`` of the TOML file. Precedence: flag, environment, file, default. Secrets have no flag: a command line
can be read by every user of the machine.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from gbot import kinds
from gbot.errors import ConfigError
from gbot.kinds import Kind
from gbot.limiter import Limit

ENV_PREFIX = "GBOT_"
INBOX_MAX_MEMORY = 100_000
INBOX_MAX_STORED = 1_000_000
CONFIG_VARIABLE = "GBOT_CONFIG"  # names the TOML file where --config does not
FILE_SOURCE = f"--config or {CONFIG_VARIABLE}"


def _setting(
    kind: Kind, default: Any, sentence: str, *, flag: bool = True, secret: bool = False, shown: bool = True
) -> Any:
    """``secret`` is never shown, ``shown=False`` only not as a part of the whole: it may hold a password."""
    metadata = {"kind": kind, "sentence": sentence, "flag": flag, "secret": secret}
    return dataclasses.field(default=default, metadata=metadata, repr=shown and not secret)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Every setting of ``gbot serve``. ``load`` is the way to make one."""

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
        except ValueError:
            self.refuse(text, written_as, source)

    def refuse(self, given: object, written_as: str, source: str) -> NoReturn:
        if self.is_secret and given == "":
            shown = "nothing"
        elif self.is_secret or "@" in str(given) or (self.is_url and _may_hold_a_password(str(given))):
            shown = "a value that is not shown because it is secret, or may hold a password"
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


@dataclass(frozen=True, slots=True)
class Survey:
    """The settings, with defaults in place of what is wrong; what that was; what only looks like a mistake."""

    config: Config
    problems: list[ConfigError]
    warnings: list[str]


def load(
    flags: Mapping[str, str | None], environ: Mapping[str, str], file: Path | None, *, serving: bool = True
) -> tuple[Config, list[str]]:
    """Make the Config, and sentences about what looks like a mistake but need not be one. Raises ConfigError.

    ``flags`` maps setting names to what was given on the command line; ``file`` is a TOML file, or None. Without
    ``serving``, what only a server needs may be missing: secrets are not in every operator's shell.
    """
    found = survey(flags, environ, file, serving=serving)
    if found.problems:
        raise found.problems[0]
    return found.config, found.warnings


def survey(
    flags: Mapping[str, str | None], environ: Mapping[str, str], file: Path | None, *, serving: bool = True
) -> Survey:
    """As ``load``, but all that is wrong is told instead of raised."""
    problems: list[ConfigError] = []
    values: dict[str, Any] = {}

    def read(row: Setting, text: str, written_as: str, source: str) -> None:
        try:
            values[row.name] = row.read(text, written_as, source)
        except ConfigError as error:
            problems.append(error)

    if file is not None:
        texts, problems = _from_file(file)
        for row, text in texts:
            read(row, text, row.key, str(file))
    for row in SETTINGS.values():
        if row.variable in environ and not _is_service_link(environ[row.variable]):
            read(row, environ[row.variable], row.variable, "the environment")
        given = flags.get(row.name)
        if given is not None:
            read(row, given, "--" + row.key, "the command line")
    problems += [_with_password(name) for name in ("inbox", "db") if _has_password(flags.get(name))]
    config = Config(**values)
    if config.inbox == "sqlite:":
        config = dataclasses.replace(config, inbox=f"sqlite://{_state_directory(environ)}/inbox.sqlite3")
    if serving:
        problems += _contradictions(config)
    return Survey(config, problems, [*_unknown_variables(environ), *_odd_combinations(config)])


def _has_password(url: str | None) -> bool:
    try:
        return url is not None and bool(urlsplit(url).password)
    except ValueError:  # it is refused as no URL
        return False


def _with_password(name: str) -> ConfigError:
    """A command line can be read by every user of the machine."""
    expected = f"a URL without a password ({SETTINGS[name].variable} may hold one)"
    return ConfigError(f"--{name}", expected, "one with a password", "the command line")


def _state_directory(environ: Mapping[str, str]) -> str:
    """Where state goes: systemd's StateDirectory=, else the XDG base directory for state."""
    given = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given.startswith("/"):
        return given.rstrip("/")
    base = environ.get("XDG_STATE_HOME", "")
    if not base.startswith("/"):
        base = os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".local", "state")
    return os.path.join(base, "gbot")


def _contradictions(config: Config) -> list[ConfigError]:
    """What is wrong between settings that are right by themselves."""
    found = []
    if (config.tls_cert is None) != (config.tls_key is None):
        present, missing = ("tls-cert", "tls-key") if config.tls_cert else ("tls-key", "tls-cert")
        found.append(ConfigError(missing, f"a path, because {present} is set", "nothing", "no source"))
    secrets = {"line": "line_channel_secret", "messenger": "messenger_app_secret"}
    for platform, name in secrets.items():
        if platform in config.platforms and not getattr(config, name):
            expected = f"a secret, because {platform} is to be served"
            found.append(ConfigError(SETTINGS[name].variable, expected, "nothing", "no source"))
    return found


def _odd_combinations(config: Config) -> list[str]:
    """Settings that are right by themselves and make little sense together."""
    odd = []
    if config.line_channel_access_token and not config.line_channel_secret:
        odd.append("A LINE access token is set, but no LINE channel secret: LINE is not served")
    if (config.messenger_page_token or config.messenger_verify_token) and not config.messenger_app_secret:
        odd.append("A Messenger token is set, but no Messenger app secret: Messenger is not served")
    if config.inbox == "memory:" and (config.keep_done or config.ack == "received"):
        odd.append("keep-done and ack mean nothing with the memory: inbox: it stores nothing")
    if config.db is None:
        without = (row for row in SETTINGS.values() if row.name.startswith("db_"))
        odd += [f"{row.key} means nothing without db" for row in without if getattr(config, row.name) != row.default]
    if config.entries_max < config.pool:
        odd.append(f"inbox-max is below pool: no more than {config.entries_max} handlers will run at once")
    if config.inbox_bytes_max < config.body_bytes_max:
        odd.append(f"inbox-bytes-max is below body-bytes-max: deliveries of {config.inbox_bytes_max} bytes at most")
    return odd


def _from_file(path: Path) -> tuple[list[tuple[Setting, str]], list[ConfigError]]:
    """The settings of a file with their texts, and what is no setting."""
    source = str(path)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        return [], [ConfigError("config", "a readable file", f"{source!r}: {error.strerror}", FILE_SOURCE)]
    except RecursionError:
        return [], [ConfigError("config", "a TOML file", f"{source!r}: nested too deeply", FILE_SOURCE)]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        return [], [ConfigError("config", "a TOML file", f"{source!r}: {error}", FILE_SOURCE)]
    by_key = {row.key: row for row in SETTINGS.values()}
    texts, problems = [], []
    for key, value in document.items():
        try:
            row = by_key.get(key)
            if row is None:
                raise ConfigError(key, _known(key, list(by_key)), "a name that is no setting", source)
            texts.append((row, _toml_text(row, value, source)))
        except ConfigError as error:
            problems.append(error)
    return texts, problems


def _toml_text(row: Setting, value: object, source: str) -> str:
    """A TOML value as the text that a flag would have had; lists are for settings that take several."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    takes_several = isinstance(row.default, tuple)
    if takes_several and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    return row.refuse(value, row.key, source)


def _known(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, 1)
    return f"the name of a setting, perhaps {close[0]}" if close else "the name of a setting; see gbot serve --help"


def _is_service_link(value: str) -> bool:
    """Kubernetes sets GBOT_PORT=tcp://10.0.0.1:4000 in every pod beside a service named gbot."""
    return value.startswith(("tcp://", "udp://", "sctp://"))


def _unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Variables that begin like ours and are not. Only a warning: Kubernetes sets some for a service named gbot."""
    known = [*(row.variable for row in SETTINGS.values()), CONFIG_VARIABLE]
    unknown = [
        name
        for name in sorted(environ)
        if name.startswith(ENV_PREFIX) and (name not in known or _is_service_link(environ[name]))
    ]
    return [f"{name} in the environment is no setting of gbot{_perhaps(name, known)}" for name in unknown]


def _perhaps(name: str, known: list[str]) -> str:
    close = [candidate for candidate in difflib.get_close_matches(name, known, 1) if candidate != name]
    return f"; perhaps {close[0]} was meant" if close else ""
