"""A turn of a SQLite inbox: settle, put and claim, by the rules of :mod:`gbot.inboxes.store`, as SQL.

Every statement gives up the interpreter lock and has to get it back from a busy hub, so what counts is their number.
Therefore a statement takes a whole batch, as one JSON text, and a query answers with one row. A turn of plain events
that all run, and of settlements that are all done, is one DELETE, one INSERT and one UPDATE.

Functions here run inside a transaction of :mod:`gbot.inboxes.sqlite`, which also translates the errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Final, NamedTuple

import msgspec

from gbot.event import Event
from gbot.inbox import DEAD, LEAVES, RETRY, Entry, Outcome
from gbot.inboxes.sqlite_file import Database, Rows
from gbot.inboxes.sqlite_upkeep import decode_numbers, decode_texts, json_text, promote, whole
from gbot.inboxes.store import (
    CLAIM_BYTES_MAX,
    ERROR_CHARS_MAX,
    RUNS,
    SUSPECT_RESCUES,
    UNREADABLE,
    Place,
    Policy,
    Work,
    conversation_key,
    decode_event,
    encode_events,
    kept_error,
    placed,
    unreadable,
)

_decode_claimed = msgspec.json.Decoder(list[tuple[int, int, int, int, Event]]).decode


def _conversation(event: Event) -> str | None:
    return None if event.conversation is None else conversation_key(event.platform, event.conversation)


# Settle.

ENDED: Final = "DELETE FROM entries WHERE number IN (SELECT value FROM json_each(?)) AND claim = ?"
ENDED_ROW: Final = "DELETE FROM entries WHERE number BETWEEN ? AND ? AND claim = ?"  # one after the other: faster
KEEP_DONE: Final = """INSERT INTO ended (number, state, attempts, rescues, received_ms, ended_ms, error, event)
    SELECT number, 5, attempts, rescues, received_ms, ?, error, event FROM entries
    WHERE number IN (SELECT value FROM json_each(?)) AND claim = ?"""
KEEP_DEAD: Final = """INSERT OR REPLACE
    INTO ended (number, state, attempts, rescues, received_ms, ended_ms, error, event)
    SELECT e.number, 4, e.attempts + 1, e.rescues, e.received_ms, ?, json_extract(v.value, '$[1]'), e.event
    FROM json_each(?) AS v CROSS JOIN entries AS e ON e.number = json_extract(v.value, '$[0]') WHERE e.claim = ?"""
# "+claim" keeps SQLite from looking the rows up by their claim: it would go through the whole list for each of them.
AGAIN: Final = """UPDATE entries
    SET state = 2, claim = NULL, attempts = attempts + v.counted, due_ms = v.due_ms, error = v.error
    FROM (SELECT json_extract(value, '$[0]') AS number, json_extract(value, '$[1]') AS counted,
        json_extract(value, '$[2]') AS due_ms, json_extract(value, '$[3]') AS error FROM json_each(?)) AS v
    WHERE entries.number = v.number AND +claim = ?"""
BACK: Final = """UPDATE entries
    SET state = CASE WHEN conversation IS NULL THEN 0 ELSE 3 END, claim = NULL
    WHERE number IN (SELECT value FROM json_each(?)) AND claim = ?"""


class _Runs:
    """What became of the entries that were handed out under one claim."""

    def __init__(self) -> None:
        self.ended: list[int] = []
        self.dead: list[tuple[int, str]] = []
        self.retried: list[tuple[int, bool, int, str]] = []
        self.released: list[int] = []


class Settled(NamedTuple):
    left: int  # entries that are in the store no more, not even as dead ones
    late: int
    ready: bool  # some entry became ready by it


def settle(db: Database, settlements: Sequence[tuple[Entry, Outcome]], now_ms: int, policy: Policy) -> Settled:
    """Write down how runs ended, and let the next ones of their conversations follow."""
    by_claim: dict[int, _Runs] = {}
    conversations: set[str] = set()
    claim, runs = 0, _Runs()
    for entry, outcome in settlements:
        if entry.claim != claim:
            claim = entry.claim
            runs = by_claim.setdefault(claim, _Runs())
        if outcome.state in LEAVES:
            runs.ended.append(entry.number)
        else:
            _sort(runs, entry.number, outcome, now_ms)
        if entry.event.conversation is not None:
            conversations.add(conversation_key(entry.event.platform, entry.event.conversation))
    left = settled = released = 0
    for claim, runs in by_claim.items():
        done = _end(db, claim, runs.ended, now_ms, policy.keep_done_ms > 0)
        back = _change(db, BACK, runs.released, claim)
        settled += done + back + _bury(db, claim, runs.dead, now_ms) + _change(db, AGAIN, runs.retried, claim)
        left += done
        released += back
    promoted = promote(db, conversations, policy.strict)
    return Settled(left, len(settlements) - settled, released + promoted > 0)


def _sort(runs: _Runs, number: int, outcome: Outcome, now_ms: int) -> None:
    state = outcome.state
    if state is DEAD:
        runs.dead.append((number, _kept_error(outcome.error)))
    elif state is RETRY:
        due_ms = now_ms + round(outcome.after_s * 1000)
        runs.retried.append((number, outcome.counted, due_ms, _kept_error(outcome.error)))
    else:
        runs.released.append(number)


def _kept_error(error: str) -> str:
    return whole(kept_error(error))[-ERROR_CHARS_MAX:]


def _change(db: Database, sql: str, values: Sequence[object], claim: int) -> int:
    return db.execute(sql, (json_text(values), claim)).rowcount if values else 0


def _end(db: Database, claim: int, numbers: Sequence[int], now_ms: int, keep: bool) -> int:
    if keep and numbers:
        db.execute(KEEP_DONE, (now_ms, json_text(numbers), claim))
    if numbers and max(numbers) - min(numbers) == len(numbers) - 1:
        return db.execute(ENDED_ROW, (min(numbers), max(numbers), claim)).rowcount
    return _change(db, ENDED, numbers, claim)


def _bury(db: Database, claim: int, dead: Sequence[tuple[int, str]], now_ms: int) -> int:
    if not dead:
        return 0
    db.execute(KEEP_DEAD, (now_ms, json_text(dead), claim))
    return _change(db, ENDED, [number for number, _ in dead], claim)


# Put.

# json_each walks the array in its order; to sort by key would copy every event once more.
STORE_ALIKE: Final = """INSERT INTO entries (state, claim, received_ms, event)
    SELECT 0, ?, ?, value FROM json_each(?)"""
# The second value is [state, conversation] of each event. It is joined by an index that SQLite makes for it, at two
# thirds of what it costs to take [state, conversation, event] apart, because nothing is parsed twice.
STORE: Final = """INSERT INTO entries (state, claim, conversation, received_ms, event)
    WITH place AS MATERIALIZED (
        SELECT key, json_extract(value, '$[0]') AS state, json_extract(value, '$[1]') AS conversation FROM json_each(?))
    SELECT iif(place.state = 1, 0, place.state), iif(place.state = 1, ?, NULL), place.conversation, ?, event.value
    FROM json_each(?) AS event CROSS JOIN place ON place.key = event.key ORDER BY event.key"""
SEEN: Final = """SELECT json_group_array(v.key) FROM json_each(?) AS v CROSS JOIN seen
    ON seen.platform = json_extract(v.value, '$[0]') AND seen.event_id = json_extract(v.value, '$[1]')
    WHERE seen.seen_ms > ?"""
REMEMBER: Final = """INSERT OR REPLACE INTO seen (platform, event_id, seen_ms)
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), ? FROM json_each(?) ORDER BY key"""
TAKEN_RELAXED: Final = """SELECT json_group_array(c.value) FROM json_each(?) AS c
    WHERE EXISTS (SELECT 1 FROM entries WHERE conversation = c.value AND state IN (0, 3))"""
TAKEN_STRICT: Final = """SELECT json_group_array(c.value) FROM json_each(?) AS c
    WHERE EXISTS (SELECT 1 FROM entries WHERE conversation = c.value)"""


class Stored(NamedTuple):
    running: list[Entry]
    stored: int
    ready: bool  # some of them are ready and not running


def put(db: Database, life: int, work: Work, policy: Policy) -> Stored:
    """Store the events of a turn that are new, and find out which of them run at once."""
    events = work.events
    if not events:
        return Stored([], 0, False)
    if any(event.id is not None or event.conversation is not None for event in events):
        return _put_ordered(db, life, work, policy)
    room = max(work.run_max, 0)
    at_once, later = events[:room], events[room:]
    running = _entries(_store_alike(db, at_once, life, work.now_ms), at_once, life, work.now_ms)
    _store_alike(db, later, None, work.now_ms)
    return Stored(running, len(events), bool(later))


def _store_alike(db: Database, events: Sequence[Event], claim: int | None, now_ms: int) -> range:
    """As running ones where there is a claim, else as ready ones."""
    if not events:
        return range(0)
    return _numbers(db.execute(STORE_ALIKE, (claim, now_ms, encode_events(events))))


def _numbers(inserted: Rows) -> range:
    """The numbers of the rows of one INSERT: consecutive, because nobody else writes during a transaction."""
    last = inserted.lastrowid or 0
    return range(last - inserted.rowcount + 1, last + 1)


def _entries(numbers: Iterable[int], events: Iterable[Event], life: int, now_ms: int) -> list[Entry]:
    return list(map(Entry, numbers, events, repeat(life), repeat(0), repeat(now_ms)))


def _put_ordered(db: Database, life: int, work: Work, policy: Policy) -> Stored:
    events = _unseen(db, work.events, work.now_ms, policy.dedup_window_ms)
    if not events:
        return Stored([], 0, False)
    keys = [_conversation(event) for event in events]
    places = placed(keys, _taken(db, keys, policy.strict), work.run_max)
    numbers = _numbers(
        db.execute(STORE, (json_text([*zip(places, keys, strict=True)]), life, work.now_ms, encode_events(events)))
    )
    running = [
        Entry(number, event, life, 0, work.now_ms)
        for number, event, place in zip(numbers, events, places, strict=True)
        if place is RUNS
    ]
    return Stored(running, len(events), Place.READY in places)


def _unseen(db: Database, events: Sequence[Event], now_ms: int, window_ms: int) -> Sequence[Event]:
    """The events without those that were seen before, here or earlier in the batch. They are remembered."""
    firsts: dict[tuple[str, str], int] = {}  # platform and id, and the index of the first event that has them
    for index, event in enumerate(events):
        if event.id is not None:
            firsts.setdefault((event.platform, whole(event.id)), index)
    if not firsts:
        return events
    asked = list(firsts)
    seen = set(decode_numbers(db.execute(SEEN, (json_text(asked), now_ms - window_ms)).fetchone()[0]))
    new = [pair for index, pair in enumerate(asked) if index not in seen]
    if new:
        db.execute(REMEMBER, (now_ms, json_text(new)))
    kept = {firsts[pair] for pair in new}
    return [event for index, event in enumerate(events) if event.id is None or index in kept]


def _taken(db: Database, keys: Iterable[str | None], strict: bool) -> set[str]:
    """Those of the conversations that are not free to start."""
    asked = {key for key in keys if key is not None}
    if not asked:
        return set()
    return set(decode_texts(db.execute(TAKEN_STRICT if strict else TAKEN_RELAXED, (json_text(asked),)).fetchone()[0]))


# Claim.

# Sizes come first: what is too much for one turn is counted, and not read. Suspects are taken alone.
READY: Final = f"""SELECT count(*), '[' || ifnull(group_concat(
        '[' || e.number || ',' || e.attempts || ',' || e.received_ms || ',' || (e.error <> '' OR e.rescues > 0)
            || ',' || e.event || ']')
        FILTER (WHERE found.before = 0 OR (found.before < ? AND found.suspects = 0)), '') || ']'
    FROM (SELECT number, sum(size) OVER (ROWS UNBOUNDED PRECEDING) - size AS before,
            sum(rescues >= {SUSPECT_RESCUES}) OVER (ROWS UNBOUNDED PRECEDING) AS suspects
        FROM (SELECT number, length(event) AS size, rescues FROM entries
            WHERE state = 0 AND claim IS NULL ORDER BY number LIMIT ?)) AS found
    CROSS JOIN entries AS e ON e.number = found.number"""
READY_ROWS: Final = """SELECT number, conversation, event FROM entries
    WHERE state = 0 AND claim IS NULL ORDER BY number LIMIT ?"""
CLAIM: Final = "UPDATE entries SET claim = ? WHERE number IN (SELECT value FROM json_each(?))"


class Claimed(NamedTuple):
    running: list[Entry]
    full: bool  # there may be more


NONE_CLAIMED: Final = Claimed([], False)


def claim(db: Database, life: int, work: Work, policy: Policy) -> Claimed:
    """Hand out ready entries in the order of their numbers."""
    if work.claim_max <= 0:
        return NONE_CLAIMED
    count, text = db.execute(READY, (CLAIM_BYTES_MAX, work.claim_max)).fetchone()
    try:
        rows = _decode_claimed(text)
    except UNREADABLE:
        _bury_unreadable(db, life, work, policy)
        count, text = db.execute(READY, (CLAIM_BYTES_MAX, work.claim_max)).fetchone()
        rows = _decode_claimed(text)
    if rows:
        db.execute(CLAIM, (life, json_text([row[0] for row in rows])))
    running = [
        Entry(number, event, life, attempts, received_ms, again > 0)
        for number, attempts, received_ms, again, event in rows
    ]
    return Claimed(running, count == work.claim_max or len(rows) < count)


def _bury_unreadable(db: Database, life: int, work: Work, policy: Policy) -> None:
    """Make those ready entries dead whose event cannot be decoded, so that they do not stop all others."""
    conversations: set[str] = set()
    dead: list[tuple[int, str]] = []
    for number, conversation, text in db.execute(READY_ROWS, (work.claim_max,)).fetchall():
        try:
            decode_event(text)
        except UNREADABLE as error:
            dead.append((number, unreadable(error)))
            conversations |= {conversation} - {None}
    db.execute(CLAIM, (life, json_text([number for number, _ in dead])))
    _bury(db, life, dead, work.now_ms)
    promote(db, conversations, policy.strict)
