"""What stands out in a scenario, said in words, whoever comes off well, and what makes a report worthless. Pure."""

import re
from collections.abc import Mapping

from measuring import figure

from report.measures import CPU, P99, Measure, three_digits
from report.reading import GBOT, Number, Report, Run

Runs = Mapping[str, Run]

# A server that keeps up has its last handlers to wait for when the load ends. So much more than the quickest needed
# is worth a word.
LATE_S = 5.0
BUSY = re.compile(r"the machine was (\d+) % busy before the start")  # as a note of a run says it


def findings(runs: Runs) -> list[str]:
    """A few sentences, the most important first."""
    if not runs:
        return ["No subject was measured."]
    said = [rates(runs), *shortfalls(runs)]
    said.append(extremes("The p99 of the acknowledgement was", P99, "ms", runs))
    said.append(extremes("The CPU that an event cost was", CPU, "µs", runs))
    return [sentence for sentence in said if sentence]


def rates(runs: Runs) -> str:
    """Who completed how much: of what was asked, or against each other where as much was sent as each would take."""
    if shares := known({subject: run.share for subject, run in runs.items()}):
        first, *rest = sorted(shares, key=lambda subject: -round(shares[subject], 2))
        most = f"{first} completed {shares[first]:.2f} of what was asked"
        return f"{listed([most, *(f'{subject} {shares[subject]:.2f}' for subject in rest)])}."
    reached = known({subject: run.events_per_s for subject, run in runs.items()})
    if not reached:
        return "No subject completed an event that was counted."
    best, *rest = sorted(reached, key=lambda subject: -reached[subject])
    times = [f"{three_digits(reached[best] / reached[who])} times {who}" for who in rest if reached[who]]
    return (
        f"{best} completed {'most, ' * bool(rest)}{figure(reached[best])} events/s{': ' * bool(times)}{listed(times)}."
    )


def shortfalls(runs: Runs) -> list[str]:
    """A sentence for each subject that lost, refused or put off something; one for all when none did."""
    drains = known({subject: run.drain_s for subject, run in runs.items()})
    quickest_s = min(drains.values(), default=0.0)
    said = [sentence for subject, run in runs.items() if (sentence := shortfall(subject, run, quickest_s))]
    counted = all(None not in (run.left, run.failed, run.errors) for run in runs.values())
    if said or not counted:
        return said
    who = "Every subject" if len(runs) > 1 else next(iter(runs))
    return [f"{who} ran all events that it had accepted and answered all requests with success."]


def shortfall(subject: str, run: Run, quickest_s: float) -> str:
    parts = []
    if run.left:
        parts.append(f"left {figure(run.left)} {events(run.left)} behind")
    if run.failed:
        parts.append(f"failed {figure(run.failed)} {events(run.failed)}")
    if run.errors:
        parts.append(f"did not answer {figure(run.errors)} request{'s' * (run.errors != 1)} with success")
    if run.backlog and not run.left and run.drain_s is not None and run.drain_s > quickest_s + LATE_S:
        parts.append(f"needed {three_digits(run.drain_s)} s after the load to run its backlog of {figure(run.backlog)}")
    return f"{subject} {listed(parts)}." if parts else ""


def extremes(what: str, measure: Measure, unit: str, runs: Runs) -> str:
    """Where a figure was lowest and highest, and gbot's in between."""
    values = known({subject: measure.value(run) for subject, run in runs.items() if run.completed != 0})
    if not values:
        return ""
    order = sorted(values, key=values.__getitem__)
    if len(order) == 1:
        return f"{what} {three_digits(values[order[0]])} {unit} for {order[0]}."
    written = {subject: f"{subject} ({three_digits(values[subject])} {unit})" for subject in order}
    between = f"; {GBOT} had {three_digits(values[GBOT])} {unit}" if GBOT in order[1:-1] else ""
    return f"{what} lowest for {written[order[0]]} and highest for {written[order[-1]]}{between}."


def known(values: Mapping[str, Number]) -> dict[str, float]:
    return {subject: value for subject, value in values.items() if value is not None}


def events(count: float) -> str:
    return "event" if count == 1 else "events"


def listed(parts: list[str]) -> str:
    """a, b and c"""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def disturbed(report: Report) -> str:
    """What makes its figures worth little, or an empty text."""
    told = []
    for name in report.scenarios:
        found = {who: percent for who, run in report.runs(name).items() if (percent := busy_percent(run)) is not None}
        if found:
            told.append(f"scenario {name}: {listed([f'{who} {percent} %' for who, percent in found.items()])}")
    if not told:
        return ""
    return (
        "The machine was busy with something else: throw this result away, and measure again when it has nothing else "
        f"to do. So busy it was before the start: {'; '.join(told)}."
    )


def busy_percent(run: Run) -> int | None:
    return max((int(found[1]) for note in run.notes if (found := BUSY.fullmatch(note))), default=None)


def other_notes(runs: Runs) -> list[str]:
    """The notes of all runs, each with its subject, less what `disturbed` says."""
    return [f"{who}: {note}" for who, run in runs.items() for note in run.notes if not BUSY.fullmatch(note)]
