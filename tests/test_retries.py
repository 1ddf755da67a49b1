"""When a request is sent again: the table, with values."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbot.errors import ApiDown, ApiUnavailable, ApiUnreachable, LaneBusy, ResultUnknown
from gbot.outbound.retries import JITTER, RETRY_AFTER_MAX_S, RULES, Trouble, may_have_arrived, pause_s, read_retry_after

NOW_S = 1_750_000_000.0
HALF = 0.5  # the chance that neither shortens nor lengthens a pause


def pauses(trouble: Trouble, repeatable: bool, tries: int = 6) -> list[float | None]:
    """After the first try, the second …, with all the time in the world."""
    return [pause_s(trouble, times, repeatable, None, 1000, HALF) for times in range(1, tries)]


@pytest.mark.parametrize("repeatable", [True, False])
def test_what_never_arrived_is_sent_again_a_few_times(repeatable: bool) -> None:
    assert pauses(Trouble.UNREACHABLE, repeatable) == [0.2, 0.5, 1.0, None, None]


@pytest.mark.parametrize("trouble", [Trouble.UNKNOWN, Trouble.UNAVAILABLE])
def test_what_may_have_arrived_is_sent_again_only_where_that_is_safe(trouble: Trouble) -> None:
    assert pauses(trouble, True) == [0.2, 0.5, 1.0, None, None]
    assert pauses(trouble, False) == [None] * 5


@pytest.mark.parametrize("repeatable", [True, False])
@pytest.mark.parametrize("trouble", [Trouble.RATE, Trouble.NOT_READY])
def test_what_was_only_put_off_is_sent_again_as_long_as_there_is_time(trouble: Trouble, repeatable: bool) -> None:
    last = RULES[trouble].pauses_s[-1]
    assert pauses(trouble, repeatable, 50)[-1] == last
    assert pause_s(trouble, 50, repeatable, None, last + 0.1, HALF) == last
    assert pause_s(trouble, 50, repeatable, None, last, HALF) is None


@pytest.mark.parametrize("trouble", Trouble)
def test_a_pause_that_was_asked_for_is_kept_if_there_is_time(trouble: Trouble) -> None:
    assert pause_s(trouble, 1, True, 7.0, 10, HALF) == 7.0
    assert pause_s(trouble, 1, True, 0.0, 10, HALF) == RULES[trouble].pauses_s[0]
    assert pause_s(trouble, 1, True, 11.0, 10, HALF) is None


@given(st.sampled_from(list(Trouble)), st.integers(1, 10_000), st.floats(0, 1), st.booleans())
def test_pauses_stay_near_the_table(trouble: Trouble, times: int, chance: float, repeatable: bool) -> None:
    pause = pause_s(trouble, times, repeatable, None, 1000, chance)
    table = RULES[trouble].pauses_s
    if pause is not None:
        assert table[0] * (1 - JITTER) <= pause <= table[-1] * (1 + JITTER)


def test_chance_spreads_the_pauses() -> None:
    assert pause_s(Trouble.RATE, 1, False, None, 45, 0.0) != pause_s(Trouble.RATE, 1, False, None, 45, 1.0)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("12", 12.0),
        (" 7 ", 7.0),
        ("901", RETRY_AFTER_MAX_S),
        ("9" * 300, RETRY_AFTER_MAX_S),
        ("9" * 5000, None),
        (formatdate(NOW_S + 30, usegmt=True), 30.0),
        (formatdate(NOW_S - 30, usegmt=True), 0.0),
        (formatdate(NOW_S + 10**8, usegmt=True), RETRY_AFTER_MAX_S),
        *((odd, None) for odd in ("", "soon", "-5", "1.5", "inf", "nan", "٣", "1e9", "Mon, 99 Foo 2025", "\x00")),
        *((odd, None) for odd in ("Mon, 31 Feb 2025 00:00:00 GMT", "1 Jan 99999 00:00:00 GMT")),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert read_retry_after(value, NOW_S) == seconds


@given(st.text())
def test_no_retry_after_is_too_odd(value: str) -> None:
    seconds = read_retry_after(value, NOW_S)
    assert seconds is None or 0 <= seconds <= RETRY_AFTER_MAX_S


def test_an_error_tells_whether_anything_may_have_arrived() -> None:
    assert may_have_arrived(ResultUnknown("x"))
    assert may_have_arrived(ApiUnavailable("x", 500))
    for error in (ApiUnreachable("x"), ApiDown("x", 1.0), LaneBusy("x", 1.0)):
        assert not may_have_arrived(error)
        error.__cause__ = ResultUnknown("of the try before")
        assert may_have_arrived(error)
