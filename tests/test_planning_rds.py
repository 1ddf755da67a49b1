"""The table of RDS: whole, from somewhere, and in agreement with what servers have been seen to say."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from gbot.errors import ConfigError
from gbot.planning import rds, rds_screens, words
from gbot.planning.plan import DatabaseServer
from gbot.planning.rds import ENGINES, GIB, Formula, Origin

TABLE = rds.read_table()
KNOWN = rds.classes(TABLE)


def test_the_table_says_where_it_is_from() -> None:
    assert TABLE.date.startswith("20")
    assert len(TABLE.sources) == 4
    assert all(source.address.startswith("https://docs.aws.amazon.com/") for source in TABLE.sources)


def test_each_class_is_whole() -> None:
    assert len(KNOWN) == sum(len(family.sizes) for family in TABLE.families.values())  # none twice
    for one in KNOWN.values():
        assert one.vcpu >= 1, one
        assert 0.5 <= one.memory_gib / one.vcpu <= 32, one
        assert one.limits, one
        assert set(one.limits) <= set(ENGINES), one


def test_within_a_family_more_cores_have_more_memory_and_no_fewer_connections() -> None:
    for name, family in TABLE.families.items():
        ordered = sorted(family.sizes, key=lambda size: (size.vcpu, size.memory_gib))
        assert ordered == family.sizes, name
        aurora = [size.aurora for size in family.sizes if size.aurora]
        assert aurora == sorted(aurora), name


# The issue's own numbers, AWS's examples, and rows taken from the pages by hand.
@pytest.mark.parametrize(
    ("name", "vcpu", "memory_gib", "mysql", "mariadb", "aurora"),
    [
        ("db.r3.2xlarge", 8, 61, 5205, 2602, 3000),
        ("db.m7g.large", 2, 8, 682, 341, None),
        ("db.t3.micro", 2, 1, 85, 42, None),
        ("db.t4g.large", 2, 8, 682, 341, 135),
        ("db.r8g.48xlarge", 192, 1536, 131_072, 12_000, 8000),
        ("db.x2g.16xlarge", 64, 1024, 87_381, 12_000, 7000),
        ("db.x2iedn.32xlarge", 128, 4096, 100_000, 12_000, None),
        ("db.r4.16xlarge", 64, 488, 41_642, 12_000, 6000),
        ("db.m3.medium", 1, 3.75, 320, None, None),
    ],
)
def test_rows_that_are_known(
    name: str, vcpu: int, memory_gib: float, mysql: int | None, mariadb: int | None, aurora: int | None
) -> None:
    one = KNOWN[name]
    assert (one.vcpu, one.memory_gib) == (vcpu, memory_gib)
    defaults = [one.limits[engine].by_default if engine in one.limits else None for engine in ENGINES]
    at_most = None if mysql is None else min(mysql, 100_000)
    assert defaults == [at_most, mariadb, aurora]


def test_a_running_server_says_less_than_the_formula_and_more_than_is_counted_on() -> None:
    seen = {name: count for one in TABLE.seen for name, count in one.max_connections.items()}
    assert {"db.t3.micro", "db.m7g.large", "db.r3.2xlarge"} <= set(seen)
    for name, count in seen.items():
        limit = KNOWN[name].limits["mysql"]
        assert limit.expected <= count <= limit.by_default, name
        assert limit.expected >= 0.8 * count, name  # not so careful that it is of no use


def test_aurora_says_what_it_has() -> None:
    limit = KNOWN["db.r6g.large"].limits["aurora-mysql"]
    assert (limit.by_default, limit.expected, limit.formula) == (1000, 1000, None)


def test_the_formula_has_a_bound() -> None:
    formula = Formula(25_165_760, 12_000)
    assert rds.by_formula(61 * GIB, formula) == 2602
    assert rds.by_formula(1000 * GIB, formula) == rds.expected(1000 * GIB, formula) == 12_000
    assert rds.expected(100 * 2**20, formula) == 0


def test_deprecated_is_said() -> None:
    assert KNOWN["db.m4.large"].deprecated == ("mariadb", "mysql")
    assert KNOWN["db.m5.large"].deprecated == ()


@pytest.mark.parametrize("name", ["db.r3.3xlarge", "r3.2xlarge", "db.R3.2xlarge"])
def test_a_class_that_is_none_is_refused_with_those_that_are_near(name: str) -> None:
    with pytest.raises(ConfigError, match=r"perhaps .*db\.r3\.[248]?xlarge"):
        rds.find(KNOWN, name, "mysql")


def test_what_is_near_nothing_is_sent_to_the_list() -> None:
    with pytest.raises(ConfigError, match="gbot plan db lists them, got '€'"):
        rds.find(KNOWN, "€", "mysql")


def test_an_engine_that_a_class_has_not_is_refused() -> None:
    assert rds.find(KNOWN, "db.m6g.large", "mariadb")[1].by_default == 341
    with pytest.raises(ConfigError, match=r"one that db.m6g.large has \(mysql, mariadb\), got aurora-mysql"):
        rds.find(KNOWN, "db.m6g.large", "aurora-mysql")


def test_a_class_without_a_size_is_refused_with_what_to_give() -> None:
    with pytest.raises(ConfigError, match=r"up to its capacity: give --max-connections N, got 'db.serverless'"):
        rds.find(KNOWN, "db.serverless", "aurora-mysql")


@pytest.mark.parametrize("engine", ENGINES)
def test_the_classes_to_choose_from_are_ordered_by_size(engine: str) -> None:
    chosen = rds.by_size(KNOWN, engine)
    assert chosen
    assert all(KNOWN[name].limits[engine].expected == connections for name, connections in chosen.items())
    assert not [name for name in chosen if KNOWN[name].deprecated or name.startswith("db.m3")]
    memory = [KNOWN[name].memory_gib for name in chosen]
    assert all(after >= 0.9 * before for before, after in pairwise(memory))


@pytest.mark.parametrize(
    ("origin", "text"),
    [
        (Origin("mysql"), ""),
        (Origin("mysql", is_given=True), ""),
        (Origin("mysql", "db.r5.large", has_formula=True), "to count on with db.r5.large"),
        (Origin("aurora-mysql", "db.r5.large"), "by default on db.r5.large"),
        (Origin("mysql", "db.r5.large", is_given=True, has_formula=True), "given, which goes before db.r5.large"),
    ],
)
def test_where_a_number_of_connections_is_from_is_said(origin: Origin, text: str) -> None:
    assert origin.text == text


def test_what_would_do_is_a_class_or_a_number_or_nothing() -> None:
    classes, origin = rds.by_size(KNOWN, "aurora-mysql"), Origin("aurora-mysql")
    assert words.what_would_do(80, origin, classes) == (
        "max_connections 80 would do; by default db.t4g.medium is the smallest class of Aurora MySQL that has as many."
    )
    assert words.what_would_do(50_000, origin, classes) == (
        "max_connections 50,000 would do; by default no class of Aurora MySQL has as many."
    )
    assert words.what_would_do(None, origin, classes) == "No server can have as many as it takes."


# ---- what is shown


def share(server: DatabaseServer, nodes: int) -> str:
    lines = rds_screens.share_lines(server, Origin("mysql"), nodes, rds.by_size(KNOWN, "mysql"), 200)
    return " ".join(" ".join(lines).split())


def test_the_share_is_told_as_options_and_that_it_is_no_need() -> None:
    text = share(DatabaseServer(4921, has_inbox=False), 4)
    assert "max_connections 4,921 - 10 kept for others = 4,911; / 4 nodes = 1,227 gbot serve APP --db-pool" in text
    assert "gbot serve APP --db-pool 1227 --db-share 4 That is" in text
    assert "That is what a node may have; gbot plan tells what it needs" in text
    assert "--db-pool 141 That" in share(DatabaseServer(151, has_inbox=False), 1)


def test_no_connection_at_all_is_no_answer() -> None:
    text = share(DatabaseServer(12, has_inbox=True), 4)
    assert "--db-pool" not in text
    assert "Too few: nothing is left for a node. max_connections 22 would do; by default db.t4g.micro" in text
    small = rds.InstanceClass("db.small", 1, 1, {"mysql": rds.Limit(12, 12, None)}, ())
    assert rds_screens.class_cells(small, "mysql", 4, has_inbox=True)[-1] == "too few"


def one_class(name: str, origin: Origin) -> str:
    return " ".join(" ".join(rds_screens.class_lines(KNOWN[name], origin, "2026-11-22", 200)).split())


def test_one_class_shows_formula_and_care() -> None:
    text = one_class("db.r3.2xlarge", Origin("mysql"))
    assert "61 GiB / 12,582,880 bytes = 5,205 by default on RDS for MySQL" in text
    assert "count on 4,921" in text
    assert "SELECT @@max_connections" in text
    assert "Aurora MySQL: 3,000" in text
    assert "as read on 2026-11-22" in text


def test_one_class_says_a_bound_and_that_it_is_old() -> None:
    text = one_class("db.r4.16xlarge", Origin("mariadb"))
    assert "25,165,760 bytes, 12,000 at most = 12,000" in text
    assert "AWS has deprecated it for RDS for MariaDB" in text
    assert "A server says less" not in text  # there is more than enough memory for 12,000
    assert "1,536 GiB" in one_class("db.r8g.48xlarge", Origin("mysql"))


def test_who_has_asked_the_server_is_not_sent_to_ask_it() -> None:
    text = one_class("db.r3.2xlarge", Origin("mysql", "db.r3.2xlarge", is_given=True))
    assert "@@max_connections" not in text


@pytest.mark.parametrize("engine", ENGINES)
def test_the_list_has_every_class_of_the_engine_and_no_other(engine: str) -> None:
    known = [one for one in KNOWN.values() if engine in one.limits]
    lines = rds_screens.table_lines(TABLE, known, engine, 4, has_inbox=False, width=60)
    listed = [line.split()[0] for line in lines if line.startswith("db.")]
    assert listed == [one.name for one in known]
    text = "\n".join(lines)
    assert max(map(len, text.splitlines())) <= 105  # an address
    assert max(len(line) for line in lines[len(known) + 1 :] if not line.startswith(" ")) <= 60
    assert all(source.address in text for source in TABLE.sources)


def test_a_class_can_be_told_to_programs() -> None:
    server = DatabaseServer(5100, has_inbox=True)
    told = json.loads(json.dumps(rds_screens.class_json(KNOWN["db.r3.2xlarge"], "mysql", server, 4)))
    assert told["limits"]["mysql"]["by_default"] == 5205
    assert (told["engine"], told["max_connections"], told["shared_inbox"]) == ("mysql", 5100, True)
    assert (told["db_pool"], told["db_share"]) == ((5100 - 10) // 4 - 2, 4)
