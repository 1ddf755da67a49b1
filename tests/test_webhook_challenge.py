"""GET on a callback: the platform's question whether the address is ours, and 405 where a platform asks none."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlencode

import pytest
from falcon.testing import Result, TestClient

from gbot.inbox import Entry
from gbot.inboxes.memory import MemoryInbox
from gbot.platforms.line import LinePlatform
from gbot.platforms.messenger import MessengerPlatform
from gbot.platforms.plain import PlainPlatform
from gbot.webhook import Intake, application
from tests.samples import line, messenger

ASKED = {"hub.mode": "subscribe", "hub.verify_token": messenger.VERIFY_TOKEN, "hub.challenge": "1158201444"}


class Served:
    """The webhook of all platforms, asked without a server."""

    def __init__(self) -> None:
        platforms = [
            PlainPlatform(),
            LinePlatform([line.SECRET], None),
            MessengerPlatform([messenger.SECRET], messenger.VERIFY_TOKEN, None),
        ]
        self.taken: list[Entry] = []
        inbox = MemoryInbox(100, 1_000_000, strict=True, dedup_window_s=3600)
        inbox.start(self._submit, lambda: 100, lambda: self.taken)
        self.intake = Intake(inbox, body_bytes_max=1_000_000)
        self.client = TestClient(application(platforms, self.intake))

    def _submit(self, entries: Iterable[Entry]) -> None:
        self.taken.extend(entries)

    def ask(self, params: dict[str, str]) -> Result:
        return self.client.simulate_get("/callback/messenger", query_string=urlencode(params))


@pytest.fixture
def served() -> Served:
    return Served()


def test_the_challenge_comes_back_as_text(served: Served) -> None:
    answer = served.ask(ASKED)
    assert (answer.status_code, answer.text) == (200, "1158201444")
    assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("challenge", ["a,b c", "<script>alert(1)</script>", "\u65e5\u672c", "0", "x" * 5_000])
def test_the_challenge_comes_back_as_it_was_and_never_as_markup(served: Served, challenge: str) -> None:
    answer = served.ask(ASKED | {"hub.challenge": challenge})
    assert (answer.status_code, answer.text) == (200, challenge)
    assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("name", ASKED)
def test_who_does_not_know_the_verify_token_is_refused_in_json(served: Served, name: str) -> None:
    answer = served.ask({other: value for other, value in ASKED.items() if other != name})
    assert (answer.status_code, answer.json["error"]) == (403, "forbidden")
    assert answer.headers["content-type"] == "application/json"
    assert messenger.VERIFY_TOKEN not in answer.text
    assert served.intake.refusals.total == 1


def test_a_parameter_given_twice_is_none(served: Served) -> None:
    twice = urlencode([*ASKED.items(), ("hub.verify_token", messenger.VERIFY_TOKEN)])
    assert served.client.simulate_get("/callback/messenger", query_string=twice).status_code == 403


@pytest.mark.parametrize("path", ["/callback", "/callback/line"])
def test_a_platform_that_asks_nothing_takes_no_get(served: Served, path: str) -> None:
    answer = served.client.simulate_get(path, query_string=urlencode(ASKED))
    assert (answer.status_code, answer.json["error"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "POST, OPTIONS"


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE"])
def test_another_method_is_told_what_is_allowed(served: Served, method: str) -> None:
    answer = served.client.simulate_request(method, "/callback/messenger")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, POST, OPTIONS"


def post(served: Served, body: bytes, secret: str = messenger.SECRET) -> Result:
    return served.client.simulate_post("/callback/messenger", body=body, headers=messenger.headers(body, secret))


def test_deliveries_arrive_at_the_same_address(served: Served) -> None:
    answer = post(served, messenger.MIXED)
    assert (answer.status_code, answer.json) == (200, {"ok": "ok"})
    assert sorted(entry.event.kind for entry in served.taken) == sorted(messenger.every_event())


def test_the_same_delivery_again_brings_nothing_new(served: Served) -> None:
    for _ in range(2):
        assert post(served, messenger.MIXED).status_code == 200
    assert len(served.taken) == len(messenger.every_event())


def test_echoes_are_accepted_and_dropped(served: Served) -> None:
    assert post(served, messenger.delivery(messenger.echo("hello"))).status_code == 200
    assert served.taken == []


def test_a_delivery_that_meta_did_not_sign_is_refused(served: Served) -> None:
    answer = post(served, messenger.MIXED, "another secret")
    assert (answer.status_code, answer.json["error"]) == (401, "bad_signature")
    assert served.taken == []
