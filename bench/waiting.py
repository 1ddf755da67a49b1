"""A gbot whose handlers wait, and deliveries at a constant rate: what scenario2.py and scenario3.py share.

gbot runs on one core and logs a line of its sampler every second, in JSON; whoever loads it does so from another. All
that was accepted is run to its end before a measurement is over.
"""

import contextlib
import http.client
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from measuring import LOCALHOST, Server, Unavailable, deliver, free_port, read_counters, running_server
from subjects import MEMORY, gbot_command

WAIT_S = (2.0, 3.0)
SHARE = 0.95  # of the events per second at which the pool would be full
BATCH = [str(number) for number in range(10)]
CLIENTS = 4  # threads that post, so that one late answer does not hold up the rest
SETTLE_S = 8.0  # until as many end as begin
SAMPLE_S = 0.5
END_TIMEOUT_S = 90.0


def fitting_rate(pool: int, wait_s: tuple[float, float] = WAIT_S) -> float:
    """Events per second at which nearly all of so many handlers wait, by Little's law."""
    return SHARE * pool / (sum(wait_s) / 2)


class Load(Protocol):
    """What is put on a server, and what the server has to be started with for it."""

    app: str
    options: Sequence[str]
    environment: dict[str, str]

    def start(self, server: Server) -> None: ...

    def end(self) -> int:
        """Stop, and tell how many events the server has taken."""

    def close(self) -> None: ...


class Poster(threading.Thread):
    """Posts its share of the deliveries at a constant rate, on one kept-alive connection."""

    def __init__(self, port: int, pause_s: float) -> None:
        super().__init__(name="poster", daemon=True)
        self.port = port
        self.pause_s = pause_s
        self.due_s = time.monotonic()
        self.enough = threading.Event()
        self.taken = 0

    def run(self) -> None:
        connection = http.client.HTTPConnection(LOCALHOST, self.port, timeout=30)
        with contextlib.closing(connection):
            while not self.enough.wait(max(0.0, self.due_s - time.monotonic())):
                try:
                    status, _ = deliver(connection, BATCH)
                except OSError:  # the server stops
                    return
                self.taken += len(BATCH) if status == 200 else 0
                self.due_s += self.pause_s


class Posting:
    """Deliveries of ten events on a bot that sleeps."""

    app = "bench.napping:bot"
    options: Sequence[str] = ()

    def __init__(self, rate: float, wait_s: tuple[float, float] = WAIT_S) -> None:
        self.rate = rate
        self.environment = {"BENCH_NAP_S": "{}-{}".format(*wait_s)}
        self.posters: list[Poster] = []

    @property
    def taken(self) -> int:
        return sum(poster.taken for poster in self.posters)

    def start(self, server: Server) -> None:
        self.posters = [Poster(server.port, self.pause_s) for _ in range(CLIENTS)]
        for poster in self.posters:
            poster.start()

    @property
    def pause_s(self) -> float:
        return len(BATCH) * CLIENTS / self.rate

    def go_on_at(self, rate: float) -> None:
        """From now on at this rate; what should have been posted by now is not made up for."""
        self.rate = rate
        for poster in self.posters:
            poster.pause_s, poster.due_s = self.pause_s, time.monotonic()

    def end(self) -> int:
        """Stop, and tell how many events the server has taken."""
        for poster in self.posters:
            poster.enough.set()
        for poster in self.posters:
            poster.join(timeout=35)
        return self.taken

    def close(self) -> None:
        for poster in self.posters:
            poster.enough.set()


L = TypeVar("L", bound=Load)


@contextlib.contextmanager
def loaded_server(make_load: Callable[[Path], L], pool: int, core: int) -> Iterator[tuple[Server, L, Path]]:
    """A server with a pool for so many handlers, the load for it, not started, and the file of its counters."""
    with tempfile.TemporaryDirectory(prefix="gbot-bench-") as name:
        directory = Path(name)
        load = make_load(directory)
        counters, port = directory / "counters", free_port()
        sizes = ["--pool", str(pool), "--inbox-max", str(10 * pool)]
        log = ["--sample-interval", "1", "--log-level", "info", "--log-format", "json"]
        command = gbot_command(port, app=load.app, options=[*MEMORY, *sizes, *log, *load.options])
        environment = {"BENCH_NAP_COUNTERS": str(counters), **load.environment}
        try:
            with running_server(
                "gbot", command, port=port, directory=directory, core=core, environment=environment
            ) as server:
                yield server, load, counters
        finally:
            load.close()


def last_sample(server: Server) -> dict[str, Any]:
    """What the server's sampler has told last."""
    for line in reversed(server.stderr.read_text().splitlines()):
        with contextlib.suppress(ValueError, KeyError):
            sample: dict[str, Any] = json.loads(line)["sample"]
            return sample
    raise Unavailable("the server has logged no line of its sampler")


def wait_for(counters: Path, expected: int) -> int:
    """Wait until so many events have ended well; returns how many have."""
    deadline = time.monotonic() + END_TIMEOUT_S
    while (done := completed(counters)) < expected and time.monotonic() < deadline:
        time.sleep(SAMPLE_S)
    return done


def completed(counters: Path) -> int:
    told = read_counters(counters)
    return told.woken - told.failed
