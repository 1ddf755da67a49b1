"""The kept-alive connections to one origin: which one a request gets, and what becomes of it afterwards.

A request gets the connection that was used last, so that the others grow old and can be closed. Before it is handed
out it is looked at: one that the server has closed, or has said something on unasked, is not used again. When as many
as there may be are in use, greenlets wait, but no longer than an answer may take.
"""

from __future__ import annotations

import re
import ssl
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from gevent.hub import Hub
from gevent.lock import Semaphore

from gbot.errors import LaneBusy
from gbot.outbound.http_connection import Connection, connect
from gbot.outbound.lookup import Lookup
from gbot.outbound.route import Route

BUSY_RETRY_S = 1.0
KEEP_ALIVE_MARGIN_S = 1.0  # so long before the server would close it, an idle connection is not used any more
KEEP_ALIVE_TIMEOUT = re.compile(r"timeout=(\d{1,9})\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the connections to all origins share."""

    connections_max: int
    connect_timeout_s: float
    read_timeout_s: float
    idle_s: float


class Connections:
    """The connections to one origin, at most ``connections_max`` of them."""

    __slots__ = (
        "_hub",
        "_idle",
        "_lookup",
        "_places",
        "_settings",
        "_tls",
        "in_use",
        "opened",
        "route",
        "stopped",
        "wanted",
    )

    def __init__(self, route: Route, tls: ssl.SSLContext | None, settings: Settings, hub: Hub) -> None:
        self.route = route
        self._lookup = Lookup(*route.address)
        self._tls = tls
        self._settings = settings
        self._hub = hub
        self._idle: deque[Connection] = deque()  # the one used last at the right
        self._places = Semaphore(settings.connections_max)
        self.in_use = 0
        self.wanted = 0  # by how many greenlets, those that use one included
        self.opened = 0
        self.stopped = False

    @property
    def idle(self) -> int:
        return len(self._idle)

    def take(self) -> Connection:
        """A connection for one request, to be given to ``put_back`` or ``drop``. Raises ApiUnreachable, LaneBusy."""
        settings = self._settings
        self.wanted += 1
        try:
            if not self._places.acquire(timeout=settings.read_timeout_s):
                many, origin = settings.connections_max, self.route.origin
                busy = f"the only connection to {origin} is" if many == 1 else f"all {many} connections to {origin} are"
                raise LaneBusy(f"{busy} in use; nothing was sent", BUSY_RETRY_S)
        except BaseException:
            self.wanted -= 1
            raise
        self.in_use += 1
        try:
            return self._kept() or self._new()
        except BaseException:
            self._leave()
            raise

    def put_back(self, connection: Connection, headers: Mapping[str, str]) -> None:
        """The answer is complete."""
        if not connection.reusable or self.stopped:
            self.drop(connection)
            return
        keep_s = self._settings.idle_s
        if "keep-alive" in headers:
            announced = KEEP_ALIVE_TIMEOUT.search(headers["keep-alive"])
            if announced is not None:
                keep_s = min(keep_s, int(announced[1]) - KEEP_ALIVE_MARGIN_S)
        connection.idle_until = time.monotonic() + keep_s
        self._idle.append(connection)
        self._leave()

    def drop(self, connection: Connection) -> None:
        """The connection cannot be used again."""
        connection.close()
        self._leave()

    def sweep(self, now: float) -> None:
        """Close what has been idle for too long: at the left, as what is used again is taken from the right."""
        while self._idle and self._idle[0].idle_until <= now:
            self._idle.popleft().close()

    def stop(self) -> None:
        """Close what is idle now; what is in use is closed when it is given back."""
        self.stopped = True
        while self._idle:
            self._idle.pop().close()

    def _leave(self) -> None:
        self.in_use -= 1
        self.wanted -= 1
        self._places.release()

    def _kept(self) -> Connection | None:
        now = time.monotonic()
        while self._idle:
            connection = self._idle.pop()
            if connection.idle_until > now and connection.is_quiet():
                return connection
            connection.close()
        return None

    def _new(self) -> Connection:
        settings = self._settings
        timeouts_s = settings.connect_timeout_s, settings.read_timeout_s
        connection = connect(self.route, self._lookup, self._tls, self._hub, *timeouts_s)
        self.opened += 1
        return connection
