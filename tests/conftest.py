"""Fixtures that several test modules share: a rig inside the process, and real processes around it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import hypothesis
import pytest

from gbot.bot import Bot
from tests.fake_line import FakeLineProcess
from tests.journeys.mariadb import MariaDb
from tests.journeys.processes import ROOT, Program, Served
from tests.rig import Rig

# An example takes as long as the machine lets it.
hypothesis.settings.register_profile("gbot", deadline=None)
hypothesis.settings.load_profile("gbot")

# A shell that runs the tests in the background has SIGINT ignored, and so would have what the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

Report = Callable[..., None]
REPORTED = pytest.StashKey[list[str]]()


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """Takes what a test has counted, for the summary at the end."""
    lines = request.config.stash.setdefault(REPORTED, [])
    name = request.node.name
    return lambda *words: lines.append(f"{name}: {' '.join(map(str, words))}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(REPORTED, [])
    if lines:
        terminalreporter.section("counted")
    for line in lines:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session", autouse=True)
def own_state_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever is started without an inbox of its own leaves the home directory alone."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


class MakeRig(Protocol):
    def __call__(
        self, bot: Bot, pool: int = 10, timeout_s: float = 0.0, attempts_max: int = 1, strict: bool = True
    ) -> Rig: ...


class Serve(Protocol):
    def __call__(self, *arguments: str, environ: Mapping[str, str] | None = None, cwd: Path = ROOT) -> Served: ...


@pytest.fixture
def make_rig() -> Iterator[MakeRig]:
    """Makes rigs and stops them at the end of the test."""
    rigs: list[Rig] = []

    def make(bot: Bot, pool: int = 10, timeout_s: float = 0.0, attempts_max: int = 1, strict: bool = True) -> Rig:
        rigs.append(Rig(bot, pool, timeout_s, attempts_max, strict))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.drain()


@pytest.fixture
def programs() -> Iterator[list[Program]]:
    """Programs that are to be gone when the test is over."""
    started: list[Program] = []
    yield started
    for program in started:
        program.kill()


@pytest.fixture
def serve(programs: list[Program], tmp_path: Path) -> Serve:
    """Starts ``gbot serve`` on a free port of 127.0.0.1 and on the test's own inbox unless told otherwise."""

    def start(*arguments: str, environ: Mapping[str, str] | None = None, cwd: Path = ROOT) -> Served:
        own = {"GBOT_PORT": "0", "STATE_DIRECTORY": str(tmp_path / "state")}
        served = Served(*arguments, environ=own | dict(environ or {}), cwd=cwd)
        programs.append(served)
        return served

    return start


@pytest.fixture(scope="session")
def fake_line_process() -> Iterator[FakeLineProcess]:
    process = FakeLineProcess()
    yield process
    process.stop()


@pytest.fixture
def fake_line(fake_line_process: FakeLineProcess) -> FakeLineProcess:
    """A fake LINE API that has not been asked anything yet."""
    fake_line_process.reset()
    return fake_line_process


@pytest.fixture(scope="session")
def mysql_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``mysql://user@host:port/database`` of a server that nobody stops."""
    server = MariaDb(tmp_path_factory.mktemp("mariadb"))
    yield server.url
    server.stop()
