"""One entry's life in its greenlet, as one pipeline::

    start ──▶ choose handler ──▶ run under the timeout ──▶ outcome ──▶ settle

Whatever a handler does, exactly one Outcome comes of it and is settled in one place. An error is logged here and goes
no further: the neighbours in the delivery never notice.

**Failing.** An error, a timeout, a handler that is killed and one that raises Retry are tried again after a growing
pause, ``attempts_max`` times in all; then the entry is dead and the author's error handler is told. Drop ends it at
once. What a shutdown stops has not failed: it is released.

Timeouts cost a handler that does not wait one float: the execution writes down when its time is over, and the
dispatcher keeps watch over those that wait. HandlerTimeout is thrown into them where they wait; a handler that catches
it is told again at each following look, and one that never waits cannot be stopped.
"""

from __future__ import annotations

import logging
import random
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from greenlet import GreenletExit

from gbot.backoff import retry_delay_s
from gbot.bot import Bot, Context, Sender
from gbot.errors import Drop, Retry
from gbot.inbox import Entry, Inbox, Outcome, State

log = logging.getLogger(__name__)

DONE = Outcome(State.DONE)
UNHANDLED = Outcome(State.UNHANDLED, "the bot has no handler for it")
RELEASED = Outcome(State.RELEASED, "the server stopped")

KILLED: Final = "the handler's greenlet was killed"
NEVER: Final = float("inf")

Delay = Callable[[int], float]
"""Takes how often an entry has failed, returns the seconds until it is tried again."""


class HandlerTimeout(BaseException):
    """Thrown into a handler that has run too long. Not an Exception, so that ``except Exception`` lets it through."""


class Seat(Protocol):
    """Where one handler at a time runs: the greenlet, as far as an execution has to know it."""

    timeout_s: float
    """How long the handler that runs may take, or the one that ran last."""

    deadline: float
    """When the handler's time is over, by the monotonic clock in seconds; NEVER between two handlers."""

    killed: bool
    """Whether the greenlet was told to end: no other entry may use it."""


@dataclass(frozen=True, slots=True)
class ExecutionStatistics:
    """``running`` is of this moment, the rest counts runs since the start; those timed out have failed as well."""

    running: int
    finished: int
    failed: int
    timed_out: int


class Execution:
    """Runs entries for one bot.

    ``senders`` maps a platform's name to its way out. ``timeout_s`` is for handlers without one of their own; 0: none.
    """

    def __init__(
        self,
        bot: Bot,
        inbox: Inbox,
        senders: Mapping[str, Sender],
        timeout_s: float,
        attempts_max: int = 5,
        delay: Delay = lambda failures: retry_delay_s(failures, random.random()),
    ) -> None:
        self._bot = bot
        self._inbox = inbox
        self._senders = senders
        self._timeout_s = timeout_s or NEVER
        self._attempts_max = attempts_max
        self._delay = delay
        self._running = 0
        self._finished = 0
        self._failed = 0
        self._timed_out = 0
        self.stopping = False  # from then on, a handler that is killed has not failed

    def run(self, entry: Entry, seat: Seat) -> Outcome:
        """Run one entry to its end, in the current greenlet, whose seat this is. Raises nothing."""
        self._running += 1
        stray: BaseException | None = None
        try:
            outcome = self._attempt(entry, seat)
        except HandlerTimeout:  # this and what follows: came while a failure that is counted was being logged
            outcome = self._again_or_dead(entry, _timeout_text(seat))
        except GreenletExit:
            seat.killed = True
            outcome = RELEASED if self.stopping else self._again_or_dead(entry, KILLED)
        except BaseException as error:
            stray = error
            self._failed += 1
            outcome = self._again_or_dead(entry, "".join(traceback.format_exception(error)))
        self._running -= 1
        self._finished += 1
        self._inbox.settle(entry, outcome)
        if stray is not None:
            log.error("%s could not be run", _name(entry), exc_info=stray)
        return outcome

    def release(self, entry: Entry) -> None:
        """Settle an entry that will not be run now."""
        self._inbox.settle(entry, RELEASED)

    def statistics(self) -> ExecutionStatistics:
        return ExecutionStatistics(self._running, self._finished, self._failed, self._timed_out)

    def _attempt(self, entry: Entry, seat: Seat) -> Outcome:
        """Choose the handler and run it under its timeout; every way out of it becomes one outcome."""
        event = entry.event
        sender = self._senders.get(event.platform)
        if sender is None:
            return self._failure(entry, f"the platform {event.platform} is not served", None)
        ctx = Context(event, sender, entry.attempts + 1, entry.received_ms)
        try:
            found = self._bot.find(event)
            if found is None:
                return UNHANDLED
            route, groups = found
            seat.timeout_s = route.timeout_s or self._timeout_s
            seat.deadline = time.monotonic() + seat.timeout_s
            self._bot.call(ctx, route, groups)
            return DONE
        except Drop as verdict:
            log.info("Dropped %s: %s", _name(entry), verdict)
            return Outcome(State.DROPPED, str(verdict))
        except Retry as verdict:
            return self._asked_again(entry, ctx, seat, verdict)
        except HandlerTimeout:
            self._timed_out += 1
            return self._failure(entry, _timeout_text(seat), None)
        except GreenletExit:
            return self._killed(entry, seat)
        except BaseException as error:  # also SystemExit and gevent's Timeout: a handler must not end the server
            return self._failure_of(entry, ctx, seat, error)
        finally:
            seat.deadline = NEVER

    # Ways to fail.

    def _again_or_dead(self, entry: Entry, error: str, after_s: float | None = None) -> Outcome:
        failures = entry.attempts + 1
        if failures >= self._attempts_max:
            return Outcome(State.DEAD, error)
        return Outcome(State.RETRY, error, self._delay(failures) if after_s is None else after_s)

    def _failure(self, entry: Entry, text: str, error: BaseException | None) -> Outcome:
        """Count it and log what becomes of the entry."""
        self._failed += 1
        outcome = self._again_or_dead(entry, text)
        what = text if error is None else "a handler failed"
        log.error("%s: %s %s", _name(entry), what, self._consequence(entry, outcome), exc_info=error)
        return outcome

    def _failure_of(self, entry: Entry, ctx: Context, seat: Seat, error: BaseException) -> Outcome:
        outcome = self._failure(entry, "".join(traceback.format_exception(error)), error)
        if outcome.state is State.DEAD:
            self._tell_author(entry, ctx, seat, error)
        return outcome

    def _asked_again(self, entry: Entry, ctx: Context, seat: Seat, verdict: Retry) -> Outcome:
        outcome = self._again_or_dead(entry, f"Retry: {verdict}", verdict.after_s)
        level = logging.ERROR if outcome.state is State.DEAD else logging.INFO
        log.log(level, "%s: %s %s", _name(entry), verdict, self._consequence(entry, outcome))
        if outcome.state is State.DEAD:
            self._tell_author(entry, ctx, seat, verdict)
        return outcome

    def _killed(self, entry: Entry, seat: Seat) -> Outcome:
        """By the end of a stop, which is no failure, or by the author's code."""
        seat.killed = True
        return RELEASED if self.stopping else self._failure(entry, KILLED, None)

    def _tell_author(self, entry: Entry, ctx: Context, seat: Seat, error: BaseException) -> None:
        """Call the author's error handler: an event is given up. It has what is left of the handler's time."""
        try:
            self._bot.call_error_handler(ctx, error)
        except (HandlerTimeout, GreenletExit) as stop:
            seat.killed = isinstance(stop, GreenletExit)
            log.error("The bot's error handler was stopped on %s", _name(entry))
        except BaseException as second:
            log.error("The bot's error handler failed on %s", _name(entry), exc_info=second)

    def _consequence(self, entry: Entry, outcome: Outcome) -> str:
        if outcome.state is State.RETRY:
            attempts = f"attempt {entry.attempts + 2} of {self._attempts_max}"
            return f"and is tried again in {outcome.after_s:.1f} s ({attempts})"
        kept = f"kept as dead entry {entry.number}" if self._inbox.keeps else "given up"
        return f"and was {kept} after {entry.attempts + 1} attempt(s)"


def _timeout_text(seat: Seat) -> str:
    return f"the handler ran longer than its timeout of {seat.timeout_s:g} s"


def _name(entry: Entry) -> str:
    """An entry as a log line names it: nothing of what a user wrote."""
    event = entry.event
    return f"{event.platform} event {event.id or entry.number} ({event.kind})"
