"""The durable inbox: one worker's side of a store that keeps entries on disk. 200 then means: stored.

One greenlet talks to the store, one *turn* at a time, and everything that was asked for meanwhile goes into the next
turn: a hundred deliveries and the outcomes of a thousand handlers share one commit (group commit). A turn first writes
outcomes down, then stores events, then claims what is ready, all in one transaction::

    put ──▶ parcels ──┐                         ┌─▶ 200 for each parcel
                      ├──▶ store.turn (commit) ─┼─▶ submit: what runs at once, and what was claimed
    settle ▶ outcomes ┘                         └─▶ outcomes are gone from memory

What handlers ask about users and states is asked of the store between two turns, see :mod:`gbot.inboxes.records`.

**No polling, no reading back.** An event runs from memory in the worker that stored it if that has room. What has no
room stays in the store alone and is claimed in the turns that write outcomes down, which is when there is room again.
Once a second the store is looked at with one query: for what other workers have left, or what has come due.

**When the store is down** (no connection, full disk) deliveries get 503 at once, and those that had begun after
PUT_TIMEOUT_S at the latest; handlers go on, their outcomes are kept in their order and written down as soon as the
store answers. A commit whose answer was lost may have stored entries that nobody knows of: they are put back before
anything else. When only one delivery cannot be stored, its neighbours are: after a turn that failed, deliveries are
tried one by one.

**When another worker thought this one gone**, it begins a new life; outcomes of entries that were taken away are
refused by the store and counted as late.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final

import gevent
import gevent.event

from gbot.counts import counted
from gbot.directory import Change, Directory
from gbot.errors import DeliveryTooLarge, InboxFull, StartError, StoreUnavailable
from gbot.event import Event
from gbot.inbox import LEAVES, RETRY, Entry, InboxStatistics, InHand, Outcome, Room, State, Submit
from gbot.inboxes.calls import Call
from gbot.inboxes.health import Health
from gbot.inboxes.parcels import Parcel, Parcels
from gbot.inboxes.records import Records
from gbot.inboxes.store import LifeEnded, Store, StoreDown, StoreFull, StoreRefused, Turned, Work

log = logging.getLogger(__name__)

LOOK_INTERVAL_S: Final = 1.0
TURN_EVENTS_MAX: Final = 2000
TURN_OUTCOMES_MAX: Final = 5000
CLAIM_MAX: Final = 500
DUES_MAX: Final = 1000  # later attempts for which the store is looked at just in time; others may be a second late
TRIES_MAX: Final = 5  # to store a delivery that was answered before
NOT_STORED: Final = "The events could not be stored; send this again."
PAUSE_S: Final = 0.25  # between two tries while the store is down
NEVER: Final = float("inf")


class DurableInbox:
    """Keeps entries in ``store``: at most ``held_max`` of them, and ``bytes_max`` bytes of deliveries not yet stored.

    ``waits`` tells whether ``put`` returns when the events are stored, or as soon as they are in memory. Other workers
    store entries too: of theirs this one learns once a second, and the bound is as exact as that.
    """

    keeps = True

    def __init__(self, store: Store, call: Call, held_max: int, bytes_max: int, waits: bool = True) -> None:
        self.place = store.place
        self._store = store
        self._call = call
        self._held_max = held_max
        self._bytes_max = bytes_max
        self._parcels = Parcels(bytes_max, waits)
        self._health = Health(store.place)
        self._life = 0  # 0: not enlisted
        self._outcomes: list[tuple[Entry, Outcome]] = []  # to be written down, in their order
        self._writing = 0  # outcomes in the turn that is under way
        self._ready_left = True  # until the store has said otherwise
        self._unsure = False  # the answer to a commit was lost
        self._turn_failed = False  # in the step that is under way
        self._singly = 0  # parcels to be stored one by one
        self._failed_alone = 0  # of these, one after the other
        self._mistake = ""  # the last one that was logged
        self._next_look = 0.0
        self._dues: list[float] = []  # a heap: when retries that were written down come due
        self._news = gevent.event.Event()
        self._records = Records(store, call, self._news.set)
        self.directory: Directory = self._records
        self._stopping = False
        self._greenlet: gevent.Greenlet[[], None] | None = None
        self._held = self._accepted = self._refused = self._duplicates = self._late = self._rescued = 0
        self._settled = dict.fromkeys(State, 0)

    def start(self, submit: Submit, room: Room, in_hand: InHand) -> None:
        self._submit, self._room, self._in_hand = submit, room, in_hand
        self._call(self._store.open)
        self._begin()
        self._greenlet = gevent.spawn(self._run)

    def _begin(self) -> None:
        """Enlist, for what is not allowed is told at the start; what is only away is told of by the greenlet."""
        try:
            self._life = self._call(self._store.enlist)
        except StoreRefused as error:
            self._call(self._store.close)
            raise StartError(f"{self.place} cannot be used as inbox: {error}") from None
        except StoreDown:
            pass

    def put(self, events: Sequence[Event], body_bytes: int) -> None:
        if not events:
            return
        try:
            self._check(len(events), body_bytes)
            parcel = self._parcels.add(events, body_bytes)
            self._news.set()
            if parcel.waiter is not None:
                parcel.waiter.get()
        except BaseException:
            self._refused += len(events)
            raise

    def settle(self, entry: Entry, outcome: Outcome) -> None:
        self._outcomes.append((entry, outcome))
        if outcome.changes and entry.claim == self._life:  # what another life has changed will be refused
            self._records.settled(outcome.changes)
        self._news.set()

    def stop(self, deadline: float) -> int:
        self._stopping = True
        self._news.set()
        if self._greenlet is not None:
            self._greenlet.join(max(0.0, deadline - time.monotonic()))
            self._greenlet.kill()
        self._parcels.stop()
        self._records.stop()
        return len(self._outcomes)

    def statistics(self) -> InboxStatistics:
        return InboxStatistics(
            held=self._held,
            unstored=self._parcels.events,
            unsaved=len(self._outcomes) + self._writing,
            accepted=self._accepted,
            refused=self._refused,
            duplicates=self._duplicates,
            late=self._late,
            rescued=self._rescued,
            settled=dict(self._settled),
        )

    def _check(self, count: int, body_bytes: int) -> None:
        """Raise InboxFull, DeliveryTooLarge or StoreUnavailable before anything is begun."""
        if count > self._held_max or body_bytes > self._bytes_max:
            raise DeliveryTooLarge(
                f"The delivery has {counted(count, 'event')} of {body_bytes:,} bytes; the inbox holds "
                f"{counted(self._held_max, 'event')} and takes {self._bytes_max:,} bytes at once."
            )
        if self._held + self._parcels.events + count > self._held_max:
            held = counted(self._held, "event is", "events are")
            raise InboxFull(f"{held} waiting, running or dead; the inbox holds {self._held_max:,}.")
        if self._stopping or not self._health.may_put(time.monotonic()):
            raise StoreUnavailable("Events cannot be stored at the moment; send this again.")

    # The greenlet that talks to the store.

    def _run(self) -> None:
        while not self._stopping or self._parcels or self._outcomes:
            now = time.monotonic()
            if not self._outcomes and not self._records and not self._may_store(now):
                trial_at = self._health.trial_at if self._parcels else NEVER
                self._news.wait(max(0.0, min(self._wake_at(), trial_at) - now))
            self._news.clear()
            try:
                self._step()
            except LifeEnded:
                log.warning("Another worker thought this one gone: what runs here may run a second time elsewhere")
                self._life = 0
                self._records.life_ended()
            except StoreDown as error:
                self._went_down(error)
                self._pause()
            except Exception as error:
                self._mistaken(error)
                self._pause()
        self._leave()

    def _went_down(self, error: StoreDown) -> None:
        if self._turn_failed and self._singly and self._failed_alone < 2:
            log.warning("A delivery could not be stored (%s); those that came with it are stored one by one", error)
            return
        self._health.failed(error, len(self._outcomes), time.monotonic(), writing=self._turn_failed)
        if self._parcels.waits and (self._singly or not self._turn_failed):
            self._parcels.refuse_all(NOT_STORED)
        self._singly = 0

    def _mistaken(self, error: Exception) -> None:
        """Of gbot's, or somebody has changed the tables. The traceback is logged once."""
        if repr(error) != self._mistake:
            log.error("A mistake in gbot or its database: a turn of the inbox failed", exc_info=error)
        self._mistake = repr(error)
        self._went_down(StoreDown(f"{type(error).__name__}: {error}"))

    def _pause(self) -> None:
        self._unsure = True
        gevent.sleep(PAUSE_S)

    def _step(self) -> None:
        self._turn_failed = False
        if not self._life:
            self._life = self._call(self._store.enlist)
        if self._unsure:
            here = [*self._in_hand(), *(entry for entry, _ in self._outcomes)]
            known = sorted(entry.number for entry in here if entry.claim == self._life)
            self._call(self._store.orphans, self._life, known)
            self._unsure = False
        now = time.monotonic()
        if now >= self._wake_at():
            self._look(now)
        if self._records:
            self._records.answer()
        may_store = self._may_store(now)
        if may_store or self._outcomes or self._wants_turn():
            self._turn(TURN_EVENTS_MAX if may_store else 0)

    def _wants_turn(self) -> bool:
        """Whether a turn is due for which nothing came in."""
        return self._health.wants_turn or self._records.wants_turn or (self._ready_left and self._room() > 0)

    def _may_store(self, now: float) -> bool:
        return bool(self._parcels) and (self._singly > 0 or self._health.may_put(now))

    def _wake_at(self) -> float:
        """When the store is to be looked at again."""
        return min(self._next_look, self._dues[0]) if self._dues else self._next_look

    def _look(self, now: float) -> None:
        """What have others left, what has come due, what is to be purged?"""
        look = self._call(self._store.look, self._life)
        self._health.reachable(len(self._outcomes), now)
        self._next_look = now + LOOK_INTERVAL_S
        while self._dues and self._dues[0] <= now:
            heapq.heappop(self._dues)
        self._held = look.held
        self._ready_left = self._ready_left or look.ready
        if look.tidy:
            self._tidy()

    def _tidy(self) -> None:
        tidied = self._call(self._store.tidy, self._life, _now_ms())
        self._ready_left = self._ready_left or bool(tidied.woken or tidied.rescued)
        self._rescued += tidied.rescued
        if tidied.lives_ended:
            names = ", ".join(map(str, tidied.lives_ended))
            log.warning("Worker %s is gone; its %s again", names, counted(tidied.rescued, "entry runs", "entries run"))
        if tidied.more:
            self._next_look = 0.0

    def _turn(self, events_max: int) -> None:
        """One transaction for all that has come together."""
        outcomes, self._outcomes = self._outcomes[:TURN_OUTCOMES_MAX], self._outcomes[TURN_OUTCOMES_MAX:]
        parcels = self._parcels.take(1 if self._singly else events_max)
        events = [event for parcel in parcels for event in parcel.events]
        work = self._work(outcomes, events, self._records.take_saves())
        self._writing = len(outcomes)
        try:
            turned = self._call(self._store.turn, self._life, work)
        except BaseException as error:
            self._outcomes = outcomes + self._outcomes
            self._turn_failed = True
            self._records.not_saved()
            self._not_stored(parcels, error)
            raise
        finally:
            self._writing = 0
        self._written(outcomes)
        self._parcels.stored()  # first the answers, then the handlers
        self._submit(turned.running)
        self._singly, self._failed_alone = max(0, self._singly - 1), 0
        self._health.written(len(outcomes), bool(events), time.monotonic())
        self._count(turned, outcomes)

    def _written(self, outcomes: list[tuple[Entry, Outcome]]) -> None:
        """The changes of these, and those that were saved, are in the store now."""
        self._records.saved()
        if self._records.coming:
            for _, outcome in outcomes:
                self._records.written(outcome.changes)

    def _work(self, outcomes: list[tuple[Entry, Outcome]], events: list[Event], changes: list[Change]) -> Work:
        """New events run at once if there is room and nothing older is ready."""
        room = self._room()
        run_max = 0 if self._ready_left else min(room, len(events))
        claim_max = min(room - run_max, CLAIM_MAX)
        return Work(_now_ms(), outcomes, events, run_max, claim_max, self._ready_left, changes)

    def _not_stored(self, parcels: list[Parcel], error: BaseException) -> None:
        """Of several parcels one may be the cause: they are tried again one by one, if the store answers at all.

        Whoever waits for one that failed alone sends it again; what nobody waits for is tried some times more.
        """
        if isinstance(error, LifeEnded):
            self._parcels.give_back()
        elif len(parcels) > 1 and isinstance(error, Exception) and not isinstance(error, StoreFull):
            self._singly = len(parcels)
            self._parcels.give_back()
        elif self._parcels.waits:
            self._failed_alone += 1
            self._parcels.refuse(NOT_STORED)
        elif parcels:
            self._failed_alone += 1
            self._try_later(parcels, error)

    def _try_later(self, parcels: list[Parcel], error: BaseException) -> None:
        """For deliveries that were answered before they were stored."""
        for parcel in parcels:
            parcel.failures += not isinstance(error, StoreFull)
        if parcels[0].failures < TRIES_MAX:
            self._parcels.give_back(last=True)
        else:
            events = counted(len(parcels[0].events), "event")
            log.error("Gave up a delivery of %s that could not be stored: %s", events, error)
            self._parcels.refuse(NOT_STORED)

    def _count(self, turned: Turned, outcomes: list[tuple[Entry, Outcome]]) -> None:
        self._accepted += turned.stored
        self._duplicates += turned.duplicates
        self._late += turned.late
        states = Counter([outcome.state for _, outcome in outcomes])
        for state, count in states.items():
            self._settled[state] += count
        self._held = max(0, self._held + turned.stored - sum(states[state] for state in LEAVES))
        if turned.late:
            self._next_look = 0.0  # which ones of those that left were late is not told: ask how many are held
        self._ready_left = turned.ready_left
        if states[RETRY]:
            pauses_s = [outcome.after_s for _, outcome in outcomes if outcome.state is RETRY]
            for pause_s in pauses_s[: DUES_MAX - len(self._dues)]:
                heapq.heappush(self._dues, time.monotonic() + pause_s)

    def _leave(self) -> None:
        """The last step of a stop."""
        try:
            if self._life:
                self._call(self._store.leave, self._life)
        except StoreDown as error:
            log.warning("The inbox could not be told of the stop (%s); others will notice in some seconds", error)
        self._call(self._store.close)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
