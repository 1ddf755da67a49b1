"""The ordered way out to one endpoint: greenlets wait here until the limit lets their request begin.

::

    enter ──nobody waits, and the limit allows it──▶ through ──▶ (the request) ──▶ leave ─┐
      │                                                 ▲                                 │
      ├──▶ waits in its flow's queue ───its turn────────┘◀────────wakes the lane──────────┘
      │         │
      │         ├──within_s is over──▶ LaneBusy
      │         └──killed, or its handler timed out──▶ gone from the queue, as if it had never come
      └──waiting_max wait already──▶ LaneBusy

**Flows.** A flow is usually a conversation. Flows that wait take turns, one request each, and within a flow whoever
came first goes first: of a conversation with a thousand requests, one goes before another conversation's only one. A
tenth of the places is for flows of which nobody waits yet, so that a few busy ones cannot have the others refused.

**Turns** are given in the hub, which switches straight into the greenlet: its request begins at the very moment that
was counted, and there is no time in between in which it could be killed while it holds a turn it does not know of.

**Timers.** One wakes the lane when the limit allows the next request; one looks every TICK_S, while anybody waits, for
those whose time is over, who may therefore wait longer than ``within_s`` by twice TICK_S. Waiters have no timers of
their own.

Whoever has entered must leave, however the request ends. A lane belongs to the hub of the thread that made it.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import gevent
from greenlet import getcurrent

from gbot.counts import counted
from gbot.deadlines import Deadlines
from gbot.errors import LaneBusy
from gbot.limiter import Limit, Limiter

if TYPE_CHECKING:
    from gevent._types import _TimerWatcher

SLICE_S: Final = 0.005  # so long requests may be begun at a stretch before sockets get their turn
TICK_S: Final = 0.25
RESERVED_DIVISOR: Final = 10
WITHIN_MAX_S: Final = 600.0  # nobody waits for longer, whatever he asks for
AFTER_MIN_S: Final = 1.0
AFTER_MAX_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class LaneStatistics:
    """``waiting`` and ``in_flight`` are of this moment, the rest counts since the start.

    ``refused``: LaneBusy was raised. ``slowed``: the API said that requests come too fast.
    """

    name: str
    waiting: int
    in_flight: int
    passed: int
    refused: int
    slowed: int


class Waiter:
    """A greenlet that waits for its turn. ``through`` is None until it is known how its waiting ends."""

    __slots__ = ("deadline", "flow", "greenlet", "through", "within_s")

    def __init__(self, flow: Hashable, now: float, within_s: float) -> None:
        self.greenlet = getcurrent()
        self.flow = flow
        self.within_s = math.ceil(within_s / TICK_S) * TICK_S  # few different ones, for Deadlines
        self.deadline = now + within_s
        self.through: bool | None = None


class Lane:
    """Keeps what passes within ``limit``, and lets at most ``waiting_max`` greenlets wait."""

    def __init__(self, name: str, limit: Limit, waiting_max: int) -> None:
        self._name = name
        self._in_flight_max = limit.in_flight
        self._waiting_max = waiting_max
        self._limiter = Limiter(limit, time.monotonic())
        self._hub = gevent.get_hub()
        self._loop = self._hub.loop
        self._flows: OrderedDict[Hashable, OrderedDict[Waiter, None]] = OrderedDict()  # in the order of their turns
        self._waiting = 0
        self._in_flight = 0
        self._passed = 0
        self._refused = 0
        self._slowed = 0
        self._turns_asked = False
        self._turns_timer: _TimerWatcher | None = None
        self._deadlines: Deadlines[Waiter] = Deadlines()
        self._tick_timer: _TimerWatcher | None = None  # while anybody waits
        self._ticked = (0.0, 0)  # when, and how many had passed by then
        self._each_s = 0.0  # how long one waiter takes to pass, as it was last seen

    def enter(self, flow: Hashable, within_s: float) -> None:
        """Wait until a request may begin; the caller's request has then begun, and ``leave`` must follow.

        Raises LaneBusy when that takes longer than ``within_s``, or too many wait already.
        """
        now = time.monotonic()
        limiter = self._limiter
        if not self._waiting and self._in_flight < self._in_flight_max and now >= limiter.ready_at:
            limiter.take(now)
            self._in_flight += 1
            self._passed += 1
            return
        self._wait(flow, now, min(within_s, WITHIN_MAX_S))

    def leave(self) -> None:
        """The request has ended. Never switches to another greenlet."""
        self._in_flight -= 1
        if self._waiting and not self._turns_asked:
            self._turns_asked = True
            self._loop.run_callback(self._give_turns)

    def slow_down(self, retry_after_s: float | None) -> None:
        """The API has said that requests come too fast, and when to come back, if it did."""
        self._slowed += 1
        self._limiter.slow_down(time.monotonic(), retry_after_s)

    def statistics(self) -> LaneStatistics:
        return LaneStatistics(self._name, self._waiting, self._in_flight, self._passed, self._refused, self._slowed)

    # In the greenlet that waits.

    def _wait(self, flow: Hashable, now: float, within_s: float) -> None:
        if self._is_full_for(flow):
            raise self._busy(now, f"{counted(self._waiting, 'request waits', 'requests wait')} already")
        if within_s <= 0 or now + within_s < self._limiter.ready_at:
            raise self._busy(now, f"no request may begin within {max(0.0, within_s):.3g} s")
        waiter = Waiter(flow, now, within_s)
        self._join(waiter, now)
        try:
            while waiter.through is None:  # whatever else wakes this greenlet was not meant for it
                self._hub.switch()
        except BaseException:
            self._remove(waiter)
            raise
        if not waiter.through:
            raise self._busy(time.monotonic(), f"no turn within {within_s:.3g} s")

    def _is_full_for(self, flow: Hashable) -> bool:
        """The last places are kept for flows of which nobody waits: the others cannot fill the lane by themselves."""
        reserved = self._waiting_max // RESERVED_DIVISOR if flow in self._flows else 0
        return self._waiting >= self._waiting_max - reserved

    def _join(self, waiter: Waiter, now: float) -> None:
        queue = self._flows.get(waiter.flow)
        if queue is None:
            queue = self._flows[waiter.flow] = OrderedDict()
        queue[waiter] = None
        self._waiting += 1
        self._deadlines.add(waiter, waiter.within_s, now + waiter.within_s)
        if self._tick_timer is None:
            self._ticked = (now, self._passed)
            self._ask_for_tick(TICK_S)
        if not self._turns_asked:
            self._ask_for_turns()

    def _busy(self, now: float, why: str) -> LaneBusy:
        self._refused += 1
        after_s = self._limiter.wait_s(now) + self._waiting * (self._each_s or self._limiter.spacing_s)
        return LaneBusy(f"{self._name}: {why}", min(max(AFTER_MIN_S, after_s), AFTER_MAX_S))

    # In any greenlet, and in the hub.

    def _remove(self, waiter: Waiter) -> None:
        queue = self._flows[waiter.flow]
        del queue[waiter]
        if not queue:
            del self._flows[waiter.flow]
        self._waiting -= 1
        self._deadlines.discard(waiter, waiter.within_s)

    def _next(self) -> Waiter:
        """Who has the next turn; the flow's turn after that comes after all others'."""
        flow = next(iter(self._flows))
        self._flows.move_to_end(flow)
        return next(iter(self._flows[flow]))

    def _ask_for_turns(self) -> None:
        """Give turns when the limit allows the next, unless too many are under way: then ``leave`` asks."""
        if self._waiting and self._in_flight < self._in_flight_max:
            self._turns_asked = True
            self._turns_timer = self._loop.timer(self._limiter.wait_s(time.monotonic()))
            self._turns_timer.start(self._give_turns, update=True)

    # In the hub: nothing here may wait.

    def _give_turns(self) -> None:
        slice_end = time.monotonic() + SLICE_S
        limiter = self._limiter
        try:
            while self._waiting and self._in_flight < self._in_flight_max:
                now = time.monotonic()
                if now < limiter.ready_at or now >= slice_end:
                    break
                waiter = self._next()
                through = now <= waiter.deadline
                if through:
                    limiter.take(now)
                    self._in_flight += 1
                    self._passed += 1
                self._resume(waiter, through)
        finally:
            self._turns_asked = False
            self._ask_for_turns()

    def _tick(self) -> None:
        """Send away those whose time is over, and see how fast the others pass."""
        now = time.monotonic()
        self._see_pace(now)
        late = self._deadlines.over(now)
        try:
            while late and time.monotonic() < now + SLICE_S:
                self._resume(late.pop(), False)
        finally:
            self._tick_timer = None
            if self._waiting:
                self._ask_for_tick(0.0 if late else TICK_S)

    def _ask_for_tick(self, after_s: float) -> None:
        self._tick_timer = self._loop.timer(after_s)
        self._tick_timer.start(self._tick, update=True)

    def _see_pace(self, now: float) -> None:
        then, passed = self._ticked
        if self._passed > passed:
            self._each_s = (now - then) / (self._passed - passed)
        self._ticked = (now, self._passed)

    def _resume(self, waiter: Waiter, through: bool) -> None:
        self._remove(waiter)
        waiter.through = through
        waiter.greenlet.switch()
