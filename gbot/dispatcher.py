"""Gives every entry a greenlet of a bounded pool, and every conversation its order.

::

    submit ──▶ ready ──pump──▶ a greenlet of the pool ──▶ Execution.run ──▶ (the conversation's next) ──▶ ready
                 ▲                                                                   │
    lanes: entries whose conversation has one running or ready already ──────────────┘

**Hand-over.** ``submit`` only appends and asks the hub for a pump, so the HTTP answer never waits. The pump runs in the
hub, after the answer has been sent: it switches into one greenlet after the other, each of which runs entries until its
handler waits for something or nothing is ready. An entry therefore has a greenlet to itself while it runs, but a
greenlet is only made when all others are waiting: creating one costs about 10 µs, most of it memory for its stack.

**Turns.** Events may use the hub for SLICE_S at a stretch; then sockets get their turn and the pump goes on after them.

**Order.** Two entries of one conversation are never running at once and run in the order of submission. Entries without
a conversation are free.

**Stopping.** ``drain`` lets everything accepted run until the deadline; then it kills what runs and settles all that is
left as released.

The greenlet of a finished entry may serve another one later, so greenlet-locals behave as they do in a pool of threads.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import gevent
from gevent import Greenlet
from gevent.pool import Pool

from gbot.event import Conversation
from gbot.execution import NEVER, RELEASED, Execution, HandlerTimeout
from gbot.inbox import Entry

SLICE_S = 0.005
IDLE_GREENLETS_MAX = 256
TIMEOUT_CHECK_INTERVAL_S = 0.5
DRAIN_CHECK_INTERVAL_S = 0.02
KILL_TIMEOUT_S = 2.0  # for handlers that clean up, or that catch GreenletExit


@dataclass(frozen=True, slots=True)
class DispatcherStatistics:
    """``finished`` counts since the start, the rest is of this moment. ``greenlets`` includes the resting ones."""

    pool_size: int
    running: int
    waiting: int
    finished: int
    greenlets: int


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What a drain could not finish."""

    running: int
    waiting: int


if TYPE_CHECKING:
    BaseGreenlet = Greenlet[..., object]
else:
    BaseGreenlet = Greenlet  # generic for type checkers only


class Runner(BaseGreenlet):
    """A greenlet of the pool, and the Seat of whatever entry it runs. ``serve`` is its life."""

    def __init__(self, serve: Callable[[Runner], None]) -> None:
        super().__init__(serve, self)  # a cycle that gevent breaks when the greenlet ends
        self.deadline = NEVER


class Dispatcher:
    """Runs entries in a pool of ``size`` greenlets."""

    def __init__(self, execution: Execution, size: int) -> None:
        self._execution = execution
        self._hub = gevent.get_hub()
        self._pool = Pool(size)
        self._size = size
        self._ready: deque[Entry] = deque()
        self._lanes: dict[Conversation, deque[Entry]] = {}
        self._in_lanes = 0
        self._idle: dict[Runner, None] = {}  # in the order in which they came to rest
        self._pump_asked = False
        self._slice_end = 0.0
        self._timer = self._hub.loop.timer(TIMEOUT_CHECK_INTERVAL_S, TIMEOUT_CHECK_INTERVAL_S)
        self._timer.start(self._stop_late)

    def submit(self, entries: Iterable[Entry]) -> None:
        """Run these entries soon. Returns at once; how many may wait is the inbox's bound."""
        for entry in entries:
            conversation = entry.event.conversation
            if conversation is None:
                self._ready.append(entry)
                continue
            lane = self._lanes.get(conversation)
            if lane is None:
                self._lanes[conversation] = deque()
                self._ready.append(entry)
            else:
                lane.append(entry)
                self._in_lanes += 1
        self._ask_for_pump()

    def drain(self, deadline: float) -> Leftovers:
        """Wait until nothing is left to run or ``deadline`` (monotonic) has come; stop what is left and count it."""
        while self._unfinished() and time.monotonic() < deadline:
            gevent.sleep(DRAIN_CHECK_INTERVAL_S)
        left = Leftovers(self._execution.statistics().running, self._waiting())
        self._timer.stop()
        self._release_waiting()
        self._pool.kill(timeout=KILL_TIMEOUT_S)
        return left

    def statistics(self) -> DispatcherStatistics:
        execution = self._execution.statistics()
        return DispatcherStatistics(
            pool_size=self._size,
            running=execution.running,
            waiting=self._waiting(),
            finished=execution.finished,
            greenlets=len(self._pool),
        )

    def _waiting(self) -> int:
        return len(self._ready) + self._in_lanes

    def _unfinished(self) -> int:
        return self._waiting() + self._execution.statistics().running

    def _release_waiting(self) -> None:
        lanes = [entry for lane in self._lanes.values() for entry in lane]
        for entry in [*self._ready, *lanes]:
            self._execution.release(entry)
        self._ready.clear()
        self._lanes.clear()
        self._in_lanes = 0

    # The pump runs in the hub: it must never wait.

    def _ask_for_pump(self) -> None:
        if not self._pump_asked:
            self._pump_asked = True
            self._hub.loop.run_callback(self._pump)

    def _pump(self) -> None:
        self._pump_asked = False
        self._slice_end = time.monotonic() + SLICE_S
        while self._ready and (self._idle or len(self._pool) < self._size):
            self._next_greenlet().switch()
            if time.monotonic() >= self._slice_end:
                if self._ready:
                    self._ask_for_pump()
                return

    def _stop_late(self) -> None:
        """Throw HandlerTimeout into every handler whose time is over."""
        now = time.monotonic()
        for runner in [runner for runner in cast("Iterable[Runner]", self._pool) if runner.deadline < now]:
            runner.throw(HandlerTimeout)

    def _next_greenlet(self) -> Runner:
        if self._idle:
            return self._idle.popitem()[0]  # the one that rested last: its stack is still in the CPU's cache
        runner = Runner(self._serve)
        self._pool.add(runner)
        return runner

    # A greenlet of the pool.

    def _serve(self, me: Runner) -> None:
        """The life of one greenlet: run what is ready, rest, run again; end when killed or when enough others rest."""
        try:
            while self._run_ready(me) and len(self._idle) < IDLE_GREENLETS_MAX:
                self._rest(me)
        finally:
            self._idle.pop(me, None)
            self._pool.discard(me)  # at once: the pump that follows counts on the room
            if self._ready:
                self._ask_for_pump()

    def _rest(self, me: Runner) -> None:
        """Wait until the pump picks this greenlet; a late wake-up meant for a finished handler does not count."""
        self._idle[me] = None
        while me in self._idle:
            self._hub.switch()
        me.gr_context = None  # the next entry starts with empty context variables

    def _run_ready(self, me: Runner) -> bool:
        """Run entries until none is ready or the slice is used up; returns False when this greenlet was told to end."""
        while self._ready:
            entry = self._ready.popleft()
            outcome = self._execution.run(entry, me)
            if entry.event.conversation is not None:
                self._advance(entry.event.conversation)
            if outcome is RELEASED:
                return False
            if time.monotonic() >= self._slice_end:
                break
        if self._ready:
            self._ask_for_pump()
        return True

    def _advance(self, conversation: Conversation) -> None:
        """The conversation is free again: its next entry becomes ready."""
        lane = self._lanes.get(conversation)
        if lane is None:
            return  # released by drain meanwhile
        if lane:
            self._ready.append(lane.popleft())
            self._in_lanes -= 1
        else:
            del self._lanes[conversation]
