"""One client's connection, from accept to close, and what all connections of a server share.

::

    bytes ──▶ http_parser ──request──▶ wsgi ──response──▶ one write
      ▲                                                       │
      └────────────────────── keep-alive ─────────────────────┘

A connection's ``deadline`` says until when the client has to do something. httpd looks at all of them twice a second
and calls ``expire`` where it has passed: that shuts the socket's reading side (or both, when the client does not take
its response). The connection's own greenlet then wakes with an ordinary end of file, sees why, answers 408 where there
is something to answer, and goes. Nothing is ever thrown into a greenlet that runs the application.
"""

from __future__ import annotations

import logging
import socket as stdlib_socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import gevent
import gevent.socket
import gevent.ssl
from gevent import Greenlet

from gbot.http_parser import Bounds, RequestError, RequestParser, State
from gbot.turns import Turn
from gbot.wsgi import ClientGone, Environ, Exchange, WsgiApp, plain_response, request_environ

if TYPE_CHECKING:
    from gevent._types import _IoWatcher

log = logging.getLogger(__name__)

RECEIVE_BYTES = 64 * 1024
READABLE = 1  # libev's EV_READ
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds a client may take. Checked twice a second, so each may run over by half a second."""

    head_s: float = 10.0  # from the connection's, or the request's, first byte to the end of its head (and TLS's)
    body_s: float = 30.0  # from the end of the head to the end of the body
    idle_s: float = 75.0  # between two requests
    write_s: float = 30.0  # to take one write
    linger_s: float = 2.0  # to read a refusal before the connection is cut


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """What one server allows."""

    bounds: Bounds = field(default_factory=Bounds)
    timeouts: Timeouts = field(default_factory=Timeouts)
    connections_max: int = 10_000
    unfinished_bytes_max: int = 256 * 1024 * 1024  # of all requests that are still being received together


class Site:
    """What the connections of one server share. ``ended`` is told of each connection when it is over."""

    def __init__(
        self,
        app: WsgiApp,
        settings: HttpSettings,
        tls: ssl.SSLContext | None,
        ended: Callable[[Connection], None],
    ) -> None:
        self.app = app
        self.settings = settings
        self.tls = tls
        self.ended = ended
        self.hub = gevent.get_hub()
        self.stopping = False
        self.date_line = ""
        self.unfinished_bytes = 0
        self.requests = 0
        self.refused = 0
        self.timed_out = 0


class Connection:
    """One client's connection, from accept to close. ``serve`` is the whole of its life."""

    __slots__ = (
        "_environ",
        "_exchange",
        "_held",
        "_parser",
        "_peer",
        "_readable",
        "_sending",
        "_site",
        "_sock",
        "_turn",
        "deadline",
        "expired",
        "greenlet",
    )

    def __init__(self, site: Site, sock: gevent.socket.socket, peer: object, environ: Environ) -> None:
        self._site = site
        self._sock = sock
        self._peer = peer
        self._environ = environ
        self._parser = RequestParser(site.settings.bounds)
        self._exchange: Exchange | None = None  # while the application runs
        self._readable: _IoWatcher | None = None  # not for TLS
        self._sending = False
        self._held = 0  # bytes of an unfinished request, as accounted with the server
        self._turn = Turn()
        self.deadline = time.monotonic() + site.settings.timeouts.head_s
        self.expired = False
        self.greenlet = Greenlet(self.serve)

    def serve(self) -> None:
        try:
            self._prepare()
            self._converse()
        except (ClientGone, OSError) as error:
            log.debug("Connection ended: %s", error)
        finally:
            self._site.unfinished_bytes -= self._held
            self._parser.close()
            if self._readable is not None:
                self._readable.close()
            self._sock.close()
            self._site.ended(self)

    # What the sweeper and stop() call, from outside the connection's greenlet.

    def expire(self) -> None:
        """The deadline has passed: wake the greenlet, which finds the end of its input."""
        self.expired = True
        self.deadline = NEVER
        if self._sending or self._parser.state is not State.IDLE:
            self._site.timed_out += 1
        self._shut(stdlib_socket.SHUT_RDWR if self._sending else stdlib_socket.SHUT_RD)

    def wind_up(self) -> None:
        """The server stops: go at once when idle, else after the response under way."""
        if self._exchange is not None:
            self._exchange.keep_alive = False
        elif self._parser.state is State.IDLE and self.deadline != NEVER and not self._sending:
            self._shut(stdlib_socket.SHUT_RD)

    def _shut(self, how: int) -> None:
        """Shut the socket under gevent and any TLS.

        gevent's own ``shutdown`` would raise in the greenlet that waits, and TLS's would drop the session; both are
        still needed for a 408.
        """
        try:
            self._sock._sock.shutdown(how)  # type: ignore[attr-defined]  # the plain socket inside, which gevent keeps
        except OSError as error:
            log.debug("The connection was gone before it could be shut: %s", error)

    # From here on: the connection's own greenlet.

    def _prepare(self) -> None:
        if self._sock.family != stdlib_socket.AF_UNIX:
            self._sock.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)
            assert isinstance(self._peer, tuple)
            self._environ = {**self._environ, "REMOTE_ADDR": self._peer[0], "REMOTE_PORT": str(self._peer[1])}
        else:
            self._environ = {**self._environ, "REMOTE_ADDR": ""}
        if self._site.tls is not None:
            self._sock = self._site.tls.wrap_socket(self._sock, server_side=True, do_handshake_on_connect=False)
            self._sock.do_handshake()
        else:
            self._readable = self._site.hub.loop.io(self._sock.fileno(), READABLE)

    def _converse(self) -> None:
        parser = self._parser
        while True:
            data = self._receive()
            if not data:
                self._end_of_input()
                return
            state = parser.state
            refusal = None
            try:
                parser.feed(data)
            except RequestError as error:
                refusal = error.with_traceback(None)  # which holds this frame, which holds the error
            while parser.requests:
                if not self._answer():
                    return
            refusal = refusal or self._account()
            if refusal is not None:
                self._refuse(refusal)
                return
            self._set_deadline(state)

    def _receive(self) -> bytes:
        """What the client sent next; nothing at the end of its input.

        Waits before it tries: after an answer there is hardly ever input ready yet, and a vain try costs a system call
        and an exception, a tenth of the request. TLS may hold input that the socket no longer shows.
        """
        if self._readable is not None:
            self._site.hub.wait(self._readable)
        else:
            self._turn.take()
        return self._sock.recv(RECEIVE_BYTES)

    def _account(self) -> RequestError | None:
        """Bound what the unfinished requests of all connections hold together."""
        site, held = self._site, self._parser.unfinished_bytes
        grown = held - self._held
        self._held = held
        site.unfinished_bytes += grown
        if grown > 0 and site.unfinished_bytes > site.settings.unfinished_bytes_max:
            return RequestError(503, "too_much_unfinished", "Too much is being received at once; try again.")
        return None

    def _set_deadline(self, before: State) -> None:
        """What the client has to do next, and until when."""
        state = self._parser.state
        timeouts = self._site.settings.timeouts
        if state is State.IDLE:
            if self._site.stopping:
                self._shut(stdlib_socket.SHUT_RD)
            self.deadline = time.monotonic() + timeouts.idle_s
        elif state is not before or self.deadline == NEVER:
            self.deadline = time.monotonic() + (timeouts.head_s if state is State.HEAD else timeouts.body_s)
            if state is State.BODY and self._parser.expects_continue:
                self._send(CONTINUE)

    def _end_of_input(self) -> None:
        if self.expired and self._parser.state is not State.IDLE:
            what = "head" if self._parser.state is State.HEAD else "body"
            self._refuse(RequestError(408, "timeout", f"The request's {what} did not arrive in time."))

    def _answer(self) -> bool:
        """Run one request through the application; returns whether the connection goes on."""
        site = self._site
        request = self._parser.requests.popleft()
        site.requests += 1
        self.deadline = NEVER  # the application's time is not the client's
        try:
            environ = request_environ(self._environ, request)
        except RequestError as error:
            self._refuse(error)
            return False
        exchange = self._exchange = Exchange(request, self._send, site.date_line, not site.stopping)
        try:
            exchange.run(site.app, environ)
        finally:
            self._exchange = None
        if not exchange.keep_alive:
            self._linger()
        return exchange.keep_alive

    def _send(self, data: bytes) -> None:
        """Send all of it within the write timeout, or raise ClientGone."""
        before = self.deadline
        self.deadline = time.monotonic() + self._site.settings.timeouts.write_s
        self._sending = True
        try:
            sent = self._sock.send(data)
            if sent < len(data):
                self._sock.sendall(data[sent:])
            self._turn.take()  # who has sent many requests, and takes every response at once, makes nobody wait
        except OSError as error:
            raise ClientGone(str(error)) from error
        finally:
            self._sending = False
            self.deadline = before

    def _refuse(self, error: RequestError) -> None:
        """Answer on the server's own account and end the connection."""
        self._site.refused += 1
        self._send(plain_response(error.status, error.word, error.sentence, self._site.date_line))
        self._parser.abandon()
        self._account()
        self._linger()

    def _linger(self) -> None:
        """Let the client read the last response: closing with unread input would reset the connection under it."""
        self.expired = False
        self.deadline = time.monotonic() + self._site.settings.timeouts.linger_s
        if isinstance(self._sock, gevent.ssl.SSLSocket):
            self._notify_close(self._sock)
        self._shut(stdlib_socket.SHUT_WR)
        while not self.expired and self._sock.recv(RECEIVE_BYTES):
            self._turn.take()  # after reading: what is unread at the end cuts off a client that goes on sending

    def _notify_close(self, sock: gevent.ssl.SSLSocket) -> None:
        """Send TLS's close_notify, without which the client cannot tell the end from a cut; wait for nothing."""
        sock.settimeout(0)
        try:
            sock.unwrap()
        except OSError as error:  # as a rule: the client's own has not come yet
            log.debug("Ending TLS: %s", error)
        sock.settimeout(None)
