"""The pool of connections that a worker's greenlets share. It knows no database, only what is :class:`Pooled`.

::

    opening ──▶ idle ──take──▶ in use ──give──▶ idle ──(unused for long)──▶ closed
                                  └──drop──▶ closed: it broke, or was left in a state that nobody knows

**Bounds.** There are never more than ``size`` connections: a place is reserved before one is opened. Greenlets take
turns without preemption, so there is no lock, and nothing here waits for the network while another has to wait for it:
connections are opened in greenlets of their own, see ``growth``, and looked at by the one who takes them.

**Order.** The connection used last is used first, so that those which are not needed grow old and are closed. Who
finds none waits, in the order of arrival, for ``wait_s`` at most: DatabaseBusy then tells who holds them.

**Trust.** A connection that was used within TRUST_S is taken as it is. After that one looks whether the server has
closed it, which costs no round trip, and after PING_AFTER_S one asks. Once one has broken, all others are looked at:
those that are still in use as well, for the answer that they get may have come before.

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

import itertools
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Generic

import gevent
from gevent import monkey
from gevent.event import AsyncResult
from greenlet import getcurrent

from gbot.database.growth import Growth
from gbot.database.notices import Notices
from gbot.database.outage import PAUSE_MAX_S
from gbot.database.place import Holders, P, Place, PoolStatistics
from gbot.errors import BotError, DatabaseAway, DatabaseBusy
from gbot.turns import Turn

log = logging.getLogger(__name__)

TRUST_S: Final = 1.0
PING_AFTER_S: Final = 30.0
PING_TIMEOUT_S: Final = 2.0
IDLE_MAX_S: Final = 300.0
BUSY_AFTER_S: Final = 1.0  # until an event that found no connection is tried again
ROUND_S: Final = 1.0  # of upkeep
END_CHECK_INTERVAL_S: Final = 0.01
SWEEP_ROUNDS: Final = 30

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
        self._hold_warning_s = hold_warning_s
        self._idle_max_s = idle_max_s
        self._idle: deque[Place[P]] = deque()  # the one used last is on the right
        self._in_use: dict[Place[P], None] = {}  # the one taken first comes first
        self._holders = Holders()
        self._waiting: OrderedDict[AsyncResult[Place[P] | None], None] = OrderedDict()
        self._forgotten: deque[Place[P]] = deque()
        self._growth = Growth(connect, name, self._arrived, self._failed, self._grow)
        self._notices = Notices(name)
        self._thread = _thread_of()
        self._open = 0
        self._uses = self._waits = self._timeouts = self._opened = self._broken = self._left = 0
        self._held_s = self._waited_s = 0.0
        self._broken_at = 0.0
        self._stopped = False
        self._upkeep: gevent.Greenlet[[], None] | None = None

    def start(self) -> None:
        """Begin to open the warm connections, and to look after all of them."""
        if self._warm:
            self._notices.warming(time.monotonic())
        self._upkeep = gevent.spawn(self._look_after)
        self._grow()

    def resize(self, size: int) -> None:
        """Have ``size`` connections at most from now on; those above it that are open are closed when they are idle."""
        self.size = size
        self._warm = min(self._warm_wanted, size)
        while self._idle and self._open > size:
            self._close(self._idle.popleft())
        self._grow()

    def stop(self) -> None:
        """Close what is idle; what is in use is closed when it is given back. Nobody gets another connection."""
        self._stopped = True
        if self._upkeep is not None:
            self._upkeep.kill(block=False)
        self._take_back()
        while self._idle:
            self._close(self._idle.pop())
        self._turn_all_away()

    def end_unfinished(self, deadline: float) -> int:
        """After ``stop``: wait until no statement is left in the server that nobody waits for.

        Returns of how many that is not known when ``deadline`` (monotonic) has come.
        """
        while self._growth.not_ended and time.monotonic() < deadline:
            gevent.sleep(END_CHECK_INTERVAL_S)
        return self._growth.not_ended

    def statistics(self) -> PoolStatistics:
        return PoolStatistics(
            size=self.size,
            open=self._open,
            in_use=self._open - len(self._idle),
            waiting=len(self._waiting),
            uses=self._uses,
            held_s=self._held_s,
            waits=self._waits,
            waited_s=self._waited_s,
            timeouts=self._timeouts,
            opened=self._opened,
            broken=self._broken,
            left=self._left,
        )

    # Taking and giving back.

    def take(self) -> Place[P]:
        """A connection for the current greenlet, to be given back or dropped. Raises DatabaseBusy, DatabaseAway."""
        if _thread_of() != self._thread:
            raise BotError(f"{self._name} was asked in another thread, {OTHER_THREAD}")
        now = began = time.monotonic()
        if self._idle and not self._waiting:
            place = self._idle.pop()
        else:
            place = self._awaited(began)
            now = time.monotonic()
        if now - place.since > TRUST_S or place.proved_at < self._broken_at:
            place = self._looked_at(place, began)
            now = time.monotonic()
        place.since = now
        place.holder = getcurrent()
        self._in_use[place] = None
        self._uses += 1
        return place

    def take_for(self, taken_in: str) -> Place[P]:
        """One that is held for longer than a statement; ``taken_in`` is the file and line of its holder."""
        place = self.take()
        place.taken_in = taken_in
        self._holders.add(getcurrent())
        return place

    def give(self, place: Place[P]) -> None:
        """Take back a connection that the next one can use."""
        self._release(place)
        if self._waiting or self._stopped or self._open > self.size:
            self._pass_on(place)
        else:
            self._idle.append(place)

    def drop(self, place: Place[P]) -> None:
        """Take back one that nobody can use any more; what the server still does for it is ended.

        One whose greenlet has ended may be gone while another one tidies it up: then there is nothing to do.
        """
        if place.holder is None:
            return
        self._release(place)
        if place.connection.was_cut:
            self._left += 1
            self._growth.leave(place.connection.session)
        else:
            self._broken += 1
            self._broken_at = place.since
        self._close(place)
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

    def forget(self, place: Place[P]) -> None:
        """Nobody will give this one back: it is dropped within ROUND_S. May be called at any moment, in any thread."""
        self._forgotten.append(place)

    def _release(self, place: Place[P]) -> None:
        del self._in_use[place]
        now = time.monotonic()
        self._held_s += now - place.since
        place.proved_at = place.since
        if place.taken_in is not None and place.holder is not None:
            self._holders.remove(place.holder)
        place.since = now
        place.holder = place.taken_in = None
        place.complained = False

    def _pass_on(self, place: Place[P]) -> None:
        """To who waits longest, or to the idle ones."""
        if self._stopped or self._open > self.size:
            self._close(place)
        elif self._waiting:
            self._waiting.popitem(last=False)[0].set(place)
        else:
            self._idle.append(place)

    def _close(self, place: Place[P]) -> None:
        self._open -= 1
        place.connection.close()

    def _looked_at(self, place: Place[P], began: float) -> Place[P]:
        """This one if the server is still there for it, else another one that is, until ``wait_s`` after ``began``."""
        while not self._is_alive(place):
            now = time.monotonic()
            self._broken += 1
            self._broken_at = now
            self._close(place)
            if not self._idle or self._waiting:
                place = self._awaited(began)
            elif now < began + self._wait_s:
                place = self._idle.pop()
            else:
                self._grow()
                raise self._away(now)
        return place

    def _is_alive(self, place: Place[P]) -> bool:
        connection = place.connection
        if connection.has_ended():
            self._notices.ended(1)
            return False
        if time.monotonic() - place.since < PING_AFTER_S and connection.is_quiet():
            return True
        try:
            with gevent.Timeout(min(PING_TIMEOUT_S, self._wait_s), False):  # type: ignore[arg-type]
                return connection.answers()
        except BaseException:  # the greenlet is told to end: the connection is in the middle of something
            self._close(place)
            self._grow()
            raise
        return False

    def _awaited(self, began: float) -> Place[P]:
        """Wait for a connection in turn, until ``wait_s`` after ``began``."""
        now = time.monotonic()
        if self._stopped or (not self._open and now < self._growth.outage.retry_at):
            raise self._away(now)
        turn: AsyncResult[Place[P] | None] = AsyncResult()
        self._waiting[turn] = None
        self._waits += 1
        self._grow()
        try:
            turn.wait(max(0.0, began + self._wait_s - now))
        except BaseException:
            self._waiting.pop(turn, None)
            if turn.ready() and turn.value is not None:
                self._pass_on(turn.value)
            raise
        self._waiting.pop(turn, None)
        self._waited_s += time.monotonic() - now
        if not turn.ready():
            self._timeouts += 1
            if getcurrent() in self._holders:
                raise BotError(f"this handler holds a connection to {self._name} and waited for another in vain")
            raise self._busy() if self._open else self._away(time.monotonic())
        if turn.value is None:
            raise self._away(time.monotonic())
        return turn.value

    # Opening.

    def _grow(self) -> None:
        """Begin to open what is missing: for who waits, in place of what was left unfinished, and to be warm."""
        if self._upkeep is None:
            return
        wanted = 0 if self._stopped else max(len(self._waiting), self._warm - self._open)
        free = self.size - self._open - self._growth.places
        self._growth.begin(max(0, min(wanted - self._growth.coming, free)))

    def _arrived(self, place: Place[P]) -> None:
        self._open += 1
        self._opened += 1
        if self._open >= self._warm:
            self._notices.warm(self._open, time.monotonic())
        self._pass_on(place)
        self._grow()

    def _failed(self, error: Exception) -> None:
        self._notices.cannot_open(error, f"{self._open} of {self.size} are open", time.monotonic())
        if not self._open:
            self._turn_all_away()

    def _turn_all_away(self) -> None:
        while self._waiting:
            self._waiting.popitem(last=False)[0].set(None)

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
        text = self._notices.busy(self.statistics(), self._wait_s, reason, self._in_use, time.monotonic())
        return DatabaseBusy(text, BUSY_AFTER_S)

    # Upkeep.

    def _look_after(self) -> None:
        for number in itertools.count(1):
            gevent.sleep(ROUND_S)
            try:
                self._look_round(number)
            except Exception:
                log.exception("Looking after the connections to %s failed; it goes on", self._name)

    def _look_round(self, number: int) -> None:
        self._forgotten.extend([place for place in self._in_use if place.is_orphaned])
        self._take_back()
        self._notices.holders(self._in_use, self._hold_warning_s, time.monotonic())
        self._close_in_turns(self._unused())
        if number % SWEEP_ROUNDS == 0 or (self._idle and self._idle[0].connection.has_ended()):
            self._sweep()
        self._notices.tell_round(self._growth.outage, self._open, self._warm, time.monotonic())
        self._grow()

    def _take_back(self) -> None:
        """Close what nobody will give back; who has kept it has nothing to do with the pool any more."""
        while self._forgotten:
            place = self._forgotten.popleft()
            if place.holder is not None:
                text = f"a connection to {self._name}, {place.whereabouts()}, was not given back; it is closed"
                self._notices.seldom("kept", text, time.monotonic())
                self.drop(place)

    def _unused(self) -> Iterator[Place[P]]:
        unused_since = time.monotonic() - self._idle_max_s
        while self._open > self._warm and self._idle and self._idle[0].since < unused_since:
            yield self._idle.popleft()

    def _sweep(self) -> None:
        """Close idle connections that the server has closed."""
        ended = [place for place in self._idle if place.connection.has_ended()]
        if ended:
            gone = set(ended)
            self._idle = deque(place for place in self._idle if place not in gone)
            self._broken_at = time.monotonic()
        self._notices.ended(len(ended))
        self._broken += len(ended)
        rest = iter(ended)
        try:
            self._close_in_turns(rest)
        finally:  # the pool stops meanwhile
            for place in rest:
                self._close(place)

    def _close_in_turns(self, places: Iterable[Place[P]]) -> None:
        turn = Turn()
        for place in places:
            self._close(place)
            turn.take()
