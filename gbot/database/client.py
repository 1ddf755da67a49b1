"""What handlers have as ``ctx.db``: statements, transactions and connections from the pool of the worker.

Each statement goes to the server once: whatever becomes of it, nobody sends it again but the author. A handler that
is killed, or whose time is over, leaves nothing behind: its connection is closed, the server undoes the transaction,
and a statement that still runs is ended. A transaction that a handler has left open is undone and logged.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

from gbot.database.connection import Connection, Done, RawConnection
from gbot.database.failures import failure_at, shown
from gbot.database.lender import Lender, succeeds
from gbot.database.place import Place, PoolStatistics
from gbot.database.values import Arguments
from gbot.errors import BotError, DatabaseError, Deadlock

T = TypeVar("T")


class Database:
    """The database of a bot. ``name`` is its URL without the password.

    Its methods raise DatabaseBusy (no connection became free in time), DatabaseAway (none can be made), DatabaseDown
    (it broke: nobody knows whether the statement was executed), Deadlock (do the whole transaction again) and
    DatabaseMistake, of which DuplicateKey is one. Placeholders are ``%s`` for a sequence, ``%(name)s`` for a mapping.
    """

    def __init__(self, lender: Lender) -> None:
        self.name = lender.name
        self._lender = lender
        self._take = lender.take
        self._give = lender.give

    def query(self, sql: str, args: Arguments | None = None) -> list[tuple[Any, ...]]:
        """Run a query and return all its rows."""
        place = self._take()
        connection = place.connection
        try:
            rows = connection.rows(sql, args)
        except BaseException as error:
            self._lender.give_back(place, error)
            raise
        if connection.is_settled:
            self._give(place)
        else:
            self._lender.give_back(place, None)
        return rows

    def execute(self, sql: str, args: Arguments | None = None) -> Done:
        """Run a statement that returns no rows, and commit it; returns how many rows it matched, inserted or deleted.

        ``last_id`` of what it returns is the number that the server gave to a new row.
        """
        place = self._take()
        connection = place.connection
        try:
            done = connection.execute(sql, args)
        except BaseException as error:
            self._lender.give_back(place, error)
            raise
        if connection.is_settled:
            self._give(place)
        else:
            self._lender.give_back(place, None)
        return done

    def transaction(self) -> Transaction:
        """``with ctx.db.transaction() as tx:`` all of it is committed at the end, or none of it if that is an error."""
        return Transaction(self._lender)

    def connection(self) -> Lease:
        """``with ctx.db.connection() as connection:`` a PyMySQL connection, for other libraries too.

        As PEP 249 has it, nothing is committed before its ``commit``, or the good end of the with statement; an error
        undoes what was not. Then the session is reset, so that nothing that was SET or locked on it stays, and what was
        lent is closed. It raises PyMySQL's own errors, which become gbot's when they leave the with statement.
        """
        return Lease(self._lender)

    def statistics(self) -> PoolStatistics:
        return self._lender.statistics()


class Holding:
    """A connection of the pool that is held for the time of a with statement."""

    def __init__(self, lender: Lender) -> None:
        self._lender = lender
        self._place: Place[Connection] | None = None
        self._entered = False

    def _enter(self) -> Place[Connection]:
        if self._place is not None:
            raise BotError("one with statement per ctx.db.transaction() or ctx.db.connection(): this one is in use")
        frame = sys._getframe(2)
        self._place = self._lender.take_for(f"{frame.f_code.co_filename}:{frame.f_lineno}")
        self._entered = True
        return self._place

    def __del__(self) -> None:
        """Whoever has forgotten it will not give it back. This may run at any moment, and in any thread."""
        place, self._place = self._place, None
        if place is not None:
            self._lender.forget(place)


class Lease(Holding):
    """The connection itself."""

    if not TYPE_CHECKING:  # who checks types is told of it without

        def __getattr__(self, name: str) -> NoReturn:
            """Whoever has forgotten the with statement asks this for what the connection has."""
            if not name.startswith("_") and hasattr(RawConnection, name):
                raise BotError("use it as: with ctx.db.connection() as connection:")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __enter__(self) -> RawConnection[Any]:
        place = self._enter()
        try:
            return place.connection.lend()
        except BaseException as error:
            self._end(error)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        place = self._place
        if place is None:
            return
        told = failure_at(error, str(place.taken_in)) if error is not None else None
        try:
            if error is None:
                self._lender.check(place)
            if error is None and not place.connection.was_closed:
                place.connection.commit()
        except BaseException as failed:
            self._end(failed)
            raise
        self._end(told or error)
        if told is not None:
            raise told from None

    def _end(self, error: BaseException | None) -> None:
        place, self._place = self._place, None
        if place is not None:
            self._lender.give_back(place, error, lent=True)


class Transaction(Holding):
    """A transaction. It raises what the database raises, and BotError when it has ended.

    A Deadlock is the end of it even if somebody catches it: all further statements raise it again, and so does the end.
    So is a statement that ends it, such as COMMIT or CREATE TABLE: it raises BotError, since what came after it would
    not be undone with the rest.
    """

    def __init__(self, lender: Lender) -> None:
        super().__init__(lender)
        self._failed: str | None = None  # a statement; the server has not told what it has left open
        self._lost: Callable[[], BotError | Deadlock] | None = None  # what was begun is no longer open

    def __enter__(self) -> Self:
        place = self._enter()
        self._failed = self._lost = None
        try:
            place.connection.begin()
        except BaseException as error:
            self._end(error)
            raise
        return self

    def query(self, sql: str, args: Arguments | None = None) -> list[tuple[Any, ...]]:
        """See :meth:`Database.query`."""
        return self._run(Connection.rows, sql, args)

    def execute(self, sql: str, args: Arguments | None = None) -> Done:
        """See :meth:`Database.execute`; committed at the end of the transaction."""
        return self._run(Connection.execute, sql, args)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._place is None:
            return
        place, connection = self._place, self._place.connection
        if error is None and self._lost is None:
            self._ending(place, connection.commit)
        elif (error is None or isinstance(error, Exception)) and connection.is_open:
            self._ending(place, lambda: succeeds(connection.rollback))
        self._end(error)
        if error is None and self._lost is not None:
            raise self._lost()

    def _run(self, method: Callable[[Connection, str, Arguments | None], T], sql: str, args: Arguments | None) -> T:
        if self._place is None:
            forgotten = "use it as: with ctx.db.transaction() as tx:"
            raise BotError("this transaction has ended" if self._entered else forgotten)
        self._lender.check(self._place)
        if self._lost is not None:  # what comes now would be committed by itself
            raise self._lost()
        connection = self._place.connection
        if self._failed is not None:
            connection.execute("DO 0")  # after which the server tells
            self._see_open(connection, self._failed)
            self._failed = None
        try:
            found = method(connection, sql, args)
        except Deadlock as error:
            self._lost = partial(Deadlock, f"an error before this one has undone the transaction: {error}")
            raise
        except DatabaseError:
            self._failed = sql if connection.is_open else None
            raise
        self._see_open(connection, sql)
        return found

    def _see_open(self, connection: Connection, sql: str) -> None:
        if not connection.in_transaction:
            rule = "COMMIT and ROLLBACK do so, and CREATE TABLE and the like, even if they fail"
            self._lost = partial(BotError, f"the transaction was ended by a statement in it; {rule}: {shown(sql)}")
            raise self._lost()

    def _ending(self, place: Place[Connection], step: Callable[[], object]) -> None:
        try:
            self._lender.check(place)
            step()
        except BaseException as error:
            self._end(error)
            raise

    def _end(self, error: BaseException | None) -> None:
        place, self._place = self._place, None
        if place is not None:
            self._lender.give_back(place, error)
