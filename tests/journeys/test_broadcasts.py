"""Telling many users, and keeping to the operator's own limits: gbot and the simulator as two real processes."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conftest import Report, Serve
from tests.journeys.processes import Program, eventually, free_port
from tests.journeys.stage import IN_STORE, desk_of

BOTS: Final = "tests.journeys.bots"
SECRETS: Final = {
    "GBOT_LINE_CHANNEL_SECRET": "a-channel-secret",
    "GBOT_LINE_CHANNEL_ACCESS_TOKEN": "a-channel-access-token",
}
USERS: Final = 20_000
PARTS: Final = USERS // 500
DONE_AT_KILL: Final = 12  # parts
AT_ONCE: Final = 4  # parts, so that many have not begun by then


class Simulator(Program):
    """``gbot simulate line``, for the bot at this address."""

    def __init__(self, bot_address: str, api_port: int, file: Path, *options: str) -> None:
        command = [sys.executable, "-m", "gbot", "simulate", "line", "--to", f"{bot_address}/callback/line"]
        super().__init__([*command, "--api-port", str(api_port), "--json", str(file), *options], SECRETS)
        self._file = file

    def verdict(self) -> dict[str, Any]:
        """Wait for the end; returns what it made of the run."""
        self.wait()
        assert self.code in (0, 1), self.report()
        verdict: dict[str, Any] = json.loads(self._file.read_text())
        return verdict


Simulate = Callable[..., Simulator]


@pytest.fixture
def api_port() -> int:
    return free_port()


@pytest.fixture
def environ(api_port: int) -> dict[str, str]:
    """What ``gbot serve`` needs to answer to the simulator."""
    base = f"http://127.0.0.1:{api_port}"
    return SECRETS | {"GBOT_LINE_API_BASE": base, "GBOT_LINE_CONTENT_BASE": base, "TOLD_USERS": str(USERS)}


@pytest.fixture
def simulate(programs: list[Program], tmp_path: Path, api_port: int) -> Simulate:
    def start(bot_address: str, *options: str) -> Simulator:
        simulator = Simulator(bot_address, api_port, tmp_path / "verdict.json", *options)
        programs.append(simulator)
        return simulator

    return start


def test_a_broadcast_outlives_its_worker_and_reaches_everybody_once(
    serve: Serve, simulate: Simulate, environ: dict[str, str], tmp_path: Path, report: Report
) -> None:
    inbox = f"sqlite://{tmp_path}/inbox.sqlite3"
    arguments = (f"{BOTS}.telling:bot", "--inbox", inbox, "--lanes", f"line.multicast: {AT_ONCE} at once")
    first = serve(*arguments, environ=environ)
    # One event, and the next one after hours: a run with an end would end when this one is answered.
    simulator = simulate(first.address, "--rate", "0.0001/s", "--users", str(USERS), "--latency", "200-300ms")
    first.wait_for_line(f"this worker has done {DONE_AT_KILL} of {PARTS} parts")
    assert first.stop(signal.SIGKILL) == -signal.SIGKILL
    second = serve(*arguments, environ=environ)
    with desk_of(inbox) as desk:
        left = len(desk.records(IN_STORE, 0, PARTS))
        eventually(lambda: not desk.records(IN_STORE, 0, 1))
    assert second.stop() == 0
    simulator.send(signal.SIGINT)
    verdict = simulator.verdict()
    api = verdict["api"]
    statuses = api["endpoints"]["multicast"]["statuses"]
    report(f"{left} of {PARTS} parts were left to the second worker; multicasts: {statuses}")
    assert verdict["sentence"] == "Good: every event was answered exactly once."
    assert AT_ONCE < left < PARTS
    assert api["repeated"] == statuses["409"] > 0  # parts that were under way at the kill had arrived
    assert statuses["200"] == PARTS
    assert (api["messages"], api["users"]) == (USERS + 1, USERS)  # one of them got the reply besides


def test_the_operators_rate_is_kept_under_load(
    serve: Serve, simulate: Simulate, environ: dict[str, str], report: Report
) -> None:
    served = serve(f"{BOTS}.simulated:replying", "--lanes", "line.reply: 20/s", environ=environ)
    verdict = simulate(served.address, "--rate", "100/s", "--events", "70").verdict()
    reply = verdict["api"]["endpoints"]["reply"]
    report(f"at most {reply['peak']} in a second; {verdict['seconds']} s for 70")
    assert verdict["sentence"] == "Good: every event was answered exactly once."
    assert reply["statuses"] == {"200": 70}
    assert 10 < reply["peak"] <= 22  # 20 leave in a second; on a busy machine they may arrive a little closer together


def test_one_request_at_a_time_and_a_tenth_of_a_second_apart(
    serve: Serve, simulate: Simulate, environ: dict[str, str], report: Report
) -> None:
    served = serve(f"{BOTS}.simulated:either", "--lanes", "line.all: 1 at once, 100ms apart", environ=environ)
    # An API that would now and then have two at once, or more than ten in a second, if the lane let it.
    verdict = simulate(served.address, "--rate", "100/s", "--events", "40", "--latency", "0-150ms").verdict()
    api = verdict["api"]
    report(f"at most {api['peak']} in a second, {api['at_once']} at once; {verdict['seconds']} s for 40")
    assert verdict["sentence"] == "Good: every event was answered exactly once."
    assert set(api["endpoints"]) == {"push", "reply"}
    assert (api["calls"], api["at_once"]) == (40, 1)
    assert 5 < api["peak"] <= 10
