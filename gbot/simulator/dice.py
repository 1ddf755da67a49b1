"""Decisions by seed: the same seed, purpose and number give the same roll, in any order and on any machine. Pure."""

from __future__ import annotations

import zlib
from typing import Final

MASK: Final = (1 << 64) - 1
SPREAD: Final = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio: successive numbers end up far apart


def mix(value: int) -> int:
    """64 bits that depend on all bits of the value: the finalizer of splitmix64."""
    value &= MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


class Dice:
    """The rolls of one purpose."""

    __slots__ = ("_key",)

    def __init__(self, seed: int, purpose: str) -> None:
        self._key = mix(mix(seed) ^ zlib.crc32(purpose.encode()))

    def bits(self, number: int) -> int:
        """64 of them."""
        return mix(self._key + number * SPREAD)

    def roll(self, number: int) -> float:
        """At least 0 and less than 1."""
        return (mix(self._key + number * SPREAD) >> 11) / (1 << 53)

    def hits(self, number: int, share: float) -> bool:
        """True for about this share of all numbers."""
        return share > 0 and self.roll(number) < share

    def between(self, number: int, low: int, high: int) -> int:
        """A whole number from low to high."""
        return low + int(self.roll(number) * (high - low + 1))

    def span(self, number: int, low: float, high: float) -> float:
        return low + self.roll(number) * (high - low)
