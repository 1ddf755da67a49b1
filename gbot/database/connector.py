"""How connections to a database are made."""

from __future__ import annotations

import ssl
import struct
from collections.abc import Sequence
from typing import Any, Final

import pymysql
from pymysql import _auth
from pymysql.constants import CLIENT
from pymysql.cursors import Cursor

from gbot.database.address import Address
from gbot.database.connection import AUTOCOMMIT, CHARSET, Connection, RawConnection
from gbot.database.failures import NOT_WITHOUT_TLS, REFUSALS, TLS_REFUSED, code_of, reason_of
from gbot.database.wire import CONVERSIONS, Wire
from gbot.errors import DatabaseDown, DatabaseRefused

CONNECT_TIMEOUT_S: Final = 2
READ_TIMEOUT_S: Final = 5  # for one answer
WRITE_TIMEOUT_S: Final = 5

WITHOUT_TLS: Final = "; ?tls=off in its URL connects without"
WITH_TLS: Final = "; it may want TLS, which ?tls=on in its URL uses"
AUTHORITY: Final = (
    "; SSL_CERT_FILE in the environment names the file of its authority (RDS: global-bundle.pem), ?tls=on in its URL "
    "checks no certificate"
)
NO_PACKAGE: Final = "without TLS this way of logging in needs the package cryptography; ?tls=on in its URL does without"

_plugins: Any = _auth  # what is used of them is not in PyMySQL's types


class FullLogin:
    """MySQL's caching_sha2_password, for which a server remembers who was there since it was started.

    Whom it does not remember needs TLS, a unix socket or the package cryptography. Who has none of these is not let in
    by its memory either: that would work until the server is started anew, and then no more.
    """

    def __init__(self, inside: Any) -> None:
        self._inside = inside

    def authenticate(self, packet: Any) -> Any:
        if self._inside.password and not (self._inside._secure or _plugins._have_cryptography):
            raise RuntimeError(NO_PACKAGE)
        return _plugins.caching_sha2_password_auth(self._inside, packet)


class Connector:
    """Makes connections to one address. ``setup`` are statements that every new connection runs first.

    Each commits every statement by itself, whatever the server's default.
    """

    def __init__(self, address: Address, setup: Sequence[str] = ()) -> None:
        self.address = address
        self._setup = (AUTOCOMMIT, *setup)
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
                autocommit=None,  # as the server has it, until AUTOCOMMIT
                client_flag=CLIENT.FOUND_ROWS,
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=read_timeout_s,
                write_timeout=None if read_timeout_s is None else WRITE_TIMEOUT_S,
                conv=CONVERSIONS,
                ssl=self._tls,
                ssl_disabled=self._tls is None,
                auth_plugin_map={"caching_sha2_password": FullLogin},
            )
        except pymysql.MySQLError as error:
            raise self._failure(error) from None
        except RuntimeError as error:  # a way of logging in that needs one more package
            raise DatabaseRefused(NO_PACKAGE if "cryptography" in str(error) else str(error)) from None
        except OSError as error:
            raise DatabaseDown(str(error)) from None
        except (struct.error, LookupError, ValueError, TypeError, AttributeError):
            raise DatabaseDown("what answers there does not speak MySQL's protocol") from None

    def _failure(self, error: pymysql.MySQLError) -> DatabaseDown:
        cause = getattr(error, "original_exception", None)
        if isinstance(cause, ssl.SSLError):  # PyMySQL takes it for a server that is not there
            if isinstance(cause, ssl.SSLCertVerificationError):
                return DatabaseDown(f"{TLS_REFUSED} its certificate is not trusted: {cause.verify_message}{AUTHORITY}")
            return DatabaseDown(f"{TLS_REFUSED} {cause}")
        code = code_of(error)
        if code == TLS_REFUSED:
            advice = WITHOUT_TLS
        elif code in NOT_WITHOUT_TLS and self._tls is None and self.address.unix_socket is None:
            advice = WITH_TLS
        else:
            advice = ""
        kind = DatabaseRefused if code in REFUSALS else DatabaseDown
        return kind(reason_of(error).rstrip(".") + advice)
