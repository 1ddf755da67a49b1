"""What bench/run.py measures of what was asked for: scenarios, servers that are installed, and their order."""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from inboxes import Kind, fresh_memory, fresh_sqlite
from subjects import GO, Subject, go_subject, present, subjects
from wrk import names

from suite.cases import DURABLE, GBOT, GBOT_MYSQL, SCENARIOS, Case, Scenario

EVERYONE = list(dict.fromkeys(name for scenario in SCENARIOS.values() for name in scenario.subjects))
NO_DATABASE = "needs a database: --start-mariadb, or --mysql URL"

Skipped = dict[str, str]
Ready = Mapping[str, Mapping[str, Subject]]  # by scenario, and by the name in the report


class WrongUsage(Exception):
    """Nothing can be measured like this; the message says what was expected."""


def scenario_names(text: str) -> list[str]:
    return names_among(SCENARIOS, text)


def subject_names(text: str) -> list[str]:
    return names_among(EVERYONE, text)


def names_among(known: Sequence[str] | Mapping[str, object], text: str) -> list[str]:
    """As argparse wants it told."""
    asked = names(text)
    if unknown := [name for name in asked if name not in known]:
        raise argparse.ArgumentTypeError(f"expected names among {', '.join(known)}, got {', '.join(unknown)}")
    return asked


def chosen_scenarios(
    asked: Sequence[str], only: Sequence[str], skipped: Skipped, *, database: bool
) -> list[tuple[Scenario, list[str]]]:
    """Those with somebody to be measured, and whom. WrongUsage where there is nobody, or a database is missing."""
    chosen = []
    for scenario in SCENARIOS.values():
        who = [name for name in scenario.subjects if not only or name in only]
        if who and (not asked or scenario.name in asked):
            chosen.append((scenario, who))
    if not chosen:
        raise WrongUsage(f"{', '.join(only)}: no part of scenario {', '.join(asked)}")
    if database:
        return chosen
    left = []
    for scenario, who in chosen:
        if scenario.asks_database:
            leave_out(f"scenario {scenario.name}", skipped, asked_for=scenario.name in asked)
            continue
        if GBOT_MYSQL in who:
            leave_out(GBOT_MYSQL, skipped, asked_for=GBOT_MYSQL in only)
        left.append((scenario, [name for name in who if name != GBOT_MYSQL]))
    return left


def leave_out(what: str, skipped: Skipped, *, asked_for: bool) -> None:
    if asked_for:
        raise WrongUsage(f"{what} {NO_DATABASE}")
    skipped[what] = NO_DATABASE


def ready_subjects(
    chosen: Sequence[tuple[Scenario, Sequence[str]]], peer_python: str, directory: Path, skipped: Skipped
) -> Ready:
    """Those whose parts are all there; a scenario without any is left out. What is built goes into the directory."""
    everyone = {**subjects(peer_python), GO: go_subject(directory)}
    everyone[GBOT_MYSQL] = everyone[GBOT]
    ready = {}
    for scenario, who in chosen:
        asked = {everyone[name].name: everyone[name] for name in who if name not in skipped}
        there = present(list(asked.values()), skipped, database=scenario.asks_database)
        if found := {name: everyone[name] for name in who if everyone[name] in there}:
            ready[scenario.name] = found
    return ready


def planned(arguments: argparse.Namespace, ready: Ready, mysql: Kind | None) -> list[Case]:
    """In this order: in a scenario all servers once, then all of them again; then the next scenario."""
    memory = Kind(GBOT, fresh_memory)
    durable = {GBOT: Kind(GBOT, partial(fresh_sqlite, arguments.directory)), GBOT_MYSQL: mysql}
    cases = []
    for scenario_name, all_of in ready.items():
        scenario = SCENARIOS[scenario_name]
        rate = arguments.rate if scenario.at_rate else None
        database = mysql if scenario.asks_database else None
        for _ in range(arguments.rounds):
            for name, subject in all_of.items():
                inbox = durable[name] if scenario is DURABLE else memory
                assert inbox is not None, "chosen only where there is a database"
                cases.append(Case(scenario, subject, name, inbox, arguments.seconds, rate, arguments.db_pool, database))
    return cases
