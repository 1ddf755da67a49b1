"""A talk in the terminal: lines in, lines out."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gbot import Bot, Context, Drop, Retry
from gbot.chat import COMMANDS, Chat
from gbot.chat_screen import JSON_CHARS_MAX, message_lines, sent_lines
from gbot.testing import Sent

YES = {"type": "message", "label": "Yes", "text": "yes, please"}
BUY = {"type": "postback", "label": "Buy", "data": "action=buy"}
WEB = {"type": "uri", "label": "Look", "uri": "https://shop.example/"}
DATE = {"type": "datetimepicker", "label": "When", "data": "d", "mode": "date"}


class Terminal:
    """A chat with a bot, and what it has shown."""

    def __init__(self, bot: Bot) -> None:
        self.complaints: list[str] = []
        self._shown: list[str] = []
        self.chat = Chat(bot, "Anna", "en", self._shown.append, self.complaints.append)

    def type(self, *lines: str) -> list[str]:
        """What is shown because of these lines."""
        self._shown.clear()
        for line in lines:
            assert self.chat.handle(line), f"{line} has ended the chat"
        return list(self._shown)


def terminal(handler: Callable[[Context], object]) -> Terminal:
    bot = Bot()
    bot.default(handler)
    return Terminal(bot)


def telling(ctx: Context) -> None:
    """Answers with what has arrived."""
    who = ctx.user.display_name if ctx.event.user_id else "nobody"
    ctx.reply(f"{who}: {ctx.event.kind} {ctx.text}".rstrip())


# ---- what is typed


def test_a_line_is_a_text() -> None:
    shown = terminal(telling).type("hello", "  こんにちは  ", "", "   ", "a /follow b")
    assert shown == [
        "reply: Anna: message.text hello",
        "reply: Anna: message.text こんにちは",
        "reply: Anna: message.text a /follow b",
    ]


def test_only_known_commands_are_kept_from_the_bot() -> None:
    shown = terminal(telling).type("/weather Oslo", "/followers", "//help me", "///", "//")
    texts = ["/weather Oslo", "/followers", "/help me", "//", "/"]
    assert shown == [f"reply: Anna: message.text {text}" for text in texts]


def test_commands_make_other_events(tmp_path: Path) -> None:
    spaced = tmp_path / "my cat.png"
    spaced.write_bytes(b"a cat")
    lines = {
        "/follow": "follow",
        "/sticker": "message.sticker",
        "/sticker 1 2": "message.sticker",
        f"/image {spaced}": "message.image",
        f"/image '{spaced}'": "message.image",
        "/video": "message.video",
        "/audio": "message.audio",
        f"/file {spaced}": "message.file",
        "/location 35.6 139.7": "message.location",
        "/location -90 180 東京 駅": "message.location",
        "/postback action=buy&item=1": "postback",
    }
    assert terminal(telling).type(*lines) == [f"reply: Anna: {kind}" for kind in lines.values()]


def test_what_was_typed_is_in_the_event(tmp_path: Path) -> None:
    raws: list[Any] = []
    contents: list[bytes] = []

    def handler(ctx: Context) -> None:
        raws.append(ctx.event.raw)
        if ctx.event.kind == "message.file":
            with ctx.content() as content:
                contents.append(b"".join(content))

    path = tmp_path / "minutes of may.txt"
    path.write_bytes(b"nothing happened")
    typed = ["/sticker 11 22", "/location 35.5 139 東京 駅", "/postback a=1 b", f"/file {path}", "/unfollow"]
    terminal(handler).type(*typed)
    sticker, place, postback, file, unfollow = raws
    assert (sticker["message"]["packageId"], sticker["message"]["stickerId"]) == ("11", "22")
    assert [place["message"][name] for name in ("latitude", "longitude", "title")] == [35.5, 139.0, "東京 駅"]
    assert postback["postback"]["data"] == "a=1 b"
    assert (file["message"]["fileName"], file["message"]["fileSize"]) == ("minutes of may.txt", 16)
    assert contents == [b"nothing happened"]
    assert unfollow["type"] == "unfollow"


@pytest.mark.parametrize("line", ["/sticker 1", "/image", "/file ", "/location 1", "/location x 2", "/postback", "/as"])
def test_a_command_that_is_not_complete_is_explained(line: str) -> None:
    word = line.split()[0]
    assert terminal(telling).type(line) == [f"-- expected {COMMANDS[word].usage}"]


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    console = terminal(telling)
    missing = tmp_path / "it's not here.png"
    assert console.type(f"/image {missing}") == [f"-- {missing}: No such file or directory"]
    assert console.type(f"/file {tmp_path}") == [f"-- {tmp_path}: Is a directory"]
    [refusal] = console.type("/location 91 0")
    assert refusal.startswith("-- there is no such place")


def test_one_can_be_several_users_and_in_groups() -> None:
    console = terminal(telling)
    assert console.chat.prompt == "Anna> "
    assert console.type("/as 太郎", "hi") == ["reply: 太郎: message.text hi"]
    assert console.chat.prompt == "太郎> "
    assert console.type("/group cat lovers", "hi") == ["reply: nobody: join", "reply: 太郎: message.text hi"]
    assert console.chat.prompt == "太郎 in cat lovers> "
    assert console.type("/as Anna", "hi") == ["reply: Anna: message.text hi"]
    assert console.chat.prompt == "Anna in cat lovers> "
    assert console.type("/group") == []
    assert console.chat.prompt == "Anna> "
    assert console.type("/group cat lovers", "/group") == []
    assert console.type("/group") == ["reply: nobody: join"]


def test_states_belong_to_conversations_and_are_shown() -> None:
    def handler(ctx: Context) -> None:
        ctx.state["名前"] = ctx.text

    console = terminal(handler)
    console.type("タマ")
    assert json.loads("".join(console.type("/state"))) == {"名前": "タマ"}
    assert "タマ" in console.type("/state")[0]
    assert console.type("/as Ben", "/state") == ["{}"]


def test_help_lists_every_command_and_the_way_around_them() -> None:
    shown = terminal(telling).type("/help")
    assert [line.split()[0] for line in shown[:-1]] == list(COMMANDS)
    assert "//help" in shown[-1]


def test_quit_ends_the_talk() -> None:
    assert terminal(telling).chat.handle("/quit") is False


# ---- how a run ends


def test_how_it_ended_is_told_where_nothing_else_shows_it() -> None:
    bot = Bot()

    @bot.text("retry")
    def retry(ctx: Context) -> None:
        ctx.push("wait")
        raise Retry("the kitchen is closed", after=600)

    @bot.text("drop")
    def drop(ctx: Context) -> None:
        raise Drop("no use")

    bot.text("nothing")(lambda ctx: None)
    console = Terminal(bot)
    assert console.type("retry") == ["push: wait", "-- to be run again in 600 s: the kitchen is closed"]
    assert console.type("drop") == ["-- dropped: no use"]
    assert console.type("nothing") == ["-- no answer"]
    assert console.type("/sticker") == ["-- the bot has no handler for it"]
    assert console.complaints == []


def test_an_error_is_shown_from_the_authors_code_on() -> None:
    def handler(ctx: Context) -> None:
        if ctx.text == "fail":
            raise KeyError("mine")
        ctx.reply(ctx.text)

    console = terminal(handler)
    assert console.type("fail", "hi") == ["reply: hi"]
    [complaint] = console.complaints
    first, where, *_, last = complaint.splitlines()
    assert first == "Traceback (most recent call last):"
    assert (Path(__file__).name in where, "in handler" in where, last) == (True, True, "KeyError: 'mine'")


def test_a_refused_message_is_explained_without_gbots_own_code() -> None:
    console = terminal(lambda ctx: ctx.reply({"text": "without a type"}))
    assert console.type("hi") == []
    [complaint] = console.complaints
    assert 'expected a "type"' in complaint
    assert "File" not in complaint


def test_a_handler_that_computes_can_be_interrupted() -> None:
    def handler(ctx: Context) -> None:
        if ctx.text == "stop":
            signal.raise_signal(signal.SIGINT)
        ctx.reply(ctx.text)

    console = terminal(handler)
    assert console.type("stop", "hi") == ["-- interrupted", "reply: hi"]
    assert console.complaints == []


# ---- what is shown


def test_messages_are_labelled_with_how_they_leave() -> None:
    names = {"U1": "Anna", "U2": "Ben"}
    text = {"type": "text", "text": "hi"}
    shown = {
        "reply: hi": Sent("reply", ("U1",), text),
        "push: hi": Sent("push", ("U1",), text),
        "push to Ben: hi": Sent("push", ("U2",), text),
        "push to U3: hi": Sent("push", ("U3",), text),
        "multicast to Anna, Ben: hi": Sent("multicast", ("U1", "U2"), text),
        "multicast to Anna, Ben, U3 and 2 more: hi": Sent("multicast", ("U1", "U2", "U3", "U4", "U5"), text),
        "announcement: hi": Sent("announcement", (), text),
        "typing …": Sent("typing", ("U1",)),
    }
    for line, sent in shown.items():
        assert sent_lines(sent, "U1", names) == [line]


def test_lines_of_a_text_stand_below_each_other() -> None:
    sent = Sent("reply", ("U1",), {"type": "text", "text": "one\ntwo\n\n三"})
    assert sent_lines(sent, "U1", {}) == ["reply: one", "       two", "       ", "       三"]


def test_nothing_that_is_sent_reaches_the_terminal_as_a_control_character() -> None:
    assert message_lines({"type": "text", "text": "\x1b[2Jgone"}) == ["\\x1b[2Jgone"]
    assert sent_lines(Sent("push", ("\x1b",), {"type": "text", "text": ""}), "U1", {}) == ["push to \\x1b: "]


def test_quick_replies_tell_what_to_type() -> None:
    items = [{"type": "action", "action": action} for action in (YES, BUY, WEB, DATE)]
    assert message_lines({"type": "text", "text": "Well?", "quickReply": {"items": items}}) == [
        "Well?",
        "[Yes] yes, please",
        "[Buy] /postback action=buy",
        "[Look] https://shop.example/",
        '[When] {"type": "datetimepicker", "data": "d", "mode": "date"}',
    ]


def test_templates_are_readable() -> None:
    buttons = {"type": "buttons", "title": "Menu", "text": "What\nwill it be?", "actions": [YES, BUY]}
    assert message_lines({"type": "template", "altText": "a menu", "template": buttons}) == [
        "(buttons) a menu",
        *("Menu", "What", "will it be?"),
        *("[Yes] yes, please", "[Buy] /postback action=buy"),
    ]
    columns = [{"text": "first", "actions": [YES]}, {"imageUrl": "https://shop.example/1.png", "action": BUY}]
    assert message_lines(
        {"type": "template", "altText": "two", "template": {"type": "carousel", "columns": columns}}
    ) == [
        "(carousel) two",
        *("first", "[Yes] yes, please"),
        "[Buy] /postback action=buy",
    ]


def test_all_else_is_short_json() -> None:
    sticker = {"type": "sticker", "packageId": "1", "stickerId": "2"}
    assert message_lines(sticker) == ['{"type": "sticker", "packageId": "1", "stickerId": "2"}']
    [flex] = message_lines({"type": "flex", "altText": "長い", "contents": {"text": "x" * 1000}})
    assert flex.startswith('{"type": "flex", "altText": "長い"')
    assert len(flex) == JSON_CHARS_MAX + len(" …")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"type": "text", "text": ""},
        {"type": "text", "text": 5},
        {"type": "template", "template": "none"},
        {"type": "template", "template": {"columns": ["none", 5], "actions": {"a": 1}, "text": 1}},
        {"type": "text", "text": "hi", "quickReply": {"items": [{"action": "none"}, {}, 5]}},
        {"type": "text", "text": "hi", "quickReply": {"items": [{"action": {"type": "uri", "uri": 5}}]}},
    ],
)
def test_any_shape_is_shown_somehow(body: dict[str, Any]) -> None:
    assert message_lines(body)
