"""What is sent to the bot, and when. Pure: times are seconds since the beginning of the run.

Events are numbered from 0 and leave in deliveries of one or more. Each delivery is sent at least once; by seed, some
are sent a second time: the same bytes at once (duplicates), or some time later marked as a redelivery, or are held back
until later ones have overtaken them (disorder).
"""

from __future__ import annotations

import enum
import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from gbot.simulator.dice import Dice

BURST_S: Final = 1.0  # the last second of every period
HELD_BACK_S: Final = (0.05, 1.0)
DUPLICATE_AFTER_S: Final = (0.0, 0.2)
AGAIN_AFTER_S: Final = (0.3, 2.0)


@dataclass(frozen=True, slots=True)
class Burst:
    """``factor`` times the rate in the last second of every ``every_s``."""

    factor: float
    every_s: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is to be sent. ``mix`` has the kinds of events with their weights; shares are from 0 to 1."""

    rate: float  # events per second; 0: none at all
    events_max: int | None = None
    seconds: float | None = None
    batch: tuple[int, int] = (1, 1)  # events in a delivery, from and to
    burst: Burst | None = None
    mix: tuple[tuple[str, int], ...] = (("text", 1),)
    redeliver: float = 0.0
    duplicates: float = 0.0
    disorder: float = 0.0


class Why(enum.Enum):
    """Why something is sent."""

    NEW = enum.auto()
    DUPLICATE = enum.auto()  # as it was sent before
    AGAIN = enum.auto()  # marked as a redelivery
    UNANSWERED = enum.auto()  # the same, because the bot did not take it


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """Events ``first`` to ``first + count - 1``, which happened at ``at_s``."""

    number: int
    first: int
    count: int
    at_s: float

    @property
    def events(self) -> range:
        return range(self.first, self.first + self.count)


class Sending(msgspec.Struct, frozen=True, gc=False, order=True):
    """A delivery on its way at ``at_s``."""

    at_s: float
    order: int  # among those of the same time
    delivery: Delivery
    why: Why


class Mix:
    """Which kind each event is of."""

    def __init__(self, seed: int, mix: tuple[tuple[str, int], ...]) -> None:
        self._kinds = tuple(kind for kind, weight in mix for _ in range(weight))
        self._between = Dice(seed, "kind").between

    def kind(self, event: int) -> str:
        return self._kinds[self._between(event, 0, len(self._kinds) - 1)]


def deliveries(traffic: Traffic, seed: int) -> Iterator[Delivery]:
    """All of them, in the order in which their events happen."""
    if not traffic.rate:
        return
    size = Dice(seed, "batch").between
    number = first = 0
    at_s = 0.0
    while traffic.seconds is None or at_s < traffic.seconds:
        count = size(number, *traffic.batch)
        if traffic.events_max is not None:
            count = min(count, traffic.events_max - first)
            if not count:
                return
        yield Delivery(number, first, count, at_s)
        number, first = number + 1, first + count
        at_s = _after(traffic, at_s, count)


def _after(traffic: Traffic, at_s: float, events: float) -> float:
    """When so many more events have happened, at a rate that changes with the bursts."""
    if traffic.burst is None:
        return at_s + events / traffic.rate
    every_s = traffic.burst.every_s
    while True:
        # The edge is computed from whole periods: adding up would stand still one rounding error before it.
        periods, within_s = divmod(at_s, every_s)
        bursting = within_s >= every_s - BURST_S
        edge_s = (periods + 1) * every_s - (0.0 if bursting else BURST_S)
        rate = traffic.rate * (traffic.burst.factor if bursting else 1.0)
        if at_s + events / rate < edge_s or edge_s <= at_s:
            return at_s + events / rate
        events -= (edge_s - at_s) * rate
        at_s = edge_s
        if events <= 0:
            return at_s


def sendings(traffic: Traffic, seed: int) -> Iterator[Sending]:
    """All that is sent, whatever the bot does, in the order in which it is sent."""
    waiting: list[Sending] = []
    for order, delivery in enumerate(deliveries(traffic, seed)):
        while waiting and waiting[0].at_s <= delivery.at_s:
            yield heapq.heappop(waiting)
        for at_s, why in _times(traffic, seed, delivery):
            heapq.heappush(waiting, Sending(at_s, 4 * order + why.value, delivery, why))
    while waiting:
        yield heapq.heappop(waiting)


def _times(traffic: Traffic, seed: int, delivery: Delivery) -> Iterator[tuple[float, Why]]:
    number, at_s = delivery.number, delivery.at_s
    if traffic.disorder and Dice(seed, "disorder").hits(number, traffic.disorder):
        at_s += Dice(seed, "held back").span(number, *HELD_BACK_S)
    yield at_s, Why.NEW
    if traffic.duplicates and Dice(seed, "duplicate").hits(number, traffic.duplicates):
        yield at_s + Dice(seed, "duplicate after").span(number, *DUPLICATE_AFTER_S), Why.DUPLICATE
    if traffic.redeliver and Dice(seed, "redelivery").hits(number, traffic.redeliver):
        yield at_s + Dice(seed, "again after").span(number, *AGAIN_AFTER_S), Why.AGAIN
