"""Both ends of the wire: a server on a real socket, and a client that sends raw bytes and reads what came.

Nothing is monkey-patched: the sockets are gevent's, so that server and client run in one process and one hub.
"""

from __future__ import annotations

import socket as stdlib_socket
import ssl
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

import gevent
import gevent.socket
import gevent.ssl

from gbot.connection import HttpSettings
from gbot.httpd import Server
from gbot.wsgi import WsgiApp

DEADLINE_S = 10.0
Address = tuple[str, int] | str


def eventually(condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
    """Let the others run until this is true. Fails at the deadline."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "did not become true in time"
        gevent.sleep(0.005)


class Serving:
    """A server on a loopback port, or on a unix socket where a path is given."""

    def __init__(
        self,
        app: WsgiApp,
        settings: HttpSettings | None = None,
        tls: ssl.SSLContext | None = None,
        family: int = stdlib_socket.AF_INET,
        path: str | None = None,
    ) -> None:
        self.listener = gevent.socket.socket(family, stdlib_socket.SOCK_STREAM)
        loopback = {stdlib_socket.AF_INET: "127.0.0.1", stdlib_socket.AF_INET6: "::1"}
        self.listener.bind(path if path is not None else (loopback[stdlib_socket.AddressFamily(family)], 0))
        self.listener.listen(4096)
        name = self.listener.getsockname()
        self.address: Address = path if path is not None else (name[0], name[1])
        self.family = family
        self.server = Server(app, [self.listener], settings, tls)
        self.server.start()

    def client(self, tls: ssl.SSLContext | None = None) -> Client:
        return Client(self.address, self.family, tls)

    def ask(self, raw: bytes) -> Response:
        """One request on a connection of its own."""
        with self.client() as client:
            client.send(raw)
            return client.response(head_only=raw.startswith(b"HEAD"))

    def stop(self) -> None:
        self.server.stop()
        self.server.drain(time.monotonic())
        statistics = self.server.statistics()
        assert (statistics.connections, statistics.unfinished_bytes) == (0, 0), "the server kept something"


@dataclass
class Response:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Client:
    """One connection. Every wait ends at a deadline with ``gevent.Timeout``, which fails the test."""

    def __init__(
        self, address: Address, family: int = stdlib_socket.AF_INET, tls: ssl.SSLContext | None = None
    ) -> None:
        self._held = b""
        self.sock = gevent.socket.socket(family, stdlib_socket.SOCK_STREAM)
        try:
            with gevent.Timeout(DEADLINE_S):
                self._connect(address, tls)
        except BaseException:
            self.sock.close()
            raise

    def _connect(self, address: Address, tls: ssl.SSLContext | None) -> None:
        self.sock.connect(address)
        if self.sock.family != stdlib_socket.AF_UNIX:
            self.sock.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname="localhost")

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()

    def send(self, raw: bytes) -> None:
        with gevent.Timeout(DEADLINE_S):
            self.sock.sendall(raw)

    def half_close(self) -> None:
        self.sock.shutdown(stdlib_socket.SHUT_WR)

    def reset(self) -> None:
        """Close with a reset, as a client does that crashes."""
        self.sock.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def receive(self, size: int = 64 * 1024) -> bytes:
        """What one ``recv`` gives; nothing at the end."""
        if self._held:
            data, self._held = self._held, b""
            return data
        with gevent.Timeout(DEADLINE_S):
            data = self.sock.recv(size)
        assert isinstance(data, bytes)
        return data

    def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        pieces = []
        while data := self.receive():
            pieces.append(data)
        return b"".join(pieces)

    def silent(self, for_s: float) -> bool:
        """Whether nothing comes, not even the end, for this long."""
        try:
            with gevent.Timeout(for_s):
                self._held += self.sock.recv(1)
        except gevent.Timeout:
            return True
        return False

    def head(self) -> Response:
        """The next status line and headers; also of a 100."""
        lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        version, status, _ = lines[0].split(" ", 2)
        assert version == "HTTP/1.1"
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        return Response(int(status), {name.lower(): value for name, value in headers.items()})

    def response(self, head_only: bool = False) -> Response:
        """The next whole response."""
        response = self.head()
        if head_only or response.status in (100, 204, 304):
            return response
        if response.headers.get("transfer-encoding") == "chunked":
            response.body = self._chunks()
        elif "content-length" in response.headers:
            response.body = self._exactly(int(response.headers["content-length"]))
        else:
            response.body = self.rest()
        return response

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self._until(b"\r\n"), 16):
            body += self._exactly(size)
            assert self._exactly(2) == b"\r\n"
        assert self._exactly(2) == b"\r\n"
        return body

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._held:
            self._more()
        data, _, self._held = self._held.partition(mark)
        return data

    def _exactly(self, size: int) -> bytes:
        while len(self._held) < size:
            self._more()
        data, self._held = self._held[:size], self._held[size:]
        return data

    def _more(self) -> None:
        with gevent.Timeout(DEADLINE_S):
            data = self.sock.recv(64 * 1024)
        assert data, f"the connection ended after {self._held[:200]!r}"
        self._held += data
