"""What became of each event: sent, taken by the bot, answered how often. Pure: times come in as seconds of one clock.

::

    sent ──▶ taken (2xx) ──▶ answered once ──▶ answered again
                   └───────▶ lost: its reply met with what no bot can mend     (may still be answered)

Up to ``kept_max`` events are kept one by one. Beyond that the oldest are folded into the totals as they are; an answer
that comes after that is counted apart.
"""

from __future__ import annotations

import copy
import enum
from collections import Counter
from typing import Final

import msgspec

from gbot.simulator.histogram import Histogram

KEPT_MAX: Final = 1_000_000


class Mishap(enum.Enum):
    """What happened to a request that was to answer an event."""

    FAILED = enum.auto()  # not accepted and answered with 5xx, and may not be repeated
    CUT = enum.auto()  # not accepted and cut off when the API went down, and may not be repeated
    QUOTA = enum.auto()  # as many messages had been sent as the contract allows
    GONE = enum.auto()  # the content that came with the event was taken back: it may be left without an answer
    UNFINISHED = enum.auto()  # the run ended before the API had dealt with it
    UNTAKEN = enum.auto()  # the bot never took the event
    UNREPEATED = enum.auto()  # not accepted and answered with 429, 5xx or not at all, and may be repeated
    HIDDEN = enum.auto()  # accepted, but answered with 5xx, and may not be repeated
    DROPPED = enum.auto()  # accepted, but the connection was closed without an answer, and may not be repeated
    EXPIRED = enum.auto()  # its reply token was too old
    REUSED = enum.auto()  # its reply token had been used
    REFUSED = enum.auto()  # it was not as the platform takes it


EXCUSES: Final = (Mishap.FAILED, Mishap.CUT, Mishap.QUOTA, Mishap.GONE)
WORST_FIRST: Final = (*EXCUSES, Mishap.EXPIRED, Mishap.REUSED, Mishap.REFUSED, Mishap.UNFINISHED, Mishap.UNREPEATED)
UNSEEN: Final = (Mishap.HIDDEN, Mishap.DROPPED)


class Token(enum.Enum):
    """What a reply token is worth."""

    GOOD = enum.auto()
    USED = enum.auto()
    EXPIRED = enum.auto()
    UNKNOWN = enum.auto()


class _Record(msgspec.Struct, gc=False):
    sent_at: float
    last_at: float  # when it was last sent
    wants: bool  # an answer
    taken: bool = False
    given_up: bool = False
    token_used: bool = False
    answers: int = 0
    mishaps: int = 0  # a bit for each


def _bit(mishap: Mishap) -> int:
    return 1 << mishap.value


EXCUSED_BITS: Final = sum(map(_bit, EXCUSES))
UNSEEN_BITS: Final = sum(map(_bit, UNSEEN))


class Totals(msgspec.Struct):
    """All events together. The Counters tell why, by Mishap; None where the simulator knows no reason."""

    sent: int = 0
    taken: int = 0
    wanting: int = 0  # an answer
    once: int = 0
    twice: int = 0  # or more often
    never: int = 0
    unseen: int = 0  # answered once, which the bot was not told
    never_why: Counter[Mishap | None] = msgspec.field(default_factory=Counter)
    twice_why: Counter[Mishap | None] = msgspec.field(default_factory=Counter)


class Ledger:
    """The events of one run. The public numbers are of this moment."""

    def __init__(self, kept_max: int = KEPT_MAX) -> None:
        self._kept_max = kept_max
        self._records: dict[int, _Record] = {}
        self._folded = Totals()
        self.sent = self.taken = self.answered = self.twice = self.lost = 0
        self.open = 0  # may still be answered
        self.untaken = 0  # not taken, but may still be
        self.given_up = 0  # sent again and again in vain
        self.unasked = 0  # answers to events that want none, or are not known any more
        self.time_to_take = Histogram()
        self.time_to_answer = Histogram()

    def send(self, number: int, wants: bool, now: float) -> None:
        """The event is being sent, for the first time or again."""
        record = self._records.get(number)
        if record is not None:
            record.last_at = now
            return
        self._records[number] = _Record(now, now, wants)
        self.sent += 1
        self.untaken += 1
        self.open += wants
        if len(self._records) > self._kept_max:
            self._fold()

    def take(self, number: int, now: float) -> None:
        """The bot has answered a delivery with this event with 2xx."""
        record = self._records.get(number)
        if record is not None and not record.taken:
            record.taken = True
            self.taken += 1
            if record.given_up:
                self.given_up -= 1
            else:
                self.untaken -= 1
            self.time_to_take.add(now - record.sent_at)

    def give_up(self, number: int) -> None:
        """The event will not be sent again."""
        record = self._records.get(number)
        if record is not None and not record.taken and not record.given_up:
            record.given_up = True
            self.untaken -= 1
            self.given_up += 1

    def token(self, number: int, now: float, valid_s: float) -> Token:
        """What this event's reply token is worth now."""
        record = self._records.get(number)
        if record is None:
            return Token.UNKNOWN
        if record.token_used:
            return Token.USED
        return Token.GOOD if now - record.last_at <= valid_s else Token.EXPIRED

    def use_token(self, number: int) -> None:
        self._records[number].token_used = True

    def answer(self, number: int, now: float) -> None:
        """A message that answers this event was accepted."""
        record = self._records.get(number)
        if record is None or not record.wants:
            self.unasked += 1
            return
        record.answers += 1
        if record.answers == 1:
            self.answered += 1
            if record.mishaps & EXCUSED_BITS:
                self.lost -= 1
            else:
                self.open -= 1
            self.time_to_answer.add(now - record.sent_at)
        elif record.answers == 2:
            self.twice += 1

    def mishap(self, number: int, mishap: Mishap) -> None:
        """This happened to a request that was to answer the event."""
        record = self._records.get(number)
        if record is None:
            return
        excused = record.mishaps & EXCUSED_BITS
        record.mishaps |= _bit(mishap)
        if record.wants and not record.answers and not excused and record.mishaps & EXCUSED_BITS:
            self.open -= 1
            self.lost += 1

    def totals(self) -> Totals:
        """All events, as they are now."""
        totals = copy.deepcopy(self._folded)
        for record in self._records.values():
            _count(totals, record)
        return totals

    def _fold(self) -> None:
        """Take the oldest event's state as its last."""
        record = self._records.pop(next(iter(self._records)))
        _count(self._folded, record)
        self.untaken -= not record.taken and not record.given_up
        self.open -= record.wants and not record.answers and not record.mishaps & EXCUSED_BITS


def _count(totals: Totals, record: _Record) -> None:
    totals.sent += 1
    totals.taken += record.taken
    if not record.wants:
        return
    totals.wanting += 1
    if not record.answers:
        totals.never += 1
        totals.never_why[_first(record, WORST_FIRST) or (None if record.taken else Mishap.UNTAKEN)] += 1
    elif record.answers == 1:
        totals.once += 1
        totals.unseen += record.mishaps & UNSEEN_BITS != 0
    else:
        totals.twice += 1
        totals.twice_why[_first(record, UNSEEN)] += 1


def _first(record: _Record, mishaps: tuple[Mishap, ...]) -> Mishap | None:
    return next((mishap for mishap in mishaps if record.mishaps & _bit(mishap)), None)
