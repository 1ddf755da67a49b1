"""What the README shows works as it stands there."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from gbot import Bot, Event
from tests.rig import Rig

README = (Path(__file__).parents[1] / "README.rst").read_text(encoding="utf-8")
BOTS = [textwrap.dedent(block) for block in re.findall(r"\.\. code-block:: python\n\n((?:    .*\n|\n)+)", README)]


def bot_of(source: str) -> Bot:
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    assert isinstance(namespace["bot"], Bot)
    return namespace["bot"]


def test_there_are_bots_in_it() -> None:
    assert len(BOTS) == 2


def test_the_first_bot_answers() -> None:
    rig = Rig(bot_of(BOTS[0]))
    rig.settle_all("hello")
    assert rig.outbox.texts() == ["hello"]
    rig.drain(1)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("/help me", "Ask me about the weather."),
        ("weather in Oslo", "It is sunny in Oslo."),
        ("else", "I did not get that."),
    ],
)
def test_the_second_bot_answers(text: str, answer: str) -> None:
    bot = bot_of(BOTS[1].replace("time.sleep(2)", "time.sleep(0)"))
    rig = Rig(bot)
    rig.settle_all(text)
    assert rig.outbox.texts() == [answer]
    rig.drain(1)


def test_every_handler_of_the_second_bot_has_its_events() -> None:
    bot = bot_of(BOTS[1])
    kinds = ["follow", "message.image", "message.sticker", "unsend"]
    found = [bot.find(Event(platform="line", kind=kind, raw={})) for kind in kinds]
    assert [route.handler.__name__ for route, _ in (one for one in found if one)] == [
        "welcome",
        "image",
        "other",
        "rest",
    ]


def test_the_commands_it_names_exist() -> None:
    root = Path(__file__).parents[1]
    for command in ("deploy/try", "tests/run", "deploy/venv", "deploy/packages", "bench/scenario1.py"):
        assert command in README
        assert (root / command).is_file()
