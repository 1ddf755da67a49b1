"""The test client and the chat with a real database, used as a bot's author uses them."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from gbot import Bot, Context, DuplicateKey
from gbot.chat import Chat
from gbot.database.address import parse
from gbot.database.connection import Connection
from gbot.database.connector import Connector
from gbot.errors import BotError, StartError
from gbot.testing import Client
from tests.journeys.processes import eventually, gbot

NAME = "gbot_test_of_testing"

bot = Bot()


@bot.text("twice")
def twice(ctx: Context) -> None:
    with ctx.db.transaction() as tx:
        tx.execute("INSERT INTO orders VALUES (%s, 'one')", [ctx.event.id])
        tx.execute("INSERT INTO orders VALUES (%s, 'two')", [ctx.event.id])


@bot.text("too many")
def too_many(ctx: Context) -> None:
    with ctx.db.connection():
        too_many(ctx)


@bot.text("mistake")
def mistake(ctx: Context) -> None:
    ctx.db.query("SELECT nothing FROM nowhere")


@bot.text()
def order(ctx: Context) -> None:
    ctx.db.execute("INSERT INTO orders VALUES (%s, %s)", [ctx.event.id, ctx.text])
    [(count,)] = ctx.db.query("SELECT COUNT(*) FROM orders")
    ctx.reply(f"{count} orders")


@pytest.fixture(scope="module")
def admin(mysql_url: str) -> Iterator[Connection]:
    connection = Connector(parse(mysql_url)).connect()
    yield connection
    connection.close()


@pytest.fixture
def url(admin: Connection, mysql_url: str) -> Iterator[str]:
    """A database with an empty table."""
    admin.execute(f"CREATE DATABASE {NAME}")
    admin.execute(f"CREATE TABLE {NAME}.orders (id VARCHAR(99) PRIMARY KEY, what TEXT)")
    yield urlsplit(mysql_url)._replace(path=f"/{NAME}").geturl()
    admin.execute(f"DROP DATABASE {NAME}")


def rows(admin: Connection) -> list[str]:
    return [what for (what,) in admin.rows(f"SELECT what FROM {NAME}.orders ORDER BY id")]


def sessions(admin: Connection) -> int:
    return int(admin.rows("SELECT COUNT(*) FROM information_schema.processlist WHERE db = %s", [NAME])[0][0])


def test_handlers_have_a_real_database(url: str, admin: Connection) -> None:
    client = Client(bot, db=url)
    assert client.text("soup").texts == ["1 orders"]
    assert client.user("Taro").text("noodles").texts == ["2 orders"]
    assert rows(admin) == ["soup", "noodles"]


def test_an_error_of_the_database_fails_the_test_and_a_transaction_leaves_nothing(url: str, admin: Connection) -> None:
    client = Client(bot, db=url)
    with pytest.raises(DuplicateKey):
        client.text("twice")
    assert rows(admin) == []
    assert Client(bot, db=url, raise_errors=False).text("mistake").ended == "retry"


def test_a_handler_that_takes_more_connections_than_there_are_is_told(url: str) -> None:
    client = Client(bot, db=url)
    with pytest.raises(BotError, match="this handler holds a connection"):
        client.text("too many")
    assert client.text("soup").texts == ["1 orders"]


def test_between_two_events_nothing_is_connected(url: str, admin: Connection) -> None:
    client = Client(bot, db=url)
    for _ in range(2):
        client.text("soup")
        eventually(lambda: sessions(admin) == 0)


def test_without_a_database_the_handler_says_how_to_get_one() -> None:
    with pytest.raises(BotError, match=r"Client\(db=…\)"):
        Client(bot).text("soup")


def test_a_database_that_is_not_there_fails_at_once(url: str) -> None:
    with pytest.raises(StartError, match="Unknown database"):
        Client(bot, db=url + "_too")
    with pytest.raises(ValueError, match="expected mysql://user"):
        Client(bot, db="postgres://h/db")


def test_a_chat_has_it_too(url: str) -> None:
    said: list[str] = []
    chat = Chat(bot, "Anna", "en", said.append, said.append, url)
    chat.handle("soup")
    chat.handle("mistake")
    assert said[0] == "reply: 1 orders"
    assert "DatabaseMistake" in said[-1]


@pytest.mark.parametrize("by", ["flag", "environment"])
def test_gbot_chat_takes_it_like_gbot_serve(url: str, by: str) -> None:
    wrong = url + "_too"
    arguments, environ = (["--db", wrong], {}) if by == "flag" else ([], {"GBOT_DB": wrong})
    program = gbot("chat", "gbot.examples.polite_echo:bot", *arguments, environ=environ)
    assert program.code == 1
    [line] = program.stderr
    assert line.startswith("gbot: The database mysql://root@127.0.0.1")
    assert "Unknown database" in line


def test_gbot_chat_wants_no_password_on_its_command_line() -> None:
    program = gbot("chat", "--db", "mysql://u:pa55@h/db")
    assert program.code == 2
    assert "pa55" not in program.report()
