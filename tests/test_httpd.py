"""The server on real sockets: one process, one hub, no patching."""

from __future__ import annotations

import contextlib
import gc
import logging
import resource
import shutil
import socket as stdlib_socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import gevent
import gevent.event
import gevent.socket
import gevent.ssl
import msgspec
import pytest

from gbot.connection import Connection, HttpSettings, Timeouts
from gbot.http_parser import Bounds, Request, RequestParser
from gbot.httpd import Server
from gbot.wsgi import Environ, Exchange, WsgiApp
from tests.hostile import BOUNDS, CLOSED, REFUSED, SERVED, Hostile
from tests.rig import burn
from tests.wire import DEADLINE_S, Client, Response, Serving, eventually

GET = b"GET /a?b HTTP/1.1\r\nHost: bot.example\r\n\r\n"
HEAD = b"HEAD /a HTTP/1.1\r\nHost: bot.example\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: bot.example\r\n"
SHORT = Timeouts(head_s=0.5, body_s=0.5, idle_s=0.5, write_s=0.5, linger_s=0.5)
StartResponse = Callable[..., Callable[[bytes], object]]
Serve = Callable[..., Serving]


def echo(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Answers with what arrived."""
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    names = ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "REMOTE_ADDR", "SERVER_NAME", "wsgi.url_scheme")
    answer = msgspec.json.encode({name: environ[name] for name in names} | {"body": body.decode("latin-1")})
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]


def received(response: Response) -> Any:
    """What the echo says of the request."""
    assert response.status == 200
    return msgspec.json.decode(response.body)


class Gate:
    """An application that waits in ``/wait`` until it is opened, and echoes everything else."""

    def __init__(self) -> None:
        self.waiting = 0
        self.opened = gevent.event.Event()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/wait":
            self.waiting += 1
            self.opened.wait()
        return echo(environ, start_response)


WAIT = b"GET /wait HTTP/1.1\r\nHost: bot.example\r\n\r\n"


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers, and at the end stops them and looks whether they kept anything."""
    servings: list[Serving] = []

    def start(app: WsgiApp = echo, settings: HttpSettings | None = None, **more: Any) -> Serving:
        servings.append(Serving(app, settings, **more))
        return servings[-1]

    yield start
    for serving in servings:
        serving.stop()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS contexts of a server and of a client that trusts nobody else."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl program to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", key, "-out", cert),
        ],
        check=True,
        capture_output=True,
    )
    server = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    client = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(cert)
    return server, client


# What a connection can do.


def test_a_request_and_its_answer(serve: Serve) -> None:
    serving = serve()
    response = serving.ask(GET)
    assert received(response) == {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/a",
        "QUERY_STRING": "b",
        "REMOTE_ADDR": "127.0.0.1",
        "SERVER_NAME": "127.0.0.1",
        "wsgi.url_scheme": "http",
        "body": "",
    }
    assert response.headers["date"].endswith(" GMT")
    assert serving.server.statistics().requests == 1


def test_keep_alive(serve: Serve) -> None:
    serving = serve()
    with serving.client() as client:
        for number in range(20):
            body = b"a" * number
            client.send(POST + b"Content-Length: %d\r\n\r\n%b" % (number, body))
            assert received(client.response())["body"] == body.decode()
    assert serving.server.statistics().accepted == 1


def test_pipelined_requests_are_answered_in_order(serve: Serve) -> None:
    with serve().client() as client:
        client.send(b"".join(POST + b"Content-Length: 3\r\n\r\n%03d" % number for number in range(200)))
        bodies = [received(client.response())["body"] for _ in range(200)]
        assert bodies == [f"{number:03d}" for number in range(200)]


def test_a_pipeline_longer_than_one_receive(serve: Serve) -> None:
    request = POST + b"Content-Length: 5000\r\n\r\n" + b"a" * 5000
    with serve().client() as client:
        sender = gevent.spawn(client.send, request * 100)
        for _ in range(100):
            assert len(received(client.response())["body"]) == 5000
        sender.get()


def test_a_pipeline_ends_at_its_first_bad_request(serve: Serve) -> None:
    with serve().client() as client:
        client.send(GET + b"GET / HTTP/1.1\r\n\r\n" + GET)
        assert client.response().status == 200
        assert client.response().status == 400
        assert client.rest() == b""


def test_a_chunked_body(serve: Serve) -> None:
    with serve().client() as client:
        client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        for piece in (b"2\r\nhe\r\n", b"3;x=y\r\nl", b"lo\r\n", b"0\r\nX-Trailer: 1\r\n", b"\r\n"):
            client.send(piece)
            gevent.sleep(0.01)
        assert received(client.response())["body"] == "hello"
        client.send(GET)
        assert received(client.response())["body"] == ""


def test_head(serve: Serve) -> None:
    with serve().client() as client:
        client.send(HEAD + GET)
        response = client.response(head_only=True)
        assert int(response.headers["content-length"]) > 50
        assert received(client.response())["REQUEST_METHOD"] == "GET"


def test_http_1_0_closes_unless_asked_to_keep_alive(serve: Serve) -> None:
    serving = serve()
    with serving.client() as client:
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert client.response().headers["connection"] == "close"
        assert client.rest() == b""
    with serving.client() as client:
        for _ in range(2):
            client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert client.response().headers["connection"] == "keep-alive"


def test_a_half_closed_client_gets_its_answers(serve: Serve) -> None:
    with serve().client() as client:
        client.send(GET + GET)
        client.half_close()
        assert client.response().status == 200
        assert client.response().status == 200
        assert client.rest() == b""


def test_a_stream(serve: Serve) -> None:
    def stream(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        for number in range(5):
            gevent.sleep(0.001)
            yield b"%d," % number

    serving = serve(stream)
    assert serving.ask(GET).body == b"0,1,2,3,4,"
    with serving.client() as client:
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert client.response().body == b"0,1,2,3,4,"


def test_a_large_response_reaches_a_client_that_reads_slowly(serve: Serve) -> None:
    size = 20 * 1024 * 1024

    def large(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"a" * size]

    with serve(large).client() as client:
        client.send(GET)
        gevent.sleep(0.1)
        assert len(client.response().body) == size


# One write per response.


def test_head_and_body_arrive_in_one_segment(serve: Serve) -> None:
    with serve().client() as client:
        for _ in range(50):
            client.send(GET)
            data = client.receive()
            head, _, body = data.partition(b"\r\n\r\n")
            assert b"Content-Length: %d" % len(body) in head


def test_no_write_waits_for_an_acknowledgement(serve: Serve) -> None:
    """Without TCP_NODELAY the second write of each response would wait 40 ms."""

    def stream(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield from (b"a", b"b", b"c")

    with serve(stream).client() as client:
        began = time.monotonic()
        for _ in range(50):
            client.send(GET)
            assert client.response().body == b"abc"
        assert time.monotonic() - began < 1.0


# Expect: 100-continue.

EXPECTING = POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"


def test_continue_is_sent_when_the_body_is_wanted(serve: Serve) -> None:
    with serve().client() as client:
        client.send(EXPECTING)
        assert client.receive() == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"hello")
        assert received(client.response())["body"] == "hello"


def test_continue_is_sent_once_to_a_head_that_drips(serve: Serve) -> None:
    with serve().client() as client:
        for place in range(len(EXPECTING)):
            client.send(EXPECTING[place : place + 1])
            gevent.sleep(0)
        assert client.head().status == 100
        client.send(b"he")
        gevent.sleep(0.02)
        client.send(b"llo")
        assert received(client.response())["body"] == "hello"


def test_continue_is_sent_to_each_of_two_requests(serve: Serve) -> None:
    with serve().client() as client:
        client.send(EXPECTING)
        assert client.head().status == 100
        client.send(b"hello" + EXPECTING)
        assert received(client.response())["body"] == "hello"
        assert client.head().status == 100
        client.send(b"world")
        assert received(client.response())["body"] == "world"


def test_continue_is_not_sent_with_413(serve: Serve) -> None:
    with serve().client() as client:
        client.send(POST + b"Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n")
        assert client.head().status == 413


@pytest.mark.parametrize(
    "raw",
    [
        EXPECTING + b"hello",
        EXPECTING + b"h",
        POST + b"Expect: 100-continue\r\nContent-Length: 0\r\n\r\n",
        GET.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"),
    ],
    ids=["body came", "body began", "no body", "GET"],
)
def test_continue_is_not_sent_when_nothing_is_held_back(serve: Serve, raw: bytes) -> None:
    with serve().client() as client:
        client.send(raw)
        if raw.endswith(b"\r\n\r\nh"):
            assert client.silent(0.1)
            client.send(b"ello")
        assert client.head().status == 200


def test_continue_is_not_sent_to_http_1_0(serve: Serve) -> None:
    with serve().client() as client:
        client.send(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert client.silent(0.1)
        client.send(b"hello")
        assert received(client.response())["body"] == "hello"


# Families of sockets, TLS.


def test_ipv6(serve: Serve) -> None:
    try:
        serving = serve(family=stdlib_socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")
    assert received(serving.ask(GET))["REMOTE_ADDR"] == "::1"


def test_unix_socket(serve: Serve, tmp_path: Path) -> None:
    serving = serve(validator(echo), family=stdlib_socket.AF_UNIX, path=str(tmp_path / "gbot.sock"))
    answer = received(serving.ask(GET))
    assert (answer["REMOTE_ADDR"], answer["SERVER_NAME"]) == ("", "localhost")


def test_a_unix_socket_has_timeouts_too(serve: Serve, tmp_path: Path) -> None:
    settings = HttpSettings(timeouts=SHORT)
    serving = serve(echo, settings, family=stdlib_socket.AF_UNIX, path=str(tmp_path / "gbot.sock"))
    with serving.client() as client:
        client.send(b"GET / HT")
        assert client.response().status == 408


def test_tls(serve: Serve, certificate: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    serving = serve(tls=certificate[0])
    with serving.client(certificate[1]) as client:
        for number in (0, 1, 200_000):
            client.send(POST + b"Content-Length: %d\r\n\r\n" % number + b"a" * number)
            answer = received(client.response())
            assert (answer["wsgi.url_scheme"], len(answer["body"])) == ("https", number)
        client.send(EXPECTING)
        assert client.head().status == 100
        client.send(b"hello")
        assert client.response().status == 200


def test_tls_ends_with_a_notice_that_it_is_the_end(
    serve: Serve, certificate: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """Without close_notify a client cannot tell a whole response from one that was cut."""
    server, trusting = certificate

    def stream(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"hello"

    with serve(stream, tls=server).client() as client:
        raw = client.sock
        client.sock = trusting.wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False)
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert client.response().body == b"hello"


def test_tls_refusals_and_timeouts_are_readable(
    serve: Serve, certificate: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    serving = serve(echo, HttpSettings(BOUNDS, SHORT), tls=certificate[0])
    with serving.client(certificate[1]) as client:
        client.send(b"GET / HT")
        assert client.response().status == 408
        assert client.rest() == b""
    with serving.client(certificate[1]) as client:
        sender = gevent.spawn(send_until_cut, client, POST + b"Content-Length: 1000000\r\n\r\n" + b"a" * 1_000_000)
        assert client.response().status == 413
        sender.join()


def test_plain_bytes_on_a_tls_port_disturb_nobody(
    serve: Serve, certificate: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    serving = serve(echo, HttpSettings(timeouts=SHORT), tls=certificate[0])
    for garbage in (GET, b"\x16\x03\x01\xff\xff", b"", b"\0" * 1000):
        with serving.client() as client:
            client.send(garbage)
            client.half_close()
            eventually(lambda: serving.server.statistics().connections == 0)
    with serving.client() as silent, serving.client(certificate[1]) as client:
        client.send(GET)
        assert client.response().status == 200
        assert b"HTTP" not in silent.rest()  # the handshake has the head's timeout


# Timeouts.


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HT",
        b"\r\n",
        GET + b"G",
        POST + b"Content-Length: 5\r\n\r\nhell",
        POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nh",
    ],
    ids=["head", "line breaks", "second head", "body", "chunks"],
)
def test_a_request_that_does_not_end_is_answered_with_408(serve: Serve, raw: bytes) -> None:
    serving = serve(echo, HttpSettings(timeouts=SHORT))
    with serving.client() as client:
        if raw.startswith(GET):
            client.send(GET)
            assert client.response().status == 200
            raw = raw.removeprefix(GET)
        client.send(raw)
        response = client.response()
        assert (response.status, response.headers["connection"]) == (408, "close")
        assert client.rest() == b""
    assert serving.server.statistics().timed_out == 1


@pytest.mark.parametrize("start", [b"GET /", POST + b"Content-Length: 500\r\n\r\n"], ids=["head", "body"])
def test_dripping_does_not_help(serve: Serve, start: bytes) -> None:
    serving = serve(echo, HttpSettings(timeouts=SHORT))
    with serving.client() as client:
        client.send(start)
        drip = gevent.spawn(send_until_cut, client, b"a" * 500, pause_s=0.02)
        began = time.monotonic()
        assert client.response().status == 408
        assert time.monotonic() - began < SHORT.head_s + 1.5
        drip.kill()


@pytest.mark.parametrize("raw", [b"", GET], ids=["new", "kept alive"])
def test_an_idle_connection_is_closed_without_a_word(serve: Serve, raw: bytes) -> None:
    serving = serve(echo, HttpSettings(timeouts=SHORT))
    with serving.client() as client:
        if raw:
            client.send(raw)
            client.response()
        assert client.rest() == b""
    assert serving.server.statistics().timed_out == 0


def test_a_client_that_does_not_read_is_cut(serve: Serve) -> None:
    def large(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"a" * 50_000_000]

    serving = serve(large, HttpSettings(timeouts=SHORT))
    with serving.client() as client:
        client.send(GET)
        eventually(lambda: serving.server.statistics().requests == 1)
        eventually(lambda: serving.server.statistics().connections == 0, SHORT.write_s + 2)
    assert serving.server.statistics().timed_out == 1


def test_the_applications_time_is_not_the_clients(serve: Serve) -> None:
    gate = Gate()
    serving = serve(gate, HttpSettings(timeouts=SHORT))
    with serving.client() as client:
        client.send(WAIT)
        assert client.silent(SHORT.head_s + 1.0)
        gate.opened.set()
        assert client.response().status == 200
    assert serving.server.statistics().timed_out == 0


# Bounds.


def send_until_cut(client: Client, raw: bytes, pause_s: float | None = None) -> int:
    """Send in small pieces until done or cut; returns how much went."""
    sent = 0
    size = 1 if pause_s is not None else 64 * 1024
    try:
        while sent < len(raw):
            sent += client.sock.send(raw[sent : sent + size])
            gevent.sleep(pause_s or 0)
    except OSError:
        return sent
    return sent


def test_413_is_readable_by_a_client_that_is_still_sending(serve: Serve) -> None:
    size = 10 * 1024 * 1024
    with serve().client() as client:
        sender = gevent.spawn(send_until_cut, client, POST + b"Content-Length: %d\r\n\r\n" % size + b"a" * size)
        response = client.response()
        assert response.status == 413
        assert msgspec.json.decode(response.body)["error"] == "too_large"
        assert client.rest() == b""  # an end, not a reset
        assert sender.get() > size


def test_413_in_chunks_too(serve: Serve) -> None:
    with serve().client() as client:
        raw = POST + b"Transfer-Encoding: chunked\r\n\r\n" + (b"10000\r\n" + b"a" * 65536 + b"\r\n") * 160
        sender = gevent.spawn(send_until_cut, client, raw)
        assert client.response().status == 413
        assert client.rest() == b""
        assert sender.get() == len(raw)


OTHER = b"GET /other HTTP/1.1\r\nHost: bot.example\r\n\r\n"
MANY = 40  # fewer than the times that gevent.sleep(0) may return before gevent looks at its timers and sockets


def work(served: list[str], begun: Callable[[], None]) -> WsgiApp:
    """An application where each piece of work takes longer than a turn, and which notes what it has done."""

    def pieces(count: int) -> Iterator[bytes]:
        for _ in range(count):
            if not served:
                begun()
            burn(0.002)
            served.append("work")
            yield b"a"

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        if environ["PATH_INFO"] == "/other":
            served.append("other")
            return [b""]
        return pieces(MANY) if environ["PATH_INFO"] == "/stream" else list(pieces(1))

    return app


@pytest.mark.parametrize(
    "raw", [GET * MANY, b"GET /stream HTTP/1.1\r\nHost: bot.example\r\n\r\n"], ids=["pipeline", "stream"]
)
@pytest.mark.parametrize("with_tls", [False, True], ids=["plain", "tls"])
def test_a_client_that_makes_nobody_wait_stops_nobody(
    raw: bytes, with_tls: bool, serve: Serve, certificate: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """What it wants is there from the begin, and it has room for all that is answered."""
    served: list[str] = []

    def begun() -> None:
        other.send(OTHER)
        gevent.spawn_later(0.001, served.append, "timer")

    server_tls, client_tls = certificate if with_tls else (None, None)
    serving = serve(work(served, begun), tls=server_tls)
    with serving.client(client_tls) as client, serving.client(client_tls) as other:
        other.send(OTHER)
        assert other.response().status == 200  # and its greenlet waits for more
        served.clear()
        client.send(raw)
        eventually(lambda: served.count("work") == MANY)
    assert served.index("other") <= 5
    assert served.index("timer") <= 5


def between(value: Callable[[], int], few: int, enough: int) -> set[int]:
    """What it was whenever others could run, when it was more than few, until it was enough."""
    found = set()
    with gevent.Timeout(DEADLINE_S):
        while value() < enough:
            found.add(value())
            gevent.sleep(0.0001)
    return {one for one in found if one > few}


def test_tls_records_that_are_all_there_let_others_run(
    serve: Serve, certificate: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    server_tls, client_tls = certificate
    serving = serve(tls=server_tls)
    with serving.client(client_tls) as client:
        client.send(POST + b"Content-Length: 500000\r\n\r\n")
        eventually(lambda: serving.server.statistics().unfinished_bytes > 0)
        client.sock.settimeout(0)
        sent = 0
        with contextlib.suppress(OSError):  # the kernel takes no more
            while sent < 450_000:
                sent += client.sock.send(bytes(100))
        assert sent > 100_000
        assert between(lambda: serving.server.statistics().unfinished_bytes, 1000, sent)


def test_clients_that_come_all_at_once_let_others_run(serve: Serve) -> None:
    serving = serve()
    clients = [stdlib_socket.create_connection(serving.address) for _ in range(300)]  # the hub does not run meanwhile
    try:
        assert between(lambda: serving.server.statistics().accepted, 0, len(clients))
    finally:
        for client in clients:
            client.close()


FLOOD = """
import socket, sys
sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
try:
    sock.sendall(b"POST / HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: 99999999999\\r\\n\\r\\n")
    while True:
        sock.sendall(bytes(1000000))
except OSError:
    print("cut")
"""


def test_clients_that_never_stop_sending_are_cut_and_stop_nobody(serve: Serve) -> None:
    """In processes of their own, so that there is always input ready."""
    serving = serve(echo, HttpSettings(timeouts=SHORT))
    port = str(serving.address[1])
    floods = [subprocess.Popen([sys.executable, "-c", FLOOD, port], stdout=subprocess.PIPE) for _ in range(4)]
    try:
        eventually(lambda: serving.server.statistics().refused > 0)
        began = time.monotonic()
        while any(flood.poll() is None for flood in floods):
            assert serving.ask(GET).status == 200
            assert time.monotonic() - began < SHORT.linger_s + 5
        assert [flood.communicate(timeout=5)[0] for flood in floods] == [b"cut\n"] * len(floods)
    finally:
        for flood in floods:
            flood.kill()
            flood.communicate()


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        (POST + b"Content-Length: 80000\r\n\r\n" + b"a" * 60_000, b"a" * 20_000),
        (POST + b"X: " + b"a" * 60_000, b"\r\n\r\n"),
    ],
    ids=["bodies", "heads"],
)
def test_all_unfinished_requests_together_are_bounded(serve: Serve, begin: bytes, end: bytes) -> None:
    serving = serve(echo, HttpSettings(unfinished_bytes_max=100_000))
    with serving.client() as first, serving.client() as second:
        first.send(begin)
        eventually(lambda: serving.server.statistics().unfinished_bytes >= 60_000)
        second.send(begin)
        response = second.response()
        assert (response.status, response.headers["retry-after"]) == (503, "1")
        first.send(end)
        assert first.response().status == 200
        eventually(lambda: serving.server.statistics().unfinished_bytes == 0)


def test_aborted_uploads_leave_nothing(serve: Serve) -> None:
    serving = serve()
    clients = [serving.client() for _ in range(50)]
    for client in clients:
        client.send(POST + b"Content-Length: 5000\r\n\r\n" + b"a" * 4000)
    eventually(lambda: serving.server.statistics().unfinished_bytes >= 50 * 4000)
    for number, client in enumerate(clients):
        if number % 2:
            client.reset()
        else:
            client.sock.close()
    eventually(lambda: serving.server.statistics().connections == 0)
    assert serving.server.statistics().unfinished_bytes == 0


def test_above_the_bound_connections_wait(serve: Serve) -> None:
    serving = serve(echo, HttpSettings(connections_max=2))
    first, second, third = (serving.client() for _ in range(3))
    for client in (first, second):
        client.send(GET)
        assert client.response().status == 200
    third.send(GET)
    assert third.silent(0.2)
    assert serving.server.statistics().connections == 2
    first.sock.close()
    assert third.response().status == 200
    for client in (second, third):
        client.sock.close()


def test_an_idle_listener_holds_no_place() -> None:
    """Two listeners, room for one connection: whoever comes first gets it, on either."""
    listeners = [gevent.socket.socket(), gevent.socket.socket()]
    for listener in listeners:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
    first, second = (listener.getsockname() for listener in listeners)
    server = Server(echo, listeners, HttpSettings(connections_max=1))
    server.start()
    for address in (second, first, second):
        with Client(address) as client:
            client.send(GET)
            assert client.response().status == 200
        eventually(lambda: server.statistics().connections == 0)
    server.stop()
    assert server.drain(time.monotonic()) == 0


OUT_OF_FILES = """
import logging, resource, sys
import gevent
from tests.test_httpd import echo
from tests.wire import Serving
logging.basicConfig(stream=sys.stderr)
serving = Serving(echo)
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
print(serving.address[1], flush=True)
gevent.sleep(60)
"""


def test_out_of_files_accepting_goes_on_by_itself() -> None:
    root = Path(__file__).resolve().parent.parent
    server = subprocess.Popen(
        [sys.executable, "-c", OUT_OF_FILES], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    try:
        address = ("127.0.0.1", int(server.stdout.readline()))
        clients = [Client(address) for _ in range(60)]
        clients[0].send(GET)
        assert clients[0].response().status == 200
        clients[-1].send(GET)
        assert clients[-1].silent(0.3)  # waits in the backlog
        for client in clients[:40]:
            client.sock.close()
        assert clients[-1].response().status == 200
        for client in clients:
            client.sock.close()
    finally:
        server.kill()
        _, said = server.communicate(timeout=10)
    assert said.count("No new connections for now") == 1
    assert "Traceback" not in said


# The hostile, over the wire.


def by_name(hostile: Hostile) -> str:
    return hostile.name


@pytest.fixture(scope="module")
def gate() -> Gate:
    return Gate()


@pytest.fixture(scope="module")
def shared(gate: Gate) -> Iterator[Serving]:
    serving = Serving(gate, HttpSettings(BOUNDS))
    yield serving
    serving.stop()


@pytest.mark.parametrize("hostile", [*REFUSED, *SERVED], ids=by_name)
def test_hostile_requests_get_their_answer_and_disturb_nobody(hostile: Hostile, shared: Serving, gate: Gate) -> None:
    gate.opened.clear()
    waiting = gate.waiting
    with shared.client() as beside, shared.client() as client:
        beside.send(WAIT)
        eventually(lambda: gate.waiting > waiting)
        sender = gevent.spawn(send_until_cut, client, hostile.raw)
        if hostile.status == CLOSED:
            sender.join()
            client.half_close()
            assert client.rest() == b""
        else:
            response = client.response()
            assert response.status == hostile.status
            if hostile in REFUSED:
                assert response.headers["connection"] == "close"
                assert set(msgspec.json.decode(response.body)) == {"error", "detail"}
                assert client.rest() == b""
        sender.join()
        assert received(shared.ask(GET))["PATH_INFO"] == "/a"
        gate.opened.set()
        assert received(beside.response())["PATH_INFO"] == "/wait"
        beside.send(GET)
        assert received(beside.response())["PATH_INFO"] == "/a"


# Applications.


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (GET, ""),
        (HEAD, ""),
        (POST + b"Content-Length: 5\r\n\r\nhello", "hello"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "hello"),
        (b"GET / HTTP/1.0\r\n\r\n", ""),
    ],
    ids=["GET", "HEAD", "POST", "chunked", "HTTP/1.0"],
)
def test_under_the_validator(serve: Serve, raw: bytes, body: str, caplog: pytest.LogCaptureFixture) -> None:
    response = serve(validator(echo)).ask(raw)
    assert response.status == 200
    if raw is not HEAD:
        assert received(response)["body"] == body
    assert not caplog.records


@pytest.mark.parametrize("error", [ValueError("no"), gevent.Timeout(1), SystemExit(1)], ids=repr)
def test_a_failing_application_fails_alone(
    serve: Serve, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/fail":
            raise error
        return echo(environ, start_response)

    serving = serve(failing)
    response = serving.ask(b"GET /fail HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (response.status, response.headers["connection"]) == (500, "close")
    assert serving.ask(GET).status == 200
    assert "The application failed" in caplog.text


def test_the_application_closes_its_result_when_the_client_leaves(serve: Serve) -> None:
    closed = gevent.event.Event()

    def endless(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            while True:
                yield b"a" * 100_000
        finally:
            closed.set()

    serving = serve(endless)
    client = serving.client()
    client.send(GET)
    client.receive()
    client.reset()
    assert closed.wait(5)
    eventually(lambda: serving.server.statistics().connections == 0)


# Stopping.


def test_stop_closes_idle_connections_and_the_listener() -> None:
    serving = Serving(echo)
    with serving.client() as kept, serving.client() as fresh:
        kept.send(GET)
        kept.response()
        eventually(lambda: serving.server.statistics().connections == 2)
        serving.server.stop()
        assert kept.rest() == b""
        assert fresh.rest() == b""
        with pytest.raises(ConnectionRefusedError):
            serving.client()
    serving.server.stop()
    assert serving.server.drain(time.monotonic() + 5) == 0
    assert serving.server.drain(time.monotonic() + 5) == 0


def test_stop_lets_running_requests_finish_and_says_close() -> None:
    gate = Gate()
    serving = Serving(gate, HttpSettings(timeouts=SHORT))
    with serving.client() as running, serving.client() as sending:
        running.send(WAIT + GET)
        sending.send(POST + b"Content-Length: 5\r\n\r\nhel")
        eventually(lambda: gate.waiting == 1 and serving.server.statistics().unfinished_bytes >= 3)
        serving.server.stop()
        drain = gevent.spawn(serving.server.drain, time.monotonic() + 5)
        gate.opened.set()
        sending.send(b"lo")
        for client in (running, sending):
            response = client.response()
            assert (response.status, response.headers["connection"]) == (200, "close")
            assert client.rest() == b""
        assert drain.get(timeout=5) == 0


def test_a_stream_under_way_is_finished_and_then_closed() -> None:
    going_on = gevent.event.Event()

    def stream(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"one"
        going_on.wait()
        yield b"two"

    serving = Serving(stream)
    with serving.client() as client:
        client.send(GET)
        response = client.head()
        assert "connection" not in response.headers
        serving.server.stop()
        going_on.set()
        assert client.rest().endswith(b"3\r\ntwo\r\n0\r\n\r\n")
    serving.stop()


def test_drain_cuts_what_is_left() -> None:
    gate = Gate()
    serving = Serving(gate)
    with serving.client() as running, serving.client() as sending:
        running.send(WAIT)
        sending.send(POST + b"Content-Length: 5\r\n\r\nhel")
        eventually(lambda: gate.waiting == 1 and serving.server.statistics().unfinished_bytes >= 3)
        serving.server.stop()
        began = time.monotonic()
        assert serving.server.drain(began + 0.2) == 2
        assert time.monotonic() - began < 1.0
        assert running.rest() == b""
        assert sending.rest() == b""
    assert serving.server.statistics().connections == 0


def test_drain_does_not_wait_for_an_application_that_does_not_let_go() -> None:
    def stubborn(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        entered.set()
        try:
            gevent.sleep(60)
        finally:
            released.wait()
        return []

    entered, released = gevent.event.Event(), gevent.event.Event()
    serving = Serving(stubborn)
    with serving.client() as client:
        client.send(GET)
        entered.wait()
        serving.server.stop()
        began = time.monotonic()
        assert serving.server.drain(began) == 1
        assert time.monotonic() - began < 3.0
        released.set()
        eventually(lambda: serving.server.statistics().connections == 0)


# Many.


@pytest.fixture
def many_files() -> Iterator[None]:
    """Both ends of 5,000 connections are in this process."""
    needed = 11_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"needs {needed} open files; this machine's hard limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_five_thousand_idle_and_dripping_connections_stop_nobody(serve: Serve) -> None:
    serving = serve()
    clients = [serving.client() for _ in range(5000)]
    dripping = clients[::2]

    def drip_head() -> None:
        for byte in b"GET /a HTTP/1.1\r\nX: " + b"y" * 1000:
            for client in dripping:
                client.sock.send(bytes((byte,)))
                gevent.sleep(0)

    eventually(lambda: serving.server.statistics().connections == 5000)
    dripper = gevent.spawn(drip_head)
    slowest = 0.0
    for _ in range(100):
        began = time.monotonic()
        assert serving.ask(GET).status == 200
        slowest = max(slowest, time.monotonic() - began)
        gevent.sleep(0.01)
    assert not dripper.dead
    assert slowest < 1.0
    dripper.kill()
    for client in clients:
        client.sock.close()
    eventually(lambda: serving.server.statistics().connections == 0)


def alive() -> Counter[str]:
    """How many of the objects of one connection there are."""
    kinds = (Connection, RequestParser, Request, Exchange, gevent.socket.socket)
    return Counter(type(thing).__name__ for thing in gc.get_objects() if type(thing) in kinds)


def test_connections_leave_nothing_for_the_cyclic_collector(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "gbot.wsgi")  # a captured record keeps its error, and that its frames

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/fail":
            raise ValueError("no")
        if environ["PATH_INFO"] == "/stream":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return iter([b"a", b"b"])
        return echo(environ, start_response)

    serving = serve(app, HttpSettings(Bounds(), Timeouts(linger_s=0.5)))
    lives = [
        GET,
        GET * 3,
        b"GET /fail HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX_Y: z\r\n\r\n",
        b"\x16\x03\x01 garbage",
        POST + b"Content-Length: 99999999\r\n\r\n",
        POST + b"Content-Length: 5\r\n\r\nhel",
        POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ]
    gc.collect()
    gc.disable()
    before = alive()
    try:
        for number in range(2000):
            client = serving.client()
            client.send(lives[number % len(lives)])
            if number % 3 == 0:
                client.half_close()
                client.rest()
            elif number % 3 == 1:
                client.receive() if not lives[number % len(lives)].endswith(b"hel") else None
            client.reset() if number % 5 == 0 else client.sock.close()
        eventually(lambda: serving.server.statistics().connections == 0)
        gevent.sleep(0.01)
        left = alive() - before
    finally:
        gc.enable()
    assert serving.server.statistics().accepted == 2000
    assert sum(left.values()) <= 5, left
