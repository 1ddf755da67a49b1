"""Whether the inbox can be used, and its tables are those of this gbot.

It is only looked at: no file is created or upgraded, nothing is written, no lock that a worker wants is taken, no life
begins. A worker may use it meanwhile.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from gbot.checks.clock import Reading, reading
from gbot.checks.finding import Finding, count, fail, milliseconds, ok, size, warn
from gbot.config import Config
from gbot.database.address import EXPECTED, parse
from gbot.database.connection import Connection
from gbot.database.connector import Connector
from gbot.errors import DatabaseDown, DatabaseMistake, DatabaseRefused, StartError
from gbot.inboxes import mysql_schema, sqlite_file
from gbot.inboxes.mysql import GONE_AFTER_S
from gbot.inboxes.sqlite import DISK_FREE_MIN_BYTES, look_into
from gbot.inboxes.store import StoreDown

NAME: Final = "inbox"
DISK: Final = "disk"
DISK_FREE_WARN_BYTES: Final = 1024**3
MIGRATE: Final = "gbot inbox migrate, with the same --inbox (GBOT_INBOX)"
UNUSED: Final = "; no worker uses it now"
WORKERS: Final = f"SELECT COUNT(*) FROM gbot_workers WHERE life > 0 AND beat >= NOW(6) - INTERVAL {GONE_AFTER_S} SECOND"
CLOCK: Final = "SELECT UNIX_TIMESTAMP(NOW(6))"


def inbox(config: Config, tell: Callable[[Reading], object]) -> list[Finding]:
    """``tell`` takes what the database says its time is."""
    if config.inbox == "memory:":
        advice = "use the default, sqlite:, unless you can do without the events that a stop or a crash leaves"
        return [warn(NAME, "memory: stores nothing: what has not run when gbot ends is lost", advice)]
    if config.inbox.startswith("sqlite://"):
        return _sqlite(Path(config.inbox.removeprefix("sqlite://")))
    return [_mysql(config.inbox, tell)]


# ---- SQLite


def _sqlite(path: Path) -> list[Finding]:
    directory = next(each for each in path.parents if each.exists())
    if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        advice = f"let gbot's user write to {directory}, or name another file with --inbox"
        return [fail(NAME, f"this user may not write to {directory}, where {path.name} is or would be", advice)]
    try:
        found = _file(path) if os.path.lexists(path) else ok(NAME, f"{path} is not there yet; gbot serve makes it")
    except StartError as error:
        found = fail(NAME, str(error), "mend that first: gbot serve would not start")
    except (StoreDown, OSError) as error:
        found = fail(NAME, f"{path} cannot be read: {error}", "mend that, or name another file with --inbox")
    return [found, _disk(directory)]


def _file(path: Path) -> Finding:
    version, workers = look_into(path)
    known = len(sqlite_file.MIGRATIONS)
    used = _beside(workers)
    if version < known:
        found = (
            f"{path} has schema {version}{used}; gbot serve brings it to {known}, and an older gbot cannot use it then"
        )
        return warn(NAME, found, "keep a copy of the file until you are sure, if you may have to go back")
    return ok(NAME, f"{path} has schema {version}{used}")


def _beside(workers: int) -> str:
    if not workers:
        return UNUSED
    return f"; {count(workers, 'worker')} {'uses' if workers == 1 else 'use'} it now, which this look does not disturb"


def _disk(directory: Path) -> Finding:
    disk = os.statvfs(directory)
    free = disk.f_bavail * disk.f_frsize
    found = f"{size(free)} are free for the inbox in {directory}"
    if free < DISK_FREE_MIN_BYTES:
        advice = f"make room: below {size(DISK_FREE_MIN_BYTES)} gbot takes no events"
        return fail(DISK, found, advice)
    if free < DISK_FREE_WARN_BYTES:
        return warn(DISK, found, f"make room: below {size(DISK_FREE_MIN_BYTES)} gbot takes no events")
    return ok(DISK, found)


# ---- MySQL


def _mysql(url: str, tell: Callable[[Reading], object]) -> Finding:
    try:
        address = parse(url)
    except ValueError:
        return fail(NAME, "its address cannot be used", f"write it as {EXPECTED}")
    place = address.place
    began = time.monotonic()
    try:
        connection = Connector(address).connect()
        with closing(connection):
            took = milliseconds(time.monotonic() - began)
            tell(clock_of(connection, f"the inbox {address.host}"))
            return _tables(connection, place, took)
    except StartError as error:
        return fail(NAME, str(error), "use a server that is new enough")
    except DatabaseRefused as error:
        return fail(NAME, f"{place} does not let gbot in: {error}", "see to user, password and database in GBOT_INBOX")
    except DatabaseDown as error:
        return fail(NAME, f"{place} cannot be reached: {error}", "start it, or see to host, port and firewall")
    except DatabaseMistake as error:
        if error.code not in mysql_schema.NOT_ALLOWED:
            raise
        return fail(NAME, f"{place}: its user may not do what the inbox needs: {error}", "GRANT it; README tells what")


def _tables(connection: Connection, place: str, took: str) -> Finding:
    [(server,)] = connection.rows("SELECT VERSION()")
    mysql_schema.check_server(place, server)
    version, known = mysql_schema.version_of(connection), mysql_schema.VERSION
    if version == 0:
        return fail(NAME, f"{place} has no tables of gbot yet", MIGRATE)
    if version < known:
        return fail(NAME, f"{place} has tables of an older gbot (schema {version} and not {known})", MIGRATE)
    if version > known:
        found = f"{place} has tables of a newer gbot (schema {version}; this one knows up to {known})"
        return fail(NAME, found, "use that gbot")
    [(workers,)] = connection.rows(WORKERS)
    return ok(NAME, f"{place}, {server}, has schema {version}, connected in {took}{_beside(workers)}")


def clock_of(connection: Connection, whose: str) -> Reading:
    """The time of a server. Raises DatabaseError."""
    asked_s = time.time()
    [(theirs,)] = connection.rows(CLOCK)
    return reading(whose, float(theirs), asked_s, time.time())
