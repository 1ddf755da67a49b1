"""The session that authors call other services with."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from gbot.outbound.session import CONNECTIONS_MAX, TIMEOUTS_S, TimedAdapter, make_session

DEADLINE_S = 10.0


class Service(ThreadingHTTPServer):
    """Answers ``/``; keeps ``/wait`` waiting until it is let go. Remembers connections and cookies."""

    daemon_threads = True
    request_queue_size = 300

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.connections: set[tuple[str, int]] = set()
        self.cookies: list[str | None] = []
        self.waiting = 0
        self.lock = threading.Lock()
        self.let_go = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Service

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.connections.add(self.client_address)
            self.server.cookies.append(self.headers["Cookie"])
            self.server.waiting += self.path == "/wait"
        if self.path == "/wait":
            self.server.let_go.wait(DEADLINE_S)
        self.send_response(200)
        self.send_header("Set-Cookie", "user=anna")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: it would go into the tests' output."""


@contextmanager
def service() -> Iterator[Service]:
    made = Service()
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield made
    finally:
        made.let_go.set()
        made.shutdown()
        thread.join(DEADLINE_S)
        made.server_close()


def test_calls_share_a_connection() -> None:
    with service() as far, make_session() as session:
        for _ in range(5):
            assert session.get(far.address).json() == {}
        assert len(far.connections) == 1


def test_connections_are_bounded_and_the_others_wait() -> None:
    statuses: list[int] = []

    def call() -> None:
        statuses.append(session.get(f"{far.address}/wait").status_code)

    with service() as far, make_session() as session:
        callers = [threading.Thread(target=call) for _ in range(CONNECTIONS_MAX + 20)]
        for caller in callers:
            caller.start()
        end = time.monotonic() + DEADLINE_S
        while far.waiting < CONNECTIONS_MAX:
            assert time.monotonic() < end
            far.let_go.wait(0.01)
        far.let_go.set()
        for caller in callers:
            caller.join(DEADLINE_S)
        assert statuses == [200] * (CONNECTIONS_MAX + 20)
        assert len(far.connections) == CONNECTIONS_MAX


def test_no_cookies_are_kept() -> None:
    with service() as far, make_session() as session:
        for _ in range(2):
            session.get(far.address)
        assert far.cookies == [None, None]
        assert not session.cookies


def test_a_call_without_a_timeout_ends() -> None:
    with service() as far, make_session((DEADLINE_S, 0.1)) as session:
        with pytest.raises(requests.ReadTimeout):
            session.get(f"{far.address}/wait")
        far.let_go.set()


def test_a_timeout_of_the_author_counts() -> None:
    with service() as far, make_session((DEADLINE_S, 0.1)) as session:
        threading.Timer(0.3, far.let_go.set).start()
        assert session.get(f"{far.address}/wait", timeout=DEADLINE_S).status_code == 200


def test_both_schemes_have_timeouts() -> None:
    with make_session() as session:
        for address in ("https://a", "http://a"):
            adapter = session.get_adapter(address)
            assert isinstance(adapter, TimedAdapter)
            assert adapter.timeouts_s == TIMEOUTS_S
