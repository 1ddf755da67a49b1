"""Real databases for the suites of gbot/inboxes/store.py, and short ways to say what a worker does with one.

To add a store, add a Database here and its name to DATABASES in conftest.py.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

import pymysql

from gbot.directory import Change
from gbot.event import Conversation, Event
from gbot.inbox import Entry, Outcome, State
from gbot.inboxes.desk import SqlDesk
from gbot.inboxes.mysql import MySqlStore
from gbot.inboxes.sqlite import SqliteStore
from gbot.inboxes.store import Look, Place, Policy, Record, Tidied, Turned, Work, conversation_key
from gbot.user import User

AnyStore = SqliteStore | MySqlStore
Settlement = tuple[Entry, Outcome]

WINDOW_MS: Final = 10_500
KEEP_MS: Final = 7_500
LONG_AGO_MS: Final = 1_000_000_000_000  # in 2001: whatever is due or old then is so by any clock
FOR_EVER_MS: Final = 10**15
RETRY_AT_ONCE: Final = Outcome(State.RETRY, "it failed", 0.0)
DONE: Final = Outcome(State.DONE)
DEAD: Final = Outcome(State.DEAD, "it failed for good")
RELEASED: Final = Outcome(State.RELEASED)


def policy_of(strict: bool, keep_done_ms: int = 0, dedup_window_ms: int = WINDOW_MS) -> Policy:
    return Policy(strict=strict, dedup_window_ms=dedup_window_ms, keep_done_ms=keep_done_ms)


def event_of(
    text: str,
    of: str | None = None,
    id: str | None = None,
    platform: str = "line",
    kind: Literal["user", "group", "room"] = "user",
) -> Event:
    """A text message, of a conversation and with a platform's id only when they are given."""
    conversation = Conversation(kind, of) if of is not None else None
    raw = {"type": "message", "text": text}
    return Event(platform=platform, kind="message.text", raw=raw, text=text, id=id, conversation=conversation)


def texts_of(entries: Sequence[Entry | Record]) -> list[str]:
    return [entry.event.text or "" for entry in entries]


class Database(ABC):
    """One database and the stores that were opened on it, as several workers open them. ``url`` is its address."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._stores: list[AnyStore] = []

    def store(self, policy: Policy) -> AnyStore:
        """Another store on this database, open."""
        store = self.unopened(policy)
        self._stores.append(store)
        store.open()
        return store

    @abstractmethod
    def unopened(self, policy: Policy) -> AnyStore:
        """The same, not open; whoever makes it closes it."""

    @abstractmethod
    def vanish(self, store: AnyStore, life: int) -> None:
        """The worker with this life is gone without a word, and as long as it takes to be thought gone."""

    def close(self) -> None:
        for store in self._stores:
            store.close()
        self._stores.clear()


class SqliteDatabase(Database):
    def __init__(self, path: Path) -> None:
        super().__init__(f"sqlite://{path}")
        self._path = path

    def unopened(self, policy: Policy) -> SqliteStore:
        return SqliteStore(self._path, policy)

    def vanish(self, store: AnyStore, life: int) -> None:
        store.close()  # which lets go of the life's lock, as the end of a process does


class MySqlDatabase(Database):
    """A schema of its own on the server of ``url``; emptied, not made anew, between tests."""

    def __init__(self, url: str, name: str) -> None:
        parts = urlsplit(url)
        super().__init__(parts._replace(path=f"/{name}").geturl())
        self._name = name
        self._connection = pymysql.connect(
            host=parts.hostname or "127.0.0.1",
            port=parts.port or 3306,
            user=unquote(parts.username or "root"),
            password=unquote(parts.password or ""),
            autocommit=True,
        )
        self._run(f"DROP DATABASE IF EXISTS {name}", f"CREATE DATABASE {name}", f"USE {name}")
        made = self.unopened(policy_of(strict=True))
        made.migrate()
        made.close()

    def _run(self, *statements: str) -> None:
        with self._connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def unopened(self, policy: Policy) -> MySqlStore:
        return MySqlStore(self.url, policy, grace_s=0.0)

    def vanish(self, store: AnyStore, life: int) -> None:
        store.close()
        self._run(f"UPDATE gbot_workers SET beat = NOW(6) - INTERVAL 1 HOUR WHERE life = {life}")

    def clear(self) -> None:
        self._run(
            *(f"DELETE FROM gbot_{table}" for table in ("entries", "ended", "seen", "users", "states")),
            "DELETE FROM gbot_workers WHERE life <> 0",
            "UPDATE gbot_workers SET held = 0",
        )

    def drop(self) -> None:
        self._run(f"DROP DATABASE {self._name}")
        self._connection.close()


class Worker:
    """A store and its life, with a clock that stands at ``now_ms`` until a test moves it."""

    def __init__(self, database: Database, policy: Policy) -> None:
        self.database = database
        self.policy = policy
        self.store = database.store(policy)
        self.life = self.store.enlist()
        self.desk = SqlDesk(self.store)
        self.now_ms = LONG_AGO_MS

    def turn(
        self,
        settlements: Sequence[Settlement] = (),
        events: Sequence[Event] = (),
        run_max: int = 0,
        claim_max: int = 0,
        changes: Sequence[Change] = (),
    ) -> Turned:
        work = Work(self.now_ms, settlements, events, run_max, claim_max, changes=changes)
        return self.store.turn(self.life, work)

    def put(self, *events: Event, run_max: int = 0) -> Turned:
        return self.turn(events=events, run_max=run_max)

    def run(self, *events: Event) -> list[Entry]:
        """Put these and have all of them run at once; fails when one does not."""
        running = self.put(*events, run_max=len(events)).running
        assert len(running) == len(events)
        return running

    def claim(self, count: int = 1000) -> list[Entry]:
        return self.turn(claim_max=count).running

    def settle(self, outcome: Outcome, *entries: Entry) -> Turned:
        return self.turn([(entry, outcome) for entry in entries])

    def save(self, *changes: Change) -> Turned:
        return self.turn(changes=changes)

    def state(self, of: str, platform: str = "line") -> str | None:
        """The state of the conversation with a user."""
        key = conversation_key(platform, Conversation("user", of))
        return self.store.states([key], self.now_ms).get(key)

    def user(self, id: str, platform: str = "line") -> User | None:
        return self.store.users([(platform, id)]).get((platform, id))

    def look(self) -> Look:
        return self.store.look(self.life)

    def tidy(self) -> Tidied:
        return self.store.tidy(self.life, self.now_ms)

    def tidy_all(self) -> Tidied:
        """Tidy until there is no more; what was done in all."""
        done = self.tidy()
        deadline = time.monotonic() + 20
        while done.more:
            assert time.monotonic() < deadline, "tidying does not come to an end"
            more = self.tidy()
            lives = done.lives_ended + more.lives_ended
            done = Tidied(done.woken + more.woken, done.rescued + more.rescued, lives, more.more)
        return done

    def vanish(self) -> None:
        self.database.vanish(self.store, self.life)

    def records(self) -> list[Record]:
        return self.desk.records(list(Place), 0, 100_000)

    def places(self) -> dict[str, Place]:
        """Where each entry is, by its event's text."""
        records = self.records()
        places = {record.event.text or "": record.place for record in records}
        assert len(places) == len(records), "two entries of one event"
        return places

    def record_of(self, text: str) -> Record:
        return next(record for record in self.records() if record.event.text == text)
