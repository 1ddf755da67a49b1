"""Messenger's outgoing side: requests to the Graph API, and what its answers mean."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gbot.errors import ApiRejected, MessageRefused, ReplyRefused
from gbot.event import Event, Message
from gbot.platform import (
    Announcement,
    ApiAnswer,
    ApiRequest,
    AskContent,
    AskProfile,
    AskQuota,
    Judgement,
    Multicast,
    Push,
    Reply,
    Typing,
)
from gbot.platforms.messenger import MessengerPlatform
from gbot.user import Profile
from tests.samples import messenger

RETRY_KEY = "123e4567-e89b-42d3-a456-426614174000"
HELLO = Message.of("hello")
AUTHORIZED = {"Authorization": f"Bearer {messenger.PAGE_TOKEN}"}
platform = MessengerPlatform([messenger.SECRET], messenger.VERIFY_TOKEN, messenger.PAGE_TOKEN)
[EVENT] = platform.parse(messenger.delivery(messenger.text("hi")))
NOBODYS = Event(platform="messenger", kind="unknown", raw={})


def content_event(url: object, kind: str = "image") -> Event:
    [event] = platform.parse(messenger.delivery(messenger.attached(kind, url=url)))
    return event


def answer(status: int, body: object = None) -> ApiAnswer:
    return ApiAnswer(status, {"content-type": "application/json"}, json.dumps(body).encode())


def error(code: object, subcode: object = None, status: int = 400, **fields: Any) -> ApiAnswer:
    told = {"message": "(#1) Some words", "type": "OAuthException", "code": code, "fbtrace_id": "A1"} | fields
    return answer(status, {"error": told if subcode is None else told | {"error_subcode": subcode}})


def asked(lane: str) -> ApiRequest:
    return ApiRequest("GET", "https://graph.facebook.com", "/", {}, b"", lane)


# ---- encode


def test_a_reply_in_full() -> None:
    assert platform.encode(Reply(EVENT, [HELLO])) == ApiRequest(
        "POST",
        "https://graph.facebook.com",
        "/v23.0/me/messages",
        {**AUTHORIZED, "Content-Type": "application/json"},
        f'{{"recipient":{{"id":"{messenger.ANNA}"}},"messaging_type":"RESPONSE",'
        '"message":{"text":"hello"}}'.encode(),
        "send",
    )


def test_a_push_is_an_update() -> None:
    request = platform.encode(Push(messenger.BEN, [HELLO], RETRY_KEY))
    assert json.loads(request.body) == {
        "recipient": {"id": messenger.BEN},
        "messaging_type": "UPDATE",
        "message": {"text": "hello"},
    }
    assert (request.lane, request.repeatable) == ("send", False)
    assert RETRY_KEY not in f"{request.headers}{request.path}"


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"type": "text", "text": "hi", "quick_replies": []}, {"text": "hi", "quick_replies": []}),
        ({"text": "hi", "metadata": "m"}, {"text": "hi", "metadata": "m"}),
        ({"attachment": {"type": "image", "payload": {"url": "https://a.example/b.png"}}},) * 2,
        ({"attachment": {"type": "template", "payload": {}}, "type": "other"},) * 2,
    ],
)
def test_a_dict_is_the_message_as_it_is(given: dict[str, Any], sent: dict[str, Any]) -> None:
    before = json.dumps(given)
    assert json.loads(platform.encode(Reply(EVENT, [Message(given)])).body)["message"] == sent
    assert json.dumps(given) == before


@pytest.mark.parametrize("empty", [{}, {"type": "text"}])
def test_a_message_of_nothing_is_refused(empty: dict[str, Any]) -> None:
    with pytest.raises(MessageRefused, match="message 1: expected a"):
        platform.encode(Reply(EVENT, [Message(empty)]))


@pytest.mark.parametrize("count", [0, 2])
def test_one_message_goes_at_a_time(count: int) -> None:
    with pytest.raises(MessageRefused, match=f"expected 1 message in one request, got {count}; nothing was sent"):
        platform.encode(Push(messenger.ANNA, [HELLO] * count, RETRY_KEY))


def test_without_a_page_token_the_setting_is_named() -> None:
    mute = MessengerPlatform([messenger.SECRET], None, None)
    for outgoing in (Reply(EVENT, [HELLO]), AskProfile(messenger.ANNA), Typing(EVENT, 5)):
        with pytest.raises(ReplyRefused, match="set GBOT_MESSENGER_PAGE_TOKEN; nothing was sent"):
            mute.encode(outgoing)


def test_a_reply_to_nobody_and_a_push_to_nobody_are_refused() -> None:
    for outgoing in (Reply(NOBODYS, [HELLO]), Typing(NOBODYS, 5)):
        with pytest.raises(ReplyRefused, match="without its sender's id; nothing was sent"):
            platform.encode(outgoing)
    with pytest.raises(MessageRefused, match="to: expected the id of a user"):
        platform.encode(Push("", [HELLO], RETRY_KEY))


def test_typing_may_be_repeated_and_no_message_may() -> None:
    request = platform.encode(Typing(EVENT, 20))
    assert json.loads(request.body) == {"recipient": {"id": messenger.ANNA}, "sender_action": "typing_on"}
    assert (request.path, request.lane, request.repeatable) == ("/v23.0/me/messages", "send", True)
    assert not platform.encode(Reply(EVENT, [HELLO])).repeatable


def test_a_profile_is_asked_for_by_its_fields() -> None:
    path = f"/v23.0/{messenger.ANNA}?fields=first_name,last_name,name,profile_pic,locale"
    origin = "https://graph.facebook.com"
    assert platform.encode(AskProfile(messenger.ANNA)) == ApiRequest(
        "GET", origin, path, AUTHORIZED, b"", "profile", True
    )


@pytest.mark.parametrize("user_id", ["", "..", "me/accounts", "1?fields=x", "1 2", "\ud800", "1\r\nX: y", "x" * 256])
def test_a_user_id_that_would_be_another_path_is_refused(user_id: str) -> None:
    with pytest.raises(MessageRefused, match="user_id: expected an id of letters, digits, - and _; nothing was asked"):
        platform.encode(AskProfile(user_id))


@pytest.mark.parametrize("kind", ["image", "video", "audio", "file", "sticker"])
def test_content_is_fetched_from_where_it_is_and_without_the_token(kind: str) -> None:
    request = platform.encode(AskContent(content_event(messenger.url("a.jpg"), kind)))
    path = "/v/t59.2708/a.jpg?_nc_cat=1&oh=03_Q7&oe=66F0"
    assert request == ApiRequest("GET", "https://cdn.example.com", path, {}, b"", "content", True)


@pytest.mark.parametrize(
    ("url", "origin", "path"),
    [
        ("https://cdn.example.com", "https://cdn.example.com", "/"),
        ("https://cdn.example.com:8443/a#part", "https://cdn.example.com:8443", "/a"),
        ("http://127.0.0.1:9/a/b?c=d", "http://127.0.0.1:9", "/a/b?c=d"),
    ],
)
def test_an_attachments_address_comes_apart(url: str, origin: str, path: str) -> None:
    simulated = MessengerPlatform([messenger.SECRET], None, "token", "http://127.0.0.1:9/graph/")
    request = simulated.encode(AskContent(content_event(url)))
    assert (request.origin, request.path) == (origin, path)


@pytest.mark.parametrize(
    "url",
    [
        *(None, 5, "", "a.jpg", "/a.jpg", "//host/a", "https://", "https:///a", "https://user:word@host/a"),
        *("http://cdn.example.com/a", "ftp://host/a", "file:///etc/passwd", "https://h:0/", "https://h:x/"),
        *("https://[/", "https://h/a b", "https://h/\r\nX: y", "https://h/\xe9", "https://h:99999/"),
    ],
)
def test_an_attachment_without_a_usable_address_is_refused(url: object) -> None:
    with pytest.raises(ReplyRefused, match="has no address to fetch it from: expected one with https"):
        platform.encode(AskContent(content_event(url)))


@pytest.mark.parametrize("kind", ["message.text", "message.location", "postback", "unknown"])
def test_an_event_without_content_says_so(kind: str) -> None:
    [event] = platform.parse(messenger.delivery(messenger.every_event()[kind]))
    with pytest.raises(ReplyRefused, match=f"an event of kind {kind} has no content"):
        platform.encode(AskContent(event))


@pytest.mark.parametrize(
    "outgoing", [Multicast([messenger.ANNA], [HELLO], RETRY_KEY), Announcement([HELLO], RETRY_KEY), AskQuota()]
)
def test_what_messenger_has_not_is_refused(outgoing: Multicast | Announcement | AskQuota) -> None:
    with pytest.raises(ReplyRefused, match="Messenger has no"):
        platform.encode(outgoing)


def test_the_api_may_be_somewhere_else() -> None:
    simulated = MessengerPlatform([messenger.SECRET], None, "token", "http://127.0.0.1:8090/")
    request = simulated.encode(Reply(EVENT, [HELLO]))
    assert (request.origin, request.path) == ("http://127.0.0.1:8090", "/me/messages")


def test_the_limits_are_metas() -> None:
    limits = platform.limits
    assert (limits.messages_per_request, limits.recipients_per_multicast) == (1, 1)
    assert (limits.reply_messages_max, limits.reply_within_s) == (None, 86_400)
    assert (limits.lanes["send"].count, limits.lanes["send"].per_s) == (300, 1.0)
    assert not platform.may_multicast(messenger.ANNA)


# ---- judge, explain


@pytest.mark.parametrize("status", [400, 500])
@pytest.mark.parametrize(
    ("code", "subcode", "judgement"),
    [
        *((code, None, Judgement.RATE) for code in (4, 17, 32, 613, 80006)),
        (4, 2018022, Judgement.RATE),
        (2, None, Judgement.UNAVAILABLE),
        (1200, 99, Judgement.UNAVAILABLE),
        (551, None, Judgement.RECIPIENT_GONE),
        (551, 1545041, Judgement.RECIPIENT_GONE),
        (10, 2018108, Judgement.RECIPIENT_GONE),
        (200, 1545041, Judgement.RECIPIENT_GONE),
    ],
)
def test_a_code_tells_more_than_the_status(status: int, code: int, subcode: int | None, judgement: Judgement) -> None:
    assert platform.judge(asked("send"), error(code, subcode, status)) is judgement


@pytest.mark.parametrize(
    ("code", "subcode"), [(10, 2018278), (10, None), (200, None), (100, 2018001), (190, 463), (1, 99), (0, None)]
)
def test_another_code_is_a_refusal(code: int, subcode: int | None) -> None:
    assert platform.judge(asked("send"), error(code, subcode)) is Judgement.REJECTED


@pytest.mark.parametrize("code", [None, "4", 4.0, True, [4], {"4": 4}])
@pytest.mark.parametrize("subcode", [None, "x", [1], 2018108])
def test_a_code_that_is_no_number_leaves_it_to_the_status(code: object, subcode: object) -> None:
    said = {status: platform.judge(asked("send"), error(code, subcode, status)) for status in (400, 429, 500)}
    assert said == {400: Judgement.REJECTED, 429: Judgement.RATE, 500: Judgement.UNAVAILABLE}


@pytest.mark.parametrize("subcode", [None, "2018278", 1.5, True, [1], {"1": 1}])
def test_a_subcode_that_is_no_number_leaves_it_to_the_code(subcode: object) -> None:
    assert platform.judge(asked("send"), error(613, subcode)) is Judgement.RATE
    assert platform.judge(asked("profile"), error(551, subcode)) is Judgement.RECIPIENT_GONE


@pytest.mark.parametrize("lane", ["send", "profile", "content"])
@pytest.mark.parametrize(
    ("status", "judgement"),
    [
        (200, Judgement.ACCEPTED),
        (429, Judgement.RATE),
        (500, Judgement.UNAVAILABLE),
        (503, Judgement.UNAVAILABLE),
        (302, Judgement.REJECTED),
        (400, Judgement.REJECTED),
    ],
)
def test_a_status_without_a_code(lane: str, status: int, judgement: Judgement) -> None:
    assert platform.judge(asked(lane), ApiAnswer(status, {}, b"<html>")) is judgement


@pytest.mark.parametrize(
    ("code", "subcode"), [(100, 33), (100, 2018218), (2018218, None)], ids=["no such", "by phone", "by phone, as code"]
)
def test_a_profile_that_is_not_told_is_missing(code: int, subcode: int | None) -> None:
    assert platform.judge(asked("profile"), error(code, subcode)) is Judgement.MISSING
    assert platform.judge(asked("profile"), ApiAnswer(404, {}, b"")) is Judgement.MISSING
    assert platform.judge(asked("profile"), error(4)) is Judgement.RATE
    assert platform.judge(asked("send"), error(code, subcode)) is Judgement.REJECTED
    assert platform.judge(asked("send"), ApiAnswer(404, {}, b"")) is Judgement.REJECTED


@pytest.mark.parametrize("status", [403, 404, 410])
def test_content_whose_address_has_expired_is_missing(status: int) -> None:
    assert platform.judge(asked("content"), ApiAnswer(status, {}, b"URL signature expired")) is Judgement.MISSING
    assert platform.judge(asked("content"), error(4, status=401)) is Judgement.REJECTED  # no words of the Graph API


def test_explain_gives_metas_words_without_the_token() -> None:
    assert platform.explain(error(190, message="Invalid OAuth access token.")) == "Invalid OAuth access token."
    told = platform.explain(error(190, message=f"Malformed access token {messenger.PAGE_TOKEN}"))
    assert told == "Malformed access token [token]"


def test_explain_is_one_line_of_at_most_200_characters() -> None:
    assert platform.explain(error(1, message="two\r\nlines \x1b[31m\u2028of words")) == "two lines [31m of words"
    long = platform.explain(error(1, message="word " * 5_000))
    assert len(long) == 200
    assert long.endswith("…")


@pytest.mark.parametrize(
    "body", [None, 5, [], {}, {"error": None}, {"error": []}, {"error": {}}, {"error": {"message": 5}}]
)
def test_explain_has_no_words_where_meta_has_none(body: object) -> None:
    assert platform.explain(answer(400, body)) == ""


# ---- profile


@pytest.mark.parametrize(
    ("told", "profile"),
    [
        (
            {"name": "Anna Otter", "first_name": "Anna", "profile_pic": "https://a.example/b", "locale": "en_US"},
            Profile("Anna Otter", "en", "https://a.example/b"),
        ),
        ({"first_name": "Anna", "last_name": "Otter", "locale": "ja_JP"}, Profile("Anna Otter", "ja")),
        ({"first_name": "Anna"}, Profile("Anna")),
        ({"last_name": "Otter", "profile_pic": 5, "locale": None}, Profile("Otter")),
        ({"name": "日本", "locale": "eo"}, Profile("日本", "eo")),
    ],
)
def test_a_profile_is_read(told: dict[str, Any], profile: Profile) -> None:
    assert platform.read_profile(answer(200, told | {"id": messenger.ANNA})) == profile


@pytest.mark.parametrize("told", [None, 5, [], {}, {"id": "1"}, {"name": ""}, {"name": 5}])
def test_a_profile_without_a_name_is_none(told: object) -> None:
    with pytest.raises(ApiRejected, match="holds no name") as caught:
        platform.read_profile(answer(200, told))
    assert caught.value.status == 200
