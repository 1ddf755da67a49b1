"""What every platform promises (gbot/platform.py), run on each of them.

To add a platform, add one Subject to SUBJECTS.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gbot.platform
from gbot.errors import (
    ApiRejected,
    BadSignature,
    Forbidden,
    MalformedDelivery,
    MessageRefused,
    NotFound,
    ReplyRefused,
)
from gbot.event import Conversation, Event, Message
from gbot.platform import (
    Announcement,
    ApiAnswer,
    ApiRequest,
    AskContent,
    AskProfile,
    AskQuota,
    HeaderLookup,
    Judgement,
    Multicast,
    Outgoing,
    Platform,
    Push,
    Reply,
    Typing,
)
from gbot.platforms.line import LinePlatform
from gbot.platforms.messenger import MessengerPlatform
from gbot.platforms.plain import PlainPlatform
from gbot.user import Profile
from tests.samples import line, messenger

ROOT = Path(gbot.platform.__file__).parent.parent
RETRY_KEY = "123e4567-e89b-42d3-a456-426614174000"
HELLO = Message.of("hello")
TOO_DEEP = [b"[" * 100_000, b'{"a":' * 100_000, b'{"messages":' + b"[" * 100_000, b'{"events":' + b"[" * 100_000]
GARBAGE = [
    *(b"", b" ", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf{}", b"not json", b"{", b"}", b'"', b"{'messages': '1'}"),
    *(b"null", b"true", b"7", b"-1.5e3", b'"text"', b"[]", b"[{}]", b"{}", b'{"": 0}', b"NaN", b"Infinity"),
    *(b'{"messages": 5}', b'{"messages": null}', b'{"messages": ["1"]}', b'{"messages": {"1": 2}}'),
    *(b'{"events": 5}', b'{"events": null}', b'{"events": "x"}', b'{"events": {"0": {}}}', b'{"Events": []}'),
    *(b'{"messages": "1"', b'{"events": [}', b'{"events": []} x', b'{"messages": "1"}{"messages": "1"}'),
    *(b'{"entry": []}', b'{"object": "page"}', b'{"object": "page", "entry": 5}', b'{"object": 5, "entry": []}'),
    *(b'{"object": "user", "entry": []}', b'{"object": "page", "entry": {"messaging": []}}'),
    *(b'{"messages": "\xff"}', b'{"events": ["\xff"]}', b"1" * 5_000, b'{"events": [' + b"1" * 5_000 + b"]}"),
    *TOO_DEEP,
]


def between(left: str, before: object, after: object, right: str) -> str:
    return f"{left}{json.dumps(before)},%s,{json.dumps(after)}{right}"


BETWEEN_EVENTS = between('{"events":[', line.text_event("before", 1), line.text_event("after", 2), "]}")
BETWEEN_MESSAGES = between(
    '{"object":"page","entry":[{"messaging":[', messenger.text("before", 1), messenger.text("after", 2), "]}]}"
)


class Subject(NamedTuple):
    """One platform and what it can be tried with."""

    make: Callable[[], Platform]
    module: str
    sample: bytes
    sign: Callable[..., Mapping[str, str]]  # (body) or (body, secret) -> headers; by default with the first secret
    kinds: list[str]  # of the sample's events
    empty: bytes  # a delivery without events
    around: str = ""  # a body with a place for the JSON of one thing that happened, between two that are good
    secrets: tuple[str, ...] = ()  # the first two are those it verifies with
    signed: bool = True
    sends: bool = True
    asked: Mapping[str, str] | None = None  # what its challenge is answered to


SUBJECTS = {
    "plain": Subject(
        make=PlainPlatform,
        module="gbot.platforms.plain",
        sample=b'{"messages": "1,2,3"}',
        sign=lambda _: {},
        kinds=["message.text"] * 3,
        empty=b'{"messages": ""}',
        signed=False,
        sends=False,
    ),
    "line": Subject(
        make=lambda: LinePlatform([line.SECRET, line.OLD_SECRET], line.ACCESS_TOKEN),
        module="gbot.platforms.line",
        sample=line.MIXED,
        sign=line.headers,
        kinds=list(line.every_event()),
        empty=line.CONNECTION_TEST,
        around=BETWEEN_EVENTS,
        secrets=(line.SECRET, line.OLD_SECRET, line.ACCESS_TOKEN),
    ),
    "messenger": Subject(
        make=lambda: MessengerPlatform(
            [messenger.SECRET, messenger.OLD_SECRET], messenger.VERIFY_TOKEN, messenger.PAGE_TOKEN
        ),
        module="gbot.platforms.messenger",
        sample=messenger.MIXED,
        sign=messenger.headers,
        kinds=list(messenger.every_event()),
        empty=messenger.EMPTY,
        around=BETWEEN_MESSAGES,
        secrets=(messenger.SECRET, messenger.OLD_SECRET, messenger.VERIFY_TOKEN, messenger.PAGE_TOKEN),
        asked={
            "hub.mode": "subscribe",
            "hub.verify_token": messenger.VERIFY_TOKEN,
            "hub.challenge": "1158201444",
        },
    ),
}
SIGNED = [name for name, subject in SUBJECTS.items() if subject.signed]
SENDING = [name for name, subject in SUBJECTS.items() if subject.sends]
MUTE = [name for name, subject in SUBJECTS.items() if not subject.sends]


@pytest.fixture(params=list(SUBJECTS.values()), ids=list(SUBJECTS))
def subject(request: pytest.FixtureRequest) -> Subject:
    chosen: Subject = request.param
    return chosen


@pytest.fixture
def platform(subject: Subject) -> Platform:
    return subject.make()


def lookup(headers: Mapping[str, str]) -> HeaderLookup:
    """A request's headers as a platform sees them: any case finds them."""
    folded = {name.lower(): value for name, value in headers.items()}
    return lambda name: folded.get(name.lower())


def parse_or_refuse(platform: Platform, body: bytes) -> list[Event] | MalformedDelivery:
    """All that parse may do; anything else it raises fails the test that called."""
    try:
        return platform.parse(body)
    except MalformedDelivery as refusal:
        return refusal


# ---- name, limits, repr, imports


def test_its_name_is_the_word_it_is_listed_by(subject: Subject, platform: Platform) -> None:
    assert SUBJECTS[platform.name] is subject
    assert platform.name.isidentifier()


def test_limits_leave_room_for_at_least_one_message(subject: Subject, platform: Platform) -> None:
    assert 1 <= platform.limits.messages_per_request <= 100
    if subject.sends:
        assert 10_000 <= platform.limits.request_bytes_max <= 100_000_000


def test_no_secret_shows_in_the_repr(subject: Subject, platform: Platform) -> None:
    shown = f"{platform!r} {platform}"
    assert [secret for secret in subject.secrets if secret in shown] == []


def test_it_loads_nothing_that_does_io(subject: Subject) -> None:
    # A fresh interpreter, since this one has loaded pytest's dependencies long ago. The contract's own imports
    # (msgspec's among them) are not the platform's doing.
    script = (
        f"import sys, gbot.platform; before = set(sys.modules); import {subject.module}; "
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(run.stdout.split())
    assert "gbot" in loaded
    assert loaded & {"gevent", "falcon", "requests", "urllib3", "socket", "ssl", "http", "asyncio", "sqlite3"} == set()


# ---- verify


def test_verify_accepts_the_sample_and_the_empty_delivery(subject: Subject, platform: Platform) -> None:
    platform.verify(lookup(subject.sign(subject.sample)), subject.sample)
    platform.verify(lookup(subject.sign(subject.empty)), subject.empty)


@pytest.mark.parametrize("name", SIGNED)
def test_verify_refuses_a_changed_body(name: str) -> None:
    chosen = SUBJECTS[name]
    with pytest.raises(BadSignature):
        chosen.make().verify(lookup(chosen.sign(chosen.sample)), chosen.sample + b" ")


@pytest.mark.parametrize("name", SIGNED)
def test_verify_refuses_a_delivery_without_headers(name: str) -> None:
    chosen = SUBJECTS[name]
    with pytest.raises(BadSignature):
        chosen.make().verify(lookup({}), chosen.sample)


@pytest.mark.parametrize("name", SIGNED)
@pytest.mark.parametrize(
    "value", ["", " ", "=", "sha256=", "\xe4\xf6\xfc", "\U0001f31e", "\ud800", "A" * 100_000, "\x00"]
)
def test_verify_refuses_odd_header_values_and_never_crashes(name: str, value: str) -> None:
    chosen = SUBJECTS[name]
    with pytest.raises(BadSignature):
        chosen.make().verify(lambda _: value, chosen.sample)


@pytest.mark.parametrize("name", SIGNED)
def test_a_refusal_names_no_secret_and_no_signature(name: str) -> None:
    chosen = SUBJECTS[name]
    with pytest.raises(BadSignature) as caught:
        chosen.make().verify(lookup(chosen.sign(chosen.sample)), b"another body")
    told = [*chosen.secrets, *chosen.sign(chosen.sample).values(), "another body"]
    assert [word for word in told if word in str(caught.value)] == []


# ---- parse


def test_parse_gives_the_samples_events_in_order(subject: Subject, platform: Platform) -> None:
    events = platform.parse(subject.sample)
    assert [event.kind for event in events] == subject.kinds
    assert {event.platform for event in events} == {platform.name}


def test_parse_gives_the_same_events_each_time(subject: Subject, platform: Platform) -> None:
    assert platform.parse(subject.sample) == subject.make().parse(subject.sample)


def test_an_empty_delivery_has_no_events(subject: Subject, platform: Platform) -> None:
    assert platform.parse(subject.empty) == []


def test_events_are_frozen(subject: Subject, platform: Platform) -> None:
    event = platform.parse(subject.sample)[0]
    with pytest.raises(AttributeError, match="immutable"):
        event.kind = "changed"  # type: ignore[misc]


def test_ids_within_a_delivery_differ(subject: Subject, platform: Platform) -> None:
    ids = [event.id for event in platform.parse(subject.sample) if event.id is not None]
    assert len(ids) == len(set(ids))


def test_what_is_raw_can_be_stored_and_read_back(subject: Subject, platform: Platform) -> None:
    for event in platform.parse(subject.sample):
        assert msgspec.json.decode(msgspec.json.encode(event), type=Event) == event


@pytest.mark.parametrize("body", GARBAGE, ids=lambda body: repr(body[:24]))
def test_garbage_is_refused_as_malformed(platform: Platform, body: bytes) -> None:
    refusal = parse_or_refuse(platform, body)
    assert isinstance(refusal, MalformedDelivery)
    assert "expected" in str(refusal)
    assert str(refusal).startswith(("the body: ", "messages: ", "events: ", "object: ", "entry: "))


def test_every_cut_of_the_sample_is_refused(subject: Subject, platform: Platform) -> None:
    step = max(1, len(subject.sample) // 400)
    for length in range(0, len(subject.sample), step):
        assert isinstance(parse_or_refuse(platform, subject.sample[:length]), MalformedDelivery)


def test_a_refusal_echoes_nothing_of_the_body(platform: Platform) -> None:
    for body in (
        b"hunter2",
        b'{"messages": {"hunter2": 1}}',
        b'{"events": "hunter2"}',
        b'{"object": "hunter2", "entry": []}',
        b'{"object": "page", "entry": "hunter2"}',
        b'{"hunter2": 1}',
        b'"hunter2"',
    ):
        refusal = parse_or_refuse(platform, body)
        assert isinstance(refusal, MalformedDelivery)
        assert "hunter2" not in str(refusal)


@pytest.mark.parametrize("name", SUBJECTS)
@given(body=st.binary(max_size=200))
def test_any_bytes_parse_or_are_malformed(name: str, body: bytes) -> None:
    outcome = parse_or_refuse(SUBJECTS[name].make(), body)
    assert isinstance(outcome, (list, MalformedDelivery))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("name", SUBJECTS)
@given(
    value=JSON,
    around=st.sampled_from(
        [
            *("{}", '{{"messages":{}}}', '{{"events":{}}}', '{{"events":[{},{{}}]}}', '{{"object":{},"entry":[]}}'),
            *('{{"object":"page","entry":{}}}', '{{"object":"page","entry":[{},{{"messaging":[{{}}]}}]}}'),
        ]
    ),
)
def test_any_json_parses_into_storable_events_or_is_malformed(name: str, value: object, around: str) -> None:
    body = around.format(json.dumps(value)).encode()
    outcome = parse_or_refuse(SUBJECTS[name].make(), body)
    if isinstance(outcome, list):
        assert all(isinstance(event, Event) and event.platform == name for event in outcome)
        assert len(msgspec.json.decode(msgspec.json.encode(outcome))) == len(outcome)


@pytest.mark.parametrize("name", SIGNED)
@given(value=JSON)
def test_one_odd_event_never_takes_its_neighbours_down(name: str, value: object) -> None:
    # As JSON's ASCII: half a surrogate pair and numbers out of range get as far as this too. NaN is no JSON at all.
    sent = json.dumps(value).replace("NaN", "1e999").replace("Infinity", "1e999")
    texts = [event.text for event in SUBJECTS[name].make().parse((SUBJECTS[name].around % sent).encode())]
    assert (texts[0], texts[-1]) == ("before", "after")
    assert len(texts) == 3


@pytest.mark.parametrize("name", SIGNED)
def test_both_secrets_are_good_while_one_is_changed_for_the_other(name: str) -> None:
    chosen = SUBJECTS[name]
    for secret in chosen.secrets[:2]:
        chosen.make().verify(lookup(chosen.sign(chosen.sample, secret)), chosen.sample)
    with pytest.raises(BadSignature):
        chosen.make().verify(lookup(chosen.sign(chosen.sample, "a third")), chosen.sample)


# ---- encode


def event_of(name: str) -> Event:
    """An event that can be replied to, where the platform has that."""
    return SUBJECTS[name].make().parse(SUBJECTS[name].sample)[0]


def every_outgoing(event: Event) -> list[Outgoing]:
    to = event.user_id or "somebody"
    return [
        Reply(event, [HELLO]),
        Push(to, [HELLO], RETRY_KEY),
        Multicast([to], [HELLO], RETRY_KEY),
        Announcement([HELLO], RETRY_KEY),
        AskProfile(to),
        AskContent(event),
        AskQuota(),
        AskQuota(used=True),
        Typing(event, 5.0),
    ]


def encode_or_refuse(platform: Platform, outgoing: Outgoing) -> ApiRequest | ReplyRefused | MessageRefused:
    """All that encode may do; anything else it raises fails the test that called."""
    try:
        return platform.encode(outgoing)
    except (ReplyRefused, MessageRefused) as refusal:
        return refusal


def check_request(platform: Platform, request: ApiRequest) -> None:
    limits = platform.limits
    assert request.method in ("GET", "POST")
    assert request.origin.startswith("https://")
    assert request.origin.count("/") == 2
    assert request.path.startswith("/")
    assert request.path.isascii()
    assert request.path.isprintable()
    assert " " not in request.path
    assert request.lane in limits.lanes
    assert (request.method == "POST") is (request.body != b"")
    assert len(request.body) <= limits.request_bytes_max
    assert all(value.isprintable() and value.isascii() for value in request.headers.values())


@pytest.mark.parametrize("name", SENDING)
def test_replies_pushes_typing_and_profiles_are_requests_within_the_limits(name: str) -> None:
    platform = SUBJECTS[name].make()
    event = event_of(name)
    for outgoing in every_outgoing(event):
        request = encode_or_refuse(platform, outgoing)
        if isinstance(request, ApiRequest):
            check_request(platform, request)
        else:
            assert not isinstance(outgoing, Reply | Push | Typing | AskProfile)


@pytest.mark.parametrize("name", SUBJECTS)
def test_whatever_is_to_go_out_is_a_request_or_a_typed_refusal(name: str) -> None:
    platform = SUBJECTS[name].make()
    bare = Event(platform=name, kind="message.image", raw={}, reply_token="t" * 255, user_id="\ud800")
    odd_raws = [None, 5, "x", [], {"message": None}, {"message": {"id": 5, "attachments": [5]}}]
    odd = [Event(platform=name, kind="message.image", raw=raw) for raw in odd_raws]
    place = Event(platform=name, kind="x", raw={}, conversation=Conversation("room", "\ud800"), user_id="../..")
    for event in [*platform.parse(SUBJECTS[name].sample), bare, *odd, place]:
        for outgoing in every_outgoing(event):
            made = encode_or_refuse(platform, outgoing)
            if isinstance(made, ApiRequest):
                check_request(platform, made)
            else:
                assert (
                    "nothing was" in str(made) or "ctx." in str(made) or "has" in str(made) or "expected" in str(made)
                )


@pytest.mark.parametrize("name", SENDING)
def test_only_what_may_be_repeated_says_so(name: str) -> None:
    platform = SUBJECTS[name].make()
    for outgoing in every_outgoing(event_of(name)):
        request = encode_or_refuse(platform, outgoing)
        if isinstance(request, ApiRequest):
            has_key = RETRY_KEY in request.headers.values()
            assert request.repeatable is (request.method == "GET" or has_key or isinstance(outgoing, Typing))


@pytest.mark.parametrize("name", MUTE)
def test_a_platform_without_an_api_refuses_to_send(name: str) -> None:
    for outgoing in every_outgoing(event_of(name)):
        with pytest.raises(ReplyRefused, match="nothing was sent"):
            SUBJECTS[name].make().encode(outgoing)


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([], id="none"),
        pytest.param([HELLO] * 1_000, id="too many"),
        pytest.param([Message({"type": "text", "text": object()})], id="no JSON"),
        pytest.param([Message({"type": "text", "text": "\ud800"})], id="no Unicode"),
        pytest.param([Message(["text"])], id="no object"),  # type: ignore[arg-type]
        pytest.param([Message({})], id="nothing"),
    ],
)
def test_encode_refuses_what_cannot_be_sent(subject: Subject, platform: Platform, messages: list[Message]) -> None:
    for outgoing in (Reply(event_of(platform.name), messages), Push("U1", messages, RETRY_KEY)):
        with pytest.raises((MessageRefused, ReplyRefused), match="nothing was sent"):
            platform.encode(outgoing)


def test_encode_refuses_a_request_over_the_bound(platform: Platform) -> None:
    message = Message({"type": "text", "text": "x" * platform.limits.request_bytes_max})
    with pytest.raises((MessageRefused, ReplyRefused), match="nothing was sent"):
        platform.encode(Reply(event_of(platform.name), [message]))


def test_no_secret_and_no_message_shows_in_a_requests_repr(subject: Subject, platform: Platform) -> None:
    for outgoing in every_outgoing(event_of(platform.name)):
        shown = f"{encode_or_refuse(platform, outgoing)!r}"
        told = [*subject.secrets, RETRY_KEY, "hello", event_of(platform.name).reply_token or "hello"]
        assert [word for word in told if word in shown] == []


# ---- answers


def read_or_refuse(read: Callable[[ApiAnswer], Any], answer: ApiAnswer) -> Any:
    """All that reading an answer may do; anything else it raises fails the test that called."""
    try:
        return read(answer)
    except ApiRejected as refusal:
        return refusal


LANES = [(name, lane) for name in SENDING for lane in SUBJECTS[name].make().limits.lanes]


def request_in(lane: str) -> ApiRequest:
    return ApiRequest("POST", "https://api.example.com", "/", {}, b"", lane)


@pytest.mark.parametrize(("name", "lane"), LANES)
def test_every_status_is_judged_in_every_lane(name: str, lane: str) -> None:
    platform = SUBJECTS[name].make()
    for status in range(0, 1_000):
        said = platform.judge(request_in(lane), ApiAnswer(status, {}, b""))
        if 200 <= status < 300:
            assert said in (Judgement.ACCEPTED, Judgement.NOT_READY)
        elif status >= 500:
            assert said is Judgement.UNAVAILABLE
        elif status == 429:
            assert said is Judgement.RATE
        else:
            assert said in (Judgement.REJECTED, Judgement.MISSING, Judgement.ACCEPTED)
            assert said is not Judgement.ACCEPTED or status == 409


ERRORS = st.dictionaries(
    st.sampled_from(["message", "code", "error_subcode", "details", "property"]), JSON | st.sampled_from([4, 551, 100])
)
BODIES = st.binary(max_size=100) | (
    JSON
    | st.fixed_dictionaries({"error": ERRORS | JSON})
    | st.fixed_dictionaries({"message": JSON, "details": JSON | st.lists(ERRORS, max_size=2)})
).map(lambda value: json.dumps(value).encode())


@pytest.mark.parametrize("name", SUBJECTS)
@given(
    status=st.integers(min_value=0, max_value=999) | st.sampled_from([200, 400, 404, 409, 429, 500]),
    lane=st.sampled_from(["reply", "push", "send", "profile", "content", "quota", "none"]),
    body=BODIES,
)
def test_any_answer_is_judged_and_explained_on_one_line(name: str, status: int, lane: str, body: bytes) -> None:
    platform = SUBJECTS[name].make()
    answer = ApiAnswer(status, {}, body)
    assert isinstance(platform.judge(request_in(lane), answer), Judgement)
    told = platform.explain(answer)
    assert len(told) <= 200
    assert told.isprintable()


@pytest.mark.parametrize("name", SUBJECTS)
@given(
    body=BODIES
    | st.dictionaries(st.sampled_from(["displayName", "name", "type", "value", "totalUsage"]), JSON).map(
        lambda value: json.dumps(value).encode()
    )
)
def test_any_answer_is_a_profile_and_a_quota_or_neither(name: str, body: bytes) -> None:
    platform = SUBJECTS[name].make()
    answer = ApiAnswer(200, {}, body)
    profile, quota = (read_or_refuse(read, answer) for read in (platform.read_profile, platform.read_quota))
    assert isinstance(profile, Profile | ApiRejected)
    assert isinstance(quota, int | None | ApiRejected)
    assert {200} >= {outcome.status for outcome in (profile, quota) if isinstance(outcome, ApiRejected)}


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"error":' * 100_000, b'{"message":' + b"[" * 100_000, b"\xff"])
def test_an_answer_that_is_no_json_has_no_words(platform: Platform, body: bytes) -> None:
    answer = ApiAnswer(500, {}, body)
    assert platform.explain(answer) == ""
    for read in (platform.read_profile, platform.read_quota):
        with pytest.raises(ApiRejected):
            read(answer)


def test_a_multicast_is_for_users_where_there_is_one(platform: Platform) -> None:
    assert platform.limits.recipients_per_multicast >= 1
    if platform.limits.recipients_per_multicast == 1:
        assert not platform.may_multicast("U1")
    for odd in ("", "\ud800", "C" * 500):
        assert platform.may_multicast(odd) is False


# ---- challenge


def test_a_challenge_is_answered_to_the_platform_and_nobody_else(subject: Subject, platform: Platform) -> None:
    if subject.asked is None:
        for params in ({}, {"hub.challenge": "1"}):
            with pytest.raises(NotFound):
                platform.challenge(params)
        return
    assert platform.challenge(subject.asked) in subject.asked.values()
    for name in subject.asked:
        with pytest.raises(Forbidden):
            platform.challenge({**subject.asked, name: "another"} if name != "hub.challenge" else {})
