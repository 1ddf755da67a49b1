"""The HTTP/1.1 server: listeners, accepting, deadlines, stopping. It serves any WSGI application.

::

    listen ──accept──▶ connection, a greenlet each

Bodies are read whole (they are bounded) before the application is called, so a slow client never holds the application.

**Deadlines** cost the hot path one float each: a timer looks over all connections twice a second.

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
from dataclasses import dataclass
from email.utils import formatdate

import gevent
import gevent.lock
import gevent.socket
from gevent import Greenlet

from gbot.connection import Connection, HttpSettings, Site
from gbot.turns import Turn
from gbot.wsgi import Environ, WsgiApp, base_environ

log = logging.getLogger(__name__)

SWEEP_INTERVAL_S = 0.5
ACCEPT_PAUSE_S = 0.1  # how long accepting rests when the machine has no descriptor or memory for a new connection
ACCEPT_LOG_INTERVAL_S = 10.0  # between two log lines about that
KILL_TIMEOUT_S = 1.0  # for an application's own clean-up when its request is cut at the end of a drain
OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


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
        if tls is not None:
            # OpenSSL 3 breaks a session whose input just ends, and a 408 still needs it. HTTP notices a cut request.
            tls.options |= getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
        self._site = Site(app, settings or HttpSettings(), tls, self._ended)
        self._accepted = 0
        self._next_accept_log = 0.0
        self._listeners = listeners
        self._acceptors: list[Greenlet[[gevent.socket.socket], None]] = []
        self._connections: set[Connection] = set()
        self._room = gevent.lock.Semaphore(self._site.settings.connections_max)
        self._sweeper = gevent.get_hub().loop.timer(SWEEP_INTERVAL_S, SWEEP_INTERVAL_S)

    def start(self) -> None:
        self._sweep()
        self._sweeper.start(self._sweep)
        self._acceptors = [gevent.spawn(self._accept, listener) for listener in self._listeners]

    def stop(self) -> None:
        """Take no new connections and close the idle ones; requests under way go on. A second call is harmless."""
        self._site.stopping = True
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
        site = self._site
        return HttpStatistics(
            connections=len(self._connections),
            unfinished_bytes=site.unfinished_bytes,
            accepted=self._accepted,
            requests=site.requests,
            refused=site.refused,
            timed_out=site.timed_out,
        )

    def _ended(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._room.release()

    def _accept(self, listener: gevent.socket.socket) -> None:
        environ = listener_environ(listener, "https" if self._site.tls else "http")
        listener.settimeout(0)  # waiting in wait_read instead keeps an idle listener from holding a place
        turn = Turn()
        while True:
            self._room.acquire()
            try:
                sock, peer = listener.accept()
            except OSError as error:
                self._room.release()
                self._wait_to_accept(listener, error)
                continue
            self._accepted += 1
            connection = Connection(self._site, sock, peer, environ)
            self._connections.add(connection)
            connection.greenlet.start()
            turn.take()

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
        self._site.date_line = f"Date: {formatdate(usegmt=True)}\r\n"
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
