"""The page of the benchmark suite and its plots, from reports as the suite writes them and from odd ones."""

from __future__ import annotations

import copy
import json
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.bench_report_rig import (
    SCENARIOS,
    SUBJECTS,
    Page,
    alts,
    named,
    one_run,
    sample_report,
    smaller_report,
    written,
)

pytest.importorskip("matplotlib")

from report import ReportError, terminal_table, write_report
from report.palette import COLOURS, light
from wrk import circumstantial_notes

PNG = b"\x89PNG\r\n\x1a\n"
HOSTILE = "<script>alert('x')</script>\"&"
EVERY_PLOT = ("events-bars", "cpu-bars", "latency", "events", "greenlets", "cpu", "memory")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the sample report, drawn once."""
    directory = tmp_path_factory.mktemp("drawn") / "report"
    write_report(sample_report(), directory)
    return directory


@pytest.fixture(scope="module")
def page(directory: Path) -> Page:
    return Page((directory / "report.html").read_text(encoding="utf-8"))


# ---- the page


def test_the_page_names_every_scenario_and_subject_and_where_it_was_measured(page: Page) -> None:
    report = sample_report()
    for title, question in SCENARIOS.values():
        assert title in page.text
        assert question in page.text
    for subject in [*SUBJECTS, "falcon-gunicorn"]:
        assert subject in page.text
    for known in (report["command"], report["commit"], "AMD EPYC, 2 cores, 23.5 GiB of memory"):
        assert known in page.text
    assert "2026-11-23 10:00 UTC" in page.text
    assert "gunicorn missing" in page.text
    assert "the machine was 14 % busy" in page.text
    assert "mysql2" not in page.text  # its version is not known


def test_the_page_needs_nothing_from_elsewhere(page: Page) -> None:
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object"}
    addresses = [value or "" for _, found in page.tags for name, value in found.items() if name in ("src", "href")]
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    targets = [found["id"] for _, found in page.tags if "id" in found]
    assert len(targets) == len(set(targets))
    addresses += re.findall(r"url\((#[^)]*)\)", page.source)
    assert {address[1:] for address in addresses if address.startswith("#")} <= set(targets)


def test_the_page_can_be_read_by_those_who_do_not_see_it(page: Page) -> None:
    images = page.all("svg")
    assert len({image["aria-label"] for image in images}) == len(images) == 3 * len(EVERY_PLOT) + 1 + len(EVERY_PLOT)
    assert {image["role"] for image in images} == {"img"}
    assert all(header.get("scope") in ("row", "col", "rowgroup") for header in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert page.all("html")[0]["lang"] == "en"
    bars = next(words for words in alts(page) if words.startswith("Bars, scenario 1, events/s"))
    assert "gbot 191,000; fastapi 38,000;" in bars


def test_the_plots_of_the_page_take_its_colours(page: Page) -> None:
    """Its own change with light and dark; a colour written out would not."""
    drawn = list(page.plots())
    assert len(drawn) == len(page.all("svg")) > 0
    for one in drawn:
        text = ElementTree.tostring(one, encoding="unicode")
        assert re.findall("#[0-9a-f]{6}", text) == []
        assert {"gbot", "ink", "ground"} <= set(re.findall(r"var\(--([^)]*)\)", text))
    variables = set(re.findall(r"var\(--([^)]*)\)", page.source)) - {"thirds"}
    assert variables <= set(COLOURS)
    for at in range(2):
        assert all(f"--{name}: {COLOURS[name][at]};" in page.source for name in variables)


def luminance(colour: str) -> float:
    """As WCAG 2 has it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, bright = sorted((luminance(one), luminance(other)))
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("at", [0, 1], ids=["light", "dark"])
def test_letters_and_lines_stand_out_from_their_ground(at: int) -> None:
    shown = {name: both[at] for name, both in COLOURS.items()}
    for name in ("ink", "quiet", "link", "alarm"):
        for ground in ("ground", "band", "warning"):
            assert contrast(shown[name], shown[ground]) >= 4.5, (name, ground)
    for name in ("gbot", *(name for name in shown if name.startswith("subject-"))):
        assert contrast(shown[name], shown["ground"]) >= 3, name


def test_a_busy_machine_is_told_before_everything_else(tmp_path: Path) -> None:
    report = smaller_report()
    for run, percent in zip(report["scenarios"]["2"]["runs"].values(), (100, 37), strict=True):
        run["notes"] = [*circumstantial_notes(0, percent), "a word besides"]
    page = written(report, tmp_path)
    said = "throw this result away"
    assert page.text.count(said) == 1
    assert page.text.index("2: gbot 100 % and fastapi 37 %") < page.text.index("Measured") < page.text.index("Summary")
    assert "fastapi: a word besides" in page.text
    assert "37 % busy" not in page.text  # once is enough
    lines = terminal_table(report, 60).splitlines()
    assert lines[0].startswith("WARNING: The machine was busy")
    assert said not in " ".join(terminal_table(smaller_report()).split())


def test_whose_curve_is_missing_is_told_with_the_reason(page: Page) -> None:
    reason = "not known of fastapi, flask-gunicorn and fastify: they would have to be asked"
    assert page.text.count(reason) == 1  # where as much was sent as was answered
    assert page.text.count("not known of fastapi, flask-gunicorn and fastify") == 3


def test_a_logarithmic_axis_says_so(page: Page) -> None:
    told = {drawn.get("aria-label", "")[:30]: "logarithmic" in "".join(drawn.itertext()) for drawn in page.plots()}
    assert told["Lines over time, scenario 2, lo"[:30]]
    assert [words for words, logarithmic in told.items() if logarithmic] == [
        f"Lines over time, scenario {name}, l" for name in ("2", "3")
    ]


def test_the_figures_beside_the_bars_are_to_the_right_of_bars_and_asked_rate(page: Page) -> None:
    drawn = next(one for one in page.plots() if one.get("aria-label", "").startswith("Bars, scenario 2, events/s"))
    svg = "{http://www.w3.org/2000/svg}" if drawn.tag.startswith("{") else ""
    paths = [one.get("d", "") for one in drawn.iter(f"{svg}path") if "clip-path" in one.attrib]
    assert len(paths) == len(SUBJECTS) + 1
    rightmost = max(float(x) for path in paths for x in re.findall(r"[ML] ([\d.]+) ", path))
    figures = [
        one for one in drawn.iter(f"{svg}text") if "1,900" in (one.text or "") and "asked" not in (one.text or "")
    ]
    assert len(figures) == 3
    for one in figures:
        (x,) = re.findall(r"translate\(([\d.]+) ", one.get("transform", "")) or [one.get("x", "")]
        assert float(x) > rightmost + 20  # the text ends there


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
    assert any(HOSTILE in words for words in alts(page))
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
    assert all(light("gbot") in text for text in drawn)
    for scenario in ("1", "2", "3"):
        bars, lines = (directory / "plots" / f"scenario-{scenario}-{plot}.svg" for plot in ("events-bars", "cpu"))
        for colour in (light(f"subject-{number}") for number in range(1, len(SUBJECTS))):
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
    assert page.all("svg") == []
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
    assert page.all("svg") == []
    assert "No subject completed an event that was counted." in page.text


def test_a_single_sample_is_seen_as_a_dot(tmp_path: Path) -> None:
    samples = [{"t_s": 0.0, "cpu_percent": None}, {"t_s": 1.0, "cpu_percent": 50.0}, {"t_s": 2.0, "cpu_percent": None}]
    (drawn,) = written(one_run(samples=samples), tmp_path).plots()
    marks = [one for one in drawn.iter("use") if "--gbot" in (one.get("style") or "")]
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


def test_a_report_is_not_changed_by_drawing_it(tmp_path: Path) -> None:
    report = smaller_report()
    before = copy.deepcopy(report)
    write_report(report, tmp_path)
    assert report == before
