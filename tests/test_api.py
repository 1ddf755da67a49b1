"""Calls to a platform's API: sent again only where that is safe, and every end an error that says what became of it.

LINE's API is the fake one, in a process of its own; what it cannot do is done by a small server in this process.
"""

from __future__ import annotations

import json
import logging
import random
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import pytest

from gbot.errors import (
    ApiDown,
    ApiError,
    ApiLimited,
    ApiRejected,
    ApiUnavailable,
    ApiUnreachable,
    ContentGone,
    LaneBusy,
    QuotaUsedUp,
    RecipientGone,
    ResultUnknown,
    SendError,
    TooManyToRecipient,
)
from gbot.event import Event, Message
from gbot.limiter import Limit
from gbot.outbound.api import HOSTS_MAX, Api
from gbot.outbound.retries import may_have_arrived
from gbot.outbound.transport import Transport
from gbot.platform import (
    ApiAnswer,
    ApiRequest,
    AskContent,
    AskProfile,
    Judgement,
    Platform,
    Push,
    Reply,
)
from gbot.platforms.line import LinePlatform
from tests.fake_line import CONTENT, QUOTA_USED_UP, TOO_FAST, TOO_MANY_TO_USER, FakeLineProcess, Order
from tests.journeys.processes import free_port
from tests.rig import wait_until
from tests.samples import line
from tests.scripted_server import OK, hang_up, server

HELLO = [Message.of("a message that no error may repeat")]
SOON: Order = {"status": 429, "body": TOO_FAST["body"], "headers": {"Retry-After": "1"}}
SERVER_ERROR = b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\n{}"
AT_ONCE = 20  # failures that open a circuit
WAITING_MAX = 100


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


class Line:
    """One LINE channel at an address, and the API as the senders use it."""

    def __init__(self, address: str, lanes: dict[str, Limit], read_timeout_s: float, platform: Platform | None) -> None:
        self.platform = platform or LinePlatform([line.SECRET], line.ACCESS_TOKEN, address, address)
        self.transport = Transport(read_timeout_s=read_timeout_s)
        self.api = Api(self.platform, self.transport, lanes, WAITING_MAX)

    def reply(self, number: int = 1, within_s: float | None = None) -> ApiAnswer:
        return self.api.call(self.platform.encode(Reply(line_event(number), HELLO)), number, within_s)

    def push(self, to: str = line.ANNA, within_s: float | None = None) -> ApiAnswer:
        return self.api.call(self.platform.encode(Push(to, HELLO, str(uuid.uuid4()))), to, within_s)


@contextmanager
def line_at(
    address: str,
    lanes: dict[str, Limit] | None = None,
    read_timeout_s: float = 5.0,
    platform: Platform | None = None,
) -> Iterator[Line]:
    made = Line(address, lanes or {}, read_timeout_s, platform)
    yield made
    made.transport.close()
    assert all(lane.in_flight == lane.waiting == 0 for lane in made.api.statistics().lanes)


@pytest.fixture
def channel(fake_line: FakeLineProcess) -> Iterator[Line]:
    with line_at(fake_line.address) as made:
        yield made


def line_event(number: int = 1, type_: str = "text") -> Event:
    sent = line.event("message", number, message=line.message(type_, number))
    [parsed] = LinePlatform([line.SECRET], None).parse(line.delivery(sent))
    return parsed


def failure(call: Callable[[], object]) -> SendError:
    """The error with which this ends; it repeats nothing that is secret or private."""
    with pytest.raises(SendError) as raised:
        call()
    sentence = str(raised.value)
    assert "a message" not in sentence
    assert line.ACCESS_TOKEN not in sentence
    assert line.reply_token(1) not in sentence
    return raised.value


# ---- what is settled by one try


def test_a_call_returns_the_answer(channel: Line, fake_line: FakeLineProcess) -> None:
    answer = channel.reply()
    assert answer.status == 200
    assert json.loads(answer.body)["sentMessages"]
    statistics = channel.api.statistics()
    assert (statistics.calls, statistics.retries, statistics.failures, statistics.rate_limited) == (1, 0, 0, 0)
    assert {lane.name: lane.passed for lane in statistics.lanes if lane.passed} == {"line.reply": 1}
    assert len(fake_line.requests()) == 1


@pytest.mark.parametrize(
    ("order", "kind"),
    [
        ({"status": 400}, ApiRejected),
        ({"status": 401}, ApiRejected),
        ({"status": 403}, ApiRejected),
        ({"status": 404}, ApiRejected),
        ({"status": 413}, ApiRejected),
        ({"status": 302}, ApiRejected),
        (QUOTA_USED_UP, QuotaUsedUp),
        (TOO_MANY_TO_USER, TooManyToRecipient),
    ],
)
def test_what_will_not_change_is_an_error_at_once(
    channel: Line, fake_line: FakeLineProcess, order: Order, kind: type[ApiError]
) -> None:
    fake_line.order(order)
    error = failure(channel.push)
    assert type(error) is kind
    assert isinstance(error, ApiError)
    assert error.status == order["status"]
    assert str(error).startswith(f"{fake_line.address} answered {order['status']}: ")
    assert not error.final
    assert len(fake_line.requests()) == 1
    assert channel.api.statistics().failures == 1


def test_the_platforms_own_words_are_part_of_the_sentence(channel: Line, fake_line: FakeLineProcess) -> None:
    fake_line.order({"status": 400}, {"status": 400, "body": "not json"})
    assert str(failure(channel.push)).endswith("answered 400: ordered to answer 400")
    assert "answered 400: " in str(failure(channel.push))


class Gone(LinePlatform):
    """A platform that tells of a 403 that the user has left, as Messenger does in other words."""

    def judge(self, request: ApiRequest, answer: ApiAnswer) -> Judgement:
        return Judgement.RECIPIENT_GONE if answer.status == 403 else super().judge(request, answer)


def test_a_recipient_who_has_left_is_an_error_of_its_own(fake_line: FakeLineProcess) -> None:
    platform = Gone([line.SECRET], line.ACCESS_TOKEN, fake_line.address)
    fake_line.order({"status": 403})
    with line_at(fake_line.address, platform=platform) as channel:
        error = failure(channel.push)
    assert type(error) is RecipientGone
    assert "answered 403" in str(error)


def test_what_need_not_be_there_is_none(channel: Line) -> None:
    ask = channel.platform.encode
    found = channel.api.find(ask(AskProfile(line.ANNA)), line.ANNA)
    assert found is not None
    assert found.status == 200
    stranger = line.hex_id("U", "a stranger")
    assert channel.api.find(ask(AskProfile(stranger)), stranger) is None
    assert channel.api.statistics().failures == 0
    error = failure(lambda: channel.api.call(ask(AskProfile(stranger)), stranger))
    assert (type(error), error.status) == (ApiRejected, 404)  # type: ignore[attr-defined]
    assert channel.api.statistics().failures == 1


# ---- what may have arrived


@pytest.mark.parametrize("order", [{"status": 500}, {"status": 503}, {"drop": True}, {"cut": True}])
def test_a_push_is_sent_again_as_the_same_request(channel: Line, fake_line: FakeLineProcess, order: Order) -> None:
    fake_line.order(order, order)
    channel.push()
    requests = fake_line.requests()
    assert len(requests) >= 2
    assert len({(request["retry_key"], json.dumps(request["body"])) for request in requests}) == 1
    assert [request["status"] for request in requests].count(200) == 1  # an earlier one, where there is a 409
    assert channel.api.statistics().retries == len(requests) - 1
    assert channel.api.statistics().failures == 0


@pytest.mark.parametrize(
    ("order", "kind", "status"),
    [
        ({"status": 500}, ApiUnavailable, 500),
        ({"drop": True}, ResultUnknown, None),
        ({"cut": True}, ResultUnknown, None),
    ],
)
def test_a_reply_that_may_have_arrived_is_never_sent_again(
    channel: Line, fake_line: FakeLineProcess, order: Order, kind: type[ApiError], status: int | None
) -> None:
    fake_line.order(order)
    error = failure(channel.reply)
    assert type(error) is kind
    assert isinstance(error, ApiError)
    assert (error.status, error.final) == (status, True)
    assert "so it is not sent again" in str(error)
    assert len(fake_line.requests()) == 1


def test_a_push_that_never_gets_an_answer_is_left_to_a_later_run(channel: Line, fake_line: FakeLineProcess) -> None:
    fake_line.order(*[{"status": 502}] * 4)
    error = failure(channel.push)
    assert isinstance(error, ApiUnavailable)
    assert (error.status, error.final) == (502, False)
    assert str(error).endswith("tried 4 times")
    assert len(fake_line.requests()) == 4


def test_an_api_that_is_too_slow_leaves_the_result_unknown(fake_line: FakeLineProcess) -> None:
    fake_line.order({"delay_s": 1.0})
    with line_at(fake_line.address, read_timeout_s=0.2) as channel:
        error = failure(channel.reply)
    assert type(error) is ResultUnknown
    assert error.final


def test_an_error_after_a_try_that_may_have_arrived_has_that_one_as_its_cause() -> None:
    too_fast = b"HTTP/1.1 429 Slow\r\nContent-Length: 2\r\nRetry-After: 100\r\n\r\n{}"
    with server(SERVER_ERROR, too_fast) as (address, _), line_at(address) as channel:
        error = failure(channel.push)
    assert type(error) is ApiLimited
    assert isinstance(error.__cause__, ApiUnavailable)
    assert may_have_arrived(error)


# ---- what never arrived


def test_a_host_that_is_not_there_is_tried_a_few_times() -> None:
    with line_at(f"http://127.0.0.1:{free_port()}") as channel:
        error = failure(channel.reply)
        assert channel.api.statistics().retries == 3
    assert type(error) is ApiUnreachable
    assert not error.final
    assert not may_have_arrived(error)
    assert str(error).endswith("tried 4 times")


def test_even_a_reply_is_sent_again_when_it_never_arrived() -> None:
    port = free_port()
    with line_at(f"http://127.0.0.1:{port}") as channel:
        replying = gevent.spawn(channel.reply)
        wait_until(lambda: channel.api.statistics().retries == 1)
        with server(OK, port=port) as (_, received):
            assert replying.get(timeout=10).status == 200
            assert len(received) == 1


# ---- too fast


def test_a_reply_that_came_too_fast_is_sent_again(channel: Line, fake_line: FakeLineProcess) -> None:
    fake_line.order(TOO_FAST, SOON)
    assert channel.reply().status == 200
    assert [request["status"] for request in fake_line.requests()] == [429, 429, 200]
    statistics = channel.api.statistics()
    assert (statistics.rate_limited, statistics.retries, statistics.failures) == (2, 2, 0)
    assert {lane.name: lane.slowed for lane in statistics.lanes if lane.slowed} == {"line.reply": 2}


def test_too_fast_is_an_error_when_the_time_is_over(channel: Line, fake_line: FakeLineProcess) -> None:
    fake_line.order(*[TOO_FAST] * 20)
    error = failure(lambda: channel.reply(within_s=1.0))
    assert isinstance(error, ApiLimited | LaneBusy)
    assert not error.final
    assert 2 <= len(fake_line.requests()) < 10


@pytest.mark.parametrize("status", [429, 503])
def test_a_retry_after_that_takes_too_long_is_not_waited_for(
    channel: Line, fake_line: FakeLineProcess, status: int
) -> None:
    fake_line.order({"status": status, "headers": {"Retry-After": "100"}})
    error = failure(channel.push)
    assert type(error) is (ApiLimited if status == 429 else ApiUnavailable)
    assert len(fake_line.requests()) == 1


def test_a_retry_after_holds_up_the_whole_lane(channel: Line, fake_line: FakeLineProcess) -> None:
    fake_line.order({"status": 429, "headers": {"Retry-After": "100"}})
    assert type(failure(channel.push)) is ApiLimited
    assert type(failure(lambda: channel.push(line.BEN))) is LaneBusy
    channel.reply()  # another lane
    assert [request["status"] for request in fake_line.requests()] == [429, 200]


# ---- lanes


def test_the_operators_limit_takes_the_place_of_the_platforms(fake_line: FakeLineProcess) -> None:
    with line_at(fake_line.address, {"push": Limit(count=1, per_s=60.0)}) as channel:
        channel.push()
        assert type(failure(lambda: channel.push(within_s=0.05))) is LaneBusy
        channel.reply()
        assert channel.api.statistics().failures == 1
    assert len(fake_line.requests()) == 2


def test_one_lane_for_everything(fake_line: FakeLineProcess) -> None:
    """The oldest rule: one request at a time."""
    fake_line.order(*[{"delay_s": 0.05}] * 6)
    with line_at(fake_line.address, {"all": Limit(in_flight=1)}) as channel:
        calls = [gevent.spawn(channel.reply, number) for number in range(3)]
        calls += [gevent.spawn(channel.push) for _ in range(3)]
        in_flight = set()

        def all_ended() -> bool:
            [lane] = channel.api.statistics().lanes
            in_flight.add(lane.in_flight)
            return all(call.ready() for call in calls)

        wait_until(all_ended)
        [lane] = channel.api.statistics().lanes
    assert (lane.name, lane.passed) == ("line.all", 6)
    assert max(in_flight) == 1
    assert len({request["connection"] for request in fake_line.requests()}) == 1


def test_no_more_wait_than_may(fake_line: FakeLineProcess) -> None:
    fake_line.order({"delay_s": 0.5})
    with line_at(fake_line.address, {"push": Limit(in_flight=1)}) as channel:
        calls = [gevent.spawn(channel.push, line.hex_id("U", str(number))) for number in range(WAITING_MAX + 11)]
        gevent.joinall(calls, timeout=20)
        refused = [call for call in calls if not call.successful()]
        assert len(refused) == 10
        assert all(isinstance(call.exception, LaneBusy) for call in refused)


def test_a_caller_that_is_killed_leaves_the_lane(fake_line: FakeLineProcess) -> None:
    fake_line.order({"delay_s": 5.0})
    with line_at(fake_line.address, {"push": Limit(in_flight=1)}) as channel:
        sending, waiting = gevent.spawn(channel.push), gevent.spawn(channel.push)
        wait_until(lambda: any(lane.waiting for lane in channel.api.statistics().lanes))
        waiting.kill()
        sending.kill()
        assert channel.push().status == 200


# ---- hosts that are down


def open_circuit(channel: Line) -> list[SendError]:
    """Fail until the host is left alone; the errors."""
    calls = [gevent.spawn(failure, channel.push) for _ in range(AT_ONCE)]
    gevent.joinall(calls, raise_error=True, timeout=20)
    assert channel.api.statistics().open_circuits
    return [call.value for call in calls]


def test_a_host_that_fails_again_and_again_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with line_at(address) as channel:
        with caplog.at_level(logging.WARNING):
            errors = open_circuit(channel)
            for _ in range(50):
                error = failure(channel.reply)
                assert isinstance(error, ApiDown)
                assert 0 < error.after_s <= 30
        assert channel.api.statistics().open_circuits == (address,)
        assert all(isinstance(error, ApiUnreachable) for error in errors)
        assert [record.getMessage().split(" ")[:2] for record in caplog.records] == [[address, "fails"]]
        assert "wait in the inbox" in caplog.text
        with server(OK, port=port) as (_, received):
            wait_until(lambda: answers(channel))
            assert channel.api.statistics().open_circuits == ()
            assert channel.push().status == 200
            assert len(received) == 2
        assert "answers again after" in caplog.text
        assert len(caplog.records) == 2


def answers(channel: Line) -> bool:
    try:
        channel.push()
    except ApiDown:
        return False
    return True


def test_those_that_wait_in_a_lane_are_told_at_once_that_the_host_is_down() -> None:
    held = Limit(count=1, per_s=30.0)  # the second one would wait for half a minute
    with server(OK, hang_up) as (address, received), line_at(address, {"reply": held}) as channel:
        channel.reply(0)
        waiting = [gevent.spawn(failure, lambda n=n: channel.reply(n)) for n in range(1, 10)]
        wait_until(lambda: any(lane.waiting == 9 for lane in channel.api.statistics().lanes))
        open_circuit(channel)
        gevent.joinall(waiting, raise_error=True, timeout=5)
        assert [type(call.value) for call in waiting] == [ApiDown] * 9
        assert not [request for request in received[1:] if b"/reply" in request]


def test_a_push_on_its_way_when_the_host_goes_down_says_that_it_may_have_arrived() -> None:
    with server(hang_up) as (address, _), line_at(address) as channel:
        errors = open_circuit(channel)
        assert {type(error) for error in errors} == {ApiDown}
        assert all(may_have_arrived(error) for error in errors)


def test_refusals_are_no_failures_of_the_host(channel: Line, fake_line: FakeLineProcess) -> None:
    fake_line.order(*[{"status": 400}] * 30)
    for _ in range(30):
        assert type(failure(channel.push)) is ApiRejected
    assert channel.api.statistics().open_circuits == ()


def test_a_probe_that_is_killed_makes_room_for_the_next() -> None:
    port = free_port()
    silent = gevent.event.Event()
    with line_at(f"http://127.0.0.1:{port}") as channel:
        open_circuit(channel)
        with server(lambda _: silent.wait(), OK, port=port) as (_, received):
            probe = None

            def probing() -> bool:
                nonlocal probe
                if probe is None or probe.ready():
                    probe = gevent.spawn(answers, channel)
                return bool(received)

            wait_until(probing)
            assert isinstance(failure(channel.push), ApiDown)  # there is one probe at a time
            assert probe is not None
            probe.kill()
            assert channel.push().status == 200
            silent.set()


def test_of_hosts_without_number_only_those_asked_last_are_remembered() -> None:
    """Contents may be anywhere: here on all of 127.0.0.0/24, on a port where nobody listens."""
    port = free_port()

    def ask(number: int) -> None:
        request = ApiRequest("GET", f"http://127.0.0.{number}:{port}", "/", {}, b"", "content")
        failure(lambda: channel.api.call(request, None, within_s=0.01))

    with line_at(f"http://127.0.0.1:{port}", {"content": Limit()}) as channel:
        for number in range(1, HOSTS_MAX + 21):
            for _ in range(AT_ONCE):
                ask(number)
            ask(1)
        down = channel.api.statistics().open_circuits
    assert len(down) == HOSTS_MAX
    assert f"http://127.0.0.1:{port}" in down
    assert f"http://127.0.0.2:{port}" not in down


# ---- everything at once


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_every_call_ends_and_leaves_nothing_behind(seed: int) -> None:
    """Failures of every kind, calls that are killed, lanes that are too narrow; ``line_at`` looks at the lanes."""
    dice = random.Random(seed)

    def answer(sock: Any) -> None:
        gevent.sleep(dice.random() * 0.01)
        fates = [OK, OK, OK, SERVER_ERROR, b"HTTP/1.1 429 Slow\r\nContent-Length: 2\r\n\r\n{}", b"", b"HTTP/1.1 2"]
        sock.sendall(dice.choice(fates))

    limits = {"push": Limit(in_flight=7), "reply": Limit(count=100, in_flight=3)}
    with server(answer) as (address, _), line_at(address, limits) as channel:

        def call(number: int) -> str:
            try:
                (channel.push if number % 2 else lambda within_s: channel.reply(number, within_s))(within_s=3.0)
            except SendError as error:
                return type(error).__name__
            return "sent"

        calls = [gevent.spawn(call, number) for number in range(150)]
        for victim in dice.sample(calls, 30):
            gevent.spawn_later(dice.random() * 0.1, victim.kill)
        gevent.joinall(calls, timeout=30)
        assert all(each.ready() for each in calls)
        ends = {each.value for each in calls if isinstance(each.value, str)}
        assert {"sent", "ApiUnavailable"} <= ends
        assert channel.transport.statistics().open == channel.transport.statistics().idle


# ---- downloads


def test_a_download_comes_in_parts_and_whole(channel: Line, fake_line: FakeLineProcess) -> None:
    ask = channel.platform.encode(AskContent(line_event(1, "image")))
    with channel.api.download(ask, "anna") as content:
        assert (content.content_type, content.length) == ("image/jpeg", len(CONTENT))
        parts = list(content)
    assert b"".join(parts) == CONTENT
    assert len(parts) > 1
    assert {request["method"] for request in fake_line.requests()} == {"GET"}


def test_content_that_is_not_ready_is_waited_for(channel: Line, fake_line: FakeLineProcess, tmp_path: Path) -> None:
    fake_line.order({"status": 202}, {"status": 500}, {"status": 202})
    ask = channel.platform.encode(AskContent(line_event(1, "video")))
    assert channel.api.download(ask, "anna").save(tmp_path / "film") == len(CONTENT)
    assert (tmp_path / "film").read_bytes() == CONTENT
    assert [file.name for file in tmp_path.iterdir()] == ["film"]
    assert len(fake_line.requests()) == 4
    assert channel.transport.statistics().open == channel.transport.statistics().idle == 1


@pytest.mark.parametrize("status", [404, 410])
def test_content_that_is_gone_is_an_error_of_its_own(channel: Line, fake_line: FakeLineProcess, status: int) -> None:
    fake_line.order({"status": status})
    ask = channel.platform.encode(AskContent(line_event(1, "image")))
    error = failure(lambda: channel.api.download(ask, "anna"))
    assert isinstance(error, ContentGone)
    assert error.status == status
    assert channel.transport.statistics().open == channel.transport.statistics().idle


def test_half_a_download_is_no_file(channel: Line, fake_line: FakeLineProcess, tmp_path: Path) -> None:
    fake_line.order({"cut": True})
    (tmp_path / "film").write_bytes(b"the one before")
    ask = channel.platform.encode(AskContent(line_event(1, "video")))
    content = channel.api.download(ask, "anna")
    assert isinstance(failure(lambda: content.save(tmp_path / "film")), ResultUnknown)
    assert [file.name for file in tmp_path.iterdir()] == ["film"]
    assert (tmp_path / "film").read_bytes() == b"the one before"


def test_a_download_that_is_not_read_to_its_end_gives_back_its_connection(channel: Line) -> None:
    ask = channel.platform.encode(AskContent(line_event(1, "video")))
    with channel.api.download(ask, "anna") as content:
        next(iter(content))
    assert channel.transport.statistics().open == 0
    assert channel.push().status == 200


def test_a_download_into_a_place_that_is_not_there_says_so(channel: Line, tmp_path: Path) -> None:
    ask = channel.platform.encode(AskContent(line_event(1, "image")))
    with pytest.raises(FileNotFoundError):
        channel.api.download(ask, "anna").save(tmp_path / "nowhere" / "film")
    assert channel.transport.statistics().open == 0


@pytest.mark.parametrize("length", [b"", b"Content-Length: 3\r\n"])
def test_a_length_is_told_where_the_platform_tells_it(length: bytes) -> None:
    answer = b"HTTP/1.1 200 OK\r\n" + length + b"Connection: close\r\n\r\nabc"

    def say(sock: Any) -> None:
        sock.sendall(answer)

    with server(say) as (address, _), line_at(address) as channel:
        ask = channel.platform.encode(AskContent(line_event(1, "image")))
        with channel.api.download(ask, "anna") as content:
            assert (content.content_type, content.length) == (None, 3 if length else None)
            assert b"".join(content) == b"abc"
