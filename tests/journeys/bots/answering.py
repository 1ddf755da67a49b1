"""A LINE bot as an author would write one; the journeys talk to it."""

from __future__ import annotations

import re

import gevent
from linebot.v3 import messaging as sdk

from gbot import Bot, Context, ReplyRefused

bot = Bot()


@bot.text("hello")
def hello(ctx: Context) -> None:
    ctx.reply(sdk.TextMessage(text="hello from the SDK"), "and a plain text")


@bot.text(re.compile(r"^weather in (?P<city>\w+)"))
def weather(ctx: Context, city: str) -> None:
    gevent.sleep(0.05)
    ctx.reply(f"sunny in {city}")


@bot.text(re.compile("^count (?P<number>[0-9]+)$"))
def count(ctx: Context, number: str) -> None:
    ctx.reply(number)


@bot.command("/say")
def say(ctx: Context) -> None:
    ctx.reply(ctx.args)


@bot.command("/push")
def push(ctx: Context) -> None:
    ctx.push("pushed")


@bot.command("/fail")
def fail(ctx: Context) -> None:
    raise ValueError("the author's mistake")


@bot.command("/exit")
def leave(ctx: Context) -> None:
    raise SystemExit(3)


@bot.on("follow")
def welcome(ctx: Context) -> None:
    sticker = sdk.StickerMessage(packageId="446", stickerId="1988")
    ctx.reply(sticker, {"type": "text", "text": "welcome"})


@bot.on("postback")
def order(ctx: Context) -> None:
    ctx.reply(ctx.event.raw["postback"]["data"])


@bot.default
def rest(ctx: Context) -> None:
    """Tries to answer what may be answered."""
    try:
        ctx.reply(f"a {ctx.event.kind}")
        ctx.flush()
    except ReplyRefused:
        print(f"refused {ctx.event.kind}", flush=True)
