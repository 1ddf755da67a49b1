"""What an event costs: as gbot's benchmarks found it, as a report of them tells, or as it was measured. Pure.

A figure of CPU in data/costs.toml is that of a whole event; what a wait, a call or a query adds is the difference
of two. What the author's own code computes is in none of them, only in what was measured of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gbot.counts import counted
from gbot.planning import data
from gbot.planning.plan import Costs, Load, Part

KIB: Final = 1024
MIB: Final = 1024 * KIB
BYTES: Final = {"KiB": KIB, "MiB": MIB}
WAITING_MIN: Final = 100  # handlers; with fewer waiting, memory says more of everything else than of them
SCENARIOS: Final = {"3": 1.0, "2": 0.0, "1d": 0.0, "1": 0.0}  # those of a report, the one asked first, and its queries

SQLITE: Final = "SQLite"  # what an inbox stores events in
MYSQL: Final = "MySQL"
MEMORY: Final = "memory"
TO_STORE: Final = {
    SQLITE: "to store it in SQLite",
    MYSQL: "to store it, as for SQLite (there is no figure for MySQL)",
}
EVENTS_MIN_PER_S: Final = 0.001
STORED: Final = "1d"  # the scenario of a report in which events are on a disk


DEFAULTS: Final[Mapping[str, float]] = {"queries": 0.0, "query_s": 0.002, "calls": 1.0}  # of a load


class Figure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row of costs.toml."""

    value: float
    unit: str
    what: str
    command: str
    date: str

    @property
    def in_bytes(self) -> float:
        """Of a figure of memory; KeyError for one in another unit."""
        return self.value * BYTES[self.unit]


class Figures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """gbot/planning/data/costs.toml."""

    no_op: Figure
    alone: Figure
    in_memory: Figure
    asleep: Figure
    call: Figure
    query: Figure
    waiting: Figure
    calling: Figure
    connection: Figure
    base: Figure


class Measured(msgspec.Struct, frozen=True):
    """What was found of a running server. None: that could not be told."""

    where: str  # "measured", or what the report says
    latency_s: float
    cpu_us: float
    base_bytes: int
    waiting_bytes: int | None
    queries: float
    query_s: float | None
    stored: bool = False  # whether its inbox was on a disk
    rate_per_s: float | None = None  # of the events that it was measured with; None: as many as there can be
    notes: tuple[str, ...] = ()  # what speaks against it


class Run(msgspec.Struct, frozen=True):
    """What a report of the benchmarks tells of one server in one scenario, as far as it is needed here."""

    events_per_s: float
    cpu_us_per_event: float
    rss_mb: float  # in MiB, as the other one
    idle_rss_mb: float
    waiting_median: int | None = None
    notes: tuple[str, ...] = ()


class Scenario(msgspec.Struct, frozen=True):
    """One scenario of a report."""

    runs: Mapping[str, msgspec.Raw]


class Report(msgspec.Struct, frozen=True):
    """report.json, which bench/run.py writes."""

    gbot_report: int
    scenarios: Mapping[str, Scenario]


def load_of(given: Mapping[str, Any], measured: Measured | None) -> tuple[Load, dict[str, str]]:
    """What was asked for, measured, or is usual; and where it is from if it was not asked for."""
    values, sources = {}, {}
    for field in ("latency_s", "queries", "query_s", "calls"):
        found = getattr(measured, field, None)
        if given[field] is not None:
            values[field] = given[field]
        elif measured is not None and found is not None:
            values[field], sources[field] = found, measured.where
        else:
            values[field], sources[field] = DEFAULTS[field], "default"
    return Load(events_per_s=given["events"], **values), sources


def read_figures() -> Figures:
    return data.read("costs.toml", Figures)


def usual_costs(figures: Figures, load: Load) -> Costs:
    """What gbot itself spends on such a load."""
    cpu = [Part("event", "to take, store and run it", figures.alone.value)]
    if load.latency_s or load.calls or load.queries:
        cpu.append(Part("wait", "to wait", figures.asleep.value - figures.no_op.value))
    cpu += _call(figures, load)
    if load.queries:
        cpu.append(_queries(figures, load.queries))
    waiting = figures.calling if load.calls else figures.waiting
    connection_bytes, base_bytes = round(figures.connection.in_bytes), round(figures.base.in_bytes)
    return Costs(tuple(cpu), round(waiting.in_bytes), connection_bytes, base_bytes)


def measured_costs(figures: Figures, load: Load, measured: Measured, stored_in: str = SQLITE) -> Costs:
    """What was measured, and what it had less of: an inbox that stores, calls to the platform's API, queries."""
    usual = usual_costs(figures, load)
    waiting = usual.waiting_bytes
    if measured.waiting_bytes is not None:
        waiting += measured.waiting_bytes - round(figures.waiting.in_bytes)
    rate = f" at {measured.rate_per_s:g}/s" if measured.rate_per_s else ""
    cpu = [Part("measured", f"({measured.where}{rate})", measured.cpu_us)]
    if not measured.stored and stored_in in TO_STORE:
        cpu.append(Part("storing", TO_STORE[stored_in], figures.alone.value - figures.in_memory.value))
    cpu += _call(figures, load)
    if load.queries > measured.queries:
        cpu.append(_queries(figures, load.queries - measured.queries))
    return Costs(tuple(cpu), waiting, usual.connection_bytes, measured.base_bytes)


def waiting_bytes(grown_bytes: float, waiting: float, connections: float, figures: Figures) -> int | None:
    """Memory of a waiting event, where memory has grown by so much with so many of them; None: too few to tell."""
    if waiting < WAITING_MIN:
        return None
    return max(KIB, round((grown_bytes - connections * figures.connection.in_bytes) / waiting))


def from_report(raw: bytes, figures: Figures, *, without_queries: bool) -> Measured:
    """What a report tells of gbot: its scenario with a query, else that with a call, else one without any waiting.

    Raises ValueError, with a sentence.
    """
    try:
        report = msgspec.json.decode(raw, type=Report)
    except (msgspec.MsgspecError, UnicodeDecodeError):  # what it says is about JSON, and not about what to do
        raise ValueError("that is none") from None
    if report.gbot_report != 1:
        raise ValueError(f"this gbot reads reports of version 1, not {report.gbot_report}")
    for name, queries in SCENARIOS.items():
        scenario = report.scenarios.get(name)
        if scenario is not None and "gbot" in scenario.runs and not (queries and without_queries):
            return _of_run(name, scenario.runs["gbot"], queries, figures)
    raise ValueError("it tells nothing of gbot")


def _of_run(name: str, raw: msgspec.Raw, queries: float, figures: Figures) -> Measured:
    try:
        run = msgspec.json.decode(raw, type=Run)
    except msgspec.MsgspecError:
        raise ValueError(f"in scenario {name} it lacks a figure of gbot, or has one that is no number") from None
    waiting = run.waiting_median or 0
    if not (EVENTS_MIN_PER_S < run.events_per_s < math.inf and run.cpu_us_per_event >= 0 <= waiting):
        raise ValueError(f"in scenario {name} no event was completed, or its figures cannot be")
    grown = (run.rss_mb - run.idle_rss_mb) * MIB
    return Measured(
        where=f"scenario {name} of the report",
        latency_s=waiting / run.events_per_s,
        cpu_us=run.cpu_us_per_event,
        base_bytes=round(run.idle_rss_mb * MIB),
        waiting_bytes=waiting_bytes(grown, waiting, 0, figures),  # connections were open before
        queries=queries,
        query_s=None,
        stored=name == STORED,
        notes=run.notes,
    )


def _call(figures: Figures, load: Load) -> tuple[Part, ...]:
    if not load.calls:
        return ()
    each = figures.call.value - figures.asleep.value
    what = f"for {counted(load.calls, 'call')} to the platform's API"
    return (Part("calls", what, load.calls * each),)


def _queries(figures: Figures, queries: float) -> Part:
    each = figures.query.value - figures.asleep.value
    return Part("queries", f"for {counted(queries, 'use')} of a connection", queries * each)
