"""Whether the bot's own database can be reached, and has room for the connections of all nodes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Final

from gbot.checks.clock import Reading
from gbot.checks.finding import Finding, fail, milliseconds, ok, skip, warn
from gbot.checks.inbox import clock_of
from gbot.config import Config
from gbot.database.address import Address, parse
from gbot.database.connection import Connection
from gbot.database.connector import Connector
from gbot.database.limits import inbox_beside, limits_beside
from gbot.database.sizing import Share, fit, share_of
from gbot.errors import DatabaseDown, DatabaseMistake, DatabaseRefused

NAME: Final = "database"
ROOM: Final = "db connections"
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
            times = f"connected in {milliseconds(connected_s)}, then answers in {milliseconds(round_s)}"
            tell(clock_of(connection, f"the database {address.host}"))
            return [ok(NAME, f"{place}, {server}, {times}"), _room(config, address, connection), _idle(connection)]
    except DatabaseRefused as error:
        advice = "see to user, password and database in GBOT_DB: gbot serve would not start"
        return [fail(NAME, f"{place} does not let gbot in: {error}", advice)]
    except DatabaseDown as error:
        advice = "start it, or see to host, port and firewall; until it is there, events that need it are put off"
        return [fail(NAME, f"{place} cannot be reached: {error}", advice)]


def _round_s(connection: Connection) -> float:
    began = time.monotonic()
    connection.rows("SELECT 1")
    return time.monotonic() - began


def _room(config: Config, address: Address, connection: Connection) -> Finding:
    try:
        inbox = inbox_beside(address, config.inbox)
        limits = limits_beside(connection, address, inbox)
    except DatabaseMistake as error:
        found = f"the server does not tell its limits ({error}), so --db-pool {config.db_pool} is taken as it is"
        return warn(ROOM, found, "let gbot's user read its variables and status")
    share = share_of(limits, config.db_share, with_inbox=inbox is not None)
    return judged(share, config.db_pool, clamp=config.db_oversize == "clamp")


def judged(share: Share, pool: int, *, clamp: bool) -> Finding:
    """Whether the pool of a node fits into its share. Pure."""
    taken, found = fit(pool, share, clamp=clamp)
    if taken == pool:
        return ok(ROOM, found)
    if share.connections < 1:
        return fail(ROOM, found, f"raise {share.bound}, or end sessions of others")
    if taken:
        return warn(ROOM, found, f"--db-pool {taken}, or raise {share.bound}; gbot serve takes {taken}")
    advice = f"--db-pool {share.connections}, or raise {share.bound}, or --db-oversize clamp to take the share"
    return fail(ROOM, found, advice)


def _idle(connection: Connection) -> Finding:
    [(seconds,)] = connection.rows("SELECT @@GLOBAL.wait_timeout")
    found = f"the server closes connections that are idle for {int(seconds):,} s (wait_timeout)"
    if int(seconds) < IDLE_MIN_S:
        return warn(
            IDLE, f"{found}, so gbot opens new ones again and again", f"SET GLOBAL wait_timeout = {IDLE_MIN_S * 10}"
        )
    return ok(IDLE, found)
