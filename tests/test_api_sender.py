"""The ways out as a handler uses them: what is cut, merged and repeated on its way, and what arrives."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest

from gbot.errors import LaneBusy, MessageRefused, RecipientGone, ReplyRefused
from gbot.event import Event, Message
from gbot.limiter import Limit
from gbot.outbound.api import Api
from gbot.outbound.api_sender import ApiSender
from gbot.outbound.console import ConsoleSender
from gbot.outbound.transport import Transport
from gbot.platform import Platform
from gbot.platforms.line import LinePlatform
from gbot.platforms.messenger import MessengerPlatform
from gbot.sender import Quota
from gbot.user import Profile
from tests.fake_line import CONTENT, MONTHLY_LIMIT, FakeLineProcess
from tests.rig import event, text_event
from tests.samples import line
from tests.scripted_server import OK, server

KEY = "123e4567-e89b-42d3-a456-426614174000"
HELLO = [Message.of("hello \U0001f31e")]
WINDOW_S = 0.02
LEFT = b'{"error": {"message": "This person is not available right now.", "code": 551}}'
GONE = b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n%s" % (len(LEFT), LEFT)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextmanager
def sender_of(
    platform: Platform, lanes: dict[str, Limit] | None = None, merge_window_s: float = WINDOW_S
) -> Iterator[ApiSender]:
    transport = Transport()
    yield ApiSender(platform, Api(platform, transport, lanes or {}, waiting_max=1000), merge_window_s)
    transport.close()


def line_platform(address: str, token: str | None = line.ACCESS_TOKEN) -> LinePlatform:
    return LinePlatform([line.SECRET], token, address, address)


@pytest.fixture
def sender(fake_line: FakeLineProcess) -> Iterator[ApiSender]:
    with sender_of(line_platform(fake_line.address)) as made:
        yield made


def line_event(number: int = 1, type_: str = "text", **fields: Any) -> Event:
    """A LINE event as gbot parses it."""
    sent = line.event("message", number, message=line.message(type_, number), **fields)
    [parsed] = LinePlatform([line.SECRET], None).parse(line.delivery(sent))
    return parsed


def texts(*words: str) -> list[Message]:
    return [Message.of(word) for word in words]


def user(number: int) -> str:
    return line.hex_id("U", str(number))


def sent_texts(request: dict[str, Any]) -> list[str]:
    return [message["text"] for message in request["body"]["messages"]]


# ---- to one conversation


def test_a_reply_arrives_with_token_and_messages(sender: ApiSender, fake_line: FakeLineProcess) -> None:
    messages = [Message.of("one"), Message.of({"type": "sticker", "packageId": "446", "stickerId": "1988"})]
    sender.reply(line_event(7), messages, None)
    [request] = fake_line.requests()
    assert (request["path"], request["status"]) == ("/v2/bot/message/reply", 200)
    assert request["authorization"] == f"Bearer {line.ACCESS_TOKEN}"
    assert request["retry_key"] is None
    assert request["body"] == {
        "replyToken": line.reply_token(7),
        "messages": [
            {"type": "text", "text": "one"},
            {"type": "sticker", "packageId": "446", "stickerId": "1988"},
        ],
    }


def test_a_push_arrives_once_however_often_it_is_sent(sender: ApiSender, fake_line: FakeLineProcess) -> None:
    sender.push(line.ANNA, HELLO, KEY)
    sender.push(line.ANNA, HELLO, KEY)
    first, second = fake_line.requests()
    assert (first["path"], first["status"], first["retry_key"]) == ("/v2/bot/message/push", 200, KEY)
    assert first["body"] == {"to": line.ANNA, "messages": [{"type": "text", "text": "hello \U0001f31e"}]}
    assert (second["status"], second["retry_key"], second["body"]) == (409, KEY, first["body"])


@pytest.mark.parametrize("to", [line.ANNA, line.GROUP])
def test_many_messages_leave_in_order_under_keys_that_a_later_run_has_again(
    sender: ApiSender, fake_line: FakeLineProcess, to: str
) -> None:
    words = [str(number) for number in range(12)]
    sender.push(to, texts(*words), KEY)
    sender.push(to, texts(*words), KEY)
    requests = fake_line.requests()
    assert [request["status"] for request in requests] == [200, 200, 200, 409, 409, 409]
    assert [sent_texts(request) for request in requests[:3]] == [words[:5], words[5:10], words[10:]]
    keys = [request["retry_key"] for request in requests]
    assert keys[:3] == keys[3:]
    assert len({KEY, *keys}) == 4
    assert keys[0] == str(uuid.uuid5(uuid.UUID(KEY), "0"))


@pytest.mark.parametrize("token", [line.ACCESS_TOKEN, None])
def test_what_line_does_not_take_is_not_sent(fake_line: FakeLineProcess, token: str | None) -> None:
    refused = MessageRefused if token else ReplyRefused
    with sender_of(line_platform(fake_line.address, token)) as sender:
        for messages in (texts(*"123456"), [Message({"text": "no type"})], [Message({"type": "x", "v": object()})]):
            with pytest.raises(refused):
                sender.reply(line_event(), messages, None)
        with pytest.raises(MessageRefused if token else ReplyRefused):
            sender.push(line.GROUP, [Message({"type": "x" * 2**21})], KEY)
        with pytest.raises(ReplyRefused):
            sender.reply(line_event(replyToken=None), HELLO, None)
    assert fake_line.requests() == []


def test_a_reply_does_not_wait_longer_than_it_may(fake_line: FakeLineProcess) -> None:
    limits = {"reply": Limit(count=1, per_s=30.0)}
    with sender_of(line_platform(fake_line.address), limits) as sender:
        sender.reply(line_event(1), HELLO, None)
        with pytest.raises(LaneBusy):
            sender.reply(line_event(2), HELLO, 0.05)
    assert len(fake_line.requests()) == 1


def test_one_connection_carries_many_requests(sender: ApiSender, fake_line: FakeLineProcess) -> None:
    for number in range(10):
        sender.reply(line_event(number), HELLO, None)
    assert len({request["connection"] for request in fake_line.requests()}) == 1


def test_typing_is_shown_in_the_events_conversation(sender: ApiSender, fake_line: FakeLineProcess) -> None:
    sender.typing(line_event(), 20.0)
    [request] = fake_line.requests()
    assert (request["path"], request["status"]) == ("/v2/bot/chat/loading/start", 202)
    assert request["body"] == {"chatId": line.ANNA, "loadingSeconds": 20}


# ---- to many


def push_together(sender: ApiSender, *to: str) -> None:
    pushes = [gevent.spawn(sender.push, address, HELLO, str(uuid.uuid4())) for address in to]
    gevent.joinall(pushes, raise_error=True, timeout=10)


def test_the_same_push_to_many_users_leaves_as_one_multicast(sender: ApiSender, fake_line: FakeLineProcess) -> None:
    push_together(sender, line.GROUP, *(user(number) for number in range(40)), line.ROOM)
    requests = sorted(fake_line.requests(), key=lambda request: str(request["path"]))
    assert [request["path"].rpartition("/")[2] for request in requests] == ["multicast", "push", "push"]
    assert requests[0]["body"]["to"] == [user(number) for number in range(40)]
    assert {request["body"]["to"] for request in requests[1:]} == {line.GROUP, line.ROOM}
    merged = sender.statistics().coalescer
    assert (merged.pushes, merged.calls, merged.saved) == (40, 1, 39)


def test_without_a_window_every_push_leaves_by_itself(fake_line: FakeLineProcess) -> None:
    with sender_of(line_platform(fake_line.address), merge_window_s=0.0) as sender:
        push_together(sender, *(user(number) for number in range(10)))
    assert [request["path"] for request in fake_line.requests()] == ["/v2/bot/message/push"] * 10


def test_a_multicast_that_gets_no_answer_is_repeated_until_it_does(
    sender: ApiSender, fake_line: FakeLineProcess
) -> None:
    """The first one has arrived, and nobody is to get it twice."""
    fake_line.order(*[{"drop": True}] * 4)
    push_together(sender, line.ANNA, line.BEN)
    requests = fake_line.requests()
    assert [request["status"] for request in requests] == [200, 409, 409, 409, 409]
    assert {request["path"] for request in requests} == {"/v2/bot/message/multicast"}
    assert len({(request["retry_key"], str(request["body"])) for request in requests}) == 1


def test_a_list_of_users_takes_as_few_requests_as_it_can(sender: ApiSender, fake_line: FakeLineProcess) -> None:
    everybody = [user(number) for number in range(1200)]
    sender.multicast(everybody, HELLO, KEY)
    requests = fake_line.requests()
    assert [len(request["body"]["to"]) for request in requests] == [500, 500, 200]
    assert [to for request in requests for to in request["body"]["to"]] == everybody
    statistics = sender.statistics()
    assert (statistics.multicast_users, statistics.multicast_calls) == (1200, 3)


def test_a_list_that_failed_half_way_goes_on_where_it_was(sender: ApiSender, fake_line: FakeLineProcess) -> None:
    everybody = [user(number) for number in range(1001)]
    fake_line.order({}, {"status": 400})
    with pytest.raises(Exception, match="answered 400"):
        sender.multicast(everybody, HELLO, KEY)
    sender.multicast(everybody, HELLO, KEY)
    requests = fake_line.requests()
    assert [request["status"] for request in requests] == [200, 400, 409, 200, 200]
    accepted = [request["body"]["to"] for request in requests if request["status"] == 200]
    got = [to for given in accepted for to in ([given] if isinstance(given, str) else given)]
    assert got == everybody  # everybody once


def test_a_list_may_hold_groups_and_more_messages_than_a_request(sender: ApiSender, fake_line: FakeLineProcess) -> None:
    sender.multicast([line.ANNA, line.GROUP, line.BEN], texts(*"1234567"), KEY)
    requests = fake_line.requests()
    assert [(request["body"]["to"], sent_texts(request)) for request in requests] == [
        (line.GROUP, [*"12345"]),
        (line.GROUP, [*"67"]),
        ([line.ANNA, line.BEN], [*"12345"]),
        ([line.ANNA, line.BEN], [*"67"]),
    ]
    assert len({request["retry_key"] for request in requests}) == 4


def test_an_announcement_goes_to_everybody_once(sender: ApiSender, fake_line: FakeLineProcess) -> None:
    sender.announce(HELLO, KEY)
    sender.announce(texts(*"1234567"), KEY)
    sender.announce(texts(*"1234567"), KEY)
    requests = fake_line.requests()
    assert {request["path"] for request in requests} == {"/v2/bot/message/broadcast"}
    assert [request["status"] for request in requests] == [200, 200, 200, 409, 409]
    assert requests[0]["retry_key"] == KEY


# ---- what the platform knows


def test_a_profile_is_what_the_platform_tells(sender: ApiSender) -> None:
    assert sender.profile(line.ANNA) == Profile("Anna", "ja", None, "at sea")
    assert sender.profile(user(1)) is None


def test_content_can_be_saved(sender: ApiSender, tmp_path: Path) -> None:
    with sender.content(line_event(1, "image")) as content:
        assert content.save(tmp_path / "picture.jpeg") == len(CONTENT)
    assert (tmp_path / "picture.jpeg").read_bytes() == CONTENT
    with pytest.raises(ReplyRefused):
        sender.content(line_event(1, "text"))


def test_the_quota_is_asked_for(sender: ApiSender) -> None:
    sender.multicast([line.ANNA, line.BEN], HELLO, KEY)
    assert sender.quota() == Quota(MONTHLY_LIMIT, 2)


# ---- a platform that takes one message at a time, and knows neither multicasts nor retry keys


@contextmanager
def messenger(*answers: bytes) -> Iterator[tuple[ApiSender, list[bytes]]]:
    with server(*answers) as (address, received):
        platform = MessengerPlatform(["secret"], None, "token", f"{address}/v23.0")
        with sender_of(platform) as sender:
            yield sender, received


def messenger_bodies(received: list[bytes]) -> list[tuple[str, str]]:
    """To whom, and what."""
    bodies = [json.loads(request.partition(b"\r\n\r\n")[2]) for request in received]
    return [(body["recipient"]["id"], body["message"]["text"]) for body in bodies]


def test_replies_leave_one_by_one_where_a_request_takes_one_message() -> None:
    asked = Event(platform="messenger", kind="message.text", raw={}, id="m", user_id="42", reply_token="42")
    with messenger(OK) as (sender, received):
        sender.reply(asked, texts("1", "2", "3"), None)
        assert messenger_bodies(received) == [("42", "1"), ("42", "2"), ("42", "3")]


def test_a_list_is_pushed_to_one_by_one_where_there_is_no_multicast() -> None:
    with messenger(OK, OK, GONE, OK) as (sender, received):
        sender.multicast(["1", "2", "3"], texts("a", "b"), KEY)
        # The second user has left: the rest of the messages is not for him, but for the others.
        assert messenger_bodies(received) == [("1", "a"), ("1", "b"), ("2", "a"), ("3", "a"), ("3", "b")]


def test_a_push_to_a_user_who_has_left_says_so() -> None:
    with messenger(GONE) as (sender, received):
        with pytest.raises(RecipientGone):
            sender.push("1", texts("a", "b"), KEY)
        assert messenger_bodies(received) == [("1", "a")]


# ---- the console


def test_the_console_shows_what_would_be_sent() -> None:
    stream = io.StringIO()
    console = ConsoleSender(stream)
    hello = [
        Message.of("hello \U0001f31e"),
        Message({"type": "sticker", "stickerId": "1988"}),
        Message({"type": "text"}),
    ]
    console.reply(text_event("x", "anna"), hello, None)
    console.push("ben", texts("later"), KEY)
    console.multicast(["anna", "ben"], texts("to both"), KEY)
    console.announce(texts("to all"), KEY)
    console.typing(text_event("x", "anna"), 5.0)
    assert stream.getvalue().splitlines() == [
        "reply: hello \U0001f31e",
        'reply: {"type": "sticker", "stickerId": "1988"}',
        'reply: {"type": "text"}',
        "push to ben: later",
        "push to 2 users: to both",
        "push to everybody: to all",
        "typing …",
    ]


def test_the_console_can_be_replied_to_at_any_age_and_length() -> None:
    limits = ConsoleSender().limits
    assert (limits.reply_within_s, limits.reply_messages_max) == (None, None)


def test_the_console_knows_nothing() -> None:
    console = ConsoleSender(io.StringIO())
    assert console.profile("anna") is None
    with pytest.raises(ReplyRefused):
        console.content(event("message.image"))
    console.push("anna", texts("1", "2"), KEY)
    console.multicast(["anna", "ben"], texts("3"), KEY)
    assert console.quota() == Quota(None, 4)


def test_the_console_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    ConsoleSender().reply(event("follow"), texts("welcome"), None)
    assert capsys.readouterr().out == "reply: welcome\n"


def test_the_console_refuses_what_no_platform_could_be_sent() -> None:
    endless: dict[str, Any] = {"type": "x"}
    endless["itself"] = endless
    stream = io.StringIO()
    for body in ({"type": "x", "value": {1, 2}}, endless):
        with pytest.raises(MessageRefused):
            ConsoleSender(stream).reply(event("follow"), [Message(body)], None)
    assert stream.getvalue() == ""
