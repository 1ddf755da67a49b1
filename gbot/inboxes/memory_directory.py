"""Users and states of the volatile inbox: gone after a restart, like everything else in it.

Memory is bounded: at the bounds, what was changed longest ago goes first.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final

from gbot.directory import Change, StateChange, UserForgotten
from gbot.event import Conversation
from gbot.inboxes.changes import KeptState, UserKey, learnt, state_key
from gbot.inboxes.store import conversation_key
from gbot.user import User

USERS_MAX: Final = 100_000
STATES_MAX: Final = 100_000
STATE_CHARS_MAX: Final = 64 * 1024 * 1024  # of all documents together


class MemoryDirectory:
    """See :class:`gbot.directory.Directory`. Nothing here waits."""

    def __init__(self, users_max: int = USERS_MAX, state_chars_max: int = STATE_CHARS_MAX) -> None:
        self._users_max = users_max
        self._chars_max = state_chars_max
        self._users: OrderedDict[UserKey, User] = OrderedDict()
        self._states: OrderedDict[str, KeptState] = OrderedDict()
        self._chars = 0

    def state(self, platform: str, conversation: Conversation) -> str | None:
        kept = self._states.get(conversation_key(platform, conversation))
        return kept.at(time.time_ns() // 1_000_000) if kept is not None else None

    def users(self, platform: str, ids: Sequence[str]) -> dict[str, User]:
        found = {user_id: self._users.get((platform, user_id)) for user_id in ids}
        return {user_id: user for user_id, user in found.items() if user is not None}

    def save(self, changes: Iterable[Change]) -> None:
        for change in changes:
            if isinstance(change, StateChange):
                self._keep(state_key(change), change.document, change.expires_ms)
                continue
            key = (change.platform, change.user_id)
            user = self._users.pop(key, None)
            if isinstance(change, UserForgotten):
                self._keep(state_key(change), None, 0)
            else:
                self._users[key] = learnt(user or User(*key), change)
        while len(self._users) > self._users_max:
            self._users.popitem(last=False)

    def _keep(self, key: str, document: str | None, expires_ms: int) -> None:
        before = self._states.pop(key, None)
        if before is not None:
            self._chars -= len(before.document or "")
        if document is not None:
            self._states[key] = KeptState(document, expires_ms)
            self._chars += len(document)
        while self._chars > self._chars_max or len(self._states) > STATES_MAX:
            _, oldest = self._states.popitem(last=False)
            self._chars -= len(oldest.document or "")
