"""The lane: who waits, in which order they pass, and how waiting ends, on the real hub and its clock."""

from __future__ import annotations

import bisect
import gc
import random
import time
from collections import Counter
from collections.abc import Callable, Hashable

import gevent
import pytest
from gevent.event import Event
from greenlet import greenlet

from gbot import Bot, Context
from gbot.errors import LaneBusy, NotNow, SendError
from gbot.inbox import State
from gbot.limiter import Limit
from gbot.outbound.lane import AFTER_MAX_S, AFTER_MIN_S, RESERVED_DIVISOR, TICK_S, WITHIN_MAX_S, Lane
from tests.conftest import MakeRig
from tests.rig import burn, wait_until

LONG_S = 30.0
FEW = 20


def make_lane(limit: Limit, waiting_max: int = 10_000) -> Lane:
    return Lane("line.push", limit, waiting_max)


def full_lane(waiting_max: int = 10_000) -> Lane:
    """One request at a time, and one is under way."""
    lane = make_lane(Limit(in_flight=1), waiting_max)
    lane.enter("first", 0.0)
    return lane


class Passages:
    """Greenlets that pass a lane, each leaving at once or when told to; who passed, in which order."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.names: list[Hashable] = []
        self.times: list[float] = []
        self.errors: list[BaseException] = []

    def start(self, flow: Hashable, name: Hashable = None, within_s: float = LONG_S) -> gevent.Greenlet[..., None]:
        passing = gevent.spawn(self.passage, flow, flow if name is None else name, within_s)
        gevent.sleep(0)  # it waits, or has passed
        return passing

    def passage(self, flow: Hashable, name: Hashable, within_s: float) -> None:
        try:
            self.lane.enter(flow, within_s)
        except BaseException as error:
            self.errors.append(error)
            return
        self.times.append(time.monotonic())
        self.names.append(name)
        self.lane.leave()


def most_in_a_window(times: list[float], window_s: float) -> int:
    return max(bisect.bisect_left(times, begun + window_s) - place for place, begun in enumerate(times))


def test_when_nobody_waits_a_request_begins_at_once() -> None:
    lane = make_lane(Limit(count=2000))
    others = [gevent.spawn(pytest.fail, "switched to another greenlet") for _ in range(3)]
    for flow in range(FEW):
        lane.enter(flow, 0.0)
    assert (lane.statistics().passed, lane.statistics().in_flight) == (FEW, FEW)
    for _ in range(FEW):
        lane.leave()
    gevent.killall(others, block=False)
    assert lane.statistics().in_flight == 0


def test_it_counts() -> None:
    lane = full_lane(waiting_max=1)
    waiting = Passages(lane)
    waiting.start("a")
    with pytest.raises(LaneBusy):
        lane.enter("b", LONG_S)
    lane.slow_down(None)
    seen = lane.statistics()
    assert (seen.name, seen.waiting, seen.in_flight) == ("line.push", 1, 1)
    assert (seen.passed, seen.refused, seen.slowed) == (1, 1, 1)
    lane.leave()
    wait_until(lambda: waiting.names)
    seen = lane.statistics()
    assert (seen.waiting, seen.in_flight, seen.passed, seen.refused) == (0, 0, 2, 1)


def test_no_more_begin_than_the_rate_allows() -> None:
    lane = make_lane(Limit(count=FEW, per_s=0.2))
    passages = Passages(lane)
    gevent.joinall([passages.start(flow) for flow in range(4 * FEW)], raise_error=True)
    assert sorted(passages.names, key=str) == sorted(range(4 * FEW), key=str)
    # The moments are written down a little after those that were counted.
    assert most_in_a_window(passages.times, 0.15) <= FEW
    assert passages.times[-1] - passages.times[0] >= 0.55


def test_the_oldest_rule_one_at_once_and_some_time_apart() -> None:
    lane = make_lane(Limit(in_flight=1, interval_s=0.02))
    passages = Passages(lane)
    gevent.joinall([passages.start(flow) for flow in range(10)], raise_error=True)
    assert passages.names == list(range(10))
    assert passages.times[-1] - passages.times[0] >= 0.17


def test_no_more_are_under_way_than_allowed() -> None:
    lane = make_lane(Limit(in_flight=3))
    most = 0

    def request(flow: int) -> None:
        nonlocal most
        lane.enter(flow, LONG_S)
        most = max(most, lane.statistics().in_flight)
        gevent.sleep(0.001)
        lane.leave()

    gevent.joinall([gevent.spawn(request, flow) for flow in range(FEW)], raise_error=True)
    assert most == 3
    assert lane.statistics().in_flight == 0


def test_leaving_wakes_the_next_but_never_switches() -> None:
    lane = full_lane()
    passages = Passages(lane)
    passages.start("a")
    lane.leave()
    assert passages.names == []
    wait_until(lambda: passages.names == ["a"])


def test_the_main_greenlet_can_wait_too() -> None:
    lane = full_lane()
    gevent.spawn_later(0.01, lane.leave)
    lane.enter("main", LONG_S)
    assert lane.statistics().passed == 2


# Order.


def test_flows_take_turns_and_within_a_flow_the_first_goes_first() -> None:
    lane = full_lane()
    passages = Passages(lane)
    for number in range(1000):
        passages.start("busy", ("busy", number))
    passages.start("quiet", "quiet 1")
    passages.start("other", "other 1")
    passages.start("other", "other 2")
    lane.leave()
    wait_until(lambda: len(passages.names) == 1003)
    assert passages.names[:5] == [("busy", 0), "quiet 1", "other 1", ("busy", 1), "other 2"]
    assert passages.names[5:] == [("busy", number) for number in range(2, 1000)]


def test_who_comes_later_does_not_overtake_those_who_wait() -> None:
    lane = full_lane()
    passages = Passages(lane)
    passages.start("a")
    lane.leave()
    passage = gevent.spawn(passages.passage, "b", "b", LONG_S)
    passage.join()
    assert passages.names == ["a", "b"]


def test_a_flow_that_has_had_its_turn_waits_behind_the_others() -> None:
    lane = full_lane()
    order: list[str] = []

    def again_and_again(flow: str) -> None:
        for _ in range(3):
            lane.enter(flow, LONG_S)
            order.append(flow)
            lane.leave()

    loops = [gevent.spawn(again_and_again, flow) for flow in "abc"]
    gevent.sleep(0)
    lane.leave()
    gevent.joinall(loops, raise_error=True)
    assert order == list("abcabcabc")


# Ways in which waiting ends.


def test_when_too_many_wait_already_it_is_refused_at_once() -> None:
    lane = full_lane(waiting_max=3)
    passages = Passages(lane)
    for number in range(3):
        passages.start("a", number)
    with pytest.raises(LaneBusy, match=r"line\.push: 3 requests wait already") as caught:
        lane.enter("b", LONG_S)
    assert isinstance(caught.value, NotNow)
    assert isinstance(caught.value, SendError)
    assert AFTER_MIN_S <= caught.value.after_s <= AFTER_MAX_S
    lane.leave()
    wait_until(lambda: passages.names == [0, 1, 2])


def test_busy_flows_cannot_fill_the_lane_for_others() -> None:
    lane = full_lane(waiting_max=100)
    passages = Passages(lane)
    for number in range(200):
        passages.start(number % 2, number)
    reserved = 100 // RESERVED_DIVISOR
    assert lane.statistics().waiting == 100 - reserved
    for number in range(200):
        passages.start(f"quiet {number}")
    assert lane.statistics().waiting == 100
    assert len(passages.errors) == 400 - 100
    lane.leave()
    wait_until(lambda: lane.statistics().waiting == 0)
    assert sum(str(name).startswith("quiet") for name in passages.names) == reserved


def test_who_has_waited_too_long_is_refused_and_the_others_go_on_waiting() -> None:
    lane = full_lane()
    passages = Passages(lane)
    passages.start("a", "patient 1")
    passages.start("a", "hasty", within_s=0.01)
    passages.start("b", "patient 2", within_s=float("inf"))
    wait_until(lambda: passages.errors)
    [error] = passages.errors
    assert isinstance(error, LaneBusy)
    assert str(error) == "line.push: no turn within 0.01 s"
    assert (lane.statistics().waiting, lane.statistics().refused) == (2, 1)
    lane.leave()
    wait_until(lambda: len(passages.names) == 2)
    assert passages.names == ["patient 1", "patient 2"]


def test_who_comes_to_his_turn_too_late_is_refused_as_well() -> None:
    """Between the end of his time and the moment when somebody looks for those whose time is over."""
    lane = full_lane()
    passages = Passages(lane)
    passages.start("a", within_s=TICK_S / 10)
    burn(TICK_S / 5)
    lane.leave()
    wait_until(lambda: passages.errors)
    assert passages.names == []
    lane.enter("b", 0.0)
    assert lane.statistics().in_flight == 1


def test_many_who_have_waited_too_long_are_all_refused() -> None:
    lane = full_lane()
    passages = Passages(lane)
    for number in range(1000):
        passages.start(number % 7, within_s=0.001 * (number % 50))
    wait_until(lambda: len(passages.errors) == 1000)
    assert {type(error) for error in passages.errors} == {LaneBusy}
    seen = lane.statistics()
    assert (seen.waiting, seen.in_flight, seen.refused) == (0, 1, 1000)


def test_without_time_to_wait_it_is_refused_at_once() -> None:
    lane = full_lane()
    for within_s in (0.0, -5.0):
        with pytest.raises(LaneBusy, match="no request may begin within 0 s"):
            lane.enter("a", within_s)


def test_nobody_waits_for_what_cannot_be_in_time() -> None:
    lane = make_lane(Limit(count=1, per_s=3600.0))
    lane.enter("a", 0.0)
    lane.leave()
    with pytest.raises(LaneBusy, match="no request may begin within 600 s") as caught:
        lane.enter("a", 3000.0)
    assert caught.value.after_s == AFTER_MAX_S
    assert WITHIN_MAX_S == 600


class Interrupted(BaseException):
    """As little an Exception as the end of a handler's time is one."""


@pytest.mark.parametrize("end", [gevent.GreenletExit, Interrupted, gevent.Timeout, ValueError])
def test_who_is_interrupted_leaves_the_queue(end: type[BaseException]) -> None:
    lane = full_lane()
    passages = Passages(lane)
    passages.start("a", "a 1")
    stopped = [passages.start(flow) for flow in ("a", "b", "a")]
    passages.start("a", "a 2")
    gevent.killall(stopped, end)
    assert [type(error) for error in passages.errors] == [end] * 3
    assert lane.statistics().waiting == 2
    lane.leave()
    wait_until(lambda: passages.names == ["a 1", "a 2"])
    seen = lane.statistics()
    assert (seen.waiting, seen.in_flight, seen.passed, seen.refused) == (0, 0, 3, 0)


def test_who_is_killed_while_his_turn_comes_holds_nothing() -> None:
    lane = full_lane()
    passages = Passages(lane)
    stopped = passages.start("a")
    passages.start("b")
    lane.leave()
    stopped.kill(block=False)  # both happen in the hub's next round
    wait_until(lambda: stopped.dead and "b" in passages.names)
    assert (lane.statistics().waiting, lane.statistics().in_flight) == (0, 0)


def test_a_stray_switch_lets_nobody_through() -> None:
    lane = full_lane()
    passages = Passages(lane)
    waiting = passages.start("a")
    gevent.get_hub().loop.run_callback(waiting.switch)
    gevent.sleep(0.01)
    assert passages.names == []
    assert lane.statistics().waiting == 1
    lane.leave()
    wait_until(lambda: passages.names == ["a"])


def test_a_greenlet_that_fails_after_its_turn_does_not_stop_the_lane(capsys: pytest.CaptureFixture[str]) -> None:
    lane = full_lane()
    passages = Passages(lane)

    def fail() -> None:
        lane.enter("a", LONG_S)
        lane.leave()
        raise ValueError("falls through into the hub")

    bare = greenlet(fail, parent=gevent.get_hub())
    gevent.get_hub().loop.run_callback(bare.switch)
    gevent.sleep(0)
    passages.start("b")
    passages.start("c")
    lane.leave()
    wait_until(lambda: passages.names == ["b", "c"])
    assert "falls through into the hub" in capsys.readouterr().err


# What the API says.


def test_slowed_down_it_lets_nobody_through_before_the_time_named() -> None:
    lane = make_lane(Limit(count=2000))
    passages = Passages(lane)
    begun = time.monotonic()
    lane.slow_down(0.3)
    gevent.joinall([passages.start(flow) for flow in range(5)], raise_error=True)
    assert passages.times[0] >= begun + 0.3
    lane.slow_down(20.0)
    with pytest.raises(LaneBusy) as caught:
        lane.enter("a", 10.0)
    assert caught.value.after_s == pytest.approx(20.0, abs=0.5)
    assert lane.statistics().slowed == 2


def test_slowed_down_while_some_wait_they_wait_longer() -> None:
    lane = make_lane(Limit(count=10, per_s=0.1))
    passages = Passages(lane)
    waiting = [passages.start(flow) for flow in range(20)]
    begun = len(passages.names)
    assert begun < 20
    lane.slow_down(0.3)
    told = time.monotonic()
    gevent.joinall(waiting, raise_error=True)
    assert passages.times[begun] >= told + 0.29


def test_busy_tells_when_to_come_back_by_how_many_wait_and_how_fast_they_pass() -> None:
    lane = make_lane(Limit(count=10, in_flight=1), waiting_max=50)
    lane.enter("first", 0.0)
    passages = Passages(lane)
    waiting = [passages.start(flow) for flow in range(50)]
    with pytest.raises(LaneBusy) as caught:
        lane.enter("one more", LONG_S)
    assert caught.value.after_s == pytest.approx(5.0, rel=0.1)
    gevent.killall(waiting)
    few = full_lane(waiting_max=1)
    passages = Passages(few)
    passages.start("a")
    with pytest.raises(LaneBusy) as caught:
        few.enter("one more", LONG_S)
    assert caught.value.after_s == AFTER_MIN_S


def test_busy_knows_how_fast_they_pass_when_it_is_the_api_that_is_slow() -> None:
    """No rate is known, and each request takes a tenth of a second: forty take four."""
    lane = make_lane(Limit(in_flight=1), waiting_max=40)

    def request(flow: int) -> None:
        lane.enter(flow, LONG_S)
        gevent.sleep(0.1)
        lane.leave()

    waiting = [gevent.spawn(request, flow) for flow in range(41)]
    wait_until(lambda: lane.statistics().waiting == 40)
    wait_until(lambda: lane.statistics().waiting == 36)
    waiting += [gevent.spawn(request, flow) for flow in range(100, 104)]
    gevent.sleep(0)
    with pytest.raises(LaneBusy) as caught:
        lane.enter("one more", LONG_S)
    assert 3.0 <= caught.value.after_s <= 30.0
    gevent.killall(waiting)


# The hub.


def test_all_who_wait_share_two_timers() -> None:
    loop = gevent.get_hub().loop
    before = loop.activecnt
    lane = make_lane(Limit(count=1, per_s=20.0))
    lane.enter("first", 0.0)
    passages = Passages(lane)
    waiting = [passages.start(number % 7, within_s=30 + number / 100) for number in range(500)]
    assert lane.statistics().waiting == 500
    assert loop.activecnt <= before + 2
    gevent.killall(waiting)
    wait_until(lambda: loop.activecnt <= before + 1)  # the turn's timer runs out by itself


def test_when_nobody_waits_any_more_the_lane_is_at_rest() -> None:
    lane = full_lane()
    waiting = [Passages(lane).start(flow) for flow in range(3)]
    assert lane._tick_timer is not None
    gevent.killall(waiting)
    wait_until(lambda: lane._tick_timer is None)
    assert lane._turns_timer is None


def turns_of_others(run: Callable[[], object], done: Callable[[], bool]) -> int:
    """How often a greenlet that sleeps as shortly as can be has its turn while this goes on."""
    turns = 0

    def sleeper() -> None:
        nonlocal turns
        while not done():
            turns += 1
            gevent.sleep(0.0001)

    other = gevent.spawn(sleeper)
    gevent.sleep(0)
    run()
    other.join()
    return turns


def test_others_have_their_turns_while_many_are_let_through() -> None:
    lane = full_lane()
    passed = 0

    def request(flow: int) -> None:
        nonlocal passed
        lane.enter(flow, LONG_S)
        burn(0.002)
        lane.leave()
        passed += 1

    for flow in range(50):
        gevent.spawn(request, flow)
    gevent.sleep(0)
    assert turns_of_others(lane.leave, lambda: passed == 50) >= 5


def test_others_have_their_turns_while_many_are_refused() -> None:
    lane = full_lane()
    refused = 0

    def request(flow: int) -> None:
        nonlocal refused
        with pytest.raises(LaneBusy):
            lane.enter(flow, TICK_S)
        refused += 1
        burn(0.002)

    Passages(lane).start("patient")
    gevent.sleep(TICK_S / 2)  # so that the time of all is over when it is looked at
    for flow in range(50):
        gevent.spawn(request, flow)
    wait_until(lambda: refused)
    assert refused < 50
    assert turns_of_others(lambda: wait_until(lambda: refused == 50, deadline_s=3.0), lambda: refused == 50) >= 5


def test_the_lane_keeps_nothing_of_those_who_have_passed() -> None:
    lane = full_lane()
    gc.collect()
    greenlets = sum(isinstance(one, gevent.Greenlet) for one in gc.get_objects())
    passages = Passages(lane)
    for number in range(100):
        passages.start(number, within_s=LONG_S + number)
    lane.leave()
    wait_until(lambda: len(passages.names) == 100)
    gevent.sleep(0)
    gc.collect()
    assert sum(isinstance(one, gevent.Greenlet) for one in gc.get_objects()) <= greenlets


# With the dispatcher.


def test_a_handler_that_runs_out_of_time_in_the_lane_leaves_it(make_rig: MakeRig) -> None:
    bot, lane = Bot(), full_lane()

    @bot.default
    def send(ctx: Context) -> None:
        lane.enter(ctx.event.text, LONG_S)
        lane.leave()

    rig = make_rig(bot, timeout_s=0.1)
    assert rig.settle_all("a", "b") == {"a": State.DEAD, "b": State.DEAD}
    assert lane.statistics().waiting == 0
    lane.leave()
    assert rig.settle_all("c")["c"] is State.DONE
    lane.enter("d", 0.0)


def test_the_greenlet_of_a_handler_that_has_waited_in_the_lane_serves_again(make_rig: MakeRig) -> None:
    bot, lane = Bot(), full_lane()
    seen: list[int] = []

    @bot.default
    def send(ctx: Context) -> None:
        lane.enter(ctx.event.text, LONG_S)
        seen.append(gevent.getcurrent().minimal_ident)  # type: ignore[attr-defined]

    rig = make_rig(bot)
    for number in range(5):
        rig.submit(str(number))
        wait_until(lambda: lane.statistics().waiting == 1)
        lane.leave()
        wait_until(lambda: rig.inbox.statistics().held == 0)
    assert len(seen) == 5
    assert len(set(seen)) == 1


def test_whatever_happens_to_them_all_is_accounted_for() -> None:
    """Five hundred that want through, of which some are killed, some impatient, some slow, some told off."""
    chance = random.Random(7)
    lane = make_lane(Limit(count=200, per_s=0.2, in_flight=5), waiting_max=300)
    ends: Counter[str] = Counter()
    stop = Event()

    def request() -> None:
        try:
            lane.enter(chance.randrange(20), chance.choice([0.0, 0.05, 0.5, LONG_S]))
        except LaneBusy:
            ends["refused"] += 1
            return
        except gevent.GreenletExit:
            ends["killed while waiting"] += 1
            return
        try:
            assert lane.statistics().in_flight <= 5
            gevent.sleep(chance.choice([0.0, 0.0, 0.001, 0.01]))
            ends["passed"] += 1
        except gevent.GreenletExit:
            ends["killed under way"] += 1
        finally:
            lane.leave()

    def killer() -> None:
        while not stop.wait(0.002):
            chance.choice(requests).kill(block=False)

    requests = [gevent.spawn(request) for _ in range(500)]
    gevent.sleep(0)
    killing = gevent.spawn(killer)
    gevent.joinall(requests, raise_error=True)
    stop.set()
    killing.join()
    seen = lane.statistics()
    assert (seen.waiting, seen.in_flight) == (0, 0)
    assert seen.passed == ends["passed"] + ends["killed under way"]
    assert seen.refused == ends["refused"]
    assert ends.total() == 500
    assert ends["passed"] > 50
    assert ends["refused"] > 50
