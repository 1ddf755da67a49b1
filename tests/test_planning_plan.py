"""The arithmetic of a plan: what follows from what, and that a plan has enough of everything it says it has."""

from __future__ import annotations

import json
import math

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gbot.planning import plan, screens
from gbot.planning.costs import Measured, from_report, measured_costs, read_figures, usual_costs, waiting_kb
from gbot.planning.plan import Costs, DatabaseServer, Load, Node, Part, Plan, make_plan

FIGURES = read_figures()
NODE = Node(cores=2, memory_bytes=2 * 2**30, open_files=65_536)
NOBODY_SAID = DatabaseServer(None, has_inbox=False)
OLD_CASE = Load(events_per_s=2000, latency_s=2.5, queries=1, query_s=0.002, calls=1)
COSTS = Costs((Part("all", 100.0),), waiting_kb=10, connection_kb=40, base_mb=50)

loads = st.builds(
    Load,
    events_per_s=st.floats(0.01, 1e6),
    latency_s=st.floats(0, 3600),
    queries=st.floats(0, 100),
    query_s=st.floats(1e-5, 10),
    calls=st.sampled_from([0.0, 1.0, 3.0]),
)
nodes = st.builds(
    Node,
    cores=st.floats(0.1, 64),
    memory_bytes=st.none() | st.integers(64 * 2**20, 2**40),
    open_files=st.integers(256, 2**20),
)
servers = st.builds(DatabaseServer, st.none() | st.integers(1, 100_000), st.booleans())
headrooms = st.floats(0, 3)


def planned(load: Load, node: Node = NODE, server: DatabaseServer = NOBODY_SAID, headroom: float = 0.3) -> Plan:
    return make_plan(load, usual_costs(FIGURES, load), node, server, headroom)


def changed(load: Load, **fields: float) -> Load:
    return msgspec.structs.replace(load, **fields)


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
    few, many = planned(load, Node(1, None, 65_536)), planned(load, Node(64, None, 65_536))
    assert few.nodes == many.nodes == 2
    assert (planned(load, Node(0.5, None, 65_536)).nodes or 0) > 2


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
    found = planned(load, node)
    assert found.bound.resource == resource
    assert found.nodes is not None
    assert found.nodes > 1


def test_memory_that_is_too_small_for_nothing_at_all_helps_nobody() -> None:
    found = planned(OLD_CASE, Node(2, 20 * 2**20, 65_536))
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


def test_a_pool_is_never_so_small_that_it_could_hold_anybody_up() -> None:
    found = planned(changed(OLD_CASE, latency_s=0, calls=0, queries=0))
    assert (found.totals.pool, found.share.pool) == (0, 100)
    assert "100 on the node, as fewer save nothing" in sentences(question(changed(OLD_CASE, latency_s=0.001)))


def test_without_queries_nothing_is_asked_of_a_database() -> None:
    found = planned(changed(OLD_CASE, queries=0), server=DatabaseServer(11, has_inbox=False))
    assert (found.totals.db_pool, found.share.db_pool, found.db_share) == (0, 0, None)
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


@given(loads, nodes, servers, headrooms)
def test_one_node_less_would_not_be_enough(load: Load, node: Node, server: DatabaseServer, headroom: float) -> None:
    found = make_plan(load, COSTS, node, server, headroom)

    def has_enough(count: int) -> bool:
        own = plan.share(found.totals, count, load, COSTS, server)
        has_memory = node.memory_bytes is None or own.memory_bytes <= node.memory_bytes
        return own.cores <= min(node.cores, 1) and own.open_files <= node.open_files and has_memory

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
    assert (planned(load, larger).nodes or math.inf) <= (planned(load, node).nodes or math.inf)


# ---- what it costs


def test_every_figure_says_where_it_is_from() -> None:
    for name in FIGURES.__struct_fields__:
        figure = getattr(FIGURES, name)
        assert figure.value > 0, name
        assert figure.command.startswith("python bench/"), name
        assert figure.what, name


def test_a_call_and_a_query_cost_what_they_add_to_a_wait() -> None:
    alone = usual_costs(FIGURES, changed(OLD_CASE, queries=0, calls=0)).cpu_us
    call = usual_costs(FIGURES, changed(OLD_CASE, queries=0, calls=2)).cpu_us
    query = usual_costs(FIGURES, changed(OLD_CASE, queries=3, calls=0)).cpu_us
    assert call - alone == pytest.approx(2 * (FIGURES.call.value - FIGURES.asleep.value))
    assert query - alone == pytest.approx(3 * (FIGURES.query.value - FIGURES.asleep.value))


def test_a_handler_that_does_nothing_costs_no_wait() -> None:
    costs = usual_costs(FIGURES, Load(1, 0, 0, 0.002, 0))
    assert costs.cpu_us == FIGURES.alone.value
    assert costs.waiting_kb == FIGURES.waiting_kb.value


def test_storing_calls_and_further_queries_are_added_to_what_was_measured() -> None:
    measured = Measured("measured", 2.5, 500.0, 60.0, None, queries=1, query_s=0.002)
    costs = measured_costs(FIGURES, changed(OLD_CASE, queries=3, calls=1), measured)
    call = FIGURES.call.value - FIGURES.asleep.value
    query = FIGURES.query.value - FIGURES.asleep.value
    storing = FIGURES.alone.value - FIGURES.in_memory.value
    assert costs.cpu_us == pytest.approx(500 + storing + call + 2 * query)
    assert (costs.base_mb, costs.waiting_kb) == (60.0, FIGURES.calling_kb.value)
    stored = msgspec.structs.replace(measured, stored=True)
    assert measured_costs(FIGURES, changed(OLD_CASE, calls=0), stored).cpu_us == 500


def test_few_waiting_handlers_tell_nothing_of_memory() -> None:
    assert waiting_kb(1024 * 1000, 99, 0, FIGURES) is None
    assert waiting_kb(1024 * 1000, 100, 0, FIGURES) == 10
    with_connections = waiting_kb(1024 * 1000, 100, 10, FIGURES)
    assert with_connections == pytest.approx(10 - 10 * FIGURES.connection_kb.value / 100)
    assert waiting_kb(-5000, 100, 0, FIGURES) == 1


# ---- a report of the benchmarks


def run(**fields: object) -> dict[str, object]:
    """One run of a report as bench/run.py writes it."""
    asked = {"asked_events_per_s": 1900.0, "events_per_s": 2000.0, "ack_ms": {"p50": 0.4}, "cpu_us_per_event": 120.0}
    return asked | {"rss_mb": 110.0, "idle_rss_mb": 50.0, "waiting_median": 5000, "db_connections_max": 50} | fields


def report(**scenarios: dict[str, object]) -> bytes:
    made = {name.removeprefix("s"): {"title": "", "runs": runs} for name, runs in scenarios.items()}
    return json.dumps({"gbot_report": 1, "date": "2026-11-22", "scenarios": made}).encode()


def test_a_report_tells_latency_cpu_and_memory() -> None:
    found = from_report(report(s1={"gbot": run()}, s3={"gbot": run(), "fastapi": {}}), FIGURES, without_queries=False)
    assert found.where == "scenario 3 of the report"
    assert (found.latency_s, found.cpu_us, found.base_mb, found.queries) == (2.5, 120.0, 50.0, 1.0)
    assert found.waiting_kb == pytest.approx(60 * 1024 / 5000)


def test_a_plan_without_queries_takes_the_scenario_without_one() -> None:
    raw = report(s2={"gbot": run(db_connections_max=None)}, s3={"gbot": run()})
    found = from_report(raw, FIGURES, without_queries=True)
    assert (found.where, found.queries) == ("scenario 2 of the report", 0.0)


def test_a_report_without_waiting_tells_no_memory_of_it() -> None:
    found = from_report(report(s1={"gbot": run(waiting_median=None)}), FIGURES, without_queries=False)
    assert (found.latency_s, found.waiting_kb) == (0.0, None)


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"{", "no report of bench/run.py"),
        (b"[]", "no report of bench/run.py"),
        (b'{"gbot_report": 2, "scenarios": {}}', "version 1, not 2"),
        (report(), "nothing of gbot"),
        (report(s2={"fastapi": run()}), "nothing of gbot"),
        (report(s2={"gbot": {"events_per_s": "fast"}}), "scenario 2 of gbot"),
        (report(s2={"gbot": run(events_per_s=0)}), "no event was completed"),
    ],
)
def test_what_is_no_report_is_told_so(raw: bytes, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        from_report(raw, FIGURES, without_queries=False)


# ---- what is shown


def question(load: Load, server: DatabaseServer = NOBODY_SAID, node: Node = NODE) -> screens.Question:
    return screens.Question(load, usual_costs(FIGURES, load), node, server, 0.3, {"query_s": "default"}, "")


def shown(asked: screens.Question, width: int = 300) -> str:
    found = make_plan(asked.load, asked.costs, asked.node, asked.server, asked.headroom)
    return "\n".join(screens.plan_lines(asked, found, width))


def sentences(asked: screens.Question) -> str:
    """What is shown, however its lines are broken."""
    return " ".join(shown(asked).split())


def test_each_line_shows_its_arithmetic() -> None:
    text = sentences(question(OLD_CASE, DatabaseServer(5100, has_inbox=True)))
    assert "2,000/s x 2.5 s = 5,000 at once; with 30 % headroom 6,500" in text
    assert "2,000/s x 1 query x 2 ms (default) = 4 connections held at once; with 30 % headroom 6" in text
    assert "(5,100 - 10 kept for people and tools) / 1 node - 2 for its inbox = 5,088 for each: enough" in text
    assert "gbot serve APP --pool 6500 --db-pool 10" in text


def test_several_nodes_share_the_database() -> None:
    text = shown(question(changed(OLD_CASE, events_per_s=8000)))
    assert "3 nodes, because of CPU" in text
    assert "--db-share 3" in text


def test_what_cannot_be_done_is_said_with_what_could_be() -> None:
    slow = changed(OLD_CASE, queries=3, query_s=0.2)
    text = sentences(question(slow, DatabaseServer(1000, has_inbox=False)))
    assert "too few connections. Each of 1 node needs 1,560 and may have 990" in text
    assert "1,269 events/s" in text
    assert "gbot serve" not in text
    assert "not enough of one thing: memory" in shown(question(OLD_CASE, node=Node(2, 2**20, 65_536)))


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = shown(question(OLD_CASE, DatabaseServer(5100, has_inbox=True)), width).splitlines()
    assert max(map(len, lines)) <= max(width, 72)


@given(loads, nodes, servers, headrooms)
def test_every_plan_can_be_shown_and_told_to_programs(
    load: Load, node: Node, server: DatabaseServer, headroom: float
) -> None:
    asked = screens.Question(load, COSTS, node, server, headroom, {}, "")
    found = make_plan(load, COSTS, node, server, headroom)
    assert screens.plan_lines(asked, found, 100)
    told = json.loads(screens.plan_json(asked, found))
    assert told["nodes"] == found.nodes
    assert told["feasible"] == found.feasible
