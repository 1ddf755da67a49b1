"""One request through an application: what leaves, in how many writes, and what an application cannot cause."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.validate import validator

import gevent
import pytest
from greenlet import GreenletExit

from gbot.http_parser import Bounds, Request, RequestError, RequestParser
from gbot.inbox import Entry
from gbot.inboxes.memory import MemoryInbox
from gbot.platforms.plain import PlainPlatform
from gbot.webhook import Intake, application
from gbot.wsgi import ClientGone, Environ, Exchange, WsgiApp, base_environ, plain_response, request_environ

DATE = "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
GET = b"GET /a%20b?c=d HTTP/1.1\r\nHost: bot.example\r\n\r\n"
GET_1_0 = b"GET / HTTP/1.0\r\n\r\n"
GET_1_0_KEPT = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: bot.example\r\n\r\n"
TEXT = ("Content-Type", "text/plain")
StartResponse = Callable[..., Callable[[bytes], object]]


class Done:
    """What one exchange left behind."""

    def __init__(self, raw: bytes, app: WsgiApp, keep_alive: bool = True, sends_max: int | None = None) -> None:
        self.sends: list[bytes] = []
        self._sends_max = sends_max
        request = parsed(raw)
        self.exchange = Exchange(request, self._send, DATE, keep_alive)
        self.exchange.run(app, request_environ(base_environ("127.0.0.1", "4000", "http"), request))

    def _send(self, data: bytes) -> None:
        if self._sends_max is not None and len(self.sends) >= self._sends_max:
            raise ClientGone("the client has closed the connection")
        assert data, "an empty send is a wasted system call"
        self.sends.append(data)

    @property
    def head(self) -> str:
        return b"".join(self.sends).partition(b"\r\n\r\n")[0].decode("latin-1")

    @property
    def status(self) -> int:
        return int(self.head[9:12])

    @property
    def body(self) -> bytes:
        return b"".join(self.sends).partition(b"\r\n\r\n")[2]

    @property
    def keep_alive(self) -> bool:
        return self.exchange.keep_alive

    def values(self, name: str) -> list[str]:
        return re.findall(rf"(?mi)^{name}: (.*?)\r?$", self.head)


def parsed(raw: bytes) -> Request:
    parser = RequestParser(Bounds())
    parser.feed(raw)
    parser.close()
    return parser.requests[0]


def app_of(
    result: Any, status: Any = "200 OK", headers: Any = (TEXT,), before: Callable[[Environ], None] | None = None
) -> WsgiApp:
    """An application that answers this, right or wrong."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if before is not None:
            before(environ)
        start_response(status, list(headers))
        return result  # type: ignore[no-any-return]

    return app


class Chunks:
    """An iterable of the kind that has a ``close``."""

    def __init__(self, *chunks: Any) -> None:
        self._chunks = iter(chunks)
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk = next(self._chunks)
        if isinstance(chunk, BaseException):
            raise chunk
        return chunk  # type: ignore[no-any-return]

    def close(self) -> None:
        self.closed += 1


# The environ.


def test_the_environ_of_a_post() -> None:
    request = parsed(
        b"POST /callback%2Fline?a=%20&b HTTP/1.1\r\nHost: bot.example\r\nContent-Type: application/json\r\n"
        b"Content-Length: 4\r\nX-Line-Signature: abc=\r\nX-A: 1\r\nX-A: 2\r\n\r\nbody"
    )
    environ = request_environ(base_environ("10.0.0.1", "4000", "https"), request)
    body = environ.pop("wsgi.input")
    assert body.read() == b"body"
    assert environ == {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/callback/line",
        "QUERY_STRING": "a=%20&b",
        "SERVER_NAME": "10.0.0.1",
        "SERVER_PORT": "4000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": "4",
        "HTTP_HOST": "bot.example",
        "HTTP_X_LINE_SIGNATURE": "abc=",
        "HTTP_X_A": "1, 2",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https",
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }


def test_a_chunked_body_looks_like_any_other() -> None:
    request = parsed(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n")
    environ = request_environ({}, request)
    assert environ["CONTENT_LENGTH"] == "4"
    assert "HTTP_TRANSFER_ENCODING" not in environ
    assert environ["wsgi.input"].read() == b"body"


def test_no_header_replaces_what_the_server_says() -> None:
    request = parsed(b"GET / HTTP/1.1\r\nHost: a\r\nRequest-Method: EVIL\r\nwsgi.input: x\r\nPath-Info: /x\r\n\r\n")
    environ = request_environ({}, request)
    assert environ["REQUEST_METHOD"] == "GET"
    assert environ["PATH_INFO"] == "/"
    assert environ["wsgi.input"].read() == b""


def test_a_bad_target_is_refused_before_the_application_runs() -> None:
    with pytest.raises(RequestError):
        request_environ({}, parsed(b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"))


# Framing.


def test_a_response_as_falcon_gives_it_is_one_write() -> None:
    done = Done(GET, app_of([b"hello"], headers=[TEXT, ("Content-Length", "5")]))
    assert done.sends == [
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n" + DATE.encode() + b"\r\nhello"
    ]
    assert done.keep_alive


@pytest.mark.parametrize("result", [[b"hello"], (b"hello",), [bytearray(b"hello")], [memoryview(b"hello")]])
def test_the_length_of_a_single_chunk_is_found_out(result: Any) -> None:
    done = Done(GET, app_of(result))
    assert len(done.sends) == 1
    assert done.values("Content-Length") == ["5"]
    assert done.body == b"hello"


@pytest.mark.parametrize("result", [[], (), [b""], iter(()), [b"", b""]], ids=repr)
def test_an_empty_response_is_one_write(result: Any) -> None:
    done = Done(GET, app_of(result))
    assert len(done.sends) == 1
    assert done.values("Content-Length") == ["0"]
    assert done.keep_alive


def test_a_stream_is_chunked_and_leaves_as_it_is_produced() -> None:
    done = Done(GET, app_of(iter([b"hello", b"", b"a" * 16])))
    assert done.values("Transfer-Encoding") == ["chunked"]
    assert done.values("Content-Length") == []
    assert [len(done.sends), done.sends[0].endswith(b"\r\n\r\n5\r\nhello\r\n")] == [3, True]
    assert done.sends[1:] == [b"10\r\n" + b"a" * 16 + b"\r\n", b"0\r\n\r\n"]
    assert done.keep_alive


def test_a_stream_of_known_length_is_not_chunked() -> None:
    done = Done(GET, app_of(iter([b"he", b"llo"]), headers=[TEXT, ("content-length", "5")]))
    assert done.values("Transfer-Encoding") == []
    assert done.body == b"hello"
    assert done.keep_alive


def test_http_1_0_ends_a_stream_by_closing() -> None:
    done = Done(GET_1_0_KEPT, app_of(iter([b"he", b"llo"])))
    assert done.body == b"hello"
    assert done.values("Transfer-Encoding") == []
    assert done.values("Connection") == ["close"]
    assert not done.keep_alive


@pytest.mark.parametrize(
    ("raw", "connection", "keep_alive"),
    [(GET_1_0, ["close"], False), (GET_1_0_KEPT, ["keep-alive"], True), (GET, [], True)],
)
def test_keep_alive(raw: bytes, connection: list[str], keep_alive: bool) -> None:
    done = Done(raw, app_of([b"hello"]))
    assert done.values("Connection") == connection
    assert done.keep_alive is keep_alive


def test_a_stopping_server_says_close() -> None:
    done = Done(GET, app_of([b"hello"]), keep_alive=False)
    assert done.values("Connection") == ["close"]


def test_a_server_that_stops_while_the_application_runs_says_close() -> None:
    exchanges: list[Exchange] = []
    sends: list[bytes] = []

    def stop(environ: Environ) -> None:
        exchanges[0].keep_alive = False

    request = parsed(GET)
    exchanges.append(Exchange(request, sends.append, DATE, True))
    exchanges[0].run(app_of([b"hello"], before=stop), request_environ({}, request))
    assert b"\r\nConnection: close\r\n" in sends[0]


@pytest.mark.parametrize("result", [[b"hello"], [], Chunks(b"he", b"llo")], ids=["one", "none", "many"])
def test_head_has_the_head_of_a_get_and_no_body(result: Any) -> None:
    done = Done(HEAD, app_of(result, headers=[TEXT, ("Content-Length", "5")]))
    assert len(done.sends) == 1
    assert done.values("Content-Length") == ["5"]
    assert done.body == b""
    assert done.keep_alive


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
@pytest.mark.parametrize("result", [[], [b"hello"], Chunks(b"he", b"llo")], ids=["none", "one", "many"])
def test_a_status_without_body_has_none(status: str, result: Any) -> None:
    done = Done(GET, app_of(result, status=status, headers=[]))
    assert done.sends == [f"HTTP/1.1 {status}\r\n{DATE}\r\n".encode()]
    assert done.keep_alive


def test_the_applications_own_date_is_kept() -> None:
    done = Done(GET, app_of([b""], headers=[("date", "yesterday")]))
    assert done.values("Date") == ["yesterday"]


def test_repeated_headers_stay_apart() -> None:
    done = Done(GET, app_of([b""], headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]))
    assert done.values("Set-Cookie") == ["a=1", "b=2"]


def test_latin_1_values_pass() -> None:
    done = Done(GET, app_of([b""], headers=[("X-Name", "caf\xe9")]))
    assert b"\r\nX-Name: caf\xe9\r\n" in done.sends[0]


# start_response, write, close: PEP 3333's corners.


def test_start_response_may_come_with_the_first_chunk() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("201 Created", [TEXT])
        yield b"hello"

    done = Done(GET, app)
    assert done.status == 201
    assert done.body == b"5\r\nhello\r\n0\r\n\r\n"


def test_start_response_may_come_with_the_first_of_no_chunks() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("201 Created", [TEXT])
        yield from ()

    done = Done(GET, app)
    assert [done.status, done.body, len(done.sends)] == [201, b"", 1]


def test_write_sends_before_what_is_returned() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response("200 OK", [TEXT])
        write(b"one")
        write(b"")
        return [b"two"]

    done = Done(GET, app)
    assert done.body == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
    assert len(done.sends) == 3


def test_an_empty_write_sends_the_head() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [TEXT])(b"")
        return []

    assert Done(GET, app).body == b"0\r\n\r\n"


def test_write_of_a_known_length() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response("200 OK", [TEXT, ("Content-Length", "5")])
        write(b"he")
        write(b"llo")
        return []

    done = Done(GET, app)
    assert done.body == b"hello"
    assert done.keep_alive


def test_a_write_kept_beyond_the_response_cannot_reach_the_next_one() -> None:
    kept: list[Callable[[bytes], object]] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        kept.append(start_response("200 OK", [TEXT]))
        return [b"hello"]

    done = Done(GET, app)
    sends = list(done.sends)
    with pytest.raises(Exception, match="ended"):
        kept[0](b"HTTP/1.1 200 OK\r\n\r\n")
    assert done.sends == sends


def test_exc_info_replaces_what_was_not_sent_yet() -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [("X-First", "1")])
        try:
            raise KeyError("lost")
        except KeyError:
            start_response("502 Bad Gateway", [TEXT], sys.exc_info())
        return [b"sorry"]

    done = Done(GET, app)
    assert [done.status, done.body, done.values("X-First")] == [502, b"sorry", []]


def test_exc_info_after_the_head_was_sent_raises_it(caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [TEXT])(b"half")
        try:
            raise KeyError("lost")
        except KeyError:
            start_response("502 Bad Gateway", [TEXT], sys.exc_info())
        return [b"never"]

    done = Done(GET, app)
    assert done.body == b"4\r\nhalf\r\n"  # without an end: the client sees that it was cut
    assert not done.keep_alive
    assert "KeyError" in caplog.text


@pytest.mark.parametrize("raw", [GET, HEAD, GET_1_0])
def test_close_is_called_once(raw: bytes) -> None:
    for chunks in (
        Chunks(),
        Chunks(b"a"),
        Chunks(b"a", b"b"),
        Chunks(ValueError("no")),
        Chunks(b"a", ValueError("no")),
    ):
        Done(raw, app_of(chunks))
        assert chunks.closed == 1


def test_close_is_called_when_the_client_has_gone() -> None:
    chunks = Chunks(b"a", b"b", b"c")
    with pytest.raises(ClientGone):
        Done(GET, app_of(chunks), sends_max=1)
    assert chunks.closed == 1


def test_close_is_called_when_the_head_cannot_be_sent() -> None:
    chunks = Chunks(b"a")
    with pytest.raises(ClientGone):
        Done(GET, app_of(chunks), sends_max=0)
    assert chunks.closed == 1


def test_a_close_that_fails_comes_after_the_response(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Chunks):
        def close(self) -> None:
            raise ValueError("cannot close")

    done = Done(GET, app_of(Failing(b"hello")))
    assert [done.status, done.body] == [200, b"5\r\nhello\r\n0\r\n\r\n"]
    assert not done.keep_alive
    assert "cannot close" in caplog.text


# Failures.


def raising(error: BaseException) -> WsgiApp:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        raise error

    return app


def never_starting(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return [b"hello"]


def never_starting_stream(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    yield b"hello"


def never_starting_nor_answering(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return []


def starting_twice(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [TEXT])
    start_response("200 OK", [TEXT])
    return [b"hello"]


def header(name: Any, value: Any) -> WsgiApp:
    return app_of([b"secret"], headers=[(name, value)])


def raising_late(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [TEXT])
    raise ValueError("secret")
    yield b"never"


WRONG_BODIES = {
    "returns bytes": app_of(b"secret"),
    "returns str": app_of("secret"),
    "returns [str]": app_of(["secret"]),
    "returns two str": app_of(["secret", "secret"]),
    "returns str of a known length": app_of(["secret"], headers=[("Content-Length", "6")]),
    "returns two str of a known length": app_of(["sec", "ret"], headers=[("Content-Length", "6")]),
    "returns numbers": app_of([1, 2]),
    "returns a dict": app_of({"secret": 1}),
}
WRONG = {
    "raises": raising(ValueError("secret")),
    "raises a timeout of gevent": raising(gevent.Timeout(1)),
    "exits": raising(SystemExit(3)),
    "raises in its iterator": raising_late,
    "never calls start_response": never_starting,
    "never calls start_response, streams": never_starting_stream,
    "never calls start_response, no body": never_starting_nor_answering,
    "calls start_response twice": starting_twice,
    "returns None": app_of(None),
    "returns a number": app_of(7),
    "status as bytes": app_of([b"secret"], status=b"200 OK"),
    "status as number": app_of([b"secret"], status=200),
    "status without a number": app_of([b"secret"], status="OK"),
    "status of four digits": app_of([b"secret"], status="2000 OK"),
    "interim status": app_of([b"secret"], status="100 Continue"),
    "switching protocols": app_of([b"secret"], status="101 Switching Protocols"),
    "empty status": app_of([b"secret"], status=""),
    "status with a line break": app_of([b"secret"], status="200 OK\r\nX-Evil: 1"),
    "status beyond latin-1": app_of([b"secret"], status="200 \u3042"),
    "value with CR LF": header("Location", "/\r\nSet-Cookie: evil=1"),
    "value with LF": header("Location", "/\nSet-Cookie: evil=1"),
    "value with CR": header("Location", "/\rSet-Cookie: evil=1"),
    "value with two line breaks": header("Location", "/\r\n\r\n<script>"),
    "value with NUL": header("X", "a\0b"),
    "name with CR LF": header("X: y\r\nZ", "1"),
    "name with LF": header("X\n", "1"),
    "name with a colon": header("X:", "1"),
    "name with a space": header("Content-Length ", "1"),
    "empty name": header("", "1"),
    "non-ASCII name": header("X-\xe9", "1"),
    "value beyond latin-1": header("X", "\u3042"),
    "value as bytes": header("X", b"1"),
    "name as bytes": header(b"X", "1"),
    "value as number": header("X", 1),
    "Content-Length as number": header("Content-Length", 6),
    "Content-Length with a sign": header("Content-Length", "+6"),
    "negative Content-Length": header("Content-Length", "-6"),
    "Content-Length with a space": header("Content-Length", "6 "),
    "Content-Length with an underscore": header("Content-Length", "0_6"),
    "Content-Length in other digits": header("Content-Length", "\xb2"),
    "empty Content-Length": header("Content-Length", ""),
    "two Content-Lengths": app_of([b"secret"], headers=[("Content-Length", "6"), ("content-length", "60")]),
    "a header of three": app_of([b"secret"], headers=[("X", "y", "z")]),
    "a Connection of its own": header("Connection", "keep-alive"),
    "a Transfer-Encoding of its own": header("transfer-encoding", "chunked"),
    "an Upgrade of its own": header("Upgrade", "h2c"),
}


CASES = [
    *(pytest.param(app, raw, id=f"{raw[:4].decode()} {name}") for name, app in WRONG.items() for raw in (GET, HEAD)),
    *(pytest.param(app, GET_1_0_KEPT, id=f"HTTP/1.0 {name}") for name, app in (WRONG | WRONG_BODIES).items()),
    *(pytest.param(app, GET, id=f"GET {name}") for name, app in WRONG_BODIES.items()),
]


@pytest.mark.parametrize(("app", "raw"), CASES)
def test_a_wrong_application_is_answered_with_500_and_nothing_leaks(
    app: WsgiApp, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    for streamed in (False, True):
        sent = Done(raw, as_stream(app) if streamed else app)
        assert len(sent.sends) == 1
        assert sent.status == 500
        assert sent.values("Connection") == ["close"]
        assert not sent.keep_alive
        assert b"secret" not in sent.sends[0]
        assert b"evil" not in sent.sends[0].lower()
        assert (sent.body == b"") is (raw is HEAD)
    assert "The application failed" in caplog.text


def as_stream(app: WsgiApp) -> WsgiApp:
    """The same application, which does everything when its result is iterated."""

    def streaming(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        yield from app(environ, start_response)

    return streaming


def test_a_failure_after_the_head_cuts_the_response(caplog: pytest.LogCaptureFixture) -> None:
    done = Done(GET, app_of(Chunks(b"half", ValueError("lost"))))
    assert [done.status, done.body] == [200, b"4\r\nhalf\r\n"]
    assert not done.keep_alive
    assert "lost" in caplog.text


@pytest.mark.parametrize("error", [GreenletExit(), KeyboardInterrupt()])
def test_being_stopped_is_not_a_failure_of_the_application(error: BaseException) -> None:
    chunks = Chunks(error)
    with pytest.raises(type(error)):
        Done(GET, app_of(chunks))
    assert chunks.closed == 1


def test_a_log_line_stays_one_line(caplog: pytest.LogCaptureFixture) -> None:
    Done(b"GET /%0aINFO%20all%20is%20well HTTP/1.1\r\nHost: a\r\n\r\n", raising(ValueError("no")))
    assert "\n" not in caplog.records[0].getMessage()


# A Content-Length that is not true.


@pytest.mark.parametrize("make", [list, iter], ids=["list", "stream"])
def test_a_body_longer_than_announced_is_cut_off(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    done = Done(GET, app_of(make([b"hello world"]), headers=[("Content-Length", "5")]))
    assert done.body == b"hello"
    assert done.keep_alive  # the next response begins where the client expects it
    assert "6 bytes more" in caplog.text


def test_a_stream_without_end_is_left_at_its_announced_length(caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "5")])
        while True:
            yield b"abc"

    done = Done(GET, app)
    assert done.body == b"abcab"
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "result", [[b"hello"], iter([b"he", b"llo"]), [], iter([])], ids=["one", "many", "none", "empty"]
)
def test_a_body_shorter_than_announced_ends_the_connection(result: Any, caplog: pytest.LogCaptureFixture) -> None:
    done = Done(GET, app_of(result, headers=[("Content-Length", "500")]))
    assert done.body in (b"hello", b"")
    assert not done.keep_alive
    assert f"{500 - len(done.body)} bytes fewer" in caplog.text


# Responses of the server's own.


@pytest.mark.parametrize("status", [400, 408, 413, 414, 417, 431, 500, 501, 503, 505])
def test_the_servers_own_responses_are_whole(status: int) -> None:
    head, _, body = plain_response(status, "word", 'a "sentence"', DATE).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nContent-Length: %d\r\n" % len(body) in head
    assert b"\r\nConnection: close" in head
    assert body == b'{"error":"word","detail":"a \\"sentence\\""}'


def test_503_says_when_to_come_back() -> None:
    assert b"\r\nRetry-After: 1\r\n" in plain_response(503, "full", "Full.", DATE)


# The Falcon application.


class Received:
    """An intake whose deliveries are kept."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        inbox = MemoryInbox(100, 10_000, strict=True, dedup_window_s=60)
        inbox.start(self.entries.extend, lambda: 100, lambda: self.entries)
        self.app = application([PlainPlatform()], Intake(inbox, 1024 * 1024))


CALLBACK = b"POST /callback HTTP/1.1\r\nHost: bot.example\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("raw", "status", "texts"),
    [
        (CALLBACK + b'Content-Length: 20\r\n\r\n{"messages":"1,2,3"}', 200, ["1", "2", "3"]),
        (CALLBACK + b'Transfer-Encoding: chunked\r\n\r\n14\r\n{"messages":"1,2,3"}\r\n0\r\n\r\n', 200, ["1", "2", "3"]),
        (CALLBACK + b"Content-Length: 4\r\n\r\nnope", 400, []),
        (CALLBACK + b"Content-Length: 0\r\n\r\n", 400, []),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 200, []),
        (b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", 200, []),
        (b"GET /healthz HTTP/1.0\r\n\r\n", 200, []),
        (b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n", 404, []),
        (b"HEAD /nowhere HTTP/1.1\r\nHost: a\r\n\r\n", 404, []),
        (b"GET /callback HTTP/1.1\r\nHost: a\r\n\r\n", 405, []),
        (b"GET /%00%0d%0a HTTP/1.1\r\nHost: a\r\n\r\n", 404, []),
    ],
)
def test_the_webhook_app_under_the_validator(
    raw: bytes, status: int, texts: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "gbot.wsgi")
    received = Received()
    done = Done(raw, validator(received.app))
    assert done.status == status
    assert [entry.event.text for entry in received.entries] == texts
    assert not caplog.records


def test_the_webhook_answer_is_one_write() -> None:
    done = Done(CALLBACK + b'Content-Length: 16\r\n\r\n{"messages":"1"}', Received().app)
    assert len(done.sends) == 1
    assert done.body == b'{"ok":"ok"}'


def test_the_webhook_app_and_the_asterisk() -> None:
    assert Done(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Received().app).status == 404
