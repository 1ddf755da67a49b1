"""What the samples of a measured server say: made-up samples in, figures out."""

from __future__ import annotations

import json
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbot.planning.finding import SAMPLE_S, Finding, Sample, finding
from gbot.planning.measure import Journal, child_environ, due_s
from tests.planning_rig import FIGURES, KIB, MIB

REST = [
    Sample(0, running=0, events_finished=1, events_failed=0, events_held=0, cpu_s=1.00, rss_bytes=50 * MIB),
    Sample(2, running=0, events_finished=1, events_failed=0, events_held=0, cpu_s=1.02, rss_bytes=50 * MIB),
]


def sample(at_s: float, **fields: float) -> Sample:
    return msgspec.structs.replace(REST[-1], at_s=at_s, **fields)


def found(*samples: Sample, asked: int = 100, sent: int = 100, trouble: str = "") -> Finding:
    return finding(REST, [REST[-1], *samples], asked, sent, 20.0, trouble, FIGURES)


def test_the_time_that_handlers_ran_is_shared_by_the_events() -> None:
    before = sample(2, handlers_ran_s=4)  # of the warm-up
    samples = [before, sample(7, running=30), sample(12.5, events_finished=101, handlers_ran_s=34)]
    one = finding(REST, samples, 100, 100, 20.0, "", FIGURES)
    assert one.measured.latency_s == pytest.approx(0.3)
    assert (one.ended, one.succeeded, one.running_max) == (100, 100, 30)


def test_cpu_is_without_what_is_used_at_rest() -> None:
    one = found(sample(12, events_finished=101, cpu_s=1.02 + 0.1 + 0.5))  # 1 % of a core at rest, 10 s long
    assert one.measured.cpu_us == pytest.approx(0.5e6 / 100)


def test_less_cpu_than_at_rest_is_none() -> None:
    assert found(sample(12, events_finished=101)).measured.cpu_us == 0


def test_queries_are_counted_with_the_time_that_they_hold_a_connection() -> None:
    one = found(sample(12, events_finished=101, db_uses=200, db_held_s=0.8)).measured
    assert (one.queries, one.query_s) == (2, pytest.approx(0.004))
    none = found(sample(12, events_finished=101)).measured
    assert (none.queries, none.query_s) == (0, None)


def test_memory_is_told_at_the_moment_when_most_are_waiting() -> None:
    fullest = sample(5, running=1000, rss_bytes=50 * MIB + 1000 * 12 * KIB)
    one = found(fullest, sample(12, events_finished=1001, rss_bytes=90 * MIB)).measured
    assert (one.waiting_bytes, one.base_bytes) == (12 * KIB, 50 * MIB)
    few = found(sample(5, running=10, rss_bytes=60 * MIB), sample(12, events_finished=101)).measured
    assert few.waiting_bytes is None


def test_what_went_wrong_is_told() -> None:
    end = sample(
        12, events_finished=91, events_failed=12, events_put_off=3, events_unhandled=4, events_held=5, events_dead=12
    )
    one = found(end, asked=120, trouble="The first error: ValueError")
    assert (one.succeeded, one.trouble) == (90 - 12 - 3, "The first error: ValueError")
    assert one.doubts() == [
        "12 of 90 events failed",
        "3 of 90 events were put off, as what they need is away or busy",
        "4 of 90 events had no handler",
        "5 events had not ended 90 s after the load",
        "the server took 100 of 120 events in the time",
    ]


def test_one_event_is_told_of_as_one() -> None:
    end = sample(12, running=1, events_finished=2, events_put_off=1, events_unhandled=1, events_held=1)
    assert found(end, asked=1, sent=0).doubts() == [
        "1 of 1 event was put off, as what they need is away or busy",
        "1 of 1 event had no handler",
        "1 event had not ended 90 s after the load",
        "the server took 0 of 1 event in the time",
        "only 1 event has ended",
    ]


def test_events_that_asked_for_another_attempt_have_not_succeeded() -> None:
    assert found(sample(12, events_finished=101, events_dead=40)).failed == 40


def test_a_good_measurement_has_no_doubts_and_a_short_one_has() -> None:
    assert found(sample(12, events_finished=101)).doubts() == []
    assert found(sample(12, events_finished=11)).doubts() == ["only 10 events have ended"]


@pytest.mark.parametrize(
    ("now", "is_futile"),
    [
        ({}, True),
        ({"running": 1}, False),  # it may end well
        ({"waiting": 1}, False),
        ({"events_finished": 4}, False),  # one of them was not put off
        ({"events_finished": 0, "events_put_off": 0}, False),
    ],
)
def test_it_is_futile_to_wait_for_events_that_were_all_put_off(now: dict[str, int], is_futile: bool) -> None:
    put_off = {"events_finished": 3, "events_put_off": 3, "events_held": 2}
    assert sample(5, **put_off | now).is_futile is is_futile


def test_nothing_at_all_divides_by_nothing() -> None:
    one = found(sample(2))
    assert (one.ended, one.measured.latency_s, one.measured.cpu_us) == (0, 0, 0)


@given(st.integers(0, 600_000), st.floats(0.1, 1000))
def test_events_come_ten_at_a_time_each_bunch_within_its_own_share_of_it(number: int, rate: float) -> None:
    bunch = max(1, min(10, int(rate)))
    first = number - number % bunch
    assert first / rate * (1 - 1e-12) <= due_s(number, rate) <= (first + bunch) / rate * (1 + 1e-12)
    assert due_s(first, rate) == due_s(number, rate)


@pytest.mark.parametrize("rate", [2.0, 20.0, 100.0])  # in step with the sampler, but for the spreading
def test_the_sampler_sees_events_at_every_stage(rate: float) -> None:
    period_s = min(10.0, rate) / rate
    stages = sorted({due_s(number, rate) % min(SAMPLE_S, period_s) / period_s for number in range(2000)})
    assert max(after - before for before, after in pairwise(stages)) < 0.05


def journal(*lines: dict[str, str]) -> Journal:
    """What a child has said in these lines of its log."""
    one = Journal()
    for line in lines:
        one.take(json.dumps(line).encode() + b"\n")
    return one


AWAY = {"level": "warning", "logger": "gbot.database.growth", "message": "No connection to mysql://bot@db/bot: refused"}


def test_the_first_error_is_told_with_or_without_a_traceback() -> None:
    failed = {
        "level": "error",
        "message": "a handler failed",
        "error": "Traceback …\nValueError: the author's mistake\n",
    }
    mistaken = {"level": "error", "message": "plain event 2: error 1146 (NO_SUCH_TABLE); it is dead"}
    assert journal(AWAY, failed, mistaken).trouble(put_off=True) == "The first error: ValueError: the author's mistake"
    assert journal(mistaken, failed).trouble(put_off=False) == f"The first error: {mistaken['message']}"


def test_why_events_are_put_off_is_told_without_an_error() -> None:
    other = AWAY | {"logger": "gbot", "message": "GBOT_X is no setting"}
    still = AWAY | {"message": "Still no connection"}
    assert journal(AWAY, still, other).trouble(put_off=True) == "The server says: Still no connection"
    assert journal(AWAY).trouble(put_off=False) == ""
    assert journal(other).trouble(put_off=True) == ""


def test_what_is_said_outside_of_the_log_is_kept() -> None:
    one = journal({"message": "Taking plain deliveries at http://127.0.0.1:8080/callback"})
    one.take(b"gbot: APP: expected a gbot.Bot\n")
    one.take(b"\n")
    assert (one.said, one.address) == ("gbot: APP: expected a gbot.Bot", ("http", 8080))


def test_a_child_knows_nothing_that_another_platform_would_need() -> None:
    kept = {"GBOT_DB": "mysql://…", "PATH": "/bin", "GBOT_POOL": "5"}
    withheld = {"GBOT_LINE_CHANNEL_SECRET": "a", "GBOT_MESSENGER_PAGE_TOKEN": "b", "GBOT_TLS_CERT": "c"}
    assert child_environ(kept | withheld) == kept
