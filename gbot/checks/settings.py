"""Whether the settings can be used: every problem, and not just the first; and the secrets that platforms need.

The other checks go on with the defaults of what is wrong. No finding holds a secret.
"""

from __future__ import annotations

import dataclasses
import shlex
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from gbot.checks.finding import Finding, fail, ok, secrets_in, skip, warn
from gbot.config import ENV_PREFIX, SETTINGS, Config
from gbot.config_sources import load, survey
from gbot.engine import build_platforms, check_lanes
from gbot.errors import ConfigError
from gbot.platform import Platform

CONFIG: Final = "config"
FILE: Final = "config file"
SECRETS: Final = "secrets"
NEEDS: Final[Mapping[str, Sequence[tuple[str, str, str]]]] = {
    "line": (
        ("line_channel_secret", "secret", "LINE's deliveries cannot be told from forged ones"),
        ("line_channel_access_token", "access token", "handlers cannot reply or push"),
    ),
    "messenger": (
        ("messenger_app_secret", "secret", "Messenger's deliveries cannot be told from forged ones"),
        ("messenger_page_token", "page token", "handlers cannot reply or push"),
        ("messenger_verify_token", "verify token", "Messenger cannot verify the webhook's address"),
    ),
}
"""What a platform needs: the setting, what it is called, and what is missing without it."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What could be read: the settings without what is wrong in them, what that was, and what looks like a mistake."""

    config: Config
    problems: Sequence[ConfigError]
    odd: Sequence[str]
    platforms: Sequence[Platform]  # to be served; none if they cannot be
    chosen: int  # how many settings have another value than by default
    file: Path | None = None

    @property
    def wrong(self) -> frozenset[str]:
        """The names of the settings that have a default here because theirs cannot be used."""
        written = {problem.name for problem in self.problems}
        return frozenset(row.name for row in SETTINGS.values() if written & {row.key, row.variable, f"--{row.key}"})

    @property
    def has_db(self) -> bool:
        """Whether there is to be a database, even one that cannot be looked at yet."""
        return self.config.db is not None or "db" in self.wrong


def read_settings(flags: Mapping[str, str | None], environ: Mapping[str, str], file: Path | None) -> Settings:
    """As ``gbot serve`` would read them. Raises nothing."""
    found = survey(flags, environ, file)
    config, problems = found.config, list(found.problems)
    platforms: list[Platform] = []
    try:
        platforms = build_platforms(config)
        check_lanes(config, platforms)
    except ConfigError as error:
        if all(error.name != problem.name for problem in problems):
            problems.append(error)
    chosen = sum(getattr(config, row.name) != row.default for row in SETTINGS.values() if row.name != "inbox")
    chosen += config.inbox != survey({}, environ_without_settings(environ), None).config.inbox
    return Settings(config, problems, found.warnings, platforms, chosen, file)


def environ_without_settings(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if not name.startswith(ENV_PREFIX)}


def config(settings: Settings) -> list[Finding]:
    """A line for each problem; one line if there is none."""
    findings = [_problem(problem) for problem in settings.problems]
    findings += [
        warn(CONFIG, sentence, "mend it if it is not meant so; gbot serve --help tells what each setting means")
        for sentence in settings.odd
    ]
    if findings:
        return findings
    file = f", with {settings.file}" if settings.file is not None else ""
    differ = "differs from its default" if settings.chosen == 1 else "differ from their defaults"
    found = f"{settings.chosen} of {len(SETTINGS)} settings {differ}{file}"
    return [ok(CONFIG, found, {"settings": len(SETTINGS), "differing": settings.chosen})]


def _problem(problem: ConfigError) -> Finding:
    source = f" (from {problem.source})" if problem.source != "no source" else ""
    return fail(
        CONFIG,
        f"{problem.name}: expected {problem.expected}, got {problem.given}{source}",
        "correct it: gbot serve refuses to start; what follows is about the rest of the settings",
    )


def config_file(settings: Settings) -> Finding:
    """Who else can read the file, if that matters."""
    path = settings.file
    if path is None:
        return skip(FILE, "none is named by --config or GBOT_CONFIG")
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return fail(FILE, f"{path}: {error.strerror}", "name a file that gbot can read")
    try:
        holds_secret = bool(secrets_of(load({}, {}, path, serving=False)[0]))
    except ConfigError:
        holds_secret = True  # for all that is known
    if not mode & stat.S_IROTH:
        return ok(FILE, f"{path}, which not everybody on this machine can read")
    if holds_secret:
        found = f"{path} can be read by everybody on this machine, and holds a secret or a password"
        return warn(FILE, found, f"chmod o-rwx {shlex.quote(str(path))}")
    return ok(FILE, f"{path}, which holds no secret")


def secrets(settings: Settings) -> list[Finding]:
    """Which platforms are served, and what they lack; never a value."""
    config = settings.config
    if not settings.platforms:
        return [skip(SECRETS, "no platform can be served before the settings are right")]
    findings = []
    for platform in settings.platforms:
        needs = NEEDS.get(platform.name, ())
        missing = [need for need in needs if not getattr(config, need[0])]
        there = [need[1] for need in needs if need not in missing]
        for name, what, loss in missing:
            variable = SETTINGS[name].variable
            advice = f"set {variable} in the service's environment, or {SETTINGS[name].key} in the file of --config"
            findings.append(warn(SECRETS, f"{platform.name}: no {what}, so {loss}", advice))
        if not missing and needs:
            findings.append(ok(SECRETS, f"{platform.name}: {', '.join(there)}"))
    return [*findings, *_plain(settings)]


def _plain(settings: Settings) -> list[Finding]:
    if all(platform.name != "plain" for platform in settings.platforms):
        return []
    host = settings.config.host
    if host.startswith(("unix:", "127.")) or host in ("localhost", "::1"):
        return [ok(SECRETS, f"plain: it has none, and only this machine reaches {host}")]
    return [
        warn(
            SECRETS,
            f"plain: it has none, so whoever reaches {host} can make this bot act",
            "listen on 127.0.0.1 (--host), or serve a platform that signs its deliveries: set its secret",
        )
    ]


def secrets_of(config: Config, environ: Mapping[str, str] | None = None) -> set[str]:
    """What no line may hold: secrets and passwords of the settings, wrong ones included, and of proxies."""
    values: list[Any] = [getattr(config, row.name) for row in SETTINGS.values() if row.is_secret]
    values += [url for url in (config.inbox, config.db) if url is not None and "://" in url]
    for name, value in (environ or {}).items():
        row = next((row for row in SETTINGS.values() if row.variable == name), None)
        if row is not None and row.is_secret:
            values += value.split(",")
        elif row is not None or name.lower().endswith("_proxy"):
            values += [value] if "://" in value else []
    return secrets_in(value for value in values if value)
