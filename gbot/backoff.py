"""How long to wait before a failed run is tried again. Pure: attempts and a random number come in, seconds go out."""

from __future__ import annotations

from typing import Final

FIRST_DELAY_S: Final = 3.0
GROWTH: Final = 5.0
DELAY_MAX_S: Final = 3600.0
JITTER: Final = 0.25  # the share by which a delay may be shorter or longer


def retry_delay_s(attempts: int, chance: float) -> float:
    """Seconds until the next attempt, after ``attempts`` (1 or more) failed ones; ``chance`` is from 0 to 1.

    About 3 s, 15 s, 75 s, 6 min and so on up to an hour: five attempts last through an outage of seven minutes. The
    jitter keeps a thousand events that failed together from coming back together.
    """
    if attempts < 1 or not 0 <= chance <= 1:
        raise ValueError(f"expected at least one attempt and a chance from 0 to 1, got {attempts} and {chance}")
    growth = GROWTH ** min(attempts - 1, 10)
    return min(FIRST_DELAY_S * growth, DELAY_MAX_S) * (1 - JITTER + 2 * JITTER * chance)
