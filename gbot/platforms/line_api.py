"""LINE's outgoing side: requests to the Messaging API, and what its answers mean.

The rules are those of the LINE Messaging API reference, https://developers.line.biz/en/reference/messaging-api/; the
names in quotation marks are its chapters.

=========  ==================================================  ============  ==========
lane       endpoint                                            rate          repeatable
=========  ==================================================  ============  ==========
reply      POST /v2/bot/message/reply                          2,000/s       never
push       POST /v2/bot/message/push                           2,000/s       yes
multicast  POST /v2/bot/message/multicast                      200/s         yes
broadcast  POST /v2/bot/message/broadcast                      60/h          yes
loading    POST /v2/bot/chat/loading/start                     100/s         yes
profile    GET  /v2/bot/profile/{userId}                       2,000/s       yes
quota      GET  /v2/bot/message/quota, …/quota/consumption     2,000/s       yes
content    GET  /v2/bot/message/{messageId}/content            2,000/s       yes
=========  ==================================================  ============  ==========

A push, multicast or broadcast has an X-Line-Retry-Key from its first try on ("Retrying an API request"), so that LINE
knows it again and answers 409: it was accepted before. A reply takes no such key: one whose result is unknown is lost
or arrived, and is not sent again. The content comes from a host of its own ("Domain name").
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from gbot.errors import ApiRejected, MessageRefused, ReplyRefused
from gbot.event import Event, Message
from gbot.json_events import member, read_json
from gbot.json_requests import check_count, message_object, one_line, path_id, request_body, split_base
from gbot.limiter import Limit
from gbot.platform import (
    Announcement,
    ApiAnswer,
    ApiRequest,
    AskContent,
    AskProfile,
    AskQuota,
    Judgement,
    Limits,
    Multicast,
    Outgoing,
    Push,
    Reply,
    Typing,
)
from gbot.user import Profile

# "Rate limits"; "Send reply message": at most 5 message objects, by a token that works once and for a minute; "Send
# multicast message": at most 500 user IDs; a request over 2 MB is answered with 413.
LIMITS: Final = Limits(
    messages_per_request=5,
    request_bytes_max=2 * 1024 * 1024,
    reply_within_s=60.0,
    reply_messages_max=5,
    recipients_per_multicast=500,
    lanes={
        "reply": Limit(2000),
        "push": Limit(2000),
        "multicast": Limit(200),
        "broadcast": Limit(60, per_s=3600.0),
        "loading": Limit(100),
        "profile": Limit(2000),
        "content": Limit(2000),
        "quota": Limit(2000),
    },
)
WITH_RETRY_KEY: Final = {"push", "multicast", "broadcast"}
WITH_CONTENT: Final = {"message.image", "message.video", "message.audio", "message.file"}
# "Display a loading animation": 5 to 60 seconds, in steps of 5.
LOADING_STEP_S: Final = 5
LOADING_MAX_S: Final = 60

# "Error messages" gives the first; that of too many messages to one user is not published.
_QUOTA_WORDS: Final = "monthly limit"
_TOKEN_WORDS: Final = "reply token"
_RECIPIENT_WORDS: Final = re.compile(r"\b(?:same|one|this|single) (?:user|recipient)\b")

_MISSING: Final = object()
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

_ACCEPTED, _NOT_READY, _MISSING_THERE = Judgement.ACCEPTED, Judgement.NOT_READY, Judgement.MISSING
_RATE, _QUOTA, _RECIPIENT_LIMIT = Judgement.RATE, Judgement.QUOTA, Judgement.RECIPIENT_LIMIT
_REJECTED, _UNAVAILABLE = Judgement.REJECTED, Judgement.UNAVAILABLE
_TOKEN_REFUSED = Judgement.TOKEN_REFUSED


class LineApi:
    """The Messaging API of one channel, as far as it is requests; what never changes in them is made once."""

    __slots__ = ("_content_origin", "_content_prefix", "_get_headers", "_origin", "_post_headers", "_prefix", "_token")

    def __init__(self, token: str | None, api_base: str, content_base: str) -> None:
        self._token = token
        self._origin, self._prefix = split_base(api_base)
        self._content_origin, self._content_prefix = split_base(content_base)
        self._get_headers = {"Authorization": f"Bearer {token}"}
        self._post_headers = {**self._get_headers, "Content-Type": "application/json"}

    def encode(self, outgoing: Outgoing) -> ApiRequest:
        """The request that does this. Raises ReplyRefused, MessageRefused."""
        if self._token is None:
            raise ReplyRefused(
                "LINE takes messages only with a channel access token: set GBOT_LINE_CHANNEL_ACCESS_TOKEN; "
                "nothing was sent"
            )
        return _ENCODERS[type(outgoing)](self, outgoing)

    def explain(self, answer: ApiAnswer) -> str:
        """ "Error responses": the message, and the first of the details about single properties."""
        found = read_json(answer.body)
        about, detail = member(found, "details", 0, "property"), member(found, "details", 0, "message")
        told = [text for text in (member(found, "message"), about, detail) if isinstance(text, str) and text]
        return one_line(": ".join(told), self._token)

    def _reply(self, outgoing: Reply) -> ApiRequest:
        token = outgoing.event.reply_token
        if not token:
            raise ReplyRefused(f"an event of kind {outgoing.event.kind} came without a reply token; use ctx.push")
        body = _with_messages({"replyToken": token}, outgoing.messages)
        return self._post("/v2/bot/message/reply", self._post_headers, body, "reply", False)

    def _push(self, outgoing: Push) -> ApiRequest:
        if not outgoing.to:
            raise MessageRefused("to: expected the id of a user, group or room, got an empty text; nothing was sent")
        headers = self._headers_with_key(outgoing.retry_key)
        body = _with_messages({"to": outgoing.to}, outgoing.messages)
        return self._post("/v2/bot/message/push", headers, body, "push")

    def _multicast(self, outgoing: Multicast) -> ApiRequest:
        headers = self._headers_with_key(outgoing.retry_key)
        body = _with_messages({"to": _recipients(outgoing.to)}, outgoing.messages)
        return self._post("/v2/bot/message/multicast", headers, body, "multicast")

    def _announcement(self, outgoing: Announcement) -> ApiRequest:
        headers = self._headers_with_key(outgoing.retry_key)
        return self._post("/v2/bot/message/broadcast", headers, _with_messages({}, outgoing.messages), "broadcast")

    def _typing(self, outgoing: Typing) -> ApiRequest:
        conversation = outgoing.event.conversation
        if conversation is None or conversation.kind != "user":
            raise ReplyRefused("LINE shows the loading animation in one-to-one chats only; nothing was sent")
        content = {"chatId": conversation.id, "loadingSeconds": _loading_s(outgoing.seconds)}
        body = request_body(content, LIMITS.request_bytes_max)
        return self._post("/v2/bot/chat/loading/start", self._post_headers, body, "loading")

    def _profile(self, outgoing: AskProfile) -> ApiRequest:
        return self._get(f"/v2/bot/profile/{path_id(outgoing.user_id, 'user_id')}", "profile")

    def _quota(self, outgoing: AskQuota) -> ApiRequest:
        return self._get("/v2/bot/message/quota" + ("/consumption" if outgoing.used else ""), "quota")

    def _content(self, outgoing: AskContent) -> ApiRequest:
        path = f"{self._content_prefix}/v2/bot/message/{_content_id(outgoing.event)}/content"
        return ApiRequest("GET", self._content_origin, path, self._get_headers, b"", "content", True)

    def _post(
        self, path: str, headers: Mapping[str, str], body: bytes, lane: str, repeatable: bool = True
    ) -> ApiRequest:
        return ApiRequest("POST", self._origin, self._prefix + path, headers, body, lane, repeatable)

    def _get(self, path: str, lane: str) -> ApiRequest:
        return ApiRequest("GET", self._origin, self._prefix + path, self._get_headers, b"", lane, True)

    def _headers_with_key(self, retry_key: str) -> dict[str, str]:
        if not _UUID.fullmatch(retry_key):
            raise MessageRefused("retry_key: expected a UUID as LINE's X-Line-Retry-Key takes it; nothing was sent")
        return {**self._post_headers, "X-Line-Retry-Key": retry_key}


_ENCODERS: Final[Mapping[type, Callable[[LineApi, Any], ApiRequest]]] = {
    Reply: LineApi._reply,
    Push: LineApi._push,
    Multicast: LineApi._multicast,
    Announcement: LineApi._announcement,
    Typing: LineApi._typing,
    AskProfile: LineApi._profile,
    AskContent: LineApi._content,
    AskQuota: LineApi._quota,
}


# ---- requests


def is_user(to: str) -> bool:
    """Whether this is a user's id: those of groups begin with C, those of rooms with R ("Get IDs")."""
    return to.startswith("U")


def _recipients(to: Sequence[str]) -> list[str]:
    count_max = LIMITS.recipients_per_multicast
    if not 1 <= len(to) <= count_max:
        raise MessageRefused(f"to: expected 1 to {count_max} users in one multicast, got {len(to)}; nothing was sent")
    if not all(map(is_user, to)):
        raise MessageRefused("to: expected ids of users only, as LINE's multicast takes them; nothing was sent")
    if len(set(to)) < len(to):
        raise MessageRefused("to: expected each user once in a multicast; nothing was sent")
    return list(to)


def _loading_s(seconds: float) -> int:
    """What LINE takes, and at least as long as was asked for up to its maximum."""
    if not seconds > 0:  # a NaN is not
        raise MessageRefused("seconds: expected a positive number; nothing was sent")
    return LOADING_STEP_S * math.ceil(min(seconds, LOADING_MAX_S) / LOADING_STEP_S)


def _content_id(event: Event) -> str:
    """The id of the message whose content LINE keeps. Raises ReplyRefused for an event without one."""
    if event.kind not in WITH_CONTENT:
        raise ReplyRefused(f"an event of kind {event.kind} has no content; only an image, video, audio or file has one")
    if member(event.raw, "message", "contentProvider", "type") == "external":
        raise ReplyRefused(
            "LINE does not keep this content: it is at the address in "
            'ctx.event.raw["message"]["contentProvider"]["originalContentUrl"]'
        )
    return path_id(member(event.raw, "message", "id"), "the message's id")


def _with_messages(address: dict[str, Any], messages: Sequence[Message]) -> bytes:
    check_count(messages, LIMITS.messages_per_request)
    address["messages"] = [_typed_object(number, message) for number, message in enumerate(messages, 1)]
    return request_body(address, LIMITS.request_bytes_max)


def _typed_object(number: int, message: Message) -> dict[str, Any]:
    """ "Message objects": every one has a type."""
    body = message_object(number, message)
    kind = body.get("type", _MISSING)
    if kind is _MISSING:
        raise MessageRefused(f'message {number}: expected a "type", but the field is missing; nothing was sent')
    if not isinstance(kind, str) or not kind:
        given = "an empty one" if kind == "" else type(kind).__name__
        raise MessageRefused(f'message {number}: expected a text as "type", got {given}; nothing was sent')
    return dict(body)


# ---- answers


def judge(request: ApiRequest, answer: ApiAnswer) -> Judgement:
    """ "Status codes"; "Get content" and "Get profile" for their own use of 202, 404 and 410."""
    status, lane = answer.status, request.lane
    if 200 <= status < 300:
        return _NOT_READY if status == 202 and lane == "content" else _ACCEPTED
    if status >= 500:
        return _UNAVAILABLE
    if status == 429:
        return _judge_limit(answer)
    if status == 409 and lane in WITH_RETRY_KEY:
        return _ACCEPTED
    if (status == 404 and lane in ("content", "profile")) or (status == 410 and lane == "content"):
        return _MISSING_THERE
    return _TOKEN_REFUSED if lane == "reply" and _TOKEN_WORDS in _message(answer) else _REJECTED


def _message(answer: ApiAnswer) -> str:
    """ "Error responses": what LINE says, in small letters."""
    text = member(read_json(answer.body), "message")
    return text.lower() if isinstance(text, str) else ""


def _judge_limit(answer: ApiAnswer) -> Judgement:
    """Which limit a 429 is about: only its message tells."""
    words = _message(answer)
    if _QUOTA_WORDS in words:
        return _QUOTA
    return _RECIPIENT_LIMIT if _RECIPIENT_WORDS.search(words) else _RATE


def read_profile(answer: ApiAnswer) -> Profile:
    """ "Get profile": language, pictureUrl and statusMessage may be absent. Raises ApiRejected."""
    found = read_json(answer.body)
    name = member(found, "displayName")
    if not isinstance(name, str):
        raise ApiRejected("LINE's answer to the question who this user is holds no displayName", answer.status)
    rest = [value if isinstance(value := member(found, field), str) and value else None for field in _PROFILE_FIELDS]
    return Profile(name, *rest)


_PROFILE_FIELDS: Final = ("language", "pictureUrl", "statusMessage")


def read_quota(answer: ApiAnswer) -> int | None:
    """ "Get the target limit" (type none or limited, value) and "Get number of messages sent" (totalUsage)."""
    found = read_json(answer.body)
    if member(found, "type") == "none":
        return None
    number = member(found, "value") if member(found, "type") == "limited" else member(found, "totalUsage")
    if type(number) is int and number >= 0:
        return number
    raise ApiRejected("LINE's answer to the question for the quota holds no number", answer.status)
