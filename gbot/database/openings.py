"""Opening connections for a pool: OPENINGS_MAX at once, each in a greenlet of its own.

A connection that takes the place of one whose statement was left unfinished ends that session first. As long as it
cannot, the session is kept here, and with it the place.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Generic

import gevent

from gbot.database.outage import Outage
from gbot.database.place import P, Place
from gbot.errors import DatabaseDown, DatabaseError

log = logging.getLogger(__name__)

OPENINGS_MAX: Final = 32  # at once
OPEN_TIMEOUT_S: Final = 10.0

Session = tuple[int, float]  # its number, and when it was opened


class Openings(Generic[P]):
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
        self._unfinished: deque[Session] = deque()
        self.outage = Outage()
        self.under_way = 0
        self.not_ended = 0  # sessions that were left unfinished, those that are being ended included

    @property
    def unfinished(self) -> int:
        """Sessions whose place nobody is taking over yet."""
        return len(self._unfinished)

    def leave(self, session: Session) -> None:
        """A session is to be ended, by the connection that takes its place."""
        self.not_ended += 1
        self._unfinished.append(session)

    def begin(self, count: int) -> None:
        """Begin to open so many, or as many as may be under way; not while a pause lasts."""
        if time.monotonic() < self.outage.retry_at:
            return
        for _ in range(min(count, OPENINGS_MAX - self.under_way)):
            self.under_way += 1
            gevent.spawn(self._open_one, self._unfinished.popleft() if self._unfinished else None)

    def _open_one(self, unfinished: Session | None) -> None:
        try:
            connection = self._connected(unfinished)
        except Exception as error:
            self.under_way -= 1
            if unfinished is not None:
                self._unfinished.append(unfinished)
            if self.outage.failed(str(error), time.monotonic()):
                gevent.spawn(self._try_again)
            self._failed(error)
            return
        self.under_way -= 1
        self.not_ended -= unfinished is not None
        if self.outage.succeeded():
            log.info("Connections to %s can be made again", self._name)
        self._arrived(Place(connection))

    def _connected(self, unfinished: Session | None) -> P:
        try:
            with gevent.Timeout(OPEN_TIMEOUT_S):
                connection = self._connect()
                if unfinished is not None:
                    self._end_session(connection, unfinished)
                return connection
        except gevent.Timeout:
            raise DatabaseDown(f"no connection within {OPEN_TIMEOUT_S:g} s") from None

    def _end_session(self, connection: P, session: Session) -> None:
        """What the server has against it is no reason to go without a connection, unless that broke by it."""
        number, opened_at = session
        try:
            connection.end_session(number, time.monotonic() - opened_at)
        except BaseException as error:
            if not isinstance(error, DatabaseError) or isinstance(error, DatabaseDown):
                connection.close()
                raise
            log.warning("A statement that was left unfinished may still run in %s: %s", self._name, error)

    def _try_again(self) -> None:
        # A sleep may end early by as much as the loop is late.
        while (left_s := self.outage.retry_at - time.monotonic()) > 0:
            gevent.sleep(left_s)
        self._resume()
