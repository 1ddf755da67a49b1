"""A host that requests go to: whether it may be asked now, what the log says about that, and who waits to ask it.

When its circuit opens, the greenlets that wait in a lane to reach it are told at once: what they wait for would not be
sent when their turn came. There may be many, and many requests that fail at the same moment: each of them is told once,
and after SLICE_S at a stretch sockets get their turn.

Events that need a host that is down are run again and again until it is back. So that thousands of them do not keep the
worker busy with that alone, each is told to come back a little later than the one before.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Hashable
from typing import TYPE_CHECKING, Final

import gevent
from greenlet import getcurrent, greenlet

from gbot.errors import ApiDown
from gbot.outbound.circuit import Circuit
from gbot.outbound.lane import Lane

if TYPE_CHECKING:
    from gevent._types import _TimerWatcher

log = logging.getLogger(__name__)

SLICE_S: Final = 0.005
RETURN_EVERY_S: Final = 0.002
RETURN_MAX_S: Final = 60.0  # however many there are


class Host:
    """One host, by its origin."""

    __slots__ = ("_circuit", "_dismissed", "_down_since", "_origin", "_returns_at", "_timer", "_waiting")

    def __init__(self, origin: str) -> None:
        self._origin: Final = origin
        self._circuit = Circuit()
        self._waiting: dict[greenlet, None] = {}
        self._dismissed: deque[greenlet] = deque()  # those who are to be told that it is down
        self._timer: _TimerWatcher | None = None  # while there are any
        self._returns_at = 0.0  # when the one comes back who was told last that it is down
        self._down_since: float | None = None  # when the log was told that it is left alone

    @property
    def is_down(self) -> bool:
        return self._circuit.is_open

    def check(self) -> None:
        """Raise ApiDown if a request would not be admitted now. Claims nothing: a probe must not wait in a lane."""
        if self._circuit.is_open:
            self.admit()
            self.abandoned()

    def admit(self) -> bool:
        """Let a request through, or raise ApiDown; True: whether the host is back is seen by this one.

        Then one of ``succeeded``, ``failed`` and ``abandoned`` has to follow.
        """
        if not self._circuit.is_open:
            return False
        wait_s = self._circuit.admit(time.monotonic())
        if wait_s > 0:
            raise self._down(wait_s)
        return True

    def enter(self, lane: Lane, flow: Hashable, within_s: float) -> None:
        """Wait in the lane. Raises LaneBusy, and ApiDown when the circuit opens meanwhile."""
        me = getcurrent()
        self._waiting[me] = None
        try:
            lane.enter(flow, within_s)
        finally:
            del self._waiting[me]

    def succeeded(self) -> None:
        """It has answered, whatever the answer was."""
        now = time.monotonic()
        self._circuit.succeeded(now)
        if self._down_since is not None:
            log.warning(
                "%s answers again after %.1f s; events that need it go on", self._origin, now - self._down_since
            )
            self._down_since = None

    def failed(self, why: str) -> None:
        """There was no connection, no answer, or it said that it cannot."""
        now = time.monotonic()
        self._circuit.failed(now)
        if not self._circuit.is_open:
            return
        if self._down_since is None:
            self._down_since = now
            log.error(
                "%s fails again and again and is left alone for a while; events that need it wait in the inbox "
                "(the last failure: %s)",
                self._origin,
                why,
            )
        wait_s = self._circuit.admit(now)
        if wait_s > 0:
            self._dismiss_all(wait_s)
        else:  # this one began before it opened and failed after its time was over: the probe is for somebody else
            self._circuit.abandoned(now)

    def abandoned(self) -> None:
        """The request that was admitted ended without telling anything about the host."""
        self._circuit.abandoned(time.monotonic())

    def _down(self, wait_s: float) -> ApiDown:
        now = time.monotonic()
        returns_at = min(max(now + wait_s, self._returns_at + RETURN_EVERY_S), now + RETURN_MAX_S)
        self._returns_at = returns_at
        return ApiDown(f"{self._origin} has failed again and again and is left alone for a while", returns_at - now)

    def _dismiss_all(self, after_s: float) -> None:
        """Whoever comes to wait while these are told has been let in by the circuit since."""
        if self._waiting and self._timer is None:
            self._dismissed.extend(self._waiting)
            self._dismiss_soon(after_s)

    def _dismiss_soon(self, after_s: float) -> None:
        self._timer = gevent.get_hub().loop.timer(0)
        self._timer.start(self._dismiss, after_s)

    # In the hub: nothing here may wait.

    def _dismiss(self, after_s: float) -> None:
        slice_end = time.monotonic() + SLICE_S
        try:
            while self._dismissed and time.monotonic() < slice_end:
                waiting = self._dismissed.popleft()
                if waiting in self._waiting:  # else it has come out of the lane meanwhile
                    waiting.throw(self._down(after_s))
        finally:
            self._timer = None
            if self._dismissed:
                self._dismiss_soon(after_s)
