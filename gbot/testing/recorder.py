"""The way out of a bot under test: what would leave is encoded for its platform, as it would be, and then kept.

It is cut into requests as ``outbound/api_sender.py`` cuts it, but nothing is merged.
"""

from __future__ import annotations

import mimetypes
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Final, Self

import msgspec

from gbot.errors import ContentGone
from gbot.event import Event, Message
from gbot.platform import Announcement, AskContent, Limits, Multicast, Platform, Push, Reply, Typing
from gbot.sender import Content, Quota
from gbot.testing.answers import How, Sent
from gbot.user import Profile

HTTP_GONE: Final = 410
PART_BYTES: Final = 64 * 1024


class Recorder:
    """See :class:`gbot.sender.Sender`. ``keep`` is called with everything that leaves, in order.

    ``profiles`` and ``contents`` are what the platform would tell: by user id, and by event id.
    """

    def __init__(self, platform: Platform, keep: Callable[[Sent], None]) -> None:
        self._platform = platform
        self._keep = keep
        self._pushed = 0
        self.profiles: dict[str, Profile] = {}
        self.contents: dict[str, Attached] = {}

    @property
    def limits(self) -> Limits:
        return self._platform.limits

    def reply(self, event: Event, messages: Sequence[Message], within_s: float | None) -> None:
        for some in self._in_requests(messages):
            self._platform.encode(Reply(event, some))
            self._keep_all("reply", _home_of(event), some)

    def push(self, to: str, messages: Sequence[Message], retry_key: str) -> None:
        for some in self._in_requests(messages):
            self._platform.encode(Push(to, some, retry_key))
            self._keep_all("push", (to,), some)

    def multicast(self, to: Sequence[str], messages: Sequence[Message], retry_key: str) -> None:
        for recipients in self._groups(to):
            if len(recipients) == 1:
                self.push(recipients[0], messages, retry_key)
                continue
            for some in self._in_requests(messages):
                self._platform.encode(Multicast(recipients, some, retry_key))
                self._keep_all("multicast", recipients, some)

    def announce(self, messages: Sequence[Message], retry_key: str) -> None:
        self._platform.encode(Announcement(messages, retry_key))
        self._keep_all("announcement", (), messages)

    def typing(self, event: Event, seconds: float) -> None:
        self._platform.encode(Typing(event, seconds))
        self._keep(Sent("typing", _home_of(event)))

    def profile(self, user_id: str) -> Profile | None:
        return self.profiles.get(user_id)

    def content(self, event: Event) -> Content:
        self._platform.encode(AskContent(event))  # refuses an event without content
        attached = self.contents.get(event.id or "")
        if attached is None:
            raise ContentGone("the content is not there: it was taken back", HTTP_GONE)
        return attached

    def quota(self) -> Quota:
        return Quota(None, self._pushed)

    def _in_requests(self, messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
        count_max = self.limits.messages_per_request
        for start in range(0, len(messages), count_max):
            yield messages[start : start + count_max]

    def _groups(self, to: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """Recipients who share a request; first those that take part in no multicast."""
        count_max = self.limits.recipients_per_multicast
        together = [one for one in to if count_max > 1 and self._platform.may_multicast(one)]
        shared = set(together)
        yield from ((one,) for one in to if one not in shared)
        for start in range(0, len(together), count_max):
            yield tuple(together[start : start + count_max])

    def _keep_all(self, how: How, to: tuple[str, ...], messages: Sequence[Message]) -> None:
        if how != "reply":
            self._pushed += len(messages) * len(to)
        for message in messages:
            self._keep(Sent(how, to, msgspec.json.decode(msgspec.json.encode(message.body))))


def _home_of(event: Event) -> tuple[str, ...]:
    """Where a reply is read."""
    return (event.conversation.id,) if event.conversation is not None else ()


class Attached:
    """What came with an event, made of bytes or of a file. See :class:`gbot.sender.Content`."""

    def __init__(self, content: bytes | str | PathLike[str], content_type: str) -> None:
        if isinstance(content, bytes):
            self._bytes, guessed = content, None
        else:
            self._bytes, guessed = Path(content).read_bytes(), mimetypes.guess_type(os.fspath(content))[0]
        self.content_type: str | None = guessed or content_type
        self.length: int | None = len(self._bytes)

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._bytes), PART_BYTES):
            yield self._bytes[start : start + PART_BYTES]

    def save(self, path: str | PathLike[str]) -> int:
        unfinished = Path(f"{os.fspath(path)}.{uuid.uuid4().hex}")
        try:
            unfinished.write_bytes(self._bytes)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        return len(self._bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is open."""
