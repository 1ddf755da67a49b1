"""Puts the load of wrk.lua on a server, and tells what wrk and the server's processes show of it.

The load is a closed loop: each connection waits for its answer, and for a random time where a delay is asked for,
before it sends again.
"""

import argparse
import http.client
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from measuring import (
    LOCALHOST,
    ROOT,
    Server,
    Unavailable,
    deliver,
    pinned,
    two_cores,
    wait_until_quiet,
)

WARM_UP_S = 3
DRAIN_TIMEOUT_S = 30.0
BUSY_PERCENT = 15.0
LATE_EVENTS_S = 0.5


@dataclass(frozen=True)
class Form:
    """How the load is put on: wrk's threads and connections, and the cores of server and client (None: any)."""

    name: str
    threads: int
    connections: int
    server_core: int | None = None
    client_core: int | None = None


@dataclass(frozen=True)
class Load:
    """What wrk found in one run."""

    requests: int
    duration_s: float
    errors: dict[str, int]
    latency_ms: dict[str, float]

    @property
    def answered(self) -> int:
        return self.requests - self.errors["status"]

    @property
    def rate(self) -> float:
        """Deliveries answered with success per second: an error status is no work done, however fast it comes."""
        return self.answered / self.duration_s


@dataclass(frozen=True)
class Window:
    """A load and what it cost the server: CPU until the last event had run, memory at the end of the load."""

    load: Load
    cpu_s: float
    rss_bytes: int
    drain_s: float


def forms(choice: str) -> list[Form]:
    chosen = []
    if choice in ("old", "both"):
        chosen.append(Form("old", threads=8, connections=8))
    if choice in ("pinned", "both"):
        server_core, client_core = two_cores()
        chosen.append(Form("pinned", threads=1, connections=64, server_core=server_core, client_core=client_core))
    return chosen


def run_wrk(
    form: Form, seconds: int, port: int, *, address: str = LOCALHOST, messages: int = 10, delay_ms: float = 0.0
) -> Load:
    options = [f"-t{form.threads}", f"-c{form.connections}", f"-d{seconds}s", "--timeout", "10s"]
    command = ["wrk", *options, "-s", str(ROOT / "bench" / "wrk.lua"), f"http://{address}:{port}/callback"]
    asked = {"BENCH_MESSAGES": str(messages), "BENCH_DELAY_MS": f"{delay_ms:.3f}"}
    environment = {**os.environ, **asked, "BENCH_CONNECTIONS": str(form.connections // form.threads)}
    try:
        done = subprocess.run(
            pinned(command, form.client_core),
            capture_output=True,
            text=True,
            timeout=seconds + 30,
            check=False,
            env=environment,
        )
    except FileNotFoundError as error:
        raise SystemExit("wrk is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"wrk did not end {seconds + 30} s after its start") from error
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines or not lines[-1].startswith("{"):
        raise Unavailable(f"wrk failed: {(done.stderr or done.stdout).strip()[:200] or 'it printed nothing'}")
    return Load(**json.loads(lines[-1]))


def wait_until_drained(server: Server) -> float:
    """Waits until the server has nothing left to do; returns how long that took, in seconds."""
    return wait_until_quiet(server, DRAIN_TIMEOUT_S)


def measure_window(
    server: Server,
    form: Form,
    seconds: int,
    *,
    messages: int = 10,
    delay_ms: float = 0.0,
    drain: Callable[[Server], float] = wait_until_drained,
) -> Window:
    """One measured load on a server that has nothing else to do."""
    cpu_before_s = server.cpu_s()
    load = run_wrk(form, seconds, server.port, messages=messages, delay_ms=delay_ms)
    rss_bytes = server.rss_bytes()
    drain_s = drain(server)
    return Window(load, server.cpu_s() - cpu_before_s, rss_bytes, drain_s)


def check_answer(server: Server, messages: int) -> None:
    """One delivery before the load: a server that answers something else is not worth measuring."""
    connection = http.client.HTTPConnection(LOCALHOST, server.port, timeout=10)
    try:
        status, answer = deliver(connection, [str(number) for number in range(1, messages + 1)])
        if status != 200 or json.loads(answer) != {"ok": "ok"}:
            raise Unavailable(f"{server.name} answered {status} {answer[:80]!r} to POST /callback")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unavailable(f"{server.name} gave no answer to POST /callback: {error!r}") from error
    finally:
        connection.close()


def told_counts(address: str, port: int, timeout_s: float = 10.0) -> dict[str, int]:
    """What GET /count tells of the events since the server's start: how many were completed, and more."""
    connection = http.client.HTTPConnection(address, port, timeout=timeout_s)
    try:
        connection.request("GET", "/count")
        response = connection.getresponse()
        told = json.loads(response.read())
        return {name: int(value) for name, value in {"events": told["events"], **told}.items()}
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        raise Unavailable(f"port {port} did not tell its count of events: {error!r}") from error
    finally:
        connection.close()


def events_printed(stdout: Path) -> int:
    with stdout.open("rb") as lines:
        return sum(line.startswith(b"message = ") for line in lines)


def circumstantial_notes(drain_s: float, busy_percent: float) -> list[str]:
    notes = []
    if drain_s > LATE_EVENTS_S:
        notes.append(f"its events ran on for {drain_s:.1f} s after the load had ended")
    if busy_percent > BUSY_PERCENT:
        notes.append(f"the machine was {busy_percent:.0f} % busy before the start")
    return notes


# Types of the scripts' options.


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return int(text)


def names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
