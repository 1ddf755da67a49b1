"""PyMySQL's own connection, with what is changed in it.

It is for one greenlet at a time, sends faster, writes values as ``values`` does, reads dates faster, and lets others
run while it reads.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import io
import socket
import struct
from time import monotonic
from typing import Any, Final

import pymysql
from greenlet import getcurrent, greenlet
from pymysql.constants import FIELD_TYPE
from pymysql.converters import conversions, convert_datetime
from pymysql.protocol import MysqlPacket

from gbot.database.values import Unsendable, literal
from gbot.turns import Turn

SHARED: Final = "two greenlets use one connection or transaction at the same time: give each its own"
READ_BYTES: Final = 8 * 1024  # at once; each connection has so much memory for them
LOGIN_BYTES_MAX: Final = 64 * 1024  # a usual login takes less than one
LOGIN_MAX_S: Final = 10.0  # however little comes at a time
TOO_MUCH: Final = (
    f"what answers there has talked for {LOGIN_MAX_S:g} s or {LOGIN_BYTES_MAX // 1024} KiB, and its login has not ended"
)
STRANGE: Final = "what answers there does not speak MySQL's protocol"
# What PyMySQL raises when an answer is none, besides its own errors.
NO_ANSWER: Final = (AssertionError, LookupError, RuntimeError, struct.error)
OVER: Final = "the with statement that this connection was lent to has ended"


def _datetime(text: str) -> object:
    """As PyMySQL has it, in a tenth of the time. What is no date, such as 0000-00-00 00:00:00, stays a text."""
    try:
        return datetime.datetime.fromisoformat(text)
    except ValueError:
        return convert_datetime(text)


CONVERSIONS: Final[dict[Any, Any]] = {
    **conversions,
    FIELD_TYPE.DATETIME: _datetime,
    FIELD_TYPE.TIMESTAMP: _datetime,
}


class Incoming(io.RawIOBase):
    """What the server sends. PyMySQL reads a result to its end: a large one from a fast server would stop all others.

    The same goes for many small answers of a server so near that they are there at once.
    """

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._turn = Turn()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._turn.take()
        return self._sock.recv_into(buffer)  # type: ignore[no-any-return]


class Greeting(Incoming):
    """What it sends until its user is in. Whoever answers there may be no such server, and have no end."""

    def __init__(self, sock: Any, max_s: float = LOGIN_MAX_S) -> None:
        super().__init__(sock)
        self._left = LOGIN_BYTES_MAX
        self._ends_at = monotonic() + max_s

    def readinto(self, buffer: Any) -> int:
        if self._left <= 0 or monotonic() >= self._ends_at:
            raise pymysql.InternalError(TOO_MUCH)
        read = super().readinto(buffer)
        self._left -= read
        return read


_PyMySql: Any = pymysql.Connection  # what is overridden is not in its types


class Wire(_PyMySql):  # type: ignore[misc]
    """PyMySQL's connection, with an end to what two greenlets at once would do to it, and faster to send.

    Two that share a connection would read each other's answers, and whoever comes after them those of somebody else.
    """

    _sock: Any
    _rfile: Any
    _read_packet: Any
    _asker: greenlet | None = None  # who waits for an answer

    def connect(self, sock: Any = None) -> None:
        self._read_packet = self._read_login_packet
        try:
            super().connect(sock)
        finally:
            del self._read_packet
        self._read_from(Incoming(self._sock))

    def _read_login_packet(self, packet_type: Any = MysqlPacket) -> Any:
        """PyMySQL begins to read anew where TLS begins."""
        if not isinstance(self._rfile.raw, Greeting):
            self._read_from(Greeting(self._sock))
        return super()._read_packet(packet_type)

    def _read_from(self, incoming: Incoming) -> None:
        self._rfile.close()
        self._rfile = io.BufferedReader(incoming, READ_BYTES)

    def moved(self) -> Wire:
        """The same connection as another object. This one is over, whoever has kept it."""
        other = copy.copy(self)
        self._sock = self._rfile = None
        self.__class__ = Over
        return other

    def escape(self, obj: object, mapping: object = None) -> str:
        """PyMySQL's own trusts what the server said last of its sql_mode, and sends as text what is no value."""
        try:
            return literal(obj)
        except Unsendable as error:
            raise pymysql.ProgrammingError(str(error)) from None

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
        try:
            if self._write_timeout is None:
                try:
                    sent = self._sock.send(data)
                except OSError:
                    sent = 0  # it fails again below, in PyMySQL's words
            if sent < len(data):
                super()._write_bytes(data[sent:])
        except BaseException:  # half a packet, after which the server takes nothing else for what it is
            self._force_close()
            raise


class Over(Wire):
    """What is left of a connection that has moved on: nothing can be done with it, and it does not connect again."""

    def connect(self, sock: Any = None) -> None:
        raise pymysql.InterfaceError(OVER)

    def _execute_command(self, command: int, sql: str | bytes) -> None:
        raise pymysql.InterfaceError(OVER)
