"""What do 100,000 handlers asleep at once cost in memory, and how fast does gbot acknowledge meanwhile?

    python bench/sleepers.py --nap-s 45            100,000 asleep for 45 s: memory, and acks next to them
    python bench/sleepers.py                       naps of 2-3 s: as many as one core can put to sleep and wake again
    python bench/sleepers.py --sleepers 20000      naps of 2-3 s below saturation

Holding N handlers asleep with naps of 2.5 s takes N / 2.5 events per second: 40,000 for 100,000. Whether a core does
that is one of the results; when it does not, the table says how many it held. The server runs on one core, both
clients on another: one fills in batches of 100 events per delivery, one asks for acks at a constant rate
(bench/constant_rate.py), one event per delivery.
"""

import argparse
import contextlib
import http.client
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from measuring import (
    LOCALHOST,
    ROOT,
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
    table,
    take_sample,
    two_cores,
    wait_until_quiet,
    write_json,
)
from subjects import MEMORY, gbot_command, subjects

BATCH = [str(number) for number in range(100)]
APP = "bench.napping:bot"
REFUSED_PAUSE_S = 0.05
SAMPLE_S = 0.1
# Looking at the server takes milliseconds of the core on which the acks are timed.
SAMPLE_WHILE_PROBED_S = 0.5
# A little faster than the naps end, else the last of the sleepers would never be there.
PACE = 1.05


@dataclass(frozen=True)
class Plan:
    """What is asked for: how many handlers, how long each of them sleeps, and the load of the acks meanwhile."""

    sleepers: int
    nap_s: str
    rate: float
    seconds: float
    ramp_timeout_s: float
    options: tuple[str, ...]

    @property
    def full(self) -> float:
        """As good as all: a batch is always on its way, and short naps end all the time."""
        return 0.99 * self.sleepers

    @property
    def longest_nap_s(self) -> float:
        return float(self.nap_s.rpartition("-")[2])

    @property
    def events_per_s_max(self) -> float:
        """How fast to fill. Short naps begin evenly, else they would also end all at once, time and again."""
        if self.longest_nap_s > self.seconds:
            return math.inf
        shortest_nap_s = float(self.nap_s.partition("-")[0])
        return PACE * self.sleepers / ((shortest_nap_s + self.longest_nap_s) / 2)


@dataclass(frozen=True)
class Acks:
    """What bench/constant_rate.py prints."""

    deliveries: int
    failed: int
    ack_ms: dict[str, float]
    sent_late_ms: dict[str, float]


@dataclass(frozen=True)
class Finding:
    """One run. Events missing are those that were acked and never woke up again."""

    nap_s: str
    sleepers_wanted: int
    asleep_at_top: int
    asleep_while_probed: int
    kb_per_sleeper: float
    rss_before_mb: float
    rss_top_mb: float
    ramp_s: float
    naps_per_s_while_probed: float
    cpu_share_while_probed: float
    cpu_us_per_nap: float
    ack_ms: dict[str, float]
    acks: int
    acks_failed: int
    sent_late_p99_ms: float
    batches_refused: int
    events_missing: int


class Filler(threading.Thread):
    """Keeps as many events under way as there are to be sleepers, a batch per delivery, on one connection."""

    def __init__(self, port: int, counters: Path, plan: Plan) -> None:
        super().__init__(name="filler", daemon=True)
        self.port = port
        self.counters = counters
        self.plan = plan
        self.enough = threading.Event()
        self.probing_since_s: float | None = None
        self.sent = 0
        self.refused = 0
        self.failure: str | None = None

    def run(self) -> None:
        # Of this thread alone (Linux): the client whose clock is read shares the core and goes first.
        os.nice(10)
        connection = http.client.HTTPConnection(LOCALHOST, self.port, timeout=30)
        started = time.monotonic()
        try:
            while not self.enough.is_set():
                if self.sent < self.allowed(time.monotonic() - started):
                    self.fill(connection)
                else:
                    time.sleep(0.002)
        except (OSError, http.client.HTTPException) as error:
            self.failure = repr(error)
        finally:
            connection.close()

    def allowed(self, elapsed_s: float) -> float:
        """How many events may have been sent by now: those that woke up make room, the acks' own events take some."""
        probed_s = time.monotonic() - self.probing_since_s if self.probing_since_s else 0.0
        probes = self.plan.rate * min(probed_s, self.plan.seconds)
        room = self.plan.sleepers + read_counters(self.counters).woken - probes
        return min(room - len(BATCH) + 1, self.plan.events_per_s_max * elapsed_s)

    def fill(self, connection: http.client.HTTPConnection) -> None:
        status, _ = deliver(connection, BATCH)
        if status == 200:
            self.sent += len(BATCH)
        else:
            self.refused += 1
            time.sleep(REFUSED_PAUSE_S)

    def finish(self) -> None:
        self.enough.set()
        self.join(timeout=35)
        if self.failure:
            raise Unavailable(f"filling ended early: {self.failure}")


def ramp_up(server: Server, counters: Path, filler: Filler, plan: Plan) -> Sample:
    """Fills until all are asleep, or until their number has not grown for two naps; the fullest moment."""
    started = time.monotonic()
    top = take_sample(server, counters)
    filler.start()
    while time.monotonic() < started + plan.ramp_timeout_s and filler.is_alive():
        time.sleep(SAMPLE_S)
        sample = take_sample(server, counters)
        if sample.counters.asleep > top.counters.asleep:
            top = sample
        if sample.counters.asleep >= plan.full:
            break
        if top.counters.asleep and sample.at_s > top.at_s + 2 * plan.longest_nap_s:
            break
    say(f"  {top.counters.asleep:,} asleep after {top.at_s - started:.1f} s, {top.rss_bytes / 2**20:,.0f} MiB")
    return top


def probe_acks(server: Server, counters: Path, plan: Plan, core: int) -> tuple[Acks, list[Sample]]:
    """Acks at a constant rate from a process of its own, and what the server looked like meanwhile."""
    script = ROOT / "bench" / "constant_rate.py"
    load = ["--port", str(server.port), "--rate", str(plan.rate), "--seconds", str(plan.seconds)]
    client = subprocess.Popen(
        pinned([sys.executable, str(script), *load], core), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    samples = [take_sample(server, counters)]
    deadline = time.monotonic() + plan.seconds + 60
    try:
        while client.poll() is None and time.monotonic() < deadline:
            time.sleep(SAMPLE_WHILE_PROBED_S)
            samples.append(take_sample(server, counters))
    finally:
        client.terminate()
        out, err = client.communicate()
    if not out.startswith("{"):
        raise Unavailable(f"the constant-rate client failed: {(err.strip() or 'it printed nothing')[-200:]}")
    return Acks(**json.loads(out)), samples


def wait_until_all_woke(server: Server, counters: Path, expected: int, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and read_counters(counters).woken < expected:
        time.sleep(SAMPLE_S)
    # Events of deliveries whose ack failed may still be on their way, and outcomes may still be settled.
    wait_until_quiet(server, timeout_s=10)


@contextlib.contextmanager
def napping_gbot(plan: Plan, directory: Path, core: int) -> Iterator[tuple[Server, Path]]:
    port, counters = free_port(), directory / "counters"
    command = gbot_command(port, app=APP, options=plan.options)
    environment = {"BENCH_NAP_S": plan.nap_s, "BENCH_NAP_COUNTERS": str(counters)}
    with running_server("gbot", command, port=port, directory=directory, core=core, environment=environment) as server:
        wait_until_quiet(server, timeout_s=5)
        yield server, counters


def measure(plan: Plan) -> Finding:
    server_core, client_core = two_cores()
    pin_this_process(client_core)
    with (
        tempfile.TemporaryDirectory(prefix="gbot-bench-") as directory,
        napping_gbot(plan, Path(directory), server_core) as (server, counters),
    ):
        before = take_sample(server, counters)
        filler = Filler(server.port, counters, plan)
        say(f"filling up to {plan.sleepers:,} handlers, naps of {plan.nap_s} s")
        top = ramp_up(server, counters, filler, plan)
        say(f"{plan.rate:g} deliveries per second for {plan.seconds:g} s")
        filler.probing_since_s = time.monotonic()
        acks, samples = probe_acks(server, counters, plan, client_core)
        filler.finish()
        expected = filler.sent + acks.deliveries - acks.failed
        say("waiting until all have woken up")
        wait_until_all_woke(server, counters, expected, plan.longest_nap_s + 60)
        after = take_sample(server, counters)
    return finding(plan, filler, before, top, acks, samples, after, expected)


def finding(
    plan: Plan,
    filler: Filler,
    before: Sample,
    top: Sample,
    acks: Acks,
    samples: list[Sample],
    after: Sample,
    expected: int,
) -> Finding:
    first, last = samples[0], samples[-1]
    probed_s = last.at_s - first.at_s
    asleep = sorted(sample.counters.asleep for sample in samples)
    return Finding(
        nap_s=plan.nap_s,
        sleepers_wanted=plan.sleepers,
        asleep_at_top=top.counters.asleep,
        asleep_while_probed=asleep[len(asleep) // 2],
        kb_per_sleeper=(top.rss_bytes - before.rss_bytes) / 1024 / max(1, top.counters.asleep),
        rss_before_mb=before.rss_bytes / 2**20,
        rss_top_mb=top.rss_bytes / 2**20,
        ramp_s=top.at_s - before.at_s,
        naps_per_s_while_probed=(last.counters.woken - first.counters.woken) / probed_s,
        cpu_share_while_probed=(last.cpu_s - first.cpu_s) / probed_s,
        cpu_us_per_nap=cpu_us_per_nap(before, first, last, after),
        ack_ms=acks.ack_ms,
        acks=acks.deliveries,
        acks_failed=acks.failed,
        sent_late_p99_ms=acks.sent_late_ms["p99"],
        batches_refused=filler.refused,
        events_missing=max(0, expected - after.counters.woken),
    )


def cpu_us_per_nap(before: Sample, first: Sample, last: Sample, after: Sample) -> float:
    """CPU of one whole nap, its share of the delivery included, from the time in which no acks were asked for.

    A nap is half a falling asleep and half a waking up, so that naps which only began or only ended in that time
    count for what they cost in it.
    """
    cpu_s = (first.cpu_s - before.cpu_s) + (after.cpu_s - last.cpu_s)
    slept = first.counters.slept - before.counters.slept + after.counters.slept - last.counters.slept
    woken = first.counters.woken - before.counters.woken + after.counters.woken - last.counters.woken
    return cpu_s * 2e6 / max(1, slept + woken)


def report(plan: Plan, found: Finding) -> str:
    rows = [
        ["handlers asleep at the top", figure(found.asleep_at_top)],
        ["asleep while acks were asked for, median", figure(found.asleep_while_probed)],
        ["memory per sleeping handler", figure(found.kb_per_sleeper, 1, " KiB")],
        ["RSS before", figure(found.rss_before_mb, 0, " MiB")],
        ["RSS at the top", figure(found.rss_top_mb, 0, " MiB")],
        ["time to the top", figure(found.ramp_s, 1, " s")],
        ["CPU per nap: delivery, sleep, end", figure(found.cpu_us_per_nap, 1, " us")],
        ["naps ended while acks were asked for", figure(found.naps_per_s_while_probed, 0, "/s")],
        ["CPU of the server meanwhile, of one core", figure(found.cpu_share_while_probed * 100, 0, " %")],
        *[[f"ack {name}", figure(value, 2, " ms")] for name, value in found.ack_ms.items()],
        ["sent late (by the client, or for want of a free connection), p99", figure(found.sent_late_p99_ms, 2, " ms")],
        [f"acks failed, of {found.acks:,}", figure(found.acks_failed)],
        ["batches answered with another status than 200", figure(found.batches_refused)],
        ["events acked and never woken", figure(found.events_missing)],
    ]
    title = f"{plan.sleepers:,} sleepers, naps of {plan.nap_s} s, {plan.rate:g} deliveries per second meanwhile"
    lines = [title, "", table(["what", "figure"], rows)]
    if found.asleep_at_top < plan.full:
        lines.append(f"At most {found.asleep_at_top:,} were asleep at once; to hold more, longer naps: --nap-s 45")
    return "\n".join(lines)


def nap_range(text: str) -> str:
    if not re.fullmatch(r"\d+(\.\d+)?(-\d+(\.\d+)?)?", text) or float(text.rpartition("-")[2]) <= 0:
        raise argparse.ArgumentTypeError(f"expected seconds like 60 or 2-3, got {text!r}")
    return text


def parse_plan() -> tuple[Plan, Path | None]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sleepers", type=int, default=100_000, help="handlers asleep at once (default 100000)")
    parser.add_argument("--nap-s", type=nap_range, default="2-3", help="seconds, 60 or 2-3 (default 2-3)")
    parser.add_argument("--rate", type=float, default=500, help="deliveries per second for the acks (default 500)")
    parser.add_argument("--seconds", type=float, default=20, help="how long acks are asked for (default 20)")
    parser.add_argument("--ramp-timeout-s", type=float, default=120, help="at most this long to fill (default 120)")
    parser.add_argument("--pool", type=int, help="gbot's pool (default: as many as sleepers)")
    parser.add_argument("--inbox-max", type=int, help="gbot's inbox (default: twice as many)")
    parser.add_argument("--gbot-options", default="", metavar="OPTIONS", help="more options for gbot serve, one string")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything found into this file")
    given = parser.parse_args()
    sizes = ["--pool", str(given.pool or given.sleepers), "--inbox-max", str(given.inbox_max or 2 * given.sleepers)]
    options = (*sizes, *MEMORY, *given.gbot_options.split())
    plan = Plan(given.sleepers, given.nap_s, given.rate, given.seconds, given.ramp_timeout_s, options)
    return plan, given.json


def main() -> None:
    exit_on_sigterm()
    plan, json_file = parse_plan()
    gbot = subjects(sys.executable)["gbot"]
    busy = cpu_busy_percent()
    try:
        gbot.require()
        found = measure(plan)
    except Unavailable as reason:
        raise SystemExit(str(reason)) from reason
    print(report(plan, found))
    if json_file:
        result = {"machine_busy_percent": busy, "versions": gbot.versions(), "found": asdict(found)}
        write_json(json_file, {**circumstances(), **result})
        say(f"written: {json_file}")


if __name__ == "__main__":
    main()
