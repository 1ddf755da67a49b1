"""The contract of the inbox: where accepted events rest until a handler has dealt with them.

An event in the inbox is an entry::

    put ──▶ waiting ──dispatcher has room──▶ running ──settle──▶ gone, counted by its outcome

``put`` takes a delivery's events whole or refuses them whole: 200 means that all of them are in. The number of
entries, waiting and running together, is bounded; at the bound ``put`` raises InboxFull and the platform is told to
send them again. Implementations live in ``inboxes/``; worker.py picks one by URL.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from gbot.event import Event


class State(enum.StrEnum):
    """How one run of a handler ended."""

    DONE = "done"  # a handler ran to its end
    UNHANDLED = "unhandled"  # the bot has no handler for this kind of event
    DEAD = "dead"  # the handler failed
    TIMED_OUT = "timed_out"  # the handler took longer than its timeout and was stopped
    RELEASED = "released"  # shutdown stopped the handler, or it never started


class Outcome(msgspec.Struct, frozen=True):
    """The state in which a run ended, and why, in words without message content."""

    state: State
    reason: str = ""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An event resting in the inbox. ``number`` is unique within the inbox."""

    number: int
    event: Event
    size_bytes: int  # its share of the delivery's body


@dataclass(frozen=True, slots=True)
class InboxStatistics:
    """``held`` and ``held_bytes`` are of this moment, the rest counts since the start."""

    held: int
    held_bytes: int
    accepted: int
    refused: int
    settled: dict[State, int]


class Inbox(Protocol):
    """Where accepted events rest."""

    def put(self, events: Sequence[Event], body_bytes: int) -> list[Entry]:
        """Accept all events of a delivery and return their entries in the same order, or accept none.

        ``body_bytes`` is the length of the delivery's body. Raises InboxFull, or DeliveryTooLarge for more events than
        would ever fit.
        """

    def settle(self, entry: Entry, outcome: Outcome) -> None:
        """The run of this entry has ended. Called exactly once for each entry."""

    def statistics(self) -> InboxStatistics:
        """Counts for the sampler and the log."""
