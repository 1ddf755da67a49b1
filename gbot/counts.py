"""How gbot writes how many there are of something: ``1 worker``, ``12,000 workers``. Pure."""

from __future__ import annotations


def counted(count: float, one: str, many: str = "") -> str:
    """The count with its noun; ``many`` is what several are called, unless that is ``one`` with an s."""
    text = number(count)  # 0.9996 is written as 1, and so is its noun
    return f"{text} {one if text == '1' else many or one + 's'}"


def number(value: float) -> str:
    """Three digits, whole numbers with all of theirs: 0.563, 40.3, 6,500."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
