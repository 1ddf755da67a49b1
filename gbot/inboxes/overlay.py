"""Changes that are settled and on their way into the store, as if they were stored already. Pure.

A handler's changes are written down a turn after it has ended, or much later while the store is down; the next event
of its conversation may run at once and has to see them. What lies here is bounded by the outcomes it came with.
"""

from __future__ import annotations

from collections.abc import Iterable

from gbot.directory import Change, StateChange, UserForgotten
from gbot.inboxes.changes import NO_STATE, KeptState, UserKey, after, state_key
from gbot.user import User


class Overlay:
    """Lies over what the store answers: ``add`` in the order of the outcomes, ``remove`` when they are written."""

    def __init__(self) -> None:
        self._states: dict[str, StateChange | UserForgotten] = {}  # the last change of each
        self._users: dict[UserKey, list[Change]] = {}  # in their order

    def __bool__(self) -> bool:
        return bool(self._states or self._users)

    def add(self, changes: Iterable[Change]) -> None:
        for change in changes:
            if isinstance(change, StateChange | UserForgotten):
                self._states[state_key(change)] = change
            if not isinstance(change, StateChange):
                self._users.setdefault((change.platform, change.user_id), []).append(change)

    def remove(self, changes: Iterable[Change]) -> None:
        """These have been written, or refused."""
        for change in changes:
            if isinstance(change, StateChange | UserForgotten):
                key = state_key(change)
                if self._states.get(key) is change:  # else there is a later one
                    del self._states[key]
            if not isinstance(change, StateChange):
                self._remove_of_user((change.platform, change.user_id), change)

    def _remove_of_user(self, key: UserKey, change: Change) -> None:
        left = [other for other in self._users.get(key, ()) if other is not change]
        if left:
            self._users[key] = left
        else:
            self._users.pop(key, None)

    def state(self, key: str) -> KeptState | None:
        """The state that is on its way; None: what the store has counts."""
        change = self._states.get(key)
        if change is None:
            return None
        return KeptState(change.document, change.expires_ms) if isinstance(change, StateChange) else NO_STATE

    def user(self, key: UserKey, stored: User | None) -> User | None:
        """The user as it will be."""
        changes = self._users.get(key)
        return after(stored, changes) if changes else stored
