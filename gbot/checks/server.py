"""What the checks of the inbox and of the database ask of a MySQL server alike."""

from __future__ import annotations

import time
from typing import Final

from gbot.checks.clock import Reading, reading
from gbot.database.connection import Connection
from gbot.errors import DatabaseMistake

CLOCK: Final = "SELECT UNIX_TIMESTAMP(NOW(6))"
READ_ONLY: Final = "SELECT @@GLOBAL.read_only, @@GLOBAL.innodb_read_only"  # Aurora's readers have the second one alone
NO: Final = {"0", "OFF"}
WRITER: Final = (
    "the server that takes writes (Aurora: the cluster endpoint and not the reader's), or wait for the end of a "
    "failover, if there is one"
)


def is_read_only(connection: Connection) -> bool:
    """Whether only admins can write to it, as to a replica. Raises DatabaseDown."""
    try:
        [values] = connection.rows(READ_ONLY)
    except DatabaseMistake:  # a proxy that knows other questions only
        return False
    return any(str(value).upper() not in NO for value in values)


def clock_of(connection: Connection, whose: str) -> Reading:
    """The time of a server. Raises DatabaseError."""
    asked_s = time.time()
    [(theirs,)] = connection.rows(CLOCK)
    return reading(whose, float(theirs), asked_s, time.time())
