"""All the checks of ``gbot check``, each bounded in time; see :mod:`gbot.checks`.

They run side by side, in groups; the import of APP has ended before the machine and the servers are looked at. One
that breaks, or takes too long, is a line that says so, and never the end of the others. What they found is always shown
in the same order. The last thing done to every line is to take out what others have said if it holds a secret.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import gevent

from gbot.checks import api, app, certificate, clock, database, inbox, machine, port, settings
from gbot.checks.finding import Finding, fail, skip, without
from gbot.database.address import parse

LIMIT_S: Final = 3.0
BROKEN: Final = "that is a mistake in gbot, or something that it did not expect of this machine: please report it"
NOT_LOOKED_AT: Final = "not looked at: its setting cannot be used; see config"
UNREACHED: Final = "see whether its host, port and firewall let this machine through"
API_LIMIT_S: Final = 6.0  # a name to look up, a connection and an answer, each maybe at the other end of the world


@dataclass(frozen=True)
class Check:
    """One thing to look at. ``look`` raises nothing that is expected."""

    name: str
    look: Callable[[], Finding | Iterable[Finding]]
    what: str = "it"  # is not through when it takes too long
    late: str = "see whether this machine, its disk or its network is overloaded"  # what to do when it takes too long
    limit_s: float = LIMIT_S
    in_thread: bool = False  # it may wait for a disk, which gevent cannot interrupt


def check_all(
    app_name: str, flags: Mapping[str, str | None], environ: Mapping[str, str], file: Path | None
) -> list[Finding]:
    """Everything, in the order of the table."""
    read = settings.read_settings(flags, environ, file)
    secrets = settings.secrets_of(read.config, environ)
    readings: list[clock.Reading] = []
    findings = [*run(checks_of_settings(read)), *_looked(Check(app.NAME, lambda: app.app(app_name)))]
    # The inbox may be on the database's server, whose sessions are counted: it has left before the database is asked.
    findings += run([*checks_of_machine(read), check_of_inbox(read, readings.append)])
    findings += run(checks_of_others(read, readings.append))
    findings.append(clock.clock(readings))
    return [without(finding, secrets) for finding in findings]


def run(checks: Sequence[Check]) -> list[Finding]:
    """Look at all of it side by side; what was found in the order of the checks."""
    greenlets = [gevent.spawn(_bounded, check) for check in checks]
    gevent.joinall(greenlets)
    return list(itertools.chain.from_iterable(greenlet.value or () for greenlet in greenlets))


def _bounded(check: Check) -> list[Finding]:
    try:
        with gevent.Timeout(check.limit_s):
            return gevent.get_hub().threadpool.apply(_looked, (check,)) if check.in_thread else _looked(check)
    except gevent.Timeout:
        return [fail(check.name, f"{check.what} was not through after {check.limit_s:g} s", check.late)]


def _looked(check: Check) -> list[Finding]:
    try:
        found = check.look()
        return [found] if isinstance(found, Finding) else list(found)
    except Exception as error:
        text = " ".join(str(error).split())
        return [fail(check.name, f"the check itself broke: {type(error).__name__}: {text}", BROKEN, said=text)]


def checks_of_settings(read: settings.Settings) -> list[Check]:
    return [
        Check(settings.CONFIG, lambda: settings.config(read)),
        Check(settings.FILE, lambda: settings.config_file(read)),
        Check(settings.SECRETS, lambda: settings.secrets(read)),
    ]


def checks_of_machine(read: settings.Settings) -> list[Check]:
    config = read.config
    has_api = any(platform.limits.lanes for platform in read.platforms)
    return [
        Check(port.NAME, lambda: port.port(config)),
        Check(certificate.NAME, lambda: certificate.certificate(config, time.time())),
        Check(machine.FILES, lambda: machine.open_files(config, has_api, read.has_db, *machine.file_limits())),
        Check(machine.BACKLOG_NAME, lambda: machine.backlog(config)),
        Check(machine.MEMORY, lambda: machine.memory(config, read.has_db, machine.memory_limit())),
    ]


def check_of_inbox(read: settings.Settings, tell: Callable[[clock.Reading], object]) -> Check:
    config = read.config
    if "inbox" in read.wrong:
        return Check(inbox.NAME, lambda: skip(inbox.NAME, NOT_LOOKED_AT))
    if config.inbox.startswith("mysql:"):
        return Check(inbox.NAME, lambda: inbox.inbox(config, tell), parse(config.inbox).place, UNREACHED)
    return Check(inbox.NAME, lambda: inbox.inbox(config, tell), in_thread=config.inbox.startswith("sqlite:"))


def checks_of_others(read: settings.Settings, tell: Callable[[clock.Reading], object]) -> list[Check]:
    config = read.config
    served = [platform.name for platform in read.platforms]
    return [
        _check_of_database(read, tell),
        *(
            Check(place[0], partial(api.api, place, tell), late=UNREACHED, limit_s=API_LIMIT_S)
            for place in api.places(config, served)
        ),
    ]


def _check_of_database(read: settings.Settings, tell: Callable[[clock.Reading], object]) -> Check:
    config = read.config
    if "db" in read.wrong:
        return Check(database.NAME, lambda: skip(database.NAME, NOT_LOOKED_AT))
    place = parse(config.db).place if config.db is not None else "it"
    return Check(database.NAME, lambda: database.database(config, tell), place, UNREACHED)
