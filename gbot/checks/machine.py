"""What the machine gives to gbot: open files, room for connections that arrive at once, memory."""

from __future__ import annotations

import contextlib
import math
import os
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from gbot.checks.finding import Finding, fail, ok, size, skip, warn
from gbot.config import Config
from gbot.counts import counted
from gbot.database.sizing import FILES_RESERVED, files_for_share, fit, share_of_files
from gbot.listener import BACKLOG
from gbot.planning.costs import read_figures

FILES: Final = "open files"
BACKLOG_NAME: Final = "backlog"
MEMORY: Final = "memory"
SYSTEM: Final = Path("/proc/sys/net")
CGROUPS: Final = Path("/sys/fs/cgroup")
UNLIMITED: Final = 2**60  # what cgroups of version 1 say for no limit is above this
MOST: Final = 0.8  # of the memory


def open_files(config: Config, has_api: bool, has_db: bool, soft: int, hard: int) -> Finding:
    """Whether the limit is enough for what the settings allow; ``soft`` and ``hard`` are RLIMIT_NOFILE."""
    of_database = config.db_pool if has_db else 0
    calls = config.pool if has_api else 0
    parts = [
        (config.connections_max, "of clients"),
        (of_database, "to the database"),
        (calls, "to APIs"),
        (FILES_RESERVED, "others"),
    ]
    needed = sum(number for number, _ in parts)
    arithmetic = " + ".join(f"{number:,} {what}" for number, what in parts if number)
    infinite = hard == resource.RLIM_INFINITY
    there = "there is no limit" if infinite else f"there are {hard:,}"
    raised = f", to which gbot serve raises its soft limit of {soft:,} by itself" if soft < hard or infinite else ""
    found = f"{arithmetic} = {needed:,} at most; {there}{raised}"
    if infinite:
        return ok(FILES, found, {"needed": needed})
    figures = {"needed": needed, "limit": hard}
    enough = max(needed, files_for_share(of_database))
    advice = f"raise the limit (systemd: LimitNOFILE={enough}; a shell: ulimit -Hn {enough}, as root)"
    share = share_of_files(hard)
    taken, line = fit(of_database, share, clamp=config.db_oversize == "clamp")
    if taken < of_database:
        state = warn if taken else fail
        return state(FILES, f"{found}; {line}", f"{advice}, or lower --db-pool to {share.connections}", figures)
    if needed <= hard:
        return ok(FILES, found, figures)
    advice = f"{advice}, or lower --connections-max and --pool; with this one, fewer clients can be connected"
    return warn(FILES, found, advice, figures)


def file_limits() -> tuple[int, int]:
    return resource.getrlimit(resource.RLIMIT_NOFILE)


def backlog(config: Config, system: Path = SYSTEM) -> Finding:
    """Whether the kernel keeps as many connections waiting as gbot asks for."""
    needed = {"core/somaxconn": "net.core.somaxconn"}
    if not config.host.startswith("unix:") and not _number(system / "ipv4/tcp_syncookies"):
        needed["ipv4/tcp_max_syn_backlog"] = "net.ipv4.tcp_max_syn_backlog"  # with SYN cookies it is no bound
    values = {name: _number(system / path) for path, name in needed.items()}
    known = {name: value for name, value in values.items() if value is not None}
    if not known:
        return skip(BACKLOG_NAME, f"{system}/core/somaxconn cannot be read")
    found = f"{', '.join(f'{name} {value:,}' for name, value in known.items())}; gbot asks for {BACKLOG:,}"
    figures = {name.rpartition(".")[2]: value for name, value in known.items()} | {"asked": BACKLOG}
    low = [name for name, value in known.items() if value < BACKLOG]
    if not low:
        return ok(BACKLOG_NAME, found, figures)
    commands = " and ".join(f"sysctl -w {name}={BACKLOG}" for name in low)
    advice = f"as root: {commands}; a file in /etc/sysctl.d makes it last"
    return warn(BACKLOG_NAME, f"{found}: more connections at once would be turned away", advice, figures)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def memory(config: Config, has_db: bool, limit: float) -> Finding:
    """Whether the handlers that may wait at once fit, as gbot's benchmarks have measured them."""
    figures = read_figures()
    connections = config.db_pool if has_db else 0
    handlers, rest = config.pool * figures.calling.in_bytes, connections * figures.connection.in_bytes
    needed = figures.base.in_bytes + handlers + rest
    each = size(figures.calling.in_bytes)
    found = f"{counted(config.pool, 'handler')} at once of {each} each, and the rest: {size(needed)}"
    if math.isinf(limit):
        return skip(MEMORY, f"{found}; how much there is cannot be told")
    found += f" of {size(limit)}"
    told = {"needed_bytes": round(needed), "limit_bytes": round(limit)}
    if needed <= limit * MOST:
        return ok(MEMORY, found, told)
    return warn(MEMORY, found, "lower --pool, or give gbot more memory (systemd: MemoryMax=)", told)


def memory_limit() -> float:
    """What this process may use: of the machine, its cgroup and its ulimit, the lowest."""
    limits = [_total(), *_of_cgroups(_lines(Path("/proc/self/cgroup")), CGROUPS)]
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if address_space != resource.RLIM_INFINITY:
        limits.append(address_space)
    return min(limits)


def _total() -> float:
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return math.inf


def _of_cgroups(lines: Sequence[str], root: Path) -> Iterator[int]:
    """The limits of the cgroups that a process is in, up to the root; ``lines`` are those of /proc/PID/cgroup."""
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, file = root, "memory.max"
        elif "memory" in controllers.split(","):
            top, file = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        here = Path(os.path.normpath(f"{top}/{path}"))
        for directory in (here, *here.parents):
            if directory.is_relative_to(top):
                limit = _number(directory / file)
                if limit is not None and limit < UNLIMITED:
                    yield limit


def _lines(path: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return path.read_text().splitlines()
    return []
