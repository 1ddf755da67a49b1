"""Inboxes of every kind for the suites of gbot/inbox.py and gbot/directory.py, and somebody who works with one.

To add an inbox, add its name to INBOXES in conftest.py and a way to make it to ``Maker``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from gbot.event import Event
from gbot.inbox import Entry, Inbox, Outcome
from gbot.inboxes.calls import Call, InOneThread, directly
from gbot.inboxes.durable import DurableInbox
from gbot.inboxes.memory import MemoryInbox
from tests.contracts.stores import AnyStore, Database, policy_of
from tests.rig import wait_until


class Bench:
    """An inbox, and somebody who takes what it hands out, up to ``pool`` entries at a time."""

    def __init__(self, inbox: Inbox, pool: int) -> None:
        self.inbox = inbox
        self.pool = pool
        self.out: list[Entry] = []  # all that was ever handed out
        self.in_hand: list[Entry] = []
        inbox.start(self._submit, lambda: max(0, self.pool - len(self.in_hand)), lambda: self.in_hand)

    def _submit(self, entries: Iterable[Entry]) -> None:
        taken = list(entries)
        self.out.extend(taken)
        self.in_hand.extend(taken)

    def put(self, *events: Event, body_bytes: int = 1) -> None:
        self.inbox.put(events, body_bytes)

    def take(self, *events: Event) -> list[Entry]:
        """Put these and wait until as many entries were handed out."""
        before = len(self.out)
        self.put(*events)
        wait_until(lambda: len(self.out) >= before + len(events))
        return self.out[before:]

    def settle(self, outcome: Outcome, *entries: Entry) -> None:
        for entry in entries:
            self.in_hand.remove(entry)
            self.inbox.settle(entry, outcome)

    def texts(self) -> list[str]:
        return [entry.event.text or "" for entry in self.out]

    def stop(self) -> int:
        return self.inbox.stop(time.monotonic() + 5)

    def held(self) -> int:
        return self.inbox.statistics().held


class Maker:
    """Makes inboxes of one kind; those on disk share a database, one after the other or at the same time."""

    def __init__(self, database: Database | None) -> None:
        self._database = database
        self._benches: list[Bench] = []
        self._stores: list[tuple[Call, AnyStore]] = []

    def __call__(
        self,
        pool: int = 1000,
        held_max: int = 10_000,
        bytes_max: int = 10_000_000,
        strict: bool = True,
        dedup_window_s: float = 3600.0,
    ) -> Bench:
        self._benches.append(Bench(self.inbox(held_max, bytes_max, strict, dedup_window_s), pool))
        return self._benches[-1]

    def inbox(
        self,
        held_max: int = 10_000,
        bytes_max: int = 10_000_000,
        strict: bool = True,
        dedup_window_s: float = 3600.0,
    ) -> Inbox:
        """One that is not started, and that the caller stops."""
        if self._database is None:
            return MemoryInbox(held_max, bytes_max, strict=strict, dedup_window_s=dedup_window_s)
        store = self._database.unopened(policy_of(strict, dedup_window_ms=round(dedup_window_s * 1000)))
        call: Call = InOneThread() if store.blocks else directly
        self._stores.append((call, store))
        return DurableInbox(store, call, held_max, bytes_max)

    def end(self) -> None:
        for bench in self._benches:
            bench.stop()
        for call, store in self._stores:
            call(store.close)
