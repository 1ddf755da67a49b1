"""The benchmarks that the README names run, and find that every acknowledged event was run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.mariadb import SEARCH_PATH

ROOT = Path(__file__).parents[2]
needs_two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="server and client need a core each")
needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
needs_mariadb = pytest.mark.skipif(
    shutil.which("mariadbd", path=SEARCH_PATH) is None, reason="mariadbd is not installed"
)


def run(directory: Path, script: str, *options: str) -> dict[str, Any]:
    """Run a benchmark to its end, with its files below this directory; what it has written as JSON."""
    report = directory / "report.json"
    command = [sys.executable, str(ROOT / "bench" / script), *options, "--json", str(report)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def check_durability(found: dict[str, Any], messages: int, *names: str) -> None:
    assert found["skipped"] == {}
    for name in names:
        [one] = found[f"messages_{messages}"][name]["rounds"]
        assert one["events_missing"] == 0
        for load in (one["saturation"], one["half"]):
            assert load["deliveries_per_s"] > 0
            assert (load["left"], load["errors"]) == (0, 0)
        assert one["half"]["asked_per_s"] == pytest.approx(one["saturation"]["deliveries_per_s"] / 2)


@needs_wrk
def test_scenario_1_counts_every_event(tmp_path: Path) -> None:
    median = run(tmp_path, "scenario1.py", "--only", "gbot", "--form", "old", "--seconds", "1")["old"]["gbot"]["median"]
    assert median["req_per_s"] > 0
    assert (median["errors"], median["events_missing"]) == (0, 0)


@needs_wrk
@needs_two_cores
def test_the_cost_of_durability_is_given_by_memorys(tmp_path: Path) -> None:
    options = ["--seconds", "1", "--messages", "10", "--only", "gbot-memory,gbot-sqlite", "--directory", str(tmp_path)]
    found = run(tmp_path, "durability.py", *options)
    check_durability(found, 10, "gbot-memory", "gbot-sqlite")
    assert found["messages_10"]["gbot-memory"]["median"]["saturation"]["events_per_s_by_memory"] == 1
    throughput, latency, mysql = found["musts"]
    assert throughput["found"] > 0
    assert latency["found"] > 0
    assert (mysql["found"], mysql["met"]) == (None, None)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


@needs_wrk
@needs_two_cores
@needs_mariadb
def test_the_durability_of_a_mariadb_started_for_the_run(tmp_path: Path) -> None:
    options = ["--seconds", "1", "--messages", "1", "--only", "gbot-mysql", "--start-mariadb"]
    found = run(tmp_path, "durability.py", *options, "--directory", str(tmp_path))
    check_durability(found, 1, "gbot-mysql")
    assert found["messages_1"]["gbot-mysql"]["rounds"][0]["saturation"]["database_cpu_us_per_event"] > 0
    assert "MariaDB" in found["versions"]["gbot-mysql"]
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


@needs_two_cores
def test_a_backlog_is_as_long_as_it_was_asked_for(tmp_path: Path) -> None:
    options = ["--few", "500", "--entries", "2500", "--cycles", "2", "--only", "sqlite", "--directory", str(tmp_path)]
    found = run(tmp_path, "backlog.py", *options)["found"]["sqlite"]
    assert (found["few"], found["many"]) == (500, 2500)
    assert {kind: turns["many"]["count"] for kind, turns in found["turns"].items()} == {
        "claim": 2,
        "settle": 2,
        "put": 10,
    }
    assert min(found["ratios"].values()) > 0
    assert 0 < found["rss_mb"]["empty"] < found["rss_mb"]["many"]  # where handlers are asleep
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
