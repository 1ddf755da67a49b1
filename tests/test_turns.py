"""Letting others run: who takes turns, timers and sockets, in the hub of the tests."""

from __future__ import annotations

from collections.abc import Iterator

import gevent
import gevent.socket
import pytest

from gbot.turns import Turn
from tests.rig import burn

TURNS = 40  # fewer than the times that gevent.sleep(0) may return before gevent looks at its timers and sockets


@pytest.fixture
def pair() -> Iterator[tuple[gevent.socket.socket, gevent.socket.socket]]:
    near, far = gevent.socket.socketpair()
    with near, far:
        yield near, far


def test_a_timer_that_is_due_does_not_wait_for_who_never_waits() -> None:
    due: list[int] = []
    turn = Turn(turn_s=0)
    gevent.spawn_later(0.001, lambda: due.append(number))
    gevent.sleep(0)
    burn(0.002)
    for number in range(TURNS):  # noqa: B007 - who is due looks at it
        turn.take()
    assert due
    assert due[0] <= 5


def test_who_has_input_does_not_wait_for_who_never_waits(
    pair: tuple[gevent.socket.socket, gevent.socket.socket],
) -> None:
    near, far = pair
    reader = gevent.spawn(near.recv, 1)
    gevent.sleep(0.001)
    far.send(b"a")
    turn, taken = Turn(turn_s=0), 0
    while taken < TURNS and not reader.dead:
        turn.take()
        taken += 1
    assert taken <= 5


def test_those_who_take_turns_get_as_many_of_them() -> None:
    taken = [0, 0, 0]

    def work(place: int) -> None:
        turn = Turn(turn_s=0)
        while max(taken) < TURNS:
            taken[place] += 1
            turn.take()

    gevent.joinall([gevent.spawn(work, place) for place in range(len(taken))], raise_error=True)
    assert min(taken) >= TURNS - 2


def test_nobody_runs_before_the_turn_is_over() -> None:
    ran: list[int] = []
    turn = Turn(turn_s=60)
    other = gevent.spawn(ran.append, 1)
    for _ in range(1000):
        turn.take()
    assert not ran
    other.join()


def test_a_turn_begins_anew_after_the_greenlet_has_waited() -> None:
    ran: list[int] = []
    turn = Turn(turn_s=0.005)
    turn.take()
    burn(0.01)
    gevent.sleep(0.001)
    other = gevent.spawn(ran.append, 1)
    turn.take()
    assert not ran
    burn(0.01)
    turn.take()
    assert ran
    other.join()


def test_who_is_killed_while_others_run_ends_there() -> None:
    def work() -> None:
        turn = Turn(turn_s=0)
        for _ in range(TURNS):
            turn.take()

    worker = gevent.spawn(work)
    gevent.sleep(0)
    worker.kill()
    assert isinstance(worker.value, gevent.GreenletExit)
