"""One measurement of bench/run.py: one server in one scenario.

The server is started on a core of its own; one delivery is checked; a short load warms it up and is run to its end;
then comes the measured load, and the time until what was accepted has come to an end. Events are counted from the start
of the server to its end: what was accepted, was completed, failed, was still to be done when the load ended, and was
still not done when DRAIN_TIMEOUT_S was over.

wrk drops its connections at its end, so that up to one delivery per connection and load may be run without having been
answered: these count as accepted as well.
"""

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from inboxes import Store, connections_of, store_of, unsettled
from measuring import LOCALHOST, Server, Unavailable, cpu_busy_percent, free_port, running_server
from wrk import Form, check_answer, circumstantial_notes

from suite.cases import MESSAGES, Case, deliveries_per_s, form_of
from suite.load import POLL_S, Loader, drain
from suite.watch import (
    LOOK_TIMEOUT_S,
    Count,
    CountOfLines,
    Watcher,
    count_by_http,
    count_in_file,
    logged_greenlets,
    samples,
)

START_TIMEOUT_S = 60.0  # a pool of 5,000 connections is opened before the first answer
PROMPT_S = 0.5
KEPT_UP = 0.9  # of the asked rate


def measure(case: Case, cores: tuple[int, int]) -> dict[str, Any]:
    """One run, as the report has it; the cores are those of the server and of wrk. Raises Unavailable."""
    port, busy_percent = free_port(), cpu_busy_percent()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gbot-bench-")))
        inbox_url = stack.enter_context(case.inbox.fresh())
        store = stack.enter_context(store_at(inbox_url))
        database_url = stack.enter_context(case.database.fresh()) if case.database else None
        connections = stack.enter_context(connections_of(database_url)) if database_url else None
        counters = directory / "counters"
        server = stack.enter_context(
            running_server(
                case.name,
                case.command(port),
                port=port,
                directory=directory,
                core=cores[0],
                environment=case.environment(inbox_url, database_url, counters),
            )
        )
        session = Session(case, form_of(case.rate, *cores), server, counters, store)
        session.begin()
        session.load(connections)
        return session.run(circumstantial_notes(0.0, busy_percent))


@contextlib.contextmanager
def store_at(url: str) -> Iterator[Store | None]:
    """The inbox, to see what is left in it; there is nothing to see of one in memory."""
    if url == "memory:":
        yield None
        return
    with contextlib.closing(store_of(url)) as store:
        yield store


class Session:
    """One server from its first delivery to its end: `begin`, `load`, then `run` tells what was found."""

    def __init__(self, case: Case, form: Form, server: Server, counters: Path, store: Store | None) -> None:
        self.case = case
        self.server = server
        self.counters = counters
        self.store = store
        self.loader = Loader(form, case.rate, LOCALHOST, server.port)
        self.lines = CountOfLines(server.stdout)

    def count(self, timeout_s: float = LOOK_TIMEOUT_S) -> Count:
        """Exact, but a server that is asked for it may be too busy to answer. Raises Unavailable."""
        if self.case.ours:
            return count_in_file(self.counters)
        return count_by_http(LOCALHOST, self.server.port, timeout_s)

    def glance(self) -> Count:
        """For while the load is on."""
        if self.case.ours or self.case.scenario.at_rate:
            return self.count(PROMPT_S)
        return self.lines.count()

    def settled(self, count: Count) -> int:
        """Events that have come to an end; gbot runs a failed one again."""
        return count.completed if self.case.ours else count.completed + count.failed

    def unsettled(self) -> int:
        return 0 if self.store is None else unsettled(self.store)

    def begin(self) -> None:
        """Everything before the measured load."""
        self.wait_until_it_counts()
        self.idle_rss_bytes = self.server.rss_bytes()
        check_answer(self.server, MESSAGES)
        self.loader.answered += MESSAGES
        self.loader.warm_up(self.case.warm_up_s)
        drain(self.count, self.is_over, time.monotonic())

    def wait_until_it_counts(self) -> None:
        """A server that listens may still be opening its connections."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.count()
                return
            except Unavailable:
                if time.monotonic() > deadline or self.server.process.poll() is not None:
                    raise Unavailable(f"{self.case.name} did not start: {self.server.last_error()}") from None
            time.sleep(POLL_S)

    def is_over(self, count: Count) -> bool:
        return self.settled(count) >= self.loader.answered and not count.running and not self.unsettled()

    def load(self, connections: Callable[[], int] | None) -> None:
        """The measured load, and its end."""
        before, cpu_s, database_cpu_s = self.count(), self.server.cpu_s(), self.database_cpu_s()
        with Watcher(self.server, self.glance, connections) as watcher:
            self.window = self.loader.measure(self.case.seconds)
            ended = time.monotonic()
            self.rss_bytes = self.server.rss_bytes()
            told = [self.told(self.glance), self.told(partial(self.count, PROMPT_S))]
            self.settled_at_end = max((settled for settled in told if settled is not None), default=None)
            self.drain_s = drain(self.count, self.is_over, ended)
        self.looks = watcher.looks
        self.after = self.count()
        self.events = self.after.completed - before.completed
        self.cpu_s = self.server.cpu_s() - cpu_s
        self.database_spent_s = self.database_cpu_s() - database_cpu_s

    def told(self, count: Callable[[], Count]) -> int | None:
        """How many events have come to an end; None when that is not told now."""
        try:
            return self.settled(count())
        except Unavailable:
            return None

    def database_cpu_s(self) -> float:
        """Zero where it cannot be known."""
        return (self.case.database.database_cpu_s() or 0.0) if self.case.database else 0.0

    def run(self, notes: list[str]) -> dict[str, Any]:
        """What was found, as the report has it."""
        settled, nap_s = self.settled(self.after), self.case.scenario.nap_s[1]
        accepted = max(self.loader.answered, settled)
        greenlets = logged_greenlets(self.server.stderr) if self.case.ours else None
        return {
            "asked_events_per_s": self.case.rate,
            # Events that were acked and only run afterwards do not make a server faster; the last handlers' own
            # waiting does not make it slower.
            "events_per_s": self.events / (self.window.duration_s + max(0.0, self.drain_s - nap_s)),
            "deliveries_per_s": self.window.rate,
            "ack_ms": self.window.latency_ms,
            "cpu_us_per_event": self.per_event_us(self.cpu_s),
            "rss_mb": self.rss_bytes / 2**20,
            "idle_rss_mb": self.idle_rss_bytes / 2**20,
            "waiting_median": self.waiting_median() if nap_s else None,
            "accepted": accepted,
            "completed": self.after.completed,
            "backlog": None if self.settled_at_end is None else accepted - self.settled_at_end,
            "left": max(accepted - settled, self.unsettled()),
            "failed": self.after.failed,
            "errors": self.loader.errors,
            "drain_s": self.drain_s,
            "db_connections_max": max(
                (look.db_connections for look in self.looks if look.db_connections), default=None
            ),
            "samples": list(samples(self.looks, self.loader.acks, greenlets)),
            "notes": [*self.notes(accepted), *notes],
        }

    def per_event_us(self, spent_s: float) -> float | None:
        return spent_s * 1e6 / self.events if self.events else None

    def waiting_median(self) -> int | None:
        """Of the time when as many end as begin, where the load was long enough to get there."""
        began_s = self.looks[0].at_s
        ended_s = began_s + self.window.duration_s
        counted = [(look.at_s, look.count.running or 0) for look in self.looks if look.count and look.at_s <= ended_s]
        steady = [running for at_s, running in counted if at_s >= began_s + self.case.scenario.nap_s[1]]
        chosen = steady or [running for _, running in counted]
        return round(statistics.median(chosen)) if chosen else None

    def notes(self, accepted: int) -> Iterator[str]:
        rate, answered = self.case.rate, self.loader.answered
        if rate is not None and self.window.rate < KEPT_UP * deliveries_per_s(rate):
            yield "it answered too slowly for the asked rate: wrk waits for each answer before it sends again"
        if accepted > answered + 2 * self.loader.form.connections * MESSAGES:
            yield f"{accepted} events were run, more than the {answered} that were answered"
        if self.database_spent_s and self.events:
            yield f"the database spent {self.per_event_us(self.database_spent_s):.0f} µs of CPU per event"
