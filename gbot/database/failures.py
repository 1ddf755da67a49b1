"""PyMySQL's errors as those of :mod:`gbot.errors`.

No text of these errors holds a password or a value that was sent: the server quotes values in its messages, so a
mistake is described by its number, its name and the statement without its values.
"""

from __future__ import annotations

from typing import Final

import pymysql
from pymysql.constants import ER

from gbot.errors import (
    DatabaseAway,
    DatabaseDown,
    DatabaseError,
    DatabaseMistake,
    Deadlock,
    DuplicateKey,
)

NO_SUCH_THREAD: Final = 1094
TLS_REFUSED: Final = 2026
REFUSALS: Final = {1044, 1045, 1049, 1130, 1251, 1698, 1862, 1873, 3118, 3159, 4151}  # this user or database: not here

_DUPLICATES: Final = {1022, 1062, 1169, 1586}
_DEADLOCKS: Final = {
    1020,  # the row has changed since it was read
    1205,  # waited too long for a lock
    1213,  # deadlock; with Galera also a conflict with another node
    3101,  # a conflict with another member of a replication group
}
# Server errors that say something about the server and nothing about the statement. All of the client's (2000-2999)
# are about the connection.
_DOWN: Final = {
    *(1021, 1026, 1030, 1037, 1038, 1041, 1114),  # no disk or memory left, or it cannot write
    *(1040, 1203, 1226),  # too many connections
    *(1043, 1053, 1077, 1079, 1152, 1158, 1159, 1160, 1161, 1184),  # starting, stopping, or the network
    *(1180, 1181),  # it could not commit, or not roll back
    1792,  # the transaction is read-only
    *(1317, 1927, 1969, 3024, 3168, 3169, 4031),  # statement or connection killed
}
# The server has certainly not executed it, and may do so later: read-only as in a failover, or its cluster not ready.
_NOT_NOW: Final = {1047, 1290, 1836}
_NOT_NOW_S: Final = 1.0
_NAMES: Final = {code: name for name, code in vars(ER).items() if isinstance(code, int)}


def code_of(error: pymysql.MySQLError) -> int:
    """The number of the server's or the client's error; 0 for those of PyMySQL itself."""
    return error.args[0] if error.args and isinstance(error.args[0], int) else 0


def reason_of(error: pymysql.MySQLError) -> str:
    """What it says, in one line."""
    text = " ".join(str(part) for part in error.args if part not in (0, ""))
    return text or "the connection is closed"


def failure_of(error: pymysql.MySQLError, sql: str) -> DatabaseError:
    """What it is to who wrote ``sql``."""
    code = code_of(error)
    if code in _DEADLOCKS:
        return Deadlock(reason_of(error))
    if code in _NOT_NOW:
        return DatabaseAway(reason_of(error), _NOT_NOW_S)
    if code in _DOWN or 2000 <= code < 3000 or (code == 0 and not isinstance(error, pymysql.ProgrammingError)):
        return DatabaseDown(reason_of(error))
    kind = DuplicateKey if code in _DUPLICATES else DatabaseMistake
    return kind(f"error {code} ({_NAMES.get(code, 'unknown')}) from the database for: {sql[:300]}", code)


def failure_at(error: BaseException, place: str) -> DatabaseError | None:
    """An error of PyMySQL, met by an author at ``place``, as one of gbot's, without values; None: it is another one."""
    return failure_of(error, f"a statement {place}") if isinstance(error, pymysql.MySQLError) else None
