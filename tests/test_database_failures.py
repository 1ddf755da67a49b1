"""gbot.database.failures: what errors tell, which is names and never values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

import pymysql
import pytest

from gbot.database.address import parse
from gbot.database.connection import Connection
from gbot.database.connector import Connector
from gbot.database.failures import failure_of
from gbot.errors import (
    DatabaseAway,
    DatabaseDown,
    DatabaseError,
    DatabaseMistake,
    DatabaseRefused,
    Deadlock,
    DuplicateKey,
)
from tests.database_rig import anew

SECRET: Final = "sEcReT"
TABLE: Final = "gbot_test_failures"
# What looks like the rest of a message, in a value.
TRICKS: Final = [
    SECRET,
    f"for key '{SECRET}",
    f"' for key '{SECRET}'",
    f"x' for column '{SECRET}' at row 1",
    f"for column `a`.`b`.`{SECRET}` at row 1",
    f"for column `a`.`b`.`{SECRET}",
]


@pytest.fixture(scope="module")
def connection(mysql_url: str) -> Iterator[Connection]:
    admin = Connector(parse(mysql_url)).connect()
    anew(admin, "DATABASE", TABLE, "")  # MySQL checks no foreign keys in its own one
    made = Connector(parse(urlsplit(mysql_url)._replace(path=f"/{TABLE}").geturl())).connect()
    columns = (
        "id INT PRIMARY KEY, slot VARCHAR(200), short VARCHAR(3) NOT NULL, day DATE, UNIQUE KEY one_per_slot (slot)"
    )
    checks = "n INT, CONSTRAINT n_is_positive CHECK (n > 0)"
    made.execute(f"CREATE TABLE {TABLE} ({columns}) CHARSET utf8mb4")
    made.execute(f"CREATE TABLE {TABLE}_n ({checks})")
    made.execute(f"CREATE TABLE {TABLE}_of (id INT, CONSTRAINT of_one FOREIGN KEY (id) REFERENCES {TABLE} (id))")
    yield made
    made.close()
    admin.execute(f"DROP DATABASE {TABLE}")
    admin.close()


def mistake(connection: Connection, sql: str, args: list[object] | None) -> DatabaseMistake:
    with pytest.raises(DatabaseMistake) as caught:
        connection.execute(sql, args)
    return caught.value


# ---- as this server words it


@pytest.mark.parametrize("value", TRICKS)
def test_a_duplicate_names_its_key_and_not_its_value(connection: Connection, value: str) -> None:
    insert = f"REPLACE INTO {TABLE} VALUES (%s, %s, 'a', NULL)"
    connection.execute(insert, [1, value])
    for args, key in (([1, "other"], "PRIMARY"), ([2, value], "one_per_slot")):
        error = mistake(connection, insert.replace("REPLACE", "INSERT"), args)
        assert isinstance(error, DuplicateKey)
        assert error.key == key
        assert str(error).startswith(f"error 1062 (DUP_ENTRY, key {key}) from the database for: INSERT INTO")
        assert SECRET not in str(error)


@pytest.mark.parametrize("value", TRICKS)
@pytest.mark.parametrize(
    ("sql", "said"),
    [
        (f"INSERT INTO {TABLE} VALUES (%s, 's', 'a', NULL)", "1366 (TRUNCATED_WRONG_VALUE_FOR_FIELD, column id)"),
        (f"INSERT INTO {TABLE} VALUES (9, NULL, %s, NULL)", "1406 (DATA_TOO_LONG, column short)"),
        (f"INSERT INTO {TABLE} VALUES (9, NULL, 'a', %s)", "1292 (TRUNCATED_WRONG_VALUE, column day)"),
        (f"INSERT INTO {TABLE} VALUES (9, %s, NULL, NULL)", "1048 (BAD_NULL_ERROR, column short)"),
        (f"INSERT INTO {TABLE} (slot) VALUES (%s)", "1364 (NO_DEFAULT_FOR_FIELD, column id)"),
        (f"INSERT INTO {TABLE} (id, slot, nope) VALUES (1, %s, 1)", "1054 (BAD_FIELD_ERROR, column nope)"),
        (f"INSERT INTO {TABLE} (id, slot, id) VALUES (1, %s, 1)", "1110 (FIELD_SPECIFIED_TWICE, column id)"),
        (f"SELECT id FROM {TABLE} a JOIN {TABLE} b WHERE a.slot = %s", "1052 (NON_UNIQ_ERROR, column id)"),
        (f"INSERT INTO {TABLE}_no VALUES (%s)", "1146 (NO_SUCH_TABLE, table gbot_test_failures.gbot_test_failures_no)"),
        ("CALL gbot_no(%s)", "1305 (SP_DOES_NOT_EXIST, routine gbot_test_failures.gbot_no)"),
        (f"INSERT INTO {TABLE}_of VALUES (LENGTH(%s))", "1452 (NO_REFERENCED_ROW_2, constraint of_one)"),
        (f"INSERT INTO {TABLE}_n VALUES (-LENGTH(%s))", ", constraint n_is_positive)"),
        ("SELEC %s", "1064 (PARSE_ERROR)"),
    ],
)
def test_a_mistake_names_what_it_is_about_and_no_value(connection: Connection, sql: str, said: str, value: str) -> None:
    error = mistake(connection, sql, [value])
    assert said in str(error)
    assert sql in str(error)
    assert SECRET not in str(error)


def test_placeholders_without_values_are_told_apart_from_wrong_sql(connection: Connection) -> None:
    for sql in ("SELECT %s", "SELECT %(a)s"):
        assert "because no values were given" in str(mistake(connection, sql, None))
    assert "values" not in str(mistake(connection, "SELEC", None))
    assert "values" not in str(mistake(connection, "SELEC %s", [1]))


def test_a_long_statement_is_shown_with_its_begin_and_its_end(connection: Connection) -> None:
    text = str(mistake(connection, f"INSERT INTO begin (a) VALUES {'(1), ' * 1000} (2) ON THE END", None))
    assert text.count("INSERT INTO begin") == text.count("ON THE END") == 1
    assert " … " in text
    assert len(text) < 800


# ---- as others word it


@pytest.mark.parametrize("value", TRICKS)
@pytest.mark.parametrize(
    ("code", "text", "name"),
    [
        (1062, "Duplicate entry '{}' for key 'bookings.one_per_slot'", "key one_per_slot"),
        (1062, "Duplicate entry '{}' for key 'bookings.PRIMARY'", "key PRIMARY"),
        (1062, "Doppelter Eintrag '{}' für Schlüssel 'PRIMARY'", ""),
        (1062, "Duplicate entry '{}' for key 2", ""),
        (1366, "Incorrect integer value: '{}' for column 'id' at row 1", "column id"),
        (1292, "Incorrect date value: '{}' for column 'day' at row 12", "column day"),
        (1292, "Truncated incorrect DOUBLE value: '{}'", ""),
        (1406, "Data too long for column 'short' at row 1", "column short"),
        (1054, "Unknown column 'nope' in 'field list'", "column nope"),
        (1142, "INSERT command denied to user 'bot'@'10.0.0.1' for table 'orders'", "table orders"),
        (1142, "INSERT command denied to user 'bot'@'10.0.0.1' for table `bot`.`orders`", "table orders"),
        (3819, "Check constraint 'n_is_positive' is violated.", "(CHECK_CONSTRAINT_VIOLATED, constraint n_is_positive"),
        (1644, "{}", ""),
        (1690, "BIGINT UNSIGNED value is out of range in '(5 - {})'", ""),
    ],
)
def test_messages_of_mysql_are_understood_too(code: int, text: str, name: str, value: str) -> None:
    error = failure_of(pymysql.OperationalError(code, text.format(value)), "UPDATE …")
    assert isinstance(error, DatabaseMistake)
    assert (f"{name}) from" in str(error)) if name else (", " not in str(error))
    assert SECRET not in str(error)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (pymysql.OperationalError(2013, "Lost connection"), DatabaseDown, "nobody knows whether it was executed: DO 1"),
        (pymysql.OperationalError(1053, "Server shutdown"), DatabaseDown, "nobody knows whether it was executed: DO 1"),
        (pymysql.InternalError("Packet sequence"), DatabaseDown, "nobody knows whether it was executed: DO 1"),
        (pymysql.OperationalError(1114, "The table is full"), DatabaseDown, "1114 The table is full: DO 1"),
        (pymysql.InterfaceError(0, ""), DatabaseDown, "the connection is closed: DO 1"),
        (pymysql.OperationalError(1205, ""), Deadlock, "(LOCK_WAIT_TIMEOUT, it waited too long for a lock that"),
        (pymysql.OperationalError(1213, ""), Deadlock, "(LOCK_DEADLOCK, undone, because transactions waited"),
        (pymysql.OperationalError(3572, ""), Deadlock, "(LOCK_NOWAIT, another transaction holds a lock"),
        (pymysql.OperationalError(3058, ""), Deadlock, "(USER_LOCK_DEADLOCK, it would have waited for ever"),
        (pymysql.OperationalError(3100, "Error on observer"), DatabaseDown, "3100 Error on observer: DO 1"),
        (pymysql.OperationalError(1820, "You must reset"), DatabaseRefused, "1820 You must reset: DO 1"),
        (pymysql.OperationalError(1290, "with the --read-only option"), DatabaseAway, "--read-only"),
        (pymysql.OperationalError(3032, "The server is currently in offline mode"), DatabaseDown, "offline mode"),
        (pymysql.OperationalError(1820, "You must SET PASSWORD"), DatabaseRefused, "SET PASSWORD"),
        (pymysql.OperationalError(1290, "with the --super-read-only option"), DatabaseAway, "--super-read-only"),
        (pymysql.OperationalError(1290, "with the --secure-file-priv option"), DatabaseMistake, "for: DO 1"),
        (pymysql.ProgrammingError("not enough arguments"), DatabaseMistake, "not enough arguments: DO 1"),
    ],
)
def test_what_is_no_mistake_tells_what_is_known(
    error: pymysql.MySQLError, kind: type[DatabaseError], said: str
) -> None:
    found = failure_of(error, "DO 1")
    assert isinstance(found, kind)
    assert said in str(found)
    if kind is DatabaseDown:
        assert ("nobody knows" in str(found)) == ("nobody knows" in said)
