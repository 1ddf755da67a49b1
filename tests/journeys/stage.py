"""The stage of a crash journey: an inbox, the workers that are started and killed on it, and what they leave behind."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pymysql

from gbot.config_sources import load
from gbot.engine import build_desk
from gbot.inboxes.store import Desk, Place, Record
from tests.conftest import Serve
from tests.journeys.crashing import Client, Ledger, Tally
from tests.journeys.mariadb import MariaDb
from tests.journeys.processes import DEADLINE_S, Program, Served, eventually, gbot
from tests.journeys.relay import Relay
from tests.samples import line

APP: Final = "tests.journeys.bots.recording:bot"
POOL: Final = 10  # few, so that events wait in the store as well
DRAIN_MAX_S: Final = 60.0  # on a busy machine
IN_STORE: Final = (Place.READY, Place.RUNNING, Place.WAITING, Place.BEHIND, Place.DEAD)


@contextmanager
def desk_of(url: str) -> Iterator[Desk]:
    config, _ = load({}, {"GBOT_INBOX": url}, None)
    with closing(build_desk(config)) as desk:
        desk.open()
        yield desk


def id_of(record: Record) -> str:
    assert record.event.id is not None
    return record.event.id


class Stage:
    """An inbox, and the workers that a test starts and kills on it."""

    def __init__(self, serve: Serve, directory: Path, url: str) -> None:
        self._serve = serve
        self._directory = directory
        self.url = url
        self.is_sqlite = url.startswith("sqlite:")
        self.ledger = Ledger(directory / "ledger")
        self._last_life = 0  # of the workers that were killed
        self._clients: list[Client] = []

    def close(self) -> None:
        for client in self._clients:
            client.give_up()

    def play(self, seed: int, *workers: Served) -> Client:
        """Begin to send deliveries to these workers."""
        self._clients.append(Client(seed, *(worker.address for worker in workers)))
        return self._clients[-1]

    def start(self, *options: str, port: int = 0) -> Served:
        environ = {
            "GBOT_INBOX": self.url,
            "GBOT_LINE_CHANNEL_SECRET": line.SECRET,
            "GBOT_PORT": str(port),
            "TEST_LEDGER": str(self.ledger.path),
        }
        return self._serve(APP, "--pool", str(POOL), "--sample-interval", "0", *options, environ=environ)

    def end(self, worker: Program, number: int) -> int:
        """Send it this signal; when this returns it is gone, and the ledger says so."""
        code = worker.stop(number)
        self.ledger.write_gone(worker.pid)
        return code

    def left_running(self) -> list[str]:
        """The ids of what the worker that was just killed ran, as the store has it. No other may be there."""
        with desk_of(self._left_behind()) as desk:
            running = [(record.worker or 0, record) for record in desk.records([Place.RUNNING], 0, 10_000)]
        last, self._last_life = self._last_life, max([self._last_life, *(life for life, _ in running)])
        return [id_of(record) for life, record in running if life > last]

    def _left_behind(self) -> str:
        """Where to look at what a killed worker has left. A copy of SQLite's file: the next worker mends it."""
        if not self.is_sqlite:
            eventually(lambda: connections(self.url) == 0)
            return self.url
        file, copy = Path(self.url.removeprefix("sqlite://")), self._directory / "copy.sqlite3"
        for suffix in ("", "-wal"):
            copy.with_name(copy.name + suffix).unlink(missing_ok=True)
            if Path(f"{file}{suffix}").exists():
                shutil.copy(f"{file}{suffix}", f"{copy}{suffix}")
        return f"sqlite://{copy}"

    def drain(self) -> None:
        """Wait until nothing is in the store any more. One query tells: an entry may go from place to place."""
        with desk_of(self.url) as desk:
            eventually(lambda: not desk.records(IN_STORE, 0, 1), DRAIN_MAX_S)

    def tally(self, client: Client) -> Tally:
        deliveries = client.finish()
        self.drain()
        assert {answer.status for answer in client.answers()} <= {0, 200, 503}
        return Tally(deliveries, self.ledger.notes())


def connections(url: str) -> int:
    """How many there are to this database."""
    return int(ask(url, "SELECT count(*) FROM information_schema.processlist WHERE db = %s", urlsplit(url).path[1:])[0])


def server_pid(url: str) -> int:
    return int(Path(*ask(url, "SELECT @@datadir, @@pid_file")).read_text())


def new_database(server: MariaDb, name: str) -> str:
    """An empty inbox on this server; returns its URL."""
    ask(server.url, f"CREATE DATABASE {name}")
    url = urlsplit(server.url)._replace(path=f"/{name}").geturl()
    assert gbot("inbox", "migrate", environ={"GBOT_INBOX": url}).code == 0
    return url


def ask(url: str, sql: str, *args: object) -> tuple[Any, ...]:
    """The first row of the answer, asked from outside of any database."""
    parts = urlsplit(url)
    with (
        closing(pymysql.connect(host=parts.hostname, port=parts.port or 3306, user=parts.username)) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(sql, args)
        return cursor.fetchone() or ()


class LossyWire(Relay):
    """It can lose the answer to a commit, and the connection with it."""

    def __init__(self, url: str) -> None:
        self._ordered, self._lost = threading.Event(), threading.Event()
        super().__init__(url)

    def lose_an_answer(self) -> None:
        """When this returns, the database has committed something, and whoever asked for it cannot know."""
        self._lost.clear()
        self._ordered.set()
        assert self._lost.wait(DEADLINE_S), "nothing was committed"

    def loses_the_answer(self, asked: bytes) -> bool:
        return asked.endswith(b"COMMIT") and self._ordered.is_set()

    def lost(self) -> None:
        self._ordered.clear()
        self._lost.set()
