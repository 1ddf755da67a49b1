"""The contract every chat platform fulfils: bytes in, events out; messages in, API requests out.

A platform is pure: it does no I/O, reads no clock and keeps no state, so it can be tested with values alone. Its
implementations live in ``platforms/``; engine.py picks them by name.

=========  ==============================================================================================
verify     raises BadSignature unless the platform itself sent these bytes
parse      turns a verified body into events; raises MalformedDelivery when the body as a whole is not what
           the platform sends. Types it does not know become events of kind ``unknown`` (``message.unknown``):
           one odd event never takes its neighbours down
encode     turns what is to be sent or asked into one API request; raises MessageRefused, or ReplyRefused where the
           platform has no way to do it
judge      tells what the API's answer means; explain, read_profile and read_quota read it
challenge  answers the platform's question whether the callback's address is ours
=========  ==============================================================================================
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from gbot.event import Event, Message
from gbot.limiter import Limit
from gbot.user import Profile

HeaderLookup = Callable[[str], str | None]
"""Takes a header's name in any case, returns its value or None."""


def json_kind(value: object) -> str:
    """What a parsed JSON value is, in the words of an error sentence."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


class Reply(msgspec.Struct, frozen=True):
    """An answer to one event."""

    event: Event
    messages: Sequence[Message]

    def __repr__(self) -> str:
        """Without the event, whose reply token lets its holder answer."""
        return f"<Reply of {len(self.messages)} message(s)>"


class Push(msgspec.Struct, frozen=True):
    """Messages to one user, group or room. ``retry_key`` is a UUID that makes repeating the request safe."""

    to: str
    messages: Sequence[Message]
    retry_key: str


class Multicast(msgspec.Struct, frozen=True):
    """The same messages to several users, in one request."""

    to: Sequence[str]
    messages: Sequence[Message]
    retry_key: str


class Announcement(msgspec.Struct, frozen=True):
    """Messages to everybody who follows the bot."""

    messages: Sequence[Message]
    retry_key: str


class AskProfile(msgspec.Struct, frozen=True):
    """Who is this user?"""

    user_id: str


class AskContent(msgspec.Struct, frozen=True):
    """The image, video, audio or file that came with an event."""

    event: Event


class AskQuota(msgspec.Struct, frozen=True):
    """How many messages may be sent this month; ``used`` asks for how many were."""

    used: bool = False


class Typing(msgspec.Struct, frozen=True):
    """Show in the event's conversation that an answer is being prepared, for ``seconds`` or until it comes."""

    event: Event
    seconds: float


Outgoing = Reply | Push | Multicast | Announcement | AskProfile | AskContent | AskQuota | Typing


class ApiRequest(msgspec.Struct, frozen=True):
    """One HTTP request to the platform's API.

    ``lane`` names its endpoint, a key of ``Limits.lanes``. ``repeatable`` tells whether sending it again is safe when
    nobody knows whether it arrived: it changes nothing, or carries a key by which the platform knows it again.
    """

    method: str
    origin: str  # scheme, host and port: https://api.line.me
    path: str  # with the query
    headers: Mapping[str, str]
    body: bytes
    lane: str
    repeatable: bool = False

    def __repr__(self) -> str:
        """Without query, headers and body: they hold credentials and what users read."""
        return f"<ApiRequest {self.method} {self.origin}{self.path.partition('?')[0]} of {len(self.body)} bytes>"


class ApiAnswer(msgspec.Struct, frozen=True):
    """What the API answered. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        """Without headers and body: they may hold what users wrote."""
        return f"<ApiAnswer {self.status} of {len(self.body)} bytes>"


class Judgement(enum.Enum):
    """What an answer means for the request."""

    ACCEPTED = enum.auto()  # now, or when it was sent before
    NOT_READY = enum.auto()  # ask again later: the content is still being prepared
    RATE = enum.auto()  # not accepted: too many requests at the moment
    QUOTA = enum.auto()  # not accepted: as many messages were sent as the contract allows
    RECIPIENT_LIMIT = enum.auto()  # not accepted: too many messages to one user
    RECIPIENT_GONE = enum.auto()  # not accepted: the user has left, or blocked the bot
    TOKEN_REFUSED = enum.auto()  # not accepted: the reply token was used before, or is too old
    MISSING = enum.auto()  # there is no such thing (any more)
    REJECTED = enum.auto()  # not accepted, and never will be
    UNAVAILABLE = enum.auto()  # the API failed: nobody knows whether it was accepted


class Limits(msgspec.Struct, frozen=True):
    """What the platform takes in one request, and how many requests.

    ``lanes`` names every endpoint with its limit. ``recipients_per_multicast`` is 1 where a platform has no multicast.
    """

    messages_per_request: int
    request_bytes_max: int
    reply_within_s: float | None = None  # how old an event may be that is replied to; None: any age
    reply_messages_max: int | None = None  # in all replies to one event together; None: any number
    recipients_per_multicast: int = 1
    lanes: Mapping[str, Limit] = {}


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

    def encode(self, outgoing: Outgoing) -> ApiRequest:
        """The API request that does this. Raises MessageRefused, or ReplyRefused where the platform has no such way."""

    def judge(self, request: ApiRequest, answer: ApiAnswer) -> Judgement:
        """What the answer means. Raises nothing, whatever the answer is."""

    def explain(self, answer: ApiAnswer) -> str:
        """The platform's own words about its refusal, cut to a line; never what was sent. Raises nothing."""

    def may_multicast(self, to: str) -> bool:
        """Whether this is an address that a Multicast takes: a user's, not a group's."""

    def read_profile(self, answer: ApiAnswer) -> Profile:
        """The profile in an accepted answer to AskProfile. Raises ApiRejected for what is none."""

    def read_quota(self, answer: ApiAnswer) -> int | None:
        """The number in an accepted answer to AskQuota; None: no limit. Raises ApiRejected for what is none."""

    def challenge(self, params: Mapping[str, str]) -> str:
        """The answer to a GET by which the platform makes sure that the callback's address is ours.

        Raises NotFound where the platform has no such thing, Forbidden when it was not the platform that asked.
        """
