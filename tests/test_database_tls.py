"""gbot.database.connector and TLS: with servers that offer it, insist on it, or have none."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import gevent
import pytest

from gbot.database.address import parse
from gbot.database.advice import when_away
from gbot.database.connection import Connection
from gbot.database.connector import Connector
from gbot.database.stock import TRUST_S
from gbot.errors import DatabaseDown, DatabaseRefused
from tests.database_rig import anew, opened, patched
from tests.journeys.mariadb import MariaDb
from tests.journeys.processes import DEADLINE_S, eventually
from tests.scripted_mysql import GREETING

OTHER_NAME: Final = (
    r"2026 its certificate is for another name: .*[^.]; put a name that is in its certificate into the URL"
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody knows; its key lies beside it."""
    directory = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", directory / "key.pem", "-out", directory / "certificate.pem", "-days", "2"),
            *("-subj", "/CN=gbot", "-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    return directory / "certificate.pem"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[MariaDb]:
    """A server that offers TLS."""
    key = certificate.with_name("key.pem")
    made = MariaDb(tmp_path_factory.mktemp("tls"), f"--ssl-key={key}", f"--ssl-cert={certificate}")
    yield made
    made.stop()


def cipher(connection: Connection) -> str:
    found: str = connection.rows("SHOW SESSION STATUS LIKE 'Ssl_cipher'")[0][1]
    connection.close()
    return found


def test_tls_on_encrypts_and_off_does_not(server: MariaDb) -> None:
    connector = Connector(parse(f"{server.url}?tls=on"))
    assert cipher(connector.connect())
    assert cipher(connector.connect())  # with the same context
    assert not cipher(Connector(parse(f"{server.url}?tls=off")).connect())
    assert not cipher(Connector(parse(server.url)).connect())


def test_tls_verify_refuses_an_unknown_certificate(server: MariaDb) -> None:
    with pytest.raises(DatabaseDown, match=r"^2026 .*certificate.*; SSL_CERT_FILE in the environment names the file"):
        Connector(parse(f"{server.url}?tls=verify")).connect()


def test_tls_verify_takes_the_certificate_that_is_known_and_meant_for_that_host(
    server: MariaDb, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert cipher(Connector(parse(f"{server.url}?tls=verify")).connect())
    with pytest.raises(DatabaseDown) as caught:
        Connector(parse(f"{server.url.replace('127.0.0.1', 'localhost')}?tls=verify")).connect()
    assert re.match(OTHER_NAME, str(caught.value))
    assert when_away(caught.value) == "do one of these"


def test_an_address_that_is_not_the_certificates_is_told_as_such(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    with socket.create_server(("127.0.0.2", 0)) as listener:

        def greet() -> None:
            accepted, _ = listener.accept()
            accepted.sendall(GREETING)
            accepted.recv(36)  # the client's wish for TLS
            with contextlib.suppress(OSError), context.wrap_socket(accepted, server_side=True) as encrypted:
                encrypted.recv(1)

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(DatabaseDown, match=OTHER_NAME):
            Connector(parse(f"mysql://bot@127.0.0.2:{listener.getsockname()[1]}/chat?tls=verify")).connect()
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


@pytest.fixture
def tls_url(server: MariaDb) -> str:
    return f"{server.url}?tls=on"


@patched
def test_a_pool_over_tls_keeps_its_connections_and_sees_which_have_ended(tls_url: str) -> None:
    with opened(tls_url, 8) as made, made.outside() as outside:
        for ended in (0, 8):
            numbers = made.fill(8)
            for number in numbers[:ended]:
                outside.execute(f"KILL {number}")
            since = time.monotonic()
            eventually(lambda since=since: time.monotonic() - since > TRUST_S)
            asking = [gevent.spawn(made.db.query, "SHOW SESSION STATUS LIKE 'Ssl_cipher'") for _ in range(8)]
            gevent.joinall(asking, raise_error=True)
            assert all(greenlet.value[0][1] for greenlet in asking)
            assert made.count("broken") == ended
            assert (made.count("opened") > 8) == (ended > 0)


# Who insists on it.


@pytest.fixture
def admin(server: MariaDb) -> Iterator[Connection]:
    made = Connector(parse(server.url)).connect()
    yield made
    made.execute("DROP USER IF EXISTS gbot_login")
    made.close()


def refusal(server: MariaDb, tls: str) -> str:
    with pytest.raises(DatabaseRefused) as caught:
        Connector(parse(f"{server.url.replace('root@', 'gbot_login:pa55@')}?tls={tls}")).connect()
    return str(caught.value)


def test_a_user_that_has_to_come_by_tls_is_told_how(server: MariaDb, admin: Connection) -> None:
    anew(admin, "USER", "gbot_login", "IDENTIFIED BY 'pa55' REQUIRE SSL")
    assert re.match(r"1045 .*[^.]; it may want TLS: add \?tls=on to the URL$", refusal(server, "off"))


def test_so_is_everybody_where_the_server_insists_on_it(server: MariaDb, admin: Connection) -> None:
    anew(admin, "USER", "gbot_login", "IDENTIFIED BY 'pa55'")
    admin.execute("SET GLOBAL require_secure_transport = 1")
    try:
        assert re.match(r"(1045|3159) .*[^.]; it may want TLS: add \?tls=on to the URL$", refusal(server, "off"))
    finally:
        admin.execute("SET GLOBAL require_secure_transport = 0")


def test_who_has_tls_is_not_told_to_take_it(server: MariaDb) -> None:
    assert re.match("1045 .*[^.]$", refusal(server, "on"))
    assert "TLS" not in refusal(server, "on")


def test_tls_that_the_server_does_not_offer_is_refused_with_advice(tmp_path_factory: pytest.TempPathFactory) -> None:
    server = MariaDb(tmp_path_factory.mktemp("plain"), "--tls-version=")
    try:
        with pytest.raises(DatabaseDown) as caught:
            Connector(parse(f"{server.url}?tls=on")).connect()
        assert str(caught.value) == "2026 the server offers no TLS; enable it there or put ?tls=off into the URL"
        assert when_away(caught.value) == "do one of these"
        assert "TLS" not in refusal(server, "off")  # it cannot want what it has not got
    finally:
        server.stop()
