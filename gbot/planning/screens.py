"""What ``gbot plan`` shows: a plan in, lines of text out. Pure; the width is handed in.

Every number stands with the arithmetic that it comes from, and with where it is from if the asker did not give it.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from gbot.database.sizing import INBOX_CONNECTIONS, KEPT_FREE
from gbot.planning.plan import (
    MB,
    WORKERS_PER_NODE,
    Costs,
    DatabaseServer,
    Load,
    Node,
    Plan,
    db_share,
    events_per_s_max,
    per_node,
)

NAME_CELLS: Final = 12
WIDTH_MAX: Final = 110
LEAST: Final = ", as fewer save nothing"


class Question(msgspec.Struct, frozen=True):
    """What a plan is made from. ``sources`` tells of a field of the load where it is from if the asker did not say it;
    ``connections`` the same of max_connections.
    """

    load: Load
    costs: Costs
    node: Node
    server: DatabaseServer
    headroom: float
    sources: Mapping[str, str]
    connections: str

    @property
    def margin(self) -> str:
        return f"with {self.headroom * 100:g} % headroom"

    def mark(self, field: str) -> str:
        source = self.sources.get(field)
        return f" ({source})" if source else ""


# ---- words and figures


def number(value: float) -> str:
    """Three digits, whole numbers with all of theirs: 0.563, 40.3, 6,500."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def span(seconds: float) -> str:
    return f"{number(seconds)} s" if seconds >= 1 or not seconds else f"{seconds * 1000:.3g} ms"


def some(count: float, one: str, many: str) -> str:
    return f"{number(count)} {one if count == 1 else many}"


def nodes_text(nodes: int | None) -> str:
    return "no number of nodes would do" if nodes is None else some(nodes, "node", "nodes")


def row(name: str, steps: Sequence[str], width: int) -> list[str]:
    """A name and, beside it, a line for each step; what is too long for one goes on a little further in."""
    lines = []
    for step in steps:
        indent = " " * NAME_CELLS
        wrapped = textwrap.wrap(
            f"{name:<{NAME_CELLS}}{step}",
            max(40, min(width, WIDTH_MAX)),
            subsequent_indent=f"{indent}  ",
            break_on_hyphens=False,
        )
        lines += wrapped
        name = ""
    return lines


# ---- a plan


def plan_lines(question: Question, plan: Plan, width: int) -> list[str]:
    """The whole answer."""
    rows = {
        "Handlers": handlers_steps(question, plan),
        "CPU": cpu_steps(question, plan),
        "Memory": memory_steps(question, plan),
        "Database": database_steps(question, plan),
        "Open files": files_steps(question, plan),
    }
    title = f"How many servers for {number(question.load.events_per_s)} events/s?"
    body = [line for name, steps in rows.items() for line in row(name, steps, width)]
    return [title, "", *body, "", *verdict(question, plan, width)]


def handlers_steps(question: Question, plan: Plan) -> list[str]:
    load, whole = question.load, plan.totals
    each = f"{number(load.events_per_s)}/s x {span(load.latency_s)}{question.mark('latency_s')}"
    least = LEAST if plan.share.pool > per_node(whole.pool, plan.shared_by) else ""
    return [
        f"{each} = {number(whole.handlers)} at once; {question.margin} {number(whole.pool)}",
        f"{number(plan.share.pool)} on {_each(plan)}{least}",
    ]


def cpu_steps(question: Question, plan: Plan) -> list[str]:
    costs, whole, rate = question.costs, plan.totals, number(question.load.events_per_s)
    parts = " + ".join(f"{number(part.us)} us {part.what}" for part in costs.cpu)
    total = f" = {number(costs.cpu_us)} us" if len(costs.cpu) > 1 else ""
    has = min(question.node.cores, WORKERS_PER_NODE)
    return [
        f"an event: {parts}{total}",
        f"{rate}/s x {number(costs.cpu_us)} us = {some(whole.cores, 'core', 'cores')}; "
        f"{question.margin} {number(whole.cores_needed)}",
        f"of {some(has, 'core', 'cores')} on a node, which has one worker that uses one: {_nodes_of('CPU', plan)}",
    ]


def memory_steps(question: Question, plan: Plan) -> list[str]:
    costs, own, given = question.costs, plan.share, question.node.memory_bytes
    connections = ""
    if own.db_pool:
        connections = f" + {some(own.db_pool, 'connection', 'connections')} x {number(costs.connection_kb)} KB"
    handlers = f"{some(own.pool, 'handler', 'handlers')} x {number(costs.waiting_kb)} KB"
    steps = [
        f"{number(costs.base_mb)} MB + {handlers}{connections} = {number(own.memory_bytes / MB)} MB on {_each(plan)}"
    ]
    if given is not None:
        steps.append(f"of {number(given / MB)} MB: {_nodes_of('memory', plan)}")
    return steps


def database_steps(question: Question, plan: Plan) -> list[str]:
    load, whole, own, server = question.load, plan.totals, plan.share, question.server
    if not whole.db_pool:
        return [f"no queries{question.mark('queries')}"]
    queries = f"{some(load.queries, 'query', 'queries')}{question.mark('queries')}"
    steps = [
        f"{number(load.events_per_s)}/s x {queries} x {span(load.query_s)}{question.mark('query_s')} = "
        f"{number(whole.connections)} connections held at once; {question.margin} {number(whole.db_pool)}",
        f"{number(own.db_pool)} on {_each(plan)}{LEAST if own.db_pool > own.db_needed else ''}",
    ]
    if server.max_connections is None:
        return [*steps, "whether the server has them, --instance-class or --max-connections lets one tell"]
    enough = "enough" if plan.database_allows else "too few"
    return [*steps, f"the server: {share_text(server, plan.shared_by, question.connections)}: {enough}"]


def files_steps(question: Question, plan: Plan) -> list[str]:
    own, has = plan.share, number(question.node.open_files)
    what = "for the platform and the database"
    if question.load.calls:
        what = f"half of them for {some(own.pool, 'handler', 'handlers')} in a call at worst"
    return [f"{number(own.open_files)} on {_each(plan)}, {what}; of {has}: {_nodes_of('open files', plan)}"]


def share_text(server: DatabaseServer, nodes: int, source: str) -> str:
    """The arithmetic of a node's share of the database server."""
    has = server.max_connections or 0
    inbox = f" - {INBOX_CONNECTIONS} for its inbox" if server.has_inbox else ""
    share = db_share(has, nodes, server.has_inbox)
    kept = f"({number(has)}{source} - {KEPT_FREE} kept for people and tools)"
    return f"{kept} / {nodes_text(nodes)}{inbox} = {number(share)} for each"


def verdict(question: Question, plan: Plan, width: int) -> list[str]:
    """How many nodes, why, and how each is started."""
    bound, own = plan.bound, plan.share
    if not plan.database_allows:
        most = events_per_s_max(question.server, plan.shared_by, question.load, question.headroom)
        sentence = (
            f"No: the database server has too few connections. Each of {nodes_text(plan.shared_by)} needs "
            f"{number(own.db_needed)} and may have {number(plan.db_share or 0)}, which is enough for "
            f"{number(math.floor(most))} events/s in all. A larger class, shorter queries or fewer of them help; more "
            "nodes do not."
        )
        return textwrap.wrap(sentence, max(40, min(width, WIDTH_MAX)))
    if plan.nodes is None:
        return [f"No: however many nodes there are, there is not enough of one thing: {bound.resource}."]
    why = f"because of {bound.resource}" if plan.nodes > 1 else f"of {bound.resource} it uses most"
    options = f"--pool {own.pool}" + (f" --db-pool {own.db_pool}" if own.db_pool else "")
    options += f" --db-share {plan.nodes}" if own.db_pool and plan.nodes > 1 else ""
    return [
        f"{nodes_text(plan.nodes)}, {why}: {number(bound.share * 100)} % on each. One more lets one be away.",
        f"Start each with: gbot serve APP {options}",
    ]


def plan_json(question: Question, plan: Plan) -> str:
    """The plan for programs: what it was made from, and all of its numbers."""
    answer: dict[str, Any] = msgspec.to_builtins(plan)
    for need, told in zip(plan.needs, answer["needs"], strict=True):
        told["share"] = need.share if math.isfinite(need.share) else None
    answer |= {"bound": plan.bound.resource, "feasible": plan.feasible, "database_allows": plan.database_allows}
    return json.dumps({"from": msgspec.to_builtins(question), "cpu_us": question.costs.cpu_us, **answer})


def _each(plan: Plan) -> str:
    return "the node" if plan.shared_by == 1 else f"each of {nodes_text(plan.shared_by)}"


def _nodes_of(resource: str, plan: Plan) -> str:
    return next(nodes_text(need.nodes) for need in plan.needs if need.resource == resource)
