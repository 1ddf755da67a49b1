"""A host whose circuit is open, and requests to it that end late."""

from __future__ import annotations

import gevent
import pytest

from gbot.errors import ApiDown
from gbot.limiter import Limit
from gbot.outbound.circuit import FAILURES_MAX
from gbot.outbound.host import RETURN_EVERY_S, RETURN_MAX_S, Host
from gbot.outbound.lane import Lane
from tests.rig import wait_until


def may_be_asked(host: Host) -> bool:
    try:
        host.check()
    except ApiDown:
        return False
    return True


@pytest.fixture
def host() -> Host:
    """One that has failed until it was left alone."""
    host = Host("http://127.0.0.1:1")
    for _ in range(FAILURES_MAX):
        assert may_be_asked(host)
        host.failed("no answer")
    assert host.is_down
    assert not may_be_asked(host)
    return host


def test_a_request_that_fails_when_the_time_of_the_circuit_is_over_does_not_take_the_probes_place(host: Host) -> None:
    wait_until(lambda: may_be_asked(host))
    host.failed("no answer to a request that began before the circuit opened")
    assert may_be_asked(host)
    assert host.admit()
    assert not may_be_asked(host)  # that one is the probe
    host.succeeded()
    assert not host.is_down


def test_a_request_that_fails_late_while_the_probe_is_under_way_keeps_the_circuit_open(host: Host) -> None:
    wait_until(lambda: may_be_asked(host))
    assert host.admit()
    host.failed("no answer to a request that began before the circuit opened")
    assert host.is_down
    assert not may_be_asked(host)


def wait_in(lane: Lane, host: Host) -> float:
    """Wait there until the host is known to be down; for how long it is told to stay away."""
    with pytest.raises(ApiDown) as told:
        host.enter(lane, "a flow", 60.0)
    return told.value.after_s


def test_thousands_that_wait_are_told_once_each_however_many_requests_fail() -> None:
    lane = Lane("line.push", Limit(in_flight=1), 10_000)
    host = Host("http://127.0.0.1:1")
    host.enter(lane, "a flow", 60.0)
    waiting = [gevent.spawn(wait_in, lane, host) for _ in range(3000)]
    wait_until(lambda: lane.statistics().waiting == 3000)
    began = gevent.get_hub().loop.pendingcnt
    for _ in range(1000):
        host.failed("no answer")
    assert gevent.get_hub().loop.pendingcnt < began + 10
    gevent.joinall(waiting, raise_error=True, timeout=10)
    assert lane.statistics().waiting == 0
    told = [each.value for each in waiting]
    assert max(told) - min(told) > 2000 * RETURN_EVERY_S  # they do not come back together


def test_nobody_is_told_to_stay_away_for_too_long(host: Host) -> None:
    told = []
    for _ in range(round(RETURN_MAX_S / RETURN_EVERY_S) + 1000):
        with pytest.raises(ApiDown) as error:
            host.admit()
        told.append(error.value.after_s)
    assert 0 < told[0] <= 1.5
    assert told[-1] > told[0]
    assert told[-1] == pytest.approx(RETURN_MAX_S)
