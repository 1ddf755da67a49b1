"""What the simulator decides by seed: what is sent and when, what goes wrong, and how its options are read."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbot.kinds import Kind
from gbot.limiter import Limit
from gbot.simulator import options
from gbot.simulator.codes import Codes
from gbot.simulator.dice import Dice
from gbot.simulator.faults import STORM_REQUESTS, Fates, Faults, Trouble
from gbot.simulator.histogram import Histogram
from gbot.simulator.people import NAMES, People
from gbot.simulator.traffic import Burst, Mix, Traffic, Why, deliveries, sendings
from gbot.simulator.window import Window

BITS = (17915204001719890478, 14208388897592957431)  # of the first two numbers, on any machine
NUMBERS = st.integers(0, 2**40 - 1)


# Dice.


def test_a_roll_depends_on_seed_purpose_and_number_alone() -> None:
    dice = Dice(7, "storm")
    rolls = [dice.roll(number) for number in range(100)]
    again = Dice(7, "storm")
    assert [again.roll(number) for number in reversed(range(100))] == rolls[::-1]
    assert rolls != [Dice(8, "storm").roll(number) for number in range(100)]
    assert rolls != [Dice(7, "drop").roll(number) for number in range(100)]
    assert (Dice(1, "storm").bits(0), Dice(1, "storm").bits(1)) == BITS


def test_rolls_are_spread_evenly() -> None:
    dice = Dice(1, "anything")
    tenths = Counter(int(dice.roll(number) * 10) for number in range(20_000))
    assert set(tenths) == set(range(10))
    assert all(1800 < count < 2200 for count in tenths.values())
    assert {dice.between(number, 3, 5) for number in range(100)} == {3, 4, 5}
    assert not any(dice.hits(number, 0.0) for number in range(100))
    assert all(dice.hits(number, 1.0) for number in range(100))


# Codes.


@given(NUMBERS, st.integers(0, 2**44))
def test_a_code_tells_its_number_and_another_runs_tells_nothing(number: int, at_ms: int) -> None:
    codes, others = Codes(1, "events"), Codes(2, "events")
    token, ulid, tag = codes.hexadecimal(number), codes.ulid(number, at_ms), codes.tag(number)
    assert (len(token), len(ulid)) == (32, 26)
    assert codes.of_hexadecimal(token) == number
    assert others.of_hexadecimal(token) is None
    for text in (ulid, tag, f"m_{token}"):
        body = f'{{"text":"an answer to {text}, and no more"}}'.encode()
        assert codes.quoted(body) == [number]
        assert others.quoted(body) == []


@given(st.binary(), st.text())
def test_what_is_no_code_is_no_number(body: bytes, token: str) -> None:
    codes = Codes(1, "events")
    assert codes.quoted(body) == []
    assert codes.of_hexadecimal(token) is None


def test_ulids_of_one_run_are_in_the_order_of_time() -> None:
    codes = Codes(1, "events")
    ulids = [codes.ulid(999 - number, 1_790_000_000_000 + number) for number in range(1000)]
    assert ulids == sorted(ulids)
    assert len(set(ulids)) == 1000


def test_users_have_names_in_their_language_and_are_known_by_their_code() -> None:
    people = People(1, 50)
    assert {people.language(person) for person in range(50)} == {"en", "ja"}
    for person in range(50):
        assert people.name(person).split()[0] in NAMES[people.language(person)]
        assert people.of_code(people.code(person)) == person
    assert people.of_code(people.code(50)) is None
    assert {people.writer(event) for event in range(2000)} == set(range(50))


# Traffic.


@given(
    st.integers(0, 1000),
    st.integers(1, 300),
    st.tuples(st.integers(1, 5), st.integers(0, 5)).map(lambda pair: (pair[0], pair[0] + pair[1])),
    st.tuples(*[st.sampled_from([0.0, 0.3, 1.0])] * 3),
)
def test_every_event_is_sent_once_as_new_whatever_else_is(
    seed: int, events: int, batch: tuple[int, int], shares: tuple[float, float, float]
) -> None:
    redeliver, duplicates, disorder = shares
    traffic = Traffic(50.0, events, None, batch, redeliver=redeliver, duplicates=duplicates, disorder=disorder)
    sent = list(sendings(traffic, seed))
    assert sent == list(sendings(traffic, seed))
    assert [sending.at_s for sending in sent] == sorted(sending.at_s for sending in sent)
    new = [sending.delivery for sending in sent if sending.why is Why.NEW]
    assert sorted(itertools.chain.from_iterable(delivery.events for delivery in new)) == list(range(events))
    assert all(delivery.count <= batch[1] for delivery in new)
    began = {sending.delivery.number: sending.at_s for sending in sent if sending.why is Why.NEW}
    assert all(sending.at_s >= began[sending.delivery.number] for sending in sent)
    counts = Counter(sending.why for sending in sent)
    for why, share in ((Why.DUPLICATE, duplicates), (Why.AGAIN, redeliver)):
        assert counts[why] == len(new) if share == 1 else share > 0 or not counts[why]


def test_disorder_lets_later_deliveries_overtake() -> None:
    numbers = [sending.delivery.number for sending in sendings(Traffic(100.0, 500, disorder=0.2), 1)]
    assert numbers != sorted(numbers)
    assert sorted(numbers) == list(range(500))


def test_the_rate_is_kept_and_the_time() -> None:
    sent = list(deliveries(Traffic(100.0, seconds=10.0, batch=(1, 9)), 3))
    assert sum(delivery.count for delivery in sent) == pytest.approx(1000, abs=9)
    assert list(deliveries(Traffic(0.0, seconds=10.0), 3)) == []


@pytest.mark.parametrize("batch", [(1, 1), (10, 10)])
@pytest.mark.parametrize("rate", [0.1, 3.0, 100.0])
def test_a_burst_is_in_the_last_second_of_every_period(rate: float, batch: tuple[int, int]) -> None:
    traffic = Traffic(rate, seconds=40.0, batch=batch, burst=Burst(20.0, 10.0))
    each = Counter[int]()
    for delivery in deliveries(traffic, 1):
        each[int(delivery.at_s)] += delivery.count
    bursts = sum(each[second] for second in (9, 19, 29, 39))
    assert bursts == pytest.approx(4 * 20 * rate, rel=0.02, abs=4 * batch[1])
    assert sum(each.values()) - bursts == pytest.approx(36 * rate, rel=0.02, abs=4 * batch[1])


def test_the_mix_has_its_weights() -> None:
    mix = Mix(1, (("text", 8), ("image", 2), ("follow", 0)))
    kinds = Counter(mix.kind(event) for event in range(10_000))
    assert set(kinds) == {"text", "image"}
    assert kinds["text"] == pytest.approx(8000, rel=0.03)


# Faults.


def fates(faults: Faults, count: int = 20_000, seed: int = 1) -> list[Any]:
    teller = Fates(faults, seed)
    return [teller.of(number) for number in range(count)]


def test_nothing_goes_wrong_unless_asked_for() -> None:
    assert {(fate.trouble, fate.latency_s) for fate in fates(Faults(), 1000)} == {(Trouble.NONE, 0.0)}


def test_faults_have_their_shares() -> None:
    told = fates(Faults((2.0, 3.0), fail=0.3, drop=0.1))
    troubles = Counter(fate.trouble for fate in told)
    assert troubles[Trouble.FAIL] == pytest.approx(3000, rel=0.1)
    assert troubles[Trouble.HIDE] == pytest.approx(3000, rel=0.1)
    assert troubles[Trouble.DROP] == pytest.approx(2000, rel=0.1)
    assert all(2.0 <= fate.latency_s < 3.0 for fate in told)
    assert {fate.status for fate in told if fate.trouble in (Trouble.FAIL, Trouble.HIDE)} == {500, 502, 503, 504}
    assert told == fates(Faults((2.0, 3.0), fail=0.3, drop=0.1))
    assert told != fates(Faults((2.0, 3.0), fail=0.3, drop=0.1), seed=2)


def test_storms_come_in_blocks_and_are_answered_at_once() -> None:
    told = fates(Faults((2.0, 3.0), storm=0.25))
    blocks = [{fate.trouble for fate in told[at : at + STORM_REQUESTS]} for at in range(0, 20_000, STORM_REQUESTS)]
    assert all(len(block) == 1 for block in blocks)
    assert sum(block == {Trouble.STORM} for block in blocks) == pytest.approx(250, rel=0.2)
    assert all(not fate.latency_s for fate in told if fate.trouble is Trouble.STORM)


# The platform's rate limit.


@given(st.lists(st.floats(0, 0.7), max_size=200), st.integers(1, 5))
def test_no_window_ever_lets_more_through_than_the_limit(gaps: list[float], count: int) -> None:
    window = Window(Limit(count=count, per_s=1.0))
    now, admitted, refused = 0.0, [], []
    for gap in gaps:
        now += gap
        within = sum(time > now - 1.0 for time in admitted)
        if window.admit(now):
            admitted.append(now)
            assert within < count
        else:
            refused.append(now)
            assert within == count
    assert window.peak == max((sum(time - 1.0 < then <= time for then in admitted) for time in admitted), default=0)


def test_a_window_without_a_limit_lets_all_through() -> None:
    window = Window(Limit())
    assert all(window.admit(0.0) for _ in range(10_000))


# Times.


@given(st.lists(st.floats(0.0001, 1000.0), min_size=1, max_size=300), st.sampled_from([1, 50, 90, 99, 100]))
def test_percentiles_are_within_two_per_cent(spans: list[float], percent: int) -> None:
    histogram = Histogram()
    for span in spans:
        histogram.add(span)
    exact = sorted(spans)[max(0, -(-len(spans) * percent // 100) - 1)]
    assert exact * 0.999 <= histogram.percentile_s(percent) <= exact * 1.021
    assert histogram.max_s == max(spans)


def test_no_times_are_no_time() -> None:
    assert (Histogram().percentile_s(50), Histogram().max_s) == (0.0, 0.0)


# Options.

MIX = options.mix(("text", "image", "follow"))


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (options.RATE, "200/s", 200.0),
        (options.RATE, "0", 0.0),
        (options.RATE, "0.5", 0.5),
        (options.SHARE, "30%", 0.3),
        (options.SHARE, "0.3", 0.3),
        (options.SHARE, "1", 1.0),
        (options.SPAN, "500ms", 0.5),
        (options.SPAN, "2m", 120.0),
        (options.SPAN, "7", 7.0),
        (options.LATENCY, "2-3s", (2.0, 3.0)),
        (options.LATENCY, "100ms-2s", (0.1, 2.0)),
        (options.LATENCY, "150ms", (0.15, 0.15)),
        (options.LATENCY, "0", (0.0, 0.0)),
        (options.BATCH, "1-10", (1, 10)),
        (options.BATCH, "7", (7, 7)),
        (options.BURST, "20@10s", Burst(20.0, 10.0)),
        (options.BURST, "x20@1m", Burst(20.0, 60.0)),
        (options.DOWN, "30s@10s", (10.0, 30.0)),
        (MIX, "text=8,image=1,follow", (("text", 8), ("image", 1), ("follow", 1))),
    ],
)
def test_options_are_read(kind: Kind, text: str, value: object) -> None:
    assert kind.read(text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *((options.RATE, text) for text in ("", "-1", "fast", "200/m", "1e3", "999999999")),
        *((options.SHARE, text) for text in ("", "101%", "1.1", "-0.1", "some")),
        *((options.SPAN, text) for text in ("", "2d", "-1s", "1 h 2 m", "inf")),
        *((options.LATENCY, text) for text in ("3-2s", "2s-3", "2s-", "11m", "1-2-3s", "2s-1ms")),
        *((options.BATCH, text) for text in ("0", "10-1", "1-2000", "x")),
        *((options.BURST, text) for text in ("20", "20@1s", "0@10s", "@10s", "20@")),
        *((options.DOWN, text) for text in ("30s", "0s@10s", "30s@", "now@later")),
        *((MIX, text) for text in ("", "song", "text=0", "text=-1", "text=8;image=1", "text,,image", "text=2000")),
    ],
)
def test_what_is_not_meant_is_refused(kind: Kind, text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        kind.read(text)
