"""From flags, environment and file to a frozen Config.

Precedence: flag, environment, file, default. A value that is wrong is told with the name it was written under and where
that was, and is not shown where it may hold a secret.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gbot.config import ENV_PREFIX, SETTINGS, Config, Setting
from gbot.errors import ConfigError

CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"  # names the TOML file where --config does not
FILE_SOURCE = f"--config or {CONFIG_VARIABLE}"


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
        in_environ = environ.get(row.variable)
        if in_environ is not None and not _counts_as_unset(row, in_environ):
            read(row, in_environ, row.variable, "the environment")
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
    elif config.db_warm > config.db_pool and config.db_warm != SETTINGS["db_warm"].default:
        odd.append(f"db-warm is above db-pool: no more than {config.db_pool} connections will be opened")
    elif 0 < config.handler_timeout <= config.db_wait_timeout:
        odd.append("db-wait-timeout is not below handler-timeout: a handler's time is over before a connection is free")
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


def _counts_as_unset(row: Setting, text: str) -> bool:
    """An empty variable is what ``GBOT_DB=$DB`` leaves when there is none.

    An empty secret is refused, though: one that got lost must not end in serving a platform without it.
    """
    return _is_service_link(text) or (not text and not row.is_secret)


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
