"""What does "200 means stored" cost? Scenario 1 on gbot alone, with its events in memory, in SQLite and in MySQL.

    python bench/durability.py --rounds 3 --seconds 10 --start-mariadb
    python bench/durability.py --only gbot-memory,gbot-sqlite --messages 10 --directory /var/tmp
    BENCH_MYSQL_URL=mysql://user:password@host/any python bench/durability.py --only gbot-memory,gbot-mysql

Each server is loaded twice, with 64 connections from another core: as fast as it answers, and then at half of that
rate, every connection waiting for a random time before each delivery. That with ten events per delivery and with one.
An event counts when it is settled: its line printed, and nothing of it left in the inbox.
"""

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path

from durability_tables import (
    HALF,
    MEMORY,
    MYSQL,
    SATURATION,
    SQLITE,
    Measurement,
    Round,
    Rounds,
    as_json,
    judge,
    judgement,
    report,
)
from inboxes import (
    Kind,
    Store,
    add_options,
    disk,
    disk_sentence,
    fresh_memory,
    fresh_sqlite,
    mysql_kind,
    mysql_version,
    store_of,
    unsettled,
)
from measuring import (
    Server,
    Unavailable,
    circumstances,
    command_output,
    cpu_busy_percent,
    exit_on_sigterm,
    free_port,
    running_server,
    say,
    wait_until_quiet,
    write_json,
)
from subjects import gbot_command, subjects
from wrk import (
    WARM_UP_S,
    Form,
    Window,
    check_answer,
    circumstantial_notes,
    events_printed,
    forms,
    measure_window,
    names,
    positive,
    run_wrk,
)

DRAIN_TIMEOUT_S = 60.0


class Session:
    """One server on a fresh inbox, from its first delivery to its end, and how much was delivered to it."""

    def __init__(
        self, kind: Kind, form: Form, messages: int, seconds: int, server: Server, store: Store | None
    ) -> None:
        self.kind = kind
        self.form = form
        self.messages = messages
        self.seconds = seconds
        self.server = server
        self.store = store
        self.answered = 0

    def warm_up(self, delay_ms: float = 0.0) -> float:
        """A short load; the rate at which it was answered."""
        load = run_wrk(
            self.form,
            min(WARM_UP_S, self.seconds),
            self.server.port,
            messages=self.messages,
            delay_ms=delay_ms,
        )
        self.answered += load.answered
        self.drain(self.server)
        return load.rate

    def measure(self, asked_per_s: float | None = None, delay_ms: float = 0.0) -> Measurement:
        database_cpu_s = self.kind.database_cpu_s()
        window = measure_window(
            self.server, self.form, self.seconds, messages=self.messages, delay_ms=delay_ms, drain=self.drain
        )
        self.answered += window.load.answered
        if database_cpu_s is not None:
            database_cpu_s = (self.kind.database_cpu_s() or 0.0) - database_cpu_s
        return measurement(window, self.messages, asked_per_s, self.left(), database_cpu_s)

    def measure_at(self, rate: float) -> Measurement:
        """The load at a chosen rate: a short one first shows how much of each turn is the answer and not the pause."""
        turn_ms = self.form.connections / rate * 1000
        reached = self.warm_up(delay_ms=turn_ms)
        answer_ms = self.form.connections / reached * 1000 - turn_ms if reached else 0.0
        return self.measure(asked_per_s=rate, delay_ms=max(0.1, turn_ms - max(0.0, answer_ms)))

    def left(self) -> int:
        return 0 if self.store is None else unsettled(self.store)

    def drain(self, server: Server) -> float:
        """Waits until the server is quiet and its inbox empty: one that waits for its disk is quiet as well."""
        started = time.monotonic()
        while True:
            spent_s = time.monotonic() - started
            quiet_s = wait_until_quiet(server, DRAIN_TIMEOUT_S - spent_s)
            if not self.left() or spent_s + quiet_s >= DRAIN_TIMEOUT_S:
                return spent_s + quiet_s


def measurement(
    window: Window, messages: int, asked_per_s: float | None, left: int, database_cpu_s: float | None
) -> Measurement:
    load = window.load
    events = load.answered * messages
    return Measurement(
        asked_per_s=asked_per_s,
        deliveries_per_s=load.rate,
        # What was acked and only settled afterwards does not make an inbox faster.
        events_per_s=max(0, events - left) / (load.duration_s + window.drain_s),
        p50_ms=load.latency_ms["p50"],
        p99_ms=load.latency_ms["p99"],
        cpu_us_per_event=window.cpu_s * 1e6 / events if events else None,
        database_cpu_us_per_event=database_cpu_s * 1e6 / events if events and database_cpu_s is not None else None,
        rss_mb=window.rss_bytes / 2**20,
        drain_s=window.drain_s,
        left=left,
        errors=sum(load.errors.values()),
        window=window,
    )


@contextlib.contextmanager
def opened(url: str) -> Iterator[Store | None]:
    if url == "memory:":
        yield None
        return
    store = store_of(url)
    try:
        yield store
    finally:
        store.close()


def measure_round(kind: Kind, form: Form, messages: int, seconds: int, options: Sequence[str]) -> Round:
    """One server: one checked delivery, warm-up, saturation, half of it, stop, count."""
    port, busy_percent = free_port(), cpu_busy_percent()
    command = gbot_command(port, options=["--pool", "5000", *options])
    with (
        tempfile.TemporaryDirectory(prefix="gbot-bench-") as directory,
        kind.fresh() as url,
        opened(url) as store,
    ):
        with running_server(
            kind.name,
            command,
            port=port,
            directory=Path(directory),
            core=form.server_core,
            environment={"GBOT_INBOX": url},
        ) as server:
            session = Session(kind, form, messages, seconds, server, store)
            check_answer(server, messages)
            session.answered += 1
            session.warm_up()
            saturation = session.measure()
            if not saturation.deliveries_per_s:
                raise Unavailable(f"{kind.name} answered no delivery: {server.last_error()}")
            half = session.measure_at(saturation.deliveries_per_s / 2)
        # Only a server that has ended has written all it had in its buffers.
        events_missing, notes = check_events(session, events_printed(server.stdout))
    drained = [note for one in (saturation, half) for note in circumstantial_notes(one.drain_s, 0)]
    return Round(
        saturation, half, events_missing, busy_percent, (*notes, *drained, *circumstantial_notes(0, busy_percent))
    )


def check_events(session: Session, printed: int) -> tuple[int, list[str]]:
    """How many events of answered deliveries are nowhere, and what else is odd about the counts.

    wrk drops its connections at the end, so up to one delivery per connection and run may have been run unanswered.
    """
    expected, left = session.answered * session.messages, session.left()
    notes = [f"{left} entries were left in the inbox"] if left else []
    if printed > expected + 4 * session.form.connections * session.messages:
        notes.append(f"{printed} events were run, more than the {expected} that were answered")
    return max(0, expected - printed - left), notes


def measure_rounds(
    measure: Callable[[Kind], Round], kinds: Sequence[Kind], rounds: int, what: str, skipped: dict[str, str]
) -> Rounds:
    """All inboxes once, then all of them again: what disturbs the machine meanwhile disturbs each of them."""
    found: Rounds = {kind.name: [] for kind in kinds}
    for number in range(1, rounds + 1):
        for kind in kinds:
            if kind.name in skipped:
                continue
            say(f"{what}, round {number}/{rounds}: {kind.name}")
            try:
                one = measure(kind)
            except Unavailable as reason:
                skipped[kind.name] = str(reason)
                say(f"  skipped: {reason}")
                continue
            found[kind.name].append(one)
            for load in (SATURATION, HALF):
                seen = one.of(load)
                say(f"  {load}: {seen.deliveries_per_s:,.0f} deliveries/s, p99 {seen.p99_ms:.2f} ms")
            for note in one.notes:
                say(f"  note: {note}")
    return {name: all_rounds for name, all_rounds in found.items() if all_rounds}


def chosen_kinds(arguments: argparse.Namespace, mysql: Kind | None) -> list[Kind]:
    """Those that are to be measured, in the order of the table."""
    everyone = [Kind(MEMORY, fresh_memory), Kind(SQLITE, partial(fresh_sqlite, arguments.directory))]
    if mysql:
        everyone.append(mysql)
    elif MYSQL in arguments.only:
        raise SystemExit(f"{MYSQL} needs --mysql URL or --start-mariadb")
    if unknown := [name for name in arguments.only if name not in (MEMORY, SQLITE, MYSQL)]:
        raise SystemExit(f"expected --only to name {MEMORY}, {SQLITE} or {MYSQL}, got {', '.join(unknown)}")
    return [kind for kind in everyone if not arguments.only or kind.name in arguments.only]


def compare(arguments: argparse.Namespace, kinds: Sequence[Kind]) -> dict[str, object]:
    """Measures and prints the tables; returns what goes into the JSON."""
    gbot = subjects("")["gbot"]
    gbot.require()
    [form] = forms("pinned")
    where = disk(arguments.directory)
    result: dict[str, object] = {**circumstances(), "wrk": command_output(["wrk", "--version"]), "disk": where}
    result["versions"] = {**gbot.versions(), **{kind.name: mysql_version(kind) for kind in kinds if kind.name == MYSQL}}
    skipped: dict[str, str] = {}
    found: dict[int, Rounds] = {}
    for messages in arguments.messages:
        measure = partial(
            measure_round,
            form=form,
            messages=messages,
            seconds=arguments.seconds,
            options=arguments.gbot_options.split(),
        )
        found[messages] = measure_rounds(measure, kinds, arguments.rounds, f"{messages} event(s)", skipped)
        print(report(found[messages], messages, arguments.seconds, arguments.rounds, form), flush=True)
        result[f"messages_{messages}"] = as_json(found[messages])
    judged = judge(found)
    print(judgement(judged))
    print(disk_sentence(where), *(f"{name} skipped: {reason}" for name, reason in skipped.items()), sep="\n")
    return {**result, "musts": [{**asdict(must), "met": must.met} for must in judged], "skipped": skipped}


def counts(text: str) -> list[int]:
    return [positive(word) for word in names(text)]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--seconds", type=positive, default=10, help="measured window of each load (default 10)")
    parser.add_argument("--rounds", type=positive, default=1, help="interleaved rounds; medians are shown (default 1)")
    parser.add_argument("--only", type=names, default=[], metavar="NAME,...", help="measure these inboxes alone")
    parser.add_argument(
        "--messages", type=counts, default=[10, 1], metavar="N,...", help="events per delivery (default 10,1)"
    )
    parser.add_argument("--gbot-options", default="", metavar="OPTIONS", help="more options for gbot serve, one string")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything found into this file")
    add_options(parser)
    return parser.parse_args()


def main() -> None:
    exit_on_sigterm()
    arguments = parse_arguments()
    with ExitStack() as stack:
        try:
            kinds = chosen_kinds(arguments, stack.enter_context(mysql_kind(arguments, MYSQL)))
            result = compare(arguments, kinds)
        except Unavailable as reason:
            raise SystemExit(str(reason)) from reason
    if arguments.json:
        write_json(arguments.json, result)
        say(f"written: {arguments.json}")


if __name__ == "__main__":
    main()
