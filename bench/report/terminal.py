"""The report as plain text, for the terminal. Needs no matplotlib."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from textwrap import wrap
from typing import Any

from measuring import table

from report.findings import disturbed, findings, other_notes
from report.measures import SUMMARY, any_known
from report.reading import Report, read

WIDTH_WITHOUT_TERMINAL = 140  # room for all columns
INDENT = "  "


def terminal_width() -> int:
    return shutil.get_terminal_size((WIDTH_WITHOUT_TERMINAL, 24)).columns


def terminal_table(report: Mapping[str, Any], width: int = WIDTH_WITHOUT_TERMINAL) -> str:
    """A table for each scenario, with what stands out below it; at the end who was skipped. Raises ReportError."""
    checked = read(report)
    warning = disturbed(checked)
    lines = [[f"WARNING: {warning}"] if warning else []]
    lines += [list(scenario_lines(checked, name, width)) for name in checked.scenarios]
    lines += [[f"skipped: {subject}: {reason}" for subject, reason in (checked.skipped or {}).items()]]
    return "\n\n".join("\n".join(fitting(block, width)) for block in lines if block)


def scenario_lines(report: Report, name: str, width: int) -> Iterator[str]:
    scenario, runs = report.scenarios[name], report.runs(name)
    yield f"Scenario {name}: {scenario.title}"
    if runs:
        shown = [measure for measure in SUMMARY if any_known(measure, runs)]
        rows = [[subject, *(measure.text(run) for measure in shown)] for subject, run in runs.items()]
        yield from tables(["subject", *(measure.short for measure in shown)], rows, width)
    yield from findings(runs)
    yield from (f"note: {note}" for note in other_notes(runs))


def tables(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """One table, or several below each other of which each begins with the first column."""
    chosen = [0]
    for column in range(1, len(header)):
        if len(chosen) > 1 and len(drawn(header, rows, [*chosen, column]).partition("\n")[0]) > width:
            yield drawn(header, rows, chosen)
            chosen = [0]
        chosen.append(column)
    yield drawn(header, rows, chosen)


def drawn(header: Sequence[str], rows: Sequence[Sequence[str]], columns: Sequence[int]) -> str:
    chosen = [[row[column] for column in columns] for row in [header, *rows]]
    return table(chosen[0], chosen[1:])


def fitting(lines: Sequence[str], width: int) -> Iterator[str]:
    """Sentences wrapped, tables as they are."""
    for line in lines:
        if "\n" in line:
            yield line
        else:
            yield from wrap(line, max(width, 20), subsequent_indent=INDENT, break_on_hyphens=False)
