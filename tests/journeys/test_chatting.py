"""``gbot chat`` as somebody uses it: from a pipe, and on a terminal with a history and Ctrl-C."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.processes import DEADLINE_S, ROOT, clean_environ

PROGRAM = [sys.executable, "-m", "gbot", "chat"]
PRESS_AGAIN_S = 0.5
CTRL_C, CTRL_D, UP = b"\x03", b"\x04", b"\x1b[A"

BOT = """
import time
from gbot import Bot

bot = Bot()

@bot.text("sleep")
def sleep(ctx):
    ctx.push("sleeping")
    time.sleep(600)

@bot.text("compute")
def compute(ctx):
    ctx.push("computing")
    while True:
        pass

@bot.text("stay")
def stay(ctx):
    while True:
        try:
            ctx.push("staying")
            time.sleep(600)
        except BaseException:
            pass

@bot.text("fail")
def fail(ctx):
    raise KeyError("mine")

@bot.text()
def echo(ctx):
    print(f"printed {ctx.text}")
    ctx.log.info("logged")
    ctx.reply(ctx.text)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory with a bot in it."""
    (tmp_path / "mybot.py").write_text(BOT, encoding="utf-8")
    return tmp_path


def piped(*arguments: str, typed: bytes, cwd: Path = ROOT) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*PROGRAM, *arguments], input=typed, capture_output=True, cwd=cwd, env=clean_environ({}), timeout=DEADLINE_S
    )


def lines(output: bytes) -> list[str]:
    return output.decode("utf-8").splitlines()


# ---- from a pipe


def test_a_pipe_gets_the_answers_and_nothing_else() -> None:
    talk = piped("--user", "太郎", "--language", "ja", typed="/follow\nこんにちは\n/sticker\n/unfollow".encode())
    assert (talk.returncode, lines(talk.stderr)) == (0, [])
    assert lines(talk.stdout) == [
        "reply: 太郎さん、友だち追加ありがとうございます。"
        "メッセージや画像などを送っていただくと、届いたものをお知らせします。",
        "reply: 太郎さん、「こんにちは」とのメッセージをいただきました。",
        "reply: 太郎さん、すてきなスタンプをありがとうございます。",
        "-- no answer",
    ]


def test_nothing_typed_is_no_failure() -> None:
    talk = piped(typed=b"")
    assert (talk.returncode, talk.stdout, talk.stderr) == (0, b"", b"")


def test_the_talk_goes_on_after_an_error(home: Path) -> None:
    talk = piped("mybot:bot", typed=b"fail\nhi\n/quit\nnever", cwd=home)
    assert talk.returncode == 0
    assert lines(talk.stdout) == ["printed hi", "reply: hi"]
    traceback, log_lines = lines(talk.stderr)[:-1], lines(talk.stderr)[-1:]
    assert "mybot.py" in traceback[1]
    assert traceback[-1] == "KeyError: 'mine'"
    assert [line.endswith("logged") for line in log_lines] == [True]


def test_bytes_that_are_no_text_do_not_end_it(home: Path) -> None:
    talk = piped("mybot:bot", typed=b"\xff\xfe\nhi\n", cwd=home)
    assert talk.returncode == 0
    assert lines(talk.stdout)[-1] == "reply: hi"


def test_it_ends_when_nobody_reads_any_more(tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("wb") as errors:
        talk = subprocess.Popen(
            PROGRAM, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, env=clean_environ({})
        )
    assert talk.stdin is not None
    assert talk.stdout is not None
    with talk, talk.stdin as typed:
        typed.write(b"one\n")
        typed.flush()
        assert talk.stdout.readline() == b"reply: Anna, you wrote: one\n"
        talk.stdout.close()
        typed.write(b"two\n")
        typed.flush()
        assert talk.wait(DEADLINE_S) == 0  # though more could be typed
    assert (tmp_path / "stderr").read_text() == ""


def test_a_bot_that_is_not_there_is_one_line(home: Path) -> None:
    talk = piped("nobot:bot", typed=b"", cwd=home)
    assert (talk.returncode, talk.stdout) == (2, b"")
    assert len(lines(talk.stderr)) == 1


# ---- on a terminal


def _as_a_login_does() -> None:
    """The terminal is the program's, and Ctrl-C is not ignored: a shell has background jobs inherit that it is."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """The program on a terminal of its own, and what is on the screen since it was looked at last."""

    def __init__(self, *arguments: str, cwd: Path) -> None:
        self._ours, theirs = os.openpty()
        self._process = subprocess.Popen(
            [*PROGRAM, *arguments],
            cwd=cwd,
            env=clean_environ({"TERM": "dumb", "INPUTRC": os.devnull}),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=_as_a_login_does,
        )
        os.close(theirs)
        self._screen = b""

    def press(self, keys: str | bytes) -> None:
        os.write(self._ours, keys.encode() if isinstance(keys, str) else keys)

    def wait_for(self, text: str, press_again: bytes = b"") -> None:
        """Until this is on the screen; what comes after it is looked at next. Meanwhile press this now and then."""
        expected, end = text.encode(), time.monotonic() + DEADLINE_S
        while expected not in self._screen:
            ready, _, _ = select.select([self._ours], [], [], PRESS_AGAIN_S)
            assert time.monotonic() < end, f"no {text!r} in {DEADLINE_S} s: {self._screen.decode(errors='replace')}"
            if not ready:
                self.press(press_again)
                continue
            try:
                self._screen += os.read(self._ours, 65536)
            except OSError:
                raise AssertionError(f"it ended without {text!r}: {self._screen.decode(errors='replace')}") from None
        self._screen = self._screen.partition(expected)[2]

    def wait(self) -> int:
        """Until it has ended; returns its exit code."""
        while self._read_rest():
            pass
        return self._process.wait(DEADLINE_S)

    def _read_rest(self) -> bool:
        try:
            return bool(os.read(self._ours, 65536))
        except OSError as error:
            if error.errno == errno.EIO:  # nobody has the other end open any more
                return False
            raise

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(DEADLINE_S)
        os.close(self._ours)


@pytest.fixture
def terminal(home: Path) -> Iterator[Terminal]:
    """``gbot chat`` with the bot above, ready for the first line."""
    started = Terminal("mybot:bot", "--user", "太郎", cwd=home)
    try:
        started.wait_for("/help lists")
        started.wait_for("太郎> ")
        yield started
    finally:
        started.close()


def test_a_talk_on_a_terminal(terminal: Terminal) -> None:
    terminal.press("おはよう\n")
    terminal.wait_for("reply: おはよう")
    terminal.wait_for("太郎> ")
    terminal.press(UP + b" again\n")
    terminal.wait_for("reply: おはよう again")
    terminal.press("/as Ben\n")
    terminal.wait_for("Ben> ")
    terminal.press(CTRL_D)
    assert terminal.wait() == 0


@pytest.mark.parametrize(("text", "shown"), [("sleep", "push: sleeping"), ("compute", "push: computing")])
def test_ctrl_c_stops_a_handler_and_the_talk_goes_on(terminal: Terminal, text: str, shown: str) -> None:
    for _ in range(2):
        terminal.press(f"{text}\n")
        terminal.wait_for(shown)
        terminal.press(CTRL_C)
        terminal.wait_for("-- interrupted")
        terminal.wait_for("太郎> ")
    terminal.press("hi\n/quit\n")
    terminal.wait_for("reply: hi")
    assert terminal.wait() == 0


def test_a_second_ctrl_c_leaves_a_handler_behind_that_does_not_stop(terminal: Terminal) -> None:
    terminal.press("stay\n")
    terminal.wait_for("push: staying")
    terminal.press(CTRL_C)
    terminal.wait_for("push: staying")
    terminal.press(CTRL_C)
    terminal.wait_for("-- interrupted, but the handler goes on", press_again=CTRL_C)
    terminal.wait_for("太郎> ")
    terminal.press("hi\n/quit\n")
    terminal.wait_for("reply: hi")
    assert terminal.wait() == 0


def test_ctrl_c_gives_up_a_line(terminal: Terminal) -> None:
    terminal.press("half a line")
    terminal.wait_for("half a line")
    terminal.press(CTRL_C)
    terminal.wait_for("太郎> ", press_again=CTRL_C)  # readline does not notice one that comes while it draws
    terminal.press("hi\n")
    terminal.wait_for("reply: hi")
