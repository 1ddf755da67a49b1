"""The circuit: opens when a host fails again and again, quiet or busy, and closes by itself when the host is back."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from gbot.outbound.circuit import (
    FAILURES_MAX,
    FEW_FAILURES,
    FEW_FAILURES_S,
    OPEN_MAX_S,
    OPEN_MIN_S,
    PROBE_MAX_S,
    PROBE_WAIT_S,
    Circuit,
)


def opened(now: float) -> Circuit:
    circuit = Circuit()
    for _ in range(FAILURES_MAX):
        assert circuit.admit(now) == 0.0
        circuit.failed(now)
    assert circuit.is_open
    return circuit


def test_a_new_circuit_lets_everything_through() -> None:
    circuit = Circuit()
    assert [circuit.admit(0.0) for _ in range(1000)] == [0.0] * 1000
    assert not circuit.is_open


def test_many_failures_at_once_open_it() -> None:
    circuit = Circuit()
    for _ in range(FAILURES_MAX - 1):
        circuit.failed(5.0)
    assert not circuit.is_open
    assert circuit.admit(5.0) == 0.0
    circuit.failed(5.0)
    assert circuit.is_open
    assert circuit.admit(5.0) == OPEN_MIN_S


def test_a_success_in_between_keeps_it_closed() -> None:
    circuit = Circuit()
    for number in range(10 * FAILURES_MAX):
        circuit.failed(number * 0.01)
        if number % (FAILURES_MAX - 1) == FAILURES_MAX - 2:
            circuit.succeeded(number * 0.01)
    for number in range(10 * FEW_FAILURES):
        circuit.failed(100.0 + number * FEW_FAILURES_S)
        if number % (FEW_FAILURES - 1) == FEW_FAILURES - 2:
            circuit.succeeded(100.0 + number * FEW_FAILURES_S)
    assert not circuit.is_open


@pytest.mark.parametrize("apart_s", [FEW_FAILURES_S / (FEW_FAILURES - 1), 15.0, 60.0])
def test_of_a_quiet_host_a_few_failures_open_it(apart_s: float) -> None:
    circuit = Circuit()
    for number in range(FEW_FAILURES):
        assert not circuit.is_open
        circuit.failed(7.0 + number * apart_s)
    assert circuit.is_open


def test_a_few_failures_of_one_bad_moment_do_not_open_it() -> None:
    circuit = Circuit()
    for _ in range(FEW_FAILURES):
        circuit.failed(1000.0)
    assert not circuit.is_open
    circuit.failed(1000.0 + FEW_FAILURES_S)
    assert circuit.is_open


def test_an_abandoned_request_says_nothing() -> None:
    circuit = Circuit()
    for _ in range(FAILURES_MAX - 1):
        circuit.failed(5.0)
        circuit.abandoned(5.0)
    assert not circuit.is_open
    circuit.failed(5.0)
    assert circuit.is_open


def test_it_says_how_long_it_stays_open() -> None:
    circuit = opened(100.0)
    assert circuit.admit(100.0 + OPEN_MIN_S / 4) == OPEN_MIN_S * 3 / 4
    circuit.failed(100.0 + OPEN_MIN_S / 4)  # begun before it opened: changes nothing
    assert circuit.admit(100.0 + OPEN_MIN_S) == 0.0


def test_half_open_it_lets_one_through_at_a_time() -> None:
    circuit = opened(0.0)
    assert circuit.admit(OPEN_MIN_S) == 0.0
    assert circuit.is_open
    assert [circuit.admit(OPEN_MIN_S + 0.1) for _ in range(5)] == [PROBE_WAIT_S] * 5
    circuit.succeeded(OPEN_MIN_S + 0.2)
    assert not circuit.is_open
    assert [circuit.admit(OPEN_MIN_S + 0.2) for _ in range(5)] == [0.0] * 5


def test_it_stays_open_twice_as_long_after_each_probe_that_failed() -> None:
    circuit, now, open_s = opened(0.0), 0.0, []
    for _ in range(8):
        open_s.append(circuit.admit(now))
        now += open_s[-1]
        assert circuit.admit(now) == 0.0
        circuit.failed(now + 0.5)
        now += 0.5
    assert open_s == [1.0, 2.0, 4.0, 8.0, 16.0, OPEN_MAX_S, OPEN_MAX_S, OPEN_MAX_S]
    assert circuit.admit(now + OPEN_MAX_S) == 0.0
    circuit.succeeded(now + OPEN_MAX_S)
    for _ in range(FAILURES_MAX):
        circuit.failed(1000.0)
    assert circuit.admit(1000.0) == OPEN_MIN_S


def test_after_it_has_closed_it_counts_from_the_beginning() -> None:
    circuit = opened(0.0)
    assert circuit.admit(OPEN_MIN_S) == 0.0
    circuit.succeeded(OPEN_MIN_S)
    for _ in range(FAILURES_MAX - 1):
        circuit.failed(100.0)
    assert not circuit.is_open


def test_an_abandoned_probe_makes_room_for_the_next() -> None:
    circuit = opened(0.0)
    assert circuit.admit(5.0) == 0.0
    circuit.abandoned(5.5)
    assert circuit.is_open
    assert circuit.admit(5.5) == 0.0
    assert circuit.admit(5.5) > 0.0


def test_a_probe_whose_end_is_never_told_does_not_keep_it_open_for_ever() -> None:
    circuit = opened(0.0)
    assert circuit.admit(5.0) == 0.0
    assert circuit.admit(5.0 + PROBE_MAX_S - 0.25) == 0.25
    assert circuit.admit(5.0 + PROBE_MAX_S) == 0.0
    assert circuit.admit(5.0 + PROBE_MAX_S) == PROBE_WAIT_S


def test_what_had_begun_before_it_opened_does_not_keep_it_open_when_nobody_probes() -> None:
    circuit = opened(0.0)
    for number in range(100):
        circuit.failed(0.5 + number)
    assert circuit.admit(100.0) == 0.0


def test_a_late_success_closes_it() -> None:
    circuit = opened(0.0)
    circuit.succeeded(0.1)
    assert not circuit.is_open
    assert circuit.admit(0.1) == 0.0


class Host(RuleBasedStateMachine):
    """Requests to one host: asked whether they may go, and told how they ended, in any order and at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.circuit = Circuit()
        self.now = 0.0
        self.under_way = 0
        self.failures: list[float] = []  # in a row

    @rule(seconds=st.sampled_from([0.1, 1.0, FEW_FAILURES_S, OPEN_MAX_S]) | st.floats(0.0, 40.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(count=st.integers(1, 2 * FAILURES_MAX))
    def some_want_to_go(self, count: int) -> None:
        was_open = self.circuit.is_open
        waits = [self.circuit.admit(self.now) for _ in range(count)]
        through = waits.count(0.0)
        assert all(0.0 <= wait_s <= OPEN_MAX_S for wait_s in waits)
        assert through <= 1 if was_open else through == count
        assert self.circuit.is_open == was_open
        self.under_way += through

    @precondition(lambda self: self.under_way)
    @rule(count=st.integers(1, 2 * FAILURES_MAX))
    def some_fail(self, count: int) -> None:
        for _ in range(min(count, self.under_way)):
            was_open = self.circuit.is_open
            self.under_way -= 1
            self.circuit.failed(self.now)
            if was_open:
                assert self.circuit.is_open
                continue
            self.failures.append(self.now)
            many = len(self.failures) >= FAILURES_MAX
            long = len(self.failures) >= FEW_FAILURES and self.now - self.failures[0] >= FEW_FAILURES_S
            assert self.circuit.is_open == (many or long)

    @precondition(lambda self: self.under_way)
    @rule()
    def one_succeeds(self) -> None:
        self.under_way -= 1
        self.failures.clear()
        self.circuit.succeeded(self.now)
        assert not self.circuit.is_open

    @precondition(lambda self: self.under_way)
    @rule()
    def one_is_abandoned(self) -> None:
        was_open = self.circuit.is_open
        self.under_way -= 1
        self.circuit.abandoned(self.now)
        assert self.circuit.is_open == was_open

    @rule()
    def who_keeps_asking_is_let_through_at_last(self) -> None:
        """Whatever has happened before: after the longest time that it is open, and that of a probe."""
        deadline = self.now + OPEN_MAX_S + PROBE_MAX_S + 0.001
        while wait_s := self.circuit.admit(self.now):
            self.now += wait_s
            assert self.now <= deadline
        self.under_way += 1


TestHost = Host.TestCase
