"""The volatile inbox, ``memory:``: as fast as it gets, and empty after a restart."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NoReturn

from gbot.errors import DeliveryTooLarge, InboxFull
from gbot.event import Event
from gbot.inbox import Entry, InboxStatistics, Outcome, State


class MemoryInbox:
    """Holds at most ``held_max`` entries of ``bytes_max`` bytes of deliveries, waiting and running together.

    The dispatcher holds the entries themselves.
    """

    def __init__(self, held_max: int, bytes_max: int) -> None:
        self._held_max = held_max
        self._bytes_max = bytes_max
        self._held = 0
        self._held_bytes = 0
        self._accepted = 0
        self._refused = 0
        self._settled = dict.fromkeys(State, 0)
        self._numbers = itertools.count(1)

    def put(self, events: Sequence[Event], body_bytes: int) -> list[Entry]:
        count = len(events)
        if not count:
            return []
        share = -(-body_bytes // count)
        if self._held + count > self._held_max or self._held_bytes + share * count > self._bytes_max:
            self._refuse(count, share * count)
        self._held += count
        self._held_bytes += share * count
        self._accepted += count
        numbers = self._numbers
        return [Entry(next(numbers), event, share) for event in events]

    def _refuse(self, count: int, size_bytes: int) -> NoReturn:
        self._refused += count
        bounds = f"the inbox holds {self._held_max} events and {self._bytes_max} bytes"
        if count > self._held_max or size_bytes > self._bytes_max:
            raise DeliveryTooLarge(f"The delivery has {count} events of {size_bytes} bytes; {bounds}.")
        raise InboxFull(f"{self._held} events of {self._held_bytes} bytes are waiting or running; {bounds}.")

    def settle(self, entry: Entry, outcome: Outcome) -> None:
        self._held -= 1
        self._held_bytes -= entry.size_bytes
        self._settled[outcome.state] += 1

    def statistics(self) -> InboxStatistics:
        return InboxStatistics(self._held, self._held_bytes, self._accepted, self._refused, dict(self._settled))
