"""A host that requests go to: whether it may be asked now, what the log says about that, and who waits to ask it.

When its circuit opens, the greenlets that wait in a lane to reach it are told at once: what they wait for would not be
sent when their turn came.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable
from typing import Final

import gevent
from greenlet import getcurrent, greenlet

from gbot.errors import ApiDown
from gbot.outbound.circuit import Circuit
from gbot.outbound.lane import Lane

log = logging.getLogger(__name__)


class Host:
    """One host, by its origin."""

    __slots__ = ("_circuit", "_down_since", "_origin", "_waiting")

    def __init__(self, origin: str) -> None:
        self._origin: Final = origin
        self._circuit = Circuit()
        self._waiting: dict[greenlet, None] = {}
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
        self._dismiss_all(self._circuit.admit(now))  # claims nothing: it has just opened, or was open all the time

    def abandoned(self) -> None:
        """The request that was admitted ended without telling anything about the host."""
        self._circuit.abandoned(time.monotonic())

    def _down(self, after_s: float) -> ApiDown:
        return ApiDown(f"{self._origin} has failed again and again and is left alone for a while", after_s)

    def _dismiss_all(self, after_s: float) -> None:
        loop = gevent.get_hub().loop
        for waiting in self._waiting:
            loop.run_callback(self._dismiss, waiting, after_s)

    def _dismiss(self, waiting: greenlet, after_s: float) -> None:
        """Called by the hub. Whoever has come out of the lane meanwhile is none of its business."""
        if waiting in self._waiting:
            waiting.throw(self._down(after_s))
