"""Leaves a host alone that fails again and again, and finds out by itself when it is back. Pure: the time comes in.

::

    ┌────────┐  FAILURES_MAX failures in a row, or FEW_FAILURES   ┌──────┐
    │ closed │  in a row that lasted FEW_FAILURES_S or longer     │ open │◀───────────┐
    │        │───────────────────────────────────────────────────▶│      │            │
    └────────┘                                                    └──────┘         it failed:
        ▲                                                             │        open twice as long,
        │                                           1, 2, 4 … 30 s are over    at most OPEN_MAX_S
        │                                                             ▼               │
        │                  it succeeded                         ┌───────────┐         │
        └───────────────────────────────────────────────────────│ half-open │─────────┘
                                                                │ one probe │
                                                                └───────────┘

FAILURES_MAX is for a busy host, where one bad moment makes several requests fail at once; FEW_FAILURES for a quiet one,
where every failure may be a time-out of many seconds. A request that was abandoned (its greenlet was killed) says
nothing; if it was the probe, the next request is.

The circuit does not know which request an end belongs to. Requests that were under way when it opened end later: their
failures are ignored while it is open, and taken for the probe's while a probe is under way, which keeps it open for
longer, until they have all ended; a success closes it, whichever it was. A probe whose end is never told stops counting
after PROBE_MAX_S.
"""

from __future__ import annotations

from typing import Final

FAILURES_MAX: Final = 20
FEW_FAILURES: Final = 5
FEW_FAILURES_S: Final = 5.0
OPEN_MIN_S: Final = 1.0
OPEN_MAX_S: Final = 30.0
PROBE_WAIT_S: Final = 1.0
PROBE_MAX_S: Final = 60.0  # longer than a request takes until it fails


class Circuit:
    """The circuit of one host. Each ``admit`` that returns 0.0 is followed by one of the other three.

    Times are those of any clock that never goes back.
    """

    __slots__ = ("_failing_since", "_failures", "_open_s", "_open_until", "_probe_until")

    def __init__(self) -> None:
        self._failures = 0  # in a row, while closed
        self._failing_since = 0.0
        self._open_s = 0.0  # how long it is open this time; 0.0: closed
        self._open_until = 0.0
        self._probe_until = 0.0  # 0.0: no probe is under way

    @property
    def is_open(self) -> bool:
        """Open or half-open: at most one request is let through."""
        return self._open_s > 0.0

    def admit(self, now: float) -> float:
        """0.0: the request may go. Otherwise it may not, and in so many seconds it is worth asking again."""
        if not self._open_s:
            return 0.0
        if now < self._open_until:
            return self._open_until - now
        if now < self._probe_until:
            return min(PROBE_WAIT_S, self._probe_until - now)
        self._probe_until = now + PROBE_MAX_S
        return 0.0

    def succeeded(self, now: float) -> None:
        """The host has answered, at ``now``: the circuit is closed."""
        self._failures = 0
        self._open_s = self._probe_until = 0.0

    def failed(self, now: float) -> None:
        """There was no connection, no answer, or the host said that it cannot."""
        if not self._open_s:
            self._count(now)
        elif self._probe_until:
            self._open(now, min(2 * self._open_s, OPEN_MAX_S))

    def abandoned(self, now: float) -> None:
        """The request has ended, at ``now``, without telling anything about the host."""
        self._probe_until = 0.0

    def _count(self, now: float) -> None:
        if not self._failures:
            self._failing_since = now
        self._failures += 1
        lasted_s = now - self._failing_since
        if self._failures >= FAILURES_MAX or (self._failures >= FEW_FAILURES and lasted_s >= FEW_FAILURES_S):
            self._open(now, OPEN_MIN_S)

    def _open(self, now: float, open_s: float) -> None:
        self._open_s = open_s
        self._open_until = now + open_s
        self._probe_until = 0.0
