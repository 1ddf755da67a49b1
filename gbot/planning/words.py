"""How ``gbot plan`` writes numbers, units and rows. Pure.

Memory is counted in units of 1,024: KiB, MiB and GiB.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Final

from gbot.counts import counted, number
from gbot.database.sizing import ServerLimits, share_of
from gbot.planning.plan import NODES_MAX, DatabaseServer
from gbot.planning.rds import ENGINES, GIB, Origin

NAME_CELLS: Final = 12
WIDTH_MIN: Final = 40
WIDTH_MAX: Final = 110
UNITS: Final = {"GiB": GIB, "MiB": 2**20}
NO_BREAK: Final = "\N{NO-BREAK SPACE}"
NOBODY_THERE: Final = " (0 there now)"  # of a server that was asked; this one was not


def span(seconds: float) -> str:
    return f"{number(seconds)} s" if seconds >= 1 or not seconds else f"{seconds * 1000:.3g} ms"


def size(bytes_: int) -> str:
    for name, unit in UNITS.items():
        if bytes_ >= unit:
            return f"{number(bytes_ / unit)} {name}"
    return f"{number(bytes_ / 1024)} KiB"


def nodes_text(nodes: int | None) -> str:
    return f"not even {number(NODES_MAX)} nodes would do" if nodes is None else counted(nodes, "node")


def each_of(nodes: int) -> str:
    return "the node" if nodes == 1 else f"each of {nodes_text(nodes)}"


def share_text(server: DatabaseServer, nodes: int, origin: Origin) -> str:
    """The arithmetic of a node's share of the database server, as gbot serve and gbot check show it."""
    limits = ServerLimits(server.max_connections or 0, 0, 0, 0)
    line = share_of(limits, nodes, with_inbox=server.has_inbox).arithmetic.replace(NOBODY_THERE, "")
    if origin.text:
        line = re.sub("^max_connections [0-9]+", lambda told: f"{told[0]} ({origin.text})", line)
    return re.sub("[0-9]{4,}", lambda digits: f"{int(digits[0]):,}", line)


def smallest_class(max_connections: int | None, classes: Mapping[str, int]) -> str | None:
    """The first that has so many connections; ``classes`` come with theirs, the smallest first."""
    enough = (name for name, has in classes.items() if max_connections is not None and has >= max_connections)
    return next(enough, None)


def what_would_do(max_connections: int | None, origin: Origin, classes: Mapping[str, int]) -> str:
    """Which server would have so many connections. A sentence."""
    if max_connections is None:
        return "No server can have as many as it takes."
    one = smallest_class(max_connections, classes)
    engine = ENGINES[origin.engine]
    which = f"no class of {engine} has as many" if one is None else f"{one} is the smallest class of {engine} that has"
    return f"max_connections {number(max_connections)} would do; by default {which}{' as many' if one else ''}."


def wrapped(text: str, width: int, further: str = "") -> list[str]:
    """The text in lines; those after the first begin with ``further``. No line ends between a number and its unit."""
    kept = re.sub("(?<=[0-9]) (?=[%A-Za-zµ])", NO_BREAK, text)
    width = max(WIDTH_MIN, min(width, WIDTH_MAX))
    lines = textwrap.wrap(kept, width, subsequent_indent=further, break_on_hyphens=False)
    return [line.replace(NO_BREAK, " ") for line in lines]


def row(name: str, steps: Sequence[str], width: int) -> list[str]:
    """A name and, beside it, a line for each step; what is too long for one goes on a little further in."""
    lines = []
    for step in steps:
        lines += wrapped(f"{name:<{NAME_CELLS}}{step}", width, " " * (NAME_CELLS + 2))
        name = ""
    return lines
