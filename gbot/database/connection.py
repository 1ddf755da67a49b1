"""The one gatekeeper of PyMySQL: connections to a database, and its errors as those of :mod:`gbot.errors`.

No text of these errors holds a password or a value that was sent: the server quotes values in its messages, so a
mistake is described by its number, its name and the statement without its values.

When a connection breaks, when its answer does not come in time, or when the greenlet that waits for it is killed, it
is closed: what the server would still say belongs to nobody. Every connection commits each statement by itself unless
a transaction was begun, and counts rows that a statement matched, whether or not it changed them.

What the server says about its state, such as whether a transaction is open, comes with a statement that went well and
with the last result of one that has several. An error does not tell it: a procedure may have begun a transaction.
"""

from __future__ import annotations

import contextlib
import datetime
import select
import socket
import ssl
import struct
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any, Final, NamedTuple

import pymysql
from gevent import monkey
from greenlet import getcurrent, greenlet
from pymysql.connections import MySQLResult
from pymysql.constants import CLIENT, ER, FIELD_TYPE, SERVER_STATUS
from pymysql.converters import conversions, convert_datetime
from pymysql.cursors import Cursor

from gbot.database.address import Address
from gbot.errors import (
    BotError,
    DatabaseAway,
    DatabaseDown,
    DatabaseError,
    DatabaseMistake,
    DatabaseRefused,
    Deadlock,
    DuplicateKey,
)

CHARSET: Final = "utf8mb4"
SHARED: Final = "two greenlets use one connection or transaction at the same time: give each its own"
CONNECT_TIMEOUT_S: Final = 2
READ_TIMEOUT_S: Final = 5  # for one answer
WRITE_TIMEOUT_S: Final = 5

_TLS_REFUSED: Final = 2026
_DUPLICATES: Final = {1022, 1062, 1169, 1586}
_REFUSALS: Final = {1044, 1045, 1049, 1130, 1251, 1698, 1862, 1873, 3118, 3159, 4151}
_DEADLOCKS: Final = {
    1020,  # the row has changed since it was read
    1205,  # waited too long for a lock
    1213,  # deadlock; with Galera also a conflict with another node
    3101,  # a conflict with another member of a replication group
}
# Server errors that say something about the server and nothing about the statement. All of the client's (2000-2999)
# are about the connection.
_DOWN: Final = {
    *(1021, 1026, 1030, 1037, 1038, 1041, 1114),  # no disk or memory left, or it cannot write
    *(1040, 1203, 1226),  # too many connections
    *(1043, 1053, 1077, 1079, 1152, 1158, 1159, 1160, 1161, 1184),  # starting, stopping, or the network
    *(1180, 1181),  # it could not commit, or not roll back
    1792,  # the transaction is read-only
    *(1317, 1927, 1969, 3024, 3168, 3169, 4031),  # statement or connection killed
}
# The server has certainly not executed it, and may do so later: read-only as in a failover, or its cluster not ready.
_NOT_NOW: Final = {1047, 1290, 1836}
_NOT_NOW_S: Final = 1.0
_NO_SUCH_THREAD: Final = 1094
_RESET_CONNECTION: Final = 0x1F  # the protocol's COM_RESET_CONNECTION, which PyMySQL does not know
_NAMES: Final = {code: name for name, code in vars(ER).items() if isinstance(code, int)}

# Neither in a transaction nor with results unread, and committing each statement by itself.
_STATE: Final = (
    SERVER_STATUS.SERVER_STATUS_IN_TRANS
    | SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT
    | SERVER_STATUS.SERVER_MORE_RESULTS_EXISTS
)
_CLEAN: Final = SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT
_IN_TRANSACTION: Final = SERVER_STATUS.SERVER_STATUS_IN_TRANS

_TOLD: Final = MySQLResult(None)  # type: ignore[arg-type]  # in place of a result: the state is as the server told it

_poll: Final = monkey.get_original("select", "poll")
_ENDED: Final = select.POLLRDHUP | select.POLLHUP | select.POLLERR | select.POLLNVAL

RawConnection = pymysql.Connection
Arguments = Sequence[object] | Mapping[str, object]


def _datetime(text: str) -> object:
    """As PyMySQL has it, in a tenth of the time. What is no date, such as 0000-00-00 00:00:00, stays a text."""
    try:
        return datetime.datetime.fromisoformat(text)
    except ValueError:
        return convert_datetime(text)


_CONVERSIONS: Final[dict[Any, Any]] = {
    **conversions,
    FIELD_TYPE.DATETIME: _datetime,
    FIELD_TYPE.TIMESTAMP: _datetime,
}
_PyMySql: Any = pymysql.Connection  # what is overridden is not in its types


_query: Any = pymysql.Connection.query


class _OneAtATime(_PyMySql):  # type: ignore[misc]
    """PyMySQL's connection, with an end to what two greenlets at once would do to it, and faster to send.

    Two that share a connection would read each other's answers, and whoever comes after them those of somebody else.
    """

    _sock: Any
    _rfile: Any
    _asker: greenlet | None = None  # who waits for an answer

    def query(self, sql: str | bytes, unbuffered: bool = False) -> int:
        if self._asker is not None:
            raise pymysql.InterfaceError(SHARED)
        self._asker = getcurrent()
        try:
            return super().query(sql, unbuffered)  # type: ignore[no-any-return]
        finally:
            self._asker = None

    def _force_close(self) -> None:
        """PyMySQL's own leaves the socket open while another greenlet reads from it."""
        sock, rfile = self._sock, self._rfile
        self._sock = self._rfile = None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # whoever reads finds the end
            with contextlib.suppress(OSError):
                sock.close()
        if rfile is not None:
            with contextlib.suppress(RuntimeError, OSError):
                rfile.close()

    def _write_bytes(self, data: bytes) -> None:
        """Send with one system call: gevent's sendall asks for the size of a buffer before, every time."""
        if self._asker is not None and self._asker is not getcurrent():
            raise pymysql.InterfaceError(SHARED)
        sent = 0
        if self._write_timeout is None:
            with contextlib.suppress(OSError):  # it fails again below, in PyMySQL's words
                sent = self._sock.send(data)
        if sent < len(data):
            super()._write_bytes(data[sent:])


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
        statement = self._encoded(sql if args is None else self._filled_in(sql, args), sql)
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
            translated = _translated(error, sql)
            if isinstance(translated, DatabaseDown):
                self.close()
            raise translated from None
        except BaseException:
            self._cut = True
            inside._force_close()  # with no last word, which might complete what was not sent to its end
            raise
        finally:
            inside._asker = None
        inside._result = _TOLD
        return result

    def _encoded(self, statement: str, sql: str) -> bytes:
        try:
            return statement.encode(self._inside.encoding)
        except UnicodeEncodeError:  # its text would show a value
            shown = sql[:300].encode(errors="backslashreplace").decode()
            raise DatabaseMistake(f"half a character, in it or in a value, cannot be sent: {shown}", 0) from None

    def _filled_in(self, sql: str, args: Arguments) -> str:
        """The statement with its values. Raises DatabaseMistake where they do not fit its placeholders."""
        try:
            if isinstance(args, str | bytes):  # a sequence as well, but nobody means its characters
                raise TypeError
            if isinstance(args, Mapping):
                return sql % {name: self._literal(value) for name, value in args.items()}
            return sql % tuple(map(self._literal, args))
        except (TypeError, ValueError, KeyError, pymysql.MySQLError):  # the last: no number
            raise DatabaseMistake(f"the values do not fit the placeholders of: {sql[:300]}", 0) from None

    def _literal(self, value: object) -> str:
        """A value as SQL. Bytes are binary in every place, which not every PyMySQL sees to."""
        if isinstance(value, bytes):
            return f"X'{value.hex()}'"
        if isinstance(value, list | tuple):
            return f"({', '.join(map(self._literal, value))})"
        return self.raw.escape(value)

    def begin(self) -> None:
        """Begin a transaction."""
        self.execute("START TRANSACTION")

    def commit(self) -> None:
        self.execute("COMMIT")

    def rollback(self) -> None:
        self.execute("ROLLBACK")

    def reset(self) -> None:
        """End all that a session keeps: its variables, locks and temporary tables, another database that was chosen."""
        inside = self._inside
        try:
            inside._execute_command(_RESET_CONNECTION, b"")
            inside._read_ok_packet()
            inside.select_db(inside.db)
            inside.set_character_set(CHARSET)
            inside.autocommit(True)
            inside.query("SELECT CONNECTION_ID()")
            if inside._result.rows != ((self.session.number,),):  # the answer to something else
                raise pymysql.InterfaceError(SHARED)
        except pymysql.MySQLError as error:
            self.close()
            raise _translated(error, "(reset of the session)") from None
        except BaseException:
            self._cut = True
            inside._force_close()
            raise
        inside.cursorclass = Cursor
        inside._result = _TOLD

    def end_session(self, session: Session) -> None:
        """End another session of the same user, and what it runs; one that has ended already does no harm.

        Behind one address may be another server by now, which has given the number to somebody else. Therefore numbers
        must have grown since, the server must be old enough, and know the session by the port that it came from. What
        reaches the server through a proxy that changes the port goes on until it ends by itself.
        """
        if self.session.number <= session.number:
            return
        [(_, uptime_s)] = self.rows("SHOW SESSION STATUS LIKE 'Uptime'")
        if int(uptime_s) + 1 < monotonic() - session.opened_at:
            return
        for (host,) in self.rows("SELECT HOST FROM information_schema.PROCESSLIST WHERE ID = %s", (session.number,)):
            if session.port is None or str(host).rpartition(":")[2] == str(session.port):
                self._kill(session.number)

    def _kill(self, number: int) -> None:
        try:
            self.execute(f"KILL {number:d}")
        except DatabaseMistake as error:
            if error.code != _NO_SUCH_THREAD:
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
    def was_cut(self) -> bool:
        """Whether it ended in the middle of something, which may still go on in the server."""
        return self._cut or self.is_shared or not (self.raw.open or self._inside._closed)

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
        if self.is_half_read:
            self._inside._result.unbuffered_active = False  # or the rest is read when the result is let go
        with contextlib.suppress(pymysql.MySQLError):
            self.raw.close()


class Connector:
    """Makes connections to one address. ``setup`` are statements that every new connection runs first."""

    def __init__(self, address: Address, setup: Sequence[str] = ()) -> None:
        self.address = address
        self._setup = tuple(setup)
        # One context for all: a fresh one for each connection costs 30 ms, for it loads every certificate authority.
        self._tls: ssl.SSLContext | None = None
        if address.tls != "off":
            self._tls = ssl.create_default_context()
            if address.tls == "on":
                self._tls.check_hostname = False
                self._tls.verify_mode = ssl.CERT_NONE

    def connect(self, read_timeout_s: float | None = READ_TIMEOUT_S) -> Connection:
        """Open a connection; an answer on it may take ``read_timeout_s``, or any time.

        Raises DatabaseDown, which is DatabaseRefused if the server does not want this user or has no such database;
        its text says why, and not the password.
        """
        connection = Connection(self._connect(read_timeout_s))
        try:
            for statement in self._setup:
                connection.execute(statement)
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect(self, read_timeout_s: float | None) -> RawConnection[Cursor]:
        address = self.address
        try:
            return _OneAtATime(
                host=address.host,
                port=address.port,
                unix_socket=address.unix_socket,
                user=address.user,
                password=address.password.encode(),  # PyMySQL itself would take Latin-1
                database=address.database,
                charset=CHARSET,
                autocommit=True,
                client_flag=CLIENT.FOUND_ROWS,
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=read_timeout_s,
                write_timeout=None if read_timeout_s is None else WRITE_TIMEOUT_S,
                conv=_CONVERSIONS,
                ssl=self._tls,
                ssl_disabled=self._tls is None,
            )
        except pymysql.MySQLError as error:
            advice = "; ?tls=off in its URL connects without" if _code(error) == _TLS_REFUSED else ""
            kind = DatabaseRefused if _code(error) in _REFUSALS else DatabaseDown
            raise kind(_reason(error) + advice) from None
        except RuntimeError as error:  # MySQL's way of logging in needs either TLS or one more package
            raise DatabaseRefused(f"{error}; ?tls=on in its URL does without") from None
        except OSError as error:
            raise DatabaseDown(str(error)) from None
        except (struct.error, LookupError, ValueError, TypeError, AttributeError):
            raise DatabaseDown("what answers there does not speak MySQL's protocol") from None


def _code(error: pymysql.MySQLError) -> int:
    """The number of the server's or the client's error; 0 for those of PyMySQL itself."""
    return error.args[0] if error.args and isinstance(error.args[0], int) else 0


def _reason(error: pymysql.MySQLError) -> str:
    text = " ".join(str(part) for part in error.args if part not in (0, ""))
    return text or "the connection is closed"


def translated(error: BaseException, place: str) -> DatabaseError | None:
    """An error of PyMySQL, met by an author at ``place``, as one of gbot's, without values; None: it is another one."""
    return _translated(error, f"a statement {place}") if isinstance(error, pymysql.MySQLError) else None


def _translated(error: pymysql.MySQLError, sql: str) -> DatabaseError:
    code = _code(error)
    if code in _DEADLOCKS:
        return Deadlock(_reason(error))
    if code in _NOT_NOW:
        return DatabaseAway(_reason(error), _NOT_NOW_S)
    if code in _DOWN or 2000 <= code < 3000 or (code == 0 and not isinstance(error, pymysql.ProgrammingError)):
        return DatabaseDown(_reason(error))
    kind = DuplicateKey if code in _DUPLICATES else DatabaseMistake
    return kind(f"error {code} ({_NAMES.get(code, 'unknown')}) from the database for: {sql[:300]}", code)
