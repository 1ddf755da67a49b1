"""The connections that a pool has open: who uses which, in what order, and which of them can be trusted.

**Order.** The one used last is used first, so that those which are not needed grow old and are closed.

**Trust.** One that was used within TRUST_S is taken as it is. After that one looks whether the server has closed it,
which costs no round trip, and after PING_AFTER_S one asks. Once one has broken, all others are looked at: those that
are still in use as well, for the answer that they get may have come before.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Final, Generic

import gevent
from greenlet import getcurrent, greenlet

from gbot.database.place import Held, Holders, P, Place

TRUST_S: Final = 1.0
PING_AFTER_S: Final = 30.0
PING_TIMEOUT_S: Final = 2.0


class Stock(Generic[P]):
    """Counts and orders them; nothing here waits, but for the sign of life of one that was idle for long."""

    def __init__(self) -> None:
        self.open = 0
        self.uses = self.opened = self.broken = self.left = 0
        self.held_s = 0.0
        self.idle: deque[Place[P]] = deque()  # the one used last is on the right
        self._in_use: dict[Place[P], None] = {}  # the one taken first comes first
        self._holders = Holders()
        self._broken_at = 0.0

    @property
    def in_use(self) -> Held[P]:
        """The one taken first comes first."""
        return self._in_use

    def add(self) -> None:
        """One has been opened."""
        self.open += 1
        self.opened += 1

    def close(self, place: Place[P]) -> None:
        """Close one that is neither idle nor in use any more."""
        self.open -= 1
        place.connection.close()

    # Taking and giving back.

    def lend(self, place: Place[P], now: float) -> None:
        """It is the current greenlet's from now on."""
        place.since = now
        place.holder = getcurrent()
        self._in_use[place] = None
        self.uses += 1

    def keep(self, place: Place[P], taken_in: str) -> None:
        """Who has it holds it for longer than a statement; ``taken_in`` is the file and line."""
        place.taken_in = taken_in
        self._holders.add(getcurrent())

    def is_keeping(self, who: greenlet) -> bool:
        return who in self._holders

    def take_back(self, place: Place[P]) -> None:
        """It is nobody's from now on."""
        del self._in_use[place]
        now = time.monotonic()
        self.held_s += now - place.since
        place.proved_at = place.since
        if place.taken_in is not None and place.holder is not None:
            self._holders.remove(place.holder)
        place.since = now
        place.holder = place.taken_in = None
        place.complained = False

    def orphans(self) -> list[Place[P]]:
        """Those whose greenlet has ended."""
        return [place for place in self._in_use if place.is_orphaned]

    # Trust.

    def broke(self, now: float, count: int = 1) -> None:
        """So many were found broken: no other is trusted whose last answer may have come before."""
        self.broken += count
        self._broken_at = now

    def is_trusted(self, place: Place[P], now: float) -> bool:
        return now - place.since <= TRUST_S and place.proved_at >= self._broken_at

    def is_alive(self, place: Place[P], timeout_s: float) -> bool:
        """Whether the server is still there for one that has not ended, as far as this machine knows."""
        connection = place.connection
        if time.monotonic() - place.since < PING_AFTER_S and connection.is_quiet():
            return True
        with gevent.Timeout(min(PING_TIMEOUT_S, timeout_s), False):  # type: ignore[arg-type]
            return connection.answers()
        return False

    # Growing old.

    def unused(self, since: float, least: int) -> Iterator[Place[P]]:
        """Take out those that nobody has used since then, as long as more than ``least`` are open."""
        while self.open > least and self.idle and self.idle[0].since < since:
            yield self.idle.popleft()

    @property
    def oldest_has_ended(self) -> bool:
        return bool(self.idle) and self.idle[0].connection.has_ended()

    def take_ended(self) -> list[Place[P]]:
        """Take out the idle ones that the server has closed."""
        ended = [place for place in self.idle if place.connection.has_ended()]
        if ended:
            gone = set(ended)
            self.idle = deque(place for place in self.idle if place not in gone)
            self.broke(time.monotonic(), len(ended))
        return ended
