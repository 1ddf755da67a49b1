"""What ``gbot inbox`` and ``gbot users`` have in common: which inbox they mean, its desk, and how they speak.

Exit codes: 0 done; 1 the store cannot be used, or something is not there or cannot be done; 2 wrong usage. Lists and
results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import click

from gbot.config import SETTINGS
from gbot.config_sources import CONFIG_VARIABLE, load
from gbot.errors import StartError
from gbot.inboxes.store import Desk, StoreDown
from gbot.logs import one_line

F = TypeVar("F", bound=Callable[..., Any])
Row = Sequence[str]

EXIT_NOT_DONE: Final = 1
WIDTH_WITHOUT_TERMINAL: Final = 160


def begin(context: click.Context) -> None:
    """What a group of commands does first."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name in another alphabet must not end the list
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def inbox_options(command: F) -> F:
    """The options that name an inbox."""
    row = SETTINGS["inbox"]
    command = click.option(
        "--config", "config_file", metavar="FILE", envvar=CONFIG_VARIABLE, help="TOML file with settings."
    )(command)
    help_text = f"Which inbox; the same setting as of gbot serve.  [default: {row.variable}, or {row.default}]"
    return click.option("--inbox", "url", metavar=row.kind.metavar, help=help_text)(command)


@contextmanager
def stored_desk(url: str | None, config_file: str | None, *, opened: bool = True) -> Iterator[Desk]:
    """The desk of the inbox that the settings name. What looks odd in them is for ``gbot serve`` to say."""
    file = Path(config_file) if config_file is not None else None
    config, _ = load({"inbox": url}, os.environ, file, serving=False)
    if config.inbox == "memory:":
        raise click.UsageError(
            "The memory: inbox lives inside its worker and cannot be reached from here; "
            "--inbox names one that is stored, such as sqlite:///PATH."
        )
    from gbot.engine import build_desk

    desk = build_desk(config)
    try:
        if opened:
            _check_file(config.inbox)
            desk.open()
        yield desk
    except StoreDown as error:
        raise StartError(f"{desk.place} cannot be used: {error}") from None
    finally:
        desk.close()


def _check_file(url: str) -> None:
    """Opening would create the file, and an empty inbox looks as if all were well. Raises StartError."""
    scheme, _, path = url.partition("://")
    if scheme == "sqlite" and not os.path.lexists(path):
        raise StartError(
            f"there is no inbox at {url}; {SETTINGS['inbox'].variable}, --inbox or --config names the one that "
            "gbot serve uses, and its log tells which"
        )


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def complain(sentence: str) -> None:
    click.echo(f"gbot: {one_line(sentence)}", err=True)


def refuse(sentence: str) -> NoReturn:
    complain(sentence)
    sys.exit(EXIT_NOT_DONE)


def write_table(
    pages: Iterable[Sequence[Row]], heads: Row, layout: Callable[[Sequence[Row], int], Callable[[Row], str]], none: str
) -> None:
    """The first page decides how wide the columns are: a long list is written while it is read."""
    line: Callable[[Row], str] | None = None
    for page in pages:
        rows = list(page)
        if line is None:
            line = layout(rows, shutil.get_terminal_size((WIDTH_WITHOUT_TERMINAL, 24)).columns)
            rows.insert(0, heads)
        click.echo("\n".join(map(line, rows)))
    if line is None:
        click.echo(one_line(none))
