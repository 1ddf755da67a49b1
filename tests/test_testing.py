"""The test client, used as a bot's author uses it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from linebot.v3.webhooks import Event as SdkEvent

import gbot.testing
from gbot import Bot, Context, Drop, Event, MessageRefused, RecipientGone, ReplyRefused, Retry
from gbot.errors import ContentGone, ReplyTokenExpired
from gbot.sender import Quota
from gbot.testing import Answers, Client, Sent, Talk


def bot_of(handler: Callable[[Context], object]) -> Bot:
    """A bot that does the same about every event."""
    bot = Bot()
    bot.default(handler)
    return bot


def client_of(handler: Callable[[Context], object], platform: str = "line") -> Client:
    return Client(bot_of(handler), platform=platform)


def echo(ctx: Context) -> None:
    ctx.reply(ctx.text)


# ---- what was sent


def test_a_text_is_answered() -> None:
    answers = client_of(echo).text("hi")
    assert answers.texts == ["hi"]
    assert answers.ended == "done"
    assert len(answers) == 1


def test_what_leaves_is_told_in_its_order() -> None:
    def handler(ctx: Context) -> None:
        ctx.typing()
        ctx.reply("one", {"type": "sticker", "packageId": "1", "stickerId": "2"})
        ctx.push("two")
        ctx.push("three", to=[taro.user_id, client.user_id])

    client = client_of(handler)
    taro = client.user("Taro")
    me = client.user_id
    assert list(client.text("hi")) == [
        Sent("typing", (me,)),
        Sent("reply", (me,), {"type": "text", "text": "one"}),
        Sent("reply", (me,), {"type": "sticker", "packageId": "1", "stickerId": "2"}),
        Sent("push", (me,), {"type": "text", "text": "two"}),
        Sent("multicast", (taro.user_id, me), {"type": "text", "text": "three"}),
    ]
    assert client.text("hi").texts == ["one", "two", "three"]


def test_a_message_stays_as_it_was_when_it_left() -> None:
    def handler(ctx: Context) -> None:
        message = {"type": "text", "text": "before"}
        ctx.push(message)
        message["text"] = "after"

    assert client_of(handler).text("hi").texts == ["before"]


def test_messages_are_heard_of_when_they_leave() -> None:
    heard: list[str | None] = []

    def handler(ctx: Context) -> None:
        ctx.push("first")
        assert heard == ["first"]
        ctx.push("second")

    Client(bot_of(handler), on_sent=lambda sent: heard.append(sent.text)).text("hi")
    assert heard == ["first", "second"]


def test_a_long_list_of_users_takes_several_requests() -> None:
    def handler(ctx: Context) -> None:
        ctx.push("news", to=[f"U{number:032x}" for number in range(501)])

    answers = client_of(handler).text("hi")
    assert [(sent.how, len(sent.to)) for sent in answers] == [("multicast", 500), ("push", 1)]


def test_a_list_may_hold_groups_and_more_messages_than_a_request() -> None:
    def handler(ctx: Context) -> None:
        ctx.push(*"123456", to=["U" + "1" * 32, "C" + "2" * 32, "U" + "3" * 32])

    answers = client_of(handler).text("hi")
    assert [(sent.how, sent.to[0][0]) for sent in answers] == [("push", "C")] * 6 + [("multicast", "U")] * 6
    assert answers.texts == [*"123456"] * 2


def test_broadcasts_leave_after_the_handler() -> None:
    bot = Bot()

    @bot.text()
    def handler(ctx: Context) -> None:
        bot.broadcast([client.user_id], "to some")
        bot.announce("to all")
        ctx.push("first")

    client = Client(bot)
    answers = client.text("hi")
    assert [(sent.how, sent.text) for sent in answers] == [
        ("push", "first"),
        ("push", "to some"),  # one user needs no multicast
        ("announcement", "to all"),
    ]
    assert answers.ended == "done"
    bot.broadcast([client.user_id], "later")
    assert client.broadcasts().texts == ["later"]
    assert client.broadcasts().texts == []


def test_what_was_pushed_counts_towards_the_quota() -> None:
    quotas: list[Quota] = []

    def handler(ctx: Context) -> None:
        quotas.append(ctx.quota())
        ctx.reply("free")
        ctx.push("for two", to=["U1", "U2"])

    client = client_of(handler)
    client.text("hi")
    client.text("hi")
    assert quotas == [Quota(None, 0), Quota(None, 2)]


# ---- what would be refused


def test_a_reply_takes_five_messages() -> None:
    def handler(ctx: Context) -> None:
        for number in range(int(ctx.text)):
            ctx.reply(str(number))

    client = client_of(handler)
    assert client.text("5").texts == ["0", "1", "2", "3", "4"]
    with pytest.raises(ReplyRefused, match="5 messages"):
        client.text("6")


def test_a_message_that_the_platform_would_refuse_fails_the_test() -> None:
    heard: list[Sent] = []
    client = Client(bot_of(lambda ctx: ctx.reply({"text": "without a type"})), on_sent=heard.append)
    with pytest.raises(MessageRefused, match='"type"'):
        client.text("hi")
    assert heard == []


@pytest.mark.parametrize("make", [Talk.unfollow, Talk.leave], ids=["unfollow", "leave"])
def test_events_without_a_reply_token_cannot_be_replied_to(make: Callable[[Talk], Answers]) -> None:
    with pytest.raises(ReplyRefused, match="without a reply token"):
        make(client_of(lambda ctx: ctx.reply("too late")).group("friends"))


def test_a_reply_that_comes_too_late_is_refused() -> None:
    client = client_of(echo)
    assert client.text("hi").texts == ["hi"]
    assert client.again(after_s=50).texts == ["hi"]
    with pytest.raises(ReplyTokenExpired):
        client.again(after_s=15)


# ---- how it ended


def test_an_error_of_a_handler_is_raised_from_its_own_line() -> None:
    def handler(ctx: Context) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as raised:
        client_of(handler).text("hi")
    names = [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert names[-1] == "handler"
    assert not {"_attempt", "call"} & set(names)


def test_an_error_at_the_end_of_a_handler_is_raised_as_well() -> None:
    def handler(ctx: Context) -> None:
        ctx.state["when"] = object()

    with pytest.raises(gbot.errors.StateRefused):
        client_of(handler).text("hi")


def test_an_error_can_be_looked_at_instead() -> None:
    client = Client(bot_of(lambda ctx: 1 / 0), raise_errors=False)
    answers = client.text("hi")
    assert (answers.ended, list(answers)) == ("retry", [])
    assert "ZeroDivisionError" in answers.reason


def test_an_error_does_not_come_back_with_the_next_event() -> None:
    def handler(ctx: Context) -> None:
        if ctx.text == "fail":
            raise KeyError
        ctx.reply(ctx.text)

    client = client_of(handler)
    with pytest.raises(KeyError):
        client.text("fail")
    assert client.text("hi").texts == ["hi"]


def test_verdicts_and_missing_handlers_are_told() -> None:
    bot = Bot()

    @bot.text("retry")
    def retry(ctx: Context) -> None:
        raise Retry("closed", after=600)

    @bot.text("drop")
    def drop(ctx: Context) -> None:
        raise Drop("no use")

    client = Client(bot)
    answers = client.text("retry")
    assert (answers.ended, answers.reason, answers.after_s) == ("retry", "Retry: closed", 600)
    answers = client.text("drop")
    assert (answers.ended, answers.reason) == ("dropped", "no use")
    assert client.sticker().ended == "unhandled"


def test_an_event_runs_again_until_it_is_given_up() -> None:
    bot = Bot()
    attempts: list[int] = []

    @bot.default
    def handler(ctx: Context) -> None:
        attempts.append(ctx.attempt)
        raise Retry("not yet")

    given_up: list[str] = []
    bot.error(lambda ctx, error: given_up.append(str(error)))
    client = Client(bot)
    ended = [client.text("hi").ended] + [client.again().ended for _ in range(4)]
    assert ended == ["retry"] * 4 + ["dead"]
    assert (attempts, given_up) == ([1, 2, 3, 4, 5], ["not yet"])


def test_a_redelivery_runs_nothing() -> None:
    client = client_of(echo)
    assert client.text("hi").texts == ["hi"]
    again = client.redeliver()
    assert (list(again), again.ended) == ([], None)


def test_nothing_can_be_repeated_before_anything_happened() -> None:
    client = client_of(echo)
    for repeat in (client.again, client.redeliver):
        with pytest.raises(ValueError, match="nothing has"):
            repeat()


# ---- users and states


def counting(ctx: Context) -> None:
    ctx.state["count"] = ctx.state.get("count", 0) + 1
    if ctx.text == "fail":
        raise KeyError
    if ctx.text == "forget":
        ctx.forget()


def test_states_are_kept_by_conversation() -> None:
    client = client_of(counting)
    taro = client.user("Taro")
    for talk in (client, client, taro, client.group("friends"), taro.group("friends")):
        talk.text("hi")
    states = [talk.state for talk in (client, taro, client.group("friends"), client.group("others"))]
    assert states == [{"count": 2}, {"count": 1}, {"count": 2}, {}]
    assert client_of(counting).state == {}


def test_a_handler_that_fails_changes_nothing() -> None:
    client = client_of(counting)
    client.text("hi")
    with pytest.raises(KeyError):
        client.text("fail")
    assert client.state == {"count": 1}


def test_users_are_known_by_name_and_language() -> None:
    client = client_of(lambda ctx: ctx.reply(f"{ctx.user.display_name or 'nobody'} {ctx.user.language}"))
    assert client.text("hi").texts == ["Anna en"]
    assert client.user("太郎", language="ja").text("hi").texts == ["太郎 ja"]
    assert client.user("").text("hi").texts == ["nobody None"]
    told = bot_of(lambda ctx: ctx.reply(f"{ctx.user.display_name} {ctx.user.language}"))
    assert Client(told, name="Ben", language="de").text("hi").texts == ["Ben de"]


def test_a_user_who_has_left_gets_nothing_until_coming_back() -> None:
    def handler(ctx: Context) -> None:
        if ctx.text:
            ctx.push("news", to=taro.user_id)

    client = client_of(handler)
    taro = client.user("Taro")
    taro.follow()
    assert taro.stored_user is not None
    assert (taro.stored_user.display_name, taro.stored_user.gone) == ("Taro", False)
    taro.unfollow()
    assert taro.stored_user.gone
    with pytest.raises(RecipientGone):
        client.text("push")
    taro.follow()
    assert client.text("push").texts == ["news"]


def test_the_platform_does_not_tell_who_has_left() -> None:
    names: list[str] = []
    client = client_of(lambda ctx: names.append(ctx.user.display_name))
    client.unfollow()
    client.user("Taro").follow()
    assert names == ["", "Taro"]


def test_what_is_forgotten_is_not_stored() -> None:
    client = client_of(counting)
    client.follow()
    client.text("hi")
    client.text("forget")
    assert (client.state, client.stored_user) == ({}, None)


# ---- contents


def test_contents_are_bytes_or_files(tmp_path: Path) -> None:
    got: list[tuple[str | None, int | None, bytes]] = []

    def handler(ctx: Context) -> None:
        with ctx.content() as content:
            got.append((content.content_type, content.length, b"".join(content)))

    client = client_of(handler)
    picture = tmp_path / "cat.png"
    picture.write_bytes(b"a cat")
    large = bytes(200_000)
    client.image(picture)
    client.image(str(picture))
    client.video(large)
    client.audio(b"")
    client.file(b"%PDF")
    assert got == [
        ("image/png", 5, b"a cat"),
        ("image/png", 5, b"a cat"),
        ("video/mp4", 200_000, large),
        ("audio/x-m4a", 0, b""),
        ("application/octet-stream", 4, b"%PDF"),
    ]


def test_a_content_can_be_saved(tmp_path: Path) -> None:
    def handler(ctx: Context) -> None:
        with ctx.content() as content:
            ctx.reply(str(content.save(tmp_path / "saved")))

    assert client_of(handler).image(b"a cat").texts == ["5"]
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    assert (tmp_path / "saved").read_bytes() == b"a cat"


def test_a_content_that_is_not_there_is_refused() -> None:
    client = client_of(lambda ctx: ctx.content())
    with pytest.raises(ContentGone):
        client.image(None)
    with pytest.raises(ReplyRefused):
        client.text("hi")


# ---- events


def every_line_event(client: Client) -> dict[str, Answers]:
    group = client.group("friends")
    return {
        "message.text": client.text("hi"),
        "message.image": client.image(),
        "message.video": client.video(),
        "message.audio": client.audio(),
        "message.file": client.file(),
        "message.location": client.location(35.65, 139.7, "the harbour", "1 Quay Street"),
        "message.sticker": client.sticker(),
        "postback": client.postback("action=buy"),
        "follow": client.follow(),
        "unfollow": client.unfollow(),
        "join": group.join(),
        "leave": group.leave(),
        "beacon": client.event("beacon", beacon={"hwid": "d41d8cd98f", "type": "enter"}),
        "unsend": client.event("unsend", unsend={"messageId": "1"}),
    }


def test_events_are_what_line_sends() -> None:
    events: list[Event] = []
    kinds = every_line_event(client_of(lambda ctx: events.append(ctx.event)))
    assert [event.kind for event in events] == list(kinds)
    assert len({event.id for event in events}) == len(kinds)
    for event in events:
        sdk_event = SdkEvent.from_dict(event.raw)
        assert sdk_event.type == event.raw["type"]
        assert sdk_event.webhook_event_id == event.id
    location = events[5].raw["message"]
    assert (location["title"], location["latitude"]) == ("the harbour", 35.65)


def test_fields_of_an_event_can_be_set() -> None:
    events: list[Event] = []
    client = client_of(lambda ctx: events.append(ctx.event))
    client.event("message.contact")
    client.event("message.text", mode="standby", message={"type": "text", "id": "1", "text": "hi"})
    assert [(event.kind, event.standby, event.text) for event in events] == [
        ("message.unknown", False, None),
        ("message.text", True, "hi"),
    ]


def test_messenger_is_spoken_as_well() -> None:
    events: list[Event] = []

    def handler(ctx: Context) -> None:
        events.append(ctx.event)
        ctx.reply(ctx.event.kind, ctx.user.display_name)

    client = client_of(handler, "messenger")
    made = [client.text("hi"), client.image(), client.file(), client.location(1, 2), client.sticker()]
    made += [client.postback("buy"), client.postback("buy"), client.event("reaction")]
    kinds = ["message.text", "message.image", "message.file", "message.location", "message.sticker"]
    assert [event.kind for event in events] == [*kinds, "postback", "postback", "reaction"]
    assert [answers.texts for answers in made] == [[event.kind, "Anna"] for event in events]
    assert client.image(b"a cat").ended == "done"


def test_what_a_platform_does_not_have_cannot_be_tested_on_it() -> None:
    client = client_of(echo, "messenger")
    with pytest.raises(ValueError, match="no groups"):
        client.group("friends")
    with pytest.raises(ValueError, match="no events of kind follow"):
        client.follow()
    with pytest.raises(ValueError, match="expected one of line, messenger, got 'plain'"):
        client_of(echo, "plain")


# ---- surroundings


def test_handlers_have_a_session_of_requests() -> None:
    sessions: list[object] = []
    client_of(lambda ctx: sessions.append(ctx.http)).text("hi")
    assert isinstance(sessions[0], requests.Session)


def test_it_leaves_the_process_alone() -> None:
    """No patching, and no hub of gevent's unless a handler uses gevent itself."""
    code = """
        import socket
        from gbot import Bot
        from gbot.testing import Client
        bot = Bot()
        bot.default(lambda ctx: (ctx.typing(), ctx.reply(ctx.user.display_name), ctx.push("x")))
        print(*Client(bot).text("hi").texts)
        from gevent import monkey
        from gevent._hub_local import get_hub_if_exists
        print(get_hub_if_exists(), monkey.is_module_patched("socket"))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=30, check=True
    )
    assert result.stdout.split() == ["Anna", "x", "None", "False"]


def test_the_example_in_its_documentation_works(tmp_path: Path) -> None:
    assert gbot.testing.__doc__ is not None
    example = gbot.testing.__doc__.partition("::\n\n")[2].partition("\n\nEach call")[0]
    (tmp_path / "test_mybot.py").write_text(textwrap.dedent(example), encoding="utf-8")
    (tmp_path / "mybot.py").write_text(textwrap.dedent(MYBOT), encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "4 passed" in result.stdout, result.stdout


MYBOT = """
    import re
    from gbot import Bot, Retry

    bot = Bot()

    @bot.text(re.compile(r"my cat is called (?P<name>\\w+)"))
    def remember(ctx, name):
        ctx.state["cat"] = name

    @bot.text()
    def echo(ctx):
        ctx.reply(ctx.text)

    @bot.on("follow")
    def greet(ctx):
        ctx.reply(f"{ctx.user.display_name}さん、はじめまして。")

    @bot.on("postback")
    def order(ctx):
        if ctx.attempt == 1:
            raise Retry("the kitchen is closed", after=600)
        ctx.push("Ordered.")
"""
