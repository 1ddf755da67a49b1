"""What LINE takes in a request, what it refuses, and in which words. Pure.

From the Messaging API reference: "Message objects", "Error responses", "Rate limits".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from gbot.limiter import Limit
from gbot.simulator.platform import Answer

POSTS: Final = {
    "/v2/bot/message/reply": "reply",
    "/v2/bot/message/push": "push",
    "/v2/bot/message/multicast": "multicast",
    "/v2/bot/message/broadcast": "broadcast",
    "/v2/bot/chat/loading/start": "loading",
}
GETS: Final = {"/v2/bot/message/quota": "quota", "/v2/bot/message/quota/consumption": "consumption"}
ARGUMENTS: Final = (
    (re.compile("/v2/bot/profile/([^/]+)"), "profile"),
    (re.compile("/v2/bot/message/([^/]+)/content"), "content"),
)
PER_SECOND: Final = {
    **dict.fromkeys(("reply", "push", "profile", "content", "quota", "consumption"), 2000),
    "multicast": 200,
    "loading": 100,
}
LIMITS: Final = {name: Limit(count=count) for name, count in PER_SECOND.items()} | {
    "broadcast": Limit(count=60, per_s=3600.0)
}
BODY_BYTES_MAX: Final = 2 * 1024 * 1024
MESSAGES_MAX: Final = 5
TEXT_UNITS_MAX: Final = 5000  # of UTF-16
RECIPIENTS_MAX: Final = 500
UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
ADDRESS: Final = re.compile("[UCR][0-9a-f]{32}")
USER: Final = re.compile("U[0-9a-f]{32}")
WORDS: Final = {
    401: "Authentication failed. Confirm that the access token in the authorization header is valid.",
    404: "Not found",
    413: "Payload too large",
    429: "The API rate limit has been exceeded. Try again later.",
    500: "Internal server error",
    502: "Bad gateway",
    503: "Service unavailable",
    504: "Gateway timeout",
}
NO_MORE: Final = "You have reached your monthly limit."
BAD_TOKEN: Final = "Invalid reply token"
BAD_ADDRESS: Final = "The property, 'to', in the request body is invalid (line: -, column: -)"

encode: Final[Callable[[object], bytes]] = msgspec.json.Encoder().encode
decode: Final[Callable[[bytes], Any]] = msgspec.json.Decoder().decode


def said(status: int, message: str, **more: object) -> Answer:
    return Answer(status, encode({"message": message, **more}))


EMPTY: Final = Answer(200, b"{}")
ACCEPTED: Final = Answer(202, b"{}")
REFUSALS: Final = {status: said(status, message) for status, message in WORDS.items()}


def route(method: str, path: str) -> tuple[str, str] | None:
    """The endpoint and the argument in its path; None where LINE has nothing."""
    exact = (POSTS if method == "POST" else GETS if method == "GET" else {}).get(path)
    if exact is not None:
        return exact, ""
    if method == "GET":
        for pattern, endpoint in ARGUMENTS:
            found = pattern.fullmatch(path)
            if found:
                return endpoint, found[1]
    return None


def parsed(body: bytes) -> dict[str, Any]:
    """The request's JSON object; an empty one for anything else, which every endpoint refuses."""
    try:
        request = decode(body)
    except (ValueError, RecursionError):
        return {}
    return request if isinstance(request, dict) else {}


def refusal_of(request: dict[str, Any]) -> Answer | None:
    """The answer to messages that LINE does not take; None for good ones."""
    messages = request.get("messages")
    if not isinstance(messages, list) or not 1 <= len(messages) <= MESSAGES_MAX:
        return invalid([("messages", f"Size must be between 1 and {MESSAGES_MAX}")])
    wrong = [
        (f"messages[{at}].{field}", what) for at, message in enumerate(messages) for field, what in _faults(message)
    ]
    return invalid(wrong) if wrong else None


def _faults(message: object) -> list[tuple[str, str]]:
    if not isinstance(message, dict) or not isinstance(message.get("type"), str) or not message["type"]:
        return [("type", "Must be specified")]
    if message["type"] not in ("text", "textV2"):
        return []
    text = message.get("text")
    if not isinstance(text, str) or not text:
        return [("text", "May not be empty")]
    if len(text) * 2 > TEXT_UNITS_MAX and len(text.encode("utf-16-le", "surrogatepass")) // 2 > TEXT_UNITS_MAX:
        return [("text", f"Length must be between 0 and {TEXT_UNITS_MAX}")]
    return []


def invalid(wrong: Sequence[tuple[str, str]]) -> Answer:
    details = [{"message": what, "property": where} for where, what in wrong]
    return said(400, f"The request body has {len(wrong)} error(s)", details=details)
