"""The limiter: never more than the limit in any window, hardly less than it, evenly, and slower when told so."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbot.limiter import (
    BURST_MAX,
    CATCH_UP_S,
    COUNT_MAX,
    PAUSE_MAX_S,
    RATE_SHARE_MIN,
    RECOVERY_AFTER_S,
    RECOVERY_STEP_S,
    SECONDS_MAX,
    SECONDS_MIN,
    SLOWED_SPACING_MAX_S,
    Limit,
    Limiter,
    limit_text,
    read_lanes,
    read_limit,
)

SECONDS = st.floats(0.01, 5000.0)
LIMITS = st.builds(
    Limit,
    count=st.none() | st.integers(1, 12) | st.sampled_from([100, 1001, 2500]),
    per_s=st.sampled_from([0.1, 1.0, 0.3, 60.0]) | SECONDS,
    interval_s=st.sampled_from([0.0, 0.1]) | st.floats(0.001, 10.0),
)
# What is done next: (the pause before it, in windows; how many want to begin then; told to slow down, and for how long)
STEPS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1.5),
        st.integers(1, 30) | st.just(1500),
        st.none() | st.none() | st.none() | st.floats(0, 2),
    ),
    max_size=12,
)


def begin(limiter: Limiter, now: float, wanting: int, until: float) -> tuple[list[float], float]:
    """As many begin as may, each as soon as it may, until nobody wants to or the time is over; returns the time too."""
    begun: list[float] = []
    while len(begun) < wanting and (wait_s := limiter.wait_s(now)) <= max(0.0, until - now):
        if wait_s:
            now += wait_s
        else:
            limiter.take(now)
            begun.append(now)
    return begun, now


def greedy(limit: Limit, seconds: float, late_s: float = 0.0, start: float = 0.0) -> list[float]:
    """The beginnings when somebody always wants to, and wakes up ``late_s`` after the time for which he waited."""
    limiter = Limiter(limit, start)
    now, begun = start, []
    while now < start + seconds:
        wait_s = limiter.wait_s(now)
        if wait_s:
            now += wait_s + late_s
        else:
            limiter.take(now)
            begun.append(now)
    return begun


def most_in_a_window(times: Sequence[float], window_s: float) -> int:
    return max((bisect.bisect_left(times, time + window_s) - place for place, time in enumerate(times)), default=0)


def assert_within(limit: Limit, begun: Sequence[float]) -> None:
    """Exactly, in fractions: no half-open window holds too many, wherever it starts."""
    exact = [Fraction(time) for time in begun]
    if limit.count is not None:
        for first, beyond in zip(exact, exact[limit.count :], strict=False):
            assert beyond - first >= Fraction(limit.per_s)
    for one, other in itertools.pairwise(exact):
        assert other - one >= Fraction(limit.interval_s)


@given(LIMITS, STEPS, st.sampled_from([0.0, 0.1, 12345.678, 1e9]))
def test_never_more_than_the_limit_in_any_window(
    limit: Limit, steps: Iterable[tuple[float, int, float | None]], start: float
) -> None:
    limiter = Limiter(limit, start)
    now, all_begun = start, []
    for pause, wanting, told in steps:
        now += pause * limit.per_s
        if told is not None:
            limiter.slow_down(now, told * limit.per_s)
        begun, now = begin(limiter, now, wanting, until=now + 3 * limit.per_s)
        all_begun += begun
    assert_within(limit, all_begun)


@pytest.mark.parametrize("late_s", [0.0, 0.001, 0.01])
@pytest.mark.parametrize(
    ("count", "per_s"),
    [
        *((1, 1), (2, 1), (3, 1), (7, 1), (30, 60), (60, 3600), (99, 1), (101, 1), (200, 1), (999, 1), (1001, 1)),
        *((1999, 1), (2000, 1), (5001, 1), (10_000, 3600)),
    ],
)
def test_hardly_less_than_the_limit(count: int, per_s: float, late_s: float) -> None:
    """Also when whoever waits is woken a little late. What was let through at once in the beginning is left out."""
    limit = Limit(count=count, per_s=per_s)
    windows = 10
    begun = greedy(limit, (windows + 3) * per_s, late_s)
    counted = sum(3 * per_s <= time for time in begun)
    assert 0.98 * count * windows <= counted + 1  # the one that is due just now
    assert_within(limit, begun)


def test_two_thousand_a_second_are_1980_or_more() -> None:
    begun = greedy(Limit(count=2000), 10.0, late_s=0.001)
    assert 1980 * 10 <= len(begun) <= 2000 * 10


def test_they_leave_evenly_and_not_at_the_beginning_of_each_second() -> None:
    begun = greedy(Limit(count=2000), 8.0)
    at_once = round(2000 * CATCH_UP_S)
    assert most_in_a_window(begun, 0.001) <= at_once + 3
    assert most_in_a_window(begun, 0.1) <= at_once + 200
    assert most_in_a_window([time for time in begun if time > 7.0], 0.01) <= 30


def test_a_worker_that_was_busy_catches_up() -> None:
    """It looks every millisecond, but three times a second it is busy with something else for a while."""
    limiter, now, begun = Limiter(Limit(count=2000), 0.0), 0.0, 0
    for look in itertools.count():
        now += 0.9 * CATCH_UP_S if look % 256 == 0 else 0.001
        if now > 10.0:
            break
        begun += len(begin(limiter, now, wanting=1000, until=now)[0])
    assert begun >= 0.98 * 2000 * 10


def test_a_long_window_does_not_make_people_wait_while_nothing_is_going_on() -> None:
    assert len(begin(Limiter(Limit(count=60, per_s=3600), 5.0), 5.0, 1000, until=5.0)[0]) == 60
    assert len(begin(Limiter(Limit(count=100_000, per_s=3600), 5.0), 5.0, 1000, until=5.0)[0]) == BURST_MAX + 1


def test_without_a_limit_nothing_waits() -> None:
    assert len(begin(Limiter(Limit(), 5.0), 5.0, 10_000, until=5.0)[0]) == 10_000


def test_the_oldest_rule_is_100_ms_apart() -> None:
    begun = greedy(Limit(in_flight=1, interval_s=0.1), 10.0)
    assert len(begun) in (100, 101)
    assert_within(Limit(interval_s=0.1), begun)
    limiter = Limiter(Limit(in_flight=1, interval_s=0.1), 0.0)
    limiter.take(7.0)
    assert limiter.wait_s(7.0) == pytest.approx(0.1)
    assert limiter.wait_s(7.05) == pytest.approx(0.05)
    assert limiter.wait_s(8.0) == 0.0


def test_what_is_remembered_is_bounded() -> None:
    limiter = Limiter(Limit(count=COUNT_MAX, per_s=3600.0), 0.0)
    begin(limiter, 0.0, 200_000, until=3600.0)
    assert len(limiter._log) == 200
    few = Limiter(Limit(count=1000), 0.0)
    begin(few, 0.0, 10_000, until=100.0)
    assert len(few._log) < 1000


# Told to slow down.


def rate(limiter: Limiter, now: float, seconds: float) -> float:
    return len(begin(limiter, now, 1_000_000, until=now + seconds)[0]) / seconds


def test_told_to_slow_down_it_does_so_for_a_while_and_recovers_step_by_step() -> None:
    limiter = Limiter(Limit(count=2000), 0.0)
    assert rate(limiter, 0.0, 5.0) == pytest.approx(2000, rel=0.02)
    limiter.slow_down(5.0)
    rates = [rate(limiter, 5.0 + second, 1.0) for second in range(40)]
    held, steps = round(RECOVERY_AFTER_S), round(RECOVERY_STEP_S)
    assert rates[:held] == [pytest.approx(1980 * 3 / 4, rel=0.01)] * held
    for number, share in enumerate([13 / 16, 14 / 16, 15 / 16, 1.0]):
        assert rates[held + number * steps] == pytest.approx(1980 * share, rel=0.03)
    assert rates[held + 3 * steps + 6 :] == [pytest.approx(1980, rel=0.02)] * (len(rates) - held - 3 * steps - 6)


def test_slowed_it_lets_nothing_through_at_once() -> None:
    limiter = Limiter(Limit(count=2000), 0.0)
    limiter.slow_down(100.0)
    assert begin(limiter, 100.0, 10, until=100.0)[0] == []
    assert len(begin(limiter, 105.0, 10, until=105.0)[0]) == 1


@given(st.floats(0, 10), st.none() | st.floats(-5, 2 * PAUSE_MAX_S), LIMITS)
def test_nothing_begins_before_retry_after_is_over(before: float, retry_after_s: float | None, limit: Limit) -> None:
    limiter = Limiter(limit, 0.0)
    _, now = begin(limiter, before, 5, until=before + 1.0)
    limiter.slow_down(now, retry_after_s)
    pause_s = min(max(0.0, retry_after_s or 0.0), PAUSE_MAX_S)
    begun, _ = begin(limiter, now, 1, until=float("inf"))
    assert begun[0] >= now + pause_s
    assert begun[0] > now


def test_requests_that_were_under_way_together_slow_it_down_once() -> None:
    limiter = Limiter(Limit(count=2000), 0.0)
    for number in range(100):
        limiter.slow_down(5.0 + number * 0.009)
    assert rate(limiter, 6.0, 2.0) == pytest.approx(1980 * 3 / 4, rel=0.02)
    limiter.slow_down(11.0, 60.0)
    for number in range(100):
        limiter.slow_down(11.0 + number * 0.5, 3.0)  # answers to what had begun before
    assert limiter.wait_s(70.0) == pytest.approx(1.0)
    recovered = 15 / 16  # by the time of the second slowing down
    assert rate(limiter, 71.0, 2.0) == pytest.approx(1980 * recovered * 3 / 4, rel=0.02)


def test_told_so_all_the_time_it_slows_down_more_and_more() -> None:
    limiter = Limiter(Limit(count=2000), 0.0)
    for number in range(35):
        limiter.slow_down(number * 0.1)
    assert rate(limiter, 3.5, 2.0) == pytest.approx(1980 * (3 / 4) ** 4, rel=0.05)


def test_the_rate_never_falls_below_the_floor() -> None:
    limiter = Limiter(Limit(count=2000), 0.0)
    for second in range(100):
        limiter.slow_down(float(second))
    assert rate(limiter, 100.0, 2.0) == pytest.approx(2000 * RATE_SHARE_MIN, rel=0.05)
    assert rate(limiter, 300.0, 5.0) == pytest.approx(2000, rel=0.06)


@pytest.mark.parametrize("limit", [Limit(count=60, per_s=3600), Limit(count=1, per_s=20.0), Limit(interval_s=1.0)])
def test_slowed_down_ever_so_often_its_requests_are_some_seconds_apart(limit: Limit) -> None:
    limiter = Limiter(limit, 0.0)
    for second in range(100):
        limiter.slow_down(float(second))
    begun, _ = begin(limiter, 100.0, 3, until=300.0)
    assert begun[2] - begun[1] <= 1.01 * max(SLOWED_SPACING_MAX_S, limit.per_s)
    assert begun[2] - begun[1] >= min(SLOWED_SPACING_MAX_S, 1.3 * limit.interval_s or 10.0)


def test_an_interval_is_kept_even_where_it_is_longer_than_any_slowing_down() -> None:
    limiter = Limiter(Limit(interval_s=30.0), 0.0)
    limiter.slow_down(0.0)
    begun, _ = begin(limiter, 0.0, 3, until=300.0)
    assert begun == [pytest.approx(30.0), pytest.approx(60.0), pytest.approx(90.0)]


def test_without_a_known_limit_it_is_slowed_down_as_well() -> None:
    limiter = Limiter(Limit(), 0.0)
    limiter.slow_down(0.0)
    assert rate(limiter, 0.0, 2.0) == pytest.approx(750, rel=0.05)
    begin(limiter, 100.0, 1, until=100.0)
    assert len(begin(limiter, 100.0, 1000, until=100.0)[0]) == 1000


def test_the_spacing_is_told() -> None:
    assert Limiter(Limit(), 0.0).spacing_s == 0.0
    assert Limiter(Limit(interval_s=0.1), 0.0).spacing_s == 0.1
    limiter = Limiter(Limit(count=100), 0.0)
    assert limiter.spacing_s == pytest.approx(0.01, rel=0.02)
    limiter.slow_down(0.0)
    assert limiter.spacing_s == pytest.approx(0.01 * 4 / 3, rel=0.02)


# What an operator writes.


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("500/s", Limit(count=500)),
        ("60/h", Limit(count=60, per_s=3600.0)),
        ("30/min", Limit(count=30, per_s=60.0)),
        ("30/m", Limit(count=30, per_s=60.0)),
        ("1000/d", Limit(count=1000, per_s=86_400.0)),
        ("100/10s", Limit(count=100, per_s=10.0)),
        ("10/100ms", Limit(count=10, per_s=0.1)),
        ("200/s, 50 at once", Limit(count=200, in_flight=50)),
        ("1 at once, 100ms apart", Limit(in_flight=1, interval_s=0.1)),
        ("5/s, 2 at once, 0.05s apart", Limit(count=5, in_flight=2, interval_s=0.05)),
        ("1000 at once", Limit()),
    ],
)
def test_a_limit_is_read_as_it_is_written(text: str, limit: Limit) -> None:
    assert read_limit(text) == limit
    assert read_limit(limit_text(limit)) == limit


def test_a_limit_is_written_as_one_would() -> None:
    written = ["500/s", "60/h", "30/min", "1000/d", "100/10s", "200/s, 50 at once", "1 at once, 100ms apart"]
    assert [limit_text(read_limit(text)) for text in written] == written
    assert limit_text(read_limit(" 5 / 1s ,2 at once, 90000ms apart ")) == "5/s, 2 at once, 90s apart"


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "500",
            "500/",
            "/s",
            "s",
            "0/s",
            "-1/s",
            "1.5/s",
            "5/0s",
            "5/x",
            "5/mo",
            "500/s,",
            ",",
            "500/s 5 at once",
        ),
        *(
            "500/s, 600/s",
            "1 at once, 2 at once",
            "0 at once",
            "at once",
            "0ms apart",
            "0.1 apart",
            "apart",
            "1s apart, ",
        ),
        *("1000001/s", "1000001 at once", "5/32d", "5/0.5ms", "1e3/s", "５/s", "500/s; 5/s", "1 at once, 32d apart"),
    ],
)
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a limit such as"):
        read_limit(text)


@given(
    st.none() | st.integers(1, COUNT_MAX),
    st.floats(SECONDS_MIN, SECONDS_MAX),
    st.integers(1, COUNT_MAX),
    st.just(0.0) | st.floats(SECONDS_MIN, SECONDS_MAX),
)
def test_every_limit_can_be_written_and_read(
    count: int | None, per_s: float, in_flight: int, interval_s: float
) -> None:
    limit = Limit(count, per_s if count is not None else 1.0, in_flight, interval_s)
    assert read_limit(limit_text(limit)) == limit


def test_lanes_are_read() -> None:
    assert read_lanes("line.push: 500/s; line.all: 1 at once, 100ms apart") == {
        "line.push": Limit(count=500),
        "line.all": Limit(in_flight=1, interval_s=0.1),
    }
    assert read_lanes("  ") == {}
    assert read_lanes("my_own.send_all:5/s;") == {"my_own.send_all": Limit(count=5)}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("line.push", "expected a limit"),
        ("line.push: ", "expected a limit"),
        ("line.push: fast", "expected a limit"),
        ("push: 5/s", "expected PLATFORM.ENDPOINT: LIMIT"),
        ("line.push.all: 5/s", "expected PLATFORM.ENDPOINT: LIMIT"),
        ("Line.push: 5/s", "expected PLATFORM.ENDPOINT: LIMIT"),
        ("line.push2: 5/s", "expected PLATFORM.ENDPOINT: LIMIT"),
        ("500/s", "expected PLATFORM.ENDPOINT: LIMIT"),
        ("line.push: 5/s; line.push: 6/s", "line.push is there twice"),
        ("line.push: 5/s: 6/s", "expected a limit"),
    ],
)
def test_what_are_no_lanes_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_lanes(text)
