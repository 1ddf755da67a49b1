"""Messenger: the webhooks of a Facebook page; what goes out to it is in messenger_api.

The rules are those of Meta's Messenger Platform documentation,
https://developers.facebook.com/docs/messenger-platform/; each docstring below names the page that it follows.

A delivery holds entries, an entry holds what happened in ``messaging``, or in ``standby`` where another app is in
charge of the conversation. Echoes, which are the page's own messages, are left out. ``follow`` and ``unfollow`` do not
exist here: a user who taps "Get Started" sends a ``postback``, and one who leaves is noticed when a message is refused.

What happens to a delivery that is not as the documentation says:

- the body is no JSON object or nested too deeply, ``object`` is not "page", ``entry`` is missing or no list:
  MalformedDelivery
- an entry without ``messaging`` and ``standby`` (a field of the page's feed, say): one event of kind ``unknown``
- what happened is of a type not listed here, or no object at all: an event of kind ``unknown`` (``message.unknown``
  for a message), with whatever could be read of it
- a field has the wrong type or no sensible size: that field is None, as if Meta had not sent it
- a text holds half of a surrogate pair: ``?`` in its place; a number outside of what a float can be: kind ``unknown``
  with ``raw`` None
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from gbot.credentials import usable_secrets, usable_token
from gbot.errors import BadSignature, Forbidden, MalformedDelivery
from gbot.event import Conversation, Event
from gbot.json_events import ID_CHARS_MAX, member, salvage, salvaged_list, sent_id, sent_timestamp_ms, storable
from gbot.platform import ApiAnswer, ApiRequest, HeaderLookup, Judgement, Outgoing
from gbot.platforms import messenger_api
from gbot.user import Profile

# "Webhook Events Reference": the field that tells what happened, and gbot's word for it. A message is asked for first.
_KINDS: Final = {
    "postback": "postback",
    "delivery": "delivery",
    "read": "read",
    "reaction": "reaction",
    "optin": "optin",
    "referral": "referral",
    "message_edit": "messageEdited",
    "account_linking": "accountLink",
}
# "messages": the types of its attachments.
_ATTACHMENT_KINDS: Final = {
    kind: f"message.{kind}" for kind in ("image", "video", "audio", "file", "location", "sticker")
}
_ALWAYS: Final = {"sender", "recipient", "timestamp"}  # the fields of everything that happens


class _Delivery(msgspec.Struct, gc=False):
    object: Literal["page"]
    entry: list[Any]


_decode_delivery = msgspec.json.Decoder(_Delivery).decode


class MessengerPlatform:
    """One app on one Facebook page; see :class:`gbot.platform.Platform`.

    ``app_secrets`` are all secrets that a delivery may be signed with: two while the app's secret is being changed.
    ``verify_token`` is what was entered beside the callback's address in the app's dashboard; without one Meta cannot
    verify the address. Without ``page_token`` the bot can listen but not send. Raises ConfigError for a secret that
    anyone could guess (none, or an empty one) and for a page token that fits into no HTTP header.
    """

    __slots__ = ("_api", "_may_send", "_secrets", "_verify_token")

    name: Final = "messenger"
    limits: Final = messenger_api.LIMITS

    def __init__(
        self,
        app_secrets: Sequence[str],
        verify_token: str | None,
        page_token: str | None,
        api_base: str = "https://graph.facebook.com/v23.0",
    ) -> None:
        self._secrets = usable_secrets(app_secrets, "GBOT_MESSENGER_APP_SECRET", "app secrets", "messenger")
        self._verify_token = (verify_token or "").encode()
        token = usable_token(page_token, "GBOT_MESSENGER_PAGE_TOKEN", "messenger")
        self._may_send = token is not None
        self._api = messenger_api.MessengerApi(token, api_base)

    def __repr__(self) -> str:
        token = "a page token" if self._may_send else "no page token"
        return f"<MessengerPlatform with {len(self._secrets)} app secret(s) and {token}>"

    def verify(self, header: HeaderLookup, raw_body: bytes) -> None:
        """Return if one of the app secrets signed these bytes, raise BadSignature if none did.

        "Validate Payloads": X-Hub-Signature-256 is ``sha256=`` and the HMAC-SHA256 over the raw body in hexadecimal.
        """
        given = header("x-hub-signature-256")
        if not given:
            raise BadSignature("the header X-Hub-Signature-256 is missing: this delivery does not come from Meta")
        # Hexadecimal is ASCII: whatever else a header may carry becomes "?", which no signature holds.
        signature = given.encode("ascii", "replace")
        for secret in self._secrets:
            if hmac.compare_digest(signature, b"sha256=" + hmac.digest(secret, raw_body, "sha256").hex().encode()):
                return
        raise BadSignature(
            "the header X-Hub-Signature-256 does not belong to this body: it was changed on the way, "
            "or signed with an app secret that gbot was not given"
        )

    def parse(self, raw_body: bytes) -> list[Event]:
        """What happened, in Meta's order and without echoes. An event's ``raw`` is its object in ``messaging``.

        "Event Notifications". Raises MalformedDelivery.
        """
        try:
            entries = _decode_delivery(raw_body).entry
        except (ValueError, RecursionError):  # msgspec's own errors and UnicodeDecodeError are ValueErrors
            entries = _salvage(raw_body)
        return [_event(sent, standby) for sent, standby in _happenings(entries) if not _is_echo(sent)]

    def encode(self, outgoing: Outgoing) -> ApiRequest:
        """The request that does this; see messenger_api. Raises ReplyRefused, MessageRefused."""
        return self._api.encode(outgoing)

    def judge(self, request: ApiRequest, answer: ApiAnswer) -> Judgement:
        """What the answer means, by its error's code and then by its status."""
        return messenger_api.judge(request, answer)

    def explain(self, answer: ApiAnswer) -> str:
        """Meta's own words about its refusal."""
        return self._api.explain(answer)

    def may_multicast(self, to: str) -> bool:
        """No: Messenger has no multicast."""
        return False

    def read_profile(self, answer: ApiAnswer) -> Profile:
        """The profile that Meta told. Raises ApiRejected."""
        return messenger_api.read_profile(answer)

    def read_quota(self, answer: ApiAnswer) -> int | None:
        """Raise ApiRejected: Messenger has no quota to ask for."""
        return messenger_api.read_quota(answer)

    def challenge(self, params: Mapping[str, str]) -> str:
        """ "Verification Requests": the challenge, for whoever knows the verify token. Raises Forbidden."""
        given = params.get("hub.verify_token", "").encode("utf-8", "surrogatepass")
        known = bool(self._verify_token) and hmac.compare_digest(given, self._verify_token)
        challenge = params.get("hub.challenge")
        if params.get("hub.mode") != "subscribe" or not known or not challenge:
            raise Forbidden(
                "This is no verification request by Meta, or its verify token is not GBOT_MESSENGER_VERIFY_TOKEN."
            )
        return challenge


def _happenings(entries: list[Any]) -> Iterator[tuple[Any, bool]]:
    """What happened, and whether another app is in charge of the conversation."""
    for entry in entries:
        messaging, standby = (entry.get("messaging"), entry.get("standby")) if isinstance(entry, dict) else (None, None)
        if not isinstance(messaging, list) and not isinstance(standby, list):
            yield entry, False
        if isinstance(messaging, list):
            for sent in messaging:
                yield sent, False
        if isinstance(standby, list):
            for sent in standby:
                yield sent, True


def _is_echo(sent: Any) -> bool:
    """ "message_echoes": a message that the page itself has sent."""
    return member(sent, "message", "is_echo") is True


def _event(sent: Any, standby: bool) -> Event:
    """What happened as an Event, whatever it is."""
    if not isinstance(sent, dict):
        return Event(platform="messenger", kind="unknown", raw=sent, standby=standby)
    field, kind, text = _field_kind_text(sent)
    user_id = sent_id(member(sent, "sender", "id"))
    timestamp_ms = sent_timestamp_ms(sent.get("timestamp"))
    return Event(
        platform="messenger",
        kind=kind,
        raw=sent,
        id=_event_id(sent, field, user_id, timestamp_ms),
        text=text,
        conversation=Conversation("user", user_id) if user_id else None,
        user_id=user_id,
        timestamp_ms=timestamp_ms,
        standby=standby,
    )


def _field_kind_text(sent: dict[str, Any]) -> tuple[str, str, str | None]:
    """The field that tells what happened, gbot's word for it, and the text of a ``message.text``."""
    if "message" in sent:
        return "message", *_message_kind_text(sent["message"])
    for field in sent:
        kind = _KINDS.get(field)
        if kind is not None:
            return field, kind, None
    return next((field for field in sent if field not in _ALWAYS), "unknown"), "unknown", None


def _message_kind_text(message: Any) -> tuple[str, str | None]:
    """ "messages": a text, which may come with the preview of a link as its attachment, or attachments of a type."""
    if not isinstance(message, dict):
        return "message.unknown", None
    text = message.get("text")
    if isinstance(text, str):
        return "message.text", text
    # A sticker is sent as an image as well, which knows itself by this field.
    if "sticker_id" in message or member(message, "attachments", 0, "payload", "sticker_id") is not None:
        return "message.sticker", None
    type_ = member(message, "attachments", 0, "type")
    return _ATTACHMENT_KINDS.get(type_, "message.unknown") if isinstance(type_, str) else "message.unknown", None


def _event_id(sent: dict[str, Any], field: str, user_id: str | None, timestamp_ms: int | None) -> str | None:
    """A message's own id. All else has none of its own (a reaction's ``mid`` is that of the message it is about), but
    comes again with the same sender, time and type when Meta sends it again.
    """
    mid = sent_id(member(sent, field, "mid"))
    if field == "message" and mid is not None:
        return mid
    if user_id is None or timestamp_ms is None:
        return None
    key = f"{user_id}:{timestamp_ms}:{field}" if mid is None else f"{user_id}:{timestamp_ms}:{field}:{mid}"
    return key if len(key) <= ID_CHARS_MAX else None


def _salvage(raw_body: bytes) -> list[Any]:
    """The entries of a body that msgspec refused, made storable one by one. Raises MalformedDelivery."""
    body = salvage(raw_body, "Messenger")
    about = body.get("object")
    if about != "page":
        given = "another text" if isinstance(about, str) else "no text"
        raise MalformedDelivery(f'object: expected "page", got {given}')
    return [_storable_entry(entry) for entry in salvaged_list(body, "entry")]


def _storable_entry(entry: Any) -> Any:
    """An entry of which only what holds events is left, so that each of them is put right for itself."""
    if isinstance(entry, dict):
        lists = {field: entry[field] for field in ("messaging", "standby") if isinstance(entry.get(field), list)}
        if lists:
            return {field: [storable(sent) for sent in happened] for field, happened in lists.items()}
    return storable(entry)
