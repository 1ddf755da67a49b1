"""Whether connections can be opened: the pauses between attempts that fail, and what is said of it. Pure."""

from __future__ import annotations

from typing import Final

PAUSE_MIN_S: Final = 0.1
PAUSE_MAX_S: Final = 5.0
COMPLAINT_PAUSE_S: Final = 10.0


class Outage:
    """Times are those of a monotonic clock, in seconds."""

    def __init__(self) -> None:
        self.reason = ""  # of the last failure, while there is one
        self.retry_at = 0.0
        self._failures = 0  # since the last success
        self._told_at = -COMPLAINT_PAUSE_S
        self._told_reason = ""
        self._told = False

    def failed(self, reason: str, now: float, pause_min_s: float = 0.0) -> bool:
        """Returns whether a pause begins, until ``retry_at``: what fails within one was begun before it."""
        self.reason = reason
        if now < self.retry_at:
            return False
        pause_s = PAUSE_MIN_S * 2 ** min(self._failures, 10)
        self.retry_at = now + min(PAUSE_MAX_S, max(pause_s, pause_min_s))
        self._failures += 1
        return True

    def succeeded(self) -> bool:
        """Returns whether it has to be said that the outage is over, as it was said that there is one."""
        self.reason, self.retry_at, self._failures = "", 0.0, 0
        told, self._told = self._told, False
        return told

    def is_to_be_told(self, now: float) -> bool:
        """Whether the failure has to be said: once for each reason, and not over and over where they change."""
        if now - self._told_at < COMPLAINT_PAUSE_S or (self._told and self.reason == self._told_reason):
            return False
        self._told, self._told_at, self._told_reason = True, now, self.reason
        return True

    def wait_s(self, now: float) -> float:
        """How long it is not worth asking, at least."""
        return max(PAUSE_MIN_S, self.retry_at - now)
