"""How the options of ``gbot simulate`` are written and read. Pure; each Kind's ``read`` raises ValueError."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from gbot.kinds import Kind
from gbot.simulator.traffic import BURST_S, Burst

UNITS_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
NUMBER: Final = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)"
UNIT: Final = r"(ms|s|m|h)"
WEIGHT_MAX: Final = 1000
RATE_MAX: Final = 100_000.0


def _match(pattern: str, text: str) -> re.Match[str]:
    found = re.fullmatch(pattern, text.replace(" ", ""))
    if found is None:
        raise ValueError
    return found


def _span(text: str) -> float:
    found = _match(f"{NUMBER}{UNIT}?", text)
    return float(found[1]) * UNITS_S[found[2] or "s"]


def _read_rate(text: str) -> float:
    rate = float(_match(f"{NUMBER}(?:/s)?", text)[1])
    if rate > RATE_MAX:
        raise ValueError
    return rate


def _read_share(text: str) -> float:
    found = _match(f"{NUMBER}(%?)", text)
    share = float(found[1]) / (100 if found[2] else 1)
    if share > 1:
        raise ValueError
    return share


def _read_latency(text: str) -> tuple[float, float]:
    found = _match(f"{NUMBER}{UNIT}?(?:-{NUMBER}{UNIT}?)?", text)
    if found[3] is None:
        low = high = _span(text)
    else:
        high_unit = found[4] or "s"
        high = float(found[3]) * UNITS_S[high_unit]
        low = float(found[1]) * UNITS_S[found[2] or high_unit]
        if found[2] and not found[4]:
            raise ValueError
    if not low <= high <= 600:
        raise ValueError
    return low, high


def _read_batch(text: str) -> tuple[int, int]:
    found = _match("([0-9]{1,4})(?:-([0-9]{1,4}))?", text)
    low, high = int(found[1]), int(found[2] or found[1])
    if not 1 <= low <= high <= 1000:
        raise ValueError
    return low, high


def _read_burst(text: str) -> Burst:
    found = _match(f"[x×]?{NUMBER}@(.+)", text)
    burst = Burst(float(found[1]), _span(found[2]))
    if burst.factor <= 0 or burst.every_s <= BURST_S:
        raise ValueError
    return burst


def _read_down(text: str) -> tuple[float, float]:
    """From when, and for how long."""
    found = _match("(.+)@(.+)", text)
    for_s, from_s = _span(found[1]), _span(found[2])
    if not for_s:
        raise ValueError
    return from_s, for_s


def mix(kinds: Iterable[str]) -> Kind:
    known = tuple(kinds)

    def read(text: str) -> tuple[tuple[str, int], ...]:
        weights: dict[str, int] = {}
        for part in text.split(","):
            found = _match("([A-Za-z]+)(?:=([0-9]{1,4}))?", part)
            weights[found[1]] = int(found[2] or 1)
        if not set(weights) <= set(known) or not 1 <= sum(weights.values()) <= WEIGHT_MAX:
            raise ValueError
        return tuple(weights.items())

    return Kind(f"kinds with weights such as {known[0]}=8,{known[1]}=1, out of {', '.join(known)}", read, "KIND=N,…")


RATE: Final = Kind("events per second such as 200/s", _read_rate, "N/s")
SHARE: Final = Kind("a share such as 30% or 0.3", _read_share, "SHARE")
SPAN: Final = Kind("a time such as 500ms, 30s or 2m", _span, "TIME")
LATENCY: Final = Kind("a time such as 200ms, or two of up to 10m such as 2-3s", _read_latency, "TIME[-TIME]")
BATCH: Final = Kind("a number from 1 to 1000, or two such as 1-10", _read_batch, "N[-N]")
BURST: Final = Kind("a factor and a time of more than 1 s such as 20@10s", _read_burst, "FACTOR@EVERY")
DOWN: Final = Kind("how long and from when, such as 30s@10s", _read_down, "FOR@FROM")
