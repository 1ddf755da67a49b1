"""The contract of the inbox: where accepted events rest until a handler has dealt with them.

An event in the inbox is an entry::

              ┌─────── its conversation is free ──────┐
    put ──▶ behind                                    ▼
     ├──────────────────────────────────────────▶ ready ──claim──▶ running ──settle──▶ done, unhandled, dropped
     │                                                ▲               │  ├──retry──▶ waiting ──due──▶ behind or ready
     └──▶ running, where the worker has room          └──release──────┘  └──dead───▶ dead  (kept; run again by hand)

    running, its worker gone ──rescue──▶ behind or ready

*behind* waits for its turn: another event of its conversation arrived earlier and is not settled. *waiting* waits for
the time of its next attempt; while it does, ``--order strict`` keeps the conversation's later events behind it,
``relaxed`` lets them overtake. To people both are "waiting".

``put`` takes a delivery's events whole or refuses them whole, and returns when they are as safe as the implementation
makes them: 200 means that. An event whose platform and id were seen within the window is dropped and counted. The
number of entries is bounded; at the bound ``put`` raises InboxFull and the platform is told to send them again.

An inbox is handed the dispatcher once, at ``start``: it submits what is to run by itself, new or from the store, as
room frees. An entry carries the claim under which it was handed out; settling an entry that was meanwhile taken away
(its worker was thought gone) is refused and counted as late, so an entry never ends twice.

Implementations live in ``inboxes/``; engine.py picks one by URL.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from gbot.directory import Change, Directory
from gbot.event import Event


class State(enum.StrEnum):
    """How one run of a handler ended."""

    DONE = "done"  # a handler ran to its end
    UNHANDLED = "unhandled"  # the bot has no handler for this kind of event
    DROPPED = "dropped"  # the handler raised Drop
    RETRY = "retry"  # it failed, or asked for it, and is tried again later
    DEAD = "dead"  # it failed for the last time
    RELEASED = "released"  # shutdown stopped the handler, or it never started


# For what is done for every event: to look a member up in its class takes ten times as long.
RETRY: Final = State.RETRY
DEAD: Final = State.DEAD
RELEASED: Final = State.RELEASED
LEAVES: Final = frozenset({State.DONE, State.UNHANDLED, State.DROPPED})


class Outcome(msgspec.Struct, frozen=True):
    """The state in which a run ended.

    ``error`` is kept with entries that are tried again or dead: the last lines of a traceback, or a reason in words.
    ``after_s`` is the time until the next attempt, for RETRY; ``counted`` tells whether this one was an attempt.
    ``changes`` are stored with the outcome, in the same transaction, or not at all when the entry was taken away.
    """

    state: State
    error: str = ""
    after_s: float = 0.0
    counted: bool = True
    changes: tuple[Change, ...] = ()


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An event that was handed out to run. ``number`` is unique within the inbox and never used again."""

    number: int
    event: Event
    claim: int = 0  # under which it was handed out; settling needs it
    attempts: int = 0  # runs that have failed so far
    received_ms: int = 0  # when gbot accepted it, in milliseconds since 1970
    again: bool = False  # it has been handed out before, so that a part of what its handler does may be done
    size_bytes: int = 0  # its share of the delivery's body, where memory is what is bounded


@dataclass(frozen=True, slots=True)
class InboxStatistics:
    """``held``, ``unstored`` and ``unsaved`` are of this moment, the rest counts since the start of this worker."""

    held: int  # entries that are not settled, of all workers, and dead ones
    unstored: int  # events that are on their way into the store
    unsaved: int  # outcomes that wait to be written down
    accepted: int
    refused: int
    duplicates: int
    late: int  # outcomes refused because the entry had been taken away
    rescued: int  # entries taken over from workers that were gone
    settled: dict[State, int]  # outcomes that are written down


Submit = Callable[[Iterable[Entry]], None]
Room = Callable[[], int]
InHand = Callable[[], Iterable[Entry]]


class Inbox(Protocol):
    """Where accepted events rest, as one worker uses it."""

    keeps: bool
    """Whether entries outlive this process: what a stop releases is then run by the next one."""

    place: str
    """Where the entries are, in words for people, without a password."""

    directory: Directory
    """Users and states, kept in the same place; to be used from ``start`` to ``stop``."""

    def start(self, submit: Submit, room: Room, in_hand: InHand) -> None:
        """Begin to hand out entries: ``submit`` takes them and never waits, ``room`` says how many more it wants.

        ``in_hand`` tells those that were handed out and are not settled. Raises StartError when the store cannot be
        used.
        """

    def put(self, events: Sequence[Event], body_bytes: int) -> None:
        """Accept all events of a delivery, or none; return when they are stored.

        ``body_bytes`` is the length of the delivery's body. Raises InboxFull, StoreUnavailable, or DeliveryTooLarge
        for more events than would ever fit.
        """

    def settle(self, entry: Entry, outcome: Outcome) -> None:
        """The run of this entry has ended. Never waits; called exactly once for each time it was handed out."""

    def stop(self, deadline: float) -> int:
        """Write down what was settled, until ``deadline`` (monotonic) at most; returns how many outcomes were not.

        Called when nothing runs any more. Nothing is handed out from then on.
        """

    def statistics(self) -> InboxStatistics:
        """Counts for the sampler and the log."""
