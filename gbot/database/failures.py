"""PyMySQL's errors as those of :mod:`gbot.errors`.

No text of these errors holds a password or a value that was sent. The server quotes values in its messages, so a
mistake is described by its number, its name, the statement without its values, and what of the message can be told
from a value: the name of a key, a column, a table.
"""

from __future__ import annotations

import os
import re
from typing import Final

import pymysql
from pymysql.constants import ER

from gbot.errors import (
    DatabaseAway,
    DatabaseDown,
    DatabaseError,
    DatabaseMistake,
    DatabaseRefused,
    Deadlock,
    DuplicateKey,
)

NO_SUCH_THREAD: Final = 1094
TLS_REFUSED: Final = 2026
NOT_WITHOUT_TLS: Final = {1045, 3159}  # some servers say no more than the first one, as they do of a wrong password
REFUSALS: Final = {1044, 1045, 1049, 1130, 1251, 1698, 1820, 1862, 1873, 3118, 3159, 4151}  # this user, or database
_PASSWORD_EXPIRED: Final = 1820  # MariaDB lets its user in, and refuses all statements

_DUPLICATES: Final = {1022, 1062, 1169, 1586}
_DEADLOCKS: Final = {
    1020: "a row has been changed since it was read",
    1205: "it waited too long for a lock that another transaction holds",
    1213: "undone, because transactions waited for each other's locks",  # or, with Galera, for another node's
    3058: "it would have waited for ever for a lock of GET_LOCK()",
    3101: "undone, because of a conflict with another member of the group",
    3572: "another transaction holds a lock, for which NOWAIT does not wait",
}
# Server errors that say something about the server and nothing about the statement. All of the client's (2000-2999)
# are about the connection.
_DOWN: Final = {
    *(1021, 1026, 1030, 1037, 1038, 1041, 1114),  # no disk or memory left, or it cannot write
    *(1040, 1203, 1226),  # too many connections
    *(1043, 1053, 1077, 1079, 1152, 1158, 1159, 1160, 1161, 1184),  # starting, stopping, or the network
    *(1180, 1181, 3100),  # it could not commit, or not roll back
    1792,  # the transaction is read-only
    3032,  # it is in its offline mode, in which only admins are let in
    *(1317, 1927, 1969, 3024, 3168, 3169, 4031),  # statement or connection killed
}
# Of these, the ones after which the server may have executed it all the same: it was stopping, or the network failed.
_UNCERTAIN: Final = {1053, 1077, 1079, 1152, 1158, 1159, 1160, 1161, 1180, 1181, 1184, 1927, 4031}
# The server has certainly not executed it, and may do so later: read-only as in a failover, or its cluster not ready.
_NOT_NOW: Final = {1047, 1836}
_OPTION_PREVENTS: Final = 1290  # read-only; or an option that will be there tomorrow, such as --secure-file-priv
_NOT_NOW_S: Final = 1.0
_PARSE_ERROR: Final = 1064

_NAMES: Final = {
    **{code: name for name, code in vars(ER).items() if isinstance(code, int)},
    # MySQL's that PyMySQL has no names for.
    3058: "USER_LOCK_DEADLOCK",
    3572: "LOCK_NOWAIT",
    3819: "CHECK_CONSTRAINT_VIOLATED",
}
# What a message names, as MariaDB and MySQL word it in English. Where it quotes a value too, only what follows it up to
# the end is looked at: a value that looks like the rest of a message is not at its end.
_COLUMN_AT_END: Final = r"for column (?:'([^']+)'|`[^`]+`\.`[^`]+`\.`([^`]+)`) at row \d+\Z"
_KEY_AT_END: Final = r"for key '([^']+)'\Z"
_NAMED: Final = {
    1048: ("column", r"\AColumn '([^']+)' cannot be null\Z"),
    1052: ("column", r"\AColumn '([^']+)' in .* is ambiguous\Z"),
    1054: ("column", r"\AUnknown column '([^']+)' in "),
    1062: ("key", _KEY_AT_END),
    1110: ("column", r"\AColumn '([^']+)' specified twice\Z"),
    1142: ("table", r" for table (?:'([^']+)'|`[^`]+`\.`([^`]+)`)\Z"),
    1146: ("table", r"\ATable '([^']+)' doesn't exist\Z"),
    **dict.fromkeys((1264, 1265, 1292, 1366, 1406), ("column", _COLUMN_AT_END)),
    1305: ("routine", r"\A(?:PROCEDURE|FUNCTION) (\S+) does not exist\Z"),
    1364: ("column", r"\AField '([^']+)' doesn't have a default value\Z"),
    **dict.fromkeys((1451, 1452), ("constraint", r", CONSTRAINT `([^`]+)` FOREIGN KEY ")),
    1586: ("key", _KEY_AT_END),
    3819: ("constraint", r"\ACheck constraint '([^']+)' is violated"),
    4025: ("constraint", r"\ACONSTRAINT `([^`]+)` failed for "),
}

_HEAD: Final = 400  # of a statement that is too long for a text: so many characters of its begin, and of its end
_TAIL: Final = 200
_NOT_AUTHORS: Final = (os.path.dirname(__file__) + os.sep, os.path.dirname(pymysql.__file__) + os.sep)


class NotReady(DatabaseAway):
    """The server is there and refuses the statement: nothing was executed, and the connection is as it was."""


def code_of(error: pymysql.MySQLError) -> int:
    """The number of the server's or the client's error; 0 for those of PyMySQL itself."""
    return error.args[0] if error.args and isinstance(error.args[0], int) else 0


def reason_of(error: pymysql.MySQLError) -> str:
    """What it says, in one line."""
    text = " ".join(str(part) for part in error.args if part not in (0, ""))
    return text or "the connection is closed"


def shown(sql: str) -> str:
    """A statement, or its begin and its end, in a form that can be logged."""
    if len(sql) > _HEAD + _TAIL:
        sql = f"{sql[:_HEAD]} … {sql[-_TAIL:]}"
    return sql.encode(errors="backslashreplace").decode()


def failure_of(error: pymysql.MySQLError, sql: str, *, with_values: bool = True) -> DatabaseError:
    """What it is to who wrote ``sql``, and gave values for its placeholders or did not."""
    code = code_of(error)
    sql = shown(sql)
    if code in _DEADLOCKS:
        return Deadlock(f"{_title(code, _DEADLOCKS[code])} for: {sql}")
    if code in _NOT_NOW or (code == _OPTION_PREVENTS and re.search("read[-_]only", reason_of(error))):
        return NotReady(reason_of(error), _NOT_NOW_S)
    if code == _PASSWORD_EXPIRED:
        return DatabaseRefused(f"{reason_of(error)}: {sql}")
    if code in _DOWN or 2000 <= code < 3000 or (code == 0 and not isinstance(error, pymysql.ProgrammingError)):
        return DatabaseDown(f"{reason_of(error)}{_uncertain(error)}: {sql}")
    if code == 0:  # PyMySQL itself, which has not sent it
        return DatabaseMistake(f"{reason_of(error)}: {sql}", 0)
    kind, name = _named(error)
    title = _title(code, f"{kind} {name}" if name else "")
    if code in _DUPLICATES:
        return DuplicateKey(f"{title} for: {sql}", code, name)
    if code == _PARSE_ERROR and not with_values and ("%s" in sql or "%(" in sql):
        title += ", to which placeholders were sent as they are, because no values were given,"
    return DatabaseMistake(f"{title} for: {sql}", code)


def failure_at(error: BaseException, taken_in: str) -> DatabaseError | None:
    """An error of PyMySQL, met by an author on what was ``taken_in`` a file and line; None: it is another one."""
    if not isinstance(error, pymysql.MySQLError):
        return None
    return failure_of(error, f"a statement{_line_of(error)} on the connection taken in {taken_in}")


def _title(code: int, more: str) -> str:
    inside = ", ".join(part for part in (_NAMES.get(code, ""), more) if part)
    return f"error {code}{f' ({inside})' if inside else ''} from the database"


def _named(error: pymysql.MySQLError) -> tuple[str, str | None]:
    """What the server's message names, and its name, if that can be told."""
    kind, pattern = _NAMED.get(code_of(error), ("", r"\A\Z"))
    found = re.search(pattern, str(error.args[1])) if len(error.args) > 1 else None
    name = next(filter(None, found.groups()), None) if found is not None else None
    if name is not None and kind == "key":
        name = name.rpartition(".")[2]  # MySQL has its table before it, MariaDB has not
    return kind, name


def _uncertain(error: pymysql.MySQLError) -> str:
    """Added to a text where nobody can tell; PyMySQL's InterfaceError is that of a statement that was never sent."""
    code = code_of(error)
    known = isinstance(error, pymysql.InterfaceError) or (code in _DOWN and code not in _UNCERTAIN)
    return "" if known else "; nobody knows whether it was executed"


def _line_of(error: BaseException) -> str:
    """Where the author, or a library, has called PyMySQL."""
    line, step = "", error.__traceback__
    while step is not None:
        file = step.tb_frame.f_code.co_filename
        if not file.startswith(_NOT_AUTHORS):
            line = f" in {file}:{step.tb_lineno}"
        step = step.tb_next
    return line
