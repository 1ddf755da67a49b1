"""Deliveries on their way to the bot, over kept-alive connections.

Each has so many seconds for everything. Only the status of the answer matters; a connection whose answer does
not say where it ends is closed.
"""

from __future__ import annotations

import re
import socket as stdlib_socket
import ssl
import time
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import gevent.socket
import gevent.ssl

HEAD_BYTES_MAX: Final = 65_536
BODY_BYTES_MAX: Final = 1_048_576
STATUS: Final = re.compile(rb"HTTP/1\.[01] ([0-9]{3})")
LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n", re.IGNORECASE)
CLOSE: Final = re.compile(rb"\r\nconnection:[ \t]*close[ \t]*\r\n", re.IGNORECASE)


class NoAnswer(Exception):
    """The bot could not be reached, or did not answer in time, or not in HTTP."""


class NoConnection(NoAnswer):
    """The bot could not be reached."""


class Postman:
    """Brings requests to one address."""

    def __init__(self, url: str, within_s: float) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None  # kinds.API_BASE
        self._host = parts.hostname
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._path = parts.path or "/"
        self._head = f"Host: {parts.netloc}\r\nUser-Agent: gbot-simulator\r\n"
        self._within_s = within_s
        self._idle: list[gevent.socket.socket] = []

    def connect(self) -> None:
        """Make sure that somebody is there; the connection is kept for the first request. Raises NoConnection."""
        self._idle.append(self._connection())

    def post(self, body: bytes, headers: Mapping[str, str]) -> int:
        """The status of the answer. Raises NoAnswer."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST {self._path} HTTP/1.1\r\n{self._head}{lines}Content-Length: {len(body)}\r\n\r\n"
        return self._exchange(head.encode() + body)[0]

    def get(self, query: str) -> tuple[int, bytes]:
        """Status and body of the answer. Raises NoAnswer."""
        return self._exchange(f"GET {self._path}?{query} HTTP/1.1\r\n{self._head}\r\n".encode())

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _exchange(self, request: bytes) -> tuple[int, bytes]:
        deadline = time.monotonic() + self._within_s
        while self._idle:
            sock = self._idle.pop()
            if _is_quiet(sock):
                break
            sock.close()
        else:
            sock = self._connection()
        try:
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            sock.sendall(request)
            status, body, reusable = _read(sock, deadline)
        except (OSError, ValueError) as error:
            sock.close()
            raise NoAnswer(str(error)) from None
        except BaseException:
            sock.close()
            raise
        if reusable:
            self._idle.append(sock)
        else:
            sock.close()
        return status, body

    def _connection(self) -> gevent.socket.socket:
        try:
            sock = gevent.socket.create_connection((self._host, self._port), self._within_s)
            sock.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_hostname=self._host)
        except OSError as error:
            raise NoConnection(error.strerror or str(error)) from None
        return sock


def _is_quiet(sock: gevent.socket.socket) -> bool:
    """Whether an idle connection is still there: one that has something to say has been closed."""
    sock.settimeout(0)
    try:
        sock.recv(1)
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except OSError:
        return False
    return False


def _read(sock: gevent.socket.socket, deadline: float) -> tuple[int, bytes, bool]:
    """Status, body, and whether the connection can be used again. Raises OSError, ValueError."""
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        if len(data) > HEAD_BYTES_MAX:
            raise ValueError("the answer's head does not end")
        data += _receive(sock, deadline)
    head, body = data[: end + 2], data[end + 4 :]
    status = STATUS.match(head)
    if status is None:
        raise ValueError("the answer is not HTTP")
    length = LENGTH.search(head)
    if length is None:
        return int(status[1]), body, False
    wanted = int(length[1])
    while len(body) < min(wanted, BODY_BYTES_MAX):
        body += _receive(sock, deadline)
    return int(status[1]), body, len(body) == wanted and CLOSE.search(head) is None


def _receive(sock: gevent.socket.socket, deadline: float) -> bytes:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("timed out")
    sock.settimeout(left_s)
    data = sock.recv(65_536)
    if not data:
        raise ValueError("the connection was closed before the answer had ended")
    return data
