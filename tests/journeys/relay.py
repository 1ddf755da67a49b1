"""A relay in front of a database, for what can happen on the way to it."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress
from urllib.parse import urlsplit

from tests.journeys.processes import DEADLINE_S


class Relay:
    """Passes on what both sides say; ``url`` is that of the database by way of it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._server = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        place = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@{place}").geturl()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """Ends when its connections are closed at either end."""
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(DEADLINE_S)
        self._listener.close()

    def passed(self, data: bytes) -> bytes:
        """What becomes of what one side has sent."""
        return data

    def loses_the_answer(self, asked: bytes) -> bool:
        """Whether the answer to this is lost, and the connection with it."""
        return False

    def lost(self) -> None:
        """An answer was."""

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._relay, args=[connection], daemon=True))
                self._threads[-1].start()

    def _relay(self, client: socket.socket) -> None:
        with suppress(OSError), client, socket.create_connection(self._server) as server:
            others = {client: server, server: client}
            while True:
                for end in select.select([client, server], [], [])[0]:
                    data = end.recv(65536)
                    others[end].sendall(self.passed(data))
                    if not data:
                        return
                    if end is client and self.loses_the_answer(data):
                        server.recv(65536)
                        self.lost()
                        return
