"""The places of a pool: what is in them, who holds them, and what is said of those who hold one for long."""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from greenlet import greenlet

log = logging.getLogger(__name__)

HOLDERS_NAMED: Final = 5  # in the log, of those that begin to hold for too long at the same time

HERE: Final = os.path.dirname(__file__) + os.sep


class Pooled(Protocol):
    """A connection, as far as the pool has to know it. ``session`` is what it is to its server."""

    @property
    def session(self) -> Any: ...

    def has_ended(self) -> bool: ...

    def is_quiet(self) -> bool: ...

    def answers(self) -> bool: ...

    def end_session(self, session: Any) -> None: ...

    def close(self) -> None: ...


P = TypeVar("P", bound=Pooled)


class Place(Generic[P]):
    """One of the places of the pool, and the connection in it."""

    __slots__ = ("complained", "connection", "holder", "since", "taken_in")

    def __init__(self, connection: P) -> None:
        self.connection = connection
        self.since = time.monotonic()  # taken, or given back
        self.holder: greenlet | None = None
        self.taken_in: str | None = None  # file and line of a with statement
        self.complained = False

    def whereabouts(self) -> str:
        """Where it was taken: in a with statement, or else by the statement that runs on it."""
        if self.taken_in is not None:
            return f"taken in {self.taken_in}"
        frame = self.holder.gr_frame if self.holder is not None else None
        while frame is not None and not frame.f_code.co_filename.startswith(HERE):
            frame = frame.f_back
        while frame is not None and frame.f_code.co_filename.startswith(HERE):
            frame = frame.f_back
        return "for a statement" if frame is None else f"for a statement in {frame.f_code.co_filename}:{frame.f_lineno}"


Held = Mapping[Place[P], None]
"""The places in use, the one taken first before the others."""


def longest_text(held: Held[P], now: float) -> str:
    """Who holds one for longest, to be added to a sentence."""
    longest = next(iter(held), None)
    if longest is None:
        return ""
    return f"; the longest is held for {now - longest.since:.1f} s, {longest.whereabouts()}"


def warn_of_holders(held: Held[P], name: str, warning_s: float, now: float) -> None:
    """Log each place that has been held for longer than ``warning_s``, once; 0: never."""
    if not warning_s:
        return
    late = itertools.takewhile(lambda place: now - place.since >= warning_s, list(held))
    new = [place for place in late if not place.complained]
    for place in new:
        place.complained = True
    for place in new[:HOLDERS_NAMED]:
        log.warning("A connection to %s is held for %.0f s, %s", name, now - place.since, place.whereabouts())
    if len(new) > HOLDERS_NAMED:
        log.warning("%d more connections to %s are held for as long", len(new) - HOLDERS_NAMED, name)


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """Connections at this moment; the rest counts since the start, times in seconds.

    ``waits`` are takings that had to wait, ``waited_s`` for how long in all, ``timeouts`` those that waited in vain.
    ``broken`` counts connections that broke or were left in a state that nobody knows, ``left`` those whose statement
    was left unfinished.
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
