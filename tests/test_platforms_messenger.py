"""The Messenger platform's webhooks: signature, verification request, events out of deliveries."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbot.errors import BadSignature, ConfigError, Forbidden, MalformedDelivery
from gbot.event import Conversation, Event
from gbot.platforms.messenger import MessengerPlatform
from tests.samples import messenger

platform = MessengerPlatform([messenger.SECRET], messenger.VERIFY_TOKEN, messenger.PAGE_TOKEN)


def verifies(chosen: MessengerPlatform, signature: str | None, body: bytes) -> bool:
    try:
        chosen.verify({"x-hub-signature-256": signature}.get, body)
    except BadSignature:
        return False
    return True


def parse_one(sent: Any) -> Event:
    """The event made of one thing that happened, after checking that its neighbours came through untouched."""
    before, after = messenger.text("before", 901), messenger.text("after", 902)
    first, event, last = platform.parse(messenger.in_entries(messenger.entry(before, sent), messenger.entry(after)))
    assert (first.text, first.raw) == ("before", before)
    assert (last.text, last.raw) == ("after", after)
    return event


# ---- signature


def test_a_known_signature_is_accepted() -> None:
    # RFC 4231, test case 2.
    signature = "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert verifies(MessengerPlatform(["Jefe"], None, None), signature, b"what do ya want for nothing?")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda signature: signature.removeprefix("sha256="), id="without its prefix"),
        pytest.param(lambda signature: signature.replace("sha256=", "sha1="), id="another prefix"),
        pytest.param(str.upper, id="other case"),
        pytest.param(lambda signature: signature + "0", id="longer"),
        pytest.param(lambda signature: signature[:-1] + "\u00e9", id="not ASCII"),
    ],
)
def test_only_the_exact_text_is_a_signature(change: Any) -> None:
    signature = messenger.sign(messenger.SECRET, messenger.MIXED)
    assert verifies(platform, signature, messenger.MIXED)
    assert not verifies(platform, change(signature), messenger.MIXED)


def test_the_signature_covers_the_escaped_bytes_that_meta_sends() -> None:
    escaped = messenger.delivery(messenger.text("\U0001f31e"))
    assert b"\\ud83c" in escaped
    plain = json.dumps(json.loads(escaped), ensure_ascii=False).encode()
    assert verifies(platform, messenger.sign(messenger.SECRET, escaped), escaped)
    assert not verifies(platform, messenger.sign(messenger.SECRET, escaped), plain)


def test_both_secrets_are_good_while_the_secret_is_changed() -> None:
    both = MessengerPlatform([messenger.SECRET, messenger.OLD_SECRET], None, None)
    for secret, good in ((messenger.SECRET, True), (messenger.OLD_SECRET, True), ("a third", False)):
        assert verifies(both, messenger.sign(secret, messenger.MIXED), messenger.MIXED) is good
    assert not verifies(platform, messenger.sign(messenger.OLD_SECRET, messenger.MIXED), messenger.MIXED)


@pytest.mark.parametrize("absent", [None, ""])
def test_a_missing_signature_has_its_own_sentence(absent: str | None) -> None:
    with pytest.raises(BadSignature, match="X-Hub-Signature-256 is missing"):
        platform.verify({"x-hub-signature-256": absent}.get, messenger.MIXED)


@pytest.mark.parametrize("secrets", [[], [""], [messenger.SECRET, ""], messenger.SECRET])
def test_a_secret_that_anyone_could_guess_is_a_configuration_error(secrets: Any) -> None:
    with pytest.raises(ConfigError, match="GBOT_MESSENGER_APP_SECRET: expected one or more app secrets"):
        MessengerPlatform(secrets, None, None)


def test_a_token_that_fits_into_no_header_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="GBOT_MESSENGER_PAGE_TOKEN: expected a token"):
        MessengerPlatform([messenger.SECRET], None, "two words")


def test_repr_tells_what_is_set_and_no_more() -> None:
    assert repr(platform) == "<MessengerPlatform with 1 app secret(s) and a page token>"
    assert repr(MessengerPlatform(["a", "b"], "v", "")) == "<MessengerPlatform with 2 app secret(s) and no page token>"


# ---- challenge

ASKED = {"hub.mode": "subscribe", "hub.verify_token": messenger.VERIFY_TOKEN, "hub.challenge": "1158201444"}


def test_the_challenge_is_answered_to_whoever_knows_the_verify_token() -> None:
    assert platform.challenge(ASKED) == "1158201444"


@pytest.mark.parametrize("left_out", ASKED)
def test_each_parameter_of_a_verification_request_is_needed(left_out: str) -> None:
    with pytest.raises(Forbidden, match="GBOT_MESSENGER_VERIFY_TOKEN"):
        platform.challenge({name: value for name, value in ASKED.items() if name != left_out})


@pytest.mark.parametrize(
    "wrong",
    [
        {"hub.mode": "unsubscribe"},
        {"hub.verify_token": messenger.VERIFY_TOKEN.upper()},
        {"hub.verify_token": messenger.VERIFY_TOKEN[:-1]},
        {"hub.verify_token": "\ud800\xe9"},
        {"hub.verify_token": ""},
        {"hub.challenge": ""},
    ],
)
def test_a_wrong_verification_request_is_forbidden(wrong: dict[str, str]) -> None:
    with pytest.raises(Forbidden) as caught:
        platform.challenge(ASKED | wrong)
    assert messenger.VERIFY_TOKEN not in str(caught.value)


@pytest.mark.parametrize("none", [None, ""])
@pytest.mark.parametrize("given", ["", messenger.VERIFY_TOKEN])
def test_without_a_verify_token_nobody_is_answered(none: str | None, given: str) -> None:
    with pytest.raises(Forbidden):
        MessengerPlatform([messenger.SECRET], none, None).challenge(ASKED | {"hub.verify_token": given})


# ---- parse: what Messenger sends


@pytest.mark.parametrize("kind", messenger.every_event())
def test_everything_that_happens_has_its_kind_and_its_own_object(kind: str) -> None:
    sent = messenger.every_event()[kind]
    event = parse_one(sent)
    assert (event.kind, event.raw) == (kind, sent)
    assert event.conversation == Conversation("user", messenger.ANNA)
    assert (event.text is not None) is (kind == "message.text")


def test_a_text_message_in_full() -> None:
    sent = messenger.text("good morning", 7)
    assert platform.parse(messenger.delivery(sent)) == [
        Event(
            platform="messenger",
            kind="message.text",
            raw=sent,
            id=messenger.mid(7),
            text="good morning",
            conversation=Conversation("user", messenger.ANNA),
            user_id=messenger.ANNA,
            timestamp_ms=messenger.STARTED_MS + 7,
        )
    ]


@pytest.mark.parametrize(
    "more",
    [
        {"quick_reply": {"payload": "YES"}},
        {"reply_to": {"mid": messenger.mid(1)}},
        {"attachments": [{"type": "fallback", "payload": {"url": "https://example.com", "title": "a link"}}]},
    ],
    ids=["quick reply", "answer to a message", "link"],
)
def test_a_text_stays_a_text_whatever_comes_with_it(more: dict[str, Any]) -> None:
    event = parse_one(messenger.text("yes", **more))
    assert (event.kind, event.text) == ("message.text", "yes")
    assert event.raw["message"].items() >= more.items()


@pytest.mark.parametrize(
    "message",
    [
        {"sticker_id": 369239263222822, "attachments": [{"type": "image", "payload": {"url": "https://a.example"}}]},
        {"attachments": [{"type": "image", "payload": {"sticker_id": 369239263222822}}]},
        {"attachments": [{"type": "sticker", "payload": {"url": "https://a.example"}}]},
    ],
    ids=["in the message", "in the image", "a type of its own"],
)
def test_a_sticker_is_a_sticker_in_each_of_its_forms(message: dict[str, Any]) -> None:
    assert parse_one(messenger.happened(message=message)).kind == "message.sticker"


def test_the_first_of_several_attachments_makes_the_kind() -> None:
    both = [{"type": "video", "payload": {}}, {"type": "image", "payload": {}}]
    assert parse_one(messenger.happened(message={"mid": "m", "attachments": both})).kind == "message.video"


def test_echoes_are_left_out() -> None:
    body = messenger.in_entries(
        messenger.entry(messenger.echo("hello", 1), messenger.text("hi", 2)),
        messenger.entry(standby=[messenger.echo("hello", 3), messenger.text("ho", 4)]),
    )
    assert [event.text for event in platform.parse(body)] == ["hi", "ho"]
    assert platform.parse(messenger.delivery(messenger.echo("hello"))) == []


@pytest.mark.parametrize("is_echo", [False, None, 0, "true", 1])
def test_only_true_is_an_echo(is_echo: Any) -> None:
    assert parse_one(messenger.text("hi", is_echo=is_echo)).text == "hi"


def test_standby_is_told() -> None:
    body = messenger.in_entries(messenger.entry(messenger.text("1", 1), standby=[messenger.text("2", 2)]))
    assert [(event.text, event.standby) for event in platform.parse(body)] == [("1", False), ("2", True)]


def test_an_entry_with_standby_alone_has_its_events() -> None:
    body = messenger.in_entries({"id": messenger.PAGE, "standby": [messenger.text("1")]})
    assert [(event.text, event.standby) for event in platform.parse(body)] == [("1", True)]


def test_a_batch_of_a_thousand_keeps_its_order() -> None:
    sent = [messenger.text(str(number), number, sender=str(number % 3)) for number in range(1_000)]
    entries = [messenger.entry(*sent[start : start + 7]) for start in range(0, 1_000, 7)]
    events = platform.parse(messenger.in_entries(*entries))
    assert [event.raw for event in events] == sent
    assert len({event.id for event in events}) == 1_000


# ---- parse: ids


@pytest.mark.parametrize("kind", messenger.every_event())
def test_the_same_thing_sent_again_has_the_same_id(kind: str) -> None:
    sent = messenger.every_event()[kind]
    again = messenger.in_entries(messenger.entry(messenger.text("another", 900), sent) | {"time": 5})
    assert platform.parse(again)[1].id == parse_one(sent).id is not None


def test_what_is_about_a_message_is_no_duplicate_of_it() -> None:
    said = messenger.text("good morning", 1)
    about = [messenger.every_event()[kind] for kind in ("reaction", "messageEdited")]
    ids = [event.id for event in platform.parse(messenger.delivery(said, *about))]
    assert ids[0] == messenger.mid(1)
    assert len(set(ids)) == 3


def test_what_happens_at_the_same_time_is_told_apart() -> None:
    def reaction(number: int) -> messenger.JsonObject:
        return messenger.happened(5, reaction={"action": "react", "mid": messenger.mid(number)})

    together = [
        reaction(1),
        reaction(2),
        messenger.happened(5, read={"watermark": 1}),
        messenger.happened(5, sender=messenger.BEN, read={"watermark": 1}),
        messenger.happened(6, read={"watermark": 1}),
        messenger.happened(5, something_new={}),
        messenger.happened(5, something_newer={}),
    ]
    ids = [event.id for event in platform.parse(messenger.delivery(*together))]
    assert None not in ids
    assert len(set(ids)) == len(together)


@pytest.mark.parametrize("missing", ["sender", "timestamp"])
def test_without_sender_or_time_there_is_no_id_but_a_messages_own(missing: str) -> None:
    def without(sent: messenger.JsonObject) -> Event:
        return parse_one({name: value for name, value in sent.items() if name != missing})

    assert without(messenger.every_event()["read"]).id is None
    assert without(messenger.text("hi", 5)).id == messenger.mid(5)


def test_an_id_of_no_sensible_length_is_none() -> None:
    assert parse_one(messenger.happened(message={"mid": "m" * 255, "text": "hi"})).id == "m" * 255
    key = parse_one(messenger.happened(message={"mid": "m" * 256, "text": "hi"})).id
    assert key == f"{messenger.ANNA}:{messenger.STARTED_MS + 1}:message"
    assert parse_one(messenger.happened(**{"x" * 300: 1})).id is None


# ---- parse: what Messenger does not send (yet)


@pytest.mark.parametrize("sent", [None, 5, -1.5, True, "read", [], {}, {"message": None}, {"sender": 5}, {"new": {}}])
def test_whatever_happens_is_an_event(sent: Any) -> None:
    event = parse_one(sent)
    assert event.kind in ("unknown", "message.unknown")
    assert (event.raw, event.user_id, event.conversation) == (sent, None, None)


@pytest.mark.parametrize(
    "message",
    [
        *(None, 5, "hi", [], {}, {"text": 5}, {"text": None}, {"attachments": None}, {"attachments": []}),
        *({"attachments": [None]}, {"attachments": [{}]}, {"attachments": [{"type": []}]}),
        *({"attachments": {"0": 1}}, {"attachments": [{"type": "fallback"}]}, {"attachments": [{"type": "reel"}]}),
    ],
)
def test_a_message_not_understood_is_a_message_still(message: Any) -> None:
    event = parse_one(messenger.happened(message=message))
    assert (event.kind, event.text, event.user_id) == ("message.unknown", None, messenger.ANNA)


@pytest.mark.parametrize("sender", [None, 5, "x", [], {}, {"id": 5}, {"id": ""}, {"user_ref": "r"}, {"id": "x" * 256}])
def test_a_sender_that_is_none_is_none(sender: Any) -> None:
    event = parse_one(messenger.text("hi") | {"sender": sender})
    assert (event.text, event.user_id, event.conversation) == ("hi", None, None)


@pytest.mark.parametrize("time", [None, "1750000000000", 1.5, True, -1, 2**63, []])
def test_a_time_that_is_none_is_none(time: Any) -> None:
    assert parse_one(messenger.text("hi") | {"timestamp": time}).timestamp_ms is None


@pytest.mark.parametrize(
    "odd",
    [None, 5, "x", [], {}, {"id": "1", "changes": [{"field": "feed"}]}, {"messaging": None}, {"messaging": {"0": 1}}],
)
def test_an_entry_without_messages_is_one_unknown_event(odd: Any) -> None:
    body = messenger.in_entries(
        messenger.entry(messenger.text("before", 1)), odd, messenger.entry(messenger.text("after", 2))
    )
    before, event, after = platform.parse(body)
    assert (before.text, after.text) == ("before", "after")
    assert event == Event(platform="messenger", kind="unknown", raw=odd)


def test_half_an_emoji_becomes_a_question_mark_and_costs_no_neighbour() -> None:
    event = parse_one(messenger.text("sun \ud83c", 4))
    assert (event.text, event.id) == ("sun ?", messenger.mid(4))


def test_a_number_out_of_range_costs_its_own_event_only() -> None:
    around = [json.dumps(messenger.text(words, place)) for place, words in enumerate(("before", "after"))]
    for broken in ('{"read": 1e999}', "1e999"):
        entries = f'{{"messaging":[{around[0]},{broken}]}},{{"standby":[{around[1]}]}}'
        before, event, after = platform.parse(f'{{"object":"page","entry":[{entries}]}}'.encode())
        assert event == Event(platform="messenger", kind="unknown", raw=None)
        assert [(before.text, before.standby), (after.text, after.standby)] == [("before", False), ("after", True)]


def test_an_odd_entry_that_no_store_can_hold_costs_itself_only() -> None:
    good = json.dumps(messenger.entry(messenger.text("good")))
    events = platform.parse(f'{{"object":"page","entry":[{{"changes":1e999}},{good}]}}'.encode())
    assert [event.kind for event in events] == ["unknown", "message.text"]


# ---- parse: refusals


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b'{"object":"page"}', "entry: expected a list, but the field is missing"),
        (b'{"object":"page","entry":null}', "entry: expected a list, got null"),
        (b'{"object":"page","entry":{"messaging":[]}}', "entry: expected a list, got an object"),
        (b'{"entry":[]}', 'object: expected "page", got no text'),
        (b'{"object":5,"entry":[]}', 'object: expected "page", got no text'),
        (b'{"object":"whatsapp_business_account","entry":[]}', 'object: expected "page", got another text'),
        (b"[]", "the body: expected a JSON object, got a list"),
        (b"", "the body: expected a JSON object in UTF-8, got something that is not JSON"),
        (b'{"object":"page","entry":' + b"[" * 100_000, "the body: expected a Messenger delivery, got JSON nested too"),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_a_refusal_says_which_field_and_what_was_expected(body: bytes, sentence: str) -> None:
    with pytest.raises(MalformedDelivery) as caught:
        platform.parse(body)
    assert str(caught.value).startswith(sentence)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(["sender", "timestamp", "message", "postback", "read", "reaction", "message_edit", "new"])
INNER = st.sampled_from(["id", "mid", "text", "is_echo", "attachments", "sticker_id", "payload", "type", "url"])
NEARLY = st.dictionaries(
    FIELDS, ANY_JSON | st.dictionaries(INNER, ANY_JSON | st.lists(st.dictionaries(INNER, ANY_JSON)))
)


@given(st.lists(NEARLY | ANY_JSON, max_size=6), st.booleans())
def test_whatever_happened_each_becomes_one_well_formed_event(happened: list[Any], standby: bool) -> None:
    body = json.dumps({"object": "page", "entry": [{"standby" if standby else "messaging": happened}]}).encode()
    echoes = [sent for sent in happened if isinstance(sent, dict) and isinstance(sent.get("message"), dict)]
    echoes = [sent for sent in echoes if sent["message"].get("is_echo") is True]
    events = platform.parse(body)
    assert len(events) == len(happened) - len(echoes)
    for event in events:
        assert event.kind in messenger.every_event()
        assert event.standby is standby
        assert (event.text is not None) is (event.kind == "message.text")
        for word in (event.id, event.user_id):
            assert word is None or (isinstance(word, str) and 0 < len(word) <= 255)
