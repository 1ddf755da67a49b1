"""What a run is to be, as the command line asks for it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from gbot.simulator.faults import Faults
from gbot.simulator.traffic import Traffic


@dataclass(frozen=True, slots=True)
class Settings:
    """``down`` is from when and for how long the API is down; ``shared`` are the secrets, in the platform's order."""

    platform: str
    shared: tuple[str, ...] = field(repr=False)
    to: str | None  # None: nothing is sent
    traffic: Traffic
    faults: Faults
    seed: int = 1
    users: int = 1000
    api_port: int = 0
    down: tuple[float, float] | None = None
    reply_window_s: float = 60.0
    rate_limits: bool = True  # False: the bot may call as fast as it likes
    quota: int | None = None
    wait_s: float = 60.0
