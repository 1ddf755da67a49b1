"""Whether APP can be imported, and holds a bot. This runs the author's module, as ``gbot serve`` does.

It runs in a process of its own, which may do what it likes: hang, catch every exception, end itself, write to standard
output. There is an end to it all the same, and none of it is in the table or the JSON:

- The process has a limit, which no ``except`` keeps out: a signal ends it, and if it catches that one, one that nobody
  catches. Should the check itself be killed meanwhile, the first of them still comes.
- What was found goes through a pipe. A process that ends without a word has failed, whatever its exit code.
- Its standard output is the standard error of the check.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from typing import Final

from gbot.checks.finding import Finding, State, fail, ok, warn
from gbot.counts import counted
from gbot.errors import AppError, BotError
from gbot.loader import DEFAULT_APP, load_bot

NAME: Final = "app"
IMPORT_MAX_S: Final = 10.0
START_MAX_S: Final = 10.0  # of the process, before the import begins
ANSWER_BYTES_MAX: Final = 60_000  # less than a pipe holds
TEXT_CHARACTERS_MAX: Final = 2000
STANDARD_ERROR: Final = 2
# Modules are searched for where this process would, and from the start as the program does it.
CHILD: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "import gbot.__main__; from gbot.checks.app import answer; answer(*sys.argv[1:])"
)


def app(name: str, limit_s: float = IMPORT_MAX_S, start_max_s: float = START_MAX_S) -> Finding:
    """Import the bot and count its handlers, in a process that is gone afterwards."""
    reading, writing = os.pipe()
    try:
        os.set_blocking(reading, False)
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", CHILD, json.dumps(sys.path), name, str(writing), str(limit_s)],
                stdin=subprocess.DEVNULL,
                stdout=STANDARD_ERROR,
                pass_fds=[writing],
            )
        finally:
            os.close(writing)
        code = _wait(process, start_max_s + limit_s)
        answered = _read(reading)
    finally:
        os.close(reading)
    return _read_finding(answered) if answered else _ended(name, code, limit_s)


def _wait(process: subprocess.Popen[bytes], limit_s: float) -> int | None:
    """Its exit code, negative for a signal; None: it was still there after the limit. It is gone in any case."""
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        process.kill()  # nobody, if it has ended
        process.wait()


def _read(descriptor: int) -> bytes:
    """What there is; a process that the module has left behind may keep the other end for ever."""
    with contextlib.suppress(BlockingIOError):
        return os.read(descriptor, ANSWER_BYTES_MAX)
    return b""


def _read_finding(answered: bytes) -> Finding:
    told = json.loads(answered)
    return Finding(**{**told, "state": State(told["state"])})


def _ended(name: str, code: int | None, limit_s: float) -> Finding:
    """What is to be said of a process that said nothing."""
    if code is None or code == -signal.SIGALRM:
        advice = "let the module make the bot, and begin its work in handlers"
        return fail(NAME, f"{name}: its import had not ended after {limit_s:g} s", advice)
    how = f"with exit code {code}" if code >= 0 else f"by signal {-code} ({signal.strsignal(-code)})"
    advice = "find what calls os._exit or crashes in the module, or in what it imports: gbot serve would end like that"
    return fail(NAME, f"{name}: its import ends the process, {how}", advice)


# ---- in the other process


def answer(name: str, descriptor: str, limit_s: str) -> None:
    """Import the bot, write the finding to this descriptor and end the process, whatever the module has started."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends the process, whatever Python is doing
    signal.setitimer(signal.ITIMER_REAL, float(limit_s))
    with contextlib.suppress(KeyboardInterrupt):  # which the check gets as well
        finding = _imported(name)
        os.write(int(descriptor), json.dumps(dataclasses.asdict(finding)).encode())
    with contextlib.suppress(Exception):  # the module may have made something else of them
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)


def _imported(name: str) -> Finding:
    advice = f"mend it; gbot routes {name} tries this alone"
    try:
        bot = load_bot(name)
    except AppError as error:
        text = " ".join(str(error.__cause__ or "").split())
        shown = text if len(text) <= TEXT_CHARACTERS_MAX else f"(a text of {len(text):,} characters)"
        given = error.given.replace(text, shown) if text else error.given
        return fail(NAME, f"expected {error.expected}, got {given}", advice, said=shown)
    except BotError as error:
        return fail(NAME, f"{name}: {error}", advice, said=str(error))
    handlers = len(bot.routes())
    figures = {"handlers": handlers}
    if not handlers:
        advice = "add one (@bot.text() …), or every event is counted as unhandled"
        return warn(NAME, f"{name} has no handlers", advice, figures)
    which = f"{name}, the example, as no APP was given" if name == DEFAULT_APP else name
    return ok(NAME, f"{which}: {counted(handlers, 'handler')}", figures)
