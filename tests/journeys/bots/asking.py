"""A bot for the plain platform whose handlers use the bot's database; they do what their message says."""

from __future__ import annotations

import re
import time

from gbot import Bot, Context

bot = Bot()


def say(text: str) -> None:
    print(text, flush=True)


@bot.text(re.compile("^write (?P<number>[0-9]+)$"))
def write(ctx: Context, number: str) -> None:
    ctx.db.execute("INSERT INTO runs VALUES (%s)", [number])


@bot.text(re.compile("^unique (?P<number>[0-9]+)$"))
def unique(ctx: Context, number: str) -> None:
    ctx.db.execute("INSERT INTO uniques VALUES (%s)", [number])


@bot.text(re.compile("^sleep (?P<seconds>[0-9.]+) there$"))
def sleep_there(ctx: Context, seconds: str) -> None:
    say("asking")
    ctx.db.query("SELECT SLEEP(%s)", [seconds])
    say("asked")


@bot.text("nothing there")
def nothing_there(ctx: Context) -> None:
    say("here")


@bot.text("wait there")
def wait_there(ctx: Context) -> None:
    """Until somebody else gives back the lock that has the name of the database."""
    say("waiting")
    ctx.db.query("SELECT GET_LOCK(DATABASE(), 600) + RELEASE_LOCK(DATABASE())")
    say("got it")


@bot.text(re.compile("^hold for (?P<seconds>[0-9.]+)$"))
def hold(ctx: Context, seconds: str) -> None:
    with ctx.db.transaction() as tx:
        tx.execute("INSERT INTO runs VALUES (-1)")
        say("holding")
        time.sleep(float(seconds))
    say("held")


@bot.default
def time_there(ctx: Context) -> None:
    [(answer,)] = ctx.db.query("SELECT 6 * 7")
    say(f"answered {answer}")
