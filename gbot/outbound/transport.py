"""One try of one HTTP request, over kept-alive connections per origin, with every failure a typed error.

::

    send / open ──▶ the origin's connections ──▶ the idle one that was used last ─┐
                     │ (waits when connections_max are in use)                    ├─▶ request, answer ──▶ idle again
                     └──▶ none, or the server has closed it: a new one ───────────┘         └─ any failure: closed

Nothing is repeated: whether repeating is safe is not for a transport to know. The one thing it does by itself is to
look, before the first byte is written, whether a kept connection is still there, and to take another one if not.

=============  =====================================================================================================
ApiUnreachable nothing was written: no such host, no connection, no trust, a proxy that refuses
LaneBusy       nothing was written: all connections stayed in use for as long as an answer may take
MessageRefused nothing was written: the request could be taken for something else than one request
ResultUnknown  something was written, and no complete answer came within the read timeout and its bounds
=============  =====================================================================================================

Every answer is an answer, whatever its status; redirects are not followed. A greenlet that is killed while it waits
takes its connection along. Connections that nobody has used for a while are closed, by one timer for all of them.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import gevent

from gbot.errors import ResultUnknown
from gbot.outbound.connections import Connections, Settings
from gbot.outbound.http_answer import HEAD_BYTES_MAX, AnswerParser
from gbot.outbound.http_connection import Connection, request_bytes
from gbot.outbound.route import find_route, make_tls_context
from gbot.platform import ApiAnswer, ApiRequest

CONNECTIONS_MAX = 1000
CONNECT_TIMEOUT_S = 3.05  # a little over the 3 s after which a lost SYN has been sent twice more
READ_TIMEOUT_S = 15.0
IDLE_S = 60.0
SWEEP_S = 5.0
ANSWER_BODY_BYTES_MAX = 1024 * 1024
ANSWER_BYTES_MAX = ANSWER_BODY_BYTES_MAX + HEAD_BYTES_MAX


@dataclass(frozen=True, slots=True)
class TransportStatistics:
    """Connections now, and counts since the start."""

    open: int
    idle: int
    opened: int
    requests: int


class Transport:
    """Connections to any number of origins. Belongs to the thread that makes it."""

    def __init__(
        self,
        connections_max: int = CONNECTIONS_MAX,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
        idle_s: float = IDLE_S,
    ) -> None:
        self._settings = Settings(connections_max, connect_timeout_s, read_timeout_s, idle_s)
        self._hub = gevent.get_hub()
        self._origins: dict[str, Connections] = {}
        self._tls: ssl.SSLContext | None = None
        self._opened = 0  # to origins that are forgotten
        self._requests = 0
        self._closed = False
        sweep_s = min(SWEEP_S, idle_s / 2)
        self._sweeper = self._hub.loop.timer(sweep_s, sweep_s, ref=False)
        self._sweeper.start(self._sweep)

    def send(self, request: ApiRequest) -> ApiAnswer:
        """The whole answer, within the read timeout. Raises the errors of this module."""
        connections, connection = self._ask(request)
        try:
            answer = connection.receive_all(ANSWER_BYTES_MAX)
        except BaseException:
            connections.drop(connection)
            raise
        connections.put_back(connection, answer.headers)
        return ApiAnswer(answer.status, answer.headers, answer.take_body())

    def open(self, request: ApiRequest) -> Download:
        """The answer's head within the read timeout; its body is received by whoever reads the Download.

        Raises the errors of this module.
        """
        connections, connection = self._ask(request)
        answer = AnswerParser(None)
        try:
            connection.receive_head(answer)
        except BaseException:
            answer.close()
            connections.drop(connection)
            raise
        return Download(connections, connection, answer)

    def statistics(self) -> TransportStatistics:
        origins = self._origins.values()
        idle = sum(connections.idle for connections in origins)
        in_use = sum(connections.in_use for connections in origins)
        return TransportStatistics(
            open=idle + in_use,
            idle=idle,
            opened=self._opened + sum(connections.opened for connections in origins),
            requests=self._requests,
        )

    def close(self) -> None:
        """Close what is idle, and from now on what ends."""
        self._closed = True
        self._sweeper.close()
        for connections in self._origins.values():
            connections.stop()

    def _ask(self, request: ApiRequest) -> tuple[Connections, Connection]:
        """Write the request, wait for the first bytes of its answer."""
        connections = self._origins.get(request.origin) or self._make_connections(request.origin)
        data = request_bytes(connections.route, request)
        connection = connections.take()
        self._requests += 1
        try:
            connection.ask(data)
        except BaseException:
            connections.drop(connection)
            raise
        return connections, connection

    def _make_connections(self, origin: str) -> Connections:
        route = find_route(origin)
        if route.server_name is not None and self._tls is None:
            self._tls = make_tls_context(origin)
        tls = None if route.server_name is None else self._tls
        self._origins[origin] = connections = Connections(route, tls, self._settings, self._hub)
        connections.stopped = self._closed
        return connections

    def _sweep(self) -> None:
        """Runs in the hub. Content may come from ever new hosts: one that nobody uses is forgotten."""
        now = time.monotonic()
        for origin, connections in list(self._origins.items()):
            connections.sweep(now)
            if not connections.wanted and not connections.idle:
                self._opened += connections.opened
                del self._origins[origin]


class Download:
    """An answer whose body is received as it is read, once. To be used with ``with``, or closed.

    The read timeout is for each part. Closing one that is not read to its end closes its connection.
    """

    def __init__(self, connections: Connections, connection: Connection, answer: AnswerParser) -> None:
        self.status = answer.status
        self.headers: Mapping[str, str] = answer.headers  # names in lower case
        self._answer = answer
        self._connections = connections
        self._connection: Connection | None = connection  # None: over

    def __iter__(self) -> Iterator[bytes]:
        """The parts, at most 64 KiB each. Raises ResultUnknown when the rest does not come."""
        while part := self._next_part():
            yield part

    def read_all(self, bytes_max: int) -> bytes:
        """The whole body. Raises ResultUnknown, also when it is longer than that; the connection is then closed."""
        body = bytearray()
        for part in self:
            body += part
            if len(body) > bytes_max:
                self.close()
                raise ResultUnknown(f"{self._connections.route.origin} answered with more than {bytes_max} bytes")
        return bytes(body)

    def close(self) -> None:
        """A second time is harmless."""
        connection = self._end()
        if connection is not None:
            self._connections.drop(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        """One that was forgotten must not keep its place among the connections."""
        self.close()

    def _next_part(self) -> bytes:
        connection = self._connection
        if connection is None:
            return b""
        try:
            part = connection.receive_part(self._answer)
        except BaseException:
            self.close()
            raise
        if not part:
            self._end()
            self._connections.put_back(connection, self.headers)
        return part

    def _end(self) -> Connection | None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.finish(self._answer)
            self._answer.close()
        return connection
