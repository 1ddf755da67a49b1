"""Messenger's outgoing side: requests to Meta's Graph API, and what its answers mean.

The rules are those of Meta's Messenger Platform documentation,
https://developers.facebook.com/docs/messenger-platform/; the names in quotation marks are its pages.

=======  =======================================================================  =======
lane     what                                                                     rate
=======  =======================================================================  =======
send     POST /me/messages: a reply (messaging_type RESPONSE), a push (UPDATE),   300/s
         the typing indicator
profile  GET  /{user's id}                                                        200/s
content  GET  of an attachment's own address, on another host and without token   200/s
=======  =======================================================================  =======

Nothing that sends a message can be repeated: Meta knows no retry keys. Whether a user may still be written to (24 hours
after the last message) is Meta's to judge. There is no multicast, no message to everybody and no quota.

A dict as a message is the ``message`` object of the Send API as it is; ``{"type": "text", "text": …}``, which gbot
makes of a text, leaves without its type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

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

# "Rate Limiting": 300 calls per second and page for texts. A request's size is not published: a text has at most 2,000
# characters, a template a few thousand.
LIMITS: Final = Limits(
    messages_per_request=1,
    request_bytes_max=1024 * 1024,
    reply_within_s=24 * 3600.0,
    lanes={"send": Limit(300), "profile": Limit(200), "content": Limit(200)},
)
WITH_CONTENT: Final = {"message.image", "message.video", "message.audio", "message.file", "message.sticker"}
PROFILE_FIELDS: Final = "first_name,last_name,name,profile_pic,locale"

# "Common Error Codes" and the Graph API's own, by code and subcode; None stands for any subcode.
_CODES: Final = {
    (2, None): Judgement.UNAVAILABLE,
    (1200, None): Judgement.UNAVAILABLE,
    (4, None): Judgement.RATE,
    (17, None): Judgement.RATE,
    (32, None): Judgement.RATE,
    (613, None): Judgement.RATE,
    (80006, None): Judgement.RATE,
    (551, None): Judgement.RECIPIENT_GONE,
    (10, 2018108): Judgement.RECIPIENT_GONE,
    (200, 1545041): Judgement.RECIPIENT_GONE,
}
# "User Profile API": no profile for this user, or none that this app may see.
_PROFILE_CODES: Final = {
    (100, 33): Judgement.MISSING,
    (100, 2018218): Judgement.MISSING,
    (2018218, None): Judgement.MISSING,
}
# The addresses of attachments are signed for a while: 403 is what an old one gets.
_CONTENT_GONE: Final = {403, 404, 410}

_ACCEPTED, _RATE, _MISSING = Judgement.ACCEPTED, Judgement.RATE, Judgement.MISSING
_REJECTED, _UNAVAILABLE = Judgement.REJECTED, Judgement.UNAVAILABLE


class MessengerApi:
    """The Graph API of one page, as far as it is requests; what never changes in them is made once."""

    __slots__ = ("_get_headers", "_origin", "_post_headers", "_prefix", "_token")

    def __init__(self, token: str | None, api_base: str) -> None:
        self._token = token
        self._origin, self._prefix = split_base(api_base)
        self._get_headers = {"Authorization": f"Bearer {token}"}
        self._post_headers = {**self._get_headers, "Content-Type": "application/json"}

    def encode(self, outgoing: Outgoing) -> ApiRequest:
        """The request that does this. Raises ReplyRefused, MessageRefused."""
        if self._token is None:
            raise ReplyRefused(
                "Messenger takes messages only with a page token: set GBOT_MESSENGER_PAGE_TOKEN; nothing was sent"
            )
        return _ENCODERS[type(outgoing)](self, outgoing)

    def explain(self, answer: ApiAnswer) -> str:
        """ "Error response": its message."""
        text = member(read_json(answer.body), "error", "message")
        return one_line(text, self._token) if isinstance(text, str) else ""

    def _reply(self, outgoing: Reply) -> ApiRequest:
        message = _one_message(outgoing.messages)
        return self._send({**_to_sender(outgoing.event), "messaging_type": "RESPONSE", "message": message})

    def _push(self, outgoing: Push) -> ApiRequest:
        if not outgoing.to:
            raise MessageRefused("to: expected the id of a user, got an empty text; nothing was sent")
        message = _one_message(outgoing.messages)
        return self._send({"recipient": {"id": outgoing.to}, "messaging_type": "UPDATE", "message": message})

    def _typing(self, outgoing: Typing) -> ApiRequest:
        # "Sender Actions": Meta decides how long it shows.
        return self._send({**_to_sender(outgoing.event), "sender_action": "typing_on"}, repeatable=True)

    def _send(self, content: dict[str, Any], repeatable: bool = False) -> ApiRequest:
        body = request_body(content, LIMITS.request_bytes_max)
        path = f"{self._prefix}/me/messages"
        return ApiRequest("POST", self._origin, path, self._post_headers, body, "send", repeatable)

    def _profile(self, outgoing: AskProfile) -> ApiRequest:
        path = f"{self._prefix}/{path_id(outgoing.user_id, 'user_id')}?fields={PROFILE_FIELDS}"
        return ApiRequest("GET", self._origin, path, self._get_headers, b"", "profile", True)

    def _content(self, outgoing: AskContent) -> ApiRequest:
        """Without token: the address is one of a content network, which has no business with it."""
        origin, path = self._content_address(outgoing.event)
        return ApiRequest("GET", origin, path, {}, b"", "content", True)

    def _content_address(self, event: Event) -> tuple[str, str]:
        """Origin and path of the first attachment. Raises ReplyRefused where there is none to be fetched."""
        if event.kind not in WITH_CONTENT:
            raise ReplyRefused(
                f"an event of kind {event.kind} has no content; only an image, video, audio, file or sticker has one"
            )
        url = member(event.raw, "message", "attachments", 0, "payload", "url")
        if isinstance(url, str) and url.isascii() and url.isprintable() and " " not in url:
            origin, path = _split(url)
            # Encrypted, or from where the API itself is: a simulated one, say.
            if origin.startswith("https://") or origin == self._origin:
                return origin, path
        raise ReplyRefused("this event's attachment has no address to fetch it from: expected one with https")

    def _no_multicast(self, outgoing: Multicast) -> ApiRequest:
        raise ReplyRefused("Messenger has no multicast; use ctx.push for each user; nothing was sent")

    def _no_announcement(self, outgoing: Announcement) -> ApiRequest:
        raise ReplyRefused("Messenger has no way to write to everybody at once; nothing was sent")

    def _no_quota(self, outgoing: AskQuota) -> ApiRequest:
        raise ReplyRefused("Messenger has no quota to ask for; nothing was asked")


_ENCODERS: Final[Mapping[type, Callable[[MessengerApi, Any], ApiRequest]]] = {
    Reply: MessengerApi._reply,
    Push: MessengerApi._push,
    Multicast: MessengerApi._no_multicast,
    Announcement: MessengerApi._no_announcement,
    Typing: MessengerApi._typing,
    AskProfile: MessengerApi._profile,
    AskContent: MessengerApi._content,
    AskQuota: MessengerApi._no_quota,
}


# ---- requests


def _to_sender(event: Event) -> dict[str, Any]:
    if event.user_id is None:
        raise ReplyRefused(f"an event of kind {event.kind} came without its sender's id; nothing was sent")
    return {"recipient": {"id": event.user_id}}


def _split(url: str) -> tuple[str, str]:
    """An address as origin and path with query; both empty for what is no address, or one with a password."""
    try:
        parts = urlsplit(url)
        usable = parts.hostname and parts.port != 0 and "@" not in parts.netloc
    except ValueError:  # such as a port that is no number
        usable = None
    if not usable:
        return "", ""
    return f"{parts.scheme}://{parts.netloc}", (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _one_message(messages: Sequence[Message]) -> dict[str, Any]:
    """ "Send API": the message object."""
    check_count(messages, LIMITS.messages_per_request)
    body = dict(message_object(1, messages[0]))
    if body.get("type") == "text":
        del body["type"]
    if not body:
        raise MessageRefused('message 1: expected a "text" or an "attachment", got nothing; nothing was sent')
    return body


# ---- answers


def judge(request: ApiRequest, answer: ApiAnswer) -> Judgement:
    """ "Common Error Codes": the codes tell more than the statuses, of which 400 and 500 stand for many things."""
    status = answer.status
    if 200 <= status < 300:
        return _ACCEPTED
    if request.lane == "content":
        if status in _CONTENT_GONE:
            return _MISSING
    else:
        judgement = _judge_error(request.lane, answer)
        if judgement is not None:
            return judgement
    if status == 429:
        return _RATE
    return _UNAVAILABLE if status >= 500 else _REJECTED


def _judge_error(lane: str, answer: ApiAnswer) -> Judgement | None:
    """What the error's code means, or None for a code not listed here."""
    error = member(read_json(answer.body), "error")
    code, subcode = member(error, "code"), member(error, "error_subcode")
    profile = lane == "profile"
    if type(code) is int:
        keys = (code, subcode if type(subcode) is int else None), (code, None)
        for table in (_PROFILE_CODES, _CODES) if profile else (_CODES,):
            for key in keys:
                if key in table:
                    return table[key]
    return _MISSING if profile and answer.status == 404 else None


def read_profile(answer: ApiAnswer) -> Profile:
    """ "User Profile API": which fields are told depends on what the user and Meta have granted. Raises ApiRejected."""
    found = read_json(answer.body)
    full, first, last, picture_url, locale = (
        value if isinstance(value := member(found, field), str) else ""
        for field in ("name", "first_name", "last_name", "profile_pic", "locale")
    )
    name = full or f"{first} {last}".strip()
    if not name:
        raise ApiRejected("Meta's answer to the question who this user is holds no name", answer.status)
    language = locale.partition("_")[0]  # en_US
    return Profile(name, language or None, picture_url or None)


def read_quota(answer: ApiAnswer) -> int | None:
    """Raises ApiRejected: Messenger has no quota to ask for."""
    raise ApiRejected("Messenger has no quota, so no answer tells one", answer.status)
