"""How gbot.database.connector is let in or not, by real servers and by one that says what MySQL says."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import urlsplit

import pytest

from gbot.database.address import parse
from gbot.database.connection import Connection
from gbot.database.connector import Connector
from gbot.errors import DatabaseDown, DatabaseRefused
from tests.database_rig import anew, outcome
from tests.journeys.mariadb import MariaDb
from tests.journeys.processes import DEADLINE_S, ROOT, clean_environ, eventually

# What MySQL 9.7 says: as a greeting, to who knows the password of a user that it remembers, and at the end of
# wait_timeout.
GREETING: Final = (
    b"\x4b\0\0\0\x0a9.7.4-2\0\xab\x3a\0\0\x5a\x13\x19\x43\x37\x3c\x40\x0f\0\xff\xff\xff\x02\0\xff\xdf\x15\0\0\0\0\0\0"
    b"\0\0\0\0\x26\x18\x3d\x4e\x14\x3e\x61\x23\x64\x4e\x13\x09\0caching_sha2_password\0"
)
REMEMBERED: Final = b"\x02\0\0\x02\x01\x03"
FAREWELL: Final = (
    b"\x91\0\0\0\xff\xbf\x0f#HY000The client was disconnected by the server because of inactivity. See wait_timeout "
    b"and interactive_timeout for configuring this behavior."
)

MYSQL_ONLY: Final = pytest.mark.skipif(
    "GBOT_TEST_MYSQLD" not in os.environ, reason="MariaDB has no such way of logging in; GBOT_TEST_MYSQLD names a MySQL"
)


def ok(number: int) -> bytes:
    return bytes([7, 0, 0, number, 0, 0, 0, 2, 0, 0, 0])


@contextlib.contextmanager
def remembering() -> Iterator[tuple[str, Callable[[bytes], None]]]:
    """A server that remembers its user, and says OK to all statements: its URL, and what makes it say something else.

    It says that once its user is in, without being asked.
    """
    sessions: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            accepted, _ = listener.accept()
            with accepted:
                accepted.sendall(GREETING)
                if accepted.recv(65536):
                    accepted.sendall(REMEMBERED + ok(3))
                    sessions.append(accepted)
                    while accepted.recv(65536):
                        accepted.sendall(ok(1))

        thread = threading.Thread(target=serve)
        thread.start()
        address = listener.getsockname()
        yield f"mysql://bot:pa55@127.0.0.1:{address[1]}/chat", lambda said: sessions[0].sendall(said)
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


def connected_without_the_package(url: str) -> str:
    """What becomes of it in a process that cannot import cryptography."""
    program = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from gbot.database.address import parse\nfrom gbot.database.connector import Connector\n"
        "try: Connector(parse(sys.argv[1])).connect().close()\n"
        "except Exception as error: print(type(error).__name__, error, end='')\n"
        "else: print('in', end='')\n"
    )
    command = [sys.executable, "-c", program, url]
    done = subprocess.run(command, cwd=ROOT, env=clean_environ({}), capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.stderr == ""
    return done.stdout


# MySQL's caching_sha2_password.


def test_who_a_server_remembers_is_let_in() -> None:
    with remembering() as (url, _):
        Connector(parse(url)).connect().close()


def test_a_login_that_works_only_while_the_server_remembers_it_is_none() -> None:
    with remembering() as (url, _):
        assert connected_without_the_package(url) == (
            "DatabaseRefused without TLS this way of logging in needs the package cryptography; ?tls=on in its URL "
            "does without"
        )


@MYSQL_ONLY
def test_with_tls_or_on_a_unix_socket_or_without_a_password_no_package_is_needed(own: MariaDb) -> None:
    admin = Connector(parse(own.url)).connect()
    admin.execute("CREATE USER gbot_sha IDENTIFIED WITH caching_sha2_password BY 'pa55'")
    admin.execute("GRANT ALL ON mysql.* TO gbot_sha")
    tcp = own.url.replace("root@", "gbot_sha:pa55@")
    for url in (f"{tcp}?tls=on", f"mysql://gbot_sha:pa55@localhost/mysql?unix_socket={own.socket}", own.url):
        for what_it_remembers in ("", "FLUSH PRIVILEGES"):
            admin.execute(what_it_remembers or "DO 1")
            assert connected_without_the_package(url) == "in"
            assert connected_without_the_package(tcp).startswith("DatabaseRefused without TLS")
    admin.execute("FLUSH PRIVILEGES")
    Connector(parse(tcp)).connect().close()  # the package is there
    admin.close()


def test_a_farewell_is_no_answer() -> None:
    """MySQL tells why it closes an idle connection; who asks next must not take that for what was asked."""
    for use in (Connection.answers, lambda connection: outcome(connection.rows, "SELECT 1")):
        with remembering() as (url, say):
            connection = Connector(parse(url)).connect()
            assert connection.is_quiet()
            say(FAREWELL)
            eventually(lambda connection=connection: not connection.is_quiet())
            found = use(connection)
            assert found is False or (isinstance(found, DatabaseDown) and str(found).startswith("2013 "))
            assert not connection.is_open


# Accounts, and what a server insists on.


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDb]:
    """A server whose logins nobody else makes it forget."""
    server = MariaDb(tmp_path_factory.mktemp("own"))
    yield server
    server.stop()


@pytest.fixture
def admin(mysql_url: str) -> Iterator[Connection]:
    made = Connector(parse(mysql_url)).connect()
    yield made
    made.execute("DROP USER IF EXISTS gbot_login")
    made.close()


def of_user(url: str) -> str:
    address = urlsplit(url)
    return address._replace(netloc=f"gbot_login:pa55@{address.hostname}:{address.port}").geturl()


@pytest.mark.parametrize("state", ["ACCOUNT LOCK", "PASSWORD EXPIRE"])
def test_an_account_that_is_locked_or_has_an_old_password_is_refused(
    mysql_url: str, admin: Connection, state: str
) -> None:
    anew(admin, "USER", "gbot_login", f"IDENTIFIED BY 'pa55' {state}")
    admin.execute("GRANT ALL ON mysql.* TO gbot_login")
    with pytest.raises(DatabaseRefused, match=r"(?i)password|locked"):
        Connector(parse(of_user(mysql_url))).connect().rows("SELECT 1")  # MariaDB lets in who has an old password


def test_a_user_that_has_to_come_by_tls_is_told_how(mysql_url: str, admin: Connection) -> None:
    anew(admin, "USER", "gbot_login", "IDENTIFIED BY 'pa55' REQUIRE SSL")
    with pytest.raises(DatabaseRefused, match=r"^1045 .*; it may want TLS, which \?tls=on in its URL uses$"):
        Connector(parse(of_user(mysql_url))).connect()


def test_so_is_everybody_where_the_server_insists_on_it(mysql_url: str, admin: Connection) -> None:
    anew(admin, "USER", "gbot_login", "IDENTIFIED BY 'pa55'")
    admin.execute("SET GLOBAL require_secure_transport = 1")
    try:
        with pytest.raises(DatabaseRefused, match=r"^(1045|3159) .*[^.]; it may want TLS, which \?tls=on in its URL"):
            Connector(parse(of_user(mysql_url))).connect()
    finally:
        admin.execute("SET GLOBAL require_secure_transport = 0")


def test_tls_that_the_server_does_not_offer_is_refused_with_advice(tmp_path_factory: pytest.TempPathFactory) -> None:
    server = MariaDb(tmp_path_factory.mktemp("plain"), "--tls-version=")
    try:
        with pytest.raises(DatabaseDown, match="tls=off"):
            Connector(parse(f"{server.url}?tls=on")).connect()
    finally:
        server.stop()
