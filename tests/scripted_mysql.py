"""Servers that say what MySQL says, word for word, where a real one could not be brought to say it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Final

from tests.journeys.processes import DEADLINE_S

# What MySQL 9.7 says: as a greeting, to who knows the password of a user that it remembers, and at the end of
# wait_timeout.
GREETING: Final = (
    b"\x4b\0\0\0\x0a9.7.4-2\0\xab\x3a\0\0\x5a\x13\x19\x43\x37\x3c\x40\x0f\0\xff\xff\xff\x02\0\xff\xdf\x15\0\0\0\0\0\0"
    b"\0\0\0\0\x26\x18\x3d\x4e\x14\x3e\x61\x23\x64\x4e\x13\x09\0caching_sha2_password\0"
)
GREETING_WITHOUT_TLS: Final = GREETING.replace(b"\x0f\0\xff\xff", b"\x0f\0\xff\xf7")
REMEMBERED: Final = b"\x02\0\0\x02\x01\x03"
FAREWELL: Final = (
    b"\x91\0\0\0\xff\xbf\x0f#HY000The client was disconnected by the server because of inactivity. See wait_timeout "
    b"and interactive_timeout for configuring this behavior."
)


def ok(number: int) -> bytes:
    return bytes([7, 0, 0, number, 0, 0, 0, 2, 0, 0, 0])


@contextlib.contextmanager
def remembering(greeting: bytes = GREETING) -> Iterator[tuple[str, Callable[[bytes], None]]]:
    """A server that remembers its user, and says OK to all statements: its URL, and what makes it say something else.

    It says that once its user is in, without being asked.
    """
    sessions: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            accepted, _ = listener.accept()
            with accepted:
                accepted.sendall(greeting)
                if accepted.recv(65536):
                    accepted.sendall(REMEMBERED + ok(3))
                    sessions.append(accepted)
                    while accepted.recv(65536):
                        accepted.sendall(ok(1))

        thread = threading.Thread(target=serve)
        thread.start()
        address = listener.getsockname()
        yield f"mysql://bot:pa55@127.0.0.1:{address[1]}/chat", lambda said: sessions[0].sendall(said)
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


@contextlib.contextmanager
def answering(said: bytes, *, closes: bool = False) -> Iterator[tuple[str, str]]:
    """What says something to whoever connects, and no more: its URL, and its host and port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            accepted, _ = listener.accept()
            with accepted:
                accepted.sendall(said)
                if closes:
                    accepted.shutdown(socket.SHUT_WR)
                while accepted.recv(65536):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        there = f"127.0.0.1:{listener.getsockname()[1]}"
        yield f"mysql://bot:pa55@{there}/chat", there
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
