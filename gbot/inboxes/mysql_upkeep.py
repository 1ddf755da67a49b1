"""What keeps a MySQL inbox in order: entries that come back, and what is old.

Every function is one bounded part, in a transaction of its own, so that turns of other workers get in between.
"""

from __future__ import annotations

from typing import Final

from gbot.inboxes.mysql_tables import CHUNK, Tables
from gbot.inboxes.store import Place

PURGE_CHUNK: Final = 1000

WAKE: Final = (
    "SELECT number, conversation FROM gbot_entries FORCE INDEX (by_state)"
    f" WHERE state = {Place.WAITING} AND claim IS NULL AND due_ms <= %s ORDER BY due_ms LIMIT {CHUNK}"
)
RUNNING_OF: Final = (
    "SELECT number, conversation FROM gbot_entries FORCE INDEX (by_state)"
    f" WHERE state = {Place.RUNNING} AND claim = %s AND due_ms IS NULL ORDER BY number"
)
PURGE_SEEN: Final = f"SELECT number, seen_ms FROM gbot_seen FORCE INDEX (PRIMARY) ORDER BY number LIMIT {PURGE_CHUNK}"
# The second column is there because it is not in the index: see gbot.inboxes.mysql_tables.
PURGE_DONE: Final = (
    "SELECT number, received_ms FROM gbot_ended FORCE INDEX (by_state)"
    f" WHERE state = {Place.DONE} AND ended_ms < %s ORDER BY ended_ms LIMIT {PURGE_CHUNK}"
)
PURGE_STATES: Final = (
    "SELECT number, conversation FROM gbot_states FORCE INDEX (by_time)"
    f" WHERE expires_ms <= %s ORDER BY expires_ms LIMIT {PURGE_CHUNK}"
)
# The times of the first, or NULL.
FIRST_DUE: Final = (
    "(SELECT due_ms FROM gbot_entries FORCE INDEX (by_state)"
    f" WHERE state = {Place.WAITING} AND claim IS NULL ORDER BY due_ms LIMIT 1)"
)
FIRST_SEEN: Final = "(SELECT seen_ms FROM gbot_seen FORCE INDEX (PRIMARY) ORDER BY number LIMIT 1)"
FIRST_DONE: Final = (
    f"(SELECT ended_ms FROM gbot_ended FORCE INDEX (by_state) WHERE state = {Place.DONE} ORDER BY ended_ms LIMIT 1)"
)
FIRST_EXPIRY: Final = "(SELECT expires_ms FROM gbot_states FORCE INDEX (by_time) ORDER BY expires_ms LIMIT 1)"


def wake(tables: Tables, now_ms: int) -> tuple[int, bool]:
    """How many entries were woken, and whether there may be more."""
    rows = tables.rows(WAKE, (now_ms,))
    return tables.put_back(rows, f"state = {Place.WAITING}"), len(rows) == CHUNK


def end_part(tables: Tables, worker: str, args: tuple[int, ...], rescued: bool) -> int | None:
    """Put back a part of what a worker runs; it ends with the last part, of less than CHUNK entries.

    The worker is the first of ``args``; None when the query ``worker`` does not find it.
    """
    if not tables.rows(worker, args):
        return None
    rows = tables.rows(f"{RUNNING_OF} LIMIT {CHUNK}", args[:1])
    if len(rows) < CHUNK:
        tables.end(args[0])
    tables.put_back(rows, f"claim = {int(args[0])}", rescued)
    return len(rows)


def purge_seen(tables: Tables, now_ms: int) -> int:
    before_ms = now_ms - tables.policy.dedup_window_ms
    numbers = [number for number, seen_ms in tables.rows(PURGE_SEEN) if seen_ms < before_ms]
    return tables.delete("gbot_seen", numbers, f"seen_ms < {before_ms}")


def purge_done(tables: Tables, now_ms: int) -> int:
    rows = tables.rows(PURGE_DONE, (now_ms - tables.policy.keep_done_ms,))
    return tables.delete("gbot_ended", [row[0] for row in rows], f"state = {Place.DONE}")


def purge_states(tables: Tables, now_ms: int) -> int:
    """A state that is saved again meanwhile has a new time, and stays."""
    numbers = [row[0] for row in tables.rows(PURGE_STATES, (now_ms,))]
    tables.delete("gbot_states", numbers, f"expires_ms <= {now_ms}")
    return len(numbers)
