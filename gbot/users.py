"""The users of one platform, as handlers see them: what is stored of them, and their profiles as the platform tells.

A profile is asked for when it is needed and kept for PROFILE_TTL_S, in the directory and in a bounded cache. When the
platform does not answer, an older profile is good enough.

Users who have left are known from their unfollow events, on whichever worker those arrived: this one learns of others'
within GONE_TTL_S. What an event tells here is known here at once, although it is stored only with the event's outcome:
of what the directory and the cache say about it, the later counts, by the platform's clock.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from gbot.directory import Directory, ProfileSeen, UserGone
from gbot.errors import DirectoryUnavailable, RecipientGone, SendError
from gbot.event import Conversation, Event
from gbot.sender import Sender
from gbot.user import Profile, User

log = logging.getLogger(__name__)

PROFILE_TTL_S: Final = 24 * 3600.0
GONE_TTL_S: Final = 60.0
CACHED_MAX: Final = 10_000
COMING: Final = {"follow": False, "unfollow": True}  # the kinds of event, and whether the user is gone then
NEVER_READ: Final = float("-inf")
NOT_CACHED: Final[tuple[User | None, float]] = (None, NEVER_READ)


class Users:
    """What is known of a platform's users. Its methods may wait; they raise DirectoryUnavailable."""

    def __init__(
        self,
        platform: str,
        directory: Directory,
        sender: Sender,
        cached_max: int = CACHED_MAX,
        gone_ttl_s: float = GONE_TTL_S,
    ) -> None:
        self._platform = platform
        self._directory = directory
        self._sender = sender
        self._cached_max = cached_max
        self._gone_ttl_s = gone_ttl_s
        self._cached: OrderedDict[str, tuple[User, float]] = OrderedDict()  # when read, by the monotonic clock

    def note(self, event: Event, received_ms: int) -> UserGone | None:
        """What an event tells about whether its user is there, to be stored with its outcome; known here at once."""
        gone = COMING.get(event.kind)
        if gone is None or event.user_id is None:
            return None
        at_ms = event.timestamp_ms if event.timestamp_ms is not None else received_ms
        user, read_at = self._cached.get(event.user_id, NOT_CACHED)
        if user is None:
            user = User(self._platform, event.user_id)
        if user.gone_ms <= at_ms:
            profile_ms = user.profile_ms if user.profile is not None else 0  # who comes back may be told again
            self._cache(msgspec.structs.replace(user, gone=gone, gone_ms=at_ms, profile_ms=profile_ms), read_at)
        return UserGone(self._platform, event.user_id, gone, at_ms)

    def learn(self, user_id: str) -> None:
        """Fetch and store the profile of somebody who has just come; one that cannot be had now is fetched later."""
        try:
            self.get(user_id)
        except (SendError, DirectoryUnavailable) as error:
            log.info("The profile of a new %s user is fetched later: %s", self._platform, error)

    def get(self, user_id: str) -> User:
        """The user with a profile, unless the platform does not tell it. Raises SendError."""
        user = self._known([user_id])[user_id]
        if time.time() - user.profile_ms / 1000 < PROFILE_TTL_S:
            return user
        try:
            profile = self._sender.profile(user_id)
        except SendError as error:
            if user.profile is None:
                raise
            log.info("Using an older profile of a %s user: %s", self._platform, error)
            return user
        return self._with_profile(user, profile)

    def _with_profile(self, user: User, profile: Profile | None) -> User:
        now_ms = time.time_ns() // 1_000_000
        if profile is not None:
            self._directory.save([ProfileSeen(user.platform, user.id, profile, now_ms)])
        user = self._newest(msgspec.structs.replace(user, profile=profile or user.profile, profile_ms=now_ms))
        self._cache(user, time.monotonic())
        return user

    def check_there(self, ids: Sequence[str], event: Event) -> None:
        """Raise RecipientGone if one of these users has left. Whoever has sent the event since then is back."""
        there = self.there(ids)
        gone = len(ids) - len(there)
        if gone and event.user_id in ids and event.user_id not in there and self._is_back(event):
            gone -= 1
        if gone:
            who = "the user has" if len(ids) == 1 else f"{gone} of {len(ids)} users {'has' if gone == 1 else 'have'}"
            raise RecipientGone(f"{who} left or blocked the bot; nothing was sent")

    def _is_back(self, event: Event) -> bool:
        """Whether the user has written to the bot since it was left: the event of the return was lost."""
        user_id, at_ms = event.user_id, event.timestamp_ms
        if (
            user_id is None
            or at_ms is None
            or event.kind in COMING
            or event.conversation != Conversation("user", user_id)
        ):
            return False
        user = self._known([user_id])[user_id]
        if at_ms <= user.gone_ms:
            return False
        self._cache(msgspec.structs.replace(user, gone=False, gone_ms=at_ms), time.monotonic())
        self._directory.save([UserGone(self._platform, user_id, False, at_ms)])
        return True

    def there(self, ids: Sequence[str]) -> list[str]:
        """Those of these users who have not left."""
        known = self._known(ids)
        return [user_id for user_id in ids if not known[user_id].gone]

    def forget(self, user_ids: Iterable[str]) -> None:
        """Read these from the directory when they are asked for again."""
        for user_id in user_ids:
            self._cached.pop(user_id, None)

    def _known(self, ids: Sequence[str]) -> dict[str, User]:
        """All of them, from the cache as far as it is fresh; strangers without anything."""
        fresh_from = time.monotonic() - self._gone_ttl_s
        known = {}
        for user_id in ids:
            user, read_at = self._cached.get(user_id, NOT_CACHED)
            if user is not None and read_at > fresh_from:
                known[user_id] = user
        missing = [user_id for user_id in ids if user_id not in known]
        if missing:
            found = self._directory.users(self._platform, missing)
            now = time.monotonic()
            for user_id in missing:
                known[user_id] = self._newest(found.get(user_id) or User(self._platform, user_id))
                self._cache(known[user_id], now)
        return known

    def _newest(self, user: User) -> User:
        """The user as it was read, unless an event that was noted here tells something later about its being there."""
        noted, _ = self._cached.get(user.id, NOT_CACHED)
        if noted is None or noted.gone_ms <= user.gone_ms:
            return user
        return msgspec.structs.replace(user, gone=noted.gone, gone_ms=noted.gone_ms)

    def _cache(self, user: User, read_at: float) -> None:
        self._cached[user.id] = (user, read_at)
        self._cached.move_to_end(user.id)
        if len(self._cached) > self._cached_max:
            self._cached.popitem(last=False)
