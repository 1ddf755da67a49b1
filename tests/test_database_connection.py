"""gbot.database.connection on a real server: statements, and what becomes of errors."""

from __future__ import annotations

import datetime
import socket
import threading
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

import gevent
import pytest

from gbot.database.address import parse
from gbot.database.connection import Connection
from gbot.database.connector import Connector
from gbot.errors import DatabaseDown, DatabaseMistake, DatabaseRefused, Deadlock, DuplicateKey
from tests.database_rig import anew, outcome, patched
from tests.journeys.processes import eventually, free_port

SECRET: Final = "sEcReT"


@pytest.fixture
def connector(mysql_url: str) -> Connector:
    return Connector(parse(mysql_url), ["SET SESSION innodb_lock_wait_timeout = 1"])


@pytest.fixture
def connection(connector: Connector) -> Iterator[Connection]:
    made = connector.connect()
    yield made
    made.close()


@pytest.fixture
def other(connector: Connector) -> Iterator[Connection]:
    made = connector.connect()
    yield made
    made.close()


@pytest.fixture
def table(connection: Connection) -> Iterator[str]:
    name = "gbot_test_database"
    anew(connection, "TABLE", name, "(id INT PRIMARY KEY, text VARCHAR(50) NOT NULL) CHARACTER SET utf8mb4")
    connection.execute(f"INSERT INTO {name} VALUES (1, 'one'), (2, 'two')")
    yield name
    connection.execute(f"DROP TABLE {name}")


# Connections.


def test_rows_and_changes(connection: Connection, table: str) -> None:
    assert connection.rows(f"SELECT id, text FROM {table} WHERE id IN %s ORDER BY id", ([1, 2],)) == [
        (1, "one"),
        (2, "two"),
    ]
    assert connection.execute(f"UPDATE {table} SET text = %s WHERE id = %s", ("100 % 'ü' \\ 😀", 1)).rows == 1
    assert connection.rows(f"SELECT text FROM {table} WHERE id = 1") == [("100 % 'ü' \\ 😀",)]


def test_bytes_are_binary_and_text_is_not(connection: Connection) -> None:
    assert connection.rows("SELECT %s = 'A', %s = 'A', %s, '%%'", (b"a", "a", b"\xff\0'")) == [(0, 1, b"\xff\0'", "%")]


def test_rows_that_match_count_though_they_do_not_change(connection: Connection, table: str) -> None:
    assert connection.execute(f"UPDATE {table} SET text = 'one' WHERE id = 1").rows == 1
    assert connection.execute(f"UPDATE {table} SET text = 'one' WHERE id = 9").rows == 0


def test_moments_are_read_as_such_and_those_that_are_none_as_texts(connection: Connection) -> None:
    connection.execute("SET SESSION sql_mode = ''")  # MySQL's own makes NULL of what is no date
    texts = ["2024-02-29 12:34:56", "2024-02-29 12:34:56.789000", "0000-00-00 00:00:00", "2024-00-10 01:02:03"]
    [found] = connection.rows(
        "SELECT CAST(%s AS DATETIME), CAST(%s AS DATETIME(6)), CAST(%s AS DATETIME), CAST(%s AS DATETIME)", texts
    )
    first, second = (datetime.datetime.fromisoformat(text) for text in texts[:2])
    assert found == (first, second, *texts[2:])


def test_a_statement_can_tell_a_number(connection: Connection, table: str) -> None:
    assert connection.execute(f"UPDATE {table} SET text = LAST_INSERT_ID(41 + 1) WHERE id = 1").last_id == 42


@patched
def test_waiting_for_an_answer_lets_other_greenlets_run(mysql_url: str) -> None:
    waiting, going_on = (Connector(parse(mysql_url)).connect(None) for _ in range(2))
    assert going_on.rows("SELECT GET_LOCK('gbot_gate', 0)") == [(1,)]
    slow = gevent.spawn(waiting.rows, "SELECT GET_LOCK('gbot_gate', 50)")
    eventually(lambda: going_on.rows("SELECT 1 FROM information_schema.PROCESSLIST WHERE INFO LIKE '%GET_LOCK%, 50)'"))
    assert not slow.ready()
    assert going_on.rows("SELECT RELEASE_LOCK('gbot_gate')") == [(1,)]
    assert slow.get() == [(1,)]
    waiting.close()
    going_on.close()


@patched
def test_a_connection_whose_greenlet_was_killed_is_closed(mysql_url: str) -> None:
    made, other = (Connector(parse(mysql_url)).connect() for _ in range(2))
    waiting = gevent.spawn(made.rows, "SELECT SLEEP(3)")
    eventually(lambda: other.rows("SELECT 1 FROM information_schema.PROCESSLIST WHERE INFO = 'SELECT SLEEP(3)'"))
    waiting.kill()
    assert not made.is_open
    made.close()
    other.close()


@patched
def test_who_waits_on_a_connection_that_another_greenlet_closes_is_told_at_once(mysql_url: str) -> None:
    """Though the server has not noticed, or is out of reach."""
    made, other = (Connector(parse(mysql_url)).connect(None) for _ in range(2))
    waiting = gevent.spawn(outcome, made.rows, "SELECT SLEEP(50)")
    eventually(lambda: other.rows("SELECT 1 FROM information_schema.PROCESSLIST WHERE INFO = 'SELECT SLEEP(50)'"))
    made.close()
    eventually(waiting.ready)
    assert isinstance(waiting.value, DatabaseDown)
    assert made.was_cut
    other.end_session(made.session)
    other.close()


@patched
def test_what_was_sent_in_part_is_never_completed(mysql_url: str) -> None:
    """The rest of a statement that a killed greenlet was sending is not what is said at the end of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made = Connector(parse(mysql_url)).connect()
        ours, theirs = socket.create_connection(listener.getsockname()), listener.accept()[0]
        made.raw._sock.close()  # type: ignore[attr-defined]
        made.raw._sock = ours  # type: ignore[attr-defined]  # a server that stops reading
        sending = gevent.spawn(made.execute, f"SELECT '{'x' * 15_000_000}'")
        theirs.recv(1, socket.MSG_PEEK)
        assert not sending.ready()
        sending.kill()
        assert not made.is_open
        got = b""
        while part := theirs.recv(1_000_000):
            got += part
        theirs.close()
    assert 0 < len(got) < 15_000_000
    assert got.endswith(b"x")


# Errors.


def test_wrong_sql_is_a_mistake_that_repeats_no_values(connection: Connection) -> None:
    with pytest.raises(DatabaseMistake) as caught:
        connection.rows("SELECT * FROM gbot_no_such WHERE text = %s", (SECRET,))
    assert caught.value.code == 1146
    assert "NO_SUCH_TABLE" in str(caught.value)
    assert connection.rows("SELECT 1") == [(1,)]


def test_a_value_the_server_quotes_is_not_repeated(connection: Connection, table: str) -> None:
    anew(connection, "TABLE", table, "(text VARCHAR(50) PRIMARY KEY)")
    connection.execute(f"INSERT INTO {table} VALUES (%s)", (SECRET,))
    with pytest.raises(DatabaseMistake) as caught:
        connection.execute(f"INSERT INTO {table} VALUES (%s)", (SECRET,))
    assert isinstance(caught.value, DuplicateKey)
    assert caught.value.code == 1062
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_deadlock_is_told_apart(connection: Connection, other: Connection, table: str) -> None:
    connection.execute("START TRANSACTION")
    other.execute("START TRANSACTION")
    connection.execute(f"UPDATE {table} SET text = 'a' WHERE id = 1")
    other.execute(f"UPDATE {table} SET text = 'b' WHERE id = 2")
    caught: list[Exception] = []

    def cross() -> None:
        try:
            other.execute(f"UPDATE {table} SET text = 'b' WHERE id = 1")
        except Deadlock as error:
            caught.append(error)

    thread = threading.Thread(target=cross)
    thread.start()
    try:
        connection.execute(f"UPDATE {table} SET text = 'a' WHERE id = 2")
    except Deadlock as error:
        caught.append(error)
    connection.execute("ROLLBACK")
    thread.join(10)
    other.execute("ROLLBACK")
    assert len(caught) == 1


def test_waiting_too_long_for_a_lock_is_a_deadlock_too(connection: Connection, other: Connection, table: str) -> None:
    connection.execute("START TRANSACTION")
    connection.execute(f"UPDATE {table} SET text = 'a' WHERE id = 1")
    with pytest.raises(Deadlock, match="it waited too long for a lock") as caught:
        other.execute(f"UPDATE {table} SET text = %s WHERE id = 1", [SECRET])
    assert f"for: UPDATE {table} SET text = %s" in str(caught.value)
    connection.execute("ROLLBACK")
    assert other.is_open


def test_a_lock_that_is_not_waited_for_is_a_deadlock_too(connection: Connection, other: Connection, table: str) -> None:
    connection.execute("START TRANSACTION")
    connection.execute(f"UPDATE {table} SET text = 'a' WHERE id = 1")
    with pytest.raises(Deadlock):
        other.rows(f"SELECT * FROM {table} WHERE id = 1 FOR UPDATE NOWAIT")
    connection.execute("ROLLBACK")


def test_waiting_for_each_others_named_locks_is_a_deadlock_too(connection: Connection, other: Connection) -> None:
    asked = "SELECT GET_LOCK(%s, 20)"
    assert connection.rows(asked, ["gbot_one"]) == other.rows(asked, ["gbot_two"]) == [(1,)]
    found: list[object] = []

    def cross() -> None:
        found.append(outcome(other.rows, asked, ["gbot_one"]))
        other.rows("SELECT RELEASE_LOCK('gbot_one'), RELEASE_LOCK('gbot_two')")

    thread = threading.Thread(target=cross)
    thread.start()
    found.append(outcome(connection.rows, asked, ["gbot_two"]))
    connection.rows("SELECT RELEASE_LOCK('gbot_one'), RELEASE_LOCK('gbot_two')")
    thread.join(30)
    assert [type(one) for one in found if not isinstance(one, list)] == [Deadlock]


def test_a_killed_connection_is_down_and_closed(connection: Connection, other: Connection) -> None:
    number = connection.rows("SELECT CONNECTION_ID()")[0][0]
    other.execute("KILL %s", (number,))
    with pytest.raises(DatabaseDown, match=r"nobody knows whether it was executed: SELECT %s$"):
        connection.rows("SELECT %s", [SECRET])
    assert not connection.is_open
    with pytest.raises(DatabaseDown, match=r"^the connection is closed: SELECT 1$"):
        connection.rows("SELECT 1")
    connection.close()


def test_an_answer_that_does_not_come_in_time_is_down(connector: Connector) -> None:
    slow = connector.connect(read_timeout_s=0.2)
    with pytest.raises(DatabaseDown):
        slow.rows("SELECT SLEEP(2)")
    assert not slow.is_open


def test_a_killed_statement_is_down(connection: Connection, other: Connection) -> None:
    number = connection.rows("SELECT CONNECTION_ID()")[0][0]
    caught: list[Exception] = []

    def sleep() -> None:
        try:
            connection.rows("SELECT a.table_name, SLEEP(5) FROM information_schema.tables a")
        except DatabaseDown as error:
            caught.append(error)

    thread = threading.Thread(target=sleep)
    thread.start()
    eventually(
        lambda: other.rows(
            "SELECT 1 FROM information_schema.processlist WHERE info LIKE '%%SLEEP(5)%%' AND id = %s", (number,)
        )
    )
    other.execute("KILL QUERY %s", (number,))
    thread.join(10)
    assert [type(error) for error in caught] == [DatabaseDown]


def test_a_read_only_server_is_down(other: Connection, table: str) -> None:
    other.execute("SET SESSION TRANSACTION READ ONLY")
    with pytest.raises(DatabaseDown):
        other.execute(f"DELETE FROM {table}")


def test_nobody_there_is_down_and_says_where() -> None:
    port = free_port()
    with pytest.raises(DatabaseDown, match=r"127\.0\.0\.1.*refused") as caught:
        Connector(parse(f"mysql://bot:{SECRET}@127.0.0.1:{port}/chat")).connect()
    assert SECRET not in str(caught.value)


def test_a_wrong_password_or_database_is_down_without_the_password(mysql_url: str) -> None:
    server = urlsplit(mysql_url)
    for url in (
        f"mysql://nobody:{SECRET}@{server.hostname}:{server.port}/mysql",
        f"{server._replace(path='/no_such_database').geturl()}",
    ):
        with pytest.raises(DatabaseRefused) as caught:
            Connector(parse(url)).connect()
        assert SECRET not in str(caught.value)


def test_a_setup_that_fails_leaves_no_connection(connector: Connector, mysql_url: str, other: Connection) -> None:
    def count() -> int:
        return len(other.rows("SELECT id FROM information_schema.processlist"))

    before = count()
    with pytest.raises(DatabaseMistake):
        Connector(parse(mysql_url), ["SET SESSION gbot_no_such = 1"]).connect()
    eventually(lambda: count() <= before)


@pytest.mark.parametrize(
    "greeting",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x05\0\0\0\x0a5.5\0", b"\x00\0\0\0", b"\x04\0\0\0\x0ax.y", b""],
)
def test_one_that_speaks_something_else_is_down(greeting: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            accepted, _ = listener.accept()
            with accepted:
                accepted.sendall(greeting)

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(DatabaseDown):
            Connector(parse(f"mysql://bot@127.0.0.1:{listener.getsockname()[1]}/chat")).connect(5)
        thread.join(10)


@pytest.mark.parametrize(
    ("sql", "args"),
    [
        ("SELECT %s, %s", [SECRET]),
        ("SELECT %s", [SECRET, 2]),
        ("SELECT 1", [SECRET]),
        ("SELECT %(a)s", {"b": SECRET}),
        ("SELECT %s", SECRET),
        ("SELECT %s", [{SECRET: 1}]),
        ("SELECT '%' , %s", [SECRET]),
        ("SELECT %s, %s", [SECRET, float("nan")]),
        ("SELECT %s", [f"{SECRET}\ud83d"]),
        ("SELECT '\ud83d'", None),
    ],
)
def test_values_that_cannot_be_sent_are_a_mistake_that_repeats_none(
    connection: Connection, sql: str, args: list[object] | None
) -> None:
    with pytest.raises(DatabaseMistake) as caught:
        connection.rows(sql, args)
    assert SECRET not in str(caught.value)
    assert caught.value.code == 0
    assert caught.value.__suppress_context__
    str(caught.value).encode()
    assert connection.rows("SELECT 1") == [(1,)]
    assert connection.is_clean()


# Its state.


@pytest.fixture
def procedures(connection: Connection, table: str) -> Iterator[str]:
    begin = f"START TRANSACTION; INSERT INTO {table} VALUES (3, 'three');"
    anew(connection, "PROCEDURE", "gbot_begins", f"() BEGIN {begin} SELECT 1; SELECT 2; END")
    anew(connection, "PROCEDURE", "gbot_fails", f"() BEGIN {begin} SIGNAL SQLSTATE '45000'; END")
    yield table
    connection.execute("ROLLBACK")
    connection.execute("DROP PROCEDURE gbot_begins")
    connection.execute("DROP PROCEDURE gbot_fails")


def test_the_last_of_several_results_tells_its_state(connection: Connection, procedures: str) -> None:
    assert connection.rows("CALL gbot_begins()") == [(1,)]
    assert connection.in_transaction
    assert not connection.is_settled
    connection.rollback()
    assert connection.is_settled
    assert connection.is_clean()


def test_after_an_error_its_state_is_not_known(connection: Connection, procedures: str) -> None:
    assert connection.is_clean()
    with pytest.raises(DatabaseMistake):
        connection.execute("CALL gbot_fails()")
    assert not connection.is_clean()  # it is in a transaction, and has not been told
    connection.rollback()
    assert connection.is_clean()


def test_a_session_is_ended_unless_its_server_was_started_since(connection: Connection, other: Connection) -> None:
    earlier, later = connection, other
    old = earlier.session._replace(opened_at=earlier.session.opened_at - 10_000_000)
    later.end_session(old)  # the one that had this number has gone with its server
    earlier.end_session(later.session)  # a server gives out growing numbers: this one is another's
    assert earlier.session.port is not None
    later.end_session(earlier.session._replace(port=earlier.session.port + 1))  # it came from elsewhere
    assert earlier.rows("SELECT 1") == later.rows("SELECT 1") == [(1,)]
    later.end_session(earlier.session)
    eventually(earlier.has_ended)
    later.end_session(earlier.session)  # it is not there any more
    assert later.rows("SELECT 1") == [(1,)]
