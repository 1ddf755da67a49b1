"""The ways out to a platform: its API, or the console for the platform that has none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TextIO

from gbot.errors import MessageRefused, ReplyRefused
from gbot.event import Event, Message
from gbot.outbound.transport import Transport
from gbot.platform import Platform, Push, Reply


class ApiSender:
    """Sends through the platform's API."""

    def __init__(self, platform: Platform, transport: Transport) -> None:
        self._platform = platform
        self._transport = transport
        self.reply_within_s = platform.limits.reply_within_s

    def reply(self, event: Event, messages: Sequence[Message]) -> None:
        """Answer with the event's reply token. Raises SendError."""
        if event.standby:
            raise ReplyRefused("this event is in standby: another channel is in charge of the chat, so do not answer")
        if event.reply_token is None:
            raise ReplyRefused(f"an event of kind {event.kind} came without a reply token; use ctx.push")
        self._transport.send(self._platform.encode(Reply(event.reply_token, messages)))

    def push(self, to: str, messages: Sequence[Message], retry_key: str) -> None:
        """Send without an event to answer. Raises SendError."""
        self._transport.send(self._platform.encode(Push(to, messages, retry_key)))


class ConsoleSender:
    """Prints what would be sent: the plain platform has no API, and a first bot should be seen to answer."""

    reply_within_s = None

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream  # None: standard output, whatever it is at the moment

    def reply(self, event: Event, messages: Sequence[Message]) -> None:
        self._print("reply", messages)

    def push(self, to: str, messages: Sequence[Message], retry_key: str) -> None:
        self._print(f"push to {to}", messages)

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
