"""Numbers of events, hidden in ids and tokens that look like the platform's own. Pure.

What was made here can be read again without a table, however long ago it was made; what was not made here (of another
run, or invented) is told apart by its check digits.
"""

from __future__ import annotations

import re
from typing import Final

from gbot.simulator.dice import Dice

CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
PYTHONS: Final = str.maketrans(CROCKFORD, "0123456789abcdefghijklmnopqrstuv")  # what int(…, 32) reads
PAIRS: Final = tuple(high + low for high in CROCKFORD for low in CROCKFORD)
NUMBER_BITS: Final = 40
NUMBER_MASK: Final = (1 << NUMBER_BITS) - 1
TAG: Final = re.compile(rb"#([0-9]{1,13})-([0-9a-f]{6})")
ULID: Final = re.compile(rb"[0-9A-HJKMNP-TV-Z]{26}")
MID: Final = re.compile(rb"m_([0-9a-f]{32})")  # Messenger's ids


class Codes:
    """The codes of one run, or of one seed; others' are not understood."""

    def __init__(self, seed: int, purpose: str) -> None:
        self._check = Dice(seed, f"{purpose}: check digits").bits
        self._veil = Dice(seed, f"{purpose}: veil").bits(0)

    def hexadecimal(self, number: int) -> str:
        """32 hexadecimal digits."""
        return f"{number ^ self._veil:016x}{self._check(number):016x}"

    def of_hexadecimal(self, code: str) -> int | None:
        try:
            number = int(code[:16], 16) ^ self._veil
        except ValueError:
            return None
        return number if self.hexadecimal(number) == code else None

    def ulid(self, number: int, at_ms: int) -> str:
        """26 characters: 48 bits of time, 40 of the number, 40 to check."""
        hidden = (number ^ self._veil) & NUMBER_MASK
        value = (at_ms << 80) | (hidden << NUMBER_BITS) | (self._check(number) & NUMBER_MASK)
        return "".join([PAIRS[(value >> shift) & 1023] for shift in range(120, -1, -10)])

    def of_ulid(self, code: str) -> int | None:
        value = int(code.translate(PYTHONS), 32)
        number = ((value >> NUMBER_BITS) ^ self._veil) & NUMBER_MASK
        return number if (self._check(number) ^ value) & NUMBER_MASK == 0 else None

    def tag(self, number: int) -> str:
        """What a text ends with, so that an answer that repeats the text can be told."""
        return f"#{number}-{self._check(number) >> 40:06x}"

    def quoted(self, body: bytes) -> list[int]:
        """The events whose id or tag stands in a request, each once."""
        found = dict.fromkeys(self.of_ulid(code.decode()) for code in ULID.findall(body))
        found |= dict.fromkeys(self.of_hexadecimal(code.decode()) for code in MID.findall(body))
        for digits, check in TAG.findall(body):
            number = int(digits)
            if self._check(number) >> 40 == int(check, 16):
                found[number] = None
        return [number for number in found if number is not None]
