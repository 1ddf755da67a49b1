"""The bot of bench/multicast.py: for one text it tells as many users as TELL_USERS says, in the way TELL_BY names.

    gbot serve bench.telling:bot

When all have been told it replies how long that took, quoting the text, so that the simulator knows that it is done.
"""

import os
import time

import gevent
import gevent.pool

from gbot import Bot, Context

USERS = [f"U{number:032x}" for number in range(int(os.environ.get("TELL_USERS", "100000")))]
BY = os.environ.get("TELL_BY", "broadcast")
NEWS = "Dinner is ready."
GREENLETS = 20_000
PROGRESS_S = 0.05

bot = Bot()


@bot.text()
def tell(ctx: Context) -> None:
    started = time.monotonic()
    if BY == "broadcast":
        broadcast = bot.broadcast(USERS, NEWS, id=ctx.event.id)
        while broadcast.progress().sent < len(USERS):
            gevent.sleep(PROGRESS_S)
    elif BY == "list":
        ctx.push(NEWS, to=USERS)
    else:
        pool = gevent.pool.Pool(GREENLETS)
        for user in USERS:
            pool.spawn(ctx.push, NEWS, to=user)
        pool.join(raise_error=True)
    ctx.reply(f"told {len(USERS)} users in {time.monotonic() - started:.2f} s: {ctx.text}")
