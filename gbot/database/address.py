"""Where a database is, read from a URL. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

EXPECTED: Final = (
    "mysql://user:password@host:port/database or mysql://user@localhost/database?unix_socket=/path,"
    " with what is special in user, password and database percent-encoded, and ?tls=off, on or verify"
)
PORT: Final = 3306

# What can be wrong with a URL, in words that hold nothing of it: where it is written wrongly, a piece of the password
# may stand where a scheme, a host or an option belongs.
NO_SCHEME: Final = "does not begin with mysql://"
NO_USER: Final = "has no user before the host, or a / ? or # in user or password that is not percent-encoded"
NO_HOST: Final = "has no host"
NO_PORT: Final = "has a port that is no number from 1 to 65535"
STRAY_AT: Final = "has an @ behind the host: a / in user or password is to be percent-encoded"
NO_DATABASE: Final = "has no /database"
TWO_DATABASES: Final = "has more than one / after the host"
FRAGMENT: Final = "has a # that is not percent-encoded"
NO_HOSTS_NAME: Final = "has a host that is none, or a [ or ] in the password that is not percent-encoded"
NO_TLS: Final = "has a tls= that is neither off, on nor verify"
NO_SOCKET: Final = "has a unix_socket= without a path"
UNKNOWN_OPTION: Final = "has another option than tls and unix_socket"

_LOCAL: Final = {"localhost", "127.0.0.1", "::1"}
_TLS: Final = ("off", "on", "verify")


class NoAddress(ValueError):
    """The text tells what is expected, and ``problem`` what the URL has or lacks. Neither repeats any of it."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"expected {EXPECTED}; this one {problem}")
        self.problem = problem


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
        user, database = quote(self.user), quote(self.database)
        if self.unix_socket is not None:
            return f"mysql://{user}@{self._host}/{database}?unix_socket={self.unix_socket}"
        return f"mysql://{user}@{self.host_and_port}/{database}"

    @property
    def host_and_port(self) -> str:
        return f"{self._host}:{self.port}"

    @property
    def _host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


def parse(url: str) -> Address:
    """Read a URL as EXPECTED describes it. Raises NoAddress.

    TLS is off for this machine and on for others, unless the URL says otherwise.
    """
    if url[:8].lower() != "mysql://":
        raise NoAddress(NO_SCHEME)
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        host.encode("idna")
    except ValueError:  # its text may hold a part of the password
        raise NoAddress(NO_HOSTS_NAME) from None
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unix_socket = options.pop("unix_socket", None)
    local = unix_socket is not None or host in _LOCAL
    tls = options.pop("tls", "off" if local else "on")
    database = unquote(parts.path[1:])
    wrong = {
        NO_USER: not parts.username,
        NO_HOST: not host,
        NO_PORT: not _has_port(parts),
        STRAY_AT: "@" in parts.path,
        NO_DATABASE: not database,
        TWO_DATABASES: "/" in parts.path[1:],
        FRAGMENT: bool(parts.fragment),
        NO_TLS: tls not in _TLS,
        NO_SOCKET: unix_socket == "",
        UNKNOWN_OPTION: bool(options),
    }
    problem = next((problem for problem, found in wrong.items() if found), None)
    if problem is not None:
        raise NoAddress(problem)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return Address(user, password, host, parts.port or PORT, database, unix_socket, tls)


def _has_port(parts: SplitResult) -> bool:
    """One that can be, or none at all."""
    try:
        return parts.port != 0
    except ValueError:
        return False
