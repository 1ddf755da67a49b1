"""What people do with users by hand: the SQL behind ``gbot users``, once for every database, as in the desk of entries.

A user's entries are found by reading all events in pages: no index knows who sent what, and nobody but this asks.
The entries that a broadcast is made of belong to many users: one who is forgotten is taken out of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol, overload

import msgspec

from gbot.broadcast import PART
from gbot.directory import Change, UserForgotten
from gbot.event import Conversation, Event
from gbot.inboxes.changes import UserKey, profile_of
from gbot.inboxes.store import Erased, Place, conversation_key, show_event
from gbot.user import User

PAGE: Final = 1000  # entries looked at with one query

PLATFORM: Final = "SELECT platform FROM {users} WHERE platform > ? ORDER BY platform LIMIT 1"
USERS: Final = (
    "SELECT user_id, gone, gone_ms, profile, profile_ms FROM {users}"
    " WHERE platform = ? AND user_id > ? ORDER BY user_id LIMIT ?"
)
GONE: Final = USERS.replace("WHERE", "WHERE gone = 1 AND")
# Only the events that name the user come over; what else is in them is looked at here.
NAMED: Final = "CASE WHEN instr(event, ?) > 0 THEN event END"
ENTRIES: Final = f"SELECT number, state, claim, {NAMED} FROM {{entries}} WHERE number > ? ORDER BY number LIMIT {PAGE}"
ENDED: Final = f"SELECT number, state, NULL, {NAMED} FROM {{ended}} WHERE number > ? ORDER BY number LIMIT {PAGE}"


class UsersSql(Protocol):
    """The part of a store that this needs. All raise StoreDown."""

    def rows(self, sql: str, args: Sequence[Any]) -> list[tuple[Any, ...]]: ...

    def change(self, sql: str, args: Sequence[Any]) -> int:
        """Returns how many rows it was done to."""

    def transaction(self) -> AbstractContextManager[object]:
        """Commits at its end, and rolls back on an exception."""

    def save(self, changes: Sequence[Change]) -> None:
        """Within a transaction: store these."""

    def states(self, conversations: Sequence[str], now_ms: int) -> dict[str, str]: ...

    def users(self, wanted: Sequence[UserKey]) -> dict[UserKey, User]: ...


Amend = Callable[[Event], Event | None]


class EntriesDesk(Protocol):
    """What can be done to entries by their numbers; all leave those that run, and return the numbers of the others."""

    def erase(self, numbers: Sequence[int]) -> list[int]: ...

    def amend(self, numbers: Sequence[int], amended: Amend) -> list[int]:
        """Put what ``amended`` makes of an event in its place; without an event the entry is removed."""


class SqlUsersDesk:
    """A UsersDesk over a database."""

    def __init__(self, sql: UsersSql, entries: EntriesDesk) -> None:
        self._sql = sql
        self._entries = entries

    def platforms(self) -> list[str]:
        """One after the other, by the index: there are few platforms and many users."""
        found: list[str] = []
        while rows := self._sql.rows(PLATFORM, [found[-1] if found else ""]):
            found.append(text_of(rows[0][0]))
        return found

    def page(self, platform: str, after: str, count_max: int, *, gone: bool) -> list[User]:
        rows = self._sql.rows(GONE if gone else USERS, [platform, after, count_max])
        return [
            User(platform, text_of(user_id), bool(left), gone_ms, profile_of(profile), profile_ms)
            for user_id, left, gone_ms, profile, profile_ms in rows
        ]

    def user(self, platform: str, user_id: str) -> User | None:
        return self._sql.users([(platform, user_id)]).get((platform, user_id))

    def state(self, platform: str, user_id: str, now_ms: int) -> str | None:
        key = conversation_key(platform, Conversation("user", user_id))
        return self._sql.states([key], now_ms).get(key)

    def entries(self, platform: str, user_id: str) -> dict[int, Place]:
        return {
            number: place
            for number, place, event in self._naming(user_id)
            if _is_of(event, platform, user_id) or _is_part_to(event, platform, user_id)
        }

    def _naming(self, user_id: str) -> Iterator[tuple[int, Place, Event]]:
        """Entries whose event names the user, in whatever way.

        First those that are to run: what ends meanwhile is found all the same, and may be found twice.
        """
        for sql in (ENTRIES, ENDED):
            after = 0
            while rows := self._sql.rows(sql, [_quoted(user_id), after]):
                after = rows[-1][0]
                for number, state, claim, text in rows:
                    if text is not None:
                        yield number, Place.RUNNING if claim is not None else Place(state), show_event(text)

    def erase(self, platform: str, user_id: str, now_ms: int) -> Erased:
        own: set[int] = set()
        parts: set[int] = set()
        for number, _, event in self._naming(user_id):
            if _is_of(event, platform, user_id):
                own.add(number)
            elif _is_part_to(event, platform, user_id):
                parts.add(number)
        erased = set(self._entries.erase(sorted(own)))
        amended = set(self._entries.amend(sorted(parts), lambda event: _without(event, platform, user_id)))
        with self._sql.transaction():
            known = self.user(platform, user_id) is not None
            state = self.state(platform, user_id, now_ms) is not None
            self._sql.save([UserForgotten(platform, user_id)])
        left = self._left(sorted((own - erased) | (parts - amended)))
        return Erased(known, state, len(erased), left, len(amended))

    def _left(self, numbers: Sequence[int]) -> int:
        """How many of these are there still, running or ended since; others have ended and were not kept."""
        left = 0
        for start in range(0, len(numbers), PAGE):
            some = numbers[start : start + PAGE]
            marks = ",".join("?" * len(some))
            found = (f"SELECT number FROM {table} WHERE number IN ({marks})" for table in ("{entries}", "{ended}"))
            left += len(self._sql.rows(" UNION ".join(found), [*some, *some]))
        return left


def _quoted(user_id: str) -> str:
    """As it is written in a stored event."""
    return msgspec.json.encode(user_id).decode()


def _is_of(event: Event, platform: str, user_id: str) -> bool:
    """Of an event that cannot be read nobody can say more than that it names the user."""
    if event.kind == "unreadable":
        return True
    here = Conversation("user", user_id)
    return event.platform == platform and (event.user_id == user_id or event.conversation == here)


def _is_part_to(event: Event, platform: str, user_id: str) -> bool:
    return event.kind == PART and event.platform == platform and user_id in event.raw["to"]


def _without(event: Event, platform: str, user_id: str) -> Event | None:
    """The part of a broadcast for the others in it, if there are any. It keeps its id, and so its retry key."""
    if not _is_part_to(event, platform, user_id):
        return event
    others = [other for other in event.raw["to"] if other != user_id]
    return msgspec.structs.replace(event, raw={**event.raw, "to": others}) if others else None


@overload
def text_of(value: str | bytes) -> str: ...
@overload
def text_of(value: str | bytes | None) -> str | None: ...
def text_of(value: str | bytes | None) -> str | None:
    """MySQL hands out as bytes what it compares byte by byte."""
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value
