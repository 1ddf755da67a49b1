"""For the tests of gbot.database: processes where gevent has replaced what blocks, and a server that is none.

A test marked ``@patched`` runs in a process of its own, patched before anything else is imported, with the fixtures
that pytest has made here; whatever that process writes to its standard error is a failure, warnings of what was not
closed and greenlets that died of an error included.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import gevent
import pytest
from gevent.event import Event

from gbot.database.address import parse
from gbot.database.client import Database
from gbot.database.connection import Connection
from gbot.database.connector import Connector
from gbot.database.lender import Lender
from gbot.database.pool import Pool
from gbot.errors import DatabaseDown, DatabaseMistake
from tests.journeys.processes import ROOT, clean_environ

SKIPPED: Final = 77
TIMEOUT_S: Final = 60
START: Final = (
    "import gevent.monkey; gevent.monkey.patch_all()\n"
    "import sys; sys.path.insert(0, sys.argv[1])\n"
    "from tests.database_rig import main; main(*sys.argv[2:])\n"
)


def patched(test: Callable[..., None]) -> Callable[..., None]:
    """Run this test in a patched process. Its fixtures are texts, and tmp_path."""

    @functools.wraps(test)
    def run(**given: Any) -> None:
        module = ".".join(Path(test.__code__.co_filename).relative_to(ROOT).with_suffix("").parts)
        arguments = [str(ROOT), module, test.__name__, json.dumps(given, default=str)]
        command = [sys.executable, "-W", "error", "-c", START, *arguments]
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env=clean_environ({}), start_new_session=True
        )
        try:
            _, said = process.communicate(timeout=TIMEOUT_S)
        finally:
            with contextlib.suppress(ProcessLookupError):  # with the servers that it has started
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.returncode == SKIPPED:
            pytest.skip(said.strip())
        assert (process.returncode, said) == (0, ""), f"it ended with {process.returncode} and said:\n{said}"

    return run


def main(module: str, name: str, given: str) -> None:
    """In the patched process."""
    found = json.loads(given)
    if "tmp_path" in found:
        found["tmp_path"] = Path(found["tmp_path"])
    try:
        getattr(importlib.import_module(module), name).__wrapped__(**found)
    except pytest.skip.Exception as skipped:
        print(skipped.msg, file=sys.stderr)
        sys.exit(SKIPPED)


class Kept(logging.Handler):
    """What gbot.database logs, as texts."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())

    def having(self, part: str) -> list[str]:
        return [text for text in self.texts if part in text]


@contextlib.contextmanager
def kept_log() -> Iterator[Kept]:
    kept, logger = Kept(), logging.getLogger("gbot.database")
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(kept)
    yield kept
    logger.removeHandler(kept)
    logger.setLevel(level)
    logger.propagate = propagate


class Opened:
    """A database with its pool, what it has logged, and how to look at it from outside."""

    def __init__(self, url: str, pool: Pool[Connection], log: Kept) -> None:
        self.pool = pool
        self.log = log
        self.db = Database(Lender(pool, "the database"))
        self.connector = Connector(parse(url))

    @contextlib.contextmanager
    def outside(self) -> Iterator[Connection]:
        """A connection beside the pool."""
        connection = self.connector.connect()
        yield connection
        connection.close()

    def count(self, field: str) -> int:
        return int(getattr(self.pool.statistics(), field))

    def fill(self, connections: int) -> list[int]:
        """Have this many open, all of them idle; their numbers."""
        gate, numbers = Event(), []

        def use() -> None:
            with self.db.connection() as connection:
                numbers.append(connection.thread_id())
                gate.wait()

        users = [gevent.spawn(use) for _ in range(connections)]
        while len(numbers) < connections:
            gevent.sleep(0.001)
        gate.set()
        gevent.joinall(users, raise_error=True)
        return numbers


@contextlib.contextmanager
def opened(url: str, size: int, **options: Any) -> Iterator[Opened]:
    """A database on a pool of this size, begun. At the end everything has to have come back to it."""
    connector = Connector(parse(url))
    with kept_log() as log:
        pool = Pool(lambda: connector.connect(None), "the database", size, **options)
        made = Opened(url, pool, log)
        made.pool.start()
        try:
            yield made
        except BaseException:
            print("logged:", *log.texts[-20:], pool.statistics(), sep="\n", file=sys.stderr)
            raise
        assert (made.count("in_use"), made.count("waiting")) == (0, 0), made.pool.statistics()
        made.pool.stop()
        assert made.count("open") == 0


def anew(db: Connection | Database, kind: str, name: str, rest: str) -> None:
    """Create a table, procedure or user, in place of what a test before has left: MySQL has no CREATE OR REPLACE."""
    db.execute(f"DROP {kind} IF EXISTS {name}")
    db.execute(f"CREATE {kind} {name} {rest}")


def outcome(work: Callable[..., object], *args: object) -> object:
    """What it returns, or the error that it raises, for greenlets that may fail."""
    try:
        return work(*args)
    except Exception as error:
        return error


class FakeServer:
    """Sessions in memory, for the pool alone. A connection is refused, held up or broken when a test says so."""

    def __init__(self) -> None:
        self.sessions: set[int] = set()  # open, or left at work
        self.made: list[FakeConnection] = []
        self.refusal: Exception | None = None
        self.ending_refused: Exception | None = None
        self.welcome = Event()  # cleared: it accepts and says nothing
        self.welcome.set()
        self.answering = Event()  # the same for signs of life
        self.answering.set()
        self.attempted_at: list[float] = []  # monotonic
        self.connecting = self.most_connecting = self.most_sessions = 0
        self.asked = 0  # for signs of life
        self.closing_s = 0.0  # that a connection is at work when it is closed

    @property
    def attempts(self) -> int:
        return len(self.attempted_at)

    def connect(self) -> FakeConnection:
        self.attempted_at.append(time.monotonic())
        self.connecting += 1
        self.most_connecting = max(self.most_connecting, self.connecting)
        try:
            gevent.sleep(0)
            self.welcome.wait()
        finally:
            self.connecting -= 1
        if self.refusal is not None:
            raise self.refusal
        made = FakeConnection(self, len(self.made) + 1)
        self.made.append(made)
        self.sessions.add(made.session)
        self.most_sessions = max(self.most_sessions, len(self.sessions))
        return made

    def restart(self) -> None:
        self.sessions.clear()
        for connection in self.made:
            connection.ended = True


class FakeConnection:
    """As the pool knows them."""

    def __init__(self, server: FakeServer, number: int) -> None:
        self.server = server
        self.session = number
        self.ended = self.noisy = self.closed = self.at_work = False
        self.forgotten = False  # by something between it and the server: only who asks finds out

    @property
    def was_cut(self) -> bool:
        return self.at_work

    def has_ended(self) -> bool:
        return self.ended

    def is_quiet(self) -> bool:
        return not self.noisy

    def answers(self) -> bool:
        self.server.asked += 1
        self.server.answering.wait()
        return not (self.ended or self.forgotten)

    def end_session(self, session: int) -> None:
        """The session that takes over counts only now."""
        gevent.sleep(0)
        if self.ended:
            raise DatabaseDown("it went away")
        if self.server.ending_refused is not None:
            raise self.server.ending_refused
        if session not in self.server.sessions:
            raise DatabaseMistake("no such session", 1094)
        self.server.sessions.discard(session)

    def use(self) -> None:
        """Anything at all; fails where the pool has handed out what it must not."""
        assert not self.closed, "closed, and handed out"
        if self.ended or self.forgotten:
            raise DatabaseDown("it went away")

    def close(self) -> None:
        assert not self.closed, "closed twice"
        self.closed = True
        end = time.monotonic() + self.server.closing_s
        while time.monotonic() < end:
            pass
        if not self.at_work:
            self.server.sessions.discard(self.session)
