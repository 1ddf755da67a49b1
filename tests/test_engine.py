"""The parts are put together as the settings say, and what makes no sense together is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from gbot.config_sources import load
from gbot.dispatcher import Leftovers
from gbot.engine import build_inbox, build_platforms, check_lanes, left_sentence
from gbot.errors import ConfigError
from tests.rig import event

LINE = {"GBOT_LINE_CHANNEL_SECRET": "secret"}
MESSENGER = {"GBOT_MESSENGER_APP_SECRET": "secret"}


def check(environ: dict[str, str], lanes: str) -> None:
    config, _ = load({"lanes": lanes}, environ, None)
    check_lanes(config, build_platforms(config))


def test_the_platforms_with_a_secret_are_served_and_else_the_plain_one() -> None:
    for environ, names in (({}, ["plain"]), (LINE, ["line"]), (LINE | MESSENGER, ["line", "messenger"])):
        config, _ = load({}, environ, None)
        assert [platform.name for platform in build_platforms(config)] == names


@pytest.mark.parametrize(
    "lanes",
    [
        "line.push: 500/s",
        "line.all: 1 at once, 100ms apart; messenger.send: 5/s",
        "line.reply: 1/s; line.push: 2/s; messenger.all: 3/s",
    ],
)
def test_lanes_of_the_platforms_that_are_served_are_taken(lanes: str) -> None:
    check(LINE | MESSENGER, lanes)


@pytest.mark.parametrize(
    ("environ", "lanes", "sentence"),
    [
        (LINE, "lin.push: 5/s", r"lanes of platforms that are served \(line\), got lin\.push"),
        (LINE, "messenger.send: 5/s", r"that are served \(line\), got messenger\.send"),
        ({}, "plain.all: 5/s", r"that are served \(none that has an API\), got plain\.all"),
        (LINE, "line.pusch: 5/s", r"endpoints of line: reply, push, .*, all, got line\.pusch"),
        (LINE, "line.all: 5/s; line.push: 5/s", r"line\.all alone, or single endpoints of line, got both"),
    ],
)
def test_the_limit_of_a_lane_that_is_not_there_is_refused(environ: dict[str, str], lanes: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check(environ, lanes)


@pytest.mark.parametrize(
    ("running", "waiting", "unsaved", "put_off", "sentence"),
    [
        (0, 0, 0, 0, "Nothing was left to do"),
        (
            *(1, 1, 1, 1),
            "Left: 1 running handler was stopped and 1 waiting event never started; the memory: inbox has lost them. "
            "1 event that was to be tried again is lost. 1 outcome could not be written down: this event runs again",
        ),
        (
            *(2, 0, 3, 4),
            "Left: 2 running handlers were stopped and 0 waiting events never started; the memory: inbox has lost "
            "them. 4 events that were to be tried again are lost. 3 outcomes could not be written down: these events "
            "run again",
        ),
    ],
)
def test_a_stop_tells_what_it_has_left_undone(
    running: int, waiting: int, unsaved: int, put_off: int, sentence: str
) -> None:
    config, _ = load({"inbox": "memory:"}, {}, None)
    assert left_sentence(Leftovers(running, waiting), build_inbox(config), unsaved, put_off) == sentence


@pytest.mark.parametrize(("events", "which"), [(1, "1 event that was on its way"), (2, "2 events that were on their")])
def test_a_stop_tells_what_has_not_reached_the_store(tmp_path: Path, events: int, which: str) -> None:
    config, _ = load({"inbox": f"sqlite://{tmp_path}/inbox", "ack": "received"}, {}, None)
    inbox = build_inbox(config)  # not started: it stores nothing
    inbox.put([event("message.text")] * events, 10)
    assert left_sentence(Leftovers(0, 0), inbox, 0, 5).startswith(which)
