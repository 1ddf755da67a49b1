"""gbot.database.pool while everything happens at once: whatever comes, its rules hold, and nothing is lost."""

from __future__ import annotations

import random
from typing import Final

import gevent
import pytest
from gevent.event import Event

from gbot.database.pool import Pool
from gbot.errors import DatabaseDown, NotNow
from tests.database_rig import FakeConnection, FakeServer, kept_log
from tests.rig import wait_until

SIZE: Final = 5
HANDLERS: Final = 25
STEPS: Final = 600


class Chaos:
    """Handlers that use a pool in every way there is, a server with moods, and the rules."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.server = FakeServer()
        self.pool: Pool[FakeConnection] = Pool(self.server.connect, "fake", SIZE, warm=2, wait_s=0.05, idle_max_s=0.1)
        self.using = 0
        self.outcomes: dict[str, int] = {}
        self.handlers: list[gevent.Greenlet[..., None]] = []

    def handler(self) -> None:
        while True:
            gevent.sleep(self.dice.choice([0, 0, 0.001, 0.004]))
            try:
                self.use()
            except (NotNow, DatabaseDown) as error:
                self.count(type(error).__name__)

    def use(self) -> None:
        place = self.pool.take()
        connection = place.connection
        self.using += 1
        try:
            connection.use()
            connection.at_work = True
            gevent.sleep(self.dice.choice([0, 0.001, 0.003, 0.01]))
            connection.use()
            connection.at_work = False
        except DatabaseDown:
            connection.at_work = False
            self.using -= 1
            self.pool.drop(place)
            raise
        except BaseException:  # killed, and the server goes on with it
            self.using -= 1
            self.pool.drop(place)
            self.count("left")
            raise
        self.using -= 1
        if self.dice.random() < 0.1:
            self.pool.drop(place)
        else:
            self.pool.give(place)
        self.count("used")

    def count(self, word: str) -> None:
        self.outcomes[word] = self.outcomes.get(word, 0) + 1

    def step(self) -> None:
        """Something happens."""
        roll = self.dice.random()
        if roll < 0.3:
            victim = self.dice.randrange(len(self.handlers))
            self.handlers[victim].kill(block=self.dice.random() < 0.5)
            self.handlers[victim] = gevent.spawn(self.handler)
        elif roll < 0.34:
            self.server.restart()
        elif roll < 0.345:
            self.server.refusal = DatabaseDown("refused")
        elif roll < 0.38:
            self.server.welcome.clear()
        elif roll < 0.42:
            self.server.answering.clear()
        elif roll < 0.46:
            self.dice.choice(self.server.made or [FakeConnection(self.server, 0)]).noisy = True
        elif roll < 0.9:
            self.mend()
        gevent.sleep(self.dice.choice([0, 0, 0.002]))

    def mend(self) -> None:
        self.server.refusal = None
        self.server.welcome.set()
        self.server.answering.set()

    def check(self) -> None:
        found = self.pool.statistics()
        assert 0 <= found.in_use <= found.open <= SIZE, found
        assert self.using <= found.in_use, (self.using, found)
        assert not found.waiting or found.open == found.in_use, f"somebody waits beside an idle one: {found}"
        left = sum(made.at_work and made.closed and made.session in self.server.sessions for made in self.server.made)
        assert self.using + left <= SIZE, (self.using, left)
        assert found.waiting <= HANDLERS

    def run(self) -> None:
        self.pool.start()
        self.handlers = [gevent.spawn(self.handler) for _ in range(HANDLERS)]
        for _ in range(STEPS):
            self.step()
            self.check()
        self.mend()
        gevent.killall(self.handlers)
        wait_until(lambda: not self.pool.statistics().in_use)
        self.check()

    def all_are_there(self) -> None:
        """As many as it is large can be had at once, and nothing else is open or at work."""
        places = []
        enough = Event()

        def want() -> None:
            while True:
                try:
                    place = self.pool.take()
                    place.connection.use()
                except NotNow:  # a pause from before
                    gevent.sleep(0.01)
                except DatabaseDown:
                    self.pool.drop(place)
                else:
                    places.append(place)
                    enough.wait()
                    self.pool.give(place)
                    return

        holders = [gevent.spawn(want) for _ in range(SIZE)]
        wait_until(lambda: len(places) == SIZE)
        assert self.server.sessions == {place.connection.session for place in places}
        enough.set()
        gevent.joinall(holders, raise_error=True)


@pytest.mark.parametrize("seed", range(10))
def test_whatever_happens_its_rules_hold_and_nothing_is_lost(seed: int) -> None:
    chaos = Chaos(seed)
    with kept_log() as log:
        chaos.run()
        chaos.all_are_there()
        chaos.pool.stop()
    assert not chaos.server.sessions
    assert all(connection.closed for connection in chaos.server.made)
    assert chaos.outcomes["used"] > 50
    assert chaos.outcomes["left"] > 5
    assert not log.having("failed; it goes on")
    assert len(log.texts) < 100, "it logs more than anybody can read"
