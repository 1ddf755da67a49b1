"""The plain platform: ``{"messages": "1,2,3"}`` in, text events out."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbot.errors import ApiRejected, MalformedDelivery, NotFound, ReplyRefused
from gbot.event import Event, Message
from gbot.platform import ApiAnswer, ApiRequest, AskProfile, Judgement, Reply, Typing
from gbot.platforms.plain import PlainPlatform

platform = PlainPlatform()


def texts(messages: str) -> list[str | None]:
    return [event.text for event in platform.parse(json.dumps({"messages": messages}).encode())]


def refusal(body: bytes) -> str:
    with pytest.raises(MalformedDelivery) as caught:
        platform.parse(body)
    return str(caught.value)


def test_three_items_are_three_text_events() -> None:
    assert platform.parse(b'{"messages": "1,2,3"}') == [
        Event(platform="plain", kind="message.text", raw=text, text=text) for text in ("1", "2", "3")
    ]


def test_an_event_has_no_id_no_conversation_and_no_way_to_answer() -> None:
    (event,) = platform.parse(b'{"messages": "hi"}')
    assert (event.id, event.conversation, event.user_id, event.reply_token, event.timestamp_ms) == (None,) * 5
    assert (event.standby, event.redelivered) == (False, False)


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ("1", ["1"]),
        (" 1 ,\t2\n, 3", ["1", "2", "3"]),
        ("a b, c d", ["a b", "c d"]),
        ("", []),
        (" , ,,", []),
        (",1,,2,", ["1", "2"]),
        ("caf\xe9,\u65e5\u672c\u8a9e,\U0001f31e", ["caf\xe9", "\u65e5\u672c\u8a9e", "\U0001f31e"]),
        ('say "hi",back\\slash', ['say "hi"', "back\\slash"]),
        ("1;2", ["1;2"]),
    ],
)
def test_items_are_split_stripped_and_empty_ones_left_out(messages: str, expected: list[str]) -> None:
    assert texts(messages) == expected


def test_other_fields_are_ignored() -> None:
    assert [event.text for event in platform.parse(b'{"to": [1, {"a": null}], "messages": "1,2", "n": 3}')] == [
        "1",
        "2",
    ]


def test_ten_thousand_items_come_out_in_order() -> None:
    assert texts(",".join(map(str, range(10_000)))) == [str(number) for number in range(10_000)]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b'{"messages": 5}', "messages: expected a text of comma-separated items, got a number"),
        (b'{"messages": 1.5}', "messages: expected a text of comma-separated items, got a number"),
        (b'{"messages": true}', "messages: expected a text of comma-separated items, got true or false"),
        (b'{"messages": null}', "messages: expected a text of comma-separated items, got null"),
        (b'{"messages": ["1"]}', "messages: expected a text of comma-separated items, got a list"),
        (b'{"messages": {"1": 2}}', "messages: expected a text of comma-separated items, got an object"),
        (b"{}", "messages: expected a text of comma-separated items, but the field is missing"),
        (b'{"Messages": "1"}', "messages: expected a text of comma-separated items, but the field is missing"),
        (b"[]", "the body: expected a JSON object, got a list"),
        (b'"1,2,3"', "the body: expected a JSON object, got a text"),
        (b"12", "the body: expected a JSON object, got a number"),
        (b"", "the body: expected a JSON object in UTF-8, got something that is not JSON"),
        (b'{"messages": "1"', "the body: expected a JSON object in UTF-8, got something that is not JSON"),
        (b'{"messages": "\xff"}', "the body: expected a JSON object in UTF-8, got something that is not JSON"),
        (b"[" * 100_000, "the body: expected a flat JSON object, got one nested too deeply"),
        (b'{"a":' * 100_000, "the body: expected a flat JSON object, got one nested too deeply"),
    ],
    ids=lambda value: repr(value[:30]),
)
def test_a_refusal_says_which_field_and_what_was_expected(body: bytes, sentence: str) -> None:
    assert refusal(body) == sentence


def test_deep_nesting_in_another_field_is_malformed_too() -> None:
    assert "nested too deeply" in refusal(b'{"messages": "1", "x": ' + b"[" * 100_000)


def test_verify_asks_for_no_header() -> None:
    asked: list[str] = []
    platform.verify(asked.append, b"anything")
    assert asked == []


def test_nothing_can_be_sent() -> None:
    [event] = platform.parse(b'{"messages": "1"}')
    for outgoing in (Reply(event, [Message.of("hi")]), AskProfile("somebody"), Typing(event, 5)):
        with pytest.raises(ReplyRefused, match="the plain platform has no API to send through; nothing was sent"):
            platform.encode(outgoing)


def test_there_is_no_api_that_could_answer() -> None:
    answer = ApiAnswer(200, {}, b'{"displayName": "Anna", "totalUsage": 5, "message": "hi"}')
    request = ApiRequest("GET", "https://example.com", "/", {}, b"", "lane")
    assert platform.judge(request, answer) is Judgement.REJECTED
    assert platform.explain(answer) == ""
    assert not platform.may_multicast("somebody")
    for read in (platform.read_profile, platform.read_quota):
        with pytest.raises(ApiRejected, match="the plain platform has no API"):
            read(answer)
    with pytest.raises(NotFound, match="the plain platform asks no questions by GET"):
        platform.challenge({"hub.mode": "subscribe"})


@given(st.lists(st.text(st.characters(exclude_characters=",", codec="utf-8"), min_size=1)))
def test_what_was_joined_by_commas_comes_apart_again(items: list[str]) -> None:
    assert texts(",".join(items)) == [item.strip() for item in items if item.strip()]
