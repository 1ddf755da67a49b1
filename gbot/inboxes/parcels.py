"""Deliveries on their way into a store, and the requests that wait for them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Final

import gevent
from gevent.hub import Waiter

from gbot.errors import InboxFull, StoreUnavailable
from gbot.event import Event

PUT_TIMEOUT_S: Final = 1.5  # LINE waits 2 s for the answer
CHECK_INTERVAL_S: Final = 0.1


class Parcel:
    """A delivery's events, and the request that waits for them."""

    __slots__ = ("body_bytes", "events", "expires", "failures", "waiter")

    def __init__(self, events: Sequence[Event], body_bytes: int, waiter: Waiter[None] | None) -> None:
        self.events = events
        self.body_bytes = body_bytes
        self.waiter = waiter  # None: nobody waits, or no longer
        self.expires = time.monotonic() + PUT_TIMEOUT_S
        self.failures = 0  # turns of its own that failed while the store answered


class Parcels:
    """A queue of at most ``bytes_max`` bytes of deliveries, those that are being stored included.

    With ``waits`` a request is answered when its events are stored or refused, after PUT_TIMEOUT_S at the latest;
    without, nobody waits.
    """

    def __init__(self, bytes_max: int, waits: bool) -> None:
        self._hub = gevent.get_hub()
        self._bytes_max = bytes_max
        self.waits = waits
        self.events = 0  # in all of them
        self._queue: deque[Parcel] = deque()
        self._under_way: list[Parcel] = []
        self._bytes = 0
        self._timer = self._hub.loop.timer(CHECK_INTERVAL_S, CHECK_INTERVAL_S)
        if waits:
            self._timer.start(self._answer_late)

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, events: Sequence[Event], body_bytes: int) -> Parcel:
        """Raises InboxFull."""
        if self._bytes + body_bytes > self._bytes_max:
            raise InboxFull(f"{self._bytes} bytes of deliveries wait to be stored, of {self._bytes_max} at most.")
        parcel = Parcel(events, body_bytes, Waiter(self._hub) if self.waits else None)
        self._bytes += body_bytes
        self.events += len(events)
        self._queue.append(parcel)
        return parcel

    def take(self, events_max: int) -> list[Parcel]:
        """The next ones, up to so many events; the first one however large it is. They are under way now."""
        count = 0
        taken: list[Parcel] = []
        while events_max and self._queue and (not taken or count + len(self._queue[0].events) <= events_max):
            taken.append(self._queue.popleft())
            count += len(taken[-1].events)
        self._under_way = taken
        return taken

    def give_back(self, last: bool = False) -> None:
        """What is under way was not stored and is in the queue again, as the first or as the last."""
        if last:
            self._queue.extend(self._under_way)
        else:
            self._queue.extendleft(reversed(self._under_way))
        self._under_way = []

    def stored(self) -> None:
        """What is under way was stored: let the requests go on."""
        self._leave(self._under_way, None)
        self._under_way = []

    def refuse(self, why: str) -> None:
        """What is under way was not stored: whoever waits for it is told to send it again."""
        self._leave(self._under_way, why)
        self._under_way = []

    def refuse_all(self, why: str) -> None:
        """The same for what is in the queue, too."""
        self._leave([*self._under_way, *self._queue], why)
        self._under_way = []
        self._queue.clear()

    def stop(self) -> None:
        """Whoever waits still is told to send it again; what nobody waits for stays where it is."""
        self._timer.stop()
        if self.waits:
            self.refuse_all("The server has stopped; send this again.")

    def _leave(self, parcels: list[Parcel], why: str | None) -> None:
        for parcel in parcels:
            self._bytes -= parcel.body_bytes
            self.events -= len(parcel.events)
        if parcels and self.waits:
            self._hub.loop.run_callback(_answer, parcels, why)

    def _answer_late(self) -> None:
        """Runs in the hub: nobody waits longer than the platform does, even while the store hangs.

        What is under way may still be stored; then it runs, and is a duplicate when the platform sends it again.
        """
        now = time.monotonic()
        late = [parcel for parcel in self._under_way if parcel.expires <= now]
        while self._queue and self._queue[0].expires <= now:
            parcel = self._queue.popleft()
            self._bytes -= parcel.body_bytes
            self.events -= len(parcel.events)
            late.append(parcel)
        if late:
            _answer(late, "The events could not be stored in time; send this again.")


def _answer(parcels: Sequence[Parcel], why: str | None) -> None:
    """Let the requests go on; ``why`` the events were not stored. Runs in the hub, and so does each of the requests,
    as far as it gets without waiting.
    """
    for parcel in parcels:
        waiter, parcel.waiter = parcel.waiter, None
        if waiter is None:
            continue  # it was answered before
        if why is None:
            waiter.switch(None)
        else:
            waiter.throw(StoreUnavailable(why))
