"""What people do with a store by hand: the SQL behind ``gbot inbox``, once for every database.

It is written for what the databases have in common: ``?`` stands for a value and ``{entries}`` for a table's name,
and the store that runs it puts its own in their place. Entries are taken in portions, each in a transaction of its
own: workers go on in between, and what breaks off has done the portions before it. A portion locks its conversations
and its rows first, the rows by an update that changes nothing, so that no worker claims or settles one between the
look at it and the change.

The number of entries held, which the workers keep, follows: dropping lowers it in the row of life 0; a dead entry
counts as held, so running it again changes nothing; a done one does not, so purging changes nothing either.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Final, Protocol

from gbot.event import Event
from gbot.inboxes.desk_users import Amend, SqlUsersDesk, UsersSql, text_of
from gbot.inboxes.store import (
    Counts,
    Place,
    Record,
    StoreBusy,
    UsersDesk,
    conversation_key,
    encode_event,
    pauses_when_busy,
    show_event,
)

PORTION: Final = 500  # numbers in a transaction
EVENTS_AT_ONCE: Final = 50  # events in memory while something is done with them; each may be as large as a delivery

COLUMNS: Final = "SELECT number, state, attempts, rescues, received_ms"
OF_ENTRIES: Final = f"{COLUMNS}, due_ms, NULL AS ended_ms, claim, error, event FROM {{entries}}"
OF_ENDED: Final = f"{COLUMNS}, NULL AS due_ms, ended_ms, NULL AS claim, error, event FROM {{ended}}"
# Where the entries of each place are, in the words of the databases' indexes: a long table is not read end to end.
COUNTED: Final = {
    Place.READY: "{entries} WHERE state = 0 AND claim IS NULL",
    Place.RUNNING: "{entries} WHERE state IN (0, 1) AND claim IS NOT NULL",  # SQLite has running ones in state 0
    Place.WAITING: "{entries} WHERE state = 2 AND due_ms IS NOT NULL",
    Place.BEHIND: "{entries} WHERE state = 3 AND conversation IS NOT NULL",
    Place.DEAD: "{ended} WHERE state = 4",
    Place.DONE: "{ended} WHERE state = 5",
}
READY: Final = f"{COUNTED[Place.READY]} AND due_ms IS NULL"
# "state + 0" and "number + 0" keep a database from an index that looks good and is not: of few running entries
# among many ready ones, their numbers say nothing; of many dead ones, their state says nothing.
LISTED: Final = {
    Place.READY: f"{READY} AND number > ? ORDER BY number",
    Place.RUNNING: f"{COUNTED[Place.RUNNING]} AND number + 0 > ? ORDER BY number + 0",
    Place.WAITING: f"{COUNTED[Place.WAITING]} AND number + 0 > ? ORDER BY number + 0",
    Place.BEHIND: f"{COUNTED[Place.BEHIND]} AND number > ? ORDER BY number",
    Place.DEAD: "{ended} WHERE state + 0 = 4 AND number > ? ORDER BY number",
    Place.DONE: "{ended} WHERE state + 0 = 5 AND number > ? ORDER BY number",
}
ENTRIES: Final = frozenset({Place.READY, Place.RUNNING, Place.WAITING, Place.BEHIND})
ENTRIES_LISTED: Final = "{entries} WHERE number > ? ORDER BY number"


class Sql(UsersSql, Protocol):
    """The part of a store that the desk needs. All raise StoreDown."""

    place: str

    def promote(self, conversations: Sequence[str]) -> object:
        """Within a transaction: make the first one behind ready in those of these conversations that are free."""

    def open(self) -> None: ...

    def migrate(self) -> list[str]: ...

    def close(self) -> None: ...


class SqlDesk:
    """A Desk over a database."""

    def __init__(self, sql: Sql) -> None:
        self._sql = sql
        self.place = sql.place
        self.users: UsersDesk = SqlUsersDesk(sql, self)

    def open(self) -> None:
        self._sql.open()

    def migrate(self) -> list[str]:
        return self._sql.migrate()

    def close(self) -> None:
        self._sql.close()

    def counts(self) -> Counts:
        """Of one moment: in one statement, so that no entry is missed on its way from one place to another."""
        counted = [f"count(*) FROM {found}" for found in COUNTED.values()]
        counted += ["count(*) FROM {workers} WHERE life > 0", "count(*) FROM {seen}"]
        oldest = f"received_ms FROM {READY} ORDER BY number LIMIT 1"
        sql = ", ".join(f"(SELECT {part})" for part in [*counted, oldest])
        [(*counts, oldest_ms)] = self._sql.rows(f"SELECT {sql}", ())
        *by_place, workers, seen = (int(count) for count in counts)
        return Counts(dict(zip(COUNTED, by_place, strict=True)), oldest_ms, workers, seen)

    def records(self, places: Sequence[Place], after: int, count_max: int) -> list[Record]:
        wanted = frozenset(places)
        listed = [ENTRIES_LISTED] if wanted >= ENTRIES else [LISTED[place] for place in sorted(wanted & ENTRIES)]
        parts = [_page(OF_ENTRIES, sql) for sql in listed]
        parts += [_page(OF_ENDED, LISTED[place]) for place in sorted(wanted - ENTRIES)]
        if not parts:
            return []
        sql = f"{' UNION ALL '.join(parts)} ORDER BY number LIMIT ?"  # in one statement: nobody is seen twice
        return [_record(row) for row in self._sql.rows(sql, [*[after, count_max] * len(parts), count_max])]

    def record(self, number: int) -> Record | None:
        sql = f"{OF_ENTRIES} WHERE number = ? UNION ALL {OF_ENDED} WHERE number = ?"
        rows = self._sql.rows(sql, [number, number])
        return _record(rows[0]) if rows else None

    def retry(self, numbers: Sequence[int], now_ms: int) -> list[int]:
        return self._by_portion(self._retry, numbers)

    def _retry(self, numbers: list[int]) -> list[int]:
        """One portion, whose dead entries go back as the waiting ones do: behind in their conversations."""
        dead = self._conversations_of_dead(numbers)
        conversations = self._conversations_of_entries(numbers) | dead
        self._lock(conversations, numbers)
        waiting = self._still("{entries} WHERE state = 2", conversations)
        if waiting:
            self._sql.change(
                "UPDATE {entries} SET state = CASE WHEN conversation IS NULL THEN 0 ELSE 3 END, due_ms = NULL, "
                f"attempts = 0 WHERE number IN ({_marks(waiting)})",
                waiting,
            )
        by_conversation: dict[str | None, list[int]] = {}
        for number in self._still("{ended} WHERE state + 0 = 4", dead):
            by_conversation.setdefault(dead[number], []).append(number)
        for conversation, own in by_conversation.items():
            self._revive(own, conversation)
        self._promote(conversations)
        return [*waiting, *(number for own in by_conversation.values() for number in own)]

    def _revive(self, numbers: list[int], conversation: str | None) -> None:
        place = Place.READY if conversation is None else Place.BEHIND
        self._sql.change(
            "INSERT INTO {entries} (number, state, attempts, rescues, conversation, received_ms, error, event) "
            "SELECT number, ?, 0, rescues, ?, received_ms, error, event FROM {ended} "
            f"WHERE number IN ({_marks(numbers)})",
            [int(place), conversation, *numbers],
        )
        self._sql.change(f"DELETE FROM {{ended}} WHERE number IN ({_marks(numbers)})", numbers)

    def drop(self, numbers: Sequence[int]) -> list[int]:
        return self._by_portion(self._drop, numbers)

    def _drop(self, numbers: list[int]) -> list[int]:
        conversations = self._lock_to_remove(numbers)
        stored = self._still("{entries} WHERE claim IS NULL", conversations)
        dead = self._still("{ended} WHERE state + 0 = 4", numbers)
        for table, own in (("{entries}", stored), ("{ended}", dead)):
            if own:
                self._sql.change(f"DELETE FROM {table} WHERE number IN ({_marks(own)})", own)
        if stored or dead:
            self._sql.change("UPDATE {workers} SET held = held - ? WHERE life = 0", [len(stored) + len(dead)])
        self._promote(conversations)
        return [*stored, *dead]

    def erase(self, numbers: Sequence[int]) -> list[int]:
        """Drop, and remove done ones as well; returns the numbers of those it removed."""
        return self._by_portion(self._erase, numbers)

    def _erase(self, numbers: list[int]) -> list[int]:
        dropped = self._drop(numbers)
        done = self._still("{ended} WHERE state + 0 = 5", numbers)
        if done:
            self._sql.change(f"DELETE FROM {{ended}} WHERE number IN ({_marks(done)})", done)
        return dropped + done

    def amend(self, numbers: Sequence[int], amended: Amend) -> list[int]:
        """Change the events of entries that do not run; returns their numbers.

        ``amended`` makes a new event from the stored one, or the same; from None, the entry is erased.
        """
        return self._by_portion(lambda some: self._amend(some, amended), numbers, EVENTS_AT_ONCE)

    def _amend(self, numbers: list[int], amended: Amend) -> list[int]:
        conversations = self._lock_to_remove(numbers)
        tables = {
            "{entries}": self._still("{entries} WHERE claim IS NULL", conversations),
            "{ended}": self._still("{ended} WHERE state + 0 IN (4, 5)", numbers),
        }
        emptied: list[int] = []
        for table, own in tables.items():
            for number, before in self._events(table, own):
                after = amended(before)
                if after is None:
                    emptied.append(number)
                elif after != before:
                    self._sql.change(f"UPDATE {table} SET event = ? WHERE number = ?", [encode_event(after), number])
        if emptied:
            self._erase(emptied)
        return [number for own in tables.values() for number in own]

    def _events(self, table: str, numbers: list[int]) -> list[tuple[int, Event]]:
        if not numbers:
            return []
        rows = self._sql.rows(f"SELECT number, event FROM {table} WHERE number IN ({_marks(numbers)})", numbers)
        return [(number, show_event(text)) for number, text in rows]

    def purge_done(self, before_ms: int, count_max: int) -> int:
        found = self._sql.rows(
            "SELECT number FROM {ended} WHERE state = 5 AND ended_ms < ? ORDER BY ended_ms LIMIT ?",
            [before_ms, count_max],
        )
        return sum(
            self._sql.change(f"DELETE FROM {{ended}} WHERE number IN ({_marks(some)})", some)
            for some in _portions([row[0] for row in found], PORTION)
        )

    def _by_portion(
        self, step: Callable[[list[int]], list[int]], numbers: Iterable[int], size: int = PORTION
    ) -> list[int]:
        done: list[int] = []
        for some in _portions(sorted(set(numbers)), size):
            done += self._transacted(step, some)
        return sorted(done)

    def _transacted(self, step: Callable[[list[int]], list[int]], numbers: list[int]) -> list[int]:
        """All of it or nothing, and again when it was in the way of a worker."""
        for pause_s in pauses_when_busy():
            try:
                with self._sql.transaction():
                    return step(numbers)
            except StoreBusy:
                time.sleep(pause_s)
        with self._sql.transaction():
            return step(numbers)

    def _conversations_of_entries(self, numbers: list[int]) -> dict[int, str | None]:
        """By number."""
        marks = _marks(numbers)
        rows = self._sql.rows(f"SELECT number, conversation FROM {{entries}} WHERE number IN ({marks})", numbers)
        return {number: text_of(key) for number, key in rows}

    def _conversations_of_dead(self, numbers: list[int]) -> dict[int, str | None]:
        found: dict[int, str | None] = {}
        for some in _portions(numbers, EVENTS_AT_ONCE):
            sql = f"SELECT number, event FROM {{ended}} WHERE state + 0 = 4 AND number IN ({_marks(some)})"
            for number, text in self._sql.rows(sql, some):
                event = show_event(text)
                found[number] = conversation_key(event.platform, event.conversation) if event.conversation else None
        return found

    def _lock_to_remove(self, numbers: list[int]) -> dict[int, str | None]:
        """Lock, and be free to change how many are held; returns the conversations of the entries."""
        conversations = self._conversations_of_entries(numbers)
        self._sql.change("UPDATE {workers} SET held = held WHERE life = 0", [])  # workers lock it first, too
        self._lock(conversations, numbers)
        return conversations

    def _lock(self, conversations: dict[int, str | None], numbers: list[int]) -> None:
        """Keep workers away from these until the end of the transaction.

        The conversations first, then the rows, as workers do it: they wait for each other, and there is no deadlock.
        """
        self._promote(conversations)
        for table in ("{entries}", "{ended}"):
            self._sql.change(f"UPDATE {table} SET rescues = rescues WHERE number IN ({_marks(numbers)})", numbers)

    def _still(self, condition: str, numbers: Collection[int]) -> list[int]:
        """Those of the numbers, which are locked, for which this is so."""
        if not numbers:
            return []
        sql = f"SELECT number FROM {condition} AND number IN ({_marks(numbers)}) ORDER BY number"
        return [number for (number,) in self._sql.rows(sql, list(numbers))]

    def _promote(self, conversations: dict[int, str | None]) -> None:
        known = sorted({key for key in conversations.values() if key is not None})
        if known:
            self._sql.promote(known)


def _page(columns: str, listed: str) -> str:
    """The numbers are found and sorted before the rows are read: events are long."""
    return f"{columns} JOIN (SELECT number FROM {listed} LIMIT ?) AS page USING (number)"


def _record(row: tuple[Any, ...]) -> Record:
    number, state, attempts, rescues, received_ms, due_ms, ended_ms, claim, error, event = row
    return Record(
        number,
        Place.RUNNING if claim is not None else Place(state),
        show_event(event),
        attempts,
        rescues,
        received_ms,
        due_ms,
        ended_ms,
        claim,
        error,
    )


def _portions(numbers: list[int], size: int) -> Iterator[list[int]]:
    return (numbers[start : start + size] for start in range(0, len(numbers), size))


def _marks(values: Collection[object]) -> str:
    return ",".join("?" * len(values))
