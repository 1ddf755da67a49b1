"""When a request to an API is sent again, and after which pause. Pure: what has happened comes in, seconds go out.

============  =============================================  ==============================  =======================
trouble       what is known                                  sent again                      as often as
============  =============================================  ==============================  =======================
UNREACHABLE   it never arrived                               always                          there are pauses
UNKNOWN       it went out, and no answer came back           if it is repeatable             there are pauses
UNAVAILABLE   the API failed and may have accepted it        if it is repeatable             there are pauses
RATE          it was not accepted: too many at the moment    always                          the call's time allows
NOT_READY     what it asks for is still being prepared       always                          the call's time allows
============  =============================================  ==============================  =======================

Everything else that an API can answer is settled: nothing is gained by asking again.
"""

from __future__ import annotations

import enum
import re
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec

from gbot.errors import ApiUnavailable, ResultUnknown

JITTER: Final = 0.25  # the share by which a pause may be shorter or longer
RETRY_AFTER_MAX_S: Final = 900.0  # a platform that asks for more is asked again after this


class Trouble(enum.Enum):
    """Why a request has not been settled by one try."""

    UNREACHABLE = enum.auto()
    UNKNOWN = enum.auto()
    UNAVAILABLE = enum.auto()
    RATE = enum.auto()
    NOT_READY = enum.auto()


class Rule(msgspec.Struct, frozen=True):
    """What is done about a trouble: the pauses before the second try, the third …"""

    pauses_s: tuple[float, ...]
    only_repeatable: bool = False  # because the try before may have been accepted
    goes_on: bool = False  # with the last of the pauses, as long as the call's time allows


RULES: Final = {
    Trouble.UNREACHABLE: Rule((0.2, 0.5, 1.0)),
    Trouble.UNKNOWN: Rule((0.2, 0.5, 1.0), only_repeatable=True),
    Trouble.UNAVAILABLE: Rule((0.2, 0.5, 1.0), only_repeatable=True),
    Trouble.RATE: Rule((0.2, 0.5, 1.0, 2.0), goes_on=True),
    Trouble.NOT_READY: Rule((0.5, 1.0, 2.0), goes_on=True),
}


def pause_s(
    trouble: Trouble, times: int, repeatable: bool, retry_after_s: float | None, left_s: float, chance: float
) -> float | None:
    """Seconds until the request is sent again; None: it is not.

    The call has met this trouble ``times`` times, this one included, and may go on for ``left_s``; ``chance`` is from
    0 to 1 and keeps requests that failed together from coming back together.
    """
    rule = RULES[trouble]
    if rule.only_repeatable and not repeatable:
        return None
    if times > len(rule.pauses_s) and not rule.goes_on:
        return None
    pause = rule.pauses_s[min(times, len(rule.pauses_s)) - 1] * (1 - JITTER + 2 * JITTER * chance)
    if retry_after_s is not None:
        pause = max(pause, retry_after_s)
    return pause if pause < left_s else None


def read_retry_after(value: str | None, now_s: float) -> float | None:
    """The seconds that a Retry-After asks for, as a number or as a date; None for none, or for what is neither.

    ``now_s`` is the time in seconds since 1970. At most RETRY_AFTER_MAX_S. RFC 9110, 10.2.3.
    """
    if value is None:
        return None
    value = value.strip()
    if re.fullmatch("[0-9]{1,300}", value):  # what a float can hold
        return min(float(value), RETRY_AFTER_MAX_S)
    try:
        at_s = parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return min(max(0.0, at_s - now_s), RETRY_AFTER_MAX_S)


def may_have_arrived(error: BaseException | None) -> bool:
    """Whether the request may have been accepted: by its last try, or by the earlier one that caused the error."""
    while error is not None:
        if isinstance(error, ResultUnknown | ApiUnavailable):
            return True
        error = error.__cause__
    return False
