"""What does an event cost whose handler waits 2-3 s and then asks a database, and how many connections does that take?

    python bench/scenario3.py --start-mariadb                      all of it, about nine minutes
    python bench/scenario3.py --start-mariadb --pools 50 --search-pools ''

A handler sleeps 2-3 s, as if it called an API, then asks SELECT NOW() through ctx.db. Deliveries of ten events arrive
at a constant rate. First the same rate, at which nearly all of --handlers wait, with pools of different sizes, all of
whose connections are opened before. Then the highest rate that can be kept up: it rises in steps until more events come
than end, and the last one at which as many end as come is confirmed on a fresh server for --confirm-seconds.

gbot runs on one core, the database and the load on another.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from asking import QUICK, Finding, Plan, Times, session
from durability_tables import Must, judgement
from inboxes import Kind, add_options, mysql_version, roomy_mysql
from measuring import (
    Unavailable,
    circumstances,
    cpu_busy_percent,
    exit_on_sigterm,
    figure,
    pin_this_process,
    say,
    table,
    two_cores,
    write_json,
)
from subjects import subjects
from waiting import fitting_rate
from wrk import positive

CONFIRMATIONS_MAX = 3
CPU_MAX_US, CPU_AIM_US = 150.0, 100.0


@dataclass(frozen=True)
class Search:
    """The steps with one pool, and the confirmations, of which the last counts."""

    db_pool: int
    steps: list[Finding]
    confirmations: list[Finding]

    @property
    def confirmed(self) -> Finding | None:
        return next((found for found in self.confirmations if found.bounded), None)


def measure(plan: Plan, mysql: Kind, core: int, seconds: float) -> Finding:
    """One rate on a fresh server, until everything has ended."""
    say(f"{plan.db_pool:,} connections, {plan.handlers:,} handlers: {plan.rate:,.0f} events/s for {seconds:g} s")
    with session(plan, mysql, core) as server:
        found = server.end(server.measure(plan.rate, plan.times.settle, seconds))
    say(f"  {found.completed_per_s:,.0f} events/s, {found.cpu_us_per_event:.0f} us of CPU each, {words(found)}")
    return found


def words(found: Finding) -> str:
    """How well it went, for whoever watches."""
    if not found.delivered:
        return f"only {found.accepted_per_s:,.0f} events/s were accepted"
    held = f"{found.held_middle:,.0f} held, then {found.held_end:,.0f}"
    if found.timeouts:
        return f"{held}, {found.timeouts:,} time-outs"
    return held if found.bounded else f"{held}: more than end"


def climb(plan: Plan, mysql: Kind, core: int, rate_step: float, rate_max: float) -> list[Finding]:
    """One server, whose load rises until it cannot keep up, twice at the same rate: the machine may have stumbled."""
    say(f"{plan.db_pool:,} connections: how many events/s?")
    steps: list[Finding] = []
    rate, failures = plan.rate, 0
    with session(plan, mysql, core) as server:
        while rate <= rate_max and failures < 2:
            step = server.measure(rate, plan.times.step_settle, plan.times.step)
            say(f"  {rate:,.0f}/s: {step.cpu_share * 100:.0f} % of a core, {words(step)}")
            steps.append(step)
            rate, failures = (rate + rate_step, 0) if step.bounded else (rate, failures + 1)
        server.end(steps[-1])
    return steps


def search(plan: Plan, mysql: Kind, core: int, rate_step: float, rate_max: float) -> Search:
    steps = climb(plan, mysql, core, rate_step, rate_max)
    confirmations: list[Finding] = []
    rate = max((step.asked_per_s for step in steps if step.bounded), default=0.0)
    while rate > 0 and len(confirmations) < CONFIRMATIONS_MAX:
        again = Plan(plan.db_pool, plan.handlers, rate, plan.times)
        confirmations.append(measure(again, mysql, core, plan.times.confirm))
        if confirmations[-1].bounded:
            break
        rate -= rate_step
    return Search(plan.db_pool, steps, confirmations)


# What was found.


def findings_table(title: str, findings: Sequence[Finding]) -> str:
    rows = [
        [
            figure(found.db_pool),
            figure(found.asked_per_s),
            figure(found.completed_per_s),
            figure(found.cpu_us_per_event, 1),
            figure(found.cpu_share * 100, 0, " %"),
            figure(found.database_cpu_us_per_event, 1),
            figure(found.connections_max),
            figure(found.in_use_mean, 1),
            figure(found.waits_share * 100, 1, " %"),
            figure(found.wait_mean_ms, 1),
            figure(found.timeouts),
            f"{figure(found.held_middle)}, {figure(found.held_end)}",
            figure(found.backlog_end),
            figure(found.missing),
            figure(found.rss_mb),
            figure(found.database_rss_mb),
        ]
        for found in findings
    ]
    header = [
        "db pool",
        "asked/s",
        "events/s",
        "CPU us/event",
        "of a core",
        "database",
        "connections",
        "in use",
        "wait",
    ]
    header += ["for ms", "time-outs", "held", "backlog", "missing", "RSS MiB", "database MiB"]
    return f"{title}\n\n{table(header, rows)}"


def musts(findings: Sequence[Finding], searches: Sequence[Search]) -> list[Must]:
    confirmed = [found for one in searches if (found := one.confirmed)]
    costs = [found.cpu_us_per_event for found in [*findings, *confirmed]]
    most = max(costs, default=None)
    rows = [Must("CPU us/event, at most", CPU_MAX_US, most, False), Must("the same, aim", CPU_AIM_US, most, False)]
    for one in searches:
        found = one.confirmed
        at = f"{found.asked_per_s:,.0f} events/s for {found.seconds:.0f} s" if found else "no rate"
        timeouts = float(found.timeouts) if found else None
        rows.append(Must(f"time-outs, {one.db_pool:,} connections, {at}", 0.0, timeouts, False))
    return rows


def report(findings: Sequence[Finding], searches: Sequence[Search]) -> str:
    parts = []
    if findings:
        handlers = findings[0].handlers
        parts.append(findings_table(f"{handlers:,} handlers, nearly all of which wait", findings))
    if confirmed := [found for one in searches if (found := one.confirmed)]:
        parts.append(findings_table("The highest rate at which as many events end as come", confirmed))
    return "\n\n".join([*parts, judgement(musts(findings, searches))])


def sizes(text: str) -> list[int]:
    return [positive(part) for part in text.split(",") if part]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--pools",
        type=sizes,
        default=[50, 200, 1000, 5000],
        metavar="N,…",
        help="connections (default 50,200,1000,5000)",
    )
    parser.add_argument("--handlers", type=positive, default=5000, help="that wait at once there (default 5000)")
    parser.add_argument(
        "--search-pools",
        type=sizes,
        default=[50, 5000],
        metavar="N,…",
        help="connections with which the highest rate is looked for (default 50,5000; '' for none)",
    )
    parser.add_argument("--rate-from", type=positive, default=4000, help="where that begins, events/s (default 4000)")
    parser.add_argument("--rate-step", type=positive, default=1000, help="and by how much it rises (default 1000)")
    parser.add_argument("--rate-max", type=positive, default=12_000, help="and where it ends (default 12000)")
    parser.add_argument(
        "--confirm-seconds", type=positive, default=round(Times.confirm), help="how long it is confirmed (default 60)"
    )
    parser.add_argument("--quick", action="store_true", help="naps and windows that tell nothing: to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything found into this file")
    add_options(parser)
    return parser.parse_args()


def measured(given: argparse.Namespace, mysql: Kind, core: int) -> tuple[list[Finding], list[Search]]:
    times = QUICK if given.quick else Times(confirm=given.confirm_seconds)
    rate = fitting_rate(given.handlers, times.wait)
    findings = [measure(Plan(size, given.handlers, rate, times), mysql, core, times.measure) for size in given.pools]
    # So many that their pool is full at no rate.
    handlers = round(2 * given.rate_max * max(times.wait))
    searches = [
        search(Plan(size, handlers, given.rate_from, times), mysql, core, given.rate_step, given.rate_max)
        for size in given.search_pools
    ]
    return findings, searches


def main() -> None:
    exit_on_sigterm()
    given = parse_arguments()
    gbot = subjects(sys.executable)["gbot"]
    busy = cpu_busy_percent()
    try:
        gbot.require()
        cores = two_cores()
        with roomy_mysql(given, max([*given.pools, *given.search_pools], default=0)) as mysql:
            pin_this_process(cores[1])
            findings, searches = measured(given, mysql, cores[0])
            versions = {**gbot.versions(), "database": mysql_version(mysql)}
    except Unavailable as reason:
        raise SystemExit(str(reason)) from reason
    print(report(findings, searches))
    if given.json:
        found = {"found": [asdict(one) for one in findings], "searches": [asdict(one) for one in searches]}
        judged = [{**asdict(must), "met": must.met} for must in musts(findings, searches)]
        result = {"machine_busy_percent": busy, "versions": versions, **found, "musts": judged}
        write_json(given.json, {**circumstances(), **result})
        say(f"written: {given.json}")


if __name__ == "__main__":
    main()
