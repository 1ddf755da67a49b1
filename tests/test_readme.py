"""What the README shows works as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from gbot import Bot, Context, DuplicateKey, Event
from gbot.platform import Limits
from gbot.platforms import line_api, messenger_api
from gbot.testing import Client
from tests.rig import Rig

README = (Path(__file__).parents[1] / "README.rst").read_text(encoding="utf-8")
BLOCKS = [textwrap.dedent(block) for block in re.findall(r"\.\. code-block:: python\n\n((?:    .*\n|\n)+)", README)]
BOTS = [block for block in BLOCKS if "bot = Bot()" in block]
HANDLERS = [block for block in BLOCKS if block.startswith("@bot.")]  # for a bot that is there already
TESTS = [block for block in BLOCKS if "def test_" in block]


def bot_of(source: str) -> Bot:
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    assert isinstance(namespace["bot"], Bot)
    return namespace["bot"]


def bot_with(handlers: str, **names: object) -> Bot:
    bot = Bot()
    exec(handlers, {"bot": bot, **names})
    return bot


def test_there_are_bots_handlers_and_tests_in_it() -> None:
    assert (len(BOTS), len(HANDLERS), len(TESTS)) == (2, 3, 1)
    assert len(BLOCKS) == 6


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


def test_its_image_handler_answers_with_one_reply(tmp_path: Path) -> None:
    client = Client(bot_with(HANDLERS[0].replace("/srv/pictures/", f"{tmp_path}/")))
    answers = client.image(b"a picture")
    assert [sent.how for sent in answers] == ["typing", "reply", "reply"]
    assert answers.texts == ["Anna, that is 9 bytes.", "Thank you!"]
    [picture] = tmp_path.iterdir()
    assert picture.read_bytes() == b"a picture"


def test_its_dinner_is_announced() -> None:
    client = Client(bot_with(HANDLERS[0], all_users=lambda: [f"U{number}" for number in range(501)]))
    answers = client.text("/everybody")
    assert answers.texts == ["Dinner is ready."] * 3
    assert [(sent.how, len(sent.to)) for sent in answers] == [("multicast", 2), ("multicast", 500), ("push", 1)]


def test_its_test_passes(tmp_path: Path) -> None:
    (tmp_path / "mybot.py").write_text("from gbot import Bot\nbot = Bot()\n" + HANDLERS[1], encoding="utf-8")
    (tmp_path / "test_mybot.py").write_text(TESTS[0], encoding="utf-8")
    run = subprocess.run([sys.executable, "-m", "pytest", "-q"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    assert "1 passed" in run.stdout


def test_the_commands_it_names_exist() -> None:
    root = Path(__file__).parents[1]
    for command in ("deploy/try", "tests/run", "deploy/venv", "deploy/packages", "bench/scenario1.py"):
        assert command in README
        assert (root / command).is_file()


@pytest.mark.parametrize("limits", [line_api.LIMITS, messenger_api.LIMITS], ids=["line", "messenger"])
def test_it_names_every_lane(limits: Limits) -> None:
    bullet = README.partition("- **Limits.**")[2].partition("\n- **")[0]
    assert [lane for lane in limits.lanes if f"``{lane}``" not in bullet] == []


def test_the_handlers_with_a_database_take_orders(mysql_url: str) -> None:
    [tables] = re.findall(r"\.\. code-block:: sql\n\n((?:    .*\n|\n)+)", README)
    bot = bot_with(HANDLERS[2], DuplicateKey=DuplicateKey)

    @bot.command("/open")
    def open_shop(ctx: Context) -> None:
        for statement in tables.replace("CREATE TABLE", "CREATE OR REPLACE TABLE").split(";")[:-1]:
            ctx.db.execute(statement)
        ctx.db.execute("INSERT INTO dishes VALUES ('soba', 800, 1), ('unagi', 3000, 1)")

    @bot.command("/close")
    def close_shop(ctx: Context) -> None:
        ctx.db.execute("DROP TABLE dishes, orders")

    client = Client(bot, db=mysql_url)
    client.text("/open")
    assert client.text("/menu").texts == ["soba: 800 yen"]
    assert client.text("/order soba").texts == ["One soba."]
    assert client.text("/order soba").texts == ["Sold out."]
    assert client.text("/export").texts == ["soba"]
    client.text("/close")
