"""What the API was asked, and how it answered: counts by endpoint. Pure.

The users who were reached are kept one by one, a byte for each user of the run.
"""

from __future__ import annotations

from collections import Counter

DROPPED = 0  # in place of a status: the connection was closed without an answer


class Calls:
    """Counts of one run."""

    def __init__(self) -> None:
        self.asked = 0  # requests so far; also the number of the next one
        self.waiting = 0  # requests that are not answered yet
        self.waiting_max = 0
        self.statuses: dict[str, Counter[int]] = {}  # by endpoint
        self.over_rate: Counter[str] = Counter()  # refused by the platform's rate limit, by endpoint
        self.storms = 0  # refused with 429 because the simulator wanted it
        self.cut = 0  # under way when the API went down
        self.bad = 0  # requests that a correct client does not send: 400 (but for tokens), 401, 404 of no endpoint, 413
        self.expired = 0  # replies with a token that was too old
        self.reused = 0  # replies with a token that had been used
        self.strange = 0  # replies with a token that is none of this run
        self.repeated = 0  # known by their retry key, and not sent again
        self.messages = 0  # that reached a user, each recipient counted
        self.unquoting = 0  # those of them that neither came with a reply token nor quote an event
        self.saved = 0  # requests that multicast has saved
        self._reached = bytearray()  # by the user's number

    def begin(self) -> int:
        """A request has come in; returns its number."""
        number = self.asked
        self.asked += 1
        self.waiting += 1
        if self.waiting > self.waiting_max:
            self.waiting_max = self.waiting
        return number

    def end(self, endpoint: str, status: int) -> None:
        """It was answered, or dropped."""
        self.waiting -= 1
        counts = self.statuses.get(endpoint)
        if counts is None:
            counts = self.statuses[endpoint] = Counter()
        counts[status] += 1

    def reach(self, person: int) -> None:
        """A message has reached this user."""
        reached = self._reached
        if person >= len(reached):
            reached.extend(bytes(person + 1 - len(reached)))
        reached[person] = 1

    def reach_all(self, count: int) -> None:
        """A message has reached all the users there are."""
        self._reached = bytearray(b"\x01") * count

    @property
    def users(self) -> int:
        """Whom one or more messages have reached."""
        return self._reached.count(1)

    def cut_off(self) -> None:
        """It will never be answered: the API went down."""
        self.waiting -= 1
        self.cut += 1
