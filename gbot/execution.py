"""One entry's life in its greenlet, as one pipeline::

    start ──▶ choose handler ──▶ run under the timeout ──▶ outcome ──▶ settle

Whatever a handler does, exactly one Outcome comes of it and is settled in one place. An error is logged here, told to
the author's error handler, and goes no further: the neighbours in the delivery never notice.

Timeouts cost a handler one float: the execution writes down when its time is over, and the dispatcher's timer looks
twice a second for greenlets whose time is. HandlerTimeout is thrown into them where they wait; a handler that catches
it is told again at each following look, and one that never waits cannot be stopped.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from greenlet import GreenletExit

from gbot.bot import Bot, Context, Groups, Route, Sender
from gbot.inbox import Entry, Inbox, Outcome, State

log = logging.getLogger(__name__)

DONE = Outcome(State.DONE)
UNHANDLED = Outcome(State.UNHANDLED, "the bot has no handler for it")
RELEASED = Outcome(State.RELEASED, "the server stopped")

NEVER: Final = float("inf")


class HandlerTimeout(BaseException):
    """Thrown into a handler that has run too long. Not an Exception, so that ``except Exception`` lets it through."""


class Seat(Protocol):
    """Where one handler at a time runs: the greenlet, as far as an execution has to know it."""

    deadline: float
    """When the handler's time is over, by the monotonic clock in seconds; NEVER between two handlers."""


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
        self._running = 0
        self._finished = 0

    def run(self, entry: Entry, seat: Seat) -> Outcome:
        """Run one entry to its end, in the current greenlet, whose seat this is. Raises nothing."""
        self._running += 1
        outcome = self._perform(entry, seat)
        self._running -= 1
        self._finished += 1
        self._inbox.settle(entry, outcome)
        return outcome

    def release(self, entry: Entry) -> None:
        """Settle an entry that will not be run, because the server stops."""
        self._inbox.settle(entry, RELEASED)

    def statistics(self) -> ExecutionStatistics:
        return ExecutionStatistics(self._running, self._finished)

    def _perform(self, entry: Entry, seat: Seat) -> Outcome:
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
        seat.deadline = time.monotonic() + timeout_s
        try:
            return self._attempt(entry, ctx, *found)
        except HandlerTimeout:
            log.error("A handler ran longer than %g s and was stopped; %s is not tried again", timeout_s, _name(entry))
            return Outcome(State.TIMED_OUT, f"the handler ran longer than {timeout_s:g} s")
        finally:
            seat.deadline = NEVER

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
