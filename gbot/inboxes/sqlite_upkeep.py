"""What keeps a SQLite inbox in order: entries that come back, conversations that go on, what is old and what is left.

Every statement gives up the interpreter lock and has to get it back from a busy hub, so what counts is their number.
Therefore a statement takes a whole batch, as one JSON text, and a query answers with one row.

Functions here run inside a transaction of :mod:`gbot.inboxes.sqlite`, which also translates the errors.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

import msgspec

from gbot.inboxes.sqlite_file import Database, Rows
from gbot.inboxes.store import RESCUED_TOO_OFTEN, RESCUES_MAX

DUE_MAX: Final = 500  # entries that one tidying wakes
PURGE_MAX: Final = 1000  # rows of a table that one tidying looks at to purge them


_encoder = msgspec.json.Encoder()
decode_numbers = msgspec.json.Decoder(list[int]).decode
decode_texts = msgspec.json.Decoder(list[str]).decode


def json_text(values: Collection[object]) -> str:
    return _encoder.encode(values).decode()


def whole(text: str) -> str:
    """A text as it survives SQLite's JSON functions, which end it at a NUL."""
    return text.replace("\0", "\\0") if "\0" in text else text


# Conversations go on.

PROMOTE_RELAXED: Final = """UPDATE entries SET state = 0 WHERE number IN (
    SELECT (SELECT number FROM entries WHERE conversation = c.value AND state = 3 ORDER BY number LIMIT 1)
    FROM json_each(?) AS c
    WHERE NOT EXISTS (SELECT 1 FROM entries WHERE conversation = c.value AND state = 0))"""
PROMOTE_STRICT: Final = """UPDATE entries SET state = 0 WHERE number IN (
    SELECT (SELECT number FROM entries WHERE conversation = c.value AND state = 3 ORDER BY number LIMIT 1) AS first
    FROM json_each(?) AS c
    WHERE NOT EXISTS (SELECT 1 FROM entries WHERE conversation = c.value AND state = 0)
    AND NOT EXISTS (SELECT 1 FROM entries WHERE conversation = c.value AND state = 2 AND number < first))"""


def promote(db: Database, conversations: Collection[str], strict: bool) -> int:
    """Make the first entry behind ready in those of the conversations that are free; returns how many became so."""
    if not conversations:
        return 0
    return db.execute(PROMOTE_STRICT if strict else PROMOTE_RELAXED, (json_text(conversations),)).rowcount


# Entries come back.

DUE: Final = """SELECT json_group_array(number), json_group_array(DISTINCT conversation)
    FILTER (WHERE conversation IS NOT NULL)
    FROM (SELECT number, conversation FROM entries WHERE state = 2 AND due_ms <= ? ORDER BY due_ms LIMIT ?)"""
CLAIMED: Final = """SELECT json_group_array(number), json_group_array(DISTINCT conversation)
    FILTER (WHERE conversation IS NOT NULL) FROM entries WHERE claim = ?"""
CLAIMED_UNKNOWN: Final = """SELECT json_group_array(number), json_group_array(DISTINCT conversation)
    FILTER (WHERE conversation IS NOT NULL)
    FROM entries WHERE claim = ? AND number NOT IN (SELECT value FROM json_each(?))"""
BACK: Final = """UPDATE entries
    SET state = CASE WHEN conversation IS NULL THEN 0 ELSE 3 END, claim = NULL, due_ms = NULL, rescues = rescues + ?
    WHERE number IN (SELECT value FROM json_each(?))"""


def wake(db: Database, now_ms: int, strict: bool) -> int:
    """Bring back the entries whose time has come, a bounded number of them; returns how many."""
    return _bring_back(db, db.execute(DUE, (now_ms, DUE_MAX)), strict)


def take_unknown(db: Database, life: int, known: Sequence[int], strict: bool) -> int:
    """Bring back what carries this life and is none of the known numbers; returns how many."""
    return _bring_back(db, db.execute(CLAIMED_UNKNOWN, (life, json_text(known))), strict)


def _bring_back(db: Database, found: Rows, strict: bool, rescues: int = 0) -> int:
    """``found`` is one row: the numbers of the entries, and their conversations."""
    row = found.fetchone()
    numbers = decode_numbers(row[0])
    if numbers:
        db.execute(BACK, (rescues, row[0]))
        promote(db, decode_texts(row[1]), strict)
    return len(numbers)


# Lives begin and end.

ENLIST: Final = "INSERT INTO workers DEFAULT VALUES"
INHERIT: Final = "UPDATE workers SET held = held + (SELECT held FROM workers WHERE life = ?) WHERE life = 0"
ENDED: Final = "DELETE FROM workers WHERE life = ?"
LIVES: Final = "SELECT json_group_array(life) FROM workers WHERE life > 0"
ALIVE: Final = "SELECT 1 FROM workers WHERE life = ?"
RESCUED_TOO_OFTEN_ENDS: Final = """INSERT
    INTO ended (number, state, attempts, rescues, received_ms, ended_ms, error, event)
    SELECT number, 4, attempts, rescues + 1, received_ms, ?, ?, event FROM entries WHERE claim = ? AND rescues >= ?"""
RESCUED_TOO_OFTEN_LEAVES: Final = "DELETE FROM entries WHERE claim = ? AND rescues >= ?"
HOLD: Final = "UPDATE workers SET held = held + ? WHERE life = ?"


def enlist(db: Database) -> int:
    return db.execute(ENLIST).lastrowid or 0


def is_alive(db: Database, life: int, held_more: int) -> bool:
    """Whether this life has not been ended. If so, it holds so many entries more."""
    if held_more:
        return db.execute(HOLD, (held_more, life)).rowcount == 1
    return db.execute(ALIVE, (life,)).fetchone() is not None  # without a change, nothing has to reach the disk


def lives(db: Database) -> list[int]:
    return decode_numbers(db.execute(LIVES).fetchone()[0])


def rescue(db: Database, life: int, strict: bool, now_ms: int) -> int:
    """End a life whose worker is gone; what took too many workers with it is dead. Returns how many entries it had."""
    found = db.execute(CLAIMED, (life,))
    db.execute(RESCUED_TOO_OFTEN_ENDS, (now_ms, RESCUED_TOO_OFTEN, life, RESCUES_MAX - 1))
    db.execute(RESCUED_TOO_OFTEN_LEAVES, (life, RESCUES_MAX - 1))
    count = _bring_back(db, found, strict, rescues=1)
    end_life(db, life, strict)
    return count


def end_life(db: Database, life: int, strict: bool) -> int:
    """Bring back what carries this life, and forget it; returns how many entries that were."""
    count = _bring_back(db, db.execute(CLAIMED, (life,)), strict)
    if db.execute(ALIVE, (life,)).fetchone() is not None:
        db.execute(INHERIT, (life,))
        db.execute(ENDED, (life,))
    return count


# What is old.

PURGE_SEEN: Final = """DELETE FROM seen
    WHERE number IN (SELECT number FROM seen ORDER BY number LIMIT ?) AND seen_ms <= ?"""
PURGE_DONE: Final = """DELETE FROM ended
    WHERE number IN (SELECT number FROM ended WHERE state = 5 AND ended_ms <= ? ORDER BY ended_ms LIMIT ?)"""
PURGE_STATES: Final = """DELETE FROM states
    WHERE number IN (SELECT number FROM states WHERE expires_ms <= ? ORDER BY expires_ms LIMIT ?)"""
OLD: Final = """SELECT ifnull((SELECT seen_ms FROM seen ORDER BY number LIMIT 1) <= ?, 0)
    OR EXISTS (SELECT 1 FROM ended WHERE state = 5 AND ended_ms <= ?)
    OR EXISTS (SELECT 1 FROM states WHERE expires_ms <= ?)"""


def purge(db: Database, now_ms: int, seen_before_ms: int, done_before_ms: int) -> bool:
    """Remove a bounded part of what is old; returns whether there may be more of it."""
    if not db.execute(OLD, (seen_before_ms, done_before_ms, now_ms)).fetchone()[0]:
        return False
    seen = db.execute(PURGE_SEEN, (PURGE_MAX, seen_before_ms)).rowcount
    done = db.execute(PURGE_DONE, (done_before_ms, PURGE_MAX)).rowcount
    states = db.execute(PURGE_STATES, (now_ms, PURGE_MAX)).rowcount
    return PURGE_MAX in (seen, done, states)


# What there is to do.

LOOK: Final = f"""SELECT EXISTS (SELECT 1 FROM entries WHERE state = 0 AND claim IS NULL),
    EXISTS (SELECT 1 FROM entries WHERE state = 2 AND due_ms <= ?) OR ({OLD}),
    (SELECT sum(held) FROM workers), ({LIVES})"""


class Found(NamedTuple):
    ready: bool
    due_or_old: bool
    held: int
    lives: list[int]


def look(db: Database, now_ms: int, seen_before_ms: int, done_before_ms: int) -> Found:
    times = (now_ms, seen_before_ms, done_before_ms, now_ms)
    ready, due_or_old, held, living = db.execute(LOOK, times).fetchone()
    return Found(bool(ready), bool(due_or_old), held, decode_numbers(living))
