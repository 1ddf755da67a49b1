"""A gbot whose handlers sleep and then ask a database, under load: one measurement of bench/scenario3.py.

Every figure of gbot is from its own sampler, between two of its lines; the rest is looked at when a line has come.
"""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from inboxes import Kind, connections_of
from measuring import Server, Unavailable
from waiting import BATCH, CLIENTS, SETTLE_S, WAIT_S, Posting, last_sample, loaded_server, wait_for

LOOK_TIMEOUT_S = 10.0
OPEN_TIMEOUT_S = 60.0
DELIVERED = 0.98  # of the asked rate has to be accepted
# In the last third of the time at most so many seconds' worth of events more are held than in the middle one, and what
# a few deliveries bring: a moment sooner or later.
GROWTH_S = 0.05
GROWTH_EVENTS = 2 * CLIENTS * len(BATCH)


@dataclass(frozen=True)
class Times:
    """How long everything takes, in seconds. ``settle`` is until as many events end as begin."""

    wait: tuple[float, float] = WAIT_S
    settle: float = SETTLE_S
    measure: float = 15.0
    step_settle: float = 4.0
    step: float = 8.0
    confirm: float = 60.0


QUICK = Times(wait=(0.2, 0.3), settle=1.0, measure=2.0, step_settle=1.0, step=2.0, confirm=2.0)


@dataclass(frozen=True)
class Plan:
    """One server, and how it is loaded at first."""

    db_pool: int
    handlers: int
    rate: float  # events per second
    times: Times


class Asking(Posting):
    """Deliveries of ten events on a bot that sleeps and then asks the database."""

    app = "bench.napping:asking_bot"

    def __init__(self, plan: Plan, url: str) -> None:
        super().__init__(plan.rate, plan.times.wait)
        self.options = ["--db-pool", str(plan.db_pool), "--db-warm", str(plan.db_pool)]
        self.environment["GBOT_DB"] = url


@dataclass(frozen=True)
class Look:
    """What was to be seen when the server's sampler had told something new, ``sample``."""

    sample: dict[str, Any]
    taken: int
    connections: int
    database_cpu_s: float
    database_rss_bytes: int


@dataclass(frozen=True)
class Finding:
    """What a load of one rate has found.

    Events *held* are those that were accepted and have not ended: asleep, or asking, or waiting for a place among the
    handlers. They are told as the medians of the middle and of the last third of the time.
    """

    db_pool: int
    handlers: int
    seconds: float
    asked_per_s: float
    accepted_per_s: float
    completed_per_s: float
    cpu_us_per_event: float
    cpu_share: float
    database_cpu_us_per_event: float | None
    connections_max: int
    in_use_mean: float
    waits_share: float
    wait_mean_ms: float
    timeouts: int
    held_middle: float
    held_end: float
    backlog_end: int
    rss_mb: float
    database_rss_mb: float | None
    cores_percent: list[float]
    delivered: bool  # nearly as many were accepted as were asked for
    bounded: bool  # that, and as many end as come, without a time-out
    missing: int | None = None
    failed: int | None = None


class Session:
    """A server under load."""

    def __init__(self, plan: Plan, server: Server, load: Asking, counters: Path, mysql: Kind) -> None:
        self.plan = plan
        self.server = server
        self.load = load
        self.counters = counters
        self.database = mysql.database
        self.connections: Callable[[], int] = lambda: 0

    def open(self) -> None:
        """Wait until all connections are open, so that none of the load has to pay for it."""
        deadline = time.monotonic() + OPEN_TIMEOUT_S
        while self.look().sample["db_open"] < self.plan.db_pool:
            if time.monotonic() > deadline:
                raise Unavailable(f"gbot did not open {self.plan.db_pool} connections within {OPEN_TIMEOUT_S:g} s")

    def look(self) -> Look:
        """When the sampler next tells something."""
        asked_at_s = time.monotonic()
        while (sample := self.sampled()) is None or sample["at_s"] < asked_at_s:
            if time.monotonic() > asked_at_s + LOOK_TIMEOUT_S:
                raise Unavailable(f"gbot's sampler has told nothing for {LOOK_TIMEOUT_S:g} s")
            time.sleep(0.02)
        cpu_s, rss_bytes = cpu_and_memory(self.database)
        return Look(sample, self.load.taken, self.connections(), cpu_s, rss_bytes)

    def sampled(self) -> dict[str, Any] | None:
        with contextlib.suppress(Unavailable):
            return last_sample(self.server)
        return None

    def measure(self, rate: float, settle_s: float, seconds: float) -> Finding:
        """The load at this rate, from when it has become steady."""
        self.load.go_on_at(rate)
        time.sleep(settle_s)
        looks = [self.look()]
        while looks[-1].sample["at_s"] < looks[0].sample["at_s"] + seconds:
            looks.append(self.look())
        return finding(self.plan, rate, looks, known=self.database is not None)

    def end(self, found: Finding) -> Finding:
        """Run all that was accepted to its end. What went wrong counts, whenever it did."""
        taken = self.load.end()
        missing = taken - wait_for(self.counters, taken)
        last = self.look().sample
        failed = last["events_failed"] + last["events_put_off"]
        return Finding(**{**asdict(found), "missing": missing, "failed": failed, "timeouts": last["db_timeouts"]})


def cpu_and_memory(process: psutil.Process | None) -> tuple[float, int]:
    if process is None:
        return 0.0, 0
    return sum(process.cpu_times()[:2]), process.memory_info().rss


@contextlib.contextmanager
def session(plan: Plan, mysql: Kind, core: int) -> Iterator[Session]:
    """A server with all its connections open, and the load on it; which has to be ended."""
    with (
        mysql.fresh() as url,
        connections_of(url) as connections,
        loaded_server(lambda _: Asking(plan, url), plan.handlers, core) as (server, load, counters),
    ):
        one = Session(plan, server, load, counters, mysql)
        one.connections = connections
        one.open()
        load.start(server)
        yield one


def finding(plan: Plan, rate: float, looks: Sequence[Look], known: bool) -> Finding:
    first, last = looks[0], looks[-1]
    seconds = last.sample["at_s"] - first.sample["at_s"]

    def grown(name: str) -> float:
        return float(last.sample[name] - first.sample[name])

    ended, waits = max(1.0, grown("events_finished")), grown("db_waits")
    third = max(1, len(looks) // 3)
    held_middle, held_end = (
        statistics.median(look.sample["events_held"] for look in part)
        for part in (looks[-2 * third : -third], looks[-third:])
    )
    accepted_per_s = (last.taken - first.taken) / seconds
    timeouts = round(grown("db_timeouts"))
    delivered = accepted_per_s >= DELIVERED * rate
    steady = held_end <= held_middle + GROWTH_S * rate + GROWTH_EVENTS
    cores = zip(*(look.sample["cores_percent"] for look in looks[1:]), strict=True)
    return Finding(
        db_pool=plan.db_pool,
        handlers=plan.handlers,
        seconds=seconds,
        asked_per_s=rate,
        accepted_per_s=accepted_per_s,
        completed_per_s=grown("events_finished") / seconds,
        cpu_us_per_event=grown("cpu_s") * 1e6 / ended,
        cpu_share=grown("cpu_s") / seconds,
        database_cpu_us_per_event=(last.database_cpu_s - first.database_cpu_s) * 1e6 / ended if known else None,
        connections_max=max(look.connections for look in looks),
        in_use_mean=grown("db_held_s") / seconds,
        waits_share=waits / max(1.0, grown("db_uses")),
        wait_mean_ms=grown("db_waited_s") * 1000 / waits if waits else 0.0,
        timeouts=timeouts,
        held_middle=held_middle,
        held_end=held_end,
        backlog_end=max(0, last.sample["events_held"] - last.sample["running"]),
        rss_mb=last.sample["rss_bytes"] / 2**20,
        database_rss_mb=last.database_rss_bytes / 2**20 if known else None,
        cores_percent=[statistics.mean(percents) for percents in cores],
        delivered=delivered,
        bounded=delivered and steady and not timeouts,
    )
