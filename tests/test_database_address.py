"""gbot.database.address: URLs, and what is not one."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbot.database.address import EXPECTED, parse

SECRET: Final = "sEcReT"


def test_an_address_is_read() -> None:
    address = parse("mysql://bot:pass@db.example.org:3307/chat")
    assert (address.user, address.password, address.host, address.port) == ("bot", "pass", "db.example.org", 3307)
    assert (address.database, address.unix_socket, address.tls) == ("chat", None, "on")
    assert address.place == "mysql://bot@db.example.org:3307/chat"


def test_user_password_and_database_are_percent_decoded() -> None:
    address = parse("mysql://b%40t:p%3A%2F%3F%23%25@h/d%C3%A9%20b")
    assert (address.user, address.password, address.database, address.port) == ("b@t", "p:/?#%", "dé b", 3306)


def test_a_socket_and_this_machine_need_no_tls() -> None:
    address = parse("mysql://bot@localhost/chat?unix_socket=/run/mysqld/mysqld.sock")
    assert (address.unix_socket, address.tls) == ("/run/mysqld/mysqld.sock", "off")
    assert address.place == "mysql://bot@localhost/chat?unix_socket=/run/mysqld/mysqld.sock"
    assert parse("mysql://bot@127.0.0.1/chat").tls == parse("mysql://bot@[::1]/chat").tls == "off"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("mysql://a@127.0.0.1:3307/x", "mysql://b@localhost:3307/y", True),
        ("mysql://a@127.0.0.1:3307/x", "mysql://b@localhost:3306/y", False),
        ("mysql://a@localhost/x?unix_socket=/run/m.sock", "mysql://b@[::1]/y", True),
        ("mysql://a@localhost/x", "mysql://b@db.example/y", False),
    ],
)
def test_this_machine_has_several_names(one: str, other: str, same: bool) -> None:
    assert parse(one).is_beside(parse(other)) is parse(other).is_beside(parse(one)) is same


def test_tls_can_be_chosen() -> None:
    assert parse("mysql://bot@127.0.0.1/chat?tls=verify").tls == "verify"
    assert parse("mysql://bot@db/chat?tls=off").tls == "off"


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://bot:{SECRET}@db/",
        f"mysql://bot:{SECRET}@db",
        f"mysql://bot:{SECRET}@db/a/b",
        f"mysql://bot:{SECRET}@/chat",
        f"mysql://:{SECRET}@db/chat",
        f"mysql://bot:{SECRET}@db:0/chat",
        f"mysql://bot:{SECRET}@db:99999/chat",
        f"mysql://bot:{SECRET}@db/chat?tls=maybe",
        f"mysql://bot:{SECRET}@db/chat?password={SECRET}",
        f"mysql://bot:{SECRET}@db/chat?unix_socket=",
        f"mysql://bot:{SECRET}@db/chat?{SECRET}",
        f"mysql://bot:{SECRET}@db/chat#{SECRET}",
        f"mysql://bot:{SECRET}/x@db/chat",
        f"mysql://bot:{SECRET}#x@db/chat",
        f"mysql://bot:9{SECRET}?x@db/chat",
        f"postgres://bot:{SECRET}@db/chat",
        f"mysql://bot:{SECRET}@{'x' * 70}/chat",
        f"mysql://[bot:{SECRET}@db/chat",
        "",
    ],
)
def test_what_is_no_address_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="expected mysql://") as caught:
        parse(url)
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@given(st.text())
@settings(deadline=None, derandomize=True)
def test_any_text_is_read_or_refused(text: str) -> None:
    for url in (text, f"mysql://{text}"):
        try:
            address = parse(url)
        except ValueError as error:
            assert str(error) == f"expected {EXPECTED}"  # noqa: PT017
        else:
            assert address.host
            assert address.database


def test_the_password_is_in_no_representation() -> None:
    address = parse(f"mysql://bot:{SECRET}@db/chat")
    assert SECRET not in repr(address) + address.place
