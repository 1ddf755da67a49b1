"""What every platform promises (gbot/platform.py), run on each of them.

To add a platform, add one Subject to SUBJECTS.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gbot.platform
from gbot.errors import BadSignature, MalformedDelivery, MessageRefused, ReplyRefused
from gbot.event import Event, Message
from gbot.platform import ApiRequest, HeaderLookup, Platform, Push, Reply
from gbot.platforms.line import LinePlatform
from gbot.platforms.plain import PlainPlatform
from tests.samples import line

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
    *(b'{"messages": "\xff"}', b'{"events": ["\xff"]}', b"1" * 5_000, b'{"events": [' + b"1" * 5_000 + b"]}"),
    *TOO_DEEP,
]


class Subject(NamedTuple):
    """One platform and what it can be tried with."""

    make: Callable[[], Platform]
    module: str
    sample: bytes
    headers: Mapping[str, str]
    kinds: list[str]  # of the sample's events
    empty: bytes  # a delivery without events
    secrets: tuple[str, ...] = ()
    signed: bool = True
    sends: bool = True


SUBJECTS = {
    "plain": Subject(
        make=PlainPlatform,
        module="gbot.platforms.plain",
        sample=b'{"messages": "1,2,3"}',
        headers={},
        kinds=["message.text"] * 3,
        empty=b'{"messages": ""}',
        signed=False,
        sends=False,
    ),
    "line": Subject(
        make=lambda: LinePlatform([line.SECRET, line.OLD_SECRET], line.ACCESS_TOKEN),
        module="gbot.platforms.line",
        sample=line.MIXED,
        headers=line.headers(line.MIXED),
        kinds=list(line.every_event()),
        empty=line.CONNECTION_TEST,
        secrets=(line.SECRET, line.OLD_SECRET, line.ACCESS_TOKEN),
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
    platform.verify(lookup(subject.headers), subject.sample)
    if not subject.signed:
        platform.verify(lookup({}), subject.empty)


@pytest.mark.parametrize("name", SIGNED)
def test_verify_refuses_a_changed_body(name: str) -> None:
    chosen = SUBJECTS[name]
    with pytest.raises(BadSignature):
        chosen.make().verify(lookup(chosen.headers), chosen.sample + b" ")


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
        chosen.make().verify(lookup(chosen.headers), b"another body")
    told = [*chosen.secrets, *chosen.headers.values(), "another body"]
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
    assert str(refusal).startswith(("the body: ", "messages: ", "events: "))


def test_every_cut_of_the_sample_is_refused(subject: Subject, platform: Platform) -> None:
    step = max(1, len(subject.sample) // 400)
    for length in range(0, len(subject.sample), step):
        assert isinstance(parse_or_refuse(platform, subject.sample[:length]), MalformedDelivery)


def test_a_refusal_echoes_nothing_of_the_body(platform: Platform) -> None:
    for body in (
        b"hunter2",
        b'{"messages": {"hunter2": 1}}',
        b'{"events": "hunter2"}',
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
@given(value=JSON, around=st.sampled_from(["{}", '{{"messages":{}}}', '{{"events":{}}}', '{{"events":[{},{{}}]}}']))
def test_any_json_parses_into_storable_events_or_is_malformed(name: str, value: object, around: str) -> None:
    body = around.format(json.dumps(value)).encode()
    outcome = parse_or_refuse(SUBJECTS[name].make(), body)
    if isinstance(outcome, list):
        assert all(isinstance(event, Event) and event.platform == name for event in outcome)
        assert len(msgspec.json.decode(msgspec.json.encode(outcome))) == len(outcome)


# ---- encode


@pytest.mark.parametrize("name", SENDING)
@pytest.mark.parametrize(
    "outgoing", [Reply("token", [HELLO]), Push("somebody", [HELLO], RETRY_KEY)], ids=["reply", "push"]
)
def test_encode_gives_a_request_within_the_limits(name: str, outgoing: Reply | Push) -> None:
    platform = SUBJECTS[name].make()
    request = platform.encode(outgoing)
    assert isinstance(request, ApiRequest)
    assert request.method == "POST"
    assert request.url.startswith("https://")
    assert 0 < len(request.body) <= platform.limits.request_bytes_max
    assert all(value.isprintable() and value.isascii() for value in request.headers.values())


@pytest.mark.parametrize("name", MUTE)
@pytest.mark.parametrize(
    "outgoing", [Reply("token", [HELLO]), Push("somebody", [HELLO], RETRY_KEY)], ids=["reply", "push"]
)
def test_a_platform_without_an_api_refuses_to_send(name: str, outgoing: Reply | Push) -> None:
    with pytest.raises(ReplyRefused, match="nothing was sent"):
        SUBJECTS[name].make().encode(outgoing)


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([], id="none"),
        pytest.param([HELLO] * 1_000, id="too many"),
        pytest.param([Message({"type": "text", "text": object()})], id="no JSON"),
        pytest.param([Message({"type": "text", "text": "\ud800"})], id="no Unicode"),
    ],
)
def test_encode_refuses_what_cannot_be_sent(platform: Platform, messages: list[Message]) -> None:
    with pytest.raises((MessageRefused, ReplyRefused), match="nothing was sent"):
        platform.encode(Reply("token", messages))


def test_encode_refuses_a_request_over_the_bound(platform: Platform) -> None:
    message = Message({"type": "text", "text": "x" * platform.limits.request_bytes_max})
    with pytest.raises((MessageRefused, ReplyRefused), match="nothing was sent"):
        platform.encode(Reply("token", [message]))
