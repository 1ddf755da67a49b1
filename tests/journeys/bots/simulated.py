"""Bots for the simulator. The good ones answer every event with one request that quotes the event's id."""

from __future__ import annotations

from gbot import Bot, Context

WITHOUT_TOKEN = ("unfollow", "unsend")

replying = Bot()
pushing = Bot()
either = Bot()
twice = Bot()
silent = Bot()


@replying.default
def reply(ctx: Context) -> None:
    if ctx.event.kind not in WITHOUT_TOKEN:
        ctx.reply(f"answer to {ctx.event.id}")


@pushing.default
def push(ctx: Context) -> None:
    ctx.push(f"answer to {ctx.event.id}")


@either.default
def reply_or_push(ctx: Context) -> None:
    send = ctx.reply if hash(ctx.event.id) % 2 else ctx.push
    send(f"answer to {ctx.event.id}")


@twice.default
def reply_and_push(ctx: Context) -> None:
    ctx.reply(f"answer to {ctx.event.id}")
    ctx.push(f"another answer to {ctx.event.id}")


@silent.default
def say_nothing(ctx: Context) -> None:
    pass
