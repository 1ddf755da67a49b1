"""Whether a store can be used, and the log lines about it: what happens to what, and that it is over."""

from __future__ import annotations

import logging
from typing import Final

from gbot.inboxes.store import StoreDown, StoreFull

log = logging.getLogger(__name__)

TRIAL_INTERVAL_S: Final = 1.0


class Health:
    """The state of the store at ``place``. Times are monotonic, in seconds, and passed in.

    A store may answer a question and not take what is written, or take outcomes and no events: what failed has to
    succeed before it counts as well again.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._down_since: float | None = None
        self._reason = ""
        self._must_write = False
        self._must_store = False
        self.trial_at = 0.0  # when events may be sent to it again, to see whether it takes them

    def may_put(self, now: float) -> bool:
        """Whether events may be sent to it: to one that answers without taking them, once a second."""
        return self._down_since is None or ((self._must_write or self._must_store) and now >= self.trial_at)

    @property
    def wants_turn(self) -> bool:
        """Whether a turn, be it an empty one, would show that the store is well again."""
        return self._must_write and not self._must_store

    def failed(self, error: StoreDown, outcomes: int, now: float, *, writing: bool) -> None:
        """``outcomes``: how many wait to be written down; ``writing``: it failed at a turn, not at a question."""
        self.trial_at = now + TRIAL_INTERVAL_S
        self._must_write = self._must_write or writing
        self._must_store = self._must_store or isinstance(error, StoreFull)
        if self._down_since is None:
            self._down_since = now
            log.error(
                "The inbox %s cannot be used: %s. Deliveries get 503 until it can; running handlers go on, and their "
                "outcomes (%d so far) are kept and written down then",
                self._place,
                error,
                outcomes,
            )
        elif str(error) != self._reason:
            log.warning("The inbox %s still cannot be used: %s", self._place, error)
        self._reason = str(error)

    def reachable(self, outcomes: int, now: float) -> None:
        """It answered a question; ``outcomes`` are waiting."""
        if not (self._must_write or self._must_store):
            self._well(outcomes, now)

    def written(self, outcomes: int, stored: bool, now: float) -> None:
        """A turn was done, with so many outcomes, and with events if ``stored``."""
        if stored or not self._must_store:
            self._well(outcomes, now)

    def _well(self, outcomes: int, now: float) -> None:
        if self._down_since is not None:
            log.info(
                "The inbox %s can be used again after %.1f s%s",
                self._place,
                now - self._down_since,
                f"; the outcomes kept meanwhile ({outcomes}) are written down now" if outcomes else "",
            )
        self._down_since = None
        self._must_write = self._must_store = False
