"""Letting others run, for who may find input without end.

All greenlets of a worker share one thread, and each runs until it waits. One that always finds something to read would
never wait, and so has to stop now and then by itself.

``gevent.sleep(0)`` is not enough for that: gevent runs greenlets that are ready, the same ones again and again, until
they were 50 turns and 5 ms, and only then looks at its timers and sockets. Whoever works 1 ms between two sleeps of 0
holds up a due timeout, and what other clients have sent, for 50 ms; who works 5 ms, for a quarter of a second.
"""

from __future__ import annotations

from time import monotonic
from typing import Final

import gevent

TURN_S: Final = 0.001  # letting others run costs 3 µs


class Turn:
    """The time, in seconds, that one greenlet has before others run.

    In another thread, while the one that made it lives, it goes by the time alone.
    """

    __slots__ = ("_ends_at", "_loop", "_round", "_turn_s")

    def __init__(self, turn_s: float = TURN_S) -> None:
        self._turn_s = turn_s
        self._loop = gevent.get_hub().loop
        self._round = -1
        self._ends_at = 0.0

    def take(self) -> None:
        """Let those run whose time or input has come, if they could not for a turn's time.

        Costs 0.15 µs where that is not so, or where the greenlet has waited for something since it was here last.
        """
        loop = self._loop
        if loop.iteration == self._round:
            if monotonic() < self._ends_at:
                return
            self._let_others_run()
        self._round = loop.iteration
        self._ends_at = monotonic() + self._turn_s

    def _let_others_run(self) -> None:
        hub = gevent.get_hub()
        timer = hub.loop.timer(0)  # is due at once, in the loop's next round
        try:
            hub.wait(timer)
        finally:
            timer.close()
