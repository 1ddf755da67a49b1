"""The one gatekeeper of PyMySQL: where a database is, connections to it, and its errors as a small tree.

::

    DatabaseError
    ├── DatabaseDown       no connection, a broken one, a time-out, a server that stops, is read-only or has a full disk
    ├── Deadlock           the server gave this transaction up for another one: do the whole transaction again
    └── DatabaseMistake    anything else, wrong SQL for one: it would fail again

No text of these holds a password or a value that was sent: the server quotes values in its messages, so a mistake is
described by its number, its name and the statement without its values.

When a connection breaks, when its answer does not come in time, or when the greenlet that waits for it is killed, it
is closed: what the server would still say belongs to nobody. Every connection commits each statement by itself unless
a transaction was begun, and counts rows that a statement matched, whether or not it changed them.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import pymysql
from pymysql.constants import CLIENT, ER
from pymysql.cursors import Cursor

EXPECTED: Final = (
    "mysql://user:password@host:port/database or mysql://user@localhost/database?unix_socket=/path,"
    " with what is special in user, password and database percent-encoded, and ?tls=off, on or verify"
)
PORT: Final = 3306
CONNECT_TIMEOUT_S: Final = 2
READ_TIMEOUT_S: Final = 5  # for one answer
WRITE_TIMEOUT_S: Final = 5

_LOCAL: Final = {"localhost", "127.0.0.1", "::1"}
_TLS: Final = ("off", "on", "verify")
_TLS_REFUSED: Final = 2026

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
    *(1043, 1047, 1053, 1077, 1079, 1152, 1158, 1159, 1160, 1161, 1184),  # starting, stopping, or the network
    *(1180, 1181),  # it could not commit, or not roll back
    *(1290, 1792, 1836),  # read-only: a replica, or a failover going on
    *(1317, 1927, 1969, 3024, 3168, 3169, 4031),  # statement or connection killed
}
_NAMES: Final = {code: name for name, code in vars(ER).items() if isinstance(code, int)}


class DatabaseError(Exception):
    """Base of what this module raises."""


class DatabaseDown(DatabaseError):
    """The server cannot be reached or does not work; nothing is known of a transaction that was being committed."""


class Deadlock(DatabaseError):
    """The server gave up this transaction, or one of its statements, in favour of another: do all of it again."""


class DatabaseMistake(DatabaseError):
    """The server refused the statement. ``code`` is the server's error number."""

    def __init__(self, code: int, sql: str) -> None:
        super().__init__(f"error {code} ({_NAMES.get(code, 'unknown')}) from the database for: {sql[:300]}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Address:
    """Where a database is and who asks."""

    user: str
    password: str = field(repr=False)
    host: str
    port: int
    database: str
    unix_socket: str | None
    tls: str  # off; on: encrypted, whoever the server is; verify: its certificate is checked too

    @property
    def place(self) -> str:
        """The URL without the password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        name = f"mysql://{quote(self.user)}@{host}"
        if self.unix_socket is not None:
            return f"{name}/{quote(self.database)}?unix_socket={self.unix_socket}"
        return f"{name}:{self.port}/{quote(self.database)}"


def parse(url: str) -> Address:
    """Read a URL as EXPECTED describes it. Raises ValueError, whose text never repeats the URL.

    TLS is off for this machine and on for others, unless the URL says otherwise.
    """
    wrong = ValueError(f"expected {EXPECTED}")
    try:
        parts = urlsplit(url)
        port = parts.port
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        host = parts.hostname or ""
        host.encode("idna")
    except ValueError:  # its text may hold a part of the password
        raise wrong from None
    unix_socket = options.pop("unix_socket", None)
    local = unix_socket is not None or host in _LOCAL
    tls = options.pop("tls", "off" if local else "on")
    database = unquote(parts.path[1:])
    usable = host and parts.username and database and "/" not in parts.path[1:] and not parts.fragment
    if parts.scheme != "mysql" or not usable or options or tls not in _TLS or port == 0 or unix_socket == "":
        raise wrong
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return Address(user, password, host, port or PORT, database, unix_socket, tls)


class Done(NamedTuple):
    """What a statement that returns no rows has done."""

    rows: int  # matched, inserted or deleted
    last_id: int  # the first number that the statement made, or what it gave to LAST_INSERT_ID()


class Connection:
    """One connection, for one greenlet at a time. Placeholders are ``%s``, a list is ``(…, …)``, ``%%`` is ``%``."""

    def __init__(self, raw: pymysql.Connection[Cursor]) -> None:
        self._raw = raw

    def execute(self, sql: str, args: Sequence[object] = ()) -> Done:
        """Run a statement. Raises DatabaseDown, Deadlock or DatabaseMistake, as all methods do."""
        cursor = self._run(sql, args)
        return Done(cursor.rowcount, cursor.lastrowid or 0)

    def rows(self, sql: str, args: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run a query and return all its rows."""
        return list(self._run(sql, args).fetchall())

    def _run(self, sql: str, args: Sequence[object]) -> Cursor:
        try:
            cursor = self._raw.cursor()
            cursor.execute(sql % tuple(map(self._literal, args)))
        except pymysql.MySQLError as error:
            translated = _translated(error, sql)
            if isinstance(translated, DatabaseDown):
                self.close()
            raise translated from None
        except BaseException:
            self.close()
            raise
        return cursor

    def _literal(self, value: object) -> str:
        """A value as SQL. Bytes are binary in every place, which not every PyMySQL sees to."""
        if isinstance(value, bytes):
            return f"X'{value.hex()}'"
        if isinstance(value, list | tuple):
            return f"({', '.join(map(self._literal, value))})"
        return self._raw.escape(value)

    @property
    def is_open(self) -> bool:
        return self._raw.open

    def close(self) -> None:
        """Close it; again does no harm."""
        with contextlib.suppress(pymysql.MySQLError):
            self._raw.close()


class Database:
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

    def connect(self, read_timeout_s: float = READ_TIMEOUT_S) -> Connection:
        """Open a connection. Raises DatabaseDown; its text says why, and not the password."""
        connection = Connection(self._connect(read_timeout_s))
        try:
            for statement in self._setup:
                connection.execute(statement)
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect(self, read_timeout_s: float) -> pymysql.Connection[Cursor]:
        address = self.address
        try:
            return pymysql.connect(
                host=address.host,
                port=address.port,
                unix_socket=address.unix_socket,
                user=address.user,
                password=address.password.encode(),  # PyMySQL itself would take Latin-1
                database=address.database,
                charset="utf8mb4",
                autocommit=True,
                client_flag=CLIENT.FOUND_ROWS,
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=read_timeout_s,
                write_timeout=WRITE_TIMEOUT_S,
                ssl=self._tls,
                ssl_disabled=self._tls is None,
            )
        except pymysql.MySQLError as error:
            advice = "; ?tls=off in its URL connects without" if _code(error) == _TLS_REFUSED else ""
            raise DatabaseDown(_reason(error) + advice) from None
        except RuntimeError as error:  # MySQL's way of logging in needs either TLS or one more package
            raise DatabaseDown(f"{error}; ?tls=on in its URL does without") from None
        except OSError as error:
            raise DatabaseDown(str(error)) from None


def _code(error: pymysql.MySQLError) -> int:
    """The number of the server's or the client's error; 0 for those of PyMySQL itself."""
    return error.args[0] if error.args and isinstance(error.args[0], int) else 0


def _reason(error: pymysql.MySQLError) -> str:
    text = " ".join(str(part) for part in error.args if part not in (0, ""))
    return text or "the connection is closed"


def _translated(error: pymysql.MySQLError, sql: str) -> DatabaseError:
    code = _code(error)
    if code in _DEADLOCKS:
        return Deadlock(_reason(error))
    if code in _DOWN or 2000 <= code < 3000 or (code == 0 and not isinstance(error, pymysql.ProgrammingError)):
        return DatabaseDown(_reason(error))
    return DatabaseMistake(code, sql)
