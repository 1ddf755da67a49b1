"""What an event costs: as gbot's benchmarks found it, as it was measured, and as a report tells."""

from __future__ import annotations

import json

import msgspec
import pytest

from gbot.planning.costs import MEMORY, MYSQL, Measured, from_report, measured_costs, usual_costs, waiting_bytes
from gbot.planning.plan import Load
from tests.planning_rig import (
    FIGURES,
    KIB,
    MIB,
    OLD_CASE,
    changed,
)


def test_every_figure_says_where_it_is_from() -> None:
    for name in FIGURES.__struct_fields__:
        figure = getattr(FIGURES, name)
        assert figure.value > 0, name
        assert figure.command.startswith("python bench/"), name
        assert figure.what, name


def test_a_call_and_a_query_cost_what_they_add_to_a_wait() -> None:
    alone = usual_costs(FIGURES, changed(OLD_CASE, queries=0, calls=0)).cpu_us
    call = usual_costs(FIGURES, changed(OLD_CASE, queries=0, calls=2)).cpu_us
    query = usual_costs(FIGURES, changed(OLD_CASE, queries=3, calls=0)).cpu_us
    assert call - alone == pytest.approx(2 * (FIGURES.call.value - FIGURES.asleep.value))
    assert query - alone == pytest.approx(3 * (FIGURES.query.value - FIGURES.asleep.value))


def test_a_handler_that_does_nothing_costs_no_wait() -> None:
    costs = usual_costs(FIGURES, Load(1, 0, 0, 0.002, 0))
    assert costs.cpu_us == FIGURES.alone.value
    assert costs.waiting_bytes == round(FIGURES.waiting.value * KIB)


def test_storing_calls_and_further_queries_are_added_to_what_was_measured() -> None:
    measured = Measured("measured", 2.5, 500.0, 60 * MIB, None, queries=1, query_s=0.002)
    costs = measured_costs(FIGURES, changed(OLD_CASE, queries=3, calls=1), measured)
    call = FIGURES.call.value - FIGURES.asleep.value
    query = FIGURES.query.value - FIGURES.asleep.value
    storing = FIGURES.alone.value - FIGURES.in_memory.value
    assert costs.cpu_us == pytest.approx(500 + storing + call + 2 * query)
    assert (costs.base_bytes, costs.waiting_bytes) == (60 * MIB, round(FIGURES.calling.value * KIB))
    full = msgspec.structs.replace(measured, waiting_bytes=20 * KIB)
    of_a_call = costs.waiting_bytes - round(FIGURES.waiting.value * KIB)
    assert measured_costs(FIGURES, changed(OLD_CASE, calls=1), full).waiting_bytes == 20 * KIB + of_a_call
    elsewhere = measured_costs(FIGURES, OLD_CASE, measured, MYSQL)
    assert "SQLite (there is no figure for MySQL)" in " ".join(part.what for part in elsewhere.cpu)
    assert "storing" not in {part.name for part in measured_costs(FIGURES, OLD_CASE, measured, MEMORY).cpu}
    stored = msgspec.structs.replace(measured, stored=True)
    assert measured_costs(FIGURES, changed(OLD_CASE, calls=0), stored).cpu_us == 500


def test_few_waiting_handlers_tell_nothing_of_memory() -> None:
    assert waiting_bytes(KIB * 1000, 99, 0, FIGURES) is None
    assert waiting_bytes(KIB * 1000, 100, 0, FIGURES) == 10 * KIB
    with_connections = waiting_bytes(KIB * 1000, 100, 10, FIGURES)
    assert with_connections == round((10 - 10 * FIGURES.connection.value / 100) * KIB)
    assert waiting_bytes(-5000, 100, 0, FIGURES) == KIB


# ---- a report of the benchmarks


def run(**fields: object) -> dict[str, object]:
    """One run of a report as bench/run.py writes it."""
    asked = {"asked_events_per_s": 1900.0, "events_per_s": 2000.0, "ack_ms": {"p50": 0.4}, "cpu_us_per_event": 120.0}
    return asked | {"rss_mb": 110.0, "idle_rss_mb": 50.0, "waiting_median": 5000, "db_connections_max": 50} | fields


def report(**scenarios: dict[str, object]) -> bytes:
    made = {name.removeprefix("s"): {"title": "", "runs": runs} for name, runs in scenarios.items()}
    return json.dumps({"gbot_report": 1, "date": "2026-11-22", "scenarios": made}).encode()


def test_a_report_tells_latency_cpu_and_memory() -> None:
    found = from_report(report(s1={"gbot": run()}, s3={"gbot": run(), "fastapi": {}}), FIGURES, without_queries=False)
    assert found.where == "scenario 3 of the report"
    assert (found.latency_s, found.cpu_us, found.base_bytes, found.queries) == (2.5, 120.0, 50 * MIB, 1.0)
    assert found.waiting_bytes == round(60 * MIB / 5000)


def test_a_plan_without_queries_takes_the_scenario_without_one() -> None:
    raw = report(s2={"gbot": run(db_connections_max=None)}, s3={"gbot": run()})
    found = from_report(raw, FIGURES, without_queries=True)
    assert (found.where, found.queries) == ("scenario 2 of the report", 0.0)


def test_a_report_without_waiting_tells_no_memory_of_it() -> None:
    found = from_report(report(s1={"gbot": run(waiting_median=None)}), FIGURES, without_queries=False)
    assert (found.latency_s, found.waiting_bytes) == (0.0, None)


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"{", "^that is none$"),
        (b"[]", "^that is none$"),
        (b'"\xff"', "^that is none$"),
        (b'{"gbot_report": 2, "scenarios": {}}', "version 1, not 2"),
        (report(), "nothing of gbot"),
        (report(s2={"fastapi": run()}), "nothing of gbot"),
        (
            report(s2={"gbot": {"events_per_s": "fast"}}),
            "^in scenario 2 it lacks a figure of gbot, or has one that is no number$",
        ),
        (report(s2={"gbot": run(events_per_s=0)}), "no event was completed"),
    ],
)
def test_what_is_no_report_is_told_so(raw: bytes, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        from_report(raw, FIGURES, without_queries=False)
