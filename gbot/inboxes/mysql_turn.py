"""One turn of a worker with the MySQL inbox: settle, store, hand out, in one transaction.

Nothing is read back as a rule. That all ids were new follows from the number of rows that were inserted; if not all
were, the mark of the turn tells which. The numbers of new entries follow from the first one, because one INSERT of a
known number of rows gets consecutive numbers in every mode of InnoDB. Their distance is asked with the fence of every
turn, since a cluster changes it when nodes come and go.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from gbot.event import Event
from gbot.inbox import LEAVES, Entry, Outcome, State
from gbot.inboxes import mysql_records
from gbot.inboxes.chunks import chunks
from gbot.inboxes.mysql_schema import ID_BYTES_MAX, PLATFORM_BYTES_MAX
from gbot.inboxes.mysql_tables import (
    ANY_READY,
    BACK,
    CHUNK,
    DELETE_ENTRIES,
    ENTRIES,
    READY,
    WORKERS,
    Tables,
    binary,
    conversation_of,
    literal_bytes,
    values_of,
)
from gbot.inboxes.store import (
    CLAIM_BYTES_MAX,
    RUNS,
    SUSPECT_RESCUES,
    UNREADABLE,
    LifeEnded,
    Place,
    Turned,
    Work,
    decode_event,
    encode_event,
    kept_error,
    placed,
    unreadable,
)

FAILED_CHUNK: Final = 100  # failed entries in one statement, each with its own text

CLAIM: Final = (
    f"SELECT number, LENGTH(event), rescues FROM gbot_entries FORCE INDEX (by_state) WHERE {READY}"
    " ORDER BY number LIMIT %s FOR UPDATE SKIP LOCKED"
)
CLAIMED: Final = (
    f"SELECT number, attempts, received_ms, error <> '' OR rescues > 0, event FROM {ENTRIES}"
    " WHERE number IN %s ORDER BY number"
)
# The beat is by the database's clock; the number that comes back without a query of its own is the distance between
# two numbers of one INSERT, times two, plus 1 if an entry is ready.
FENCE: Final = (
    f"UPDATE {WORKERS} SET beat = NOW(6), held = held + %s,"
    f" found = LAST_INSERT_ID(@@auto_increment_increment * 2 + {ANY_READY}) WHERE life = %s"
)

SEEN: Final = (
    "SELECT number, event_id, seen_ms, turn FROM gbot_seen FORCE INDEX (by_id) WHERE platform = %s AND event_id IN %s"
)

Arrival = tuple[Event, bytes | None]  # a new event, and its conversation


class Fence(NamedTuple):
    """What passing the fence told."""

    step: int  # between the numbers of rows that one statement inserts
    any_ready: bool


class Settled(NamedTuple):
    """What became of a turn's settlements."""

    removed: int  # entries that are not held any more
    late: int
    any_ready: bool


class Turn:
    """The steps of a turn, within a transaction."""

    def __init__(self, tables: Tables, life: int, work: Work) -> None:
        self._tables = tables
        self._run = tables.run
        self._life = life
        self._work = work

    def take(self) -> Turned:
        """All of it. Raises LifeEnded."""
        work, tables = self._work, self._tables
        guess = len(work.events) - sum(outcome.state in LEAVES for _, outcome in work.settlements)
        fence = self._fence(guess)
        arrivals = [(event, conversation_of(event)) for event in work.events]
        keys = {key for _, key in arrivals} | {conversation_of(entry.event) for entry, _ in work.settlements}
        conversations = {key for key in keys if key is not None}
        tables.lock(conversations)
        in_time = mysql_records.in_time(tables, work.settlements)
        settled = self._settle()
        mysql_records.save(tables, [*in_time, *work.changes])
        fresh = self._sift(arrivals)
        standings = tables.promote(conversations)
        taken = {key for key, standing in standings.items() if not standing.open_to_new(tables.policy.strict)}
        places = placed([key for _, key in fresh], taken, work.run_max)
        numbers = self._insert(fresh, places, fence.step)
        running = [
            Entry(number, event, self._life, 0, work.now_ms)
            for number, (event, _), place in zip(numbers, fresh, places, strict=True)
            if place is RUNS
        ]
        ready_left = fence.any_ready or settled.any_ready or Place.READY in places
        ready_left = ready_left or any(standing.ready is not None for standing in standings.values())
        if work.claim_max > 0 and (ready_left or work.ready):
            claimed, ready_left = self._claim()
            running += claimed
        tables.hold(self._life, len(fresh) - settled.removed - guess)
        return Turned(running, len(fresh), len(work.events) - len(fresh), settled.late, ready_left)

    def _fence(self, held: int) -> Fence:
        """Make sure that the life goes on, keep it until the commit, and count what it holds."""
        done = self._run(FENCE, (held, self._life))
        if done.rows == 0:
            raise LifeEnded
        return Fence(done.last_id >> 1, bool(done.last_id & 1))

    # Settling.

    def _settle(self) -> Settled:
        """Write down how runs ended; their conversations are promoted later."""
        settlements = self._work.settlements
        groups: dict[tuple[int, State, bool], list[tuple[Entry, Outcome]]] = {}
        for entry, outcome in settlements:
            kind = State.DONE if outcome.state in LEAVES else outcome.state
            groups.setdefault((entry.claim, kind, outcome.counted), []).append((entry, outcome))
        matched = removed = 0
        for (claim, kind, _), group in groups.items():
            group.sort(key=lambda pair: pair[0].number)
            count = self._settle_group(claim, kind, group)
            matched += count
            removed += count if kind is State.DONE else 0
        any_ready = any(
            outcome.state is State.RELEASED and entry.event.conversation is None for entry, outcome in settlements
        )
        return Settled(removed, len(settlements) - matched, any_ready)

    def _settle_group(self, claim: int, kind: State, group: list[tuple[Entry, Outcome]]) -> int:
        """The number of entries that still carried the claim."""
        count = 0
        if kind in (State.RETRY, State.DEAD):
            for part in chunks(
                group,
                FAILED_CHUNK,
                self._tables.statement_bytes_max,
                lambda pair: literal_bytes(kept_error(pair[1].error)) + 100,
            ):
                count += self._fail(claim, kind, part)
            return count
        for numbers in chunks([entry.number for entry, _ in group], CHUNK):
            if kind is State.RELEASED:
                count += self._run(f"{BACK} WHERE number IN %s AND claim = %s", (numbers, claim)).rows
            elif self._tables.policy.keep_done_ms > 0:
                count += self._end(numbers, claim, Place.DONE)
            else:
                count += self._run(f"{DELETE_ENTRIES} AND claim = %s", (numbers, claim)).rows
        return count

    def _fail(self, claim: int, kind: State, part: list[tuple[Entry, Outcome]]) -> int:
        """Of these all are counted as attempts, or none is."""
        numbers = [entry.number for entry, _ in part]
        case = f"CASE number {'WHEN %s THEN %s ' * len(part)}END"
        errors = [value for entry, outcome in part for value in (entry.number, kept_error(outcome.error))]
        if kind is State.DEAD:
            self._run(
                f"UPDATE {ENTRIES} SET attempts = attempts + 1, error = {case} WHERE number IN %s AND claim = %s",
                (*errors, numbers, claim),
            )
            return self._end(numbers, claim, Place.DEAD)
        dues = [
            value
            for entry, outcome in part
            for value in (entry.number, self._work.now_ms + round(outcome.after_s * 1000))
        ]
        return self._run(
            f"UPDATE {ENTRIES} SET state = {Place.WAITING}, claim = NULL, attempts = attempts + %s,"
            f" error = {case}, due_ms = {case} WHERE number IN %s AND claim = %s",
            (int(part[0][1].counted), *errors, *dues, numbers, claim),
        ).rows

    def _end(self, numbers: list[int], claim: int, place: Place) -> int:
        """Move entries to those that have ended. The rows are locked by the first statement."""
        moved = self._run(
            "INSERT INTO gbot_ended (number, state, attempts, rescues, received_ms, ended_ms, error, event)"
            f" SELECT number, %s, attempts, rescues, received_ms, %s, error, event FROM {ENTRIES}"
            " WHERE number IN %s AND claim = %s FOR UPDATE",
            (int(place), self._work.now_ms, numbers, claim),
        ).rows
        if moved:
            self._run(f"{DELETE_ENTRIES} AND claim = %s", (numbers, claim))
        return moved

    # New events.

    def _sift(self, arrivals: list[Arrival]) -> list[Arrival]:
        """The events that were not seen within the window, in their order; from now on they were."""
        keys = [_id_key(event) for event, _ in arrivals]
        wanted = sorted({key for key in keys if key is not None})
        if not wanted:
            return arrivals
        turn = secrets.randbits(63)
        fresh: set[tuple[bytes, bytes] | None] = set()
        for part in chunks(
            wanted, CHUNK, self._tables.statement_bytes_max, lambda key: 2 * (len(key[0]) + len(key[1])) + 80
        ):
            fresh |= self._remember(part, turn)
        kept = []
        for arrival, key in zip(arrivals, keys, strict=True):
            if key is None or key in fresh:
                kept.append(arrival)
                fresh.discard(key)  # the first of the batch wins
        return kept

    def _remember(self, keys: list[tuple[bytes, bytes]], turn: int) -> set[tuple[bytes, bytes]]:
        """Of these sorted ids those that are new. Waits for other workers that store one of them right now."""
        if self._insert_seen("INSERT IGNORE", keys, turn) == len(keys):
            return set(keys)
        ours, known, old = set(), set(), []
        window_ms = self._work.now_ms - self._tables.policy.dedup_window_ms  # its begin
        for platform in {platform for platform, _ in keys}:
            ids = [event_id for name, event_id in keys if name == platform]
            for number, event_id, seen_ms, by in self._tables.rows(SEEN, (platform, ids)):
                if by == turn:
                    ours.add((platform, event_id))
                elif seen_ms >= window_ms:
                    known.add((platform, event_id))
                else:
                    old.append(number)
        if old:  # too old to count, and not purged yet
            self._tables.delete("gbot_seen", sorted(old), f"seen_ms < {window_ms}")
        again = [key for key in keys if key not in ours and key not in known]
        if again:
            self._insert_seen("INSERT", again, turn)
        return ours | set(again)

    def _insert_seen(self, verb: str, keys: list[tuple[bytes, bytes]], turn: int) -> int:
        sql = f"{verb} INTO gbot_seen (platform, event_id, seen_ms, turn) VALUES {values_of('(%s, %s, %s, %s)', keys)}"
        return self._run(sql, [value for key in keys for value in (*key, self._work.now_ms, turn)]).rows

    def _insert(self, arrivals: Sequence[Arrival], places: Sequence[Place], step: int) -> list[int]:
        """Store new entries; their numbers. ``step`` is between the numbers of one statement."""
        values = [
            (int(place), self._life if place is RUNS else None, key, encode_event(event))
            for (event, key), place in zip(arrivals, places, strict=True)
        ]
        numbers: list[int] = []
        for part in chunks(
            values,
            CHUNK,
            self._tables.statement_bytes_max,
            lambda row: literal_bytes(row[3]) + 2 * len(row[2] or b"") + 100,
        ):
            first = self._run(
                "INSERT INTO gbot_entries (state, claim, conversation, received_ms, event)"
                f" VALUES {values_of('(%s, %s, %s, %s, %s)', part)}",
                [value for state, claim, key, text in part for value in (state, claim, key, self._work.now_ms, text)],
            ).last_id
            numbers.extend(range(first, first + step * len(part), step))
        return numbers

    def _claim(self) -> tuple[list[Entry], bool]:
        """Hand out ready entries in the order of their numbers, without waiting for those others are taking.

        Returns them, and whether there may be more.
        """
        found = self._tables.rows(CLAIM, (self._work.claim_max,))
        suspects = (place for place, row in enumerate(found) if row[2] >= SUSPECT_RESCUES)
        alone = found[: max(1, next(suspects, len(found)))]
        taken = next(chunks(alone, len(found), CLAIM_BYTES_MAX, lambda row: row[1]), [])
        rows: list[tuple[Any, ...]] = []
        for part in chunks([row[0] for row in taken], CHUNK):
            rows += self._tables.rows(CLAIMED, (part,))
            self._run(
                f"UPDATE {ENTRIES} SET state = {Place.RUNNING}, claim = %s WHERE number IN %s", (self._life, part)
            )
        claimed: list[Entry] = []
        for number, attempts, received_ms, again, text in rows:
            try:
                claimed.append(Entry(number, decode_event(text), self._life, attempts, received_ms, bool(again)))
            except UNREADABLE as error:
                self._bury(number, unreadable(error))
        return claimed, len(found) == self._work.claim_max or len(taken) < len(found)

    def _bury(self, number: int, error: str) -> None:
        """Make a claimed entry dead that cannot be run, so that it does not stop all others."""
        [(conversation,)] = self._tables.rows("SELECT conversation FROM gbot_entries WHERE number = %s", (number,))
        self._run(f"UPDATE {ENTRIES} SET attempts = attempts + 1, error = %s WHERE number = %s", (error, number))
        self._end([number], self._life, Place.DEAD)
        if conversation is not None:
            self._tables.lock({conversation})
            self._tables.promote({conversation})


def _id_key(event: Event) -> tuple[bytes, bytes] | None:
    if event.id is None:
        return None
    return binary(event.platform, PLATFORM_BYTES_MAX), binary(event.id, ID_BYTES_MAX)
