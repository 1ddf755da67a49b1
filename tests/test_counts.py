"""Tests of how counts are written."""

from __future__ import annotations

import pytest

from gbot.counts import counted, number


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 workers"),
        (1, "1 worker"),
        (1.0, "1 worker"),
        (0.438213, "0.438 workers"),
        (0.9999, "1 worker"),
        (999.6, "1,000 workers"),
        (2, "2 workers"),
        (999, "999 workers"),
        (12_000, "12,000 workers"),
        (-1, "-1 workers"),
    ],
)
def test_a_count_has_its_noun(count: float, text: str) -> None:
    assert counted(count, "worker") == text


def test_a_noun_may_have_a_plural_and_a_verb_of_its_own() -> None:
    assert [counted(count, "entry runs", "entries run") for count in (0, 1, 2)] == [
        "0 entries run",
        "1 entry runs",
        "2 entries run",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.563, "0.563"), (40.31, "40.3"), (99.96, "100"), (6500.4, "6,500"), (10**15 + 1, f"{10**15 + 1:,}")],
)
def test_a_number_has_three_digits_or_is_whole(value: float, text: str) -> None:
    assert number(value) == text
