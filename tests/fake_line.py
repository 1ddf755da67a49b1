"""A small LINE Messaging API to send to and to ask, with the endpoints that gbot uses, as the reference describes them.

It is strict where LINE is strict (Bearer token, reply tokens that work once, 1 to 5 messages, retry keys that work
once and not on a reply) and keeps a record of every request. It knows the profiles of PROFILES and of nobody else, and
has CONTENT for every message. ``python -m tests.fake_line`` serves it until its standard input is closed;
``FakeLineProcess`` is the handle that tests hold. It takes its orders at ``/fake/…``::

    GET    /fake/requests    everything it was asked since the last reset
    POST   /fake/orders      how to answer the next requests: a list of Orders, one per request
    POST   /fake/reset       forget everything
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, NamedTuple, TypedDict

import gevent
import gevent.fileobject
import gevent.socket

from gbot.httpd import Server
from gbot.wsgi import ClientGone
from tests.samples import line

ROOT: Final = Path(__file__).parent.parent
MESSAGES_MAX: Final = 5
RECIPIENTS_MAX: Final = 500
TEXT_CHARACTERS_MAX: Final = 5000
MONTHLY_LIMIT: Final = 1000
PROFILES: Final[dict[str, dict[str, str]]] = {
    line.ANNA: {"displayName": "Anna", "userId": line.ANNA, "language": "ja", "statusMessage": "at sea"},
    line.BEN: {"displayName": "Ben", "userId": line.BEN},
}
USER_ID: Final = re.compile("U[0-9a-f]{32}")
CONTENT: Final = bytes(range(256)) * 800

StartResponse = Callable[[str, list[tuple[str, str]]], object]
Request = dict[str, Any]


class Answer(NamedTuple):
    """What is sent back; a dict leaves as JSON."""

    status: int
    value: dict[str, Any] | bytes
    headers: Mapping[str, str] = {}


class Order(TypedDict, total=False):
    """How to answer one request other than correctly."""

    status: int  # answer with this status and LINE's kind of error body
    body: str  # together with status: this body instead
    headers: dict[str, str]  # together with status: these as well
    delay_s: float  # wait before answering
    drop: bool  # close the connection instead of answering, after the message has been accepted
    cut: bool  # announce a longer body than is sent


def _limited(message: str) -> Order:
    return {"status": 429, "body": json.dumps({"message": message})}


TOO_FAST: Final = _limited("The API rate limit has been exceeded. Try again later.")
QUOTA_USED_UP: Final = _limited("You have reached your monthly limit.")
TOO_MANY_TO_USER: Final = _limited("Too many messages have been sent to the same user.")


class FakeLine:
    """The API as a WSGI application."""

    def __init__(self, access_token: str = line.ACCESS_TOKEN) -> None:
        self._authorization = f"Bearer {access_token}"
        self.reset()

    def reset(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.orders: deque[Order] = deque()
        self._used_tokens: set[str] = set()
        self._used_keys: dict[str, str] = {}  # with the id of the request that was accepted under it

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        body = environ["wsgi.input"].read()
        if environ["PATH_INFO"].startswith("/fake/"):
            return _send(start_response, Answer(200, self._control(environ["PATH_INFO"], body)))
        order = self.orders.popleft() if self.orders else Order()
        requests = self.requests  # a reset during the delay is not to find this one in its new list
        gevent.sleep(order.get("delay_s", 0))
        status = order.get("status")
        if status is not None:
            explained = order.get("body", json.dumps({"message": f"ordered to answer {status}"}))
            answer = Answer(status, explained.encode(), order.get("headers", {}))
        else:
            answer = self._answer(environ, body)
        requests.append(_record(environ, body, answer.status))
        if order.get("drop"):
            raise ClientGone
        return _send(start_response, answer, cut=order.get("cut", False))

    def _control(self, path: str, body: bytes) -> Any:
        if path == "/fake/orders":
            self.orders.extend(json.loads(body))
        elif path == "/fake/reset":
            self.reset()
        return self.requests

    def _answer(self, environ: dict[str, Any], body: bytes) -> Answer:
        if environ.get("HTTP_AUTHORIZATION") != self._authorization:
            return Answer(401, {"message": "the access token is not valid"})
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if method == "GET":
            return self._tell(path)
        if method == "POST" and path == "/v2/bot/chat/loading/start":
            return _loading(json.loads(body))
        sendings = {"reply": self._reply, "push": _push, "multicast": _multicast, "broadcast": _broadcast}
        sending = sendings.get(path.removeprefix("/v2/bot/message/"))
        if sending is None or method != "POST":
            return Answer(404, {"message": "no such endpoint"})
        request = json.loads(body)
        if not _acceptable(request.get("messages")):
            return Answer(400, {"message": "the messages are not acceptable"})
        retry_key = environ.get("HTTP_X_LINE_RETRY_KEY")
        if path.endswith("/reply") and retry_key is not None:
            return Answer(400, {"message": "a reply takes no retry key"})
        return self._once(retry_key, lambda: sending(request))

    def _once(self, retry_key: str | None, send: Callable[[], Answer]) -> Answer:
        """ "Retrying an API request": what has been accepted under a key is not accepted again."""
        if retry_key in self._used_keys:
            headers = {"x-line-accepted-request-id": self._used_keys[retry_key]}
            return Answer(409, {"message": "The retry key is already accepted"}, headers)
        answer = send()
        if answer.status == 200 and retry_key is not None:
            self._used_keys[retry_key] = f"request {len(self.requests)}"
        return answer

    def _tell(self, path: str) -> Answer:
        name = path.split("/")[-1]
        if path == f"/v2/bot/profile/{name}":
            profile = PROFILES.get(name)
            return Answer(404, {"message": "Not found"}) if profile is None else Answer(200, profile)
        if path.startswith("/v2/bot/message/") and name == "content":
            return Answer(200, CONTENT, {"Content-Type": "image/jpeg"})
        if path == "/v2/bot/message/quota":
            return Answer(200, {"type": "limited", "value": MONTHLY_LIMIT})
        if path == "/v2/bot/message/quota/consumption":
            pushed = [asked for asked in self.requests if asked["status"] == 200 and asked["retry_key"]]
            return Answer(200, {"totalUsage": sum(_recipients(asked["body"]) for asked in pushed)})
        return Answer(404, {"message": "no such endpoint"})

    def _reply(self, request: Request) -> Answer:
        token = request.get("replyToken")
        if not isinstance(token, str) or not token or token in self._used_tokens:
            return Answer(400, {"message": "invalid reply token"})
        self._used_tokens.add(token)
        return _sent(request)


def _record(environ: dict[str, Any], body: bytes, status: int) -> Request:
    return {
        "method": environ["REQUEST_METHOD"],
        "path": environ["PATH_INFO"],
        "body": json.loads(body) if body else None,
        "status": status,
        "authorization": environ.get("HTTP_AUTHORIZATION"),
        "retry_key": environ.get("HTTP_X_LINE_RETRY_KEY"),
        "connection": environ["REMOTE_PORT"],
    }


def _push(request: Request) -> Answer:
    if not isinstance(request.get("to"), str) or not request["to"]:
        return Answer(400, {"message": "to is missing"})
    return _sent(request)


def _multicast(request: Request) -> Answer:
    to = request.get("to")
    if not isinstance(to, list) or not 1 <= len(to) <= RECIPIENTS_MAX:
        return Answer(400, {"message": f"to: expected 1 to {RECIPIENTS_MAX} users"})
    if len(set(to)) < len(to) or not all(USER_ID.fullmatch(user) for user in to):
        return Answer(400, {"message": "to: expected different ids of users"})
    return Answer(200, {})


def _broadcast(request: Request) -> Answer:
    return Answer(200, {})


def _loading(request: Request) -> Answer:
    """ "Display a loading animation": for one user, 5 to 60 seconds in steps of 5."""
    if not USER_ID.fullmatch(request.get("chatId", "")) or request.get("loadingSeconds", 20) not in range(5, 61, 5):
        return Answer(400, {"message": "not a user, or not 5 to 60 seconds in steps of 5"})
    return Answer(202, {})


def _recipients(body: Request) -> int:
    to = body.get("to")
    return len(to) if isinstance(to, list) else 1


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


def _sent(request: Request) -> Answer:
    return Answer(
        200, {"sentMessages": [{"id": str(565_000 + number)} for number, _ in enumerate(request["messages"])]}
    )


def _send(start_response: StartResponse, answer: Answer, cut: bool = False) -> list[bytes]:
    body = answer.value if isinstance(answer.value, bytes) else json.dumps(answer.value).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body) + 100 * cut), **answer.headers}
    start_response(f"{answer.status} {HTTPStatus(answer.status).phrase}", list(headers.items()))
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
