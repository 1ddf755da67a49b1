"""All measurements of bench/run.py one after the other, with their progress, and one run of several rounds."""

import traceback
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from measuring import Unavailable, figure, say

from suite.cases import Case
from suite.measurement import measure

Run = dict[str, Any]  # as the report has it
Runs = dict[str, dict[str, list[Run]]]  # scenario, subject, rounds


def measure_all(cases: Sequence[Case], cores: tuple[int, int], skipped: dict[str, str]) -> Runs:
    """Who fails in a scenario is skipped in its other rounds, and takes part in the other scenarios."""
    found: Runs = defaultdict(lambda: defaultdict(list))
    failed: set[tuple[str, str]] = set()
    for number, case in enumerate(cases, 1):
        scenario, left_s = case.scenario.name, sum(one.duration_s() for one in cases[number - 1 :])
        if (scenario, case.name) in failed:
            continue
        say(f"{number} of {len(cases)}: scenario {scenario}, {case.name}; {duration(left_s)} to the end of all")
        try:
            run = measure(case, cores)
        except Exception as reason:  # whatever it is, what was measured before is worth a report
            if not isinstance(reason, Unavailable):
                traceback.print_exc()
            failed.add((scenario, case.name))
            before = f"{skipped[case.name]}; " if case.name in skipped else ""
            skipped[case.name] = f"{before}scenario {scenario}: {reason}"
            say(f"  skipped: {reason}")
            continue
        found[scenario][case.name].append(run)
        say(f"  {in_short(run)}")
    return found


def duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def in_short(run: Run) -> str:
    return (
        f"{figure(run['events_per_s'])} events/s, p99 {run['ack_ms']['p99']:.1f} ms; "
        f"{run['left']} events left, {run['failed']} failed; {run['errors']} errors"
    )


def middle_of(rounds: Sequence[Run]) -> Run:
    """The round in the middle by events per second, with a word about all of them: a median would hide what failed."""
    ordered = sorted(rounds, key=lambda run: run["events_per_s"])
    chosen = ordered[(len(ordered) - 1) // 2]
    if len(rounds) == 1:
        return chosen
    notes = [f"the middle one of {len(rounds)} rounds, with {all_of(rounds, 'events_per_s')} events/s"]
    notes += [
        f"{name} in these rounds: {all_of(rounds, name)}"
        for name in ("left", "failed", "errors")
        if any(run[name] for run in rounds)
    ]
    return {**chosen, "notes": [*chosen["notes"], *notes]}


def all_of(rounds: Sequence[Run], name: str) -> str:
    return ", ".join(figure(run[name]) for run in rounds)
