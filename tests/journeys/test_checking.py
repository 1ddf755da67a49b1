"""``gbot check`` as an operator uses it: real processes, databases, ports and APIs, and a server beside it."""

from __future__ import annotations

import json
import os
import pty
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pymysql
import pytest

from tests.conftest import Serve
from tests.fake_line import FakeLineProcess
from tests.journeys.client import post_plain
from tests.journeys.mariadb import MariaDb
from tests.journeys.processes import DEADLINE_S, ROOT, Program, clean_environ, eventually, free_port, gbot
from tests.samples import line

CANARY: Final = "canary-4711"
Checks = dict[str, dict[str, Any]]


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., Program]:
    """Runs ``gbot check --json`` on a free port and an inbox of its own unless told otherwise."""

    def run(*arguments: str, cwd: Path = ROOT, **environ: str) -> Program:
        own = {"GBOT_PORT": "0", "STATE_DIRECTORY": str(tmp_path / "state")}
        return gbot("check", "--json", *arguments, environ=own | environ, cwd=cwd)

    return run


def lines_of(program: Program) -> Checks:
    """The lines by their names; the exit code and ``ok`` agree with them."""
    assert len(program.stdout) == 1, program.report()
    assert program.stderr == [], program.report()
    told = json.loads(program.stdout[0])
    found: Checks = {each["name"]: each for each in told["checks"]}
    for each in told["checks"]:
        assert set(each) - {"figures"} == {"name", "state", "found", "advice"}
        assert bool(each["advice"]) == (each["state"] in ("warn", "fail")), each
        figures = each.get("figures", {"any": 1})
        assert figures, each
        for name, figure in figures.items():
            assert re.fullmatch("[a-z_]+", name), each
            assert type(figure) is (float if name.endswith(("_ms", "off_s")) else int), each
    failed = any(each["state"] == "fail" for each in told["checks"])
    assert (told["ok"], program.code) == (not failed, int(failed))
    return found


def states(checks: Checks, *names: str) -> list[str]:
    return [checks[name]["state"] for name in names]


# ---- the command


def test_a_good_start_is_a_table(tmp_path: Path) -> None:
    environ = {"GBOT_PORT": "0", "STATE_DIRECTORY": str(tmp_path), "COLUMNS": "80"}
    program = gbot("check", "gbot.examples.polite_echo:bot", environ=environ)
    assert program.code == 0
    assert program.stderr == []
    assert max(map(len, program.stdout)) <= 80
    assert "\x1b" not in "".join(program.stdout)
    assert any(
        re.match(r"ok    app          gbot.examples.polite_echo:bot: \d+ handlers?", row) for row in program.stdout
    )
    assert "gbot serve can start like this" in program.stdout[-1]
    assert list(tmp_path.iterdir()) == []


def test_wrong_settings_are_lines_and_not_the_end(check: Callable[..., Program], tmp_path: Path) -> None:
    file = tmp_path / "gbot.toml"
    file.write_text('pool = "many"\nprot = 4000\n')
    program = check("--config", str(file), "--attempts-max", "x", GBOT_ORDER="any")
    told = json.loads(program.stdout[0])["checks"]
    wrong = [each["found"].partition(":")[0] for each in told if each["name"] == "config"]
    assert sorted(wrong) == ["--attempts-max", "GBOT_ORDER", "pool", "prot"]
    assert program.code == 1
    assert lines_of(program)["app"]["state"] == "ok"


def test_an_option_that_is_none_is_wrong_usage() -> None:
    program = gbot("check", "--prot", "5")
    assert program.code == 2
    assert len(program.stderr) == 1


def test_the_help_names_every_setting_and_what_the_words_mean() -> None:
    text = "\n".join(gbot("check", "--help").stdout)
    assert all(
        part in text for part in ("--db-oversize", "GBOT_LINE_CHANNEL_SECRET", "warn  ", "exit code is 1", "figures")
    )


@pytest.mark.parametrize("command", ["check", "serve"])
def test_the_help_fits_the_terminal(command: str) -> None:
    assert max(map(len, gbot(command, "--help", environ={"COLUMNS": "80"}).stdout)) <= 80
    narrow = gbot(command, "--help", environ={"COLUMNS": "60"}).stdout
    secrets = narrow[next(number for number, line in enumerate(narrow) if "Only in the environment" in line) :]
    assert max(map(len, secrets)) <= 60


@pytest.mark.parametrize(("environ", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_only_a_terminal_that_wants_them_gets_colours(tmp_path: Path, environ: dict[str, str], coloured: bool) -> None:
    own = {"GBOT_PORT": "0", "STATE_DIRECTORY": str(tmp_path), "TERM": "xterm"}
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            [sys.executable, "-m", "gbot", "check"], cwd=ROOT, env=clean_environ(own | environ), stdout=theirs
        ) as process:
            os.close(theirs)
            shown = _read_all(ours)
            assert process.wait(DEADLINE_S) == 0
    finally:
        os.close(ours)
    assert "config" in shown
    assert ("\x1b[32mok  \x1b[0m" in shown) == ("\x1b" in shown) == coloured


def _read_all(descriptor: int) -> str:
    parts = []
    while True:
        try:
            part = os.read(descriptor, 65536)
        except OSError:  # its last writer has gone
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts).decode()


def test_no_secret_is_shown_whatever_is_wrong(check: Callable[..., Program], tmp_path: Path) -> None:
    (tmp_path / "leaky.py").write_text(
        "import os\nraise ValueError('cannot log in with ' + os.environ['GBOT_LINE_CHANNEL_ACCESS_TOKEN'])\n"
    )
    file = tmp_path / "gbot.toml"
    file.write_text(f'line-channel-secret = ["{CANARY}-a", 3]\nmessenger-app-secret = "{CANARY}-b"\n')
    file.chmod(0o644)
    environ = {
        "GBOT_LINE_CHANNEL_ACCESS_TOKEN": f"{CANARY}-c",
        "GBOT_LINE_CHANNEL_SECRET": f"{CANARY}-d,{CANARY}-e,{CANARY}-f",
        "GBOT_MESSENGER_PAGE_TOKEN": f"{CANARY} with a space",
        "GBOT_INBOX": f"mysql://bot:{CANARY}-g@127.0.0.1:{free_port()}/chat",
        "GBOT_DB": f"mysql://bot:{CANARY}-h@127.0.0.1:{free_port()}/chat",
        "GBOT_MESSENGER_API_BASE": f"http://127.0.0.1:{free_port()}/{CANARY}-path",
        "http_proxy": f"http://me:{CANARY}-i@127.0.0.1:{free_port()}",
    }
    program = check("leaky:bot", "--config", str(file), cwd=tmp_path, **environ)
    assert "fails with ValueError: (not shown, because it holds a secret) (" in program.report()
    shown = program.report().replace(f"/{CANARY}-path", "")
    assert CANARY not in shown
    checks = lines_of(program)
    assert states(checks, "app", "inbox", "database", "api messenger") == ["fail"] * 4
    assert checks["config file"]["state"] == "warn"
    table = gbot("check", "leaky:bot", "--config", str(file), environ=environ, cwd=tmp_path)
    assert CANARY not in table.report().replace(f"/{CANARY}-path", "")


@pytest.mark.parametrize("password", ["secret", "password", "database", "config"])
def test_a_password_that_is_a_word_of_gbots_takes_no_word_away(
    check: Callable[..., Program], tmp_path: Path, password: str
) -> None:
    file = tmp_path / "g.toml"
    file.write_text(f'db = "mysql://bot:{password}@127.0.0.1:{free_port()}/bot"\n')
    file.chmod(0o644)
    program = check("--config", str(file), cwd=tmp_path)
    checks = lines_of(program)
    found = f"{file} can be read by everybody on this machine, and holds a secret or a password"
    assert checks["config file"]["found"] == found
    assert "not shown" not in program.report()


def test_a_bot_that_talks_when_it_is_imported_does_not_spoil_the_json(
    check: Callable[..., Program], tmp_path: Path
) -> None:
    (tmp_path / "loud.py").write_text(
        "print('hello')\nimport os\nos.write(1, b'there\\n')\nfrom gbot import Bot\nbot = Bot()\n"
    )
    program = check("loud:bot", cwd=tmp_path)
    assert sorted(program.stderr) == ["hello", "there"]
    assert len(program.stdout) == 1
    assert json.loads(program.stdout[0])["ok"] is True


def test_a_bot_that_ends_the_process_when_it_is_imported_has_failed(
    check: Callable[..., Program], tmp_path: Path
) -> None:
    (tmp_path / "ending.py").write_text("import os\nos._exit(0)\n")
    program = check("ending:bot", cwd=tmp_path)
    assert program.code == 1
    assert lines_of(program)["app"]["found"] == "ending:bot: its import ends the process, with exit code 0"


# ---- beside a server


def test_it_disturbs_no_server_on_the_same_inbox_and_port(serve: Serve, check: Callable[..., Program]) -> None:
    served = serve()
    assert post_plain(served.address, "1").status == 200
    served.wait_for_output("message = '1'")
    number = str(urlsplit(served.address).port)
    checks = lines_of(check("--port", number))
    assert checks["port"]["state"] == "warn"
    assert f"is taken by gbot serve (process {served.pid})" in checks["port"]["found"]
    assert checks["inbox"]["state"] == "ok"
    assert "1 worker uses it now, which this look does not disturb" in checks["inbox"]["found"]
    assert post_plain(served.address, "2").status == 200
    served.wait_for_output("message = '2'")
    assert served.stop() == 0
    assert not [row for row in served.stderr if "WARNING" in row or "ERROR" in row]


def test_what_a_killed_server_left_behind_is_left_to_the_next_one(
    serve: Serve, check: Callable[..., Program], tmp_path: Path
) -> None:
    served = serve()
    assert post_plain(served.address, "1").status == 200
    served.wait_for_output("message = '1'")
    served.kill()
    inbox = tmp_path / "state" / "inbox.sqlite3"
    parts = [inbox, inbox.with_name("inbox.sqlite3-wal")]
    before = [part.read_bytes() for part in parts]
    assert before[1]
    checks = lines_of(check())
    assert "no worker uses it now" in checks["inbox"]["found"]
    assert [part.read_bytes() for part in parts] == before
    assert serve().stop() == 0


# ---- MySQL as inbox


@pytest.fixture
def database(mysql_url: str) -> Iterator[str]:
    """The URL of an empty database."""
    parts = urlsplit(mysql_url)
    name = f"gbot_checking_{os.getpid()}"
    with asking(mysql_url) as ask:
        ask(f"CREATE DATABASE {name}")
        yield parts._replace(path=f"/{name}").geturl()
        ask(f"DROP DATABASE {name}")


@contextmanager
def asking(url: str) -> Iterator[Callable[[str], list[tuple[Any, ...]]]]:
    parts = urlsplit(url)
    connection = pymysql.connect(
        host=parts.hostname,
        port=parts.port or 3306,
        user=parts.username,
        password=parts.password or "",
        database=parts.path[1:],
        autocommit=True,
    )
    with connection, connection.cursor() as cursor:

        def ask(sql: str) -> list[tuple[Any, ...]]:
            cursor.execute(sql)
            return list(cursor.fetchall())

        yield ask


def test_a_shared_inbox_has_to_be_migrated_and_the_check_does_not_do_it(
    check: Callable[..., Program], database: str
) -> None:
    checks = lines_of(check(GBOT_INBOX=database))
    assert checks["inbox"]["state"] == "fail"
    assert "has no tables of gbot yet" in checks["inbox"]["found"]
    assert checks["inbox"]["advice"].startswith("run gbot inbox migrate")
    with asking(database) as ask:
        assert ask("SHOW TABLES") == []
        assert gbot("inbox", "migrate", environ={"GBOT_INBOX": database}).code == 0
        assert states(lines_of(check(GBOT_INBOX=database)), "inbox", "clock") == ["ok", "ok"]
        ask("DELETE FROM gbot_schema WHERE version > 1")
        checks = lines_of(check(GBOT_INBOX=database))
        assert "has tables of an older gbot (schema 1 and not 2)" in checks["inbox"]["found"]
        ask("INSERT INTO gbot_schema (version) VALUES (99)")
        assert "has tables of a newer gbot (schema 99" in lines_of(check(GBOT_INBOX=database))["inbox"]["found"]
        assert ask("SELECT MAX(version) FROM gbot_schema") == [(99,)]


def test_it_disturbs_no_server_on_the_same_shared_inbox(
    serve: Serve, check: Callable[..., Program], database: str
) -> None:
    assert gbot("inbox", "migrate", environ={"GBOT_INBOX": database}).code == 0
    served = serve(environ={"GBOT_INBOX": database})
    assert post_plain(served.address, "1").status == 200
    served.wait_for_output("message = '1'")
    with asking(database) as ask:
        before = ask("SELECT life FROM gbot_workers")
        checks = lines_of(check(GBOT_INBOX=database))
        assert ask("SELECT life FROM gbot_workers") == before
    assert checks["inbox"]["state"] == "ok"
    assert "1 worker uses it now, which this look does not disturb" in checks["inbox"]["found"]
    assert post_plain(served.address, "2").status == 200
    served.wait_for_output("message = '2'")
    assert served.stop() == 0


# ---- the bot's own database


def test_a_database_is_reached_and_has_room(check: Callable[..., Program], mysql_url: str) -> None:
    checks = lines_of(check(GBOT_DB=mysql_url))
    assert states(checks, "database", "db connections", "db sessions", "db idle", "clock") == ["ok"] * 5
    assert re.search(r"connected in \d+(\.\d)? ms, then answers in \d+(\.\d)? ms", checks["database"]["found"])
    assert "--db-pool 50 fits" in checks["db connections"]["found"]


def test_a_database_that_lets_nobody_in_fails(check: Callable[..., Program], mysql_url: str) -> None:
    parts = urlsplit(mysql_url)
    stranger = f"mysql://stranger:{CANARY}@{parts.hostname}:{parts.port}/mysql"
    checks = lines_of(check(GBOT_DB=stranger, GBOT_INBOX=stranger))
    assert "does not let gbot in" in checks["database"]["found"]
    assert checks["database"]["advice"].startswith("see to user, password, database and ?tls= in GBOT_DB")
    assert "does not let gbot in" in checks["inbox"]["found"]
    assert checks["inbox"]["advice"].startswith("see to user, password, database and ?tls= in GBOT_INBOX")
    assert checks["inbox"]["advice"].endswith(": gbot serve would not start")
    assert states(checks, "database", "inbox", "clock") == ["fail", "fail", "skip"]


def test_a_database_that_says_nothing_is_a_line_after_a_few_seconds(check: Callable[..., Program]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"mysql://bot@127.0.0.1:{silent.getsockname()[1]}/chat"
        checks = lines_of(check(GBOT_DB=place))
        assert (checks["database"]["state"], checks["inbox"]["state"]) == ("fail", "ok")
        assert place in checks["database"]["found"]
        inbox = lines_of(check(GBOT_INBOX=place))["inbox"]
    assert inbox["state"] == "fail"
    assert place in inbox["found"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDb]:
    """A server with few connections, a short patience and, for who is not root, a clock that is 100 s ahead."""
    server = MariaDb(
        tmp_path_factory.mktemp("small"),
        *("--max-connections=40", "--wait-timeout=30", "--init-connect=SET timestamp = UNIX_TIMESTAMP() + 100"),
    )
    with asking(server.url) as ask:
        ask("CREATE USER late")
        ask("GRANT ALL ON mysql.* TO late")
    yield server
    server.stop()


def test_a_pool_that_is_too_large_for_the_server(check: Callable[..., Program], small: MariaDb) -> None:
    room = lines_of(check("--db-pool", "30", GBOT_DB=small.url))["db connections"]
    assert room["state"] == "ok"
    assert room["found"] == "max_connections 40 - 10 kept for others (0 there now) = 30; --db-pool 30 fits"
    room = lines_of(check("--db-pool", "30", "--db-share", "2", GBOT_DB=small.url))["db connections"]
    assert (room["state"], room["advice"][:13]) == ("fail", "--db-pool 15,")
    assert "/ 2 nodes = 15; --db-pool 30 is more" in room["found"]
    clamped = check("--db-pool", "30", "--db-share", "2", "--db-oversize", "clamp", GBOT_DB=small.url)
    assert lines_of(clamped)["db connections"]["state"] == "warn"
    assert "gbot serve takes 15" in lines_of(clamped)["db connections"]["advice"]


def test_the_inbox_on_the_same_server_has_its_connections_too(check: Callable[..., Program], small: MariaDb) -> None:
    checks = lines_of(check("--db-pool", "30", GBOT_DB=small.url, GBOT_INBOX=small.url))
    assert "- 2 of the inbox = 28; --db-pool 30 is more" in checks["db connections"]["found"]


def test_sessions_of_others_are_in_the_arithmetic(check: Callable[..., Program], small: MariaDb) -> None:
    with asking(small.url), asking(small.url):
        room = lines_of(check(GBOT_DB=small.url.replace("root@", "late@")))["db connections"]
    assert room["found"].startswith("max_connections 40 - 10 kept for others (2 there now) = 30")


@contextmanager
def asking_alone(server: MariaDb) -> Iterator[None]:
    """One connection, once the server has parted with all others."""
    with asking(server.url) as ask:
        eventually(lambda: ask("SHOW GLOBAL STATUS LIKE 'Threads_connected'") == [("Threads_connected", "1")])
        yield


def test_the_arithmetic_is_there_as_numbers(check: Callable[..., Program], small: MariaDb) -> None:
    late = small.url.replace("root@", "late@")
    with asking_alone(small):
        room = lines_of(check("--db-pool", "20", "--db-share", "2", GBOT_DB=late))["db connections"]
    assert room["figures"] == {
        "max_connections": 40,
        "used_by_others": 1,
        "kept_for_others": 10,
        "nodes": 2,
        "share": 15,
        "db_pool": 20,
    }


def test_connections_of_the_same_user_are_told(check: Callable[..., Program], small: MariaDb) -> None:
    late = small.url.replace("root@", "late@")
    with asking_alone(small), asking(late), asking(late):
        there = lines_of(check("--db-pool", "29", GBOT_DB=late))["db sessions"]
    assert (there["state"], there["figures"]) == ("warn", {"used_by_user": 2})
    assert there["found"].startswith("user late has 2 connections open there already; with 29 more for --db-pool")
    assert "set --db-share to the number of nodes" in there["advice"]


def test_what_to_do_about_a_server_without_a_free_connection_is_not_to_start_it(
    check: Callable[..., Program], small: MariaDb
) -> None:
    late = small.url.replace("root@", "late@")
    with asking_alone(small), ExitStack() as held:
        for _ in range(39):
            held.enter_context(asking(late))
        checks = lines_of(check(GBOT_DB=late, GBOT_INBOX=late))
    assert states(checks, "database", "inbox") == ["fail", "fail"]
    for name in ("database", "inbox"):
        assert "cannot be reached: 1040 " in checks[name]["found"]
        assert checks[name]["advice"].startswith("all its connections are in use: see whose")


def test_a_user_without_a_free_connection_is_told_of_its_limit(check: Callable[..., Program], small: MariaDb) -> None:
    with asking(small.url) as ask:
        ask("CREATE USER IF NOT EXISTS tight WITH MAX_USER_CONNECTIONS 1")
        ask("GRANT ALL ON mysql.* TO tight")
    tight = small.url.replace("root@", "tight@")
    with asking(tight):
        database = lines_of(check(GBOT_DB=tight))["database"]
    assert database["state"] == "fail"
    assert database["advice"].startswith("what this user may have is in use")


def test_a_server_that_takes_no_writes_is_told(check: Callable[..., Program], small: MariaDb) -> None:
    late = small.url.replace("root@", "late@")
    with asking(small.url) as ask:
        ask("CREATE DATABASE IF NOT EXISTS replicated")
        ask("GRANT ALL ON replicated.* TO late")
        inbox = late.replace("/mysql", "/replicated")
        assert gbot("inbox", "migrate", environ={"GBOT_INBOX": inbox}).code == 0
        ask("SET GLOBAL read_only = 1")
        try:
            checks = lines_of(check("--db-pool", "5", GBOT_DB=late, GBOT_INBOX=inbox))
        finally:
            ask("SET GLOBAL read_only = 0")
    assert states(checks, "database", "inbox") == ["warn", "fail"]
    assert checks["database"]["found"].endswith("; it is read-only")
    assert "name in GBOT_DB the server that takes writes" in checks["database"]["advice"]
    assert "is read-only, so no event could be stored" in checks["inbox"]["found"]


def test_a_server_that_soon_hangs_up_is_warned_of(check: Callable[..., Program], small: MariaDb) -> None:
    idle = lines_of(check("--db-pool", "5", GBOT_DB=small.url))["db idle"]
    assert (idle["state"], "idle for 30 s" in idle["found"]) == ("warn", True)
    assert idle["figures"] == {"wait_timeout_s": 30}
    assert "in the parameter group" in idle["advice"]


def test_a_server_that_has_both_is_told_once_by_the_clock(check: Callable[..., Program], small: MariaDb) -> None:
    clock = lines_of(check("--db-pool", "5", GBOT_DB=small.url, GBOT_INBOX=small.url))["clock"]
    port = urlsplit(small.url).port
    assert clock["found"] == f"it is within 2 s of that of the database server 127.0.0.1:{port}"


def test_a_clock_that_is_behind_the_databases_fails(check: Callable[..., Program], small: MariaDb) -> None:
    clock = lines_of(check("--db-pool", "5", GBOT_DB=small.url.replace("root@", "late@")))["clock"]
    assert clock["state"] == "fail"
    assert re.match(r"it is (9[0-9]|10[0-9]) s behind that of the database server 127.0.0.1:", clock["found"])


def test_a_user_that_may_not_read_the_inbox_fails(check: Callable[..., Program], small: MariaDb) -> None:
    with asking(small.url) as ask:
        ask("CREATE DATABASE IF NOT EXISTS shared")
        ask("CREATE USER IF NOT EXISTS poor")
        ask("GRANT CREATE ON shared.* TO poor")
        url = small.url.replace("/mysql", "/shared")
        assert gbot("inbox", "migrate", environ={"GBOT_INBOX": url}).code == 0
    checks = lines_of(check(GBOT_INBOX=url.replace("root@", "poor@")))
    assert checks["inbox"]["state"] == "fail"
    assert "its user may not do what the inbox needs" in checks["inbox"]["found"]
    assert checks["inbox"]["advice"] == GRANT.format("shared", "poor")


GRANT: Final = "as its admin: GRANT SELECT, INSERT, UPDATE, DELETE ON {}.* TO {}"


@pytest.fixture(scope="module")
def tried(small: MariaDb) -> str:
    """The URL of an inbox in use, for the users that tests make."""
    with asking(small.url) as ask:
        ask("CREATE DATABASE tried")
    url = small.url.replace("/mysql", "/tried")
    assert gbot("inbox", "migrate", environ={"GBOT_INBOX": url}).code == 0
    return url


@pytest.mark.parametrize(
    ("user", "grants", "is_enough"),
    [
        ("reader", ["SELECT ON tried.*"], False),
        ("keeper", ["SELECT, INSERT, UPDATE ON tried.*"], False),
        ("partly", ["SELECT, UPDATE, DELETE ON tried.*", "INSERT ON tried.gbot_entries"], False),
        ("worker", ["SELECT, INSERT, UPDATE, DELETE ON tried.*"], True),
    ],
)
def test_a_user_that_may_not_do_what_a_worker_does_fails(
    check: Callable[..., Program], small: MariaDb, tried: str, user: str, grants: list[str], is_enough: bool
) -> None:
    with asking(small.url) as ask:
        ask(f"CREATE USER {user}")
        for grant in grants:
            ask(f"GRANT {grant} TO {user}")
    inbox = lines_of(check(GBOT_INBOX=tried.replace("root@", f"{user}@")))["inbox"]
    assert inbox["state"] == ("ok" if is_enough else "fail"), inbox
    if not is_enough:
        assert "its user may not do what the inbox needs, so no event could be stored: error 114" in inbox["found"]
        assert inbox["advice"] == GRANT.format("tried", user)


def test_a_user_that_may_do_it_by_a_role_is_fine(check: Callable[..., Program], small: MariaDb, tried: str) -> None:
    with asking(small.url) as ask:
        ask("CREATE ROLE serving")
        ask("GRANT SELECT, INSERT, UPDATE, DELETE ON tried.* TO serving")
        ask("CREATE USER player")
        ask("GRANT serving TO player")
        is_mariadb = "MariaDB" in ask("SELECT VERSION()")[0][0]
        ask("SET DEFAULT ROLE serving FOR player" if is_mariadb else "SET DEFAULT ROLE serving TO player")
    assert lines_of(check(GBOT_INBOX=tried.replace("root@", "player@")))["inbox"]["state"] == "ok"


def test_trying_a_user_changes_nothing_and_waits_for_no_lock(
    check: Callable[..., Program], small: MariaDb, tried: str
) -> None:
    tables = ["entries", "ended", "seen", "workers", "slots", "users", "states"]
    checksums = f"CHECKSUM TABLE {', '.join(f'gbot_{table}' for table in tables)}"
    with asking(tried) as ask, asking(tried) as hold:
        before = ask(checksums)
        next_life = "SELECT MAX(life) FROM gbot_workers"
        ask("INSERT INTO gbot_workers (life) VALUES (7)")
        hold("BEGIN")
        for table in tables:
            hold(f"SELECT * FROM gbot_{table} FOR UPDATE")
        assert lines_of(check(GBOT_INBOX=tried))["inbox"]["state"] == "ok"
        hold("ROLLBACK")
        ask("INSERT INTO gbot_workers () VALUES ()")
        assert ask(next_life) == [(8,)]
        ask("DELETE FROM gbot_workers WHERE life > 0")
        assert ask(checksums) == before


def test_a_server_that_keeps_what_it_says_is_fine(check: Callable[..., Program], tried: str) -> None:
    checks = lines_of(check(GBOT_INBOX=tried))
    assert states(checks, "inbox commits", "inbox packets") == ["ok", "ok"]
    assert "innodb_flush_log_at_trx_commit 1, " in checks["inbox commits"]["found"]


def test_a_server_that_may_lose_what_was_stored_is_warned_of(
    check: Callable[..., Program], small: MariaDb, tried: str
) -> None:
    with asking(small.url) as ask:
        [(before,)] = ask("SELECT @@GLOBAL.max_allowed_packet")
        ask("SET GLOBAL innodb_flush_log_at_trx_commit = 2")
        ask("SET GLOBAL max_allowed_packet = 4194304")
        try:
            checks = lines_of(check("--body-bytes-max", "1048577", GBOT_INBOX=tried))
        finally:
            ask("SET GLOBAL innodb_flush_log_at_trx_commit = 1")
            ask(f"SET GLOBAL max_allowed_packet = {before}")
    assert states(checks, "inbox", "inbox commits", "inbox packets") == ["ok", "warn", "warn"]
    assert checks["inbox commits"]["found"].startswith("innodb_flush_log_at_trx_commit is 2: a power cut")
    assert checks["inbox commits"]["advice"].startswith("as its admin: SET GLOBAL innodb_flush_log_at_trx_commit = 1,")
    assert checks["inbox packets"]["found"].startswith("max_allowed_packet is 4 MiB, less than 4 times")
    assert checks["inbox packets"]["advice"].startswith("as its admin: SET GLOBAL max_allowed_packet = 4195328,")
    assert checks["inbox packets"]["figures"] == {"max_allowed_packet_bytes": 4194304, "needed_bytes": 4194308}


def test_a_binary_log_that_may_lag_behind_is_warned_of_where_there_is_one(
    check: Callable[..., Program], tmp_path: Path
) -> None:
    server = MariaDb(tmp_path, "--log-bin=binlog", "--binlog-format=ROW", "--server-id=1", "--sync-binlog=0")
    try:
        assert gbot("inbox", "migrate", environ={"GBOT_INBOX": server.url}).code == 0
        commits = lines_of(check(GBOT_INBOX=server.url))["inbox commits"]
    finally:
        server.stop()
    assert (commits["state"], commits["figures"]) == ("warn", {"sync_binlog": 0})
    assert commits["advice"].startswith("as its admin: SET GLOBAL sync_binlog = 1,")


# ---- the platforms' APIs

LINE: Final = {"GBOT_LINE_CHANNEL_SECRET": "a secret", "GBOT_LINE_CHANNEL_ACCESS_TOKEN": line.ACCESS_TOKEN}


def line_at(api: str, content: str | None = None) -> dict[str, str]:
    return {
        "GBOT_LINE_CHANNEL_SECRET": f"{CANARY}-secret",
        "GBOT_LINE_CHANNEL_ACCESS_TOKEN": line.ACCESS_TOKEN,
        "GBOT_LINE_API_BASE": api,
        "GBOT_LINE_CONTENT_BASE": content or api,
    }


def test_an_api_is_asked_one_harmless_question(check: Callable[..., Program], fake_line: FakeLineProcess) -> None:
    checks = lines_of(check(**line_at(fake_line.address)))
    assert states(checks, "secrets", "api line", "clock") == ["ok"] * 3
    assert re.match(re.escape(fake_line.address) + r" answers in [\d.]+ ms \(status 401\)", checks["api line"]["found"])
    [asked] = fake_line.requests()
    assert (asked["method"], asked["path"], asked["body"], asked["authorization"]) == ("GET", "/", None, None)


def test_an_api_that_does_not_answer_fails(check: Callable[..., Program], fake_line: FakeLineProcess) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    checks = lines_of(check(**line_at(nobody, fake_line.address)))
    assert states(checks, "api line", "api line files") == ["fail", "ok"]
    assert "nothing answers there" in checks["api line"]["found"]
    assert "handlers could not reply or push" in checks["api line"]["advice"]
    checks = lines_of(check(**line_at(fake_line.address, nobody)))
    assert states(checks, "api line", "api line files") == ["ok", "warn"]


def test_an_api_that_says_nothing_is_a_line_after_a_few_seconds(check: Callable[..., Program]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        checks = lines_of(check(**line_at(f"http://127.0.0.1:{silent.getsockname()[1]}")))
    assert checks["api line"]["state"] == "fail"
    assert "in time" in checks["api line"]["found"]


def test_an_api_has_to_show_a_certificate_that_can_be_trusted(
    serve: Serve, check: Callable[..., Program], tmp_path: Path
) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=api"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    served = serve("--tls-cert", str(certificate), "--tls-key", str(key))
    trusting = lines_of(check(**line_at(served.address), REQUESTS_CA_BUNDLE=str(certificate)))
    assert states(trusting, "api line", "clock") == ["ok", "ok"]
    doubting = lines_of(check("--tls-cert", str(certificate), "--tls-key", str(key), **line_at(served.address)))
    assert states(doubting, "api line", "certificate") == ["fail", "warn"]
    assert "a certificate that can be trusted" in doubting["api line"]["found"]


@contextmanager
def answering(status: int, ahead_s: float = 0.0) -> Iterator[tuple[str, list[str]]]:
    """A server of this status whose clock is ahead; its address and the request lines it was sent."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.requestline)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_CONNECT = do_GET

        def date_time_string(self, timestamp: float | None = None) -> str:
            return formatdate(time.time() + ahead_s, usegmt=True)

        def log_message(self, *given: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()


@pytest.mark.parametrize(("ahead_s", "state"), [(0.0, "ok"), (-10.0, "warn"), (100.0, "fail")])
def test_the_date_that_an_api_gives_is_compared(check: Callable[..., Program], ahead_s: float, state: str) -> None:
    with answering(200, ahead_s) as (address, _):
        checks = lines_of(check(**line_at(address)))
    assert states(checks, "api line", "clock") == ["ok", state]


def test_an_api_is_reached_through_the_proxy(check: Callable[..., Program]) -> None:
    with answering(404) as (proxy, asked):
        checks = lines_of(check(**line_at("http://api.invalid"), http_proxy=proxy))
    assert checks["api line"]["state"] == "ok"
    assert f"through the proxy {proxy.removeprefix('http://')}" in checks["api line"]["found"]
    assert asked == ["GET http://api.invalid/ HTTP/1.1"]


def test_a_proxy_that_does_not_get_through_fails(check: Callable[..., Program]) -> None:
    with answering(502) as (proxy, asked):
        checks = lines_of(check(**line_at("https://api.invalid", "http://files.invalid"), all_proxy=proxy))
    assert states(checks, "api line", "api line files") == ["fail", "warn"]
    assert "the proxy answered with status 502" in checks["api line"]["found"]
    assert "it answered with status 502" in checks["api line files"]["found"]
    assert sorted(asked)[0] == "CONNECT api.invalid:443 HTTP/1.1"
    assert CANARY not in json.dumps(checks)


def test_a_thread_of_the_bots_keeps_neither_a_check_nor_a_stopped_server(serve: Serve, tmp_path: Path) -> None:
    body = (
        "import threading, time\nthreading.Thread(target=time.sleep, args=[600]).start()\n"
        "from gbot import Bot\nbot = Bot()\n"
    )
    (tmp_path / "threaded.py").write_text(body)
    assert gbot("check", "threaded:bot", "--port", "0", "--inbox", "memory:", cwd=tmp_path).code == 0
    assert serve("threaded:bot", cwd=tmp_path).stop() == 0
