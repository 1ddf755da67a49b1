"""Building requests to a chat platform's API out of what a bot's author wrote. Pure; used by ``platforms/``.

What the API could only refuse is refused here, with a sentence for the author and before anything is sent. Beyond that
a message is between the author and the platform, which adds fields often.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from gbot.errors import MessageRefused
from gbot.event import Message

EXPLANATION_CHARS_MAX: Final = 200

# What stays one segment of a URL's path, and the one that was meant: neither "a/b" nor "..".
_PATH_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,255}")
_encode = msgspec.json.Encoder().encode


def check_count(messages: Sequence[Message], count_max: int) -> None:
    """Raises MessageRefused for no messages, or more than one request takes."""
    if not 1 <= len(messages) <= count_max:
        expected = "1 message" if count_max == 1 else f"1 to {count_max} messages"
        raise MessageRefused(f"expected {expected} in one request, got {len(messages)}; nothing was sent")


def message_object(number: int, message: Message) -> Mapping[str, Any]:
    """The message's JSON object. Raises MessageRefused for what is none."""
    body: object = message.body
    if not isinstance(body, Mapping):
        raise MessageRefused(f"message {number}: expected an object, got {type(body).__name__}; nothing was sent")
    return body


def request_body(content: dict[str, Any], bytes_max: int) -> bytes:
    """The content as JSON. Raises MessageRefused for what JSON cannot carry and for what is too large."""
    try:
        body = _encode(content)
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise MessageRefused(
            "expected messages of JSON values only, got a value that JSON cannot carry; nothing was sent"
        ) from None
    if len(body) > bytes_max:
        raise MessageRefused(f"expected a request of at most {bytes_max} bytes, got {len(body)}; nothing was sent")
    return body


def path_id(value: object, what: str) -> str:
    """The id, safe to stand in a URL's path. Raises MessageRefused for one that is not."""
    if not isinstance(value, str) or not _PATH_ID.fullmatch(value):
        raise MessageRefused(f"{what}: expected an id of letters, digits, - and _; nothing was asked")
    return value


def split_base(base: str) -> tuple[str, str]:
    """An API's base address as its origin and the path that all its endpoints begin with."""
    parts = urlsplit(base)
    return f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")


def one_line(text: str, secret: str | None) -> str:
    """An API's words as one line for the log. Some APIs quote a token they do not like: it is taken out."""
    if secret:
        text = text.replace(secret, "[token]")
    line = " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * EXPLANATION_CHARS_MAX]).split())
    return line if len(line) <= EXPLANATION_CHARS_MAX else line[: EXPLANATION_CHARS_MAX - 1] + "…"
