"""LINE's deliveries, as "Webhook Event Objects" of the Messaging API reference describes them. Pure."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from gbot.simulator.codes import Codes
from gbot.simulator.dice import Dice
from gbot.simulator.scene import Scene
from gbot.simulator.traffic import Delivery

JsonObject = dict[str, Any]

FIRST_MESSAGE_ID: Final = 560_000_000_000_000_000
WORDS: Final = ("good morning \U0001f31e", "hello", "おはようございます", "what's new?", "一番近い駅は?", "thanks!")
BY_LINE: Final[JsonObject] = {"contentProvider": {"type": "line"}}
QUOTABLE: Final = frozenset(("text", "image", "video", "sticker"))
MESSAGES: Final[dict[str, JsonObject]] = {
    "text": {},
    "image": BY_LINE,
    "video": {"duration": 60_000, **BY_LINE},
    "audio": {"duration": 2_500, **BY_LINE},
    "file": {"fileName": "minutes.pdf", "fileSize": 48_213},
    "location": {"title": "the harbour", "address": "1 Quay Street", "latitude": 35.65910807, "longitude": 139.7},
    "sticker": {"packageId": "446", "stickerId": "1988", "stickerResourceType": "ANIMATION"},
}
OTHERS: Final[dict[str, JsonObject]] = {
    "follow": {"follow": {"isUnblocked": False}},
    "unfollow": {},
    "postback": {"postback": {"data": "action=order&item=7"}},
    "unsend": {"unsend": {"messageId": str(FIRST_MESSAGE_ID)}},
    "somethingNew": {"somethingNew": {"nobody": ["knows", "it"]}},
}
KINDS: Final = (*MESSAGES, *OTHERS)
WITHOUT_TOKEN: Final = frozenset(("unfollow", "unsend"))
encode: Final[Callable[[object], bytes]] = msgspec.json.Encoder().encode


class LineWebhook:
    """The deliveries of one run."""

    answer_within_s = 2.0

    def __init__(self, scene: Scene, secret: str) -> None:
        self._secret = secret.encode()
        self._people, self._kind, self._codes = scene.people, scene.mix.kind, scene.codes
        self._started_ms = scene.started_ms
        self._word = Dice(scene.seed, "words").between
        self._destination = "U" + Codes(scene.seed, "bot").hexadecimal(0)

    def wants_answer(self, event: int) -> bool:
        return self._kind(event) not in WITHOUT_TOKEN

    def body(self, delivery: Delivery, again: bool) -> bytes:
        at_ms = self._started_ms + round(delivery.at_s * 1000)
        events = [self._event(number, at_ms, again) for number in delivery.events]
        return encode({"destination": self._destination, "events": events})

    def headers(self, body: bytes) -> Mapping[str, str]:
        signature = base64.b64encode(hmac.digest(self._secret, body, "sha256")).decode()
        return {"Content-Type": "application/json; charset=utf-8", "x-line-signature": signature}

    def challenge(self) -> tuple[str, str] | None:
        return None

    def _event(self, number: int, at_ms: int, again: bool) -> JsonObject:
        kind = self._kind(number)
        event: JsonObject = {
            "type": "message" if kind in MESSAGES else kind,
            "mode": "active",
            "timestamp": at_ms,
            "source": {"type": "user", "userId": "U" + self._people.code(self._people.writer(number))},
            "webhookEventId": self._codes.ulid(number, at_ms),
            "deliveryContext": {"isRedelivery": again},
        }
        if kind not in WITHOUT_TOKEN:
            event["replyToken"] = self._codes.hexadecimal(number)
        if kind in MESSAGES:
            event["message"] = self._message(kind, number)
        else:
            event |= OTHERS[kind]
        return event

    def _message(self, kind: str, number: int) -> JsonObject:
        message = {"type": kind, "id": str(FIRST_MESSAGE_ID + number)} | MESSAGES[kind]
        if kind in QUOTABLE:
            message["quoteToken"] = f"q{self._codes.hexadecimal(number)}"
        if kind == "text":
            message["text"] = f"{WORDS[self._word(number, 0, len(WORDS) - 1)]} {self._codes.tag(number)}"
        return message
