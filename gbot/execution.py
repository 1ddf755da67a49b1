"""One entry's life in its greenlet, as one pipeline::

    start ──▶ choose handler ──▶ run under the timeout ──▶ outcome ──▶ settle

Whatever a handler does, exactly one Outcome comes of it and is settled in one place. An error is logged here, told to
the author's error handler, and goes no further: the neighbours in the delivery never notice.

Timeouts cost a handler that does not wait one float: the execution writes down when its time is over, and the
dispatcher keeps watch over those that wait. HandlerTimeout is thrown into them where they wait; a handler that catches
it is told again at each following look, and one that never waits cannot be stopped.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from greenlet import GreenletExit

from gbot.bot import Bot, Context, Sender
from gbot.inbox import Entry, Inbox, Outcome, State

log = logging.getLogger(__name__)

DONE = Outcome(State.DONE)
UNHANDLED = Outcome(State.UNHANDLED, "the bot has no handler for it")
TIMED_OUT = Outcome(State.TIMED_OUT, "the handler ran longer than its timeout")
RELEASED = Outcome(State.RELEASED, "the server stopped")

NEVER: Final = float("inf")


class HandlerTimeout(BaseException):
    """Thrown into a handler that has run too long. Not an Exception, so that ``except Exception`` lets it through."""


class Seat(Protocol):
    """Where one handler at a time runs: the greenlet, as far as an execution has to know it."""

    timeout_s: float
    """How long the handler that runs may take, or the one that ran last."""

    deadline: float
    """When the handler's time is over, by the monotonic clock in seconds; NEVER between two handlers."""


@dataclass(frozen=True, slots=True)
class ExecutionStatistics:
    """``running`` is of this moment; ``finished`` counts runs since the start."""

    running: int
    finished: int


class Execution:
    """Runs entries for one bot.

    ``senders`` maps a platform's name to its way out. ``timeout_s`` is for handlers without one of their own; 0: none.
    """

    def __init__(self, bot: Bot, inbox: Inbox, senders: Mapping[str, Sender], timeout_s: float) -> None:
        self._bot = bot
        self._inbox = inbox
        self._senders = senders
        self._timeout_s = timeout_s or NEVER
        self._running = 0
        self._finished = 0

    def run(self, entry: Entry, seat: Seat) -> Outcome:
        """Run one entry to its end, in the current greenlet, whose seat this is. Raises nothing."""
        self._running += 1
        try:
            outcome = self._attempt(entry, seat)
        except HandlerTimeout:  # this and what follows: came while a failure was being logged
            outcome = TIMED_OUT
        except GreenletExit:
            outcome = RELEASED
        except BaseException as error:
            outcome = Outcome(State.DEAD, type(error).__name__)
        self._running -= 1
        self._finished += 1
        self._inbox.settle(entry, outcome)
        return outcome

    def release(self, entry: Entry) -> None:
        """Settle an entry that will not be run, because the server stops."""
        self._inbox.settle(entry, RELEASED)

    def statistics(self) -> ExecutionStatistics:
        return ExecutionStatistics(self._running, self._finished)

    def _attempt(self, entry: Entry, seat: Seat) -> Outcome:
        """Choose the handler and run it under its timeout; every way out of it becomes one outcome."""
        event = entry.event
        ctx = Context(event, self._senders[event.platform])
        try:
            found = self._bot.find(event)
            if found is None:
                return UNHANDLED
            route, groups = found
            seat.timeout_s = route.timeout_s or self._timeout_s
            seat.deadline = time.monotonic() + seat.timeout_s
            self._bot.call(ctx, route, groups)
            return DONE
        except HandlerTimeout:
            return self._timed_out(entry)
        except GreenletExit:
            return RELEASED
        except BaseException as error:  # also SystemExit and gevent's Timeout: a handler must not end the server
            return self._failed(entry, ctx, error)
        finally:
            seat.deadline = NEVER

    def _timed_out(self, entry: Entry) -> Outcome:
        log.error("A handler ran longer than its timeout and was stopped; %s is not tried again", _name(entry))
        return TIMED_OUT

    def _failed(self, entry: Entry, ctx: Context, error: BaseException) -> Outcome:
        """Log it and tell the author's error handler, which has what is left of the handler's time."""
        log.error("A handler failed; %s is not tried again", _name(entry), exc_info=error)
        try:
            self._bot.call_error_handler(ctx, error)
        except HandlerTimeout:
            return self._timed_out(entry)
        except GreenletExit:
            return RELEASED
        except BaseException as second:
            log.error("The bot's error handler failed on %s", _name(entry), exc_info=second)
        return Outcome(State.DEAD, type(error).__name__)


def _name(entry: Entry) -> str:
    """An entry as a log line names it: nothing of what a user wrote."""
    event = entry.event
    return f"{event.platform} event {event.id or entry.number} ({event.kind})"
