"""What the checks of the inbox and of the database ask of a MySQL server alike, and what to do when it is away."""

from __future__ import annotations

import re
import time
from typing import Final

from gbot.checks.clock import Reading, reading
from gbot.database.connection import Connection
from gbot.errors import DatabaseDown, DatabaseMistake

CLOCK: Final = "SELECT UNIX_TIMESTAMP(NOW(6))"
READ_ONLY: Final = "SELECT @@GLOBAL.read_only, @@GLOBAL.innodb_read_only"  # Aurora's readers have the second one alone
NO: Final = {"0", "OFF"}
WRITER: Final = (
    "the server that takes writes (Aurora: the cluster endpoint and not the reader's), or wait for the end of a "
    "failover, if there is one"
)
RDS: Final = "(RDS, Aurora: in the parameter group)"
FULL: Final = (
    "all its connections are in use: see whose they are with SHOW PROCESSLIST, for which the server keeps one more for "
    f"its admin; then lower --db-pool on nodes that have more than their share, or raise max_connections {RDS}"
)
USER_FULL: Final = (
    "what this user may have is in use: lower --db-pool on the nodes, or raise the user's limit (ALTER USER … WITH "
    f"MAX_USER_CONNECTIONS …) or, if that is the server's own, max_user_connections {RDS}"
)
BLOCKED: Final = "let its admin do that, when what has broken the connections from here is mended"
OFFLINE: Final = "wait until its admin has it online again (SET GLOBAL offline_mode = OFF)"
NO_TLS: Final = "see to the server's certificate, or choose ?tls=off, on or verify at the end of the URL"
ADVICE: Final = {1040: FULL, 1129: BLOCKED, 1203: USER_FULL, 1226: USER_FULL, 2026: NO_TLS, 3032: OFFLINE}


def when_away(error: DatabaseDown) -> str:
    """What to do about a server that cannot be reached; its text begins with the number of MySQL's error, if any."""
    number = re.match(r"\d+", str(error))
    return ADVICE.get(int(number[0]) if number else 0, "start it, or see to host, port and firewall")


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
