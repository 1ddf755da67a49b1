"""How gbot.database.connector is let in, given up or refused, by real servers and scripted ones, and what it tells."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest

from gbot.database.address import parse
from gbot.database.advice import when_away, when_refused
from gbot.database.connection import Connection
from gbot.database.connector import READ_TIMEOUT_S, Connector
from gbot.errors import DatabaseDown, DatabaseRefused
from tests.database_rig import anew, outcome
from tests.journeys.mariadb import MariaDb
from tests.journeys.processes import DEADLINE_S, ROOT, clean_environ, eventually
from tests.scripted_mysql import FAREWELL, GREETING, GREETING_WITHOUT_TLS, answering, remembering

MYSQL_ONLY: Final = pytest.mark.skipif(
    "GBOT_TEST_MYSQLD" not in os.environ, reason="MariaDB has no such way of logging in; GBOT_TEST_MYSQLD names a MySQL"
)


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
            "DatabaseRefused without TLS this way of logging in needs the package cryptography; add ?tls=on to the "
            "URL, or run pip install cryptography"
        )


def test_where_the_server_has_no_tls_the_ways_out_do_not_lead_to_each_other() -> None:
    """?tls=off would need the package, which nobody is sent to who has not got it."""
    near = "connect by ?unix_socket= on the same machine"
    with remembering(GREETING_WITHOUT_TLS) as (url, _):
        assert connected_without_the_package(f"{url}?tls=off") == (
            "DatabaseRefused without TLS this way of logging in needs the package cryptography; enable TLS on the "
            f"server, {near}, or run pip install cryptography"
        )
    for tls in ("on", "verify"):
        with remembering(GREETING_WITHOUT_TLS) as (url, _):
            assert connected_without_the_package(f"{url}?tls={tls}") == (
                f"DatabaseDown 2026 the server offers no TLS; enable it there, {near}, or run pip install cryptography "
                "and put ?tls=off into the URL"
            )


@MYSQL_ONLY
def test_of_the_ways_out_the_socket_needs_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    server = MariaDb(tmp_path_factory.mktemp("plain"), "--tls-version=")
    try:
        admin = Connector(parse(server.url)).connect()
        admin.execute("CREATE USER gbot_sha IDENTIFIED WITH caching_sha2_password BY 'pa55'")
        admin.execute("GRANT ALL ON mysql.* TO gbot_sha")
        admin.close()
        tcp = server.url.replace("root@", "gbot_sha:pa55@")
        assert "enable TLS on the server" in connected_without_the_package(tcp)
        assert "the server offers no TLS" in connected_without_the_package(f"{tcp}?tls=on")
        socket_url = f"mysql://gbot_sha:pa55@localhost/mysql?unix_socket={server.socket}"
        assert connected_without_the_package(socket_url) == "in"
        Connector(parse(tcp)).connect().close()  # as does the package
    finally:
        server.stop()


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


@pytest.mark.parametrize("asked", [b"mysql_clear_password\0", b"dialog\0\4Password: "])
def test_who_asks_for_the_password_as_it_is_does_not_get_it_without_tls(asked: bytes) -> None:
    heard = b""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def ask() -> None:
            nonlocal heard
            accepted, _ = listener.accept()
            with accepted:
                accepted.sendall(GREETING)
                heard += accepted.recv(65536)
                accepted.sendall(bytes([len(asked) + 1, 0, 0, 2, 0xFE]) + asked)
                while more := accepted.recv(65536):
                    heard += more

        thread = threading.Thread(target=ask)
        thread.start()
        with pytest.raises(DatabaseRefused, match="its server asks for the password as it is"):
            Connector(parse(f"mysql://bot:pa55@127.0.0.1:{listener.getsockname()[1]}/chat")).connect()
        thread.join(DEADLINE_S)
    assert b"bot" in heard
    assert b"pa55" not in heard


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


def refusal(url: str) -> DatabaseRefused:
    """MariaDB lets in who has an old password, and refuses what he asks."""
    with pytest.raises(DatabaseRefused) as caught:
        Connector(parse(url)).connect().rows("SELECT 1")
    assert "pa55" not in str(caught.value)
    return caught.value


def test_a_locked_account_is_refused_with_what_unlocks_it(mysql_url: str, admin: Connection) -> None:
    anew(admin, "USER", "gbot_login", "IDENTIFIED BY 'pa55' ACCOUNT LOCK")
    admin.execute("GRANT ALL ON mysql.* TO gbot_login")
    error = refusal(of_user(mysql_url))
    assert re.match(r"(3118|4151) .*locked; as admin, ALTER USER gbot_login ACCOUNT UNLOCK$", str(error))
    assert when_refused(error, "GBOT_DB") == "let its admin do that, or name another user in GBOT_DB"


def test_an_old_password_is_refused_with_what_gives_a_new_one(mysql_url: str, admin: Connection) -> None:
    anew(admin, "USER", "gbot_login", "IDENTIFIED BY 'pa55' PASSWORD EXPIRE")
    admin.execute("GRANT ALL ON mysql.* TO gbot_login")
    error = refusal(of_user(mysql_url))
    assert re.match(r"1820 .*PASSWORD|1862 .*; as admin, ALTER USER gbot_login IDENTIFIED BY …$", str(error))
    assert when_refused(error, "GBOT_DB") == (
        "let its admin give this user a new password (ALTER USER … IDENTIFIED BY …), and put it into GBOT_DB"
    )


def test_a_database_that_is_not_there_is_told_with_what_makes_it(mysql_url: str, admin: Connection) -> None:
    anew(admin, "USER", "gbot_login", "IDENTIFIED BY 'pa55'")
    admin.execute("GRANT SELECT ON mysql.* TO gbot_login")
    missing = urlsplit(mysql_url)._replace(path="/gbot-nope").geturl()
    make = "as admin, CREATE DATABASE `gbot-nope`"
    allow = re.escape("; GRANT … ON `gbot-nope`.* TO gbot_login")
    for url, said in (
        (missing, f"1049 .*; {make}$"),
        (of_user(missing), f"1044 .*; it is not there, or its user has no rights on it: {make}{allow}$"),
    ):
        error = refusal(url)
        assert re.match(said, str(error)), error
        assert when_refused(error, "GBOT_INBOX") == (
            "let its admin do that, or see to the name of the database in GBOT_INBOX"
        )


def test_a_user_whom_the_server_knows_from_elsewhere_is_told_so() -> None:
    """Its message in place of the greeting: nobody is known here from this machine."""
    said = b"\xff\x6a\x04Host '10.0.0.9' is not allowed to connect to this MySQL server"
    with answering(bytes([len(said), 0, 0, 0]) + said) as (url, _):
        error = refusal(url)
    assert str(error) == "1130 Host '10.0.0.9' is not allowed to connect to this MySQL server"
    assert when_refused(error, "GBOT_DB").startswith("let its admin allow this user from this machine")


def test_a_wrong_password_is_told_with_all_that_may_be_wrong(mysql_url: str) -> None:
    error = refusal(mysql_url.replace("root@", "nobody:pa55@"))
    assert str(error).startswith("1045 ")
    assert when_refused(error, "GBOT_DB") == "see to user, password, database and ?tls= in GBOT_DB"


def test_a_unix_socket_is_used(own: MariaDb) -> None:
    made = Connector(parse(f"mysql://root@localhost/mysql?unix_socket={own.socket}")).connect()
    assert made.rows("SELECT 1") == [(1,)]
    made.close()


def test_a_unix_socket_that_is_not_there_is_named() -> None:
    with pytest.raises(DatabaseDown) as caught:
        Connector(parse("mysql://bot@localhost/chat?unix_socket=/nope/mysqld.sock")).connect()
    assert str(caught.value).startswith("2003 Can't connect to the unix socket /nope/mysqld.sock ([Errno 2] No such")
    assert when_away(caught.value) == "start it, or see to ?unix_socket= in the URL"


# What accepts a connection, and does not go on.


def given_up(url: str, read_timeout_s: float | None) -> DatabaseDown:
    with pytest.raises(DatabaseDown) as caught:
        Connector(parse(url)).connect(read_timeout_s)
    assert not isinstance(caught.value, DatabaseRefused)
    assert "query" not in str(caught.value)
    return caught.value


def test_who_lets_statements_take_any_time_gives_up_a_server_that_says_nothing(mysql_url: str) -> None:
    patient, slept = Connector(parse(mysql_url)).connect(None), []
    thread = threading.Thread(target=lambda: slept.extend(patient.rows("SELECT SLEEP(%s)", [READ_TIMEOUT_S + 1])))
    thread.start()
    with answering(b"") as (url, there):
        error = given_up(url, None)
    assert str(error) == f"{there} accepted the connection and did not answer in 5 s; it may be no MySQL server"
    assert when_away(error).startswith("see to host and port; if it is one")
    thread.join(DEADLINE_S)
    assert slept == [(0,)]  # the limit is one of the login
    patient.close()


@pytest.mark.parametrize("greeting", [GREETING, GREETING_WITHOUT_TLS])
def test_one_that_stops_within_the_login_is_given_up_in_other_words(greeting: bytes) -> None:
    for tls in ("off", "on"):
        with answering(greeting) as (url, there):
            error = given_up(f"{url}?tls={tls}", 0.2)
        if tls == "on" and greeting == GREETING_WITHOUT_TLS:
            assert str(error).startswith("2026 the server offers no TLS")
        else:
            assert str(error) == f"{there} began the login and did not answer it in 0.2 s"
            assert when_away(error) == "start it, or see to host, port and firewall"


def test_one_that_closes_the_connection_is_told_as_such() -> None:
    for said, told in (
        (b"", "accepted the connection and closed it without an answer; it may be no MySQL server"),
        (GREETING, "began the login and closed the connection"),
    ):
        with answering(said, closes=True) as (url, there):
            assert str(given_up(url, 5)) == f"{there} {told}"


def test_a_unix_socket_that_says_nothing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        error = given_up(f"mysql://bot@localhost/chat?unix_socket={path}", 0.2)
    assert str(error).startswith(f"the unix socket {path} accepted the connection and did not answer in 0.2 s; ")
    assert when_away(error) == "start it, or see to ?unix_socket= in the URL"
