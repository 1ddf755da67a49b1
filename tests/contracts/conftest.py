"""Fixtures of the contract suites: each test runs on every database, or on every inbox.

Those of a store run with both orders of a conversation.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contracts.inboxes import Maker
from tests.contracts.stores import Database, MySqlDatabase, SqliteDatabase, Worker, policy_of

DATABASES = ("sqlite", "mysql")
INBOXES = ("memory", *DATABASES)
HireWorker = Callable[..., Worker]


@pytest.fixture(scope="session")
def mysql_database(mysql_url: str) -> Iterator[MySqlDatabase]:
    database = MySqlDatabase(mysql_url, f"gbot_contract_{os.getpid()}")
    yield database
    database.drop()


def _empty(kind: str, request: pytest.FixtureRequest, directory: Path) -> Database:
    if kind == "sqlite":
        return SqliteDatabase(directory / "inbox.sqlite3")
    database: MySqlDatabase = request.getfixturevalue("mysql_database")
    database.clear()
    return database


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database."""
    database = _empty(request.param, request, tmp_path)
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


@pytest.fixture(params=INBOXES)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Maker]:
    """Makes inboxes of each kind."""
    maker = Maker(_empty(request.param, request, tmp_path) if request.param in DATABASES else None)
    yield maker
    maker.end()


@pytest.fixture(params=DATABASES)
def make_on_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Maker]:
    """Makes inboxes of each kind that outlives its worker."""
    maker = Maker(_empty(request.param, request, tmp_path))
    yield maker
    maker.end()
