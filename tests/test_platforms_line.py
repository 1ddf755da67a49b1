"""LINE's webhooks: signature and events, with LINE's own SDK as the counterpart."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from linebot.v3.exceptions import InvalidSignatureError
from linebot.v3.webhook import SignatureValidator, WebhookParser
from linebot.v3.webhooks import Event as SdkEvent

from gbot.errors import BadSignature, ConfigError, MalformedDelivery, NotFound
from gbot.event import Conversation, Event
from gbot.platform import HeaderLookup
from gbot.platforms.line import LinePlatform
from tests.samples import line

platform = LinePlatform([line.SECRET], line.ACCESS_TOKEN)


def signed(signature: str | None) -> HeaderLookup:
    """The headers of a request whose only header is its signature."""
    return {"x-line-signature": signature}.get


def verifies(chosen: LinePlatform, signature: str | None, body: bytes) -> bool:
    try:
        chosen.verify(signed(signature), body)
    except BadSignature:
        return False
    return True


def parse_one(sent: Any) -> Event:
    """The event made of one element, after checking that its neighbours came through untouched."""
    before, after = line.text_event("before", 901), line.text_event("after", 902)
    first, event, last = platform.parse(line.delivery(before, sent, after))
    assert (first.text, first.raw) == ("before", before)
    assert (last.text, last.raw) == ("after", after)
    return event


# ---- signature


def test_the_published_signature_is_accepted() -> None:
    published = "/gg9a+LvFevTH1sd7XCQycD7tsWclCsInj7MhBHxN7k="
    assert verifies(LinePlatform(["channel_secret"], None), published, b"bodybodybodybody")
    assert line.sign("channel_secret", b"bodybodybodybody") == published


def test_the_header_is_asked_for_by_its_name() -> None:
    asked: list[str] = []

    def header(name: str) -> str:
        asked.append(name.lower())
        return line.sign(line.SECRET, line.MIXED)

    platform.verify(header, line.MIXED)
    assert asked == ["x-line-signature"]


@pytest.mark.parametrize("absent", [None, ""])
def test_a_missing_signature_has_its_own_sentence(absent: str | None) -> None:
    with pytest.raises(BadSignature, match="x-line-signature is missing"):
        platform.verify(signed(absent), line.MIXED)


def test_a_wrong_signature_has_its_own_sentence() -> None:
    with pytest.raises(BadSignature, match="does not belong to this body"):
        platform.verify(signed(line.sign("another secret", line.MIXED)), line.MIXED)


def test_the_signature_covers_the_raw_bytes_and_not_the_json() -> None:
    raw = line.delivery(line.text_event("\U0001f31e"))
    escaped = json.dumps(json.loads(raw)).encode()
    assert json.loads(raw) == json.loads(escaped)
    assert verifies(platform, line.sign(line.SECRET, raw), raw)
    assert not verifies(platform, line.sign(line.SECRET, raw), escaped)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda signature: signature.rstrip("="), id="without padding"),
        pytest.param(lambda signature: signature + "=", id="more padding"),
        pytest.param(lambda signature: signature.swapcase(), id="other case"),
        pytest.param(lambda signature: base64.b64decode(signature).hex(), id="hex"),
        pytest.param(lambda signature: "sha256=" + signature, id="prefixed"),
        pytest.param(lambda signature: signature + "\u00e9", id="not ASCII"),
        pytest.param(lambda signature: signature[:-1] + "\ud800", id="no Unicode"),
    ],
)
def test_only_the_exact_base64_text_is_a_signature(change: Any) -> None:
    signature = line.sign(line.SECRET, line.MIXED)
    assert verifies(platform, signature, line.MIXED)
    assert not verifies(platform, change(signature), line.MIXED)


def test_both_secrets_are_good_while_the_secret_is_changed() -> None:
    both = LinePlatform([line.SECRET, line.OLD_SECRET], None)
    assert verifies(both, line.sign(line.SECRET, line.MIXED), line.MIXED)
    assert verifies(both, line.sign(line.OLD_SECRET, line.MIXED), line.MIXED)
    assert not verifies(both, line.sign("a third", line.MIXED), line.MIXED)
    assert not verifies(platform, line.sign(line.OLD_SECRET, line.MIXED), line.MIXED)


@given(secret=st.text(min_size=1).filter(str.strip), body=st.text())
def test_the_sdk_and_gbot_accept_the_same_signature(secret: str, body: str) -> None:
    signature = line.sign(secret, body.encode())
    assert SignatureValidator(secret).validate(body, signature)
    assert verifies(LinePlatform([secret], None), signature, body.encode())


@given(
    secret=st.text(min_size=1).filter(str.strip),
    body=st.binary(min_size=1),
    place=st.integers(min_value=0),
    flip=st.integers(min_value=1, max_value=255),
)
def test_a_change_of_one_byte_breaks_the_signature(secret: str, body: bytes, place: int, flip: int) -> None:
    chosen = LinePlatform([secret], None)
    signature = line.sign(secret, body)
    changed = bytearray(body)
    changed[place % len(body)] ^= flip
    assert verifies(chosen, signature, body)
    assert not verifies(chosen, signature, bytes(changed))
    letter = place % len(signature)
    assert not verifies(chosen, signature[:letter] + chr(ord(signature[letter]) ^ flip) + signature[letter + 1 :], body)


@given(
    secrets=st.lists(st.text(min_size=1).filter(str.strip), min_size=3, max_size=3, unique=True),
    body=st.binary(),
    signer=st.integers(min_value=0, max_value=2),
)
def test_two_secrets_accept_their_own_signatures_and_no_third(secrets: list[str], body: bytes, signer: int) -> None:
    # HMAC pads a short key with NULs, so secrets that differ only there are the same key.
    if len({secret.rstrip("\0") for secret in secrets}) == 3:
        both = LinePlatform(secrets[:2], None)
        assert verifies(both, line.sign(secrets[signer], body), body) is (signer < 2)


@pytest.mark.parametrize("secrets", [[], [""], [line.SECRET, ""], ["  "], line.SECRET, ""])
def test_a_secret_that_anyone_could_guess_is_a_configuration_error(secrets: Any) -> None:
    with pytest.raises(ConfigError, match="GBOT_LINE_CHANNEL_SECRET: expected one or more") as caught:
        LinePlatform(secrets, None)
    assert line.SECRET not in str(caught.value)


@pytest.mark.parametrize("token", ["two words", "token\n", "token\r\nX-Other: 1", "t\xf6ken", "\x00"])
def test_a_token_that_fits_into_no_header_is_a_configuration_error(token: str) -> None:
    with pytest.raises(ConfigError, match="GBOT_LINE_CHANNEL_ACCESS_TOKEN: expected a token") as caught:
        LinePlatform([line.SECRET], token)
    assert token not in str(caught.value)


def test_repr_tells_what_is_set_and_no_more() -> None:
    assert repr(platform) == "<LinePlatform with 1 channel secret(s) and an access token>"
    assert repr(LinePlatform(["a", "b"], "")) == "<LinePlatform with 2 channel secret(s) and no access token>"


# ---- parse: what LINE sends


@pytest.mark.parametrize("kind", line.every_event())
def test_every_event_has_its_kind_and_its_own_object(kind: str) -> None:
    sent = line.every_event()[kind]
    event = parse_one(sent)
    assert event.kind == kind
    assert event.raw == sent
    assert (event.id, event.timestamp_ms) == (sent["webhookEventId"], sent["timestamp"])
    assert event.reply_token == sent.get("replyToken")


def test_a_text_message_in_full() -> None:
    sent = line.text_event("good morning", 7)
    assert platform.parse(line.delivery(sent)) == [
        Event(
            platform="line",
            kind="message.text",
            raw=sent,
            id=line.ulid(7),
            text="good morning",
            conversation=Conversation("user", line.ANNA),
            user_id=line.ANNA,
            reply_token=line.reply_token(7),
            timestamp_ms=line.STARTED_MS + 7,
        )
    ]


def test_only_a_text_message_has_a_text() -> None:
    with_text = {kind for kind, sent in line.every_event().items() if parse_one(sent).text is not None}
    assert with_text == {"message.text"}
    assert parse_one(line.event("message", message=line.message("sticker", text="on the sticker"))).text is None


@pytest.mark.parametrize("text", ["", " ", "\0", "\U0001f31e\u200d", "\u65e5\u672c", "a,b\n\t", "x" * 5_000])
def test_a_text_comes_through_as_it_was_written(text: str) -> None:
    event = parse_one(line.text_event(text))
    assert (event.kind, event.text) == ("message.text", text)


@pytest.mark.parametrize(
    ("source", "conversation", "user_id"),
    [
        (line.FROM_ANNA, Conversation("user", line.ANNA), line.ANNA),
        (line.FROM_GROUP, Conversation("group", line.GROUP), line.BEN),
        (line.FROM_SILENT_GROUP, Conversation("group", line.GROUP), None),
        (line.FROM_ROOM, Conversation("room", line.ROOM), line.ANNA),
        ({"type": "room", "roomId": line.ROOM}, Conversation("room", line.ROOM), None),
        ({"type": "user"}, None, None),
        ({"type": "group", "userId": line.BEN}, None, line.BEN),
        ({"type": "room", "groupId": line.GROUP}, None, None),
        ({"type": "planet", "planetId": "P1", "userId": line.BEN}, None, line.BEN),
        ({"userId": line.BEN}, None, line.BEN),
        ({"type": ["user"], "userId": 5}, None, None),
        ({"type": "user", "userId": ""}, None, None),
        ({}, None, None),
        (None, None, None),
    ],
)
def test_an_event_belongs_where_its_source_says(
    source: line.JsonObject | None, conversation: Conversation | None, user_id: str | None
) -> None:
    event = parse_one(line.text_event("hi", source=source))
    assert (event.conversation, event.user_id) == (conversation, user_id)
    assert (event.kind, event.text) == ("message.text", "hi")


def test_standby_is_told_and_comes_without_a_token() -> None:
    active, standby = platform.parse(
        line.delivery(line.text_event("1", 1), line.text_event("2", 2, mode="standby", reply=False))
    )
    assert (active.standby, active.reply_token) == (False, line.reply_token(1))
    assert (standby.standby, standby.reply_token) == (True, None)


def test_a_redelivery_has_the_same_id_and_says_so() -> None:
    sent = line.text_event("hi", 3)
    first, second = parse_one(sent), parse_one(line.redelivered(sent))
    assert first.id == second.id == line.ulid(3)
    assert (first.redelivered, second.redelivered) == (False, True)


def test_a_batch_of_a_hundred_keeps_its_order() -> None:
    sources = [line.FROM_ANNA, line.FROM_GROUP, line.FROM_ROOM]
    sent = [line.text_event(str(number), number, source=sources[number % 3]) for number in range(100)]
    events = platform.parse(line.delivery(*sent))
    assert [event.text for event in events] == [str(number) for number in range(100)]
    assert [event.raw for event in events] == sent
    assert len({event.id for event in events}) == 100


def test_the_connection_test_has_no_events() -> None:
    assert platform.parse(line.CONNECTION_TEST) == []


def test_fields_and_types_that_line_may_add_do_no_harm() -> None:
    sent = line.text_event("hi", newField={"a": [1]}, source=line.FROM_ANNA | {"isBusiness": True})
    body = json.loads(line.delivery(sent)) | {"more": None}
    (event,) = platform.parse(json.dumps(body).encode())
    assert (event.kind, event.text, event.user_id) == ("message.text", "hi", line.ANNA)


# ---- parse: what LINE does not send (yet)


@pytest.mark.parametrize("type_", ["poll", "message.text", "unknown", "", "Message", None, 5, [], {}, True])
def test_an_event_of_a_type_not_known_is_still_an_event(type_: Any) -> None:
    event = parse_one(line.event(type_, 5, source=line.FROM_GROUP))
    assert event.kind == "unknown"
    assert (event.id, event.reply_token) == (line.ulid(5), line.reply_token(5))
    assert event.conversation == Conversation("group", line.GROUP)
    assert event.raw["type"] == type_


@pytest.mark.parametrize(
    "message",
    [
        *(None, 5, "text", [], {}, {"type": None}, {"type": ["text"]}, {"type": {}}, {"type": "poll"}),
        *(
            {"type": "text"},
            {"type": "text", "text": 5},
            {"type": "text", "text": None},
            {"type": "text", "text": ["a"]},
        ),
    ],
)
def test_a_message_not_understood_is_a_message_still(message: Any) -> None:
    event = parse_one(line.event("message", 5, message=message))
    assert (event.kind, event.text, event.id) == ("message.unknown", None, line.ulid(5))


def test_a_message_event_without_its_message_is_a_message_still() -> None:
    assert parse_one(line.event("message")).kind == "message.unknown"


@pytest.mark.parametrize("element", [None, 5, -1.5, True, "follow", "", [], [{"type": "follow"}]])
def test_an_element_that_is_no_object_is_an_unknown_event(element: Any) -> None:
    assert parse_one(element) == Event(platform="line", kind="unknown", raw=element)


def test_an_empty_object_is_an_unknown_event() -> None:
    assert parse_one({}) == Event(platform="line", kind="unknown", raw={})


@pytest.mark.parametrize("broken", [None, 7, 1.5, True, [], {}, ["x"], {"a": 1}])
@pytest.mark.parametrize(
    ("field", "attribute"),
    [("webhookEventId", "id"), ("replyToken", "reply_token"), ("source", "conversation"), ("source", "user_id")],
)
def test_a_field_of_the_wrong_type_is_none(field: str, attribute: str, broken: Any) -> None:
    event = parse_one(line.text_event("hi") | {field: broken})
    assert getattr(event, attribute) is None
    assert (event.kind, event.text) == ("message.text", "hi")


@pytest.mark.parametrize("field", ["webhookEventId", "replyToken"])
def test_an_id_of_no_sensible_length_is_none(field: str) -> None:
    attribute = {"webhookEventId": "id", "replyToken": "reply_token"}[field]
    assert getattr(parse_one(line.text_event("hi") | {field: ""}), attribute) is None
    assert getattr(parse_one(line.text_event("hi") | {field: "x" * 256}), attribute) is None
    assert getattr(parse_one(line.text_event("hi") | {field: "x" * 255}), attribute) == "x" * 255


@pytest.mark.parametrize("broken", [None, "abc", "1750000000000", 1.5, True, False, -1, 2**63, 10**30, [], {}])
def test_a_time_that_is_none_is_none(broken: Any) -> None:
    assert parse_one(line.text_event("hi", timestamp=broken)).timestamp_ms is None


def test_the_first_and_the_last_time_are_times() -> None:
    assert [parse_one(line.text_event("hi", timestamp=time)).timestamp_ms for time in (0, 2**63 - 1)] == [0, 2**63 - 1]


@pytest.mark.parametrize("context", [None, 5, "x", [], {}, {"isRedelivery": "true"}, {"isRedelivery": 1}])
def test_only_true_is_a_redelivery(context: Any) -> None:
    assert parse_one(line.text_event("hi", deliveryContext=context)).redelivered is False


@pytest.mark.parametrize("mode", [None, 5, [], {}, "active", "asleep"])
def test_only_standby_is_standby(mode: Any) -> None:
    assert parse_one(line.text_event("hi", mode=mode)).standby is False


def escaped(*events: str) -> bytes:
    """A body of events given as JSON text, for what no dict can hold; two good ones around them."""
    around = [json.dumps(line.text_event(text)) for text in ("before", "after")]
    return f'{{"events":[{",".join([around[0], *events, around[1]])}]}}'.encode()


def test_half_an_emoji_becomes_a_question_mark() -> None:
    sent = json.dumps(line.text_event("sun \ud83c", 4))
    assert "\\ud83c" in sent
    before, event, after = platform.parse(escaped(sent))
    assert (before.text, event.text, after.text) == ("before", "sun ?", "after")
    assert (event.kind, event.id) == ("message.text", line.ulid(4))


@pytest.mark.parametrize("number", ["1e999", "-1e999", "[1e999]", '{"type": "follow", "timestamp": 1e999}'])
def test_a_number_out_of_range_costs_its_own_event_only(number: str) -> None:
    before, event, after = platform.parse(escaped(number))
    assert event == Event(platform="line", kind="unknown", raw=None)
    assert (before.text, after.text) == ("before", "after")


# ---- parse: refusals


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b'{"destination": "U"}', "events: expected a list, but the field is missing"),
        (b"{}", "events: expected a list, but the field is missing"),
        (b'{"events": null}', "events: expected a list, got null"),
        (b'{"events": "follow"}', "events: expected a list, got a text"),
        (b'{"events": 5}', "events: expected a list, got a number"),
        (b'{"events": 1e999}', "events: expected a list, got a number"),
        (b'{"events": false}', "events: expected a list, got true or false"),
        (b'{"events": {"type": "follow"}}', "events: expected a list, got an object"),
        (b"[]", "the body: expected a JSON object, got a list"),
        (b'"events"', "the body: expected a JSON object, got a text"),
        (b"null", "the body: expected a JSON object, got null"),
        (b"", "the body: expected a JSON object in UTF-8, got something that is not JSON"),
        (b'{"events": [', "the body: expected a JSON object in UTF-8, got something that is not JSON"),
        (b'{"events": [NaN]}', "the body: expected a JSON object in UTF-8, got something that is not JSON"),
        (b'{"events": ["\xe9"]}', "the body: expected a JSON object in UTF-8, got something that is not JSON"),
        (
            '{"events": []}'.encode("utf-16"),
            "the body: expected a JSON object in UTF-8, got something that is not JSON",
        ),
        (b"[" * 100_000, "the body: expected a LINE delivery, got JSON nested too deeply"),
        (b'{"events":' + b"[" * 100_000, "the body: expected a LINE delivery, got JSON nested too deeply"),
        (b'{"events":[{"a":' * 50_000, "the body: expected a LINE delivery, got JSON nested too deeply"),
    ],
    ids=lambda value: repr(value[:30]),
)
def test_a_refusal_says_which_field_and_what_was_expected(body: bytes, sentence: str) -> None:
    with pytest.raises(MalformedDelivery) as caught:
        platform.parse(body)
    assert str(caught.value) == sentence


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["type", "mode", "timestamp", "source", "replyToken", "webhookEventId", "deliveryContext", "message"]
INNER = ["type", "text", "id", "userId", "groupId", "roomId", "isRedelivery"]
WORDS = st.sampled_from(["message", "text", "follow", "user", "group", "room", "standby", "image"])
NEARLY = st.dictionaries(
    st.sampled_from(FIELDS),
    WORDS | ANY_JSON | st.dictionaries(st.sampled_from(INNER), WORDS | ANY_JSON),
)


@given(st.lists(NEARLY | ANY_JSON, max_size=6))
def test_whatever_the_elements_are_each_becomes_one_well_formed_event(elements: list[Any]) -> None:
    events = platform.parse(json.dumps({"events": elements}).encode())
    assert len(events) == len(elements)
    for event in events:
        assert event.kind in {*line.every_event(), "unknown", "message.unknown"}
        assert (event.text is not None) is (event.kind == "message.text")
        for word in (event.id, event.reply_token, event.user_id):
            assert word is None or (isinstance(word, str) and 0 < len(word) <= 255)
        assert event.timestamp_ms is None or (type(event.timestamp_ms) is int and 0 <= event.timestamp_ms < 2**63)
        assert event.conversation is None or event.conversation.kind in ("user", "group", "room")


# ---- parse: the SDK reads the same


def sdk_view(event: Any) -> dict[str, Any]:
    """What gbot's Event says, taken from the SDK's object."""
    source = event.source
    kind = f"message.{event.message.type}" if event.type == "message" else event.type
    place = getattr(source, f"{source.type}_id") if source is not None else ""
    return {
        "kind": kind,
        "id": event.webhook_event_id,
        "text": event.message.text if kind == "message.text" else None,
        "conversation": Conversation(source.type, place) if source is not None else None,
        "user_id": getattr(source, "user_id", None),
        "reply_token": getattr(event, "reply_token", None),
        "timestamp_ms": event.timestamp,
        "standby": event.mode.value == "standby",
        "redelivered": event.delivery_context.is_redelivery,
    }


def gbot_view(event: Event) -> dict[str, Any]:
    names = ("kind", "id", "text", "conversation", "user_id", "reply_token", "timestamp_ms", "standby", "redelivered")
    return {name: getattr(event, name) for name in names}


@pytest.mark.parametrize("kind", line.every_event())
@pytest.mark.parametrize("again", [False, True], ids=["first", "redelivered"])
def test_the_sdk_reads_each_event_as_gbot_does(kind: str, again: bool) -> None:
    sent = line.every_event()[kind]
    body = line.delivery(line.redelivered(sent) if again else sent)
    signature = line.headers(body)["x-line-signature"]
    (theirs,) = WebhookParser(line.SECRET).parse(body.decode(), signature)
    platform.verify(signed(signature), body)
    (ours,) = platform.parse(body)
    assert gbot_view(ours) == sdk_view(theirs)
    assert isinstance(theirs, SdkEvent)


def test_the_sdk_knows_no_event_or_message_type_that_gbot_does_not() -> None:
    from linebot.v3.webhooks import MessageContent

    events = set(SdkEvent._Event__discriminator_value_class_map)
    messages = set(MessageContent._MessageContent__discriminator_value_class_map)
    assert {parse_one(line.event(type_)).kind for type_ in events - {"message"}} == events - {"message"}
    assert messages == set(line.MESSAGE_TYPES)


def test_the_sdk_reads_a_mixed_delivery_as_gbot_does() -> None:
    theirs = WebhookParser(line.SECRET).parse(line.MIXED.decode(), line.sign(line.SECRET, line.MIXED))
    assert [gbot_view(event) for event in platform.parse(line.MIXED)] == [sdk_view(event) for event in theirs]


def test_the_sdk_and_gbot_refuse_the_same_signature() -> None:
    signature = line.sign(line.OLD_SECRET, line.MIXED)
    with pytest.raises(InvalidSignatureError):
        WebhookParser(line.SECRET).parse(line.MIXED.decode(), signature)
    assert not verifies(platform, signature, line.MIXED)


# ---- challenge


@pytest.mark.parametrize("params", [{}, {"hub.mode": "subscribe", "hub.verify_token": "", "hub.challenge": "1"}])
def test_line_has_no_challenge(params: dict[str, str]) -> None:
    with pytest.raises(NotFound, match="LINE asks no questions by GET"):
        platform.challenge(params)
