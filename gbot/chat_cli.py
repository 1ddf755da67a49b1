"""``gbot chat``: the terminal's side of a talk with a bot.

On a terminal there are a prompt and readline's history; from a pipe or a file lines are read as they are, and nothing
but what the bot sends is written to standard output. Tracebacks and log lines go to standard error.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import click

from gbot import logs
from gbot.config import SETTINGS
from gbot.config_sources import CONFIG_VARIABLE, load
from gbot.loader import load_bot

DEFAULT_APP: Final = "gbot.examples.polite_echo:bot"
DB: Final = SETTINGS["db"]


@click.command(short_help="Talk to a bot in the terminal.")
@click.argument("app", default=DEFAULT_APP, metavar="[APP]")
@click.option("--user", "name", metavar="NAME", default="Anna", show_default=True, help="Your name.")
@click.option("--language", metavar="TAG", default="en", show_default=True, help="Your language, such as en or ja.")
@click.option("--db", "url", metavar=DB.kind.metavar, help=f"{DB.sentence}  [default: {DB.variable}]")
@click.option(
    "--config", "config_file", metavar="FILE", envvar=CONFIG_VARIABLE, help="TOML file with settings, for db."
)
def chat(app: str, name: str, language: str, url: str | None, config_file: str | None) -> None:
    """Talk to the bot APP (module:attribute) in the terminal, without a platform or a network; by default to an echo.

    A line is a text. /follow, /sticker, /image FILE and others make other events; /help lists them. Nothing is kept
    when you leave, but for what your handlers write to the database of --db.
    """
    config, _ = load({"db": url}, os.environ, Path(config_file) if config_file is not None else None, serving=False)
    logs.configure("text", "info")
    logging.getLogger("gbot.execution").setLevel(logging.CRITICAL)  # how a run ended is part of the talk
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    bot = load_bot(app)
    from gbot.chat import Chat

    output = Output()
    talk = Chat(bot, name, language, output.say, _complain, config.db)
    if sys.stdin.isatty():
        click.echo(f"Talking to {app}. /help lists what you can do, Ctrl-D leaves.")
        lines = _typed(lambda: talk.prompt)
    else:
        lines = iter(sys.stdin)
    for line in lines:
        if not talk.handle(line) or output.closed:
            return


class Output:
    """Standard output, until whoever reads it goes away: that must not look like an error of a handler."""

    def __init__(self) -> None:
        self.closed = False

    def say(self, line: str) -> None:
        try:
            print(line, flush=True)
        except BrokenPipeError:
            self.closed = True
            with open(os.devnull, "wb") as nowhere:  # what is still buffered goes there
                os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _complain(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _typed(prompt: Callable[[], str]) -> Iterator[str]:
    """What somebody types, until Ctrl-D. Ctrl-C gives up the line."""
    import readline  # noqa: F401  # input() then keeps a history

    while True:
        try:
            yield input(prompt())
        except KeyboardInterrupt:
            print()
        except EOFError:
            print()
            return
