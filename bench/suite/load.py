"""The load of the suite, on a server of its own or on a host: wrk's, and the probe beside it, both counted."""

import contextlib
import http.client
import threading
import time
from collections.abc import Callable

from measuring import Unavailable, deliver
from wrk import Form, Load, run_wrk

from suite.cases import MESSAGES, PROBES_PER_S, deliveries_per_s
from suite.watch import Count

PROBE_TIMEOUT_S = 10.0
DRAIN_TIMEOUT_S = 60.0
POLL_S = 0.1


class Probe(threading.Thread):
    """One delivery of one message after the other. `acks` are the answered ones: when, and after how many ms."""

    def __init__(self, address: str, port: int) -> None:
        super().__init__(name="probe", daemon=True)
        self.where = (address, port)
        self.enough = threading.Event()
        self.acks: list[tuple[float, float]] = []
        self.errors = 0

    def run(self) -> None:
        connection = http.client.HTTPConnection(*self.where, timeout=PROBE_TIMEOUT_S)
        due = time.monotonic()
        with contextlib.closing(connection):
            while not self.enough.wait(max(0.0, due - time.monotonic())):
                # One that was answered late is not made up for.
                due = max(due + 1 / PROBES_PER_S, time.monotonic())
                self.post(connection)

    def post(self, connection: http.client.HTTPConnection) -> None:
        started = time.monotonic()
        try:
            status, _ = deliver(connection, ["0"])
        except (OSError, http.client.HTTPException):
            connection.close()  # the next one opens it again
            status = 0
        ended = time.monotonic()
        if status == 200:
            self.acks.append((ended, (ended - started) * 1000))
        else:
            self.errors += 1

    def stop(self) -> None:
        self.enough.set()
        self.join(PROBE_TIMEOUT_S + 1)


class Loader:
    """Puts load on one address; `answered` counts events and `errors` requests, of all that was put on it."""

    def __init__(self, form: Form, rate: float | None, address: str, port: int) -> None:
        self.form = form
        self.rate = rate
        self.where = (address, port)
        self.pause_ms = 0.0
        self.answered = 0
        self.errors = 0
        self.acks: list[tuple[float, float]] = []

    def warm_up(self, seconds: int) -> None:
        """A short load; it also shows how much of a connection's turn is the answer and not the pause."""
        if self.rate is not None:
            self.pause_ms = self.form.connections / deliveries_per_s(self.rate) * 1000
        load = self.put(seconds)
        if self.rate is not None:
            self.pause_ms = max(0.1, self.pause_ms - load.latency_ms["p50"])

    def measure(self, seconds: int) -> Load:
        """The load that counts, with the probe beside it."""
        probe = Probe(*self.where)
        probe.start()
        try:
            return self.put(seconds)
        finally:
            probe.stop()
            self.acks = probe.acks
            self.answered += len(probe.acks)
            self.errors += probe.errors

    def put(self, seconds: int) -> Load:
        address, port = self.where
        load = run_wrk(self.form, seconds, port, address=address, messages=MESSAGES, delay_ms=self.pause_ms)
        self.answered += load.answered * MESSAGES
        self.errors += sum(load.errors.values())
        return load


def drain(count: Callable[[], Count], is_over: Callable[[Count], bool], started: float) -> float:
    """Waits until all that was accepted has come to an end, for so long; returns how many seconds that took."""
    now, last = time.monotonic(), None
    while now < started + DRAIN_TIMEOUT_S:
        with contextlib.suppress(Unavailable):
            told = count()
            # What wrk has not waited for cannot be known: the end is when nothing changes any more.
            if told == last and is_over(told):
                break
            last, now = told, time.monotonic()
        time.sleep(POLL_S)
    return now - started
