"""What ``gbot plan db`` shows: classes of database servers in, lines of text out. Pure; the width is handed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from gbot.counts import number
from gbot.planning.plan import DatabaseServer, db_share, max_connections_for
from gbot.planning.rds import ENGINES, InstanceClass, Origin, Table
from gbot.planning.words import each_of, row, share_text, what_would_do, wrapped

HEADS: Final = ("CLASS", "vCPU", "MEMORY", "MYSQL", "MARIADB", "AURORA MYSQL", "EACH NODE")
HEAD_CELLS: Final = 14
ASK: Final = "What yours says, SELECT @@max_connections tells: give it as --max-connections N."
MAY: Final = "That is what a node may have; gbot plan tells what it needs, which is mostly far less."


def class_lines(one: InstanceClass, origin: Origin, date: str, width: int) -> list[str]:
    """One class, and how many connections it has. ``date`` is that of the table."""
    engine = origin.engine
    old = f"; AWS has deprecated it for {ENGINES[engine]}" if engine in one.deprecated else ""
    elsewhere = [f"{ENGINES[name]}: {number(limit.by_default)}" for name, limit in one.limits.items() if name != engine]
    return [
        *row("Class", [f"{one.name}, {one.vcpu} vCPU, {one.memory_gib:,g} GiB{old}"], width),
        *row("Connections", [*limit_steps(one, engine), *([] if origin.is_given else [ASK])], width),
        *(row("Elsewhere", [", ".join(elsewhere)], width) if elsewhere else []),
        *row("Source", [f"AWS's user guides as read on {date}; gbot plan db names the pages"], width),
    ]


def limit_steps(one: InstanceClass, engine: str) -> list[str]:
    """How many connections the class allows, and what is known of it."""
    limit = one.limits[engine]
    found = f"{number(limit.by_default)} by default on {ENGINES[engine]}"
    if limit.formula is None:
        return [found]
    most = f", {number(limit.formula.at_most)} at most" if limit.by_default == limit.formula.at_most else ""
    steps = [f"{one.memory_gib:,g} GiB / {limit.formula.bytes_per_connection:,} bytes{most} = {found}"]
    if limit.expected < limit.by_default:
        steps.append(f"A server says less, as AWS keeps some of its memory: count on {number(limit.expected)}.")
    return steps


def share_lines(
    server: DatabaseServer, origin: Origin, nodes: int, classes: Mapping[str, int], width: int
) -> list[str]:
    """What each node may be started with. ``classes``: the smallest first, with the connections of each."""
    steps = [share_text(server, nodes, origin)]
    pool = share_json(server, nodes)["db_pool"]
    if pool:
        steps += [f"gbot serve APP --db-pool {pool}" + (f" --db-share {nodes}" if nodes > 1 else ""), MAY]
    else:
        least = max_connections_for(1, nodes, server.has_inbox)
        steps += [f"Too few: nothing is left for a node. {what_would_do(least, origin, classes)}"]
    return row("Each node", steps, width)


def share_json(server: DatabaseServer, nodes: int) -> dict[str, Any]:
    """The share of a node, for programs: ``db_pool`` and ``db_share`` are options of gbot serve."""
    pool = db_share(server.max_connections or 0, nodes, server.has_inbox)
    return {
        "max_connections": server.max_connections,
        "shared_inbox": server.has_inbox,
        "db_pool": pool,
        "db_share": nodes,
    }


def class_json(one: InstanceClass, engine: str, server: DatabaseServer, nodes: int) -> dict[str, Any]:
    """A class for programs, with the share of each node on this engine."""
    told: dict[str, Any] = msgspec.to_builtins(one)
    return told | {"engine": engine} | share_json(server, nodes)


def source_json(table: Table) -> dict[str, Any]:
    """Where the classes are from, for programs."""
    return {"source": {"date": table.date, "pages": [source.address for source in table.sources]}}


def table_lines(
    table: Table, known: Sequence[InstanceClass], engine: str, nodes: int, has_inbox: bool, width: int
) -> list[str]:
    """All classes of an engine, which these are. Only what stands below them is broken to the width."""
    rows = [class_cells(one, engine, nodes, has_inbox) for one in known]
    widths = [max(map(len, column)) for column in zip(HEADS, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(cells_wide) if at else cell.ljust(cells_wide)
            for at, (cell, cells_wide) in enumerate(zip(cells, widths, strict=True))
        )
        for cells in (HEADS, *rows)
    ]
    return [*lines, "", *table_notes(table, engine, nodes, width)]


def class_cells(one: InstanceClass, engine: str, nodes: int, has_inbox: bool) -> Sequence[str]:
    limits = [one.limits.get(name) for name in ENGINES]
    defaults = [number(limit.by_default) if limit else "-" for limit in limits]
    share = db_share(one.limits[engine].expected, nodes, has_inbox)
    return (one.name, str(one.vcpu), f"{one.memory_gib:,g} GiB", *defaults, number(share) if share else "too few")


def table_notes(table: Table, engine: str, nodes: int, width: int) -> list[str]:
    """What the columns mean, and where they are from."""
    mysql, mariadb = (
        f"/ {formula.bytes_per_connection:,} bytes, {formula.at_most:,} at most"
        for formula in (table.formulas["mysql"], table.formulas["mariadb"])
    )
    columns = {
        "MYSQL": f"max_connections by default: the memory {mysql}. A server says less: AWS keeps some",
        "MARIADB": f"the memory {mariadb}, for 10.5 or newer",
        "AURORA MYSQL": "max_connections by default, as AWS tells it",
        "EACH NODE": f"what --db-pool can be on {each_of(nodes)} with {ENGINES[engine]}, counted with care",
    }
    further = " " * HEAD_CELLS
    return [
        *(line for name, what in columns.items() for line in wrapped(f"{name:<{HEAD_CELLS}}{what}", width, further)),
        *wrapped(MAY, width),
        *wrapped(ASK, width),
        f"As read on {table.date} in",
        *(f"  {source.title}\n    {source.address}" for source in table.sources),
    ]
