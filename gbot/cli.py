"""The command line: reads settings, calls the worker, turns errors into one line and an exit code.

Exit codes: 0 done, or stopped as asked; 1 the machine does not let the server start, or what was asked for cannot be
done; 2 a setting or APP is wrong.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from gbot import __version__, logs
from gbot.chat_cli import chat
from gbot.check_cli import check
from gbot.config_sources import CONFIG_VARIABLE, load
from gbot.errors import BotError, ConfigError, StartError
from gbot.inbox_cli import inbox
from gbot.loader import DEFAULT_APP, load_bot
from gbot.plan_cli import plan
from gbot.settings_cli import setting_options, settings_epilog
from gbot.simulate_cli import simulate
from gbot.users_cli import users

EXIT_START = 1
EXIT_SETTING = 2


def _fail(error: Exception, code: int) -> None:
    click.echo(f"gbot: {logs.one_line(str(error))}", err=True)
    sys.exit(code)


def run() -> None:
    """The program: ``main`` with every refusal in one line, whichever command it comes from."""
    try:
        main.main(prog_name="gbot", standalone_mode=False)
    except (ConfigError, BotError) as error:
        _fail(error, EXIT_SETTING)
    except StartError as error:
        _fail(error, EXIT_START)
    except click.ClickException as error:
        sentence = " ".join(error.format_message().split()).rstrip(".,")
        context = error.ctx if isinstance(error, click.UsageError) else None
        command = context.command_path if context is not None else "gbot"
        end = "" if sentence.endswith(("?", "?)")) else "."
        _fail(Exception(f"{sentence}{end} See {command} --help."), EXIT_SETTING)
    except click.Abort:
        sys.exit(EXIT_START)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, invoke_without_command=True
)
@click.version_option(__version__, prog_name="gbot")
@click.pass_context
def main(context: click.Context) -> None:
    """gbot takes the webhooks of chat platforms and runs your bot's handlers."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for command in (chat, check, inbox, plan, simulate, users):
    main.add_command(command)


@main.command(epilog=settings_epilog(), short_help="Run a bot behind a webhook server.")
@click.argument("app", default=DEFAULT_APP, metavar="[APP]")
@click.option(
    "--config", "config_file", metavar="FILE", envvar=CONFIG_VARIABLE, help="TOML file with settings, named as below."
)
@setting_options
def serve(app: str, config_file: str | None, **flags: str | None) -> None:
    """Run the bot APP (module:attribute) behind a webhook server; without APP, a bot that prints what arrives.

    Every option can also be set by an environment variable (--stop-timeout is GBOT_STOP_TIMEOUT) or in the TOML
    file of --config (stop-timeout = 25). The command line goes before the environment, the environment before the file.
    """
    config, warnings = load(flags, os.environ, Path(config_file) if config_file is not None else None)
    logs.configure(config.log_format, config.log_level)
    for sentence in warnings:
        logs.warn(sentence)
    bot = load_bot(app)
    from gbot.worker import Worker

    Worker(config, bot).run()


@main.command(short_help="List the handlers of a bot.")
@click.argument("app", default=DEFAULT_APP, metavar="[APP]")
def routes(app: str) -> None:
    """List the handlers of the bot APP in the order in which they are tried."""
    rows = [(logs.one_line(route.rule), _where(route.handler)) for route in load_bot(app).routes()]
    if not rows:
        click.echo(f"{app} has no handlers: every event will be counted as unhandled.")
    width = max((len(rule) for rule, _ in rows), default=0)
    for number, (rule, where) in enumerate(rows, 1):
        click.echo(f"{number:>3}  {rule:<{width}}  {where}")


def _where(handler: Callable[..., object]) -> str:
    code = getattr(handler, "__code__", None)
    line = f":{code.co_firstlineno}" if code is not None else ""
    return f"{handler.__module__}{line} {getattr(handler, '__qualname__', '')}"
