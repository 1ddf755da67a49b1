"""What is known of the author's bot before it is measured: its settings, and what its database's server allows.

A database that is away, or does not let the bot in, is told of here: the measured server would put all events off.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import gevent
import msgspec

from gbot.config import SETTINGS
from gbot.config_sources import CONFIG_VARIABLE, load
from gbot.counts import counted
from gbot.database.address import Address, parse
from gbot.database.advice import when_away, when_refused
from gbot.database.connector import Connector
from gbot.database.limits import inbox_beside, read_limits
from gbot.database.sizing import ServerLimits
from gbot.errors import DatabaseDown, DatabaseMistake, DatabaseRefused, StartError
from gbot.planning.costs import MEMORY, MYSQL, SQLITE
from gbot.planning.plan import DatabaseServer
from gbot.planning.rds import Origin

ASK_MAX_S: Final = 3.0


class Surroundings(msgspec.Struct, frozen=True):
    """Where a bot lives.

    ``environ``: what gbot serve is to be started with. ``limits``: of its database's server; None: there is no
    database, or what answers in its place does not tell. ``has_inbox``: whether its inbox is in that server, too.
    """

    environ: Mapping[str, str]
    stored_in: str
    limits: ServerLimits | None = None
    has_inbox: bool = False

    @property
    def doubt(self) -> str:
        """What speaks against planning with max_connections, if anything."""
        if self.limits is None or not 0 < self.limits.user_max < self.limits.connections_max:
            return ""
        its = counted(self.limits.user_max, "connection")
        return f"the user of the bot's database may have {its} there; the plan counts on max_connections"

    def refined(self, server: DatabaseServer, origin: Origin) -> tuple[DatabaseServer, Origin]:
        """What was said of the server, and what was found here where nothing was said."""
        has_inbox = server.has_inbox or self.has_inbox
        if server.max_connections is not None or self.limits is None:
            return DatabaseServer(server.max_connections, has_inbox), origin
        return DatabaseServer(self.limits.connections_max, has_inbox), Origin(origin.engine, is_asked=True)


def surroundings(url: str | None, given: Mapping[str, str]) -> Surroundings:
    """Those of a bot in this environment; ``url`` goes before its database there.

    Raises ConfigError, and StartError, which tells what to do, where handlers could not use the database.
    """
    environ = dict(given)
    file = environ.get(CONFIG_VARIABLE)
    config, _ = load({"db": url}, environ, Path(file) if file else None, serving=False)
    stored_in = MYSQL if config.inbox.startswith("mysql:") else MEMORY if config.inbox == "memory:" else SQLITE
    if config.db is None:
        return Surroundings(environ, stored_in)
    environ[SETTINGS["db"].variable] = config.db
    address = parse(config.db)
    has_inbox = inbox_beside(address, config.inbox) is not None
    return Surroundings(environ, stored_in, ask_database(address), has_inbox)


def ask_database(address: Address) -> ServerLimits | None:
    """What its server allows; None: it does not tell. Raises StartError."""
    try:
        with gevent.Timeout(ASK_MAX_S, DatabaseDown(f"no answer within {ASK_MAX_S:g} s")):
            return _limits(address)
    except DatabaseRefused as error:
        why = f"does not let gbot in: {error}; {when_refused(error, 'its URL')}"
        raise StartError(f"nothing was measured: the bot's database {address.place} {why}") from None
    except DatabaseDown as error:
        why = f"cannot be reached: {error}; {when_away(error)}"
        raise StartError(f"nothing was measured: the bot's database {address.place} {why}") from None


def _limits(address: Address) -> ServerLimits | None:
    connection = Connector(address).connect()
    try:
        return read_limits(connection)
    except DatabaseMistake:  # a proxy that knows other questions only
        return None
    finally:
        connection.close()
