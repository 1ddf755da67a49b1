"""Whether the bot's own database can be reached and written to, and has room for the connections of all nodes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from contextlib import closing
from typing import Final

from gbot.checks.clock import Reading
from gbot.checks.finding import Finding, fail, in_ms, milliseconds, ok, skip, warn
from gbot.checks.server import WRITER, clock_of, is_read_only
from gbot.config import Config
from gbot.counts import counted
from gbot.database.address import Address, parse
from gbot.database.advice import RDS, when_away, when_refused
from gbot.database.connection import Connection
from gbot.database.connector import Connector
from gbot.database.limits import inbox_beside, limits_beside
from gbot.database.sizing import Share, fit, may_be_of_other_nodes, share_of
from gbot.errors import DatabaseDown, DatabaseMistake, DatabaseRefused

NAME: Final = "database"
ROOM: Final = "db connections"
SESSIONS: Final = "db sessions"
IDLE: Final = "db idle"
IDLE_MIN_S: Final = 60
ROUNDS: Final = 5  # of which the fastest counts: the first ones make caches warm


def database(config: Config, tell: Callable[[Reading], object]) -> list[Finding]:
    """``tell`` takes what it says its time is."""
    if config.db is None:
        return [skip(NAME, "there is no --db: handlers have no ctx.db")]
    address = parse(config.db)
    place = address.place
    began = time.monotonic()
    try:
        with closing(Connector(address).connect()) as connection:
            connected_s = time.monotonic() - began
            [(server,)] = connection.rows("SELECT VERSION()")
            round_s = min(_round_s(connection) for _ in range(ROUNDS))
            tell(clock_of(connection, address))
            reached = _reached(connection, f"{place}, {server}", connected_s, round_s)
            return [reached, *_connections(config, address, connection), _idle(connection)]
    except DatabaseRefused as error:
        advice = f"{when_refused(error, 'GBOT_DB')}: gbot serve would not start"
        return [fail(NAME, f"{place} does not let gbot in: {error}", advice)]
    except DatabaseDown as error:
        advice = f"{when_away(error)}; events that need it are put off until gbot serve can reach it"
        return [fail(NAME, f"{place} cannot be reached: {error}", advice)]


def _round_s(connection: Connection) -> float:
    began = time.monotonic()
    connection.rows("SELECT 1")
    return time.monotonic() - began


def _reached(connection: Connection, server: str, connected_s: float, round_s: float) -> Finding:
    found = f"{server}, connected in {milliseconds(connected_s)}, then answers in {milliseconds(round_s)}"
    figures = {"connected_ms": in_ms(connected_s), "answer_ms": in_ms(round_s)}
    if not is_read_only(connection):
        return ok(NAME, found, figures)
    return warn(NAME, f"{found}; it is read-only", f"if handlers write, name in GBOT_DB {WRITER}", figures)


def _connections(config: Config, address: Address, connection: Connection) -> list[Finding]:
    """What room there is, in numbers as well, and who else of the same user is in it."""
    inbox = inbox_beside(address, config.inbox)
    try:
        limits = limits_beside(connection, address, inbox)
    except DatabaseMistake as error:
        found = f"the server does not tell its limits ({error}), so --db-pool {config.db_pool} is taken as it is"
        return [warn(ROOM, found, "let gbot's user read its variables and status")]
    share = share_of(limits, config.db_share, with_inbox=inbox is not None)
    room = judged(share, config.db_pool, clamp=config.db_oversize == "clamp")
    figures = {
        "max_connections": limits.connections_max,
        "used_by_others": limits.used_by_others,
        "kept_for_others": limits.kept_for_others,
        "nodes": config.db_share,
        "share": share.connections,
        "db_pool": config.db_pool,
    }
    if limits.user_max > 0:
        figures["max_user_connections"] = limits.user_max
    there = share.used_by_user - 1  # this check has one
    return [dataclasses.replace(room, figures=figures), sessions(address.user, there, share, config)]


def sessions(user: str, there: int, share: Share, config: Config) -> Finding:
    """Whether connections of the same user, which may be this node's own, hint at nodes that are not counted. Pure."""
    figures = {"used_by_user": max(0, there)}
    if there <= 0:
        return ok(SESSIONS, f"user {user} has no other connections open there", figures)
    found = f"user {user} has {counted(there, 'connection')} open there already"
    if config.db_share > 1:
        return ok(SESSIONS, f"{found}, which are in the shares of the {config.db_share} nodes", figures)
    pool = min(config.db_pool, share.connections)
    both = f"{found}; with {pool:,} more for --db-pool that is {there + pool:,}"
    if not may_be_of_other_nodes(share, config.db_pool, there, config.db_share):
        return ok(SESSIONS, f"{both} of {share.connections:,}", figures)
    advice = (
        "if they are those of other nodes, set --db-share to the number of nodes; if they are those of this node's "
        "server, which is to be started anew, all is well"
    )
    return warn(SESSIONS, f"{both}, more than the {share.connections:,} of this node", advice, figures)


def judged(share: Share, pool: int, *, clamp: bool) -> Finding:
    """Whether the pool of a node fits into its share. Pure."""
    taken, found = fit(pool, share, clamp=clamp)
    if taken == pool:
        return ok(ROOM, found)
    if share.connections < 1:
        others = ", or end sessions of others" if share.is_crowded else ""
        return fail(ROOM, found, f"raise {share.bound} {RDS}{others}")
    if taken:
        return warn(ROOM, found, f"--db-pool {taken}, or raise {share.bound} {RDS}; gbot serve takes {taken}")
    advice = f"--db-pool {share.connections}, or raise {share.bound} {RDS}, or --db-oversize clamp to take the share"
    return fail(ROOM, found, advice)


def _idle(connection: Connection) -> Finding:
    try:
        [(seconds,)] = connection.rows("SELECT @@GLOBAL.wait_timeout")
    except DatabaseMistake:
        return skip(IDLE, "the server does not tell when it closes connections that are idle (wait_timeout)")
    found = f"the server closes connections that are idle for {int(seconds):,} s (wait_timeout)"
    figures = {"wait_timeout_s": int(seconds)}
    if int(seconds) < IDLE_MIN_S:
        advice = f"as its admin: SET GLOBAL wait_timeout = {IDLE_MIN_S * 10} {RDS}"
        return warn(IDLE, f"{found}, so gbot opens new ones again and again", advice, figures)
    return ok(IDLE, found, figures)
