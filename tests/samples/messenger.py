"""Deliveries as Messenger would send them, written by hand: everything that happens, in entries and batches.

``delivery(text("hi"), ...)`` makes a body, ``sign`` signs it, ``headers`` is what a request carries. All ids are made
up; they have the shape and length of Meta's. The same arguments always make the same bytes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any, Final

JsonObject = dict[str, Any]

SECRET: Final = "5b1f0c9e8d7a46b3a2c1d0e9f8a7b6c5"
OLD_SECRET: Final = "c0ffee00c0ffee00c0ffee00c0ffee00"
VERIFY_TOKEN: Final = "otters-like-rivers"
PAGE_TOKEN: Final = "EAAGm0PX4ZCpsBAJsamplepagetokenZD"
STARTED_MS: Final = 1_750_000_000_000

PAGE: Final = "104987652301234"
ANNA: Final = "6789012345678901"
BEN: Final = "6789012345678902"


def mid(number: int) -> str:
    """A message's id."""
    noise = hashlib.sha256(str(number).encode()).hexdigest()
    return f"m_{noise}{noise[:40]}"


def happened(number: int = 1, *, sender: str = ANNA, **fields: Any) -> JsonObject:
    """One thing that happened. ``number`` makes its time; ``fields`` are added, or replace what is there."""
    made: JsonObject = {"sender": {"id": sender}, "recipient": {"id": PAGE}, "timestamp": STARTED_MS + number}
    return made | fields


def text(words: str, number: int = 1, *, sender: str = ANNA, **fields: Any) -> JsonObject:
    """A text message; ``fields`` are added to its message."""
    return happened(number, sender=sender, message={"mid": mid(number), "text": words} | fields)


def attached(type_: str, number: int = 1, **payload: Any) -> JsonObject:
    """A message with one attachment."""
    return happened(number, message={"mid": mid(number), "attachments": [{"type": type_, "payload": payload}]})


def url(name: str) -> str:
    return f"https://cdn.example.com/v/t59.2708/{name}?_nc_cat=1&oh=03_Q7&oe=66F0"


def every_event() -> dict[str, JsonObject]:
    """One of everything that Messenger is known to send, by the kind that gbot gives it. Fresh objects each time."""
    messages = {
        f"message.{type_}": attached(type_, number, url=url(f"a.{type_}"))
        for number, type_ in enumerate(("image", "video", "audio", "file"), 2)
    }
    place = {"coordinates": {"lat": 35.65910807, "long": 139.7}}
    thumb = attached("image", 7, url=url("thumb.png"), sticker_id=369239263222822)
    others = {
        "message.location": attached("location", 6, **place),
        "message.sticker": thumb,
        "message.unknown": attached("appointment_booking", 8, booking_id="77"),
    }
    return {"message.text": text("good morning \U0001f31e"), **messages, **others, **_signs()}


def _signs() -> dict[str, JsonObject]:
    clicked = {"mid": mid(20), "title": "Get Started", "payload": "GET_STARTED"}
    return {
        "postback": happened(20, postback=clicked),
        "delivery": happened(21, delivery={"mids": [mid(1)], "watermark": STARTED_MS}),
        "read": happened(22, read={"watermark": STARTED_MS}),
        "reaction": happened(
            23, reaction={"reaction": "love", "emoji": "\u2764\ufe0f", "action": "react", "mid": mid(1)}
        ),
        "optin": happened(24, optin={"type": "notification_messages", "payload": "weekly"}),
        "referral": happened(25, referral={"ref": "poster", "source": "SHORTLINK", "type": "OPEN_THREAD"}),
        "messageEdited": happened(26, message_edit={"mid": mid(1), "text": "good evening", "num_edit": 1}),
        "accountLink": happened(27, account_linking={"status": "linked", "authorization_code": "abc"}),
        "unknown": happened(28, pass_thread_control={"new_owner_app_id": "123", "metadata": ""}),
    }


def echo(words: str, number: int = 1) -> JsonObject:
    """A message that the page itself has sent."""
    echoed = {"mid": mid(number), "text": words, "is_echo": True, "app_id": 1517776481860111}
    return {"sender": {"id": PAGE}, "recipient": {"id": ANNA}, "timestamp": STARTED_MS + number, "message": echoed}


def entry(*messaging: Any, **fields: Any) -> JsonObject:
    """One entry; ``fields`` are added, such as ``standby``."""
    return {"id": PAGE, "time": STARTED_MS, "messaging": list(messaging)} | fields


def in_entries(*entries: Any) -> bytes:
    """The body of one webhook POST, escaped as Meta escapes it."""
    return json.dumps({"object": "page", "entry": list(entries)}, separators=(",", ":")).encode()


def delivery(*messaging: Any) -> bytes:
    """A body with one entry for each: Meta puts one thing into an entry, unless it batches."""
    return in_entries(*(entry(sent) for sent in messaging))


MIXED: Final = delivery(*every_event().values())
EMPTY: Final = in_entries()


def sign(secret: str, body: bytes) -> str:
    """The value of X-Hub-Signature-256."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def headers(body: bytes, secret: str = SECRET) -> dict[str, str]:
    """The headers of a delivery that matter to gbot."""
    return {"content-type": "application/json", "X-Hub-Signature-256": sign(secret, body)}
