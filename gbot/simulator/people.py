"""The users of the simulated platform: who they are depends on the seed and their number alone. Pure."""

from __future__ import annotations

from typing import Final

from gbot.simulator.codes import Codes
from gbot.simulator.dice import Dice

NAMES: Final = {
    "en": ("Anna", "Ben", "Clara", "Dan", "Emma", "Fred", "Grace", "Hugo", "Ida", "Jack"),
    "ja": ("さくら", "太郎", "花子", "健太", "美咲", "大輔", "陽菜", "翔", "結衣", "蓮"),
}


class People:
    """``count`` users, numbered from 0."""

    def __init__(self, seed: int, count: int) -> None:
        self.count = count
        self._codes = Codes(seed, "users")
        self._language = Dice(seed, "language").roll
        self._name = Dice(seed, "name").between
        self._writes = Dice(seed, "who writes").between

    def code(self, person: int) -> str:
        """32 hexadecimal digits."""
        return self._codes.hexadecimal(person)

    def of_code(self, code: str) -> int | None:
        """The user's number, None for one who is not there."""
        person = self._codes.of_hexadecimal(code)
        return person if person is not None and person < self.count else None

    def language(self, person: int) -> str:
        return "en" if self._language(person) < 0.5 else "ja"

    def name(self, person: int) -> str:
        names = NAMES[self.language(person)]
        return f"{names[self._name(person, 0, len(names) - 1)]} {person + 1}"

    def writer(self, event: int) -> int:
        """Whose event this is."""
        return self._writes(event, 0, self.count - 1)
