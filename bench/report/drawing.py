"""Which plots a report has, what they say in words, and their files: scenario-NAME-PLOT.svg and .png."""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from report import canvas
from report.canvas import Pens, Points
from report.findings import known
from report.measures import COMPLETED, CPU, Measure, three_digits
from report.reading import Number, Report, Run, Sample

LOGARITHMIC_FROM = 30.0  # highest by lowest value: on a linear scale the lowest could not be told from zero
CSS_PIXELS_PER_INCH = 96


@dataclass(frozen=True)
class Plot:
    """A drawn plot. `kind` is bars or curves; `alt` says in words what it shows."""

    kind: str
    alt: str
    svg: bytes
    width_px: int
    height_px: int


@dataclass(frozen=True)
class Curve:
    """Something that the samples tell over time."""

    name: str
    title: str
    value: Callable[[Sample], Number]
    may_be_logarithmic: bool = False


CURVES = (
    Curve("latency", "longest acknowledgement, ms", lambda sample: sample.ack_ms, may_be_logarithmic=True),
    Curve("events", "events completed per second", lambda sample: sample.events_per_s),
    Curve("greenlets", "greenlets, tasks or goroutines", lambda sample: sample.greenlets),
    Curve("cpu", "CPU, % of one core", lambda sample: sample.cpu_percent),
    Curve("memory", "memory (RSS), MB", lambda sample: sample.rss_mb),
    Curve("connections", "database connections", lambda sample: sample.db_connections),
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
            yield save("bars", figure, directory / f"scenario-{scenario}-{name}", bars_alt(scenario, measure, values))
    for curve in CURVES:
        if lines := lines_of(curve, runs):
            figure = canvas.curves(f"Scenario {scenario}: {curve.title}", lines, pens, logarithmic=wide(curve, lines))
            path = directory / f"scenario-{scenario}-{curve.name}"
            yield save("curves", figure, path, curve_alt(scenario, curve, lines))


def save(kind: str, figure: canvas.Drawn, path: Path, alt: str) -> Plot:
    """Writes path.svg and path.png."""
    svg = canvas.svg(figure)
    path.with_suffix(".svg").write_bytes(svg)
    path.with_suffix(".png").write_bytes(canvas.png(figure))
    width, height = (round(inches * CSS_PIXELS_PER_INCH) for inches in figure.get_size_inches())
    return Plot(kind, alt, svg, width, height)


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


def spread(found: list[float]) -> str:
    low, middle, high = (three_digits(value) for value in (min(found), statistics.median(found), max(found)))
    return low if low == high else f"{low} to {high}, median {middle}"
