"""Opening connections for a pool: OPENINGS_MAX at once, each in a greenlet of its own.

A connection that takes the place of one whose statement was left unfinished ends that session first, ENDINGS_MAX at
once. As long as none can be opened, the session is kept here, and with it the place. One by whose ending connections
break is given up after ENDING_TRIES_MAX of them, and meanwhile holds up nobody who needs another place.

After a failure there is a pause, and then one attempt at a time until one succeeds: a server that is full or has just
come back is not run down.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, NamedTuple, TypeVar

import gevent

from gbot.database.outage import Outage
from gbot.database.place import P, Place
from gbot.errors import DatabaseDown, DatabaseError

log = logging.getLogger(__name__)

T = TypeVar("T")

OPENINGS_MAX: Final = 32  # at once
ENDINGS_MAX: Final = 4  # at once: for as long as both are there, the server has more sessions than the pool has places
ENDING_TRIES_MAX: Final = 3
ENDING_TIMEOUT_S: Final = 2.0  # for as long, one counts on the connection that ends it; handlers wait 5 s by default
ENDING_PAUSE_S: Final = 0.5  # after one that broke the connection
OPEN_TIMEOUT_S: Final = 10.0
MAY_STILL_RUN: Final = "A statement that was left unfinished may still run in %s: %s"


class Unfinished(NamedTuple):
    """A session whose statement was left unfinished; ``session`` is what Pooled.session was."""

    session: Any
    tries: int = 0  # to end it, by which connections broke


class Growth(Generic[P]):
    """Opens connections to ``name`` by ``connect``, which raises DatabaseDown.

    ``arrived`` takes each of them, ``failed`` is called when one could not be opened, ``resume`` when it is time to
    begin again. An opening that hangs is given up after ``open_timeout_s``, an ending after ``ending_timeout_s``.
    """

    def __init__(
        self,
        connect: Callable[[], P],
        name: str,
        arrived: Callable[[Place[P]], None],
        failed: Callable[[Exception], None],
        resume: Callable[[], None],
        open_timeout_s: float = OPEN_TIMEOUT_S,
        ending_timeout_s: float = ENDING_TIMEOUT_S,
    ) -> None:
        self._connect = connect
        self._name = name
        self._arrived = arrived
        self._failed = failed
        self._resume = resume
        self._open_timeout_s = open_timeout_s
        self._ending_timeout_s = ending_timeout_s
        self._unfinished: deque[Unfinished] = deque()
        self.outage = Outage()
        self.under_way = 0
        self._ending = 0  # of these, those that take the place of an unfinished session
        self._doubtful = 0  # unfinished sessions by whose ending a connection has broken
        self._resuming = False

    @property
    def places(self) -> int:
        """Those of connections that are being opened, and of sessions that were left unfinished."""
        return self.under_way + len(self._unfinished)

    @property
    def coming(self) -> int:
        """How many connections there will be from these, as far as one can count on them."""
        return self.places - self._doubtful

    @property
    def not_ended(self) -> int:
        """Sessions that were left unfinished, those that are being ended included."""
        return len(self._unfinished) + self._ending

    def leave(self, session: Any) -> None:
        """A session is to be ended, by the connection that takes its place."""
        self._unfinished.append(Unfinished(session))

    def begin(self, count: int) -> None:
        """Begin to end what was left unfinished, and to open ``count`` besides: now, or when there is room for it."""
        most = self.outage.room(time.monotonic(), OPENINGS_MAX)
        if not most and (count or self._unfinished):
            self._resume_later()
        while self._unfinished and self._ending < ENDINGS_MAX and self.under_way < most:
            self._ending += 1
            self._spawn(self._unfinished.popleft())
        for _ in range(min(count, most - self.under_way)):
            self._spawn(None)

    def _spawn(self, unfinished: Unfinished | None) -> None:
        self.under_way += 1
        self.outage.begun(time.monotonic())
        gevent.spawn(self._open_one, unfinished)

    def _open_one(self, unfinished: Unfinished | None) -> None:
        began = time.monotonic()
        try:
            connection = self._in_time(self._connect, self._open_timeout_s)
        except Exception as error:
            self._is_over(unfinished, unfinished)
            self.outage.failed(str(error), time.monotonic())
            self._failed(error)
            self._resume_later()
            return
        self.outage.succeeded(began, time.monotonic())
        if unfinished is None or self._end_session(connection, unfinished):
            self._is_over(unfinished, None)
            self._arrived(Place(connection))
            return
        tried = unfinished._replace(tries=unfinished.tries + 1)
        self._doubtful += tried.tries == 1
        self._resume()  # nobody is to wait for this one
        gevent.sleep(ENDING_PAUSE_S)
        self._is_over(tried, tried if tried.tries < ENDING_TRIES_MAX else None)
        self._resume()

    def _is_over(self, begun: Unfinished | None, left: Unfinished | None) -> None:
        """An opening, that was to end what it was ``begun`` for; ``left`` is still to be ended."""
        self.under_way -= 1
        if begun is not None:
            self._ending -= 1
            self._doubtful -= begun.tries > 0
        if left is not None:
            self._unfinished.append(left)
            self._doubtful += left.tries > 0

    def _in_time(self, step: Callable[[], T], timeout_s: float) -> T:
        try:
            with gevent.Timeout(timeout_s):
                return step()
        except gevent.Timeout:
            raise DatabaseDown(f"no answer within {timeout_s:g} s") from None

    def _end_session(self, connection: P, unfinished: Unfinished) -> bool:
        """Returns whether the connection is still there: what else keeps a session from being ended does not matter."""
        try:
            self._in_time(lambda: connection.end_session(unfinished.session), self._ending_timeout_s)
        except DatabaseDown as error:
            connection.close()
            if unfinished.tries + 1 >= ENDING_TRIES_MAX:
                log.warning(MAY_STILL_RUN, self._name, error)
            return False
        except Exception as error:
            strange = None if isinstance(error, DatabaseError) else error
            log.warning(MAY_STILL_RUN, self._name, error, exc_info=strange)
        return True

    def _resume_later(self) -> None:
        if not self._resuming:
            self._resuming = True
            gevent.spawn(self._try_again)

    def _try_again(self) -> None:
        # A sleep may end early by as much as the loop is late.
        while (left_s := self.outage.room_at - time.monotonic()) > 0:
            gevent.sleep(left_s)
        self._resuming = False
        self._resume()
