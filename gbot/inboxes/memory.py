"""The volatile inbox, ``memory:``: as fast as it gets, and empty after a restart.

The dispatcher holds what is ready and running; here are only the counts, what waits for its next attempt, and with
strict order what waits behind it. Dead entries are counted and gone: there is nothing to keep them in.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Final, NoReturn

import gevent
import msgspec

from gbot.counts import counted
from gbot.directory import Directory
from gbot.errors import DeliveryTooLarge, InboxFull
from gbot.event import Conversation, Event
from gbot.inbox import RELEASED, RETRY, Entry, InboxStatistics, InHand, Outcome, Room, State, Submit
from gbot.inboxes.memory_directory import MemoryDirectory

IDS_MAX: Final = 100_000  # remembered for deduplication, whatever the window: memory is bounded


class Behind:
    """The entries of a conversation that wait until those that were to be tried again have ended."""

    __slots__ = ("entries", "first")

    def __init__(self) -> None:
        self.first: set[int] = set()  # the numbers of those they wait for
        self.entries: deque[Entry] = deque()


class MemoryInbox:
    """Holds at most ``held_max`` entries of ``bytes_max`` bytes of deliveries, waiting and running together.

    ``strict``: a conversation's later events wait while one is to be tried again. Ids are remembered for
    ``dedup_window_s`` seconds, but no more than IDS_MAX of them.
    """

    keeps = False
    place = "memory:"

    def __init__(self, held_max: int, bytes_max: int, *, strict: bool, dedup_window_s: float) -> None:
        self.directory: Directory = MemoryDirectory()
        self._held_max = held_max
        self._bytes_max = bytes_max
        self._strict = strict
        self._seen = RecentIds(dedup_window_s, IDS_MAX)
        self._held = self._held_bytes = self._accepted = self._refused = self._duplicates = 0
        self._settled = dict.fromkeys(State, 0)
        self._numbers = itertools.count(1)
        self._retries: list[tuple[float, int, Entry]] = []  # a heap by due time (monotonic)
        self._behind: dict[Conversation, Behind] = {}
        self._timer = gevent.get_hub().loop.timer(0)

    def start(self, submit: Submit, room: Room, in_hand: InHand) -> None:
        self._submit = submit

    def put(self, events: Sequence[Event], body_bytes: int) -> None:
        count = len(events)
        if not count:
            return
        share = -(-body_bytes // count)
        if self._held + count > self._held_max or self._held_bytes + share * count > self._bytes_max:
            self._refuse(count, share * count)
        now_ms, numbers, seen = time.time_ns() // 1_000_000, self._numbers, self._seen
        entries = [
            Entry(next(numbers), event, 0, 0, now_ms, size_bytes=share)
            for event in events
            if event.id is None or seen.add(event.platform, event.id, now_ms)
        ]
        self._held += len(entries)
        self._held_bytes += share * len(entries)
        self._accepted += len(entries)
        self._duplicates += count - len(entries)
        self._submit(self._hold_back(entries) if self._behind else entries)

    def _refuse(self, count: int, size_bytes: int) -> NoReturn:
        self._refused += count
        bounds = f"the inbox holds {counted(self._held_max, 'event')} and {self._bytes_max:,} bytes"
        if count > self._held_max or size_bytes > self._bytes_max:
            raise DeliveryTooLarge(f"The delivery has {counted(count, 'event')} of {size_bytes:,} bytes; {bounds}.")
        held, are = counted(self._held, "event"), "is" if self._held == 1 else "are"
        raise InboxFull(f"{held} of {self._held_bytes:,} bytes {are} waiting or running; {bounds}.")

    def _hold_back(self, entries: list[Entry]) -> list[Entry]:
        """Those that may run; the others are put behind the one of their conversation that is to be tried again."""
        may_run: list[Entry] = []
        for entry in entries:
            behind = self._behind.get(entry.event.conversation) if entry.event.conversation is not None else None
            (may_run if behind is None else behind.entries).append(entry)
        return may_run

    def settle(self, entry: Entry, outcome: Outcome) -> None:
        self._settled[outcome.state] += 1
        if outcome.changes:
            self.directory.save(outcome.changes)
        conversation = entry.event.conversation
        if outcome.state is RETRY:
            self._try_later(entry, outcome)
        elif outcome.state is RELEASED and conversation in self._behind:
            self._behind[conversation].entries.append(entry)
        else:
            self._held -= 1
            self._held_bytes -= entry.size_bytes
            if self._behind and conversation in self._behind:
                self._let_go(conversation, entry.number)

    def _try_later(self, entry: Entry, outcome: Outcome) -> None:
        later = msgspec.structs.replace(entry, attempts=entry.attempts + outcome.counted, again=True)
        heapq.heappush(self._retries, (time.monotonic() + outcome.after_s, later.number, later))
        conversation = entry.event.conversation
        if self._strict and conversation is not None:
            self._behind.setdefault(conversation, Behind()).first.add(entry.number)
        self._set_timer()

    def _let_go(self, conversation: Conversation, number: int) -> None:
        """An entry has ended: if it was the last one that held its conversation back, the others may run."""
        behind = self._behind[conversation]
        behind.first.discard(number)
        if not behind.first:
            del self._behind[conversation]
            self._submit(behind.entries)

    def _set_timer(self) -> None:
        self._timer.stop()
        if self._retries:
            self._timer = gevent.get_hub().loop.timer(max(0.0, self._retries[0][0] - time.monotonic()))
            self._timer.start(self._try_due)

    def _try_due(self) -> None:
        """Runs in the hub."""
        due = []
        while self._retries and self._retries[0][0] <= time.monotonic():
            due.append(heapq.heappop(self._retries)[2])
        self._submit(due)
        self._set_timer()

    def stop(self, deadline: float) -> int:
        self._timer.stop()
        return 0

    def statistics(self) -> InboxStatistics:
        return InboxStatistics(
            held=self._held,
            unstored=0,
            unsaved=0,
            accepted=self._accepted,
            refused=self._refused,
            duplicates=self._duplicates,
            late=0,
            rescued=0,
            settled=dict(self._settled),
        )


class RecentIds:
    """The ids of events seen within ``window_s`` seconds, and no more than ``count_max``: the oldest go first."""

    def __init__(self, window_s: float, count_max: int) -> None:
        self._window_ms = window_s * 1000
        self._count_max = count_max
        self._seen_ms: OrderedDict[tuple[str, str], int] = OrderedDict()  # in the order of time

    def add(self, platform: str, event_id: str, now_ms: int) -> bool:
        """Whether this id was not there, which it is now."""
        key = (platform, event_id)
        seen_ms = self._seen_ms.get(key)
        if seen_ms is not None and now_ms - seen_ms < self._window_ms:
            return False
        self._seen_ms.pop(key, None)
        self._seen_ms[key] = now_ms
        if len(self._seen_ms) > self._count_max:
            self._seen_ms.popitem(last=False)
        return True
