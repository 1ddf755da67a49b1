"""What does an event cost whose handler waits 2-3 s: asleep, or for the answer of a real call to an API?

    python bench/scenario2.py                                   pools of 5,000, 20,000 and 50,000, asleep and calling
    python bench/scenario2.py --only call --pools 5000 --json scenario2.json

Load arrives at a constant rate, chosen so that nearly all of the pool waits (SHARE of what it can do by Little's law),
and is measured once it is steady. The server runs on one core. On another runs what it waits for: for *sleep* a client
that posts ten events in a delivery; for *call* `gbot simulate line`, which sends signed deliveries of ten events and
serves the API, each of whose answers takes 2-3 s.
"""

import argparse
import contextlib
import http.client
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
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
    deliver,
    exit_on_sigterm,
    figure,
    free_port,
    pin_this_process,
    pinned,
    read_counters,
    running_server,
    say,
    server_environment,
    table,
    take_sample,
    two_cores,
    wait_until_ready,
    write_json,
)
from subjects import MEMORY, gbot_command, subjects

WAIT_S = (2.0, 3.0)
SHARE = 0.95  # of the events per second at which the pool would be full
BATCH = [str(number) for number in range(10)]
CLIENTS = 4  # threads that post, so that one late answer does not hold up the rest
SETTLE_S = 8.0  # until as many end as begin
SAMPLE_S = 0.5
END_TIMEOUT_S = 90.0
SECRETS = {"GBOT_LINE_CHANNEL_SECRET": "bench", "GBOT_LINE_CHANNEL_ACCESS_TOKEN": "bench"}
HELD = re.compile(rb"handlers (\d+)/\d+ running, .*; inbox (\d+) held")


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


class Poster(threading.Thread):
    """Posts its share of the deliveries at a constant rate, on one kept-alive connection."""

    def __init__(self, port: int, deliveries_per_s: float) -> None:
        super().__init__(name="poster", daemon=True)
        self.port = port
        self.pause_s = 1 / deliveries_per_s
        self.enough = threading.Event()
        self.taken = 0

    def run(self) -> None:
        connection = http.client.HTTPConnection(LOCALHOST, self.port, timeout=30)
        due = time.monotonic()
        with contextlib.closing(connection):
            while not self.enough.wait(max(0.0, due - time.monotonic())):
                try:
                    status, _ = deliver(connection, BATCH)
                except OSError:  # the server stops
                    return
                self.taken += len(BATCH) if status == 200 else 0
                due += self.pause_s


class Posting:
    """The load of *sleep*."""

    app = "bench.napping:bot"
    options: tuple[str, ...] = ()
    verdict: dict[str, Any] | None = None

    def __init__(self, plan: Plan, directory: Path, core: int) -> None:
        self.plan = plan
        self.environment = {"BENCH_NAP_S": "{}-{}".format(*WAIT_S)}
        self.posters: list[Poster] = []

    def prepare(self) -> None:
        """Nothing has to be there before the server."""

    def start(self, server: Server) -> None:
        per_s = self.plan.rate / len(BATCH) / CLIENTS
        self.posters = [Poster(server.port, per_s) for _ in range(CLIENTS)]
        for poster in self.posters:
            poster.start()

    def end(self) -> int:
        """Stop, and tell how many events the server has taken."""
        for poster in self.posters:
            poster.enough.set()
            poster.join(timeout=35)
        return sum(poster.taken for poster in self.posters)

    def close(self) -> None:
        for poster in self.posters:
            poster.enough.set()


class Simulating:
    """The load of *call*, and the API that is called."""

    app = "bench.napping:calling_bot"
    options = ("--platforms", "line", "--lanes", "line.reply: 100000 at once")

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

    def prepare(self) -> None:
        """The server only calls when it has events: the API may come after it."""

    def start(self, server: Server) -> None:
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


LOADS: dict[str, type[Posting] | type[Simulating]] = {"sleep": Posting, "call": Simulating}


def backlog(server: Server) -> int:
    """Accepted and not begun, by the last line of the server's sampler."""
    lines = HELD.findall(server.stderr.read_bytes())
    if not lines:
        raise Unavailable("the server has logged no line of its sampler")
    running, held = map(int, lines[-1])
    return max(0, held - running)


@contextlib.contextmanager
def loaded_server(plan: Plan, cores: tuple[int, int]) -> Iterator[tuple[Server, Posting | Simulating, Path]]:
    server_core, load_core = cores
    with tempfile.TemporaryDirectory(prefix="gbot-bench-") as name:
        directory = Path(name)
        load = LOADS[plan.kind](plan, directory, load_core)
        counters, port = directory / "counters", free_port()
        sizes = (
            "--pool",
            str(plan.pool),
            "--inbox-max",
            str(10 * plan.pool),
            "--sample-interval",
            "1",
            "--log-level",
            "info",
        )
        command = gbot_command(port, app=load.app, options=(*MEMORY, *sizes, *load.options))
        environment = {"BENCH_NAP_COUNTERS": str(counters), **load.environment}
        try:
            with running_server(
                "gbot", command, port=port, directory=directory, core=server_core, environment=environment
            ) as server:
                yield server, load, counters
        finally:
            load.close()


def measure(plan: Plan, cores: tuple[int, int]) -> Finding:
    say(f"{plan.kind}, pool {plan.pool:,}: {plan.rate:,.0f} events per second")
    with loaded_server(plan, cores) as (server, load, counters):
        idle = take_sample(server, counters)
        load.start(server)
        time.sleep(SETTLE_S)
        samples = [take_sample(server, counters)]
        while samples[-1].at_s < samples[0].at_s + plan.seconds:
            time.sleep(SAMPLE_S)
            samples.append(take_sample(server, counters))
        left = backlog(server)
        taken = load.end()
        missing = taken - wait_for(counters, taken)
    return finding(plan, idle, samples, left, missing, load.verdict)


def wait_for(counters: Path, expected: int) -> int:
    """Wait until so many events have ended; returns how many have."""
    deadline = time.monotonic() + END_TIMEOUT_S
    while read_counters(counters).woken < expected and time.monotonic() < deadline:
        time.sleep(SAMPLE_S)
    return read_counters(counters).woken


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
    header = ["handlers wait", "pool", "asked/s", "events/s", "CPU us/event", "of a core", "waiting", "KB/waiting"]
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
    parser.add_argument("--only", choices=list(LOADS), help="only this way of waiting")
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
    for kind in [given.only] if given.only else list(LOADS):
        for pool in map(int, given.pools.split(",")):
            rate = min(SHARE * pool / (sum(WAIT_S) / 2), rates_max[kind])
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
