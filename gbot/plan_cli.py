"""``gbot plan``: how many servers a load needs; ``gbot plan db``: how many connections a database has for them.

Exit codes: 0 there is a plan; 1 it cannot be done, or nothing could be measured; 2 wrong usage. Plans and tables go to
standard output, everything else to standard error.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from gbot.config import SETTINGS
from gbot.counts import counted
from gbot.database.sizing import INBOX_CONNECTIONS
from gbot.desk_cli import EXIT_NOT_DONE, complain, refuse
from gbot.errors import ConfigError
from gbot.kinds import Kind
from gbot.planning import costs as known_costs
from gbot.planning import kinds, rds, rds_screens, verdict
from gbot.planning.costs import MYSQL, SQLITE, Figures, Measured
from gbot.planning.plan import DatabaseServer, Node, make_plan
from gbot.planning.screens import Question

if TYPE_CHECKING:
    from gbot.planning.asking import Surroundings

F = TypeVar("F", bound=Callable[..., Any])

EXIT_SETTING: Final = 2
SOURCE: Final = "the command line"
WIDTH_WITHOUT_TERMINAL: Final = 100
MICRO: Final = "µ"
CLASS_HELP: Final = "Class of the database server at Amazon RDS or Aurora, such as db.r6g.large."
FOR_APP: Final = ("url", "texts", "seconds", "rate")
DB: Final = SETTINGS["db"]
DEFAULT_TEXTS: Final = ("hello",)


def _option(flag: str, name: str, kind: Kind, sentence: str, default: str | None = None) -> Callable[[F], F]:
    """An option of this kind, which says what is wrong with a value as the settings of gbot serve do."""

    def read(context: click.Context, parameter: click.Parameter, text: str | None) -> Any:
        if text is None:
            return None
        try:
            return kind.read(text)
        except ValueError:
            raise ConfigError(flag, kind.expected, repr(text), SOURCE) from None

    shown = f"{sentence}  [default: {default}]" if default is not None else sentence
    return click.option(flag, name, metavar=kind.metavar, default=default, callback=read, help=shown)


def _server_options(command: F) -> F:
    """Which database server it is."""
    command = click.option(
        "--shared-inbox",
        "has_inbox",
        is_flag=True,
        help=f"The inbox is in the same server, which takes {INBOX_CONNECTIONS} more of each node.",
    )(command)
    command = _option(
        "--max-connections",
        "max_connections",
        kinds.CONNECTIONS,
        "What SELECT @@max_connections says there; it goes before what the class has by default.",
    )(command)
    command = click.option(
        "--engine", type=click.Choice(list(rds.ENGINES)), default="mysql", show_default=True, help="What runs on it."
    )(command)
    return click.option("--instance-class", metavar="CLASS", help=CLASS_HELP)(command)


@click.group(short_help="How many servers, and how many connections.", invoke_without_command=True)
@_option("--events", "events", kinds.RATE, "Events at the busiest time, such as 2000/s or 600/min.")
@_option("--latency", "latency_s", kinds.LATENCY, "Mean time that a handler takes, such as 2.5s.")
@_option(
    "--queries",
    "queries",
    kinds.COUNT,
    "How often an event uses a connection: a query once, a whole transaction once.  [default: 0]",
)
@_option("--query-time", "query_s", kinds.QUERY_TIME, "For how long each use holds it.  [default: 2ms]")
@_option("--calls", "calls", kinds.COUNT, "Replies and pushes of an event.  [default: 1]")
@_option("--headroom", "headroom", kinds.PERCENT, "How much more than the mean there is room for.", "30%")
@_option("--cores", "cores", kinds.CORES, "Cores of a node; gbot works on one of them.", "2")
@_option("--memory", "memory_bytes", kinds.SIZE, "Memory of a node that gbot may use, such as 2GiB.  [default: enough]")
@_option("--files", "open_files", kinds.FILES, "Open-file limit of a node; deploy/gbot.service sets it.", "65536")
@_server_options
@click.option(
    "--report", type=click.Path(path_type=Path), metavar="FILE", help="What bench/run.py measured: its report.json."
)
@click.option("--app", metavar="APP", help="Measure the handlers of this bot (module:attribute) first.")
@click.option("--db", "url", metavar=DB.kind.metavar, help=f"Its database, as of gbot serve.  [default: {DB.variable}]")
@click.option(
    "--event-text",
    "texts",
    metavar="TEXT",
    multiple=True,
    help="What its users say; may be repeated.  [default: hello]",
)
@_option("--seconds", "seconds", kinds.SPAN, "For how long it is measured.  [default: 10]")
@_option("--rate", "rate", kinds.MEASURED_RATE, "Events/s that it is measured with, ten at a time.  [default: 20/s]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
@click.pass_context
def plan(context: click.Context, /, **given: Any) -> None:
    """How many servers does a load need? Tells pools, memory, connections and nodes, and the arithmetic of each.

    The closing question of many a benchmark: 5,000 handlers at once that wait 2-3 s for something and ask the database
    one SELECT. By Little's law these are 5,000 / 2.5 s = 2,000 events per second, and a connection is held for the 2 ms
    of the query and not for the 2.5 s of the handler:

    \b
      gbot plan --events 2000/s --latency 2.5s --queries 1 \\
          --instance-class db.r3.2xlarge

    What was not measured comes from gbot's own benchmarks; what your code computes is not in it. --report takes what
    they found on your machine. --app measures your handlers: it runs gbot serve APP on 127.0.0.1 for a while, with
    events of the plain platform only and an inbox in memory. The secrets of LINE and Messenger are removed from its
    environment, so that nothing reaches a chat platform: replies go nowhere. Everything else is as in your shell: its
    database is the one that --db or GBOT_DB names, and what your handlers do there is done. Its max_connections counts
    where neither --max-connections nor --instance-class is given.

    \b
      gbot plan --events 2000/s --app mybot:bot \\
          --event-text hello --event-text "/weather Oslo"

    The exit code is 0 when there is a plan, 1 when the load cannot be carried or nothing could be measured, and 2 when
    an option is wrong.
    """
    is_bare = all(context.get_parameter_source(name) is click.core.ParameterSource.DEFAULT for name in given)
    if context.invoked_subcommand is not None:
        if not is_bare:
            raise click.UsageError(f"Give the options of {context.invoked_subcommand} after its name, and no others.")
        return
    if is_bare:
        click.echo(context.get_help())
        return
    _check_usage(given)
    figures = known_costs.read_figures()
    known = rds.classes(rds.read_table())
    server, origin, _ = _server(given, known)  # first: to measure takes its time, and may be in vain
    around, stored_in = _around(given), MYSQL if server.has_inbox else SQLITE
    if around is not None:
        server, origin = around.refined(server, origin)
        stored_in = around.stored_in
    measured = _measured(given, figures, around)
    load, sources = known_costs.load_of(given, measured)
    if measured is None:
        costs = known_costs.usual_costs(figures, load)
    else:
        costs = known_costs.measured_costs(figures, load, measured, stored_in)
    node = Node(given["cores"], given["memory_bytes"], given["open_files"])
    found = make_plan(load, costs, node, server, given["headroom"])
    classes = rds.by_size(known, given["engine"])
    question = Question(
        load, costs, node, server, given["headroom"], origin, sources, given["app"], measured, classes, stored_in
    )
    if given["as_json"]:
        _show(verdict.plan_json(question, found))
    else:
        _show("\n".join(verdict.plan_lines(question, found, _width())))
    if not found.feasible:
        sys.exit(EXIT_NOT_DONE)


def _check_usage(given: Mapping[str, Any]) -> None:
    """Raises UsageError."""
    if given["events"] is None:
        raise click.UsageError("Say how many events come at the busiest time, such as --events 2000/s.")
    if given["app"] is not None and given["report"] is not None:
        raise click.UsageError("--app measures, --report tells what was measured: give one of them.")
    if given["app"] is None and any(given[name] for name in FOR_APP):
        raise click.UsageError("--db, --event-text, --seconds and --rate are for --app.")
    if given["app"] is None and given["report"] is None and given["latency_s"] is None:
        raise click.UsageError("Say how long a handler takes, such as --latency 2.5s, or measure it with --app.")
    if any("," in text or not text.strip() for text in given["texts"]):
        raise click.UsageError("--event-text: a comma ends a text on the plain platform; give it several times.")


def _around(given: Mapping[str, Any]) -> Surroundings | None:
    """Where the bot of --app lives; None without one. Raises ConfigError and StartError."""
    if given["app"] is None:
        return None
    from gbot.planning.asking import surroundings

    found = surroundings(given["url"], os.environ)
    if found.doubt:
        complain(found.doubt)
    return found


def _measured(given: Mapping[str, Any], figures: Figures, around: Surroundings | None) -> Measured | None:
    if around is not None:
        return _measure(given, figures, around)
    path = given["report"]
    if path is None:
        return None
    try:
        found = known_costs.from_report(path.read_bytes(), figures, without_queries=given["queries"] == 0)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError("--report", "a report of bench/run.py", f"{str(path)!r}: {why}", SOURCE) from None
    for note in found.notes:
        complain(f"{found.where}: {note}")
    return found


def _measure(given: Mapping[str, Any], figures: Figures, around: Surroundings) -> Measured:
    """Measure the author's handlers, and say what speaks against what was found. Raises StartError."""
    from gbot.planning.measure import ServeRefused, measure

    texts, rate, seconds = given["texts"] or DEFAULT_TEXTS, given["rate"] or 20.0, given["seconds"] or 10.0
    try:
        found = measure(given["app"], texts, rate, seconds, figures, around.environ, complain)
    except ServeRefused as refused:
        complain(str(refused))
        sys.exit(EXIT_SETTING if refused.code == EXIT_SETTING else EXIT_NOT_DONE)
    why = f". {found.trouble}" if found.trouble else ""
    if not found.succeeded:
        refuse(f"none of {counted(found.sent, 'event')} succeeded, so there is nothing to plan with{why}")
    doubts = found.doubts()
    if doubts:
        complain(f"{'; '.join(doubts)}; the figures may not tell much{why}")
    return found.measured


def _server(
    given: Mapping[str, Any], known: dict[str, rds.InstanceClass]
) -> tuple[DatabaseServer, rds.Origin, rds.InstanceClass | None]:
    """The database server, where its number of connections is from, and its class. Raises ConfigError."""
    name, engine, connections = given["instance_class"], given["engine"], given["max_connections"]
    is_given = connections is not None
    if name is None:
        return DatabaseServer(connections, given["has_inbox"]), rds.Origin(engine, is_given=is_given), None
    one, limit = rds.find(known, name, engine)
    origin = rds.Origin(engine, name, is_given, limit.formula is not None)
    return DatabaseServer(connections if is_given else limit.expected, given["has_inbox"]), origin, one


@plan.command(short_help="How many connections a database server has for each node.")
@_server_options
@_option("--nodes", "nodes", kinds.NODES, "How many nodes share the server.", "1")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def db(nodes: int, as_json: bool, **given: Any) -> None:
    """How many connections has a database server for each node? --db-pool can be as large as that.

    Without --instance-class, all classes of RDS and Aurora are listed. A server says less of itself than the formula
    gives for its memory; --max-connections takes what yours says. The exit code is 1 when nothing is left for a node.
    """
    table, engine = rds.read_table(), given["engine"]
    known = rds.classes(table)
    server, origin, one = _server(given, known)
    if one is None and server.max_connections is None:
        _show_classes(table, known, engine, server.has_inbox, nodes, as_json)
        return
    told = rds_screens.share_json(server, nodes)
    lines = rds_screens.share_lines(server, origin, nodes, rds.by_size(known, engine), _width())
    if one is not None:
        told = rds_screens.source_json(table) | rds_screens.class_json(one, engine, server, nodes)
        lines = [*rds_screens.class_lines(one, origin, table.date, _width()), *lines]
    _show(json.dumps(told) if as_json else "\n".join(lines))
    if not told["db_pool"]:
        sys.exit(EXIT_NOT_DONE)


def _show_classes(
    table: rds.Table, known: Mapping[str, rds.InstanceClass], engine: str, has_inbox: bool, nodes: int, as_json: bool
) -> None:
    """All classes of an engine."""
    its = [one for one in known.values() if engine in one.limits]
    if not as_json:
        _show("\n".join(rds_screens.table_lines(table, its, engine, nodes, has_inbox, _width())))
        return
    servers = [DatabaseServer(one.limits[engine].expected, has_inbox) for one in its]
    told = [rds_screens.class_json(one, engine, server, nodes) for one, server in zip(its, servers, strict=True)]
    _show(json.dumps(rds_screens.source_json(table) | {"classes": told}))


def _show(text: str) -> None:
    """On standard output, whatever its encoding is."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    try:
        MICRO.encode(encoding)
    except UnicodeEncodeError:
        text = text.replace(MICRO, "u")
    click.echo(text.encode(encoding, "backslashreplace").decode(encoding))


def _width() -> int:
    return shutil.get_terminal_size((WIDTH_WITHOUT_TERMINAL, 24)).columns
