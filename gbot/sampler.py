"""One log line every few seconds that tells how the server is doing. This is the one module that knows psutil.

``hub lag`` is how late a timer fires that should fire every LAG_PROBE_S, at worst since the last line: what a handler
that computes without ever waiting does to everybody else.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import gevent
import psutil

log = logging.getLogger(__name__)

LAG_PROBE_S = 0.1
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Load:
    """What the server's parts report: of this moment, but what has finished, failed, been refused … since the start.

    ``handlers_ran_s``: how many seconds the handlers that have ended took in all, waits included.
    ``db_``: connections to the bot's database, 0 without one; how often one was used and waited for, and how many
    seconds they were held and waited for in all.
    """

    running: int
    pool_size: int
    waiting: int
    pool_greenlets: int
    connections: int
    handlers_ran_s: float
    events_finished: int
    events_failed: int
    events_timed_out: int
    events_unhandled: int
    events_put_off: int
    events_dead: int
    events_held: int
    events_duplicate: int
    events_late: int
    outcomes_unsaved: int
    requests_refused: int
    api_calls: int
    api_calls_saved: int
    api_calls_waiting: int
    api_retries: int
    db_size: int
    db_open: int
    db_in_use: int
    db_waiting: int
    db_uses: int
    db_held_s: float
    db_waits: int
    db_waited_s: float
    db_timeouts: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the server, at ``at_s`` by the monotonic clock.

    Rates are since the look before, ``cpu_s`` since the start of the process; ``cores_percent`` has a number per core.
    """

    load: Load
    at_s: float
    greenlets: int
    events_per_s: float
    api_calls_per_s: float
    cpu_s: float
    cpu_percent: float
    cores_percent: tuple[float, ...]
    rss_bytes: int
    hub_lag_s: float
    open_files: int
    open_files_max: int

    def line(self) -> str:
        load = self.load
        cores = " ".join(f"{percent:.0f}" for percent in self.cores_percent)
        database = waits = ""
        if load.db_size:
            database = (
                f"database {load.db_in_use}/{load.db_size} in use, {load.db_open} open, {load.db_waiting} waiting; "
            )
            mean_ms = load.db_waited_s * 1000 / max(1, load.db_waits)
            waits = f", database waits {load.db_waits} (mean {mean_ms:.0f} ms), time-outs {load.db_timeouts}"
        return (
            f"handlers {load.running}/{load.pool_size} running, {load.waiting} waiting; "
            f"greenlets {self.greenlets}; events {self.events_per_s:.0f}/s; connections {load.connections}; "
            f"CPU {self.cpu_percent:.0f} % (cores {cores}); RSS {self.rss_bytes / MIB:.0f} MiB; "
            f"hub lag {self.hub_lag_s * 1000:.0f} ms; files {self.open_files}/{self.open_files_max}; "
            f"inbox {load.events_held} held, {load.outcomes_unsaved} outcomes unsaved; "
            f"API calls {self.api_calls_per_s:.0f}/s, {load.api_calls_waiting} waiting; {database}"
            f"since start: failed {load.events_failed}, timed out {load.events_timed_out}, dead {load.events_dead}, "
            f"put off {load.events_put_off}, unhandled {load.events_unhandled}, late {load.events_late}, "
            f"duplicates {load.events_duplicate}, refused requests {load.requests_refused}, "
            f"API calls {load.api_calls}, repeated {load.api_retries}, saved {load.api_calls_saved}{waits}"
        )

    def figures(self) -> dict[str, object]:
        """All of it as one flat object, for programs."""
        own = {name: value for name, value in dataclasses.asdict(self).items() if name != "load"}
        return own | dataclasses.asdict(self.load)


class GreenletCount:
    """How many greenlets are alive of those that were started since ``start``, by whomever: a spawn costs 1 µs more."""

    def __init__(self) -> None:
        self.alive = 0

    def start(self) -> None:
        gevent.Greenlet.add_spawn_callback(self._started)

    def stop(self) -> None:
        gevent.Greenlet.remove_spawn_callback(self._started)

    def _started(self, greenlet: gevent.Greenlet[..., object]) -> None:
        self.alive += 1
        greenlet.rawlink(self._ended)

    def _ended(self, greenlet: gevent.Greenlet[..., object]) -> None:
        self.alive -= 1


class Sampler:
    """Looks at the process and at ``read_load()`` every ``interval_s`` seconds and logs a line."""

    def __init__(self, read_load: Callable[[], Load], interval_s: float) -> None:
        self._read_load = read_load
        self._interval_s = interval_s
        self._process = psutil.Process(os.getpid())
        self._count = GreenletCount()
        self._greenlet: gevent.Greenlet[[], None] | None = None
        self._probe = gevent.get_hub().loop.timer(LAG_PROBE_S, LAG_PROBE_S)
        self._probe_due = 0.0
        self._lag_s = 0.0
        self._looked_at = 0.0
        self._events_before = self._api_calls_before = 0

    def start(self) -> None:
        self._count.start()
        self._probe_due = time.monotonic() + LAG_PROBE_S
        self._probe.start(self._measure_lag)
        self.sample()  # rates need a first look to start from
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        self._probe.stop()
        self._count.stop()
        if self._greenlet is not None:
            self._greenlet.kill()

    def sample(self) -> Sample:
        """Look now."""
        load, now = self._read_load(), time.monotonic()
        elapsed = now - self._looked_at
        per_s = 1 / elapsed if elapsed > 0 else 0.0
        sample = Sample(
            load=load,
            at_s=now,
            greenlets=load.pool_greenlets + self._count.alive,
            events_per_s=(load.events_finished - self._events_before) * per_s,
            api_calls_per_s=(load.api_calls - self._api_calls_before) * per_s,
            cpu_s=time.process_time(),
            cpu_percent=self._process.cpu_percent(),
            cores_percent=tuple(psutil.cpu_percent(percpu=True)),
            rss_bytes=self._process.memory_info().rss,
            hub_lag_s=self._lag_s,
            open_files=self._process.num_fds(),
            open_files_max=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        )
        self._looked_at, self._lag_s = now, 0.0
        self._events_before, self._api_calls_before = load.events_finished, load.api_calls
        return sample

    def _run(self) -> None:
        while True:
            gevent.sleep(self._interval_s)
            sample = self.sample()
            log.info("%s", sample.line(), extra={"sample": sample.figures()})

    def _measure_lag(self) -> None:
        now = time.monotonic()
        self._lag_s = max(self._lag_s, now - self._probe_due)
        self._probe_due = now + LAG_PROBE_S
