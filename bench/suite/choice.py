"""What bench/run.py measures of what was asked for: scenarios, servers that are installed, and their order."""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from inboxes import Kind, fresh_memory, fresh_sqlite
from subjects import GO, Subject, go_subject, present, subjects

from suite.cases import DURABLE, GBOT, SCENARIOS, Case, Scenario

MYSQL = "gbot-mysql"  # gbot with its inbox there
NO_DATABASE = "needs a database: --start-mariadb, or --mysql URL"

Skipped = dict[str, str]


def chosen_scenarios(asked: Sequence[str], skipped: Skipped, *, database: bool) -> list[Scenario]:
    """SystemExit for one that does not exist, or needs a database where there is none."""
    if unknown := [name for name in asked if name not in SCENARIOS]:
        raise SystemExit(f"expected --scenarios to be among {', '.join(SCENARIOS)}, got {', '.join(unknown)}")
    chosen = [scenario for scenario in SCENARIOS.values() if not asked or scenario.name in asked]
    for scenario in chosen:
        if scenario.asks_database and not database:
            if asked:
                raise SystemExit(f"scenario {scenario.name} {NO_DATABASE}")
            skipped[f"scenario {scenario.name}"] = NO_DATABASE
    return [scenario for scenario in chosen if database or not scenario.asks_database]


def chosen_subjects(only: Sequence[str], peer_python: str, directory: Path) -> dict[str, Subject]:
    """SystemExit for one that takes part in no scenario. What has to be built goes into the directory."""
    everyone = {**subjects(peer_python), GO: go_subject(directory)}
    known = list(dict.fromkeys(name for scenario in SCENARIOS.values() for name in scenario.subjects))
    if unknown := [name for name in only if name not in known]:
        raise SystemExit(f"expected --only to name servers among {', '.join(known)}, got {', '.join(unknown)}")
    return {name: everyone[name] for name in known if not only or name in only}


def ready_subjects(
    scenarios: Sequence[Scenario], chosen: Mapping[str, Subject], skipped: Skipped
) -> dict[str, list[Subject]]:
    """Those whose parts are all there, by scenario; a scenario with none of those that were asked for is left out."""
    ready = {}
    for scenario in scenarios:
        asked = [chosen[name] for name in scenario.subjects if name in chosen and name not in skipped]
        if found := present(asked, skipped, database=scenario.asks_database):
            ready[scenario.name] = found
    return ready


def planned(arguments: argparse.Namespace, ready: Mapping[str, Sequence[Subject]], mysql: Kind | None) -> list[Case]:
    """In this order: in a scenario all servers once, then all of them again; then the next scenario."""
    memory = Kind(GBOT, fresh_memory)
    durable = {GBOT: Kind(GBOT, partial(fresh_sqlite, arguments.directory))} | ({MYSQL: mysql} if mysql else {})
    cases = []
    for name, all_of in ready.items():
        scenario = SCENARIOS[name]
        rate = arguments.rate if scenario.at_rate else None
        database = mysql if scenario.asks_database else None
        for _ in range(arguments.rounds):
            for subject in all_of:
                inboxes = durable if scenario is DURABLE else {subject.name: memory}
                cases += [
                    Case(scenario, subject, name, inbox, arguments.seconds, rate, arguments.db_pool, database)
                    for name, inbox in inboxes.items()
                ]
    return cases
