"""Lends the connections of the pool, and looks at each that comes back: it goes to the next one only if it is clean."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Final

import gevent

from gbot.database.connection import Connection
from gbot.database.failures import NotReady
from gbot.database.place import Place, PoolStatistics
from gbot.database.pool import Pool
from gbot.errors import BotError, DatabaseError

log = logging.getLogger(__name__)

TIDY_MAX_S: Final = 2.0  # for a rollback, or the reset of a session
LEFT_OPEN: Final = "A transaction on %s was left open, and is undone"


class Lender:
    """``name`` is what the log calls the database."""

    def __init__(self, pool: Pool[Connection], name: str) -> None:
        self.name = name
        self._pool = pool
        self.take: Callable[[], Place[Connection]] = pool.take  # raises DatabaseBusy, DatabaseAway
        self.take_for: Callable[[str], Place[Connection]] = pool.take_for
        self.give: Callable[[Place[Connection]], None] = pool.give  # one that is known to be clean

    def give_back(self, place: Place[Connection], error: BaseException | None, *, lent: bool = False) -> None:
        """Give a connection back as ``error`` has left it. Raises only what kills the greenlet meanwhile.

        ``lent``: the author had all of it, and may have done anything to its session.
        """
        if not self._pool.is_held(place):
            self._pool.forget(place)
            return
        connection = place.connection
        spoilt = isinstance(error, NotReady) and self._pool.refused(error)
        try:
            stopped = error is not None and not isinstance(error, Exception)  # killed, or out of time: wherever it was
            usable = not stopped and not spoilt and not connection.is_shared
            if lent:
                usable = usable and connection.can_be_reset and succeeds(connection.take_back)
            usable = usable and (connection.is_clean() or self._cleaned(connection, ended_well=error is None))
        except BaseException:
            self._pool.drop(place)
            raise
        if usable:
            self.give(place)
        else:
            self._pool.drop(place)

    def check(self, place: Place[Connection]) -> None:
        """Raises BotError where nobody may use it any more, or not here."""
        if not self._pool.is_held(place):
            when = "in another thread" if place.holder is not None else "after the end of the handler that took it"
            raise BotError(f"a connection to {self.name} was used {when}")

    def forget(self, place: Place[Connection]) -> None:
        """One that nobody will give back; to be called at any moment, and from any thread."""
        self._pool.forget(place)

    def statistics(self) -> PoolStatistics:
        return self._pool.statistics()

    def _cleaned(self, connection: Connection, *, ended_well: bool) -> bool:
        """Undo what was left open, or what an error may have left so. Returns whether the next one can use it."""
        if connection.was_cut or not connection.is_open:
            return False
        if ended_well and connection.in_transaction:
            log.warning(LEFT_OPEN, self.name)
        return not connection.is_half_read and succeeds(connection.rollback) and connection.is_clean()


def succeeds(step: Callable[[], object]) -> bool:
    """Whether it could be done in time; a connection on which it cannot is of no use to anybody."""
    with contextlib.suppress(DatabaseError), gevent.Timeout(TIDY_MAX_S, False):  # type: ignore[arg-type]
        step()
        return True
    return False
