"""The simulator and gbot as two real processes: every event is answered exactly once where the platform lets it be.

``GBOT_TEST_OUTAGE=30s`` makes the outage of the API as long as that.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import pytest

from gbot.simulator.line import KINDS, MESSAGES
from gbot.simulator.options import SPAN
from tests.conftest import Report, Serve
from tests.journeys.processes import Program, Served, eventually, free_port

BOTS: Final = "tests.journeys.bots.simulated"
OUTAGE: Final = os.environ.get("GBOT_TEST_OUTAGE", "2s")
RUN_S: Final = 90.0  # on a busy machine; a run takes less than ten seconds
SECRETS: Final = {
    "GBOT_LINE_CHANNEL_SECRET": "a-channel-secret",
    "GBOT_LINE_CHANNEL_ACCESS_TOKEN": "a-channel-access-token",
    "GBOT_MESSENGER_APP_SECRET": "an-app-secret",
    "GBOT_MESSENGER_VERIFY_TOKEN": "a-verify-token",
    "GBOT_MESSENGER_PAGE_TOKEN": "a-page-token",
}


class Play(Protocol):
    def __call__(self, app: str, *options: str, platform: str = "line") -> dict[str, Any]: ...


@pytest.fixture
def play(serve: Serve, programs: list[Program], tmp_path: Path, report: Report) -> Play:
    """Lets a bot and the simulator meet; returns the verdict, and checks the exit code against it."""

    def run(app: str, *options: str, platform: str = "line") -> dict[str, Any]:
        port = free_port()
        served = serve(app, environ=SECRETS | _bases(port))
        file = tmp_path / "verdict.json"
        callback = f"{served.address}/callback/{platform}"
        command = [sys.executable, "-m", "gbot", "simulate", platform, "--to", callback, "--api-port", str(port)]
        simulator = Program([*command, "--json", str(file), *options], SECRETS)
        programs.append(simulator)
        eventually(lambda: not simulator.running(), RUN_S + 2 * SPAN.read(OUTAGE))
        code = simulator.wait()
        assert code in (0, 1), simulator.report()
        verdict: dict[str, Any] = json.loads(file.read_text())
        report(verdict["sentence"])
        assert verdict["good"] == (code == 0)
        assert verdict["sentence"] == simulator.stdout[-1]
        _stop(served)
        return verdict

    return run


def _bases(port: int) -> dict[str, str]:
    address = f"http://127.0.0.1:{port}"
    return {
        "GBOT_LINE_API_BASE": address,
        "GBOT_LINE_CONTENT_BASE": address,
        "GBOT_MESSENGER_API_BASE": f"{address}/v23.0",
    }


def _stop(served: Served) -> None:
    assert served.stop() == 0
    assert not any(value in line for value in SECRETS.values() for line in served.stderr)


def once(verdict: dict[str, Any]) -> dict[str, Any]:
    """The events, of which every one was answered exactly once."""
    events: dict[str, Any] = verdict["events"]
    assert verdict["sentence"] == "Good: every event was answered exactly once."
    assert events["sent"] == events["taken"] == events["once"] > 0
    assert (events["twice"], events["never"]) == (0, 0)
    return events


def once_or_lost(verdict: dict[str, Any], reason: str) -> dict[str, Any]:
    """The events, of which some were made impossible to answer, for this reason alone."""
    events: dict[str, Any] = verdict["events"]
    assert verdict["good"], verdict["sentence"]
    assert events["once"] + events["lost"] == events["sent"] == events["taken"]
    assert events["lost"] == events["never"] > 0
    assert events["twice"] == 0
    assert [words for words in events["never_why"] if reason in words] == list(events["never_why"])
    return events


@pytest.mark.parametrize("bot", ["replying", "pushing"])
def test_steady_load(play: Play, bot: str) -> None:
    verdict = play(f"{BOTS}:{bot}", "--rate", "150/s", "--seconds", "3", "--batch", "1-5")
    assert once(verdict)["sent"] > 400
    assert verdict["api"]["calls"] == verdict["events"]["sent"]


def test_a_burst_of_twenty_times_the_rate(play: Play) -> None:
    verdict = play(f"{BOTS}:replying", "--rate", "40/s", "--burst", "20@2s", "--seconds", "2.5", "--batch", "1-10")
    assert once(verdict)["sent"] > 800


@pytest.mark.parametrize("bot", ["replying", "pushing"])
def test_an_api_that_takes_two_to_three_seconds(play: Play, bot: str) -> None:
    options = ("--rate", "300/s", "--seconds", "2", "--latency", "2-3s", "--users", "100000")
    assert once(play(f"{BOTS}:{bot}", *options))["sent"] == 600


def test_replies_to_an_api_that_fails_for_thirty_per_cent(play: Play) -> None:
    verdict = play(f"{BOTS}:replying", "--rate", "150/s", "--seconds", "2", "--fail", "30%")
    events = once_or_lost(verdict, "5xx and did not accept it")
    assert events["answered_unseen"] > 0
    assert verdict["api"]["calls"] == events["sent"]  # not one was repeated


def test_pushes_to_an_api_that_fails_for_thirty_per_cent_all_arrive(play: Play) -> None:
    verdict = play(f"{BOTS}:pushing", "--rate", "150/s", "--seconds", "1", "--fail", "30%", "--drop", "10%")
    once(verdict)
    assert verdict["api"]["repeated"] > 0


@pytest.mark.parametrize("bot", ["replying", "pushing"])
def test_storms_of_429(play: Play, bot: str) -> None:
    verdict = play(f"{BOTS}:{bot}", "--rate", "150/s", "--seconds", "2", "--storm", "25%")
    once(verdict)
    assert verdict["api"]["storms"] >= 20


def test_replies_while_the_api_is_down(play: Play) -> None:
    options = ("--rate", "100/s", "--seconds", "2", "--latency", "200ms", "--down", f"{OUTAGE}@1s")
    events = once_or_lost(play(f"{BOTS}:replying", *options), "cut off when the API went down")
    assert events["lost"] < 0.25 * events["sent"]  # only what was under way at that moment


def test_pushes_while_the_api_is_down_all_arrive(play: Play) -> None:
    options = ("--rate", "100/s", "--seconds", "2", "--latency", "200ms", "--down", f"{OUTAGE}@1s")
    verdict = play(f"{BOTS}:pushing", *options)
    once(verdict)
    assert verdict["api"]["cut"] > 0


def test_everything_is_sent_again(play: Play) -> None:
    again = ("--redeliver", "100%", "--duplicates", "50%", "--disorder", "30%")
    verdict = play(f"{BOTS}:replying", "--rate", "150/s", "--seconds", "2", "--batch", "1-5", *again)
    once(verdict)
    sent = verdict["deliveries"]
    assert sent["again"] == sent["new"] > 0
    assert sent["duplicates"] > 0


def test_connections_that_are_dropped_when_the_reply_is_in(play: Play) -> None:
    verdict = play(f"{BOTS}:replying", "--rate", "150/s", "--seconds", "2", "--drop", "20%")
    events = once(verdict)
    assert events["answered_unseen"] == verdict["api"]["endpoints"]["reply"]["statuses"]["dropped"] > 0
    assert verdict["api"]["calls"] == events["sent"]


@pytest.mark.parametrize(
    ("app", "kinds"),
    [(f"{BOTS}:replying", KINDS), ("gbot.examples.polite_echo:bot", (*MESSAGES, "follow", "unfollow"))],
)
def test_every_kind_of_event(play: Play, app: str, kinds: Sequence[str]) -> None:
    verdict = play(app, "--rate", "150/s", "--seconds", "2", "--mix", ",".join(kinds), "--users", "1000")
    events = verdict["events"]
    assert verdict["good"], verdict["sentence"]
    assert events["once"] + events["lost"] == events["wanting_an_answer"] < events["taken"] == events["sent"]
    assert set(events["never_why"]) <= {"the user had taken back the content that came with it"}


def test_messenger(play: Play) -> None:
    options = (
        "--rate",
        "100/s",
        "--seconds",
        "2",
        "--batch",
        "1-5",
        "--redeliver",
        "50%",
        "--mix",
        "text=3,image,postback",
    )
    once(play(f"{BOTS}:replying", *options, platform="messenger"))


def test_messenger_fails_for_thirty_per_cent(play: Play) -> None:
    verdict = play(f"{BOTS}:replying", "--rate", "100/s", "--seconds", "2", "--fail", "30%", platform="messenger")
    assert once_or_lost(verdict, "5xx and did not accept it")["answered_unseen"] > 0


def test_a_bot_that_answers_twice_is_found_out(play: Play) -> None:
    verdict = play(f"{BOTS}:twice", "--rate", "50/s", "--events", "20")
    assert verdict["sentence"] == (
        "Not good: 20 events answered more than once (nothing had gone wrong with the first one)."
    )


def test_a_bot_that_says_nothing_is_found_out(play: Play) -> None:
    verdict = play(f"{BOTS}:silent", "--rate", "50/s", "--events", "20", "--wait", "1s")
    assert verdict["sentence"].startswith("Not good: 20 events never answered (no message came with its reply token")
