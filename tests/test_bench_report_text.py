"""What the benchmark suite tells in words and on a terminal, and how an old report is drawn anew."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench_report_rig import SCENARIOS, Page, one_run, runs_of, sample_report, smaller_report

pytest.importorskip("matplotlib")

from report import terminal_table
from report.findings import findings
from report.measures import three_digits

BENCH = Path(__file__).resolve().parent.parent / "bench"
COLUMN = r"-?[\d,.]+|-"  # a figure of a table, or none


# ---- in words


def test_where_a_rate_was_asked_for_shares_are_told_and_who_fell_behind() -> None:
    said = findings(runs_of(sample_report(), "2"))
    assert said == [
        "gbot completed 1.00 of what was asked, fastify 1.00, go 1.00, fastapi 0.83 and flask-gunicorn 0.41.",
        "fastapi did not answer 1 request with success and needed 14.2 s after the load to run its backlog of 11,020.",
        "flask-gunicorn left 12,340 events behind.",
        "The p99 of the acknowledgement was lowest for go (5.04 ms) and highest for flask-gunicorn (2,016 ms); gbot "
        "had 6.51 ms.",
        "The CPU that an event cost was lowest for go (28.7 µs) and highest for flask-gunicorn (329 µs); gbot "
        "had 36.7 µs.",
    ]


def test_where_none_was_asked_for_subjects_are_held_against_the_best() -> None:
    said = findings(runs_of(sample_report(), "1"))
    assert said[0] == (
        "go completed most, 246,000 events/s: 1.29 times gbot, 1.74 times fastify, 6.47 times fastapi and "
        "11.7 times flask-gunicorn."
    )
    assert said[1] == "Every subject ran all events that it had accepted and answered all requests with success."


def test_a_subject_alone_is_compared_with_nobody() -> None:
    assert findings(runs_of(sample_report(), "1d")) == [
        "gbot completed 114,600 events/s.",
        "gbot ran all events that it had accepted and answered all requests with success.",
        "The p99 of the acknowledgement was 6.51 ms for gbot.",
        "The CPU that an event cost was 5.24 µs for gbot.",
    ]


def test_nothing_is_claimed_of_what_was_not_counted() -> None:
    assert findings(runs_of(one_run(events_per_s=7.0, left=0, failed=0), "2")) == ["gbot completed 7 events/s."]


def test_a_subject_that_completed_nothing_is_not_the_cheapest() -> None:
    report = one_run(events_per_s=7.0, completed=70, cpu_us_per_event=9.0)
    report["scenarios"]["2"]["runs"]["dead"] = {"events_per_s": 0.0, "completed": 0, "cpu_us_per_event": 1.0, "left": 1}
    said = findings(runs_of(report, "2"))
    assert "gbot completed most, 7 events/s." in said
    assert "dead left 1 event behind." in said
    assert said[-1] == "The CPU that an event cost was 9.00 µs for gbot."


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0"), (0.421, "0.42"), (9.996, "10.0"), (37.25, "37.2"), (99.96, "100"), (4750.4, "4,750")],
)
def test_figures_have_the_digits_that_mean_something(value: float | None, text: str) -> None:
    assert three_digits(value) == text


# ---- the terminal


def test_the_terminal_gets_a_table_for_each_scenario() -> None:
    lines = terminal_table(sample_report()).splitlines()
    heads = [line for line in lines if line.startswith("Scenario ")]
    assert heads == [f"Scenario {name}: {title}" for name, (title, _) in SCENARIOS.items()]
    rows = [" ".join(line.split()) for line in lines if line.startswith("gbot  ")]
    assert rows[2] == "gbot 1,900 1,900 1.00 3.10 6.51 36.7 184 4,560 0 0 0"
    assert rows[3] == "gbot 1,900 1,900 1.00 3.10 6.51 96.7 184 50 4,560 0 0 0"
    assert "note: fastapi: the machine was 14 % busy with other things" in lines
    assert lines[-1].startswith("skipped: falcon-gunicorn: gunicorn missing")


@pytest.mark.parametrize("width", [60, 80, 132])
def test_a_narrow_terminal_gets_all_figures_and_no_broken_lines(width: int) -> None:
    lines = terminal_table(sample_report(), width).splitlines()
    assert max(map(len, lines)) <= width
    assert figures_of("go", lines) == figures_of("go", terminal_table(sample_report()).splitlines())


def figures_of(subject: str, lines: list[str]) -> list[str]:
    """From left to right and from top to bottom."""
    rows = [line.split() for line in lines if re.fullmatch(rf"{subject}( +({COLUMN}))+", line)]
    return [figure for row in rows for figure in row[1:]]


def run_cli(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, BENCH / "report", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)


def test_an_old_report_can_be_drawn_anew(tmp_path: Path) -> None:
    source = tmp_path / "report.json"
    source.write_text(json.dumps(smaller_report()))
    done = run_cli(source, "--to", tmp_path)  # into its own directory
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == terminal_table(smaller_report())
    assert "gbot completed 1.00 of what was asked" in Page((tmp_path / "report.html").read_text()).text
    assert json.loads(source.read_text()) == smaller_report()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (json.dumps({"gbot_report": 9}), 'expected "gbot_report" 1, got 9'),
        ("{", "Expecting property name"),
        (None, "No such file"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(text: str | None, said: str, tmp_path: Path) -> None:
    source = tmp_path / "report.json"
    if text is not None:
        source.write_text(text)
    done = run_cli(source, "--to", tmp_path / "drawn")
    assert done.returncode == 1
    assert done.stderr.startswith("python bench/report: ")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "drawn").exists()
