"""``gbot plan`` and ``gbot plan db`` as a program: what they take, what they say, and with which exit code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gbot.kinds import Kind
from gbot.planning import kinds
from tests.journeys.processes import DEADLINE_S, Program, clean_environ, gbot

OLD_CASE = ("--events", "2000/s", "--latency", "2.5s", "--queries", "1")


def plan(*arguments: str) -> Program:
    return gbot("plan", *arguments)


def sentences(program: Program, code: int = 0) -> str:
    """What it said on standard output, however its lines are broken."""
    assert program.code == code, program.report()
    assert program.stderr == [], program.report()
    return " ".join(" ".join(program.stdout).split())


def refused(program: Program) -> str:
    """The one line with which it refused."""
    assert program.code == 2, program.report()
    assert program.stdout == []
    [line] = program.stderr
    assert line.startswith("gbot: ")
    return line.removeprefix("gbot: ")


# ---- how many servers


@pytest.mark.parametrize("columns", [60, 80])
def test_the_help_is_no_wider_than_the_terminal(columns: int) -> None:
    for command in (["plan"], ["plan", "db"]):
        told = gbot(*command, "--help", environ={"COLUMNS": str(columns)})
        assert max(map(len, told.stdout)) <= columns, told.report()


def test_the_old_case_from_the_help() -> None:
    text = sentences(plan(*OLD_CASE, "--instance-class", "db.r3.2xlarge"))
    assert "2,000/s x 2.5 s = 5,000 at once" in text
    assert "max_connections 4,921 (to count on with db.r3.2xlarge) - 10 kept for others = 4,911: enough" in text
    assert "Start it with: gbot serve APP --pool 6500 --db-pool 10 With one more" in text
    assert text.endswith("gbot serve APP --pool 6500 --db-pool 10 --db-share 2")
    assert " µs " in text


def test_without_anything_it_says_what_it_does() -> None:
    assert "How many servers does a load need?" in sentences(plan())


def test_one_s_own_numbers_go_before_the_usual_ones() -> None:
    program = plan(
        *OLD_CASE, "--query-time", "20ms", "--calls", "0", "--headroom", "0%", "--max-connections", "100", "--json"
    )
    told = json.loads(sentences(program))
    assert told["from"]["load"] == {
        "events_per_s": 2000.0,
        "latency_s": 2.5,
        "queries": 1.0,
        "query_s": 0.02,
        "calls": 0.0,
    }
    assert (told["totals"]["pool"], told["totals"]["db_pool"], told["database"]["allowed"]) == (5000, 40, 90)
    assert (told["nodes"], told["feasible"], told["bound"]) == (1, True, "database connections")


def test_small_nodes_are_many() -> None:
    told = json.loads(sentences(plan(*OLD_CASE, "--memory", "100MiB", "--cores", "0.5", "--files", "4096", "--json")))
    assert told["from"]["node"] == {"cores": 0.5, "memory_bytes": 100 * 2**20, "open_files": 4096}
    by_resource = {need["resource"]: need["nodes"] for need in told["needs"]}
    assert told["nodes"] == max(by_resource.values())
    assert min(by_resource[name] for name in ("CPU", "memory", "open files")) > 1


def test_a_database_that_is_too_small_is_exit_code_1() -> None:
    program = plan(*OLD_CASE, "--query-time", "2s", "--instance-class", "db.t3.medium", "--engine", "aurora-mysql")
    text = sentences(program, 1)
    assert "max_connections 90 (by default on db.t3.medium)" in text
    assert "too few connections" in text
    assert "max_connections 5,210 would do; by default db.r8g.12xlarge is the smallest class of Aurora MySQL" in text


def test_units_that_are_clear_need_not_be_written() -> None:
    text = sentences(plan("--events", "2000", "--headroom", "20", "--latency", "2.5", "--memory", "2GiB"))
    assert "2,000/s x 2.5 s = 5,000 at once; with 20 % headroom 6,000" in text
    assert "of 2 GiB: 1 node" in text


@pytest.mark.parametrize(("encoding", "unit"), [("ascii", "us"), ("utf-8", "µs"), ("latin-1", "µs")])
def test_a_terminal_without_the_micro_sign_gets_an_u(encoding: str, unit: str) -> None:
    command = [sys.executable, "-m", "gbot", "plan", *OLD_CASE]
    environ = clean_environ({"PYTHONIOENCODING": encoding})
    told = subprocess.run(command, env=environ, capture_output=True, check=True, timeout=DEADLINE_S)
    assert f"40.3 {unit} to take" in told.stdout.decode(encoding)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--latency", "2s"), "--events 2000/s. See gbot plan --help."),
        (
            ("--events", "many"),
            "--events: expected a rate such as 500/s or 3000/min; a number alone is per second, got 'many' (from the",
        ),
        (("--events", "5/s", "--latency", "1", "--instance-class", "db.serverless"), "give --max-connections N"),
        (("--events", "2/s, 5 at once"), "--events: expected a rate"),
        (("--events", "5/s"), "--latency 2.5s, or measure it with --app"),
        (("--events", "5/s", "--latency", "long"), "--latency: expected a number of seconds"),
        (("--events", "5/s", "--latency", "1", "--memory", "two"), "--memory: expected a size such as 512MiB, 2GiB"),
        (("--events", "5/s", "--latency", "1", "--headroom", "0.3"), "--headroom: expected a share such as 30%"),
        (("--events", "5/s", "--latency", "1", "--instance-class", "db.r3.2xlrge"), "perhaps db.r3.2xlarge"),
        (("--events", "5/s", "--latency", "1", "--seconds", "5"), "--rate are for --app"),
        (("--events", "5/s", "--latency", "1", "--db", "mysql://bot@db/bot"), "--db, --event-text, --seconds and"),
        (("--events", "5/s", "--app", "a:b", "--db", "mysql://bot:hush@db/bot"), "--db: expected a URL without a pass"),
        (("--events", "5/s", "--app", "a:b", "--rate", "2000/s"), "--rate: expected a rate of 1000/s at most"),
        (("--events", "5/s", "--app", "a:b", "--event-text", "a,b"), "a comma ends a text"),
        (("--events", "5/s", "--app", "a:b", "--report", "r.json"), "give one of them"),
        (("--engine", "mariadb", "db"), "Give the options of db after its name, and no others. See gbot plan --help"),
        (("--json", "db", "--nodes", "2"), "Give the options of db after its name"),
        (
            ("--events", "5/s", "--report", "no.json"),
            "--report: expected a report of bench/run.py, got 'no.json': No such",
        ),
    ],
)
def test_what_it_cannot_take_is_one_line(arguments: tuple[str, ...], part: str) -> None:
    assert part in refused(plan(*arguments))


@pytest.mark.parametrize("like", ["--coress", "--core"], ids=["one", "several"])
def test_after_what_may_have_been_meant_there_is_no_full_stop(like: str) -> None:
    said = refused(plan(like, "2"))
    assert "'--cores'" in said
    assert re.search(r"\?\)? See gbot plan --help\.", said), said


def test_a_report_of_the_benchmarks_is_taken(tmp_path: Path) -> None:
    run = {"events_per_s": 1900.0, "cpu_us_per_event": 120.0, "rss_mb": 110.0, "idle_rss_mb": 50.0}
    runs = {"gbot": run | {"waiting_median": 4750, "db_connections_max": 50}, "fastapi": {}}
    path = tmp_path / "report.json"
    path.write_text(json.dumps({"gbot_report": 1, "scenarios": {"3": {"runs": runs}}}))
    text = sentences(plan("--events", "1000/s", "--report", str(path), "--calls", "0"))
    assert "1,000/s x 2.5 s (scenario 3 of the report) = 2,500 at once" in text
    assert "an event: 120 µs (scenario 3 of the report) + 10.6 µs to store it in SQLite = 131 µs 1,000/s" in text
    assert "1 use of a connection (scenario 3 of the report) x 2 ms (default)" in text
    runs["gbot"]["notes"] = ["the machine was 97 % busy before the start"]
    path.write_text(json.dumps({"gbot_report": 1, "scenarios": {"3": {"runs": runs}}}))
    doubtful = plan("--events", "1000/s", "--report", str(path))
    assert doubtful.stderr == ["gbot: scenario 3 of the report: the machine was 97 % busy before the start"]
    path.write_text("from gbot import Bot")
    line = refused(plan("--events", "1000/s", "--report", str(path)))
    assert "--report: expected a report of bench/run.py, got " in line
    assert line.endswith("report.json': that is none (from the command line)")


# ---- how many connections


def test_one_class_and_the_share_of_each_node() -> None:
    text = sentences(plan("db", "--instance-class", "db.r3.2xlarge", "--nodes", "4"))
    assert "db.r3.2xlarge, 8 vCPU, 61 GiB" in text
    assert "5,205 by default" in text
    assert "--db-pool 1227 --db-share 4" in text


def test_what_the_server_itself_says_goes_before_the_table() -> None:
    program = plan("db", "--instance-class", "db.r3.2xlarge", "--nodes", "4", "--max-connections", "5100", "--json")
    told = json.loads(sentences(program))
    assert (told["name"], told["max_connections"], told["db_pool"], told["db_share"]) == (
        "db.r3.2xlarge",
        5100,
        1272,
        4,
    )
    assert told["source"]["date"].startswith("20")
    assert len(told["source"]["pages"]) == 4
    both = sentences(plan("db", "--instance-class", "db.r3.2xlarge", "--nodes", "4", "--max-connections", "5100"))
    assert "max_connections 5,100 (given, which goes before db.r3.2xlarge) - 10 kept" in both
    assert "SELECT @@max_connections" not in both  # it has been asked
    alone = plan("db", "--nodes", "4", "--max-connections", "5100", "--shared-inbox")
    text = sentences(alone)
    assert "max_connections 5,100 - 10 kept for others = 5,090; / 4 nodes = 1,272; - 2 of the inbox = 1,270" in text


def test_nothing_left_for_a_node_is_exit_code_1() -> None:
    arguments = ("db", "--nodes", "4", "--max-connections", "13")
    assert "Too few: nothing is left for a node. max_connections 14 would do" in sentences(plan(*arguments), 1)
    assert json.loads(sentences(plan(*arguments, "--json"), 1))["db_pool"] == 0
    assert "--db-pool 1 --db-share 4" in sentences(plan("db", "--nodes", "4", "--max-connections", "14"))


def test_all_classes_are_listed() -> None:
    text = sentences(plan("db"))
    assert "db.t4g.micro" in text
    assert "db.r8g.48xlarge" in text
    assert "https://docs.aws.amazon.com/" in text
    assert "what --db-pool can be on the node with RDS for MySQL" in text
    told = json.loads(sentences(plan("db", "--engine", "aurora-mysql", "--json")))
    assert told["source"]["date"].startswith("20")
    assert {one["engine"] for one in told["classes"]} == {"aurora-mysql"}
    assert {one["name"]: one["max_connections"] for one in told["classes"]}["db.r6g.large"] == 1000


def test_a_class_that_is_none_is_refused_with_those_that_are_near() -> None:
    line = refused(plan("db", "--instance-class", "db.r6g.3xlarge"))
    assert "--instance-class: expected a class that RDS has for MySQL or MariaDB, perhaps db.r6g." in line


# ---- units


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (kinds.SIZE, "2GiB", 2 * 2**30),
        (kinds.SIZE, "1.5 MiB", 1.5 * 2**20),
        (kinds.SIZE, "512M", 512_000_000),
        (kinds.SIZE, "1048576", 2**20),
        (kinds.RATE, "600/min", 10.0),
        (kinds.RATE, "2000/s", 2000.0),
        (kinds.RATE, "2000", 2000.0),
        (kinds.MEASURED_RATE, "50", 50.0),
        (kinds.PERCENT, "30%", 0.3),
        (kinds.PERCENT, "0.5 %", 0.005),
        (kinds.PERCENT, "30", 0.3),
        (kinds.PERCENT, "0", 0.0),
        (kinds.COUNT, "0.5", 0.5),
    ],
)
def test_units_are_understood(kind: Kind, text: str, value: float) -> None:
    assert kind.read(text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (kinds.SIZE, "2 gigs"),
        (kinds.SIZE, "-2GiB"),
        (kinds.SIZE, "2"),  # of what?
        (kinds.SIZE, "1048575"),
        (kinds.RATE, "1 at once"),
        (kinds.RATE, "10/s, 100ms apart"),
        (kinds.RATE, "0"),
        (kinds.RATE, ""),
        (kinds.PERCENT, "1001%"),
        (kinds.PERCENT, "1001"),
        (kinds.PERCENT, "0.3"),
        (kinds.COUNT, "1e3"),
        (kinds.COUNT, "1001"),
    ],
)
def test_what_is_no_unit_is_refused(kind: Kind, text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - a Kind says nothing but that
        kind.read(text)
