"""Reading what a database answers, while others want to run."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import gevent
import pytest
from pymysql import InternalError
from pymysql.cursors import SSCursor

from gbot.database.address import parse
from gbot.database.connection import Connection
from gbot.database.connector import Connector
from gbot.database.wire import Greeting
from gbot.errors import DatabaseDown
from tests.database_rig import outcome, patched
from tests.rig import wait_until

DIGITS: Final = " UNION ALL ".join(f"SELECT {digit}{' AS n' * (digit == 0)}" for digit in range(10))
ROWS: Final = 300_000
# So many that reading them takes ten times as long as a turn, however fast the machine.
LARGE: Final = (
    f"SELECT a.n, b.n, c.n, d.n, e.n, f.n, NOW(), 'some text' FROM ({DIGITS}) a, ({DIGITS}) b, ({DIGITS}) c,"
    f" ({DIGITS}) d, ({DIGITS}) e, ({DIGITS}) f WHERE f.n < 3"
)
OFTEN: Final = 30


class Other:
    """A greenlet that wants to run every millisecond, and counts how often it could."""

    def __init__(self) -> None:
        self.ran = 0
        self.greenlet = gevent.spawn(self._run)

    def _run(self) -> None:
        while True:
            gevent.sleep(0.001)
            self.ran += 1


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    connection = Connector(parse(url)).connect(None)
    yield connection
    connection.close()


@contextmanager
def another() -> Iterator[Other]:
    other = Other()
    yield other
    other.greenlet.kill()


GREETING: Final = (
    b"\x0a9.7.4\0\1\0\0\0abcdefgh\0\xff\xff\xff\x02\0\xff\xdf\x15"
    + bytes(10)
    + b"ijklmnopqrst\0caching_sha2_password\0"
)
PARTS: Final = b"\xff\xff\xff\0" + bytes(1024 * 1024)  # of a packet that has no end
AGAIN: Final = b"".join(b"\2\0\0" + bytes([(number + 2) % 256]) + b"\1\3" for number in range(0, 256, 2))


def packet(number: int, content: bytes) -> bytes:
    return bytes([len(content), 0, 0, number]) + content


@pytest.mark.parametrize("said", [PARTS, AGAIN], ids=["one packet", "many packets"])
def test_a_login_without_end_is_ended(said: bytes) -> None:
    sent = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk() -> None:
            accepted, _ = listener.accept()
            with accepted, contextlib.suppress(OSError):
                if said is AGAIN:
                    accepted.sendall(packet(0, GREETING))
                    accepted.recv(1024)
                for _ in range(64 * 1024 * 1024 // len(said)):
                    accepted.sendall(said)
                sent.append("all of it")

        thread = threading.Thread(target=talk)
        thread.start()
        with pytest.raises(DatabaseDown, match="its login has not ended"):
            Connector(parse(f"mysql://bot@127.0.0.1:{listener.getsockname()[1]}/chat")).connect()
        thread.join(20)
    assert not sent


def test_a_login_in_drips_is_ended() -> None:
    server, client = socket.socketpair()
    with server, client, Greeting(client, max_s=2.0) as greeting:
        server.sendall(b"a")
        assert greeting.read(1) == b"a"
        late = time.monotonic() + 2.0
        wait_until(lambda: time.monotonic() >= late)
        server.sendall(b"b")
        with pytest.raises(InternalError, match="its login has not ended"):
            greeting.read(1)


@pytest.mark.parametrize("said", [[b"\xfb/etc/passwd"], [b"\1", b"\3d"], [b"\1", b"\1d" * 9]], ids=range(3))
def test_an_answer_that_is_none_is_an_error_of_the_database(said: list[bytes]) -> None:
    done = [b"\0\0\0\2\0\0\0"]
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk() -> None:
            accepted, _ = listener.accept()
            with accepted:
                accepted.sendall(packet(0, GREETING))
                first = 2  # its login has packets 0 and 1
                while asked := accepted.recv(1024):
                    for number, content in enumerate(said if b"SELECT" in asked else done, first):
                        accepted.sendall(packet(number, content))
                    first = 1

        thread = threading.Thread(target=talk)
        thread.start()
        connection = Connector(parse(f"mysql://bot@127.0.0.1:{listener.getsockname()[1]}/chat")).connect()
        with pytest.raises(DatabaseDown, match="does not speak MySQL's protocol: SELECT 1"):
            connection.rows("SELECT 1")
        assert not connection.is_open
        thread.join(20)


@patched
def test_others_run_while_a_large_result_is_read(mysql_url: str) -> None:
    with connected(mysql_url) as connection, another() as other:
        rows = connection.rows(LARGE)
        assert other.ran >= OFTEN
    assert len(rows) == ROWS


@patched
def test_others_run_while_rows_are_read_one_by_one(mysql_url: str) -> None:
    with connected(mysql_url) as connection, another() as other:
        cursor: Any = connection.lend().cursor(SSCursor)
        cursor.execute(LARGE)
        count = 0
        while cursor.fetchone() is not None:
            count += 1
        assert other.ran >= OFTEN
        cursor.close()
    assert count == ROWS


@patched
def test_others_run_while_the_rest_of_a_result_is_passed_over(mysql_url: str) -> None:
    with connected(mysql_url) as connection, another() as other:
        cursor: Any = connection.lend().cursor(SSCursor)
        cursor.execute(LARGE)
        cursor.close()
        assert other.ran >= OFTEN
        connection.take_back()
        assert connection.rows("SELECT 1") == [(1,)]


def reading(url: str) -> tuple[Connection, gevent.Greenlet[..., object]]:
    """A connection, and a greenlet that is in the middle of a large result."""
    connection = Connector(parse(url)).connect(None)
    inside: Any = connection.raw
    reader = gevent.spawn(outcome, connection.rows, LARGE)
    wait_until(lambda: inside._result is None and inside._next_seq_id > 10)
    assert not reader.dead
    return connection, reader


@patched
def test_who_has_no_more_time_for_a_large_result_takes_its_connection_along(mysql_url: str) -> None:
    connection = Connector(parse(mysql_url)).connect(None)
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.05):
        connection.rows(LARGE)
    assert (connection.is_open, connection.was_cut) == (False, True)


@patched
def test_who_is_killed_within_a_large_result_takes_its_connection_along(mysql_url: str) -> None:
    connection, reader = reading(mysql_url)
    reader.kill()
    assert isinstance(reader.value, gevent.GreenletExit)
    assert (connection.is_open, connection.was_cut) == (False, True)


@patched
def test_a_connection_that_is_closed_within_a_large_result_ends_it(mysql_url: str) -> None:
    connection, reader = reading(mysql_url)
    number = connection.raw._sock.fileno()  # type: ignore[attr-defined]
    connection.close()
    reader.join(10)
    assert isinstance(reader.value, DatabaseDown)
    assert connection.was_cut

    def is_closed() -> bool:
        try:
            os.fstat(number)
        except OSError:
            return True
        return False

    wait_until(is_closed)
