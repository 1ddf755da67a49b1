"""Where a database is, read from a URL. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

EXPECTED: Final = (
    "mysql://user:password@host:port/database or mysql://user@localhost/database?unix_socket=/path,"
    " with what is special in user, password and database percent-encoded, and ?tls=off, on or verify"
)
PORT: Final = 3306

_LOCAL: Final = {"localhost", "127.0.0.1", "::1"}
_TLS: Final = ("off", "on", "verify")


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

    def is_beside(self, other: Address) -> bool:
        """Whether both are on the same server, as far as their names tell: this machine has one at each port."""
        if self._is_here != other._is_here:
            return False
        if self._is_here:
            return self.port == other.port or None not in (self.unix_socket, other.unix_socket)
        return (self.host, self.port) == (other.host, other.port)

    @property
    def _is_here(self) -> bool:
        return self.unix_socket is not None or self.host in _LOCAL

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
