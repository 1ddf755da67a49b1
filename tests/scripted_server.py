"""A small HTTP server in the test's own process that answers as it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent.server

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
Behaviour = Callable[[Any], object]


@contextmanager
def server(*answers: bytes | Behaviour, port: int = 0) -> Iterator[tuple[str, list[bytes]]]:
    """Answers each request with the next of these, the last of them for ever; its address and what it was sent.

    A function is called with the connection, which is closed afterwards.
    """
    left = list(answers)
    received: list[bytes] = []

    def serve(sock: Any, _: object) -> None:
        with sock:
            while request := _read_request(sock):
                received.append(request)
                answer = left.pop(0) if len(left) > 1 else left[0]
                if callable(answer):
                    answer(sock)
                    return
                sock.sendall(answer)

    stream = gevent.server.StreamServer(("127.0.0.1", port), serve)
    stream.start()
    try:
        yield f"http://127.0.0.1:{stream.server_port}", received
    finally:
        stream.stop(timeout=1)


def hang_up(_: object) -> None:
    """Say nothing."""


def _read_request(sock: Any) -> bytes:
    """One request, or nothing when the connection is over."""
    received = b""
    while b"\r\n\r\n" not in received:
        part = sock.recv(65536)
        if not part:
            return b""
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    lengths = [row for row in head.lower().split(b"\r\n") if row.startswith(b"content-length:")]
    length = int(lengths[0].partition(b":")[2]) if lengths else 0
    while len(body) < length:
        body += sock.recv(65536)
    return head + b"\r\n\r\n" + body
