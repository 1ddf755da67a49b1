"""The parts are put together as the settings say, and what makes no sense together is refused."""

from __future__ import annotations

import pytest

from gbot.config_sources import load
from gbot.engine import build_platforms, check_lanes
from gbot.errors import ConfigError

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
