"""``gbot plan --app`` measures an author's handlers: in a server of their own, which is gone afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gbot.database.address import parse
from gbot.database.connector import Connector
from tests.journeys.processes import Program, eventually

BOT = """
import json, os, time
from gbot import Bot

bot = Bot()

@bot.text("slow")
def slow(ctx):
    began = time.monotonic()
    time.sleep(0.2)
    with open("took.txt", "a") as file:
        print(time.monotonic() - began, file=file)
    ctx.reply("done")

@bot.text("ask")
def ask(ctx):
    ctx.db.query("SELECT SLEEP(0.01)")
    ctx.db.query("SELECT 1")

@bot.text("book")
def book(ctx):
    with ctx.db.transaction() as tx:
        for number in range(4):
            tx.query("SELECT %s", [number])

@bot.text("astray")
def astray(ctx):
    ctx.db.query("SELECT * FROM a_table_that_is_not_there")

@bot.text("refused")
def refused(ctx):
    ctx.db.execute("SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = 1836, MESSAGE_TEXT = 'read-only'")

@bot.text("fail")
def fail(ctx):
    raise ValueError("the author's mistake")

@bot.text("tell")
def tell(ctx):
    with open("environment.json", "w") as file:
        json.dump(dict(os.environ), file)

@bot.text("die")
def die(ctx):
    os._exit(3)

@bot.text("wait")
def wait(ctx):
    time.sleep(600)
"""
SECRETS = {
    "GBOT_LINE_CHANNEL_SECRET": "hush",
    "GBOT_LINE_CHANNEL_ACCESS_TOKEN": "hush",
    "GBOT_MESSENGER_APP_SECRET": "hush",
    "GBOT_MESSENGER_PAGE_TOKEN": "hush",
}
QUICK = ("--seconds", "1", "--rate", "30/s")


class Author:
    """Somebody with a bot in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "mybot.py").write_text(BOT)
        self.programs: list[Program] = []

    def plan(self, *arguments: str, **environ: str) -> Program:
        """``gbot plan`` for this bot, begun."""
        command = [sys.executable, "-m", "gbot", "plan", "--events", "100/s", "--app", "mybot:bot", *arguments]
        self.programs.append(Program(command, environ, self.directory))
        return self.programs[-1]

    def planned(self, texts: Sequence[str], *arguments: str, code: int = 0, **environ: str) -> Program:
        """``gbot plan`` for these texts, to its end; the server is gone then."""
        given = [part for text in texts for part in ("--event-text", text)]
        program = self.plan(*QUICK, *given, *arguments, **environ)  # of an option, the last one counts
        assert program.wait() == code, program.report()
        assert is_gone(server_of(program))
        return program

    def refused(self, code: int, *arguments: str, **environ: str) -> str:
        """The one line with which it refuses to measure."""
        program = self.plan(*QUICK, *arguments, **environ)
        assert program.wait() == code, program.report()
        assert program.stdout == []
        [line] = program.stderr
        return line

    def found(self, texts: Sequence[str], *arguments: str, **environ: str) -> Any:
        return json.loads(self.planned(texts, "--json", *arguments, **environ).stdout[0])


def server_of(program: Program) -> int:
    return int(program.wait_for_line(r"\(pid (\d+)\)")[1])


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture
def author(tmp_path: Path) -> Iterator[Author]:
    author = Author(tmp_path)
    yield author
    for program in author.programs:
        program.kill()


def said(program: Program) -> str:
    return "\n".join(program.stderr)


def test_the_plan_has_what_was_measured_and_says_so(author: Author) -> None:
    program = author.planned(["slow"], "--seconds", "3", "--rate", "50/s")
    text = " ".join(" ".join(program.stdout).split())
    assert re.search(r"100/s x [\d.e+]+ m?s \(measured\)", text), text
    assert "µs (measured at 50/s) + 10.6 µs to store it in SQLite + 71.4 µs for 1 call to the platform's API" in text
    assert "that is an upper bound: at 50/s" in text
    assert "gbot serve mybot:bot --pool" in text
    assert "no queries (measured)" in text
    assert len(program.stderr) == 2, said(program)  # what is going on, and no doubts


def test_a_handler_takes_as_long_as_its_own_clock_says(author: Author) -> None:
    latency_s = author.found(["slow"], "--seconds", "2")["from"]["load"]["latency_s"]
    _, *own = [float(line) for line in (author.directory / "took.txt").read_text().splitlines()]  # without the warm-up
    assert len(own) == 60
    assert 0 <= latency_s - sum(own) / len(own) < 0.1  # what it does before and after its sleep


def test_queries_and_the_time_that_they_hold_a_connection_are_measured(author: Author, mysql_url: str) -> None:
    found = author.found(["ask"], GBOT_DB=mysql_url)
    load, sources = found["from"]["load"], found["from"]["sources"]
    assert load["queries"] == 2
    assert 0.005 <= load["query_s"] <= 1  # one in two sleeps 10 ms
    assert {sources[name] for name in ("latency_s", "queries", "query_s")} == {"measured"}
    assert found["share"]["db_pool"] >= 1
    assert (
        found["command"]
        == f"gbot serve mybot:bot --pool {found['share']['pool']} --db-pool {found['share']['db_pool']}"
    )


def test_what_the_bot_s_own_database_and_inbox_say_is_planned_with(author: Author, mysql_url: str) -> None:
    program = author.planned(["ask"], GBOT_DB=mysql_url, GBOT_INBOX=mysql_url)
    text = " ".join(" ".join(program.stdout).split())
    with contextlib.closing(Connector(parse(mysql_url)).connect()) as connection:
        [(connections,)] = connection.rows("SELECT @@max_connections")
    assert f"max_connections {connections} (as the bot's database here says) - 10 kept for others" in text
    assert "; - 2 of the inbox = " in text
    assert "SQLite (there is no figure for MySQL)" in text
    given = author.planned(["ask"], "--max-connections", "4000", GBOT_DB=mysql_url)
    assert "max_connections 4,000 - 10 kept for others = 3,990: enough" in " ".join(" ".join(given.stdout).split())


def test_a_transaction_is_one_use_of_a_connection_and_no_longer_than_its_handler(
    author: Author, mysql_url: str
) -> None:
    load = author.found(["book"], "--db", mysql_url)["from"]["load"]
    assert load["queries"] == 1
    assert load["latency_s"] >= load["query_s"] > 0


def test_the_server_knows_no_secret_of_a_platform_and_everything_else(author: Author) -> None:
    author.planned(["tell"], GBOT_POOL="77", OWN_SERVICE="http://127.0.0.1:1", **SECRETS)
    environ = json.loads((author.directory / "environment.json").read_text())
    assert not set(SECRETS) & set(environ)
    assert "hush" not in environ.values()
    assert (environ["GBOT_POOL"], environ["OWN_SERVICE"]) == ("77", "http://127.0.0.1:1")


def test_failures_are_told_with_the_first_reason(author: Author) -> None:
    program = author.planned(["slow", "fail", "nobody takes this"])
    assert "10 of 30 events failed; 10 of 30 events had no handler" in said(program)
    assert "; the figures may not tell much. The first error" in said(program)
    assert "The first error: ValueError: the author's mistake" in said(program)
    assert "How many servers" in program.stdout[0]


def test_nothing_is_planned_from_failures_alone(author: Author) -> None:
    program = author.planned(["fail"], code=1)
    assert program.stdout == []
    assert "none of 30 events succeeded, so there is nothing to plan with. The first error: ValueError" in said(program)


def test_what_the_database_says_is_told_as_well(author: Author, mysql_url: str) -> None:
    program = author.planned(["astray"], code=1, GBOT_DB=mysql_url)
    assert re.search(r"nothing to plan with\. The first error: plain event .*NO_SUCH_TABLE", said(program))


def test_a_bot_that_cannot_be_served_is_told_as_gbot_serve_does(author: Author) -> None:
    assert author.refused(2, GBOT_POOL="many").startswith("gbot: GBOT_POOL: expected a whole number")
    (author.directory / "mybot.py").write_text("bot = 5")
    line = author.refused(2)
    assert line.startswith("gbot: gbot serve has ended: APP: expected a gbot.Bot in mybot")


def test_a_database_that_is_away_is_told_before_anything_is_measured(author: Author) -> None:
    line = author.refused(1, "--db", "mysql://bot@127.0.0.1:1/bot")
    assert "the bot's database mysql://bot@127.0.0.1:1/bot cannot be reached: 2003" in line
    assert line.endswith("refused); start it, or see to host, port and firewall")


def test_a_database_that_accepts_and_says_nothing_is_told_as_well(author: Author) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"mysql://bot:hush-hush@127.0.0.1:{silent.getsockname()[1]}/bot"
        (author.directory / "settings.toml").write_text(f'db = "{url}"')
        line = author.refused(1, GBOT_CONFIG="settings.toml")
    assert "cannot be reached: no answer within 3 s; start it, or see to host, port and firewall" in line
    assert "hush" not in line


def test_a_database_that_does_not_let_the_bot_in_is_told_with_what_to_see_to(author: Author, mysql_url: str) -> None:
    line = author.refused(1, GBOT_DB=mysql_url.replace("root@", "nobody:hush-hush@"))
    assert re.search("does not let gbot in: 1045 .*; see to user, password, database and [?]tls= in its URL$", line)
    assert "hush" not in line


def test_a_database_that_refuses_all_there_is_to_do_is_told_after_the_warm_up(author: Author, mysql_url: str) -> None:
    program = author.planned(["refused"], code=1, GBOT_DB=mysql_url)
    assert program.stdout == []
    _, line = program.stderr
    assert "nothing was measured: all events were put off, as what they need is away or busy. The server says" in line
    assert "refuses statements: 1836 read-only; what needs them is put off" in line


def test_a_server_that_dies_ends_the_measurement(author: Author) -> None:
    program = author.planned(["die"], code=1)
    assert program.stdout == []
    assert re.search("gbot serve has ended|does not answer", said(program))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_whoever_stops_it_leaves_no_server_behind(author: Author, number: signal.Signals) -> None:
    program = author.plan("--event-text", "wait")
    server = server_of(program)
    assert not is_gone(server)
    program.send(number)
    assert program.wait() == 1
    eventually(lambda: is_gone(server))
    assert program.stdout == []
