"""The simulated LINE, by values: deliveries that gbot and LINE's own SDK understand, an API as strict as LINE's."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from linebot.v3 import WebhookParser
from linebot.v3.models.events import UnknownEvent
from linebot.v3.webhooks import FollowEvent, MessageEvent, PostbackEvent, UnfollowEvent, UnsendEvent

from gbot.errors import BadSignature
from gbot.platforms.line import LinePlatform
from gbot.simulator.calls import Calls
from gbot.simulator.ledger import Ledger
from gbot.simulator.line import FIRST_MESSAGE_ID, KINDS, WITHOUT_TOKEN, LineWebhook
from gbot.simulator.line_api import LineApi
from gbot.simulator.platform import Answer, Call
from gbot.simulator.scene import Scene
from gbot.simulator.traffic import Delivery

SECRET = "a channel secret"
TOKEN = "a channel access token"
STARTED_MS = 1_790_000_000_000
EVERYTHING = tuple((kind, 1) for kind in KINDS)
HELLO = {"type": "text", "text": "hello"}


def scene(mix: tuple[tuple[str, int], ...] = (("text", 1),), started_ms: int = STARTED_MS) -> Scene:
    return Scene.of(1, 20, mix, started_ms)


class Line:
    """The simulated API, spoken to without a network. ``now`` is the time in seconds."""

    def __init__(self, mix: tuple[tuple[str, int], ...] = (("text", 1),), quota: int | None = None) -> None:
        self.scene = scene(mix)
        self.ledger, self.calls = Ledger(), Calls()
        self.api = LineApi(self.scene, TOKEN, self.ledger, self.calls, reply_window_s=60.0, quota=quota)
        self.now = 0.0

    def sent(self, count: int) -> None:
        for number in range(count):
            self.ledger.send(number, True, self.now)

    def token(self, number: int) -> str:
        return self.scene.codes.hexadecimal(number)

    def user(self, person: int = 0) -> str:
        return "U" + self.scene.people.code(person)

    def ask(self, method: str, path: str, body: object = None, retry_key: str | None = None) -> Answer:
        found = self.api.route(method, path)
        assert found is not None, path
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return self.api.serve(Call(found[0], found[1], raw, retry_key, self.now))

    def send(self, endpoint: str, retry_key: str | None = None, **fields: object) -> Answer:
        return self.ask("POST", f"/v2/bot/message/{endpoint}", {"messages": [HELLO]} | fields, retry_key)

    def reply(self, number: int, **fields: object) -> Answer:
        return self.send("reply", replyToken=self.token(number), **fields)


@pytest.fixture
def line() -> Line:
    made = Line()
    made.sent(10)
    return made


def said(answer: Answer) -> str:
    message: str = json.loads(answer.body)["message"]
    return message


# Deliveries.


def test_gbot_and_lines_own_sdk_understand_the_deliveries() -> None:
    webhook = LineWebhook(scene(EVERYTHING), SECRET)
    body = webhook.body(Delivery(3, 0, 200, 1.5), again=False)
    headers = webhook.headers(body)
    platform = LinePlatform([SECRET], None)
    platform.verify(lambda name: {key.lower(): value for key, value in headers.items()}.get(name.lower()), body)
    events = platform.parse(body)
    assert len(events) == 200
    assert {event.kind for event in events} == {
        *(f"message.{kind}" for kind in ("text", "image", "video", "audio", "file", "location", "sticker")),
        *("follow", "unfollow", "postback", "unsend", "unknown"),
    }
    assert all(event.timestamp_ms == STARTED_MS + 1500 and not event.redelivered for event in events)
    assert len({event.id for event in events}) == 200
    for number, event in enumerate(events):
        assert (event.reply_token is not None) == webhook.wants_answer(number)
    read: list[Any] = WebhookParser(SECRET).parse(body.decode(), headers["x-line-signature"])
    kinds = {MessageEvent, FollowEvent, UnfollowEvent, PostbackEvent, UnsendEvent, UnknownEvent}
    assert {type(event) for event in read} == kinds
    assert [event.webhook_event_id for event in read if isinstance(event, MessageEvent)] == [
        event.id for event in events if event.kind.startswith("message.")
    ]
    with pytest.raises(BadSignature):
        LinePlatform(["another"], None).verify(headers.get, body)


def test_a_redelivery_has_the_same_events_in_other_bytes() -> None:
    webhook, delivery = LineWebhook(scene(EVERYTHING), SECRET), Delivery(3, 0, 50, 1.5)
    first, second = (webhook.body(delivery, again) for again in (False, True))
    assert first != second
    assert second.replace(b'"isRedelivery":true', b'"isRedelivery":false') == first
    assert webhook.body(delivery, again=False) == first


def test_another_run_has_the_same_users_and_kinds_and_other_ids() -> None:
    platform, delivery = LinePlatform([SECRET], None), Delivery(0, 0, 50, 0.0)
    first, second = (
        platform.parse(LineWebhook(scene(EVERYTHING, started), SECRET).body(delivery, again=False))
        for started in (STARTED_MS, STARTED_MS + 1)
    )
    assert [(event.kind, event.user_id) for event in first] == [(event.kind, event.user_id) for event in second]
    assert not {event.id for event in first} & {event.id for event in second}
    assert not {event.reply_token for event in first if event.reply_token} & {event.reply_token for event in second}


# Replies.


def test_a_reply_token_works_once(line: Line) -> None:
    answer = line.reply(3, messages=[HELLO, {"type": "sticker", "packageId": "446", "stickerId": "1988"}])
    assert (answer.status, len(json.loads(answer.body)["sentMessages"])) == (200, 2)
    again = line.reply(3)
    assert (again.status, said(again)) == (400, "Invalid reply token")
    assert (line.calls.reused, line.ledger.answered, line.calls.messages, line.calls.bad) == (1, 1, 2, 0)


def test_a_reply_token_expires(line: Line) -> None:
    line.now = 60.0
    assert line.reply(3).status == 200
    line.now = 60.1
    assert said(line.reply(4)) == "Invalid reply token"
    assert (line.calls.expired, line.ledger.answered) == (1, 1)


@pytest.mark.parametrize(
    "token", ["", None, 7, "0" * 32, "x" * 32, Line().token(10), scene(started_ms=1).codes.hexadecimal(3)]
)
def test_a_token_that_was_never_sent_is_strange(line: Line, token: object) -> None:
    answer = line.send("reply", replyToken=token)
    assert (answer.status, said(answer), line.calls.strange) == (400, "Invalid reply token", 1)


def test_a_refused_reply_leaves_its_token_unused(line: Line) -> None:
    assert line.reply(3, messages=[]).status == 400
    assert line.calls.bad == 1
    assert line.ledger.totals().never_why.total() == 10
    assert line.reply(3).status == 200


def test_a_reply_takes_no_retry_key(line: Line) -> None:
    answer = line.send("reply", str(uuid.uuid4()), replyToken=line.token(3))
    assert (answer.status, line.calls.bad) == (400, 1)


# Messages.

SENDINGS = ["reply", "push", "multicast", "broadcast"]


@pytest.mark.parametrize("endpoint", SENDINGS)
@pytest.mark.parametrize(
    ("messages", "property_", "what"),
    [
        ([], "messages", "Size must be between 1 and 5"),
        ([HELLO] * 6, "messages", "Size must be between 1 and 5"),
        ("hello", "messages", "Size must be between 1 and 5"),
        ([HELLO, "hello"], "messages[1].type", "Must be specified"),
        ([{"text": "no type"}], "messages[0].type", "Must be specified"),
        ([{"type": "text", "text": ""}], "messages[0].text", "May not be empty"),
        ([{"type": "text"}], "messages[0].text", "May not be empty"),
        ([{"type": "text", "text": "x" * 5001}], "messages[0].text", "Length must be between 0 and 5000"),
        ([{"type": "text", "text": "\U0001f31e" * 2501}], "messages[0].text", "Length must be between 0 and 5000"),
    ],
)
def test_messages_of_the_wrong_shape_are_refused(
    line: Line, endpoint: str, messages: object, property_: str, what: str
) -> None:
    to: dict[str, object] = {"push": {"to": line.user()}, "multicast": {"to": [line.user()]}}.get(endpoint, {})
    answer = line.send(endpoint, **to, replyToken=line.token(0), messages=messages)
    assert answer.status == 400
    assert json.loads(answer.body) == {
        "message": "The request body has 1 error(s)",
        "details": [{"message": what, "property": property_}],
    }
    assert (line.calls.bad, line.calls.messages) == (1, 0)


@pytest.mark.parametrize("text", ["x" * 5000, "\U0001f31e" * 2500])
def test_the_longest_text_is_taken(line: Line, text: str) -> None:
    assert line.send("push", to=line.user(), messages=[{"type": "text", "text": text}]).status == 200


@pytest.mark.parametrize("to", [None, "", "anna", 7, ["U" + "0" * 32], "X" + "0" * 32])
def test_a_push_needs_an_address(line: Line, to: object) -> None:
    answer = line.send("push", to=to)
    assert answer.status == 400
    assert said(answer).startswith("The property, 'to', in the request body is invalid")


def test_a_multicast_takes_500_users_and_no_groups(line: Line) -> None:
    everyone = ["U" + f"{number:032x}" for number in range(501)]
    assert line.send("multicast", to=everyone[:500]).status == 200
    assert (line.calls.saved, line.calls.messages) == (499, 500)
    for to in (everyone, [], "U" + "0" * 32, ["C" + "0" * 32], None):
        assert line.send("multicast", to=to).status == 400
    assert line.calls.bad == 5


def test_the_users_who_are_reached_are_counted_once_each(line: Line) -> None:
    assert line.calls.users == 0
    line.send("push", to=line.user(7))
    line.send("multicast", to=[line.user(7), line.user(3), "U" + "0" * 32])  # the last one is nobody
    line.send("push", to="C" + line.user(9)[1:])
    assert (line.calls.users, line.calls.messages) == (2, 5)
    line.reply(0)
    writer = line.scene.people.writer(0)
    assert line.calls.users == 2 + (writer not in (3, 7))
    line.send("push", to=line.user(5), messages=[])
    line.send("broadcast")
    assert line.calls.users == 20


def test_messages_that_quote_nothing_are_counted(line: Line) -> None:
    quoting = [{"type": "text", "text": f"about {line.scene.codes.tag(3)}"}]
    line.reply(0)
    line.send("push", to=line.user(), messages=quoting)
    assert line.calls.unquoting == 0
    line.send("push", to=line.user(), messages=[HELLO, HELLO])
    line.send("multicast", to=[line.user(), line.user(1), line.user(2)])
    assert line.calls.unquoting == 5


def test_a_body_over_two_megabytes_is_refused(line: Line) -> None:
    assert line.ask("POST", "/v2/bot/message/push", b" " * (2 * 1024 * 1024 + 1)).status == 413


@given(st.binary())
def test_a_body_of_anything_is_refused(body: bytes) -> None:
    made = Line()
    for endpoint in SENDINGS:
        assert made.ask("POST", f"/v2/bot/message/{endpoint}", body).status == 400
    assert made.ask("POST", "/v2/bot/chat/loading/start", body).status == 400


# Answers that quote.


@pytest.mark.parametrize("endpoint", ["push", "multicast", "broadcast"])
@pytest.mark.parametrize("what", ["id", "text"])
def test_a_message_answers_the_events_it_quotes(endpoint: str, what: str) -> None:
    line = Line()
    line.sent(5)
    body = LineWebhook(line.scene, SECRET).body(Delivery(0, 2, 1, 0.0), again=False)
    event = json.loads(body)["events"][0]
    quote = event["webhookEventId"] if what == "id" else event["message"]["text"]
    fields: dict[str, object] = {"push": {"to": line.user()}, "multicast": {"to": [line.user()]}}.get(endpoint, {})
    assert line.send(endpoint, **fields, messages=[{"type": "text", "text": f"Anna: {quote}!"}]).status == 200
    assert line.ledger.answered == 1
    assert line.send(endpoint, **fields).status == 200
    assert line.ledger.answered == 1
    line.ledger.answer(2, 0.0)
    assert line.ledger.twice == 1


# Retry keys and the quota.


@pytest.mark.parametrize("endpoint", ["push", "multicast", "broadcast"])
def test_a_retry_key_works_once(line: Line, endpoint: str) -> None:
    to: dict[str, object] = {"push": {"to": line.user()}, "multicast": {"to": [line.user()]}}.get(endpoint, {})
    key, other = str(uuid.uuid4()), str(uuid.uuid4())
    first, second, third = (line.send(endpoint, given, **to) for given in (key, key, other))
    assert (first.status, second.status, third.status) == (200, 409, 200)
    assert said(second) == "The retry key is already accepted"
    assert len(dict(second.headers)["x-line-accepted-request-id"]) == 32
    assert json.loads(second.body).get("sentMessages") == json.loads(first.body).get("sentMessages")
    assert (line.calls.repeated, line.calls.messages) == (1, 2 * (20 if endpoint == "broadcast" else 1))
    assert line.send(endpoint, "no uuid", **to).status == 400


def test_a_refused_request_leaves_its_retry_key_unused(line: Line) -> None:
    key = str(uuid.uuid4())
    assert line.send("push", key, to=line.user(), messages=[]).status == 400
    assert line.send("push", key, to=line.user()).status == 200


def test_the_quota_is_for_all_but_replies() -> None:
    line = Line(quota=3)
    line.sent(3)
    assert line.send("multicast", to=[line.user(0), line.user(1)]).status == 200
    assert json.loads(line.ask("GET", "/v2/bot/message/quota").body) == {"type": "limited", "value": 3}
    assert json.loads(line.ask("GET", "/v2/bot/message/quota/consumption").body) == {"totalUsage": 2}
    over = line.send("multicast", to=[line.user(0), line.user(1)])
    assert (over.status, said(over)) == (429, "You have reached your monthly limit.")
    assert line.send("push", to=line.user(0)).status == 200
    quoting = [{"type": "text", "text": line.scene.codes.tag(1)}]
    assert line.send("push", to=line.user(0), messages=quoting).status == 429
    assert (line.ledger.lost, line.calls.bad) == (1, 0)
    assert line.reply(0).status == 200


# Asking.


def test_a_profile_is_made_from_the_seed(line: Line) -> None:
    languages = set()
    for person in range(20):
        answer = line.ask("GET", f"/v2/bot/profile/{line.user(person)}")
        profile = json.loads(answer.body)
        assert profile["displayName"] == line.scene.people.name(person)
        languages.add(profile["language"])
    assert languages == {"en", "ja"}
    for unknown in (line.user(20), "U" + "0" * 32, "anna", "C" + line.user()[1:]):
        assert line.ask("GET", f"/v2/bot/profile/{unknown}").status == 404
    assert line.calls.bad == 0


def test_contents_are_there_not_yet_there_or_gone() -> None:
    line = Line((("image", 1), ("text", 1)))
    line.sent(1000)
    first: dict[int, Answer] = {}
    for number in range(1000):
        first[number] = line.ask("GET", f"/v2/bot/message/{FIRST_MESSAGE_ID + number}/content")
    by_status = {status: [n for n in first if first[n].status == status] for status in (200, 202, 404, 410)}
    assert sum(map(len, by_status.values())) == 1000
    assert all(line.scene.mix.kind(number) == "text" for number in by_status[404])
    assert 60 < len(by_status[202]) < 140
    assert 0 < len(by_status[410]) < 30
    assert line.ledger.lost == len(by_status[410])
    for number in by_status[202]:
        assert line.ask("GET", f"/v2/bot/message/{FIRST_MESSAGE_ID + number}/content").status == 200
    there = first[by_status[200][0]]
    assert dict(there.headers)["Content-Type"] == "image/jpeg"
    assert len(there.body) >= 1000
    for unknown in (str(FIRST_MESSAGE_ID + 1000), "1", "x", str(FIRST_MESSAGE_ID - 1), "9" * 40):
        assert line.ask("GET", f"/v2/bot/message/{unknown}/content").status == 404


def test_the_loading_animation_is_for_users_and_steps_of_five(line: Line) -> None:
    path = "/v2/bot/chat/loading/start"
    assert line.ask("POST", path, {"chatId": line.user(), "loadingSeconds": 15}).status == 202
    assert line.ask("POST", path, {"chatId": line.user()}).status == 202
    for seconds in (0, 4, 7, 65, "5", True):
        assert line.ask("POST", path, {"chatId": line.user(), "loadingSeconds": seconds}).status == 400
    for chat in ("C" + "0" * 32, None, ""):
        assert line.ask("POST", path, {"chatId": chat}).status == 400


def test_paths_that_line_does_not_have() -> None:
    api = Line().api
    for method, path in (("GET", "/v2/bot/message/push"), ("POST", "/v2/bot/profile/U1"), ("PUT", "/"), ("POST", "/")):
        assert api.route(method, path) is None


def test_only_the_bearer_may() -> None:
    api = Line().api
    assert api.may("push", f"Bearer {TOKEN}", "")
    for authorization in (None, "", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN} "):
        assert not api.may("push", authorization, "")


def test_which_requests_may_be_repeated() -> None:
    api = Line().api
    assert [api.repeatable(Call(name, "", b"", None, 0.0)) for name in ("reply", "push", "profile")] == [
        False,
        False,
        True,
    ]
    assert api.repeatable(Call("push", "", b"", "key", 0.0))
    assert {kind for kind in KINDS if kind in WITHOUT_TOKEN} == {"unfollow", "unsend"}
