"""Whether this machine's clock is right, as far as the clocks of others tell. Pure.

Reply tokens, the times of next attempts and what an inbox shared by several nodes remembers all count on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from gbot.checks.finding import Finding, fail, ok, skip, warn

NAME: Final = "clock"
WARN_S: Final = 2.0
FAIL_S: Final = 30.0
ADVICE: Final = "have this machine's clock set by NTP (timedatectl set-ntp true), or see whose clock is wrong"


@dataclass(frozen=True, slots=True)
class Reading:
    """How far another's clock was ahead of this machine's, and how sure that is."""

    whose: str
    ahead_s: float
    unsure_s: float

    @property
    def off_s(self) -> float:
        """By how much it is off at least."""
        return max(0.0, abs(self.ahead_s) - self.unsure_s)


def reading(whose: str, theirs_s: float, asked_s: float, answered_s: float, steps_s: float = 0.0) -> Reading:
    """What another said its time was, between two moments of this machine; it counts in steps of ``steps_s``."""
    here_s = (asked_s + answered_s) / 2
    return Reading(whose, theirs_s + steps_s / 2 - here_s, (answered_s - asked_s) / 2 + steps_s / 2)


def http_date(text: str) -> float | None:
    """The Date header as seconds since 1970; None for what is none."""
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def clock(readings: Sequence[Reading]) -> Finding:
    """What all of them say."""
    if not readings:
        return skip(NAME, "nothing to compare it with: neither a database nor a platform's API has told its time")
    worst = max(reading.off_s for reading in readings)
    # One that was read twice, such as that of a server which has both the inbox and the database, is told once.
    worst_of_each = {reading.whose: reading for reading in sorted(readings, key=lambda reading: reading.off_s)}
    found = "; ".join(_sentence(worst_of_each[whose]) for whose in dict.fromkeys(each.whose for each in readings))
    figures = {"off_s": round(worst, 3)}
    if worst <= WARN_S:
        return ok(NAME, found, figures)
    return (fail if worst > FAIL_S else warn)(NAME, found, ADVICE, figures)


def _sentence(reading: Reading) -> str:
    if reading.off_s <= WARN_S:
        return f"it is within {WARN_S:g} s of that of {reading.whose}"
    way = "behind" if reading.ahead_s > 0 else "ahead of"
    return f"it is {abs(reading.ahead_s):,.0f} s {way} that of {reading.whose}"
