"""LINE: the Messaging API's webhooks; what goes out to it is in line_api.

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
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from gbot.credentials import usable_secrets, usable_token
from gbot.errors import BadSignature, NotFound
from gbot.event import Conversation, Event
from gbot.json_events import salvage, salvaged_list, sent_id, sent_timestamp_ms, storable
from gbot.platform import ApiAnswer, ApiRequest, HeaderLookup, Judgement, Outgoing
from gbot.platforms import line_api
from gbot.user import Profile

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


class _Delivery(msgspec.Struct, gc=False):
    events: list[Any]


_decode_delivery = msgspec.json.Decoder(_Delivery).decode


class LinePlatform:
    """One LINE channel; see :class:`gbot.platform.Platform`.

    ``channel_secrets`` are all secrets that a delivery may be signed with: two while the channel's secret is being
    changed. Without ``channel_access_token`` the bot can listen but not send. Raises ConfigError for a secret that
    anyone could guess (none, or an empty one) and for a token that fits into no HTTP header.
    """

    __slots__ = ("_api", "_may_send", "_secrets")

    name: Final = "line"
    limits: Final = line_api.LIMITS

    def __init__(
        self,
        channel_secrets: Sequence[str],
        channel_access_token: str | None,
        api_base: str = "https://api.line.me",
        content_base: str = "https://api-data.line.me",
    ) -> None:
        self._secrets = usable_secrets(channel_secrets, "GBOT_LINE_CHANNEL_SECRET", "channel secrets", "line")
        token = usable_token(channel_access_token, "GBOT_LINE_CHANNEL_ACCESS_TOKEN", "line")
        self._may_send = token is not None
        self._api = line_api.LineApi(token, api_base, content_base)

    def __repr__(self) -> str:
        token = "an access token" if self._may_send else "no access token"
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

    def encode(self, outgoing: Outgoing) -> ApiRequest:
        """The request that does this; see line_api. Raises ReplyRefused, MessageRefused."""
        return self._api.encode(outgoing)

    def judge(self, request: ApiRequest, answer: ApiAnswer) -> Judgement:
        """What the answer means, by its status and for 429 by its message."""
        return line_api.judge(request, answer)

    def explain(self, answer: ApiAnswer) -> str:
        """LINE's own words about its refusal."""
        return self._api.explain(answer)

    def may_multicast(self, to: str) -> bool:
        """Users only: a multicast takes no groups and no rooms."""
        return line_api.is_user(to)

    def read_profile(self, answer: ApiAnswer) -> Profile:
        """The profile that LINE told. Raises ApiRejected."""
        return line_api.read_profile(answer)

    def read_quota(self, answer: ApiAnswer) -> int | None:
        """The number of messages that LINE told, None where it sets no limit. Raises ApiRejected."""
        return line_api.read_quota(answer)

    def challenge(self, params: Mapping[str, str]) -> str:
        """Raise NotFound: LINE tests a callback with a delivery without events, by POST."""
        raise NotFound("LINE asks no questions by GET")


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
        id=sent_id(sent.get("webhookEventId")),
        text=text,
        conversation=conversation,
        user_id=user_id,
        reply_token=sent_id(sent.get("replyToken")),
        timestamp_ms=sent_timestamp_ms(sent.get("timestamp")),
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
    user_id = sent_id(source.get("userId"))
    kind = source.get("type")
    if kind == "user":
        return (Conversation("user", user_id) if user_id else None), user_id
    if kind == "group":
        group_id = sent_id(source.get("groupId"))
        return (Conversation("group", group_id) if group_id else None), user_id
    if kind == "room":
        room_id = sent_id(source.get("roomId"))
        return (Conversation("room", room_id) if room_id else None), user_id
    return None, user_id


def _salvage(raw_body: bytes) -> list[Any]:
    """The elements of ``events`` of a body that msgspec refused, each made storable. Raises MalformedDelivery."""
    return [storable(sent) for sent in salvaged_list(salvage(raw_body, "LINE"), "events")]
