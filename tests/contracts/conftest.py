"""Fixtures of the store suites: each test runs on every database, and with both orders of a conversation."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contracts.stores import Database, MySqlDatabase, SqliteDatabase, Worker, policy_of

DATABASES = ("sqlite", "mysql")
HireWorker = Callable[..., Worker]


@pytest.fixture(scope="session")
def mysql_database(mysql_url: str) -> Iterator[MySqlDatabase]:
    database = MySqlDatabase(mysql_url, f"gbot_contract_{os.getpid()}")
    yield database
    database.drop()


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database."""
    database: Database
    if request.param == "mysql":
        database = request.getfixturevalue("mysql_database")
        database.clear()
    else:
        database = SqliteDatabase(tmp_path / "inbox.sqlite3")
    yield database
    database.close()


@pytest.fixture(params=[True, False], ids=["strict", "relaxed"])
def strict(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def hire(database: Database, strict: bool) -> HireWorker:
    """Makes workers that share the database; ``keep_done_ms`` and ``dedup_window_ms`` may be given."""

    def make(**policy: int) -> Worker:
        return Worker(database, policy_of(strict, **policy))

    return make


@pytest.fixture
def worker(hire: HireWorker) -> Worker:
    return hire()
