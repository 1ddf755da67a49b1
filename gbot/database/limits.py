"""What a server allows, asked of the server."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from gbot.database.address import Address, parse
from gbot.database.connection import Connection
from gbot.database.connector import Connector
from gbot.database.sizing import ServerLimits
from gbot.errors import DatabaseError, DatabaseMistake

READINGS: Final = 3


def inbox_beside(address: Address, inbox: str) -> Address | None:
    """Where the ``inbox`` of the settings is, if it takes its connections from the server at ``address``, too."""
    if not inbox.startswith("mysql:"):
        return None
    other = parse(inbox)
    return other if other.is_beside(address) else None


def limits_beside(connection: Connection, address: Address, inbox: Address | None) -> ServerLimits:
    """As ``read_limits`` at ``address``, beside the ``inbox`` on the same server, whose user may be another one.

    Its sessions are no others'. They are only shown to itself, so that it has to be asked.
    """
    limits = read_limits(connection)
    if inbox is None or inbox.user == address.user:
        return limits
    try:
        asking = Connector(inbox).connect()
    except DatabaseError:  # then it has none, and whoever needs the inbox says why
        return limits
    try:
        return replace(limits, used_by_inbox=_sessions(asking, inbox.user) - 1)  # this one was not there before
    finally:
        asking.close()


def read_limits(connection: Connection) -> ServerLimits:
    """Raises what :class:`Connection` raises; DatabaseMistake as well where the answers tell nothing.

    No privilege is needed: everybody is shown the sessions of one's own user, and how many there are in all. These are
    two answers, and a session on its way in or out looks like another user's meanwhile. A rolling restart has many of
    them, and must not keep a node from its share: of a few readings the one with the fewest others counts.

    The session's max_user_connections is what the account was given, or else the server's own.
    """
    maxima = connection.rows("SELECT @@GLOBAL.max_connections, @@SESSION.max_user_connections, USER()")
    try:
        [(connections_max, user_max, own)] = maxima
        user = own.rpartition("@")[0]
        readings = [
            ServerLimits(int(connections_max), int(user_max), *_used(connection, user)) for _ in range(READINGS)
        ]
    except (AttributeError, IndexError, TypeError, ValueError):  # something between here and there has answered
        raise DatabaseMistake("the answers to questions about limits are not those of MySQL or MariaDB", 0) from None
    return min(readings, key=lambda limits: limits.used_by_others)


def _used(connection: Connection, user: str) -> tuple[int, int]:
    """How many sessions there are, and how many of them are this user's."""
    [(_, used)] = connection.rows("SHOW GLOBAL STATUS LIKE 'Threads_connected'")
    return int(used), _sessions(connection, user)


def _sessions(connection: Connection, user: str) -> int:
    sessions = connection.rows("SHOW PROCESSLIST")  # the table beside it is on its way out of MySQL
    return sum(session[1] == user for session in sessions)
