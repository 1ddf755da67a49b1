"""From the settings to a pool: what is decided before, and without, a server. The rest is in the journeys."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from gbot.config_sources import load
from gbot.database.address import parse
from gbot.database.connector import Connector
from gbot.database.limits import inbox_beside
from gbot.database.opening import DatabaseSettings, Opening
from gbot.database.sizing import INBOX_CONNECTIONS, share_of_files
from gbot.engine import build_database
from gbot.errors import DatabaseAway, StartError
from tests.journeys.processes import free_port

SETTINGS = DatabaseSettings(
    address=parse("mysql://bot:pa55@db.example:3306/bot"),
    size=50,
    warm=10,
    wait_s=5.0,
    hold_warning_s=30.0,
    nodes=1,
    clamp=False,
)
PLENTY = share_of_files(10_000)


@pytest.mark.parametrize(
    ("inbox", "with_inbox"),
    [
        ("memory:", False),
        ("sqlite:///var/lib/gbot/inbox.sqlite3", False),
        ("mysql://gbot@db.example/gbot", True),
        ("mysql://gbot@db.example:3306/other?tls=verify", True),
        ("mysql://gbot@db.example:3307/gbot", False),
        ("mysql://gbot@other.example/gbot", False),
        ("mysql://gbot@db.example/gbot?unix_socket=/run/mysqld.sock", False),
    ],
)
def test_the_inbox_has_its_part_where_it_is_on_the_same_server(inbox: str, with_inbox: bool) -> None:
    assert (inbox_beside(SETTINGS.address, inbox) is not None) == with_inbox


def test_a_pool_that_the_open_file_limit_has_room_for_is_as_big_as_asked() -> None:
    opening = Opening(SETTINGS, share_of_files(151))
    assert (opening.size, opening.database.statistics().size) == (50, 50)


def test_one_that_it_has_no_room_for_is_refused_before_anybody_is_asked() -> None:
    with pytest.raises(StartError) as raised:
        Opening(SETTINGS, share_of_files(150))
    assert str(raised.value) == (
        "Database mysql://bot@db.example:3306/bot: open-file limit 150 - 101 for clients and all else = 49; "
        "--db-pool 50 is more. Lower it, raise the open-file limit (systemd: LimitNOFILE=), or take what there is with "
        "--db-oversize clamp."
    )


def test_or_is_made_smaller(caplog: pytest.LogCaptureFixture) -> None:
    opening = Opening(replace(SETTINGS, clamp=True), share_of_files(150))
    assert (opening.size, opening.database.statistics().size) == (49, 49)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().endswith("--db-pool 50 is more: taking 49")


@pytest.mark.parametrize("clamp", [False, True])
def test_when_nothing_is_left_it_is_refused_in_any_case(clamp: bool) -> None:
    with pytest.raises(StartError, match="nothing is left to take"):
        Opening(replace(SETTINGS, clamp=clamp), share_of_files(85))


def test_who_asks_a_server_that_is_not_there_is_told_so_and_to_come_again(caplog: pytest.LogCaptureFixture) -> None:
    address = parse(f"mysql://bot:pa55@127.0.0.1:{free_port()}/bot")
    opening = Opening(replace(SETTINGS, address=address), PLENTY)
    opening.start()
    with pytest.raises(DatabaseAway, match="Connection refused") as raised:
        opening.database.query("SELECT 1")
    opening.stop()
    assert raised.value.after_s > 0
    assert "cannot be used now" in caplog.text
    assert "pa55" not in caplog.text


@pytest.mark.parametrize(("size", "is_told"), [(5, False), (5000, True)])
def test_sessions_of_the_same_user_are_told_where_the_pool_does_not_fit_in_beside_them(
    mysql_url: str, caplog: pytest.LogCaptureFixture, size: int, is_told: bool
) -> None:
    address = parse(mysql_url)
    there = [Connector(address).connect() for _ in range(INBOX_CONNECTIONS + 1)]
    opening = Opening(replace(SETTINGS, address=address, size=size, warm=0, clamp=True), PLENTY)
    try:
        opening.start()
    finally:
        opening.stop()
        for connection in there:
            connection.close()
    assert ("if they are those of other nodes, set --db-share" in caplog.text) == is_told


def test_the_settings_are_those_of_the_config() -> None:
    assert build_database(load({}, {}, None)[0]) is None
    flags = {"db_pool": "7", "db_oversize": "clamp", "db_share": "3"}
    opening = build_database(load(flags, {"GBOT_DB": "mysql://bot:pa55@db.example/bot"}, None)[0])
    assert opening is not None
    assert opening.size == 7
    assert opening.database.name == "mysql://bot@db.example:3306/bot"
