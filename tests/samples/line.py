"""Deliveries as LINE would send them, written by hand: every event type, every message type, every source.

``delivery(event("follow", ...), ...)`` makes a body, ``sign`` signs it, ``headers`` is what a request carries. All ids
are made up; they have the shape and length of LINE's. The same arguments always make the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any, Final

JsonObject = dict[str, Any]

SECRET: Final = "8d1c3c0f6a4b45f9b0c7e2a1d9f45b62"
OLD_SECRET: Final = "1f0e5b7a9c3d42e8a6b4c2d0e8f6a4b2"
ACCESS_TOKEN: Final = "kVq3zXw9T0uYpR7nB5mD/sample/+access+token=="
STARTED_MS: Final = 1_750_000_000_000

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def hex_id(letter: str, name: str) -> str:
    """A LINE id: U for a user, C for a group, R for a room, then 32 hexadecimal digits."""
    return letter + hashlib.md5(name.encode()).hexdigest()


def ulid(number: int) -> str:
    """A ULID of 26 characters: 48 bits of time, 80 bits that only look random."""
    noise = int.from_bytes(hashlib.sha256(str(number).encode()).digest()[:10], "big")
    value = ((STARTED_MS + number) << 80) | noise
    return "".join(_CROCKFORD[(value >> shift) & 31] for shift in range(125, -1, -5))


def reply_token(number: int) -> str:
    """A reply token: 32 hexadecimal digits."""
    return hashlib.md5(f"reply {number}".encode()).hexdigest()


BOT: Final = hex_id("U", "bot")
ANNA: Final = hex_id("U", "anna")
BEN: Final = hex_id("U", "ben")
GROUP: Final = hex_id("C", "group")
ROOM: Final = hex_id("R", "room")

FROM_ANNA: Final[JsonObject] = {"type": "user", "userId": ANNA}
FROM_BEN: Final[JsonObject] = {"type": "user", "userId": BEN}
FROM_GROUP: Final[JsonObject] = {"type": "group", "groupId": GROUP, "userId": BEN}
FROM_ROOM: Final[JsonObject] = {"type": "room", "roomId": ROOM, "userId": ANNA}
FROM_SILENT_GROUP: Final[JsonObject] = {"type": "group", "groupId": GROUP}


def event(
    type_: str, number: int = 1, *, source: JsonObject | None = FROM_ANNA, reply: bool = True, **fields: Any
) -> JsonObject:
    """One event. ``number`` makes its id, token and time; ``fields`` are added, or replace what is there."""
    made: JsonObject = {
        "type": type_,
        "mode": "active",
        "timestamp": STARTED_MS + number,
        "webhookEventId": ulid(number),
        "deliveryContext": {"isRedelivery": False},
    }
    if source is not None:
        made["source"] = dict(source)
    if reply:
        made["replyToken"] = reply_token(number)
    return made | fields


def text_event(text: str, number: int = 1, **fields: Any) -> JsonObject:
    """A text message; ``fields`` as in ``event``."""
    return event("message", number, message=message("text", number, text=text), **fields)


def message(type_: str, number: int = 1, **fields: Any) -> JsonObject:
    """The message object of a message event, with every field its type must have."""
    always = {"type": type_, "id": str(565_000_000_000_000_000 + number)}
    return always | _MESSAGE_FIELDS.get(type_, {}) | fields


_BY_LINE: Final[JsonObject] = {"contentProvider": {"type": "line"}}
_QUOTABLE: Final[JsonObject] = {"quoteToken": "q3Plxr4AgKd9TzWc0bVnUo1EsMhYfJ"}
_MESSAGE_FIELDS: Final[dict[str, JsonObject]] = {
    "text": {"text": "good morning \U0001f31e", **_QUOTABLE},
    "image": {**_BY_LINE, **_QUOTABLE},
    "video": {"duration": 60_000, **_BY_LINE, **_QUOTABLE},
    "audio": {"duration": 2_500, **_BY_LINE},
    "file": {"fileName": "minutes of may.pdf", "fileSize": 48_213},
    "location": {"title": "the harbour", "address": "1 Quay Street", "latitude": 35.65910807, "longitude": 139.7},
    "sticker": {"packageId": "446", "stickerId": "1988", "stickerResourceType": "ANIMATION", **_QUOTABLE},
}

MESSAGE_TYPES: Final = tuple(_MESSAGE_FIELDS)


def every_event() -> dict[str, JsonObject]:
    """One event of every type that LINE is known to send, by the kind that gbot gives it. Fresh objects each time."""
    messages = {
        f"message.{type_}": event("message", number, message=message(type_, number))
        for number, type_ in enumerate(MESSAGE_TYPES, 1)
    }
    return messages | _chat_events() | _account_events()


def _chat_events() -> dict[str, JsonObject]:
    joined = {"members": [FROM_ANNA, FROM_BEN]}
    return {
        "messageEdited": event("messageEdited", 20, message=message("text", 1, text="good evening")),
        "unsend": event("unsend", 21, reply=False, source=FROM_GROUP, unsend={"messageId": "565000000000000001"}),
        "join": event("join", 22, source=FROM_SILENT_GROUP),
        "leave": event("leave", 23, source=FROM_SILENT_GROUP, reply=False),
        "memberJoined": event("memberJoined", 24, source=FROM_SILENT_GROUP, joined=joined),
        "memberLeft": event("memberLeft", 25, source=FROM_SILENT_GROUP, reply=False, left={"members": [FROM_BEN]}),
        "postback": event("postback", 26, source=FROM_ROOM, postback={"data": "action=order&item=7"}),
        "videoPlayComplete": event("videoPlayComplete", 27, videoPlayComplete={"trackingId": "spring-film"}),
    }


def _account_events() -> dict[str, JsonObject]:
    attached = {"type": "attached", "botId": BOT, "scopes": ["message:send", "message:receive"]}
    bare: JsonObject = {"source": None, "reply": False}
    return {
        "follow": event("follow", 40, follow={"isUnblocked": False}),
        "unfollow": event("unfollow", 41, reply=False),
        "beacon": event("beacon", 42, beacon={"hwid": "d41d8cd98f", "type": "enter"}),
        "accountLink": event("accountLink", 43, link={"result": "ok", "nonce": "xvXbKrVgZ2dXh7QzN5sYw0"}),
        "membership": event("membership", 44, membership={"type": "joined", "membershipId": 3189}),
        "module": event("module", 45, **bare, module=attached),
        "activated": event("activated", 46, **bare, chatControl={"expireAt": STARTED_MS + 3_600_000}),
        "deactivated": event("deactivated", 47, **bare),
        "botSuspended": event("botSuspended", 48, **bare),
        "botResumed": event("botResumed", 49, **bare),
        "delivery": event("delivery", 50, **bare, delivery={"data": "parcel-0815"}),
    }


def delivery(*events: Any, destination: str = BOT) -> bytes:
    """The body of one webhook POST, as compact UTF-8."""
    body = {"destination": destination, "events": list(events)}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def redelivered(sent: JsonObject) -> JsonObject:
    """The same event as LINE sends it again: all but ``isRedelivery`` stays as it was."""
    return sent | {"deliveryContext": {"isRedelivery": True}}


MIXED: Final = delivery(*every_event().values())
CONNECTION_TEST: Final = delivery()


def sign(secret: str, body: bytes) -> str:
    """The value of x-line-signature."""
    return base64.b64encode(hmac.new(secret.encode(), body, hashlib.sha256).digest()).decode()


def headers(body: bytes, secret: str = SECRET) -> dict[str, str]:
    """The headers of a delivery that matter to gbot."""
    return {"content-type": "application/json; charset=utf-8", "x-line-signature": sign(secret, body)}
