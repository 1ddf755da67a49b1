"""The report as plain text, for the terminal. Needs no matplotlib."""

from collections.abc import Iterator, Mapping
from typing import Any

from measuring import table

from report.findings import findings
from report.measures import SUMMARY
from report.reading import Report, read


def terminal_table(report: Mapping[str, Any]) -> str:
    """A table for each scenario, with what stands out below it; at the end who was skipped. Raises ReportError."""
    checked = read(report)
    blocks = ["\n".join(scenario_lines(checked, name)) for name in checked.scenarios]
    skipped = [f"skipped: {subject}: {reason}" for subject, reason in (checked.skipped or {}).items()]
    return "\n\n".join([*blocks, *(["\n".join(skipped)] if skipped else [])])


def scenario_lines(report: Report, name: str) -> Iterator[str]:
    scenario, runs = report.scenarios[name], report.runs(name)
    yield f"Scenario {name}: {scenario.title}"
    if runs:
        rows = [[subject, *(measure.text(run) for measure in SUMMARY)] for subject, run in runs.items()]
        yield table(["subject", *(measure.short for measure in SUMMARY)], rows)
    yield from findings(runs)
    yield from (f"note: {subject}: {note}" for subject, run in runs.items() for note in run.notes)
