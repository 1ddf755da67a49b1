"""What ``gbot plan`` answers, to people and to programs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbot.database.sizing import ServerLimits, share_of
from gbot.planning import verdict, words
from gbot.planning.costs import MYSQL, Measured, measured_costs
from gbot.planning.plan import DatabaseServer, Node
from gbot.planning.rds import Origin
from gbot.planning.screens import Question
from tests.planning_rig import CLASSES, FIGURES, MIB, OLD_CASE, ORIGIN, changed, plan_for, question, questions


def shown(asked: Question, width: int = 300) -> str:
    return "\n".join(verdict.plan_lines(asked, plan_for(asked), width))


def told(asked: Question) -> Any:
    return json.loads(verdict.plan_json(asked, plan_for(asked)))


def sentences(asked: Question) -> str:
    """What is shown, however its lines are broken."""
    return " ".join(shown(asked).split())


def test_each_line_shows_its_arithmetic() -> None:
    text = sentences(question(OLD_CASE, DatabaseServer(5100, has_inbox=True)))
    assert "2,000/s x 2.5 s = 5,000 at once; with 30 % headroom 6,500" in text
    assert "2,000/s x 1 use of a connection x 2 ms (default) = 4 at once; with 30 % headroom 5.2, rounded up 6" in text
    assert "max_connections 5,100 - 10 kept for others = 5,090; - 2 of the inbox = 5,088: enough" in text
    assert "40.3 µs to take, store and run it" in text
    assert (
        "57.4 MiB + 6,500 handlers x 17.3 KiB + 10 connections x 10 KiB = 167 MiB on the node of 2 GiB: 1 node" in text
    )


def test_the_verdict_says_why_and_how_each_node_is_started() -> None:
    lines = shown(question(OLD_CASE, DatabaseServer(5100, has_inbox=True), app="my bot:bot")).splitlines()
    assert lines[-5:] == [
        "1 node. Its tightest resource: CPU, 57 % of a core, headroom included.",
        "Start it with:",
        "  gbot serve 'my bot:bot' --pool 6500 --db-pool 10",
        "With one more, so that one may be away, start each of the 2 with:",
        "  gbot serve 'my bot:bot' --pool 6500 --db-pool 10 --db-share 2",
    ]
    lines = shown(question(changed(OLD_CASE, queries=0))).splitlines()
    assert lines[-2:] == ["  gbot serve APP --pool 6500", "One more, started in the same way, lets one be away."]


@given(st.integers(1, 200_000), st.integers(1, 50), st.booleans())
def test_the_share_is_told_as_gbot_serve_tells_it(connections: int, count: int, has_inbox: bool) -> None:
    server = DatabaseServer(connections, has_inbox)
    text = words.share_text(server, count, ORIGIN)
    assert "there now" not in text  # nobody has looked
    own = share_of(ServerLimits(connections, 0, 0, 0), count, with_inbox=has_inbox)
    assert text.replace(",", "") == own.arithmetic.replace(" (0 there now)", "").replace(",", "")
    assert not own.connections or text.endswith(f"= {own.connections:,}")


@pytest.mark.parametrize("connections", [5, 151])
def test_where_max_connections_is_from_stands_beside_it(connections: int) -> None:
    text = words.share_text(DatabaseServer(connections, has_inbox=False), 1, Origin("mysql", is_asked=True))
    assert text.startswith(f"max_connections {connections} (as the bot's database here says)")


def test_an_inbox_that_is_not_in_the_bot_s_database_has_connections_of_its_own() -> None:
    stored = msgspec.structs.replace(question(OLD_CASE), stored_in=MYSQL)
    assert "the inbox: 2 connections of the node in its own server" in sentences(stored)
    beside = msgspec.structs.replace(stored, server=DatabaseServer(None, has_inbox=True))
    assert "the inbox:" not in sentences(beside)  # they are in what max_connections has to be
    assert "max_connections has to be 22 or more" in sentences(beside)
    idle = msgspec.structs.replace(beside, load=changed(OLD_CASE, queries=0))
    assert "no queries the inbox: 2 connections of the node there" in sentences(idle)
    assert "inbox" not in sentences(question(OLD_CASE))
    assert told(stored)["from"]["stored_in"] == "MySQL"


def test_one_event_is_asked_for_as_one() -> None:
    assert shown(question(changed(OLD_CASE, events_per_s=1))).startswith("How many servers for 1 event/s?\n")
    assert shown(question(OLD_CASE)).startswith("How many servers for 2,000 events/s?\n")


@pytest.mark.parametrize("width", range(40, 111, 7))
def test_no_line_ends_between_a_number_and_its_unit(width: int) -> None:
    lines = shown(question(OLD_CASE, DatabaseServer(5100, has_inbox=True)), width).splitlines()
    units = [(a, b) for a, b in pairwise(lines) if re.search(r"[0-9]$", a) and re.match(r" {14}[%A-Za-zµ]", b)]
    assert units == []


def test_one_node_more_that_has_no_room_is_told_with_what_would_do() -> None:
    text = sentences(question(OLD_CASE, DatabaseServer(17, has_inbox=False)))
    assert "7 on the node, all that it may have" in text
    assert "each of 2 nodes might have 3 connections and needs 6. max_connections 22 would do; by default db." in text
    assert text.count("gbot serve") == 1


def test_a_server_that_nobody_has_named_is_told_what_it_takes() -> None:
    assert "the server's max_connections has to be 20 or more; --instance-class" in sentences(question(OLD_CASE))


def test_what_was_measured_is_told_as_measured() -> None:
    measured = Measured("measured", 0.003, 450.0, 60 * MIB, None, 1, 0.003, rate_per_s=20)
    load = changed(OLD_CASE, latency_s=0.003, query_s=0.003)
    sources = dict.fromkeys(("latency_s", "queries", "query_s"), "measured")
    costs = measured_costs(FIGURES, load, measured)
    asked = question(load, app="mybot:bot")
    one = msgspec.structs.replace(asked, costs=costs, sources=sources, measured=measured)
    text = sentences(one)
    assert "2,000/s x 3 ms (measured) = 6 at once" in text
    assert "450 µs (measured at 20/s)" in text
    assert "that is an upper bound: at 20/s" in text
    assert "2,000/s x 1 use of a connection (measured) x 3 ms (measured)" in text
    as_fast = msgspec.structs.replace(one, measured=msgspec.structs.replace(measured, rate_per_s=2000))
    assert "upper bound" not in sentences(as_fast)


def test_more_than_any_server_can_have_is_told() -> None:
    greedy = question(changed(OLD_CASE, queries=100, query_s=10))
    text = sentences(greedy)
    assert "no server can have as many" in text
    assert re.search(r"too few connections\. Each of \d+ nodes needs [\d,]+\. More nodes do not help\. No server", text)
    assert told(greedy)["feasible"] is False


def test_a_small_need_is_rounded_up_and_said_so() -> None:
    text = sentences(question(changed(OLD_CASE, latency_s=0.001)))
    assert "100 on the node, the least that a node is given" in text


def test_a_pool_that_is_too_large_for_a_node_is_told_with_its_bound() -> None:
    text = sentences(question(changed(OLD_CASE, latency_s=1000, calls=0), node=Node(2, None, 65_536)))
    assert "2,000/s x 1,000 s = 2,000,000 at once; with 30 % headroom 2,600,000 866,667 on each of 3 nodes; of " in text
    assert "; of 1,000,000, the most that a node can be given: 3 nodes" in text
    assert "3 nodes, because of handlers: 86.7 % of 1,000,000 handlers on each, headroom included." in text


def test_what_the_open_files_are_for_is_told() -> None:
    files = "half for calls, of 6,500 handlers at worst, half for what comes in and 10 connections to the database"
    assert f"13,000 on the node: {files} of 65,536: 1 node" in sentences(question(OLD_CASE))
    assert "85 on the node: for what comes in of" in sentences(question(changed(OLD_CASE, calls=0, queries=0)))


@pytest.mark.parametrize(
    ("cores", "told"),
    [
        (4, "of 1 core on a node, whose one worker can use no more: "),
        (1, "of 1 core on a node: "),
        (0.5, "of 0.5 cores"),
    ],
)
def test_a_core_that_no_worker_uses_is_not_counted(cores: float, told: str) -> None:
    assert told in sentences(question(OLD_CASE, node=Node(cores, None, 65_536)))


@pytest.mark.parametrize(
    ("value", "whole", "told"),
    [(5000, 6500, "6,500"), (1, 2, "1.3, rounded up 2"), (0, 0, "0"), (123.4, 161, "160.4, rounded up 161")],
)
def test_the_headroom_is_told_before_it_is_rounded_up(value: float, whole: int, told: str) -> None:
    assert question(OLD_CASE).padded(value, whole) == f"with 30 % headroom {told}"


def test_several_nodes_share_the_database() -> None:
    text = shown(question(changed(OLD_CASE, events_per_s=8000)))
    assert "3 nodes, because of CPU: 76 % of a core on each, headroom included." in text
    assert "Start each with:\n  gbot serve APP --pool 8667 --db-pool 10 --db-share 3\n" in text
    assert "start each of the 4 with:\n  gbot serve APP --pool 8667 --db-pool 10 --db-share 4" in text


def test_what_cannot_be_done_is_said_with_what_could_be() -> None:
    slow = changed(OLD_CASE, queries=3, query_s=0.2)
    text = sentences(question(slow, DatabaseServer(1000, has_inbox=False)))
    assert "too few connections. The node needs 1,560 and may have 990" in text
    assert "max_connections 1,570 would do; by default db.t4g.2xlarge is" in text
    assert "1,269 events/s" in text
    assert "gbot serve" not in text
    small = sentences(question(OLD_CASE, node=Node(2, 2**20, 65_536)))
    assert "of 1 MiB: not even 1,000 nodes would do" in small
    assert "not even 1,000 nodes have enough of one thing: memory. Larger ones might have; --memory tells how" in small
    assert "Larger" not in sentences(question(changed(OLD_CASE, latency_s=10**6), node=Node(2, None, 2**30)))


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = shown(question(OLD_CASE, DatabaseServer(5100, has_inbox=True)), width).splitlines()
    assert max(map(len, lines)) <= max(width, 72)


@given(questions)
def test_every_plan_can_be_shown_and_told_to_programs(asked: Question) -> None:
    found = plan_for(asked)
    assert verdict.plan_lines(asked, found, 100)
    answer = told(asked)
    assert (answer["nodes"], answer["feasible"]) == (found.nodes, found.feasible)
    assert (answer["command"] is not None) == found.feasible
    assert found.feasible or answer["command_with_spare"] is None


def test_programs_are_told_whole_bytes_the_commands_and_what_would_do() -> None:
    answer = told(question(OLD_CASE, DatabaseServer(100, has_inbox=False), app="mybot:bot"))
    assert answer["command"] == "gbot serve mybot:bot --pool 6500 --db-pool 10"
    assert answer["command_with_spare"] == "gbot serve mybot:bot --pool 6500 --db-pool 10 --db-share 2"
    amounts = [value for name, value in leaves(answer) if name.endswith("_bytes")]
    assert len(amounts) == 5
    assert all(isinstance(value, int) for value in amounts)
    assert answer["from"]["costs"]["cpu_us"].keys() == {"event", "wait", "calls", "queries"}
    assert all(text == text.strip() for _, text in leaves(answer) if isinstance(text, str))
    small = told(question(changed(OLD_CASE, query_s=1), DatabaseServer(100, has_inbox=False)))
    assert (small["command"], small["command_with_spare"]) == (None, None)
    needed = small["database"]["max_connections_needed"]
    assert needed == 2610
    assert CLASSES[small["database"]["smallest_class"]] >= needed


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The names and values that are not made of others."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else ((name, part) for part in value):
            yield from leaves(part, key)
    else:
        yield name, value
