"""How long things took, in little memory: each span goes into a class that is 2 % wide. Pure."""

from __future__ import annotations

import math
from typing import Final

WIDTH: Final = math.log(1.02)
SHORTEST_S: Final = 0.0001  # what takes less goes into the first class


class Histogram:
    """Percentiles to within 2 %, the maximum exactly."""

    __slots__ = ("_classes", "count", "max_s")

    def __init__(self) -> None:
        self._classes: dict[int, int] = {}
        self.count = 0
        self.max_s = 0.0

    def add(self, span_s: float) -> None:
        number = int(math.log(span_s / SHORTEST_S) / WIDTH) + 1 if span_s > SHORTEST_S else 0
        self._classes[number] = self._classes.get(number, 0) + 1
        self.count += 1
        if span_s > self.max_s:
            self.max_s = span_s

    def percentile_s(self, percent: float) -> float:
        """So many percent took no longer than this; 0 when there are none."""
        left = self.count * percent / 100
        for number in sorted(self._classes):
            left -= self._classes[number]
            if left <= 0:
                return min(self.max_s, SHORTEST_S * math.exp(WIDTH * number))
        return self.max_s
