"""The table of RDS: whole, from somewhere, and in agreement with what servers have been seen to say."""

from __future__ import annotations

import json

import pytest

from gbot.errors import ConfigError
from gbot.planning import rds, rds_screens
from gbot.planning.plan import DatabaseServer
from gbot.planning.rds import ENGINES, GIB, Formula

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


# ---- what is shown


def test_one_class_shows_formula_care_and_share() -> None:
    server = DatabaseServer(4921, has_inbox=False)
    lines = rds_screens.class_lines(KNOWN["db.r3.2xlarge"], "mysql", server, " to count on", 4, "2026-11-22", 200)
    text = " ".join(" ".join(lines).split())
    assert "61 GiB / 12,582,880 bytes = 5,205 by default on RDS for MySQL" in text
    assert "count on 4,921" in text
    assert "SELECT @@max_connections" in text
    assert "(4,921 to count on - 10 kept for people and tools) / 4 nodes = 1,227 for each" in text
    assert "--db-pool 1227 --db-share 4" in text
    assert "Aurora MySQL 3,000" in text
    assert "as read on 2026-11-22" in text


def test_one_class_says_a_bound_and_that_it_is_old() -> None:
    server = DatabaseServer(12_000, has_inbox=False)
    lines = rds_screens.class_lines(KNOWN["db.r4.16xlarge"], "mariadb", server, "", 1, "2026-11-22", 200)
    text = " ".join(" ".join(lines).split())
    assert "25,165,760 bytes, 12,000 at most = 12,000" in text
    assert "AWS has deprecated it for RDS for MariaDB" in text


@pytest.mark.parametrize("engine", ENGINES)
def test_the_list_has_every_class_of_the_engine_and_no_other(engine: str) -> None:
    known = [one for one in KNOWN.values() if engine in one.limits]
    lines = rds_screens.table_lines(TABLE, known, engine, 4, has_inbox=False)
    listed = [line.split()[0] for line in lines if line.startswith("db.")]
    assert listed == [one.name for one in known]
    text = "\n".join(lines)
    assert max(map(len, text.splitlines())) <= 120
    assert all(source.address in text for source in TABLE.sources)


def test_a_class_can_be_told_to_programs() -> None:
    server = DatabaseServer(5100, has_inbox=True)
    told = json.loads(json.dumps(rds_screens.class_json(KNOWN["db.r3.2xlarge"], "mysql", server, 4)))
    assert told["limits"]["mysql"]["by_default"] == 5205
    assert (told["engine"], told["nodes"], told["max_connections"]) == ("mysql", 4, 5100)
    assert told["db_pool_per_node"] == (5100 - 10) // 4 - 2
