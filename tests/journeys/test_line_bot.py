"""The main job on real input: LINE's deliveries in, a bot's answers out, through real processes and real sockets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import Serve
from tests.fake_line import FakeLineProcess
from tests.journeys.client import Answer, connect, request
from tests.journeys.processes import Served, eventually
from tests.samples import line

APP = "tests.journeys.bots.answering:bot"
CALLBACK = "/callback/line"


@pytest.fixture
def served(serve: Serve, fake_line: FakeLineProcess) -> Served:
    """The bot, taking deliveries signed with either of two secrets."""
    return serve(APP, "--log-level", "debug", environ=line_environ(fake_line))


@pytest.fixture
def shared(fake_line_process: FakeLineProcess) -> Iterator[Served]:
    """The same, with nothing on disk."""
    served = Served(APP, environ={"GBOT_PORT": "0", "GBOT_INBOX": "memory:"} | line_environ(fake_line_process))
    yield served
    served.kill()


def line_environ(fake_line: FakeLineProcess) -> dict[str, str]:
    return {
        "GBOT_LINE_CHANNEL_SECRET": f"{line.SECRET},{line.OLD_SECRET}",
        "GBOT_LINE_CHANNEL_ACCESS_TOKEN": line.ACCESS_TOKEN,
        "GBOT_LINE_API_BASE": fake_line.address,
        "GBOT_ATTEMPTS_MAX": "1",  # a handler that fails does not hold its conversation up for minutes
    }


def deliver(served: Served, *events: Any, secret: str = line.SECRET) -> Answer:
    body = line.delivery(*events)
    return request(served.address, "POST", CALLBACK, body, line.headers(body, secret))


def accepted(answer: Answer) -> None:
    assert (answer.status, answer.json) == (200, {"ok": "ok"})


def sent_to(fake_line: FakeLineProcess, count: int) -> list[dict[str, Any]]:
    """Wait until the API has been sent to this often; returns the requests that send. Others ask for profiles."""

    def sending() -> list[dict[str, Any]]:
        return [asked for asked in fake_line.requests() if asked["path"].startswith("/v2/bot/message/")]

    eventually(lambda: len(sending()) >= count)
    return sending()


def texts_by_token(requests: list[dict[str, Any]]) -> dict[str, list[str]]:
    """What was answered to each reply token, all by 200 and each token once."""
    assert {asked["status"] for asked in requests} == {200}
    tokens = Counter(asked["body"]["replyToken"] for asked in requests)
    assert set(tokens.values()) == {1}
    return {
        asked["body"]["replyToken"]: [message.get("text", message["type"]) for message in asked["body"]["messages"]]
        for asked in requests
    }


def test_a_mixed_delivery_is_answered_exactly_once_each(served: Served, fake_line: FakeLineProcess) -> None:
    events = [
        line.text_event("hello", 101),
        line.text_event("weather in Osaka", 102, source=line.FROM_BEN),
        line.text_event("/say good night \U0001f31b", 103, source=line.FROM_GROUP),
        line.text_event("/fail", 104),
        line.text_event("/exit", 105, source=line.FROM_ROOM),
        line.event("follow", 106, follow={"isUnblocked": False}),
        line.event("postback", 107, source=line.FROM_ROOM, postback={"data": "action=order&item=7"}),
        line.event("message", 108, message=line.message("image", 108)),
        line.event("unsend", 109, reply=False, unsend={"messageId": "565000000000000001"}),
        line.event("somethingNew", 110, newField={"a": [1, 2]}),
        line.text_event("after all that", 111),
        line.text_event("not for us", 112, mode="standby"),
    ]
    accepted(deliver(served, *events))
    answers = texts_by_token(sent_to(fake_line, 8))
    served.wait_for_output("refused message.text")
    assert answers == {
        line.reply_token(101): ["hello from the SDK", "and a plain text"],
        line.reply_token(102): ["sunny in Osaka"],
        line.reply_token(103): ["good night \U0001f31b"],
        line.reply_token(106): ["sticker", "welcome"],
        line.reply_token(107): ["action=order&item=7"],
        line.reply_token(108): ["a message.image"],
        line.reply_token(110): ["a unknown"],
        line.reply_token(111): ["a message.text"],
    }
    assert served.stop() == 0
    assert len(sent_to(fake_line, 8)) == 8
    assert sorted(served.stdout) == ["refused message.text", "refused unsend"]
    assert sum("ValueError: the author's mistake" in logged for logged in served.stderr) == 1
    assert sum("a handler failed" in logged for logged in served.stderr) == 2


def test_every_kind_of_event_that_line_sends_is_taken(served: Served, fake_line: FakeLineProcess) -> None:
    headers = line.headers(line.MIXED)
    accepted(request(served.address, "POST", CALLBACK, line.MIXED, headers))
    events = line.every_event()
    with_token = {sent["replyToken"] for sent in events.values() if "replyToken" in sent}
    answers = texts_by_token(sent_to(fake_line, len(with_token)))
    assert set(answers) == with_token
    served.wait_until(lambda: len(served.stdout) == len(events) - len(with_token), "refusal of all others")
    assert set(served.stdout) == {f"refused {kind}" for kind, sent in events.items() if "replyToken" not in sent}


def test_sdk_models_arrive_as_line_wants_them(shared: Served, fake_line: FakeLineProcess) -> None:
    accepted(deliver(shared, line.event("follow", 1), line.text_event("hello", 2)))
    bodies = {asked["body"]["replyToken"]: asked["body"]["messages"] for asked in sent_to(fake_line, 2)}
    assert bodies[line.reply_token(1)] == [
        {"type": "sticker", "packageId": "446", "stickerId": "1988"},
        {"type": "text", "text": "welcome"},
    ]
    assert bodies[line.reply_token(2)] == [
        {"type": "text", "text": "hello from the SDK"},
        {"type": "text", "text": "and a plain text"},
    ]


def test_a_push_goes_to_the_conversation(shared: Served, fake_line: FakeLineProcess) -> None:
    accepted(deliver(shared, line.text_event("/push", 1, source=line.FROM_GROUP), line.text_event("/push", 2)))
    pushes = sent_to(fake_line, 2)
    assert {asked["path"] for asked in pushes} == {"/v2/bot/message/push"}
    assert {asked["body"]["to"] for asked in pushes} == {line.GROUP, line.ANNA}
    assert len({asked["retry_key"] for asked in pushes}) == 2


def test_both_secrets_are_taken_and_no_other(shared: Served, fake_line: FakeLineProcess) -> None:
    accepted(deliver(shared, line.text_event("count 1", 1)))
    accepted(deliver(shared, line.text_event("count 2", 2), secret=line.OLD_SECRET))
    refused = deliver(shared, line.text_event("count 3", 3), secret="another secret")
    assert (refused.status, refused.json["error"]) == (401, "bad_signature")
    accepted(deliver(shared, line.text_event("count 4", 4)))
    expected = {line.reply_token(number) for number in (1, 2, 4)}
    assert set(texts_by_token(sent_to(fake_line, 3))) == expected


@pytest.mark.parametrize("change", ["body", "missing", "empty", "not base64", "of another body"])
def test_a_wrong_signature_is_refused(shared: Served, fake_line: FakeLineProcess, change: str) -> None:
    body = line.delivery(line.text_event("hello"))
    headers = line.headers(body)
    if change == "body":
        body = body.replace(b"hello", b"hallo")
    elif change == "missing":
        del headers["x-line-signature"]
    else:
        headers["x-line-signature"] = {"empty": "", "not base64": "\xff%%"}.get(change, line.sign(line.SECRET, b"{}"))
    answer = request(shared.address, "POST", CALLBACK, body, headers)
    assert (answer.status, answer.json["error"]) == (401, "bad_signature")
    shared.wait_for_line("Refused a delivery to /callback/line with 401")
    accepted(deliver(shared, line.text_event("count 7", 7)))
    assert set(texts_by_token(sent_to(fake_line, 1))) == {line.reply_token(7)}


def test_lines_connection_test_is_answered(shared: Served) -> None:
    headers = line.headers(line.CONNECTION_TEST)
    accepted(request(shared.address, "POST", CALLBACK, line.CONNECTION_TEST, headers))


def test_batches_of_a_hundred_on_one_connection(shared: Served, fake_line: FakeLineProcess) -> None:
    sources = [line.FROM_ANNA, line.FROM_BEN, line.FROM_GROUP, line.FROM_ROOM]
    connection = connect(shared.address)
    for batch in range(5):
        numbers = range(batch * 100, batch * 100 + 100)
        body = line.delivery(
            *(
                line.text_event("/fail" if number % 10 == 9 else f"count {number}", number, source=sources[number % 4])
                for number in numbers
            )
        )
        connection.request("POST", CALLBACK, body, line.headers(body))
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b'{"ok":"ok"}')
    connection.close()
    asked = sent_to(fake_line, 450)
    answers = texts_by_token(asked)
    expected = {number for number in range(500) if number % 10 != 9}
    assert answers == {line.reply_token(number): [str(number)] for number in expected}
    for remainder in range(4):  # one conversation each: answered in the order in which they were written
        order = [int(texts[0]) for texts in answers.values() if int(texts[0]) % 4 == remainder]
        assert order == sorted(order)
    assert len({request["connection"] for request in asked}) < 50  # kept alive


def test_a_reply_that_may_have_arrived_is_not_sent_again_and_one_that_came_too_fast_is(
    served: Served, fake_line: FakeLineProcess
) -> None:
    fake_line.order({"status": 500}, {"status": 429}, {"drop": True})
    accepted(deliver(served, *(line.text_event(f"count {number}", number) for number in range(5))))
    asked = sent_to(fake_line, 6)
    assert Counter(request["status"] for request in asked) == {500: 1, 429: 1, 200: 4}
    served.wait_for_line("ApiUnavailable: .* answered 500.*not sent again")
    served.wait_for_line("ResultUnknown: .* may have arrived.*not sent again")
    assert served.stop() == 0
    assert len(sent_to(fake_line, 6)) == 6


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_secret_and_no_message_is_ever_logged(serve: Serve, fake_line: FakeLineProcess, log_format: str) -> None:
    served = serve(APP, "--log-level", "debug", "--log-format", log_format, environ=line_environ(fake_line))
    private = "the swordfish swims"
    fake_line.order({}, {"status": 400}, {"drop": True})
    events = [line.text_event(f"/say {private}", number) for number in range(4)]
    events += [line.text_event(f"/fail {private}", 8), line.text_event(f"/exit {private}", 9), {"type": private}]
    accepted(deliver(served, *events))
    assert deliver(served, line.text_event(private), secret="wrong").status == 401
    body = b'{"events": "' + private.encode() + b'"}'
    assert request(served.address, "POST", CALLBACK, body, line.headers(body)).status == 400
    sent_to(fake_line, 4)
    served.wait_for_line("SystemExit")  # of the last one: what has not begun is given back by a stop
    assert served.stop() == 0
    log = "\n".join(served.stderr)
    assert (log.count("a handler failed"), log.count("the reply failed with")) == (2, 2)
    for secret in (private, line.SECRET, line.OLD_SECRET, line.ACCESS_TOKEN, line.reply_token(1)):
        assert secret not in log


def test_without_an_access_token_it_listens_and_says_so(serve: Serve) -> None:
    served = serve(APP, environ={"GBOT_LINE_CHANNEL_SECRET": line.SECRET})
    served.wait_for_line("GBOT_LINE_CHANNEL_ACCESS_TOKEN is not set: handlers cannot reply or push")
    accepted(deliver(served, line.event("message", message=line.message("image"))))
    served.wait_for_output("refused message.image")
