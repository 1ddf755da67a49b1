"""Who talks to a bot: what the platform tells of a user, and what gbot has kept of it."""

from __future__ import annotations

import msgspec


class Profile(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the platform tells of a user. Only the name is always there."""

    display_name: str
    language: str | None = None  # a BCP 47 tag such as "en" or "ja"
    picture_url: str | None = None
    status_message: str | None = None

    def __repr__(self) -> str:
        """Without what it tells."""
        return "<Profile>"


class User(msgspec.Struct, frozen=True):
    """One user of one platform, as far as it is known."""

    platform: str
    id: str
    gone: bool = False  # has left, or blocked the bot
    gone_ms: int = 0  # when gone became what it is, by the platform's clock, in milliseconds since 1970
    profile: Profile | None = None
    profile_ms: int = 0  # when the profile was fetched

    @property
    def display_name(self) -> str:
        """The name that the platform shows, or ``""`` when it is not known."""
        return self.profile.display_name if self.profile is not None else ""

    @property
    def language(self) -> str | None:
        """The user's language as a BCP 47 tag, or None when it is not known."""
        return self.profile.language if self.profile is not None else None
