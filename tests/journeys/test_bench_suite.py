"""The suite of bench/run.py counts every event to its end, of gbot and of its peers, and stops what it has started.

bench/ is no package: its scripts find each other as siblings, and so does this test.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from tests.conftest import Serve
from tests.journeys.client import post_plain
from tests.journeys.mariadb import SEARCH_PATH, MariaDb
from tests.journeys.processes import ROOT, Program, clean_environ, eventually, free_port

sys.path.append(str(ROOT / "bench"))

from hosts import Host
from measuring import LOCALHOST, Unavailable, running_server
from subjects import GO, Subject, go_subject, subjects
from suite.remote import measure_host
from wrk import told_counts

PEERS = ["fastapi", "flask-gunicorn", "falcon-gunicorn", "fastify", GO]
needs_two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="server and client need a core each")
needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
needs_mariadb = pytest.mark.skipif(
    shutil.which("mariadbd", path=SEARCH_PATH) is None, reason="mariadbd is not installed"
)


def suite(*options: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the suite to its end."""
    command = [sys.executable, str(ROOT / "bench" / "run.py"), *options]
    environment = clean_environ(environ or {})
    return subprocess.run(command, capture_output=True, text=True, timeout=150, check=False, env=environment)


def measured(directory: Path, *options: str, environ: dict[str, str] | None = None) -> dict[str, Any]:
    """Run the suite with a report below this directory; what it has written as JSON."""
    pytest.importorskip("matplotlib")
    ran = suite(*options, "--seconds", "2", "--report", str(directory / "report"), environ=environ)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads((directory / "report" / "report.json").read_text())
    return found


def check_counted(run: dict[str, Any]) -> None:
    assert run["accepted"] == run["completed"] > 0
    assert (run["left"], run["failed"], run["errors"]) == (0, 0, 0)
    assert run["events_per_s"] > 0
    assert run["samples"][-1]["t_s"] > run["samples"][0]["t_s"] > 0
    assert any(sample["ack_ms"] for sample in run["samples"])


def peer(name: str, directory: Path) -> Subject:
    """A peer that can be started, or the test is skipped with the reason why not."""
    found = go_subject(directory) if name == GO else subjects(sys.executable)[name]
    try:
        found.require(database=True)
    except Unavailable as reason:
        pytest.skip(str(reason))
    return found


@needs_wrk
@needs_two_cores
@needs_mariadb
def test_every_event_of_gbot_is_counted_to_its_end(tmp_path: Path) -> None:
    options = ["--only", "gbot", "--scenarios", "1,2,3", "--rate", "100", "--start-mariadb", "--db-pool", "20"]
    found = measured(tmp_path, *options, "--directory", str(tmp_path))
    assert found["gbot_report"] == 1
    assert found["skipped"] == {}
    assert "MariaDB" in found["versions"]["database"]["version"]
    runs = {name: scenario["runs"]["gbot"] for name, scenario in found["scenarios"].items()}
    assert list(runs) == ["1", "2", "3"]
    for run in runs.values():
        check_counted(run)
        assert any(sample["greenlets"] for sample in run["samples"])
    assert [runs[name]["asked_events_per_s"] for name in runs] == [None, 100, 100]
    assert [runs[name]["db_connections_max"] for name in runs] == [None, None, 20]
    # A handler that waits 2-3 s has not ended when a load of 2 s does.
    assert runs["2"]["backlog"] == pytest.approx(200, rel=0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


@needs_wrk
@needs_two_cores
@pytest.mark.parametrize("name", PEERS)
def test_every_event_of_a_peer_is_counted_to_its_end(name: str, tmp_path: Path, mysql_url: str) -> None:
    peer(name, tmp_path)
    options = ["--only", name, "--scenarios", "3", "--rate", "100", "--db-pool", "10"]
    found = measured(tmp_path, *options, environ={"BENCH_MYSQL_URL": mysql_url})
    assert found["skipped"] == {}
    check_counted(found["scenarios"]["3"]["runs"][name])


@needs_wrk
@needs_two_cores
def test_a_durable_inbox_is_empty_at_the_end(tmp_path: Path, mysql_url: str) -> None:
    found = measured(tmp_path, "--scenarios", "1d", "--rounds", "2", environ={"BENCH_MYSQL_URL": mysql_url})
    assert found["skipped"] == {}
    runs = found["scenarios"]["1d"]["runs"]
    assert list(runs) == ["gbot", "gbot-mysql"]
    for run in runs.values():
        check_counted(run)
        assert any("the middle one of 2 rounds" in note for note in run["notes"])


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDb]:
    server = MariaDb(tmp_path_factory.mktemp("database"))
    yield server
    server.stop()


@needs_mariadb
@pytest.mark.parametrize("name", PEERS)
def test_a_peer_tells_an_event_that_failed_as_failed(name: str, tmp_path: Path, database: MariaDb) -> None:
    """Its database is gone when the handler asks it."""
    subject, port = peer(name, tmp_path), free_port()
    asked = {"BENCH_SCENARIO": "3", "BENCH_NAP_S": "0-0", "BENCH_DB": database.url, "BENCH_DB_POOL": "2"}
    with running_server(name, subject.command(port), port=port, directory=tmp_path, environment=asked):
        assert post_plain(f"http://{LOCALHOST}:{port}", "1").json == {"ok": "ok"}
        eventually(lambda: told_counts(LOCALHOST, port) == {"events": 1, "failed": 0, "running": 0})
        database.stop()
        try:
            assert post_plain(f"http://{LOCALHOST}:{port}", "2").json == {"ok": "ok"}
            eventually(lambda: told_counts(LOCALHOST, port) == {"events": 1, "failed": 1, "running": 0})
        finally:
            database.start()


@needs_wrk
def test_a_host_that_counts_its_events(tmp_path: Path) -> None:
    subject, port = peer("falcon-gunicorn", tmp_path), free_port()
    asked = {"BENCH_SCENARIO": "2", "BENCH_NAP_S": "2-3"}
    with running_server("a host", subject.command(port), port=port, directory=tmp_path, environment=asked):
        run = measure_host(Host("a host", LOCALHOST, port, scenario="2"), seconds=1, rate=100)
    assert run["accepted"] == run["completed"] > 0
    assert (run["left"], run["failed"], run["errors"]) == (0, 0, 0)
    assert (run["asked_events_per_s"], run["cpu_us_per_event"]) == (100, None)


@needs_wrk
def test_a_host_that_counts_nothing(serve: Serve) -> None:
    served = urlsplit(serve("--inbox", "memory:").address)
    assert served.hostname is not None
    assert served.port is not None
    run = measure_host(Host("gbot", served.hostname, served.port, scenario="1"), seconds=1, rate=100)
    assert run["deliveries_per_s"] > 0
    assert (run["completed"], run["left"], run["errors"]) == (None, None, 0)


@needs_wrk
@needs_two_cores
@needs_mariadb
def test_sigterm_ends_all_that_was_started(tmp_path: Path, programs: list[Program]) -> None:
    options = ["--only", "gbot", "--scenarios", "3", "--rate", "100", "--seconds", "300", "--start-mariadb"]
    command = [sys.executable, str(ROOT / "bench" / "run.py"), *options, "--directory", str(tmp_path)]
    program = Program(command, {"TMPDIR": str(tmp_path)})
    programs.append(program)

    def started() -> dict[str, psutil.Process]:
        try:
            return {process.name(): process for process in psutil.Process(program.pid).children(recursive=True)}
        except psutil.NoSuchProcess:  # one has ended while it was looked at
            return {}

    eventually(lambda: {"wrk", "mariadbd"} <= set(started()), 40)
    all_of = [*started().values(), *psutil.Process(program.pid).children()]
    assert program.stop(signal.SIGTERM) == 1
    assert program.stderr[-1] == "python bench/run.py: stopped by SIGTERM"
    assert [process for process in all_of if process.is_running()] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--scenarios", "3"], "scenario 3 needs a database: --start-mariadb, or --mysql URL"),
        (["--scenarios", "4"], "--scenarios: expected names among 1, 1d, 2, 3, got 4"),
        (["--only", "gbot-mysql"], "gbot-mysql needs a database: --start-mariadb, or --mysql URL"),
        (["--only", "fastapi", "--scenarios", "1d"], "fastapi: no part of scenario 1d"),
        (["--only", "echo-floor"], "got echo-floor"),
        (["--rate", "19"], "expected 20 events per second or more, got '19'"),
        (["--host", "example.com"], "expected --host to be listed in deploy/hosts.toml (localhost), got 'example.com'"),
        (["--host", "localhost", "--only", "gbot"], "with --host the server is the one that runs there"),
    ],
)
@needs_two_cores
def test_what_cannot_be_measured_is_refused_at_once(options: list[str], said: str) -> None:
    ran = suite(*options)
    assert ran.returncode == 2
    assert said in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("python bench/run.py: error: ")
    assert ran.stdout == ""


@needs_wrk
@needs_two_cores
def test_a_subject_is_asked_for_by_its_name_in_the_report(tmp_path: Path, mysql_url: str) -> None:
    found = measured(tmp_path, "--only", "gbot-mysql", environ={"BENCH_MYSQL_URL": mysql_url})
    assert {name: list(scenario["runs"]) for name, scenario in found["scenarios"].items()} == {"1d": ["gbot-mysql"]}
    assert found["skipped"] == {}
    check_counted(found["scenarios"]["1d"]["runs"]["gbot-mysql"])


def test_what_the_machine_lacks_is_told_with_the_name_of_the_program(tmp_path: Path) -> None:
    """Without wrk: not wrong usage."""
    path = {"PATH": str(tmp_path)}
    ran = suite("--only", "gbot", "--scenarios", "1", "--seconds", "1", environ=path)
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].startswith("python bench/run.py: ")
