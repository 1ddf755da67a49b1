"""gbot.database.address: URLs, and what is not one."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbot.database import address as module
from gbot.database.address import EXPECTED, NoAddress, parse

SECRET: Final = "sEcReT"
TEXTS: Final = {value for value in vars(module).values() if isinstance(value, str)}  # constants, all of them


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
    ("url", "problem"),
    [
        (f"mysql://bot:{SECRET}@db/", "has no /database"),
        (f"mysql://bot:{SECRET}@db", "has no /database"),
        (f"mysql://bot:{SECRET}@db/a/b", "more than one /"),
        (f"mysql://bot:p@{SECRET}/word@db", "an @ behind the host"),
        (f"mysql://bot:p@{SECRET}/word@db/chat", "an @ behind the host"),
        (f"mysql://bot:{SECRET}@/chat", "has no host"),
        (f"mysql://bot:{SECRET}@:3306/chat", "has no host"),
        (f"mysql://:{SECRET}@db/chat", "has no user"),
        (f"mysql://root:{SECRET}/chat", "has no user before the host"),
        (f"mysql://bot:{SECRET}@db:0/chat", "has a port that is no number"),
        (f"mysql://bot:{SECRET}@db:99999/chat", "has a port that is no number"),
        (f"mysql://bot:{SECRET}@db:{SECRET}/chat", "has a port that is no number"),
        (f"mysql://bot:{SECRET}@db/chat?tls=maybe", "tls= that is neither off, on nor verify"),
        (f"mysql://bot:{SECRET}@db/chat?charset=utf8", "has another option than tls and unix_socket"),
        (f"mysql://bot:{SECRET}@db/chat?unix_socket=", "unix_socket= without a path"),
        (f"mysql://bot:{SECRET}@db/chat?password={SECRET}", "has another option"),
        (f"mysql://bot:{SECRET}@db/chat?{SECRET}", "has another option"),
        (f"mysql://bot:{SECRET}@db/chat#{SECRET}", "has a #"),
        (f"mysql://bot:{SECRET}/x@db/chat", "or a / ? or # in user or password that is not percent-encoded"),
        (f"mysql://bot:{SECRET}#x@db/chat", "or a / ? or # in user or password that is not percent-encoded"),
        (f"mysql://bot:9{SECRET}?x@db/chat", "or a / ? or # in user or password that is not percent-encoded"),
        (f"postgres://bot:{SECRET}@db/chat", "does not begin with mysql://"),
        (f"{SECRET}:bot@db/chat", "does not begin with mysql://"),
        (f"mysql://bot:{SECRET}@{'x' * 70}/chat", "has a host that is none"),
        (f"mysql://[bot:{SECRET}@db/chat", "or a [ or ] in the password"),
        ("", "does not begin with mysql://"),
    ],
)
def test_what_is_no_address_is_refused_with_what_is_wrong_and_without_its_password(url: str, problem: str) -> None:
    with pytest.raises(NoAddress, match=r"expected mysql://.*; this one (?:has|does)") as caught:
        parse(url)
    assert problem in caught.value.problem
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@given(st.text())
@settings(derandomize=True)
def test_any_text_is_read_or_refused(text: str) -> None:
    for url in (text, f"mysql://{text}"):
        try:
            address = parse(url)
        except NoAddress as error:
            assert error.problem in TEXTS  # noqa: PT017
            assert str(error) == f"expected {EXPECTED}; this one {error.problem}"  # noqa: PT017
        else:
            assert address.host
            assert address.database


def test_the_password_is_in_no_representation() -> None:
    address = parse(f"mysql://bot:{SECRET}@db/chat")
    assert SECRET not in repr(address) + address.place
