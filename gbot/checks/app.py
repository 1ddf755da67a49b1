"""Whether APP can be imported, and holds a bot. This runs the author's module, as ``gbot serve`` does.

What it writes to standard output goes to standard error, because the table, or the JSON, is on standard output. A
module that does not come to an end is stopped: where it waits, by gevent, and where it computes, by a signal.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from types import FrameType
from typing import Final

import gevent

from gbot.checks.finding import Finding, count, fail, ok, warn
from gbot.errors import AppError, BotError
from gbot.loader import DEFAULT_APP, load_bot

NAME: Final = "app"
IMPORT_MAX_S: Final = 10.0
SIGNAL_AFTER_S: Final = 0.5  # gevent comes first: a signal would find its hub instead of the module


class ImportTooLong(BaseException):
    """Raised into a module that takes too long; no author's ``except Exception`` keeps it."""


def app(name: str, limit_s: float = IMPORT_MAX_S) -> Finding:
    """Import the bot and count its handlers."""
    try:
        with redirect_stdout(sys.stderr), _limit(limit_s):
            bot = load_bot(name)
    except AppError as error:
        if isinstance(error.__cause__, gevent.Timeout | ImportTooLong):
            advice = "let the module make the bot, and begin its work in handlers"
            return fail(NAME, f"{name}: its import had not ended after {limit_s:g} s", advice)
        return fail(NAME, f"expected {error.expected}, got {error.given}", "gbot routes APP tries this alone")
    except BotError as error:
        return fail(NAME, f"{name}: {error}", "gbot routes APP tries this alone")
    handlers = len(bot.routes())
    if not handlers:
        return warn(NAME, f"{name} has no handlers", "add one (@bot.text() …), or every event is counted as unhandled")
    which = f"{name}, the example, as no APP was given" if name == DEFAULT_APP else name
    return ok(NAME, f"{which}: {count(handlers, 'handler')}")


@contextmanager
def _limit(limit_s: float) -> Iterator[None]:
    def on_alarm(number: int, frame: FrameType | None) -> None:
        raise ImportTooLong

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, limit_s + SIGNAL_AFTER_S)
    try:
        with gevent.Timeout(limit_s):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
