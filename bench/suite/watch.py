"""Watching a server while the suite loads it: once a second its processes, its events, the database's connections.

What cannot be told at a moment, because the server does not answer, is None in that look.
"""

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from measuring import Server, Unavailable, read_counters
from wrk import told_counts

from gbot.errors import DatabaseError

LOOK_EVERY_S = 1.0
LOOK_TIMEOUT_S = 5.0
LOGGED_SINCE_S = 2.0  # a line of gbot's sampler that is older tells nothing of this moment


@dataclass(frozen=True)
class Count:
    """Events since the server's start; where failed ones are run again, each attempt that failed."""

    completed: int
    failed: int = 0
    running: int | None = 0


def count_in_file(path: Path) -> Count:
    """As the bots of napping.py tell it."""
    told = read_counters(path)
    return Count(told.woken - told.failed, told.failed, told.asleep)


def count_by_http(address: str, port: int, timeout_s: float = LOOK_TIMEOUT_S) -> Count:
    """As the peers tell it; of one that only tells what was completed, nothing has failed and nothing runs."""
    told = told_counts(address, port, timeout_s)
    return Count(told["events"], told.get("failed", 0), told.get("running", 0))


class CountOfLines:
    """By the lines that a server has printed, one for each event: one that is saturated answers too late when asked.

    It lags behind by what the server keeps in a buffer, some hundred lines.
    """

    def __init__(self, stdout: Path) -> None:
        self.stdout = stdout
        self.read_bytes = 0
        self.lines = 0
        self.lock = threading.Lock()

    def count(self) -> Count:
        with self.lock, self.stdout.open("rb") as file:
            file.seek(self.read_bytes)
            text = file.read()
            self.read_bytes += len(text)
            self.lines += text.count(b"\n")
            return Count(self.lines, running=None)


@dataclass(frozen=True)
class Look:
    """One look at a server."""

    at_s: float
    cpu_s: float
    rss_bytes: int
    count: Count | None
    db_connections: int | None


class Watcher(threading.Thread):
    """Looks at a server once a second until it is stopped."""

    def __init__(self, server: Server, count: Callable[[], Count], connections: Callable[[], int] | None) -> None:
        super().__init__(name="watcher", daemon=True)
        self.server = server
        self.count = count
        self.connections = connections
        self.enough = threading.Event()
        self.looks: list[Look] = []

    def __enter__(self) -> Self:
        self.look()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.enough.set()
        self.join(LOOK_TIMEOUT_S + 1)

    def run(self) -> None:
        due = time.monotonic() + LOOK_EVERY_S
        while not self.enough.wait(max(0.0, due - time.monotonic())):
            self.look()
            due = max(due + LOOK_EVERY_S, time.monotonic())

    def look(self) -> None:
        count = connections = None
        with contextlib.suppress(Unavailable):
            count = self.count()
        at_s = time.monotonic()
        if self.connections:
            with contextlib.suppress(DatabaseError):
                connections = self.connections()
        self.looks.append(Look(at_s, self.server.cpu_s(), self.server.rss_bytes(), count, connections))


def logged_greenlets(stderr: Path) -> list[tuple[float, int]]:
    """When gbot's sampler counted how many greenlets, by its log in JSON."""
    found = []
    for line in stderr.read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            sample = json.loads(line)["sample"]
            found.append((float(sample["at_s"]), int(sample["greenlets"])))
    return found


def samples(
    looks: Sequence[Look], acks: Sequence[tuple[float, float]], greenlets: Sequence[tuple[float, int]] | None
) -> Iterator[dict[str, float | None]]:
    """The looks as the report has them, each with what was between it and the one before.

    `ack_ms` is the longest of the probe's answers. `greenlets` are the sampler's figures; without any, the handlers
    that run: greenlets, tasks or goroutines.
    """
    for before, look in itertools.pairwise(looks):
        took_s = max(1e-9, look.at_s - before.at_s)
        completed = look.count.completed - before.count.completed if look.count and before.count else None
        running = look.count.running if look.count else None
        logged = [number for at_s, number in greenlets or () if look.at_s - LOGGED_SINCE_S < at_s <= look.at_s]
        yield {
            "t_s": round(look.at_s - looks[0].at_s, 2),
            "ack_ms": max((ms for at_s, ms in acks if before.at_s < at_s <= look.at_s), default=None),
            "events_per_s": None if completed is None else completed / took_s,
            "greenlets": running if greenlets is None else logged[-1] if logged else None,
            "cpu_percent": (look.cpu_s - before.cpu_s) / took_s * 100,
            "rss_mb": look.rss_bytes / 2**20,
            "db_connections": look.db_connections,
        }
