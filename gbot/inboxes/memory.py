"""The volatile inbox, ``memory:``: as fast as it gets, and empty after a restart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from gbot.errors import InboxFull
from gbot.event import Event
from gbot.inbox import Entry, InboxStatistics, Outcome, State


class MemoryInbox:
    """Holds at most ``held_max`` entries, waiting and running together. The dispatcher holds the entries themselves."""

    def __init__(self, held_max: int) -> None:
        self._held_max = held_max
        self._held = 0
        self._accepted = 0
        self._refused = 0
        self._settled = dict.fromkeys(State, 0)
        self._numbers = count(1)

    def put(self, events: Sequence[Event]) -> list[Entry]:
        held = self._held + len(events)
        if held > self._held_max:
            self._refused += len(events)
            raise InboxFull(f"{self._held} events are waiting or running and the inbox holds {self._held_max}.")
        self._held = held
        self._accepted += len(events)
        numbers = self._numbers
        return [Entry(next(numbers), event) for event in events]

    def settle(self, entry: Entry, outcome: Outcome) -> None:
        self._held -= 1
        self._settled[outcome.state] += 1

    def statistics(self) -> InboxStatistics:
        return InboxStatistics(self._held, self._held_max, self._accepted, self._refused, dict(self._settled))
