"""The way out: every failure a typed error that says whether the message can have arrived."""

from __future__ import annotations

import io
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from gbot import Context, Event, Message
from gbot.errors import (
    ApiError,
    ApiLimited,
    ApiRejected,
    ApiUnavailable,
    ApiUnreachable,
    MessageRefused,
    ReplyRefused,
    ReplyTokenExpired,
    ResultUnknown,
)
from gbot.outbound.sender import ApiSender, ConsoleSender
from gbot.outbound.transport import Transport
from gbot.platform import ApiRequest
from gbot.platforms.line import LinePlatform
from tests.fake_line import FakeLineProcess, Order
from tests.journeys.processes import free_port
from tests.rig import event, text_event
from tests.samples import line

PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
RETRY_KEY = "123e4567-e89b-42d3-a456-426614174000"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextmanager
def line_sender(
    address: str, token: str | None = line.ACCESS_TOKEN, read_timeout_s: float = 5.0
) -> Iterator[ApiSender]:
    transport = Transport(address, 10, read_timeout_s)
    try:
        yield ApiSender(LinePlatform([line.SECRET], token, address), transport)
    finally:
        transport.close()


def line_event(number: int = 1, **fields: Any) -> Event:
    """A LINE event as gbot parses it."""
    [parsed] = LinePlatform([line.SECRET], None).parse(line.delivery(line.text_event("hello", number, **fields)))
    return parsed


def failure(address: str, read_timeout_s: float = 5.0) -> ApiError:
    """The error of one reply through this address."""
    with line_sender(address, read_timeout_s=read_timeout_s) as sender, pytest.raises(ApiError) as raised:
        Context(line_event(), sender).reply("a message that no error may repeat")
    assert "a message" not in str(raised.value)
    assert line.ACCESS_TOKEN not in str(raised.value)
    assert address in str(raised.value)
    return raised.value


@contextmanager
def listener(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """A socket of a server that behaves as told with each connection; its address."""
    sock = socket.create_server(("127.0.0.1", 0))
    stopping = threading.Event()

    def accept() -> None:
        while not stopping.is_set():
            connection, _ = sock.accept()
            with connection:
                if not stopping.is_set():
                    serve(connection)

    thread = threading.Thread(target=accept)
    thread.start()
    host, port = sock.getsockname()
    try:
        yield f"http://{host}:{port}"
    finally:
        stopping.set()
        socket.create_connection((host, port)).close()
        thread.join(10)
        sock.close()


def read_request(connection: socket.socket) -> bytes:
    """A request of requests: head and body may come in two pieces."""
    received = b""
    while b"\r\n\r\n" not in received or not received.endswith(b"}"):
        received += connection.recv(65536)
    return received


# ---- what arrives


def test_a_reply_arrives_with_token_and_messages(fake_line: FakeLineProcess) -> None:
    with line_sender(fake_line.address) as sender:
        Context(line_event(7), sender).reply("one", {"type": "sticker", "packageId": "446", "stickerId": "1988"})
    [request] = fake_line.requests()
    assert (request["path"], request["status"]) == ("/v2/bot/message/reply", 200)
    assert request["authorization"] == f"Bearer {line.ACCESS_TOKEN}"
    assert request["retry_key"] is None
    assert request["body"] == {
        "replyToken": line.reply_token(7),
        "messages": [
            {"type": "text", "text": "one"},
            {"type": "sticker", "packageId": "446", "stickerId": "1988"},
        ],
    }


def test_a_push_arrives_with_its_retry_key(fake_line: FakeLineProcess) -> None:
    with line_sender(fake_line.address) as sender:
        sender.push(line.ANNA, [Message.of("hello \U0001f31e")], RETRY_KEY)
        with pytest.raises(ApiRejected) as raised:
            sender.push(line.ANNA, [Message.of("again")], RETRY_KEY)
    first, second = fake_line.requests()
    assert (first["path"], first["status"], first["retry_key"]) == ("/v2/bot/message/push", 200, RETRY_KEY)
    assert first["body"] == {"to": line.ANNA, "messages": [{"type": "text", "text": "hello \U0001f31e"}]}
    assert (raised.value.status, second["status"]) == (409, 409)


def test_one_connection_carries_many_requests(fake_line: FakeLineProcess) -> None:
    with line_sender(fake_line.address) as sender:
        fake_line.order({}, {"status": 400}, {"status": 500})
        for number in range(10):
            try:
                Context(line_event(number), sender).reply("hello")
            except ApiError as error:
                assert error.status in (400, 500)  # noqa: PT017 - a refusal must not cost the connection
    requests = fake_line.requests()
    assert len(requests) == 10
    assert len({request["connection"] for request in requests}) == 1


def test_after_a_broken_connection_the_next_request_gets_a_new_one(fake_line: FakeLineProcess) -> None:
    with line_sender(fake_line.address) as sender:
        fake_line.order({}, {"drop": True})
        Context(line_event(1), sender).reply("hello")
        with pytest.raises(ResultUnknown):
            Context(line_event(2), sender).reply("hello")
        Context(line_event(3), sender).reply("hello")
    assert len({request["connection"] for request in fake_line.requests()}) == 2


def test_netrc_does_not_replace_the_access_token(
    fake_line: FakeLineProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with line_sender(fake_line.address) as sender:
        Context(line_event(), sender).reply("hello")
    assert fake_line.requests()[0]["authorization"] == f"Bearer {line.ACCESS_TOKEN}"


def test_a_proxy_of_the_environment_is_used(fake_line: FakeLineProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake API stands in as a proxy: it is asked for an address that does not exist."""
    monkeypatch.setenv("http_proxy", fake_line.address)
    with line_sender("http://api.line.invalid") as sender:
        Context(line_event(), sender).reply("hello")
    assert fake_line.requests()[0]["status"] == 200


# ---- what the API refuses


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ApiRejected),
        (401, ApiRejected),
        (403, ApiRejected),
        (409, ApiRejected),
        (413, ApiRejected),
        (429, ApiLimited),
        (500, ApiUnavailable),
        (502, ApiUnavailable),
        (503, ApiUnavailable),
    ],
)
def test_each_status_is_its_own_error(fake_line: FakeLineProcess, status: int, kind: type[ApiError]) -> None:
    fake_line.order({"status": status})
    error = failure(fake_line.address)
    assert type(error) is kind
    assert error.status == status
    assert f"answered {status}: ordered to answer {status}" in str(error)


@pytest.mark.parametrize(
    "body",
    ["", "not json", "[]", "5", "null", '"text"', "{}", '{"messages": 1}', "9" * 5000, "[" * 100_000, "\x00\x01"],
    ids=lambda body: body[:10],
)
def test_an_answer_that_explains_nothing_is_still_a_refusal(fake_line: FakeLineProcess, body: str) -> None:
    fake_line.order({"status": 400, "body": body})
    error = failure(fake_line.address)
    assert type(error) is ApiRejected
    assert "no explanation" in str(error)


def test_a_long_explanation_is_cut(fake_line: FakeLineProcess) -> None:
    fake_line.order({"status": 400, "body": json.dumps({"message": "x" * 10_000})})
    assert len(str(failure(fake_line.address))) < 400


@pytest.mark.parametrize("location", ["http://127.0.0.1:1/", "/v2/elsewhere", "http://[", "ftp://x", ""])
def test_a_redirect_is_not_followed(location: str) -> None:
    def redirect(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())

    with listener(redirect) as address:
        error = failure(address)
    assert type(error) is ApiRejected
    assert error.status == 302


def test_a_wrong_access_token_is_rejected(fake_line: FakeLineProcess) -> None:
    with line_sender(fake_line.address, "another") as sender, pytest.raises(ApiRejected) as raised:
        Context(line_event(), sender).reply("hello")
    assert raised.value.status == 401


# ---- what never gets there


def test_a_closed_port_is_unreachable() -> None:
    assert type(failure(f"http://127.0.0.1:{free_port()}")) is ApiUnreachable


def test_a_host_that_does_not_exist_is_unreachable() -> None:
    assert type(failure("http://api.line.invalid")) is ApiUnreachable


@pytest.mark.parametrize("address", ["http://127.0.0.1:99999", "http://a..b", "ftp://a"])
def test_an_impossible_address_is_unreachable(address: str) -> None:
    assert type(failure(address)) is ApiUnreachable


def test_a_proxy_that_is_not_there_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{free_port()}")
    assert type(failure("http://api.line.invalid")) is ApiUnreachable
    assert type(failure("https://api.line.invalid")) is ApiUnreachable


@contextmanager
def tls_listener(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server with a certificate of its own that hangs up after the handshake; its address and the certificate."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def shake_hands(connection: socket.socket) -> None:
        with suppress(OSError):  # the client hangs up on the certificate
            context.wrap_socket(connection, server_side=True).close()

    with listener(shake_hands) as address:
        yield address.replace("http:", "https:"), certificate


def test_a_certificate_that_nobody_vouches_for_is_unreachable(tmp_path: Path) -> None:
    with tls_listener(tmp_path) as (address, _):
        error = failure(address)
    assert type(error) is ApiUnreachable
    assert "certificate" in str(error)


def test_a_certificate_that_the_environment_vouches_for_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tls_listener(tmp_path) as (address, certificate):
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        assert type(failure(address)) is ResultUnknown  # the handshake was made, and the server hung up


# ---- what may have arrived


@pytest.mark.parametrize("order", [{"drop": True}, {"cut": True}], ids=["no answer", "half an answer"])
def test_a_connection_that_breaks_leaves_the_result_unknown(fake_line: FakeLineProcess, order: Order) -> None:
    fake_line.order(order)
    error = failure(fake_line.address)
    assert type(error) is ResultUnknown
    assert error.status is None
    assert "may have arrived" in str(error)
    assert fake_line.requests()[0]["status"] == 200  # it had


def test_an_api_that_is_too_slow_leaves_the_result_unknown(fake_line: FakeLineProcess) -> None:
    fake_line.order({"delay_s": 1.0})
    assert type(failure(fake_line.address, read_timeout_s=0.1)) is ResultUnknown


def test_a_slow_api_within_the_timeout_is_no_failure(fake_line: FakeLineProcess) -> None:
    fake_line.order({"delay_s": 0.3})
    with line_sender(fake_line.address) as sender:
        Context(line_event(), sender).reply("hello")
    assert fake_line.requests()[0]["status"] == 200


def test_a_socket_that_never_answers_leaves_the_result_unknown() -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    with silent:
        error = failure(f"http://127.0.0.1:{silent.getsockname()[1]}", read_timeout_s=0.2)
    assert type(error) is ResultUnknown


@pytest.mark.parametrize(
    "answer",
    [
        *(b"", b"HTTP/1.1", b"SSH-2.0-OpenSSH\r\n\r\n"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nab",
    ],
)
def test_an_answer_that_is_not_http_leaves_the_result_unknown(answer: bytes) -> None:
    def say(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(answer)

    with listener(say) as address:
        assert type(failure(address)) is ResultUnknown


def test_tls_spoken_to_a_server_without_it_is_an_api_error() -> None:
    def hang_up(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with listener(hang_up) as address:
        assert failure(address.replace("http:", "https:")).status is None


# ---- what is not even tried


@pytest.mark.parametrize(
    ("given", "reason"),
    [(line_event(mode="standby"), "standby"), (line_event(replyToken=None), "reply token")],
    ids=["standby", "no token"],
)
def test_an_event_that_cannot_be_answered_is_refused(fake_line: FakeLineProcess, given: Event, reason: str) -> None:
    with line_sender(fake_line.address) as sender, pytest.raises(ReplyRefused, match=reason):
        Context(given, sender).reply("hello")
    assert fake_line.requests() == []


def test_without_an_access_token_nothing_is_sent(fake_line: FakeLineProcess) -> None:
    with line_sender(fake_line.address, None) as sender:
        ctx = Context(line_event(), sender)
        for send in (ctx.reply, ctx.push):
            with pytest.raises(ReplyRefused, match="GBOT_LINE_CHANNEL_ACCESS_TOKEN"):
                send("hello")
    assert fake_line.requests() == []


@pytest.mark.parametrize(
    "messages", [["x"] * 6, [{"text": "no type"}], [{"type": "x", "value": object()}], [{"type": "x" * 2**21}]]
)
def test_messages_that_line_could_only_refuse_are_not_sent(fake_line: FakeLineProcess, messages: list[Any]) -> None:
    with line_sender(fake_line.address) as sender:
        ctx = Context(line_event(), sender)
        with pytest.raises(MessageRefused):
            ctx.reply(*messages)
        with pytest.raises(MessageRefused):
            ctx.push(*messages)
        ctx.reply("the token is still good")
    assert [request["status"] for request in fake_line.requests()] == [200]


def test_an_event_older_than_a_minute_is_pushed_to_and_not_replied_to(fake_line: FakeLineProcess) -> None:
    an_hour_ago_ms = time.time_ns() // 1_000_000 - 3_600_000
    with line_sender(fake_line.address) as sender:
        ctx = Context(line_event(), sender, 2, an_hour_ago_ms)
        with pytest.raises(ReplyTokenExpired, match=r"could be replied to for 60 s; use ctx\.push"):
            ctx.reply("too late")
        assert fake_line.requests() == []
        ctx.push("better late than never")
    assert [request["path"] for request in fake_line.requests()] == ["/v2/bot/message/push"]


# ---- the console


def test_the_console_can_be_replied_to_at_any_age() -> None:
    stream = io.StringIO()
    Context(text_event("x", "anna"), ConsoleSender(stream), 2, 0).reply("hello")
    assert stream.getvalue() == "reply: hello\n"


def test_the_console_shows_what_would_be_sent() -> None:
    stream = io.StringIO()
    ctx = Context(text_event("x", "anna"), ConsoleSender(stream))
    ctx.reply("hello \U0001f31e", {"type": "sticker", "stickerId": "1988"}, {"type": "text"})
    ctx.push("later", to="ben")
    assert stream.getvalue().splitlines() == [
        "reply: hello \U0001f31e",
        'reply: {"type": "sticker", "stickerId": "1988"}',
        'reply: {"type": "text"}',
        "push to ben: later",
    ]


def test_the_console_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    Context(event("follow"), ConsoleSender()).reply("welcome")
    assert capsys.readouterr().out == "reply: welcome\n"


def test_the_console_refuses_what_no_platform_could_be_sent() -> None:
    endless: dict[str, Any] = {"type": "x"}
    endless["itself"] = endless
    stream = io.StringIO()
    for body in ({"type": "x", "value": {1, 2}}, endless):
        with pytest.raises(MessageRefused):
            Context(event("follow"), ConsoleSender(stream)).reply(body)
    assert stream.getvalue() == ""


def test_a_transport_gives_the_body_of_the_answer(fake_line: FakeLineProcess) -> None:
    transport = Transport(fake_line.address, 1)
    body = json.dumps({"to": line.ANNA, "messages": [{"type": "text", "text": "hi"}]}).encode()
    headers = {"Authorization": f"Bearer {line.ACCESS_TOKEN}"}
    answer = transport.send(ApiRequest("POST", f"{fake_line.address}/v2/bot/message/push", headers, body))
    assert json.loads(answer)["sentMessages"]
    transport.close()
