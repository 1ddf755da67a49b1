"""How each platform writes its deliveries: what happens to a bot under test, in the platform's own JSON."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import msgspec

from gbot.event import Conversation
from gbot.platform import Platform
from gbot.platforms.line import LinePlatform
from gbot.platforms.messenger import MessengerPlatform

SECRET: Final = "the secret of a bot under test"
VERIFY_TOKEN: Final = "the verify token of a bot under test"
TOKEN: Final = "the-token-of-a-bot-under-test"

JsonObject = dict[str, Any]


class Happening(msgspec.Struct, frozen=True):
    """Something that happens to the bot.

    ``kind`` is the event's, ``details`` what belongs to a thing of that kind, in LINE's words; ``fields`` are added to
    the event's JSON object, or replace what is there. ``number`` makes its ids.
    """

    kind: str
    details: Mapping[str, Any]
    fields: Mapping[str, Any]
    user_id: str | None
    conversation: Conversation
    number: int
    at_ms: int
    redelivered: bool = False


class Writer(Protocol):
    """One platform's hand."""

    platform: Platform

    def user_id(self, name: str) -> str:
        """The id of the user of this name, always the same."""

    def group_id(self, name: str) -> str:
        """The id of the group of this name. Raises ValueError where the platform has no groups."""

    def delivery(self, happening: Happening) -> bytes:
        """The body of the delivery that tells of it. Raises ValueError for what does not happen on the platform."""


class LineWriter:
    """LINE: "Webhook Event Objects" of the Messaging API reference."""

    SILENT: Final = frozenset({"unfollow", "leave", "memberLeft", "unsend"})  # come without a reply token
    BY_LINE: Final = frozenset({"image", "video", "audio"})
    QUOTABLE: Final = frozenset({"text", "image", "video", "sticker"})

    def __init__(self) -> None:
        self.platform: Platform = LinePlatform([SECRET], TOKEN)

    def user_id(self, name: str) -> str:
        return "U" + _digest(f"user {name}")

    def group_id(self, name: str) -> str:
        return "C" + _digest(f"group {name}")

    def delivery(self, happening: Happening) -> bytes:
        kind, _, message_type = happening.kind.partition(".")
        sent: JsonObject = {
            "type": kind,
            "mode": "active",
            "timestamp": happening.at_ms,
            "webhookEventId": f"{happening.number:026}",
            "deliveryContext": {"isRedelivery": happening.redelivered},
            "source": self._source(happening),
        }
        if kind not in self.SILENT:
            sent["replyToken"] = f"{happening.number:032x}"
        if message_type:
            sent["message"] = self._message(message_type, happening)
        elif happening.details:
            sent[kind] = happening.details
        return msgspec.json.encode({"destination": self.user_id("the bot"), "events": [sent | dict(happening.fields)]})

    def _source(self, happening: Happening) -> JsonObject:
        conversation = happening.conversation
        source = {"type": conversation.kind, f"{conversation.kind}Id": conversation.id}
        return source | ({"userId": happening.user_id} if happening.user_id is not None else {})

    def _message(self, message_type: str, happening: Happening) -> JsonObject:
        message: JsonObject = {"type": message_type, "id": str(happening.number)}
        if message_type in self.BY_LINE:
            message["contentProvider"] = {"type": "line"}
        if message_type in self.QUOTABLE:
            message["quoteToken"] = f"quote-{happening.number}"
        return message | dict(happening.details)


class MessengerWriter:
    """Messenger: "Webhook Events Reference" of Meta's documentation."""

    FIELDS: Final = {"messageEdited": "message_edit", "accountLink": "account_linking"}
    ABSENT: Final = frozenset({"follow", "unfollow", "join", "leave"})

    def __init__(self) -> None:
        self.platform: Platform = MessengerPlatform([SECRET], VERIFY_TOKEN, TOKEN)

    def user_id(self, name: str) -> str:
        return str(int(_digest(f"user {name}"), 16))[:16]

    def group_id(self, name: str) -> str:
        raise ValueError("messenger: there are no groups")

    def delivery(self, happening: Happening) -> bytes:
        if happening.kind in self.ABSENT:
            raise ValueError(f"messenger: there are no events of kind {happening.kind}")
        kind, _, message_type = happening.kind.partition(".")
        page = self.user_id("the bot")
        sent: JsonObject = {
            "sender": {"id": happening.user_id},
            "recipient": {"id": page},
            "timestamp": happening.at_ms,
        }
        if message_type:
            sent["message"] = {"mid": f"m_{happening.number}", **self._message(message_type, happening.details)}
        else:
            sent[self.FIELDS.get(kind, kind)] = self._details(kind, happening.details)
        entry = {"id": page, "time": happening.at_ms, "messaging": [sent | dict(happening.fields)]}
        return msgspec.json.encode({"object": "page", "entry": [entry]})

    def _message(self, message_type: str, details: Mapping[str, Any]) -> JsonObject:
        if message_type == "text":
            return {"text": details["text"]}
        payload: JsonObject = {"url": f"https://cdn.example/{message_type}"}
        if message_type == "location":
            payload = {"coordinates": {"lat": details["latitude"], "long": details["longitude"]}}
        if message_type == "sticker":
            message_type, payload["sticker_id"] = "image", int(details["stickerId"])
        return {"attachments": [{"type": message_type, "payload": payload}]}

    def _details(self, kind: str, details: Mapping[str, Any]) -> JsonObject:
        return {"title": details["data"], "payload": details["data"]} if kind == "postback" else dict(details)


WRITERS: Final[Mapping[str, Callable[[], Writer]]] = {"line": LineWriter, "messenger": MessengerWriter}


def writer_for(platform: str) -> Writer:
    """Raises ValueError for a platform that bots cannot be tested on."""
    if platform not in WRITERS:
        raise ValueError(f"platform: expected one of {', '.join(WRITERS)}, got {platform!r}")
    return WRITERS[platform]()


def _digest(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
