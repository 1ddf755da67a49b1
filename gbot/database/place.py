"""The places of a pool: what is in them, and who holds them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from greenlet import greenlet

HERE: Final = os.path.dirname(__file__) + os.sep


class Pooled(Protocol):
    """A connection, as far as the pool has to know it.

    ``session`` is what it is to its server, which may still be at work for one that ``was_cut``.
    """

    @property
    def session(self) -> Any: ...

    @property
    def was_cut(self) -> bool: ...

    def has_ended(self) -> bool: ...

    def is_quiet(self) -> bool: ...

    def answers(self) -> bool: ...

    def end_session(self, session: Any) -> None: ...

    def close(self) -> None: ...


P = TypeVar("P", bound=Pooled)


class Place(Generic[P]):
    """One of the places of the pool, and the connection in it."""

    __slots__ = ("complained", "connection", "holder", "proved_at", "since", "taken_in")

    def __init__(self, connection: P) -> None:
        self.connection = connection
        self.since = time.monotonic()  # taken, or given back
        self.proved_at = 0.0  # the server was there for whoever used it last, who took it then
        self.holder: greenlet | None = None
        self.taken_in: str | None = None  # file and line of a with statement
        self.complained = False

    @property
    def is_orphaned(self) -> bool:
        """Whether the greenlet that took it has ended, so that nobody is entitled to it."""
        return self.holder is not None and self.holder.dead

    def whereabouts(self) -> str:
        """Where it was taken: in a with statement, or else by the statement that runs on it."""
        if self.taken_in is not None:
            return f"taken in {self.taken_in}"
        frame = self.holder.gr_frame if self.holder is not None else None
        asked = None  # who called this package: the drivers under it call it as well
        while frame is not None:
            if frame.f_code.co_filename.startswith(HERE):
                asked = frame.f_back
            frame = frame.f_back
        return "for a statement" if asked is None else f"for a statement in {asked.f_code.co_filename}:{asked.f_lineno}"


class Holders:
    """The greenlets that hold connections for longer than a statement."""

    def __init__(self) -> None:
        self._counts: dict[greenlet, int] = {}

    def __contains__(self, who: greenlet) -> bool:
        return who in self._counts

    def add(self, who: greenlet) -> None:
        """It holds one, or one more."""
        self._counts[who] = self._counts.get(who, 0) + 1

    def remove(self, who: greenlet) -> None:
        """It holds one less."""
        left = self._counts.pop(who) - 1
        if left:
            self._counts[who] = left


Held = Mapping[Place[P], None]
"""The places in use, the one taken first before the others."""


def longest_text(held: Held[P], now: float) -> str:
    """Who holds one for longest, to be added to a sentence."""
    longest = next(iter(held), None)
    if longest is None:
        return ""
    return f"; the longest has been held for {now - longest.since:.1f} s, {longest.whereabouts()}"


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """Connections at this moment; the rest counts since the start, times in seconds.

    ``waits`` are takings that had to wait, ``waited_s`` for how long in all, ``timeouts`` those that waited in vain.
    ``broken`` counts connections that broke, were left in a state that nobody knows, or had to make room for a new one,
    ``left`` those whose statement was left unfinished.
    """

    size: int = 0
    open: int = 0
    in_use: int = 0
    waiting: int = 0
    uses: int = 0
    held_s: float = 0.0
    waits: int = 0
    waited_s: float = 0.0
    timeouts: int = 0
    opened: int = 0
    broken: int = 0
    left: int = 0
