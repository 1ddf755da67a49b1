"""The contract of the directory: what is kept of users and conversations, in the same place as the inbox.

What a handler changes is not stored while it runs: the changes go with its outcome and are stored in the same
transaction. A handler that fails, or whose entry was taken away meanwhile, changes nothing. Events of one conversation
run one after the other, so each sees the state that the one before it has left, even when that one's outcome is still
on its way to the disk.

- A **state** is a JSON document of a conversation, kept until a time.
- A **user** is somebody who follows the bot or did so: see :class:`gbot.user.User`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from gbot.event import Conversation
from gbot.user import Profile, User


class StateChange(msgspec.Struct, frozen=True):
    """A conversation's state is this JSON text from now on; None: it has none."""

    platform: str
    conversation: Conversation
    document: str | None
    expires_ms: int  # when it is forgotten, in milliseconds since 1970


class UserGone(msgspec.Struct, frozen=True):
    """The user has left or come back at ``at_ms``; a later change of this kind that is stored already wins."""

    platform: str
    user_id: str
    gone: bool
    at_ms: int


class ProfileSeen(msgspec.Struct, frozen=True):
    """The platform has told this of the user at ``at_ms``."""

    platform: str
    user_id: str
    profile: Profile
    at_ms: int


class UserForgotten(msgspec.Struct, frozen=True):
    """The user, and the state of the conversation with it, are removed. Its events are not."""

    platform: str
    user_id: str


Change = StateChange | UserGone | ProfileSeen | UserForgotten


class Directory(Protocol):
    """Users and states, as one worker uses them. All methods may wait, and raise DirectoryUnavailable."""

    def state(self, platform: str, conversation: Conversation) -> str | None:
        """The conversation's state as JSON text; None when it has none, or had one for too long."""

    def users(self, platform: str, ids: Sequence[str]) -> dict[str, User]:
        """Those of the users that are known, by id."""

    def save(self, changes: Sequence[Change]) -> None:
        """Store changes that belong to no outcome; returns when they are stored."""
