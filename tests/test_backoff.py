"""The pause before the next attempt: it grows, it ends at an hour, and it is never the same for all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbot.backoff import DELAY_MAX_S, JITTER, retry_delay_s


@pytest.mark.parametrize(("attempts", "expected_s"), [(1, 3), (2, 15), (3, 75), (4, 375), (5, 1875), (6, 3600)])
def test_in_the_middle_of_the_jitter_it_is_what_the_documentation_says(attempts: int, expected_s: float) -> None:
    assert retry_delay_s(attempts, 0.5) == expected_s


def test_five_attempts_last_through_an_outage_of_seven_minutes() -> None:
    assert sum(retry_delay_s(attempts, 0.5) for attempts in range(1, 5)) > 7 * 60


@given(st.integers(1, 10**9), st.floats(0, 1))
def test_it_is_within_the_jitter_and_never_over_its_bound(attempts: int, chance: float) -> None:
    middle = retry_delay_s(attempts, 0.5)
    assert middle * (1 - JITTER) <= retry_delay_s(attempts, chance) <= middle * (1 + JITTER) <= DELAY_MAX_S * 1.25


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_it_does_not_shrink_as_failures_go_on(attempts: int, chance: float) -> None:
    assert retry_delay_s(attempts + 1, chance) >= retry_delay_s(attempts, chance)


@given(st.integers(1, 10_000))
def test_the_chance_spreads_it(attempts: int) -> None:
    shortest, longest = retry_delay_s(attempts, 0.0), retry_delay_s(attempts, 1.0)
    assert shortest == pytest.approx(longest * 0.6)


@pytest.mark.parametrize(("attempts", "chance"), [(0, 0.5), (-1, 0.5), (1, -0.1), (1, 1.1), (1, float("nan"))])
def test_what_cannot_be_is_refused(attempts: int, chance: float) -> None:
    with pytest.raises(ValueError, match="expected at least one attempt"):
        retry_delay_s(attempts, chance)
