"""The arithmetic of a plan: what follows from what, and that a plan has enough of everything it says it has."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gbot.config import SETTINGS
from gbot.planning import plan
from gbot.planning.plan import Database, DatabaseServer, Load, Node, Plan, make_plan
from tests.planning_rig import COSTS, NODE, OLD_CASE, changed, headrooms, loads, nodes, plan_for, question, servers


def planned(load: Load, **given: Any) -> Plan:
    return plan_for(question(load, **given))


# ---- the parts


def test_little_s_law_counts_who_is_there_at_once() -> None:
    assert plan.at_once(2000, 2.5) == 5000
    assert plan.at_once(0.5, 2) == 1


def test_headroom_is_added_to_the_mean() -> None:
    assert plan.with_headroom(5000, 0.3) == 6500


@pytest.mark.parametrize(("value", "whole"), [(5.2, 6), (6.0, 6), (2000 * 1.1, 2200), (0.0, 0), (0.001, 1)])
def test_a_part_of_a_place_needs_a_whole_one_but_rounding_errors_do_not(value: float, whole: int) -> None:
    assert plan.rounded_up(value) == whole


@given(st.integers(0, 10**7), st.integers(1, 1000))
def test_the_nodes_parts_are_the_whole_and_none_is_needless(total: int, count: int) -> None:
    each = plan.per_node(total, count)
    assert each * count >= total
    assert (each - 1) * count < total or each == 0


@given(st.integers(1, 2 * plan.NODES_MAX))
def test_the_fewest_nodes_that_are_enough_are_found(least: int) -> None:
    found = plan.fewest_nodes(lambda count: count >= least)
    assert found == (least if least <= plan.NODES_MAX else None)


def test_some_connections_are_kept_for_people_and_for_the_inbox() -> None:
    assert plan.db_share(5100, 4, has_inbox=False) == (5100 - 10) // 4
    assert plan.db_share(5100, 4, has_inbox=True) < plan.db_share(5100, 4, has_inbox=False)
    assert plan.db_share(5, 4, has_inbox=True) == 0


@given(st.integers(1, 5000), st.integers(1, 100), st.booleans())
def test_the_lowest_max_connections_is_found(share: int, count: int, has_inbox: bool) -> None:
    found = plan.max_connections_for(share, count, has_inbox)
    if found is None:
        assert plan.db_share(plan.CONNECTIONS_MAX, count, has_inbox) < share
    else:
        assert plan.db_share(found, count, has_inbox) >= share
        assert plan.db_share(found - 1, count, has_inbox) < share


@given(st.integers(1, 100_000), st.integers(1, 1000), st.booleans())
def test_the_shares_of_all_nodes_leave_the_rest_free(connections: int, count: int, has_inbox: bool) -> None:
    share = plan.db_share(connections, count, has_inbox)
    assert share == 0 or share * count <= connections - 10


# ---- the whole


def test_the_old_case_needs_ten_connections_and_not_five_thousand() -> None:
    found = planned(OLD_CASE, server=DatabaseServer(4921, has_inbox=False))
    assert (found.totals.handlers, found.totals.pool) == (5000, 6500)
    assert (found.totals.connections, found.totals.db_pool) == (4, 6)
    assert (found.nodes, found.share.db_pool, found.feasible) == (1, 10, True)
    assert found.bound.resource == "CPU"


def test_a_worker_is_one_core_however_many_a_node_has() -> None:
    load = changed(OLD_CASE, events_per_s=6000)
    few, many = planned(load, node=Node(1, None, 65_536)), planned(load, node=Node(64, None, 65_536))
    assert few.nodes == many.nodes == 2
    assert (planned(load, node=Node(0.5, None, 65_536)).nodes or 0) > 2


@pytest.mark.parametrize(
    ("node", "resource"),
    [
        (Node(2, 200 * 2**20, 65_536), "memory"),
        (Node(2, 2**31, 1024), "open files"),
        (Node(0.1, 2**31, 65_536), "CPU"),
    ],
)
def test_the_resource_that_decides_is_named(node: Node, resource: str) -> None:
    load = changed(OLD_CASE, events_per_s=5000)
    found = planned(load, node=node)
    assert found.bound.resource == resource
    assert found.nodes is not None
    assert found.nodes > 1


def test_a_node_is_given_no_larger_pool_than_gbot_serve_takes() -> None:
    long = changed(OLD_CASE, latency_s=1000, calls=0, queries=0)
    found = planned(long, node=Node(2, None, 65_536))
    assert (found.nodes, found.share.pool, found.bound.resource) == (3, 866_667, "handlers")
    pool = SETTINGS["pool"].kind
    assert pool.read(str(plan.POOL_MAX)) == plan.POOL_MAX
    with pytest.raises(ValueError):  # noqa: PT011 - a Kind says nothing but that
        pool.read(str(plan.POOL_MAX + 1))


def test_memory_that_is_too_small_for_nothing_at_all_helps_nobody() -> None:
    found = planned(OLD_CASE, node=Node(2, 20 * 2**20, 65_536))
    assert (found.nodes, found.feasible, found.bound.resource) == (None, False, "memory")


def test_more_nodes_do_not_make_more_connections() -> None:
    slow = changed(OLD_CASE, queries=3, query_s=0.2)
    server = DatabaseServer(1000, has_inbox=False)
    found = planned(slow, server=server)
    assert not found.database_allows
    assert found.bound.resource == "database connections"
    most = plan.events_per_s_max(server, found.shared_by, slow, 0.3)
    assert planned(changed(slow, events_per_s=0.9 * most), server=server).database_allows
    assert not planned(changed(slow, events_per_s=1.1 * most), server=server).database_allows


def test_a_small_server_gives_what_it_has_where_that_is_enough() -> None:
    found = planned(OLD_CASE, server=DatabaseServer(17, has_inbox=False))
    assert (found.database_allows, found.share.db_needed, found.share.db_pool) == (True, 6, 7)


def test_one_node_more_shares_the_database_too() -> None:
    found = planned(OLD_CASE, server=DatabaseServer(100, has_inbox=False))
    assert found.database == Database(1, needed=6, pool=10, allowed=90, max_connections_needed=16)
    assert found.database_with_spare == Database(2, needed=6, pool=10, allowed=45, max_connections_needed=22)
    scarce = planned(OLD_CASE, server=DatabaseServer(17, has_inbox=False)).database_with_spare
    assert scarce is not None
    assert (scarce.allowed, scarce.fits) == (3, False)


def test_a_server_that_nobody_has_named_is_to_take_the_pool() -> None:
    found = planned(OLD_CASE).database
    assert found == Database(1, needed=6, pool=10, allowed=None, max_connections_needed=20)


def test_a_pool_is_never_so_small_that_it_could_hold_anybody_up() -> None:
    found = planned(changed(OLD_CASE, latency_s=0, calls=0, queries=0))
    assert (found.totals.pool, found.share.pool) == (0, 100)


def test_without_queries_nothing_is_asked_of_a_database() -> None:
    found = planned(changed(OLD_CASE, queries=0), server=DatabaseServer(11, has_inbox=False))
    assert (found.totals.db_pool, found.share.db_pool, found.database) == (0, 0, None)
    assert plan.events_per_s_max(DatabaseServer(11, has_inbox=False), 1, changed(OLD_CASE, queries=0), 0) == math.inf


@given(loads, nodes, servers, headrooms)
@example(OLD_CASE, NODE, DatabaseServer(4921, has_inbox=False), 0.3)
def test_a_plan_has_enough_of_everything_on_each_node(
    load: Load, node: Node, server: DatabaseServer, headroom: float
) -> None:
    found = make_plan(load, COSTS, node, server, headroom)
    if found.nodes is None:
        assert any(need.nodes is None for need in found.needs)
        return
    own, count = found.share, found.nodes
    assert own.pool * count >= load.events_per_s * load.latency_s * (1 + headroom) - 1e-5
    assert load.events_per_s * 100e-6 * (1 + headroom) <= count * min(node.cores, 1) * (1 + 1e-9)
    assert own.open_files <= node.open_files
    assert not load.calls or 2 * own.pool <= node.open_files
    if node.memory_bytes is not None:
        assert 50 * 2**20 + own.pool * 10 * 1024 + own.db_pool * 40 * 1024 <= node.memory_bytes
    if server.max_connections is not None and own.db_pool and found.database_allows:
        kept = 10 + (2 if server.has_inbox else 0) * count
        assert own.db_pool * count + kept <= server.max_connections
        held = load.events_per_s * load.queries * load.query_s * (1 + headroom)
        assert own.db_pool * count >= held - 1e-5
        spare = found.database_with_spare
        assert spare is not None
        assert spare.nodes == count + 1
        if spare.fits:
            assert (
                spare.pool * spare.nodes + 10 + (2 if server.has_inbox else 0) * spare.nodes <= server.max_connections
            )
            assert spare.pool * count >= held - 1e-5  # one is away


@given(loads, nodes, servers, headrooms)
def test_one_node_less_would_not_be_enough(load: Load, node: Node, server: DatabaseServer, headroom: float) -> None:
    found = make_plan(load, COSTS, node, server, headroom)

    def has_enough(count: int) -> bool:
        own = plan.share(found.totals, count, load, COSTS, server)
        has_memory = node.memory_bytes is None or own.memory_bytes <= node.memory_bytes
        has_places = own.pool <= 1_000_000 and own.open_files <= node.open_files
        return own.cores <= min(node.cores, 1) and has_places and has_memory

    if found.nodes is not None:
        assert has_enough(found.nodes)
        assert found.nodes == 1 or not has_enough(found.nodes - 1)
    else:
        assert not has_enough(plan.NODES_MAX)


@given(loads, headrooms, st.sampled_from(["events_per_s", "latency_s", "queries", "query_s"]), st.floats(1, 10))
def test_a_larger_load_never_needs_less(load: Load, headroom: float, field: str, factor: float) -> None:
    larger = changed(load, **{field: getattr(load, field) * factor})
    less, more = planned(load, headroom=headroom), planned(larger, headroom=headroom)
    assert more.totals.pool >= less.totals.pool
    assert more.totals.cores_needed >= less.totals.cores_needed
    assert more.totals.db_pool >= less.totals.db_pool
    assert (more.nodes or math.inf) >= (less.nodes or math.inf)


@given(loads, headrooms, st.floats(0, 3))
def test_more_headroom_never_needs_less(load: Load, headroom: float, more: float) -> None:
    less, larger = planned(load, headroom=headroom), planned(load, headroom=headroom + more)
    assert larger.totals.pool >= less.totals.pool
    assert (larger.nodes or math.inf) >= (less.nodes or math.inf)


@given(loads, nodes, st.floats(1, 4))
def test_larger_nodes_are_never_more(load: Load, node: Node, factor: float) -> None:
    memory = None if node.memory_bytes is None else int(node.memory_bytes * factor)
    larger = Node(node.cores * factor, memory, int(node.open_files * factor))
    assert (planned(load, node=larger).nodes or math.inf) <= (planned(load, node=node).nodes or math.inf)
