"""What bench/durability.py has found: figures of each round, medians, tables, and the musts they are judged by."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from measuring import figure, median, table
from wrk import Form, Window

MEMORY, SQLITE, MYSQL = "gbot-memory", "gbot-sqlite", "gbot-mysql"
SATURATION, HALF = "saturation", "half"
HEADER = {
    SATURATION: (
        *("inbox", "deliveries/s", "+-%", "events/s", "x memory", "p50 ms", "p99 ms", "p99 x memory"),
        *("CPU us/event", "database", "RSS MiB", "left", "errors", "missing"),
    ),
    HALF: (
        *("inbox", "asked/s", "deliveries/s", "p50 ms", "p99 ms", "p99 x memory"),
        *("CPU us/event", "database", "errors"),
    ),
}


@dataclass(frozen=True)
class Measurement:
    """One load on one server. `left` entries were still in the inbox when it was given up waiting for them.

    The database's CPU is known only of one that was started for the run.
    """

    asked_per_s: float | None
    deliveries_per_s: float
    events_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us_per_event: float | None
    database_cpu_us_per_event: float | None
    rss_mb: float
    drain_s: float
    left: int
    errors: int
    window: Window


@dataclass(frozen=True)
class Round:
    """Both loads on one server; events missing are those of answered deliveries that were neither run nor kept."""

    saturation: Measurement
    half: Measurement
    events_missing: int
    machine_busy_percent: float
    notes: tuple[str, ...]

    def of(self, load: str) -> Measurement:
        return self.saturation if load == SATURATION else self.half


Rounds = dict[str, list[Round]]


def values(found: Rounds, name: str, load: str, field: str) -> list[float]:
    return [value for one in found.get(name, []) if (value := getattr(one.of(load), field)) is not None]


def by_memory(found: Rounds, name: str, load: str, field: str) -> float | None:
    """The median over the rounds of this inbox's figure by that of memory in the same round."""
    pairs = zip(values(found, name, load, field), values(found, MEMORY, load, field), strict=False)
    return median([mine / memory for mine, memory in pairs if memory])


def spread_percent(all_of: Sequence[float]) -> float | None:
    middle = median(all_of)
    return (max(all_of) - min(all_of)) / middle * 50 if middle and len(all_of) > 1 else None


def summary(found: Rounds, name: str, load: str) -> dict[str, float | None]:
    """Medians over the rounds; errors, and events missing or left, are summed: a median would hide them."""

    def middle(field: str) -> float | None:
        return median(values(found, name, load, field))

    half = load == HALF
    head = {"asked_per_s": middle("asked_per_s")} if half else {}
    rate = {"deliveries_per_s": middle("deliveries_per_s")}
    throughput = {
        "spread_percent": spread_percent(values(found, name, load, "deliveries_per_s")),
        "events_per_s": middle("events_per_s"),
        "events_per_s_by_memory": by_memory(found, name, load, "events_per_s"),
    }
    acks = {
        "p50_ms": middle("p50_ms"),
        "p99_ms": middle("p99_ms"),
        "p99_by_memory": by_memory(found, name, load, "p99_ms"),
        "cpu_us_per_event": middle("cpu_us_per_event"),
        "database_cpu_us_per_event": middle("database_cpu_us_per_event"),
    }
    errors = {"errors": sum(values(found, name, load, "errors"))}
    if half:
        return {**head, **rate, **acks, **errors}
    left = {"rss_mb": middle("rss_mb"), "left": sum(values(found, name, load, "left"))}
    missing = {"events_missing": sum(one.events_missing for one in found[name])}
    return {**rate, **throughput, **acks, **left, **errors, **missing}


def report(found: Rounds, messages: int, seconds: int, rounds: int, form: Form) -> str:
    digits = {"spread_percent": 1, "events_per_s_by_memory": 2, "p50_ms": 2, "p99_ms": 2, "p99_by_memory": 2}
    digits |= {"cpu_us_per_event": 2, "database_cpu_us_per_event": 2}
    parts = []
    for load, words in ((SATURATION, "as many as are answered"), (HALF, "at half of that rate")):
        title = f"{messages} event(s) per delivery, {words}: wrk -c {form.connections}, {seconds} s, {rounds} round(s)"
        rows = [
            [name, *(figure(value, digits.get(field, 0)) for field, value in summary(found, name, load).items())]
            for name in found
        ]
        parts += [title, "", table(HEADER[load], rows), ""]
    notes = [f"{name}: {note}" for name, all_rounds in found.items() for one in all_rounds for note in one.notes]
    return "\n".join([*parts, *notes])


@dataclass(frozen=True)
class Must:
    """What the durable inbox was asked to reach, and what it reached; None where that was not measured."""

    what: str
    required: float
    found: float | None
    at_least: bool

    @property
    def met(self) -> bool | None:
        if self.found is None:
            return None
        return self.found >= self.required if self.at_least else self.found <= self.required


def judge(found: Mapping[int, Rounds]) -> list[Must]:
    ten, one = found.get(10, {}), found.get(1, {})
    return [
        Must("sqlite: events/s by memory's", 0.6, by_memory(ten, SQLITE, SATURATION, "events_per_s"), True),
        Must("sqlite: ack p99 by memory's at half", 3.0, by_memory(ten, SQLITE, HALF, "p99_ms"), False),
        Must(
            "mysql: deliveries of one event/s, settled",
            3000,
            median(values(one, MYSQL, SATURATION, "events_per_s")),
            True,
        ),
    ]


def judgement(all_musts: Sequence[Must]) -> str:
    words = {True: "yes", False: "NO", None: "not measured"}
    rows = []
    for must in all_musts:
        digits = 2 if must.required < 100 else 0
        bound = f"{'>=' if must.at_least else '<='} {figure(must.required, digits)}"
        rows.append([must.what, bound, figure(must.found, digits), words[must.met]])
    return table(["must", "required", "found", "met"], rows)


def as_json(found: Rounds) -> dict[str, object]:
    return {
        name: {
            "median": {load: summary(found, name, load) for load in (SATURATION, HALF)},
            "rounds": [asdict(one) for one in found[name]],
        }
        for name in found
    }
