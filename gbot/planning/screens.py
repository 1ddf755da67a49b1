"""What ``gbot plan`` shows of each resource: a plan in, lines of text out. Pure; the width is handed in.

Every number stands with the arithmetic that it comes from, and with where it is from if the asker did not give it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from gbot.counts import counted, number
from gbot.database.sizing import INBOX_CONNECTIONS
from gbot.planning.costs import MYSQL, SQLITE, Measured
from gbot.planning.plan import (
    POOL_MAX,
    WORKERS_PER_NODE,
    Costs,
    Database,
    DatabaseServer,
    Load,
    Node,
    Plan,
    per_node,
    with_headroom,
)
from gbot.planning.rds import Origin
from gbot.planning.words import each_of, nodes_text, row, share_text, size, span

LEAST: Final = ", the least that a node is given"
ALL: Final = ", all that it may have"


class Question(msgspec.Struct, frozen=True):
    """What a plan is made from.

    ``sources`` tells of a field of the load where it is from if the asker did not say it, ``origin`` the same of
    max_connections. ``measured``: what ``app`` or a report has shown. ``classes``: of a database server, the smallest
    first, each with its connections. ``stored_in``: where the inbox keeps events.
    """

    load: Load
    costs: Costs
    node: Node
    server: DatabaseServer
    headroom: float
    origin: Origin
    sources: Mapping[str, str] = {}
    app: str | None = None
    measured: Measured | None = None
    classes: Mapping[str, int] = {}
    stored_in: str = SQLITE

    @property
    def margin(self) -> str:
        return f"with {self.headroom * 100:g} % headroom"

    def padded(self, value: float, whole: int) -> str:
        """A number that is there at once with the headroom, which makes it so many whole ones."""
        exact = with_headroom(value, self.headroom)
        if abs(exact - whole) < 1e-6:
            return f"{self.margin} {number(whole)}"
        return f"{self.margin} {f'{exact:,.1f}' if exact >= 100 else number(exact)}, rounded up {number(whole)}"

    def mark(self, field: str) -> str:
        source = self.sources.get(field)
        return f" ({source})" if source else ""


def resource_lines(question: Question, plan: Plan, width: int) -> list[str]:
    """What the load needs of everything."""
    rows = {
        "Handlers": handlers_steps(question, plan),
        "CPU": cpu_steps(question, plan),
        "Memory": memory_steps(question, plan),
        "Database": database_steps(question, plan),
        "Open files": files_steps(question, plan),
    }
    return [line for name, steps in rows.items() for line in row(name, steps, width)]


def handlers_steps(question: Question, plan: Plan) -> list[str]:
    whole = plan.totals
    bound = LEAST if plan.share.pool > per_node(whole.pool, plan.shared_by) else ""
    if whole.pool > POOL_MAX:
        bound = f"; of {number(POOL_MAX)}, the most that a node can be given: {_nodes_of('handlers', plan)}"
    return [
        f"{number(question.load.events_per_s)}/s x {span(question.load.latency_s)}{question.mark('latency_s')} = "
        f"{number(whole.handlers)} at once; {question.padded(whole.handlers, whole.pool)}",
        f"{number(plan.share.pool)} on {each_of(plan.shared_by)}{bound}",
    ]


def cpu_steps(question: Question, plan: Plan) -> list[str]:
    costs, whole, rate = question.costs, plan.totals, number(question.load.events_per_s)
    parts = " + ".join(f"{number(part.us)} µs {part.what}" for part in costs.cpu)
    total = f" = {number(costs.cpu_us)} µs" if len(costs.cpu) > 1 else ""
    has = counted(min(question.node.cores, WORKERS_PER_NODE), "core")
    bound = ", whose one worker can use no more" if question.node.cores > WORKERS_PER_NODE else ""
    return [
        f"an event: {parts}{total}",
        *_upper_bound(question),
        f"{rate}/s x {number(costs.cpu_us)} µs = {counted(whole.cores, 'core')}; "
        f"{question.margin} {number(whole.cores_needed)}",
        f"of {has} on a node{bound}: {_nodes_of('CPU', plan)}",
    ]


def _upper_bound(question: Question) -> list[str]:
    rate = question.measured.rate_per_s if question.measured else None
    if rate is None or rate >= question.load.events_per_s:
        return []
    return [
        f"that is an upper bound: at {number(rate)}/s a server has to wake up for every few events, at more it is "
        "awake (--rate N measures with more)"
    ]


def memory_steps(question: Question, plan: Plan) -> list[str]:
    costs, own, given = question.costs, plan.share, question.node.memory_bytes
    connections = ""
    if own.db_pool:
        connections = f" + {counted(own.db_pool, 'connection')} x {size(costs.connection_bytes)}"
    handlers = f"{counted(own.pool, 'handler')} x {size(costs.waiting_bytes)}"
    steps = [
        f"{size(costs.base_bytes)} + {handlers}{connections} = {size(own.memory_bytes)} on {each_of(plan.shared_by)}"
    ]
    if given is not None:
        steps.append(f"of {size(given)}: {_nodes_of('memory', plan)}")
    return steps


def database_steps(question: Question, plan: Plan) -> list[str]:
    load, whole, database = question.load, plan.totals, plan.database
    if database is None:
        return [f"no queries{question.mark('queries')}", *_inbox_steps(question, plan)]
    more = ""
    if database.pool > database.needed:
        more = ALL if database.pool == database.allowed else LEAST
    uses = f"{counted(load.queries, 'use')} of a connection{question.mark('queries')}"
    return [
        f"{number(load.events_per_s)}/s x {uses} x {span(load.query_s)}{question.mark('query_s')} = "
        f"{number(whole.connections)} at once; {question.padded(whole.connections, whole.db_pool)}",
        f"{number(database.pool)} on {each_of(database.nodes)}{more}",
        _server_step(question, database),
        *([] if question.server.has_inbox else _inbox_steps(question, plan)),
    ]


def _inbox_steps(question: Question, plan: Plan) -> list[str]:
    """What the inbox takes where no other step tells of it."""
    if question.stored_in != MYSQL:
        return []
    where = "there" if question.server.has_inbox else "in its own server"
    return [f"the inbox: {counted(INBOX_CONNECTIONS, 'connection')} of {each_of(plan.shared_by)} {where}"]


def _server_step(question: Question, database: Database) -> str:
    if database.allowed is None:
        needed = database.max_connections_needed
        if needed is None:
            return "no server can have as many"
        return (
            f"the server's max_connections has to be {number(needed)} or more; "
            "--instance-class or --max-connections lets one tell whether it is"
        )
    enough = "enough" if database.fits else "too few"
    return f"the server: {share_text(question.server, database.nodes, question.origin)}: {enough}"


def files_steps(question: Question, plan: Plan) -> list[str]:
    own, has = plan.share, number(question.node.open_files)
    what = "for what comes in"
    if own.db_pool:
        what += f" and {counted(own.db_pool, 'connection')} to the database"
    if question.load.calls:
        what = f"half for calls, of {counted(own.pool, 'handler')} at worst, half {what}"
    each = each_of(plan.shared_by)
    return [f"{number(own.open_files)} on {each}: {what}", f"of {has}: {_nodes_of('open files', plan)}"]


def _nodes_of(resource: str, plan: Plan) -> str:
    return next(nodes_text(need.nodes) for need in plan.needs if need.resource == resource)
