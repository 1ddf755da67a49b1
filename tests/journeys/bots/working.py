"""A bot for the plain platform whose handlers do what their message says."""

from __future__ import annotations

import os
import re
import time
from urllib.parse import urlsplit

import pymysql
import requests

from gbot import Bot, Context

bot = Bot()


def say(text: str) -> None:
    print(text, flush=True)


@bot.text(re.compile("^sleep (?P<seconds>[0-9.]+)$"))
def sleep(ctx: Context, seconds: str) -> None:
    say("sleeping")
    time.sleep(float(seconds))
    say("slept")


@bot.text(re.compile("^fetch (?P<url>.+)$"))
def fetch(ctx: Context, url: str) -> None:
    say(f"fetched {requests.get(url, timeout=10).status_code}")


@bot.text("select")
def select(ctx: Context) -> None:
    url = urlsplit(os.environ["TEST_MYSQL_URL"])
    assert url.hostname is not None
    connection = pymysql.connect(
        host=url.hostname, port=url.port or 3306, user=url.username, password=url.password or "", charset="utf8mb4"
    )
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT SLEEP(0.5), 6 * 7")
        row = cursor.fetchone()
        assert row is not None
        say(f"selected {row[1]}")


@bot.text("burn")
def burn(ctx: Context) -> None:
    say("burning")
    while True:
        pass


@bot.text("fail")
def fail(ctx: Context) -> None:
    raise ValueError("the author's mistake")


@bot.text("wait until killed")
def wait(ctx: Context) -> None:
    say("waiting")
    try:
        time.sleep(600)
    finally:
        say("cleaned up")


@bot.default
def echo(ctx: Context) -> None:
    ctx.reply(f"echo {ctx.text}")
