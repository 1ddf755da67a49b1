"""Who has to be done until when. Pure: time comes in as an argument, in seconds of any clock that never goes back."""

from __future__ import annotations

from typing import Generic, TypeVar

Key = TypeVar("Key")


class Deadlines(Generic[Key]):
    """Finds those whose time is over without looking at all the others.

    There is one queue for each distinct timeout: of two with the same timeout, whoever started first is over first, so
    only the heads of the queues have to be looked at. Entries must be added in the order in which they started.
    """

    def __init__(self) -> None:
        self._queues: dict[float, dict[Key, float]] = {}

    def add(self, key: Key, timeout_s: float, deadline: float) -> None:
        self._queues.setdefault(timeout_s, {})[key] = deadline

    def discard(self, key: Key, timeout_s: float) -> None:
        """Forget one that is done. One that was not added does not matter."""
        queue = self._queues.get(timeout_s)
        if queue is not None:
            queue.pop(key, None)

    def over(self, now: float) -> list[Key]:
        """All whose time is over, however often they have been named before."""
        late: list[Key] = []
        for queue in self._queues.values():
            for key, deadline in queue.items():
                if deadline >= now:
                    break
                late.append(key)
        return late
