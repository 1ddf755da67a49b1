"""The bots of bench/run.py, bench/sleepers.py, bench/scenario2.py and bench/scenario3.py.

    gbot serve bench.napping:noting_bot     a handler prints a line, and waits for nothing
    gbot serve bench.napping:bot            it sleeps
    gbot serve bench.napping:asking_bot     it sleeps, then asks the database for the time
    gbot serve bench.napping:calling_bot    it waits for the answer of the platform's API

The environment says how long to sleep, BENCH_NAP_S=2-3 or BENCH_NAP_S=45, and where to tell, BENCH_NAP_COUNTERS: a file
that holds three numbers, how many handlers have begun so far, how many have ended, and how many of those have failed.
"""

import os
import random
import time
from collections.abc import Callable

import gevent

from gbot import Bot, Context

TELL_EVERY_S = 0.02


class Dormitory:
    """Counts who falls asleep and who wakes up, and tells it from time to time rather than at every event."""

    def __init__(self, nap_s: tuple[float, float], counters: str) -> None:
        self.nap_s = nap_s
        self.slept = 0
        self.woken = 0
        self.failed = 0
        self.file = os.open(counters, os.O_WRONLY | os.O_CREAT, 0o600)
        self.telling = False

    def nap(self) -> None:
        time.sleep(random.uniform(*self.nap_s))

    def wait(self, wait: Callable[[], object]) -> None:
        if not self.telling:
            self.telling = True
            gevent.spawn(self.tell)
        self.slept += 1
        try:
            wait()
        except BaseException:
            self.failed += 1
            raise
        finally:
            self.woken += 1

    def tell(self) -> None:
        while True:
            os.pwrite(self.file, b"%020d %020d %020d\n" % (self.slept, self.woken, self.failed), 0)
            gevent.sleep(TELL_EVERY_S)


def nap_range(text: str) -> tuple[float, float]:
    """ "2-3" or "60", in seconds."""
    low, _, high = text.partition("-")
    return float(low), float(high or low)


dormitory = Dormitory(nap_range(os.environ.get("BENCH_NAP_S", "2-3")), os.environ["BENCH_NAP_COUNTERS"])
bot = Bot()


@bot.default
def nap(ctx: Context) -> None:
    dormitory.wait(dormitory.nap)


noting_bot = Bot()


@noting_bot.default
def note(ctx: Context) -> None:
    dormitory.wait(lambda: print(f"message = {ctx.text!r}"))


asking_bot = Bot()


@asking_bot.default
def ask(ctx: Context) -> None:
    def nap_and_ask() -> None:
        dormitory.nap()
        ctx.db.query("SELECT NOW()")

    dormitory.wait(nap_and_ask)


calling_bot = Bot()


@calling_bot.default
def answer(ctx: Context) -> None:
    ctx.reply(f"you said: {ctx.text}")
    dormitory.wait(ctx.flush)
