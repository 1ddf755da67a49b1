"""What does an event cost whose handler waits 2-3 s: asleep, or for the answer of a real call to an API?

    python bench/scenario2.py                                   pools of 5,000, 20,000 and 50,000, asleep and calling
    python bench/scenario2.py --only call --pools 5000 --json scenario2.json

Load arrives at a constant rate, chosen so that nearly all of the pool waits (SHARE of what it can do by Little's law),
and is measured once it is steady. The server runs on one core. On another runs what it waits for: for *sleep* a client
that posts ten events in a delivery; for *call* `gbot simulate line`, which sends signed deliveries of ten events and
serves the API, each of whose answers takes 2-3 s.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from measuring import (
    LOCALHOST,
    Sample,
    Server,
    Unavailable,
    circumstances,
    cpu_busy_percent,
    exit_on_sigterm,
    figure,
    free_port,
    pin_this_process,
    pinned,
    say,
    server_environment,
    table,
    take_sample,
    two_cores,
    wait_until_ready,
    write_json,
)
from subjects import subjects
from waiting import (
    END_TIMEOUT_S,
    SAMPLE_S,
    SETTLE_S,
    WAIT_S,
    Posting,
    fitting_rate,
    last_sample,
    loaded_server,
    wait_for,
)

SECRETS = {"GBOT_LINE_CHANNEL_SECRET": "bench", "GBOT_LINE_CHANNEL_ACCESS_TOKEN": "bench"}


@dataclass(frozen=True)
class Plan:
    """One measurement."""

    kind: str  # sleep or call
    pool: int
    rate: float  # events per second
    seconds: float


@dataclass(frozen=True)
class Finding:
    """What one measurement has found. The backlog is what was accepted and had not begun when the window ended."""

    kind: str
    pool: int
    asked_per_s: float
    completed_per_s: float
    cpu_us_per_event: float
    cpu_share: float
    waiting: int
    kb_per_waiting: float
    backlog: int
    missing: int
    verdict: dict[str, Any] | None


class Simulating:
    """The load of *call*, and the API that is called."""

    app = "bench.napping:calling_bot"
    options: Sequence[str] = ("--platforms", "line", "--lanes", "line.reply: 100000 at once")

    def __init__(self, plan: Plan, directory: Path, core: int) -> None:
        self.plan = plan
        self.core = core
        self.api_port = free_port()
        base = f"http://{LOCALHOST}:{self.api_port}"
        self.environment = {**SECRETS, "GBOT_LINE_API_BASE": base, "GBOT_LINE_CONTENT_BASE": base}
        self.json = directory / "verdict.json"
        self.output = (directory / "simulator").open("w+b")
        self.process: subprocess.Popen[bytes] | None = None
        self.verdict: dict[str, Any] | None = None

    def start(self, server: Server) -> None:
        """The server only calls when it has events: the API may come after it."""
        plan = self.plan
        command = [
            sys.executable,
            "-m",
            "gbot",
            "simulate",
            "line",
            "--to",
            f"http://{LOCALHOST}:{server.port}/callback/line",
        ]
        command += ["--rate", f"{plan.rate:.0f}/s", "--seconds", f"{SETTLE_S + plan.seconds + 2:.0f}s", "--batch", "10"]
        command += [
            "--users",
            "1000000",
            "--latency",
            "{:g}-{:g}s".format(*WAIT_S),
            "--wait",
            "60s",
            "--no-rate-limits",
        ]
        command += ["--api-port", str(self.api_port), "--json", str(self.json)]
        self.process = subprocess.Popen(
            pinned(command, self.core),
            stdout=self.output,
            stderr=self.output,
            env=server_environment(SECRETS),
            start_new_session=True,
        )
        wait_until_ready(Server("the simulator", self.process, self.api_port, self.json, Path(self.output.name)))

    def end(self) -> int:
        assert self.process is not None
        self.process.wait(END_TIMEOUT_S)
        self.verdict = json.loads(self.json.read_text())
        return int(self.verdict["events"]["taken"])

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait()
        self.output.close()


KINDS = ("sleep", "call")


def measure(plan: Plan, cores: tuple[int, int]) -> Finding:
    say(f"{plan.kind}, pool {plan.pool:,}: {plan.rate:,.0f} events per second")

    def make_load(directory: Path) -> Posting | Simulating:
        return Posting(plan.rate) if plan.kind == "sleep" else Simulating(plan, directory, cores[1])

    with loaded_server(make_load, plan.pool, cores[0]) as (server, load, counters):
        idle = take_sample(server, counters)
        load.start(server)
        time.sleep(SETTLE_S)
        samples = [take_sample(server, counters)]
        while samples[-1].at_s < samples[0].at_s + plan.seconds:
            time.sleep(SAMPLE_S)
            samples.append(take_sample(server, counters))
        left = backlog(last_sample(server))
        taken = load.end()
        missing = taken - wait_for(counters, taken)
    verdict = load.verdict if isinstance(load, Simulating) else None
    return finding(plan, idle, samples, left, missing, verdict)


def backlog(sample: dict[str, Any]) -> int:
    """Accepted and not begun, by the server's sampler."""
    return max(0, sample["events_held"] - sample["running"])


def finding(
    plan: Plan, idle: Sample, samples: Sequence[Sample], left: int, missing: int, verdict: dict[str, Any] | None
) -> Finding:
    first, last = samples[0], samples[-1]
    fullest = max(samples, key=lambda sample: sample.counters.asleep)
    ended, took_s = last.counters.woken - first.counters.woken, last.at_s - first.at_s
    waiting = sorted(sample.counters.asleep for sample in samples)
    return Finding(
        kind=plan.kind,
        pool=plan.pool,
        asked_per_s=plan.rate,
        completed_per_s=ended / took_s,
        cpu_us_per_event=(last.cpu_s - first.cpu_s) * 1e6 / max(1, ended),
        cpu_share=(last.cpu_s - first.cpu_s) / took_s,
        waiting=waiting[len(waiting) // 2],
        kb_per_waiting=(fullest.rss_bytes - idle.rss_bytes) / 1024 / max(1, fullest.counters.asleep),
        backlog=left,
        missing=missing,
        verdict=verdict,
    )


def report(findings: Sequence[Finding]) -> str:
    header = ["handlers wait", "pool", "asked/s", "events/s", "CPU us/event", "of a core", "waiting", "KiB/waiting"]
    rows = [
        [
            f"{found.kind} {WAIT_S[0]:g}-{WAIT_S[1]:g} s",
            figure(found.pool),
            figure(found.asked_per_s),
            figure(found.completed_per_s),
            figure(found.cpu_us_per_event, 1),
            figure(found.cpu_share * 100, 0, " %"),
            figure(found.waiting),
            figure(found.kb_per_waiting, 1),
            figure(found.backlog),
            figure(found.missing),
        ]
        for found in findings
    ]
    return table([*header, "backlog", "missing"], rows)


def parse() -> tuple[list[Plan], Path | None]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pools", default="5000,20000,50000", metavar="N,…", help="sizes (default 5000,20000,50000)")
    parser.add_argument("--only", choices=KINDS, help="only this way of waiting")
    parser.add_argument("--seconds", type=float, default=15, help="how long to measure (default 15)")
    parser.add_argument("--rate-max", type=float, default=25_000, help="events per second at most (default 25000)")
    parser.add_argument(
        "--call-rate-max",
        type=float,
        default=3_000,
        help="the same for calls: the other core serves them (default 3000)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything found into this file")
    given = parser.parse_args()
    rates_max = {"sleep": given.rate_max, "call": given.call_rate_max}
    plans = []
    for kind in [given.only] if given.only else KINDS:
        for pool in map(int, given.pools.split(",")):
            rate = min(fitting_rate(pool), rates_max[kind])
            plans.append(Plan(kind, pool, rate, given.seconds))
    return plans, given.json


def main() -> None:
    exit_on_sigterm()
    plans, json_file = parse()
    gbot = subjects(sys.executable)["gbot"]
    busy = cpu_busy_percent()
    try:
        gbot.require()
        cores = two_cores()
        pin_this_process(cores[1])
        findings = [measure(plan, cores) for plan in plans]
    except Unavailable as reason:
        raise SystemExit(str(reason)) from reason
    print(report(findings))
    if json_file:
        result = {"machine_busy_percent": busy, "versions": gbot.versions(), "found": [asdict(one) for one in findings]}
        write_json(json_file, {**circumstances(), **result})
        say(f"written: {json_file}")


if __name__ == "__main__":
    main()
