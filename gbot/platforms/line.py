"""LINE: the Messaging API's webhooks in, its reply and push requests out.

The rules are those of the LINE Messaging API reference, https://developers.line.biz/en/reference/messaging-api/;
each docstring below names the chapter that it follows.

What happens to a delivery that is not as the reference says:

- the body is no JSON object or nested too deeply, ``events`` is missing or no list: MalformedDelivery
- an element of ``events`` is of a type not listed here, or no object at all: an event of kind ``unknown``
  (``message.unknown`` for a message), with whatever could be read of it
- a field has the wrong type or no sensible size: that field is None, as if LINE had not sent it
- a text holds half of a surrogate pair (a cut emoji): ``?`` in its place, as no database could store it
- an element holds a number outside of what a float can be: kind ``unknown`` with ``raw`` None
"""

from __future__ import annotations

import base64
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

import msgspec

from gbot.errors import BadSignature, ConfigError, MalformedDelivery, MessageRefused, ReplyRefused
from gbot.event import Conversation, Event, Message
from gbot.platform import ApiRequest, HeaderLookup, Limits, Push, Reply, json_kind

# "Webhook Event Objects". Looked up rather than compared, so that all events of a kind share one str.
_KINDS: Final = {
    kind: kind
    for kind in (
        *("accountLink", "activated", "beacon", "botResumed", "botSuspended", "deactivated", "delivery", "follow"),
        *("join", "leave", "memberJoined", "memberLeft", "membership", "messageEdited", "module", "postback"),
        *("unfollow", "unsend", "videoPlayComplete"),
    )
}
# "Message event", the types of its message object.
_MESSAGE_KINDS: Final = {
    kind: f"message.{kind}" for kind in ("text", "image", "video", "audio", "file", "location", "sticker")
}
_MISSING: Final = object()

# LINE's ids and tokens have 26 to 33 characters. A longer one would be refused by an inbox's column, and with it
# every other event of the same commit.
_ID_CHARS_MAX: Final = 255
_TIMESTAMP_MS_MAX: Final = 2**63 - 1  # what a database's integer holds

_PRINTABLE: Final = re.compile(r"[!-~]+")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class _Delivery(msgspec.Struct, gc=False):
    events: list[Any]


_decode_delivery = msgspec.json.Decoder(_Delivery).decode
_decode_anything = msgspec.json.Decoder().decode


class LinePlatform:
    """One LINE channel; see :class:`gbot.platform.Platform`.

    ``channel_secrets`` are all secrets that a delivery may be signed with: two while the channel's secret is being
    changed. Without ``channel_access_token`` the bot can listen but not send. Raises ConfigError for a secret that
    anyone could guess (none, or an empty one) and for a token that fits into no HTTP header.
    """

    __slots__ = ("_access_token", "_api_base", "_secrets")

    name: Final = "line"
    # "Send reply message", "Send push message": at most 5 message objects; a request over 2 MB is answered with 413.
    limits: Final = Limits(messages_per_request=5, request_bytes_max=2 * 1024 * 1024, reply_within_s=60.0)

    def __init__(
        self,
        channel_secrets: Sequence[str],
        channel_access_token: str | None,
        api_base: str = "https://api.line.me",
    ) -> None:
        self._secrets = _usable_secrets(channel_secrets)
        self._access_token = _usable_token(channel_access_token)
        self._api_base = api_base.rstrip("/")

    def __repr__(self) -> str:
        token = "no access token" if self._access_token is None else "an access token"
        return f"<LinePlatform with {len(self._secrets)} channel secret(s) and {token}>"

    def verify(self, header: HeaderLookup, raw_body: bytes) -> None:
        """Return if one of the channel secrets signed these bytes, raise BadSignature if none did.

        "Signature validation": x-line-signature is the base64 of HMAC-SHA256 over the raw body.
        """
        given = header("x-line-signature")
        if not given:
            raise BadSignature("the header x-line-signature is missing: this delivery does not come from LINE")
        # Base64 is ASCII: whatever else a header may carry becomes "?", which no signature holds.
        signature = given.encode("ascii", "replace")
        for secret in self._secrets:
            if hmac.compare_digest(signature, base64.b64encode(hmac.digest(secret, raw_body, "sha256"))):
                return
        raise BadSignature(
            "the header x-line-signature does not belong to this body: it was changed on the way, "
            "or signed with a channel secret that gbot was not given"
        )

    def parse(self, raw_body: bytes) -> list[Event]:
        """The events of one delivery, in LINE's order; an empty ``events`` is LINE's connection test.

        "Request body" and "Common properties" of "Webhook Event Objects". An event's ``raw`` is its JSON object.
        Raises MalformedDelivery.
        """
        try:
            events = _decode_delivery(raw_body).events
        except (ValueError, RecursionError):  # msgspec's own errors and UnicodeDecodeError are ValueErrors
            events = _salvage(raw_body)
        return [_event(sent) for sent in events]

    def encode(self, outgoing: Reply | Push) -> ApiRequest:
        """The request that sends a Reply or a Push.

        "Send reply message" (no retry key: LINE takes none there) and "Send push message" (always with
        X-Line-Retry-Key, see "Retrying an API request"). Raises ReplyRefused without an access token or a reply
        token, MessageRefused when LINE could only refuse the messages.
        """
        if self._access_token is None:
            raise ReplyRefused(
                "LINE takes messages only with a channel access token: set GBOT_LINE_CHANNEL_ACCESS_TOKEN; "
                "nothing was sent"
            )
        headers = {"Authorization": f"Bearer {self._access_token}", "Content-Type": "application/json"}
        if isinstance(outgoing, Reply):
            endpoint, address = "reply", _reply_address(outgoing)
        else:
            endpoint, address = "push", _push_address(outgoing)
            headers["X-Line-Retry-Key"] = outgoing.retry_key
        body = _request_body(address, outgoing.messages)
        return ApiRequest("POST", f"{self._api_base}/v2/bot/message/{endpoint}", headers, body)


# ---- settings


def _usable_secrets(secrets: Sequence[str]) -> tuple[bytes, ...]:
    # A lone str is a Sequence[str] too: each of its letters would pass as a secret.
    if isinstance(secrets, str) or not secrets or not all(secret.strip() for secret in secrets):
        raise ConfigError(
            "GBOT_LINE_CHANNEL_SECRET", "one or more channel secrets, none of them empty", "something else", "line"
        )
    return tuple(secret.encode() for secret in secrets)


def _usable_token(token: str | None) -> str | None:
    if not token:
        return None
    if not _PRINTABLE.fullmatch(token):
        raise ConfigError(
            "GBOT_LINE_CHANNEL_ACCESS_TOKEN",
            "a token of printable ASCII characters",
            "one with a space, a line break or another character that no HTTP header can carry",
            "line",
        )
    return token


# ---- in


def _event(sent: Any) -> Event:
    """One element of ``events`` as an Event, whatever it is: "Common properties"."""
    if not isinstance(sent, dict):
        return Event(platform="line", kind="unknown", raw=sent)
    kind, text = _kind_and_text(sent)
    conversation, user_id = _origin(sent.get("source"))
    context = sent.get("deliveryContext")
    return Event(
        platform="line",
        kind=kind,
        raw=sent,
        id=_id(sent.get("webhookEventId")),
        text=text,
        conversation=conversation,
        user_id=user_id,
        reply_token=_id(sent.get("replyToken")),
        timestamp_ms=_timestamp_ms(sent.get("timestamp")),
        standby=sent.get("mode") == "standby",
        redelivered=isinstance(context, dict) and context.get("isRedelivery") is True,
    )


def _kind_and_text(sent: dict[str, Any]) -> tuple[str, str | None]:
    """A ``message.text`` always has a text: one without becomes ``message.unknown``."""
    kind = sent.get("type")
    if not isinstance(kind, str):
        return "unknown", None
    if kind != "message":
        return _KINDS.get(kind, "unknown"), None
    message = sent.get("message")
    if not isinstance(message, dict) or not isinstance(message_type := message.get("type"), str):
        return "message.unknown", None
    if message_type != "text":
        return _MESSAGE_KINDS.get(message_type, "message.unknown"), None
    text = message.get("text")
    return ("message.text", text) if isinstance(text, str) else ("message.unknown", None)


def _origin(source: Any) -> tuple[Conversation | None, str | None]:
    """The conversation and the user: "Source user", "Source group chat", "Source multi-person chat".

    In a group or room the userId may be absent. A source of a type not known here still names its user.
    """
    if not isinstance(source, dict):
        return None, None
    user_id = _id(source.get("userId"))
    kind = source.get("type")
    if kind == "user":
        return (Conversation("user", user_id) if user_id else None), user_id
    if kind == "group":
        group_id = _id(source.get("groupId"))
        return (Conversation("group", group_id) if group_id else None), user_id
    if kind == "room":
        room_id = _id(source.get("roomId"))
        return (Conversation("room", room_id) if room_id else None), user_id
    return None, user_id


def _id(value: Any) -> str | None:
    # An empty id counts as none: two events with id "" would be taken for duplicates.
    return value if isinstance(value, str) and 0 < len(value) <= _ID_CHARS_MAX else None


def _timestamp_ms(value: Any) -> int | None:
    # type() and not isinstance(): true is an int to Python, but no time.
    return value if type(value) is int and 0 <= value <= _TIMESTAMP_MS_MAX else None


def _salvage(raw_body: bytes) -> list[Any]:
    """The elements of ``events`` of a body that msgspec refused, or MalformedDelivery.

    msgspec refuses a whole delivery for half a surrogate pair or a number out of range in one of its events; the
    standard library's decoder reads on, so that the others get through.
    """
    try:
        body: Any = json.loads(raw_body.decode(), parse_constant=_refuse_constant)
    except RecursionError:
        raise MalformedDelivery("the body: expected a LINE delivery, got JSON nested too deeply") from None
    except ValueError:
        raise MalformedDelivery("the body: expected a JSON object in UTF-8, got something that is not JSON") from None
    if not isinstance(body, dict):
        raise MalformedDelivery(f"the body: expected a JSON object, got {json_kind(body)}")
    events = body.get("events", _MISSING)
    if events is _MISSING:
        raise MalformedDelivery("events: expected a list, but the field is missing")
    if not isinstance(events, list):
        raise MalformedDelivery(f"events: expected a list, got {json_kind(events)}")
    return [_storable(sent) for sent in events]


def _storable(sent: Any) -> Any:
    """The value as any store can hold it, or None if none can."""
    try:
        return _decode_anything(json.dumps(sent, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# ---- out


def _reply_address(reply: Reply) -> dict[str, Any]:
    if not reply.token:
        raise ReplyRefused("the reply token is empty; nothing was sent")
    return {"replyToken": reply.token}


def _push_address(push: Push) -> dict[str, Any]:
    if not push.to:
        raise MessageRefused("to: expected the id of a user, group or room, got an empty text; nothing was sent")
    if not _UUID.fullmatch(push.retry_key):
        raise MessageRefused("retry_key: expected a UUID as LINE's X-Line-Retry-Key takes it; nothing was sent")
    return {"to": push.to}


def _request_body(address: dict[str, Any], messages: Sequence[Message]) -> bytes:
    count_max = LinePlatform.limits.messages_per_request
    if not 1 <= len(messages) <= count_max:
        raise MessageRefused(
            f"expected 1 to {count_max} messages in one request, got {len(messages)}; nothing was sent"
        )
    objects = [_message_object(number, message) for number, message in enumerate(messages, 1)]
    try:
        body = msgspec.json.encode({**address, "messages": objects})
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise MessageRefused(
            "expected messages of JSON values only, got a value that JSON cannot carry; nothing was sent"
        ) from None
    bytes_max = LinePlatform.limits.request_bytes_max
    if len(body) > bytes_max:
        raise MessageRefused(f"expected a request of at most {bytes_max} bytes, got {len(body)}; nothing was sent")
    return body


def _message_object(number: int, message: Message) -> dict[str, Any]:
    """ "Message objects": every one has a type. The rest is between the author and LINE, which adds fields often."""
    body: object = message.body
    if not isinstance(body, Mapping):
        raise MessageRefused(f"message {number}: expected an object, got {type(body).__name__}; nothing was sent")
    kind = body.get("type", _MISSING)
    if kind is _MISSING:
        raise MessageRefused(f'message {number}: expected a "type", but the field is missing; nothing was sent')
    if not isinstance(kind, str) or not kind:
        given = "an empty one" if kind == "" else type(kind).__name__
        raise MessageRefused(f'message {number}: expected a text as "type", got {given}; nothing was sent')
    return dict(body)
