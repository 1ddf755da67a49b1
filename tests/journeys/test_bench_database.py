"""The benchmarks of the database run: they lose no event, put none off, and tell what was asked of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.test_bench import needs_mariadb, needs_two_cores, run

CONTENDERS = {"bare LIFO", "gbot", "gbot's pool, PyMySQL's cursor", "DBUtils, defaults", "DBUtils, ping=0, reset=False"}
needs_dbutils = pytest.mark.skipif(importlib.util.find_spec("dbutils") is None, reason="DBUtils is not installed")


@pytest.fixture(scope="module")
def pools_found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = tmp_path_factory.mktemp("pools")
    options = ["--connections", "4", "--crowd", "20", "--rounds", "1", "--operations", "100"]
    found = run(directory, "pools.py", *options, "--start-mariadb", "--directory", str(directory))
    assert [path.name for path in directory.iterdir()] == ["report.json"]
    return found


@needs_two_cores
@needs_mariadb
@needs_dbutils
def test_pools_are_compared_on_the_same_connections(pools_found: dict[str, Any]) -> None:
    found = pools_found
    assert [(one["connections"], one["greenlets"]) for one in found["matches"]] == [(4, 1), (4, 50), (4, 20)]
    for one in found["matches"]:
        assert set(one["found"]) == CONTENDERS
        assert all(figures["per_s"] > 0 for figures in one["found"].values())
        assert one["found"]["bare LIFO"]["per_s_by_bare"] == 1
    ratio, warm = found["musts"]
    assert (ratio["required"], ratio["at_least"], ratio["found"] > 0) == (0.95, True, True)
    assert (warm["required"], warm["at_least"], warm["found"] > 0) == (5.0, False, True)


@needs_two_cores
@needs_mariadb
@needs_dbutils
def test_why_gbot_does_not_share_connections_by_dbutils(pools_found: dict[str, Any]) -> None:
    told = {name: (one["executed"], one["told"]) for name, one in pools_found["killed"].items()}
    assert told.pop("gbot") == (1, "DatabaseDown")
    assert set(told.values()) == {(2, "that all went well")}
    waited_s = dict(pools_found["waited_for_another_s"])
    assert waited_s.pop("gbot") < min(waited_s.values())


@needs_two_cores
@needs_mariadb
def test_scenario_3_ends_what_it_accepts(tmp_path: Path) -> None:
    rates = ["--rate-from", "200", "--rate-step", "200", "--rate-max", "200"]
    options = ["--quick", "--pools", "5", "--handlers", "100", "--search-pools", "5", *rates]
    found = run(tmp_path, "scenario3.py", *options, "--start-mariadb", "--directory", str(tmp_path))
    [one] = found["found"]
    [search] = found["searches"]
    for load in [one, *search["confirmations"]]:
        assert load["completed_per_s"] > 0
        assert (load["missing"], load["timeouts"], load["failed"]) == (0, 0, 0)
        assert load["connections_max"] == 5
        assert load["database_cpu_us_per_event"] > 0
    assert {step["asked_per_s"] for step in search["steps"]} == {200}
    cost, aim, timeouts = found["musts"]
    assert (cost["required"], aim["required"], timeouts["required"]) == (150, 100, 0)
    assert cost["found"] == aim["found"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
