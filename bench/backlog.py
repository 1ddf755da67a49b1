"""Does a backlog of 1,000,000 ready entries slow claims or puts down, and does memory grow with it?

    python bench/backlog.py --start-mariadb                1,000,000 entries, SQLite and MySQL
    python bench/backlog.py --entries 100000 --only sqlite
    python bench/backlog.py --plain                        events without id and conversation, and small

Two inboxes of each kind, one with 2,000 ready entries and one with all of them. Turns on them alternate, through the
stores that gbot serve uses: claim 500, settle these, put 100 five times, so that the backlog stays as long as it is.
Then gbot serve is started on an empty inbox and on both of these, with handlers that sleep, and its memory is read.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from events import Events
from inboxes import (
    Kind,
    Store,
    add_options,
    disk,
    disk_sentence,
    fresh_sqlite,
    mysql_kind,
    mysql_version,
    store_of,
    unsettled,
)
from measuring import (
    Unavailable,
    circumstances,
    cpu_busy_percent,
    exit_on_sigterm,
    figure,
    free_port,
    pin_this_process,
    read_counters,
    running_server,
    say,
    table,
    two_cores,
    wait_until_quiet,
    write_json,
)
from subjects import gbot_command, subjects
from wrk import names, positive

from gbot.event import Event
from gbot.inbox import Entry, Outcome, State
from gbot.inboxes.store import StoreDown, Work

SQLITE, MYSQL = "sqlite", "mysql"
CLAIMED = 500
PUT = 100
FILLED = 2000
POOL = 500
WARM_UP_CYCLES = 3
# It looks at the store once a second.
WATCHED_S = 1.5
WATCH_INTERVAL_S = 0.2
ASLEEP_TIMEOUT_S = 30.0
SECRET = "nobody-signs-with-this"
DONE = Outcome(State.DONE)
KINDS_OF_TURN = ("claim", "settle", "put")


@dataclass(frozen=True)
class Plan:
    """How long the backlogs are, how often each turn is taken, and what an event is made of."""

    entries: int
    few: int
    cycles: int
    event_bytes: int | None  # as the platform sends it; None: a plain event


@dataclass
class Backlog:
    """An inbox with so many ready entries, as a worker's store, and how long its turns took."""

    store: Store
    events: Events
    life: int = 0
    taken_ms: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS_OF_TURN})

    def reconnect(self) -> None:
        """MySQL ends a connection that stood still for some seconds, as this one did while the other was filled."""
        try:
            self.store.look(self.life)
        except StoreDown:
            self.store.look(self.life)

    def fill(self, count: int) -> None:
        started = told = time.monotonic()
        for done in range(0, count, FILLED):
            self.put(min(FILLED, count - done))
            if time.monotonic() > told + 5:
                told = time.monotonic()
                say(f"  {done:,} of {count:,} after {told - started:.0f} s")

    def put(self, count: int) -> None:
        self.turn("put", events=self.events.take(count))

    def turn(
        self, kind: str, *, settled: Sequence[Entry] = (), events: Sequence[Event] = (), claim_max: int = 0
    ) -> list[Entry]:
        work = Work(time.time_ns() // 1_000_000, [(entry, DONE) for entry in settled], events, 0, claim_max)
        started = time.perf_counter()
        turned = self.store.turn(self.life, work)
        self.taken_ms[kind].append((time.perf_counter() - started) * 1000)
        if turned.stored != len(events) or turned.late or len(turned.running) != claim_max:
            raise Unavailable(f"a turn did not do what it was to do: {turned.stored} stored, {turned.late} late")
        return turned.running

    def cycle(self) -> None:
        """As many go as come."""
        claimed = self.turn("claim", claim_max=CLAIMED)
        self.turn("settle", settled=claimed)
        for _ in range(CLAIMED // PUT):
            self.put(PUT)

    def forget(self) -> None:
        for taken_ms in self.taken_ms.values():
            taken_ms.clear()


@dataclass(frozen=True)
class Turns:
    """How long turns of one kind took."""

    count: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Finding:
    """What was found of one kind of inbox; `few` and `many` are the lengths of the two backlogs."""

    few: int
    many: int
    stored_bytes: int  # of an event
    turns: dict[str, dict[str, Turns]]  # by kind of turn, then few or many
    rss_mb: dict[str, float]  # empty, few, many
    busy_percent: float

    def ratio(self, kind: str, figure_name: str = "p50_ms") -> float:
        by_length = self.turns[kind]
        many, few = (float(getattr(by_length[length], figure_name)) for length in ("many", "few"))
        return many / few


def turns_of(taken_ms: Sequence[float]) -> Turns:
    ordered = sorted(taken_ms)
    # Nearest rank: the smallest value that so many percent of all values do not exceed.
    p50_ms, p99_ms = (ordered[math.ceil(len(ordered) * percent / 100) - 1] for percent in (50, 99))
    return Turns(len(ordered), p50_ms, p99_ms)


@contextmanager
def backlog(url: str, count: int, plan: Plan) -> Iterator[Backlog]:
    store = store_of(url)
    try:
        one = Backlog(store, Events(plan.event_bytes))
        one.life = store.enlist()
        one.fill(count)
        yield one
        store.leave(one.life)
    finally:
        store.close()


def alternate(few: Backlog, many: Backlog, cycles: int) -> dict[str, dict[str, Turns]]:
    """Turns on both in turn: what disturbs the machine meanwhile disturbs both."""
    for number in range(WARM_UP_CYCLES + cycles):
        if number == WARM_UP_CYCLES:
            few.forget()
            many.forget()
        few.cycle()
        many.cycle()
    both = {"few": few, "many": many}
    return {kind: {length: turns_of(one.taken_ms[kind]) for length, one in both.items()} for kind in KINDS_OF_TURN}


def served_rss_mb(url: str, sleeping: int) -> float:
    """The most memory that gbot serve has on this inbox, in some seconds after so many handlers have fallen asleep."""
    port = free_port()
    options = ["--pool", str(POOL), "--platforms", "line,plain", "--handler-timeout", "0", "--stop-timeout", "0"]
    with tempfile.TemporaryDirectory(prefix="gbot-bench-") as directory:
        counters = Path(directory, "counters")
        environment = {
            "GBOT_INBOX": url,
            "GBOT_LINE_CHANNEL_SECRET": SECRET,
            "BENCH_NAP_S": "3600",
            "BENCH_NAP_COUNTERS": str(counters),
        }
        command = gbot_command(port, app="bench.napping:bot", options=options)
        with running_server("gbot", command, port=port, directory=Path(directory), environment=environment) as server:
            deadline = time.monotonic() + ASLEEP_TIMEOUT_S
            while read_counters(counters).asleep < sleeping:
                if time.monotonic() > deadline:
                    raise Unavailable(f"no {sleeping} handlers were running after {ASLEEP_TIMEOUT_S:g} s")
                time.sleep(WATCH_INTERVAL_S)
            wait_until_quiet(server, timeout_s=5)
            most_bytes = 0
            end = time.monotonic() + WATCHED_S
            while time.monotonic() < end:
                most_bytes = max(most_bytes, server.rss_bytes())
                time.sleep(WATCH_INTERVAL_S)
    return most_bytes / 2**20


def measure(kind: Kind, plan: Plan) -> Finding:
    busy_percent = cpu_busy_percent()
    with kind.fresh() as empty_url, kind.fresh() as few_url, kind.fresh() as many_url:
        say(f"{kind.name}: filling up to {plan.few:,} and {plan.entries:,} entries")
        with backlog(few_url, plan.few, plan) as few, backlog(many_url, plan.entries, plan) as many:
            say(f"{kind.name}: {plan.cycles} claims, as many settlements, {plan.cycles * CLAIMED // PUT} puts on each")
            few.reconnect()
            turns = alternate(few, many, plan.cycles)
            lengths = [unsettled(one.store) for one in (few, many)]
        if lengths != [plan.few, plan.entries]:
            raise Unavailable(f"the backlogs had {lengths} entries at the end, expected {[plan.few, plan.entries]}")
        say(f"{kind.name}: memory of gbot serve on each")
        rss_mb = {"empty": served_rss_mb(empty_url, 0)}
        for name, url in (("few", few_url), ("many", many_url)):
            rss_mb[name] = served_rss_mb(url, POOL)
    return Finding(plan.few, plan.entries, few.events.stored_bytes, turns, rss_mb, busy_percent)


def report(found: dict[str, Finding], plan: Plan) -> str:
    turns = {"claim": f"claim {CLAIMED}", "settle": f"settle {CLAIMED}", "put": f"put {PUT}"}
    rows = []
    for name, one in found.items():
        for kind, words in turns.items():
            few, many = one.turns[kind]["few"], one.turns[kind]["many"]
            times = [figure(value, 2) for value in (few.p50_ms, few.p99_ms, many.p50_ms, many.p99_ms)]
            ratios = [figure(one.ratio(kind, name), 2) for name in ("p50_ms", "p99_ms")]
            rows.append([f"{name}: {words}", figure(few.count), *times, *ratios])
    few_words, many_words = f"{plan.few:,}", f"{plan.entries:,}"
    header = [
        *("turn", "turns", f"p50 ms, {few_words}", "p99 ms", f"p50 ms, {many_words}", "p99 ms"),
        *("x p50", "x p99"),
    ]
    memory = [
        [f"{name}: RSS of gbot serve, MiB", *(figure(one.rss_mb[length], 1) for length in ("empty", "few", "many"))]
        for name, one in found.items()
    ]
    event = "plain events" if plan.event_bytes is None else f"events of {plan.event_bytes} bytes"
    title = f"{event}, backlogs of {few_words} and {many_words} ready entries"
    running = f"{POOL} running"
    memory_header = ["memory", "nothing stored", f"{few_words}, {running}", f"{many_words}, {running}"]
    return "\n".join([title, "", table(header, rows), "", table(memory_header, memory)])


def chosen_kinds(arguments: argparse.Namespace, mysql: Kind | None) -> list[Kind]:
    everyone = [Kind(SQLITE, partial(fresh_sqlite, arguments.directory)), *([mysql] if mysql else [])]
    if MYSQL in arguments.only and not mysql:
        raise SystemExit("mysql needs --mysql URL or --start-mariadb")
    if unknown := [name for name in arguments.only if name not in (SQLITE, MYSQL)]:
        raise SystemExit(f"expected --only to name {SQLITE} or {MYSQL}, got {', '.join(unknown)}")
    return [kind for kind in everyone if not arguments.only or kind.name in arguments.only]


def compare(arguments: argparse.Namespace, kinds: Sequence[Kind]) -> dict[str, object]:
    plan = Plan(arguments.entries, arguments.few, arguments.cycles, None if arguments.plain else arguments.event_bytes)
    gbot = subjects("")["gbot"]
    gbot.require()
    where = disk(arguments.directory)
    versions = {**gbot.versions(), **{kind.name: mysql_version(kind) for kind in kinds if kind.name == MYSQL}}
    found = {kind.name: measure(kind, plan) for kind in kinds}
    print(report(found, plan))
    print(disk_sentence(where))
    findings = {
        name: {**asdict(one), "ratios": {kind: one.ratio(kind) for kind in KINDS_OF_TURN}}
        for name, one in found.items()
    }
    return {**circumstances(), "versions": versions, "disk": where, "plan": asdict(plan), "found": findings}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--entries", type=entries, default=1_000_000, help="the long backlog (default 1000000)")
    parser.add_argument("--few", type=entries, default=2000, help="the short one (default 2000)")
    parser.add_argument("--cycles", type=positive, default=200, help="how often a claim is taken (default 200)")
    parser.add_argument("--event-bytes", type=positive, default=600, help="a LINE event as it is sent (default 600)")
    parser.add_argument("--plain", action="store_true", help="plain events, without id and conversation")
    parser.add_argument("--only", type=names, default=[], metavar="NAME,...", help="measure these inboxes alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything found into this file")
    add_options(parser)
    return parser.parse_args()


def entries(text: str) -> int:
    if positive(text) < CLAIMED:
        raise argparse.ArgumentTypeError(f"expected {CLAIMED} or more, which is what one turn claims, got {text}")
    return int(text)


def main() -> None:
    exit_on_sigterm()
    arguments = parse_arguments()
    own_core = two_cores()[0]
    with ExitStack() as stack:
        try:
            kinds = chosen_kinds(arguments, stack.enter_context(mysql_kind(arguments, MYSQL)))
            pin_this_process(own_core)
            result = compare(arguments, kinds)
        except (Unavailable, StoreDown) as reason:
            raise SystemExit(str(reason)) from reason
    if arguments.json:
        write_json(arguments.json, result)
        say(f"written: {arguments.json}")


if __name__ == "__main__":
    main()
