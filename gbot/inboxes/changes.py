"""What changes of users and states come to: the arithmetic that every inbox shares. Pure.

Changes are applied in their order. Of what a platform tells of a user the later counts, by the platform's clock, in
whichever order it arrives; so whether a user is there and what its profile is are settled each by its own time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from gbot.directory import Change, ProfileSeen, StateChange, UserForgotten, UserGone
from gbot.event import Conversation
from gbot.inbox import Entry, Outcome
from gbot.inboxes.store import conversation_key
from gbot.user import Profile, User

UserKey = tuple[str, str]  # platform and id

TIME_MAX_MS: Final = 2**53


class KeptState(NamedTuple):
    """A conversation's state; a ``document`` of None: it has none."""

    document: str | None
    expires_ms: int

    def at(self, now_ms: int) -> str | None:
        """The document, unless its time is over."""
        return self.document if self.expires_ms > now_ms else None


NO_STATE: Final = KeptState(None, 0)


class Folded(NamedTuple):
    """What many changes come to: first users are forgotten, then what is known of users is merged with what is kept."""

    states: dict[str, KeptState]  # by conversation_key
    forgotten: set[UserKey]
    users: dict[UserKey, User]


def fold(changes: Iterable[Change]) -> Folded:
    """One change for each state and user, to be stored with one statement for all."""
    folded = Folded({}, set(), {})
    for change in changes:
        if isinstance(change, StateChange):
            folded.states[state_key(change)] = KeptState(change.document, _time(change.expires_ms))
            continue
        key = (change.platform, change.user_id)
        if isinstance(change, UserForgotten):
            folded.states[state_key(change)] = NO_STATE
            folded.forgotten.add(key)
            folded.users.pop(key, None)
        else:
            folded.users[key] = learnt(folded.users.get(key) or User(*key), change)
    return folded


def of_outcomes(settlements: Iterable[tuple[Entry, Outcome]]) -> dict[tuple[int, int], Sequence[Change]]:
    """The changes that come with outcomes, by the number and the claim of their entry."""
    changes: dict[tuple[int, int], Sequence[Change]] = {}
    for entry, outcome in settlements:
        if outcome.changes:
            changes.setdefault((entry.number, entry.claim), outcome.changes)
    return changes


def state_key(change: StateChange | UserForgotten) -> str:
    """The conversation whose state it changes."""
    if isinstance(change, StateChange):
        return conversation_key(change.platform, change.conversation)
    return conversation_key(change.platform, Conversation("user", change.user_id))


def learnt(user: User, change: UserGone | ProfileSeen) -> User:
    """The user with what the change tells, unless something later is known already."""
    at_ms = _time(change.at_ms)
    if isinstance(change, UserGone):
        if at_ms < user.gone_ms:
            return user
        return msgspec.structs.replace(user, gone=change.gone, gone_ms=at_ms)
    if at_ms < user.profile_ms:
        return user
    return msgspec.structs.replace(user, profile=change.profile, profile_ms=at_ms)


def _time(time_ms: int) -> int:
    """As it can be written down, whatever clock it is from; 0 stands for "not known"."""
    return min(max(1, time_ms), TIME_MAX_MS)


def after(user: User | None, changes: Iterable[Change]) -> User | None:
    """The user as it is when these have been applied; None: nothing is known of it."""
    for change in changes:
        if isinstance(change, UserForgotten):
            user = None
        elif not isinstance(change, StateChange):
            user = learnt(user or User(change.platform, change.user_id), change)
    return user


# A profile as the rows have it.

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Profile).decode


def profile_text(profile: Profile | None) -> str | None:
    """As JSON. A name that was cut in the middle of a character is kept as far as it can be written down."""
    if profile is None:
        return None
    try:
        return _encode(profile).decode()
    except UnicodeEncodeError:
        return _encode(_mended(profile)).decode()


def _mended(profile: Profile) -> Profile:
    values = msgspec.structs.asdict(profile)
    return Profile(
        **{
            name: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
            for name, value in values.items()
        }
    )


def profile_of(text: str | None) -> Profile | None:
    """None also for one that cannot be read: the platform tells it again."""
    try:
        return _decode(text) if text is not None else None
    except msgspec.DecodeError:
        return None
