"""How connections to a database are made."""

from __future__ import annotations

import ssl
import struct
from collections.abc import Sequence
from typing import Final

import pymysql
from pymysql.constants import CLIENT
from pymysql.cursors import Cursor

from gbot.database.address import Address
from gbot.database.connection import CHARSET, Connection, RawConnection
from gbot.database.failures import REFUSALS, TLS_REFUSED, code_of, reason_of
from gbot.database.wire import CONVERSIONS, Wire
from gbot.errors import DatabaseDown, DatabaseRefused

CONNECT_TIMEOUT_S: Final = 2
READ_TIMEOUT_S: Final = 5  # for one answer
WRITE_TIMEOUT_S: Final = 5


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
            return Wire(
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
                conv=CONVERSIONS,
                ssl=self._tls,
                ssl_disabled=self._tls is None,
            )
        except pymysql.MySQLError as error:
            advice = "; ?tls=off in its URL connects without" if code_of(error) == TLS_REFUSED else ""
            kind = DatabaseRefused if code_of(error) in REFUSALS else DatabaseDown
            raise kind(reason_of(error) + advice) from None
        except RuntimeError as error:  # MySQL's way of logging in needs either TLS or one more package
            raise DatabaseRefused(f"{error}; ?tls=on in its URL does without") from None
        except OSError as error:
            raise DatabaseDown(str(error)) from None
        except (struct.error, LookupError, ValueError, TypeError, AttributeError):
            raise DatabaseDown("what answers there does not speak MySQL's protocol") from None
