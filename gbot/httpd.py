"""The HTTP/1.1 server: sockets, connections, deadlines. It serves any WSGI application, one greenlet per connection.

::

    listen ──accept──▶ connection ──bytes──▶ http_parser ──request──▶ wsgi ──response──▶ one write
                          ▲                                                               │
                          └───────────────────────── keep-alive ──────────────────────────┘

Bodies are read whole (they are bounded) before the application is called, so a slow client never holds the application.

**Deadlines** cost the hot path one float each. A timer looks over all connections twice a second; where a deadline has
passed it shuts the socket's reading side (or both sides, when the client does not take its response). The connection's
own greenlet then wakes with an ordinary end of file, sees why, answers 408 where there is something to answer, and
goes. Nothing is ever thrown into a greenlet that runs the application, but at the end of a drain.

**Stopping**: ``stop`` closes the listeners and the idle connections; every response from then on carries
``Connection: close``. ``drain`` waits for the rest and cuts what is left at its deadline.

**Failure rules**: a client's error ends that client's connection and nothing else. When file descriptors or memory run
out, accepting pauses and goes on by itself. Above ``connections_max`` connections wait in the kernel's backlog.
"""

from __future__ import annotations

import errno
import logging
import socket as stdlib_socket
import ssl
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import TYPE_CHECKING

import gevent
import gevent.lock
import gevent.socket
import gevent.ssl
from gevent import Greenlet

from gbot.http_parser import Bounds, RequestError, RequestParser, State
from gbot.wsgi import ClientGone, Environ, Exchange, WsgiApp, base_environ, plain_response, request_environ

if TYPE_CHECKING:
    from gevent._types import _IoWatcher

log = logging.getLogger(__name__)

RECEIVE_BYTES = 64 * 1024
SWEEP_INTERVAL_S = 0.5
ACCEPT_PAUSE_S = 0.1  # how long accepting rests when the machine has no descriptor or memory for a new connection
ACCEPT_LOG_INTERVAL_S = 10.0  # between two log lines about that
TURNS_MAX = 32  # requests or receives of one connection, or accepts, before the others get their turn
TURN_BYTES = 8 * 1024  # so many received bytes count as one turn more
KILL_TIMEOUT_S = 1.0  # for an application's own clean-up when its request is cut at the end of a drain
OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
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


@dataclass(frozen=True, slots=True)
class HttpStatistics:
    """Counts since the start; ``connections`` and ``unfinished_bytes`` are of this moment.

    ``timed_out`` is without the connections that were merely idle.
    """

    connections: int
    unfinished_bytes: int
    accepted: int
    requests: int
    refused: int
    timed_out: int


class Server:
    """Serves ``app`` on ``listeners`` (bound, listening sockets of any family)."""

    def __init__(
        self,
        app: WsgiApp,
        listeners: list[gevent.socket.socket],
        settings: HttpSettings | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.app = app
        self.settings = settings or HttpSettings()
        self.tls = tls
        if tls is not None:
            # OpenSSL 3 breaks a session whose input just ends, and a 408 still needs it. HTTP notices a cut request.
            tls.options |= getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
        self.stopping = False
        self.date_line = ""
        self.unfinished_bytes = 0
        self.requests = 0
        self.refused = 0
        self.timed_out = 0
        self._accepted = 0
        self._next_accept_log = 0.0
        self._listeners = listeners
        self._acceptors: list[Greenlet[[gevent.socket.socket], None]] = []
        self._connections: set[Connection] = set()
        self._room = gevent.lock.Semaphore(self.settings.connections_max)
        self.hub = gevent.get_hub()
        self._sweeper = self.hub.loop.timer(SWEEP_INTERVAL_S, SWEEP_INTERVAL_S)

    def start(self) -> None:
        self._sweep()
        self._sweeper.start(self._sweep)
        self._acceptors = [gevent.spawn(self._accept, listener) for listener in self._listeners]

    def stop(self) -> None:
        """Take no new connections and close the idle ones; requests under way go on. A second call is harmless."""
        self.stopping = True
        gevent.killall(self._acceptors)
        for listener in self._listeners:
            listener.close()
        for connection in self._connections:
            connection.wind_up()

    def drain(self, deadline: float) -> int:
        """Wait until every connection has ended or ``deadline`` (monotonic) has come; cut the rest, return how many."""
        greenlets = [connection.greenlet for connection in self._connections]
        gevent.joinall(greenlets, timeout=max(0.0, deadline - time.monotonic()))
        left = [connection.greenlet for connection in self._connections]
        try:
            gevent.killall(left, timeout=KILL_TIMEOUT_S)
        except gevent.Timeout:
            log.warning("Some requests do not let themselves be stopped; they end with the process")
        self._sweeper.close()
        return len(left)

    def statistics(self) -> HttpStatistics:
        return HttpStatistics(
            connections=len(self._connections),
            unfinished_bytes=self.unfinished_bytes,
            accepted=self._accepted,
            requests=self.requests,
            refused=self.refused,
            timed_out=self.timed_out,
        )

    def discard(self, connection: Connection) -> None:
        """For the connection itself, when it has ended."""
        self._connections.discard(connection)
        self._room.release()

    def _accept(self, listener: gevent.socket.socket) -> None:
        environ = listener_environ(listener, "https" if self.tls else "http")
        listener.settimeout(0)  # waiting in wait_read instead keeps an idle listener from holding a place
        turns = 0
        while True:
            self._room.acquire()
            try:
                sock, peer = listener.accept()
            except OSError as error:
                self._room.release()
                self._wait_to_accept(listener, error)
                continue
            self._accepted += 1
            connection = Connection(self, sock, peer, environ)
            self._connections.add(connection)
            connection.greenlet.start()
            turns += 1
            if turns % TURNS_MAX == 0:
                gevent.sleep(0)

    def _wait_to_accept(self, listener: gevent.socket.socket, error: OSError) -> None:
        if isinstance(error, BlockingIOError):
            gevent.socket.wait_read(listener.fileno())
        elif error.errno in OUT_OF_RESOURCES:
            now = time.monotonic()
            if now >= self._next_accept_log:
                self._next_accept_log = now + ACCEPT_LOG_INTERVAL_S
                log.error("No new connections for now: %s; trying again", error.strerror)
            gevent.sleep(ACCEPT_PAUSE_S)

    def _sweep(self) -> None:
        self.date_line = f"Date: {formatdate(usegmt=True)}\r\n"
        now = time.monotonic()
        for connection in self._connections:
            if connection.deadline < now:
                connection.expire()


def listener_environ(listener: gevent.socket.socket, scheme: str) -> Environ:
    """The part of the WSGI environ that all requests of a listener share."""
    name = listener.getsockname()
    if listener.family == stdlib_socket.AF_UNIX:
        return base_environ("localhost", "80", scheme)
    return base_environ(name[0], str(name[1]), scheme)


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
        "_server",
        "_sock",
        "_turns",
        "deadline",
        "expired",
        "greenlet",
    )

    def __init__(self, server: Server, sock: gevent.socket.socket, peer: object, environ: Environ) -> None:
        self._server = server
        self._sock = sock
        self._peer = peer
        self._environ = environ
        self._parser = RequestParser(server.settings.bounds)
        self._exchange: Exchange | None = None  # while the application runs
        self._readable: _IoWatcher | None = None  # not for TLS
        self._sending = False
        self._held = 0  # bytes of an unfinished request, as accounted with the server
        self._turns = 0
        self.deadline = time.monotonic() + server.settings.timeouts.head_s
        self.expired = False
        self.greenlet = Greenlet(self.serve)

    def serve(self) -> None:
        try:
            self._prepare()
            self._converse()
        except (ClientGone, OSError) as error:
            log.debug("Connection ended: %s", error)
        finally:
            self._server.unfinished_bytes -= self._held
            self._parser.close()
            if self._readable is not None:
                self._readable.close()
            self._sock.close()
            self._server.discard(self)

    # What the sweeper and stop() call, from outside the connection's greenlet.

    def expire(self) -> None:
        """The deadline has passed: wake the greenlet, which finds the end of its input."""
        self.expired = True
        self.deadline = NEVER
        if self._sending or self._parser.state is not State.IDLE:
            self._server.timed_out += 1
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
        if self._server.tls is not None:
            self._sock = self._server.tls.wrap_socket(self._sock, server_side=True, do_handshake_on_connect=False)
            self._sock.do_handshake()
        else:
            self._readable = self._server.hub.loop.io(self._sock.fileno(), READABLE)

    def _converse(self) -> None:
        parser = self._parser
        while True:
            data = self._receive()
            if not data:
                self._end_of_input()
                return
            self._take_turns(len(data))
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
            self._server.hub.wait(self._readable)
        return self._sock.recv(RECEIVE_BYTES)

    def _account(self) -> RequestError | None:
        """Bound what the unfinished requests of all connections hold together."""
        server, held = self._server, self._parser.unfinished_bytes
        grown = held - self._held
        self._held = held
        server.unfinished_bytes += grown
        if grown > 0 and server.unfinished_bytes > server.settings.unfinished_bytes_max:
            return RequestError(503, "too_much_unfinished", "Too much is being received at once; try again.")
        return None

    def _take_turns(self, received_bytes: int = 0) -> None:
        """Let others run now and then: a client that always has input ready would never make this greenlet wait."""
        self._turns += 1 + received_bytes // TURN_BYTES
        if self._turns >= TURNS_MAX:
            self._turns = 0
            gevent.sleep(0)

    def _set_deadline(self, before: State) -> None:
        """What the client has to do next, and until when."""
        state = self._parser.state
        timeouts = self._server.settings.timeouts
        if state is State.IDLE:
            if self._server.stopping:
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
        server = self._server
        request = self._parser.requests.popleft()
        server.requests += 1
        self._take_turns()
        self.deadline = NEVER  # the application's time is not the client's
        try:
            environ = request_environ(self._environ, request)
        except RequestError as error:
            self._refuse(error)
            return False
        exchange = self._exchange = Exchange(request, self._send, server.date_line, not server.stopping)
        try:
            exchange.run(server.app, environ)
        finally:
            self._exchange = None
        if not exchange.keep_alive:
            self._linger()
        return exchange.keep_alive

    def _send(self, data: bytes) -> None:
        """Send all of it within the write timeout, or raise ClientGone."""
        before = self.deadline
        self.deadline = time.monotonic() + self._server.settings.timeouts.write_s
        self._sending = True
        try:
            sent = self._sock.send(data)
            if sent < len(data):
                self._sock.sendall(data[sent:])
        except OSError as error:
            raise ClientGone(str(error)) from error
        finally:
            self._sending = False
            self.deadline = before

    def _refuse(self, error: RequestError) -> None:
        """Answer on the server's own account and end the connection."""
        self._server.refused += 1
        self._send(plain_response(error.status, error.word, error.sentence, self._server.date_line))
        self._parser.abandon()
        self._account()
        self._linger()

    def _linger(self) -> None:
        """Let the client read the last response: closing with unread input would reset the connection under it."""
        self.expired = False
        self.deadline = time.monotonic() + self._server.settings.timeouts.linger_s
        if isinstance(self._sock, gevent.ssl.SSLSocket):
            self._notify_close(self._sock)
        self._shut(stdlib_socket.SHUT_WR)
        while not self.expired:
            data = self._sock.recv(RECEIVE_BYTES)
            if not data:
                break
            self._take_turns(len(data))

    def _notify_close(self, sock: gevent.ssl.SSLSocket) -> None:
        """Send TLS's close_notify, without which the client cannot tell the end from a cut; wait for nothing."""
        sock.settimeout(0)
        try:
            sock.unwrap()
        except OSError as error:  # as a rule: the client's own has not come yet
            log.debug("Ending TLS: %s", error)
        sock.settimeout(None)
