"""Opening connections for a pool: OPENINGS_MAX at once, each in a greenlet of its own.

A connection that takes the place of one whose statement was left unfinished ends that session first, ENDINGS_MAX at
once. As long as it cannot, the session is kept here, and with it the place.

After a failure there is a pause, and then one attempt at a time until one succeeds: a server that is full or has just
come back is not run down.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic

import gevent

from gbot.database.outage import Outage
from gbot.database.place import P, Place
from gbot.errors import DatabaseDown, DatabaseError

log = logging.getLogger(__name__)

OPENINGS_MAX: Final = 32  # at once
ENDINGS_MAX: Final = 4  # at once: for as long as both are there, the server has more sessions than the pool has places
OPEN_TIMEOUT_S: Final = 10.0


class Growth(Generic[P]):
    """Opens connections to ``name`` by ``connect``, which raises DatabaseDown.

    ``arrived`` takes each of them, ``failed`` is called when one could not be opened, ``resume`` when it is time to
    begin again.
    """

    def __init__(
        self,
        connect: Callable[[], P],
        name: str,
        arrived: Callable[[Place[P]], None],
        failed: Callable[[Exception], None],
        resume: Callable[[], None],
    ) -> None:
        self._connect = connect
        self._name = name
        self._arrived = arrived
        self._failed = failed
        self._resume = resume
        self._unfinished: deque[Any] = deque()  # what Pooled.session was
        self.outage = Outage()
        self.under_way = 0
        self._ending = 0  # of these, those that take the place of an unfinished session
        self._resuming = False

    @property
    def unfinished(self) -> int:
        """Sessions whose place nobody is taking over yet."""
        return len(self._unfinished)

    @property
    def not_ended(self) -> int:
        """Sessions that were left unfinished, those that are being ended included."""
        return len(self._unfinished) + self._ending

    def leave(self, session: Any) -> None:
        """A session is to be ended, by the connection that takes its place."""
        self._unfinished.append(session)

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

    def _spawn(self, unfinished: Any | None) -> None:
        self.under_way += 1
        self.outage.begun(time.monotonic())
        gevent.spawn(self._open_one, unfinished)

    def _open_one(self, unfinished: Any | None) -> None:
        began = time.monotonic()
        try:
            connection = self._connected(unfinished)
        except Exception as error:
            self.under_way -= 1
            if unfinished is not None:
                self._ending -= 1
                self._unfinished.append(unfinished)
            self.outage.failed(str(error), time.monotonic())
            self._failed(error)
            self._resume_later()
            return
        self.under_way -= 1
        if unfinished is not None:
            self._ending -= 1
        self.outage.succeeded(began, time.monotonic())
        self._arrived(Place(connection))

    def _connected(self, unfinished: Any | None) -> P:
        try:
            with gevent.Timeout(OPEN_TIMEOUT_S):
                connection = self._connect()
                if unfinished is not None:
                    self._end_session(connection, unfinished)
                return connection
        except gevent.Timeout:
            raise DatabaseDown(f"no connection within {OPEN_TIMEOUT_S:g} s") from None

    def _end_session(self, connection: P, session: Any) -> None:
        """What keeps it from being ended is no reason to go without a connection, unless that broke by it."""
        try:
            connection.end_session(session)
        except Exception as error:
            if isinstance(error, DatabaseDown):
                connection.close()
                raise
            strange = None if isinstance(error, DatabaseError) else error
            text = "A statement that was left unfinished may still run in %s: %s"
            log.warning(text, self._name, error, exc_info=strange)
        except BaseException:
            connection.close()
            raise

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
