"""The simulated Messenger, by values: deliveries that gbot understands, an API that takes what Messenger takes."""

from __future__ import annotations

import json
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbot.errors import Forbidden
from gbot.platforms.messenger import MessengerPlatform
from gbot.simulator.calls import Calls
from gbot.simulator.ledger import Ledger
from gbot.simulator.messenger import CONTENT_PATH, KINDS, MessengerWebhook, user_id
from gbot.simulator.messenger_api import MessengerApi
from gbot.simulator.platform import Answer, Call
from gbot.simulator.scene import Scene
from gbot.simulator.traffic import Delivery

SECRET, VERIFY, PAGE = "an-app-secret", "a-verify-token", "a-page-token"
EVERYTHING = tuple((kind, 1) for kind in KINDS)
ADDRESS = "http://127.0.0.1:8100"


def scene(mix: tuple[tuple[str, int], ...] = (("text", 1),)) -> Scene:
    return Scene.of(1, 20, mix, 1_790_000_000_000, ADDRESS)


class Messenger:
    """The simulated API, spoken to without a network."""

    def __init__(self) -> None:
        self.scene = scene()
        self.ledger, self.calls = Ledger(), Calls()
        self.api = MessengerApi(self.scene, PAGE, self.ledger, self.calls)
        for number in range(5):
            self.ledger.send(number, True, 0.0)

    def ask(self, method: str, path: str, body: object = None) -> Answer:
        found = self.api.route(method, path)
        assert found is not None
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.api.serve(Call(*found, raw, None, 0.0))

    def send(self, **fields: object) -> Answer:
        body = {"recipient": {"id": user_id(0)}, "messaging_type": "RESPONSE", "message": {"text": "hello"}}
        return self.ask("POST", "/v23.0/me/messages", body | fields)


def test_gbot_understands_the_deliveries() -> None:
    webhook = MessengerWebhook(scene(EVERYTHING), SECRET, VERIFY)
    body = webhook.body(Delivery(0, 0, 200, 1.5), again=False)
    headers = {name.lower(): value for name, value in webhook.headers(body).items()}
    platform = MessengerPlatform([SECRET], VERIFY, PAGE)
    platform.verify(lambda name: headers.get(name.lower()), body)
    events = platform.parse(body)
    assert len(events) == 200
    assert {"message.text", "message.image", "message.sticker", "postback", "read", "unknown"} <= {
        event.kind for event in events
    }
    for number, event in enumerate(events):
        assert event.user_id == user_id(scene(EVERYTHING).people.writer(number))
        if event.kind.startswith("message."):
            assert event.id == "m_" + scene(EVERYTHING).codes.hexadecimal(number)


def test_a_redelivery_has_the_same_events_in_other_bytes() -> None:
    webhook, delivery = MessengerWebhook(scene(EVERYTHING), SECRET, VERIFY), Delivery(0, 0, 50, 1.5)
    first, second = (json.loads(webhook.body(delivery, again)) for again in (False, True))
    assert first != second
    assert first["entry"][0]["messaging"] == second["entry"][0]["messaging"]


def test_gbot_answers_the_challenge() -> None:
    asked = MessengerWebhook(scene(), SECRET, VERIFY).challenge()
    assert asked is not None
    query, expected = asked
    params = {name: values[0] for name, values in parse_qs(query).items()}
    assert MessengerPlatform([SECRET], VERIFY, PAGE).challenge(params) == expected
    with pytest.raises(Forbidden):
        MessengerPlatform([SECRET], "another", PAGE).challenge(params)


@pytest.mark.parametrize("what", ["id", "text"])
def test_a_message_answers_the_event_it_quotes(what: str) -> None:
    messenger = Messenger()
    body = MessengerWebhook(messenger.scene, SECRET, VERIFY).body(Delivery(0, 2, 1, 0.0), again=False)
    message = json.loads(body)["entry"][0]["messaging"][0]["message"]
    quote = message["mid"] if what == "id" else message["text"]
    answer = messenger.send(message={"text": f"Anna: {quote}"})
    assert answer.status == 200
    assert json.loads(answer.body)["recipient_id"] == user_id(0)
    assert (messenger.ledger.answered, messenger.calls.unquoting, messenger.calls.users) == (1, 0, 1)


def test_a_message_that_quotes_nothing_is_counted_as_such() -> None:
    messenger = Messenger()
    messenger.send()
    messenger.send()
    messenger.send(recipient={"id": user_id(3)})
    assert (messenger.ledger.answered, messenger.calls.unquoting, messenger.calls.users) == (0, 3, 2)


def test_typing_is_taken_and_is_no_answer() -> None:
    messenger = Messenger()
    typing = {"recipient": {"id": user_id(0)}, "sender_action": "typing_on"}
    assert messenger.ask("POST", "/v23.0/me/messages", typing).status == 200
    assert (messenger.ledger.answered, messenger.calls.messages) == (0, 0)


@pytest.mark.parametrize(
    "fields",
    [
        {"message": {}},
        {"message": {"text": ""}},
        {"message": {"text": "x" * 2001}},
        {"message": "hello"},
        {"messaging_type": "CHAT"},
        {"messaging_type": None},
        {"recipient": {"id": "1"}},
        {"recipient": {"id": user_id(20)}},
        {"recipient": "anna"},
        {"recipient": None},
        {"sender_action": "dancing", "message": None},
    ],
)
def test_what_messenger_does_not_take_is_refused(fields: dict[str, object]) -> None:
    messenger = Messenger()
    answer = messenger.send(**fields)
    assert answer.status == 400
    assert json.loads(answer.body)["error"]["code"] == 100
    assert (messenger.calls.bad, messenger.calls.messages) == (1, 0)


@given(st.binary())
def test_a_body_of_anything_is_refused(body: bytes) -> None:
    assert Messenger().ask("POST", "/v23.0/me/messages", body).status == 400


def test_profiles_and_contents() -> None:
    messenger = Messenger()
    profile = json.loads(messenger.ask("GET", f"/v23.0/{user_id(3)}").body)
    assert profile["name"] == messenger.scene.people.name(3)
    assert profile["locale"] in ("en_US", "ja_JP")
    assert messenger.ask("GET", f"/v23.0/{user_id(20)}").status == 400
    assert len(messenger.ask("GET", f"{CONTENT_PATH}4").body) == 10_000
    assert messenger.ask("GET", f"{CONTENT_PATH}5").status == 404


def test_the_token_may_be_in_the_header_or_the_query() -> None:
    api = Messenger().api
    assert api.may("send", f"Bearer {PAGE}", "")
    assert api.may("send", None, "access_token=a-page-token&fields=name")
    assert api.may("content", None, "")
    assert not api.may("send", None, "")
    assert not api.may("profile", "Bearer another", "access_token=another")
