"""What is special to the MySQL inbox; what all stores have in common is in tests/contracts."""

from __future__ import annotations

import itertools
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from pymysql.cursors import DictCursor

from gbot.database.address import parse
from gbot.database.connection import Connection
from gbot.database.connector import Connector
from gbot.database.values import filled_in
from gbot.directory import Change, ProfileSeen, StateChange, UserForgotten, UserGone
from gbot.errors import DatabaseMistake, StartError
from gbot.event import Conversation, Event
from gbot.inbox import Entry, Outcome, State
from gbot.inboxes import desk_users, mysql_records, mysql_schema, mysql_tables, mysql_turn, mysql_upkeep
from gbot.inboxes import mysql as module
from gbot.inboxes.mysql import MySqlStore
from gbot.inboxes.store import ERROR_CHARS_MAX, LifeEnded, Place, Policy, StoreDown, StoreRefused, Turned, Work
from gbot.user import Profile
from tests.database_rig import anew
from tests.journeys.mariadb import MariaDb
from tests.journeys.processes import eventually, free_port
from tests.journeys.stage import new_database

NOW_MS: Final = 1_000_000_000_000
STRICT: Final = Policy(strict=True, dedup_window_ms=1000, keep_done_ms=0)
RELAXED: Final = Policy(strict=False, dedup_window_ms=1000, keep_done_ms=0)
DONE: Final = Outcome(State.DONE)
SECRET: Final = "sEcReT"

names = (f"gbot_test_{number}" for number in itertools.count(1))


@pytest.fixture(scope="module")
def admin(mysql_url: str) -> Iterator[Connection]:
    """A connection of its own, for what is done to the server and to others' connections."""
    connection = Connector(parse(mysql_url)).connect()
    yield connection
    connection.close()


@pytest.fixture
def url(mysql_url: str, admin: Connection) -> Iterator[str]:
    """An empty database."""
    name = next(names)
    admin.execute(f"DROP DATABASE IF EXISTS {name}")
    admin.execute(f"CREATE DATABASE {name}")
    yield f"{mysql_url.rpartition('/')[0]}/{name}"
    admin.execute(f"DROP DATABASE {name}")


MakeStore = Callable[..., MySqlStore]


@pytest.fixture
def unopened(url: str) -> Iterator[MakeStore]:
    """Makes stores on the database, which may have no tables yet."""
    made: list[MySqlStore] = []

    def make(policy: Policy = STRICT, grace_s: float = 0.0) -> MySqlStore:
        made.append(MySqlStore(url, policy, grace_s))
        return made[-1]

    yield make
    for store in made:
        store.close()


@pytest.fixture
def make_store(unopened: MakeStore) -> MakeStore:
    """Makes stores on a database that has its tables."""
    unopened().migrate()

    def make(policy: Policy = STRICT, grace_s: float = 0.0) -> MySqlStore:
        store = unopened(policy, grace_s)
        store.open()
        return store

    return make


MakeServer = Callable[..., MariaDb]


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[MakeServer]:
    """Makes a server of a test's own, with options."""
    made: list[MariaDb] = []

    def make(*options: str) -> MariaDb:
        made.append(MariaDb(tmp_path, *options))
        return made[-1]

    yield make
    for server in made:
        server.kill()


@pytest.fixture
def other_of_empty(url: str) -> Iterator[Connection]:
    """A connection to a database that has no tables yet."""
    connection = Connector(parse(url)).connect()
    yield connection
    connection.close()


@pytest.fixture
def store(make_store: MakeStore) -> MySqlStore:
    return make_store()


@pytest.fixture
def other(url: str, make_store: MakeStore) -> Iterator[Connection]:
    """Somebody else's connection to the same database, to lock rows with."""
    connection = Connector(parse(url), ["SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"]).connect()
    yield connection
    connection.close()


def event_of(text: str, of: str | None = None, id: str | None = None) -> Event:
    conversation = Conversation("user", of) if of is not None else None
    return Event(platform="line", kind="message.text", raw={}, text=text, id=id, conversation=conversation)


def put(store: MySqlStore, life: int, *events: Event, run_max: int = 0, now_ms: int = NOW_MS) -> Turned:
    return store.turn(life, Work(now_ms, [], events, run_max, 0))


def run(store: MySqlStore, life: int, *events: Event) -> list[Entry]:
    return put(store, life, *events, run_max=len(events)).running


def settle(store: MySqlStore, life: int, outcome: Outcome, *entries: Entry) -> Turned:
    return store.turn(life, Work(NOW_MS, [(entry, outcome) for entry in entries], [], 0, 0))


def claim(store: MySqlStore, life: int, count: int = 1000) -> list[Entry]:
    return store.turn(life, Work(NOW_MS, [], [], 0, count)).running


def count(store: MySqlStore, table: str = "entries") -> int:
    found: int = store.rows(f"SELECT COUNT(*) FROM {{{table}}}", ())[0][0]
    return found


def connection_number(store: MySqlStore) -> int:
    found: int = store.rows("SELECT CONNECTION_ID()", ())[0][0]
    return found


def age(store: MySqlStore, life: int) -> None:
    """Make this life's last beat an hour old."""
    store.change("UPDATE {workers} SET beat = NOW(6) - INTERVAL 1 HOUR WHERE life = ?", (life,))


class Background:
    """Does something in a thread; ``result`` waits for it and raises what it raised."""

    def __init__(self, do: Callable[[], Any]) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._future = self._pool.submit(do)
        self._pool.shutdown(wait=False)

    def result(self) -> Any:
        return self._future.result(20)


def wait_until_locked(admin: Connection) -> None:
    """Until somebody waits for a lock on a row."""
    eventually(
        lambda: (
            admin.rows("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'")
            != [("Innodb_row_lock_current_waits", "0")]
        )
    )


# The schema.


def test_without_tables_it_does_not_start_and_says_what_to_do(unopened: MakeStore) -> None:
    with pytest.raises(StartError, match=r"mysql://\w+@.* has no tables .*`gbot inbox migrate`.*--inbox"):
        unopened().open()


def test_migrating_makes_the_tables_and_again_does_nothing(unopened: MakeStore) -> None:
    store = unopened()
    assert len(store.migrate()) == mysql_schema.VERSION
    store.open()
    life = store.enlist()
    put(store, life, event_of("kept"))
    assert unopened().migrate() == []
    assert count(store) == 1


def test_tables_of_an_older_gbot_are_refused_and_brought_up_to_date_with_all_in_them(
    unopened: MakeStore, other_of_empty: Connection
) -> None:
    other_of_empty.execute("CREATE TABLE gbot_schema (version INT NOT NULL PRIMARY KEY)")
    for statement in mysql_schema.MIGRATIONS[0]:
        other_of_empty.execute(statement)
    other_of_empty.execute("INSERT INTO gbot_schema VALUES (1)")
    other_of_empty.execute("INSERT INTO gbot_entries (state, received_ms, event) VALUES (0, 1, '{}')")
    store = unopened()
    with pytest.raises(StartError, match=r"older gbot \(version 1\): run `gbot inbox migrate`"):
        store.open()
    [step] = store.migrate()
    assert step.endswith("to version 2.")
    store.open()
    assert (count(store), count(store, "users"), count(store, "states")) == (1, 0, 0)


def test_two_migrations_at_once_take_turns(unopened: MakeStore) -> None:
    stores = [unopened() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        steps = list(pool.map(MySqlStore.migrate, stores))
    assert sorted(map(len, steps)) == [0, 0, 0, mysql_schema.VERSION]
    stores[0].open()


def test_a_migration_that_broke_off_is_done_again(unopened: MakeStore) -> None:
    store = unopened()
    store.migrate()
    store.change("DELETE FROM {schema}", ())
    store.change("DROP TABLE {slots}", ())
    store.change("DROP TABLE {seen}", ())
    with pytest.raises(StartError, match="gbot inbox migrate"):
        unopened().open()
    assert len(store.migrate()) == mysql_schema.VERSION
    store.open()
    assert count(store, "slots") == mysql_schema.SLOTS
    assert store.rows("SELECT life FROM {workers}", ()) == [(0,)]


def test_tables_of_a_newer_gbot_are_left_alone(unopened: MakeStore) -> None:
    store = unopened()
    store.migrate()
    store.change("INSERT INTO {schema} VALUES (?)", (mysql_schema.VERSION + 1,))
    for use in (unopened().open, unopened().migrate):
        with pytest.raises(StartError, match="newer gbot"):
            use()


@pytest.mark.parametrize("version", ["10.5.29-MariaDB", "5.7.44-log", "nonsense"])
def test_a_server_that_is_too_old_is_refused(version: str) -> None:
    with pytest.raises(StartError, match=r"needs (MariaDB 10\.6|MySQL 8\.0) or later"):
        mysql_schema.check_server("mysql://db", version)


@pytest.mark.parametrize("version", ["10.6.0-MariaDB-log", "11.8.2-MariaDB", "8.0.36-0ubuntu0.22.04.1", "9.1.0"])
def test_a_server_that_is_new_enough_is_taken(version: str) -> None:
    mysql_schema.check_server("mysql://db", version)


def test_a_server_that_is_not_there_is_one_sentence_without_the_password() -> None:
    port = free_port()
    store = MySqlStore(f"mysql://bot:{SECRET}@127.0.0.1:{port}/chat", STRICT)
    for use in (store.open, store.migrate):
        with pytest.raises(StartError, match=f"mysql://bot@127.0.0.1:{port}/chat cannot be used.*refused") as caught:
            use()
        assert SECRET not in str(caught.value)
    with pytest.raises(StoreDown) as down:
        store.enlist()
    assert SECRET not in str(down.value)


def test_an_address_that_is_none_is_refused_without_the_password() -> None:
    with pytest.raises(StartError, match="expected mysql://") as caught:
        MySqlStore(f"mysql://bot:{SECRET}@db", STRICT)
    assert SECRET not in str(caught.value)


def test_a_user_who_may_not_make_tables_is_told_so(url: str, admin: Connection) -> None:
    name = url.rpartition("/")[2]
    anew(admin, "USER", "gbot_reader", f"IDENTIFIED BY '{SECRET}'")
    admin.execute(f"GRANT SELECT ON {name}.* TO gbot_reader")
    store = MySqlStore(f"mysql://gbot_reader:{SECRET}@{url.rpartition('@')[2]}", STRICT)
    with pytest.raises(StartError, match="not allowed") as caught:
        store.migrate()
    store.close()
    assert SECRET not in str(caught.value)
    admin.execute("DROP USER gbot_reader")


@pytest.mark.parametrize("right", ["INSERT", "UPDATE", "DELETE"])
def test_a_user_who_may_not_do_all_of_the_work_does_not_begin_and_is_told_what_to_grant(
    make_store: MakeStore, url: str, admin: Connection, right: str
) -> None:
    make_store()
    name = url.rpartition("/")[2]
    anew(admin, "USER", "gbot_poor", "")
    admin.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name}.* TO gbot_poor")
    store = MySqlStore(url.replace("root@", "gbot_poor@"), STRICT)
    store.open()
    life = store.enlist()
    admin.execute(f"REVOKE {right} ON {name}.* FROM gbot_poor")
    store.close()
    store.open()  # people may look
    uses: list[Callable[[], object]] = [store.enlist]
    if right != "DELETE":  # which a turn does not always need
        uses.append(lambda: put(store, life, event_of("a")))
    for use in uses:
        with pytest.raises(StoreRefused) as caught:
            use()
        found = re.fullmatch(
            r"its user is not allowed to do what the inbox needs "
            r"\(error 1142 \(\w+, table .*gbot_\w+\) from the database\); "
            rf"GRANT SELECT, INSERT, UPDATE, DELETE ON {name}\.\* TO gbot_poor allows it",
            str(caught.value),
        )
        assert found, caught.value
    store.close()
    admin.execute("DROP USER gbot_poor")


def open_transactions(connection: Connection) -> int:
    found: int = connection.rows("SELECT COUNT(*) FROM information_schema.INNODB_TRX")[0][0]
    return found


def test_what_the_server_has_for_defaults_does_not_matter(make_server: MakeServer) -> None:
    strange = ("--autocommit=OFF", "--completion-type=CHAIN", "--transaction-isolation=SERIALIZABLE", "--sql-mode=ANSI")
    keys = ("--loose-sql-require-primary-key", "--loose-innodb-force-primary-key")  # MySQL's, MariaDB's
    server = make_server(*strange, *keys, "--loose-sql-generate-invisible-primary-key")
    url = new_database(server, "gbot_strange")
    one, two = (MySqlStore(url, STRICT, 0.0) for _ in range(2))
    watcher = Connector(parse(server.url)).connect()
    one.open()
    life, other = one.enlist(), two.enlist()
    [entry] = run(one, life, event_of("a", of="u", id="a"))
    steps: list[Callable[[], object]] = [
        lambda: one.look(life),
        lambda: one.change("UPDATE {workers} SET held = held WHERE life = ?", (life,)),
        lambda: one.tidy(life, NOW_MS),
        lambda: one.orphans(life, [entry.number]),
        lambda: one.states(["line user u"], NOW_MS),
        lambda: put(two, other, event_of("b", of="u", id="b")),
        lambda: put(two, other, event_of("a", of="u", id="a")),
        lambda: settle(one, life, DONE, entry),
        lambda: settle(two, other, Outcome(State.DEAD, "\\'\""), *claim(two, other)),
    ]
    for step in steps:
        step()
        assert open_transactions(watcher) == 0
    assert one.rows("SELECT error FROM {ended}", ()) == [("\\'\"",)]
    for connection in (one, two, watcher):
        connection.close()


def test_a_log_of_statements_is_refused(make_server: MakeServer, tmp_path: Path) -> None:
    server = make_server(f"--log-bin={tmp_path / 'log-bin'}", "--server-id=1", "--binlog-format=STATEMENT")
    store = MySqlStore(server.url, STRICT)
    with pytest.raises(StartError, match="binlog_format=STATEMENT"):
        store.migrate()
    store.close()


# What is stored is what was given.


def test_ids_and_conversations_are_told_apart_exactly(store: MySqlStore) -> None:
    ids = [
        "id",
        "ID",
        "id ",
        " id",
        "íd",
        "id\0",
        "😀",
        "😁",
        "x" * 255,
        "x" * 254 + "X",
        "😀" * 255,
        "y" * 9999,
        "y" * 9998,
    ]
    life = store.enlist()
    turned = put(store, life, *(event_of(id, of=id, id=id) for id in ids), run_max=1000)
    assert [entry.event.text for entry in turned.running] == ids  # each free, each new
    assert put(store, life, *(event_of(id, id=id) for id in ids)).duplicates == len(ids)
    assert put(store, life, *(event_of(id, of=id) for id in ids), run_max=1000).running == []
    settle(store, life, DONE, *turned.running)
    assert sorted(entry.event.text or "" for entry in claim(store, life)) == sorted(ids)


def test_an_error_keeps_its_end(store: MySqlStore) -> None:
    life = store.enlist()
    error = "x" * 10 + "😀'\"\\%s" * 1000 + "\udcff"
    settle(store, life, Outcome(State.DEAD, error), *run(store, life, event_of("a"), event_of("b")))
    expected = error[-ERROR_CHARS_MAX:].replace("\udcff", "?")
    assert store.rows("SELECT error, attempts FROM {ended}", ()) == [(expected, 1)] * 2


def numbers_by_text(store: MySqlStore) -> dict[str, int]:
    rows = store.rows("SELECT JSON_UNQUOTE(JSON_EXTRACT(event, '$.text')), number FROM {entries}", ())
    return dict(rows)


@pytest.mark.parametrize("step", [1, 2, 7])
def test_numbers_are_right_at_any_distance(store: MySqlStore, step: int) -> None:
    life = store.enlist()
    for number in (step, 3):  # it changes while connected, as in a cluster
        store.change("SET SESSION auto_increment_increment = ?, auto_increment_offset = ?", (number, min(number, 2)))
        entries = run(store, life, *(event_of(f"{number}.{i}") for i in range(1200)))
        found = numbers_by_text(store)
        assert {entry.event.text: entry.number for entry in entries} == found
        assert settle(store, life, DONE, *entries).late == 0


def test_batches_that_exceed_a_packet_are_split(make_store: MakeStore, admin: Connection) -> None:
    before = admin.rows("SELECT @@GLOBAL.max_allowed_packet")[0][0]
    admin.execute("SET GLOBAL max_allowed_packet = 1024 * 1024")
    try:
        store = make_store(Policy(strict=True, dedup_window_ms=1000, keep_done_ms=1000))
        life = store.enlist()
        events = [event_of(f"{i} {chr(34) * 50_000}", of=f"u{i} {'x' * 250}", id=f"{i} {'x' * 9}") for i in range(60)]
        entries = run(store, life, *events)
        assert [entry.event for entry in entries] == events
        assert settle(store, life, Outcome(State.RETRY, "😀" * 9999), *entries).late == 0
        assert store.tidy(life, NOW_MS).woken == 60
        again = claim(store, life)
        assert [entry.event for entry in again] == events
        assert settle(store, life, Outcome(State.DEAD, "'" * 9999), *again[:30]).late == 0
        assert settle(store, life, DONE, *again[30:]).late == 0
        assert (count(store), count(store, "ended")) == (0, 60)
    finally:
        admin.execute("SET GLOBAL max_allowed_packet = %s", (before,))


# Deadlocks, lost connections, a server that dies.


def test_a_deadlock_is_done_again(store: MySqlStore, other: Connection, admin: Connection) -> None:
    life = store.enlist()
    [entry] = run(store, life, event_of("a"))
    other.execute("START TRANSACTION")
    columns = "number, state, received_ms, ended_ms, event"
    other.execute(f"INSERT INTO gbot_ended ({columns}) SELECT 1000 + slot, 5, 0, 0, '' FROM gbot_slots")
    other.execute("UPDATE gbot_entries SET rescues = 1 WHERE number = %s", (entry.number,))
    work = Work(NOW_MS, [(entry, DONE)], [event_of("b", id="b")], 1, 0)
    turn = Background(lambda: store.turn(life, work))
    wait_until_locked(admin)  # for the entry, with the worker's row locked
    other.execute(
        "UPDATE gbot_workers SET held = held WHERE life = %s", (life,)
    )  # it has done more: the turn gives way
    other.execute("COMMIT")
    turned = turn.result()
    assert (turned.late, turned.stored, turned.duplicates) == (0, 1, 0)
    assert list(numbers_by_text(store)) == ["b"]
    assert store.look(life).held == 1


def test_trying_again_comes_to_an_end(store: MySqlStore, other: Connection) -> None:
    life = store.enlist()
    [entry] = run(store, life, event_of("a"))
    store.change("SET SESSION innodb_lock_wait_timeout = 1", ())
    other.execute("START TRANSACTION")
    other.execute("UPDATE gbot_entries SET rescues = 1 WHERE number = %s", (entry.number,))
    with pytest.raises(StoreDown):
        settle(store, life, DONE, entry)
    other.execute("ROLLBACK")
    assert settle(store, life, DONE, entry).late == 0


def test_a_connection_lost_between_turns(store: MySqlStore, admin: Connection) -> None:
    life = store.enlist()
    for use in (lambda: put(store, life, event_of("a")), lambda: store.look(life)):
        admin.execute("KILL %s", (connection_number(store),))
        with pytest.raises(StoreDown) as down:
            use()
        assert re.match(r"(2006|2013|1927|4031) ", str(down.value))
        assert not re.search("START|UPDATE|executed", str(down.value))  # nothing hides the reason
        use()
    assert store.look(life).held == 1


def test_a_connection_lost_within_a_turn_leaves_nothing(
    store: MySqlStore, other: Connection, admin: Connection
) -> None:
    life = store.enlist()
    [entry] = run(store, life, event_of("a", of="u"))
    number = connection_number(store)
    other.execute("START TRANSACTION")
    other.execute("SELECT slot FROM gbot_slots FOR UPDATE")
    work = Work(NOW_MS, [(entry, DONE)], [event_of("b", id="b")], 0, 0)
    turn = Background(lambda: store.turn(life, work))
    wait_until_locked(admin)
    admin.execute("KILL %s", (number,))
    with pytest.raises(StoreDown):
        turn.result()
    other.execute("ROLLBACK")
    assert store.look(life).held == 1
    turned = store.turn(life, work)
    assert (turned.late, turned.stored, turned.duplicates) == (0, 1, 0)
    assert store.look(life).held == 1


def test_wrong_sql_is_not_taken_for_an_outage(store: MySqlStore) -> None:
    with pytest.raises(DatabaseMistake):
        store.rows("SELECT nonsense FROM {entries}", ())
    assert count(store) == 0


def test_a_server_that_dies_comes_back_with_everything(make_server: MakeServer) -> None:
    server = make_server()
    store = MySqlStore(server.url, STRICT)
    try:
        store.migrate()
        life = store.enlist()
        [entry] = run(store, life, event_of("a", of="u", id="a"))
        put(store, life, event_of("b", of="u", id="b"))
        server.kill()
        for use in (lambda: store.look(life), lambda: settle(store, life, DONE, entry), lambda: store.tidy(life, 0)):
            with pytest.raises(StoreDown):
                use()
        server.start()
        assert store.look(life).held == 2
        assert settle(store, life, DONE, entry).ready_left
        assert [found.event.text for found in claim(store, life)] == ["b"]
        assert put(store, life, event_of("a", id="a")).duplicates == 1
        assert run(store, life, event_of("c"))[0].number > entry.number + 1
    finally:
        store.close()


# Lives.


def test_a_look_is_one_query(store: MySqlStore) -> None:
    life = store.enlist()
    status = "SHOW SESSION STATUS LIKE 'Questions'"
    before = int(store.rows(status, ())[0][1])
    store.look(life)
    assert int(store.rows(status, ())[0][1]) - before == 2  # one of them asks for the status


def test_looks_and_turns_are_beats(store: MySqlStore) -> None:
    life = store.enlist()
    beats: list[Callable[[], object]] = [lambda: store.look(life), lambda: put(store, life)]
    for beat in beats:
        age(store, life)
        beat()
        assert store.rows("SELECT beat > NOW(6) - INTERVAL 5 SECOND FROM {workers} WHERE life = ?", (life,)) == [(1,)]


def test_looking_and_the_fence_do_not_wait_for_locks_of_others(store: MySqlStore, other: Connection) -> None:
    mine, theirs = store.enlist(), store.enlist()
    put(store, mine, event_of("a"))
    store.change("SET SESSION innodb_lock_wait_timeout = 1", ())
    other.execute("START TRANSACTION")
    for table in ("entries", "seen", "ended"):
        other.rows(f"SELECT * FROM gbot_{table} FOR UPDATE")
    other.execute("UPDATE gbot_workers SET held = held WHERE life = %s", (theirs,))
    assert store.look(mine).ready
    assert put(store, mine, event_of("b")).ready_left
    other.execute("ROLLBACK")


def test_a_life_that_others_ended_is_told_so_and_writes_nothing(make_store: MakeStore) -> None:
    slow, here = make_store(), make_store()
    life, mine = slow.enlist(), here.enlist()
    [entry] = run(slow, life, event_of("a"))
    age(slow, life)
    assert here.look(mine).tidy
    tidied = here.tidy(mine, NOW_MS)
    assert (tidied.rescued, tidied.lives_ended) == (1, (life,))
    for use in (
        lambda: slow.look(life),
        lambda: settle(slow, life, DONE, entry),
        lambda: put(slow, life, event_of("b")),
    ):
        with pytest.raises(LifeEnded):
            use()
    assert (count(here), here.look(mine).held) == (1, 1)
    again = slow.enlist()
    assert again > mine > life
    assert settle(slow, again, DONE, entry).late == 1


def test_many_entries_are_rescued_in_parts(make_store: MakeStore) -> None:
    gone, here = make_store(), make_store()
    life, mine = gone.enlist(), here.enlist()
    run(gone, life, *(event_of(str(i), of=f"u{i % 7}" if i < 300 else None) for i in range(1200)))
    age(gone, life)
    rescued, ended, more = 0, [], True
    while more:
        tidied = here.tidy(mine, NOW_MS)
        rescued, more = rescued + tidied.rescued, tidied.more
        ended += tidied.lives_ended
    assert (rescued, ended) == (1200, [life])
    assert here.look(mine).held == 1200
    assert len(claim(here, mine, 5000)) == 900 + 7


def test_who_has_just_come_does_not_take_from_others(make_store: MakeStore) -> None:
    """Every beat is old after the database was away, and it is found so by the first that comes back."""
    other, here = make_store(), make_store(grace_s=1.0)
    life, mine = other.enlist(), here.enlist()
    run(other, life, event_of("a"))
    age(other, life)
    assert not here.look(mine).tidy
    assert here.tidy(mine, NOW_MS).rescued == 0
    eventually(lambda: here.look(mine).tidy and here.tidy(mine, NOW_MS).rescued == 1)


def test_a_gap_in_the_beats_starts_the_wait_anew(make_store: MakeStore) -> None:
    other, here = make_store(), make_store(grace_s=0.6)
    life, mine = other.enlist(), here.enlist()
    run(other, life, event_of("a"))
    age(other, life)
    eventually(lambda: here.look(mine).tidy)
    assert not threading.Event().wait(0.4)  # more than half of the grace, without a beat
    assert here.tidy(mine, NOW_MS).rescued == 0
    assert not here.look(mine).tidy
    eventually(lambda: here.look(mine).tidy and here.tidy(mine, NOW_MS).rescued == 1)


def test_a_clock_that_steps_ends_nobody(make_store: MakeStore) -> None:
    """However old the beats look: who beats is there."""
    other, here = make_store(), make_store(grace_s=0.5)
    life, mine = other.enlist(), here.enlist()
    run(other, life, event_of("a"))
    end = time.monotonic() + 2.0
    while time.monotonic() < end:
        other.look(life)
        age(other, life)
        here.look(mine)
        assert here.tidy(mine, NOW_MS).rescued == 0
    eventually(lambda: here.look(mine).tidy and here.tidy(mine, NOW_MS).rescued == 1)


def test_orphans_wait_for_a_commit_that_is_under_way(make_store: MakeStore, other: Connection) -> None:
    """The answer was lost, the commit was not: it may come after the question."""
    store = make_store()
    life = store.enlist()
    other.execute("START TRANSACTION")
    other.execute("UPDATE gbot_workers SET held = held + 1 WHERE life = %s", (life,))
    other.execute(
        "INSERT INTO gbot_entries (state, claim, received_ms, event) SELECT %s, %s, 0, event FROM"
        ' (SELECT \'{"platform":"line","kind":"k","raw":1}\' AS event) AS made',
        (int(Place.RUNNING), life),
    )
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(store.orphans, life, [])
        assert not threading.Event().wait(0.5)
        assert not asked.done()
        other.execute("COMMIT")
        assert asked.result(10) == 1
    assert len(claim(store, life)) == 1


def test_orphans_are_put_back_in_their_order(store: MySqlStore) -> None:
    life, other = store.enlist(), store.enlist()
    entries = run(store, life, *(event_of(text, of="u") for text in "abc"), event_of("x"), event_of("y"))
    run(store, other, event_of("z"))
    known = [entry.number for entry in entries if entry.event.text in "xy"]
    assert store.orphans(life, known) == 3
    assert store.orphans(life, known) == 0
    assert [entry.event.text for entry in claim(store, life)] == ["a"]
    assert store.rows("SELECT SUM(rescues), SUM(attempts) FROM {entries}", ()) == [(0, 0)]


# Work by hand.


def test_sql_of_the_desk_is_put_in_this_databases_words(store: MySqlStore) -> None:
    assert store.rows("SELECT ?, 7 % 4, 'a' LIKE '%'", ("?%s{entries}",)) == [("?%s{entries}", 3, 1)]
    assert store.change("UPDATE {workers} SET held = held WHERE life IN (?, ?)", (0, 999)) == 1


HOLD: Final = "UPDATE {workers} SET held = 5 WHERE life = 0"


def held_by_hand(store: MySqlStore) -> int:
    found: int = store.rows("SELECT held FROM {workers} WHERE life = 0", ())[0][0]
    return found


def test_a_transaction_is_all_or_nothing(store: MySqlStore) -> None:
    def fail() -> None:
        with store.transaction():
            store.change(HOLD, ())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert held_by_hand(store) == 0
    with store.transaction():
        store.change(HOLD, ())
    assert held_by_hand(store) == 5


def test_a_broken_connection_in_a_transaction_undoes_it(store: MySqlStore, admin: Connection) -> None:
    def lose() -> None:
        number = connection_number(store)
        with store.transaction():
            store.change(HOLD, ())
            admin.execute("KILL %s", (number,))
            store.change(HOLD, ())

    with pytest.raises(StoreDown):
        lose()
    assert held_by_hand(store) == 0


def test_a_row_that_no_query_would_find_is_refused(store: MySqlStore) -> None:
    columns = "INSERT INTO {entries} (state, claim, due_ms, received_ms, event) VALUES (?, ?, ?, 0, '{}')"
    for state, claimed, due in ((0, 1, None), (0, None, 1), (1, None, None), (2, None, None), (3, None, 1)):
        with pytest.raises(DatabaseMistake):
            store.change(columns.replace("'{}'", "'x'"), (state, claimed, due))


# A long backlog.

BACKLOG: Final = 40_000


class Backlog(NamedTuple):
    """A store that many entries wait in, the life that put them there, and where it is."""

    store: MySqlStore
    life: int
    url: str


def fill(store: MySqlStore) -> int:
    """Ready entries, ones of one conversation, waiting and ended ones, seen ids, users, states; returns a life."""
    life = store.enlist()
    tens = "(SELECT slot FROM {slots} LIMIT 10) AS s, {slots} AS t"
    assert BACKLOG <= 10 * mysql_schema.SLOTS
    event = '{"platform":"line","kind":"x","raw":{}}'
    for state, due_ms, key in ((0, None, None), (3, None, b"line user hot"), (2, 2 * NOW_MS, b"line user slow")):
        store.change(
            "INSERT INTO {entries} (state, due_ms, conversation, received_ms, event)"
            f" SELECT ?, ?, ?, 0, ? FROM {tens} LIMIT {BACKLOG}",
            (state, due_ms, key, event),
        )
    ended = "INSERT INTO {ended} (number, state, received_ms, ended_ms, event) SELECT"
    store.change(f"{ended} 100000000 + s.slot * 10000 + t.slot, 4, 0, {2 * NOW_MS}, '' FROM {tens}", ())
    seen = "INSERT INTO {seen} (platform, event_id, seen_ms) SELECT"
    store.change(f"{seen} 'x', CONCAT(s.slot, '.', t.slot), {2 * NOW_MS} FROM {tens}", ())
    users = "INSERT INTO {users} (platform, user_id, gone, gone_ms, profile_ms) SELECT"
    store.change(f"{users} 'x', CONCAT(s.slot, '.', t.slot), s.slot = 0, 1, 1 FROM {tens}", ())
    states = "INSERT INTO {states} (conversation, expires_ms, document) SELECT"
    store.change(f"{states} CONCAT(s.slot, '.', t.slot), {10**15}, '1' FROM {tens}", ())
    return life


@pytest.fixture(params=["as_counted", "stale"])
def backlog(request: pytest.FixtureRequest) -> Iterator[Backlog]:
    """A long backlog, with the statistics that the server has made of it, or with those of empty tables."""
    if request.param == "as_counted":
        store = request.getfixturevalue("store")
        yield Backlog(store, fill(store), request.getfixturevalue("url"))
    else:
        yield from backlog_with_stale_statistics(request.getfixturevalue("make_server"))


def backlog_with_stale_statistics(make_server: MakeServer) -> Iterator[Backlog]:
    """On a server that was started anew: what it counted meanwhile is forgotten, and it does not count by itself."""
    server = make_server("--innodb-stats-auto-recalc=OFF")
    url = new_database(server, "gbot_stale")
    store = MySqlStore(url, STRICT, 0.0)
    life = fill(store)
    store.close()
    server.stop()
    server.start()
    stale = "SELECT n_rows FROM mysql.innodb_table_stats WHERE table_name IN ('gbot_entries', 'gbot_slots')"
    assert store.rows(stale, ()) == [(0,), (0,)]
    for table in ("entries", "ended", "seen", "workers", "slots", "users", "states"):
        store.rows(f"SELECT 1 FROM {{{table}}} LIMIT 1", ())  # the first use of a table reads what it is
    yield Backlog(store, life, url)
    store.close()


def rows_read(store: MySqlStore, do: Callable[[], object]) -> int:
    """How many rows or index entries the server visited for it."""

    def total() -> int:
        return sum(int(value) for _, value in store.rows("SHOW SESSION STATUS LIKE 'Handler_read%'", ()))

    total()
    before = total()
    between = total() - before  # what asking costs
    before = total()
    do()
    return total() - before - between


def changes_of(ids: Sequence[str], document: str | None) -> list[Change]:
    """A state for each of these rooms, and word of these users; without a document the end of all of these."""
    changes: list[Change] = [StateChange("line", Conversation("room", id), document, 10**15) for id in ids]
    return changes + [UserGone("line", id, True, 1) if document else UserForgotten("line", id) for id in ids]


def save(store: MySqlStore, life: int, document: str | None) -> None:
    changes = changes_of([str(number) for number in range(20)], document)
    store.turn(life, Work(NOW_MS, [], [], 0, 0, changes=changes))


def test_a_backlog_slows_nothing(backlog: Backlog) -> None:
    store, life, _ = backlog
    entries = run(store, life, *(event_of(str(i), of=f"u{i}", id=str(i)) for i in range(20)))
    assert len(entries) == 20
    hot, far_ms = event_of("b", of="hot"), 2 * 10**15
    new = [event_of(str(i), of=f"n{i}", id=f"n{i}") for i in range(50)]
    retry, dead, released = Outcome(State.RETRY), Outcome(State.DEAD), Outcome(State.RELEASED)
    steps: list[tuple[str, Callable[[], object], int]] = [
        ("look", lambda: store.look(life), 40),
        ("tidy", lambda: store.tidy(life, NOW_MS), 1200),  # a part of the ids is looked at
        ("put", lambda: put(store, life, event_of("a", of="a", id="a"), hot, run_max=9), 60),
        ("put many", lambda: put(store, life, *new), 800),
        ("put again", lambda: put(store, life, *new), 800),
        ("put much later", lambda: put(store, life, *new, now_ms=NOW_MS + 1001), 900),
        ("claim", lambda: claim(store, life, 10), 80),
        ("claim many", lambda: claim(store, life, 100), 500),
        ("settle", lambda: settle(store, life, retry, *entries[:5]), 120),
        ("settle", lambda: settle(store, life, dead, *entries[5:10]), 120),
        ("settle", lambda: settle(store, life, released, *entries[10:15]), 120),
        ("settle", lambda: settle(store, life, DONE, *entries[15:]), 120),
        ("due", lambda: store.tidy(life, NOW_MS), 1500),
        ("promote", lambda: store.promote(["line user hot"]), 30),
        ("orphans", lambda: store.orphans(life, []), 900),
        ("save", lambda: save(store, life, "1"), 10),
        ("remove", lambda: save(store, life, None), 150),
        ("states", lambda: store.states([f"0.{n}" for n in range(10)], NOW_MS), 30),
        ("users", lambda: store.users([("x", f"0.{n}") for n in range(10)]), 40),
        ("purge", lambda: store.tidy(life, far_ms), 8000),  # a thousand of each
    ]
    for name, do, rows_max in steps:
        assert rows_read(store, do) <= rows_max, name


PLANS: Final[list[tuple[str, Sequence[object]]]] = [
    (mysql_turn.CLAIM, (100,)),
    (mysql_turn.FENCE, (0, 1)),
    (module.LOOK, (1, 1, 1, 1, 1, 1, 1)),
    (mysql_upkeep.WAKE, (1,)),
    (mysql_upkeep.RUNNING_OF, (1,)),
    (mysql_upkeep.PURGE_SEEN, ()),
    (mysql_upkeep.PURGE_DONE, (1,)),
    (mysql_upkeep.PURGE_STATES, (2,)),
    (mysql_records.CARRIED, ([1, 2, 3],)),
    (mysql_records.STATES, ([b"0.1", b"0.2"], 1)),
    (mysql_records.USERS, (b"x", [b"0.1", b"0.2"])),
    (mysql_records.REMOVE_STATES, ([b"0.1", b"0.2"],)),
    (mysql_records.REMOVE_USERS, (b"x", [b"0.1", b"0.2"])),
    (module.words_of(desk_users.PLATFORM), ("a",)),
    (module.words_of(desk_users.USERS), ("x", "0.1", 100)),
    (module.words_of(desk_users.GONE), ("x", "0.1", 100)),
    (module.words_of(desk_users.ENTRIES), ("u", 1)),
    (module.words_of(desk_users.ENDED), ("u", 1)),
    (mysql_tables.LOCK, ([1, 2, 3],)),
    (mysql_tables.survey_sql(2), (0, b"line user hot", 1, b"line user cold")),
    (f"{mysql_tables.DELETE_ENTRIES} AND claim = 1", ([1, 2, 3],)),
    (f"{mysql_tables.BACK} WHERE number IN %s AND claim = 1", ([1, 2, 3],)),
    (mysql_turn.CLAIMED, ([1, 2, 3],)),
    (mysql_turn.SEEN, (b"x", [b"0.1", b"0.2"])),
]


def test_no_plan_scans_or_sorts(backlog: Backlog) -> None:
    connection = Connector(parse(backlog.url)).connect()
    for sql, args in PLANS:
        with connection.raw.cursor(DictCursor) as cursor:
            cursor.execute(f"EXPLAIN FORMAT=TRADITIONAL {filled_in(sql, args)}")
            plan = cursor.fetchall()
        tables = [row for row in plan if row["table"] == "e" or (row["table"] or "").startswith("gbot_")]
        assert tables, (sql, plan)
        for row in tables:
            if row["table"] != "gbot_workers":
                assert row["type"] != "ALL", (sql, plan)
                assert row["key"], (sql, plan)
            assert "filesort" not in (row["Extra"] or ""), (sql, plan)
    connection.close()


# Two workers at once.


TURNS: Final = 120


class Hammer:
    """A worker that puts, settles and claims at random, and writes down what it ran."""

    def __init__(self, store: MySqlStore, seed: int, ran: list[str]) -> None:
        self.store = store
        self.life = store.enlist()
        self._random = random.Random(seed)
        self._name = seed
        self._put = 0
        self._ran = ran
        self.running: list[Entry] = []

    def turn(self, put_max: int = 3) -> Turned:
        chance = self._random
        chance.shuffle(self.running)
        cut = chance.randint(0, len(self.running))
        settled, self.running = self.running[:cut], self.running[cut:]
        outcomes = [Outcome(chance.choices([State.DONE, State.RELEASED, State.RETRY], [8, 1, 1])[0]) for _ in settled]
        events = [self._event() for _ in range(chance.randint(0, put_max))]
        settlements = list(zip(settled, outcomes, strict=True))
        turned = self.store.turn(
            self.life, Work(NOW_MS, settlements, events, chance.randint(0, 2), chance.randint(0, 2))
        )
        assert turned.late == 0
        self._ran += [entry.event.text or "" for entry, outcome in settlements if outcome.state is State.DONE]
        self.running += turned.running
        if chance.random() < 0.2:
            self.store.tidy(self.life, NOW_MS)
        return turned

    def _event(self) -> Event:
        self._put += 1
        return event_of(f"{self._name}.{self._put}", of=f"u{self._random.randint(1, 4)}")


def check_conversations(store: MySqlStore, strict: bool) -> None:
    """One statement sees one moment: no conversation is in two hands, and none is forgotten."""
    by_conversation: dict[bytes, list[tuple[int, int, int | None]]] = {}
    for conversation, *row in store.rows("SELECT conversation, number, state, claim FROM {entries}", ()):
        by_conversation.setdefault(conversation, []).append((row[0], row[1], row[2]))
    for rows in by_conversation.values():
        places = Counter(state for _, state, _ in rows)
        claims = {claimed for _, state, claimed in rows if state == Place.RUNNING}
        assert len(claims) <= 1, rows
        assert places[Place.READY] <= (0 if claims else 1), rows
        if places[Place.BEHIND]:
            first = min(number for number, state, _ in rows if state == Place.BEHIND)
            waits = strict and any(number < first for number, state, _ in rows if state == Place.WAITING)
            assert claims or places[Place.READY] or waits, rows


@pytest.mark.parametrize("policy", [STRICT, RELAXED], ids=["strict", "relaxed"])
def test_conversations_are_kept_whatever_two_workers_do_at_once(
    make_store: MakeStore, admin: Connection, policy: Policy
) -> None:
    admin.execute("SET GLOBAL innodb_flush_log_at_trx_commit = 2")  # nobody pulls the plug here
    ran: list[str] = []
    workers = [Hammer(make_store(policy), seed, ran) for seed in (1, 2, 3)]
    watcher = make_store(policy)
    over = threading.Event()

    def hammer(worker: Hammer) -> int:
        return sum(worker.turn().stored for _ in range(TURNS))

    def watch() -> int:
        looks = 0
        while not over.is_set():
            check_conversations(watcher, policy.strict)
            looks += 1
        return looks

    watching = Background(watch)
    with ThreadPoolExecutor(3) as pool:
        stored = sum(pool.map(hammer, workers))
    over.set()
    assert watching.result() > 10
    while count(watcher):
        for worker in workers:
            worker.turn(put_max=0)
        check_conversations(watcher, policy.strict)
    assert len(ran) == len(set(ran)) == stored
    assert watcher.look(workers[0].life).held == 0
    admin.execute("SET GLOBAL innodb_flush_log_at_trx_commit = 1")


# Users and states.


def test_states_that_exceed_a_packet_together_are_split(make_store: MakeStore, admin: Connection) -> None:
    [(before,)] = admin.rows("SELECT @@global.max_allowed_packet")
    admin.execute("SET GLOBAL max_allowed_packet = 1048576")
    try:
        store = make_store()
        life = store.enlist()
        document = '"' + "名" * 20_000 + '"'
        changes: list[Change] = [
            StateChange("line", Conversation("room", str(number)), document, 10**15) for number in range(60)
        ]
        profile = Profile("'" * 10_000)
        changes += [ProfileSeen("line", str(number), profile, 1) for number in range(120)]
        store.turn(life, Work(NOW_MS, [], [], 0, 0, changes=changes))
        assert (count(store, "states"), count(store, "users")) == (60, 120)
        assert store.states(["line room 59"], NOW_MS) == {"line room 59": document}
        assert store.users([("line", "119")])["line", "119"].profile == profile
    finally:
        admin.execute(f"SET GLOBAL max_allowed_packet = {before}")


def test_two_workers_that_save_the_same_users_and_states_get_there(make_store: MakeStore) -> None:
    stores = [make_store() for _ in range(4)]
    lives = [store.enlist() for store in stores]
    rooms = [Conversation("room", str(number)) for number in range(30)]

    def save(index: int) -> None:
        chance = random.Random(index)
        for number in range(25):
            some = chance.sample(rooms, 20)
            changes: list[Change] = [StateChange("line", room, f"{number}", 10**15) for room in some[:10]]
            changes += [StateChange("line", room, None, 0) for room in some[10:]]
            changes += [UserGone("line", room.id, bool(number % 2), number + 1) for room in some]
            changes += [UserForgotten("line", room.id) for room in some[:3]]
            stores[index].turn(lives[index], Work(NOW_MS, [], [], 0, 0, changes=changes))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(save, range(4)))
    assert count(stores[0], "users") <= 30


def test_a_connection_lost_between_questions_is_made_again(store: MySqlStore, admin: Connection) -> None:
    life = store.enlist()
    change = StateChange("line", Conversation("user", "u"), "1", 10**15)
    store.turn(life, Work(NOW_MS, [], [], 0, 0, changes=[change]))
    admin.execute(f"KILL {connection_number(store)}")
    with pytest.raises(StoreDown):
        store.states(["line user u"], NOW_MS)
    assert store.states(["line user u"], NOW_MS) == {"line user u": "1"}
