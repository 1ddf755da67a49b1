"""A small LINE Messaging API to send to: reply and push, as the reference describes them, and nothing else.

It is strict where LINE is strict (Bearer token, reply tokens that work once, 1 to 5 messages, the retry key on push
alone) and keeps a record of every request. ``python -m tests.fake_line`` serves it until its standard input is closed;
``FakeLineProcess`` is the handle that tests hold. It takes its orders at ``/fake/…``::

    GET    /fake/requests    everything it was asked since the last reset
    POST   /fake/orders      how to answer the next requests: a list of Orders, one per request
    POST   /fake/reset       forget everything
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections import deque
from collections.abc import Callable, Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypedDict

import gevent
import gevent.fileobject
import gevent.socket

from gbot.httpd import Server
from gbot.wsgi import ClientGone
from tests.samples import line

ROOT: Final = Path(__file__).parent.parent
MESSAGES_MAX: Final = 5
TEXT_CHARACTERS_MAX: Final = 5000

StartResponse = Callable[[str, list[tuple[str, str]]], object]
Answer = tuple[int, dict[str, Any]]


class Order(TypedDict, total=False):
    """How to answer one request other than correctly."""

    status: int  # answer with this status and LINE's kind of error body
    body: str  # together with status: this body instead
    delay_s: float  # wait before answering
    drop: bool  # close the connection instead of answering, after the message has been accepted
    cut: bool  # announce a longer body than is sent


class FakeLine:
    """The API as a WSGI application."""

    def __init__(self, access_token: str = line.ACCESS_TOKEN) -> None:
        self._authorization = f"Bearer {access_token}"
        self.reset()

    def reset(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.orders: deque[Order] = deque()
        self._used_tokens: set[str] = set()
        self._used_keys: set[str] = set()

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        body = environ["wsgi.input"].read()
        if environ["PATH_INFO"].startswith("/fake/"):
            return _send(start_response, 200, self._control(environ["PATH_INFO"], body))
        order = self.orders.popleft() if self.orders else Order()
        gevent.sleep(order.get("delay_s", 0))
        status = order.get("status")
        if status is not None:
            answer: Answer = (status, {"message": f"ordered to answer {status}"})
        else:
            answer = self._answer(environ, body)
        self._record(environ, body, answer[0])
        if order.get("drop"):
            raise ClientGone
        return _send(start_response, *answer, cut=order.get("cut", False), text=order.get("body"))

    def _control(self, path: str, body: bytes) -> Any:
        if path == "/fake/orders":
            self.orders.extend(json.loads(body))
        elif path == "/fake/reset":
            self.reset()
        return self.requests

    def _record(self, environ: dict[str, Any], body: bytes, status: int) -> None:
        self.requests.append(
            {
                "path": environ["PATH_INFO"],
                "body": json.loads(body) if body else None,
                "status": status,
                "authorization": environ.get("HTTP_AUTHORIZATION"),
                "retry_key": environ.get("HTTP_X_LINE_RETRY_KEY"),
                "connection": environ["REMOTE_PORT"],
            }
        )

    def _answer(self, environ: dict[str, Any], body: bytes) -> Answer:
        if environ.get("HTTP_AUTHORIZATION") != self._authorization:
            return 401, {"message": "the access token is not valid"}
        endpoints = {"/v2/bot/message/reply": self._reply, "/v2/bot/message/push": self._push}
        endpoint = endpoints.get(environ["PATH_INFO"])
        if endpoint is None or environ["REQUEST_METHOD"] != "POST":
            return 404, {"message": "no such endpoint"}
        request = json.loads(body)
        if not _acceptable(request.get("messages")):
            return 400, {"message": "the messages are not acceptable"}
        return endpoint(request, environ.get("HTTP_X_LINE_RETRY_KEY"))

    def _reply(self, request: dict[str, Any], retry_key: str | None) -> Answer:
        token = request.get("replyToken")
        if retry_key is not None:
            return 400, {"message": "a reply takes no retry key"}
        if not isinstance(token, str) or not token or token in self._used_tokens:
            return 400, {"message": "invalid reply token"}
        self._used_tokens.add(token)
        return 200, _sent(request)

    def _push(self, request: dict[str, Any], retry_key: str | None) -> Answer:
        if not isinstance(request.get("to"), str) or not request["to"]:
            return 400, {"message": "to is missing"}
        if retry_key in self._used_keys:
            return 409, {"message": "the retry key has been accepted already"}
        if retry_key is not None:
            self._used_keys.add(retry_key)
        return 200, _sent(request)


def _acceptable(messages: object) -> bool:
    if not isinstance(messages, list) or not 1 <= len(messages) <= MESSAGES_MAX:
        return False
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            return False
        text = message.get("text", "")
        if message["type"] == "text" and not (isinstance(text, str) and 1 <= len(text) <= TEXT_CHARACTERS_MAX):
            return False
    return True


def _sent(request: dict[str, Any]) -> dict[str, Any]:
    return {"sentMessages": [{"id": str(565_000 + number)} for number, _ in enumerate(request["messages"])]}


def _send(
    start_response: StartResponse, status: int, value: Any, cut: bool = False, text: str | None = None
) -> list[bytes]:
    body = json.dumps(value).encode() if text is None else text.encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body) + 100 * cut))]
    start_response(f"{status} {HTTPStatus(status).phrase}", headers)
    return [body]


class FakeLineProcess:
    """A fake LINE API in a process of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fake_line"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        if not self.address:
            raise RuntimeError("the fake LINE API did not start; standard error says why")

    def requests(self) -> list[dict[str, Any]]:
        """Everything it was asked since the last reset, in order of arrival, with the status it answered."""
        recorded: list[dict[str, Any]] = self._control("requests")
        return recorded

    def order(self, *orders: Order) -> None:
        """How to answer the next requests, one order each; after these it answers correctly again."""
        self._control("orders", json.dumps(orders).encode())

    def reset(self) -> None:
        self._control("reset", b"")

    def stop(self) -> None:
        self._process.communicate(timeout=10)  # closes its standard input

    def _control(self, path: str, body: bytes | None = None) -> Any:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"{self.address}/fake/{path}", body, timeout=10) as answer:
            return json.load(answer)


def main() -> None:
    listener = gevent.socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(256)
    server = Server(FakeLine(), [listener])
    server.start()
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    gevent.fileobject.FileObject(sys.stdin.fileno(), "rb", close=False).read()


if __name__ == "__main__":
    main()
