"""What goes wrong with which request to the API: a function of the seed and the request's number. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

import msgspec

from gbot.simulator.dice import Dice

STORM_REQUESTS: Final = 20  # how many requests in a row one storm answers with 429
STATUSES: Final = (500, 502, 503, 504)
ACCEPTED_SHARE: Final = 0.5  # of those answered with 5xx: accepted all the same, as it happens behind a proxy


@dataclass(frozen=True, slots=True)
class Faults:
    """What is to go wrong. Shares are from 0 to 1."""

    latency_s: tuple[float, float] = (0.0, 0.0)  # from and to
    fail: float = 0.0  # answered with 5xx
    storm: float = 0.0  # answered with 429
    drop: float = 0.0  # accepted, and the connection closed without an answer


class Trouble(enum.Enum):
    """What goes wrong with one request."""

    NONE = enum.auto()
    STORM = enum.auto()  # 429, not accepted
    FAIL = enum.auto()  # 5xx, not accepted
    HIDE = enum.auto()  # 5xx, accepted
    DROP = enum.auto()  # accepted, no answer


NONE: Final = Trouble.NONE
STORM: Final = Trouble.STORM
FAIL: Final = Trouble.FAIL
HIDE: Final = Trouble.HIDE
DROP: Final = Trouble.DROP


class Fate(msgspec.Struct, frozen=True, gc=False):
    """How one request fares."""

    latency_s: float
    trouble: Trouble
    status: int = 0  # of FAIL and HIDE


class Fates:
    """Tells them."""

    def __init__(self, faults: Faults, seed: int) -> None:
        self._faults = faults
        self._latency = Dice(seed, "latency").span
        self._storm = Dice(seed, "storm").hits
        self._trouble = Dice(seed, "trouble").roll
        self._accepted = Dice(seed, "accepted").hits
        self._status = Dice(seed, "status").between

    def of(self, number: int) -> Fate:
        faults = self._faults
        if self._storm(number // STORM_REQUESTS, faults.storm):
            return Fate(0.0, STORM)
        low, high = faults.latency_s
        latency_s = self._latency(number, low, high) if high else 0.0
        if not (faults.fail or faults.drop):
            return Fate(latency_s, NONE)
        roll = self._trouble(number)
        if roll < faults.fail:
            trouble = HIDE if self._accepted(number, ACCEPTED_SHARE) else FAIL
            return Fate(latency_s, trouble, STATUSES[self._status(number, 0, len(STATUSES) - 1)])
        return Fate(latency_s, DROP if roll < faults.fail + faults.drop else NONE)
