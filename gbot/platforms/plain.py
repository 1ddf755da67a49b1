"""The plain platform: the field's old benchmark format, and the shortest way to try a bot with curl.

``{"messages": "1,2,3"}`` is three text events. There is no signature, no event id and no conversation, so nothing is
deduplicated or ordered, and there is no API to answer through.

This is the benchmark's hot path: one typed decode per delivery, then one ``strip`` and one Event per item. Why a
body was refused is worked out only after it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NoReturn

import msgspec

from gbot.errors import ApiRejected, MalformedDelivery, NotFound, ReplyRefused
from gbot.event import Event
from gbot.platform import ApiAnswer, ApiRequest, HeaderLookup, Judgement, Limits, Outgoing, json_kind
from gbot.user import Profile


class _Delivery(msgspec.Struct, gc=False):
    messages: str


_decode_delivery = msgspec.json.Decoder(_Delivery).decode
_decode_anything = msgspec.json.Decoder().decode


class PlainPlatform:
    """Text events out of ``{"messages": "1,2,3"}``; see :class:`gbot.platform.Platform`."""

    __slots__ = ()

    name: Final = "plain"
    # Nothing can be sent; 1 lets a caller split its messages by this number before encode tells it so.
    limits: Final = Limits(messages_per_request=1, request_bytes_max=0)

    def verify(self, header: HeaderLookup, raw_body: bytes) -> None:
        """Accept every delivery: the plain platform has no signature, so keep its path off the open internet."""

    def parse(self, raw_body: bytes) -> list[Event]:
        """One ``message.text`` event per comma-separated item of ``messages``, stripped, empty items left out.

        An event's ``raw`` is the item itself. Raises MalformedDelivery.
        """
        try:
            items = _decode_delivery(raw_body).messages.split(",")
        except (ValueError, RecursionError):  # msgspec's own errors and UnicodeDecodeError are ValueErrors
            _refuse(raw_body)
        return [
            Event(platform="plain", kind="message.text", raw=text, text=text)
            for item in items
            if (text := item.strip())
        ]

    def encode(self, outgoing: Outgoing) -> ApiRequest:
        """Raise ReplyRefused: there is no API to send through, or to ask."""
        raise ReplyRefused("the plain platform has no API to send through; nothing was sent")

    def judge(self, request: ApiRequest, answer: ApiAnswer) -> Judgement:
        """REJECTED: nothing was asked, so no answer is one."""
        return Judgement.REJECTED

    def explain(self, answer: ApiAnswer) -> str:
        """Nothing: there is no API to say anything."""
        return ""

    def may_multicast(self, to: str) -> bool:
        """No: there is no multicast."""
        return False

    def read_profile(self, answer: ApiAnswer) -> Profile:
        """Raise ApiRejected: the plain platform knows no users."""
        raise ApiRejected("the plain platform has no API that could tell who a user is", answer.status)

    def read_quota(self, answer: ApiAnswer) -> int | None:
        """Raise ApiRejected: there is no quota where nothing is sent."""
        raise ApiRejected("the plain platform has no API that could tell a quota", answer.status)

    def challenge(self, params: Mapping[str, str]) -> str:
        """Raise NotFound: nobody asks whether the callback's address is ours."""
        raise NotFound("the plain platform asks no questions by GET")


def _refuse(raw_body: bytes) -> NoReturn:
    """Raise MalformedDelivery with the field and its type, never its content."""
    try:
        body: Any = _decode_anything(raw_body)
    except RecursionError:
        raise MalformedDelivery("the body: expected a flat JSON object, got one nested too deeply") from None
    except ValueError:
        raise MalformedDelivery("the body: expected a JSON object in UTF-8, got something that is not JSON") from None
    if not isinstance(body, dict):
        raise MalformedDelivery(f"the body: expected a JSON object, got {json_kind(body)}") from None
    if "messages" not in body:
        raise MalformedDelivery(
            "messages: expected a text of comma-separated items, but the field is missing"
        ) from None
    raise MalformedDelivery(
        f"messages: expected a text of comma-separated items, got {json_kind(body['messages'])}"
    ) from None
