"""Real processes for the journeys: start them, read what they say, stop them by their process id.

Every wait is for a condition and has a deadline.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

ROOT: Final = Path(__file__).parent.parent.parent
DEADLINE_S: Final = 20.0
PORTS: Final = (12_000, 32_000)  # below those of outgoing connections
SERVING: Final = r"Taking \w+ deliveries at (\S+?)/callback"


def clean_environ(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without what would change the outcome, and with what is given here."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GBOT_", "PYTHON")) and not name.lower().endswith("_proxy")
    }
    return kept | dict(extra)


def free_port() -> int:
    """One that nobody has, and that no outgoing connection gets until it is used: those have theirs from above."""
    choose = random.SystemRandom()
    while True:
        port = choose.randrange(*PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Program:
    """A running program. ``stdout`` and ``stderr`` are the lines it has written so far."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], cwd: Path = ROOT) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=cwd,
            env=clean_environ(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="backslashreplace",
        )
        self.pid = self._process.pid
        self.code: int | None = None  # once it has ended
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self._news = threading.Condition()
        self._readers = [
            self._start_reader(self._process.stdout, self.stdout),
            self._start_reader(self._process.stderr, self.stderr),
        ]

    def _start_reader(self, stream: IO[str] | None, lines: list[str]) -> threading.Thread:
        assert stream is not None

        def read() -> None:
            with stream:
                for line in stream:
                    with self._news:
                        lines.append(line.rstrip("\n"))
                        self._news.notify_all()

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        return thread

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for something to become true of the lines; fails with all lines when it does not."""
        with self._news:
            met = self._news.wait_for(condition, DEADLINE_S)
        assert met, f"no {what} within {DEADLINE_S} s\n{self.report()}"

    def wait_for_line(self, pattern: str) -> re.Match[str]:
        """Wait for a line of standard error in which this regex is found."""
        found: list[re.Match[str]] = []

        def look() -> bool:
            found[:] = [match for line in self.stderr if (match := re.search(pattern, line))]
            return bool(found)

        self.wait_until(look, f"line like {pattern!r}")
        return found[0]

    def wait_for_output(self, line: str, times: int = 1) -> None:
        """Wait for a line of standard output."""
        self.wait_until(lambda: self.stdout.count(line) >= times, f"output {line!r}")

    def send(self, number: int = signal.SIGTERM) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end; returns its exit code, negative for a signal."""
        try:
            code = self._process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise AssertionError(f"it did not end within {DEADLINE_S} s\n{self.report()}") from None
        for reader in self._readers:
            reader.join(DEADLINE_S)
        self.code = code
        return code

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.send(number)
        return self.wait()

    def kill(self) -> None:
        """For the end of a test: whatever it does, it goes."""
        if self._process.poll() is None:
            self._process.kill()
        self.wait()

    def running(self) -> bool:
        return self._process.poll() is None

    def report(self) -> str:
        """All it has said, for a failing test."""
        return "\n".join(["stdout:", *self.stdout, "stderr:", *self.stderr])


class Served(Program):
    """``gbot serve``; returns from its constructor when it serves. ``address`` is what its log says, without a path."""

    def __init__(self, *arguments: str, environ: Mapping[str, str], cwd: Path = ROOT) -> None:
        super().__init__([sys.executable, "-m", "gbot", "serve", *arguments], environ, cwd)
        try:
            self.address = self.wait_for_line(SERVING)[1]
            self.wait_for_line("handlers? at once")  # the line after the last address
        except AssertionError:
            self.kill()
            raise


def gbot(*arguments: str, environ: Mapping[str, str] | None = None, cwd: Path = ROOT) -> Program:
    """Run ``gbot`` to its end, for commands that end by themselves."""
    program = Program([sys.executable, "-m", "gbot", *arguments], environ or {}, cwd)
    program.wait()
    return program


def eventually(condition: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
    """Ask again and again until this is true; fails after the deadline."""
    pause, end = threading.Event(), time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"still not so after {deadline_s} s"
        pause.wait(0.01)
