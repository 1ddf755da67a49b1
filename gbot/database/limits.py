"""What a server allows, asked of the server."""

from __future__ import annotations

from gbot.database.connection import Connection
from gbot.database.sizing import ServerLimits
from gbot.errors import DatabaseMistake


def read_limits(connection: Connection) -> ServerLimits:
    """Raises what :class:`Connection` raises; DatabaseMistake as well where the answers tell nothing.

    No privilege is needed: everybody is shown the sessions of one's own user, and how many there are in all. The
    session's max_user_connections is what the account was given, or else the server's own.
    """
    maxima = connection.rows("SELECT @@GLOBAL.max_connections, @@SESSION.max_user_connections")
    connected = connection.rows("SHOW GLOBAL STATUS LIKE 'Threads_connected'")
    own_name = connection.rows("SELECT USER()")
    sessions = connection.rows("SHOW PROCESSLIST")  # the table beside it is on its way out of MySQL
    try:
        [(connections_max, user_max)], [(_, used)], [(own,)] = maxima, connected, own_name
        user = own.rpartition("@")[0]
        used_by_user = sum(session[1] == user for session in sessions)
        return ServerLimits(int(connections_max), int(user_max), int(used), used_by_user)
    except (AttributeError, IndexError, TypeError, ValueError):  # something between here and there has answered
        raise DatabaseMistake("the answers to questions about limits are not those of MySQL or MariaDB", 0) from None
