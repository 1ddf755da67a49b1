"""From ``module:attribute`` to a bot, and one sentence for every way in which that can fail."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gbot import Bot
from gbot.errors import AppError
from gbot.loader import DEFAULT_APP, load_bot

GOOD = "from gbot import Bot\nbot = Bot()\n"

WriteModule = Callable[[str, str], Path]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WriteModule]:
    """Writes a module into the current directory; what was imported is forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    before, path_before = set(sys.modules), sys.path[:]

    def write(name: str, source: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        return path

    yield write
    sys.path[:] = path_before
    for name in set(sys.modules) - before:
        del sys.modules[name]


def refusal(app: str) -> str:
    with pytest.raises(AppError) as raised:
        load_bot(app)
    sentence = str(raised.value)
    assert len(sentence.splitlines()) == 1
    assert sentence.startswith("APP: expected ")
    return sentence


def test_the_default_is_a_bot() -> None:
    assert load_bot(DEFAULT_APP).routes()


def test_a_bot_in_the_current_directory_is_found(module: WriteModule) -> None:
    module("found_here.py", GOOD)
    assert isinstance(load_bot("found_here:bot"), Bot)


def test_a_bot_in_a_package_is_found(module: WriteModule) -> None:
    module("found_pkg/__init__.py", "")
    module("found_pkg/inner.py", GOOD)
    assert load_bot("found_pkg.inner:bot") is sys.modules["found_pkg.inner"].bot


@pytest.mark.parametrize(
    "app", ["", ":", "mybot", "mybot:", ":bot", "mybot.py:bot", "bots/mybot:bot", ".mybot:bot", "a..b:bot"]
)
def test_what_is_not_a_module_and_an_attribute_is_refused(app: str) -> None:
    sentence = refusal(app)
    assert "a module and an attribute, such as mybot:bot" in sentence
    assert f"got {app}" in sentence


def test_a_module_that_is_not_there(module: WriteModule, tmp_path: Path) -> None:
    sentence = refusal("not_there:bot")
    assert "not_there, which is not there" in sentence
    assert str(tmp_path) in sentence
    module("half_there/__init__.py", "")
    assert "half_there.bot, which is not there" in refusal("half_there.bot:bot")


def test_a_module_that_needs_another(module: WriteModule) -> None:
    module("needs.py", "import surely_not_installed.part\n")
    assert "needs, which needs surely_not_installed: not installed" in refusal("needs:bot")


@pytest.mark.parametrize(
    ("source", "reason", "number"),
    [
        ("x = 1\n1 / 0\n", "ZeroDivisionError: division by zero", 2),
        ("def broken(:\n", "SyntaxError: ", 1),
        ("import json\n\njson.loads('{')\n", "JSONDecodeError: ", 3),
        ("import sys\nsys.exit('bye')\n", "SystemExit: bye", 2),
        ("raise ModuleNotFoundError('mine')\n", "ModuleNotFoundError: mine", 1),
        ("raise ValueError('two\\nlines')\n", "ValueError: two lines", 1),
        ("from gbot import Bot\nbot = Bot()\n@bot.text\ndef x(ctx): ...\n", "BotError: @bot.text needs paren", 3),
        ("from gbot import Bot\nbot = Bot()\n@bot.default()\ndef x(ctx): ...\n", "TypeError: ", 3),
    ],
)
def test_a_module_that_fails_is_refused_with_its_line(
    module: WriteModule, source: str, reason: str, number: int
) -> None:
    path = module("failing.py", source)
    sentence = refusal("failing:bot")
    assert f"failing, which fails with {reason}" in sentence
    assert f"({path}, line {number})" in sentence


def test_a_module_with_a_null_byte(module: WriteModule) -> None:
    module("null.py", "x = '\0'\n")
    assert "null bytes" in refusal("null:bot")


def test_an_error_in_an_imported_module_is_found_there(module: WriteModule) -> None:
    module("outer.py", "import inner_failing\n")
    path = module("inner_failing.py", "\n\nundefined_name\n")
    assert f"({path}, line 3)" in refusal("outer:bot")


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("x = 1\n", ["bot, which is not there", "it has no bot at all"]),
        (GOOD + "other = Bot()\nbot = 'text'\n", ["bot, which is of type str", "it has a bot named other"]),
        (GOOD.replace("bot =", "main ="), ["bot, which is not there", "it has a bot named main"]),
        ("from gbot import Bot\nbot = Bot\n", ["bot, which is of type type", "it has no bot at all"]),
    ],
)
def test_an_attribute_that_is_no_bot(module: WriteModule, source: str, parts: list[str]) -> None:
    module("mistaken.py", source)
    sentence = refusal("mistaken:bot")
    assert all(part in sentence for part in parts)
