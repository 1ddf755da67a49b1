"""One entry's life in its greenlet, as one pipeline::

    start ──▶ choose handler ──▶ run under the timeout ──▶ outcome ──▶ settle

Whatever a handler does, exactly one Outcome comes of it and is settled in one place. An error is logged here, told to
the author's error handler, and goes no further: the neighbours in the delivery never notice.

Timeouts cost a handler one dictionary entry: ``Deadlines`` remembers who is running, and the dispatcher's timer asks it
every quarter of a second who has run too long. HandlerTimeout is thrown into such a greenlet where it waits; a handler
that catches it is told again at each following look.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from greenlet import GreenletExit, getcurrent, greenlet

from gbot.bot import Bot, Context, Groups, Route, Sender
from gbot.inbox import Entry, Inbox, Outcome, State

log = logging.getLogger(__name__)

DONE = Outcome(State.DONE)
UNHANDLED = Outcome(State.UNHANDLED, "the bot has no handler for it")
RELEASED = Outcome(State.RELEASED, "the server stopped")

Runner = TypeVar("Runner")


class HandlerTimeout(BaseException):
    """Thrown into a handler that has run too long. Not an Exception, so that ``except Exception`` lets it through."""


class Deadlines(Generic[Runner]):
    """Who runs until when. Pure: time is passed in, in seconds.

    One queue per distinct timeout: whoever starts later ends later, so only the heads of the queues are looked at.
    """

    def __init__(self) -> None:
        self._queues: dict[float, dict[Runner, float]] = {}

    def add(self, runner: Runner, timeout_s: float, now: float) -> None:
        queue = self._queues.get(timeout_s)
        if queue is None:
            queue = self._queues[timeout_s] = {}
        queue[runner] = now + timeout_s

    def remove(self, runner: Runner, timeout_s: float) -> None:
        """Raises KeyError for a runner that was not added."""
        del self._queues[timeout_s][runner]

    def expired(self, now: float) -> list[Runner]:
        """All whose time is over, however often they have been named before."""
        late: list[Runner] = []
        for queue in self._queues.values():
            for runner, deadline in queue.items():
                if deadline > now:
                    break
                late.append(runner)
        return late


@dataclass(frozen=True, slots=True)
class ExecutionStatistics:
    """``running`` is of this moment; ``finished`` counts runs since the start."""

    running: int
    finished: int


class Execution:
    """Runs entries for one bot. ``senders`` maps a platform's name to its way out."""

    def __init__(self, bot: Bot, inbox: Inbox, senders: Mapping[str, Sender], timeout_s: float) -> None:
        self._bot = bot
        self._inbox = inbox
        self._senders = senders
        self._timeout_s = timeout_s  # 0: none
        self._deadlines: Deadlines[greenlet] = Deadlines()
        self._running = 0
        self._finished = 0

    def run(self, entry: Entry) -> Outcome:
        """Run one entry to its end, in the current greenlet. Raises nothing."""
        self._running += 1
        try:
            outcome = self._perform(entry)
        finally:
            self._running -= 1
        self._finished += 1
        self._inbox.settle(entry, outcome)
        return outcome

    def release(self, entry: Entry) -> None:
        """Settle an entry that will not be run, because the server stops."""
        self._inbox.settle(entry, RELEASED)

    def stop_late(self) -> None:
        """Throw HandlerTimeout into every handler that has run too long. Called from the hub."""
        for runner in self._deadlines.expired(time.monotonic()):
            runner.throw(HandlerTimeout)

    def statistics(self) -> ExecutionStatistics:
        return ExecutionStatistics(self._running, self._finished)

    def _perform(self, entry: Entry) -> Outcome:
        """Choose the handler and run it under its timeout."""
        event = entry.event
        ctx = Context(event, self._senders[event.platform])
        try:
            found = self._bot.find(event)
        except Exception as error:
            return self._failed(entry, ctx, error)
        if found is None:
            return UNHANDLED
        timeout_s = found[0].timeout_s or self._timeout_s
        if not timeout_s:
            return self._attempt(entry, ctx, *found)
        runner = getcurrent()
        self._deadlines.add(runner, timeout_s, time.monotonic())
        try:
            return self._attempt(entry, ctx, *found)
        except HandlerTimeout:
            log.error("A handler ran longer than %g s and was stopped; %s is not tried again", timeout_s, _name(entry))
            return Outcome(State.TIMED_OUT, f"the handler ran longer than {timeout_s:g} s")
        finally:
            self._deadlines.remove(runner, timeout_s)

    def _attempt(self, entry: Entry, ctx: Context, route: Route, groups: Groups) -> Outcome:
        """Call the handler; every way out of it but HandlerTimeout becomes an outcome here."""
        try:
            self._bot.call(ctx, route, groups)
            return DONE
        except HandlerTimeout:
            raise
        except GreenletExit:
            return RELEASED
        except BaseException as error:  # also SystemExit and gevent's Timeout: a handler must not end the server
            return self._failed(entry, ctx, error)

    def _failed(self, entry: Entry, ctx: Context, error: BaseException) -> Outcome:
        log.error("A handler failed; %s is not tried again", _name(entry), exc_info=error)
        try:
            self._bot.call_error_handler(ctx, error)
        except HandlerTimeout:
            raise
        except GreenletExit:
            return RELEASED
        except BaseException as second:
            log.error("The bot's error handler failed on %s", _name(entry), exc_info=second)
        return Outcome(State.DEAD, type(error).__name__)


def _name(entry: Entry) -> str:
    """An entry as a log line names it: nothing of what a user wrote."""
    event = entry.event
    return f"{event.platform} event {event.id or entry.number} ({event.kind})"
