"""What the deliveries and the API of one run have in common. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from gbot.simulator.codes import Codes
from gbot.simulator.dice import Dice
from gbot.simulator.people import People
from gbot.simulator.traffic import Mix


@dataclass(frozen=True, slots=True)
class Scene:
    """Who writes what. ``started_ms`` makes the ids of one run different from those of any other."""

    seed: int
    people: People
    mix: Mix
    codes: Codes
    started_ms: int
    api_address: str = ""  # scheme, host and port of the simulated API

    @classmethod
    def of(
        cls, seed: int, users: int, mix: tuple[tuple[str, int], ...], started_ms: int, api_address: str = ""
    ) -> Scene:
        codes = Codes(Dice(seed, "run").bits(started_ms), "events")
        return cls(seed, People(seed, users), Mix(seed, mix), codes, started_ms, api_address)
