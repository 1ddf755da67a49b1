"""Messenger's deliveries, as Meta's webhook reference describes those of a page. Pure."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from gbot.simulator.dice import Dice
from gbot.simulator.line import WORDS
from gbot.simulator.people import People
from gbot.simulator.scene import Scene
from gbot.simulator.traffic import Delivery

JsonObject = dict[str, Any]

ATTACHMENTS: Final = ("image", "video", "audio", "file")
KINDS: Final = ("text", *ATTACHMENTS, "sticker", "postback", "read", "somethingNew")
WITHOUT_ANSWER: Final = frozenset(("read", "somethingNew"))
FIRST_USER: Final = 4_000_000_000_000_000
LIKE: Final = 369239263222822  # the sticker of a thumb
CONTENT_PATH: Final = "/attachments/"


def user_id(person: int) -> str:
    """A page-scoped id: digits."""
    return str(FIRST_USER + person)


def person_of(user: str, people: People) -> int | None:
    """The number of the user with this id, None for one who is not there."""
    person = int(user) - FIRST_USER if user.isascii() and user.isdecimal() and len(user) < 20 else -1
    return person if 0 <= person < people.count else None


class MessengerWebhook:
    """The deliveries of one run."""

    answer_within_s = 5.0

    def __init__(self, scene: Scene, secret: str, verify_token: str) -> None:
        self._scene = scene
        self._secret = secret.encode()
        self._verify_token = verify_token
        self._word = Dice(scene.seed, "words").between
        self._page = str(10**14 + Dice(scene.seed, "page").between(0, 0, 10**12))

    def wants_answer(self, event: int) -> bool:
        return self._scene.mix.kind(event) not in WITHOUT_ANSWER

    def body(self, delivery: Delivery, again: bool) -> bytes:
        """Meta does not mark what it sends again; the entry's time is that of the sending."""
        at_ms = self._scene.started_ms + round(delivery.at_s * 1000)
        events = [self._event(number, at_ms) for number in delivery.events]
        entry = {"id": self._page, "time": at_ms + 1 + again, "messaging": events}
        return json.dumps({"object": "page", "entry": [entry]}).encode()  # \u escapes and all, like Meta's own

    def headers(self, body: bytes) -> Mapping[str, str]:
        signature = hmac.new(self._secret, body, hashlib.sha256).hexdigest()
        return {"Content-Type": "application/json", "X-Hub-Signature-256": f"sha256={signature}"}

    def challenge(self) -> tuple[str, str] | None:
        expected = str(self._scene.started_ms)
        query = {"hub.mode": "subscribe", "hub.challenge": expected, "hub.verify_token": self._verify_token}
        return urlencode(query), expected

    def _event(self, number: int, at_ms: int) -> JsonObject:
        scene = self._scene
        kind = scene.mix.kind(number)
        event: JsonObject = {
            "sender": {"id": user_id(scene.people.writer(number))},
            "recipient": {"id": self._page},
            "timestamp": at_ms + number % 1000,
        }
        mid = "m_" + scene.codes.hexadecimal(number)
        if kind == "postback":
            event["postback"] = {"mid": mid, "title": "Order", "payload": "action=order&item=7"}
        elif kind == "read":
            event["read"] = {"watermark": at_ms}
        elif kind == "somethingNew":
            event[kind] = {"nobody": ["knows", "it"]}
        else:
            event["message"] = {"mid": mid} | self._content(kind, number)
        return event

    def _content(self, kind: str, number: int) -> JsonObject:
        if kind == "text":
            return {"text": f"{WORDS[self._word(number, 0, len(WORDS) - 1)]} {self._scene.codes.tag(number)}"}
        if kind == "sticker":
            attachment = {"type": "image", "payload": {"url": self._address(number), "sticker_id": LIKE}}
            return {"sticker_id": LIKE, "attachments": [attachment]}
        return {"attachments": [{"type": kind, "payload": {"url": self._address(number)}}]}

    def _address(self, number: int) -> str:
        return f"{self._scene.api_address}{CONTENT_PATH}{number}"
