"""A LINE bot that writes down every run of its handler in a ledger outside gbot, for the crash journeys.

A line of the ledger is one write to a file opened for appending: it is there whole or not at all, the kernel keeps it
when the process is killed, and the order of lines is the order in which things happened, over all processes.
"""

from __future__ import annotations

import os
import re
import time
from typing import Final

from gbot import Bot, Context, Retry

RETRY_AFTER_S: Final = 0.05

bot = Bot()
ledger = os.open(os.environ["TEST_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def write_down(ctx: Context, word: str) -> None:
    os.write(ledger, f"{ctx.event.id} {os.getpid()} {word}\n".encode())


@bot.text(re.compile("^wait (?P<ms>[0-9]+)(?P<again> again)?$"))
def wait(ctx: Context, ms: str, again: str | None) -> None:
    """A run is "begin" and then "end", "again" when it is to be tried again, or "cut" when a stop cut it off."""
    write_down(ctx, "begin")
    word = "cut"
    try:
        time.sleep(int(ms) / 1000)
        word = "again" if again and ctx.attempt == 1 else "end"
    finally:
        write_down(ctx, word)
    if word == "again":
        raise Retry(after=RETRY_AFTER_S)
