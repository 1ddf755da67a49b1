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

**Later attempts.** With strict order, an entry that is to be tried again takes its conversation's place: those behind
it that this worker holds are given back to the inbox, which hands them out again after it.

**Stopping.** ``drain`` gives back what has not started where the inbox keeps it for the next worker, else lets it run;
what runs may go on until the deadline, is killed then, and settled as released.

**Greenlets serve again.** The greenlet of a finished entry may serve another one, unless the handler has left something
behind that refers to it: a Timeout that was not cancelled, a kill that is still to come. The count of references tells;
such a greenlet is let go, and what comes late finds nobody. Greenlet-locals behave as they do in a pool of threads,
context variables start empty for every entry.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import gevent
from gevent import Greenlet
from gevent.pool import Pool
from greenlet import GreenletExit

from gbot.deadlines import Deadlines
from gbot.event import Conversation
from gbot.execution import NEVER, Execution, HandlerTimeout
from gbot.inbox import RETRY, Entry, Outcome

log = logging.getLogger(__name__)

SLICE_S = 0.005
IDLE_GREENLETS_MAX = 256
TIMEOUT_CHECK_INTERVAL_S = 0.5
DRAIN_CHECK_INTERVAL_S = 0.02
AHEAD_MAX = 1000  # entries taken in beyond the pool, so that a greenlet that becomes free need not wait for the inbox
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
    """What a drain could not finish: runs that were stopped, and entries that never started."""

    running: int
    waiting: int


if TYPE_CHECKING:
    BaseGreenlet = Greenlet[..., object]
else:
    BaseGreenlet = Greenlet  # generic for type checkers only


class Runner(BaseGreenlet):
    """A greenlet of the pool, and the Seat of whatever entry it runs. ``serve`` is its life."""

    def __init__(self, serve: Callable[[Runner], None]) -> None:
        super().__init__()  # type: ignore[call-arg]  # gevent then runs _run
        self._serve = serve
        self.timeout_s = self.deadline = NEVER
        self.killed = False
        self.entry: Entry | None = None  # what it runs
        self.driven = False  # the pump has switched into it and it has not waited since

    def _run(self) -> None:
        self._serve(self)


class Dispatcher:
    """Runs entries in a pool of ``size`` greenlets; ``strict`` is the order of conversations, see above."""

    def __init__(self, execution: Execution, size: int, strict: bool = True) -> None:
        self._execution = execution
        self._strict = strict
        self._draining = False
        self._hub = gevent.get_hub()
        self._pool = Pool(size)
        self._size = size
        self._ready: deque[Entry] = deque()
        self._lanes: dict[Conversation, deque[Entry]] = {}
        self._in_lanes = 0
        self._idle: dict[Runner, None] = {}  # in the order in which they came to rest
        self._pump_asked = False
        self._slice_end = 0.0
        self._deadlines: Deadlines[Runner] = Deadlines()
        self._references_at_rest = 0  # to a greenlet at rest that nobody but the dispatcher knows
        self._later = self._hub.loop.timer(0)
        self._timer = self._hub.loop.timer(TIMEOUT_CHECK_INTERVAL_S, TIMEOUT_CHECK_INTERVAL_S)
        self._timer.start(self._stop_late)

    def submit(self, entries: Iterable[Entry]) -> None:
        """Run these entries soon. Returns at once; how many may wait is the inbox's bound."""
        if self._draining:
            self._release(entries)
            return
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

    def room(self) -> int:
        """How many entries more this dispatcher wants to have: it takes more, but they would only wait."""
        if self._draining:
            return 0
        return max(0, self._size + min(self._size, AHEAD_MAX) - self._unfinished())

    def in_hand(self) -> list[Entry]:
        """The entries that run or wait here."""
        lanes = [entry for lane in self._lanes.values() for entry in lane]
        run = [runner.entry for runner in self._pool if isinstance(runner, Runner) and runner.entry is not None]
        return [*self._ready, *lanes, *run]

    def drain(self, deadline: float, give_back: bool = False) -> Leftovers:
        """Wait until nothing is left to run or ``deadline`` (monotonic) has come; stop what is left and count it.

        With ``give_back`` nothing starts any more: what has not is released at once.
        """
        given_back = self._waiting() if give_back else 0
        if give_back:
            self._draining = True
            self._release_waiting()
        while self._unfinished() and time.monotonic() < deadline:
            gevent.sleep(DRAIN_CHECK_INTERVAL_S)
        left = Leftovers(self._execution.statistics().running, given_back + self._waiting())
        self._draining = True
        self._execution.stopping = True
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
        waiting = [*self._ready, *(entry for lane in self._lanes.values() for entry in lane)]
        self._ready.clear()
        self._lanes.clear()
        self._in_lanes = 0
        self._release(waiting)

    def _release(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._execution.release(entry)

    # The pump runs in the hub: it must never wait.

    def _ask_for_pump(self) -> None:
        if not self._pump_asked:
            self._pump_asked = True
            self._hub.loop.run_callback(self._pump)

    def _pump(self) -> None:
        self._pump_asked = False
        self._slice_end = time.monotonic() + SLICE_S
        while self._ready and self._has_room():
            runner = self._next_runner()
            if runner is None:
                continue
            runner.driven = True
            runner.switch()
            runner.driven = False
            if runner.deadline != NEVER:  # its handler waits
                self._deadlines.add(runner, runner.timeout_s, runner.deadline)
            if time.monotonic() >= self._slice_end:
                break
        if self._ready and self._has_room():
            self._pump_after_sockets()

    def _has_room(self) -> bool:
        return bool(self._idle) or len(self._pool) < self._size

    def _pump_after_sockets(self) -> None:
        """Go on in the hub's next round. Its callbacks would come first, again and again, before any socket."""
        self._pump_asked = True
        self._later.start(self._pump)

    def _next_runner(self) -> Runner | None:
        """A resting greenlet, or a new one; None if the one that was looked at had to be let go."""
        is_new = not self._idle
        if is_new:
            self._hire()
        runner = self._idle.popitem()[0]  # the one that rested last: its stack is still in the CPU's cache
        references = sys.getrefcount(runner)
        if is_new:
            self._references_at_rest = references  # it has run nothing yet
        elif references > self._references_at_rest:
            runner.throw(GreenletExit)
            return None
        return runner

    def _hire(self) -> None:
        """One greenlet more, at rest."""
        runner = Runner(self._serve)
        self._pool.add(runner)
        runner.switch()

    def _stop_late(self) -> None:
        """Throw HandlerTimeout into every handler whose time is over."""
        for runner in self._deadlines.over(time.monotonic()):
            runner.throw(HandlerTimeout)

    # A greenlet of the pool.

    def _serve(self, me: Runner) -> None:
        """Rest, run what is ready, rest again; end when told to, or when enough others rest."""
        try:
            while len(self._idle) < IDLE_GREENLETS_MAX and self._rest(me) and self._run_ready(me):
                pass
        finally:
            self._pool.discard(me)  # at once: the pump that follows counts on the room
            self._ask_for_pump_unless_driven(me)

    def _rest(self, me: Runner) -> bool:
        """Wait until the pump picks this greenlet; returns False when it is to end.

        Whatever else wakes it was meant for a handler that has finished and does not count.
        """
        self._idle[me] = None
        try:
            while me in self._idle:
                self._hub.switch()
        except BaseException as late:
            log.debug("Came too late for the handler it was meant for: %r", late)
            self._idle.pop(me, None)
            return False
        return True

    def _run_ready(self, me: Runner) -> bool:
        """Run entries until none is ready or the slice is used up; returns False when this greenlet is to end.

        The next entry is only taken while the pump still drives this greenlet and nobody else refers to it.
        """
        references = sys.getrefcount(me)
        while self._ready:
            entry = me.entry = self._ready.popleft()
            me.gr_context = None  # the entry starts with empty context variables
            outcome = self._execution.run(entry, me)
            me.entry = None
            if not me.driven:
                self._deadlines.discard(me, me.timeout_s)
            if entry.event.conversation is not None:
                self._advance(entry.event.conversation, outcome)
            if me.killed:
                return False
            if not me.driven or sys.getrefcount(me) != references or time.monotonic() >= self._slice_end:
                break
        self._ask_for_pump_unless_driven(me)
        return True

    def _ask_for_pump_unless_driven(self, me: Runner) -> None:
        """The pump that drives a greenlet goes on by itself."""
        if self._ready and not me.driven:
            self._ask_for_pump()

    def _advance(self, conversation: Conversation, outcome: Outcome) -> None:
        """The conversation is free again: its next entry becomes ready."""
        lane = self._lanes.get(conversation)
        if lane is None:
            return  # released by drain meanwhile
        if self._strict and outcome.state is RETRY:
            del self._lanes[conversation]
            self._in_lanes -= len(lane)
            self._release(lane)
        elif lane:
            self._ready.append(lane.popleft())
            self._in_lanes -= 1
        else:
            del self._lanes[conversation]
