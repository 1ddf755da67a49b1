"""The report of the benchmark suite: page, plots and tables, from reports as the suite writes them and from odd ones.

bench/ is no package: its scripts find each other as siblings, and so does this test.
"""

from __future__ import annotations

import base64
import copy
import json
import math
import random
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "bench"))

from report import ReportError, terminal_table, write_report
from report.findings import findings
from report.measures import three_digits
from report.reading import read

pytest.importorskip("matplotlib")

BENCH = Path(__file__).resolve().parent.parent / "bench"
PNG = b"\x89PNG\r\n\x1a\n"
ACK_SPREAD = {"p50": 1.0, "p90": 1.6, "p99": 2.1, "p99.9": 3.0, "max": 3.5}
VOID = {"img", "meta"}
SECONDS = 20
HOSTILE = "<script>alert('x')</script>\"&"
# Events/s, ack ms, CPU us/event and MB of each subject: what a server that keeps up shows, more or less.
SUBJECTS = {
    "fastapi": (38_000, 9.0, 26.0, 95),
    "flask-gunicorn": (21_000, 16.0, 47.0, 71),
    "gbot": (191_000, 3.1, 5.24, 45),
    "fastify": (141_000, 4.2, 7.0, 120),
    "go": (246_000, 2.4, 4.1, 60),
}
SCENARIOS = {
    "1": ("nothing to do", "How many events per second does each server run whose handler does nothing?"),
    "1d": ("durable inbox", "What does 200 cost when it means stored?"),
    "2": ("an external call of 2-3 s", "What does an event cost whose handler waits for 2-3 s?"),
    "3": ("an external call, then the database", "What do 2-3 s of waiting and a SELECT through a pool cost?"),
}


def sample_report() -> dict[str, Any]:
    """What the suite finds on a machine of two cores, with fastapi and flask in trouble where handlers wait."""
    chance = random.Random(5)
    return {
        "gbot_report": 1,
        "date": "2026-11-23T10:00:00+00:00",
        "command": "python bench/run.py --seconds 20 --report report",
        "commit": "e95625e",
        "machine": {"cores": 2, "cpu": "AMD EPYC", "memory_gb": 23.5, "kernel": "Linux 6.18.44"},
        "versions": {"gbot": {"python": "3.11.2", "gevent": "26.9.0"}, "fastify": {"node": "v20.20.2", "mysql2": None}},
        "scenarios": {name: sample_scenario(name, chance) for name in SCENARIOS},
        "skipped": {"falcon-gunicorn": "gunicorn missing; run: pip install -e '.[bench]'"},
    }


def smaller_report() -> dict[str, Any]:
    """Scenario 2 of gbot and fastapi alone, for tests that draw."""
    report = sample_report()
    runs = report["scenarios"]["2"]["runs"]
    report["scenarios"] = {"2": report["scenarios"]["2"] | {"runs": {one: runs[one] for one in ("gbot", "fastapi")}}}
    return report


def sample_scenario(name: str, chance: random.Random) -> dict[str, Any]:
    title, question = SCENARIOS[name]
    names = ["gbot"] if name == "1d" else list(SUBJECTS)
    return {"title": title, "question": question, "runs": {one: sample_run(name, one, chance) for one in names}}


def sample_run(scenario: str, subject: str, chance: random.Random) -> dict[str, Any]:
    most, ack_ms, cpu_us, rss_mb = SUBJECTS[subject]
    waits = scenario in ("2", "3")
    share = {"fastapi": 0.83, "flask-gunicorn": 0.41}.get(subject, 1.0) if waits else 1.0
    rate = 1900 * share if waits else most * (0.6 if scenario == "1d" else 1)
    slow = 60 if share < 1 else 1
    accepted, left = round(1900 * SECONDS if waits else rate * SECONDS), 12_340 if share < 0.5 else 0
    return {
        "asked_events_per_s": 1900.0 if waits else None,
        "events_per_s": rate,
        "deliveries_per_s": rate / 10,
        "ack_ms": {name: ack_ms * slow * times for name, times in ACK_SPREAD.items()},
        "cpu_us_per_event": cpu_us * (7 if waits else 1) + (60 if scenario == "3" else 0),
        "rss_mb": rss_mb * (4.1 if waits else 1),
        "idle_rss_mb": rss_mb * 0.8,
        "waiting_median": 4748 if waits else None,
        "accepted": accepted,
        "completed": accepted - left,
        "backlog": round(accepted * (1.12 - share)) if waits else 120,
        "left": left,
        "failed": 3 if subject == "flask-gunicorn" and scenario == "3" else 0,
        "errors": 1 if subject == "fastapi" and waits else 0,
        "drain_s": 30.0 if left else 14.2 if slow > 1 else 2.9 if waits else 0.01,
        "db_connections_max": 50 if scenario == "3" else None,
        "samples": [sample(t, scenario, subject, rate, ack_ms * slow, chance) for t in range(SECONDS + 3)],
        "notes": ["the machine was 14 % busy with other things"] if subject == "fastapi" else [],
    }


def sample(t: int, scenario: str, subject: str, rate: float, ack_ms: float, chance: random.Random) -> dict[str, Any]:
    def about(value: float) -> float:
        return value * chance.uniform(0.93, 1.07)

    waits, counts = scenario in ("2", "3"), subject in ("gbot", "go")
    share = min(1.0, t / 3) if waits else 1.0
    ended = t > SECONDS
    growing = 1 + t / 5 if ack_ms > 200 else 1
    return {
        "t_s": float(t),
        "ack_ms": None if ended or t % 11 == 7 else about(ack_ms * growing),
        "events_per_s": about(rate * share * (0.4 if ended else 1)),
        "greenlets": about(4750 * share + 20) if counts else None,
        "cpu_percent": about(min(100.0, rate * SUBJECTS[subject][2] / 7000)),
        "rss_mb": about(SUBJECTS[subject][3] * (1 + 3 * share)),
        "db_connections": min(50, 10 + t * 4) if scenario == "3" else None,
    }


class Page(HTMLParser):
    """Walks a page: what is open must be closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def plots(self) -> Iterator[ElementTree.Element]:
        for attributes in self.all("img"):
            kind, _, data = (attributes["src"] or "").partition(",")
            assert kind == "data:image/svg+xml;base64"
            yield ElementTree.fromstring(base64.b64decode(data))


def written(report: dict[str, Any], directory: Path) -> Page:
    return Page(write_report(report, directory).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the sample report, drawn once."""
    directory = tmp_path_factory.mktemp("drawn") / "report"
    write_report(sample_report(), directory)
    return directory


@pytest.fixture(scope="module")
def page(directory: Path) -> Page:
    return Page((directory / "report.html").read_text(encoding="utf-8"))


def runs_of(report: dict[str, Any], scenario: str) -> dict[str, Any]:
    return dict(read(report).runs(scenario))


def one_run(**values: Any) -> dict[str, Any]:
    """A report of one run that says only this."""
    return {"gbot_report": 1, "scenarios": {"2": {"title": "a call", "question": "?", "runs": {"gbot": values}}}}


def named(scenario: str, *plots: str) -> set[str]:
    return {f"scenario-{scenario}-{plot}.{kind}" for plot in plots for kind in ("svg", "png")}


EVERY_PLOT = ("events-bars", "cpu-bars", "latency", "events", "greenlets", "cpu", "memory")


# ---- the page


def test_the_page_names_every_scenario_and_subject_and_where_it_was_measured(page: Page) -> None:
    report = sample_report()
    for title, question in SCENARIOS.values():
        assert title in page.text
        assert question in page.text
    for subject in [*SUBJECTS, "falcon-gunicorn"]:
        assert subject in page.text
    for known in (report["date"], report["command"], report["commit"], "AMD EPYC, 2 cores, 23.5 GB of memory"):
        assert known in page.text
    assert "gunicorn missing" in page.text
    assert "the machine was 14 % busy" in page.text
    assert "mysql2" not in page.text  # its version is not known


def test_the_page_needs_nothing_from_elsewhere(page: Page) -> None:
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object"}
    addresses = [value or "" for _, found in page.tags for name, value in found.items() if name in ("src", "href")]
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    targets = {found.get("id") for _, found in page.tags}
    assert {address[1:] for address in addresses if address.startswith("#")} <= targets


def test_the_page_can_be_read_by_those_who_do_not_see_it(page: Page) -> None:
    images = page.all("img")
    assert len({image["alt"] for image in images}) == len(images) == 3 * len(EVERY_PLOT) + 1 + len(EVERY_PLOT)
    assert all(header.get("scope") in ("row", "col", "rowgroup") for header in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert page.all("html")[0]["lang"] == "en"
    alt = next(image["alt"] for image in images if (image["alt"] or "").startswith("Bars, scenario 1, events/s"))
    assert "gbot 191,000; fastapi 38,000;" in (alt or "")


def test_every_plot_on_the_page_is_an_image_with_a_size(page: Page) -> None:
    drawn = list(page.plots())
    assert drawn
    assert {one.tag for one in drawn} == {"{http://www.w3.org/2000/svg}svg"}
    assert all(int(image["width"] or 0) > 0 and int(image["height"] or 0) > 0 for image in page.all("img"))


def test_what_should_be_zero_and_is_not_is_marked(page: Page) -> None:
    alarms = [found for tag, found in page.tags if tag == "td" and found.get("class") == "alarm"]
    # left and errors in scenarios 2 and 3, failed in 3, each in the summary and in its scenario
    assert len(alarms) == 2 * (2 * 2 + 1)


def test_names_notes_and_reasons_are_no_markup(tmp_path: Path) -> None:
    report = smaller_report()
    run = report["scenarios"]["2"]["runs"].pop("fastapi")
    report["scenarios"]["2"] |= {"title": HOSTILE, "question": HOSTILE}
    report["scenarios"]["2"]["runs"][HOSTILE] = run | {"notes": [HOSTILE]}
    report |= {
        "command": HOSTILE,
        "date": HOSTILE,
        "skipped": {HOSTILE: HOSTILE},
        "versions": {HOSTILE: {"a": HOSTILE}},
    }
    report["machine"] = {"cpu": HOSTILE, "<b>": "<i>"}
    page = written(report, tmp_path)
    assert not {tag for tag, _ in page.tags} & {"script", "b", "i"}
    assert page.text.count(HOSTILE) > 10
    assert any(HOSTILE in (image["alt"] or "") for image in page.all("img"))
    assert any(HOSTILE in "".join(drawn.itertext()) for drawn in page.plots())


def test_a_name_that_xml_cannot_hold_spoils_nothing(tmp_path: Path) -> None:
    report = one_run(events_per_s=5.0, notes=["a\x00b\ud800"])
    report["scenarios"]["2"]["runs"]["x\x1b[31m $\\frac$"] = {"events_per_s": 4.0}
    page = written(report, tmp_path)
    assert "x?[31m $\\frac$" in page.text
    assert "a?b?" in page.text
    assert "x?[31m $\\frac$" in "".join(next(page.plots()).itertext())


# ---- files


def test_plots_are_there_as_png_and_svg_and_empty_ones_are_left_out(directory: Path) -> None:
    plots = {path.name: path for path in (directory / "plots").iterdir()}
    expected = named("3", *EVERY_PLOT, "connections")
    for scenario in ("1", "1d", "2"):
        expected |= named(scenario, *EVERY_PLOT)
    assert set(plots) == expected
    for path in plots.values():
        if path.suffix == ".png":
            assert path.read_bytes().startswith(PNG)
        else:
            assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_a_subject_has_one_colour_on_all_plots(directory: Path) -> None:
    drawn = (path.read_text() for path in (directory / "plots").glob("*.svg"))
    assert all("#0072b2" in text for text in drawn)
    for scenario in ("1", "2", "3"):
        bars, lines = (directory / "plots" / f"scenario-{scenario}-{plot}.svg" for plot in ("events-bars", "cpu"))
        for colour in ("#d55e00", "#009e73", "#cc79a7", "#e69f00"):
            assert colour in bars.read_text()
            assert colour in lines.read_text()


def test_the_report_is_kept_as_it_was(directory: Path) -> None:
    assert json.loads((directory / "report.json").read_text()) == sample_report()


def test_the_same_report_gives_the_same_page(tmp_path: Path) -> None:
    once, again = (write_report(smaller_report(), tmp_path / name) for name in ("once", "again"))
    assert once.read_bytes() == again.read_bytes()


def test_plots_of_an_earlier_report_do_not_stay(tmp_path: Path) -> None:
    write_report(smaller_report(), tmp_path)
    own = tmp_path / "plots" / "own.png"
    own.write_bytes(PNG)
    write_report(one_run(events_per_s=5.0), tmp_path)
    assert {path.name for path in (tmp_path / "plots").iterdir()} == named("2", "events-bars") | {"own.png"}


# ---- odd reports


def test_a_report_of_nothing_is_drawn(tmp_path: Path) -> None:
    page = written({"gbot_report": 1, "scenarios": {}}, tmp_path)
    assert "0 scenarios, 0 subjects" in page.text
    assert page.all("img") == []
    assert terminal_table({"gbot_report": 1, "scenarios": {}}) == ""


def test_a_scenario_without_runs_says_so(tmp_path: Path) -> None:
    report = smaller_report()
    report["scenarios"]["3"] = {"title": "the database", "runs": {}}
    page = written(report, tmp_path)
    assert "No subject was measured in this scenario." in page.text
    assert "No subject was measured." in terminal_table(report)
    assert list((tmp_path / "plots").glob("scenario-2-*"))
    assert not list((tmp_path / "plots").glob("scenario-3-*"))


def test_a_run_of_which_nothing_is_known_is_drawn(tmp_path: Path) -> None:
    samples = [{"t_s": 0.0, "ack_ms": None, "events_per_s": None, "cpu_percent": None, "rss_mb": None}]
    page = written(one_run(samples=samples, ack_ms=None, events_per_s=None), tmp_path)
    assert page.all("img") == []
    assert "No subject completed an event that was counted." in page.text


def test_a_single_sample_is_seen_as_a_dot(tmp_path: Path) -> None:
    samples = [{"t_s": 0.0, "cpu_percent": None}, {"t_s": 1.0, "cpu_percent": 50.0}, {"t_s": 2.0, "cpu_percent": None}]
    (drawn,) = written(one_run(samples=samples), tmp_path).plots()
    marks = [one for one in drawn.iter("{http://www.w3.org/2000/svg}use") if "#0072b2" in (one.get("style") or "")]
    assert len(marks) == 1


def test_samples_of_zero_are_drawn(tmp_path: Path) -> None:
    samples = [{"t_s": float(t), "ack_ms": 1000.0 * t, "db_connections": 0} for t in range(3)]
    written(one_run(samples=samples, events_per_s=0, cpu_us_per_event=0.0), tmp_path)
    drawn = {path.name for path in (tmp_path / "plots").iterdir()}
    assert drawn == named("2", "events-bars", "cpu-bars", "latency", "connections")


def test_not_a_number_is_as_if_it_had_not_been_measured(tmp_path: Path) -> None:
    samples = [{"t_s": 0.0, "ack_ms": math.nan, "cpu_percent": 4.0}]
    report = one_run(events_per_s=math.nan, cpu_us_per_event=math.inf, ack_ms={"p99": math.nan}, samples=samples)
    page = written(report, tmp_path)
    assert "nan" not in page.text
    assert "inf" not in page.text
    kept = json.loads((tmp_path / "report.json").read_text())["scenarios"]["2"]["runs"]["gbot"]
    assert (kept["events_per_s"], kept["cpu_us_per_event"], kept["samples"][0]["ack_ms"]) == (None, None, None)
    assert {path.name for path in (tmp_path / "plots").iterdir()} == named("2", "cpu")


@pytest.mark.parametrize(
    ("report", "said"),
    [
        ({"gbot_report": 2, "scenarios": {}}, 'expected "gbot_report" 1, got 2'),
        ({"scenarios": {}}, 'it has no "gbot_report"'),
        ([], 'it has no "gbot_report"'),
        ({"gbot_report": 1}, "missing required field `scenarios`"),
        (one_run(events_per_s="many"), r"Expected `float \| null`, got `str` - at `\$.scenarios.*events_per_s`"),
        ({"gbot_report": 1, "scenarios": {"../1": {"title": "up"}}}, "letters and digits, such as 1d, got '../1'"),
    ],
)
def test_what_is_no_report_is_refused(report: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=said):
        write_report(report, tmp_path / "drawn")
    with pytest.raises(ReportError, match=said):
        terminal_table(report)
    assert not (tmp_path / "drawn").exists()


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
    assert "note: fastapi: the machine was 14 % busy with other things" in lines
    assert lines[-1].startswith("skipped: falcon-gunicorn: gunicorn missing")


def run_cli(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, BENCH / "report", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


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
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "drawn").exists()


def test_a_report_is_not_changed_by_drawing_it(tmp_path: Path) -> None:
    report = smaller_report()
    before = copy.deepcopy(report)
    write_report(report, tmp_path)
    assert report == before
