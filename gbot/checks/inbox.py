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

from gbot.checks.clock import Reading
from gbot.checks.finding import Finding, fail, in_ms, milliseconds, ok, size, warn
from gbot.checks.inbox_server import commits, packets
from gbot.checks.server import WRITER, clock_of, is_read_only
from gbot.config import Config
from gbot.counts import counted
from gbot.database.address import parse
from gbot.database.advice import when_away, when_refused
from gbot.database.connection import Connection
from gbot.database.connector import Connector
from gbot.errors import DatabaseDown, DatabaseMistake, DatabaseRefused, StartError
from gbot.inboxes import mysql_schema, sqlite_file
from gbot.inboxes.mysql import GONE_AFTER_S, reason_of
from gbot.inboxes.sqlite import DISK_FREE_MIN_BYTES, look_into
from gbot.inboxes.store import StoreDown

NAME: Final = "inbox"
DISK: Final = "disk"
DISK_FREE_WARN_BYTES: Final = 1024**3
MIGRATE: Final = "run gbot inbox migrate once, with the same --inbox (GBOT_INBOX)"
UNUSED: Final = "; no worker uses it now"
WORKERS: Final = f"SELECT COUNT(*) FROM gbot_workers WHERE life > 0 AND beat >= NOW(6) - INTERVAL {GONE_AFTER_S} SECOND"


def inbox(config: Config, tell: Callable[[Reading], object]) -> list[Finding]:
    """``tell`` takes what the database says its time is."""
    if config.inbox == "memory:":
        advice = "use the default, sqlite:, unless you can do without the events that a stop or a crash leaves"
        return [warn(NAME, "memory: stores nothing: what has not run when gbot ends is lost", advice)]
    if config.inbox.startswith("sqlite://"):
        return _sqlite(Path(config.inbox.removeprefix("sqlite://")))
    return _mysql(config, tell)


# ---- SQLite


def _sqlite(path: Path) -> list[Finding]:
    directory = next(each for each in path.parents if each.exists())
    if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        advice = f"let gbot's user write to {directory}, or name another file with --inbox"
        return [fail(NAME, f"this user may not write to {directory}, where {path.name} is or would be", advice)]
    try:
        found = _file(path) if os.path.lexists(path) else ok(NAME, f"{path} is not there yet; gbot serve makes it")
    except StartError as error:
        found = fail(NAME, str(error), "mend that first, or name another file with --inbox")
    except (StoreDown, OSError) as error:
        advice = "mend that first, or name another file with --inbox; the events in this one run when it is used again"
        found = fail(NAME, f"{path} cannot be read: {error}", advice)
    return [found, _disk(directory)]


def _file(path: Path) -> Finding:
    version, workers = look_into(path)
    known = len(sqlite_file.MIGRATIONS)
    used, figures = _beside(workers), {"schema": version, "workers": workers}
    if version < known:
        found = (
            f"{path} has schema {version}{used}; gbot serve brings it to {known}, and an older gbot cannot use it then"
        )
        return warn(NAME, found, "keep a copy of the file until you are sure, if you may have to go back", figures)
    return ok(NAME, f"{path} has schema {version}{used}", figures)


def _beside(workers: int) -> str:
    if not workers:
        return UNUSED
    return f"; {counted(workers, 'worker uses', 'workers use')} it now, which this look does not disturb"


def _disk(directory: Path) -> Finding:
    disk = os.statvfs(directory)
    free = disk.f_bavail * disk.f_frsize
    found, figures = f"{size(free)} are free for the inbox in {directory}", {"free_bytes": free}
    advice = f"make room: below {size(DISK_FREE_MIN_BYTES)} gbot takes no events"
    if free < DISK_FREE_MIN_BYTES:
        return fail(DISK, found, advice, figures)
    if free < DISK_FREE_WARN_BYTES:
        return warn(DISK, found, advice, figures)
    return ok(DISK, found, figures)


# ---- MySQL


def _mysql(config: Config, tell: Callable[[Reading], object]) -> list[Finding]:
    address = parse(config.inbox)
    place = address.place
    began = time.monotonic()
    try:
        with closing(Connector(address).connect()) as connection:
            connected_s = time.monotonic() - began
            tell(clock_of(connection, address))
            usable = _tables(connection, place, connected_s)
            return [usable, *commits(connection), packets(connection, config.body_bytes_max)]
    except StartError as error:
        return [fail(NAME, str(error), "use a server that is new enough")]
    except DatabaseRefused as error:
        advice = f"{when_refused(error, 'GBOT_INBOX')}: gbot serve would not start"
        return [fail(NAME, f"{place} does not let gbot in: {error}", advice)]
    except DatabaseDown as error:
        advice = f"{when_away(error)}; gbot serve would not start"
        return [fail(NAME, f"{place} cannot be reached: {error}", advice)]
    except DatabaseMistake as error:
        if error.code not in mysql_schema.NOT_ALLOWED:
            raise
        found = f"{place}: its user may not do what the inbox needs, so no event could be stored: {reason_of(error)}"
        grant = f"GRANT {mysql_schema.RIGHTS_TO_WORK} ON {address.database}.* TO {address.user}"
        return [fail(NAME, found, f"as its admin: {grant}")]


def _tables(connection: Connection, place: str, connected_s: float) -> Finding:
    [(server,)] = connection.rows("SELECT VERSION()")
    mysql_schema.check_server(place, server)
    if is_read_only(connection):
        return fail(NAME, f"{place} is read-only, so no event could be stored", f"name in GBOT_INBOX {WRITER}")
    version, known = mysql_schema.version_of(connection), mysql_schema.VERSION
    if version == 0:
        return fail(NAME, f"{place} has no tables of gbot yet", MIGRATE)
    if version < known:
        return fail(NAME, f"{place} has tables of an older gbot (schema {version} and not {known})", MIGRATE)
    if version > known:
        found = f"{place} has tables of a newer gbot (schema {version}; this one knows up to {known})"
        return fail(NAME, found, "install on this node the gbot that the others have")
    mysql_schema.check_rights(connection)
    [(workers,)] = connection.rows(WORKERS)
    figures = {"schema": version, "workers": int(workers), "connected_ms": in_ms(connected_s)}
    times = f"connected in {milliseconds(connected_s)}"
    return ok(NAME, f"{place}, {server}, has schema {version}, {times}{_beside(workers)}", figures)
