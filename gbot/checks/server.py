"""What the checks of the inbox and of the database ask of a MySQL server alike."""

from __future__ import annotations

import time
from typing import Final

from gbot.checks.clock import Reading, reading
from gbot.database.address import Address
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


def clock_of(connection: Connection, address: Address) -> Reading:
    """The time of a server, which the inbox and the database may share. Raises DatabaseError."""
    asked_s = time.time()
    [(theirs,)] = connection.rows(CLOCK)
    where = address.unix_socket or f"{address.host}:{address.port}"
    return reading(f"the database server {where}", float(theirs), asked_s, time.time())
