"""``gbot users`` as an operator uses it: real commands on real databases that a worker's store has filled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gbot import inbox_screens, users_screens
from gbot.broadcast import PART
from gbot.directory import ProfileSeen, StateChange, UserGone
from gbot.event import Conversation, Event
from gbot.inbox import Entry
from gbot.user import Profile, User
from tests.contracts.stores import (
    DEAD,
    DONE,
    FOR_EVER_MS,
    KEEP_MS,
    LONG_AGO_MS,
    Database,
    MySqlDatabase,
    SqliteDatabase,
    Worker,
    policy_of,
)
from tests.journeys.processes import DEADLINE_S, ROOT, Program, clean_environ, gbot

ANN, BEN = "U" + "a1" * 16, "U" + "b2" * 16
SECRET = "what the user wrote"


@pytest.fixture(scope="module")
def mysql_database(mysql_url: str) -> Iterator[MySqlDatabase]:
    database = MySqlDatabase(mysql_url, f"gbot_users_cli_{os.getpid()}")
    yield database
    database.drop()


@pytest.fixture(params=["sqlite", "mysql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    made: Database = SqliteDatabase(tmp_path / "inbox.sqlite3")
    if request.param == "mysql":
        made = request.getfixturevalue("mysql_database")
    yield made
    made.close()
    if isinstance(made, MySqlDatabase):
        made.clear()


@pytest.fixture
def worker(database: Database) -> Worker:
    """Who has users, states and entries of them."""
    worker = Worker(database, policy_of(strict=True, keep_done_ms=KEEP_MS))
    worker.save(
        UserGone("line", ANN, False, LONG_AGO_MS),
        ProfileSeen("line", ANN, Profile("安藤 アン", "ja", "https://example.org/a", "元気"), LONG_AGO_MS),
        UserGone("line", BEN, True, LONG_AGO_MS),
        ProfileSeen("messenger", "4711", Profile("Carl", "en"), LONG_AGO_MS),
        StateChange("line", Conversation("user", ANN), '{"step":"住所"}', FOR_EVER_MS),
    )
    entries = worker.run(*(event(ANN) for _ in range(3)), event(BEN))
    worker.turn(list(zip(entries, [DEAD, DONE], strict=False)))
    worker.put(event(ANN, Conversation("group", "g")), event(BEN))
    return worker


def event(user_id: str, conversation: Conversation | None = None) -> Event:
    raw = {"text": SECRET}
    return Event(platform="line", kind="message.text", raw=raw, text=SECRET, user_id=user_id, conversation=conversation)


def run(database: Database, *arguments: str, **environ: str) -> Program:
    """``gbot users …`` on this database."""
    return gbot("users", *arguments, environ={"GBOT_INBOX": database.url} | environ)


def said(program: Program) -> list[str]:
    """Standard output of a command that did what it was asked for, without a word besides."""
    assert (program.code, program.stderr) == (0, []), program.report()
    return program.stdout


# ---- looking


def test_ls_shows_users_by_platform_and_id(worker: Worker) -> None:
    head, *rows = said(run(worker.database, "ls"))
    assert head.split() == ["PLATFORM", "USER", "NAME", "LANGUAGE", "GONE"]
    assert [row.split()[:2] for row in rows] == [["line", ANN], ["line", BEN], ["messenger", "4711"]]
    assert "安藤 アン" in rows[0]
    assert rows[1].split()[2:4] == ["-", "-"]
    assert "since 2001-09-0" in rows[1]
    assert [row.index(user_id) for row, user_id in zip(rows, [ANN, BEN, "4711"], strict=True)] == [
        head.index("USER")
    ] * 3
    assert SECRET not in "".join(rows)


def test_ls_of_some(worker: Worker) -> None:
    assert [row.split()[1] for row in said(run(worker.database, "ls", "--gone"))[1:]] == [BEN]
    assert [row.split()[1] for row in said(run(worker.database, "ls", "--platform", "messenger"))[1:]] == ["4711"]
    place = worker.store.place
    assert said(run(worker.database, "ls", "--platform", "messenger", "--gone")) == [
        f"No users of messenger who are gone in {place}."
    ]
    limited = run(worker.database, "ls", "--limit", "2", "--json")
    assert [json.loads(line)["user_id"] for line in limited.stdout] == [ANN, BEN]
    assert limited.stderr == ["gbot: more users follow; --limit N shows N of them (this was 2)"]
    assert len(said(run(worker.database, "ls", "--limit", "3"))) == 4


def test_ls_of_many_comes_in_pages(worker: Worker) -> None:
    worker.save(*(UserGone("line", f"V{number:05}", True, 1) for number in range(1100)))
    rows = said(run(worker.database, "ls", "--limit", "2000"))[1:]
    assert len(rows) == 1103
    assert [row.split()[1] for row in rows] == [*sorted(row.split()[1] for row in rows[:-1]), "4711"]


def test_a_line_for_programs(worker: Worker) -> None:
    line, *_ = said(run(worker.database, "ls", "--json"))
    assert line.isascii()
    assert json.loads(line) == {
        "platform": "line",
        "user_id": ANN,
        "gone": False,
        "gone_changed": "2001-09-09T01:46:40.000Z",
        "display_name": "安藤 アン",
        "language": "ja",
        "picture_url": "https://example.org/a",
        "status_message": "元気",
        "profile_fetched": "2001-09-09T01:46:40.000Z",
    }


def test_show_tells_everything_but_what_was_written(worker: Worker) -> None:
    lines = said(run(worker.database, "show", "line", ANN))
    assert lines[0] == f"User {ANN} of line"
    fields = {line[2:12].strip(): line[13:] for line in lines[1 : lines.index("")]}
    assert {name: fields[name] for name in ("Name", "Language", "Says", "Picture", "Entries")} == {
        "Name": "安藤 アン",
        "Language": "ja",
        "Says": "元気",
        "Picture": "https://example.org/a",
        "Entries": "1 ready, 1 running, 1 dead, 1 done",
    }
    assert fields["Came"].startswith("2001-09-")
    assert json.loads("\n".join(lines[lines.index("State of the conversation") + 1 :])) == {"step": "住所"}
    assert SECRET not in "".join(lines)


def test_show_of_somebody_who_is_known_from_entries_alone(worker: Worker) -> None:
    worker.put(event("somebody"))
    first, *lines = said(run(worker.database, "show", "line", "somebody"))
    assert first == "User somebody of line, of whom nothing else is known"
    assert [line.split() for line in lines] == [["Profile", "not", "known"], ["Entries", "1", "ready"]]


def test_show_of_a_stranger(worker: Worker) -> None:
    program = run(worker.database, "show", "messenger", ANN)
    assert program.code == 1
    assert program.stderr == [f"gbot: nothing is stored of the messenger user {ANN} in {worker.store.place}"]


def test_nothing_that_came_in_moves_the_cursor(worker: Worker) -> None:
    nasty = "\x1b[2J\r\x9b1A\u2028"
    worker.save(
        ProfileSeen("line", nasty, Profile(nasty, nasty, nasty, nasty), 1),
        StateChange("line", Conversation("user", nasty), json.dumps([nasty]), FOR_EVER_MS),
    )
    for arguments in (["ls"], ["ls", "--json"], ["show", "line", nasty], ["forget", "--yes", "line", nasty]):
        lines = said(run(worker.database, *arguments))
        assert all(character.isprintable() for line in lines for character in line), arguments
        assert any("[2J" in line for line in lines)


# ---- forgetting


def test_forget_removes_everything_and_tells_what(worker: Worker) -> None:
    program = run(worker.database, "forget", "--yes", "line", ANN)
    assert program.stdout == [
        f"Removed of the line user {ANN}: what was known of the user, the state of the conversation, 3 entries."
    ]
    left = "left 1 entry that runs at the moment: say this again when that has ended"
    assert (program.code, program.stderr) == (1, [f"gbot: {left}"])
    assert {record.event.user_id for record in worker.records() if record.worker is None} == {BEN}
    assert (worker.user(ANN), worker.state(ANN)) == (None, None)
    assert worker.user(BEN) is not None
    running = [record for record in worker.records() if record.event.user_id == ANN]
    assert len(running) == 1


def test_forget_again_removes_what_ran(worker: Worker) -> None:
    run(worker.database, "forget", "--yes", "line", ANN)
    assert run(worker.database, "forget", "--yes", "line", ANN).stdout == [
        f"Nothing was removed of the line user {ANN}."
    ]
    [left] = [record for record in worker.records() if record.event.user_id == ANN]
    worker.settle(DEAD, Entry(left.number, left.event, worker.life))
    assert said(run(worker.database, "forget", "--yes", "line", ANN)) == [f"Removed of the line user {ANN}: 1 entry."]
    assert run(worker.database, "show", "line", ANN).code == 1


def test_forget_takes_the_user_out_of_broadcasts(worker: Worker) -> None:
    def parts(*recipients: str) -> Event:
        raw = {"broadcast": "weekly", "number": 1, "of": 1, "to": recipients, "messages": [{"text": SECRET}]}
        return Event(platform="line", kind=PART, raw=raw)

    def kept() -> list[list[str]]:
        return [record.event.raw["to"] for record in worker.records() if record.event.kind == PART]

    worker.put(event("carl"), parts("carl", "dora"), parts("carl"), parts("dora", "emma"))
    assert said(run(worker.database, "forget", "--yes", "line", "carl")) == [
        "Removed of the line user carl: 1 entry; taken out of 2 parts of broadcasts."
    ]
    assert kept() == [["dora"], ["dora", "emma"]]
    assert said(run(worker.database, "forget", "--yes", "line", "emma")) == [
        "Nothing was removed of the line user emma, who was taken out of 1 part of a broadcast."
    ]
    assert kept() == [["dora"], ["dora"]]


def test_forget_asks_first(worker: Worker) -> None:
    before = len(worker.records())

    def answering(answer: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "gbot", "users", "forget", "line", BEN],
            env=clean_environ({"GBOT_INBOX": worker.database.url}),
            cwd=ROOT,
            input=answer,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    for answer in ("n\n", "\n", ""):
        refusing = answering(answer)
        assert (refusing.returncode, refusing.stdout) == (1, "")
        assert (
            f"Remove everything that is stored of the line user {BEN} in {worker.store.place}? [y/N]" in refusing.stderr
        )
        assert len(worker.records()) == before
    done = answering("y\n")
    assert done.stdout == f"Removed of the line user {BEN}: what was known of the user, 1 entry.\n"
    assert worker.user(BEN) is None


# ---- refusing


@pytest.mark.parametrize("arguments", [["ls"], ["show", "line", "u"], ["forget", "--yes", "line", "u"]])
def test_users_in_memory_cannot_be_reached(arguments: list[str]) -> None:
    program = gbot("users", *arguments, "--inbox", "memory:")
    assert program.code == 2
    assert "The memory: inbox lives inside its worker" in program.stderr[0]


def test_an_inbox_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    program = gbot("users", "ls", "--inbox", f"sqlite://{tmp_path}/none.sqlite3")
    assert program.code == 1
    assert program.stderr[0].startswith("gbot: there is no inbox at sqlite://")
    assert not list(tmp_path.iterdir())


def test_without_a_command_it_helps() -> None:
    assert any("forget" in line for line in said(gbot("users")))


# ---- the table


@pytest.mark.parametrize("width", [60, 80, 160])
def test_wide_names_keep_the_columns(width: int) -> None:
    users = [
        User("line", "U1", False, 0, Profile("安藤 " * 30, "ja"), 1),
        User("line", "U2", True, LONG_AGO_MS, Profile("Ben", "en-GB"), 1),
        User("messenger", "3", True, LONG_AGO_MS),
    ]
    rows = [users_screens.row(user) for user in users]
    line = users_screens.table_layout(rows, width)
    lines = [line(users_screens.HEADS), *map(line, rows)]
    assert all(inbox_screens.cells(text) <= width for text in lines)
    starts = {
        inbox_screens.cells(text[: text.index(sign)]) for text, sign in zip(lines[2:], ["since", "since"], strict=True)
    }
    assert starts == {lines[0].index("GONE")}
    assert lines[1].rstrip().endswith("-")
    assert inbox_screens.cells(lines[1].rstrip()[:-1]) == lines[0].index("GONE")
