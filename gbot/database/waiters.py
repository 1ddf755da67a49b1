"""Greenlets that wait for a connection, in the order of arrival."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic

from gevent.event import AsyncResult

from gbot.database.place import P, Place


class InVain(Exception):
    """Nothing came in time."""


class Waiters(Generic[P]):
    """``pass_on`` takes what has come for a greenlet that was killed before it could take it."""

    def __init__(self, pass_on: Callable[[Place[P]], None]) -> None:
        self._pass_on = pass_on
        self.tickets: OrderedDict[AsyncResult[Place[P] | None], None] = OrderedDict()  # to be read by others
        self.waits = self.timeouts = 0
        self.waited_s = 0.0

    def line_up(self, first: bool) -> AsyncResult[Place[P] | None]:
        """Begin to wait, ``first`` before all others; :meth:`wait` has to follow."""
        ticket: AsyncResult[Place[P] | None] = AsyncResult()
        self.tickets[ticket] = None
        if first:
            self.tickets.move_to_end(ticket, last=False)
        self.waits += 1
        return ticket

    def wait(self, ticket: AsyncResult[Place[P] | None], timeout_s: float) -> Place[P] | None:
        """What has come, None for nothing to wait for. Raises InVain, and what kills the greenlet meanwhile."""
        began = time.monotonic()
        try:
            ticket.wait(timeout_s)
        except BaseException:
            if ticket.ready() and ticket.value is not None:
                self._pass_on(ticket.value)
            raise
        finally:
            self.tickets.pop(ticket, None)
        self.waited_s += time.monotonic() - began
        if not ticket.ready():
            self.timeouts += 1
            raise InVain
        return ticket.value

    def hand(self, place: Place[P] | None) -> None:
        """To who waits longest."""
        self.tickets.popitem(last=False)[0].set(place)

    def turn_all_away(self) -> None:
        while self.tickets:
            self.hand(None)
