"""Which plots a report has, what they say in words, and their files: scenario-NAME-PLOT.svg and .png."""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from report import canvas
from report.canvas import Pens, Points
from report.findings import known, listed
from report.measures import COMPLETED, CPU, Measure, three_digits
from report.reading import Number, Report, Run, Sample

LOGARITHMIC_FROM = 30.0  # highest by lowest value: on a linear scale the lowest could not be told from zero


@dataclass(frozen=True)
class Plot:
    """A drawn plot. `kind` is bars or curves; `name` is that of its files, `alt` says in words what it shows, and
    `about` how to read it."""

    kind: str
    name: str
    title: str
    alt: str
    about: str
    svg: bytes


@dataclass(frozen=True)
class Curve:
    """Something that the samples tell over time. `unasked` is said of those of whom it is not known although the
    others tell it, where as much was sent as was answered."""

    name: str
    title: str
    value: Callable[[Sample], Number]
    about: str = ""
    unasked: str = ""
    may_be_logarithmic: bool = False


CURVES = (
    Curve(
        "latency",
        "longest acknowledgement, ms",
        lambda sample: sample.ack_ms,
        "of a probe, which delivers one event ten times a second beside the load; the table has those of the load",
        may_be_logarithmic=True,
    ),
    Curve("events", "events completed per second", lambda sample: sample.events_per_s),
    Curve(
        "greenlets",
        "greenlets, tasks or goroutines",
        lambda sample: sample.greenlets,
        "of gbot, all that its sampler counts; of another server, the handlers that run",
        "they would have to be asked, and with as much load as they take they answer too late",
    ),
    Curve("cpu", "CPU, % of one core", lambda sample: sample.cpu_percent, "of all processes of a server"),
    Curve("memory", "memory (RSS), MiB", lambda sample: sample.rss_mb, "of all processes of a server"),
    Curve("connections", "database connections", lambda sample: sample.db_connections, "as the database counts them"),
)
BARS = {"events-bars": COMPLETED, "cpu-bars": CPU}


def draw_all(report: Report, directory: Path) -> dict[str, list[Plot]]:
    """The plots of each scenario, also written into the directory. Those that an earlier report left there go first."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in [*BARS, *(curve.name for curve in CURVES)]:
        for old in [*directory.glob(f"scenario-*-{name}.svg"), *directory.glob(f"scenario-*-{name}.png")]:
            old.unlink()
    pens = Pens(report.subjects)
    with canvas.style():
        return {name: list(draw_scenario(name, report.runs(name), pens, directory)) for name in report.scenarios}


def draw_scenario(scenario: str, runs: Mapping[str, Run], pens: Pens, directory: Path) -> Iterator[Plot]:
    """One after another; what would be empty is left out."""
    for name, measure in BARS.items():
        if values := known({subject: measure.value(run) for subject, run in runs.items()}):
            asked = asked_of_all(runs) if measure is COMPLETED else None
            figure = canvas.bars(f"Scenario {scenario}: {measure.name}", values, pens, asked)
            path = directory / f"scenario-{scenario}-{name}"
            yield Plot("bars", path.name, measure.name, bars_alt(scenario, measure, values), "", save(figure, path))
    for curve in CURVES:
        if lines := lines_of(curve, runs):
            logarithmic = wide(curve, lines)
            figure = canvas.curves(f"Scenario {scenario}: {curve.title}", lines, pens, logarithmic=logarithmic)
            path = directory / f"scenario-{scenario}-{curve.name}"
            alt, about = curve_alt(scenario, curve, lines), about_curve(curve, lines, runs)
            yield Plot("curves", path.name, curve.title, alt, about, save(figure, path))


def save(figure: canvas.Drawn, path: Path) -> bytes:
    """Writes path.svg and path.png; returns the SVG."""
    svg = canvas.svg(figure)
    path.with_suffix(".svg").write_bytes(svg)
    path.with_suffix(".png").write_bytes(canvas.png(figure))
    return svg


def asked_of_all(runs: Mapping[str, Run]) -> float | None:
    """What was asked for, if the same was asked of everybody."""
    asked = {run.asked_events_per_s for run in runs.values()}
    return asked.pop() if len(asked) == 1 else None


def lines_of(curve: Curve, runs: Mapping[str, Run]) -> dict[str, Points]:
    """By subject; without those of whom nothing is known."""
    lines = {subject: points_of(curve, run) for subject, run in runs.items()}
    return {subject: points for subject, points in lines.items() if values(points)}


def points_of(curve: Curve, run: Run) -> Points:
    return [(sample.t_s, math.nan if (value := curve.value(sample)) is None else value) for sample in run.samples]


def values(points: Points) -> list[float]:
    return [value for _, value in points if not math.isnan(value)]


def wide(curve: Curve, lines: Mapping[str, Points]) -> bool:
    """Whether a logarithmic scale shows more."""
    if not curve.may_be_logarithmic:
        return False
    everything = [value for points in lines.values() for value in values(points)]
    return min(everything) > 0 and max(everything) / min(everything) >= LOGARITHMIC_FROM


def bars_alt(scenario: str, measure: Measure, bars: Mapping[str, float]) -> str:
    told = "; ".join(f"{subject} {three_digits(value)}" for subject, value in bars.items())
    return f"Bars, scenario {scenario}, {measure.name}: {told}."


def curve_alt(scenario: str, curve: Curve, lines: Mapping[str, Points]) -> str:
    told = "; ".join(f"{subject} {spread(values(points))}" for subject, points in lines.items())
    return f"Lines over time, scenario {scenario}, {curve.title}: {told}."


def about_curve(curve: Curve, lines: Mapping[str, Points], runs: Mapping[str, Run]) -> str:
    """How to read it, and whose line is missing."""
    missing = [subject for subject in runs if subject not in lines]
    if not missing:
        return curve.about
    saturated = all(runs[subject].asked_events_per_s is None for subject in missing)
    why = f": {curve.unasked}" if curve.unasked and saturated else ""
    return "; ".join(filter(None, [curve.about, f"not known of {listed(missing)}{why}"]))


def spread(found: list[float]) -> str:
    low, middle, high = (three_digits(value) for value in (min(found), statistics.median(found), max(found)))
    return low if low == high else f"{low} to {high}, median {middle}"
