"""What the log is told of a pool: what is wrong, first at once and then ever more rarely, and when it is over."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping
from typing import Any, Final

from gbot.counts import counted
from gbot.database.outage import COMPLAINT_PAUSE_S, Outage, Trouble
from gbot.database.place import Place, PoolStatistics, longest_text
from gbot.errors import DatabaseError

log = logging.getLogger(__name__)

HOLDERS_NAMED: Final = 5  # of those that begin to hold for too long at the same time
SETTLED_S: Final = 1.0  # without a failure: an outage is over
FORGIVEN_S: Final = 10.0  # without a refusal


class Notices:
    """``name`` is what the log calls the database. Times are monotonic, in seconds."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._away = Trouble()
        self._refusing = Trouble()
        self._due_at: dict[str, float] = {}
        self._warming_since: float | None = None
        self._open_told = 0  # of those that are being opened at the start
        self._ended = 0  # that were found closed by the server, and not told of

    # The start.

    def warming(self, now: float) -> None:
        """The warm connections are being opened."""
        self._warming_since = now

    def warm(self, count: int, now: float) -> None:
        """So many are open, which is all that are to be at the start."""
        if self._warming_since is not None:
            took_s, self._warming_since = now - self._warming_since, None
            are = "is" if count == 1 else "are"
            log.info("%s to %s %s open, after %s", counted(count, "connection"), self._name, are, _lasting(took_s))

    # What goes wrong.

    def cannot_open(self, error: Exception, places: str, now: float) -> None:
        """``places`` tells how many are open."""
        if self._away.is_to_be_told(str(error), now):
            strange = None if isinstance(error, DatabaseError) else error
            lasted_s = self._away.lasted_s(now)
            what = f"Still no connection to {self._name}, after {_lasting(lasted_s)}" if lasted_s else ""
            log.warning("%s: %s; %s", what or f"No connection to {self._name}", error, places, exc_info=strange)

    def refused(self, error: Exception, now: float) -> float:
        """The server is there, and refuses a statement for its own reasons. Returns for how long it has done so."""
        told = self._refusing.is_to_be_told(str(error), now)
        lasted_s = self._refusing.lasted_s(now)
        if told:
            still = f"still refuses statements, after {_lasting(lasted_s)}" if lasted_s else "refuses statements"
            log.warning("%s %s: %s; what needs them is put off", self._name, still, error)
        return lasted_s

    def ended(self, count: int) -> None:
        """The server has closed so many that were idle."""
        self._ended += count

    def busy(
        self, pool: PoolStatistics, wait_s: float, reason: str, held: Mapping[Place[Any], None], now: float
    ) -> str:
        """Somebody has waited in vain. Returns the sentence, which is logged as well."""
        why = f", and no more can be opened ({reason})" if reason else ""
        text = (
            f"no connection to {self._name} became free within {wait_s:g} s: {pool.in_use} of {pool.size} are in use"
            f"{why}, {counted(pool.waiting, 'other waits', 'others wait')}{longest_text(held, now)}"
        )
        self.seldom("busy", text, now)
        return text

    def seldom(self, kind: str, text: str, now: float) -> None:
        """What is noticed many times at once, or over and over, is said once."""
        if now >= self._due_at.get(kind, 0.0):
            self._due_at[kind] = now + COMPLAINT_PAUSE_S
            log.warning("%s", text[0].upper() + text[1:])

    # Round by round.

    def tell_round(self, outage: Outage, open_now: int, warm: int, now: float) -> None:
        """Tell how far the start is, and what has ended."""
        if self._warming_since is not None and open_now > self._open_told:
            self._open_told = open_now
            log.info("Opened %d of %d connections to %s", open_now, warm, self._name)
        if self._ended and now >= self._due_at.get("ended", 0.0):
            self._due_at["ended"] = now + COMPLAINT_PAUSE_S
            count, self._ended = self._ended, 0
            log.info("%s to %s had been closed by the server", counted(count, "idle connection"), self._name)
        if not outage.reason and now - outage.succeeded_at >= SETTLED_S:
            lasted_s = self._away.lasted_s(outage.succeeded_at)
            if self._away.ends():
                log.info("Connections to %s can be made again, after %s", self._name, _lasting(lasted_s))
        if now - self._refusing.last_at >= FORGIVEN_S and self._refusing.ends():
            log.info("%s has refused no statement for %s", self._name, _lasting(FORGIVEN_S))

    def holders(self, held: Mapping[Place[Any], None], warning_s: float, now: float) -> None:
        """Name each place that has been held for longer than ``warning_s``, once; 0: never."""
        if not warning_s:
            return
        late = itertools.takewhile(lambda place: now - place.since >= warning_s, list(held))
        new = [place for place in late if not place.complained]
        for place in new:
            place.complained = True
        for place in new[:HOLDERS_NAMED]:
            held_s = now - place.since
            log.warning("A connection to %s has been held for %.0f s, %s", self._name, held_s, place.whereabouts())
        if len(new) > HOLDERS_NAMED:
            more = len(new) - HOLDERS_NAMED
            have = "has" if more == 1 else "have"
            log.warning("%s to %s %s been held for as long", counted(more, "more connection"), self._name, have)


def _lasting(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 600:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"
