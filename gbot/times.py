"""How people write times, in settings and on the command line: ``90``, ``500ms``, ``1.5h``. Pure."""

from __future__ import annotations

from typing import Final

NUMBER: Final = r"([0-9]{1,9}(?:\.[0-9]{1,20})?)"
UNIT: Final = "(ms|s|min|m|h|d)"
PER: Final = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86_400}


def seconds(number: str, unit: str) -> float:
    """What a NUMBER and a UNIT come to."""
    return float(number) / 1000 if unit == "ms" else float(number) * PER[unit]
