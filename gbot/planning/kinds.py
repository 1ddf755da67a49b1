"""How the options of ``gbot plan`` are written and read. Pure; each Kind's ``read`` raises ValueError."""

from __future__ import annotations

import math
import re
from typing import Final

from gbot import kinds
from gbot.kinds import Kind
from gbot.limiter import Limit, read_limit
from gbot.times import NUMBER

UNITS: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
MEASURED_RATE_MAX: Final = 1000
SIZE_MIN: Final = 2**20  # bytes: who gives less has left out the unit
UNITS_1024: Final = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def _read_size(text: str) -> int:
    found = re.fullmatch(f"{NUMBER} ?([KMGT]i?)?B?", text)
    size = round(float(found[1]) * (UNITS | UNITS_1024)[found[2] or ""]) if found else 0
    if size < SIZE_MIN:
        raise ValueError
    return size


def _read_rate(text: str) -> float:
    """A number by itself is per second, as a time by itself is in seconds."""
    if re.fullmatch("[0-9]+", text):
        text += "/s"
    limit = read_limit(text)
    if limit.count is None or limit != Limit(limit.count, limit.per_s):
        raise ValueError
    return limit.count / limit.per_s


def _read_measured_rate(text: str) -> float:
    """Bounded, so that a bot that is measured is not overrun by mistake."""
    rate = _read_rate(text)
    if rate > MEASURED_RATE_MAX:
        raise ValueError
    return rate


def _read_percent(text: str) -> float:
    """A whole number by itself is of percent; 0.3 by itself might be 30 % as well."""
    found = re.fullmatch(f"{NUMBER} ?%|([0-9]{{1,4}})", text)
    percent = float(found[1] or found[2]) if found else math.inf
    if percent > 1000:
        raise ValueError
    return percent / 100


def number(low: float, high: float) -> Kind:
    """A number that need not be whole."""

    def read(text: str) -> float:
        value = float(text) if re.fullmatch(NUMBER, text) else -1.0
        if not low <= value <= high:
            raise ValueError
        return value

    return Kind(f"a number from {low:g} to {high:g}", read, "N")


SIZE: Final = Kind("a size such as 512MiB, 2GiB or 4GB", _read_size, "SIZE")
RATE: Final = Kind("a rate such as 500/s or 3000/min; a number alone is per second", _read_rate, "N/s")
PERCENT: Final = Kind("a share such as 30%, 1000% at most", _read_percent, "N%")
LATENCY: Final = kinds.seconds(0, 86_400)
QUERY_TIME: Final = kinds.seconds(0.00001, 3600)
COUNT: Final = number(0, 1000)
CORES: Final = number(0.05, 1024)
NODES: Final = kinds.integer(1, 1000)
FILES: Final = kinds.integer(256, 2**30)
CONNECTIONS: Final = kinds.integer(1, 100_000)
MEASURED_RATE: Final = Kind("a rate of 1000/s at most such as 20/s", _read_measured_rate, "N/s")
SPAN: Final = kinds.seconds(1, 600)
