"""Whether gbot can listen where it is to listen, and who does if it cannot.

The address is bound and let go again without ever being listened on: nobody can connect to the check by mistake.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gbot.checks.finding import Finding, fail, ok, warn
from gbot.config import Config
from gbot.listener import UNIX_PREFIX, probe

NAME: Final = "port"
UNPRIVILEGED: Final = (
    "let the service bind it (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE), or listen on a higher port "
    "behind a proxy"
)
PROC: Final = Path("/proc")
LISTENING: Final = "0A"  # the state in /proc/net/tcp
ACCEPTS: Final = "00010000"  # the flags of a listening socket in /proc/net/unix


@dataclass(frozen=True, slots=True)
class Holder:
    """Who listens: a process, if it can be seen, else its user at most."""

    who: str
    is_gbot: bool


def port(config: Config) -> Finding:
    """Try to bind."""
    unix = config.host.startswith(UNIX_PREFIX)
    where = config.host if unix else f"{config.host} port {config.port}"
    try:
        probe(config.host, config.port)
    except OSError as error:
        return _refused(config, where, error)
    if not unix and config.port == 0:
        return ok(NAME, f"{config.host}, on a free port that gbot serve picks at each start")
    return ok(NAME, f"{where} is free")


def _refused(config: Config, where: str, error: OSError) -> Finding:
    path = config.host.removeprefix(UNIX_PREFIX) if config.host.startswith(UNIX_PREFIX) else None
    if error.errno == errno.EADDRINUSE:
        return _taken(where, config.port, path)
    found = f"cannot listen on {where}: {error.strerror or error}"
    if error.errno == errno.EACCES:
        return fail(NAME, found, f"let gbot's user write to {os.path.dirname(path)}" if path else UNPRIVILEGED)
    if error.errno == errno.EADDRNOTAVAIL:
        return fail(NAME, found, "give an address of this machine, or :: for all of them, as --host")
    return fail(NAME, found, "give another --host")


def _taken(where: str, number: int, path: str | None) -> Finding:
    if path is not None and not stat.S_ISSOCK(os.lstat(path).st_mode):
        return fail(NAME, f"{path} is there already, and is no socket", "give another --host, or move it away")
    holder = holder_of(number, path)
    other = "--host" if path is not None else "--port"
    if holder is None:
        return fail(NAME, f"{where} is taken, and by whom cannot be told", f"find out as root, or give another {other}")
    found = f"{where} is taken by {holder.who}"
    if holder.is_gbot:
        return warn(NAME, found, f"if that is not the server you mean to run, end it or give another {other}")
    return fail(NAME, found, f"end that, or give another {other}")


def holder_of(number: int, path: str | None) -> Holder | None:
    """Who listens on a TCP port, or on the Unix socket at a path; None if that cannot be seen."""
    sockets = dict(_unix(path) if path is not None else _tcp(number))
    for inode in sockets:
        for process in _processes(f"socket:[{inode}]"):
            return Holder(f"{_name(process)} (process {process.name})", _is_gbot(process))
    for user in sockets.values():
        if user is not None:
            return Holder(f"a process of {_user(user)} that this user cannot see", False)
    return None


def _tcp(number: int) -> Iterator[tuple[str, int | None]]:
    """The inodes of the sockets that listen on a port, and their users."""
    for table in ("tcp", "tcp6"):
        for row in _rows(PROC / "net" / table):
            if row[3] == LISTENING and int(row[1].rpartition(":")[2], 16) == number:
                yield row[9], int(row[7])


def _unix(path: str) -> Iterator[tuple[str, int | None]]:
    for row in _rows(PROC / "net" / "unix"):
        if row[3] == ACCEPTS and row[7:] == [path]:
            yield row[6], None


def _rows(path: Path) -> Iterator[list[str]]:
    with contextlib.suppress(OSError):
        yield from (line.split() for line in path.read_text(errors="replace").splitlines()[1:])


def _processes(link: str) -> Iterator[Path]:
    """Those that have this open, of those that this user may look into."""
    for process in PROC.iterdir():
        if process.name.isdecimal():
            with contextlib.suppress(OSError):
                if any(_link(descriptor) == link for descriptor in (process / "fd").iterdir()):
                    yield process


def _link(path: Path) -> str | None:
    try:
        return os.readlink(path)
    except OSError:  # closed meanwhile
        return None


def _name(process: Path) -> str:
    """Its command line may hold secrets; the name of its program does not."""
    if _is_gbot(process):
        return "gbot serve"
    with contextlib.suppress(OSError):
        return (process / "comm").read_text(errors="replace").strip()
    return "a process"


def _is_gbot(process: Path) -> bool:
    with contextlib.suppress(OSError):
        words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        return "serve" in words and any(word.rpartition("/")[2] == "gbot" for word in words)
    return False


def _user(number: int) -> str:
    try:
        return f"user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"user {number}"
