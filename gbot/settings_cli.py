"""The settings as options of a command: one for every row of the table that has a flag."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from gbot.config import SETTINGS, Setting

F = TypeVar("F", bound=Callable[..., Any])


def setting_options(command: F) -> F:
    """An option for every setting of the table that has a flag."""
    for row in reversed(list(SETTINGS.values())):
        if row.has_flag:
            option = click.option("--" + row.key, row.name, metavar=row.kind.metavar, help=_help(row))
            command = option(command)
    return command


def settings_epilog() -> str:
    """The settings that have no flag, for the end of a command's help."""
    secrets = [row for row in SETTINGS.values() if not row.has_flag]
    rows = (f"  {row.variable} ({row.key} in the file): {_help(row)}" for row in secrets)
    return "\n\n".join(["Only in the environment or the file, never on the command line:", *rows])


def _help(row: Setting) -> str:
    default = "" if row.default in (None, ()) else f"  [default: {_shown(row.default)}]"
    return row.sentence + default


def _shown(value: object) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)
