"""One entry's life in its greenlet, as one pipeline::

    start ──▶ choose handler ──▶ run under the timeout ──▶ outcome ──▶ settle

Whatever a handler does, exactly one Outcome comes of it and is settled in one place. An error is logged here and goes
no further: the neighbours in the delivery never notice.

**Failing.** An error, a timeout, a handler that is killed and one that raises Retry are tried again after a growing
pause, ``attempts_max`` times in all; then the entry is dead and the author's error handler is told. Drop ends it at
once, and so does an error that no later attempt can mend, such as a reply of which nobody knows whether it arrived.
What a shutdown stops has not failed: it is released. An event whose API or database is away or busy is put off, which
is no attempt; one whose database broke under a statement has failed, for the statement may have been executed.

**Following.** A user who follows the bot is noted with its profile, one who leaves as gone; it is stored with the
outcome, whatever that is.

Timeouts cost a handler that does not wait one float: the execution writes down when its time is over, and the
dispatcher keeps watch over those that wait. HandlerTimeout is thrown into them where they wait; a handler that catches
it is told again at each following look, and one that never waits cannot be stopped.
"""

from __future__ import annotations

import logging
import os
import random
import sysconfig
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec
from greenlet import GreenletExit

from gbot.backoff import retry_delay_s
from gbot.bot import Bot, Route
from gbot.context import Context, Services
from gbot.counts import counted
from gbot.errors import DatabaseError, Drop, NotNow, Retry, SendError
from gbot.event import Event
from gbot.inbox import Entry, Inbox, Outcome, State
from gbot.users import COMING

log = logging.getLogger(__name__)

DONE = Outcome(State.DONE)
UNHANDLED = Outcome(State.UNHANDLED, "the bot has no handler for it")
RELEASED = Outcome(State.RELEASED, "the server stopped")

PACKAGE: Final = os.path.dirname(__file__) + os.sep
LIBRARIES: Final = tuple(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib"))
KILLED: Final = "the handler's greenlet was killed"
NEVER: Final = float("inf")

Internal = Callable[[Event, Services], None]
"""A handler of events that gbot makes itself; raises what handlers raise."""

NOTHING_INTERNAL: Final[Mapping[str, Internal]] = {}

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
    """``running`` is of this moment, the rest counts runs since the start; those timed out have failed as well, those
    put off have not. ``ran_s``: how many seconds the handlers that have ended took in all, waits included.
    """

    running: int
    finished: int
    failed: int
    timed_out: int
    put_off: int
    ran_s: float


class Execution:
    """Runs entries for one bot.

    ``services`` maps a platform's name to what its handlers may use, ``internal`` a kind of event that gbot makes
    itself to what it does about it. ``timeout_s`` is for handlers without one of their own; 0: none.
    """

    def __init__(
        self,
        bot: Bot,
        inbox: Inbox,
        services: Mapping[str, Services],
        timeout_s: float,
        attempts_max: int = 5,
        delay: Delay = lambda failures: retry_delay_s(failures, random.random()),
        internal: Mapping[str, Internal] = NOTHING_INTERNAL,
    ) -> None:
        self._bot = bot
        self._inbox = inbox
        self._services = services
        self._internal = internal
        self._timeout_s = timeout_s or NEVER
        self._attempts_max = attempts_max
        self._delay = delay
        self._running = 0
        self._finished = 0
        self._failed = 0
        self._timed_out = 0
        self._put_off = 0
        self._ran_s = 0.0
        self.stopping = False  # from then on, a handler that is killed has not failed

    def run(self, entry: Entry, seat: Seat) -> Outcome:
        """Run one entry to its end, in the current greenlet, whose seat this is. Raises nothing."""
        self._running += 1
        stray: BaseException | None = None
        try:
            outcome = self._noting(entry, seat) if entry.event.kind in COMING else self._attempt(entry, seat)
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
        return ExecutionStatistics(
            self._running, self._finished, self._failed, self._timed_out, self._put_off, self._ran_s
        )

    def _noting(self, entry: Entry, seat: Seat) -> Outcome:
        """One attempt; with it is stored whether the user is there, whatever becomes of the event."""
        services = self._services.get(entry.event.platform)
        noted = services.users.note(entry.event, entry.received_ms) if services is not None else None
        outcome = self._attempt(entry, seat)
        if noted is None:
            return outcome
        # Last for who has gone: that is kept when the handler forgets the user, or pushes would be sent to nobody.
        changes = (*outcome.changes, noted) if noted.gone else (noted, *outcome.changes)
        return msgspec.structs.replace(outcome, changes=changes)

    def _attempt(self, entry: Entry, seat: Seat) -> Outcome:
        """Choose the handler and run it under its timeout; every way out of it becomes one outcome."""
        event = entry.event
        services = self._services.get(event.platform)
        if services is None:
            return self._failure(entry, f"the platform {event.platform} is not served")
        ctx = Context(event, services, entry.attempts + 1, entry.received_ms, entry.again)
        route: Route | None = None
        began = time.monotonic()
        try:
            internal = self._internal.get(event.kind)
            if internal is not None:
                return self._run_internal(internal, event, services, seat)
            found = self._bot.find(event)
            if found is None:
                return self._without_handler(ctx, seat)
            route, groups = found
            seat.timeout_s = timeout_s = route.timeout_s or self._timeout_s
            seat.deadline = began + timeout_s
            self._bot.call(ctx, route, groups)
            changes = ctx.finish()
            return Outcome(State.DONE, changes=changes) if changes else DONE
        except Drop as verdict:
            log.info("Dropped %s: %s", _name(entry), verdict)
            return Outcome(State.DROPPED, str(verdict))
        except Retry as verdict:
            return self._asked_again(entry, ctx, seat, verdict)
        except NotNow as trouble:
            return self._not_now(entry, trouble)
        except HandlerTimeout as stop:
            self._timed_out += 1
            return self._failure(entry, _timeout_text(seat, route, stop))
        except GreenletExit:
            return self._killed(entry, seat)
        except BaseException as error:  # also SystemExit and gevent's Timeout: a handler must not end the server
            return self._failure_of(entry, ctx, seat, error)
        finally:
            seat.deadline = NEVER
            self._ran_s += time.monotonic() - began

    def _run_internal(self, internal: Internal, event: Event, services: Services, seat: Seat) -> Outcome:
        """Without the middleware: that is the author's, for the author's handlers."""
        self._start_clock(seat)
        internal(event, services)
        return DONE

    def _without_handler(self, ctx: Context, seat: Seat) -> Outcome:
        """Somebody who follows the bot is learnt of all the same."""
        self._start_clock(seat)
        ctx.finish()
        return UNHANDLED

    def _start_clock(self, seat: Seat) -> None:
        seat.timeout_s = self._timeout_s
        seat.deadline = time.monotonic() + self._timeout_s

    def _not_now(self, entry: Entry, trouble: NotNow) -> Outcome:
        """What is away says so itself when it goes and comes back: not for each event that waits for it."""
        self._put_off += 1
        log.debug("%s is put off for %.1f s: %s", _name(entry), trouble.after_s, trouble)
        after_s = trouble.after_s * (1 + random.random())  # not all of them at once
        return Outcome(State.RETRY, str(trouble), after_s, counted=False)

    # Ways to fail.

    def _again_or_dead(self, entry: Entry, error: str, after_s: float | None = None, final: bool = False) -> Outcome:
        failures = entry.attempts + 1
        if final or failures >= self._attempts_max:
            return Outcome(State.DEAD, error)
        return Outcome(State.RETRY, error, self._delay(failures) if after_s is None else after_s)

    def _failure(self, entry: Entry, text: str, traced: BaseException | None = None, final: bool = False) -> Outcome:
        """Count it and log what becomes of the entry; with the traceback of ``traced``, or else with the text."""
        self._failed += 1
        outcome = self._again_or_dead(entry, text, final=final)
        what = text if traced is None else "a handler failed"
        log.error("%s: %s; %s", _name(entry), what, self._consequence(entry, outcome), exc_info=traced)
        return outcome

    def _failure_of(self, entry: Entry, ctx: Context, seat: Seat, error: BaseException) -> Outcome:
        if isinstance(error, SendError | DatabaseError):
            final = isinstance(error, SendError) and error.final
            outcome = self._failure(entry, _authors_line(error), final=final)
        else:
            outcome = self._failure(entry, "".join(traceback.format_exception(error)), error)
        if outcome.state is State.DEAD:
            self._tell_author(entry, ctx, seat, error)
        return outcome

    def _asked_again(self, entry: Entry, ctx: Context, seat: Seat, verdict: Retry) -> Outcome:
        outcome = self._again_or_dead(entry, f"Retry: {verdict}", verdict.after_s)
        level = logging.ERROR if outcome.state is State.DEAD else logging.INFO
        log.log(level, "%s: %s; %s", _name(entry), verdict, self._consequence(entry, outcome))
        if outcome.state is State.DEAD:
            self._tell_author(entry, ctx, seat, verdict)
        return outcome

    def _killed(self, entry: Entry, seat: Seat) -> Outcome:
        """By the end of a stop, which is no failure, or by the author's code."""
        seat.killed = True
        return RELEASED if self.stopping else self._failure(entry, KILLED)

    def _tell_author(self, entry: Entry, ctx: Context, seat: Seat, error: BaseException) -> None:
        """Call the author's error handler: an event is given up. It has what is left of the handler's time."""
        try:
            ctx.give_up_replies()
            self._bot.call_error_handler(ctx, error)
            ctx.flush()
        except (HandlerTimeout, GreenletExit) as stop:
            seat.killed = isinstance(stop, GreenletExit)
            log.error("The bot's error handler was stopped on %s", _name(entry))
        except BaseException as second:
            log.error("The bot's error handler failed on %s", _name(entry), exc_info=second)

    def _consequence(self, entry: Entry, outcome: Outcome) -> str:
        if outcome.state is State.RETRY:
            attempts = f"attempt {entry.attempts + 2} of {self._attempts_max}"
            return f"the event is tried again in {outcome.after_s:.1f} s ({attempts})"
        kept = f"kept as dead entry {entry.number}" if self._inbox.keeps else "given up"
        return f"the event is {kept} after {counted(entry.attempts + 1, 'attempt')}"


def _authors_line(error: SendError | DatabaseError) -> str:
    """Which line of the author's has failed, and why: of a traceback, all others would be gbot's own."""
    return f"{_authors_place(error) or 'the reply'} failed with {type(error).__name__}: {error}"


def _authors_place(error: BaseException) -> str:
    """The line of the author's that an error came through: not what it called. Empty if there is none."""
    lines = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    authors = [(file, line) for file, line in lines if not file.startswith(PACKAGE)]
    own = [  # compiled libraries have paths that are relative to where they were built
        (file, line) for file, line in authors if os.path.isabs(file) and not file.startswith(LIBRARIES)
    ]
    found = own or authors[:1]  # in a bot that is installed as a library: where gbot has called it
    if not found:
        return ""
    file, line = found[-1]
    return f"line {line} of {file}"


def _timeout_text(seat: Seat, route: Route | None = None, stop: BaseException | None = None) -> str:
    """With the name of the handler, and where it stood, as far as they are known."""
    name = place = ""
    if route is not None:
        handler = route.handler
        name = f" {handler.__module__}:{getattr(handler, '__qualname__', type(handler).__name__)}"
    if stop is not None:
        place = _authors_place(stop)
    text = f"the handler{name} ran longer than its timeout of {seat.timeout_s:g} s"
    return f"{text} (in {place})" if place else text


def _name(entry: Entry) -> str:
    """An entry as a log line names it: nothing of what a user wrote."""
    event = entry.event
    return f"{event.platform} event {event.id or entry.number} ({event.kind})"
