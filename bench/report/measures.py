"""What is told of a run: its measures, by name, in the order of the tables, and how a figure is written. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from measuring import figure

from report.reading import Ack, Number, Run

NONE = Ack()


def three_digits(value: Number) -> str:
    """As many digits after the point as mean something: 0.42, 5.24, 37.2, 225, 4,750."""
    if not value:
        return figure(value)
    return figure(value, 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2)


def two_decimals(value: Number) -> str:
    return figure(value, 2)


@dataclass(frozen=True)
class Measure:
    """`short` heads a column of a wide table, `name` stands alone. Other than zero, what is `wanted_zero` is shown so
    that it cannot be overlooked."""

    short: str
    name: str
    value: Callable[[Run], Number]
    write: Callable[[Number], str] = figure
    wanted_zero: bool = False

    def text(self, run: Run) -> str:
        return self.write(self.value(run))

    def alarms(self, run: Run) -> bool:
        return self.wanted_zero and bool(self.value(run))


def ack(run: Run) -> Ack:
    return run.ack_ms or NONE


ASKED = Measure("asked/s", "events/s asked for", lambda run: run.asked_events_per_s)
COMPLETED = Measure("events/s", "events/s completed", lambda run: run.events_per_s)
SHARE = Measure("of asked", "completed, of asked", lambda run: run.share, two_decimals)
P50 = Measure("ack p50 ms", "p50, ms", lambda run: ack(run).p50, three_digits)
P99 = Measure("ack p99 ms", "p99, ms", lambda run: ack(run).p99, three_digits)
CPU = Measure("CPU µs/event", "CPU per event, µs", lambda run: run.cpu_us_per_event, three_digits)
RSS = Measure("RSS MiB", "memory (RSS), MiB", lambda run: run.rss_mb, three_digits)
BACKLOG = Measure("backlog", "backlog at the load's end", lambda run: run.backlog)
LEFT = Measure("left", "left after the drain time", lambda run: run.left, wanted_zero=True)
FAILED = Measure("failed", "failed", lambda run: run.failed, wanted_zero=True)
ERRORS = Measure("errors", "requests without success", lambda run: run.errors, wanted_zero=True)
CONNECTIONS = Measure("db conns", "database connections", lambda run: run.db_connections_max)

SUMMARY = (ASKED, COMPLETED, SHARE, P50, P99, CPU, RSS, CONNECTIONS, BACKLOG, LEFT, FAILED, ERRORS)

DETAILS = {
    "Throughput": (
        ASKED,
        COMPLETED,
        SHARE,
        Measure("deliveries/s", "deliveries/s", lambda run: run.deliveries_per_s),
    ),
    "Acknowledgement": (
        P50,
        Measure("ack p90 ms", "p90, ms", lambda run: ack(run).p90, three_digits),
        P99,
        Measure("ack p99.9 ms", "p99.9, ms", lambda run: ack(run).p99_9, three_digits),
        Measure("ack max ms", "longest, ms", lambda run: ack(run).max, three_digits),
        ERRORS,
    ),
    "Events": (
        Measure("accepted", "accepted", lambda run: run.accepted),
        Measure("completed", "completed", lambda run: run.completed),
        FAILED,
        BACKLOG,
        Measure("drain s", "drain time, s", lambda run: run.drain_s, three_digits),
        LEFT,
    ),
    "Cost": (
        CPU,
        Measure("idle RSS MiB", "idle memory (RSS), MiB", lambda run: run.idle_rss_mb, three_digits),
        RSS,
        Measure("waiting", "waiting handlers, median", lambda run: run.waiting_median),
        CONNECTIONS,
    ),
}


def any_known(measure: Measure, runs: Mapping[str, Run]) -> bool:
    return any(measure.value(run) is not None for run in runs.values())
