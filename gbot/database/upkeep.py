"""What is done for the connections of a pool once every ROUND_S.

What nobody gives back is closed, and so are those that are not needed and those that the server has closed. Whoever
holds one for long is named in the log. What goes wrong in a round is logged, and the next one comes all the same.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Generic

import gevent

from gbot.database.notices import Notices
from gbot.database.place import P, Place
from gbot.database.stock import Stock
from gbot.turns import Turn

log = logging.getLogger(__name__)

ROUND_S: Final = 1.0
SWEEP_ROUNDS: Final = 30


class Upkeep(Generic[P]):
    """``drop`` closes one that is in use, ``done`` is called at the end of each round.

    A connection that is held for longer than ``hold_warning_s`` is logged, 0: never. Connections unused for
    ``idle_max_s`` are closed, down to ``least``.
    """

    def __init__(
        self,
        name: str,
        stock: Stock[P],
        notices: Notices,
        drop: Callable[[Place[P]], None],
        done: Callable[[], None],
        hold_warning_s: float,
        idle_max_s: float,
    ) -> None:
        self._name = name
        self._stock = stock
        self._notices = notices
        self._drop = drop
        self._done = done
        self._hold_warning_s = hold_warning_s
        self._idle_max_s = idle_max_s
        self._forgotten: deque[Place[P]] = deque()
        self._greenlet: gevent.Greenlet[[], None] | None = None
        self.least = 0

    @property
    def has_begun(self) -> bool:
        return self._greenlet is not None

    def start(self) -> None:
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """Close what nobody will give back, and look after nothing any more."""
        if self._greenlet is not None:
            self._greenlet.kill(block=False)
        self._take_back()

    def forget(self, place: Place[P]) -> None:
        """Nobody will give this one back: it is dropped within ROUND_S. May be called at any moment, in any thread."""
        self._forgotten.append(place)

    def _run(self) -> None:
        for number in itertools.count(1):
            gevent.sleep(ROUND_S)
            try:
                self.round(number)
            except Exception:
                log.exception("Looking after the connections to %s failed; it goes on", self._name)

    def round(self, number: int) -> None:
        """All of it once; every SWEEP_ROUNDS-th time all idle connections are looked at."""
        self._forgotten.extend(self._stock.orphans())
        self._take_back()
        self._notices.holders(self._stock.in_use, self._hold_warning_s, time.monotonic())
        self._close_in_turns(self._stock.unused(time.monotonic() - self._idle_max_s, self.least))
        if number % SWEEP_ROUNDS == 0 or self._stock.oldest_has_ended:
            self._sweep()
        self._done()

    def _take_back(self) -> None:
        """Close what nobody will give back; who has kept it has nothing to do with the pool any more."""
        while self._forgotten:
            place = self._forgotten.popleft()
            if place.holder is not None:
                text = f"a connection to {self._name}, {place.whereabouts()}, was not given back; it is closed"
                self._notices.seldom("kept", text, time.monotonic())
                self._drop(place)

    def _sweep(self) -> None:
        """Close idle connections that the server has closed."""
        ended = self._stock.take_ended()
        self._notices.ended(len(ended))
        rest = iter(ended)
        try:
            self._close_in_turns(rest)
        finally:  # the pool stops meanwhile
            for place in rest:
                self._stock.close(place)

    def _close_in_turns(self, places: Iterable[Place[P]]) -> None:
        turn = Turn()
        for place in places:
            self._stock.close(place)
            turn.take()
