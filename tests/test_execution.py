"""One entry's run: every way in which a handler can end is one outcome, settled once."""

from __future__ import annotations

import logging
import sysconfig
import time
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

import gevent
import msgspec
import pytest
from gevent.event import AsyncResult
from greenlet import GreenletExit

from gbot import Bot, Context, Event
from gbot.context import Services
from gbot.directory import StateChange, UserForgotten, UserGone
from gbot.errors import (
    RETRY_AFTER_MAX_S,
    ApiDown,
    ApiUnavailable,
    DatabaseAway,
    DatabaseBusy,
    DatabaseDown,
    DatabaseError,
    Deadlock,
    DirectoryUnavailable,
    Drop,
    DuplicateKey,
    LaneBusy,
    NotNow,
    ReplyTokenExpired,
    ResultUnknown,
    Retry,
    SendError,
)
from gbot.execution import NEVER, NOTHING_INTERNAL, Delay, Execution, HandlerTimeout, Internal
from gbot.inbox import Entry, Outcome, State
from gbot.user import Profile
from tests.conftest import MakeRig
from tests.rig import Ledger, Outbox, event, services, text_event, wait_until


class Seat:
    """A place to run in, which remembers the deadlines it was given."""

    def __init__(self) -> None:
        self.deadlines: list[float] = []
        self.timeout_s = NEVER
        self.killed = False
        self._deadline = NEVER

    @property
    def deadline(self) -> float:
        return self._deadline

    @deadline.setter
    def deadline(self, value: float) -> None:
        self._deadline = value
        self.deadlines.append(value)


class Keeper(Ledger):
    """A ledger that says of itself what an inbox on disk says."""

    keeps = True


class Bench:
    """An execution with one bot, and what came of its runs. Its inbox hands nothing on by itself."""

    def __init__(
        self,
        bot: Bot,
        timeout_s: float = 0.0,
        attempts_max: int = 1,
        delay: Delay = lambda failures: 100.0 * failures,
        inbox: Ledger | None = None,
        internal: Mapping[str, Internal] = NOTHING_INTERNAL,
    ) -> None:
        self.inbox = inbox or Ledger(1000)
        self.entries: list[Entry] = []
        self.inbox.start(self.entries.extend, lambda: 1000, lambda: ())
        self.outbox = Outbox()
        self.services = services(self.outbox, self.inbox.directory)
        self.execution = Execution(bot, self.inbox, {"plain": self.services}, timeout_s, attempts_max, delay, internal)
        self.seat = Seat()

    def put(self, given: Event, failures: int = 0) -> Entry:
        """An entry of this event, as it is handed out after so many failed runs."""
        self.inbox.put([given], body_bytes=1)
        return msgspec.structs.replace(self.entries[-1], attempts=failures)

    def run(self, given: Event, failures: int = 0) -> Outcome:
        entry = self.put(given, failures)
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


FAILURES = [
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
]


def name_of(error: BaseException | type[BaseException]) -> str:
    return error.__name__ if isinstance(error, type) else type(error).__name__


@pytest.mark.parametrize("error", FAILURES, ids=repr)
def test_a_handler_that_raises_is_tried_again(
    error: BaseException | type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(raising(error), attempts_max=3)
    outcome = bench.run(text_event("do not log this"))
    assert (outcome.state, outcome.after_s) == (State.RETRY, 100.0)
    assert "Traceback (most recent call last):" in outcome.error
    assert name_of(error) in outcome.error
    [record] = caplog.records
    message = "plain event 1 (message.text): a handler failed; the event is tried again in 100.0 s (attempt 2 of 3)"
    assert (record.levelname, record.getMessage()) == ("ERROR", message)
    assert record.exc_info is not None
    assert "do not log this" not in caplog.text


@pytest.mark.parametrize("error", FAILURES, ids=repr)
def test_a_handler_that_raises_in_its_last_attempt_is_dead(
    error: BaseException | type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(raising(error), attempts_max=3)
    outcome = bench.run(text_event("do not log this"), failures=2)
    assert (outcome.state, outcome.after_s) == (State.DEAD, 0.0)
    assert "Traceback (most recent call last):" in outcome.error
    assert name_of(error) in outcome.error
    [record] = caplog.records
    message = "plain event 1 (message.text): a handler failed; the event is given up after 3 attempts"
    assert (record.levelname, record.getMessage()) == ("ERROR", message)
    assert "do not log this" not in caplog.text


def test_an_inbox_that_keeps_dead_entries_is_named_with_their_number(caplog: pytest.LogCaptureFixture) -> None:
    assert Bench(raising(ValueError()), inbox=Keeper(10)).run(text_event("x")).state is State.DEAD
    assert "a handler failed; the event is kept as dead entry 1 after 1 attempt" in caplog.text


def test_the_pause_grows_with_the_failures() -> None:
    bench = Bench(raising(ValueError()), attempts_max=5)
    outcomes = [bench.run(text_event("x"), failures) for failures in range(5)]
    assert [outcome.after_s for outcome in outcomes] == [100.0, 200.0, 300.0, 400.0, 0.0]
    assert [outcome.state for outcome in outcomes] == [State.RETRY] * 4 + [State.DEAD]


def test_the_pause_grows_by_default_as_well() -> None:
    bench = Bench(raising(ValueError()))
    execution = Execution(raising(ValueError()), bench.inbox, {"plain": bench.services}, 0)
    outcomes = [execution.run(bench.put(text_event("x"), failures), bench.seat) for failures in range(5)]
    pauses = [outcome.after_s for outcome in outcomes[:4]]
    assert pauses == sorted(set(pauses))
    assert [outcome.state for outcome in outcomes] == [State.RETRY] * 4 + [State.DEAD]


def test_an_entry_that_has_failed_more_often_than_is_now_allowed_is_dead() -> None:
    assert Bench(raising(ValueError()), attempts_max=2).run(text_event("x"), failures=7).state is State.DEAD


def test_endless_recursion_is_a_failure() -> None:
    bot = Bot()

    @bot.default
    def deeper(ctx: Context) -> None:
        deeper(ctx)

    outcome = Bench(bot).run(text_event("x"))
    assert outcome.state is State.DEAD
    assert "RecursionError" in outcome.error


def test_a_handler_knows_which_attempt_it_is_and_how_old_its_event() -> None:
    seen: list[tuple[int, float]] = []
    bot = Bot()
    bot.default(lambda ctx: seen.append((ctx.attempt, ctx.age_s)))
    bench = Bench(bot)
    bench.run(text_event("x"))
    entry = bench.put(text_event("y"), failures=3)
    an_hour_ago = msgspec.structs.replace(entry, received_ms=entry.received_ms - 3_600_000)
    bench.execution.run(an_hour_ago, bench.seat)
    [(first, young), (fourth, old)] = seen
    assert (first, fourth) == (1, 4)
    assert 0 <= young < 60
    assert 3600 <= old < 3660


# ---- what a handler asks for


def test_retry_runs_it_again_after_the_time_it_asks_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bench = Bench(raising(Retry("not ready yet", after=7.5)), attempts_max=3)
    outcome = bench.run(text_event("do not log this"))
    assert outcome == Outcome(State.RETRY, "Retry: not ready yet", 7.5)
    [record] = caplog.records
    message = "plain event 1 (message.text): not ready yet; the event is tried again in 7.5 s (attempt 2 of 3)"
    assert (record.levelname, record.getMessage()) == ("INFO", message)
    assert bench.execution.statistics().failed == 0


def test_retry_without_a_time_gets_the_growing_pause() -> None:
    bench = Bench(raising(Retry()), attempts_max=5)
    assert [bench.run(text_event("x"), failures).after_s for failures in (0, 3)] == [100.0, 400.0]


def test_retry_at_once_is_allowed() -> None:
    assert Bench(raising(Retry(after=0)), attempts_max=2).run(text_event("x")).after_s == 0


def test_retry_in_the_last_attempt_is_dead_and_an_error(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(raising(Retry("not ready yet", after=7.5)), attempts_max=2)
    assert bench.run(text_event("x"), failures=1) == Outcome(State.DEAD, "Retry: not ready yet")
    [record] = caplog.records
    assert record.levelname == "ERROR"
    assert record.getMessage() == "plain event 1 (message.text): not ready yet; the event is given up after 2 attempts"


@pytest.mark.parametrize("after", [-1, -0.001, float("nan"), float("inf"), RETRY_AFTER_MAX_S])
def test_retry_refuses_a_time_that_cannot_be(after: float) -> None:
    with pytest.raises(ValueError, match=r"Retry\(after=…\): expected seconds from 0"):
        Retry(after=after)


def test_drop_ends_it_at_once_and_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bench = Bench(raising(Drop("the group is gone")), attempts_max=5)
    assert bench.run(text_event("do not log this")) == Outcome(State.DROPPED, "the group is gone")
    [record] = caplog.records
    message = "Dropped plain event 1 (message.text): the group is gone"
    assert (record.levelname, record.getMessage()) == ("INFO", message)
    statistics = bench.execution.statistics()
    assert (statistics.failed, statistics.timed_out, statistics.finished) == (0, 0, 1)


def test_the_seconds_that_handlers_took_are_told_with_their_waits_and_failures() -> None:
    bot, took = Bot(), []

    @bot.default
    def fails_late(ctx: Context) -> None:
        began = time.monotonic()
        gevent.sleep(0.02)
        took.append(time.monotonic() - began)
        raise ValueError

    bench = Bench(bot)
    began = time.monotonic()
    for _ in range(2):
        bench.run(text_event("x"))
    assert len(took) == 2
    assert sum(took) <= bench.execution.statistics().ran_s <= time.monotonic() - began


# ---- stops


def test_a_handler_that_was_killed_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(raising(GreenletExit), attempts_max=2)
    assert bench.run(text_event("x")) == Outcome(State.RETRY, "the handler's greenlet was killed", 100.0)
    assert bench.seat.killed
    assert "the handler's greenlet was killed; the event is tried again in 100.0 s (attempt 2 of 2)" in caplog.text
    assert bench.run(text_event("x"), failures=1).state is State.DEAD


def test_a_handler_that_is_killed_while_the_server_stops_is_released(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(raising(GreenletExit), attempts_max=2)
    bench.execution.stopping = True
    assert bench.run(text_event("x")).state is State.RELEASED
    assert bench.seat.killed
    assert caplog.records == []
    assert bench.execution.statistics().failed == 0


def test_a_handler_that_was_timed_out_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(raising(HandlerTimeout), timeout_s=2.5, attempts_max=2)
    name = f"{raising.__module__}:raising.<locals>.handler"
    line = raising.__code__.co_firstlineno + 5
    text = f"the handler {name} ran longer than its timeout of 2.5 s (in line {line} of {__file__})"
    assert bench.run(text_event("do not log this")) == Outcome(State.RETRY, text, 100.0)
    assert f"plain event 1 (message.text): {text}; the event is tried again in 100.0 s (attempt 2 of 2)" in caplog.text
    assert bench.run(text_event("do not log this"), failures=1) == Outcome(State.DEAD, text)
    assert "do not log this" not in caplog.text
    statistics = bench.execution.statistics()
    assert (statistics.failed, statistics.timed_out) == (2, 2)
    assert not bench.seat.killed


def test_a_timeout_names_the_line_of_the_author_and_not_of_the_library_that_waits(
    make_rig: MakeRig, caplog: pytest.LogCaptureFixture
) -> None:
    bot = Bot()
    never: AsyncResult[None] = AsyncResult()

    @bot.default
    def handler(ctx: Context) -> None:
        never.get()

    assert make_rig(bot, timeout_s=0.05).settle_all("x") == {"x": State.DEAD}
    line = handler.__code__.co_firstlineno + 2
    assert f"handler ran longer than its timeout of 0.05 s (in line {line} of {__file__}); the event is" in caplog.text


def test_a_timeout_in_a_bot_that_is_installed_as_a_library_names_where_it_was_called() -> None:
    file = f"{sysconfig.get_path('purelib')}/installed.py"
    names: dict[str, Any] = {"__name__": "installed", "HandlerTimeout": HandlerTimeout}
    exec(compile("def stop():\n    raise HandlerTimeout\ndef handler(ctx):\n    stop()\n", file, "exec"), names)
    bot = Bot()
    bot.default(names["handler"])
    text = f"the handler installed:handler ran longer than its timeout of 2 s (in line 4 of {file})"
    assert Bench(bot, timeout_s=2).run(text_event("x")) == Outcome(State.DEAD, text)


def test_an_event_is_named_by_its_own_id_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    Bench(raising(ValueError())).run(event("follow", id="01HXYZ"))
    assert "plain event 01HXYZ (follow)" in caplog.text


def test_an_error_in_choosing_the_handler_is_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Bot):
        def find(self, event: Event) -> None:
            raise LookupError("no way to choose")

    outcome = Bench(Broken(), attempts_max=2).run(text_event("x"))
    assert outcome.state is State.RETRY
    assert "no way to choose" in outcome.error
    assert "a handler failed; the event is tried again" in caplog.text


def test_an_event_of_a_platform_that_is_no_longer_served_is_a_failure_that_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A durable inbox may hold some after the platforms were changed."""
    bot = Bot()
    bot.default(lambda ctx: None)
    outcome = Bench(bot, attempts_max=2).run(Event(platform="line", kind="follow", raw={}))
    assert outcome.state is State.RETRY
    assert "line" in outcome.error
    assert "UnboundLocalError" not in outcome.error
    assert "line event 1 (follow)" in caplog.text


def test_a_middleware_that_raises_is_as_a_handler_that_does() -> None:
    bot = Bot()
    bot.default(lambda ctx: None)

    @bot.middleware
    def broken(ctx: Context, call_next: Callable[[], object]) -> None:
        call_next()
        raise LookupError

    outcome = Bench(bot).run(text_event("x"))
    assert outcome.state is State.DEAD
    assert "LookupError" in outcome.error


@pytest.mark.parametrize("after", [2, True, Decimal("2.5"), Fraction(1, 3)], ids=repr)
def test_a_pause_may_be_any_number(after: float) -> None:
    after_s = Retry(after=after).after_s
    assert type(after_s) is float
    assert after_s == float(after)


# ---- what is away for the moment

NOT_NOW = [kind("?", 5.0) for kind in (DirectoryUnavailable, LaneBusy, ApiDown, DatabaseAway, DatabaseBusy)]


@pytest.mark.parametrize("trouble", NOT_NOW, ids=repr)
@pytest.mark.parametrize("failures", [0, 1, 7])
def test_an_event_whose_api_or_database_is_away_is_put_off_however_often(
    trouble: NotNow, failures: int, caplog: pytest.LogCaptureFixture
) -> None:
    bot = raising(trouble)
    told: list[BaseException] = []
    bot.error(lambda ctx, error: told.append(error))
    bench = Bench(bot, attempts_max=2)
    outcome = bench.run(text_event("x"), failures)
    assert (outcome.state, outcome.counted, outcome.error) == (State.RETRY, False, "?")
    assert 5 <= outcome.after_s <= 10
    assert (told, caplog.records) == ([], [])
    statistics = bench.execution.statistics()
    assert (statistics.failed, statistics.put_off, statistics.finished) == (0, 1, 1)


def test_events_that_are_put_off_do_not_all_come_back_at_once() -> None:
    bench = Bench(raising(ApiDown("?", 5.0)))
    assert len({bench.run(text_event(str(number))).after_s for number in range(10)}) > 1


def test_a_trouble_of_the_reply_puts_the_event_off_too() -> None:
    bot = Bot()
    bot.default(lambda ctx: ctx.reply("hello"))
    bench = Bench(bot)
    bench.outbox.error = LaneBusy("?", 5.0)
    assert not bench.run(text_event("x")).counted
    bench.outbox.error = None
    assert bench.run(text_event("x")) == Outcome(State.DONE)
    assert bench.outbox.texts() == ["hello", "hello"]


def test_an_event_that_is_put_off_again_and_again_stays_at_its_first_attempt(make_rig: MakeRig) -> None:
    """Through an inbox, which counts the attempts."""
    bot = Bot()
    attempts: list[int] = []

    @bot.default
    def handler(ctx: Context) -> None:
        attempts.append(ctx.attempt)
        if len(attempts) < 20:
            raise ApiDown("?", 0.001)
        if len(attempts) == 20:
            raise ValueError("a failure of its own")

    rig = make_rig(bot, attempts_max=2)
    rig.submit("x")
    wait_until(lambda: rig.inbox.statistics().held == 0)
    assert attempts == [1] * 20 + [2]
    assert rig.inbox.settled[-1][1] == Outcome(State.DONE)


# ---- errors that no later attempt mends

FINAL = [ResultUnknown("?", final=True), ApiUnavailable("?", 500, final=True), ReplyTokenExpired("?")]


@pytest.mark.parametrize("error", FINAL, ids=repr)
def test_a_final_error_is_dead_at_once_and_the_author_is_told(
    error: SendError, caplog: pytest.LogCaptureFixture
) -> None:
    bot = raising(error)
    told: list[BaseException] = []
    bot.error(lambda ctx, error: told.append(error))
    bench = Bench(bot, attempts_max=5)
    outcome = bench.run(text_event("x"))
    assert outcome.state is State.DEAD
    assert type(error).__name__ in outcome.error
    assert told == [error]
    line = f"test_execution.py failed with {type(error).__name__}: ?; the event is given up after 1 attempt"
    assert line in caplog.text
    assert "Traceback" not in caplog.text  # of which all other lines would be gbot's own


@pytest.mark.parametrize("error", [ResultUnknown("?"), ApiUnavailable("?", 500)], ids=repr)
def test_an_error_that_is_not_final_is_tried_again(error: SendError) -> None:
    assert Bench(raising(error), attempts_max=5).run(text_event("x")).state is State.RETRY


@pytest.mark.parametrize("error", [DatabaseDown("?"), Deadlock("?"), DuplicateKey("?", 1062)], ids=repr)
def test_an_error_of_the_database_is_a_failure_and_one_line_of_the_log(
    error: DatabaseError, caplog: pytest.LogCaptureFixture
) -> None:
    """One that broke under a statement too: the statement may have been executed."""
    bench = Bench(raising(error), attempts_max=5)
    outcome = bench.run(text_event("x"))
    assert (outcome.state, outcome.counted) == (State.RETRY, True)
    assert f"test_execution.py failed with {type(error).__name__}: ?; the event is tried again" in caplog.text
    assert "Traceback" not in caplog.text
    assert bench.execution.statistics().failed == 1


def test_a_reply_of_which_nobody_knows_is_not_sent_again_when_the_handler_ends_with_it() -> None:
    bot = Bot()
    bot.default(lambda ctx: ctx.reply("hello"))
    bench = Bench(bot, attempts_max=5)
    bench.outbox.error = ResultUnknown("?", final=True)
    assert bench.run(text_event("x")).state is State.DEAD
    assert bench.outbox.texts() == ["hello"]


# ---- replies and state of a run


@pytest.mark.parametrize("error", [ValueError(), Retry(), Drop("?"), SystemExit(), GreenletExit(), HandlerTimeout()])
def test_a_run_that_fails_has_not_replied_and_leaves_the_state_as_it_was(error: BaseException) -> None:
    bot = Bot()

    @bot.default
    def handler(ctx: Context) -> None:
        ctx.state["lost"] = True
        ctx.reply("lost")
        raise error

    bench = Bench(bot, attempts_max=2)
    outcome = bench.run(text_event("x", "anna"))
    assert outcome.changes == ()
    assert bench.outbox.sent == []


def test_the_run_that_ends_well_replies_once_for_all_before_it() -> None:
    bot = Bot()

    @bot.default
    def handler(ctx: Context) -> None:
        ctx.reply(f"attempt {ctx.attempt}")
        if ctx.attempt < 3:
            raise ValueError

    bench = Bench(bot, attempts_max=5)
    for failures in (0, 1, 2):
        bench.run(text_event("x"), failures)
    assert bench.outbox.texts() == ["attempt 3"]


def test_the_state_goes_with_the_outcome_and_is_there_for_the_next_event() -> None:
    bot = Bot()
    seen: list[int] = []

    @bot.default
    def handler(ctx: Context) -> None:
        seen.append(ctx.state.get("count", 0))
        ctx.state["count"] = len(seen)

    bench = Bench(bot)
    for _ in range(3):
        outcome = bench.run(text_event("x", "anna"))
        assert outcome.state is State.DONE
        assert [type(change) for change in outcome.changes] == [StateChange]
    assert seen == [0, 1, 2]


def test_a_state_that_cannot_be_stored_is_a_failure_and_nothing_is_sent() -> None:
    bot = Bot()

    @bot.default
    def handler(ctx: Context) -> None:
        ctx.state["now"] = object()
        ctx.reply("hello")

    bench = Bench(bot)
    outcome = bench.run(text_event("x", "anna"))
    assert (outcome.state, outcome.changes) == (State.DEAD, ())
    assert "StateRefused" in outcome.error
    assert bench.outbox.sent == []


# ---- who follows and who leaves

COMES = event("follow", user_id="anna", timestamp_ms=200)
LEAVES = event("unfollow", user_id="anna", timestamp_ms=100)


@pytest.mark.parametrize(
    ("error", "state"),
    [(ValueError(), State.RETRY), (Retry(), State.RETRY), (ApiDown("?", 1.0), State.RETRY), (Drop("?"), State.DROPPED)],
    ids=repr,
)
@pytest.mark.parametrize(("given", "gone"), [(COMES, False), (LEAVES, True)], ids=["follow", "unfollow"])
def test_who_is_there_is_stored_whatever_becomes_of_the_event(
    given: Event, gone: bool, error: BaseException, state: State
) -> None:
    bench = Bench(raising(error), attempts_max=5)
    outcome = bench.run(given)
    assert outcome.state is state
    assert outcome.changes == (UserGone("plain", "anna", gone, given.timestamp_ms or 0),)


def test_it_is_stored_with_what_the_handler_changes() -> None:
    bot = Bot()
    bot.default(lambda ctx: ctx.forget())
    assert Bench(bot).run(LEAVES).changes == (UserForgotten("plain", "anna"), UserGone("plain", "anna", True, 100))
    assert Bench(bot).run(COMES).changes == (UserGone("plain", "anna", False, 200), UserForgotten("plain", "anna"))


def test_a_handler_can_greet_somebody_who_has_come_back() -> None:
    bot = Bot()
    bot.default(lambda ctx: ctx.push(f"welcome back, {ctx.user.display_name}", to=ctx.user.id))
    bench = Bench(bot)
    bench.inbox.directory.save([UserGone("plain", "anna", True, 150)])
    bench.outbox.profiles["anna"] = Profile("Anna")
    assert bench.run(COMES).state is State.DONE
    assert bench.outbox.texts() == ["welcome back, Anna"]


def silent() -> Bot:
    bot = Bot()
    bot.default(lambda ctx: None)
    return bot


@pytest.mark.parametrize(("bot", "state"), [(silent(), State.DONE), (Bot(), State.UNHANDLED)], ids=["silent", "none"])
def test_a_follow_stores_the_profile_whether_the_handler_asks_or_not(bot: Bot, state: State) -> None:
    bench = Bench(bot)
    bench.outbox.profiles["anna"] = Profile("Anna")
    assert bench.run(COMES).state is state
    user = bench.inbox.directory.users("plain", ["anna"])["anna"]
    assert (user.display_name, user.gone, user.gone_ms) == ("Anna", False, 200)


@pytest.mark.parametrize("error", [ApiUnavailable("?", 503), ApiDown("?", 1.0)], ids=repr)
def test_a_profile_that_cannot_be_had_fails_no_handler(error: SendError) -> None:
    bench = Bench(silent())
    bench.outbox.error = error
    assert bench.run(COMES).state is State.DONE
    assert bench.outbox.asked == ["anna"]


def test_others_profiles_are_not_asked_for() -> None:
    bench = Bench(silent())
    for given in (LEAVES, text_event("x", "anna"), event("follow")):
        bench.run(given)
    assert bench.outbox.asked == []


def test_who_is_forgotten_by_the_handler_is_not_learnt_again() -> None:
    bot = Bot()
    bot.default(lambda ctx: ctx.forget())
    bench = Bench(bot)
    bench.outbox.profiles["anna"] = Profile("Anna")
    bench.run(COMES)
    assert bench.outbox.asked == []
    assert bench.inbox.directory.users("plain", ["anna"]) == {}


# ---- what gbot does itself


def test_gbots_own_events_run_without_the_authors_handlers_and_middleware() -> None:
    bot = Bot()
    ran: list[str] = []
    bot.default(lambda ctx: ran.append("handler"))
    bot.middleware(lambda ctx, call_next: ran.append("middleware"))
    bench = Bench(bot, timeout_s=7, internal={"gbot.own": lambda event, services: ran.append(event.kind)})
    assert bench.run(event("gbot.own")) == Outcome(State.DONE)
    assert ran == ["gbot.own"]
    assert bench.seat.timeout_s == 7
    assert len(bench.seat.deadlines) == 2


def test_gbots_own_events_fail_as_others_do() -> None:
    def fail(event: Event, services: Services) -> None:
        raise troubles.pop()

    troubles: list[Exception] = [ResultUnknown("?", final=True), ValueError("reason"), ApiDown("?", 1.0)]
    bot = Bot()
    told: list[str] = []
    bot.error(lambda ctx, error: told.append(type(error).__name__))
    bench = Bench(bot, attempts_max=2, internal={"gbot.own": fail})
    outcomes = [bench.run(event("gbot.own")) for _ in range(3)]
    assert [outcome.state for outcome in outcomes] == [State.RETRY, State.RETRY, State.DEAD]
    assert [outcome.counted for outcome in outcomes[:2]] == [False, True]
    assert told == ["ResultUnknown"]


# ---- the author's error handler


def test_the_error_handler_is_told_when_an_event_is_given_up_and_may_answer() -> None:
    bot = raising(ValueError("reason"))

    @bot.error
    def tell(ctx: Context, error: BaseException) -> None:
        ctx.reply(f"sorry, {ctx.attempt} times: {error}")

    bench = Bench(bot, attempts_max=3)
    for failures in (0, 1):
        assert bench.run(text_event("x"), failures).state is State.RETRY
        assert bench.outbox.texts() == []
    assert bench.run(text_event("x"), failures=2).state is State.DEAD
    assert bench.outbox.texts() == ["sorry, 3 times: reason"]


def test_what_the_handler_had_replied_does_not_leave_with_the_apology() -> None:
    bot = Bot()

    @bot.default
    def handler(ctx: Context) -> None:
        ctx.reply("half of", "an answer")
        raise ValueError

    bot.error(lambda ctx, error: ctx.reply("sorry"))
    bench = Bench(bot)
    bench.run(text_event("x"))
    assert bench.outbox.texts() == ["sorry"]


def test_an_apology_that_cannot_be_sent_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    bot = raising(ValueError("reason"))
    bot.error(lambda ctx, error: ctx.reply("sorry"))
    bench = Bench(bot)
    bench.outbox.error = ApiUnavailable("?", 503)
    assert bench.run(text_event("x")).state is State.DEAD
    assert "The bot's error handler failed on plain event 1 (message.text)" in caplog.text
    assert "ApiUnavailable" in caplog.text


@pytest.mark.parametrize(("error", "told"), [(Retry("later"), ["later"]), (Drop("for good"), [])], ids=repr)
def test_the_error_handler_is_told_of_a_retry_that_was_one_too_many_and_not_of_a_drop(
    error: BaseException, told: list[str]
) -> None:
    bot = raising(error)
    heard: list[str] = []
    bot.error(lambda ctx, error: heard.append(str(error)))
    Bench(bot).run(text_event("x"))
    assert heard == told


@pytest.mark.parametrize("second", [KeyError("second"), SystemExit(1), gevent.Timeout(1)], ids=repr)
def test_an_error_handler_that_fails_hides_nothing(second: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    bot = raising(ValueError("first"))

    @bot.error
    def tell(ctx: Context, error: BaseException) -> None:
        raise second

    outcome = Bench(bot).run(text_event("x"))
    assert outcome.state is State.DEAD
    assert "ValueError: first" in outcome.error
    assert [record.exc_info[1] for record in caplog.records if record.exc_info][1] is second
    assert "ValueError: first" in caplog.text


@pytest.mark.parametrize("second", [GreenletExit(), HandlerTimeout()], ids=repr)
@pytest.mark.parametrize("stopping", [False, True], ids=["running", "stopping"])
def test_an_error_handler_can_be_stopped_too(
    second: BaseException, stopping: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The event has failed for the last time, whatever becomes of the apology."""
    bot = raising(ValueError("first"))

    @bot.error
    def tell(ctx: Context, error: BaseException) -> None:
        raise second

    bench = Bench(bot, timeout_s=1)
    bench.execution.stopping = stopping
    assert bench.run(text_event("x")).state is State.DEAD
    assert "The bot's error handler was stopped on plain event 1 (message.text)" in caplog.text
    assert bench.seat.killed == isinstance(second, GreenletExit)


@pytest.mark.parametrize("error", [GreenletExit(), HandlerTimeout()], ids=repr)
@pytest.mark.parametrize("stopping", [False, True], ids=["running", "stopping"])
def test_the_error_handler_is_not_told_of_a_stop(error: BaseException, stopping: bool) -> None:
    bot = raising(error)
    told: list[BaseException] = []
    bot.error(lambda ctx, error: told.append(error))
    bench = Bench(bot, timeout_s=1)
    bench.execution.stopping = stopping
    bench.run(text_event("x"))
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
        gevent.sleep(0.5)


@pytest.mark.parametrize(
    ("failure", "stop"),
    [(ValueError("reason"), GreenletExit), (ValueError("reason"), HandlerTimeout), (HandlerTimeout(), HandlerTimeout)],
    ids=["killed", "timed out", "timed out twice"],
)
def test_a_stop_while_a_failure_is_being_logged_loses_nothing(
    failure: BaseException, stop: type[BaseException]
) -> None:
    bench = Bench(raising(failure), timeout_s=60)
    entry = bench.put(text_event("x"))
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
    statistics = bench.execution.statistics()
    assert (statistics.running, statistics.finished, statistics.failed) == (0, 1, 1)


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
    entry = bench.put(text_event("x"))
    bench.execution.release(entry)
    assert ran == []
    assert [outcome.state for _, outcome in bench.inbox.settled] == [State.RELEASED]
    assert bench.inbox.statistics().held == 0
