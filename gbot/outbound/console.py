"""The way out of the plain platform, which has no API: a first bot should be seen to answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final, NoReturn, TextIO

from gbot.counts import counted
from gbot.errors import MessageRefused, ReplyRefused
from gbot.event import Event, Message
from gbot.platform import Limits
from gbot.sender import Quota

LIMITS: Final = Limits(messages_per_request=1000, request_bytes_max=1024 * 1024)  # nothing here comes near them


class ConsoleSender:
    """Prints what would be sent; see :class:`gbot.sender.Sender`."""

    limits: Final = LIMITS

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream  # None: standard output, whatever it is at the moment
        self._pushed = 0

    def reply(self, event: Event, messages: Sequence[Message], within_s: float | None) -> None:
        self._print("reply", messages)

    def push(self, to: str, messages: Sequence[Message], retry_key: str) -> None:
        self._print(f"push to {to}", messages)
        self._pushed += len(messages)

    def multicast(self, to: Sequence[str], messages: Sequence[Message], retry_key: str) -> None:
        self._print(f"push to {counted(len(to), 'user')}", messages)
        self._pushed += len(messages) * len(to)

    def announce(self, messages: Sequence[Message], retry_key: str) -> None:
        self._print("push to everybody", messages)

    def typing(self, event: Event, seconds: float) -> None:
        print("typing …", file=self._stream)

    def profile(self, user_id: str) -> None:
        """None: the plain platform knows no users."""

    def content(self, event: Event) -> NoReturn:
        """Raise ReplyRefused: events of the plain platform are texts."""
        raise ReplyRefused("events of the plain platform come without content")

    def quota(self) -> Quota:
        return Quota(None, self._pushed)

    def _print(self, label: str, messages: Sequence[Message]) -> None:
        for message in messages:
            print(f"{label}: {_shown(message)}", file=self._stream)


def _shown(message: Message) -> str:
    """A text as it is, any other message as JSON. Raises MessageRefused for what no platform could be sent."""
    text = message.body.get("text")
    if message.body.get("type") == "text" and isinstance(text, str):
        return text
    try:
        return json.dumps(message.body, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        raise MessageRefused("expected a message of JSON values only; nothing was sent") from None
