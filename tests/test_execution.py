"""One entry's run: every way in which a handler can end is one outcome, settled once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import gevent
import pytest
from greenlet import GreenletExit

from gbot import Bot, Context, Event
from gbot.execution import NEVER, Execution, HandlerTimeout
from gbot.inbox import Entry, Outcome, State
from tests.rig import Ledger, Outbox, event, text_event, wait_until


class Seat:
    """A place to run in, which remembers the deadlines it was given."""

    def __init__(self) -> None:
        self.deadlines: list[float] = []
        self._deadline = NEVER

    @property
    def deadline(self) -> float:
        return self._deadline

    @deadline.setter
    def deadline(self, value: float) -> None:
        self._deadline = value
        self.deadlines.append(value)


class Bench:
    """An execution with one bot, and what came of its runs."""

    def __init__(self, bot: Bot, timeout_s: float = 0.0) -> None:
        self.inbox = Ledger(1000)
        self.outbox = Outbox()
        self.execution = Execution(bot, self.inbox, {"plain": self.outbox}, timeout_s)
        self.seat = Seat()

    def run(self, given: Event) -> Outcome:
        [entry] = self.inbox.put([given], body_bytes=1)
        outcome = self.execution.run(entry, self.seat)
        assert self.inbox.settled[-1] == (entry, outcome)
        assert self.execution.statistics().running == 0
        assert self.seat.deadline == NEVER
        return outcome


class Nasty(Exception):
    """An error that cannot even be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text for you")


def raising(error: BaseException | type[BaseException]) -> Bot:
    bot = Bot()

    @bot.default
    def handler(ctx: Context) -> None:
        raise error

    return bot


def test_a_handler_that_ends_is_done() -> None:
    bot = Bot()
    bot.default(lambda ctx: "whatever it returns")
    bench = Bench(bot)
    assert bench.run(text_event("x")) == Outcome(State.DONE)
    assert bench.execution.statistics().finished == 1


def test_an_event_that_no_handler_takes_is_unhandled() -> None:
    bot = Bot()
    bot.text("hello")(lambda ctx: None)
    assert Bench(bot).run(event("follow")).state is State.UNHANDLED


@pytest.mark.parametrize(
    "error",
    [
        ValueError("reason"),
        Nasty(),
        SystemExit(3),
        KeyboardInterrupt(),
        gevent.Timeout(5),
        gevent.Timeout,
        BaseException("bare"),
        RecursionError(),
        MemoryError(),
        StopIteration(),
        GeneratorExit(),
        ExceptionGroup("several", [ValueError(), TypeError()]),
    ],
    ids=repr,
)
def test_a_handler_that_raises_is_dead(
    error: BaseException | type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(raising(error))
    outcome = bench.run(text_event("do not log this"))
    expected = error.__name__ if isinstance(error, type) else type(error).__name__
    assert outcome == Outcome(State.DEAD, expected)
    assert "plain event 1 (message.text) is not tried again" in caplog.text
    assert "do not log this" not in caplog.text
    assert caplog.records[0].exc_info is not None


def test_endless_recursion_is_dead() -> None:
    bot = Bot()

    @bot.default
    def deeper(ctx: Context) -> None:
        deeper(ctx)

    assert Bench(bot).run(text_event("x")) == Outcome(State.DEAD, "RecursionError")


def test_a_handler_that_was_killed_is_released() -> None:
    assert Bench(raising(GreenletExit)).run(text_event("x")).state is State.RELEASED


def test_a_handler_that_was_timed_out_says_so(caplog: pytest.LogCaptureFixture) -> None:
    outcome = Bench(raising(HandlerTimeout), timeout_s=2.5).run(text_event("do not log this"))
    assert outcome == Outcome(State.TIMED_OUT, "the handler ran longer than its timeout")
    assert "plain event 1 (message.text) is not tried again" in caplog.text
    assert "do not log this" not in caplog.text


def test_an_event_is_named_by_its_own_id_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    Bench(raising(ValueError())).run(event("follow", id="01HXYZ"))
    assert "plain event 01HXYZ (follow)" in caplog.text


def test_an_error_in_choosing_the_handler_is_dead() -> None:
    class Broken(Bot):
        def find(self, event: Event) -> None:
            raise LookupError("no way to choose")

    assert Bench(Broken()).run(text_event("x")) == Outcome(State.DEAD, "LookupError")


def test_a_middleware_that_raises_is_as_a_handler_that_does() -> None:
    bot = Bot()
    bot.default(lambda ctx: None)

    @bot.middleware
    def broken(ctx: Context, call_next: Callable[[], object]) -> None:
        call_next()
        raise LookupError

    assert Bench(bot).run(text_event("x")) == Outcome(State.DEAD, "LookupError")


# ---- the author's error handler


def test_the_error_handler_is_told_and_may_answer() -> None:
    bot = raising(ValueError("reason"))

    @bot.error
    def tell(ctx: Context, error: BaseException) -> None:
        ctx.reply(f"sorry: {error}")

    bench = Bench(bot)
    assert bench.run(text_event("x")).state is State.DEAD
    assert bench.outbox.texts() == ["sorry: reason"]


@pytest.mark.parametrize("second", [KeyError("second"), SystemExit(1), gevent.Timeout(1)], ids=repr)
def test_an_error_handler_that_fails_hides_nothing(second: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    bot = raising(ValueError("first"))

    @bot.error
    def tell(ctx: Context, error: BaseException) -> None:
        raise second

    assert Bench(bot).run(text_event("x")) == Outcome(State.DEAD, "ValueError")
    assert [record.exc_info[1] for record in caplog.records if record.exc_info][1] is second
    assert "ValueError: first" in caplog.text


@pytest.mark.parametrize(
    ("second", "state"), [(GreenletExit(), State.RELEASED), (HandlerTimeout(), State.TIMED_OUT)], ids=repr
)
def test_an_error_handler_can_be_stopped_too(second: BaseException, state: State) -> None:
    bot = raising(ValueError("first"))

    @bot.error
    def tell(ctx: Context, error: BaseException) -> None:
        raise second

    assert Bench(bot, timeout_s=1).run(text_event("x")).state is state


@pytest.mark.parametrize(
    ("error", "state"), [(GreenletExit(), State.RELEASED), (HandlerTimeout(), State.TIMED_OUT)], ids=repr
)
def test_the_error_handler_is_not_told_of_a_stop(error: BaseException, state: State) -> None:
    bot = raising(error)
    told: list[BaseException] = []
    bot.error(lambda ctx, error: told.append(error))
    assert Bench(bot, timeout_s=1).run(text_event("x")).state is state
    assert told == []


# ---- deadlines


@pytest.mark.parametrize(("server_s", "handler_s", "expected_s"), [(60, None, 60), (60, 5, 5), (5, 60, 60), (0, 7, 7)])
def test_the_handlers_own_timeout_goes_before_the_servers(
    server_s: float, handler_s: float | None, expected_s: float
) -> None:
    bot = Bot()
    bot.text(timeout=handler_s)(lambda ctx: None)
    bench = Bench(bot, server_s)
    started = time.monotonic()
    bench.run(text_event("x"))
    first, last = bench.seat.deadlines
    assert started + expected_s <= first <= time.monotonic() + expected_s
    assert last == NEVER


def test_without_a_timeout_there_is_no_deadline() -> None:
    bot = Bot()
    bot.default(lambda ctx: None)
    bench = Bench(bot, 0)
    bench.run(text_event("x"))
    assert set(bench.seat.deadlines) <= {NEVER}


@pytest.mark.parametrize("error", [ValueError(), SystemExit(), GreenletExit(), HandlerTimeout()], ids=repr)
def test_the_deadline_is_lifted_however_the_run_ends(error: BaseException) -> None:
    bench = Bench(raising(error), timeout_s=9)
    bench.run(text_event("x"))
    assert len(bench.seat.deadlines) == 2
    assert bench.seat.deadline == NEVER


# ---- stops that come while a failure is being written down


class WaitingHandler(logging.Handler):
    """A log handler that waits, as one that writes to a socket does."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = False

    def emit(self, record: logging.LogRecord) -> None:
        self.waiting = True
        gevent.sleep(5)


@pytest.mark.parametrize(
    ("failure", "stop"),
    [(ValueError("reason"), GreenletExit), (ValueError("reason"), HandlerTimeout), (HandlerTimeout(), HandlerTimeout)],
    ids=["killed", "timed out", "timed out twice"],
)
def test_a_stop_while_a_failure_is_being_logged_loses_nothing(
    failure: BaseException, stop: type[BaseException]
) -> None:
    bench = Bench(raising(failure), timeout_s=60)
    [entry] = bench.inbox.put([text_event("x")], body_bytes=1)
    handler = WaitingHandler()
    logger = logging.getLogger("gbot.execution")
    logger.addHandler(handler)
    try:
        runner = gevent.spawn(_run_quietly, bench.execution, entry, bench.seat)
        wait_until(lambda: handler.waiting)
        runner.kill(stop)
    finally:
        logger.removeHandler(handler)
    assert len(bench.inbox.settled) == 1
    assert bench.execution.statistics().running == 0


def _run_quietly(execution: Execution, entry: Entry, seat: Seat) -> None:
    """Run, and keep what must not come out from being printed as well."""
    try:
        execution.run(entry, seat)
    except BaseException as escaped:
        logging.getLogger("tests").info("escaped: %r", escaped)


def test_release_settles_without_a_run() -> None:
    ran: list[str] = []
    bot = Bot()
    bot.default(lambda ctx: ran.append(ctx.text))
    bench = Bench(bot)
    [entry] = bench.inbox.put([text_event("x")], body_bytes=1)
    bench.execution.release(entry)
    assert ran == []
    assert [outcome.state for _, outcome in bench.inbox.settled] == [State.RELEASED]
    assert bench.inbox.statistics().held == 0
