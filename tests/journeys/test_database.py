"""A real MariaDB that kills, restarts, fills up and stands still, and the pool that lives through it."""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from gevent.event import Event

from gbot.database.address import parse
from gbot.database.client import Transaction
from gbot.database.connection import Connection
from gbot.database.connector import Connector
from gbot.database.pool import Pool
from gbot.database.stock import TRUST_S
from gbot.errors import BotError, DatabaseAway, DatabaseBusy, DatabaseDown, DatabaseError
from tests.database_rig import Opened, anew, kept_log, opened, outcome, patched
from tests.journeys.mariadb import MariaDb
from tests.journeys.processes import DEADLINE_S, eventually

MANY = 5000


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server whose settings these tests change."""
    server = MariaDb(tmp_path_factory.mktemp("changed"))
    yield server.url
    server.stop()


def sessions(outside: Connection, but: int = 1) -> int:
    """How many the server has, beside this one and its own, such as the scheduler of its events."""
    return len(outside.rows("SELECT ID FROM information_schema.PROCESSLIST WHERE COMMAND <> 'Daemon'")) - but


def until_no_longer_trusted() -> None:
    since = time.monotonic()
    eventually(lambda: time.monotonic() - since > TRUST_S)


def query_at_once(made: Opened, number: int) -> list[object]:
    """What becomes of so many queries at the same time."""
    asking = [gevent.spawn(outcome, made.db.query, "SELECT 1, SLEEP(0.02)") for _ in range(number)]
    return [greenlet.get() for greenlet in asking]


# Killed.


@patched
def test_nobody_sees_that_idle_connections_were_killed(url: str) -> None:
    with opened(url, 30, warm=20) as made, made.outside() as outside:
        numbers = made.fill(20)
        until_no_longer_trusted()
        for number in numbers[:12]:
            outside.execute(f"KILL {number}")
        eventually(lambda: sessions(outside) == 8)
        with made.db.transaction() as tx:
            assert tx.query("SELECT 1") == [(1,)]
        assert query_at_once(made, 20) == [[(1, 0)]] * 20
        assert made.count("broken") == 12
        eventually(lambda: sessions(outside) == made.count("open") == 20)


@patched
def test_who_uses_a_connection_that_is_killed_is_told_and_the_next_statement_works(url: str) -> None:
    with opened(url, 5) as made, made.outside() as outside:
        asking = [gevent.spawn(outcome, made.db.query, "SELECT 'killed', SLEEP(20)") for _ in range(5)]
        eventually(lambda: len(sleeping(outside)) == 5)
        for number in sleeping(outside):
            outside.execute(f"KILL {number}")
        errors = [greenlet.get() for greenlet in asking]
        assert {type(error) for error in errors} == {DatabaseDown}, errors
        assert query_at_once(made, 5) == [[(1, 0)]] * 5
        with made.db.transaction() as tx:
            [(number,)] = tx.query("SELECT CONNECTION_ID()")
            outside.execute(f"KILL {number}")
            for _ in range(2):  # no other connection takes over in the middle
                with pytest.raises(DatabaseDown):
                    tx.query("SELECT 1")
            error = outcome(tx.__exit__, None, None, None)
        assert type(error) is DatabaseDown
        assert made.db.query("SELECT 1") == [(1,)]


def sleeping(outside: Connection) -> list[int]:
    found = outside.rows("SELECT ID FROM information_schema.PROCESSLIST WHERE INFO LIKE 'SELECT ''killed''%'")
    return [number for (number,) in found]


@patched
def test_nobody_sees_that_the_server_has_closed_what_was_idle_for_too_long(url: str) -> None:
    outside = Connector(parse(url)).connect()
    outside.execute("SET GLOBAL wait_timeout = 1")
    with opened(url, 10) as made:
        made.fill(10)
        eventually(lambda: sessions(outside) == 0)
        outside.execute("SET GLOBAL wait_timeout = 28800")
        outside.close()
        for _ in range(2):
            made.db.execute("DO 1")
            with made.db.transaction() as tx:
                assert tx.query("SELECT 1") == [(1,)]
        assert query_at_once(made, 10) == [[(1, 0)]] * 10
        assert made.count("broken") == 10


# Full.


@patched
def test_while_others_have_all_connections_it_goes_on_with_its_own(url: str) -> None:
    with opened(url, 10, warm=3, wait_s=0.5) as made, made.outside() as outside:
        eventually(lambda: made.count("open") == 3)
        outside.execute("SET GLOBAL max_connections = 15")
        others = take_the_rest(made)
        assert query_at_once(made, 3) == [[(1, 0)]] * 3
        with made.db.transaction() as tx, made.db.connection(), made.db.connection():
            error = gevent.spawn(outcome, made.db.query, "SELECT 1").get()
            assert isinstance(error, DatabaseBusy)
            assert "3 of 10 are in use, and no more can be opened (1040 Too many connections)" in str(error)
            assert tx.query("SELECT 1") == [(1,)]
        assert query_at_once(made, 12) == [[(1, 0)]] * 12  # in turn
        assert made.count("open") == 3
        assert len(made.log.having("No connection to the database: 1040 Too many connections; 3 of 10 are open")) == 1
        for other in others:
            other.close()
        eventually(lambda: query_at_once(made, 10) == [[(1, 0)]] * 10 and made.count("open") == 10)
        eventually(lambda: len(made.log.having("can be made again")) == 1)
        outside.execute("SET GLOBAL max_connections = 151")


@patched
def test_when_others_have_all_connections_before_it_has_one_it_says_so(url: str) -> None:
    with opened(url, 5, wait_s=2) as made, made.outside() as outside:
        outside.execute("SET GLOBAL max_connections = 10")
        others = take_the_rest(made)
        errors = query_at_once(made, 5)
        assert {type(error) for error in errors} == {DatabaseAway}
        assert all("no connection to the database: 1040 Too many connections" in str(error) for error in errors)
        for other in others:
            other.close()
        eventually(lambda: query_at_once(made, 5) == [[(1, 0)]] * 5)
        outside.execute("SET GLOBAL max_connections = 151")


def take_the_rest(made: Opened) -> list[Connection]:
    """Other clients, as many as the server lets in."""
    found: list[Connection] = []
    while True:
        try:
            found.append(made.connector.connect())
        except DatabaseDown:
            return found


# Restarted.


class Load:
    """Greenlets that write each number once: alone, or twice in a transaction."""

    def __init__(self, made: Opened) -> None:
        self.made = made
        self.numbers = iter(range(10**9))
        self.errors: Counter[str] = Counter()
        self.alone: set[int] = set()  # what has returned
        self.pairs: set[int] = set()
        self.going = True
        self.greenlets = [gevent.spawn(self.write, number % 2 == 0) for number in range(20)]

    def write(self, in_pairs: bool) -> None:
        while self.going:
            number = next(self.numbers)
            try:
                if in_pairs:
                    with self.made.db.transaction() as tx:
                        tx.execute("INSERT INTO gbot_load VALUES (%s, 1)", [number])
                        tx.execute("INSERT INTO gbot_load VALUES (%s, 2)", [number])
                    self.pairs.add(number)
                else:
                    self.made.db.execute("INSERT INTO gbot_load VALUES (%s, 0)", [number])
                    self.alone.add(number)
            except DatabaseError as error:
                self.errors[type(error).__name__] += 1
                gevent.sleep(0.005)
            assert self.made.count("open") <= 8

    def more(self, number: int = 50) -> None:
        """Wait until so many more have been written."""
        wanted = len(self.alone) + number, len(self.pairs) + number
        eventually(lambda: len(self.alone) >= wanted[0] and len(self.pairs) >= wanted[1])

    def stop(self) -> None:
        self.going = False
        gevent.joinall(self.greenlets, raise_error=True)


@patched
def test_whatever_becomes_of_the_server_nothing_is_executed_twice_and_nothing_lost(tmp_path: Path) -> None:
    server = MariaDb(tmp_path)
    with opened(server.url, 8, warm=4, wait_s=2) as made:
        made.db.execute("CREATE TABLE gbot_load (number INT NOT NULL, part INT NOT NULL) ENGINE=InnoDB")
        load = Load(made)
        load.more()
        server.kill()
        eventually(lambda: load.errors["DatabaseAway"] > 50)
        server.start()
        load.more()
        server.stop()
        server.start()
        load.more()
        with made.outside() as outside:
            for (number,) in outside.rows(
                "SELECT ID FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID() AND USER = 'root'"
            ):
                outside.execute(f"KILL {number}")
        load.more()
        load.stop()
        assert set(load.errors) <= {"DatabaseDown", "DatabaseAway", "DatabaseBusy"}, load.errors
        assert load.errors["DatabaseDown"] > 0
        found = Counter(made.db.query("SELECT number, part FROM gbot_load"))
        assert max(found.values()) == 1
        assert {number for number, part in found if part == 0} >= load.alone
        firsts, seconds = ({number for number, part in found if part == which} for which in (1, 2))
        assert firsts == seconds >= load.pairs
        unknown = len(found) - len(load.alone) - 2 * len(load.pairs)
        assert 0 <= unknown <= load.errors["DatabaseDown"] * 2
        assert query_at_once(made, 8) == [[(1, 0)]] * 8
        with made.outside() as outside:
            eventually(lambda: sessions(outside) == made.count("open") <= 8)
        assert len(made.log.having("No connection to the database")) <= 3
    server.stop()


# Standing still.


def stop_in_its_tracks(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    tasks = list(Path(f"/proc/{pid}/task").iterdir())
    eventually(lambda: all("State:\tT" in (task / "status").read_text() for task in tasks))


@patched
def test_a_server_that_stands_still_holds_nobody_for_longer_than_he_wants(tmp_path: Path) -> None:
    server = MariaDb(tmp_path)
    with opened(server.url, 4, warm=2, wait_s=0.5) as made:
        made.db.execute("CREATE TABLE gbot_still (number INT NOT NULL)")
        made.fill(3)
        [(pid_file,)] = made.db.query("SELECT @@pid_file")
        pid = int((tmp_path / "data" / pid_file).read_text())

        patience = gevent.Timeout(1)

        def left_open() -> None:
            with made.db.connection() as connection:
                connection.begin()
                stop_in_its_tracks(pid)
                patience.start()

        with pytest.raises(gevent.Timeout):
            left_open()  # and is not undone, for the server does not answer
        patience.close()
        assert made.count("in_use") == 0

        def write(number: int) -> object:
            with gevent.Timeout(0.3, False):
                return outcome(made.db.execute, "INSERT INTO gbot_still VALUES (%s)", [number])
            return "out of time"

        for first in (0, 10):
            writing = [gevent.spawn(write, first + number) for number in range(10)]
            ended = [greenlet.get() for greenlet in writing]
            assert set(map(str, ended)) <= {"out of time"}
        error = outcome(made.db.query, "SELECT 1")
        assert isinstance(error, DatabaseAway), error
        assert "it does not answer" in str(error)
        os.kill(pid, signal.SIGCONT)
        eventually(lambda: query_at_once(made, 4) == [[(1, 0)]] * 4)
        assert all(times == 1 for (times,) in made.db.query("SELECT COUNT(*) FROM gbot_still GROUP BY number"))
        with made.outside() as outside:
            eventually(lambda: sessions(outside) == made.count("open") <= 4)
    server.stop()


@patched
def test_tidying_up_on_a_server_that_stands_still_has_an_end(tmp_path: Path) -> None:
    server = MariaDb(tmp_path)
    with opened(server.url, 2) as made:
        made.db.execute("CREATE TABLE gbot_still (number INT NOT NULL)")
        [(pid_file,)] = made.db.query("SELECT @@pid_file")
        pid = int((tmp_path / "data" / pid_file).read_text())

        def fails() -> None:
            with made.db.transaction() as tx:
                tx.execute("INSERT INTO gbot_still VALUES (1)")
                stop_in_its_tracks(pid)
                raise LookupError

        def gives_up_half_a_packet() -> None:
            with made.db.connection() as connection:
                connection.cursor().execute("INSERT INTO gbot_still VALUES (2)")
                stop_in_its_tracks(pid)
                with gevent.Timeout(0.2, LookupError()):
                    connection.cursor().execute("SELECT %s", ["a" * 15_000_000])

        for step in (fails, gives_up_half_a_packet):
            with gevent.Timeout(DEADLINE_S):  # there is no other
                assert isinstance(outcome(step), LookupError)
            assert made.count("in_use") == 0
            os.kill(pid, signal.SIGCONT)
            eventually(lambda: query_at_once(made, 2) == [[(1, 0)]] * 2)
        assert made.db.query("SELECT number FROM gbot_still") == []
        with made.outside() as outside:
            eventually(lambda: sessions(outside) == made.count("open") <= 2)
    server.stop()


@patched
def test_a_server_that_accepts_and_never_greets_is_given_up(url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, kept_log():
        connector = Connector(parse(f"mysql://bot@127.0.0.1:{listener.getsockname()[1]}/chat"))
        with gevent.Timeout(0.2, False):
            connector.connect(None)
        accepted, _ = listener.accept()
        assert accepted.recv(1) == b""  # the half-made one was closed
        accepted.close()
        pool = Pool(lambda: connector.connect(None), "silent", 3, warm=1, wait_s=0.3)
        pool.start()
        waiting = [gevent.spawn(outcome, pool.take) for _ in range(20)]
        errors = [greenlet.get() for greenlet in waiting]
        assert {type(error) for error in errors} == {DatabaseAway}
        assert pool.statistics().timeouts == 20  # each by himself, before the openings were given up
        pool.stop()
        for _ in range(3):
            listener.accept()[0].close()  # ends the openings
        eventually(lambda: pool.statistics().open == 0)


@patched
def test_who_cannot_get_rid_of_a_statement_is_named_by_the_line_that_sends_it(tmp_path: Path) -> None:
    def sends(made: Opened) -> None:
        made.db.query("SELECT LENGTH(%s)", ["x" * 50_000_000])

    server = MariaDb(tmp_path, "--max-allowed-packet=100M")
    with opened(server.url, 1, warm=1, hold_warning_s=0.1) as made:
        [(pid_file,)] = made.db.query("SELECT @@pid_file")
        pid = int((tmp_path / "data" / pid_file).read_text())
        stop_in_its_tracks(pid)
        sending = gevent.spawn(sends, made)
        eventually(lambda: made.log.having("has been held for"))
        line = sends.__code__.co_firstlineno + 1
        assert made.log.having("held for")[0].endswith(f"for a statement in {__file__}:{line}")
        sending.kill()
        os.kill(pid, signal.SIGCONT)
        assert made.db.query("SELECT 1") == [(1,)]
    server.kill()


# Kept, and in other threads.


class Rows:
    """Reads in a transaction that stays open with the generator, in a cycle: only a collection finds it."""

    def __init__(self, made: Opened) -> None:
        self.made = made
        self.rows = self.read()
        self.tx: Transaction | None = None

    def read(self) -> Iterator[object]:
        with self.made.db.transaction() as self.tx:
            self.tx.execute("INSERT INTO gbot_kept VALUES (1)")
            yield from self.tx.query("SELECT 1")
            self.tx.query("SELECT 2")


@patched
def test_a_connection_that_is_kept_beyond_its_handler_comes_back_and_can_do_no_more(url: str) -> None:
    with opened(url, 3, wait_s=10) as made, made.outside() as outside:
        anew(outside, "TABLE", "gbot_kept", "(number INT NOT NULL)")
        kept = [Rows(made) for _ in range(3)]
        for rows in kept:
            gevent.spawn(next, rows.rows).join()
        assert made.db.query("SELECT 1") == [(1,)]  # waits for the round
        for rows in kept[:2]:
            with pytest.raises(BotError, match="was used after the end of the handler that took it"):
                list(rows.rows)
        tx = kept[2].tx
        assert tx is not None
        with pytest.raises(BotError):
            tx.__exit__(None, None, None)
        assert query_at_once(made, 3) == [[(1, 0)]] * 3
        assert outside.rows("SELECT * FROM gbot_kept") == []
        assert made.log.having(f"taken in {__file__}:")
        eventually(lambda: sessions(outside) == made.count("open") == 3)


@patched
def test_what_is_collected_in_another_thread_comes_back(url: str) -> None:
    gc.disable()
    with opened(url, 3, wait_s=10) as made, made.outside() as outside:
        anew(outside, "TABLE", "gbot_kept", "(number INT NOT NULL)")
        for _ in range(5):
            for _ in range(3):
                next(Rows(made).rows)
            waiting = [gevent.spawn(outcome, made.db.query, "SELECT 1") for _ in range(3)]
            eventually(lambda: made.count("waiting") == 3)
            gevent.get_hub().threadpool.apply(gc.collect)
            assert [greenlet.get() for greenlet in waiting] == [[(1,)]] * 3
        assert outside.rows("SELECT * FROM gbot_kept") == []
        eventually(lambda: sessions(outside) == made.count("open") == 3)


@patched
def test_another_thread_cannot_use_what_a_handler_has_and_the_handler_goes_on(url: str) -> None:
    with opened(url, 1) as made, made.outside() as outside:
        anew(outside, "TABLE", "gbot_kept", "(number INT NOT NULL)")
        threads = gevent.get_hub().threadpool
        with made.db.transaction() as tx:
            tx.execute("INSERT INTO gbot_kept VALUES (1)")
            for use in (tx.query, made.db.query):
                found = threads.apply(outcome, [use, "SELECT 1"])
                assert isinstance(found, BotError), found
                assert "in another thread" in str(found)
            assert tx.query("SELECT 1") == [(1,)]
        ended = made.db.transaction()
        ended.__enter__().execute("INSERT INTO gbot_kept VALUES (2)")
        assert isinstance(threads.apply(outcome, [ended.__exit__, None, None, None]), BotError)
        assert made.db.query("SELECT * FROM gbot_kept") == [(1,)]
        made.db.execute("DROP TABLE gbot_kept")


# Many.


@patched
def test_five_thousand_connections_are_opened_used_at_once_and_closed_again(tmp_path: Path) -> None:
    needed = 2 * MANY + 1000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"{MANY} connections and their server need an open-file limit of {needed}; here it is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    server = MariaDb(
        tmp_path, f"--max-connections={MANY + 100}", f"--open-files-limit={needed}", "--table-open-cache=100"
    )
    with opened(server.url, MANY, warm=50, wait_s=30, idle_max_s=0.5) as made, made.outside() as outside:
        gate = Event()
        seconds: list[object] = []

        def use() -> None:
            with made.db.transaction() as tx:
                gate.wait()
                seconds.extend(tx.query("SELECT 1"))

        users = [gevent.spawn(use) for _ in range(MANY)]
        eventually(lambda: made.count("in_use") == MANY and not made.count("waiting"), 40)
        [(_, connected)] = outside.rows("SHOW GLOBAL STATUS LIKE 'Threads_connected'")
        assert int(connected) == MANY + 1
        with gevent.Timeout(0.1, False):
            made.db.query("SELECT 1")
            raise AssertionError("there was one more")
        gate.set()
        gevent.joinall(users, raise_error=True)
        assert len(seconds) == MANY == made.count("opened")
        eventually(lambda: made.count("open") == 50)
        eventually(lambda: sessions(outside) == 50)
        assert made.db.query("SELECT 1") == [(1,)]
    server.kill()


# Everything at once.


@patched
def test_killed_handlers_and_killed_sessions_never_make_more_sessions_than_the_pool_is_large(mysql_url: str) -> None:
    size = 6
    with opened(mysql_url, size, warm=2, wait_s=5) as made, made.outside() as outside:
        errors: Counter[str] = Counter()
        going = True

        def handler(number: int) -> None:
            while going:
                try:
                    with gevent.Timeout(0.1, False):
                        if number % 3:
                            made.db.query("SELECT BENCHMARK(%s, SHA2('chaos', 224))", [number * 40_000])
                        else:
                            with made.db.transaction() as tx:
                                tx.query("SELECT 'chaos'")
                                gevent.sleep(0.01 * number)
                        errors["none"] += 1
                except DatabaseError as error:
                    errors[type(error).__name__] += 1
                gevent.sleep(0.001)

        handlers = [gevent.spawn(handler, number) for number in range(20)]
        began = time.monotonic()

        def at_work() -> set[int]:
            """One look alone may find a session that is killed meanwhile, and the one that takes its place."""
            found = outside.rows("SELECT ID, COMMAND, INFO FROM information_schema.PROCESSLIST")
            return {number for number, command, info in found if command == "Query" and "'chaos'" in (info or "")}

        def looked_at_for_long_enough() -> bool:
            seen = min(errors["none"] / 30, errors["DatabaseDown"], made.count("left") / 20)
            return time.monotonic() - began > (2 if seen >= 1 else 40)

        while not looked_at_for_long_enough():
            working = at_work() & at_work()
            assert len(working) <= size, working
            if working and errors["none"] % 5 == 0:
                outcome(outside.execute, f"KILL {working.pop()}")
            statistics = made.pool.statistics()
            assert statistics.in_use <= statistics.open <= size
            gevent.sleep(0.01)
        going = False
        gevent.joinall(handlers, raise_error=True)
        assert set(errors) <= {"none", "DatabaseDown", "DatabaseAway", "DatabaseBusy"}, errors
        assert errors["none"] >= 30, errors
        assert errors["DatabaseDown"] > 0, errors
        assert made.count("left") >= 20
        assert query_at_once(made, size) == [[(1, 0)]] * size
        eventually(lambda: made.count("open") == size)
