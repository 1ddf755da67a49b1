"""``gbot serve`` with a database of the bot's own, as an operator meets it: sized, away, back, and stopped."""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pymysql
import pytest

from gbot.inboxes.store import Place
from tests.conftest import Serve
from tests.journeys.client import post_plain
from tests.journeys.mariadb import MariaDb
from tests.journeys.processes import SERVING, Program, Served, eventually, gbot
from tests.journeys.relay import Relay
from tests.journeys.stage import desk_of

ASKING: Final = "tests.journeys.bots.asking:bot"
CONNECTIONS_MAX: Final = 90

names = (f"of_bot_{number}" for number in itertools.count(1))


class Admin:
    """Somebody at the server, and what the bot uses there: a user and a database of its own."""

    def __init__(self, server: MariaDb) -> None:
        self._server = server
        self.user = self.name = next(names)
        self.url = server.url.replace("root@", f"{self.user}:pa55@").replace("/mysql", f"/{self.name}")
        self.ask(f"CREATE DATABASE {self.name}")
        self.ask(f"CREATE TABLE {self.name}.runs (number INT)")
        self.ask(f"CREATE TABLE {self.name}.uniques (number INT PRIMARY KEY)")
        self.ask(f"CREATE USER {self.user} IDENTIFIED BY 'pa55'")
        self.ask(f"GRANT ALL ON {self.name}.* TO {self.user}")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the lock that has the name of the database."""
        with self._cursor() as cursor:
            cursor.execute("SELECT GET_LOCK(%s, 0)", [self.name])
            assert cursor.fetchone() == (1,)
            yield

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        """From outside, as root."""
        with self._cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    @contextmanager
    def _cursor(self) -> Iterator[pymysql.cursors.Cursor]:
        parts = urlsplit(self._server.url)
        session = pymysql.connect(host=parts.hostname, port=parts.port or 0, user="root", autocommit=True)
        with closing(session), session.cursor() as cursor:
            yield cursor

    def sessions(self) -> list[str | None]:
        """What each session of the bot runs, as the server has it."""
        return [
            what for (what,) in self.ask(f"SELECT info FROM information_schema.processlist WHERE user = '{self.user}'")
        ]

    def written(self) -> list[int]:
        return sorted(number for (number,) in self.ask(f"SELECT number FROM {self.name}.runs"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDb]:
    """A server that nobody stops."""
    server = MariaDb(tmp_path_factory.mktemp("mariadb"), f"--max-connections={CONNECTIONS_MAX}")
    yield server
    server.stop()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[MariaDb]:
    """A server that the test may stop."""
    server = MariaDb(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def admin(shared: MariaDb) -> Admin:
    return Admin(shared)


def refused(*arguments: str, environ: dict[str, str]) -> str:
    """The one line that it says when it does not start."""
    program = gbot("serve", ASKING, "--port", "0", "--inbox", "memory:", *arguments, environ=environ)
    assert program.code == 1, program.report()
    [line] = program.stderr
    assert "pa55" not in line
    return line


def warnings(program: Program) -> list[str]:
    return [line for line in program.stderr if re.search(r" (WARNING|ERROR) ", line) and "no signature" not in line]


def samples(served: Served) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in served.stderr if line.startswith("{")]
    return [line["sample"] for line in lines if "sample" in line]


# ---- its size


def test_a_pool_that_fits_is_opened(serve: Serve, admin: Admin) -> None:
    served = serve(ASKING, "--db-pool", "70", "--db-warm", "7", environ={"GBOT_DB": admin.url})
    line = served.wait_for_line("gbot.database.opening  (.*)")[1]
    assert re.search(r"max_connections 90 - \d+ kept for others \(\d there now\) = \d+; 70 fit$", line)
    served.wait_for_line("7 connections to mysql://.* are open")
    eventually(lambda: len(admin.sessions()) == 7)  # the one that asked for the limits may still be leaving
    post_plain(served.address, "hello")
    served.wait_for_output("answered 42")
    assert served.stop() == 0
    assert warnings(served) == []
    assert "pa55" not in served.report()


def test_one_that_is_more_than_the_share_is_refused_with_the_arithmetic(admin: Admin) -> None:
    line = refused("--db-pool", "45", "--db-share", "2", environ={"GBOT_DB": admin.url})
    assert re.search(
        r"^gbot: Database mysql://of_bot_\d+@127\.0\.0\.1:\d+/of_bot_\d+: max_connections 90 - \d+ kept for "
        r"others \(\d there now\) = \d+; / 2 nodes = [34]\d; --db-pool 45 is more\. Lower it, raise max_connections, "
        r"or take what there is with --db-oversize clamp\.$",
        line,
    )


def test_or_made_smaller_where_the_settings_say_so(serve: Serve, admin: Admin) -> None:
    admin.ask(f"ALTER USER {admin.user} WITH MAX_USER_CONNECTIONS 5")
    served = serve(
        *(ASKING, "--db-oversize", "clamp", "--log-format", "json", "--sample-interval", "0.5"),
        environ={"GBOT_DB": admin.url},
    )
    served.wait_for_line("max_user_connections 5 - 2 kept free allows 3; --db-pool 50 is more: taking 3")
    served.wait_until(lambda: bool(samples(served)), "sample")
    assert samples(served)[0]["db_size"] == 3
    post_plain(served.address, ",".join(["hello"] * 40))
    served.wait_for_output("answered 42", times=40)
    served.wait_until(lambda: samples(served)[-1]["db_uses"] == 40, "sample with all uses")
    assert samples(served)[-1]["db_open"] <= 3
    assert samples(served)[-1]["db_held_s"] > 0
    assert served.stop() == 0


def test_with_nothing_left_to_take_it_does_not_start_either(admin: Admin) -> None:
    line = refused("--db-oversize", "clamp", "--db-share", "1000", environ={"GBOT_DB": admin.url})
    assert "/ 1000 nodes = 0; --db-pool 50 is more, and nothing is left to take" in line


def test_the_inbox_on_the_same_server_has_its_part(admin: Admin) -> None:
    environ = {"GBOT_DB": admin.url}
    assert gbot("inbox", "migrate", environ={"GBOT_INBOX": admin.url}).code == 0
    program = gbot("serve", "--port", "0", environ=environ | {"GBOT_INBOX": admin.url, "GBOT_DB_SHARE": "15"})
    assert program.code == 1
    assert re.search(r"/ 15 nodes = 5; - 2 of the inbox = 3; --db-pool 50 is more", program.stderr[0])


# ---- the open-file limit


def serving_with_files(limit: str, *arguments: str, environ: dict[str, str]) -> Program:
    """``gbot serve`` in a shell's child with this ``ulimit``."""
    command = [sys.executable, "-m", "gbot", "serve", ASKING, "--port", "0", "--inbox", "memory:", *arguments]
    return Program(["sh", "-c", f'{limit} && exec "$@"', "sh", *command], environ)


def test_it_raises_the_soft_limit_itself_where_it_may(programs: list[Program], admin: Admin) -> None:
    arguments = ("--db-pool", "40", "--connections-max", "100", "--pool", "10", "--inbox-max", "100")
    served = serving_with_files("ulimit -Sn 100", *arguments, environ={"GBOT_DB": admin.url})
    programs.append(served)
    served.wait_for_line("handlers at once")
    assert warnings(served) == []


def test_it_warns_when_connections_of_clients_and_the_pool_do_not_both_fit(
    programs: list[Program], admin: Admin
) -> None:
    arguments = ("--db-pool", "40", "--connections-max", "300")
    served = serving_with_files("ulimit -n 400", *arguments, environ={"GBOT_DB": admin.url})
    programs.append(served)
    served.wait_for_line(
        r"The open-file limit is 400: 296 connections of clients at once beside 40 to the database, instead of 300; "
        r"raise it \(systemd: LimitNOFILE=\), or lower --connections-max"
    )
    address = served.wait_for_line(SERVING)[1]
    post_plain(address, "hello")
    served.wait_for_output("answered 42")


def test_a_pool_that_the_limit_has_no_room_for_is_refused_with_the_arithmetic(
    programs: list[Program], admin: Admin
) -> None:
    program = serving_with_files("ulimit -n 128", environ={"GBOT_DB": admin.url})
    programs.append(program)
    assert program.wait() == 1
    [line] = program.stderr
    assert line.endswith(
        ": open-file limit 128 - 96 for clients and all else = 32; --db-pool 50 is more. Lower it, raise the open-file "
        "limit (systemd: LimitNOFILE=), or take what there is with --db-oversize clamp."
    )


def test_or_made_smaller_as_well(programs: list[Program], admin: Admin) -> None:
    served = serving_with_files("ulimit -n 128", "--db-oversize", "clamp", environ={"GBOT_DB": admin.url})
    programs.append(served)
    served.wait_for_line("for clients and all else = 32; --db-pool 50 is more: taking 32")
    served.wait_for_line("max_connections 90 - .*; 32 fit")


# ---- wrong settings, and servers that do not tell


def test_a_wrong_password_ends_the_start(admin: Admin) -> None:
    line = refused(environ={"GBOT_DB": admin.url.replace("pa55", "pa55word")})
    assert re.search(r"The database mysql://\S+ does not let gbot in: 1045 Access denied for user", line)


def test_an_unknown_database_ends_the_start(admin: Admin) -> None:
    admin.ask(f"DROP DATABASE {admin.name}")
    admin.ask(f"GRANT SELECT ON *.* TO {admin.user}")
    line = refused(environ={"GBOT_DB": admin.url})
    assert re.search(r"The database mysql://\S+ does not let gbot in: 1049 Unknown database", line)


class Censor(Relay):
    """Makes one question into nonsense of the same length."""

    def __init__(self, url: str, question: bytes) -> None:
        self._question = question
        super().__init__(url)

    def passed(self, data: bytes) -> bytes:
        return data.replace(self._question, b"?" * len(self._question))


@pytest.mark.parametrize("question", [b"SHOW GLOBAL STATUS", b"@@SESSION.max_user_connections", b"SHOW PROCESSLIST"])
def test_a_server_that_does_not_tell_what_it_allows_is_used_all_the_same(
    serve: Serve, admin: Admin, question: bytes
) -> None:
    with closing(Censor(admin.url, question)) as censor:
        served = serve(ASKING, environ={"GBOT_DB": censor.url})
        served.wait_for_line(r"does not tell how many connections it allows \(.*\); --db-pool 50 is taken as it is")
        post_plain(served.address, "hello")
        served.wait_for_output("answered 42")
        assert served.stop() == 0


# ---- away, and back


def test_a_server_that_is_away_at_the_start_is_waited_for(serve: Serve, own: MariaDb) -> None:
    admin = Admin(own)
    own.stop()
    served = serve(ASKING, "--db-warm", "20", environ={"GBOT_DB": admin.url})
    served.wait_for_line("The database mysql://.* cannot be used now: .*; what needs it is put off")
    assert post_plain(served.address, ",".join(f"write {number}" for number in range(30))).status == 200
    own.start()
    eventually(lambda: admin.written() == list(range(30)))
    served.wait_for_line("max_connections 151 - .*; 50 fit")
    eventually(lambda: len(admin.sessions()) == 20)
    assert served.stop() == 0
    assert not [line for line in served.stderr if " ERROR " in line]


def test_one_that_turns_out_too_small_is_not_overrun(serve: Serve, own: MariaDb) -> None:
    admin = Admin(own)
    admin.ask(f"ALTER USER {admin.user} WITH MAX_USER_CONNECTIONS 20")
    own.stop()
    served = serve(ASKING, environ={"GBOT_DB": admin.url})
    own.start()
    served.wait_for_line(r"allows 18; --db-pool 50 is more: taking 18")
    post_plain(served.address, ",".join(["sleep 0.1 there"] * 40))
    served.wait_for_output("asked", times=40)
    assert len(admin.sessions()) <= 18


def test_one_that_turns_out_to_have_no_room_is_used_with_one_connection(serve: Serve, own: MariaDb) -> None:
    admin = Admin(own)
    admin.ask(f"ALTER USER {admin.user} WITH MAX_USER_CONNECTIONS 2")
    own.stop()
    served = serve(ASKING, environ={"GBOT_DB": admin.url})
    own.start()
    served.wait_for_line("ERROR .* nothing is left to take.* Until the next start one connection is used")
    post_plain(served.address, ",".join(["hello"] * 20))
    served.wait_for_output("answered 42", times=20)


def test_one_that_turns_out_to_refuse_the_user_is_told_of_and_asked_again(serve: Serve, own: MariaDb) -> None:
    admin = Admin(own)
    own.stop()
    served = serve(ASKING, environ={"GBOT_DB": admin.url.replace("pa55", "pa55word")})
    own.start()
    served.wait_for_line("ERROR .* does not let gbot in: 1045 Access denied .*; what needs it is put off")
    post_plain(served.address, "hello")
    admin.ask(f"ALTER USER {admin.user} IDENTIFIED BY 'pa55word'")
    served.wait_for_output("answered 42")
    served.wait_for_line("; 50 fit")


def test_nothing_is_lost_when_it_goes_away_for_a_while_and_no_attempt_is_used_up(
    serve: Serve, own: MariaDb, tmp_path: Path
) -> None:
    admin = Admin(own)
    arguments = ("--attempts-max", "2", "--keep-done", "1h", "--handler-timeout", "10")
    served = serve(ASKING, *arguments, environ={"GBOT_DB": admin.url})
    for first in (0, 20, 40):
        assert post_plain(served.address, ",".join(f"write {n}" for n in range(first, first + 20))).status == 200
        if first == 0:
            own.kill()
            # Until it has noticed, a connection that was just used is trusted, and a statement breaks on it.
            served.wait_for_line("No connection to mysql://")
    own.start()
    with desk_of(f"sqlite://{tmp_path}/state/inbox.sqlite3") as desk:
        everywhere = list(Place)

        def ended() -> bool:
            return {record.place for record in desk.records(everywhere, 0, 100)} == {Place.DONE}

        eventually(ended)
        records = desk.records(everywhere, 0, 100)
    assert len(records) == 60
    assert set(admin.written()) == set(range(60))
    assert {record.attempts for record in records} <= {0, 1}  # 1: the server was killed under its statement
    later = [record for record in records if int(str(record.event.text).split()[1]) >= 20]
    assert {record.attempts for record in later} == {0}
    served.wait_for_line("can be made again")
    assert served.stop() == 0


@pytest.mark.skipif("GBOT_TEST_MYSQLD" not in os.environ, reason="MariaDB has no offline mode")
def test_what_needs_a_server_that_is_offline_is_put_off_and_no_attempt_is_used_up(serve: Serve, own: MariaDb) -> None:
    admin = Admin(own)
    served = serve(ASKING, "--attempts-max", "1", "--db-warm", "5", environ={"GBOT_DB": admin.url})
    eventually(lambda: len(admin.sessions()) == 5)
    admin.ask("SET GLOBAL offline_mode = ON")
    served.wait_for_line("No connection to mysql://.*: 3032 The server is currently in offline mode")
    assert post_plain(served.address, ",".join(f"write {number}" for number in range(20))).status == 200
    checked = gbot("check", ASKING, "--port", "0", "--json", environ={"GBOT_DB": admin.url})
    [database] = [line for line in json.loads("".join(checked.stdout))["checks"] if line["name"] == "database"]
    assert database["advice"].startswith("wait until its admin has it online again")
    admin.ask("SET GLOBAL offline_mode = OFF")
    eventually(lambda: admin.written() == list(range(20)))
    assert served.stop() == 0
    assert not [line for line in served.stderr if " ERROR " in line]


# ---- what goes wrong in a handler


def test_an_error_of_the_database_is_one_line_that_names_the_authors_own(serve: Serve, admin: Admin) -> None:
    served = serve(ASKING, "--attempts-max", "1", environ={"GBOT_DB": admin.url})
    post_plain(served.address, "unique 4711,unique 4711")
    line = served.wait_for_line("asking.py failed with DuplicateKey: (.*)")[1]
    assert "4711" not in line
    served.stop()
    assert len(warnings(served)) == 1
    assert "Traceback" not in served.report()


def test_a_handler_whose_time_is_over_leaves_no_transaction_and_no_statement(serve: Serve, admin: Admin) -> None:
    arguments = ("--handler-timeout", "1", "--attempts-max", "1", "--db-pool", "4", "--db-warm", "4")
    served = serve(ASKING, *arguments, environ={"GBOT_DB": admin.url})
    served.wait_for_line("4 connections to mysql://.* are open")
    with admin.locked():
        post_plain(served.address, "hold for 600,hold for 600,wait there,wait there")
        served.wait_for_output("holding", times=2)
        served.wait_for_output("waiting", times=2)
        eventually(lambda: sum("longer than its timeout of 1 s" in line for line in served.stderr) == 4)
        eventually(lambda: not any("GET_LOCK" in str(what) for what in admin.sessions()))
    assert admin.written() == []
    open_transactions = "SELECT COUNT(*) FROM information_schema.innodb_trx t JOIN information_schema.processlist p"
    of_user = f"{open_transactions} ON p.id = t.trx_mysql_thread_id WHERE p.user = '{admin.user}'"
    eventually(lambda: admin.ask(of_user) == [(0,)])
    post_plain(served.address, "write 1,write 2")
    eventually(lambda: admin.written() == [1, 2])
    eventually(lambda: len(admin.sessions()) <= 4)


def test_slow_queries_in_all_connections_hold_up_only_who_needs_one(serve: Serve, admin: Admin) -> None:
    arguments = ("--db-pool", "2", "--db-wait-timeout", "0.2", "--sample-interval", "0")
    served = serve(ASKING, *arguments, environ={"GBOT_DB": admin.url})
    with admin.locked():
        post_plain(served.address, "wait there,wait there")
        served.wait_for_output("waiting", times=2)
        post_plain(served.address, "write 1,write 2,nothing there")
        served.wait_for_output("here")
        served.wait_for_line(r"became free within 0\.2 s: 2 of 2 are in use, .* for a statement in .*asking\.py:\d+")
        assert admin.written() == []
    eventually(lambda: admin.written() == [1, 2])
    served.stop()
    assert not [line for line in served.stderr if " ERROR " in line]


def test_without_a_database_a_handler_is_told_how_to_get_one(serve: Serve) -> None:
    served = serve(ASKING)
    post_plain(served.address, "hello")
    served.wait_for_line("BotError: there is no database for ctx.db: name one with --db or GBOT_DB")


# ---- the stop


def test_a_stop_leaves_nothing_in_the_server(serve: Serve, admin: Admin) -> None:
    """Statements that nobody waits for any more are ended there too, and what was not committed is undone."""
    served = serve(ASKING, "--stop-timeout", "0.5", "--db-warm", "20", environ={"GBOT_DB": admin.url})
    with admin.locked():
        post_plain(served.address, ",".join(["wait there"] * 10 + ["hold for 600"] * 5))
        served.wait_for_output("waiting", times=10)
        served.wait_for_output("holding", times=5)
        eventually(lambda: len(admin.sessions()) == 20)
        eventually(lambda: sum("GET_LOCK" in str(what) for what in admin.sessions()) == 10)
        assert served.stop() == 0
        eventually(lambda: admin.sessions() == [])
    assert admin.written() == []
    served.wait_for_line("Left: 15 running handlers were stopped")
    assert warnings(served) == []
    assert "Traceback" not in served.report()


def test_handlers_that_run_finish_with_the_database_they_began_with(serve: Serve, admin: Admin) -> None:
    served = serve(ASKING, environ={"GBOT_DB": admin.url})
    post_plain(served.address, "hold for 0.7,sleep 0.7 there")
    served.wait_for_output("holding")
    served.wait_for_output("asking")
    assert served.stop() == 0
    assert {"held", "asked"} <= set(served.stdout)
    assert admin.written() == [-1]
    eventually(lambda: admin.sessions() == [])
    assert warnings(served) == []


def test_gunicorn_has_the_database_too_and_each_of_its_workers_a_part(
    programs: list[Program], admin: Admin, tmp_path: Path
) -> None:
    gunicorn = Program(
        [
            *("sh", "-c", 'ulimit -Sn 100 && exec "$@"', "sh"),
            *(sys.executable, "-m", "gunicorn", "-k", "gevent", "-b", "127.0.0.1:0", "--no-control-socket"),
            f"gbot.worker:wsgi('{ASKING}', workers=2)",
        ],
        {"GBOT_DB": admin.url, "STATE_DIRECTORY": str(tmp_path)},
    )
    programs.append(gunicorn)
    address = gunicorn.wait_for_line(r"Listening at: (http://127\.0\.0\.1:\d+)")[1]
    gunicorn.wait_for_line("= 80; / 2 nodes = 40; 25 fit")
    post_plain(address, "hello,hold for 0.5")
    gunicorn.wait_for_output("answered 42")
    gunicorn.wait_for_output("holding")
    assert gunicorn.stop() == 0
    assert "held" in gunicorn.stdout
    eventually(lambda: admin.sessions() == [])
