"""``gbot check``: would ``gbot serve`` work like this, here and now?

Exit codes: 0 nothing failed, whatever was warned of; 1 something did; 2 wrong usage.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from pathlib import Path
from typing import Final

import click

from gbot.checks import screens
from gbot.checks.finding import passed
from gbot.config_sources import CONFIG_VARIABLE
from gbot.loader import DEFAULT_APP
from gbot.settings_cli import setting_options, settings_epilog

EXIT_FAILED: Final = 1
WIDTH_WITHOUT_TERMINAL: Final = 100


@click.command(epilog=settings_epilog(), short_help="Look whether a bot can be served like this.")
@click.argument("app", default=DEFAULT_APP, metavar="[APP]")
@click.option(
    "--config", "config_file", metavar="FILE", envvar=CONFIG_VARIABLE, help="TOML file with settings, named as below."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs; see above.")
@setting_options
def check(app: str, config_file: str | None, as_json: bool, **flags: str | None) -> None:
    """Would gbot serve work like this? Looks at all that it needs, and says what to do about what it lacks.

    Give it what you give to gbot serve, as the same user and with the same environment. It serves nothing, sends
    nothing and changes nothing: the inbox and the database are only looked at, also while a server uses them, and a
    platform's API is asked one question without a token. The module of APP is imported, though, and what it does when
    imported is done, in a process that is ended after that, or after 10 s.

    \b
    ok    as it should be
    warn  gbot serve would start, but look at it
    fail  gbot serve would not start, or not do all its work: the exit code is 1
    skip  there is nothing to look at

    --json tells the same as {"ok": true or false, "checks": [one object for each line]}. Each has name, state, found
    and advice, and figures if there are numbers in found: {"free_bytes": 63954767872} for "59.6 GiB are free". Names
    end with the unit: _bytes, _ms, _s, _days; without one it is a plain number. KiB, MiB and GiB are each 1,024 of the
    one before.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path in another alphabet must not end the table
    from gbot.checks.checking import check_all

    findings = check_all(app, flags, os.environ, Path(config_file) if config_file is not None else None)
    if as_json:
        click.echo(screens.findings_json(findings))
    else:
        width = shutil.get_terminal_size((WIDTH_WITHOUT_TERMINAL, 24)).columns
        click.echo("\n".join(screens.table_lines(findings, width, colour=_has_colours())), color=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if passed(findings) else EXIT_FAILED)  # a thread that waits for a disk in vain must not keep it


def _has_colours() -> bool:
    """A terminal that has them, unless https://no-color.org says no."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
