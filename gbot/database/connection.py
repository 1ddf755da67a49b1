"""A connection to a database, for one greenlet at a time.

When a connection breaks, when its answer does not come in time, or when the greenlet that waits for it is killed, it
is closed: what the server would still say belongs to nobody. Every connection commits each statement by itself unless
a transaction was begun, and counts rows that a statement matched, whether or not it changed them.

What the server says about its state, such as whether a transaction is open, comes with a statement that went well and
with the last result of one that has several. An error does not tell it: a procedure may have begun a transaction.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Iterator
from time import monotonic
from typing import Any, Final, NamedTuple

import pymysql
from gevent import monkey
from greenlet import getcurrent
from pymysql.connections import MySQLResult
from pymysql.constants import SERVER_STATUS
from pymysql.cursors import Cursor

from gbot.database.failures import NO_SUCH_THREAD, NotReady, failure_of, shown
from gbot.database.values import Arguments, Unsendable, filled_in
from gbot.database.wire import NO_ANSWER, SHARED, STRANGE
from gbot.errors import BotError, DatabaseDown, DatabaseMistake

CHARSET: Final = "utf8mb4"
# To be sent to every server: MySQL with autocommit=OFF as its default tells the driver that it is on.
AUTOCOMMIT: Final = "SET autocommit = 1"

_RESET_CONNECTION: Final = 0x1F  # the protocol's COM_RESET_CONNECTION, which PyMySQL does not know
# What it leaves, what it does not do again, and what MySQL takes from its own settings and MariaDB from the begin.
_STAYS: Final = (
    "SELECT CONNECTION_ID(), DATABASE(), @@init_connect, @@autocommit, @@character_set_client, @@character_set_results"
)
# Neither in a transaction nor with results unread, and committing each statement by itself.
_STATE: Final = (
    SERVER_STATUS.SERVER_STATUS_IN_TRANS
    | SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT
    | SERVER_STATUS.SERVER_MORE_RESULTS_EXISTS
)
_CLEAN: Final = SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT
_IN_TRANSACTION: Final = SERVER_STATUS.SERVER_STATUS_IN_TRANS

_TOLD: Final = MySQLResult(None)  # type: ignore[arg-type]  # in place of a result: the state is as the server told it

_query: Final[Any] = pymysql.Connection.query
_poll: Final = monkey.get_original("select", "poll")
_ENDED: Final = select.POLLRDHUP | select.POLLHUP | select.POLLERR | select.POLLNVAL

RawConnection = pymysql.Connection


class Session(NamedTuple):
    """A connection as its server knows it: by a number, and by the port it comes from; None: not by TCP.

    A server gives out growing numbers, and may be another one than it was ``opened_at`` (monotonic, seconds).
    """

    number: int
    port: int | None
    opened_at: float


def _session_of(inside: Any) -> Session:
    name = inside._sock.getsockname()
    return Session(inside.thread_id(), name[1] if isinstance(name, tuple) else None, monotonic())


class Done(NamedTuple):
    """What a statement that returns no rows has done."""

    rows: int  # matched, inserted or deleted
    last_id: int  # the first number that the statement made, or what it gave to LAST_INSERT_ID()


class Connection:
    """One connection, for one greenlet at a time.

    With arguments, placeholders are ``%s``, or ``%(name)s`` for those of a mapping, a list is ``(…, …)`` and ``%%``
    is ``%``. Without arguments a statement is taken as it is.
    """

    __slots__ = ("_cut", "_inside", "raw", "session")

    def __init__(self, raw: RawConnection[Cursor]) -> None:
        self.raw = raw
        self._inside: Any = raw  # for what PyMySQL knows and has no method for
        self._cut = False
        self.session = _session_of(self._inside)

    def execute(self, sql: str, args: Arguments | None = None) -> Done:
        """Run a statement. Raises DatabaseDown, Deadlock or DatabaseMistake, as all methods do."""
        result = self._run(sql, args)
        return Done(result.affected_rows, result.insert_id or 0)

    def rows(self, sql: str, args: Arguments | None = None) -> list[tuple[Any, ...]]:
        """Run a query and return all its rows."""
        return list(self._run(sql, args).rows or ())

    def _run(self, sql: str, args: Arguments | None) -> Any:
        """The (first) result as PyMySQL has it: a cursor around it costs 3 µs, and would be held on to."""
        statement = self._statement(sql, args)
        inside = self._inside
        if inside._asker is not None:
            raise BotError(SHARED)
        inside._asker = getcurrent()
        try:
            _query(inside, statement)
            result = inside._result
            while inside._result.has_next:
                inside.next_result()
        except pymysql.MySQLError as error:
            failure = failure_of(error, sql, with_values=args is not None)
            if isinstance(failure, DatabaseDown) and not isinstance(failure, NotReady):
                self.close()
            raise failure from None
        except BaseException as error:
            self._cut = True
            inside._force_close()  # with no last word, which might complete what was not sent to its end
            if isinstance(error, NO_ANSWER):
                raise DatabaseDown(f"{STRANGE}: {shown(sql)}") from None
            raise
        finally:
            inside._asker = None
        inside._result = _TOLD
        return result

    def _statement(self, sql: str, args: Arguments | None) -> bytes:
        """What is sent. Raises DatabaseMistake, whose text shows no value, where that cannot be."""
        try:
            return (sql if args is None else filled_in(sql, args)).encode(self._inside.encoding)
        except Unsendable as error:
            raise DatabaseMistake(f"{error}: {shown(sql)}", 0) from None
        except UnicodeEncodeError:
            raise DatabaseMistake(f"half a character, in it or in a value, cannot be sent: {shown(sql)}", 0) from None

    def begin(self) -> None:
        """Begin a transaction."""
        self.execute("START TRANSACTION")

    def commit(self) -> None:
        """What is still to be read of a result is passed over."""
        if self.is_half_read:
            with self._whole("(rest of a result)"):
                self._inside._result._finish_unbuffered_query()
        self.execute("COMMIT")

    def rollback(self) -> None:
        self.execute("ROLLBACK")

    def lend(self) -> RawConnection[Cursor]:
        """Have it as PEP 249 wants it, with nothing committed before its commit, for who knows only that."""
        with self._whole("(begin of a loan)"):
            self.raw.autocommit(False)
        return self.raw

    def take_back(self) -> None:
        """After it was lent: end its transaction, and all that the session keeps, such as variables and locks.

        What was lent is closed: whoever has kept it can do nothing with it to the next one's work. So is all of it
        where the server has statements of its own for the begin of a session, which a reset undoes.
        """
        self.raw = self._inside = inside = self._inside.moved()
        with self._whole("(reset of the session)"):
            inside._execute_command(_RESET_CONNECTION, b"")
            inside._read_ok_packet()
            inside.query(_STAYS)
            rows = inside._result.rows or [(None, None, None, None)]
            [(number, database, init_connect, autocommit, *charsets)] = rows
            if number != self.session.number:  # the answer to something else
                raise pymysql.InterfaceError(SHARED)
            if init_connect:
                self.close()
                return
            if database is None or database.encode() != inside.db:
                inside.select_db(inside.db)
            if {*charsets, inside.charset} != {CHARSET}:
                inside.set_character_set(CHARSET)
            if not autocommit:
                inside.query(AUTOCOMMIT)
        inside.cursorclass = Cursor
        inside._result = _TOLD

    @contextlib.contextmanager
    def _whole(self, what: str) -> Iterator[None]:
        """Steps that PyMySQL is to do to their end: where they break or are stopped, the connection is closed."""
        try:
            yield
        except pymysql.MySQLError as error:
            self.close()
            raise failure_of(error, what) from None
        except BaseException:
            self._cut = True
            self._inside._force_close()
            raise

    def end_session(self, session: Session) -> None:
        """End another session of the same user, and what it runs; one that has ended already does no harm.

        Behind one address may be another server by now, which has given the number to somebody else. Therefore numbers
        must have grown since, the server must be old enough, and know the session by the port that it came from. What
        reaches the server through a proxy that changes the port goes on until it ends by itself.
        """
        if self.session.number <= session.number:
            return
        uptime = self.rows("SHOW SESSION STATUS LIKE 'Uptime'")  # a proxy may not know it
        if not uptime or int(uptime[0][1]) + 1 < monotonic() - session.opened_at:
            return
        for (host,) in self.rows("SELECT HOST FROM information_schema.PROCESSLIST WHERE ID = %s", (session.number,)):
            if session.port is None or str(host).rpartition(":")[2] == str(session.port):
                self._kill(session.number)

    def _kill(self, number: int) -> None:
        try:
            self.execute(f"KILL {number:d}")
        except DatabaseMistake as error:
            if error.code != NO_SUCH_THREAD:
                raise

    # Its state.

    @property
    def is_shared(self) -> bool:
        """Whether another greenlet waits for an answer on it."""
        return self._inside._asker is not None

    @property
    def is_open(self) -> bool:
        return self.raw.open

    @property
    def was_closed(self) -> bool:
        """Whether somebody has closed it in good order."""
        return self._inside._closed  # type: ignore[no-any-return]

    @property
    def was_cut(self) -> bool:
        """Whether it ended in the middle of something, which may still go on in the server."""
        return self._cut or self.is_shared or not (self.raw.open or self.was_closed)

    @property
    def in_transaction(self) -> bool:
        return bool(self._inside.server_status & _IN_TRANSACTION)

    @property
    def is_settled(self) -> bool:
        """Whether nothing is open, after a statement that went well: no transaction, and no more results."""
        return self._inside.server_status & _STATE == _CLEAN  # type: ignore[no-any-return]

    @property
    def is_half_read(self) -> bool:
        """Whether somebody has begun to read rows one by one, and not gone to the end."""
        result = self._inside._result
        return result is not None and result.unbuffered_active

    @property
    def can_be_reset(self) -> bool:
        """Whether it is there, and nothing more is to come on it."""
        return self.raw.open and not self._cut and not self.is_half_read

    def is_clean(self) -> bool:
        """Whether the next one can use it, after whatever was done to it. What was read last is let go."""
        result = self._inside._result
        if result is None or result.unbuffered_active or result.has_next or self._cut or self.is_shared:
            return False
        if not (self.is_settled and self.raw.open):
            return False
        self._inside._result = _TOLD
        return True

    def has_ended(self) -> bool:
        """Whether the server has closed it, as far as this machine knows; asks nobody."""
        return self._events() & _ENDED != 0

    def is_quiet(self) -> bool:
        """Whether the server has sent nothing that nobody waits for; asks nobody."""
        return self._events() == 0

    def _events(self) -> int:
        if not self.raw.open:
            return _ENDED
        poll = _poll()
        poll.register(self._inside._sock.fileno(), select.POLLIN | select.POLLRDHUP)
        found = poll.poll(0)
        return found[0][1] if found else 0

    def answers(self) -> bool:
        """Ask the server for a sign of life. A connection without one is closed."""
        try:
            self.raw.ping(reconnect=False)
        except (pymysql.MySQLError, OSError):
            self.close()
            return False
        return True

    def close(self) -> None:
        """Close it; again does no harm."""
        self._cut = self.was_cut
        if self.is_half_read:
            self._inside._result.unbuffered_active = False  # or the rest is read when the result is let go
        with contextlib.suppress(pymysql.MySQLError):
            self.raw.close()
