"""gbot.database on a real server: addresses, connections, and what becomes of errors."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbot.database import (
    EXPECTED,
    Connection,
    Database,
    DatabaseDown,
    DatabaseMistake,
    Deadlock,
    parse,
)
from tests.journeys.mariadb import MariaDb
from tests.journeys.processes import eventually, free_port

SECRET: Final = "sEcReT"


@pytest.fixture
def database(mysql_url: str) -> Database:
    return Database(parse(mysql_url), ["SET SESSION innodb_lock_wait_timeout = 1"])


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    made = database.connect()
    yield made
    made.close()


@pytest.fixture
def other(database: Database) -> Iterator[Connection]:
    made = database.connect()
    yield made
    made.close()


@pytest.fixture
def table(connection: Connection) -> Iterator[str]:
    name = "gbot_test_database"
    connection.execute(
        f"CREATE OR REPLACE TABLE {name} (id INT PRIMARY KEY, text VARCHAR(50) NOT NULL) CHARACTER SET utf8mb4"
    )
    connection.execute(f"INSERT INTO {name} VALUES (1, 'one'), (2, 'two')")
    yield name
    connection.execute(f"DROP TABLE {name}")


# Addresses.


def test_an_address_is_read() -> None:
    address = parse("mysql://bot:pass@db.example.org:3307/chat")
    assert (address.user, address.password, address.host, address.port) == ("bot", "pass", "db.example.org", 3307)
    assert (address.database, address.unix_socket, address.tls) == ("chat", None, "on")
    assert address.place == "mysql://bot@db.example.org:3307/chat"


def test_user_password_and_database_are_percent_decoded() -> None:
    address = parse("mysql://b%40t:p%3A%2F%3F%23%25@h/d%C3%A9%20b")
    assert (address.user, address.password, address.database, address.port) == ("b@t", "p:/?#%", "dé b", 3306)


def test_a_socket_and_this_machine_need_no_tls() -> None:
    address = parse("mysql://bot@localhost/chat?unix_socket=/run/mysqld/mysqld.sock")
    assert (address.unix_socket, address.tls) == ("/run/mysqld/mysqld.sock", "off")
    assert address.place == "mysql://bot@localhost/chat?unix_socket=/run/mysqld/mysqld.sock"
    assert parse("mysql://bot@127.0.0.1/chat").tls == parse("mysql://bot@[::1]/chat").tls == "off"


def test_tls_can_be_chosen() -> None:
    assert parse("mysql://bot@127.0.0.1/chat?tls=verify").tls == "verify"
    assert parse("mysql://bot@db/chat?tls=off").tls == "off"


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://bot:{SECRET}@db/",
        f"mysql://bot:{SECRET}@db",
        f"mysql://bot:{SECRET}@db/a/b",
        f"mysql://bot:{SECRET}@/chat",
        f"mysql://:{SECRET}@db/chat",
        f"mysql://bot:{SECRET}@db:0/chat",
        f"mysql://bot:{SECRET}@db:99999/chat",
        f"mysql://bot:{SECRET}@db/chat?tls=maybe",
        f"mysql://bot:{SECRET}@db/chat?password={SECRET}",
        f"mysql://bot:{SECRET}@db/chat?unix_socket=",
        f"mysql://bot:{SECRET}@db/chat?{SECRET}",
        f"mysql://bot:{SECRET}@db/chat#{SECRET}",
        f"mysql://bot:{SECRET}/x@db/chat",
        f"mysql://bot:{SECRET}#x@db/chat",
        f"mysql://bot:9{SECRET}?x@db/chat",
        f"postgres://bot:{SECRET}@db/chat",
        f"mysql://bot:{SECRET}@{'x' * 70}/chat",
        f"mysql://[bot:{SECRET}@db/chat",
        "",
    ],
)
def test_what_is_no_address_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="expected mysql://") as caught:
        parse(url)
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@given(st.text())
@settings(deadline=None, derandomize=True)
def test_any_text_is_read_or_refused(text: str) -> None:
    for url in (text, f"mysql://{text}"):
        try:
            address = parse(url)
        except ValueError as error:
            assert str(error) == f"expected {EXPECTED}"  # noqa: PT017
        else:
            assert address.host
            assert address.database


def test_the_password_is_in_no_representation() -> None:
    address = parse(f"mysql://bot:{SECRET}@db/chat")
    assert SECRET not in repr(address) + address.place


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


def test_a_statement_can_tell_a_number(connection: Connection, table: str) -> None:
    assert connection.execute(f"UPDATE {table} SET text = LAST_INSERT_ID(41 + 1) WHERE id = 1").last_id == 42


def test_a_unix_socket_is_used(server: MariaDb) -> None:
    made = Database(parse(f"mysql://root@localhost/mysql?unix_socket={server.socket}")).connect()
    assert made.rows("SELECT 1") == [(1,)]
    made.close()


def test_waiting_for_an_answer_lets_other_greenlets_run(mysql_url: str) -> None:
    code = (
        "import gevent.monkey; gevent.monkey.patch_all()\n"
        "import gevent, sys\n"
        "from gbot.database import Database, parse\n"
        "made = [Database(parse(sys.argv[1])).connect() for _ in range(2)]\n"
        "said = []\n"
        "slow = gevent.spawn(lambda: (made[0].rows('SELECT SLEEP(0.5)'), said.append('slow')))\n"
        "fast = gevent.spawn(lambda: (made[1].rows('SELECT 1'), said.append('fast')))\n"
        "gevent.joinall([slow, fast], raise_error=True)\n"
        "print(*said)\n"
    )
    assert in_a_process(code, mysql_url) == "fast slow"


def test_a_connection_whose_greenlet_was_killed_is_closed(mysql_url: str) -> None:
    code = (
        "import gevent.monkey; gevent.monkey.patch_all()\n"
        "import gevent, sys\n"
        "from gbot.database import Database, parse\n"
        "made = Database(parse(sys.argv[1])).connect()\n"
        "waiting = gevent.spawn(made.rows, 'SELECT SLEEP(3)')\n"
        "gevent.sleep(0.2)\n"
        "waiting.kill()\n"
        "print(made.is_open)\n"
    )
    assert in_a_process(code, mysql_url) == "False"


def in_a_process(code: str, url: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.strip()


# Errors.


def test_wrong_sql_is_a_mistake_that_repeats_no_values(connection: Connection) -> None:
    with pytest.raises(DatabaseMistake) as caught:
        connection.rows("SELECT * FROM gbot_no_such WHERE text = %s", (SECRET,))
    assert caught.value.code == 1146
    assert "NO_SUCH_TABLE" in str(caught.value)
    assert connection.rows("SELECT 1") == [(1,)]


def test_a_value_the_server_quotes_is_not_repeated(connection: Connection, table: str) -> None:
    connection.execute(f"CREATE OR REPLACE TABLE {table} (text VARCHAR(50) PRIMARY KEY)")
    connection.execute(f"INSERT INTO {table} VALUES (%s)", (SECRET,))
    with pytest.raises(DatabaseMistake) as caught:
        connection.execute(f"INSERT INTO {table} VALUES (%s)", (SECRET,))
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
    with pytest.raises(Deadlock):
        other.execute(f"UPDATE {table} SET text = 'b' WHERE id = 1")
    connection.execute("ROLLBACK")
    assert other.is_open


def test_a_killed_connection_is_down_and_closed(connection: Connection, other: Connection) -> None:
    number = connection.rows("SELECT CONNECTION_ID()")[0][0]
    other.execute("KILL %s", (number,))
    with pytest.raises(DatabaseDown):
        connection.rows("SELECT 1")
    assert not connection.is_open
    with pytest.raises(DatabaseDown):
        connection.rows("SELECT 1")
    connection.close()


def test_an_answer_that_does_not_come_in_time_is_down(database: Database) -> None:
    slow = database.connect(read_timeout_s=0.2)
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
        Database(parse(f"mysql://bot:{SECRET}@127.0.0.1:{port}/chat")).connect()
    assert SECRET not in str(caught.value)


def test_one_that_accepts_and_says_nothing_is_down() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = parse(f"mysql://bot@127.0.0.1:{listener.getsockname()[1]}/chat")
        with pytest.raises(DatabaseDown):
            Database(address).connect(read_timeout_s=0.2)


def test_a_wrong_password_or_database_is_down_without_the_password(mysql_url: str) -> None:
    server = urlsplit(mysql_url)
    for url in (
        f"mysql://nobody:{SECRET}@{server.hostname}:{server.port}/mysql",
        f"{server._replace(path='/no_such_database').geturl()}",
    ):
        with pytest.raises(DatabaseDown) as caught:
            Database(parse(url)).connect()
        assert SECRET not in str(caught.value)


def test_a_setup_that_fails_leaves_no_connection(database: Database, mysql_url: str, other: Connection) -> None:
    def count() -> int:
        return len(other.rows("SELECT id FROM information_schema.processlist"))

    before = count()
    with pytest.raises(DatabaseMistake):
        Database(parse(mysql_url), ["SET SESSION gbot_no_such = 1"]).connect()
    eventually(lambda: count() <= before)


# TLS.


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDb]:
    """A server that offers TLS, with a certificate nobody knows."""
    directory = tmp_path_factory.mktemp("tls")
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    made = MariaDb(directory, f"--ssl-key={key}", f"--ssl-cert={certificate}")
    yield made
    made.stop()


def cipher(connection: Connection) -> str:
    found: str = connection.rows("SHOW SESSION STATUS LIKE 'Ssl_cipher'")[0][1]
    connection.close()
    return found


def test_tls_on_encrypts_and_off_does_not(server: MariaDb) -> None:
    database = Database(parse(f"{server.url}?tls=on"))
    assert cipher(database.connect())
    assert cipher(database.connect())  # with the same context
    assert not cipher(Database(parse(server.url)).connect())


def test_tls_verify_refuses_an_unknown_certificate(server: MariaDb) -> None:
    with pytest.raises(DatabaseDown, match=r"(?i)certificate"):
        Database(parse(f"{server.url}?tls=verify")).connect()


def test_tls_that_the_server_does_not_offer_is_refused_with_advice(mysql_url: str, connection: Connection) -> None:
    if connection.rows("SHOW VARIABLES LIKE 'have_ssl'") != [("have_ssl", "DISABLED")]:
        pytest.skip("the server that GBOT_TEST_MYSQL_URL names offers TLS")
    with pytest.raises(DatabaseDown, match="tls=off"):
        Database(parse(f"{mysql_url}?tls=on")).connect()
