"""The contract of a sender: the way out to one platform, as a handler's Context uses it.

Its implementations are in ``outbound/``, and in ``testing`` for bots under test. Every method waits until the platform
has taken the message, and raises SendError when it has not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Protocol, Self

from gbot.event import Event, Message
from gbot.platform import Limits
from gbot.user import Profile


@dataclass(frozen=True, slots=True)
class Quota:
    """Messages of this month."""

    limit: int | None  # None: as many as one likes
    used: int


class Content(Protocol):
    """An image, video, audio or file that is being downloaded; to be used with ``with``, and read once."""

    content_type: str | None
    length: int | None  # in bytes, where the platform tells

    def __iter__(self) -> Iterator[bytes]:
        """Its parts, as they come. Raises ResultUnknown when the connection breaks."""

    def save(self, path: str | PathLike[str]) -> int:
        """Write it to a file, which is there whole or not at all; returns its length in bytes."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


class Sender(Protocol):
    """The way out to one platform."""

    @property
    def limits(self) -> Limits:
        """What the platform takes."""

    def reply(self, event: Event, messages: Sequence[Message], within_s: float | None) -> None:
        """Answer this event; ``within_s`` is how long it may wait for its turn, None: as long as any request.

        Never repeated after a failure that leaves open whether it arrived: then the error is ``final``.
        """

    def push(self, to: str, messages: Sequence[Message], retry_key: str) -> None:
        """Send to a user, group or room. The same retry key within a day is the same message: it arrives once."""

    def multicast(self, to: Sequence[str], messages: Sequence[Message], retry_key: str) -> None:
        """Send the same to any number of users, in as few requests as the platform takes.

        The same key with the same users is the same multicast.
        """

    def announce(self, messages: Sequence[Message], retry_key: str) -> None:
        """Send to everybody who follows the bot."""

    def typing(self, event: Event, seconds: float) -> None:
        """Show in the event's conversation that an answer is being prepared."""

    def profile(self, user_id: str) -> Profile | None:
        """Ask the platform who this is; None when it does not tell."""

    def content(self, event: Event) -> Content:
        """The content that came with the event. Raises ContentGone."""

    def quota(self) -> Quota: ...
