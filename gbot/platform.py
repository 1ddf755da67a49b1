"""The contract every chat platform fulfils: bytes in, events out; messages in, API requests out.

A platform is pure: it does no I/O, reads no clock and keeps no state, so it can be tested with values alone. Its
implementations live in ``platforms/``; worker.py picks them by name.

=========  ==============================================================================================
verify     raises BadSignature unless the platform itself sent these bytes
parse      turns a verified body into events; raises MalformedDelivery when the body as a whole is not what
           the platform sends. Types it does not know become events of kind ``unknown`` (``message.unknown``):
           one odd event never takes its neighbours down
encode     turns a Reply or a Push into one API request; raises MessageRefused, or ReplyRefused where the
           platform has no way to send
=========  ==============================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from gbot.event import Event, Message

HeaderLookup = Callable[[str], str | None]
"""Takes a header's name in any case, returns its value or None."""


def json_kind(value: object) -> str:
    """What a parsed JSON value is, in the words of an error sentence."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


class Reply(msgspec.Struct, frozen=True):
    """An answer to one event, addressed by the token that came with it."""

    token: str
    messages: Sequence[Message]

    def __repr__(self) -> str:
        """Without the token, which lets its holder answer."""
        return f"<Reply of {len(self.messages)} message(s)>"


class Push(msgspec.Struct, frozen=True):
    """Messages to one user, group or room. ``retry_key`` is a UUID that makes repeating the request safe."""

    to: str
    messages: Sequence[Message]
    retry_key: str


class ApiRequest(msgspec.Struct, frozen=True):
    """One HTTP request to the platform's API."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        """Without headers and body: they hold credentials and what users read."""
        return f"<ApiRequest {self.method} {self.url} of {len(self.body)} bytes>"


class Limits(msgspec.Struct, frozen=True):
    """What the platform takes in one request."""

    messages_per_request: int
    request_bytes_max: int
    reply_within_s: float | None = None  # how old an event may be that is replied to; None: any age


class Platform(Protocol):
    """One chat platform, as one worker is configured to speak to it."""

    @property
    def name(self) -> str:
        """The word in the callback's path and in ``Event.platform``."""

    @property
    def limits(self) -> Limits:
        """What the platform takes in one request."""

    def verify(self, header: HeaderLookup, raw_body: bytes) -> None:
        """Return if the platform signed these bytes, raise BadSignature if not."""

    def parse(self, raw_body: bytes) -> list[Event]:
        """The events of one delivery, in the platform's order; may be empty. Raises MalformedDelivery."""

    def encode(self, outgoing: Reply | Push) -> ApiRequest:
        """The API request that sends this. Raises MessageRefused or ReplyRefused."""
