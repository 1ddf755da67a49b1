"""The addresses of a host name, looked up once for all connections that are made within a while.

A lookup runs in a native thread, which may have to wait long for its turn in a busy process: hundreds of connections
that are made at once must not mean hundreds of lookups. It has a greenlet of its own, so that it goes on for the others
when one of those who wait for it is killed. What was found before is used for as long as nothing newer is found.
"""

from __future__ import annotations

import ipaddress
import socket as stdlib_socket
import time
from typing import Final

import gevent
import gevent.socket
from gevent import Greenlet

KEPT_S: Final = 30.0
LITERAL: Final = float("inf")

Found = list[tuple[int, tuple[object, ...]]]  # the family, and what ``connect`` of a socket takes


class Lookup:
    """The addresses of one host and port. An IP address needs no lookup."""

    __slots__ = ("_found", "_looking", "_place", "_until")

    def __init__(self, host: str, port: int) -> None:
        self._place = (host, port)
        self._looking: Greenlet[[], None] | None = None
        self._until = 0.0
        self._found: Found = []
        try:
            version = ipaddress.ip_address(host).version
        except ValueError:
            return
        self._until = LITERAL
        self._found = [(stdlib_socket.AF_INET if version == 4 else stdlib_socket.AF_INET6, (host, port))]

    def addresses(self, timeout_s: float) -> Found:
        """At least one. Raises OSError for a name that nobody has, TimeoutError when finding out takes too long."""
        if time.monotonic() < self._until:
            return self._found
        if self._looking is None:
            self._looking = gevent.spawn(self._look_up)
        looking = self._looking
        looking.join(timeout_s)
        if self._found:
            return self._found
        if not looking.dead:
            raise TimeoutError
        raise OSError("no such host")

    def doubt(self) -> None:
        """Nothing was reached at these addresses: look again the next time."""
        if self._until != LITERAL:
            self._until = 0.0

    def _look_up(self) -> None:
        try:
            host, port = self._place
            found = gevent.socket.getaddrinfo(host, port, type=stdlib_socket.SOCK_STREAM)
            self._found = [(family, address) for family, _, _, _, address in found]
            self._until = time.monotonic() + KEPT_S
        except (OSError, UnicodeError):
            return  # then there is nothing newer
        finally:
            self._looking = None
