"""The transport against real sockets: what arrives, what is kept, and that every failure is the right error.

Host and transport are in one process and one hub; nothing is patched.
"""

from __future__ import annotations

import gc
import os
import random
import socket as stdlib_socket
import ssl
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import gevent
import gevent.event
import gevent.socket
import gevent.ssl
import pytest

from gbot.errors import ApiError, ApiUnreachable, LaneBusy, MessageRefused, ResultUnknown
from gbot.outbound.http_connection import connect, request_bytes
from gbot.outbound.lookup import Lookup
from gbot.outbound.route import find_route, make_tls_context
from gbot.outbound.transport import Download, Transport
from gbot.platform import ApiRequest
from tests.journeys.processes import free_port
from tests.rig import burn
from tests.wire import eventually

Socket = gevent.socket.socket
Behaviour = Callable[[Socket], None]
BODY = b'{"to": "anna", "messages": ["a text that no error may repeat"]}'
TOKEN = "a token that no error may repeat"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
PLENTY_S = 10.0


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


# ---- the far end


class Host:
    """A server that behaves as told with each connection, and keeps what it was asked."""

    def __init__(self, behaviour: Behaviour, tls: ssl.SSLContext | None = None) -> None:
        self._behaviour = behaviour
        self._tls = tls
        self._listener = Socket(stdlib_socket.AF_INET, stdlib_socket.SOCK_STREAM)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(1000)
        self.port: int = self._listener.getsockname()[1]
        self.origin = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"
        self.connections = 0
        self.ended = 0
        self._greenlets = [gevent.spawn(self._accept)]

    def _accept(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            self.connections += 1
            self._greenlets.append(gevent.spawn(self._serve, sock))

    def _serve(self, sock: Socket) -> None:
        try:
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
                sock.do_handshake()
            self._behaviour(sock)
        except OSError:
            pass  # the client has gone
        finally:
            sock.close()
            self.ended += 1

    def stop(self) -> None:
        gevent.killall(self._greenlets)
        self._listener.close()


def read_request(sock: Socket) -> bytes:
    """The next request, its body by its Content-Length; nothing at the end of the connection."""
    received = b""
    while b"\r\n\r\n" not in received:
        data = sock.recv(65536)
        if not data:
            return b""
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += sock.recv(65536)
    return head + b"\r\n\r\n" + body


def answering(answer: bytes, requests: list[bytes] | None = None) -> Behaviour:
    """Gives this answer to every request."""

    def behave(sock: Socket) -> None:
        while request := read_request(sock):
            if requests is not None:
                requests.append(request)
            sock.sendall(answer)

    return behave


def saying(answer: bytes) -> Behaviour:
    """Gives this answer to one request and closes."""

    def behave(sock: Socket) -> None:
        read_request(sock)
        sock.sendall(answer)

    return behave


def reset(sock: Socket) -> None:
    sock.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextmanager
def host(behaviour: Behaviour, tls: ssl.SSLContext | None = None) -> Iterator[Host]:
    made = Host(behaviour, tls)
    try:
        yield made
    finally:
        made.stop()


@contextmanager
def transport(
    connections_max: int = 10, connect_timeout_s: float = PLENTY_S, read_timeout_s: float = PLENTY_S, idle_s: float = 60
) -> Iterator[Transport]:
    made = Transport(connections_max, connect_timeout_s, read_timeout_s, idle_s)
    try:
        yield made
    finally:
        made.close()
        statistics = made.statistics()
        assert (statistics.open, statistics.idle) == (0, 0), "the transport kept a connection"


def post(origin: str, path: str = "/v2/push", body: bytes = BODY, **headers: str) -> ApiRequest:
    return ApiRequest("POST", origin, path, {"Authorization": TOKEN, **headers}, body, "push")


def get(origin: str, path: str = "/content") -> ApiRequest:
    return ApiRequest("GET", origin, path, {"Authorization": TOKEN}, b"", "content", True)


def failure(origin: str, request: ApiRequest | None = None, timeout_s: float = PLENTY_S) -> ApiError:
    """The error of one try. It leaves no connection, takes no longer than the timeout, and tells no secrets."""
    started = time.monotonic()
    with transport(connect_timeout_s=timeout_s, read_timeout_s=timeout_s) as sending:
        with pytest.raises(ApiError) as raised:
            sending.send(request or post(origin))
        assert sending.statistics().open == 0
    assert time.monotonic() - started < timeout_s + PLENTY_S / 2
    assert "no error may repeat" not in str(raised.value)
    assert origin in str(raised.value)
    return raised.value


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 that vouches for itself, with its key beside it."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", folder / "key.pem", "-out", folder / "cert.pem", "-days", "2", "-subj", "/CN=far"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    return folder / "cert.pem"


@pytest.fixture
def tls(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's TLS that the environment vouches for."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    return server_tls(certificate)


def server_tls(certificate: Path) -> ssl.SSLContext:
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    return context


# ---- what arrives, and what comes back


def test_a_request_arrives_as_it_was_made() -> None:
    requests: list[bytes] = []
    with host(answering(OK, requests)) as far, transport() as sending:
        sending.send(post(far.origin, "/v2/push?a=b", **{"X-Line-Retry-Key": "k"}))
        sending.send(get(far.origin))
    assert requests == [
        b"POST /v2/push?a=b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: gbot\r\nAccept-Encoding: identity\r\n"
        b"Content-Length: %d\r\nAuthorization: %b\r\nX-Line-Retry-Key: k\r\n\r\n%b"
        % (far.port, len(BODY), TOKEN.encode(), BODY),
        b"GET /content HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: gbot\r\nAccept-Encoding: identity\r\n"
        b"Content-Length: 0\r\nAuthorization: %b\r\n\r\n" % (far.port, TOKEN.encode()),
    ]


@pytest.mark.parametrize("status", [200, 202, 204, 302, 307, 400, 401, 409, 410, 429, 500, 503, 599])
def test_every_status_is_an_answer(status: int) -> None:
    raw = b"HTTP/1.1 %d X\r\nX-Line-Request-Id: 7\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n" % status
    with host(answering(raw)) as far, transport() as sending:
        for _ in range(2):
            answer = sending.send(post(far.origin))
            assert (answer.status, answer.headers["x-line-request-id"], answer.body) == (status, "7", b"")
        assert far.connections == 1  # a refusal must not cost the connection


def test_a_large_request_and_a_large_answer() -> None:
    body, large = b"b" * 2_000_000, b"a" * 1024 * 1024
    requests: list[bytes] = []
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(large), large)
    with host(answering(raw, requests)) as far, transport() as sending:
        assert sending.send(post(far.origin, body=body)).body == large
        assert requests[0].endswith(body)


def test_netrc_does_not_replace_the_access_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    requests: list[bytes] = []
    with host(answering(OK, requests)) as far, transport() as sending:
        sending.send(post(far.origin))
    assert f"Authorization: {TOKEN}\r\n".encode() in requests[0]


@pytest.mark.parametrize(
    "request_",
    [
        post("http://127.0.0.1:1", "/a b"),
        post("http://127.0.0.1:1", "/a\r\nX: y"),
        post("http://127.0.0.1:1", "/ä"),
        post("http://127.0.0.1:1", "relative"),
        post("http://127.0.0.1:1", X="a\r\nY: b"),
        post("http://127.0.0.1:1", X="a\nb"),
        post("http://127.0.0.1:1", X="a\rb"),
        post("http://127.0.0.1:1", X="a\0b"),
        post("http://127.0.0.1:1", X="\N{SUN WITH FACE}"),
        post("http://127.0.0.1:1", **{"X: a\r\nY": "b"}),
    ],
)
def test_what_would_not_stay_one_request_is_not_sent(request_: ApiRequest) -> None:
    with transport() as sending, pytest.raises(MessageRefused, match="nothing was sent") as raised:
        sending.send(request_)
    assert "no error may repeat" not in str(raised.value)
    assert raised.value.__context__ is None  # which would hold the token


# ---- what is kept


def test_one_connection_carries_many_requests() -> None:
    with host(answering(OK)) as far, transport() as sending:
        for _ in range(20):
            assert sending.send(post(far.origin)).body == b"{}"
        statistics = sending.statistics()
        assert far.connections == 1
    assert (statistics.open, statistics.idle, statistics.opened, statistics.requests) == (1, 1, 1, 20)


def test_one_tls_connection_carries_many_requests(tls: ssl.SSLContext) -> None:
    """Although the server has said something in between: tickets for later sessions."""
    with host(answering(OK), tls) as far, transport() as sending:
        for _ in range(20):
            assert sending.send(post(far.origin)).body == b"{}"
        assert far.connections == 1


def test_what_tls_says_of_its_own_does_not_cost_the_connection(tls: ssl.SSLContext) -> None:
    """The tickets for later sessions come right after the handshake, here before anything is asked."""
    with host(answering(OK), tls) as far:
        route = find_route(far.origin)
        hub = gevent.get_hub()
        connection = connect(route, Lookup(*route.address), make_tls_context(far.origin), hub, PLENTY_S, PLENTY_S)
        readable = hub.loop.io(connection._sock.fileno(), 1)
        hub.wait(readable)
        readable.close()
        assert connection.is_quiet()
        connection.ask(request_bytes(route, post(far.origin)))
        assert connection.receive_all(1000).take_body() == b"{}"
        assert connection.is_quiet()
        connection.close()


def test_the_connection_used_last_is_used_first() -> None:
    used: list[int] = []

    def behave(sock: Socket) -> None:
        me = len(used)
        while read_request(sock):
            used.append(me)
            gevent.sleep(0.01 if len(used) <= 3 else 0)
            sock.sendall(OK)

    with host(behave) as far, transport() as sending:
        gevent.joinall([gevent.spawn(sending.send, post(far.origin)) for _ in range(3)], raise_error=True)
        assert (far.connections, sending.statistics().idle) == (3, 3)
        for _ in range(10):
            sending.send(post(far.origin))
        assert len(set(used[3:])) == 1


def test_no_more_connections_than_the_bound_and_the_others_wait() -> None:
    now = most = 0

    def behave(sock: Socket) -> None:
        nonlocal now, most
        while read_request(sock):
            now += 1
            most = max(most, now)
            gevent.sleep(0.005)
            now -= 1
            sock.sendall(OK)

    with host(behave) as far, transport(connections_max=2) as sending:
        calls = [gevent.spawn(sending.send, post(far.origin)) for _ in range(20)]
        gevent.joinall(calls, raise_error=True)
        assert [call.value.status for call in calls] == [200] * 20
        assert (far.connections, most, sending.statistics().open) == (2, 2, 2)


def test_waiting_for_a_connection_ends() -> None:
    with host(answering(OK)) as far, transport(connections_max=1, read_timeout_s=0.1) as sending:
        with sending.open(get(far.origin)):
            with pytest.raises(LaneBusy, match="the only connection to") as raised:
                sending.send(post(far.origin))
            assert raised.value.after_s > 0
        assert sending.send(post(far.origin)).status == 200
        assert sending.statistics().requests == 2


def test_each_origin_has_its_own_connections() -> None:
    with host(answering(OK)) as one, host(answering(OK)) as other, transport(connections_max=1) as sending:
        with sending.open(get(one.origin)):
            assert sending.send(post(other.origin)).status == 200
        assert sending.statistics().opened == 2


def test_idle_connections_are_closed_and_the_origin_forgotten() -> None:
    with host(answering(OK)) as far, transport(idle_s=0.05) as sending:
        for times in (1, 2):
            sending.send(post(far.origin))
            assert sending.statistics().open == 1
            eventually(lambda: sending.statistics().open == 0)
            eventually(lambda: far.ended == far.connections)
            assert sending.statistics().opened == times
        assert not sending._origins


def test_what_is_in_use_when_the_transport_is_closed_is_closed_afterwards() -> None:
    with host(answering(OK)) as far:
        sending = Transport()
        with sending.open(get(far.origin)) as download:
            sending.close()
            assert download.read_all(10) == b"{}"
        assert sending.statistics().open == 0
        eventually(lambda: far.ended == 1)
        with host(answering(OK)) as other:
            assert sending.send(post(other.origin)).status == 200
        assert sending.statistics().open == 0


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1, max=5\r\nContent-Length: 2\r\n\r\n{}",
        OK + b"more than was announced",
        OK + OK,
    ],
    ids=["close", "1.0", "too short a time", "garbage behind", "second answer"],
)
def test_a_connection_that_is_not_to_be_kept_is_not_used_again(answer: bytes) -> None:
    with host(answering(answer)) as far, transport() as sending:
        for _ in range(3):
            assert sending.send(post(far.origin)).body == b"{}"
        assert far.connections == 3


def test_a_connection_that_the_server_keeps_for_long_is_used_again() -> None:
    answer = b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=50\r\nContent-Length: 2\r\n\r\n{}"
    with host(answering(answer)) as far, transport() as sending:
        for _ in range(3):
            sending.send(post(far.origin))
        assert far.connections == 1


def test_an_idle_connection_outlives_the_read_timeout() -> None:
    with host(answering(OK)) as far, transport(read_timeout_s=0.1) as sending:
        for pause_s in (0.25, 0):
            sending.send(post(far.origin))
            gevent.sleep(pause_s)
        assert far.connections == 1


def farewell(how: str) -> tuple[Behaviour, list[bytes], gevent.event.Event, gevent.event.Event]:
    """Answers once; when that was heard it ends the connection in this way, says so, and answers the next for ever."""
    requests: list[bytes] = []
    heard, said = gevent.event.Event(), gevent.event.Event()
    usual = answering(OK, requests)

    def behave(sock: Socket) -> None:
        if said.is_set():
            usual(sock)
            return
        requests.append(read_request(sock))
        sock.sendall(OK)
        heard.wait()
        if how == "reset":
            reset(sock)
        elif how == "said goodbye":
            sock.sendall(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        if how == "said goodbye and stays":
            sock.sendall(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
            said.set()
            sock.recv(1)
            return
        if isinstance(sock, gevent.ssl.SSLSocket) and how != "reset":
            sock.settimeout(0)
            with suppress(OSError):
                sock.unwrap()
        number = sock.fileno()
        sock.close()
        eventually(lambda: not is_open(number))
        said.set()

    return behave, requests, heard, said


def is_open(number: int) -> bool:
    """gevent puts the closing of a socket off until nothing can wait for it any more."""
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


FAREWELLS = ["closed", "reset", "said goodbye", "said goodbye and stays"]


@pytest.mark.parametrize("how", FAREWELLS)
@pytest.mark.parametrize("with_tls", [False, True], ids=["plain", "tls"])
def test_a_kept_connection_that_the_server_has_closed_is_replaced(
    how: str, with_tls: bool, tls: ssl.SSLContext
) -> None:
    behave, requests, heard, said = farewell(how)
    with host(behave, tls if with_tls else None) as far, transport() as sending:
        assert sending.send(post(far.origin)).status == 200
        heard.set()
        assert said.wait(PLENTY_S)
        assert sending.send(post(far.origin)).status == 200
        assert sending.statistics().requests == 2
        assert far.connections == 2
    assert len(requests) == 2


# ---- what may have arrived


DRIP_S = 0.02
HOSTILE = {
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "half a body": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}",
    "half a chunk": CHUNKED + b"5\r\nhel",
    "no last chunk": CHUNKED + b"2\r\n{}\r\n",
    "garbage": bytes(range(256)) * 100,
    "another protocol": b"SSH-2.0-OpenSSH\r\n\r\n",
    "no chunk": CHUNKED + b"zz\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "too large, announced": b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n",
    "too large": CHUNKED + b"7fffffff\r\n" + b"a" * 1_200_000,
    "too large, until the end": b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 1_200_000,
    "a huge head": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 1_200_000,
    "100s only": b"HTTP/1.1 100 Continue\r\n\r\n" * 60_000,
    "switching": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_answer_leaves_the_result_unknown(name: str) -> None:
    requests: list[bytes] = []

    def behave(sock: Socket) -> None:
        requests.append(read_request(sock))
        sock.sendall(HOSTILE[name])

    with host(behave) as far:
        error = failure(far.origin)
        assert type(error) is ResultUnknown
        assert error.status is None
        assert str(error).endswith("the request may have arrived")
        assert (far.connections, len(requests)) == (1, 1)  # and it is not sent again


def test_a_reset_leaves_the_result_unknown() -> None:
    def behave(sock: Socket) -> None:
        read_request(sock)
        reset(sock)

    with host(behave) as far:
        assert type(failure(far.origin)) is ResultUnknown
        assert far.connections == 1


def silent(sock: Socket) -> None:
    read_request(sock)
    sock.recv(1)


def unreading(sock: Socket) -> None:
    gevent.sleep(PLENTY_S)


def dripping(head: bytes, drop: bytes) -> Behaviour:
    def behave(sock: Socket) -> None:
        read_request(sock)
        sock.sendall(head)
        while True:
            sock.sendall(drop)
            gevent.sleep(DRIP_S)

    return behave


SLOW = {
    "silent": silent,
    "never reads": unreading,
    "drips a status line": dripping(b"HTTP/1.1 200 ", b"a"),
    "drips a head": dripping(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "drips a body": dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"a"),
    "drips chunks": dripping(CHUNKED, b"1\r\na\r\n"),
    "drips 100s": dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize("with_tls", [False, True], ids=["plain", "tls"])
def test_what_takes_too_long_leaves_the_result_unknown(name: str, with_tls: bool, tls: ssl.SSLContext) -> None:
    """The timeout is for the whole answer: the drops are far closer together."""
    with host(SLOW[name], tls if with_tls else None) as far:
        error = failure(far.origin, post(far.origin, body=b"b" * 20_000_000 if name == "never reads" else BODY), 0.3)
        assert type(error) is ResultUnknown
        assert "in time" in str(error)
        if name != "never reads":
            eventually(lambda: far.ended == 1)


def test_every_request_has_the_whole_time() -> None:
    def behave(sock: Socket) -> None:
        while read_request(sock):
            gevent.sleep(0.2)
            sock.sendall(OK)

    with host(behave) as far, transport(read_timeout_s=0.5) as sending:
        for _ in range(4):
            assert sending.send(post(far.origin)).status == 200
        assert far.connections == 1


def test_a_tls_answer_that_is_cut_does_not_pass_for_complete(tls: ssl.SSLContext) -> None:
    """Its end is the end of the connection, and that was not told by TLS."""
    with host(saying(b"HTTP/1.1 200 OK\r\n\r\n{}"), tls) as far:
        assert type(failure(far.origin)) is ResultUnknown


def test_after_a_broken_connection_the_next_request_gets_a_new_one() -> None:
    answers = iter([OK, b"HTTP/1.1 200", OK])

    def behave(sock: Socket) -> None:
        while read_request(sock):
            answer = next(answers)
            sock.sendall(answer)
            if answer is not OK:
                return

    with host(behave) as far, transport() as sending:
        assert sending.send(post(far.origin)).status == 200
        with pytest.raises(ResultUnknown):
            sending.send(post(far.origin))
        assert sending.send(post(far.origin)).status == 200
        assert far.connections == 2


def test_a_refusal_that_comes_before_the_request_is_complete_is_an_answer() -> None:
    def behave(sock: Socket) -> None:
        sock.recv(1000)
        sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        sock.shutdown(stdlib_socket.SHUT_WR)
        while sock.recv(65536):
            pass

    with host(behave) as far, transport() as sending:
        assert sending.send(post(far.origin, body=b"b" * 5_000_000)).status == 413


# ---- what never gets there


def test_a_closed_port_is_unreachable() -> None:
    assert type(failure(f"http://127.0.0.1:{free_port()}")) is ApiUnreachable


@pytest.mark.parametrize("origin", ["http://api.line.invalid", "https://api.line.invalid"])
def test_a_host_that_does_not_exist_is_unreachable(origin: str) -> None:
    assert type(failure(origin)) is ApiUnreachable


def test_the_next_address_of_a_name_is_tried() -> None:
    """``localhost`` has two on most machines, and the host listens on one of them."""
    with host(answering(OK)) as far, transport() as sending:
        assert sending.send(post(f"http://localhost:{far.port}")).status == 200


@pytest.mark.parametrize("origin", ["http://127.0.0.1:99999", "http://a..b", "ftp://a"])
def test_an_impossible_address_is_unreachable(origin: str) -> None:
    assert type(failure(origin)) is ApiUnreachable


def test_a_certificate_that_nobody_vouches_for_is_unreachable(certificate: Path) -> None:
    requests: list[bytes] = []
    with host(answering(OK, requests), server_tls(certificate)) as far:
        error = failure(far.origin)
        assert type(error) is ApiUnreachable
        assert "certificate" in str(error)
    assert not requests


def test_a_certificate_of_another_host_is_unreachable(tls: ssl.SSLContext) -> None:
    with host(answering(OK), tls) as far:
        error = failure(f"https://localhost:{far.port}")
        assert type(error) is ApiUnreachable
        assert "certificate" in str(error)


def test_a_server_without_tls_is_unreachable_with_it() -> None:
    def behave(sock: Socket) -> None:
        sock.recv(100)
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with host(behave) as far:
        assert type(failure(far.origin.replace("http:", "https:"))) is ApiUnreachable


@pytest.mark.parametrize("name", ["silent", "dripping"])
def test_a_tls_handshake_that_never_ends_is_unreachable(name: str) -> None:
    def behave(sock: Socket) -> None:
        sock.sendall(b"\x16\x03\x03\x40\x00" if name == "dripping" else b"")
        while True:
            sock.sendall(b"\x02" if name == "dripping" else b"")
            gevent.sleep(DRIP_S)

    with host(behave) as far:
        error = failure(far.origin.replace("http:", "https:"), timeout_s=0.3)
        assert type(error) is ApiUnreachable
        assert "in time" in str(error)


# ---- through a proxy


def test_a_plain_request_goes_to_the_proxy_with_the_whole_address(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[bytes] = []
    with host(answering(OK, requests)) as proxy, transport() as sending:
        monkeypatch.setenv("http_proxy", f"http://me:pass@127.0.0.1:{proxy.port}")
        for _ in range(2):
            assert sending.send(post("http://api.line.invalid", "/v2/push?a=b")).status == 200
        assert proxy.connections == 1
    assert requests[0].startswith(b"POST http://api.line.invalid/v2/push?a=b HTTP/1.1\r\nHost: api.line.invalid\r\n")
    assert b"Proxy-Authorization: Basic bWU6cGFzcw==\r\n" in requests[0]


def tunnel(port: int, asked: list[bytes], answer: bytes = b"HTTP/1.1 200 Connected\r\n\r\n") -> Behaviour:
    """A proxy that connects to this port, whatever it is asked for."""

    def copy(source: Socket, target: Socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(stdlib_socket.SHUT_WR)

    def behave(sock: Socket) -> None:
        received = b""
        while not received.endswith(b"\r\n\r\n"):
            received += sock.recv(1)
        asked.append(received)
        sock.sendall(answer)
        with gevent.socket.create_connection(("127.0.0.1", port)) as onwards:
            back = gevent.spawn(copy, onwards, sock)
            copy(sock, onwards)
            back.join()

    return behave


def test_tls_goes_through_a_tunnel(tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[bytes] = []
    asked: list[bytes] = []
    with host(answering(OK, requests), tls) as far, host(tunnel(far.port, asked)) as proxy, transport() as sending:
        monkeypatch.setenv("https_proxy", f"http://me:pass@127.0.0.1:{proxy.port}")
        for _ in range(3):
            assert sending.send(post(far.origin)).status == 200
        assert (far.connections, proxy.connections) == (1, 1)
    assert [line.partition(b"\r\n")[0] for line in asked] == [b"CONNECT 127.0.0.1:%d HTTP/1.1" % far.port]
    assert b"Proxy-Authorization: Basic bWU6cGFzcw==\r\n" in asked[0]
    assert requests[0].startswith(b"POST /v2/push HTTP/1.1\r\nHost: 127.0.0.1")
    assert b"Proxy-Authorization" not in requests[0]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", "status 407"),
        (b"HTTP/1.1 200 Connected\r\n\r\nwhat only the host may say", "more than it may"),
        (b"HTTP/1.1 200 Connected\r\nX: " + b"a" * 100_000, "more than it may"),
        (b"nonsense", "not valid HTTP"),
    ],
    ids=["refuses", "says more", "never ends", "is none"],
)
def test_a_proxy_that_makes_no_tunnel_is_unreachable(
    answer: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with host(answering(OK)) as far, host(tunnel(far.port, [], answer)) as proxy:
        monkeypatch.setenv("https_proxy", f"http://me:secret@127.0.0.1:{proxy.port}")
        error = failure("https://api.line.invalid")
        assert type(error) is ApiUnreachable
        assert f"through the proxy 127.0.0.1:{proxy.port}: the proxy answered with" in str(error)
        assert reason in str(error)
        assert "secret" not in str(error)


def test_a_proxy_that_is_not_there_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{free_port()}")
    assert type(failure("http://api.line.invalid")) is ApiUnreachable
    assert type(failure("https://api.line.invalid")) is ApiUnreachable


# ---- killed while it waits


@pytest.mark.parametrize("where", ["answer", "rest", "connection", "handshake", "download"])
@pytest.mark.parametrize("kind", [gevent.GreenletExit, gevent.Timeout, KeyError])
def test_a_killed_greenlet_takes_its_connection_along(where: str, kind: type[BaseException]) -> None:
    arrived = gevent.event.Event()

    def behave(sock: Socket) -> None:
        if where == "download":
            read_request(sock)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        elif where == "rest":
            read_request(sock)
            sock.sendall(b"HTTP/1.1 200 OK\r\n")
        arrived.set()
        while sock.recv(65536):
            pass

    def ask() -> None:
        if where == "download":
            with sending.open(get(origin)) as download:
                download.read_all(100)
        else:
            sending.send(post(origin))

    with host(behave) as far, transport(connections_max=1) as sending:
        origin = far.origin.replace("http:", "https:") if where == "handshake" else far.origin
        first = gevent.spawn(ask)
        assert arrived.wait(PLENTY_S)
        killed = gevent.spawn(ask) if where == "connection" else first
        gevent.sleep(0.01)  # let it get to where it waits
        assert not killed.dead
        with suppress(BaseException):
            killed.kill(kind(), block=True, timeout=PLENTY_S)
        assert killed.dead
        if where == "connection":
            assert sending.statistics().open == 1
            first.kill()
        assert sending.statistics().open == 0
        eventually(lambda: far.ended == far.connections)
        with host(answering(OK)) as other:  # and its place is free again
            assert sending.send(post(other.origin)).status == 200


def test_a_killed_greenlet_leaves_its_place_to_the_next() -> None:
    behave: list[Behaviour] = [silent]

    with host(lambda sock: behave[0](sock)) as far, transport(connections_max=1) as sending:
        stuck = gevent.spawn(sending.send, post(far.origin))
        eventually(lambda: sending.statistics().requests == 1)
        behave[0] = answering(OK)
        waiting = gevent.spawn(sending.send, post(far.origin))
        gevent.sleep(0)
        stuck.kill()
        assert waiting.get(timeout=PLENTY_S).status == 200


class Moody:
    """A host that does something else for each request, by a seed. ``seen`` are the numbers of the requests it read."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.seen: Counter[int] = Counter()
        self.well = False

    def __call__(self, sock: Socket) -> None:
        while request := read_request(sock):
            self.seen[int(request.rpartition(b"\r\n\r\n")[2])] += 1
            mood = 0.0 if self.well else self._random.random()
            if mood > 0.9:
                gevent.sleep(0.2)  # longer than anybody waits
            elif mood > 0.7:
                gevent.sleep(0.01)
            if 0.5 < mood < 0.6:
                sock.sendall(OK[:-1])
                return
            if 0.4 < mood < 0.5:
                reset(sock)
                return
            sock.sendall(OK)
            if 0.2 < mood < 0.4:
                return


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_no_request_arrives_twice_and_no_connection_is_lost(seed: int) -> None:
    chance = random.Random(seed)
    moody = Moody(seed)
    ends: dict[int, str] = {}

    def call(number: int) -> None:
        try:
            answer = sending.send(post(far.origin, body=b"%d" % number))
            ends[number] = answer.body.decode()
        except ApiError as error:
            ends[number] = type(error).__name__

    with host(moody) as far, transport(connections_max=5, read_timeout_s=0.1) as sending:
        for start in range(0, 200, 20):
            calls = [gevent.spawn(call, number) for number in range(start, start + 20)]
            gevent.sleep(chance.random() / 100)
            gevent.killall(chance.sample(calls, 4))
            gevent.joinall(calls)
            assert sending.statistics().open <= 5
        moody.well = True
        gevent.joinall([gevent.spawn(call, number) for number in range(200, 210)])
        assert [ends.get(number) for number in range(200, 210)] == ["{}"] * 10
        assert sending.statistics().open == sending.statistics().idle <= 5
    assert set(moody.seen.values()) == {1}
    assert all(moody.seen[number] == 1 for number, end in ends.items() if end == "{}")
    assert not any(moody.seen[number] for number, end in ends.items() if end == "LaneBusy")
    assert {"{}", "ResultUnknown"} <= set(ends.values())


# ---- downloads


def parts_of(download: Download) -> list[bytes]:
    with download:
        return list(download)


@pytest.mark.parametrize("with_tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
def test_a_download_comes_in_parts(with_tls: bool, chunked: bool, tls: ssl.SSLContext) -> None:
    content = bytes(range(256)) * 12_000
    head = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(content)
    raw = b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content) if chunked else content
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n%b\r\n\r\n%b" % (head, raw)
    with host(answering(answer), tls if with_tls else None) as far, transport() as sending:
        for _ in range(2):
            with sending.open(get(far.origin)) as download:
                assert (download.status, download.headers["content-type"]) == (200, "image/png")
                parts = list(download)
                assert b"".join(parts) == content
                assert max(map(len, parts)) <= 64 * 1024
                assert list(download) == []
        assert far.connections == 1


def test_a_download_without_a_body() -> None:
    with host(answering(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")) as far, transport() as sending:
        for _ in range(2):
            with sending.open(get(far.origin)) as download:
                assert (download.status, download.read_all(0)) == (404, b"")
        assert far.connections == 1


def test_a_download_may_be_slow_as_long_as_something_comes() -> None:
    def behave(sock: Socket) -> None:
        read_request(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 25\r\n\r\n")
        for _ in range(25):
            sock.sendall(b"a")
            gevent.sleep(DRIP_S)

    with host(behave) as far, transport(read_timeout_s=0.4) as sending:
        started = time.monotonic()
        assert b"".join(parts_of(sending.open(get(far.origin)))) == b"a" * 25
        assert time.monotonic() - started > 0.4


def test_whoever_reads_a_download_may_take_longer_than_the_timeout() -> None:
    content = b"a" * 5_000_000
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content)
    with (
        host(answering(answer)) as far,
        transport(read_timeout_s=0.1) as sending,
        sending.open(get(far.origin)) as download,
    ):
        parts = iter(download)
        received = len(next(parts))
        gevent.sleep(0.25)
        assert received + sum(map(len, parts)) == len(content)


@pytest.mark.parametrize("name", ["stops", "cut", "endless extension"])
def test_a_download_that_does_not_come_to_its_end(name: str) -> None:
    def behave(sock: Socket) -> None:
        read_request(sock)
        sock.sendall(CHUNKED + b"3\r\nabc\r\n")
        if name == "stops":
            sock.recv(1)
        elif name == "endless extension":
            sock.sendall(b"5;" + b"a" * 100_000_000)

    with host(behave) as far, transport(read_timeout_s=0.3) as sending:
        download = sending.open(get(far.origin))
        parts = iter(download)
        assert next(parts) == b"abc"
        with pytest.raises(ResultUnknown):
            next(parts)
        assert sending.statistics().open == 0
        assert list(download) == []
        download.close()


@pytest.mark.parametrize("name", ["silent", "drips a status line", "drips a head", "drips 100s"])
def test_the_head_of_a_download_has_to_come_in_time(name: str) -> None:
    with host(SLOW[name]) as far, transport(read_timeout_s=0.3) as sending:
        with pytest.raises(ResultUnknown, match="in time"):
            sending.open(get(far.origin))
        assert sending.statistics().open == 0


def test_a_download_that_is_not_read_to_its_end_closes_its_connection() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabcdefghij"
    with host(answering(answer)) as far, transport() as sending:
        with sending.open(get(far.origin)) as download:
            assert sending.statistics().open == 1
        assert sending.statistics().open == 0
        download.close()
        with sending.open(get(far.origin)) as download, pytest.raises(ResultUnknown, match="more than 9 bytes"):
            download.read_all(9)
        assert sending.statistics().open == 0


def test_a_forgotten_download_frees_its_place() -> None:
    with host(answering(OK)) as far, transport(connections_max=1) as sending:
        sending.open(get(far.origin))
        gc.collect()
        assert sending.send(post(far.origin)).status == 200


def test_a_fast_download_lets_others_run() -> None:
    """All that is read here has come already, so that reading never has to wait."""
    there = ran = 0
    busy_s = 0.002  # with each part, so that the turn is over with each

    def behave(sock: Socket) -> None:
        nonlocal there
        read_request(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        there = sock.send(b"a" * 10_000_000)  # as much as the kernel takes at once
        sock.recv(1)

    def other() -> None:
        nonlocal ran
        while True:
            gevent.sleep(busy_s / 2)
            ran += 1

    with host(behave) as far, transport() as sending, sending.open(get(far.origin)) as download:
        eventually(lambda: there > 0)
        beside = gevent.spawn(other)
        parts = count = 0
        for part in download:
            parts, count = parts + 1, count + len(part)
            burn(busy_s)
            if count + 2 * 64 * 1024 > there:
                break
        beside.kill()
        assert ran > parts // 2 > 3
