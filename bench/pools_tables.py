"""What bench/pools.py has found: figures of every round, medians, tables, and the musts they are judged by.

Imported after monkey-patching only.
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from durability_tables import Must, judgement
from measuring import figure, table
from pools_contenders import BARE, OURS
from pools_faults import SLOW_S, Killed

SOME = 50  # greenlets
LEAST = 0.95  # of what the bare list does
WARM_MAX_S = 5.0
NOTE = "Where greenlets are more than connections, the bare list has a semaphore to wait at, which keeps no order."


@dataclass(frozen=True)
class Turn:
    """One contender in one round."""

    per_s: float
    cpu_us: float


@dataclass(frozen=True)
class Wait:
    """How long one waits for a connection."""

    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True)
class Match:
    """So many greenlets on so many connections: everybody's turns, round by round, and their waits."""

    connections: int
    greenlets: int
    turns: dict[str, list[Turn]]
    waits: dict[str, Wait]

    def by_bare(self, name: str, field: str) -> float:
        """The median over the rounds of a figure by that of the bare list in the same round."""
        pairs = zip(self.turns[name], self.turns[BARE], strict=True)
        ratios: list[float] = [getattr(mine, field) / getattr(bare, field) for mine, bare in pairs]
        return statistics.median(ratios)

    def middle(self, name: str, field: str) -> float:
        values: list[float] = [getattr(turn, field) for turn in self.turns[name]]
        return statistics.median(values)


@dataclass(frozen=True)
class Warming:
    """Opening connections: how many, in how many seconds."""

    connections: int
    seconds: float


@dataclass(frozen=True)
class Findings:
    matches: list[Match]
    warmed: list[Warming]
    steady_warmed: list[Warming]
    killed: dict[str, Killed]
    waited_s: dict[str, float]


def operations_table(matches: Sequence[Match]) -> str:
    rows = [
        [
            name,
            figure(one.connections),
            figure(one.greenlets),
            figure(one.middle(name, "per_s")),
            figure(one.by_bare(name, "per_s"), 3),
            figure(one.middle(name, "cpu_us"), 1),
            figure(one.by_bare(name, "cpu_us"), 3),
            *(figure(value, 2) for value in asdict(one.waits[name]).values()),
        ]
        for one in matches
        for name in one.turns
    ]
    header = ["SELECT NOW()", "connections", "greenlets", "per s", "x bare", "CPU us", "x bare"]
    return table([*header, "wait p50 ms", "p99 ms", "max ms"], rows)


def warming_table(found: Findings) -> str:
    rows = []
    for ours, steady in zip(found.warmed, found.steady_warmed, strict=True):
        whole_s = steady.seconds * ours.connections / steady.connections
        reckoned = steady.connections < ours.connections
        how = f"one by one, reckoned from {steady.connections:,}" if reckoned else "one by one"
        rows += [
            [OURS, figure(ours.connections), figure(ours.seconds, 2), "several at once"],
            ["DBUtils", figure(ours.connections), figure(whole_s, 2), how],
        ]
    return table(["all connections opened", "connections", "seconds", "how"], rows)


def faults_table(found: Findings) -> str:
    rows = [
        [name, figure(one.executed), one.told, figure(found.waited_s[name] * 1000, 1)]
        for name, one in found.killed.items()
    ]
    header = ["when something goes wrong", "killed call: executed", "its caller was told"]
    return table([*header, f"wait for another's {SLOW_S:g} s of connecting, ms"], rows)


def musts(found: Findings) -> list[Must]:
    """What was asked of our pool, at the numbers of connections that were tried."""
    compared = [
        Must(
            f"gbot by bare LIFO, {one.connections:,} connections, {one.greenlets} greenlets",
            LEAST,
            one.by_bare(OURS, "per_s"),
            True,
        )
        for one in found.matches
        if one.greenlets == SOME
    ]
    most = max(found.warmed, key=lambda warming: warming.connections)
    return [*compared, Must(f"{most.connections:,} connections open, s", WARM_MAX_S, most.seconds, False)]


def report(found: Findings, title: str) -> str:
    operations = f"{operations_table(found.matches)}\n{NOTE}"
    return "\n\n".join([title, operations, warming_table(found), faults_table(found), judgement(musts(found))])


def as_json(found: Findings) -> dict[str, object]:
    matches = [
        {
            "connections": one.connections,
            "greenlets": one.greenlets,
            "found": {
                name: {
                    "per_s": one.middle(name, "per_s"),
                    "per_s_by_bare": one.by_bare(name, "per_s"),
                    "cpu_us": one.middle(name, "cpu_us"),
                    "cpu_us_by_bare": one.by_bare(name, "cpu_us"),
                    "wait": asdict(one.waits[name]),
                    "rounds": [asdict(turn) for turn in turns],
                }
                for name, turns in one.turns.items()
            },
        }
        for one in found.matches
    ]
    return {
        "matches": matches,
        "warmed": {
            "gbot": [asdict(one) for one in found.warmed],
            "dbutils": [asdict(one) for one in found.steady_warmed],
        },
        "killed": {name: asdict(one) for name, one in found.killed.items()},
        "waited_for_another_s": found.waited_s,
        "musts": [{**asdict(must), "met": must.met} for must in musts(found)],
    }
