"""What one transaction of the MySQL inbox does to its tables.

Conversations are kept in order by locks that stand for them: the rows of ``gbot_slots``, to which conversations are
spread by a checksum. Whoever stores an event of a conversation, or lets its next one become ready, first locks its
slot, reads how the conversation stands, decides, and holds the slot until the commit. So of two workers one decides
after the other, and, with READ COMMITTED, sees what the other did. Handing out a ready entry needs no slot: running
or ready, its conversation is not free.

Locks are taken in one order, so that transactions wait for each other rather than deadlock: the worker's row, slots
by number, entries, users and states by their keys. What deadlocks all the same is given up by the server and done
again by the caller.

A statement that looks for several entries, conversations or users names the index it goes by; one row by its whole
primary key, and the few rows of workers, need none. Left to itself a server goes by statistics, and where they are of
a time when a table was empty, as they may be after a restart, it reads all rows, and waits for the locks of others on
the way. Even then it may read all of the index that is named, unless all columns of it are given, or a statement asks
for a column that is not in it.
"""

from __future__ import annotations

import hashlib
import time
import zlib
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from gbot.database.connection import Connection
from gbot.event import Event
from gbot.inboxes.chunks import chunks
from gbot.inboxes.mysql_schema import KEY_BYTES_MAX, SLOTS
from gbot.inboxes.store import (
    RESCUED_TOO_OFTEN,
    RESCUES_MAX,
    Place,
    Policy,
    conversation_key,
)

CHUNK: Final = 500  # rows that one statement names

WORKERS: Final = "gbot_workers FORCE INDEX (PRIMARY)"
ENTRIES: Final = "gbot_entries FORCE INDEX (PRIMARY)"
# A DELETE may name an index only where it could be of several tables.
DELETE_ENTRIES: Final = f"DELETE gbot_entries FROM {ENTRIES} WHERE number IN %s"

# Ready entries, in a way that reads them from the index by_state in the order of their numbers.
READY: Final = f"state = {Place.READY} AND claim IS NULL AND due_ms IS NULL"
ANY_READY: Final = f"EXISTS (SELECT 1 FROM gbot_entries FORCE INDEX (by_state) WHERE {READY})"
BACK: Final = (
    f"UPDATE {ENTRIES} SET state = IF(conversation IS NULL, {Place.READY}, {Place.BEHIND}), claim = NULL, due_ms = NULL"
)

BURY: Final = (
    "INSERT INTO gbot_ended (number, state, attempts, rescues, received_ms, ended_ms, error, event)"
    f" SELECT number, {Place.DEAD}, attempts, rescues + 1, received_ms, %s, %s, event FROM {ENTRIES}"
    " WHERE number IN %s AND {only} FOR UPDATE"
)
# It changes nothing. A SELECT … FOR UPDATE would ask for no more than is in the index, and might read all of it.
LOCK: Final = "UPDATE gbot_slots FORCE INDEX (PRIMARY) SET slot = slot WHERE slot IN %s"


class Standing(NamedTuple):
    """How a conversation stands: its first entry of each place, None where there is none."""

    ready: int | None = None
    running: int | None = None
    waiting: int | None = None
    behind: int | None = None

    @property
    def free(self) -> bool:
        return self.ready is None and self.running is None

    def open_to_new(self, strict: bool) -> bool:
        """Whether a new event may start."""
        return self.free and self.behind is None and not (strict and self.waiting is not None)


def binary(text: str, bytes_max: int) -> bytes:
    """A text as its column has it; what is too long is told apart by its digest."""
    data = text.encode("utf-8", "surrogatepass")
    return data if len(data) <= bytes_max else b"sha256 " + hashlib.sha256(data).hexdigest().encode()


def conversation_of(event: Event) -> bytes | None:
    """The conversation of an event as the rows have it."""
    if event.conversation is None:
        return None
    return binary(conversation_key(event.platform, event.conversation), KEY_BYTES_MAX)


def literal_bytes(text: str) -> int:
    """How long a text is at most when it is quoted in a statement: every byte may need an escape."""
    return 2 * (len(text) if text.isascii() else len(text.encode()))


def values_of(row: str, rows: Sequence[object]) -> str:
    """The rows of an INSERT: ``row`` once for each."""
    return ", ".join([row] * len(rows))


class Tables:
    """The tables, through a connection on which a transaction was begun."""

    def __init__(self, connection: Connection, policy: Policy, statement_bytes_max: int) -> None:
        self.run = connection.execute
        self.rows = connection.rows
        self.policy = policy
        self.statement_bytes_max = statement_bytes_max

    def hold(self, life: int, held: int) -> None:
        """Count so many more entries as held through this life."""
        if held:
            self.run(f"UPDATE {WORKERS} SET held = held + %s WHERE life = %s", (held, life))

    # Lives.

    def enlist(self) -> int:
        return self.run("INSERT INTO gbot_workers (held) VALUES (0)").last_id

    def end(self, life: int) -> None:
        """Remove the worker, whose row is locked; life 0 takes over the count of what is held."""
        held = self.rows("SELECT held FROM gbot_workers WHERE life = %s FOR UPDATE", (life,))[0][0]
        self.run(f"DELETE gbot_workers FROM {WORKERS} WHERE life = %s", (life,))
        self.hold(0, int(held))

    def delete(self, table: str, numbers: list[int], only: str) -> int:
        """Remove those of these rows for which ``only`` is still so; returns how many."""
        sql = f"DELETE {table} FROM {table} FORCE INDEX (PRIMARY) WHERE number IN %s AND {only}"
        return sum(self.run(sql, (part,)).rows for part in chunks(numbers, CHUNK))

    # Conversations.

    def lock(self, conversations: Iterable[bytes]) -> None:
        """Wait until no other transaction decides about these conversations, and keep it so until the commit."""
        slots = sorted({zlib.crc32(conversation) % SLOTS for conversation in conversations})
        if slots:
            self.run(LOCK, (slots,))

    def survey(self, conversations: Iterable[bytes]) -> dict[bytes, Standing]:
        """How conversations stand; their slots are locked. One look into the index for each place."""
        found: dict[bytes, Standing] = {}
        for part in chunks(sorted(conversations), CHUNK, self.statement_bytes_max, lambda key: 2 * len(key) + 40):
            args = [value for row in enumerate(part) for value in row]
            rows = self.rows(survey_sql(len(part)), args)
            found.update({part[row[0]]: Standing(*row[1:]) for row in rows})
        return found

    def promote(self, conversations: Iterable[bytes]) -> dict[bytes, Standing]:
        """Let the first entry behind become ready where its conversation is free; how they stand then."""
        standings = self.survey(conversations)
        numbers = []
        for conversation, standing in standings.items():
            behind, waiting = standing.behind, standing.waiting
            blocked = self.policy.strict and waiting is not None and behind is not None and waiting < behind
            if behind is not None and standing.free and not blocked:
                numbers.append(behind)
                standings[conversation] = standing._replace(ready=behind)
        for part in chunks(sorted(numbers), CHUNK):
            self.run(f"UPDATE {ENTRIES} SET state = {Place.READY} WHERE number IN %s", (part,))
        return standings

    def put_back(self, rows: Sequence[tuple[int, bytes | None]], only: str, rescued: bool = False) -> int:
        """Back to ready or behind, for those of these entries (number, conversation) for which ``only`` is still so.

        Returns how many it was done for. The rows were read without a lock, so that slots are locked before entries.
        """
        conversations = {conversation for _, conversation in rows if conversation is not None}
        self.lock(conversations)
        back = f"{BACK}{', rescues = rescues + 1' if rescued else ''} WHERE number IN %s AND {only}"
        count = 0
        for part in chunks(sorted(number for number, _ in rows), CHUNK):
            if rescued:
                self._bury(part, f"{only} AND rescues >= {RESCUES_MAX - 1}")
            count += self.run(back, (part,)).rows
        self.promote(conversations)
        return count

    def _bury(self, numbers: list[int], only: str) -> None:
        """Make those of these entries dead that took too many workers with them."""
        now_ms = time.time_ns() // 1_000_000
        if self.run(BURY.format(only=only), (now_ms, RESCUED_TOO_OFTEN, numbers)).rows:
            self.run(f"{DELETE_ENTRIES} AND {only}", (numbers,))


def survey_sql(count: int) -> str:
    # The order names all columns of the index, though two of them are given: from e.number alone MySQL does not tell
    # that the index has it, and sorts all entries of a conversation.
    first = (
        f"(SELECT e.number FROM gbot_entries e FORCE INDEX (by_conversation)"
        f" WHERE e.conversation = k.conversation AND e.state = {place}"
        f" ORDER BY e.conversation, e.state, e.number LIMIT 1) AS {place.name}"
        for place in (Place.READY, Place.RUNNING, Place.WAITING, Place.BEHIND)
    )
    keys = "SELECT %s AS i, %s AS conversation" + " UNION ALL SELECT %s, %s" * (count - 1)
    return (
        f"SELECT k.i, {', '.join(first)} FROM ({keys}) AS k"
        " HAVING COALESCE(READY, RUNNING, WAITING, BEHIND) IS NOT NULL"
    )
