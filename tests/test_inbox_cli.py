"""``gbot inbox`` as an operator uses it: real commands on real databases that a worker's store has filled."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pymysql
import pytest

from gbot import inbox_screens as screens
from gbot.event import Conversation, Event
from gbot.inbox import Entry, Outcome, State
from gbot.inboxes.desk import LISTED, SqlDesk
from gbot.inboxes.mysql import MySqlStore
from gbot.inboxes.sqlite import SqliteStore
from gbot.inboxes.store import Place, Policy, Record, Work
from tests.journeys.processes import DEADLINE_S, ROOT, Program, clean_environ, gbot

SECRET = "what the user wrote"
ERROR = 'Traceback (most recent call last):\n  File "bot.py", line 3, in answer\nValueError: 残高が足りません'
ANN, GROUP, BEN = (
    Conversation("user", "U" + "a1" * 16),
    Conversation("group", "営業部の皆さん"),
    Conversation("user", "Ben"),
)
DAY_MS = 86_400_000
POLICY = Policy(strict=True, dedup_window_ms=DAY_MS, keep_done_ms=DAY_MS)

DONE, DEAD, RETRY = Outcome(State.DONE), Outcome(State.DEAD, ERROR), Outcome(State.RETRY, ERROR, 3600.0)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def event(conversation: Conversation | None = None, kind: str = "message.text", id: str | None = None) -> Event:
    return Event(platform="line", kind=kind, raw={"text": SECRET}, text=SECRET, conversation=conversation, id=id)


class Kept:
    """An inbox that outlives its worker: its URL, and the store of a worker that fills and reads it."""

    def __init__(self, url: str, store: SqliteStore | MySqlStore) -> None:
        self.url = url
        self.store = store
        self.desk = SqlDesk(store)
        store.open()
        self.life = store.enlist()

    def turn(
        self,
        events: Sequence[Event] = (),
        settle: Sequence[tuple[Entry, Outcome]] = (),
        run: int = 0,
        claim: int = 0,
        at_ms: int | None = None,
    ) -> list[Entry]:
        """What runs after it."""
        work = Work(at_ms if at_ms is not None else now_ms(), settle, events, run, claim)
        return self.store.turn(self.life, work).running

    def fill(self) -> dict[str, int]:
        """One entry in every place; their numbers by the place. Ann's first one runs, and her second waits for it."""
        first = [event(ANN, id="01HEVENT"), event(GROUP), event(BEN, "postback"), event()]
        running, retried, dead, done = self.turn(first, run=4)
        self.turn(settle=[(retried, RETRY), (dead, DEAD), (done, DONE)])
        self.turn([event(ANN, "message.image"), event()])
        found = {record.place.name.lower(): record.number for record in self.records()}
        assert found["running"] == running.number
        assert len(found) == len(Place)
        return found

    def fill_dead(self, count: int, outcome: Outcome = DEAD) -> list[int]:
        """That many entries of no conversation, ended like this; their numbers."""
        entries = self.turn([event()] * count, run=count)
        self.turn(settle=[(entry, outcome) for entry in entries])
        return [entry.number for entry in entries]

    def records(self) -> list[Record]:
        return self.desk.records(list(Place), 0, 100_000)

    def place_of(self, number: int) -> Place | None:
        record = self.desk.record(number)
        return record.place if record else None

    def held(self) -> int:
        return self.store.look(self.life).held

    def run(self, *arguments: str, **environ: str) -> Program:
        """``gbot inbox …`` on this inbox."""
        return gbot("inbox", *arguments, environ={"GBOT_INBOX": self.url} | environ)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    """On SQLite."""
    path = tmp_path / "inbox.sqlite3"
    store = SqliteStore(path, POLICY)
    yield Kept(f"sqlite://{path}", store)
    store.close()


@pytest.fixture
def database(mysql_url: str) -> Iterator[str]:
    """The URL of an empty MySQL database."""
    parts = urlsplit(mysql_url)
    name = f"gbot_inbox_cli_{os.getpid()}"
    connection = pymysql.connect(
        host=parts.hostname,
        port=parts.port or 3306,
        user=parts.username,
        password=parts.password or "",
        autocommit=True,
    )
    with connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
        yield parts._replace(path=f"/{name}").geturl()
        cursor.execute(f"DROP DATABASE {name}")


@pytest.fixture
def kept_by_mysql(database: str) -> Iterator[Kept]:
    store = MySqlStore(database, POLICY)
    store.migrate()
    yield Kept(database, store)
    store.close()


@pytest.fixture(params=["kept", "kept_by_mysql"])
def kept_anywhere(request: pytest.FixtureRequest) -> Kept:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Kept)
    return found


def said(program: Program) -> list[str]:
    """Standard output of a command that did what it was asked for, without a word besides."""
    assert (program.code, program.stderr) == (0, []), program.report()
    return program.stdout


def refused(program: Program, code: int) -> str:
    """The one line of a command that refused."""
    assert program.code == code, program.report()
    assert len(program.stderr) == 1, program.report()
    assert program.stderr[0].startswith("gbot: ")
    return program.stderr[0].removeprefix("gbot: ")


# ---- looking


def test_stats_counts_each_place(kept_anywhere: Kept) -> None:
    kept_anywhere.fill()
    place, *lines = said(kept_anywhere.run("stats"))
    assert place == kept_anywhere.store.place
    counts = {line[:16].strip(): line[16:].split(None, 1) for line in lines}
    assert {name: words[0] for name, words in counts.items()} == {
        "ready": "1",
        "running": "1",
        "waiting": "2",
        "dead": "1",
        "done": "1",
        "workers": "1",
        "remembered ids": "1",
    }
    assert counts["waiting"][1] == "1 for their next attempt, 1 for their conversation"
    assert counts["ready"][1].startswith("the oldest since ")


def test_stats_for_programs(kept: Kept) -> None:
    kept.fill()
    [line] = said(kept.run("stats", "--json"))
    counts = json.loads(line)
    assert 0 <= counts.pop("oldest_ready_s") < DEADLINE_S
    assert counts == {
        "place": kept.store.place,
        "ready": 1,
        "running": 1,
        "waiting": 2,
        "waiting_for_conversation": 1,
        "dead": 1,
        "done": 1,
        "workers": 1,
        "remembered_ids": 1,
    }


def test_ls_shows_what_there_is_and_nothing_that_users_wrote(kept_anywhere: Kept) -> None:
    numbers = kept_anywhere.fill()
    head, *lines = said(kept_anywhere.run("ls"))
    assert head.split() == ["NUMBER", "STATE", "EVENT", "WHO", "ATT", "RES", "AGE", "NOTE"]
    rows = {int(line.split()[0]): line.split() for line in lines}
    assert list(rows) == sorted(set(numbers.values()) - {numbers["done"]})
    assert rows[numbers["dead"]][1:7] == ["dead", "line", "postback", "Ben", "1", "0"]
    assert rows[numbers["dead"]][9:] == ["ValueError:", "残高が足りません"]
    assert rows[numbers["waiting"]][4] == GROUP.id
    assert " ".join(rows[numbers["waiting"]][9:]).startswith("in 59 min: ValueError")
    assert rows[numbers["behind"]][1:5] == ["waiting", "line", "message.image", ANN.id]
    assert rows[numbers["running"]][9:] == ["worker", str(kept_anywhere.life)]
    assert rows[numbers["ready"]][1:5] == ["ready", "line", "message.text", "-"]
    assert SECRET not in "\n".join(lines)


@pytest.mark.parametrize(
    ("state", "places"),
    [
        ("dead", ["dead"]),
        ("waiting", ["waiting", "behind"]),
        ("ready", ["ready"]),
        ("running", ["running"]),
        ("done", ["done"]),
    ],
)
def test_ls_of_one_state_for_programs(kept: Kept, state: str, places: list[str]) -> None:
    numbers = kept.fill()
    rows = [json.loads(line) for line in said(kept.run("ls", "--state", state, "--json"))]
    assert [row["number"] for row in rows] == [numbers[place] for place in places]
    assert {row["state"] for row in rows} == {state}
    assert SECRET not in json.dumps(rows)


def test_a_line_for_programs(kept: Kept) -> None:
    number = kept.fill()["dead"]
    [line] = said(kept.run("ls", "--state", "dead", "--json"))
    assert line.isascii()
    row = json.loads(line)
    for name in ("received", "ended"):
        assert datetime.now(UTC) - datetime.fromisoformat(row.pop(name)) < timedelta(seconds=DEADLINE_S)
    assert row == {
        "number": number,
        "state": "dead",
        "waits_for": None,
        "platform": "line",
        "kind": "postback",
        "event_id": None,
        "conversation": {"kind": "user", "id": "Ben"},
        "user_id": None,
        "attempts": 1,
        "rescues": 0,
        "due": None,
        "worker": None,
        "error": ERROR,
    }


def test_ls_stops_at_the_limit_and_says_so(kept: Kept) -> None:
    numbers = kept.fill_dead(250)
    assert len(said(kept.run("ls", "--limit", "250"))) == 251
    limited = kept.run("ls", "--json", "--limit", "249")
    assert limited.code == 0
    assert [json.loads(line)["number"] for line in limited.stdout] == numbers[:249]
    assert limited.stderr == ["gbot: more entries follow; --limit N shows N of them (this was 249)"]
    assert len(kept.run("ls").stdout) == 101


def test_ls_of_nothing(kept: Kept) -> None:
    assert said(kept.run("ls")) == [f"No entries in {kept.store.place}."]
    assert said(kept.run("ls", "--state", "dead")) == [f"No dead entries in {kept.store.place}."]
    assert said(kept.run("ls", "--json")) == []


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (ERROR, "ValueError: 残高が足りません"),
        ("gbot.errors.ApiUnavailable: it answered 503", "ApiUnavailable: it answered 503"),
        (
            "first\npymysql.err.OperationalError: (2013, 'gbot.errors.Lost: x')",
            "OperationalError: (2013, 'gbot.errors.Lost: x')",
        ),
        ("bot.answer.<locals>.Odd", "Odd"),
        ("socket.gaierror: [Errno -2]", "socket.gaierror: [Errno -2]"),
        ("www.example.com: no answer. Again.", "www.example.com: no answer. Again."),
        ("the timeout of 5 s is over", "the timeout of 5 s is over"),
        ("", ""),
    ],
)
def test_the_note_begins_with_the_name_of_the_error(error: str, note: str) -> None:
    record = Record(1, Place.DEAD, event(), 1, 0, 0, None, 0, None, error)
    assert screens.row(record, 0)[screens.NOTE] == note


def test_the_error_of_an_earlier_attempt_is_not_told_as_if_it_were_of_now() -> None:
    notes = {
        Place.RUNNING: "worker 12; before: Lost: it is away",
        Place.READY: "before: Lost: it is away",
        Place.BEHIND: "behind its conversation; before: Lost: it is away",
        Place.WAITING: "in 5 s: Lost: it is away",
    }
    for place, note in notes.items():
        record = Record(1, place, event(), 1, 0, 0, 5000, None, 12, "bot.errors.Lost: it is away")
        assert screens.row(record, 0)[screens.NOTE] == note


def test_the_reason_of_an_error_is_seen_in_80_columns(kept: Kept) -> None:
    [entry] = kept.turn([event(ANN)], run=1)
    kept.turn(settle=[(entry, Outcome(State.DEAD, "Traceback\ngbot.errors.ApiUnavailable: status 503"))])
    assert "ApiUnavailable: status" in said(kept.run("ls", COLUMNS="80"))[1]


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_the_terminal(kept: Kept, width: int) -> None:
    kept.fill()
    head, *lines = said(kept.run("ls", COLUMNS=str(width)))
    notes = [re.search("in 59 min|ValueError|behind its|worker ", line) for line in lines]
    starts = {screens.cells(note.string[: note.start()]) for note in notes if note}
    assert starts == {head.index("NOTE")}
    assert notes.count(None) == 1
    assert all(screens.cells(line) <= width for line in lines)


def test_show_tells_everything(kept_anywhere: Kept) -> None:
    numbers = kept_anywhere.fill()
    lines = said(kept_anywhere.run("show", str(numbers["dead"])))
    assert lines[0] == f"Entry {numbers['dead']}"
    fields = {line[2:15].strip(): line[16:] for line in lines[1 : lines.index("")]}
    assert fields["State"] == "dead"
    assert fields["Failed"] == "once"
    assert fields["Conversation"] == "user Ben"
    for name in ("Received", "Ended"):
        stamp = datetime.fromisoformat(fields[name].split()[0])
        assert datetime.now(UTC) - stamp < timedelta(seconds=DEADLINE_S)
    at = lines.index("Error")
    assert lines[at + 1 : at + 4] == [f"  {line}" for line in ERROR.splitlines()]
    assert json.loads("\n".join(lines[lines.index("Event") + 1 :])) == {
        "platform": "line",
        "kind": "postback",
        "raw": {"text": SECRET},
        "text": SECRET,
        "conversation": {"kind": "user", "id": "Ben"},
    }


def test_show_tells_what_an_entry_waits_for(kept: Kept) -> None:
    numbers = kept.fill()
    assert any(
        line.startswith("  Due ") and line.endswith("(in 59 min)")
        for line in said(kept.run("show", str(numbers["waiting"])))
    )
    assert "  State         waiting, for an earlier event of its conversation" in said(
        kept.run("show", str(numbers["behind"]))
    )
    assert f"  Worker        {kept.life}" in said(kept.run("show", str(numbers["running"])))


def test_show_of_what_is_not_there(kept: Kept) -> None:
    assert refused(kept.run("show", "999"), 1) == f"there is no entry 999 in {kept.store.place}"


def test_nothing_that_came_in_moves_the_cursor(kept: Kept) -> None:
    nasty = "\x1b[2J\r\x9b1A\u2028"
    [entry] = kept.turn([event(Conversation("user", nasty), nasty, nasty)], run=1)
    kept.turn(settle=[(entry, Outcome(State.DEAD, f"first\nlast {nasty}"))])
    for arguments in (["ls"], ["ls", "--json"], ["show", str(entry.number)]):
        lines = said(kept.run(*arguments))
        assert all(character.isprintable() for line in lines for character in line), arguments
        assert any("[2J" in line for line in lines)


def test_names_that_the_terminal_cannot_show_do_not_end_the_list(kept: Kept) -> None:
    kept.fill()
    lines = said(kept.run("ls", PYTHONIOENCODING="latin-1"))
    assert len(lines) == 6
    assert any("\\u55b6" in line for line in lines)


def test_a_reader_that_stops_reading_is_no_accident(kept: Kept) -> None:
    kept.fill_dead(1000)
    command = [sys.executable, "-m", "gbot", "inbox", "ls", "--json", "--limit", "1000"]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=clean_environ({"GBOT_INBOX": kept.url}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b'{"number"')
        process.stdout.close()
        assert process.stderr.read() == b""
        process.wait(DEADLINE_S)


@pytest.mark.parametrize(
    ("place", "index"),
    [
        (Place.READY, "USING INDEX entries_ready (number>?)"),
        (Place.RUNNING, "USING INDEX entries_claim"),
        (Place.WAITING, "USING INDEX entries_due"),
        (Place.BEHIND, "USING INTEGER PRIMARY KEY (rowid>?)"),
        (Place.DEAD, "USING INTEGER PRIMARY KEY (rowid>?)"),
        (Place.DONE, "USING INTEGER PRIMARY KEY (rowid>?)"),
    ],
)
def test_a_page_of_a_long_list_is_found_by_an_index(kept: Kept, place: Place, index: str) -> None:
    plan = kept.store.rows(f"EXPLAIN QUERY PLAN SELECT number FROM {LISTED[place]} LIMIT 100", [0])
    assert index in plan[0][-1]


# ---- doing


def test_a_dead_entry_runs_again_with_all_attempts_before_it(kept_anywhere: Kept) -> None:
    number = kept_anywhere.fill()["dead"]
    [later] = kept_anywhere.turn([event(BEN)], run=1)
    held = kept_anywhere.held()
    assert said(kept_anywhere.run("retry", str(number))) == ["1 entry will run again."]
    assert kept_anywhere.place_of(number) is Place.BEHIND  # another event of its conversation runs
    assert kept_anywhere.held() == held
    claimed = kept_anywhere.turn(settle=[(later, DONE)], claim=100)
    again = next(entry for entry in claimed if entry.number == number)
    assert (again.attempts, again.event.kind) == (0, "postback")


def test_an_entry_that_waits_for_its_attempt_runs_at_once(kept_anywhere: Kept) -> None:
    number = kept_anywhere.fill()["waiting"]
    assert said(kept_anywhere.run("retry", str(number))) == ["1 entry will run again."]
    attempts = {entry.number: entry.attempts for entry in kept_anywhere.turn(claim=100)}
    assert attempts[number] == 0


def test_what_cannot_run_again_is_named(kept: Kept) -> None:
    numbers = kept.fill()
    program = kept.run("retry", *map(str, numbers.values()), "999", "998")
    assert program.code == 1
    assert program.stdout == ["2 entries will run again."]
    assert sorted(program.stderr) == sorted(
        [
            "gbot: not run again, because no such entry: 998, 999",
            f"gbot: not run again, because about to run already: {numbers['ready']}",
            f"gbot: not run again, because running: {numbers['running']}",
            f"gbot: not run again, because waiting for their conversation already: {numbers['behind']}",
            f"gbot: not run again, because done: {numbers['done']}",
        ]
    )


@pytest.mark.parametrize("command", ["retry", "drop"])
def test_where_nothing_could_be_done_the_reason_is_all_that_is_said(kept: Kept, command: str) -> None:
    program = kept.run(command, "999")
    assert "because no such entry: 999" in refused(program, 1)
    assert program.stdout == []


def test_a_user_who_may_only_read_can_look_and_is_told_what_to_grant_for_more(kept_by_mysql: Kept) -> None:
    number = kept_by_mysql.fill()["dead"]
    parts = urlsplit(kept_by_mysql.url)
    name = parts.path.strip("/")
    kept_by_mysql.store.change("DROP USER IF EXISTS gbot_looks", ())
    kept_by_mysql.store.change("CREATE USER gbot_looks", ())
    kept_by_mysql.store.change(f"GRANT SELECT ON {name}.* TO gbot_looks", ())
    url = parts._replace(netloc=f"gbot_looks@{parts.hostname}:{parts.port}").geturl()
    assert said(kept_by_mysql.run("ls", GBOT_INBOX=url))
    grant = f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name}.* TO gbot_looks"
    kept_by_mysql.fill_dead(1, DONE)
    for arguments in (["retry", "--all-dead"], ["drop", str(number)], ["purge", "--done-before", "9999-01-01"]):
        program = kept_by_mysql.run(*arguments, GBOT_INBOX=url)
        sentence = refused(program, 1)
        assert program.stdout == []
        assert "its user is not allowed to do what the inbox needs (error 1142 (TABLEACCESS_DENIED_ERROR" in sentence
        assert f"{grant} allows it" in sentence
        assert "workers SET" not in sentence
    served = gbot("serve", environ={"GBOT_INBOX": url, "GBOT_PORT": "0"})
    assert (served.code, served.stdout) == (1, []), served.report()
    assert "Traceback" not in served.report()
    assert f"{grant} allows it" in served.stderr[-1]
    kept_by_mysql.store.change("DROP USER gbot_looks", ())


def test_all_dead_entries_run_again(kept_anywhere: Kept) -> None:
    numbers = kept_anywhere.fill_dead(1203)
    done = kept_anywhere.fill_dead(2, DONE)
    assert said(kept_anywhere.run("retry", "--all-dead")) == ["1,203 entries will run again."]
    assert [entry.number for entry in kept_anywhere.turn(claim=2000)] == numbers
    assert [kept_anywhere.place_of(number) for number in done] == [Place.DONE, Place.DONE]
    assert said(kept_anywhere.run("retry", "--all-dead")) == ["0 entries will run again."]


@pytest.mark.parametrize("arguments", [[], ["1", "--all-dead"]])
def test_retry_wants_to_know_what(kept: Kept, arguments: list[str]) -> None:
    assert refused(kept.run("retry", *arguments), 2).startswith("Name the entries to run again, or say --all-dead.")


def test_a_dropped_entry_is_gone_and_its_conversation_goes_on(kept_anywhere: Kept) -> None:
    numbers = kept_anywhere.fill()
    kept_anywhere.turn([event(GROUP)])
    follower = kept_anywhere.records()[-1].number
    assert kept_anywhere.place_of(follower) is Place.BEHIND
    held = kept_anywhere.held()
    gone = [numbers["waiting"], numbers["dead"], numbers["ready"]]
    assert said(kept_anywhere.run("drop", *map(str, gone))) == ["3 entries dropped."]
    assert [kept_anywhere.place_of(number) for number in gone] == [None, None, None]
    assert kept_anywhere.place_of(follower) is Place.READY
    assert kept_anywhere.held() == held - 3


def test_what_runs_or_is_done_is_not_dropped(kept: Kept) -> None:
    numbers = kept.fill()
    program = kept.run("drop", str(numbers["running"]), str(numbers["done"]), "999", str(numbers["dead"]))
    assert (program.code, program.stdout) == (1, ["1 entry dropped."])
    assert program.stderr == [
        f"gbot: not dropped, because running: {numbers['running']}",
        f"gbot: not dropped, because done: {numbers['done']}",
        "gbot: not dropped, because no such entry: 999",
    ]
    assert kept.place_of(numbers["running"]) is Place.RUNNING
    assert kept.place_of(numbers["done"]) is Place.DONE


def test_purge_removes_what_was_done_long_ago(kept_anywhere: Kept) -> None:
    numbers = kept_anywhere.fill()
    old = kept_anywhere.turn([event()] * 3, run=3)
    kept_anywhere.turn(settle=[(entry, DONE) for entry in old], at_ms=now_ms() - 3 * 3_600_000)
    assert said(kept_anywhere.run("purge", "--done-before", "4h")) == ["0 entries purged."]
    held = kept_anywhere.held()
    assert said(kept_anywhere.run("purge", "--done-before", "120m")) == ["3 entries purged."]
    assert kept_anywhere.place_of(numbers["done"]) is Place.DONE
    tomorrow = (datetime.now() + timedelta(days=1)).date().isoformat()
    assert said(kept_anywhere.run("purge", "--done-before", tomorrow)) == ["1 entry purged."]
    assert kept_anywhere.place_of(numbers["done"]) is None
    assert kept_anywhere.place_of(numbers["dead"]) is Place.DEAD
    assert kept_anywhere.held() == held


@pytest.mark.parametrize("when", ["yesterday", "5", "-5h", "2026-13-01", "99999999999d"])
def test_a_time_that_is_none(kept: Kept, when: str) -> None:
    assert "expected an age such as 30m, 24h or 7d, or a date" in refused(kept.run("purge", "--done-before", when), 2)


def test_a_terminal_sees_long_work_go_on(kept: Kept) -> None:
    kept.fill_dead(1000)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "gbot", "inbox", "retry", "--all-dead"]
    environ = clean_environ({"GBOT_INBOX": kept.url, "TERM": "xterm"})
    try:
        with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=theirs) as process:
            os.close(theirs)
            shown = read_terminal(ours)
            output, _ = process.communicate(timeout=DEADLINE_S)
    finally:
        os.close(ours)
    assert "1000/1000" in shown
    assert "500/1000" in shown
    assert output == b"1,000 entries will run again.\n"


def read_terminal(descriptor: int) -> str:
    """All that is written to a terminal until its last writer has gone."""
    read = b""
    while True:
        try:
            chunk = os.read(descriptor, 65536)
        except OSError:  # how Linux says so
            chunk = b""
        if not chunk:
            return read.decode()
        read += chunk


# ---- which inbox


def test_the_memory_inbox_is_not_for_others(kept: Kept) -> None:
    line = refused(kept.run("stats", "--inbox", "memory:"), 2)
    assert line.startswith("The memory: inbox lives inside its worker")


def test_an_inbox_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "missing.sqlite3"
    line = refused(gbot("inbox", "stats", "--inbox", f"sqlite://{path}"), 1)
    assert line.startswith(f"there is no inbox at sqlite://{path}; GBOT_INBOX, --inbox or --config names")
    assert list(tmp_path.iterdir()) == []


def test_the_inbox_may_be_named_in_a_file(kept: Kept, tmp_path: Path) -> None:
    (tmp_path / "gbot.toml").write_text(f'inbox = "{kept.url}"\n')
    assert said(gbot("inbox", "stats", "--config", str(tmp_path / "gbot.toml")))[0] == kept.store.place


def test_a_file_of_another_program_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("keep me" * 1000)
    assert str(path) in refused(gbot("inbox", "ls", "--inbox", f"sqlite://{path}"), 1)
    assert path.read_text() == "keep me" * 1000


def test_migrate_makes_the_file_and_says_so(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/state/inbox.sqlite3"
    steps = said(gbot("inbox", "migrate", "--inbox", url))
    assert steps
    assert said(gbot("inbox", "migrate", "--inbox", url)) == [f"{url} is up to date."]
    assert said(gbot("inbox", "ls", "--inbox", url)) == [f"No entries in {url}."]


def test_migrate_makes_the_tables_of_mysql(database: str) -> None:
    environ = {"GBOT_INBOX": database}
    assert "gbot inbox migrate" in refused(gbot("inbox", "stats", environ=environ), 1)
    assert said(gbot("inbox", "migrate", environ=environ))
    [line] = said(gbot("inbox", "migrate", environ=environ))
    assert line.endswith("is up to date.")
    assert len(said(gbot("inbox", "stats", environ=environ))) == 8


def test_a_database_that_does_not_answer_is_one_line_without_its_password() -> None:
    program = gbot("inbox", "stats", environ={"GBOT_INBOX": "mysql://gbot:hush@127.0.0.1:1/gbot"})
    assert "127.0.0.1" in refused(program, 1)
    assert "hush" not in program.report()


# ---- what it tells of itself


def test_help_explains_the_states() -> None:
    for arguments in (["inbox"], ["inbox", "--help"]):
        text = "\n".join(said(gbot(*arguments)))
        for word in screens.WORDS.values():
            assert f"\n  {word:<8} " in text


@pytest.mark.parametrize("command", ["stats", "ls", "show", "retry", "drop", "purge", "migrate"])
def test_each_command_has_help(command: str) -> None:
    text = "\n".join(said(gbot("inbox", command, "--help")))
    assert "--inbox URL" in text
    assert "--config FILE" in text


# ---- texts


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h"), (172_799, "47 h"), (172_800, "2 d")],
)
def test_ages(seconds: float, text: str) -> None:
    assert screens.age(round(seconds * 1000)) == text


@pytest.mark.parametrize(
    ("text", "width", "result"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("日本語", 6, "日本語"),
        ("日本語", 5, "日本…"),
        ("日本語", 4, "日…"),
        ("が", 2, "が"),
    ],
)
def test_texts_are_cut_by_the_columns_they_take(text: str, width: int, result: str) -> None:
    assert screens.cut(text, width) == result
    assert screens.cells(result) <= width
