"""How many servers? The arithmetic of ``gbot plan``: from a load and what it costs to nodes and their pools. Pure.

Little's law carries all of it: what is in a place at once is what comes in per second times how long it stays. Handlers
that run, CPU cores that are busy and connections that are held are all counted that way, and ``headroom`` is added to
each, since a mean says nothing of the moments above it. A node has enough when every one of its resources has; the
database server, which all nodes share, is asked last, because more nodes only make it worse.

What an event costs comes from :mod:`gbot.planning.costs`, or was measured by :mod:`gbot.planning.measure`.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from typing import Final

import msgspec

from gbot.database.sizing import ServerLimits, files_for_share, share_of

WORKERS_PER_NODE: Final = 1  # a worker is a process that uses one core
POOL_MIN: Final = 100  # handlers at once on each node: to allow fewer saves nothing
POOL_MAX: Final = 1_000_000  # what --pool can be set to
DB_POOL_MIN: Final = 10  # connections of a node that uses the database at all: so many are opened at the start
NODES_MAX: Final = 1000
CONNECTIONS_MAX: Final = 100_000  # what max_connections can be set to
US_PER_S: Final = 1e6


class Load(msgspec.Struct, frozen=True):
    """What is to be carried at the busiest time. All numbers but the first are means of one event."""

    events_per_s: float
    latency_s: float  # from the handler's start to its end
    queries: float  # uses of a connection: a query by itself is one, a transaction is one as a whole
    query_s: float  # for which each of them holds it
    calls: float  # requests to the platform's API


class Part(msgspec.Struct, frozen=True):
    """CPU time of an event that has one reason: ``name`` for programs, ``what`` for people."""

    name: str
    what: str
    us: float


class Costs(msgspec.Struct, frozen=True):
    """What the load costs."""

    cpu: tuple[Part, ...]
    waiting_bytes: int  # memory of an event whose handler waits
    connection_bytes: int  # memory of a connection to the database
    base_bytes: int  # memory of a worker that has nothing to do

    @property
    def cpu_us(self) -> float:
        """CPU time of one event."""
        return sum(part.us for part in self.cpu)


class Node(msgspec.Struct, frozen=True):
    """What one machine has. ``memory_bytes``: None when nobody has said how much gbot may use."""

    cores: float
    memory_bytes: int | None
    open_files: int


class DatabaseServer(msgspec.Struct, frozen=True):
    """The server that all nodes share. ``max_connections``: None when nobody has said."""

    max_connections: int | None
    has_inbox: bool


class Totals(msgspec.Struct, frozen=True):
    """What the load comes to. ``pool``, ``cores_needed`` and ``db_pool`` are with headroom, the others without."""

    handlers: float
    pool: int
    cores: float
    cores_needed: float
    connections: float
    db_pool: int


class Share(msgspec.Struct, frozen=True):
    """What falls to one node, with headroom. ``db_needed`` connections would do; ``db_pool`` is what it is given."""

    pool: int
    cores: float
    db_needed: int
    db_pool: int
    memory_bytes: int
    open_files: int


class Need(msgspec.Struct, frozen=True):
    """How one resource of a node is used. ``nodes``: the fewest that have enough of it; None: no number has."""

    resource: str
    unit: str
    used: float
    available: float
    nodes: int | None

    @property
    def share(self) -> float:
        return self.used / self.available if self.available else math.inf


class Database(msgspec.Struct, frozen=True):
    """What so many nodes, each of which needs so many connections, are to the database server.

    ``allowed``: what it has for each of them; None: nobody has said. ``max_connections_needed``: what it would have to
    have for them; None: no server can.
    """

    nodes: int
    needed: int
    pool: int
    allowed: int | None
    max_connections_needed: int | None

    @property
    def fits(self) -> bool:
        if self.allowed is None:
            return self.max_connections_needed is not None
        return self.needed <= self.allowed


class Plan(msgspec.Struct, frozen=True):
    """The answer. ``nodes``: None when no number of them carries the load; ``share`` is then that of ``shared_by``.

    ``database`` is of ``shared_by`` nodes, ``database_with_spare`` of one more, so that one may be away; both are None
    where nothing uses it.
    """

    totals: Totals
    nodes: int | None
    shared_by: int
    share: Share
    needs: tuple[Need, ...]
    database: Database | None
    database_with_spare: Database | None

    @property
    def database_allows(self) -> bool:
        return self.database is None or self.database.fits

    @property
    def feasible(self) -> bool:
        return self.nodes is not None and self.database_allows

    @property
    def bound(self) -> Need:
        """The resource that decides, or would be used up first."""
        impossible = [need for need in self.needs if need.nodes is None]
        return max(impossible or self.needs, key=lambda need: (need.nodes or 0, need.share))


# ---- the parts, each by itself


def at_once(per_s: float, seconds: float) -> float:
    """Little's law: how many are there at once when so many come in per second and each stays so long."""
    return per_s * seconds


def with_headroom(value: float, headroom: float) -> float:
    """So much and its share more."""
    return value * (1 + headroom)


def rounded_up(value: float) -> int:
    """The next whole number, forgiving what binary fractions add to a whole one."""
    return math.ceil(round(value, 6))


def per_node(total: int, nodes: int) -> int:
    """A node's part, when no node has a part more than another."""
    return -(-total // nodes)


def db_share(max_connections: int, nodes: int, has_inbox: bool) -> int:
    """How many connections each of the nodes may have when they share a server that nobody else uses."""
    return share_of(ServerLimits(max_connections, 0, 0, 0), nodes, with_inbox=has_inbox).connections


def max_connections_for(share: int, nodes: int, has_inbox: bool) -> int | None:
    """The lowest max_connections that has such a share for each of the nodes; None: none has."""
    all_of_them = range(1, CONNECTIONS_MAX + 1)
    found = bisect.bisect_left(all_of_them, share, key=lambda connections: db_share(connections, nodes, has_inbox))
    return all_of_them[found] if found < CONNECTIONS_MAX else None


def memory_bytes(pool: int, connections: int, costs: Costs) -> int:
    """Memory of a worker with so many handlers and connections."""
    return costs.base_bytes + pool * costs.waiting_bytes + connections * costs.connection_bytes


def open_files(pool: int, connections: int, calls: float) -> int:
    """File descriptors of a worker: at worst every handler is in a call. Half of them are for others than calls.

    Of what the pool of connections may have, a part is kept for clients.
    """
    others = files_for_share(connections)
    return 2 * max(pool, others) if calls else others


def fewest_nodes(enough: Callable[[int], bool]) -> int | None:
    """The fewest nodes with which there is enough, where more nodes are never worse; None: not with NODES_MAX."""
    counts = range(1, NODES_MAX + 1)
    found = bisect.bisect_left(counts, True, key=enough)
    return counts[found] if found < NODES_MAX else None


# ---- the whole


def totals(load: Load, costs: Costs, headroom: float) -> Totals:
    """What the load needs in all."""
    handlers = at_once(load.events_per_s, load.latency_s)
    cores = at_once(load.events_per_s, costs.cpu_us / US_PER_S)
    connections = at_once(load.events_per_s * load.queries, load.query_s)
    return Totals(
        handlers,
        rounded_up(with_headroom(handlers, headroom)),
        cores,
        with_headroom(cores, headroom),
        connections,
        rounded_up(with_headroom(connections, headroom)),
    )


def share(whole: Totals, nodes: int, load: Load, costs: Costs, server: DatabaseServer) -> Share:
    """What falls to each of so many nodes."""
    pool, db_needed = max(POOL_MIN, per_node(whole.pool, nodes)), per_node(whole.db_pool, nodes)
    db_pool = database(db_needed, nodes, server).pool if db_needed else 0
    return Share(
        pool,
        whole.cores_needed / nodes,
        db_needed,
        db_pool,
        memory_bytes(pool, db_pool, costs),
        open_files(pool, db_pool, load.calls),
    )


def database(needed: int, nodes: int, server: DatabaseServer) -> Database:
    """What so many nodes are to the server when each of them needs so many connections."""
    allowed = None
    if server.max_connections is not None:
        allowed = db_share(server.max_connections, nodes, server.has_inbox)
    pool = max(needed, DB_POOL_MIN if allowed is None else min(DB_POOL_MIN, allowed))
    least = pool if allowed is None else needed  # who names no server is to get one that takes the pool
    return Database(nodes, needed, pool, allowed, max_connections_for(least, nodes, server.has_inbox))


def make_plan(load: Load, costs: Costs, node: Node, server: DatabaseServer, headroom: float) -> Plan:
    """The fewest nodes that have enough of everything, and what each of them gets."""
    whole = totals(load, costs, headroom)

    def amounts(nodes: int) -> dict[str, tuple[str, float, float]]:
        """By resource of a node: in what unit, how much is used, and how much there is."""
        own = share(whole, nodes, load, costs, server)
        found: dict[str, tuple[str, float, float]] = {
            "handlers": ("handlers", own.pool, POOL_MAX),
            "CPU": ("cores", own.cores, min(node.cores, WORKERS_PER_NODE)),
            "open files": ("files", own.open_files, node.open_files),
        }
        if node.memory_bytes is not None:
            found["memory"] = ("bytes", own.memory_bytes, node.memory_bytes)
        return found

    def enough_of(resource: str) -> Callable[[int], bool]:
        def enough(nodes: int) -> bool:
            _, used, available = amounts(nodes)[resource]
            return used <= available

        return enough

    fewest = {resource: fewest_nodes(enough_of(resource)) for resource in amounts(1)}
    known = [count for count in fewest.values() if count is not None]
    nodes = max(known) if len(known) == len(fewest) else None
    shared_by = max(known, default=1)
    needs = [Need(resource, *found, fewest[resource]) for resource, found in amounts(shared_by).items()]
    own = share(whole, shared_by, load, costs, server)
    if not own.db_needed:
        return Plan(whole, nodes, shared_by, own, tuple(needs), None, None)
    them, with_spare = (database(own.db_needed, count, server) for count in (shared_by, shared_by + 1))
    if them.allowed is not None:
        name = "database connections"
        needs.append(Need(name, "connections", them.needed, them.allowed, 1 if them.fits else None))
    return Plan(whole, nodes, shared_by, own, tuple(needs), them, with_spare)


def events_per_s_max(server: DatabaseServer, nodes: int, load: Load, headroom: float) -> float:
    """How many events per second the database server has connections for; infinite where none uses it."""
    each = load.queries * load.query_s * (1 + headroom)
    if server.max_connections is None or not each:
        return math.inf
    return db_share(server.max_connections, nodes, server.has_inbox) * nodes / each
