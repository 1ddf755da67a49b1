"""What is special to the SQLite store: its file, its locks, its query plans, and disks that are full.

What it shares with other stores is in tests/contracts/. No test opens the file itself while a store of this process
has it open: closing it again would drop SQLite's locks.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gbot.directory import StateChange
from gbot.errors import StartError
from gbot.event import Conversation, Event
from gbot.inbox import Entry, Outcome, State
from gbot.inboxes import desk_users, sqlite_file, sqlite_records, sqlite_turn, sqlite_upkeep
from gbot.inboxes.sqlite import SqliteStore
from gbot.inboxes.store import LifeEnded, Place, Policy, StoreDown, Work
from tests.journeys.processes import ROOT, Program, clean_environ, eventually

POLICY = Policy(strict=True, dedup_window_ms=60_000, keep_done_ms=0)
DONE = Outcome(State.DONE)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def events(count: int, raw: object = None) -> list[Event]:
    return [Event(platform="plain", kind="message.text", raw=raw, text=str(number)) for number in range(count)]


def work(
    events: list[Event] | None = None, settled: list[Entry] | None = None, run_max: int = 0, claim_max: int = 0
) -> Work:
    return Work(now_ms(), [(entry, DONE) for entry in settled or []], events or [], run_max, claim_max)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "inbox.sqlite3"


@pytest.fixture
def make(path: Path) -> Iterator[Callable[[], SqliteStore]]:
    """Makes stores on one file, as several workers have them, and closes them at the end."""
    stores: list[SqliteStore] = []

    def make_one() -> SqliteStore:
        stores.append(SqliteStore(path, POLICY))
        return stores[-1]

    yield make_one
    for store in stores:
        store.close()


@pytest.fixture
def store(make: Callable[[], SqliteStore]) -> SqliteStore:
    store = make()
    store.open()
    return store


def closed_inbox(path: Path, count: int = 3) -> None:
    """An inbox that holds this many entries, and that nobody has open."""
    store = SqliteStore(path, POLICY)
    store.open()
    life = store.enlist()
    store.turn(life, work(events(count)))
    store.leave(life)
    store.close()


def outside(path: Path, *statements: str) -> None:
    """Do something to the file as another program would."""
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def traces(path: Path) -> dict[str, str]:
    """All files in the directory and what is in them."""
    return {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in path.parent.iterdir()}


# The file.


def test_a_file_and_its_directory_are_made_for_the_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "inbox.sqlite3"
    store = SqliteStore(path, POLICY)
    assert len(store.migrate()) == 2
    store.enlist()
    assert {each.name for each in path.parent.iterdir()} >= {path.name, f"{path.name}-wal", f"{path.name}-lives"}
    assert {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()} == {0o600}
    assert [stat.S_IMODE(each.stat().st_mode) for each in (path.parent, path.parent.parent)] == [0o700, 0o700]
    assert store.migrate() == []
    assert store.place == f"sqlite://{path}"
    store.close()
    assert {each.name for each in path.parent.iterdir()} == {path.name, f"{path.name}-lives"}


def test_a_commit_is_on_the_disk_when_it_returns(store: SqliteStore) -> None:
    assert store.rows("PRAGMA journal_mode") == [("wal",)]
    assert store.rows("PRAGMA synchronous") == [(2,)]
    store.close()
    assert store.rows("PRAGMA synchronous") == [(2,)]  # of a connection that was made later


@pytest.mark.parametrize("made", ["empty file", "database without a table", "gbot's, without a schema"])
def test_a_file_of_version_0_is_brought_to_the_newest_schema(path: Path, made: str) -> None:
    if made == "empty file":
        path.touch()
    elif made == "database without a table":
        outside(path, "CREATE TABLE t (a)", "DROP TABLE t")
    else:
        outside(path, f"PRAGMA application_id = {sqlite_file.APPLICATION_ID}")
    store = SqliteStore(path, POLICY)
    [step] = store.migrate()
    assert "from schema 0 to 2" in step
    life = store.enlist()
    assert store.turn(life, work(events(2), run_max=1)).stored == 2
    assert store.rows("PRAGMA application_id") == [(sqlite_file.APPLICATION_ID,)]
    assert store.rows("PRAGMA user_version") == [(len(sqlite_file.MIGRATIONS),)]
    store.close()


def test_a_file_of_schema_1_is_brought_to_the_newest_with_all_in_it(path: Path) -> None:
    event = '{"platform":"x","kind":"k","raw":1}'
    entry = f"INSERT INTO entries (state, received_ms, event) VALUES (0, 1, '{event}')"
    of_schema_1 = (f"PRAGMA application_id = {sqlite_file.APPLICATION_ID}", "PRAGMA user_version = 1")
    outside(path, *sqlite_file.MIGRATIONS[0], *of_schema_1, entry)
    store = SqliteStore(path, POLICY)
    [step] = store.migrate()
    assert "from schema 1 to 2" in step
    life = store.enlist()
    change = StateChange("x", Conversation("user", "u"), "1", 10**15)
    running = store.turn(life, Work(now_ms(), [], [], 0, 5, changes=[change])).running
    assert [entry.event.kind for entry in running] == ["k"]
    assert store.states(["x user u"], now_ms()) == {"x user u": "1"}
    store.close()
    again = SqliteStore(path, POLICY)
    assert again.migrate() == []
    again.close()


def test_a_damaged_file_of_schema_1_is_not_upgraded(path: Path) -> None:
    of_schema_1 = (f"PRAGMA application_id = {sqlite_file.APPLICATION_ID}", "PRAGMA user_version = 1")
    outside(path, *sqlite_file.MIGRATIONS[0], *of_schema_1, "DROP TABLE ended")
    before = traces(path)
    with pytest.raises(StartError, match="damaged"):
        SqliteStore(path, POLICY).open()
    assert traces(path) == before


def test_a_migration_that_breaks_off_leaves_the_file_as_it_was(path: Path) -> None:
    outside(path, f"PRAGMA application_id = {sqlite_file.APPLICATION_ID}", "CREATE TABLE seen (other)")
    before = traces(path)
    with pytest.raises(StartError, match="table seen already exists"):
        SqliteStore(path, POLICY).open()
    outside(path, "PRAGMA journal_mode = DELETE")
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("seen",)]
    connection.close()
    assert traces(path).keys() == before.keys()


def not_a_database(path: Path) -> None:
    path.write_text("Dear diary,\n" * 1000)


def a_short_text(path: Path) -> None:
    path.write_text("hello")


def of_another_program(path: Path) -> None:
    outside(path, "CREATE TABLE diary (day, entry)", "INSERT INTO diary VALUES (1, 'rain')")


def of_another_program_with_a_wal(path: Path) -> None:
    outside(path, "PRAGMA journal_mode = WAL", "CREATE TABLE diary (day, entry)")


def of_another_program_killed_amid_a_change(path: Path) -> None:
    source = path.with_name("source")
    connection = sqlite3.connect(source, isolation_level=None)
    for statement in ("CREATE TABLE diary (day, entry)", "PRAGMA cache_size = 5", "BEGIN"):
        connection.execute(statement)
    connection.executemany("INSERT INTO diary VALUES (?, ?)", [(day, "rain" * 100) for day in range(1000)])
    for suffix in ("", "-journal"):
        shutil.copy(f"{source}{suffix}", f"{path}{suffix}")
    connection.close()
    source.unlink()


def with_another_application_id(path: Path) -> None:
    outside(path, "PRAGMA application_id = 252006674")


def of_a_newer_gbot(path: Path) -> None:
    closed_inbox(path)
    outside(path, "PRAGMA user_version = 99")


def cut_short(path: Path) -> None:
    closed_inbox(path, 2000)
    os.truncate(path, path.stat().st_size // 2)


def with_a_broken_schema(path: Path) -> None:
    closed_inbox(path)
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 3000)


def with_a_broken_page(path: Path) -> None:
    closed_inbox(path, 20_000)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 4096 // 2 * 4096)
        file.write(os.urandom(4096))


def without_a_table(path: Path) -> None:
    closed_inbox(path)
    outside(path, "DROP TABLE ended")


def without_a_newer_table(path: Path) -> None:
    closed_inbox(path)
    outside(path, "DROP TABLE states")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (not_a_database, "no SQLite database"),
        (a_short_text, "no SQLite database"),
        (of_another_program, "belongs to another program"),
        (of_another_program_with_a_wal, "belongs to another program"),
        (of_another_program_killed_amid_a_change, "belongs to another program"),
        (with_another_application_id, "belongs to another program"),
        (of_a_newer_gbot, "newer gbot"),
        (cut_short, "damaged"),
        (with_a_broken_schema, "damaged"),
        (with_a_broken_page, "damaged"),
        (without_a_table, "damaged"),
        (without_a_newer_table, "damaged"),
    ],
)
def test_a_file_that_cannot_be_the_inbox_stays_as_it_is(path: Path, spoil: Callable[[Path], None], reason: str) -> None:
    spoil(path)
    before = traces(path)
    with pytest.raises(StartError, match=reason) as caught:
        SqliteStore(path, POLICY).open()
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    assert traces(path) == before


def test_the_database_of_another_program_that_runs_stays_as_it_is(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE diary (day, entry)")
    connection.commit()
    wal = path.with_name(f"{path.name}-wal")
    before = wal.read_bytes()
    with pytest.raises(StartError, match="belongs to another program"):
        SqliteStore(path, POLICY).open()
    assert wal.read_bytes() == before
    connection.execute("INSERT INTO diary VALUES (1, 'rain')")
    connection.commit()
    connection.close()


def test_a_directory_is_no_inbox(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="is not a file"):
        SqliteStore(tmp_path, POLICY).open()
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match=r"Not a directory|File exists"):
        SqliteStore(tmp_path / "file" / "inbox.sqlite3", POLICY).open()


OPEN_AS_NOBODY = """
    import os, sys
    from pathlib import Path
    from gbot.errors import StartError
    from gbot.inboxes.sqlite import SqliteStore
    from gbot.inboxes.store import Policy
    store = SqliteStore(Path(sys.argv[1]), Policy(True, 1, 0))
    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    try:
        store.open()
    except StartError as error:
        print(error)
"""


def run_script(script: str, *arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, sys.executable, "-W", "error", "-c", textwrap.dedent(script), *arguments],
        cwd=ROOT,
        env=clean_environ({"PYTHONPATH": str(ROOT)}),
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.parametrize(
    ("mode_of_directory", "mode_of_file", "reason"),
    [
        (0o755, 0o000, "may not be read and written"),
        (0o777, 0o444, "may not be read and written"),
        (0o555, 0o666, "readonly database|unable to open database file"),
        (0o555, None, "Permission denied"),
    ],
)
def test_a_file_that_may_not_be_used_is_named(mode_of_directory: int, mode_of_file: int | None, reason: str) -> None:
    with tempfile.TemporaryDirectory() as base:  # other than pytest's own directories, others may be let into it
        os.chmod(base, 0o755)
        directory = Path(base, "state")
        directory.mkdir()
        path = directory / "inbox.sqlite3"
        if mode_of_file is not None:
            closed_inbox(path)
            path.chmod(mode_of_file)
        directory.chmod(mode_of_directory)
        before = {each.name for each in directory.iterdir()}
        result = run_script(OPEN_AS_NOBODY, str(path))
        assert (result.returncode, result.stderr) == (0, "")
        assert re.search(f"{re.escape(str(path))} .*({reason})", result.stdout), result.stdout
        assert {each.name for each in directory.iterdir()} == before
        directory.chmod(0o700)


def test_six_processes_may_create_one_inbox_at_once(tmp_path: Path) -> None:
    script = """
        import sys
        from pathlib import Path
        from gbot.inboxes.sqlite import SqliteStore
        from gbot.inboxes.store import Policy
        store = SqliteStore(Path(sys.argv[1]), Policy(True, 1, 0))
        sys.stdin.readline()
        store.open()
        print(store.enlist())
        store.close()
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "new" / "inbox.sqlite3")]
    started = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(6)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.write("now\n")
        process.stdin.flush()
    assert sorted(process.communicate(timeout=20)[0] for process in started) == [f"{life}\n" for life in range(1, 7)]


def test_a_file_that_was_replaced_is_noticed(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    life = store.enlist()
    other = tmp_path / "other.sqlite3"
    closed_inbox(other)
    other.rename(path)
    with pytest.raises(StoreDown, match="replaced"):
        store.look(life)


def test_a_file_that_was_removed_is_noticed_and_not_made_anew(store: SqliteStore, path: Path) -> None:
    life = store.enlist()
    path.unlink()
    for _ in range(2):
        with pytest.raises(StoreDown):
            store.look(life)
    with pytest.raises(StoreDown):
        store.turn(life, work(events(1)))
    assert not path.exists()


def test_another_file_in_the_place_of_the_inbox_is_not_written_to(store: SqliteStore, path: Path) -> None:
    life = store.enlist()
    store.close()
    path.unlink()
    of_another_program(path)
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(StoreDown, match="another now"):
        store.turn(life, work(events(1)))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


def test_the_write_lock_of_another_process_is_waited_for_and_then_given_up(store: SqliteStore, path: Path) -> None:
    life = store.enlist()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(StoreDown, match="locked"):
        store.turn(life, work(events(1)))
    assert 4 < time.monotonic() - began < 15
    store.look(life)  # reading goes on
    other.execute("ROLLBACK")
    other.close()
    assert store.turn(life, work(events(1), run_max=1)).stored == 1


def test_the_wal_does_not_grow_for_ever(store: SqliteStore, path: Path) -> None:
    life = store.enlist()
    wal = path.with_name(f"{path.name}-wal")
    large, running, sizes = events(1000, raw="x" * 1000), list[Entry](), list[int]()
    for _ in range(30):
        running = store.turn(life, work(large, running, run_max=1000)).running
        sizes.append(wal.stat().st_size)
    assert max(sizes) < 12_000_000  # of the 30 MB that were written


# Lives.


def test_a_life_ends_with_the_store_that_holds_it_and_not_before(make: Callable[[], SqliteStore]) -> None:
    first, second = make(), make()
    first.open()
    second.open()
    one, two = first.enlist(), second.enlist()
    taken = first.turn(one, work(events(3), run_max=3)).running
    assert not second.look(two).tidy
    assert not first.look(one).tidy
    assert second.tidy(two, now_ms()).lives_ended == ()
    first.close()
    assert second.look(two).tidy
    tidied = second.tidy(two, now_ms())
    assert (tidied.rescued, tidied.lives_ended) == (3, (one,))
    assert [entry.claim for entry in second.turn(two, work(claim_max=10)).running] == [two] * 3
    with pytest.raises(LifeEnded):
        first.turn(one, work(settled=taken))
    assert first.enlist() > two
    assert not second.look(two).tidy


def test_a_life_goes_on_when_its_store_opens_the_file_anew(make: Callable[[], SqliteStore]) -> None:
    first, second = make(), make()
    first.open()
    one, two = first.enlist(), second.enlist()
    first.close()
    first.look(one)
    assert not second.look(two).tidy


def test_the_removed_file_of_the_lives_costs_lives_and_nothing_else(
    make: Callable[[], SqliteStore], path: Path
) -> None:
    first, second = make(), make()
    first.open()
    one, two = first.enlist(), second.enlist()
    first.turn(one, work(events(2), run_max=2))
    path.with_name(f"{path.name}-lives").unlink()
    second.leave(two)
    two = second.enlist()
    assert second.tidy(two, now_ms()).lives_ended == (one,)
    with pytest.raises(LifeEnded):
        first.look(one)
    one = first.enlist()
    assert not first.look(one).tidy
    assert not second.look(two).tidy
    assert len(second.turn(two, work(claim_max=5)).running) == 2


WORKER = """
    import sys
    from pathlib import Path
    from gbot.event import Event
    from gbot.inbox import Outcome, State
    from gbot.inboxes.sqlite import SqliteStore
    from gbot.inboxes.store import Policy, Work
    store = SqliteStore(Path(sys.argv[1]), Policy(True, 60000, 0))
    store.open()
    life = store.enlist()
    held = 0
    for turn in range(1_000_000):
        events = [Event(platform="plain", kind="message.text", raw=None, text=f"{turn} {n}") for n in range(20)]
        done = store.turn(life, Work(1, [], events, 10, 0)).running[:5]
        held += 20
        print(held, flush=True)
        store.turn(life, Work(1, [(entry, Outcome(State.DONE)) for entry in done], [], 0, 0))
        held -= 5
"""


def test_a_killed_process_leaves_a_sound_file_and_its_entries_come_back_at_once(
    path: Path, store: SqliteStore, programs: list[Program]
) -> None:
    life = store.enlist()
    program = Program([sys.executable, "-c", textwrap.dedent(WORKER), str(path)], {"PYTHONPATH": str(ROOT)})
    programs.append(program)
    program.wait_until(lambda: len(program.stdout) > 20, "turns")
    assert not store.look(life).tidy
    assert program.stop(signal.SIGKILL) == -signal.SIGKILL
    look = store.look(life)
    assert look.tidy
    assert int(program.stdout[-1]) - 5 <= look.held <= int(program.stdout[-1]) + 20
    tidied = store.tidy(life, now_ms())
    assert tidied.lives_ended == (life + 1,)
    assert store.rows("SELECT count(*), sum(state = 0), sum(rescues) FROM {entries}") == [
        (look.held, look.held, tidied.rescued)
    ]
    assert store.look(life).held == look.held
    assert store.rows("PRAGMA integrity_check") == [("ok",)]


def test_two_processes_share_the_work(path: Path, store: SqliteStore, programs: list[Program]) -> None:
    """What one process puts while another does, each gets its own; nothing is handed out twice."""
    script = """
        import sys
        from pathlib import Path
        from gbot.inbox import Outcome, State
        from gbot.inboxes.sqlite import SqliteStore
        from gbot.inboxes.store import Policy, Work
        store = SqliteStore(Path(sys.argv[1]), Policy(True, 60000, 0))
        store.open()
        life = store.enlist()
        print("there", flush=True)
        running = []
        while True:
            turned = store.turn(life, Work(1, [(entry, Outcome(State.DONE)) for entry in running], [], 0, 7))
            running = turned.running
            assert not turned.late
            for entry in running:
                print(entry.event.text, flush=True)
    """
    started = [
        Program([sys.executable, "-c", textwrap.dedent(script), str(path)], {"PYTHONPATH": str(ROOT)}) for _ in range(2)
    ]
    programs += started
    for program in started:
        program.wait_for_output("there")
    life = store.enlist()
    for number in range(40):
        named = [Event(platform="plain", kind="k", raw=None, text=f"{number}.{each}") for each in range(25)]
        store.turn(life, work(named))
    eventually(lambda: store.look(life).held == 0)
    assert [program.running() for program in started] == [True, True], "\n".join(each.report() for each in started)
    for program in started:
        program.kill()
    handed_out = [line for program in started for line in program.stdout if line != "there"]
    assert sorted(handed_out) == sorted(f"{number}.{each}" for number in range(40) for each in range(25))


# Plans.


def statements() -> list[str]:
    """Every statement on the tables."""
    return [
        value
        for module in (sqlite_turn, sqlite_upkeep, sqlite_records)
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str) and value.split()[0] in ("SELECT", "INSERT", "UPDATE", "DELETE")
    ]


@pytest.mark.parametrize("statement", statements(), ids=lambda text: " ".join(text.split())[:60])
def test_no_statement_reads_a_whole_table(store: SqliteStore, statement: str) -> None:
    plan = [row[3] for row in store.rows(f"EXPLAIN QUERY PLAN {statement}", ["[]"] * statement.count("?"))]
    for step in plan:
        if step.startswith("SCAN entries"):
            # this index holds what is ready and nothing else, in the order in which it is handed out
            assert "entries_ready" in step, plan
        elif step.startswith("SCAN seen"):
            assert "FROM seen ORDER BY number LIMIT" in statement  # the oldest ones only
        else:
            tables = ("ended", "e", "users", "u", "states", "s")
            assert not step.startswith(tuple(f"SCAN {table}" for table in tables if step.split()[1] == table)), plan
    if "json_each" in statement and "entries.number = v.number" in statement:
        assert any("USING INTEGER PRIMARY KEY" in step for step in plan), f"the list is gone through per row: {plan}"
    if "LIMIT" in statement:
        assert not any("ORDER BY" in step for step in plan), f"sorted before it is limited: {plan}"


def test_the_statements_are_found() -> None:
    found = " ".join(statements())
    assert all(words in found for words in ("DELETE FROM entries", "DELETE FROM seen", "due_ms <= ?", "SET claim = ?"))
    assert all(words in found for words in ("INTO users", "DELETE FROM users", "INTO states", "DELETE FROM states"))


def test_a_turn_of_plain_events_is_five_statements(store: SqliteStore) -> None:
    """Each of them gives up the interpreter lock, and has to get it back from a busy hub."""
    life = store.enlist()
    running = store.turn(life, work(events(700), run_max=700)).running
    done: list[str] = []
    connection = store._connection
    assert connection is not None
    connection.set_trace_callback(lambda statement: done.append(statement.split()[0]))
    store.turn(life, work(events(640), running, run_max=640))
    assert done == ["BEGIN", "DELETE", "INSERT", "UPDATE", "COMMIT"]


def test_changes_of_many_cost_two_statements_and_a_question_one(store: SqliteStore) -> None:
    """The outcomes that were not late are found with one, and all states are written with the other."""
    life = store.enlist()
    running = store.turn(life, work(events(640), run_max=640)).running
    rooms = [Conversation("room", str(number)) for number in range(640)]
    outcomes = [Outcome(State.DONE, changes=(StateChange("x", room, "1", 10**15),)) for room in rooms]
    done: list[str] = []
    connection = store._connection
    assert connection is not None
    connection.set_trace_callback(lambda statement: done.append(statement.split()[0]))
    store.turn(life, Work(now_ms(), list(zip(running, outcomes, strict=True)), [], 0, 0))
    assert done == ["BEGIN", "SELECT", "DELETE", "INSERT", "UPDATE", "COMMIT"]
    done.clear()
    assert len(store.states([f"x room {number}" for number in range(640)], now_ms())) == 640
    assert done == ["SELECT"]


def test_the_desk_lists_users_by_an_index(store: SqliteStore) -> None:
    for sql in (desk_users.PLATFORM, desk_users.USERS, desk_users.GONE, desk_users.ENTRIES, desk_users.ENDED):
        plan = [row[3] for row in store.rows(f"EXPLAIN QUERY PLAN {sql}", ["1"] * sql.count("?"))]
        assert all(step.startswith("SEARCH") for step in plan), plan


def test_a_backlog_costs_a_claim_and_a_put_nothing(make: Callable[[], SqliteStore], path: Path) -> None:
    """Counted in steps of SQLite's machine, which, other than time, are always the same."""

    def steps() -> int:
        store = make()
        life = store.enlist()
        conversation = Conversation("user", "new")
        fresh = [Event(platform="line", kind="k", raw=None, id=f"{life}.{n}", conversation=conversation) for n in "abc"]
        counted = 0

        def count() -> None:
            nonlocal counted
            counted += 10

        store.rows("SELECT 1")
        connection = store._connection
        assert connection is not None
        connection.set_progress_handler(count, 10)
        running = store.turn(life, work(fresh, run_max=3, claim_max=5)).running
        assert len(running) == 8
        store.turn(life, work(settled=running))
        store.look(life)
        store.tidy(life, now_ms())
        store.leave(life)
        store.close()
        return counted

    store = make()
    store.open()
    life = store.enlist()
    conversations = [Conversation("user", str(number)) for number in range(50)]
    of_conversations = [
        Event(platform="line", kind="k", raw=None, conversation=conversations[number % 50]) for number in range(1000)
    ]
    store.turn(life, work(events(30) + of_conversations[:100]))
    store.leave(life)
    few = steps()
    life = store.enlist()
    for _ in range(20):
        store.turn(life, work(events(1000) + of_conversations))
    store.leave(life)
    many = steps()
    assert few > 100
    assert many < few * 1.1


# What is stored.


def test_whatever_an_event_holds_comes_back(store: SqliteStore) -> None:
    life = store.enlist()
    raws: list[object] = [
        "\0",
        "\u2028\U0001f600",
        [1e308, -0.0, 2**63 - 1, None],
        {"a\0b": {"[0]": "'\""}},
        "x" * 5_000_000,
    ]
    texts = ["", "a\0b", "日本語", "\\u0000", '"}]'] * 1
    given = [
        Event(platform="line", kind="k", raw=raw, text=text, id=f"id\0{text}", conversation=Conversation("room", text))
        for raw, text in zip(raws, texts, strict=True)
    ]
    assert store.turn(life, work(given + given)).stored == len(given)
    assert [entry.event for entry in store.turn(life, work(claim_max=10)).running] == given
    assert store.turn(life, work(given)).duplicates == len(given)


def test_ids_that_differ_after_a_nul_differ(store: SqliteStore) -> None:
    life = store.enlist()
    given = [Event(platform="line", kind="k", raw=None, id=id) for id in ("a", "a\0", "a\0b", "a\0c", "A", "a ")]
    assert store.turn(life, work(given, run_max=9)).duplicates == 0


def test_an_event_nested_very_deep_does_not_stop_the_others(store: SqliteStore) -> None:
    life = store.enlist()
    deep: object = []
    for _ in range(3000):
        deep = [deep]
    for conversation in (None, Conversation("user", "u")):
        given = [Event(platform="line", kind="k", raw=raw, conversation=conversation) for raw in (deep, "flat")]
        assert store.turn(life, work(given)).stored == 2
    claimed = store.turn(life, work(claim_max=10)).running
    assert [entry.event.raw for entry in claimed] == [None, "flat", None]


def test_a_stored_event_that_cannot_be_read_is_dead_and_stops_nothing(store: SqliteStore) -> None:
    life = store.enlist()
    conversation = Conversation("user", "u")
    ordered = [Event(platform="line", kind="k", raw=number, conversation=conversation) for number in range(2)]
    store.turn(life, work(ordered + events(3)))
    store.change("UPDATE {entries} SET event = ? WHERE number = 1", ["{"])
    store.change("UPDATE {entries} SET event = ? WHERE number = 4", ['{"platform": 1}'])
    claimed = store.turn(life, work(claim_max=10)).running
    assert [entry.number for entry in claimed] == [2, 3, 5]
    assert [row[:2] for row in store.rows("SELECT number, state FROM {ended}")] == [(1, Place.DEAD), (4, Place.DEAD)]
    assert "cannot be read" in store.rows("SELECT error FROM {ended}")[0][0]
    assert store.look(life).held == 5


def test_an_entry_settled_twice_in_one_turn_ends_once(store: SqliteStore) -> None:
    life = store.enlist()
    running = store.turn(life, work(events(2), run_max=2)).running
    twice = [(entry, Outcome(state)) for state in (State.DEAD, State.DEAD, State.DONE) for entry in running]
    assert store.turn(life, Work(now_ms(), twice, [], 0, 0)).late == 4
    assert store.look(life).held == len(store.rows("SELECT 1 FROM {ended}")) == 0


def test_an_error_of_any_text_is_kept(store: SqliteStore) -> None:
    life = store.enlist()
    running = store.turn(life, work(events(3), run_max=3)).running
    outcomes = [Outcome(State.DEAD, text) for text in ("a\0b", "\udcff", "x" * 5000 + "\0" * 5000)]
    store.turn(life, Work(now_ms(), list(zip(running, outcomes, strict=True)), [], 0, 0))
    errors = [row[0] for row in store.rows("SELECT error FROM {ended} ORDER BY number")]
    assert errors[:2] == ["a\\0b", "?"]
    assert len(errors[2]) == 4000


def test_entries_of_a_turn_keep_their_order_in_their_numbers(store: SqliteStore) -> None:
    life = store.enlist()
    conversations = [Conversation("user", str(number % 7)) for number in range(1500)]
    given = [
        Event(platform="line", kind="k", raw=number, id=str(number), conversation=conversation)
        for number, conversation in enumerate(conversations)
    ]
    turned = store.turn(life, work(given, run_max=50))
    rows = store.rows("SELECT number, json_extract(event, '$.raw'), conversation, claim FROM {entries} ORDER BY number")
    assert [row[1] for row in rows] == list(range(1500))
    assert [row[2] for row in rows] == [f"line user {number % 7}" for number in range(1500)]
    assert [(entry.number, entry.event.raw) for entry in turned.running] == [row[:2] for row in rows if row[3] == life]


# Transactions by hand.


def test_a_transaction_that_fails_changes_nothing(store: SqliteStore) -> None:
    life = store.enlist()
    store.turn(life, work(events(3)))

    def delete_all_and(sql: str, *args: object) -> None:
        with store.transaction():
            assert store.change("DELETE FROM {entries}") == 3
            store.rows(sql, args)
            raise KeyError

    with pytest.raises(KeyError):
        delete_all_and("SELECT 1")
    with pytest.raises(StoreDown, match="nothing"):
        delete_all_and("SELECT 1 FROM {nothing}")
    with pytest.raises(sqlite3.ProgrammingError):
        delete_all_and("SELECT ?")
    assert store.rows("SELECT count(*) FROM {entries}") == [(3,)]
    assert store.turn(life, work(claim_max=9)).stored == 0


# A full disk.

ON_A_SMALL_DISK = """
    import os, sys
    from pathlib import Path
    from gbot.event import Event
    from gbot.inbox import Outcome, State
    from gbot.inboxes.sqlite import DISK_FREE_MIN_BYTES, SqliteStore
    from gbot.inboxes.store import Policy, StoreDown, Work
    disk = Path(sys.argv[1])

    def event(size):
        return Event(platform="plain", kind="k", raw="x" * size)

    def put(size, count=1):
        return store.turn(life, Work(1, [], [event(size)] * count, 100, 0))

    def refusal(do):
        try:
            do()
        except StoreDown as down:
            return str(down)
        raise AssertionError("it was not refused")

    def free():
        store.close()  # so that the disk is looked at anew
        return os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize

    store = SqliteStore(disk / "inbox.sqlite3", Policy(True, 60000, 0))
    store.open()
    life = store.enlist()
    running = put(1000, 50).running
    assert len(running) == 50
    assert free() > DISK_FREE_MIN_BYTES
    # An event that does not fit: the disk becomes full within the transaction.
    reason = refusal(lambda: put(74_000_000))
    assert "full" in reason, reason
    assert store.rows("SELECT count(*) FROM {entries}") == [(50,)]
    assert put(1000).stored == 1
    # Little room: nothing new, but settlements.
    with open(disk / "filler", "wb") as filler:
        filler.write(bytes(free() - DISK_FREE_MIN_BYTES + 1_000_000))
    assert free() < DISK_FREE_MIN_BYTES
    reason = refusal(lambda: put(1000))
    assert "MiB are free on the disk of " + str(disk) in reason, reason
    turned = store.turn(life, Work(1, [(entry, Outcome(State.DONE)) for entry in running[:20]], [], 0, 0))
    assert turned.late == 0
    # No room at all.
    store.close()
    with open(disk / "filler", "ab", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            pass
    assert free() < 65536
    refusal(lambda: put(1000))
    dead = [(entry, Outcome(State.DEAD, "x" * 4000)) for entry in running[20:]]
    refusal(lambda: store.turn(life, Work(1, dead, [], 0, 0)))
    os.unlink(disk / "filler")
    assert free() > DISK_FREE_MIN_BYTES
    assert store.rows("PRAGMA quick_check") == [("ok",)]
    turned = store.turn(life, Work(1, [(entry, Outcome(State.DONE)) for entry in running[20:]], [], 0, 0))
    assert turned.late == 0
    assert put(1000).stored == 1
    assert store.look(life).held == 2
    store.close()
    print("all well")
"""


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="only root may mount a small disk")
def test_a_full_disk_refuses_events_and_harms_nothing(tmp_path: Path) -> None:
    mount = f'mount -t tmpfs -o size=70m tmpfs {tmp_path} && exec "$@"'
    result = run_script(ON_A_SMALL_DISK, str(tmp_path), before=("unshare", "-m", "sh", "-c", mount, "sh"))
    if "mount" in result.stderr or "unshare" in result.stderr:
        pytest.skip(f"no small disk can be mounted here: {result.stderr}")
    assert (result.returncode, result.stdout) == (0, "all well\n"), result.stderr
