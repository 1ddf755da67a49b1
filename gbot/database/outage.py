"""Whether connections can be opened: the pauses between attempts that fail, and when trouble is spoken of. Pure.

Times are those of a monotonic clock, in seconds.
"""

from __future__ import annotations

from typing import Final

PAUSE_MIN_S: Final = 0.1
PAUSE_MAX_S: Final = 5.0
REFUSAL_PAUSE_S: Final = 0.25
COMPLAINT_PAUSE_S: Final = 10.0
REMINDER_PAUSE_MAX_S: Final = 600.0
REASONS_MAX: Final = 5  # that are told for their own sake in one trouble


class Outage:
    """What fails with one server, and how many connections to it there is a use in opening at a moment."""

    def __init__(self) -> None:
        self.reason = ""  # for which none could be opened, while that is so
        self.retry_at = 0.0  # when the pause ends
        self.succeeded_at = 0.0
        self._failed_at = self._begun_at = -PAUSE_MAX_S
        self._replace_at = 0.0
        self._failures = 0  # since the last success
        self._careful = False

    def room(self, now: float, most: int) -> int:
        """How many may be under way: none in a pause, then one, and not many in a row, until one succeeds."""
        if now < self.room_at:
            return 0
        return 1 if self._careful else most

    @property
    def room_at(self) -> float:
        """When there is room again."""
        return max(self.retry_at, self._begun_at + PAUSE_MIN_S) if self._careful else 0.0

    def begun(self, now: float) -> None:
        """One is being opened."""
        self._begun_at = now

    def failed(self, reason: str, now: float) -> None:
        """None could be opened: a pause begins. What fails within one was begun before it."""
        self.reason, self._failed_at, self._careful = reason, now, True
        if now >= self.retry_at:
            self.retry_at = now + min(PAUSE_MAX_S, PAUSE_MIN_S * 2 ** min(self._failures, 10))
            self._failures += 1

    def refused(self, now: float) -> bool:
        """The server is there, and refuses its work. Returns whether it is time to replace one of its connections."""
        self._failed_at, self._careful = now, True
        if now < self._replace_at:
            return False
        self._replace_at = now + REFUSAL_PAUSE_S
        return True

    def succeeded(self, began: float, now: float) -> None:
        """One is open; if it was begun before the last failure, it says nothing of what can be done after that."""
        if began >= self._failed_at:
            self.reason, self.retry_at, self.succeeded_at = "", 0.0, now
            self._failures, self._careful = 0, False

    def wait_s(self, now: float) -> float:
        """How long it is not worth asking, at least."""
        return max(PAUSE_MIN_S, self.retry_at - now)


class Trouble:
    """When to speak of something that goes on: at once, then less and less often, and when its reason is a new one.

    One that begins soon after another was told of is told later.
    """

    def __init__(self) -> None:
        self.since: float | None = None
        self.last_at = 0.0
        self._reasons: set[str] = set()  # that have been told
        self._told_at = -COMPLAINT_PAUSE_S
        self._remind_at = 0.0

    def is_to_be_told(self, reason: str, now: float) -> bool:
        """It has happened, again or for the first time. Returns whether that has to be said."""
        self.last_at = now
        if self.since is None:
            self.since = now
        is_new = reason not in self._reasons and len(self._reasons) < REASONS_MAX
        if now - self._told_at < COMPLAINT_PAUSE_S or not (is_new or now >= self._remind_at):
            return False
        self._told_at = now
        self._remind_at = now + min(REMINDER_PAUSE_MAX_S, max(COMPLAINT_PAUSE_S, 5 * self.lasted_s(now)))
        if is_new:
            self._reasons.add(reason)
        return True

    def lasted_s(self, now: float) -> float:
        return now - self.since if self.since is not None else 0.0

    def ends(self) -> bool:
        """It is over. Returns whether that has to be said, as it was said that there is one."""
        told = bool(self._reasons)
        self.since = None
        self._reasons.clear()
        return told
