"""What the crash journeys need outside gbot: a client that plays LINE, the bot's ledger, and what must be true of both.

The client sends signed deliveries of many users' events, several at a time. What did not get 200 it sends again later,
as LINE does; it also sends some again that did. Every event has an id of its own, which is what the ledger counts by.
"""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

from tests.journeys.client import connect
from tests.journeys.processes import eventually
from tests.samples import line

CALLBACK: Final = "/callback/line"
SENDERS: Final = 4
USERS_PER_SENDER: Final = 8
DEADLINE_S: Final = 60.0  # for the last delivery to be accepted
NEVER: Final = float("inf")
NO_ANSWER: Final = 0  # in place of a status


@dataclass(eq=False)
class Delivery:
    """Some events, and when they were first sent and first got 200 (monotonic)."""

    events: list[line.JsonObject]
    first_sent: float = NEVER
    accepted: float = NEVER


class Answered(NamedTuple):
    """What came of sending a delivery: a status or NO_ANSWER, and when (monotonic)."""

    status: int
    begun: float
    ended: float


class Sender(threading.Thread):
    """Sends the deliveries of its own users, one after the other, until it is told to stop and all are accepted."""

    def __init__(self, number: int, seed: int, addresses: Sequence[str]) -> None:
        super().__init__(daemon=True)
        self._number = number
        self._random = Random(f"{seed} {number}")
        self._addresses = addresses
        self._connections: dict[str, http.client.HTTPConnection] = {}
        self._events = 0
        self._again: deque[Delivery] = deque()
        self.deliveries: list[Delivery] = []
        self.answers: list[Answered] = []
        self.stopping = threading.Event()  # write nothing new
        self.given_up = threading.Event()

    def run(self) -> None:
        while not self.given_up.is_set() and (self._again or not self.stopping.is_set()):
            new = not self.stopping.is_set() and self._random.random() < 0.8
            if not self._again or new:
                self.deliveries.append(Delivery(self._write()))
                self._again.append(self.deliveries[-1])
                self._again.rotate()
            delivery = self._again.popleft()
            status = self._deliver(delivery)
            if status != 200 or (new and self._random.random() < 0.05):
                self._again.append(delivery)
            self.given_up.wait(self._random.expovariate(30.0 if status == 200 else 20.0))
        for connection in self._connections.values():
            connection.close()

    def _write(self) -> list[line.JsonObject]:
        return [self._event() for _ in range(self._random.randint(1, 6))]

    def _event(self) -> line.JsonObject:
        self._events += 1
        low, high = self._random.choice([(1, 8), (1, 8), (1, 8), (10, 40), (10, 40), (60, 120)])
        again = " again" if self._random.random() < 0.05 else ""
        user = f"user {self._number}-{self._random.randrange(USERS_PER_SENDER)}"
        source = {"type": "user", "userId": line.hex_id("U", user)} if self._random.random() < 0.9 else None
        text = f"wait {self._random.randint(low, high)}{again}"
        return line.text_event(text, self._number + SENDERS * self._events, source=source)

    def _deliver(self, delivery: Delivery) -> int:
        redelivery = delivery.first_sent != NEVER
        body = line.delivery(*map(line.redelivered, delivery.events) if redelivery else delivery.events)
        begun = time.monotonic()
        delivery.first_sent = min(delivery.first_sent, begun)
        status = self._post(self._random.choice(self._addresses), body)
        ended = time.monotonic()
        self.answers.append(Answered(status, begun, ended))
        if status == 200:
            delivery.accepted = min(delivery.accepted, ended)
        return status

    def _post(self, address: str, body: bytes) -> int:
        connection = self._connections.get(address) or connect(address)
        self._connections[address] = connection
        try:
            connection.request("POST", CALLBACK, body, line.headers(body))
            response = connection.getresponse()
            response.read()
            return response.status
        except (OSError, http.client.HTTPException):
            self._connections.pop(address).close()
            return NO_ANSWER


class Client:
    """Several senders at once, each of which picks one of the addresses for every delivery."""

    def __init__(self, seed: int, *addresses: str) -> None:
        self._senders = [Sender(number, seed, addresses) for number in range(SENDERS)]
        for sender in self._senders:
            sender.start()

    def accepted(self) -> int:
        """How many answers were 200 so far."""
        return sum(answer.status == 200 for answer in self.answers())

    def answers(self) -> list[Answered]:
        return [answer for sender in self._senders for answer in list(sender.answers)]

    def slowest_s(self) -> float:
        return max(answer.ended - answer.begun for answer in self.answers())

    def wait_for_load(self, accepted_more: int = 3) -> None:
        """Until some more deliveries were accepted."""
        enough = self.accepted() + accepted_more
        eventually(lambda: self.accepted() >= enough)

    def finish(self) -> list[Delivery]:
        """Write nothing new and wait until all has been accepted; returns all deliveries."""
        for sender in self._senders:
            sender.stopping.set()
        for sender in self._senders:
            sender.join(DEADLINE_S)
            assert not sender.is_alive(), "a delivery was never accepted"
        return [delivery for sender in self._senders for delivery in sender.deliveries]

    def give_up(self) -> None:
        """For the end of a test: send nothing more, whatever was accepted."""
        for sender in self._senders:
            sender.given_up.set()
        for sender in self._senders:
            sender.join()


class Note(NamedTuple):
    """A line of the ledger. ``word`` is the bot's, or "gone" for the end of a process."""

    event_id: str
    pid: int
    word: str


class Ledger:
    """The file that the bot writes to; the test adds when processes are gone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch(0o600)

    def write_gone(self, pid: int) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, f"- {pid} gone\n".encode())
        finally:
            os.close(descriptor)

    def notes(self) -> list[Note]:
        """All lines so far; one that cannot be read is an error."""
        lines = [text.split(" ") for text in self.path.read_text().splitlines()]
        return [Note(event_id, int(pid), word) for event_id, pid, word in lines]

    def ended(self) -> set[str]:
        return {note.event_id for note in self.notes() if note.word == "end"}


class Tally:
    """The ledger held against what was sent."""

    def __init__(self, deliveries: Sequence[Delivery], notes: Sequence[Note]) -> None:
        self.notes = notes
        self.events: dict[str, Any] = {
            event["webhookEventId"]: event for delivery in deliveries for event in delivery.events
        }
        self._deliveries = deliveries
        self.begun = Counter(note.event_id for note in notes if note.word == "begin")
        self.ended = Counter(note.event_id for note in notes if note.word == "end")
        self.cut = Counter(note.event_id for note in notes if note.word == "cut")

    def lost(self) -> list[str]:
        """Accepted and never handled."""
        return [event_id for event_id in self.events if not self.ended[event_id]]

    def again(self) -> Counter[str]:
        """How many runs more than asked for each event had; those that were cut off by a stop do not count."""
        asked = {event_id: 1 + self._text(event_id).endswith(" again") for event_id in self.events}
        return self.begun - Counter(asked) - self.cut

    def twice(self) -> list[str]:
        return [event_id for event_id, times in self.ended.items() if times > 1]

    def _text(self, event_id: str) -> str:
        text: str = self.events[event_id]["message"]["text"]
        return text

    def _user(self, event_id: str) -> str | None:
        user: str | None = self.events[event_id].get("source", {}).get("userId")
        return user

    def check(self, at_kill: Collection[str] = ()) -> str:
        """Nothing is lost, and nothing ran again but what ran when a worker was killed, and no more often than that.

        ``at_kill`` has an id once for every kill at which it ran. Returns what was counted, in words.
        """
        running = Counter(at_kill)
        again = self.again()
        report = (
            f"{len(self.events)} events in {len(self._deliveries)} deliveries, {sum(running.values())} running at a "
            f"kill, {sum(self.cut.values())} cut off by a stop, begun again: {sum(again.values())}, "
            f"handled twice: {len(self.twice())}, accepted and never handled: {len(self.lost())}"
        )
        assert not self.begun.keys() - self.events.keys(), report
        assert not self.lost(), f"{report}: {[note for note in self.notes if note.event_id in self.lost()[:5]]}"
        assert not again - running, f"{report}; not running at a kill: {[*(again - running)][:5]}"
        assert running.keys() >= set(self.twice()), f"{report}; not running at a kill: {self.twice()[:5]}"
        self._check_one_at_a_time()
        self._check_order()
        return report

    def _check_one_at_a_time(self) -> None:
        """No two runs of one user at once, in whatever processes."""
        runs: dict[str, Note] = {}
        for note in self.notes:
            if note.word == "gone":
                runs = {user: run for user, run in runs.items() if run.pid != note.pid}
                continue
            user = self._user(note.event_id)
            if user is not None and note.word == "begin":
                assert user not in runs, f"{note} while {runs[user]}"
                runs[user] = note
            elif user is not None:
                assert runs.pop(user)[:2] == note[:2]

    def _check_order(self) -> None:
        """Each user's events are handled in the order of arrival, as far as the sender can know it.

        That is: an event that was accepted before another one was first sent, or is before it in one delivery.
        """
        begins = {note.event_id: index for index, note in reversed([*enumerate(self.notes)]) if note.word == "begin"}
        ends = {note.event_id: index for index, note in reversed([*enumerate(self.notes)]) if note.word == "end"}
        earlier: defaultdict[str | None, list[tuple[Delivery, str]]] = defaultdict(list)
        compared = 0
        for delivery in self._deliveries:
            for event in delivery.events:
                later = event["webhookEventId"]
                user = self._user(later)
                for other, first in earlier[user] if user is not None else ():
                    if other is delivery or other.accepted <= delivery.first_sent:
                        compared += 1
                        assert ends[first] < begins[later], f"{later} began before {first} had ended"
                earlier[user].append((delivery, later))
        assert compared, "there was nothing to compare"
