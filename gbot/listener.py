"""Where clients connect: listening sockets and the certificate. Every refusal of the machine is a StartError."""

from __future__ import annotations

import contextlib
import errno
import os
import socket as stdlib_socket
import ssl
import stat
from typing import Any

import gevent.socket
from gevent import monkey

from gbot.errors import StartError

BACKLOG = 4096  # connections that wait in the kernel; capped by net.core.somaxconn
UNIX_PREFIX = "unix:"
UNIX_PATH_BYTES_MAX = 107


class Listener:
    """A listening socket. ``address`` is what one would type into a client, without a scheme."""

    def __init__(self, socket: gevent.socket.socket, unix_path: str | None = None) -> None:
        self.socket = socket
        self._unix_path = unix_path
        self._inode = os.stat(unix_path).st_ino if unix_path is not None else None
        self.address = f"{UNIX_PREFIX}{unix_path}" if unix_path is not None else _typed(socket.getsockname())

    @property
    def is_loopback(self) -> bool:
        """Whether only programs of this machine can connect."""
        return self.address.startswith((UNIX_PREFIX, "127.", "[::1]"))

    def remove_file(self) -> None:
        """Remove the socket's file, unless it is another server's by now. A second call is harmless."""
        if self._unix_path is not None:
            with contextlib.suppress(FileNotFoundError):
                if os.stat(self._unix_path).st_ino == self._inode:
                    os.unlink(self._unix_path)


def listen(host: str, port: int) -> Listener:
    """Listen on a host name, an IP address (``::`` takes IPv4 as well) or ``unix:/PATH``. Raises StartError."""
    try:
        if host.startswith(UNIX_PREFIX):
            return _listen_unix(host.removeprefix(UNIX_PREFIX))
        socket = _bound(host, port)
        socket.listen(BACKLOG)
        return Listener(socket)
    except OSError as error:
        where = host if host.startswith(UNIX_PREFIX) else f"{host} port {port}"
        raise StartError(f"cannot listen on {where}: {error.strerror or error}") from error


def probe(host: str, port: int) -> None:
    """Raise OSError where ``listen`` could not. Nobody can connect meanwhile, and no file is made or removed."""
    if not host.startswith(UNIX_PREFIX):
        _bound(host, port).close()
        return
    path = host.removeprefix(UNIX_PREFIX)
    if len(os.fsencode(path)) > UNIX_PATH_BYTES_MAX:
        raise OSError(errno.ENAMETOOLONG, "AF_UNIX path too long")
    if os.path.lexists(path) and not (
        os.path.exists(path) and stat.S_ISSOCK(os.stat(path).st_mode) and _is_abandoned(path)
    ):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    directory = os.path.dirname(path)
    os.stat(directory)
    if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def _bound(host: str, port: int) -> gevent.socket.socket:
    family, address = _resolve(host, port)
    socket = gevent.socket.socket(family, stdlib_socket.SOCK_STREAM)
    try:
        socket.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_REUSEADDR, 1)
        if family == stdlib_socket.AF_INET6:
            socket.setsockopt(stdlib_socket.IPPROTO_IPV6, stdlib_socket.IPV6_V6ONLY, host != "::")
        socket.bind(address)
    except OSError:
        socket.close()
        raise
    return socket


def _resolve(host: str, port: int) -> tuple[int, Any]:
    """The first address of a name. Asks the blocking resolver: nothing runs yet, and gevent's would leave threads."""
    getaddrinfo = monkey.get_original("socket", "getaddrinfo")
    found = getaddrinfo(host, port, type=stdlib_socket.SOCK_STREAM, flags=stdlib_socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    return family, address


def _listen_unix(path: str) -> Listener:
    """Replaces the socket file of a server that is gone, and nothing else."""
    socket = gevent.socket.socket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_STREAM)
    if os.path.exists(path) and stat.S_ISSOCK(os.stat(path).st_mode) and _is_abandoned(path):
        os.unlink(path)
    socket.bind(path)
    socket.listen(BACKLOG)
    return Listener(socket, path)


def _is_abandoned(path: str) -> bool:
    with gevent.socket.socket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_STREAM) as probe:
        probe.settimeout(0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:  # it is there, but busy or not ours to ask
            return False
        return False


def _typed(name: Any) -> str:
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def load_tls(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    """The context for a certificate chain and its key; None without them. Raises StartError."""
    if certificate is None or key is None:
        return None
    for path in (certificate, key):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise StartError(f"cannot read {path}: {error.strerror}") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password="")  # or it would ask for one at the terminal
    except ssl.SSLError as error:
        raise StartError(
            f"{certificate} and {key} are not a PEM certificate and the key that belongs to it, without a password"
        ) from error
    return context
