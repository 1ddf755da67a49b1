"""Whether a store can be used, and the log lines about it: what happens to what, and that it is over."""

from __future__ import annotations

import logging
from typing import Final

from gbot.inboxes.store import StoreDown, StoreFull

log = logging.getLogger(__name__)

TRIAL_INTERVAL_S: Final = 1.0


class Health:
    """The state of the store at ``place``. Times are monotonic, in seconds, and passed in."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._down_since: float | None = None
        self.trial_at = 0.0  # when events may be sent to a full one again, to see whether it still is
        self._full = False  # it answers, but takes no events: only taking some shows that it does again

    def may_put(self, now: float) -> bool:
        """Whether events may be sent to it: to a full one, once a second."""
        return self._down_since is None or (self._full and now >= self.trial_at)

    def failed(self, error: StoreDown, outcomes: int, now: float) -> None:
        """``outcomes``: how many wait to be written down."""
        self.trial_at = now + TRIAL_INTERVAL_S
        self._full = isinstance(error, StoreFull)
        if self._down_since is None:
            self._down_since = now
            log.error(
                "The inbox %s cannot be used: %s. Deliveries get 503 until it can; running handlers go on, and their "
                "outcomes (%d so far) are kept and written down then",
                self._place,
                error,
                outcomes,
            )

    def answered(self, outcomes: int, stored: bool, now: float) -> None:
        """``outcomes`` were waiting; ``stored``: it took events, not only outcomes or a question."""
        if self._down_since is None or (self._full and not stored):
            return
        log.warning(
            "The inbox %s can be used again after %.1f s; the outcomes kept meanwhile (%d) are written down now",
            self._place,
            now - self._down_since,
            outcomes,
        )
        self._down_since = None
        self._full = False
