"""What the tests of ``gbot plan`` plan with: loads, nodes and servers that are known, any others, and what is asked."""

from __future__ import annotations

import msgspec
from hypothesis import strategies as st

from gbot.planning import rds
from gbot.planning.costs import read_figures, usual_costs
from gbot.planning.plan import Costs, DatabaseServer, Load, Node, Part, Plan, make_plan
from gbot.planning.rds import Origin
from gbot.planning.screens import Question

FIGURES = read_figures()
NODE = Node(cores=2, memory_bytes=2 * 2**30, open_files=65_536)
NOBODY_SAID = DatabaseServer(None, has_inbox=False)
OLD_CASE = Load(events_per_s=2000, latency_s=2.5, queries=1, query_s=0.002, calls=1)
KIB, MIB = 2**10, 2**20
COSTS = Costs((Part("all", "in all", 100.0),), waiting_bytes=10 * KIB, connection_bytes=40 * KIB, base_bytes=50 * MIB)
ORIGIN = Origin("mysql", is_given=True)
CLASSES = rds.by_size(rds.classes(rds.read_table()), "mysql")

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
questions = st.builds(
    Question, loads, st.just(COSTS), nodes, servers, headrooms, st.just(ORIGIN), classes=st.just(CLASSES)
)


def changed(load: Load, **fields: float) -> Load:
    return msgspec.structs.replace(load, **fields)


def question(
    load: Load,
    server: DatabaseServer = NOBODY_SAID,
    node: Node = NODE,
    headroom: float = 0.3,
    app: str | None = None,
) -> Question:
    """What is asked of such a load, at gbot's usual costs."""
    costs, sources = usual_costs(FIGURES, load), {"query_s": "default"}
    return Question(load, costs, node, server, headroom, ORIGIN, sources, app, classes=CLASSES)


def plan_for(asked: Question) -> Plan:
    return make_plan(asked.load, asked.costs, asked.node, asked.server, asked.headroom)
