"""A talk with a bot in the terminal, without a network: lines in, what the bot sends out.

A line is a text, or a command that begins with "/" and makes some other event. Each event runs in a greenlet of its
own, as in the server, on the stage of :mod:`gbot.testing`: users and states are kept until the talk ends. While a line
is typed nothing else runs: a greenlet that a handler has left behind goes on with the next event.

- A handler that fails: its traceback is shown from the author's code on, and the talk goes on.
- Ctrl-C stops a handler as a stop of the server would, a second Ctrl-C leaves one behind that does not let itself be
  stopped; the talk goes on.
"""

from __future__ import annotations

import json
import shlex
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn, Self

import gevent

from gbot.bot import Bot
from gbot.chat_screen import sent_lines
from gbot.inbox import State
from gbot.logs import one_line
from gbot.testing import Answers, Client, Sent, Talk

LOOK_INTERVAL_S: Final = 0.2  # a signal that comes just before the hub begins to wait is noticed when it wakes up
GROUP: Final = "friends"

Say = Callable[[str], None]


class Misused(Exception):
    """A command cannot be carried out as it was typed."""


class Chat:
    """One talk. ``say`` takes what is to be shown, a line at a time; ``complain`` takes tracebacks.

    ``db`` is the URL of the bot's own database, if it has one. Raises StartError where that cannot be reached.
    """

    def __init__(self, bot: Bot, name: str, language: str, say: Say, complain: Say, db: str | None = None) -> None:
        self._client = Client(bot, name=name, language=language, on_sent=self._show, db=db)
        self._talk: Talk = self._client
        self._name, self._language = name, language
        self._group: str | None = None
        self._names: dict[str, str] = {self._client.user_id: name}  # of all that were talked to
        self._say = say
        self._complain = complain

    @property
    def prompt(self) -> str:
        """Who talks, and where."""
        return f"{self._name} in {self._group}> " if self._group is not None else f"{self._name}> "

    def handle(self, line: str) -> bool:
        """One line that was typed; returns whether the talk goes on."""
        line = line.strip()
        word, _, rest = line.partition(" ")
        command = COMMANDS.get(word)
        if command is None:
            text = line[1:] if line.startswith("//") else line
            if text:
                self._run(lambda: self._talk.text(text))
            return True
        try:
            return command.run(self, rest.strip()) is not False
        except Misused as error:
            self._say(f"-- {error}")
            return True

    # What happens to the bot.

    def _run(self, make_event: Callable[[], Answers]) -> None:
        """Run one event in its greenlet until it has ended, or Ctrl-C is pressed."""
        greenlet = gevent.spawn(_caught, make_event)
        with CtrlC(greenlet) as ctrl_c:
            left_behind = ctrl_c.join()
        ended = greenlet.value
        if left_behind:
            self._say("-- interrupted, but the handler goes on")
        elif ctrl_c.pressed:
            self._say("-- interrupted")
        elif isinstance(ended, Answers):
            self._tell_end(ended)
        elif ended is not None:
            self._complain(authors_traceback(ended))

    def _show(self, sent: Sent) -> None:
        for line in sent_lines(sent, self._talk.conversation.id, self._names):
            self._say(line)

    def _tell_end(self, answers: Answers) -> None:
        reason = one_line(answers.reason).removeprefix("Retry: ")
        match answers.ended:
            case State.UNHANDLED:
                self._say(f"-- {reason}")
            case State.DROPPED:
                self._say(f"-- dropped: {reason}")
            case State.RETRY:
                self._say(f"-- to be run again in {answers.after_s:g} s: {reason}")
            case State.DONE if not answers:
                self._say("-- no answer")

    # Commands. They take what follows the command's word.

    def follow(self, rest: str) -> None:
        self._run(self._talk.follow)

    def unfollow(self, rest: str) -> None:
        self._run(self._talk.unfollow)

    def sticker(self, rest: str) -> None:
        match rest.split():
            case []:
                self._run(self._talk.sticker)
            case [package_id, sticker_id]:
                self._run(lambda: self._talk.sticker(package_id, sticker_id))
            case _:
                _misuse("/sticker")

    def image(self, rest: str) -> None:
        path = _readable(rest, "/image")
        self._run(lambda: self._talk.image(path))

    def video(self, rest: str) -> None:
        self._run(self._talk.video)

    def audio(self, rest: str) -> None:
        self._run(self._talk.audio)

    def file(self, rest: str) -> None:
        path = _readable(rest, "/file")
        self._run(lambda: self._talk.file(path, path.name))

    def location(self, rest: str) -> None:
        words = rest.split(None, 2)
        try:
            latitude, longitude = float(words[0]), float(words[1])
        except (IndexError, ValueError):
            _misuse("/location")
        if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
            raise Misused("there is no such place: latitudes are from -90 to 90, longitudes from -180 to 180")
        self._run(lambda: self._talk.location(latitude, longitude, " ".join(words[2:])))

    def postback(self, rest: str) -> None:
        if not rest:
            _misuse("/postback")
        self._run(lambda: self._talk.postback(rest))

    def as_user(self, rest: str) -> None:
        if not rest:
            _misuse("/as")
        self._name = rest
        self._sit_down()

    def in_group(self, rest: str) -> None:
        self._group = rest or (GROUP if self._group is None else None)
        self._sit_down()
        if self._group is not None and self._talk.conversation.id not in self._names:
            self._names[self._talk.conversation.id] = self._group
            self._run(self._talk.join)

    def _sit_down(self) -> None:
        """Talk as the user of this name from now on, in the group if there is one."""
        alone = self._client.user(self._name, self._language)
        self._names[alone.user_id] = self._name
        self._talk = alone if self._group is None else alone.group(self._group)

    def state(self, rest: str) -> None:
        self._say(json.dumps(self._talk.state, ensure_ascii=False, indent=2))

    def help(self, rest: str) -> None:
        width = max(len(command.usage) for command in COMMANDS.values())
        for command in COMMANDS.values():
            self._say(f"{command.usage:<{width}}  {command.sentence}")
        self._say("Anything else is a text; with two slashes, //help reaches the bot as /help.")

    def quit(self, rest: str) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Command:
    usage: str
    sentence: str
    run: Callable[[Chat, str], bool | None]


_ALL: Final = (
    Command("/follow", "add the bot as a friend, or unblock it", Chat.follow),
    Command("/unfollow", "block the bot", Chat.unfollow),
    Command("/sticker [PACKAGE STICKER]", "send a sticker", Chat.sticker),
    Command("/image FILE", "send an image", Chat.image),
    Command("/video", "send a video", Chat.video),
    Command("/audio", "send a voice message", Chat.audio),
    Command("/file FILE", "send a file", Chat.file),
    Command("/location LAT LON [TITLE]", "send a place", Chat.location),
    Command("/postback DATA", "press a button that has this data", Chat.postback),
    Command("/as NAME", "go on as another user", Chat.as_user),
    Command("/group [NAME]", "go on in a group, which the bot joins; without NAME also back", Chat.in_group),
    Command("/state", "show what the bot has stored of this conversation (ctx.state)", Chat.state),
    Command("/help", "show this", Chat.help),
    Command("/quit", "leave, as Ctrl-D does", Chat.quit),
)
COMMANDS: Final = {command.usage.partition(" ")[0]: command for command in _ALL}


class CtrlC:
    """Stops a greenlet when Ctrl-C is pressed, wherever it is; a second time, leaves it behind.

    KeyboardInterrupt is raised in the greenlet only, and only while it computes: anywhere else it would tear gevent's
    own work apart.
    """

    def __init__(self, greenlet: gevent.Greenlet[..., Any]) -> None:
        self.pressed = 0
        self._over = False
        self._greenlet = greenlet
        self._main = gevent.getcurrent()
        self._hub = gevent.get_hub()
        self._alarm = self._hub.loop.timer(LOOK_INTERVAL_S, LOOK_INTERVAL_S)

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._on_signal)
        self._alarm.start(lambda: None)
        return self

    def __exit__(self, *error: object) -> None:
        self._over = True
        signal.signal(signal.SIGINT, self._before)
        self._alarm.stop()
        self._alarm.close()

    def join(self) -> bool:
        """Wait for the greenlet's end; returns whether it was left behind."""
        try:
            self._greenlet.join()
        except KeyboardInterrupt:
            return True
        return False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.pressed += 1
        if gevent.getcurrent() not in (self._main, self._hub):
            raise KeyboardInterrupt
        self._hub.loop.run_callback_threadsafe(self._stop)

    def _stop(self) -> None:
        """Runs in the hub."""
        if self.pressed == 1:
            self._greenlet.kill(block=False)
        elif not self._over:
            self._main.throw(KeyboardInterrupt)


def _misuse(word: str) -> NoReturn:
    raise Misused(f"expected {COMMANDS[word].usage}")


def _readable(rest: str, word: str) -> Path:
    """The file that was named, in quotes or without. Raises Misused."""
    try:
        path = Path(" ".join(shlex.split(rest)) or _misuse(word)).expanduser()
    except ValueError:  # a lone quotation mark
        path = Path(rest)
    try:
        path.open("rb").close()
    except OSError as error:
        raise Misused(f"{one_line(str(path))}: {error.strerror}") from None
    return path


def _caught(make_event: Callable[[], Answers]) -> Answers | BaseException:
    try:
        return make_event()
    except BaseException as error:
        return error


def authors_traceback(error: BaseException) -> str:
    """The error and where it comes from, without gbot's own way to the handler."""
    frames = error.__traceback__
    while frames is not None and _is_ours(frames.tb_frame.f_globals.get("__name__", "")):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames)).rstrip()


def _is_ours(module: str) -> bool:
    return module.startswith("gbot.") and not module.startswith("gbot.examples.")
