"""How many connections a node takes: the arithmetic, and what a real server says of itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gbot.database.address import parse
from gbot.database.connection import Arguments, Connection
from gbot.database.connector import Connector
from gbot.database.limits import limits_beside, read_limits
from gbot.database.sizing import (
    INBOX_CONNECTIONS,
    KEPT_FOR_OTHERS,
    KEPT_FREE,
    KEPT_OF_USER,
    USER_BOUND,
    ServerLimits,
    files_for_share,
    fit,
    may_be_of_other_nodes,
    share_of,
    share_of_files,
)
from gbot.errors import DatabaseMistake
from tests.journeys.mariadb import MariaDb
from tests.journeys.processes import eventually

CONNECTIONS_MAX = 40

limits = st.builds(
    ServerLimits,
    connections_max=st.integers(1, 100_000),
    user_max=st.integers(-1, 100_000),
    used=st.integers(0, 100_000),
    used_by_user=st.integers(0, 100_000),
    used_by_inbox=st.integers(0, 100_000),
)
nodes = st.integers(1, 10_000)


def limits_of(connections_max: int, used: int = 0, own: int = 0, user_max: int = 0) -> ServerLimits:
    return ServerLimits(connections_max, user_max, used, own)


# ---- the arithmetic


@given(limits, nodes, st.booleans())
def test_all_nodes_together_never_take_more_than_the_server_has(
    server: ServerLimits, nodes: int, with_inbox: bool
) -> None:
    share = share_of(server, nodes, with_inbox=with_inbox).connections
    assert share >= 0
    if share > 0:
        of_gbot = nodes * (share + INBOX_CONNECTIONS * with_inbox)
        assert of_gbot + server.used_by_others + KEPT_FREE <= server.connections_max
        assert of_gbot + KEPT_FOR_OTHERS <= server.connections_max
        assert server.user_max <= 0 or of_gbot + KEPT_OF_USER <= server.user_max


@given(limits, nodes, st.booleans())
@example(ServerLimits(151, -1, 1, 1), 1, False)  # how MariaDB says that this user has no limit
def test_no_connection_that_could_be_shared_is_left(server: ServerLimits, nodes: int, with_inbox: bool) -> None:
    share = share_of(server, nodes, with_inbox=with_inbox).connections
    one_more = nodes * (share + 1 + INBOX_CONNECTIONS * with_inbox)
    allowed = server.connections_max - max(KEPT_FOR_OTHERS, server.used_by_others + KEPT_FREE)
    of_user = max(0, server.user_max - KEPT_OF_USER)
    assert one_more > (min(allowed, of_user) if server.user_max > 0 else allowed)


@given(limits, nodes, st.booleans(), st.integers(0, 1000))
def test_a_bigger_server_a_smaller_crowd_or_fewer_nodes_never_make_the_share_smaller(
    server: ServerLimits, nodes: int, with_inbox: bool, more: int
) -> None:
    def share(connections_max: int, used: int, nodes: int) -> int:
        limits = ServerLimits(connections_max, server.user_max, used, server.used_by_user)
        return share_of(limits, nodes, with_inbox=with_inbox).connections

    own = share(server.connections_max, server.used, nodes)
    assert share(server.connections_max + more, server.used, nodes) >= own
    assert share(server.connections_max, server.used + more, nodes) <= own
    assert share(server.connections_max, server.used, nodes + more) <= own


@pytest.mark.parametrize(
    ("server", "nodes", "with_inbox", "connections", "arithmetic"),
    [
        (limits_of(151), 1, False, 141, "max_connections 151 - 10 kept for others (0 there now) = 141"),
        (
            limits_of(5100, used=130, own=50),
            4,
            True,
            1252,
            "max_connections 5100 - 82 kept for others (80 there now) = 5018; / 4 nodes = 1254; - 2 of the inbox "
            "= 1252",
        ),
        (
            limits_of(5100, used=50, own=50, user_max=100),
            2,
            False,
            49,
            "max_connections 5100 - 10 kept for others (0 there now) = 5090, of which max_user_connections 100 - 2 "
            "kept free allows 98; / 2 nodes = 49",
        ),
        (
            limits_of(20, used=30),
            1,
            True,
            0,
            "max_connections 20, no more than the 32 kept for others (30 there now)",
        ),
        (
            limits_of(11),
            1,
            True,
            0,
            "max_connections 11 - 10 kept for others (0 there now) = 1, no more than the 2 of the inbox",
        ),
        (limits_of(11), 2, True, 0, "max_connections 11 - 10 kept for others (0 there now) = 1; / 2 nodes = 0"),
        (
            limits_of(20, user_max=1),
            2,
            True,
            0,
            "max_connections 20 - 10 kept for others (0 there now) = 10, of which max_user_connections 1 allows none: "
            "2 are kept free",
        ),
        (limits_of(20, user_max=12), 1, False, 10, "max_connections 20 - 10 kept for others (0 there now) = 10"),
    ],
)
def test_the_arithmetic_is_shown(
    server: ServerLimits, nodes: int, with_inbox: bool, connections: int, arithmetic: str
) -> None:
    share = share_of(server, nodes, with_inbox=with_inbox)
    assert (share.connections, share.arithmetic) == (connections, arithmetic)


def test_what_would_have_to_be_raised_for_more_is_named() -> None:
    assert share_of(limits_of(100), 1, with_inbox=False).bound == "max_connections"
    assert share_of(limits_of(100, user_max=5), 1, with_inbox=False).bound == USER_BOUND


@given(limits, nodes, st.booleans())
def test_no_arithmetic_is_wrong(server: ServerLimits, nodes: int, with_inbox: bool) -> None:
    line = share_of(server, nodes, with_inbox=with_inbox).arithmetic
    bare = re.sub(r" kept for others \(\d+ there now\)| nodes| of the inbox", "", line)
    for before, sign, number, after in re.findall(r"(?=\b(\d+);? ([-/]) (\d+)(?: =| kept free allows) (\d+))", bare):
        result = int(before) - int(number) if sign == "-" else int(before) // int(number)
        assert result == int(after), line


@pytest.mark.parametrize(
    ("server", "is_crowded"),
    [(limits_of(100, used=8), False), (limits_of(100, used=9), True), (limits_of(100, used=9, user_max=5), False)],
)
def test_sessions_of_others_that_take_of_the_share_are_told(server: ServerLimits, is_crowded: bool) -> None:
    assert share_of(server, 1, with_inbox=False).is_crowded == is_crowded


def test_what_the_open_file_limit_leaves_may_be_nothing() -> None:
    share = share_of_files(1024)
    assert (share.connections, share.arithmetic) == (704, "open-file limit 1024 - 320 for clients and all else = 704")
    assert share_of_files(64).connections == 0
    assert "LimitNOFILE" in share.bound


@given(st.integers(0, 100_000))
def test_a_limit_of_open_files_for_a_pool_is_enough_and_no_higher(connections: int) -> None:
    limit = files_for_share(connections)
    assert share_of_files(limit).connections >= connections
    assert share_of_files(limit - 1).connections < max(1, connections)


@pytest.mark.parametrize(
    ("size", "clamp", "taken", "said"),
    [
        (29, False, 29, "--db-pool 29 fits"),
        (30, False, 0, "--db-pool 30 is more"),
        (30, True, 29, "--db-pool 30 is more"),
    ],
)
def test_a_pool_is_taken_refused_or_made_smaller(size: int, clamp: bool, taken: int, said: str) -> None:
    arithmetic = "max_connections 39 - 10 kept for others (3 there now) = 29"
    assert fit(size, share_of(limits_of(39, used=3), 1, with_inbox=False), clamp=clamp) == (
        taken,
        f"{arithmetic}; {said}",
    )


@pytest.mark.parametrize(
    ("size", "there", "nodes", "is_so"),
    [
        (19, 10, 1, False),
        (20, 10, 1, True),
        (99, 1, 1, True),
        (99, 0, 1, False),
        (20, -2, 1, False),
        (20, 10, 2, False),
    ],
)
def test_sessions_of_the_same_user_are_let_be_where_the_pool_fits_in_beside_them(
    size: int, there: int, nodes: int, is_so: bool
) -> None:
    share = share_of(limits_of(39), 1, with_inbox=False)  # 29
    assert may_be_of_other_nodes(share, size, there, nodes) == is_so


def test_where_nothing_is_left_nothing_can_be_made_smaller() -> None:
    taken, said = fit(5, share_of(limits_of(10), 1, with_inbox=False), clamp=True)
    assert (taken, said.endswith("--db-pool 5 is more, and nothing is left to take")) == (0, True)


# ---- a real server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDb]:
    server = MariaDb(
        tmp_path_factory.mktemp("mariadb"), f"--max-connections={CONNECTIONS_MAX}", "--max-user-connections=30"
    )
    yield server
    server.stop()


@pytest.fixture(scope="module")
def root(server: MariaDb) -> Iterator[Connection]:
    """The session of somebody who may do everything."""
    connection = Connector(parse(server.url)).connect()
    yield connection
    connection.close()


@pytest.fixture
def connect(server: MariaDb, root: Connection) -> Iterator[Callable[[str], Connection]]:
    """Opens sessions of users, who are made where they are not there yet. Nobody else but ``root`` has one."""
    connections: list[Connection] = []

    def connect(user: str) -> Connection:
        if user != "root":
            root.execute(f"CREATE USER IF NOT EXISTS {user}")
            root.execute(f"GRANT SELECT ON mysql.* TO {user}")
        connections.append(Connector(parse(server.url.replace("root@", f"{user}@"))).connect())
        return connections[-1]

    eventually(lambda: read_limits(root).used == 1)
    yield connect
    for connection in connections:
        connection.close()


def test_a_user_without_privileges_learns_what_the_server_allows(connect: Callable[[str], Connection]) -> None:
    first, *_ = [connect("plain") for _ in range(3)]
    assert "PROCESS" not in str(first.rows("SHOW GRANTS"))
    connect("other")
    assert read_limits(first) == ServerLimits(CONNECTIONS_MAX, user_max=30, used=5, used_by_user=3)


def test_one_who_sees_all_sessions_counts_its_own(connect: Callable[[str], Connection], root: Connection) -> None:
    for user in ("plain", "other", "other", "root"):
        connect(user)
    limits = read_limits(root)
    assert (limits.used, limits.used_by_user, limits.used_by_others) == (5, 2, 3)


def test_sessions_of_the_inbox_are_no_others(server: MariaDb, connect: Callable[[str], Connection]) -> None:
    first, *_ = [connect("plain"), connect("gbot_inbox"), connect("gbot_inbox"), connect("other")]
    url = server.url.replace("root@", "{}@")
    plain = parse(url.format("plain"))
    assert limits_beside(first, plain, parse(url.format("gbot_inbox"))).used_by_others == 2  # root and other
    assert limits_beside(first, plain, plain).used_by_others == 4
    nobody = parse(url.format("gbot_nobody"))
    assert limits_beside(first, plain, nobody).used_by_others == 4


def test_the_limit_of_an_account_goes_before_that_of_the_server(
    connect: Callable[[str], Connection], root: Connection
) -> None:
    root.execute("CREATE USER few WITH MAX_USER_CONNECTIONS 7")
    limits = read_limits(connect("few"))
    assert limits.user_max == 7
    assert share_of(limits, 1, with_inbox=False).connections == 7 - KEPT_OF_USER


def test_as_many_as_the_share_says_can_be_opened(connect: Callable[[str], Connection]) -> None:
    first, *_ = [connect("plain"), *(connect("other") for _ in range(19))]
    share = share_of(read_limits(first), 1, with_inbox=False).connections
    assert share == CONNECTIONS_MAX - 20 - KEPT_FREE
    for user in ["plain"] * (share - 1) + ["other"] * KEPT_FREE:
        connect(user)
    assert read_limits(first).used == CONNECTIONS_MAX


class Interrupted(Connection):
    """A session during whose questions another one of the same user ends: between two answers."""

    def __init__(self, inside: Connection, leaving: Connection, root: Connection) -> None:
        self.inside, self.leaving, self.root = inside, leaving, root

    def rows(self, sql: str, args: Arguments | None = None) -> list[tuple[Any, ...]]:
        found = self.inside.rows(sql, args)
        if "Threads_connected" in sql and self.leaving.is_open:
            self.leaving.close()
            eventually(lambda: int(self.root.rows(sql)[0][1]) < int(found[0][1]))
        return found


def test_a_session_of_ones_own_that_ends_meanwhile_is_not_taken_for_anothers(
    connect: Callable[[str], Connection], root: Connection
) -> None:
    asking = Interrupted(connect("plain"), connect("plain"), root)
    assert read_limits(asking).used_by_others == 1  # the root of these tests
    assert not asking.leaving.is_open


class Stranger(Connection):
    """A connection to something that answers like no MySQL: every question with the same rows."""

    def __init__(self, answer: list[tuple[object, ...]]) -> None:
        self.answer = answer

    def rows(self, sql: str, args: object = None) -> list[tuple[object, ...]]:
        return self.answer


@pytest.mark.parametrize("answer", [[], [()], [("a", "b")], [(None, None)], [(1,)], [("1", "2"), ("3", "4")]])
def test_answers_that_tell_nothing_are_a_mistake_of_the_server(answer: list[tuple[object, ...]]) -> None:
    with pytest.raises(DatabaseMistake, match="not those of MySQL or MariaDB"):
        read_limits(Stranger(answer))
