"""Finds the author's bot: ``module:attribute`` → Bot."""

from __future__ import annotations

import importlib
import os
import sys
import traceback

from gbot.bot import Bot
from gbot.errors import AppError

DEFAULT_APP = "gbot.examples.echo:bot"


def load_bot(app: str) -> Bot:
    """Import APP; modules of the current directory are found first, as with ``python -m``. Raises AppError."""
    module_name, separator, attribute = app.partition(":")
    if not separator or not attribute or not _is_module_name(module_name):
        raise _wrong("a module and an attribute, such as mybot:bot", app)
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            expected = f"a module that can be found from {os.getcwd()}"
            raise _wrong(expected, f"{module_name}, which is not there") from error
        why = f"needs {error.name}: not installed" if error.name else f"fails with {_where(error)}"
        raise _wrong("a module that can be imported", f"{module_name}, which {why}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also SystemExit: a script that ends itself would end gbot without a word
        raise _wrong("a module that can be imported", f"{module_name}, which fails with {_where(error)}") from error
    found = getattr(module, attribute, None)
    if isinstance(found, Bot):
        return found
    bots = [name for name, value in vars(module).items() if isinstance(value, Bot)]
    hint = f"; it has a bot named {', '.join(bots)}" if bots else "; it has no bot at all"
    what = "is not there" if found is None else f"is of type {type(found).__name__}"
    raise _wrong(f"a gbot.Bot in {module_name}", f"{attribute}, which {what}{hint}")


def _wrong(expected: str, given: str) -> AppError:
    return AppError("APP", expected, given, "the command line")


def _is_module_name(name: str) -> bool:
    """Not a path, a file or a relative import, which are what people try first."""
    return all(name.split(".")) and "/" not in name and not name.endswith(".py")


def _where(error: BaseException) -> str:
    """The error and the author's line that caused it, in one line."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"SyntaxError: {error.msg} ({error.filename}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    at_import = [frame for frame in frames if frame.name == "<module>"]  # not inside the function it called there
    last = (at_import or frames)[-1]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text} ({last.filename}, line {last.lineno})"
