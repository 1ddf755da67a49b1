"""The pool of connections that a worker's greenlets share. It knows no database, only what is :class:`Pooled`.

::

    opening ──▶ idle ──take──▶ in use ──give──▶ idle ──(unused for long)──▶ closed
                                  └──drop──▶ closed: it broke, or was left in a state that nobody knows

**Bounds.** There are never more than ``size`` connections: a place is reserved before one is opened. Greenlets take
turns without preemption, so there is no lock, and nothing here waits for the network while another has to wait for it:
connections are opened in greenlets of their own, see ``growth``, and looked at by the one who takes them.

**Order and trust.** Which of them is used next, and when it is looked at before: see ``stock``. Who finds none waits,
in the order of arrival, for ``wait_s`` at most: DatabaseBusy then tells who holds them.

**Away.** When no connection can be opened, the ones there are go on being used, and opening is tried again after a
growing pause. When there is none, everybody who waits gets DatabaseAway, and so does who comes within that pause.

**Refused.** A server that is there and refuses its work, read-only as after a failover, keeps its connections but one
every REFUSAL_PAUSE_S: behind the same name may be another server by now, and only a new connection gets there.

**Left.** A statement whose greenlet was killed may still run in the server. Its place stays taken until the connection
that takes it over has ended the old session: the server, too, never sees more than ``size`` at work. That goes for a
server that is too busy to take a new connection as well; one that was started since has ended them all by itself.

**Kept.** Whoever takes a connection gives it back before its greenlet ends. One that was forgotten, or kept beyond
that, or given back in another thread, such as that of a generator which is collected there, is closed within ROUND_S.

**Why not DBUtils.** Its PooledDB holds a lock while it connects, so that one slow connect stops everybody; its
connections execute a statement again by themselves when they broke; nobody waits in order or for a limited time; and it
reaches 0.16 (as it comes) to 0.72 of a bare list of connections, where this one reaches 0.97 to 1.00: bench/pools.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Generic

import gevent
from gevent import monkey
from greenlet import getcurrent

from gbot.database.growth import Growth
from gbot.database.notices import Notices
from gbot.database.outage import PAUSE_MAX_S
from gbot.database.place import P, Place, PoolStatistics
from gbot.database.stock import Stock
from gbot.database.upkeep import Upkeep
from gbot.database.waiters import InVain, Waiters
from gbot.errors import BotError, DatabaseAway, DatabaseBusy

IDLE_MAX_S: Final = 300.0
BUSY_AFTER_S: Final = 1.0  # until an event that found no connection is tried again
END_CHECK_INTERVAL_S: Final = 0.01

OTHER_THREAD: Final = "and ctx.db is for the handlers' own: ask there and hand over the rows, or connect anew"

_thread_of: Final = monkey.get_original("_thread", "get_ident")  # gevent's own tells greenlets apart


class Pool(Generic[P]):
    """At most ``size`` connections made by ``connect``, of which ``warm`` are opened at the start and kept.

    ``connect`` raises DatabaseDown. ``name`` is what the log calls the database. A connection that is held for longer
    than ``hold_warning_s`` is logged, 0: never. Connections unused for ``idle_max_s`` are closed, down to ``warm``.
    """

    def __init__(
        self,
        connect: Callable[[], P],
        name: str,
        size: int,
        *,
        warm: int = 0,
        wait_s: float = 5.0,
        hold_warning_s: float = 30.0,
        idle_max_s: float = IDLE_MAX_S,
    ) -> None:
        self._name = name
        self.size = size
        self._warm_wanted = warm
        self._warm = min(warm, size)
        self._wait_s = wait_s
        self._stock: Stock[P] = Stock()
        self._waiters: Waiters[P] = Waiters(self._pass_on)
        self._growth = Growth(connect, name, self._arrived, self._failed, self._grow)
        self._notices = Notices(name)
        self._thread = _thread_of()
        self._stopped = False
        self._upkeep = Upkeep(name, self._stock, self._notices, self.drop, self._end_round, hold_warning_s, idle_max_s)
        self._upkeep.least = self._warm
        self.forget = self._upkeep.forget

    def start(self) -> None:
        """Begin to open the warm connections, and to look after all of them."""
        if self._warm:
            self._notices.warming(time.monotonic())
        self._upkeep.start()
        self._grow()

    def resize(self, size: int) -> None:
        """Have ``size`` connections at most from now on; those above it that are open are closed when they are idle."""
        self.size = size
        self._warm = self._upkeep.least = min(self._warm_wanted, size)
        while self._stock.idle and self._stock.open > size:
            self._stock.close(self._stock.idle.popleft())
        self._grow()

    def stop(self) -> None:
        """Close what is idle; what is in use is closed when it is given back. Nobody gets another connection."""
        self._stopped = True
        self._upkeep.stop()
        while self._stock.idle:
            self._stock.close(self._stock.idle.pop())
        self._waiters.turn_all_away()

    def end_unfinished(self, deadline: float) -> int:
        """After ``stop``: wait until no statement is left in the server that nobody waits for.

        Returns of how many that is not known when ``deadline`` (monotonic) has come.
        """
        while self._growth.not_ended and time.monotonic() < deadline:
            gevent.sleep(END_CHECK_INTERVAL_S)
        return self._growth.not_ended

    def statistics(self) -> PoolStatistics:
        stock, waiters = self._stock, self._waiters
        return PoolStatistics(
            size=self.size,
            open=stock.open,
            in_use=stock.open - len(stock.idle),
            waiting=len(waiters.tickets),
            uses=stock.uses,
            held_s=stock.held_s,
            waits=waiters.waits,
            waited_s=waiters.waited_s,
            timeouts=waiters.timeouts,
            opened=stock.opened,
            broken=stock.broken,
            left=stock.left,
        )

    # Taking and giving back.

    def take(self) -> Place[P]:
        """A connection for the current greenlet, to be given back or dropped. Raises DatabaseBusy, DatabaseAway."""
        if _thread_of() != self._thread:
            raise BotError(f"{self._name} was asked in another thread, {OTHER_THREAD}")
        now = began = time.monotonic()
        stock = self._stock
        if stock.idle and not self._waiters.tickets:
            place = stock.idle.pop()
        else:
            place = self._awaited(began)
            now = time.monotonic()
        if not stock.is_trusted(place, now):
            place = self._looked_at(place, began)
            now = time.monotonic()
        stock.lend(place, now)
        return place

    def take_for(self, taken_in: str) -> Place[P]:
        """One that is held for longer than a statement; ``taken_in`` is the file and line of its holder."""
        place = self.take()
        self._stock.keep(place, taken_in)
        return place

    def give(self, place: Place[P]) -> None:
        """Take back a connection that the next one can use."""
        self._stock.take_back(place)
        if self._waiters.tickets or self._stopped or self._stock.open > self.size:
            self._pass_on(place)
        else:
            self._stock.idle.append(place)

    def drop(self, place: Place[P]) -> None:
        """Take back one that nobody can use any more; what the server still does for it is ended.

        One whose greenlet has ended may be gone while another one tidies it up: then there is nothing to do.
        """
        if place.holder is None:
            return
        self._stock.take_back(place)
        if place.connection.was_cut:
            self._stock.left += 1
            self._growth.leave(place.connection.session)
        else:
            self._stock.broke(place.since)
        self._stock.close(place)
        self._grow()

    def refused(self, error: DatabaseAway) -> bool:
        """The server is there and refuses its work. Returns whether to drop the connection on which it did.

        The longer this goes on, the later ``error`` lets it be tried again.
        """
        now = time.monotonic()
        lasted_s = self._notices.refused(error, now)
        error.after_s = max(error.after_s, min(PAUSE_MAX_S, lasted_s))
        return self._growth.outage.refused(now)

    def is_held(self, place: Place[P]) -> bool:
        """Whether it is still the one's who took it, and this is the thread in which it can be used."""
        return place.holder is not None and _thread_of() == self._thread

    def _pass_on(self, place: Place[P]) -> None:
        """To who waits longest, or to the idle ones."""
        if self._stopped or self._stock.open > self.size:
            self._stock.close(place)
        elif self._waiters.tickets:
            self._waiters.hand(place)
        else:
            self._stock.idle.append(place)

    def _looked_at(self, place: Place[P], began: float) -> Place[P]:
        """This one if the server is still there for it, else another one that is, until ``wait_s`` after ``began``."""
        while not self._is_alive(place):
            now = time.monotonic()
            self._stock.broke(now)
            self._stock.close(place)
            if not self._stock.idle or self._waiters.tickets:
                place = self._awaited(began, first=True)
            elif now < began + self._wait_s:
                place = self._stock.idle.pop()
            else:
                self._grow()
                raise self._away(now)
        return place

    def _is_alive(self, place: Place[P]) -> bool:
        if place.connection.has_ended():
            self._notices.ended(1)
            return False
        try:
            return self._stock.is_alive(place, self._wait_s)
        except BaseException:  # the greenlet is told to end: the connection is in the middle of something
            self._stock.close(place)
            self._grow()
            raise

    def _awaited(self, began: float, *, first: bool = False) -> Place[P]:
        """Wait for a connection in turn, until ``wait_s`` after ``began``; ``first``: it was handed a dead one."""
        now = time.monotonic()
        if self._stopped or (not self._stock.open and now < self._growth.outage.retry_at):
            raise self._away(now)
        ticket = self._waiters.line_up(first)
        self._grow()
        try:
            place = self._waiters.wait(ticket, max(0.0, began + self._wait_s - now))
        except InVain:
            if self._stock.is_keeping(getcurrent()):
                raise BotError(
                    f"this handler holds a connection to {self._name} and waited for another in vain"
                ) from None
            raise (self._busy() if self._stock.open else self._away(time.monotonic())) from None
        if place is None:
            raise self._away(time.monotonic())
        return place

    # Opening.

    def _grow(self) -> None:
        """Begin to open what is missing: for who waits, in place of what was left unfinished, and to be warm."""
        if not self._upkeep.has_begun:
            return
        wanted = 0 if self._stopped else max(len(self._waiters.tickets), self._warm - self._stock.open)
        free = self.size - self._stock.open - self._growth.places
        self._growth.begin(max(0, min(wanted - self._growth.coming, free)))

    def _arrived(self, place: Place[P]) -> None:
        self._stock.add()
        if self._stock.open >= self._warm:
            self._notices.warm(self._stock.open, time.monotonic())
        self._pass_on(place)
        self._grow()

    def _end_round(self) -> None:
        self._notices.tell_round(self._growth.outage, self._stock.open, self._warm, time.monotonic())
        self._grow()

    def _failed(self, error: Exception) -> None:
        self._notices.cannot_open(error, f"{self._stock.open} of {self.size} are open", time.monotonic())
        if not self._stock.open:
            self._waiters.turn_all_away()

    # Saying what is wrong.

    def _away(self, now: float) -> DatabaseAway:
        if self._stopped:
            return DatabaseAway(f"the server stops: no more connections to {self._name}", PAUSE_MAX_S)
        outage = self._growth.outage
        return DatabaseAway(
            f"no connection to {self._name}: {outage.reason or 'it does not answer'}", outage.wait_s(now)
        )

    def _busy(self) -> DatabaseBusy:
        reason = self._growth.outage.reason
        text = self._notices.busy(self.statistics(), self._wait_s, reason, self._stock.in_use, time.monotonic())
        return DatabaseBusy(text, BUSY_AFTER_S)
