"""How connections to a database are made."""

from __future__ import annotations

import importlib.util
import socket
import ssl
from collections.abc import Sequence
from typing import Final, NoReturn

import pymysql
from pymysql.constants import CLIENT, CR

from gbot.database.address import Address
from gbot.database.advice import (
    AUTHORITY,
    IN_CLEAR,
    NO_SERVER,
    OTHER_NAME,
    UNIX_SOCKET,
    WITH_TLS,
    way_out,
    without_package,
    without_tls,
)
from gbot.database.connection import AUTOCOMMIT, CHARSET, Connection
from gbot.database.failures import NOT_WITHOUT_TLS, REFUSALS, TLS_REFUSED, code_of, reason_of
from gbot.database.wire import CONVERSIONS, NO_ANSWER, STRANGE, Wire
from gbot.errors import DatabaseDown, DatabaseRefused

CONNECT_TIMEOUT_S: Final = 2
READ_TIMEOUT_S: Final = 5  # for one answer, and for each of a login, however long those to statements may take
WRITE_TIMEOUT_S: Final = 5

NAME_DIFFERS: Final = {62, 64}  # OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and _IP_ADDRESS_MISMATCH
# A server's own way of logging in which, without TLS, PyMySQL cannot do alone.
ENCRYPTING: Final = {"caching_sha2_password", "sha256_password"}

# Without it, PyMySQL cannot encrypt a password where nothing else does.
PACKAGE: Final = "cryptography"
HAS_PACKAGE: Final = importlib.util.find_spec(PACKAGE) is not None


class NoFullLogin:
    """MySQL's caching_sha2_password, for which a server remembers who was there since it was started.

    Whom it does not remember needs TLS, a unix socket or the package cryptography. Who has none of these is not let in
    by its memory either: that would work until the server is started anew, and then no more.
    """

    def __init__(self, connection: object) -> None:
        """As PyMySQL wants it."""

    def authenticate(self, packet: object) -> NoReturn:
        raise RuntimeError(PACKAGE)


class NotInClear:
    """A server may ask for the password as it is, as one with PAM or LDAP does, and so may whoever answers instead."""

    def __init__(self, connection: object) -> None:
        """As PyMySQL wants it."""

    def authenticate(self, packet: object) -> NoReturn:
        raise RuntimeError(IN_CLEAR)


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
        can_be_read = bool(address.password) and address.unix_socket is None
        self._needs_package = can_be_read and not HAS_PACKAGE
        self._logins: dict[str, type] = {}
        if can_be_read and self._tls is None:
            self._logins = {"mysql_clear_password": NotInClear, "dialog": NotInClear}
            if self._needs_package:
                self._logins["caching_sha2_password"] = NoFullLogin

    def connect(self, read_timeout_s: float | None = READ_TIMEOUT_S) -> Connection:
        """Open a connection; an answer on it may take ``read_timeout_s``, or any time.

        An answer of the login may take no more than READ_TIMEOUT_S in any case. Raises DatabaseDown, which is
        DatabaseRefused if the server does not want this user or has no such database; its text says why and what to
        do, and not the password.
        """
        wire = self._wire(READ_TIMEOUT_S if read_timeout_s is None else min(read_timeout_s, READ_TIMEOUT_S))
        self._log_in(wire)
        connection = Connection(wire)
        try:
            for statement in self._setup:
                connection.execute(statement)
        except BaseException:
            connection.close()
            raise
        _allow(wire, read_timeout_s)
        return connection

    def _wire(self, read_timeout_s: float) -> Wire:
        address = self.address
        return Wire(
            host=address.host,
            port=address.port,
            unix_socket=address.unix_socket,
            user=address.user,
            password=address.password.encode(errors="surrogateescape"),  # PyMySQL itself would take Latin-1
            database=address.database,
            charset=CHARSET,
            autocommit=None,  # as the server has it, until AUTOCOMMIT
            client_flag=CLIENT.FOUND_ROWS,
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=read_timeout_s,
            write_timeout=WRITE_TIMEOUT_S,
            conv=CONVERSIONS,
            ssl=self._tls,
            ssl_disabled=self._tls is None,
            auth_plugin_map=self._logins,
            defer_connect=True,
        )

    def _log_in(self, wire: Wire) -> None:
        path = self.address.unix_socket
        try:
            if path is not None:
                wire._secure = True  # which lets a password through that is not encrypted
            wire.connect(None if path is None else _reached(path))
        except pymysql.MySQLError as error:
            raise self._failure(error, wire) from None
        except RuntimeError as error:  # a way of logging in that needs one more package
            said = without_package(tls_offered=_offers_tls(wire)) if PACKAGE in str(error) else str(error)
            raise DatabaseRefused(said) from None
        except OSError as error:
            there = self.address.host_and_port if path is None else f"{UNIX_SOCKET} {path}"
            raise DatabaseDown(f"{CR.CR_CONN_HOST_ERROR} Can't connect to {there} ({error})") from None
        except (*NO_ANSWER, ArithmeticError, ValueError, TypeError, AttributeError):
            raise DatabaseDown(STRANGE) from None

    def _failure(self, error: pymysql.MySQLError, wire: Wire) -> DatabaseDown:
        address, code = self.address, code_of(error)
        cause = getattr(error, "original_exception", None)
        if isinstance(cause, ssl.SSLError):  # PyMySQL takes it for a server that is not there
            return DatabaseDown(f"{TLS_REFUSED} {_tls_failure(cause)}")
        if code == CR.CR_SERVER_LOST or (isinstance(cause, TimeoutError) and _has_greeted(wire)):
            late = isinstance(cause or error.__context__, TimeoutError)
            return DatabaseDown(self._silence(wire, late=late))
        if code == TLS_REFUSED and not _offers_tls(wire):
            needs_package = self._needs_package and wire._auth_plugin_name in ENCRYPTING
            return DatabaseDown(f"{code} {without_tls(needs_package=needs_package)}")
        advice = way_out(code, address.user, address.database)
        if code in NOT_WITHOUT_TLS and self._tls is None and address.unix_socket is None and _offers_tls(wire):
            advice = WITH_TLS
        kind = DatabaseRefused if code in REFUSALS else DatabaseDown
        return kind(reason_of(error).rstrip(".") + advice)

    def _silence(self, wire: Wire, *, late: bool) -> str:
        """PyMySQL says of every answer that does not come that it lost the connection during a query."""
        address = self.address
        there = address.host_and_port if address.unix_socket is None else f"{UNIX_SOCKET} {address.unix_socket}"
        if _has_greeted(wire):
            ending = f"did not answer it in {wire._read_timeout:g} s" if late else "closed the connection"
            return f"{there} began the login and {ending}"
        ending = f"did not answer in {wire._read_timeout:g} s" if late else "closed it without an answer"
        return f"{there} accepted the connection and {ending}; {NO_SERVER}"


def _reached(path: str) -> socket.socket:
    """PyMySQL's own leaves it open where nobody is there, and names a host."""
    made = socket.socket(socket.AF_UNIX)
    try:
        made.settimeout(CONNECT_TIMEOUT_S)
        made.connect(path)
    except BaseException:
        made.close()
        raise
    return made


def _allow(wire: Wire, read_timeout_s: float | None) -> None:
    """Let answers take so long from now on; None: any time, as what is sent may."""
    wire._read_timeout = wire._current_timeout = read_timeout_s
    wire._write_timeout = None if read_timeout_s is None else WRITE_TIMEOUT_S
    wire._sock.settimeout(read_timeout_s)


def _has_greeted(wire: Wire) -> bool:
    return hasattr(wire, "server_capabilities")


def _offers_tls(wire: Wire) -> bool:
    return _has_greeted(wire) and bool(wire.server_capabilities & CLIENT.SSL)


def _tls_failure(cause: ssl.SSLError) -> str:
    if not isinstance(cause, ssl.SSLCertVerificationError):
        return str(cause)
    said = cause.verify_message.rstrip(".")
    if cause.verify_code in NAME_DIFFERS:
        return f"its certificate is for another name: {said}{OTHER_NAME}"
    return f"its certificate is not trusted: {said}{AUTHORITY}"
