"""The suite: gbot and its peers in the same scenarios, in the same run, with every event counted to its end.

    python bench/run.py --start-mariadb --report DIR            everything, about a quarter of an hour
    python bench/run.py --only gbot,fastapi --scenarios 1,2     two of them in two scenarios; no database is needed
    python bench/run.py --host localhost                        a server that already runs, listed in deploy/hosts.toml

1   a handler that does nothing; as many deliveries as the server answers
1d  the same with gbot's events stored, in SQLite and in MySQL where there is one
2   a handler that waits 2-3 s for somebody else; at a given rate
3   the same, and then SELECT NOW() through a pool of connections

The server runs on one core, wrk and the database on another. The tables go to stdout; --report draws a page as well.
The exit code is 1 where nothing could be measured, and 2 for wrong usage.
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hosts import Host, listed_host
from inboxes import CONNECTIONS_MAX, Kind, add_options, check_room, mysql_kind, mysql_version
from measuring import (
    Unavailable,
    circumstances,
    command_output,
    exit_on_sigterm,
    figure,
    pin_this_process,
    say,
    two_cores,
)
from report import VERSION, ReportError, require_matplotlib, terminal_table, terminal_width, write_report
from subjects import install_fastify
from suite.cases import GBOT_MYSQL, MESSAGES, PROBES_PER_S, RATE, SCENARIOS, Scenario
from suite.choice import (
    Ready,
    WrongUsage,
    chosen_scenarios,
    planned,
    ready_subjects,
    scenario_names,
    subject_names,
)
from suite.remote import measure_host
from suite.rounds import Run, measure_all, middle_of
from wrk import positive

PROGRAM = "python bench/run.py"
DB_POOL = 50


@contextlib.contextmanager
def database(arguments: argparse.Namespace, chosen: Sequence[tuple[Scenario, Sequence[str]]]) -> Iterator[Kind | None]:
    """The one that was asked for, where somebody has a use for it."""
    asked = any(scenario.asks_database for scenario, _ in chosen)
    if not asked and not any(GBOT_MYSQL in who for _, who in chosen):
        yield None
        return
    with mysql_kind(arguments, GBOT_MYSQL, [f"--max-connections={CONNECTIONS_MAX}"]) as mysql:
        if mysql and asked:
            check_room(mysql, arguments.db_pool)
        yield mysql


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that was asked for, on this machine; the report."""
    cores, skipped = two_cores(), dict[str, str]()
    has_database = bool(arguments.start_mariadb or arguments.mysql)
    chosen = chosen_scenarios(arguments.scenarios, arguments.only, skipped, database=has_database)
    with tempfile.TemporaryDirectory(prefix="gbot-bench-") as built:
        if arguments.install_peers and any(name.startswith("fastify") for _, who in chosen for name in who):
            install_fastify()
        ready = ready_subjects(chosen, arguments.peer_python, Path(built), skipped)
        with database(arguments, chosen) as mysql:
            pin_this_process(cores[1])
            versions = versions_of(ready, mysql)
            found = measure_all(planned(arguments, ready, mysql), cores, skipped)
    runs = {name: {subject: middle_of(rounds) for subject, rounds in found[name].items()} for name in ready}
    return report(arguments, runs, versions, skipped)


def versions_of(ready: Ready, mysql: Kind | None) -> dict[str, object]:
    everyone = {subject.name: subject for subjects in ready.values() for subject in subjects.values()}
    versions: dict[str, object] = {name: subject.versions() for name, subject in everyone.items()}
    return versions | ({"database": {"version": mysql_version(mysql)}} if mysql else {})


def load_host(arguments: argparse.Namespace) -> dict[str, Any]:
    """The load of its scenario on a host; the report."""
    host: Host = arguments.host
    if arguments.only or arguments.scenarios:
        raise WrongUsage("with --host the server is the one that runs there, and its scenario is in deploy/hosts.toml")
    if host.scenario not in SCENARIOS:
        expected = ", ".join(SCENARIOS)
        raise WrongUsage(f"expected the scenario of {host.name} to be among {expected}, got {host.scenario!r}")
    say(f"scenario {host.scenario}, {host.name}: {arguments.seconds} s")
    runs = {host.scenario: {host.name: measure_host(host, arguments.seconds, arguments.rate)}}
    return report(arguments, runs, {}, {})


def report(
    arguments: argparse.Namespace,
    runs: Mapping[str, Mapping[str, Run]],
    versions: Mapping[str, object],
    skipped: Mapping[str, str],
) -> dict[str, Any]:
    """As bench/report and `gbot plan --report` read it."""
    scenarios = {
        name: {"title": title(SCENARIOS[name], arguments), "question": SCENARIOS[name].question, "runs": dict(of)}
        for name, of in runs.items()
    }
    tools = {"wrk": {"version": command_output(["wrk", "--version"])}}
    parts = {"versions": {**versions, **tools}, "scenarios": scenarios, "skipped": dict(skipped)}
    return {"gbot_report": VERSION, **circumstances(), **parts}


def title(scenario: Scenario, arguments: argparse.Namespace) -> str:
    pool = f", a pool of {figure(arguments.db_pool)} connections" if scenario.asks_database else ""
    load = f"{figure(arguments.rate)} events/s" if scenario.at_rate else "as many events as are answered"
    return f"{scenario.title}{pool}; {load} for {arguments.seconds} s"


def events_per_s(text: str) -> float:
    """The probe brings some of them."""
    least = PROBES_PER_S + MESSAGES
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not least <= value < 1e6:
        raise argparse.ArgumentTypeError(f"expected {least:g} events per second or more, got {text!r}")
    return value


def host(name: str) -> Host:
    try:
        return listed_host(name)
    except SystemExit as reason:
        raise argparse.ArgumentTypeError(str(reason)) from None


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--only", type=subject_names, default=[], metavar="NAME,...", help="measure these alone, named as in the tables"
    )
    parser.add_argument(
        "--scenarios", type=scenario_names, default=[], metavar="NAME,...", help="of 1, 1d, 2, 3 (default: all)"
    )
    parser.add_argument("--seconds", type=positive, default=20, help="how long each load lasts (default 20)")
    parser.add_argument("--rounds", type=positive, default=1, help="interleaved; the middle one is shown (default 1)")
    parser.add_argument(
        "--rate",
        type=events_per_s,
        default=RATE,
        metavar="N",
        help=f"events per second in 2 and 3 (default {RATE:g}, 95 %% of what a pool of 5000 handlers can do)",
    )
    parser.add_argument(
        "--db-pool",
        type=positive,
        default=DB_POOL,
        metavar="N",
        help=f"connections in each server's pool, opened at its start (default {DB_POOL}; the old system had 5000)",
    )
    parser.add_argument("--report", type=Path, metavar="DIR", help="write report.json, report.html and plots into it")
    parser.add_argument(
        "--host", type=host, metavar="NAME", help="put the load on a running server of deploy/hosts.toml"
    )
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter of the peers (default: this one)")
    parser.add_argument("--install-peers", action="store_true", help="run npm ci in bench/peers/fastify first")
    add_options(parser)
    return parser


def main() -> None:
    exit_on_sigterm()
    parser = options()
    arguments = parser.parse_args()
    try:
        if arguments.report:
            require_matplotlib()  # before a run of many minutes, not after it
        result = load_host(arguments) if arguments.host else compare(arguments)
        print(terminal_table(result, terminal_width()), flush=True)
        if arguments.report:
            say(f"written: {write_report(result, arguments.report)}")
    except WrongUsage as reason:
        parser.error(str(reason))
    except (Unavailable, ReportError) as reason:
        stop(str(reason))
    except KeyboardInterrupt:
        stop("stopped by Ctrl-C")
    except SystemExit as reason:  # what the scripts share ends with a sentence
        stop(str(reason))
    if not any(scenario["runs"] for scenario in result["scenarios"].values()):
        stop("nothing could be measured")


def stop(reason: str) -> NoReturn:
    raise SystemExit(f"{PROGRAM}: {reason}")


if __name__ == "__main__":
    main()
