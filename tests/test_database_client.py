"""gbot.database.client on a real server: what an author can do with ctx.db, and what is left when it goes wrong."""

from __future__ import annotations

import contextlib
import gc
import inspect
import itertools
import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import gevent
import pymysql
import pytest
import sqlalchemy
from gevent.event import Event
from pymysql.constants import COMMAND
from pymysql.cursors import DictCursor, SSCursor

from gbot.database.client import Database, Transaction
from gbot.database.connection import Connection
from gbot.database.outage import REFUSAL_PAUSE_S
from gbot.errors import (
    BotError,
    DatabaseAway,
    DatabaseBusy,
    DatabaseDown,
    DatabaseMistake,
    Deadlock,
    DuplicateKey,
)
from tests.database_rig import Opened, anew, opened, outcome, patched
from tests.journeys.processes import DEADLINE_S, eventually

SECRET = "sEcReT"
TABLE = "gbot_test_client"
FILE = __file__


@pytest.fixture
def url(mysql_url: str) -> Iterator[str]:
    """A server with a table of two rows, and procedures that leave something behind."""
    with opened(mysql_url, 1) as made:
        columns = "id INT AUTO_INCREMENT PRIMARY KEY, text VARCHAR(50) UNIQUE"
        anew(made.db, "TABLE", TABLE, f"({columns}) CHARSET utf8mb4")
        made.db.execute(f"INSERT INTO {TABLE} (text) VALUES ('one'), ('two')")
        begin = f"START TRANSACTION; INSERT INTO {TABLE} (text) VALUES ('procedure');"
        anew(made.db, "PROCEDURE", "gbot_begins", f"() BEGIN {begin} SELECT 1; SELECT 2; END")
        anew(made.db, "PROCEDURE", "gbot_fails", f"() BEGIN {begin} SIGNAL SQLSTATE '45000'; END")
    yield mysql_url
    with opened(mysql_url, 1) as made:
        made.db.execute(f"DROP TABLE {TABLE}")
        made.db.execute("DROP PROCEDURE gbot_begins")
        made.db.execute("DROP PROCEDURE gbot_fails")


def texts(db: Database) -> list[str]:
    return [text for (text,) in db.query(f"SELECT text FROM {TABLE} ORDER BY id")]


def in_a_transaction(db: Database, *steps: Callable[[Transaction], object]) -> None:
    with db.transaction() as tx:
        for step in steps:
            step(tx)


def line_of(function: Callable[..., Any], code: str) -> str:
    """Where this code is in a function, as a log names it."""
    lines, first = inspect.getsourcelines(function)
    [number] = [first + index for index, line in enumerate(lines) if code in line]
    return f"{FILE}:{number}"


def at_work(outside: Connection, statement: str) -> set[int]:
    """The sessions that run this statement, as the server sees it; one that was killed may go on being shown."""
    found = outside.rows(
        "SELECT ID FROM information_schema.PROCESSLIST"
        " WHERE INFO LIKE %s AND COMMAND = 'Query' AND ID <> CONNECTION_ID()",
        [statement + "%"],
    )
    return {number for (number,) in found}


def in_database(made: Opened, statement: str) -> int:
    """How many sessions run this statement."""
    with made.outside() as outside:
        return len(at_work(outside, statement))


def left_in_database(made: Opened, statement: str) -> int:
    """How many still run it when all are ended that are to be: a server would end them by itself, but later."""
    assert made.pool.end_unfinished(time.monotonic() + DEADLINE_S) == 0
    return in_database(made, statement)


WAITS = "SELECT GET_LOCK('gbot_gate', 60) + RELEASE_LOCK('gbot_gate')"  # while the gate is shut


@contextlib.contextmanager
def shut_gate(made: Opened) -> Iterator[None]:
    with made.outside() as outside:
        assert outside.rows("SELECT GET_LOCK('gbot_gate', 60)") == [(1,)]
        yield


# Statements.


@patched
def test_statements_and_their_values(url: str) -> None:
    with opened(url, 2) as made:
        db = made.db
        assert db.query("SELECT 1") == [(1,)]
        assert db.query("SELECT '100 %', '%s'") == [("100 %", "%s")]
        assert db.query("SELECT '%%', %s", [1]) == db.query("SELECT '%%', %s", (1,)) == [("%", 1)]
        assert db.query("SELECT %(b)s, %(a)s", {"a": 1, "b": None}) == [(None, 1)]
        assert db.query("SELECT 2 IN %s, %s", [[1, 2], b"\xff'"]) == [(1, b"\xff'")]
        assert db.query("SELECT '%%'", []) == [("%",)]
        assert db.query(f"SELECT text FROM {TABLE} WHERE id = 99") == []
        assert db.query("DO 1") == []
        done = db.execute(f"INSERT INTO {TABLE} (text) VALUES (%s)", ["ü 😀 '\\ %"])
        assert (done.rows, done.last_id) == (1, 3)
        assert db.execute(f"UPDATE {TABLE} SET text = text").rows == 3
        assert texts(db) == ["one", "two", "ü 😀 '\\ %"]
        assert db.query("CALL gbot_begins()") == [(1,)]
        assert db.statistics().opened == 1


@patched
def test_mistakes_repeat_no_values_and_cost_no_connection(url: str) -> None:
    with opened(url, 2) as made:
        for sql, args, code in (
            ("SELECT %s, %s", [SECRET], 0),
            ("SELECT %s", [float("inf"), SECRET], 0),
            ("SELECT %s", [SECRET + "\ud83d"], 0),
            ("SELECT %s FROM gbot_no_such", [SECRET], 1146),
            ("SELEC %s", [SECRET], 1064),
            (f"INSERT INTO {TABLE} (id) VALUES (%s)", [SECRET], 1366),
            (f"INSERT INTO {TABLE} (text) VALUES (%s)", [SECRET * 20], 1406),
        ):
            with pytest.raises(DatabaseMistake) as caught:
                made.db.execute(sql, args)
            assert caught.value.code == code, (sql, caught.value)
            assert SECRET not in str(caught.value)
            assert caught.value.__cause__ is None
            assert caught.value.__suppress_context__
        made.db.execute(f"INSERT INTO {TABLE} (text) VALUES (%s)", [SECRET])
        with pytest.raises(DuplicateKey) as duplicate:
            made.db.execute(f"INSERT INTO {TABLE} (text) VALUES (%s)", [SECRET])
        assert duplicate.value.code == 1062
        assert SECRET not in str(duplicate.value)
        assert made.count("opened") == 1
        assert not made.log.having("left open")


@patched
def test_a_statement_that_is_too_long_breaks_nobody_elses(url: str) -> None:
    with opened(url, 1) as made:
        [(length_max,)] = made.db.query("SELECT @@max_allowed_packet")
        with pytest.raises((DatabaseMistake, DatabaseDown)):
            made.db.query("SELECT LENGTH(%s)", ["x" * length_max])
        assert made.db.query("SELECT 1") == [(1,)]


# Transactions.


@patched
def test_a_transaction_is_all_or_nothing(url: str) -> None:
    with opened(url, 2) as made:
        db = made.db
        with db.transaction() as tx:
            tx.execute(f"INSERT INTO {TABLE} (text) VALUES ('three')")
            assert tx.query(f"SELECT COUNT(*) FROM {TABLE}") == [(3,)]
            assert db.query(f"SELECT COUNT(*) FROM {TABLE}") == [(2,)]
        for ended in (tx.query, tx.execute):
            with pytest.raises(BotError, match="has ended"):
                ended("SELECT 1")
        with pytest.raises(ZeroDivisionError):
            in_a_transaction(db, lambda tx: tx.execute(f"INSERT INTO {TABLE} (text) VALUES ('four')"), lambda tx: 1 / 0)
        with pytest.raises(DuplicateKey):
            in_a_transaction(
                db,
                lambda tx: tx.execute(f"INSERT INTO {TABLE} (text) VALUES ('five')"),
                lambda tx: tx.execute(f"INSERT INTO {TABLE} (text) VALUES ('one')"),
            )
        with db.transaction() as tx:
            with pytest.raises(DuplicateKey):
                tx.execute(f"INSERT INTO {TABLE} (text) VALUES ('one')")
            tx.execute(f"INSERT INTO {TABLE} (text) VALUES ('six')")
        assert texts(db) == ["one", "two", "three", "six"]
        assert not made.log.having("left open")
        assert made.count("broken") == 0


@patched
def test_transactions_do_not_nest_and_one_inside_another_is_its_own(url: str) -> None:
    with opened(url, 2) as made:
        with made.db.transaction() as outer:
            outer.execute(f"INSERT INTO {TABLE} (text) VALUES ('outer')")
            with pytest.raises(BotError, match="one with statement"), outer:
                pass
            with made.db.transaction() as inner:
                inner.execute(f"INSERT INTO {TABLE} (text) VALUES ('inner')")
            assert made.db.execute(f"SELECT * FROM {TABLE} WHERE text = 'inner'").rows == 1
            outer.execute(f"DELETE FROM {TABLE} WHERE text = 'outer'")
        assert texts(made.db) == ["one", "two", "inner"]


@patched
@pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK", "TRUNCATE gbot_test_client_ddl"])
def test_a_statement_that_ends_a_transaction_says_so_and_nothing_follows(url: str, ending: str) -> None:
    """What came after it would be committed by itself, whatever became of the transaction."""

    def inserts(text: str) -> Callable[[Transaction], object]:
        return lambda tx: tx.execute(f"INSERT INTO {TABLE} (text) VALUES ('{text}')")

    def ends(tx: Transaction) -> None:
        error = outcome(tx.execute, ending)
        assert isinstance(error, BotError)
        assert str(error).startswith("the transaction was ended by a statement in it; COMMIT and ROLLBACK do so")
        assert str(error).endswith(f": {ending}")
        for use in (tx.execute, tx.query):
            with pytest.raises(BotError, match=f"was ended by .*: {ending}$"):
                use(f"INSERT INTO {TABLE} (text) VALUES ('after')")

    with opened(url, 1) as made:
        anew(made.db, "TABLE", "gbot_test_client_ddl", "(id INT)")
        with pytest.raises(BotError, match="was ended by a statement in it"):
            in_a_transaction(made.db, inserts("before"), lambda tx: tx.execute(ending))
        with pytest.raises(BotError, match="was ended by a statement in it"):
            in_a_transaction(made.db, ends)
        with pytest.raises(ZeroDivisionError):
            in_a_transaction(made.db, ends, lambda tx: 1 / 0)
        assert texts(made.db) == ["one", "two", *(["before"] if ending != "ROLLBACK" else [])]
        made.db.execute("DROP TABLE gbot_test_client_ddl")
        assert made.count("broken") == 0
        assert not made.log.having("left open")


@patched
def test_after_a_failed_statement_that_has_ended_a_transaction_nothing_follows(url: str) -> None:
    def work(tx: Transaction) -> None:
        tx.execute(f"INSERT INTO {TABLE} (text) VALUES ('before')")
        with pytest.raises(DatabaseMistake):
            tx.execute(f"CREATE TABLE {TABLE} (id INT)")  # commits, and then fails
        for _ in range(2):
            with pytest.raises(BotError, match=f"was ended by .*: CREATE TABLE {TABLE}"):
                tx.execute(f"INSERT INTO {TABLE} (text) VALUES ('after')")

    with opened(url, 1) as made:
        with pytest.raises(BotError, match="was ended by a statement in it"):
            in_a_transaction(made.db, work)
        assert texts(made.db) == ["one", "two", "before"]


@patched
def test_what_leaves_a_transaction_open_does_not_end_it(url: str) -> None:
    with opened(url, 1) as made:
        with made.db.transaction() as tx:
            tx.execute("SAVEPOINT here")
            tx.execute(f"INSERT INTO {TABLE} (text) VALUES ('undone')")
            tx.execute("ROLLBACK TO SAVEPOINT here")
            tx.execute("CREATE TEMPORARY TABLE gbot_test_left AS SELECT 1 AS id")
            assert tx.query("SELECT id FROM gbot_test_left") == [(1,)]
            assert tx.query("SELECT 1 FROM DUAL WHERE 0") == []
            tx.execute("DROP TEMPORARY TABLE gbot_test_left")
            tx.execute("SET @mine = 1")
        assert texts(made.db) == ["one", "two"]


@patched
def test_who_forgets_the_with_statement_is_told_how_it_is_used(url: str) -> None:
    with opened(url, 1) as made:
        tx = made.db.transaction()
        for use in (tx.execute, tx.query):
            with pytest.raises(BotError, match=r"^use it as: with ctx\.db\.transaction\(\) as tx:$"):
                use("SELECT 1")
        lease: Any = made.db.connection()
        for name in ("cursor", "commit", "ping", "open"):
            with pytest.raises(BotError, match=r"^use it as: with ctx\.db\.connection\(\) as connection:$"):
                getattr(lease, name)
        for name in ("_sock", "__name__", "no_such"):
            with pytest.raises(AttributeError, match=f"'Lease' object has no attribute '{name}'"):
                getattr(lease, name)
        assert made.count("opened") == made.count("uses") == 0


@patched
def test_of_two_transactions_that_wait_for_each_other_one_is_told_to_do_it_again(url: str) -> None:
    with opened(url, 5) as made:
        turns = {1: Event(), 2: Event()}

        def change(first: int, second: int) -> str:
            try:
                with made.db.transaction() as tx:
                    tx.execute(f"UPDATE {TABLE} SET text = CONCAT(text, '+') WHERE id = %s", [first])
                    turns[first].set()
                    turns[second].wait()
                    tx.execute(f"UPDATE {TABLE} SET text = CONCAT(text, '+') WHERE id = %s", [second])
            except Deadlock:
                return "again"
            return "done"

        both = [gevent.spawn(change, 1, 2), gevent.spawn(change, 2, 1)]
        gevent.joinall(both, raise_error=True)
        assert sorted(greenlet.value for greenlet in both) == ["again", "done"]
        assert texts(made.db) == ["one+", "two+"]
        assert made.count("broken") == 0


@patched
def test_a_transaction_that_was_undone_can_be_begun_again(url: str) -> None:
    with opened(url, 1) as made:
        again = made.db.transaction()

        def insert(*steps: str) -> None:
            with again as tx:
                for step in (f"INSERT INTO {TABLE} (text) VALUES ('again')", *steps):
                    tx.execute(step)

        assert isinstance(outcome(insert, "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213"), Deadlock)
        insert()
        assert texts(made.db)[2:] == ["again"]


@patched
def test_a_transaction_that_was_undone_does_not_go_on_in_parts(url: str) -> None:
    """The server has undone what came before the error: what comes after it must not be kept alone."""
    with opened(url, 2) as made:
        holding, waiting = Event(), Event()

        def other() -> None:
            with made.db.transaction() as tx:
                tx.execute(f"UPDATE {TABLE} SET text = 'other' WHERE id = 1")
                tx.execute(f"INSERT INTO {TABLE} (text) VALUES ('x'), ('y'), ('z')")  # the heavier one survives
                holding.set()
                waiting.wait()
                tx.execute(f"UPDATE {TABLE} SET text = 'other 2' WHERE id = 2")

        def change(tx: Transaction) -> None:
            tx.execute(f"UPDATE {TABLE} SET text = 'mine' WHERE id = 2")
            holding.wait()
            waiting.set()
            with pytest.raises(Deadlock):
                tx.execute(f"UPDATE {TABLE} SET text = 'mine too' WHERE id = 1")
            with pytest.raises(Deadlock, match="before this one"):
                tx.execute(f"INSERT INTO {TABLE} (text) VALUES ('alone')")

        heavier = gevent.spawn(other)
        with pytest.raises(Deadlock, match="before this one"):
            in_a_transaction(made.db, change)
        heavier.get()
        assert texts(made.db) == ["other", "other 2", "x", "y", "z"]
        assert made.count("broken") == 0


# Left behind.


@patched
def test_what_was_left_open_is_undone_and_logged(url: str) -> None:
    with opened(url, 1) as made:
        made.db.query("BEGIN")
        assert made.log.having("A transaction on the database was left open, and is undone") == made.log.texts[-1:]
        assert texts(made.db) == ["one", "two"]
        made.db.execute(f"INSERT INTO {TABLE} (text) VALUES ('kept')")
        with made.outside() as outside:
            assert outside.rows(f"SELECT COUNT(*) FROM {TABLE}") == [(3,)]
        assert made.count("opened") == 1


@patched
def test_a_transaction_that_a_procedure_has_begun_takes_nobody_elses_rows_with_it(url: str) -> None:
    with opened(url, 1) as made:
        made.db.query("CALL gbot_begins()")
        made.db.execute(f"INSERT INTO {TABLE} (text) VALUES ('a')")
        with pytest.raises(DatabaseMistake):
            made.db.query("CALL gbot_fails()")
        made.db.execute(f"INSERT INTO {TABLE} (text) VALUES ('b')")
        with pytest.raises(DatabaseMistake), made.db.connection() as connection:
            connection.cursor().execute("CALL gbot_fails()")
        made.db.execute(f"INSERT INTO {TABLE} (text) VALUES ('c')")
        with made.db.connection() as connection:
            connection.cursor().execute("CALL gbot_begins()")  # and reads nothing of it
        made.db.execute(f"INSERT INTO {TABLE} (text) VALUES ('d')")
        with made.outside() as outside:
            assert outside.rows(f"SELECT text FROM {TABLE} WHERE id > 2") == [
                *(("a",), ("b",), ("c",), ("procedure",), ("d",))
            ]


def half_read(connection: Any) -> object:
    cursor = connection.cursor(SSCursor)
    cursor.execute("SELECT a.TABLE_NAME, b.TABLE_NAME FROM information_schema.TABLES a, information_schema.TABLES b")
    cursor.fetchone()
    return cursor


def half_read_and_fails(connection: Any) -> object:
    connection.cursor().execute(f"INSERT INTO {TABLE} (text) VALUES ('never')")
    raise LookupError(half_read(connection))


def commits_by_statement(connection: Any) -> None:
    connection.autocommit(True)


def closes_it(connection: Any) -> None:
    connection.close()


def breaks_it(connection: Any) -> None:
    with pytest.raises(pymysql.MySQLError):
        connection.cursor().execute("KILL CONNECTION_ID()")


@patched
def test_a_connection_that_the_next_one_could_not_use_is_replaced(url: str) -> None:
    def lends(leave: Callable[[Any], object]) -> None:
        with made.db.connection() as connection:
            kept.append(leave(connection))

    kept: list[object] = []
    with opened(url, 1) as made:
        lends(half_read)
        lends(commits_by_statement)
        assert made.count("opened") == 1
        lends(closes_it)
        assert texts(made.db) == ["one", "two"]
        assert isinstance(outcome(lends, breaks_it), DatabaseDown)  # whatever was to be committed is not
        assert isinstance(outcome(lends, half_read_and_fails), LookupError)
        assert texts(made.db) == ["one", "two"]
        assert made.count("opened") == 4


@patched
def test_a_transaction_is_for_one_greenlet_at_a_time(url: str) -> None:
    with opened(url, 1) as made:
        with made.db.transaction() as tx:
            with shut_gate(made):
                first = gevent.spawn(tx.query, WAITS)
                eventually(lambda: in_database(made, WAITS) == 1)
                second = gevent.spawn(outcome, tx.query, "SELECT 'second'")
                second.join()
                assert isinstance(second.value, BotError)
            assert first.get() == [(2,)]
        assert made.db.query("SELECT 'third'") == [("third",)]


@patched
def test_a_transaction_that_ends_while_another_greenlet_uses_it_is_undone(url: str) -> None:
    with opened(url, 1) as made:
        late: list[gevent.Greenlet[..., object]] = []

        def leaves_one_behind() -> None:
            with made.db.transaction() as tx:
                tx.execute(f"INSERT INTO {TABLE} (text) VALUES ('undone')")
                late.append(gevent.spawn(outcome, tx.query, "SELECT SLEEP(50)"))
                eventually(lambda: in_database(made, "SELECT SLEEP(50)") == 1)

        assert isinstance(outcome(leaves_one_behind), BotError)
        assert texts(made.db) == ["one", "two"]
        eventually(late[0].ready)
        assert isinstance(late[0].value, DatabaseDown)
        assert not left_in_database(made, "SELECT SLEEP(50)")


@patched
def test_a_lent_connection_that_greenlets_share_does_not_confuse_the_next_one(url: str) -> None:
    def ask(raw: Any, sql: str) -> object:
        cursor = raw.cursor()
        cursor.execute(sql)
        return cursor.fetchall()

    def share(made: Opened) -> None:
        with made.db.connection() as raw:
            gevent.joinall([gevent.spawn(outcome, raw.commit) for _ in range(3)])

    with opened(url, 1) as made:
        with made.db.connection() as raw:
            asking = [gevent.spawn(outcome, ask, raw, f"SELECT SLEEP(0.1), {number}") for number in range(3)]
            pinging = gevent.spawn(outcome, raw.ping, False)
            gevent.joinall([*asking, pinging])
            assert [isinstance(one.value, pymysql.MySQLError) for one in asking] == [False, True, True]
        for number in range(5):
            assert made.db.query(f"SELECT {number}") == [(number,)]
        ended = outcome(share, made)
        assert ended is None or isinstance(ended, DatabaseDown)  # when they met in the middle of an answer
        for number in range(5):
            assert made.db.query(f"SELECT {number}") == [(number,)]


@patched
def test_an_answer_that_nobody_has_read_does_not_become_the_next_ones(url: str) -> None:
    """Not even where it looks like that of a session that was reset well."""
    looks_well = b"SELECT 1, DATABASE(), 'utf8mb4', 'utf8mb4'"

    def leaves_answers(*commands: tuple[int, bytes]) -> None:
        with made.db.connection() as raw:
            for command in commands:
                raw._execute_command(*command)  # type: ignore[attr-defined]
            raise LookupError

    with opened(url, 1) as made:
        assert isinstance(outcome(leaves_answers, (COMMAND.COM_PING, b"")), LookupError)
        assert isinstance(
            outcome(leaves_answers, (COMMAND.COM_PING, b""), (COMMAND.COM_QUERY, looks_well)), LookupError
        )
        for number in range(5):
            assert made.db.query(f"SELECT {number}") == [(number,)]
        assert made.count("opened") == 3


@patched
def test_nothing_stays_on_a_connection_that_was_lent_out(url: str) -> None:
    state = "SELECT @@sql_mode, @@autocommit, @@character_set_client, DATABASE(), IS_FREE_LOCK('gbot_test'), @mine"
    with opened(url, 1) as made:
        [before] = made.db.query(state)
        with made.db.connection() as raw, raw.cursor() as cursor:
            number = raw.thread_id()
            cursor.execute("SET SESSION sql_mode = '', autocommit = 1, @mine = 1")
            cursor.execute("SET NAMES latin1")
            cursor.execute("CREATE TEMPORARY TABLE gbot_test_left (id INT)")
            cursor.execute("USE information_schema")
            cursor.execute("SELECT GET_LOCK('gbot_test', 1)")
            cursor.execute(f"LOCK TABLES {urlsplit(url).path[1:]}.{TABLE} READ")
            raw.cursorclass = DictCursor
        assert made.db.query(state) == [before]
        with pytest.raises(DatabaseMistake):
            made.db.query("SELECT * FROM gbot_test_left")
        made.db.execute(f"INSERT INTO {TABLE} (text) VALUES ('tres ✓')")
        assert texts(made.db)[-1] == "tres ✓"
        with made.db.connection() as raw, raw.cursor() as cursor:
            cursor.execute("SELECT 1")
            assert cursor.fetchall() == ((1,),)
            assert raw.thread_id() == number


@patched
def test_what_the_server_sets_for_every_session_is_there_for_the_next_one_too(url: str) -> None:
    address = urlsplit(url)
    with opened(url, 1) as of_root, of_root.outside() as admin:
        anew(admin, "USER", "gbot_lent", "IDENTIFIED BY ''")  # for root the server sets nothing
        admin.execute("GRANT ALL ON mysql.* TO gbot_lent")
        admin.execute("SET GLOBAL init_connect = 'SET @mine = 42'")
        try:
            with opened(address._replace(netloc=f"gbot_lent@{address.hostname}:{address.port}").geturl(), 1) as made:
                for _ in range(2):
                    with made.db.connection() as raw:
                        raw.cursor().execute("SET @mine = 1")
                    assert made.db.query("SELECT @mine") == [(42,)]
                assert not made.log.texts
        finally:
            admin.execute("SET GLOBAL init_connect = ''")
            admin.execute("DROP USER gbot_lent")


@patched
def test_a_statement_is_committed_whatever_the_server_does_by_itself(url: str) -> None:
    with opened(url, 1) as before, before.outside() as admin:
        there = texts(before.db)
        admin.execute("SET GLOBAL autocommit = 0")
        try:
            with opened(url, 1) as made:
                made.db.execute(f"INSERT INTO {TABLE} (text) VALUES ('first')")
                with made.db.connection() as raw:
                    number = raw.thread_id()
                made.db.execute(f"INSERT INTO {TABLE} (text) VALUES ('second')")
                assert made.db.query("SELECT CONNECTION_ID()") == [(number,)]
                assert texts(before.db) == [*there, "first", "second"]
        finally:
            admin.execute("SET GLOBAL autocommit = 1")


@patched
def test_a_lent_connection_commits_when_it_is_told_to_and_at_a_good_end(url: str) -> None:
    def inserts(text: str, *steps: str, fails: bool = False) -> None:
        with made.db.connection() as raw:
            raw.cursor().execute(f"INSERT INTO {TABLE} (text) VALUES (%s)", [text])
            for step in steps:
                getattr(raw, step)()
            if fails:
                raise LookupError

    with opened(url, 1) as made:
        inserts("end")
        inserts("undone", "rollback")
        inserts("told", "commit")
        inserts("closed", "close")
        inserts("told and closed", "commit", "close")
        assert isinstance(outcome(partial(inserts, "error", fails=True)), LookupError)
        assert isinstance(outcome(partial(inserts, "told before", "commit", fails=True)), LookupError)
        assert texts(made.db)[2:] == ["end", "told", "told and closed", "told before"]


@patched
def test_a_library_that_knows_only_pep_249_undoes_and_commits(url: str) -> None:
    logging.getLogger("sqlalchemy").addHandler(logging.NullHandler())  # it would tell what it cannot undo at the end
    with opened(url, 1) as made:
        with made.db.connection() as raw:
            engine = sqlalchemy.create_engine("mysql+pymysql://", creator=lambda: raw)
            insert = sqlalchemy.text(f"INSERT INTO {TABLE} (text) VALUES (:text)")
            with engine.connect() as undone:
                undone.execute(insert, {"text": "undone"})
                undone.rollback()
            with engine.begin() as kept:
                kept.execute(insert, {"text": "kept"})
            left = engine.connect()
            left.execute(insert, {"text": "left at the good end"})
        with made.db.transaction() as tx:
            tx.execute(f"INSERT INTO {TABLE} (text) VALUES ('of another handler')")
            with pytest.raises(sqlalchemy.exc.InterfaceError, match="with statement"):
                left.close()
            engine.dispose()
            tx.execute(f"INSERT INTO {TABLE} (text) VALUES ('of another handler too')")
        assert texts(made.db)[2:] == ["kept", "left at the good end", "of another handler", "of another handler too"]


@patched
def test_what_was_kept_of_a_lent_connection_can_do_nothing(url: str) -> None:
    with opened(url, 1) as made:
        with made.db.connection() as raw:
            cursor = raw.cursor()
        with made.db.transaction() as tx:
            tx.execute(f"INSERT INTO {TABLE} (text) VALUES ('a')")
            for use in (
                *(raw.begin, raw.commit, raw.rollback, raw.ping, raw.connect),
                *(partial(raw.select_db, "mysql"), partial(cursor.execute, "ROLLBACK"), partial(raw.kill, 1)),
            ):
                assert isinstance(outcome(use), pymysql.MySQLError), use
            assert not raw.open
            tx.execute(f"INSERT INTO {TABLE} (text) VALUES ('b')")
        assert texts(made.db) == ["one", "two", "a", "b"]
        assert made.count("opened") == 1


@patched
def test_a_connection_that_was_forgotten_comes_back(url: str) -> None:
    def forgets(made: Opened) -> None:
        lease = made.db.connection()
        lease.__enter__()  # here
        ring: list[object] = [lease]
        ring.append(ring)

    def reads(made: Opened) -> Iterator[list[Any]]:
        with made.db.transaction() as tx:
            tx.execute(f"INSERT INTO {TABLE} (text) VALUES ('dropped')")
            yield tx.query("SELECT 1")

    with opened(url, 1) as made:
        dropped = reads(made)
        assert next(dropped) == [(1,)]
        del dropped  # a generator that nobody reads to its end
        assert texts(made.db) == ["one", "two"]
        forgets(made)
        assert made.count("in_use") == 1
        gc.collect()
        assert made.db.query("SELECT 1") == [(1,)]
        assert made.log.having(f"taken in {line_of(forgets, '# here')}, was not given back")


# Stopped.


WAYS = ("timeout", "silent timeout", "kill")


def stopped(how: str, works: list[Callable[[], object]], when: Callable[[], object]) -> None:
    """Do all of this at once, each in a greenlet, and stop them in one of the ways as soon as ``when`` is so."""
    timeouts = [gevent.Timeout(None, False if how == "silent timeout" else None) for _ in works]  # not by a clock

    def within(timeout: gevent.Timeout, work: Callable[[], object]) -> None:
        with pytest.raises(gevent.Timeout) if how == "timeout" else contextlib.nullcontext(), timeout:
            work()

    handlers = [gevent.spawn(within, timeout, work) for timeout, work in zip(timeouts, works, strict=True)]
    eventually(when)
    assert not any(handler.ready() for handler in handlers)
    for handler, timeout in zip(handlers, timeouts, strict=True):
        handler.kill(gevent.GreenletExit if how == "kill" else timeout, block=False)
    gevent.joinall(handlers, raise_error=True)


@patched
def test_a_handler_stopped_inside_a_transaction_leaves_nothing(url: str) -> None:
    with opened(url, 1) as made:

        def work(half: Event) -> None:
            with made.db.transaction() as tx:
                tx.execute(f"INSERT INTO {TABLE} (text) VALUES ('half')")
                half.set()
                gevent.sleep(100)

        for way in WAYS:
            half = Event()
            stopped(way, [partial(work, half)], half.is_set)
            assert texts(made.db) == ["one", "two"]
            made.db.execute(f"INSERT INTO {TABLE} (text) VALUES ('half')")  # nothing is locked
            made.db.execute(f"DELETE FROM {TABLE} WHERE text = 'half'")


@patched
def test_a_statement_whose_handler_is_stopped_is_ended_in_the_server_too(url: str) -> None:
    with opened(url, 3, wait_s=10) as made:

        def alone() -> None:
            made.db.query("SELECT SLEEP(50), 'alone'")

        def inside() -> None:
            with made.db.transaction() as tx:
                tx.execute(f"INSERT INTO {TABLE} (text) VALUES ('half')")
                tx.query("SELECT SLEEP(50), 'inside'")

        def leased() -> None:
            with made.db.connection() as connection:
                connection.cursor().execute("SELECT SLEEP(50), 'leased'")

        for way in WAYS:
            stopped(way, [alone, inside, leased], lambda: in_database(made, "SELECT SLEEP(50)") == 3)
            after = [gevent.spawn(made.db.query, "SELECT SLEEP(0.01)") for _ in range(30)]
            gevent.joinall(after, raise_error=True)
            assert not left_in_database(made, "SELECT SLEEP(50)")
            assert texts(made.db) == ["one", "two"]
        eventually(lambda: (made.count("left"), made.count("open")) == (9, 3))


@patched
def test_a_statement_that_an_author_gives_up_himself_is_ended_too(url: str) -> None:
    with opened(url, 1) as made:

        def in_transaction() -> None:
            with made.db.transaction() as tx:
                with gevent.Timeout(0.1, False):
                    tx.query("SELECT SLEEP(30)")
                with pytest.raises(DatabaseDown):  # and not on another connection, outside the transaction
                    tx.execute(f"INSERT INTO {TABLE} (text) VALUES ('alone')")

        def leased() -> None:
            with made.db.connection() as connection, gevent.Timeout(0.1, False):
                connection.cursor().execute("SELECT SLEEP(30)")

        assert isinstance(outcome(in_transaction), DatabaseDown)
        assert isinstance(outcome(leased), DatabaseDown)
        assert texts(made.db) == ["one", "two"]
        assert not left_in_database(made, "SELECT SLEEP(30)")
        assert made.count("left") == 2


@patched
def test_the_server_never_works_for_more_than_the_pool_is_large(url: str) -> None:
    """Handlers that are stopped again and again while their statements go on."""
    with opened(url, 4, wait_s=30) as made, made.outside() as outside:
        most = 0

        def handler() -> None:
            for patience_s in itertools.count(0.02, 0.01):
                with gevent.Timeout(patience_s, False):
                    made.db.query("SELECT SLEEP(2), 'slow'")
                if most and made.count("left") >= 40:
                    return

        made.fill(4)
        handlers = [gevent.spawn(handler) for _ in range(8)]
        while not all(greenlet.ready() for greenlet in handlers):
            # One look alone may find a session that is killed meanwhile, and the one that takes its place.
            most = max(most, len(at_work(outside, "SELECT SLEEP(2)") & at_work(outside, "SELECT SLEEP(2)")))
            gevent.sleep(0.002)
        gevent.joinall(handlers, raise_error=True)
        assert 0 < most <= 4
        assert not left_in_database(made, "SELECT SLEEP(2)")
        assert made.db.query("SELECT 1") == [(1,)]


# Exhausted.


@patched
def test_slow_statements_that_use_up_the_pool_are_named_and_then_it_recovers(url: str) -> None:
    def slow(made: Opened) -> None:
        made.db.query(WAITS)  # here

    with opened(url, 3, wait_s=0.3) as made:
        made.fill(3)
        with shut_gate(made):
            slow_ones = [gevent.spawn(slow, made) for _ in range(3)]
            eventually(lambda: in_database(made, WAITS) == 3)
            refused = [gevent.spawn(outcome, made.db.query, "SELECT 1") for _ in range(10)]
            for number, greenlet in enumerate(refused):
                said = str(greenlet.get())
                assert isinstance(greenlet.value, DatabaseBusy)
                others = "1 other waits" if number == 8 else f"{9 - number} others wait"
                assert f"within 0.3 s: 3 of 3 are in use, {others}; the longest has been held" in said
                assert said.endswith(f"for a statement in {line_of(slow, '# here')}")
        assert len(made.log.having("became free")) == 1
        gevent.joinall(slow_ones, raise_error=True)
        assert made.db.query("SELECT 1") == [(1,)]
        assert (made.count("timeouts"), made.count("opened")) == (10, 3)


@patched
def test_who_holds_a_connection_for_long_is_named_by_file_and_line(url: str) -> None:
    def holds(made: Opened) -> None:
        with made.db.transaction() as tx:  # here
            tx.query(WAITS)

    def asks(made: Opened) -> None:
        made.db.query(WAITS)  # there

    with opened(url, 3, hold_warning_s=0.05) as made:
        with shut_gate(made):
            holding = [gevent.spawn(work, made) for work in (holds, asks)]
            eventually(lambda: len(made.log.having("A connection to the database has been held for")) == 2)
        gevent.joinall(holding, raise_error=True)
        [first, second] = made.log.having("A connection to the database has been held for")
        assert f"taken in {line_of(holds, '# here')}" in first + second
        assert f"for a statement in {line_of(asks, '# there')}" in first + second


@patched
def test_a_server_that_is_read_only_puts_off_and_is_not_asked_all_the_time(url: str) -> None:
    with opened(url, 4) as made, made.outside() as outside:
        anew(outside, "USER", "gbot_reader", "IDENTIFIED BY ''")
        outside.execute("GRANT ALL ON mysql.* TO gbot_reader")
        outside.execute("SET GLOBAL read_only = 1")
        address = urlsplit(url)
        reader = address._replace(netloc=f"gbot_reader@{address.hostname}:{address.port}").geturl()
        try:
            with opened(reader, 4) as theirs:
                insert = f"INSERT INTO {TABLE} (text) VALUES ('never')"
                began = time.monotonic()
                found = [outcome(theirs.db.execute, insert) for _ in range(200)]
                assert all(isinstance(one, DatabaseAway) for one in found)
                assert theirs.count("opened") <= 2 + (time.monotonic() - began) / REFUSAL_PAUSE_S
                assert len(theirs.log.having("the database refuses statements: 1290 ")) == 1
        finally:
            outside.execute("SET GLOBAL read_only = 0")
            outside.execute("DROP USER gbot_reader")


@patched
@pytest.mark.parametrize("code", [1047, 1836])  # a node that its cluster has not let in yet, and a read-only server
def test_a_statement_that_the_server_does_not_want_now_is_put_off_and_keeps_its_connection(url: str, code: int) -> None:
    refuses = f"SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = {code}, MESSAGE_TEXT = 'not now'"
    with opened(url, 1) as made:
        for _ in range(3):
            error = outcome(made.db.execute, refuses)
            assert isinstance(error, DatabaseAway)
            assert str(error) == f"{code} not now"
            assert error.after_s >= 1
        assert made.log.having(f"the database refuses statements: {code} not now; what needs them is put off")
        assert made.db.query("SELECT 1") == [(1,)]


@patched
def test_who_holds_a_connection_and_waits_for_another_in_vain_has_made_a_mistake(url: str) -> None:
    with opened(url, 1, wait_s=0.1) as made, made.db.transaction():
        assert isinstance(outcome(made.db.query, "SELECT 1"), BotError)


@patched
def test_an_error_on_a_lent_connection_leaves_without_values(url: str) -> None:
    def duplicates(made: Opened) -> None:
        with made.db.connection() as raw, raw.cursor() as cursor:  # taken
            with pytest.raises(pymysql.IntegrityError):
                cursor.execute(f"INSERT INTO {TABLE} VALUES (1, %s)", [SECRET])
            cursor.execute(f"INSERT INTO {TABLE} VALUES (1, %s)", [SECRET])  # failed

    def is_closed(made: Opened) -> None:
        with made.db.connection() as raw, made.outside() as outside:
            outside.execute(f"KILL {raw.thread_id()}")
            raw.cursor().execute("SELECT 1")

    def sends_what_is_no_value(made: Opened) -> None:
        with made.db.connection() as raw, raw.cursor() as cursor:
            cursor.execute("SELECT %s", [LookupError(SECRET)])

    with opened(url, 1) as made:
        error = outcome(duplicates, made)
        assert isinstance(error, DuplicateKey)
        assert error.key == "PRIMARY"
        assert error.__suppress_context__
        assert str(error) == (
            "error 1062 (DUP_ENTRY, key PRIMARY) from the database for: a statement in"
            f" {line_of(duplicates, '# failed')} on the connection taken in {line_of(duplicates, '# taken')}"
        )
        error = outcome(is_closed, made)
        assert isinstance(error, DatabaseDown)
        assert f"nobody knows whether it was executed: a statement in {FILE}:" in str(error)
        error = outcome(sends_what_is_no_value, made)
        assert isinstance(error, DatabaseMistake)
        assert "got LookupError: a statement in" in str(error)
        assert SECRET not in str(error)
