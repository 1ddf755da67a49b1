"""A platform's rate limit, as the platform enforces it: no more than so many requests in any window of time. Pure.

Where there is no limit it only counts.
"""

from __future__ import annotations

from collections import deque

from gbot.limiter import Limit


class Window:
    """Counts the requests of one endpoint. Those that are refused do not count."""

    __slots__ = ("_times", "limit", "peak")

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self._times: deque[float] = deque()  # of what was admitted within the last ``per_s``
        self.peak = 0  # the most that were admitted in any window

    def admit(self, now: float) -> bool:
        """Whether a request may come now; ``now`` never goes back."""
        times, limit = self._times, self.limit
        gone = now - limit.per_s
        while times and times[0] <= gone:
            times.popleft()
        if limit.count is not None and len(times) >= limit.count:
            return False
        times.append(now)
        if len(times) > self.peak:
            self.peak = len(times)
        return True
