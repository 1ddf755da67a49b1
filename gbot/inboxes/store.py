"""The contract of a store: a database that keeps entries for the workers that share it.

A store is plain, blocking code: every method is one transaction, called by one thread or greenlet at a time. What is
clever about timing (group commit, retrying, waking) is in :mod:`gbot.inboxes.durable`; what is clever about the
database is in the implementation.

Six tables: *entries* (ready, running, waiting, behind), *ended* (dead, and done ones that are kept), *seen* (platform
and event id, for the deduplication window), *workers*, and beside the entries *users* and *states*, of which
:mod:`gbot.directory` tells. The rules that both databases keep, in one transaction each:

- **Free.** A conversation is free when no entry of it is ready or running.
- **Put.** An event of a conversation that has entries already is stored behind them (with ``relaxed``, those waiting
  for an attempt do not count). Otherwise it runs at once if the worker has room, together with those of the same
  conversation that came with it, or is ready.
- **Promote.** When an entry stops being ready or running and its conversation is free, the first one behind becomes
  ready. With strict order an earlier entry that waits for its attempt keeps it where it is.
- **Back.** A released, rescued or due entry, and a dead one that is to run again, becomes ready if it has no
  conversation; otherwise it goes behind, and its conversation is promoted.
- **Claim.** Ready entries are handed out in the order of their numbers; each carries the number of the worker's life.
  One turn hands out CLAIM_BYTES_MAX of events at most, but one event however large it is.
- **Settle** changes only entries that still carry the claim under which they were handed out, and stores the changes
  of such outcomes alone.
- **Rescue** makes an entry dead that was running when RESCUES_MAX workers went away: it may be what ended them. So that
  it dies alone, an entry that was rescued SUSPECT_RESCUES times is handed out by a turn of its own.

A worker enlists and gets a number that is never used again: its life. When it is thought gone, its life ends and its
entries go back; should it still be there, its next turn raises LifeEnded and it enlists again.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Container, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import msgspec

from gbot.directory import Change
from gbot.event import Conversation, Event
from gbot.inbox import Entry, Outcome
from gbot.user import User

Key = TypeVar("Key", bound=Hashable)


class Place(enum.IntEnum):
    """Where an entry is in the state diagram of :mod:`gbot.inbox`, as the number in its row."""

    READY = 0
    RUNNING = 1
    WAITING = 2
    BEHIND = 3
    DEAD = 4
    DONE = 5


BUSY_PAUSES_S: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)
CLAIM_BYTES_MAX: Final = 16 * 1024 * 1024
ERROR_CHARS_MAX: Final = 4000  # of an error's text that are kept
SUSPECT_RESCUES: Final = 3
RESCUES_MAX: Final = 20
RESCUED_TOO_OFTEN: Final = f"It was running when {RESCUES_MAX} workers went away, and may be what ended them."


class Policy(msgspec.Struct, frozen=True):
    """How a worker wants its entries treated. Workers that share a store should agree."""

    strict: bool  # a conversation waits for an entry that is to be tried again
    dedup_window_ms: int  # how long an event's id is remembered
    keep_done_ms: int  # how long a done entry is kept; 0: not at all


class Work(msgspec.Struct):
    """What one turn has to write down, in this order: settlements, changes, then new events; then it claims."""

    now_ms: int
    settlements: Sequence[tuple[Entry, Outcome]]
    events: Sequence[Event]  # in the order of arrival
    run_max: int  # how many of the events may run at once, in their order; the rest is stored as ready or behind
    claim_max: int  # how many ready entries to hand out besides
    ready: bool = True  # False: nothing was ready before this turn, so it need not look for more than it made ready
    changes: Sequence[Change] = ()  # of users and states, that belong to no outcome


class Turned(msgspec.Struct):
    """What a turn has done."""

    running: list[Entry]  # of the new events those that run at once, then those claimed
    stored: int  # new entries, running or not
    duplicates: int  # events that were seen before
    late: int  # settlements refused because the entry carries another claim, or is gone
    ready_left: bool  # entries may be ready that were not handed out


class Look(msgspec.Struct, frozen=True):
    """What there is to do, found out with one query."""

    ready: bool  # an entry is ready
    tidy: bool  # an entry is due, a worker looks gone, or something is old enough to be purged
    held: int  # entries of all workers, dead ones included


class Tidied(msgspec.Struct):
    """What a tidying has done."""

    woken: int  # entries whose time had come
    rescued: int  # entries taken back from workers that are gone
    lives_ended: tuple[int, ...]  # the workers they were taken from
    more: bool  # there is more to purge: tidy again soon


class Store(Protocol):
    """The part of a store that a worker uses."""

    @property
    def blocks(self) -> bool:
        """Whether its methods block the whole thread, so that the hub must not call them."""

    @property
    def place(self) -> str:
        """What the store is, in words for people, without a password: ``sqlite:///var/lib/gbot/inbox.sqlite3``."""

    def open(self) -> None:
        """Connect and check (SQLite: create or migrate). Raises StartError with what to do about it."""

    def enlist(self) -> int:
        """Begin a life; returns its number, which is positive and never used again.

        Raises StoreDown, which is StoreRefused when a worker's work is not allowed there.
        """

    def turn(self, life: int, work: Work) -> Turned:
        """Do the work in one transaction; when it returns, it is durable. Raises StoreDown, LifeEnded."""

    def look(self, life: int) -> Look:
        """One query, every second: is there something to do? It is also the heartbeat. Raises StoreDown, LifeEnded."""

    def tidy(self, life: int, now_ms: int) -> Tidied:
        """Wake what is due, rescue what belonged to workers that are gone, purge a bounded part of what is old.

        Raises StoreDown.
        """

    def orphans(self, life: int, known: Sequence[int]) -> int:
        """Put back entries that carry this life and are not among the known numbers; returns how many.

        After a commit whose answer was lost, nobody knows of them; waits for it if it is still under way. Raises
        StoreDown, LifeEnded.
        """

    def states(self, conversations: Sequence[str], now_ms: int) -> dict[str, str]:
        """The documents of those that have a state, by conversation_key. Raises StoreDown."""

    def users(self, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], User]:
        """Those that are known, by platform and id. Raises StoreDown."""

    def leave(self, life: int) -> None:
        """End this life: whatever still carries it goes back. Raises StoreDown."""

    def close(self) -> None:
        """Close the connection; a later call of another method opens it again."""


class StoreDown(Exception):
    """The database did not do it: no connection, a broken one, a full disk. Nothing or everything was written.

    Its text is a reason for the log, without passwords or message content.
    """


class StoreBusy(StoreDown):
    """Two transactions were in each other's way, and this one was undone: doing it again helps."""


def pauses_when_busy() -> Iterator[float]:
    """Seconds to wait before a transaction that was undone is done again, and again.

    They grow, and no two workers take the same ones: those that met once would meet again.
    """
    return (pause_s * random.uniform(0.5, 1.5) for pause_s in BUSY_PAUSES_S)


class StoreFull(StoreDown):
    """The database answers and takes outcomes, but has no room for new events: its disk is nearly full."""


class StoreRefused(StoreDown):
    """The database does not let its user do this, until somebody grants it; the text tells what to grant."""


class LifeEnded(Exception):
    """Another worker thought this one gone and has taken its entries back. Nothing was written."""


# Where new events go.

CONVERSATION_RUNS_MAX: Final = 100  # entries of one conversation that a turn lets run
RUNS, IS_READY, IS_BEHIND = Place.RUNNING, Place.READY, Place.BEHIND  # to look members up takes long


def placed(conversations: Sequence[Key | None], taken: Container[Key], room: int) -> list[Place]:
    """RUNNING, READY or BEHIND for each new event, by its conversation; those ``taken`` are not free to start.

    A conversation's events run together as long as there is room. Once one of them does not, all that follow are
    behind; if none of them runs, the first one is ready.
    """
    places: list[Place] = []
    running: dict[Key, int] = {}  # how many of a conversation run
    closed: set[Key] = set()  # conversations of which no further event runs
    for key in conversations:
        if key is None:
            place = RUNS if room > 0 else IS_READY
        elif key in closed or key in taken:
            place = IS_BEHIND
        elif room > 0 and running.get(key, 0) < CONVERSATION_RUNS_MAX:
            place = RUNS
            running[key] = running.get(key, 0) + 1
        else:
            place = IS_BEHIND if key in running else IS_READY
            closed.add(key)
        room -= place is RUNS
        places.append(place)
    return places


# What is in a row.


def conversation_key(platform: str, conversation: Conversation) -> str:
    """The conversation as the rows have it: unique over platforms and kinds."""
    return f"{platform} {conversation.kind} {conversation.id}".replace("\0", "\\0")  # SQLite's JSON ends a text at NUL


_encoder = msgspec.json.Encoder()
decode_event = msgspec.json.Decoder(Event).decode
UNREADABLE: Final = (msgspec.DecodeError, RecursionError)  # what decode_event raises


def show_event(text: str) -> Event:
    """A stored event for people to look at: one that cannot be read is shown as it is."""
    try:
        return decode_event(text)
    except UNREADABLE:
        return Event(platform="unknown", kind="unreadable", raw=text)


def unreadable(error: BaseException) -> str:
    """The error that is kept with such an entry."""
    return f"The stored event cannot be read: {error}"


def encode_event(event: Event) -> str:
    """The event as JSON. What cannot be written down as such (nested a thousand deep) is kept without its ``raw``."""
    try:
        return _encoder.encode(event).decode()
    except (RecursionError, ValueError, TypeError):
        return _encoder.encode(msgspec.structs.replace(event, raw=None)).decode()


def encode_events(events: Sequence[Event]) -> str:
    """A JSON array of events, at a fifth of the cost of one by one."""
    try:
        return _encoder.encode(events).decode()
    except (RecursionError, ValueError, TypeError):
        return f"[{','.join(map(encode_event, events))}]"


def kept_error(error: str) -> str:
    """The end of an error's text, as far as it can be written down."""
    return error[-ERROR_CHARS_MAX:].encode("utf-8", "replace").decode()


# What people do with an inbox by hand, through ``gbot inbox``.


@dataclass(frozen=True, slots=True)
class Record:
    """An entry as people look at it. Times are in milliseconds since 1970."""

    number: int
    place: Place
    event: Event
    attempts: int
    rescues: int  # how often its worker was gone
    received_ms: int
    due_ms: int | None  # of WAITING
    ended_ms: int | None  # of DEAD and DONE
    worker: int | None  # of RUNNING: the life of its worker
    error: str  # of the last failed run


@dataclass(frozen=True, slots=True)
class Counts:
    """How many entries are where, and how old (ms) the oldest is that is not running, waiting, dead or done."""

    by_place: dict[Place, int]
    oldest_ready_ms: int | None  # received_ms
    workers: int
    seen: int  # ids remembered for deduplication


class Erased(msgspec.Struct, frozen=True):
    """What was removed of a user."""

    user: bool  # what is known of it
    state: bool  # of the conversation with it
    entries: int
    running: int  # entries that were left, because a worker runs them
    parts: int = 0  # of broadcasts, out of which the user was taken


class UsersDesk(Protocol):
    """The part of a store that ``gbot users`` uses. Its methods raise StoreDown."""

    def platforms(self) -> list[str]:
        """Those of which users are known."""

    def page(self, platform: str, after: str, count_max: int, *, gone: bool) -> list[User]:
        """Users by id, from the first above ``after``; with ``gone`` only those who have left."""

    def user(self, platform: str, user_id: str) -> User | None: ...

    def state(self, platform: str, user_id: str, now_ms: int) -> str | None:
        """The state of the conversation with the user, as JSON text."""

    def entries(self, platform: str, user_id: str) -> dict[int, Place]:
        """Entries of events that the user sent, of the conversation with it, and of parts of broadcasts to it.

        By number. Reads all entries.
        """

    def erase(self, platform: str, user_id: str, now_ms: int) -> Erased:
        """Remove all that is stored of the user, but for what runs. Reads all entries.

        A part of a broadcast stays for those who are left in it.
        """


class Desk(Protocol):
    """The part of a store that ``gbot inbox`` uses. Its methods raise StoreDown."""

    place: str
    users: UsersDesk

    def open(self) -> None:
        """Connect and check. Raises StartError."""

    def migrate(self) -> list[str]:
        """Bring the schema up to date; a sentence for each step that was taken. Raises StartError, StoreDown."""

    def counts(self) -> Counts: ...

    def records(self, places: Sequence[Place], after: int, count_max: int) -> list[Record]:
        """Entries in these places by number, from the first above ``after``."""

    def record(self, number: int) -> Record | None: ...

    def retry(self, numbers: Sequence[int], now_ms: int) -> list[int]:
        """Make dead entries, and those waiting for an attempt, run soon with all attempts before them.

        Returns the numbers of those it did it for.
        """

    def drop(self, numbers: Sequence[int]) -> list[int]:
        """Remove entries that do not run; returns the numbers of those it removed."""

    def purge_done(self, before_ms: int, count_max: int) -> int:
        """Remove done entries that ended before; returns how many."""

    def close(self) -> None: ...
