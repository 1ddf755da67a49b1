"""The answer of ``gbot plan``: how many nodes, why, and with which command each is started; also for programs. Pure."""

from __future__ import annotations

import json
import math
import shlex
from typing import Any, Final

import msgspec

from gbot.counts import counted, number
from gbot.planning.plan import NODES_MAX, Database, Need, Plan, events_per_s_max
from gbot.planning.screens import Question, resource_lines
from gbot.planning.words import each_of, nodes_text, size, smallest_class, what_would_do, wrapped

UNNAMED: Final = "APP"
TOLD_BY: Final = {"CPU": "--cores", "memory": "--memory", "open files": "--files"}


def plan_lines(question: Question, plan: Plan, width: int) -> list[str]:
    """The whole answer."""
    title = f"How many servers for {counted(question.load.events_per_s, 'event')}/s?"
    return [title, "", *resource_lines(question, plan, width), "", *verdict(question, plan, width)]


def verdict(question: Question, plan: Plan, width: int) -> list[str]:
    """How many nodes, why, and how each is started."""
    if plan.database is not None and not plan.database.fits:
        return wrapped(too_few(question, plan.database), width)
    if plan.nodes is None:
        return wrapped(impossible(plan.bound.resource), width)
    used = f"{number(plan.bound.share * 100)} % of {available(plan.bound)}"
    if plan.nodes == 1:
        found = f"1 node. Its tightest resource: {plan.bound.resource}, {used}, headroom included."
    else:
        found = f"{nodes_text(plan.nodes)}, because of {plan.bound.resource}: {used} on each, headroom included."
    each = "it" if plan.nodes == 1 else "each"
    command = f"  {start_command(question.app, plan, plan.database)}"
    return [*wrapped(found, width), f"Start {each} with:", command, *spare_lines(question, plan, width)]


def available(need: Need) -> str:
    """How much of a resource there is."""
    if need.unit == "bytes":
        return size(round(need.available))
    if need.unit == "cores":
        return "a core" if need.available == 1 else f"{number(need.available)} cores"
    return counted(need.available, need.unit.removesuffix("s"), need.unit)


def impossible(resource: str) -> str:
    """Nodes of this kind cannot carry the load, however many there are: what would have to be larger."""
    told_by = TOLD_BY.get(resource)
    advice = f" Larger ones might have; {told_by} tells how much there is on each." if told_by else ""
    return f"No: not even {number(NODES_MAX)} nodes have enough of one thing: {resource}.{advice}"


def too_few(question: Question, database: Database) -> str:
    """The database server cannot serve the load: what could be, and what would do."""
    allowed = ""
    if database.allowed is not None:
        most = events_per_s_max(question.server, database.nodes, question.load, question.headroom)
        events = counted(math.floor(most), "event")
        allowed = f" and may have {number(database.allowed)}, which is enough for {events}/s in all"
    return (
        f"No: the database server has too few connections. {_capital(each_of(database.nodes))} needs "
        f"{number(database.needed)}{allowed}. More nodes do not help. {_what_would_do(question, database)} "
        "With shorter uses of a connection, or fewer of them, less will do."
    )


def spare_lines(question: Question, plan: Plan, width: int) -> list[str]:
    """How there can be one node more than are needed."""
    spare = plan.database_with_spare
    if spare is None:
        return wrapped("One more, started in the same way, lets one be away.", width)
    if spare.fits:
        so = f"With one more, so that one may be away, start each of the {spare.nodes} with:"
        return [*wrapped(so, width), f"  {start_command(question.app, plan, spare)}"]
    sentence = (
        f"One more, so that one may be away, has no room in the database: {each_of(spare.nodes)} might have "
        f"{counted(spare.allowed or 0, 'connection')} and needs {number(spare.needed)}. "
        f"{_what_would_do(question, spare)}"
    )
    return wrapped(sentence, width)


def start_command(app: str | None, plan: Plan, database: Database | None) -> str:
    """What each node is started with."""
    words = ["gbot", "serve", UNNAMED if app is None else shlex.quote(app), "--pool", str(plan.share.pool)]
    if database is not None:
        words += ["--db-pool", str(database.pool)]
        words += ["--db-share", str(database.nodes)] if database.nodes > 1 else []
    return " ".join(words)


def plan_json(question: Question, plan: Plan) -> str:
    """The plan for programs: what it was made from, and all of its numbers."""
    needs = [
        msgspec.to_builtins(need) | {"used_share": need.share if math.isfinite(need.share) else None}
        for need in plan.needs
    ]
    told = {
        "from": _asked(question),
        "cpu_us_per_event": round(question.costs.cpu_us, 3),
        "totals": msgspec.to_builtins(plan.totals),
        "feasible": plan.feasible,
        "nodes": plan.nodes,
        "shared_by": plan.shared_by,
        "share": msgspec.to_builtins(plan.share),
        "needs": needs,
        "bound": plan.bound.resource,
        "database": _database_json(question, plan.database),
        "database_with_spare": _database_json(question, plan.database_with_spare),
        "command": start_command(question.app, plan, plan.database) if plan.feasible else None,
        "command_with_spare": _spare_command(question, plan),
    }
    return json.dumps(told)


def _asked(question: Question) -> dict[str, Any]:
    costs, server, origin = question.costs, question.server, question.origin
    memory = {name: getattr(costs, name) for name in ("waiting_bytes", "connection_bytes", "base_bytes")}
    return {
        "app": question.app,
        "load": msgspec.to_builtins(question.load),
        "sources": dict(question.sources),
        "stored_in": question.stored_in,
        "costs": {"cpu_us": {part.name: round(part.us, 3) for part in costs.cpu}, **memory},
        "measured_rate_per_s": question.measured.rate_per_s if question.measured else None,
        "node": msgspec.to_builtins(question.node),
        "server": msgspec.to_builtins(server) | msgspec.to_builtins(origin),
        "headroom_share": question.headroom,
    }


def _database_json(question: Question, database: Database | None) -> dict[str, Any] | None:
    if database is None:
        return None
    told: dict[str, Any] = msgspec.to_builtins(database)
    smallest = smallest_class(database.max_connections_needed, question.classes)
    return told | {"fits": database.fits, "smallest_class": smallest}


def _spare_command(question: Question, plan: Plan) -> str | None:
    spare = plan.database_with_spare
    if not plan.feasible or (spare is not None and not spare.fits):
        return None
    return start_command(question.app, plan, spare)


def _what_would_do(question: Question, database: Database) -> str:
    return what_would_do(database.max_connections_needed, question.origin, question.classes)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
