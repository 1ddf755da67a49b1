"""A bot that tells everybody: for the first text it gets, the same to all users of the simulated platform.

TOLD_USERS is how many there are; their ids are those that ``gbot simulate line --users`` makes with seed 1.
"""

from __future__ import annotations

import os
from typing import Final

from gbot import Bot, Context
from gbot.simulator.people import People

SEED: Final = 1

bot = Bot()


@bot.text()
def tell(ctx: Context) -> None:
    count = int(os.environ["TOLD_USERS"])
    people = People(SEED, count)
    bot.broadcast((f"U{people.code(person)}" for person in range(count)), "Dinner is ready.", id=ctx.event.id)
    ctx.reply(f"They are being told: {ctx.text}")
