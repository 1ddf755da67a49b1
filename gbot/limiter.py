"""How fast requests may leave. Pure: the time comes in, the seconds to wait go out.

A Limit is what a platform allows, or what the operator sets; a Limiter keeps to it. Three rules together say when the
next request may begin:

- **The log**, which is never broken: request ``n`` begins more than ``per_s`` after request ``n - count``, so no window
  of that length, wherever it starts, holds more than ``count``; longer by LOG_MARGIN, because a request may be held up
  on its way by some milliseconds more than those after it. Where ``count`` is large only the last of every few requests
  is remembered, and the rule kept for each few together: memory is bounded, 0.1 % of the rate is lost.
- **The pace**, which spreads them: a token bucket that is filled 1 % slower than the limit allows, so that what the
  network crowds together on the way still looks regular to the API. It holds CATCH_UP_S worth of requests, for a worker
  that was busy with something else: a second's worth never leaves at once. Where the window is long, so that the pace
  would make people wait while nothing is going on, it holds one token for each second of the window, BURST_MAX at most.
- **The interval** between two beginnings, where the limit has one.

When the API says "too fast" all the same::

    full rate ──slow_down──▶ 3/4 of it, no bursts ──RECOVERY_AFTER_S──▶ 1/16 more every RECOVERY_STEP_S ──▶ full rate
                                 │  ▲
                                 └──┘ again: 9/16, … never below RATE_SHARE_MIN

and nothing at all begins before the time the API has named is over. Requests that were under way together are told off
together: that counts once. The step down is a small one because a platform may refuse a few of many requests that kept
to its limit, crowded together on their way; where others use up the limit, it is taken every second.
"""

from __future__ import annotations

import math
import re
from collections import deque
from typing import Final

import msgspec

from gbot import times
from gbot.times import NUMBER, UNIT

INF: Final = math.inf
LOG_LENGTH_MAX: Final = 1000
LOG_MARGIN: Final = 0.001
PACE_SHARE: Final = 0.99
CATCH_UP_S: Final = 0.05
BURST_MAX: Final = 100

SLOWED_SHARE: Final = 3 / 4
SLOWING_INTERVAL_S: Final = 1.0
RATE_SHARE_MIN: Final = 1 / 64
RECOVERY_AFTER_S: Final = 3.0
RECOVERY_STEP_S: Final = 1.0
RECOVERY_STEP: Final = 1 / 16
SLOWED_SPACING_MAX_S: Final = 10.0
UNLIMITED_SPACING_S: Final = 0.001  # what the slower rate is counted from where no limit is known
PAUSE_MAX_S: Final = 24 * 3600.0

ALL: Final = "all"  # in place of an endpoint: one lane for all of them
COUNT_MAX: Final = 1_000_000
SECONDS_MAX: Final = 31 * 24 * 3600.0
SECONDS_MIN: Final = 0.001
LIMIT_EXPECTED: Final = "a limit such as 500/s, 30/min, 60/h, 100/10s, 200/s, 50 at once or 1 at once, 100ms apart"


class Limit(msgspec.Struct, frozen=True):
    """What may go out in one lane. At most ``count`` requests begin in any ``per_s`` seconds, ``in_flight`` of them are
    under way at once, and two of them begin at least ``interval_s`` seconds apart.
    """

    count: int | None = None  # None: any number
    per_s: float = 1.0
    in_flight: int = 1000
    interval_s: float = 0.0


class Limiter:
    """Keeps the beginnings of requests within ``limit``; how many are under way is for its user to count.

    ``ready_at`` is when the next request may begin, ``spacing_s`` how far apart they are at present. Times are those of
    any clock that never goes back.
    """

    __slots__ = (
        "_block",
        "_block_left",
        "_blocks",
        "_burst_s",
        "_due",
        "_interval_s",
        "_log",
        "_pace_s",
        "_recover_from",
        "_share",
        "_slack_s",
        "_slow_from",
        "_slowed_max_s",
        "_window_s",
        "ready_at",
        "spacing_s",
    )

    def __init__(self, limit: Limit, now: float) -> None:
        count = limit.count or 0
        self._window_s = limit.per_s * (1 + LOG_MARGIN)
        self._interval_s = limit.interval_s
        self._block = max(1, math.ceil(count / LOG_LENGTH_MAX))  # so many requests share one place of the log
        self._block_left = self._block
        self._blocks = count // self._block  # in one window; 0: no log
        self._log: deque[float] = deque()  # when each of the last blocks stops counting
        self._pace_s = max(limit.per_s / count / PACE_SHARE if count else 0.0, limit.interval_s)
        self._burst_s = max(CATCH_UP_S, self._pace_s * min(limit.per_s, BURST_MAX)) if count else 0.0
        self._slowed_max_s = max(SLOWED_SPACING_MAX_S, limit.interval_s)
        self._share = 1.0  # of the full rate, as of the last slow_down
        self._slow_from = self._recover_from = -INF
        self._set_pace(1.0)
        self._due = -INF  # when the next one is due by the pace
        self.ready_at = now

    def wait_s(self, now: float) -> float:
        """How long until a request may begin; 0.0: now."""
        return max(0.0, self.ready_at - now)

    def take(self, now: float) -> None:
        """A request begins. Only to be called when ``wait_s(now)`` is 0.0."""
        if self._share < 1.0:
            self._recover(now)
        due = self._due
        earliest = now - self._slack_s
        self._due = ready_at = (due if due > earliest else earliest) + self.spacing_s
        if self._interval_s:  # never rounded to less than the true sum
            ready_at = max(ready_at, math.nextafter(now + self._interval_s, INF))
        if self._blocks:
            self._block_left -= 1
            if not self._block_left:
                ready_at = max(ready_at, self._next_block(now))
        self.ready_at = ready_at

    def slow_down(self, now: float, retry_after_s: float | None = None) -> None:
        """The API has said "too fast", and not to come back before ``retry_after_s``."""
        pause_s = min(max(0.0, retry_after_s or 0.0), PAUSE_MAX_S)
        share = self._share_at(now)
        if now >= self._slow_from:
            share = max(RATE_SHARE_MIN, share * SLOWED_SHARE)
            self._slow_from = now + SLOWING_INTERVAL_S
        self._slow_from = max(self._slow_from, now + pause_s)  # whoever is told before has begun before
        self._recover_from = max(self._recover_from, now + pause_s + RECOVERY_AFTER_S)
        self._share = share
        self._set_pace(share)
        self._due = max(self._due, now + self.spacing_s, now + pause_s)
        self.ready_at = max(self.ready_at, self._due)

    def _next_block(self, now: float) -> float:
        """The block that ends now goes into the log; returns when the next one may begin."""
        self._block_left = self._block
        log = self._log
        log.append(now + self._window_s)
        return log.popleft() if len(log) == self._blocks else now

    def _recover(self, now: float) -> None:
        share = self._share_at(now)
        self._set_pace(share)
        if share == 1.0:
            self._share = share

    def _share_at(self, now: float) -> float:
        if self._share == 1.0 or now < self._recover_from:
            return self._share
        steps = 1 + (now - self._recover_from) // RECOVERY_STEP_S
        return min(1.0, self._share + steps * RECOVERY_STEP)

    def _set_pace(self, share: float) -> None:
        """Spread them over time at this share of the full rate."""
        if share < 1.0:
            self._slack_s = 0.0
            self.spacing_s = min((self._pace_s or UNLIMITED_SPACING_S) / share, self._slowed_max_s)
        else:
            self._slack_s = self._burst_s
            self.spacing_s = self._pace_s


def read_limit(text: str) -> Limit:
    """What an operator writes: ``500/s``, ``60/h``, ``200/s, 50 at once``, ``1 at once, 100ms apart``.

    Raises ValueError.
    """
    rules = [_read_rule(part.strip()) for part in text.split(",")]
    fields = {name: value for rule in rules for name, value in rule.items()}
    if not all(rules) or len(fields) < sum(map(len, rules)):
        raise ValueError(f"expected {LIMIT_EXPECTED}, got {text!r}")
    return msgspec.convert(fields, Limit)


def limit_text(limit: Limit) -> str:
    """The limit as ``read_limit`` reads it."""
    parts = []
    if limit.count is not None:
        parts.append(f"{limit.count}/{_per_text(limit.per_s)}")
    if limit.in_flight != Limit().in_flight or (limit.count is None and not limit.interval_s):
        parts.append(f"{limit.in_flight} at once")
    if limit.interval_s:
        parts.append(f"{_seconds_text(limit.interval_s)} apart")
    return ", ".join(parts)


def read_lanes(text: str) -> dict[str, Limit]:
    """Limits by lane, as in ``line.push: 500/s; messenger.all: 1 at once``; ``all``: one lane for the platform.

    Raises ValueError.
    """
    lanes: dict[str, Limit] = {}
    for part in text.split(";"):
        if not part.strip():
            continue
        name, _, limit = (piece.strip() for piece in part.partition(":"))
        if not re.fullmatch(r"[a-z_]+\.[a-z_]+", name):
            raise ValueError(f"expected PLATFORM.ENDPOINT: LIMIT, such as line.push: 500/s, got {part.strip()!r}")
        if name in lanes:
            raise ValueError(f"{name} is there twice")
        lanes[name] = read_limit(limit)
    return lanes


def _read_rule(text: str) -> dict[str, float]:
    """One of the rules that a limit is made of; nothing for what is none, or is out of bounds."""
    if found := re.fullmatch(rf"([0-9]{{1,9}}) ?/ ?(?:{NUMBER} ?)?{UNIT}", text):
        count, per_s = int(found[1]), times.seconds(found[2] or "1", found[3])
        return {"count": count, "per_s": per_s} if _in_bounds(count, per_s) else {}
    if found := re.fullmatch(r"([0-9]{1,9}) at once", text):
        in_flight = int(found[1])
        return {"in_flight": in_flight} if _in_bounds(in_flight) else {}
    if found := re.fullmatch(f"{NUMBER} ?{UNIT} apart", text):
        interval_s = times.seconds(found[1], found[2])
        return {"interval_s": interval_s} if _in_bounds(1, interval_s) else {}
    return {}


def _in_bounds(count: int, seconds: float = 1.0) -> bool:
    return 1 <= count <= COUNT_MAX and SECONDS_MIN <= seconds <= SECONDS_MAX


def _per_text(per_s: float) -> str:
    for unit, seconds in times.PER.items():
        if per_s == seconds:
            return unit
    return _seconds_text(per_s)


def _seconds_text(seconds: float) -> str:
    ms = f"{seconds * 1000:.10g}"
    if seconds < 1 and float(ms) / 1000 == seconds:
        return f"{ms}ms"
    return f"{int(seconds)}s" if seconds.is_integer() else f"{seconds!r}s"
