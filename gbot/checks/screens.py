"""What ``gbot check`` shows: findings in, a table or JSON out. Pure; the width and whether to colour are handed in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from gbot.checks.finding import Finding, State, passed
from gbot.inbox_screens import cells, clean, padded

GAP: Final = "  "
STATE_CELLS: Final = 4
TEXT_CELLS_MIN: Final = 24
ARROW: Final = "-> "
COLOURS: Final = {State.OK: "32", State.WARN: "33", State.FAIL: "31", State.SKIP: "2"}


def table_lines(findings: Sequence[Finding], width: int, *, colour: bool) -> list[str]:
    """One row for each finding, what to do below it, and a sentence about the whole."""
    name_cells = max((cells(finding.name) for finding in findings), default=0)
    before = STATE_CELLS + name_cells + 2 * len(GAP)
    rest = max(TEXT_CELLS_MIN, width - before)
    lines = []
    for finding in findings:
        state = _painted(finding.state, finding.state.value.ljust(STATE_CELLS), colour)
        first, *more = wrapped(clean(finding.found), rest)
        lines.append(f"{state}{GAP}{padded(finding.name, name_cells, False)}{GAP}{first}".rstrip())
        advice = wrapped(clean(finding.advice), rest - len(ARROW)) if finding.advice else []
        marked = [f"{ARROW if not at else ' ' * len(ARROW)}{line}" for at, line in enumerate(advice)]
        lines += [" " * before + line for line in [*more, *marked]]
    return [*lines, "", *wrapped(summary(findings), max(width, TEXT_CELLS_MIN))]


def _painted(state: State, text: str, colour: bool) -> str:
    return f"\x1b[{COLOURS[state]}m{text}\x1b[0m" if colour else text


def summary(findings: Sequence[Finding]) -> str:
    counts = {state: sum(finding.state is state for finding in findings) for state in State}
    told = ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
    if not passed(findings):
        return f"{told}. gbot serve would not start like this, or not do all of its work: mend what failed first."
    if counts[State.WARN]:
        return f"{told}. gbot serve can start like this, but look at what is warned of."
    return f"{told}. gbot serve can start like this."


def wrapped(text: str, width: int) -> list[str]:
    """The text in lines of no more than so many columns, broken at spaces wherever there is one; at least one line."""
    lines = [""]
    for word in _pieces(text, width):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if cells(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    return lines


def _pieces(text: str, width: int) -> Iterator[str]:
    """The words, and those that are wider than a line in parts."""
    for word in text.split():
        part = ""
        for character in word:
            if part and cells(part + character) > width:
                yield part
                part = ""
            part += character
        yield part


def findings_json(findings: Sequence[Finding]) -> str:
    """``{"ok": …, "checks": [{"name", "state", "found", "advice"[, "figures"]}]}``."""
    return json.dumps({"ok": passed(findings), "checks": list(map(_object, findings))})


def _object(finding: Finding) -> dict[str, Any]:
    words = {"name": finding.name, "state": finding.state, "found": finding.found, "advice": finding.advice}
    return {**words, "figures": dict(finding.figures)} if finding.figures else words
