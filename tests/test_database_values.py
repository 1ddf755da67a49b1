"""gbot.database.values: what a value is in SQL, that it comes back as it was, and what is said of mistakes."""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from collections import deque, namedtuple
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, Final

import numpy
import pymysql
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbot.database.address import parse
from gbot.database.connection import Connection
from gbot.database.connector import Connector
from gbot.database.values import Unsendable, filled_in, literal
from tests.database_rig import anew, opened, patched

SECRET: Final = "sEcReT"
BREAKING: Final = ["' OR 1=1 -- ", "\\' OR 1=1 -- ", "\\", "'", "\\'", "'\\", "%s", '"', "\0'", "`", "縗'", "\n"]
TEXTS: Final = st.text(st.characters(exclude_categories=["Cs"])) | st.text("'\\\"%\0sx縗")
UTC: Final = datetime.UTC
TOKYO: Final = datetime.timezone(datetime.timedelta(hours=9))
MODES: Final = ["", "NO_BACKSLASH_ESCAPES", "ANSI_QUOTES", "NO_BACKSLASH_ESCAPES,ANSI_QUOTES"]

Pair = namedtuple("Pair", "a b")


class Colour(enum.Enum):
    RED = "r"


class Word(enum.StrEnum):
    IT_S = "it's"


class Level(enum.IntEnum):
    HIGH = 3


class Moment(datetime.datetime):
    pass


@pytest.fixture(scope="module")
def connection(mysql_url: str) -> Iterator[Connection]:
    made = Connector(parse(mysql_url)).connect()
    yield made
    made.close()


# ---- values


ID: Final = uuid.UUID("12345678123456781234567812345678")


@pytest.mark.parametrize(
    ("value", "back"),
    [
        (None, None),
        (True, 1),
        (2**63, 2**63),
        (-1, -1),
        (0.1, 0.1),
        (1e-300, 1e-300),
        (-2.0, -2.0),
        ("", ""),
        *((text, text) for text in BREAKING),
        (b"\xff\0'\\", b"\xff\0'\\"),
        (b"", b""),
        (bytearray(b"\xff'"), b"\xff'"),
        (memoryview(b"\xff'x")[1:], b"'x"),
        (decimal.Decimal("1.10"), decimal.Decimal("1.10")),
        (decimal.Decimal("1E+3"), 1000),
        (datetime.date(2020, 1, 2), "2020-01-02"),
        (datetime.datetime(2020, 1, 2, 3, 4, 5), "2020-01-02 03:04:05"),
        (datetime.datetime(2020, 1, 2, 3, 4, 5, 6, tzinfo=UTC), "2020-01-02 03:04:05.000006"),
        (Moment(20, 1, 2, 3, 4, 5), "0020-01-02 03:04:05"),
        (datetime.time(1, 2, 3, 40), "01:02:03.000040"),
        (datetime.time(1, 2, 3, tzinfo=UTC), "01:02:03"),
        (datetime.timedelta(days=2, seconds=3661, microseconds=5), "49:01:01.000005"),
        (datetime.timedelta(seconds=-1), "-00:00:01"),
        (ID, str(ID)),
        (PurePosixPath("/a\\b'c"), "/a\\b'c"),
        (Word.IT_S, "it's"),
        (Level.HIGH, 3),
        (numpy.int64(7), 7),
        (numpy.float64(1.5), 1.5),
        (numpy.float32(0.5), 0.5),
        (numpy.str_("x'y"), "x'y"),
    ],
    ids=repr,
)
def test_a_value_comes_back_as_what_it_was(connection: Connection, value: object, back: object) -> None:
    [(found,)] = connection.rows("SELECT %s", [value])
    assert (found, type(found)) == (back, type(found if back == 1000 else back))


@given(st.lists(TEXTS | st.binary() | st.integers(-(2**63), 2**64 - 1), min_size=1))
@settings(derandomize=True)
def test_texts_and_bytes_come_back_whatever_they_hold(connection: Connection, values: list[object]) -> None:
    for mode in MODES:
        connection.execute(f"SET SESSION sql_mode = '{mode}'")
        marks = ", ".join(["%s"] * len(values))
        assert connection.rows(f"SELECT {marks}, '%%'", values) == [(*values, "%")]
        assert connection.rows(f"SELECT {marks}", values) == [tuple(values)]


def test_no_value_breaks_out_though_the_server_tells_a_wrong_sql_mode(connection: Connection) -> None:
    """A procedure sets the mode for itself; the server then tells of it, and goes on without."""
    anew(connection, "PROCEDURE", "gbot_sets", "() SET SESSION sql_mode = 'NO_BACKSLASH_ESCAPES'")
    connection.execute("SET SESSION sql_mode = ''")
    connection.execute("CALL gbot_sets()")
    connection.execute("DROP PROCEDURE gbot_sets")
    assert connection.raw.escape("x") == "'x'"
    for text in BREAKING:
        assert connection.rows("SELECT 'row' FROM DUAL WHERE 'x' = %s", [text]) == []
        with connection.raw.cursor() as cursor:
            cursor.execute("SELECT 'row' FROM DUAL WHERE 'x' = %s", [text])
            assert cursor.fetchall() == ()
            cursor.execute("SELECT %s", [PurePosixPath(text)])
            assert cursor.fetchall() == ((text,),)


def test_a_text_with_a_backslash_is_compared_as_any_other(connection: Connection) -> None:
    asked = "SELECT %s = %s, %s LIKE %s, COLLATION(%s) = COLLATION(%s), %s REGEXP %s"
    args = ["A\\", "a\\", "a\\b", "A%%", "a\\", "a", "a1", "\\d"]
    assert connection.rows(asked, args) == [(1, 1, 1, 1)]


@pytest.mark.parametrize(
    ("values", "sql"),
    [
        ([1, None, "x"], "(1, NULL, 'x')"),
        (((1, 2), (3, 4)), "((1, 2), (3, 4))"),
        ({"a'"}, "('a''')"),
        (frozenset([b"\xff"]), "(X'ff')"),
        (Pair(1, 2), "(1, 2)"),
    ],
)
def test_lists_are_for_in(values: object, sql: str) -> None:
    assert literal(values) == sql


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({SECRET: 1}, "expected None, a text, number, bytes, date or time, or a list of these, got dict"),
        (object(), "got object"),
        ([1, {SECRET: 1}], "got dict"),
        (iter([SECRET]), "got list_iterator"),
        (LookupError(SECRET), "got LookupError"),
        (numpy.array([1]), "got numpy.ndarray"),
        (Colour.RED, "Colour: give its .value or its .name"),
        (float("inf"), "expected a finite number, got inf"),
        (float("-inf"), "expected a finite number, got inf"),
        (float("nan"), "expected a finite number, got nan"),
        (decimal.Decimal("NaN"), "expected a finite number"),
        (decimal.Decimal("1E+999999999"), "too many digits"),
        (decimal.Decimal("1E-999999999"), "too many digits"),
        ([10**5000], "too many digits"),
        (datetime.datetime(2020, 1, 2, tzinfo=TOKYO), "another zone than UTC"),
        (datetime.time(3, tzinfo=TOKYO), "another zone than UTC"),
        ([], "an empty list"),
        ([1, []], "an empty list"),
        (f"{SECRET}\\\ud83d", "half a character"),
    ],
)
def test_what_is_no_value_is_refused_by_its_type(value: object, text: str, connection: Connection) -> None:
    with pytest.raises(Unsendable) as caught:
        filled_in("SELECT %s, %s", ["x", value])
    assert str(caught.value).startswith("value 2: ")
    assert text in str(caught.value)
    assert SECRET not in str(caught.value)
    with pytest.raises(Unsendable, match=r"^%\(what\)s: "):
        filled_in("SELECT %(what)s", {"what": value})
    with pytest.raises(pymysql.ProgrammingError) as theirs, connection.raw.cursor() as cursor:
        cursor.execute("SELECT %s", [value])
    assert text in str(theirs.value)


# ---- placeholders


@pytest.mark.parametrize(
    ("sql", "args", "filled"),
    [
        ("SELECT 1", [], "SELECT 1"),
        ("SELECT 1", {}, "SELECT 1"),
        ("SELECT %s", [1], "SELECT 1"),
        ("SELECT %s", (1,), "SELECT 1"),
        ("SELECT %s, %s", Pair(1, "x"), "SELECT 1, 'x'"),
        ("SELECT %s", deque(["%s"]), "SELECT '%s'"),
        ("SELECT '%%', %s", ["%%"], "SELECT '%', '%%'"),
        ("SELECT '%%s', %s", [1], "SELECT '%s', 1"),
        ("SELECT '%%'", [], "SELECT '%'"),
        ("SELECT %%%s", [1], "SELECT %1"),
        ("SELECT %(a)s, %(b)s, %(a)s, '%%'", {"a": 1, "b": "%(a)s", "c": object()}, "SELECT 1, '%(a)s', 1, '%'"),
    ],
)
def test_values_go_where_the_placeholders_are(sql: str, args: Any, filled: str) -> None:
    assert filled_in(sql, args) == filled


@pytest.mark.parametrize(
    ("sql", "args", "text"),
    [
        ("SELECT %s, %s", [SECRET], "2 placeholders %s, 1 value"),
        ("SELECT %s", [SECRET, 2], "1 placeholder %s, 2 values"),
        ("SELECT %s", [], "1 placeholder %s, no values"),
        ("SELECT 1", [SECRET], "no placeholders %s, 1 value"),
        ("SELECT * FROM a WHERE b = ?", [SECRET], "no placeholders %s (a ? is none), 1 value"),
        ("SELECT %s", SECRET, "expected a list, tuple or dict of values, got str (write [value])"),
        ("SELECT %s", SECRET.encode(), "got bytes (write [value])"),
        ("SELECT %s", 5, "got int (write [value])"),
        ("SELECT %s", {SECRET}, "got set (write list(…))"),
        ("SELECT %s", iter([SECRET]), "got list_iterator (write list(…))"),
        ("SELECT %(slot)s", {"slto": SECRET}, "no value for %(slot)s"),
        ("SELECT %s", {"slot": SECRET}, "%s is for a list of values, not for dict"),
        ("SELECT %s, %(slot)s", {"slot": SECRET}, "%s is for a list of values, not for dict"),
        ("SELECT %(slot)s", [SECRET], "%(slot)s is for a dict of values, not for list"),
        (
            "LIKE '10%' AND who = %s",
            [SECRET],
            "%' is no placeholder: they are %s or %(name)s, and a literal % is written %%",
        ),
        ("LIKE '%rice' AND 1", [SECRET], "%r is no placeholder"),
        ("SELECT %d", [1], "%d is no placeholder"),
        ("SELECT %.4s", [SECRET], "%. is no placeholder"),
        ("SELECT %5s", [SECRET], "%5 is no placeholder"),
        ("SELECT %(a).4s", {"a": SECRET}, "%( is no placeholder"),
        ("SELECT %(a)s LIKE 'a%'", {"a": SECRET}, "%' is no placeholder"),
        ("SELECT %s, %", [SECRET], "% is no placeholder"),
    ],
)
def test_a_mistake_with_placeholders_says_what_is_wrong(sql: str, args: Any, text: str) -> None:
    with pytest.raises(Unsendable) as caught:
        filled_in(sql, args)
    assert text in str(caught.value)
    assert SECRET not in str(caught.value)


@patched
def test_a_lent_connection_sends_values_in_the_same_way(mysql_url: str) -> None:
    with opened(mysql_url, 1) as made, made.db.connection() as raw, raw.cursor() as cursor:
        cursor.execute("SET SESSION sql_mode = 'NO_BACKSLASH_ESCAPES'")
        for text in BREAKING:
            for value in (text, PurePosixPath(text), [text]):
                cursor.execute("SELECT 'row' FROM DUAL WHERE 'x' IN (%s)", [value])
                assert cursor.fetchall() == ()
        cursor.execute("CREATE TEMPORARY TABLE gbot_test_values (text VARCHAR(20) CHARACTER SET utf8mb4, n INT)")
        cursor.executemany(
            "INSERT INTO gbot_test_values VALUES (%s, %s)", [(text, n) for n, text in enumerate(BREAKING)]
        )
        cursor.execute("SELECT text FROM gbot_test_values ORDER BY n")
        assert [text for (text,) in cursor.fetchall()] == BREAKING
