"""How many deliveries of ten messages does each server answer per second, every message run in a task of its own?

    python bench/scenario1.py                          everything, both forms, about eight minutes
    python bench/scenario1.py --only gbot,fastapi --form pinned --rounds 3
    python bench/scenario1.py --host localhost         a server that already runs, listed in deploy/hosts.toml

Two forms. "old": wrk -c 8 -t 8 -d 30, server and wrk wherever the system puts them. "pinned": the server on one core,
wrk -t1 -c64 on another, which makes the server the bottleneck and its figures repeatable.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hosts import listed_host
from measuring import (
    LOCALHOST,
    Unavailable,
    circumstances,
    command_output,
    cpu_busy_percent,
    exit_on_sigterm,
    figure,
    free_port,
    median,
    running_server,
    say,
    table,
    wait_until_quiet,
    write_json,
)
from subjects import Subject, install_fastify, present, subjects
from wrk import (
    DRAIN_TIMEOUT_S,
    WARM_UP_S,
    Form,
    Load,
    Window,
    check_answer,
    circumstantial_notes,
    events_printed,
    forms,
    measure_window,
    names,
    positive,
    run_wrk,
    told_counts,
)

MESSAGES = 10  # of each delivery
HEADER = (
    *("server", "req/s", "+-%", "events/s", "p50 ms", "p99 ms", "p99/p50", "p99/floor"),
    *("CPU us/event", "RSS MiB", "x gbot", "x fastapi", "errors", "missing"),
)


@dataclass(frozen=True)
class Observation:
    """What was seen of one server in one round. `answered` counts all its deliveries, the warm-up's included."""

    window: Window
    answered: int
    told: int | None
    printed: int
    busy_percent: float


@dataclass(frozen=True)
class Measurement:
    """One round of one server. Errors and missing events are counts; None is what could not be measured."""

    req_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    load: Load
    events_per_s: float | None = None
    cpu_us_per_event: float | None = None
    rss_mb: float | None = None
    events_missing: int | None = None
    drain_s: float | None = None
    machine_busy_percent: float | None = None
    notes: tuple[str, ...] = ()


Rounds = dict[str, list[Measurement]]


def observe(subject: Subject, form: Form, seconds: int) -> Observation:
    """One round: start, one checked delivery, warm-up, the measured window, drain, stop, count."""
    port = free_port()
    busy_percent = cpu_busy_percent()
    with tempfile.TemporaryDirectory(prefix="gbot-bench-") as directory:
        with running_server(
            subject.name, subject.command(port), port=port, directory=Path(directory), core=form.server_core
        ) as server:
            check_answer(server, MESSAGES)
            warm_up = run_wrk(form, WARM_UP_S, port)
            wait_until_quiet(server, DRAIN_TIMEOUT_S)
            window = measure_window(server, form, seconds)
            told = told_counts(LOCALHOST, port)["events"] if subject.counts else None
        # Only a server that has ended has written all it had in its buffers.
        printed = events_printed(server.stdout)
    return Observation(window, 1 + warm_up.answered + window.load.answered, told, printed, busy_percent)


def measure(subject: Subject, form: Form, seconds: int) -> Measurement:
    seen = observe(subject, form, seconds)
    window, load = seen.window, seen.window.load
    events = load.answered * MESSAGES
    missing, notes = check_events(subject, form, seen)
    return Measurement(
        req_per_s=load.rate,
        p50_ms=load.latency_ms["p50"],
        p99_ms=load.latency_ms["p99"],
        errors=sum(load.errors.values()),
        load=load,
        # Events that were acked and only run afterwards do not make a server faster.
        events_per_s=events / (load.duration_s + window.drain_s) if subject.runs_events else None,
        cpu_us_per_event=window.cpu_s * 1e6 / events if events else None,
        rss_mb=window.rss_bytes / 2**20,
        events_missing=missing,
        drain_s=window.drain_s,
        machine_busy_percent=seen.busy_percent,
        notes=(*notes, *circumstantial_notes(window.drain_s, seen.busy_percent)),
    )


def check_events(subject: Subject, form: Form, seen: Observation) -> tuple[int | None, list[str]]:
    """How many events of answered deliveries were not run, and what else is odd about the counts.

    wrk drops its connections at the end, so up to one delivery per connection and run may have been run unanswered.
    """
    if not subject.runs_events:
        return None, []
    expected = seen.answered * MESSAGES
    notes = []
    if seen.told is not None and seen.told != seen.printed:
        notes.append(f"it counts {seen.told} events and printed {seen.printed}")
    run = seen.printed if seen.told is None else min(seen.told, seen.printed)
    if run > expected + 2 * form.connections * MESSAGES:
        notes.append(f"{run} events were run, more than the {expected} that were answered")
    return max(0, expected - run), notes


def measure_rounds(form: Form, chosen: Sequence[Subject], rounds: int, seconds: int, skipped: dict[str, str]) -> Rounds:
    """All servers once, then all of them again: what disturbs the machine meanwhile disturbs each of them."""
    found: Rounds = {subject.name: [] for subject in chosen}
    for number in range(1, rounds + 1):
        for subject in chosen:
            if subject.name in skipped:
                continue
            say(f"{form.name} form, round {number}/{rounds}: {subject.name}, {WARM_UP_S} + {seconds} s")
            try:
                one = measure(subject, form, seconds)
            except Unavailable as reason:
                skipped[subject.name] = str(reason)
                say(f"  skipped: {reason}")
                continue
            found[subject.name].append(one)
            say(f"  {one.req_per_s:,.0f} req/s, p99 {one.p99_ms:.1f} ms, {one.errors} errors")
            for note in one.notes:
                say(f"  note: {note}")
    return {name: measurements for name, measurements in found.items() if measurements}


def values(measurements: Sequence[Measurement], field: str) -> list[float]:
    return [value for one in measurements if (value := getattr(one, field)) is not None]


def ratio(found: Rounds, name: str, base: str, field: str = "req_per_s") -> float | None:
    """The median over the rounds of this server's figure by that of `base` in the same round."""
    pairs = zip(values(found.get(name, []), field), values(found.get(base, []), field), strict=False)
    return median([mine / other for mine, other in pairs if other])


def summary(found: Rounds, name: str) -> dict[str, float | None]:
    """Medians over the rounds; errors and missing events are summed, a median would hide them."""
    one = found[name]
    requests = values(one, "req_per_s")
    middle = median(requests)
    missing = values(one, "events_missing")
    return {
        "req_per_s": middle,
        "spread_percent": (max(requests) - min(requests)) / middle * 50 if middle and len(requests) > 1 else None,
        "events_per_s": median(values(one, "events_per_s")),
        "p50_ms": median(values(one, "p50_ms")),
        "p99_ms": median(values(one, "p99_ms")),
        "p99_by_p50": median([measured.p99_ms / measured.p50_ms for measured in one if measured.p50_ms]),
        "p99_by_floor": ratio(found, name, "echo-floor", "p99_ms"),
        "cpu_us_per_event": median(values(one, "cpu_us_per_event")),
        "rss_mb": median(values(one, "rss_mb")),
        "by_gbot": ratio(found, name, "gbot"),
        "by_fastapi": ratio(found, name, "fastapi"),
        "errors": sum(measured.errors for measured in one),
        "events_missing": sum(missing) if missing else None,
    }


def table_row(name: str, row: Mapping[str, float | None]) -> list[str]:
    digits = {"spread_percent": 1, "p50_ms": 2, "p99_ms": 2, "p99_by_p50": 1, "p99_by_floor": 1}
    digits |= {"cpu_us_per_event": 2, "by_gbot": 2, "by_fastapi": 2}
    return [name, *(figure(value, digits.get(field, 0)) for field, value in row.items())]


def report(form: Form, found: Rounds, skipped: Mapping[str, str], seconds: int, rounds: int) -> str:
    rows = [table_row(name, summary(found, name)) for name in found]
    rows += [[name, "skipped", *[""] * (len(HEADER) - 2)] for name in skipped if name not in found]
    where = "pinned to a core each" if form.client_core is not None else "not pinned"
    title = f"{form.name} form: wrk -c {form.connections} -t {form.threads} -d {seconds}, {where}, {rounds} round(s)"
    notes = [f"{name}: {note}" for name, all_rounds in found.items() for one in all_rounds for note in one.notes]
    notes += [f"{name} skipped: {reason}" for name, reason in skipped.items()]
    return "\n".join([title, "", table(HEADER, rows), *notes, ""])


def compare(arguments: argparse.Namespace) -> dict[str, object]:
    """Runs the comparison and prints its tables; returns what goes into the JSON."""
    everyone = subjects(arguments.peer_python, arguments.gbot_options.split())
    unknown = [name for name in arguments.only if name not in everyone]
    if unknown:
        raise SystemExit(f"expected --only to name servers among {', '.join(everyone)}, got {', '.join(unknown)}")
    chosen = [subject for name, subject in everyone.items() if not arguments.only or name in arguments.only]
    if arguments.install_peers and any(subject.name.startswith("fastify") for subject in chosen):
        install_fastify()
    skipped: dict[str, str] = {}
    ready = present(chosen, skipped)
    result: dict[str, object] = {**circumstances(), "wrk": command_output(["wrk", "--version"])}
    result["versions"] = {subject.name: subject.versions() for subject in ready}
    for form in forms(arguments.form):
        found = measure_rounds(form, ready, arguments.rounds, arguments.seconds, skipped)
        print(report(form, found, skipped, arguments.seconds, arguments.rounds), flush=True)
        result[form.name] = {
            name: {"median": summary(found, name), "rounds": [asdict(one) for one in found[name]]} for name in found
        }
    return {**result, "skipped": skipped}


def load_host(arguments: argparse.Namespace) -> dict[str, object]:
    """The old form against a server that already runs; of its machine nothing is known, so only wrk's figures."""
    host = listed_host(arguments.host)
    [form] = forms("old")
    found: Rounds = {arguments.host: []}
    for number in range(1, arguments.rounds + 1):
        say(f"{form.name} form, round {number}/{arguments.rounds}: {arguments.host}, {arguments.seconds} s")
        try:
            load = run_wrk(form, arguments.seconds, host.port, address=host.address)
        except Unavailable as reason:
            raise SystemExit(str(reason)) from reason
        errors = sum(load.errors.values())
        found[arguments.host].append(
            Measurement(load.rate, load.latency_ms["p50"], load.latency_ms["p99"], errors, load),
        )
    print(report(form, found, {}, arguments.seconds, arguments.rounds), flush=True)
    rounds = [asdict(one) for one in found[arguments.host]]
    return {**circumstances(), "host": arguments.host, "median": summary(found, arguments.host), "rounds": rounds}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--seconds", type=positive, default=30, help="measured window (default 30)")
    parser.add_argument("--rounds", type=positive, default=1, help="interleaved rounds; medians are shown (default 1)")
    parser.add_argument("--only", type=names, default=[], metavar="NAME,...", help="measure these servers alone")
    parser.add_argument("--form", choices=["pinned", "old", "both"], default="both")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything found into this file")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter of the peers (default: this one)")
    parser.add_argument("--gbot-options", default="", metavar="OPTIONS", help="more options for gbot serve, one string")
    parser.add_argument("--install-peers", action="store_true", help="run npm ci in bench/peers/fastify first")
    parser.add_argument("--host", metavar="NAME", help="put the old form on a running server of deploy/hosts.toml")
    return parser.parse_args()


def main() -> None:
    exit_on_sigterm()
    arguments = parse_arguments()
    result = load_host(arguments) if arguments.host else compare(arguments)
    if arguments.json:
        write_json(arguments.json, result)
        say(f"written: {arguments.json}")


if __name__ == "__main__":
    main()
