"""report.json as values. Pure.

What was not measured may be null or absent; what is there must have the right type. Not-a-number and infinity become
null, and characters that neither XML nor a terminal takes become "?": both may come from a measurement that went wrong,
and neither may spoil the page.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

VERSION = 1
NAME_OF_SCENARIO = re.compile(r"[A-Za-z0-9]{1,20}")  # it is part of file names and of addresses within the page
NOT_FOR_XML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
GBOT = "gbot"

Number = float | None


class ReportError(Exception):
    """Not a report that this version can draw; the message says what was expected."""


class Ack(msgspec.Struct, frozen=True, rename={"p99_9": "p99.9"}):
    """How long a delivery waited for its answer, in ms."""

    p50: Number = None
    p90: Number = None
    p99: Number = None
    p99_9: Number = None
    max: Number = None


class Sample(msgspec.Struct, frozen=True):
    """One look at a subject, `t_s` after its load began."""

    t_s: float
    ack_ms: Number = None
    events_per_s: Number = None
    greenlets: Number = None
    cpu_percent: Number = None
    rss_mb: Number = None
    db_connections: Number = None


class Run(msgspec.Struct, frozen=True):
    """One subject in one scenario. `backlog` was accepted and not completed when the load ended, `left` is what still
    was not when the drain time was over; `errors` counts requests, everything else events.
    """

    asked_events_per_s: Number = None
    events_per_s: Number = None
    deliveries_per_s: Number = None
    ack_ms: Ack | None = None
    cpu_us_per_event: Number = None
    rss_mb: Number = None
    idle_rss_mb: Number = None
    waiting_median: Number = None
    accepted: Number = None
    completed: Number = None
    backlog: Number = None
    left: Number = None
    failed: Number = None
    errors: Number = None
    drain_s: Number = None
    db_connections_max: Number = None
    samples: tuple[Sample, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def share(self) -> Number:
        """Of the events that were asked for, as rates; None where the load was as much as the subject would take."""
        if not self.asked_events_per_s or self.events_per_s is None:
            return None
        return self.events_per_s / self.asked_events_per_s


class Scenario(msgspec.Struct, frozen=True):
    title: str
    question: str = ""
    runs: dict[str, Run] = {}  # msgspec gives each its own


class Report(msgspec.Struct, frozen=True):
    scenarios: dict[str, Scenario]
    date: str | None = None
    command: str | None = None
    commit: str | None = None
    machine: dict[str, Any] | None = None
    versions: dict[str, Any] | None = None
    skipped: dict[str, str] | None = None

    @property
    def subjects(self) -> list[str]:
        """Whoever was measured anywhere, gbot first."""
        seen = dict.fromkeys(subject for scenario in self.scenarios.values() for subject in scenario.runs)
        return sorted(seen, key=lambda subject: subject != GBOT)

    def runs(self, name: str) -> dict[str, Run]:
        """Those of one scenario, in the order of the subjects."""
        runs = self.scenarios[name].runs
        return {subject: runs[subject] for subject in self.subjects if subject in runs}


def read(report: Mapping[str, Any]) -> Report:
    """Raises ReportError."""
    if not isinstance(report, Mapping) or "gbot_report" not in report:
        raise ReportError('not a report of bench/run.py: it has no "gbot_report"')
    if report["gbot_report"] != VERSION:
        raise ReportError(f'expected "gbot_report" {VERSION}, got {report["gbot_report"]!r}: draw it with its own gbot')
    try:
        checked = msgspec.convert(cleaned(report), Report)
    except msgspec.ValidationError as error:
        raise ReportError(f"not a report of bench/run.py: {error}") from error
    for name in checked.scenarios:
        if not NAME_OF_SCENARIO.fullmatch(name):
            raise ReportError(f"expected scenarios to be named with letters and digits, such as 1d, got {name!r}")
    return checked


def cleaned(value: Any) -> Any:
    """The same, of what JSON and XML have."""
    if isinstance(value, Mapping):
        return {cleaned(str(name)): cleaned(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [cleaned(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return NOT_FOR_XML.sub("?", value) if isinstance(value, str) else value
