"""The addresses of names: found once for all who want them, and found again."""

from __future__ import annotations

import socket as stdlib_socket

import gevent
import pytest

from gbot.outbound.lookup import Lookup

PLENTY_S = 20.0


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", stdlib_socket.AF_INET), ("::1", stdlib_socket.AF_INET6)])
def test_an_ip_address_needs_no_lookup(host: str, family: int) -> None:
    lookup = Lookup(host, 80)
    for _ in range(2):
        assert lookup.addresses(0.0) == [(family, (host, 80))]
        lookup.doubt()


def test_a_name_has_addresses_and_they_are_kept() -> None:
    lookup = Lookup("localhost", 80)
    found = lookup.addresses(PLENTY_S)
    assert (stdlib_socket.AF_INET, ("127.0.0.1", 80)) in found
    assert lookup.addresses(PLENTY_S) is found


def test_in_doubt_it_is_looked_up_again_and_the_old_ones_serve_meanwhile() -> None:
    lookup = Lookup("localhost", 80)
    found = lookup.addresses(PLENTY_S)
    lookup.doubt()
    assert lookup.addresses(0.0) is found
    assert lookup.addresses(PLENTY_S) is not found


def test_a_name_that_nobody_has_is_an_error_each_time() -> None:
    lookup = Lookup("api.line.invalid", 80)
    for _ in range(2):
        with pytest.raises(OSError, match="no such host"):
            lookup.addresses(PLENTY_S)


def test_waiting_ends() -> None:
    with pytest.raises(TimeoutError):
        Lookup("api.line.invalid", 80).addresses(0.0)


def test_many_who_ask_at_once_get_the_same_answer_though_one_is_killed() -> None:
    lookup = Lookup("localhost", 80)
    first, *others = [gevent.spawn(lookup.addresses, PLENTY_S) for _ in range(10)]
    gevent.sleep(0)
    first.kill()
    gevent.joinall(others, raise_error=True)
    assert len({id(other.value) for other in others}) == 1
