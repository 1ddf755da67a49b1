"""gbot.database.pool over connections in memory: order, bounds, opening, and what is left behind."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.event import AsyncResult, Event

from gbot.database.growth import ENDING_TIMEOUT_S, ENDING_TRIES_MAX, OPEN_TIMEOUT_S, OPENINGS_MAX, Growth
from gbot.database.notices import FORGIVEN_S, HOLDERS_NAMED, SETTLED_S, Notices
from gbot.database.outage import PAUSE_MIN_S, REFUSAL_PAUSE_S, Outage
from gbot.database.place import Place
from gbot.database.pool import Pool
from gbot.database.stock import PING_AFTER_S, TRUST_S
from gbot.database.upkeep import SWEEP_ROUNDS
from gbot.errors import BotError, DatabaseAway, DatabaseBusy, DatabaseDown, DatabaseMistake, NotNow
from gbot.turns import TURN_S
from tests.database_rig import FakeConnection, FakeServer, Kept, kept_log, outcome
from tests.rig import wait_until

FakePool = Pool[FakeConnection]
MakePool = Callable[..., FakePool]


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def log() -> Iterator[Kept]:
    with kept_log() as kept:
        yield kept


@pytest.fixture
def make(server: FakeServer) -> Iterator[MakePool]:
    """Makes pools that are begun; at the end everything has to have come back."""
    made: list[FakePool] = []

    def make(size: int, **options: Any) -> FakePool:
        made.append(Pool(server.connect, "fake", size, **options))
        made[-1].start()
        return made[-1]

    yield make
    server.welcome.set()
    server.answering.set()
    for pool in made:
        wait_until(lambda pool=pool: not pool.statistics().in_use)
        pool.stop()
        assert pool.statistics().waiting == 0
    wait_until(lambda: not server.connecting)
    assert all(connection.closed for connection in server.made)


def taken(pool: FakePool, number: int, taken_in: str = "") -> list[Place[FakeConnection]]:
    """So many, taken by others, who live as long as they hold them."""

    def hold(got: AsyncResult[Place[FakeConnection]]) -> None:
        place = pool.take_for(taken_in) if taken_in else pool.take()
        got.set(place)
        while place.holder is gevent.getcurrent():
            gevent.sleep(0.001)

    results: list[AsyncResult[Place[FakeConnection]]] = [AsyncResult() for _ in range(number)]
    for result in results:
        gevent.spawn(hold, result)
    return [result.get() for result in results]


def queue(pool: FakePool, *names: str) -> tuple[list[gevent.Greenlet[..., Any]], list[str]]:
    """Greenlets that wait for a connection in this order; who got one, in the order of getting."""
    served: list[str] = []

    def want(name: str) -> None:
        place = pool.take()
        served.append(name)
        try:
            gevent.sleep(0)
        finally:
            pool.give(place)

    waiting = []
    for name in names:
        waiting.append(gevent.spawn(want, name))
        wait_until(lambda: pool.statistics().waiting == len(waiting))
    return waiting, served


# Taking and giving.


def test_a_connection_is_opened_when_it_is_needed_and_the_one_used_last_is_used_next(
    make: MakePool, server: FakeServer
) -> None:
    pool = make(5)
    gevent.sleep(0)
    assert server.attempts == 0
    first, second = taken(pool, 2)
    pool.give(first)
    pool.give(second)
    assert pool.take() is second
    assert pool.take() is first
    assert len(server.made) == pool.statistics().opened == 2
    pool.give(first)
    pool.give(second)


def test_who_waits_longest_is_served_first(make: MakePool) -> None:
    pool = make(1)
    place = pool.take()
    waiting, served = queue(pool, "a", "b", "c")
    pool.give(place)
    gevent.joinall(waiting, raise_error=True)
    assert served == ["a", "b", "c"]


def test_who_comes_later_does_not_overtake_who_was_handed_one(make: MakePool) -> None:
    pool = make(1)
    place = pool.take()
    waiting, served = queue(pool, "early")
    pool.give(place)  # handed over, but its turn to run has not come
    late = pool.take()
    assert served == ["early"]
    pool.give(late)
    gevent.joinall(waiting, raise_error=True)


def test_a_thousand_share_five_in_the_order_of_their_arrival(make: MakePool, server: FakeServer) -> None:
    pool = make(5, wait_s=30)
    arrived: list[int] = []
    served: list[int] = []

    def use(number: int) -> None:
        for _ in range(2):
            arrived.append(number)
            place = pool.take()
            served.append(number)
            place.connection.use()
            assert pool.statistics().open <= 5
            gevent.sleep(0.0001)
            pool.give(place)

    gevent.joinall([gevent.spawn(use, number) for number in range(1000)], raise_error=True)
    assert served == arrived
    assert len(server.made) == 5
    found = pool.statistics()
    assert (found.uses, found.timeouts, found.in_use, found.waiting) == (2000, 0, 0, 0)


def test_what_is_held_and_waited_is_counted(make: MakePool) -> None:
    pool = make(1)
    place = pool.take()
    waiting, _ = queue(pool, "a")
    began = time.monotonic()
    gevent.sleep(0.05)
    held = time.monotonic() - began
    pool.give(place)
    gevent.joinall(waiting, raise_error=True)
    found = pool.statistics()
    assert held <= found.held_s < 5
    assert held <= found.waited_s < 5
    assert (found.waits, found.uses) == (2, 2)  # the first one waited for its opening


# Waiting.


def test_who_waits_in_vain_is_told_who_holds_them(make: MakePool, log: Kept) -> None:
    pool = make(2, wait_s=0.05)
    places = [*taken(pool, 1, "bot.py:12"), *taken(pool, 1)]
    others, _ = queue(pool, "other")
    with pytest.raises(DatabaseBusy) as caught:
        pool.take()
    said = str(caught.value)
    assert "no connection to fake became free within 0.05 s: 2 of 2 are in use" in said
    assert re.search(r", (1 other waits|0 others wait); the longest has been held for \d+\.\d s, ", said)
    assert said.endswith("taken in bot.py:12")
    assert isinstance(caught.value, NotNow)
    assert caught.value.after_s > 0
    gevent.joinall(others)
    assert pool.statistics().timeouts == 2
    assert len(log.having("became free")) == 1
    for place in places:
        pool.give(place)
    pool.give(pool.take())


def test_the_holder_of_a_statement_is_found_by_its_frame(make: MakePool) -> None:
    pool = make(1, wait_s=0.02)
    ready, done = Event(), Event()

    def hold() -> None:
        place = pool.take()
        ready.set()
        done.wait()
        pool.give(place)

    holder = gevent.spawn(hold)
    ready.wait()
    with pytest.raises(DatabaseBusy, match=r"the longest has been held for .* s, for a statement"):
        pool.take()
    done.set()
    holder.join()


@pytest.mark.parametrize("when", ["before", "in the moment", "after"])
def test_who_is_killed_while_waiting_leaves_the_queue_and_loses_nothing(make: MakePool, when: str) -> None:
    pool = make(1)
    place = pool.take()
    (first, second), served = queue(pool, "first", "second")
    if when == "before":
        first.kill()
        assert pool.statistics().waiting == 1
    elif when == "in the moment":
        first.kill(block=False)  # thrown into it when it has been handed one already
    pool.give(place)
    if when == "after":
        first.kill(block=False)
    gevent.joinall([first, second])
    assert served == (["first", "second"] if when == "after" else ["second"])
    assert (pool.statistics().in_use, pool.statistics().open) == (0, 1)


def test_a_timeout_in_the_moment_of_being_served_loses_nothing(make: MakePool) -> None:
    pool = make(1)
    place = pool.take()
    ended: list[str] = []

    def want() -> None:
        with gevent.Timeout(0.01, False):
            got = pool.take()
            ended.append("served")
            pool.give(got)
            return
        ended.append("too late")

    for _ in range(20):
        waiting = gevent.spawn(want)
        gevent.sleep(0.005)
        end = time.monotonic() + 0.005
        while time.monotonic() < end:
            pass  # the time is over, and the loop does not know yet
        pool.give(place)
        waiting.join()
        assert (pool.statistics().in_use, pool.statistics().waiting, pool.statistics().open) == (0, 0, 1)
        place = pool.take()
    assert len(ended) == 20
    pool.give(place)


# Opening.


def test_warm_ones_are_opened_at_the_start_and_refilled(make: MakePool, server: FakeServer, log: Kept) -> None:
    pool = make(10, warm=4)
    wait_until(lambda: pool.statistics().open == 4)
    assert log.having("4 connections to fake are open, after")
    pool.drop(pool.take())
    wait_until(lambda: pool.statistics().open == 4)
    assert (len(server.made), pool.statistics().broken) == (5, 1)


def test_so_many_are_opened_at_once_and_no_more(make: MakePool, server: FakeServer) -> None:
    server.welcome.clear()
    pool = make(100, warm=90)
    waiting = [gevent.spawn(lambda: pool.give(pool.take())) for _ in range(50)]
    wait_until(lambda: server.connecting == OPENINGS_MAX)
    server.welcome.set()
    gevent.joinall(waiting, raise_error=True)
    wait_until(lambda: pool.statistics().open == 90)
    assert server.most_connecting == OPENINGS_MAX


def a_round_of_upkeep(pool: FakePool) -> None:
    """Wait for it: what was forgotten is taken back in the next one."""
    place = pool.take()
    pool.forget(place)
    wait_until(lambda: place.holder is None)


def test_progress_is_logged_when_there_is_some(make: MakePool, log: Kept) -> None:
    gate = Event()

    class Slow(FakeServer):
        def connect(self) -> FakeConnection:
            if self.attempts >= 3:
                gate.wait()
            return super().connect()

    slow = Slow()
    pool = Pool(slow.connect, "fake", 10, warm=7)
    pool.start()
    wait_until(lambda: log.having("Opened 3 of 7 connections to fake"))
    for _ in range(2):
        a_round_of_upkeep(pool)
    assert len(log.having("Opened")) == 1
    gate.set()
    wait_until(lambda: re.fullmatch(r"7 connections to fake are open, after \d\.\d s", log.texts[-1]))
    pool.stop()


def test_a_server_that_is_away_is_tried_after_growing_pauses(make: MakePool, server: FakeServer, log: Kept) -> None:
    server.refusal = DatabaseDown("refused")
    pool = make(10, warm=1)
    wait_until(lambda: server.attempts >= 4)
    gaps = [later - earlier for earlier, later in itertools.pairwise(server.attempted_at)]
    assert all(gap >= PAUSE_MIN_S * 2**number for number, gap in enumerate(gaps)), gaps
    assert len(log.having("No connection to fake: refused; 0 of 10 are open")) == 1
    assert len(log.texts) == 1
    server.refusal = None
    wait_until(lambda: pool.statistics().open == 1)
    wait_until(lambda: log.having("1 connection to fake is open, after"))
    wait_until(lambda: log.having("Connections to fake can be made again, after"))


def test_after_a_failure_one_is_tried_at_a_time(make: MakePool, server: FakeServer) -> None:
    """A server that is full would be asked by all of them over and over."""
    server.refusal = DatabaseDown("full")
    make(50, warm=20)
    wait_until(lambda: server.attempts >= 20 and not server.connecting)
    assert server.most_connecting == 20
    server.most_connecting = 0
    wait_until(lambda: server.attempts >= 23)
    server.welcome.clear()
    wait_until(lambda: server.connecting)
    assert server.most_connecting == 1
    server.refusal = None
    server.welcome.set()
    wait_until(lambda: len(server.made) == 20)


def test_it_is_not_over_while_only_some_can_be_opened(make: MakePool, server: FakeServer, log: Kept) -> None:
    class Full(FakeServer):
        """Has room for three."""

        room = 3

        def connect(self) -> FakeConnection:
            made = super().connect()
            if len(self.sessions) > self.room:
                made.close()
                raise DatabaseDown("full")
            return made

    full = Full()
    pool = Pool(full.connect, "fake", 10, warm=5)
    pool.start()
    wait_until(lambda: log.having("No connection to fake: full; 3 of 10 are open"))
    for _ in range(3):
        a_round_of_upkeep(pool)  # closes one, so that one can be opened
        wait_until(lambda: pool.statistics().open == 3)
    assert not log.having("can be made again")
    assert len(log.having("full")) == 1
    full.room = 5
    wait_until(lambda: log.having("can be made again"))
    assert pool.statistics().open == 5
    pool.stop()


def test_all_who_wait_are_told_at_once_that_it_is_away(make: MakePool, server: FakeServer) -> None:
    server.welcome.clear()
    server.refusal = DatabaseDown("refused")
    pool = make(3)
    waiting = [gevent.spawn(pool.take) for _ in range(10)]
    wait_until(lambda: server.connecting == 3)
    server.welcome.set()
    gevent.joinall(waiting)
    for greenlet in waiting:
        assert isinstance(greenlet.exception, DatabaseAway)
        assert "no connection to fake: refused" in str(greenlet.exception)

    def is_told_without_waiting() -> bool:
        """Who comes within the pause, as nearly everybody does."""
        waits = pool.statistics().waits
        with pytest.raises(DatabaseAway) as caught:
            pool.take()
        assert caught.value.after_s > 0
        return pool.statistics().waits == waits

    wait_until(is_told_without_waiting)
    failed_at, *later = server.attempted_at[2:]
    assert all(at >= failed_at + PAUSE_MIN_S for at in later)  # and nobody has brought about a new attempt
    server.refusal = None
    wait_until(lambda: succeeds(pool))


def succeeds(pool: FakePool) -> bool:
    try:
        pool.give(pool.take())
    except NotNow:
        return False
    return True


def test_while_no_more_can_be_opened_the_others_are_used_and_the_log_says_it_once(
    make: MakePool, server: FakeServer, log: Kept
) -> None:
    pool = make(5, warm=2, wait_s=0.1)
    wait_until(lambda: pool.statistics().open == 2)
    server.refusal = DatabaseDown("Too many connections")
    places = taken(pool, 2)
    with pytest.raises(DatabaseBusy, match=r"2 of 5 are in use, and no more can be opened \(Too many connections\)"):
        pool.take()
    waiting, served = queue(pool, "patient")
    pool.give(places.pop())
    gevent.joinall(waiting, raise_error=True)
    assert served == ["patient"]
    assert len(log.having("No connection to fake: Too many connections; 2 of 5 are open")) == 1
    server.refusal = None
    places += taken(pool, 1)
    wait_until(lambda: succeeds(pool))
    assert (pool.statistics().open, pool.statistics().in_use) == (3, 2)
    wait_until(lambda: len(log.having("can be made again")) == 1)
    for place in places:
        pool.give(place)


def test_an_outage_is_logged_though_the_pool_was_exhausted_just_before(
    make: MakePool, server: FakeServer, log: Kept
) -> None:
    pool = make(1, wait_s=0.02)
    [place] = taken(pool, 1)
    with pytest.raises(DatabaseBusy):
        pool.take()
    server.refusal = DatabaseDown("refused")
    server.restart()
    pool.drop(place)
    with pytest.raises(DatabaseAway):
        pool.take()
    assert len(log.having("became free")) == 1
    assert len(log.having("No connection to fake: refused")) == 1


def test_whoever_waits_when_an_opening_fails_gets_the_next_one(make: MakePool, server: FakeServer) -> None:
    pool = make(6, wait_s=0.7)  # less than a round of upkeep, which would help him as well
    places = [pool.take()]
    for _ in range(5):
        server.refusal = DatabaseDown("refused")
        attempts = server.attempts
        waiting = gevent.spawn(pool.take)
        wait_until(lambda attempts=attempts: server.attempts > attempts)
        gevent.sleep(0)
        server.refusal = None
        places.append(waiting.get())
    assert len(places) == pool.statistics().open == 6
    for place in places:
        pool.give(place)


def test_whoever_waits_when_one_breaks_gets_its_place(make: MakePool, server: FakeServer) -> None:
    pool = make(1, wait_s=0.7)
    place = pool.take()
    for _ in range(5):
        waiting = gevent.spawn(pool.take)
        wait_until(lambda: pool.statistics().waiting == 1)
        pool.drop(place)
        place = waiting.get()
    assert len(server.made) == 6
    pool.give(place)


def test_an_opening_that_fails_in_a_way_nobody_thought_of_takes_no_place(
    make: MakePool, server: FakeServer, log: Kept
) -> None:
    server.refusal = ValueError("strange")
    pool = make(1)
    with pytest.raises(DatabaseAway, match="strange"):
        pool.take()
    assert log.having("No connection to fake: strange")
    server.refusal = None
    wait_until(lambda: succeeds(pool))


def test_one_that_accepts_and_says_nothing_holds_up_only_those_who_need_it(make: MakePool, server: FakeServer) -> None:
    pool = make(3, warm=1, wait_s=0.1)
    wait_until(lambda: pool.statistics().open == 1)
    server.welcome.clear()
    [place] = taken(pool, 1)
    with pytest.raises(DatabaseBusy, match="1 of 3 are in use"):
        pool.take()
    pool.give(place)
    pool.give(pool.take())
    pool.drop(pool.take())
    with pytest.raises(DatabaseAway, match="it does not answer"):
        pool.take()


def test_an_opening_that_hangs_is_given_up_and_another_one_is_tried(server: FakeServer) -> None:
    failures: list[Exception] = []
    arrived: list[Place[FakeConnection]] = []
    growth = Growth(
        server.connect, "fake", arrived.append, failures.append, lambda: growth.begin(1), open_timeout_s=0.05
    )
    server.welcome.clear()
    growth.begin(1)
    wait_until(lambda: len(failures) >= 2)
    assert isinstance(failures[0], DatabaseDown)
    assert str(failures[0]) == growth.outage.reason == "no answer within 0.05 s"
    server.welcome.set()
    wait_until(lambda: arrived)
    assert (growth.places, server.connecting) == (0, 0)


# Broken ones.


def test_what_the_server_has_closed_is_replaced_and_nobody_notices(make: MakePool, server: FakeServer) -> None:
    pool = make(5, warm=3)
    wait_until(lambda: pool.statistics().open == 3)
    broken = pool.take()
    server.restart()
    pool.drop(broken)  # its user has noticed: from now on nothing is taken on trust
    for _ in range(5):
        place = pool.take()
        place.connection.use()
        pool.give(place)
    assert pool.statistics().broken == 3


def test_one_whose_answer_came_just_before_the_server_went_is_not_trusted(make: MakePool, server: FakeServer) -> None:
    pool = make(2)
    broken, answered = pool.take(), pool.take()
    server.restart()
    pool.drop(broken)
    pool.give(answered)
    place = pool.take()
    place.connection.use()
    pool.give(place)


def test_who_waits_for_one_gets_none_whose_answer_came_just_before_the_server_went(
    make: MakePool, server: FakeServer
) -> None:
    pool = make(2)
    broken, answered = pool.take(), pool.take()
    server.welcome.clear()
    waiting = [gevent.spawn(pool.take) for _ in range(2)]
    wait_until(lambda: pool.statistics().waiting == 2)
    server.restart()
    pool.drop(broken)
    pool.give(answered)
    server.welcome.set()
    for greenlet in waiting:
        place = greenlet.get()
        place.connection.use()
        pool.give(place)


def test_signs_of_life_that_do_not_come_are_waited_for_no_longer_than_a_connection(
    make: MakePool, server: FakeServer
) -> None:
    pool = make(6, warm=6, wait_s=0.2)
    wait_until(lambda: pool.statistics().open == 6)
    for connection in server.made:
        connection.noisy = True  # so that it has to be asked
    pool.drop(pool.take())
    server.answering.clear()
    server.welcome.clear()
    with pytest.raises(DatabaseAway, match="it does not answer"):
        pool.take()
    assert 1 <= server.asked <= 2  # not five times
    server.answering.set()
    server.welcome.set()
    for connection in server.made:
        connection.noisy = False
    pool.give(pool.take())


def test_who_has_asked_one_that_is_dead_waits_only_for_what_is_left_of_his_time(
    make: MakePool, server: FakeServer
) -> None:
    pool = make(2, warm=2, wait_s=0.3)
    wait_until(lambda: pool.statistics().open == 2)
    for connection in server.made:
        connection.noisy = True
    server.welcome.clear()
    pool.drop(pool.take())
    server.answering.clear()
    late = gevent.spawn(outcome, pool.take)
    wait_until(lambda: all(connection.closed for connection in server.made))
    server.welcome.set()  # from now on he could have one
    assert isinstance(late.get(), DatabaseAway)
    assert server.asked == 1


def test_one_that_was_forgotten_on_the_way_to_the_server_is_found_by_asking(make: MakePool, server: FakeServer) -> None:
    pool = make(3, warm=3)
    wait_until(lambda: pool.statistics().open == 3)
    places = [pool.take() for _ in range(3)]
    for place in places:
        pool.give(place)
    first, second, young = places
    first.connection.forgotten = second.connection.forgotten = True
    first.since -= PING_AFTER_S  # as if it had lain there for so long
    second.since -= PING_AFTER_S
    young.since -= TRUST_S
    taken_young = pool.take()
    assert (taken_young, server.asked) == (young, 0)  # which costs no round trip
    found = pool.take()
    found.connection.use()
    assert server.asked == pool.statistics().broken == 2
    pool.give(taken_young)
    pool.give(found)


def test_who_is_killed_while_asking_for_a_sign_of_life_leaves_no_place_taken(
    make: MakePool, server: FakeServer
) -> None:
    pool = make(2, warm=2)
    wait_until(lambda: pool.statistics().open == 2)
    for connection in server.made:
        connection.noisy = True
    pool.drop(pool.take())
    wait_until(lambda: pool.statistics().open == 2)
    server.answering.clear()
    fresh = pool.take()
    asking = gevent.spawn(pool.take)
    wait_until(lambda: pool.statistics().in_use == 2)
    asking.kill()
    pool.give(fresh)
    wait_until(lambda: (pool.statistics().in_use, pool.statistics().open) == (0, 2))


# What is left in the server.


def test_a_place_is_free_when_the_session_that_was_left_at_work_has_ended(make: MakePool, server: FakeServer) -> None:
    pool = make(1)
    place = pool.take()
    place.connection.at_work = True
    server.welcome.clear()
    pool.drop(place)
    waiting, served = queue(pool, "next")
    wait_until(lambda: server.connecting == 1)
    assert not served
    assert 1 in server.sessions
    server.welcome.set()
    gevent.joinall(waiting, raise_error=True)
    assert server.sessions == {2}
    assert pool.statistics().left == 1


def test_what_was_left_at_work_is_ended_though_the_server_was_away_for_a_while(
    make: MakePool, server: FakeServer
) -> None:
    pool = make(2, wait_s=0.3)
    places = taken(pool, 2)
    server.refusal = DatabaseDown("too busy for new ones")
    for place in places:
        place.connection.at_work = True
        pool.drop(place)
    with pytest.raises(DatabaseAway):
        pool.take()
    assert server.sessions == {1, 2}  # still at work: no more than they may be
    server.refusal = None
    wait_until(lambda: succeeds(pool))
    wait_until(lambda: pool.statistics().open == 2)
    assert server.sessions == {3, 4}


@pytest.mark.parametrize("error", [DatabaseMistake("no such privilege", 1095), ValueError("what a proxy answers")])
def test_one_that_cannot_be_ended_costs_no_place(
    make: MakePool, server: FakeServer, log: Kept, error: Exception
) -> None:
    pool = make(1)
    place = pool.take()
    server.ending_refused = error
    place.connection.at_work = True
    pool.drop(place)
    pool.give(pool.take())
    assert log.having("may still run in fake")
    assert (pool.statistics().open, pool.end_unfinished(0.0)) == (1, 0)


def test_an_ending_that_hangs_is_given_up_too(server: FakeServer, log: Kept) -> None:
    class Silent(FakeConnection):
        def end_session(self, session: int) -> None:
            Event().wait()

    made: list[Silent] = []

    def connect() -> Silent:
        made.append(Silent(server, 100 + len(made)))
        return made[-1]

    growth: Growth[Silent] = Growth(
        connect, "fake", lambda place: None, log.texts.append, lambda: growth.begin(0), ending_timeout_s=0.05
    )
    growth.leave(1)
    growth.begin(0)
    wait_until(lambda: (growth.not_ended, growth.places, growth.coming) == (1, 1, 0))  # nobody counts on it
    wait_until(lambda: not growth.not_ended)
    assert (growth.places, growth.coming) == (0, 0)
    assert [connection.closed for connection in made] == [True] * ENDING_TRIES_MAX
    assert log.texts == ["A statement that was left unfinished may still run in fake: no answer within 0.05 s"]


def test_one_by_whose_ending_connections_break_holds_nobody_up(make: MakePool, server: FakeServer, log: Kept) -> None:
    pool = make(3)
    server.ending_refused = DatabaseDown("it broke")
    place = pool.take()
    place.connection.at_work = True
    pool.drop(place)
    others = [pool.take()]
    assert others[0].connection is server.made[2]  # the one after the first that broke
    others += [pool.take(), pool.take()]  # the last one as soon as it is given up
    assert log.texts == ["A statement that was left unfinished may still run in fake: it broke"]
    for other in others:
        pool.give(other)


def test_one_whose_ending_hangs_holds_nobody_up(server: FakeServer) -> None:
    class Silent(FakeConnection):
        def end_session(self, session: int) -> None:
            Event().wait()

    pool: Pool[Silent] = Pool(lambda: Silent(server, 1), "fake", 2, wait_s=ENDING_TIMEOUT_S + 60)
    pool.start()
    place = pool.take()
    place.connection.at_work = True
    pool.drop(place)
    pool.give(pool.take())
    assert pool.statistics().waited_s < OPEN_TIMEOUT_S  # while the connection that ends it still hangs
    pool.stop()


def test_of_several_that_are_handed_over_and_dead_none_is_used(make: MakePool, server: FakeServer) -> None:
    pool = make(3)
    first, second, third = taken(pool, 3)

    def use_one() -> None:
        place = pool.take()
        place.connection.use()
        pool.give(place)

    waiting = gevent.spawn(use_one)
    wait_until(lambda: pool.statistics().waiting == 1)
    server.restart()
    server.welcome.clear()
    pool.drop(first)  # it broke; no other takes its place yet
    for number, place in enumerate((second, third), 2):
        pool.give(place)
        wait_until(lambda number=number: pool.statistics().broken == number)
    server.welcome.set()
    waiting.get(timeout=10)


def test_who_has_waited_holds_it_from_when_it_came(make: MakePool) -> None:
    pool = make(1)
    place = pool.take()
    waiting = gevent.spawn(pool.take)
    wait_until(lambda: pool.statistics().waiting == 1)
    given_at = time.monotonic()
    pool.give(place)
    assert waiting.get(timeout=10).since >= given_at
    pool.drop(place)


def test_few_are_ended_at_once_for_until_then_the_server_has_both(make: MakePool, server: FakeServer) -> None:
    size = 40
    pool = make(size)
    for place in taken(pool, size):
        place.connection.at_work = True
        pool.drop(place)
    wait_until(lambda: pool.statistics().open == size)
    assert size < server.most_sessions <= 1.1 * size
    assert len(server.sessions) == size
    assert (pool.statistics().left, pool.end_unfinished(0.0)) == (size, 0)


# Changing its size, and the end.


def test_growing_serves_who_waits(make: MakePool) -> None:
    pool = make(1)
    place = pool.take()
    waiting, served = queue(pool, "a", "b")
    pool.resize(3)
    gevent.joinall(waiting, raise_error=True)
    assert sorted(served) == ["a", "b"]
    assert pool.statistics().open == 3
    pool.give(place)


def test_shrinking_closes_idle_ones_now_and_others_when_they_come_back(make: MakePool) -> None:
    pool = make(6, warm=6)
    wait_until(lambda: pool.statistics().open == 6)
    places = taken(pool, 4)
    pool.resize(2)
    assert pool.statistics().open == 4
    waiting, served = queue(pool, "patient")
    pool.give(places.pop())
    pool.give(places.pop())
    assert not served
    assert pool.statistics().open == 2
    pool.drop(places.pop())
    gevent.joinall(waiting, raise_error=True)
    assert served == ["patient"]
    pool.give(places.pop())
    assert pool.statistics().open == 2


def test_stopping_turns_away_who_waits_and_closes_what_comes_back(make: MakePool, server: FakeServer) -> None:
    pool = make(2, warm=2)
    wait_until(lambda: pool.statistics().open == 2)
    holding = taken(pool, 2)
    waiting = gevent.spawn(pool.take)
    wait_until(lambda: pool.statistics().waiting == 1)
    pool.stop()
    waiting.join()
    assert isinstance(waiting.exception, DatabaseAway)
    assert "the server stops" in str(waiting.exception)
    with pytest.raises(DatabaseAway):
        pool.take()
    assert not any(connection.closed for connection in server.made)
    pool.give(holding[0])
    holding[1].connection.at_work = True
    pool.drop(holding[1])
    assert all(connection.closed for connection in server.made)
    pool.stop()


def test_what_is_being_opened_at_the_end_is_closed(make: MakePool, server: FakeServer) -> None:
    server.welcome.clear()
    pool = make(3, warm=3)
    wait_until(lambda: server.connecting == 3)
    pool.stop()
    server.welcome.set()
    wait_until(lambda: len(server.made) == 3)
    assert all(connection.closed for connection in server.made)
    assert pool.statistics().open == 0


# Upkeep.


def test_unused_ones_are_closed_down_to_the_warm_ones(make: MakePool) -> None:
    pool = make(10, warm=2, idle_max_s=0)
    places = taken(pool, 8)
    kept = places[0]
    for place in places[1:]:
        pool.give(place)
    wait_until(lambda: pool.statistics().open == 2)
    pool.give(kept)


def test_who_holds_one_for_long_is_named_once(make: MakePool, log: Kept) -> None:
    pool = make(10, hold_warning_s=0.01)
    places = [pool.take_for(f"bot.py:{number}") for number in range(2)]
    pool.give(pool.take())
    wait_until(lambda: len(log.having("has been held for")) == 2)
    more = taken(pool, HOLDERS_NAMED + 2)
    wait_until(lambda: log.having("2 more connections to fake have been held for as long"))
    assert len(log.having("taken in bot.py:0")) == len(log.having("taken in bot.py:1")) == 1
    assert len(log.having("has been held for")) == 2 + HOLDERS_NAMED
    for place in places + more:
        pool.give(place)


def test_no_hold_is_too_long_where_none_is_asked_for(make: MakePool, log: Kept) -> None:
    pool = make(2, warm=1, idle_max_s=0, hold_warning_s=0)
    places = taken(pool, 2)
    pool.give(places.pop())
    wait_until(lambda: pool.statistics().open == 1)  # a round of upkeep is over
    assert not log.having("has been held for")
    pool.give(places.pop())


def test_one_that_nobody_will_give_back_comes_back(make: MakePool, log: Kept) -> None:
    pool = make(1)
    place = pool.take_for("bot.py:7")
    pool.forget(place)
    pool.forget(place)  # harmless
    pool.give(pool.take())  # waits for the round
    assert log.having("A connection to fake, taken in bot.py:7, was not given back; it is closed")
    assert (pool.statistics().opened, pool.statistics().open) == (2, 1)


def test_one_that_is_kept_beyond_the_end_of_its_greenlet_comes_back(
    make: MakePool, server: FakeServer, log: Kept
) -> None:
    pool = make(2)

    def keep(at_work: bool) -> Place[FakeConnection]:
        place = pool.take_for("bot.py:7")
        place.connection.at_work = at_work
        return place

    kept = [gevent.spawn(keep, at_work).get() for at_work in (False, True)]
    held = [pool.take(), pool.take()]  # waits for the round
    assert not any(pool.is_held(place) for place in kept)
    assert server.sessions == {place.connection.session for place in held}  # what was at work was ended
    assert len(log.having("taken in bot.py:7, was not given back")) == 1
    a_round_of_upkeep(make(1))
    assert all(pool.is_held(place) for place in held)  # for their greenlet lives
    for place in held:
        pool.give(place)


def test_one_that_was_closed_while_somebody_tidied_it_up_may_be_dropped(make: MakePool) -> None:
    pool = make(1)
    kept = gevent.spawn(pool.take_for, "bot.py:7").get()
    assert pool.is_held(kept)  # so that whoever has it now may begin to tidy it up
    wait_until(lambda: not pool.is_held(kept))
    pool.drop(kept)
    pool.give(pool.take())
    assert (pool.statistics().opened, pool.statistics().open, pool.statistics().broken) == (2, 1, 1)


# Other threads.


def test_another_thread_gets_none_and_is_told_what_to_do(make: MakePool) -> None:
    pool = make(2, warm=1)
    wait_until(lambda: pool.statistics().open == 1)
    for _ in range(3):
        with pytest.raises(BotError, match=r"in another thread.* or connect anew"):
            gevent.get_hub().threadpool.apply(pool.take)
    pool.give(pool.take())
    assert (pool.statistics().uses, pool.statistics().opened) == (1, 1)


def test_what_another_thread_has_in_its_hands_is_not_held_there(make: MakePool) -> None:
    pool = make(1)
    place = pool.take()
    threads = gevent.get_hub().threadpool
    assert (threads.apply(pool.is_held, [place]), pool.is_held(place)) == (False, True)
    threads.apply(pool.forget, [place])
    pool.give(pool.take())  # waits for the round
    assert not pool.is_held(place)


# Refusing.


def test_a_server_that_refuses_its_work_loses_few_connections_and_no_storm_begins(
    make: MakePool, server: FakeServer, log: Kept
) -> None:
    pool = make(10, warm=10)
    wait_until(lambda: pool.statistics().open == 10)
    began, opened = time.monotonic(), len(server.made)

    def is_put_off_for_longer() -> bool:
        place = pool.take()
        error = DatabaseAway("read-only", 1.0)
        gevent.sleep(0)
        if pool.refused(error):
            pool.drop(place)
        else:
            pool.give(place)
        return error.after_s > 1

    wait_until(is_put_off_for_longer)
    assert 2 <= len(server.made) - opened <= (time.monotonic() - began) / REFUSAL_PAUSE_S + 1
    assert log.having("fake refuses statements: read-only; what needs them is put off")
    assert len(log.having("read-only")) == 1
    wait_until(lambda: pool.statistics().open == 10)


def test_whoever_finds_the_only_connection_replaced_waits_for_a_new_one_and_not_for_long(make: MakePool) -> None:
    pool = make(1, wait_s=0.7)  # less than a round of upkeep, which would help him as well
    replaced = 0
    while replaced < 6:
        place = pool.take()
        if pool.refused(DatabaseAway("read-only", 1.0)):
            pool.drop(place)
            replaced += 1
        else:
            pool.give(place)
            gevent.sleep(0.001)
    assert pool.statistics().opened == replaced


def test_the_server_that_closed_what_was_idle_is_told_of_and_they_are_opened_again(
    make: MakePool, server: FakeServer, log: Kept
) -> None:
    pool = make(10, warm=4)
    wait_until(lambda: pool.statistics().open == 4)
    server.restart()
    wait_until(lambda: log.having("4 idle connections to fake had been closed by the server"))
    wait_until(lambda: pool.statistics().open == len(server.sessions) == 4)
    assert pool.statistics().broken == 4


def test_those_that_the_server_has_closed_are_found_though_nobody_takes_them(
    make: MakePool, server: FakeServer, log: Kept
) -> None:
    pool = make(5)
    places = taken(pool, 5)
    for place in places:
        pool.give(place)
    for place in places[1:4]:  # not the one that was used longest ago, at which every round looks
        place.connection.ended = True
    pool._upkeep.round(SWEEP_ROUNDS)
    assert [place.connection.closed for place in places] == [False, True, True, True, False]
    assert (pool.statistics().broken, pool.statistics().open) == (3, 2)
    wait_until(lambda: log.having("3 idle connections to fake had been closed by the server"))
    assert [pool.take(), pool.take()] == [places[4], places[0]]
    pool.give(places[4])
    pool.give(places[0])


def test_when_those_that_were_idle_are_found_closed_those_in_use_are_not_trusted_either(
    make: MakePool, server: FakeServer
) -> None:
    pool = make(2)
    [idle, answered] = taken(pool, 2)
    pool.give(idle)
    server.restart()
    pool._upkeep.round(SWEEP_ROUNDS)
    pool.give(answered)
    place = pool.take()
    place.connection.use()
    pool.give(place)


def test_those_that_the_server_has_closed_are_closed_though_the_pool_stops_meanwhile(
    make: MakePool, server: FakeServer
) -> None:
    pool = make(10)
    for place in taken(pool, 10):
        pool.give(place)
    server.closing_s = 2 * TURN_S  # so that others run between any two of them
    server.restart()
    wait_until(lambda: 0 < pool.statistics().open < 10)
    pool.stop()
    wait_until(lambda: not pool.statistics().open)


def test_how_long_it_has_been_away_is_told_and_its_end_when_nothing_has_failed_since(log: Kept) -> None:
    notices, outage = Notices("fake"), Outage()
    for now in (1000.0, 1003.0, 1011.0, 1070.0, 3000.0):
        outage.failed("full", now)
        notices.cannot_open(DatabaseDown("full"), "49 of 100 are open", now)
        notices.tell_round(outage, 49, 0, now)
    assert log.texts == [
        "No connection to fake: full; 49 of 100 are open",
        "Still no connection to fake, after 11 s: full; 49 of 100 are open",
        "Still no connection to fake, after 70 s: full; 49 of 100 are open",
        "Still no connection to fake, after 33 min: full; 49 of 100 are open",
    ]
    log.texts.clear()
    outage.succeeded(3005.0, 3005.0)
    notices.tell_round(outage, 50, 0, 3005.0 + SETTLED_S / 2)
    assert not log.texts
    notices.tell_round(outage, 50, 0, 3005.0 + SETTLED_S)
    notices.tell_round(outage, 50, 0, 3006.0 + SETTLED_S)
    assert log.texts == ["Connections to fake can be made again, after 33 min"]


def test_a_server_that_refuses_is_told_of_again_and_when_it_no_longer_does(log: Kept) -> None:
    notices, error = Notices("fake"), DatabaseAway("read-only", 1.0)
    assert [notices.refused(error, now) for now in (1000.0, 1001.0, 1012.0)] == [0, 1, 12]
    for now in (1012.0, 1012.0 + FORGIVEN_S - 1, 1012.0 + FORGIVEN_S, 1050.0):
        notices.tell_round(Outage(), 5, 5, now)
    assert log.texts == [
        "fake refuses statements: read-only; what needs them is put off",
        "fake still refuses statements, after 12 s: read-only; what needs them is put off",
        "fake has refused no statement for 10 s",
    ]


def test_upkeep_outlives_a_connection_that_cannot_be_closed(make: MakePool, server: FakeServer, log: Kept) -> None:
    pool = make(3, warm=1, idle_max_s=0)
    wait_until(lambda: pool.statistics().open == 1)
    places = taken(pool, 3)
    server.made[0].closed = True  # closing it again fails here
    for place in places:
        pool.give(place)
    wait_until(lambda: log.having("Looking after the connections to fake failed; it goes on"))
    wait_until(lambda: pool.statistics().open == 1)
