"""What Amazon RDS and Aurora allow: how many connections a server of each class takes, unless it was told otherwise.

The table is data/rds.toml. RDS for MySQL and MariaDB divide DBInstanceClassMemory by a number of bytes. That is
less than the memory of the class, because AWS keeps some back, and nobody says how much: ``by_formula`` is more
than a server says of itself; ``expected``, which plans are made with, is less. Aurora's defaults are in the table.
"""

from __future__ import annotations

import difflib
import math
from typing import Final, NamedTuple

import msgspec

from gbot.errors import ConfigError
from gbot.planning import data

ENGINES: Final = {
    "mysql": "RDS for MySQL",
    "mariadb": "RDS for MariaDB 10.5 or newer",
    "aurora-mysql": "Aurora MySQL",
}
GIB: Final = 2**30
# More than AWS keeps back on any server of which the file tells what was seen.
KEPT_BACK_BYTES: Final = 300 * 2**20
KEPT_BACK_SHARE: Final = 0.05
NEAREST_MAX: Final = 3
SERVERLESS: Final = "db.serverless"


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A page that the table was made from."""

    title: str
    address: str


class Formula(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The default of max_connections: one for so many bytes."""

    bytes_per_connection: int
    at_most: int = 100_000  # more cannot be set


class Size(NamedTuple):
    """One class of a family. ``aurora`` is 0 where Aurora MySQL has none."""

    name: str
    vcpu: int
    memory_gib: float
    aurora: int


class Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What running servers of RDS for MySQL have said."""

    source: str
    max_connections: dict[str, int]


class Family(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Classes of one kind of machine, with the engines of RDS (not Aurora) that it is offered or deprecated for."""

    offered: list[str]
    sizes: list[Size]
    deprecated: list[str] = []


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """gbot/planning/data/rds.toml."""

    date: str
    sources: list[Source]
    formulas: dict[str, Formula]
    seen: list[Seen]
    families: dict[str, Family]


class Limit(msgspec.Struct, frozen=True):
    """max_connections of a class on one engine: what AWS's formula or table gives, and what to count on."""

    by_default: int
    expected: int
    formula: Formula | None  # None: AWS names the number


class InstanceClass(msgspec.Struct, frozen=True):
    """One class. ``limits`` has an entry for each engine that runs on it, or once did."""

    name: str
    vcpu: int
    memory_gib: float
    limits: dict[str, Limit]
    deprecated: tuple[str, ...]  # engines for which AWS has deprecated it


class Origin(msgspec.Struct, frozen=True):
    """Where a number of connections is from: the class of a server, or who asks, which goes before the class; without
    both, the server that the bot uses here.
    """

    engine: str
    instance_class: str | None = None
    is_given: bool = False
    has_formula: bool = False  # the class has a formula instead of a number
    is_asked: bool = False

    @property
    def text(self) -> str:
        """For people; empty where it needs no word."""
        name = self.instance_class
        if name is None:
            return "as the bot's database here says" if self.is_asked else ""
        if self.is_given:
            return f"given, which goes before {name}"
        return f"to count on with {name}" if self.has_formula else f"by default on {name}"


def read_table() -> Table:
    return data.read("rds.toml", Table)


def classes(table: Table) -> dict[str, InstanceClass]:
    """All classes by name, in the order of the table."""
    found = [
        _instance_class(table, name, family, size) for name, family in table.families.items() for size in family.sizes
    ]
    return {one.name: one for one in found}


def find(known: dict[str, InstanceClass], name: str, engine: str) -> tuple[InstanceClass, Limit]:
    """The class of this name, and what it allows this engine. Raises ConfigError, with the names that come nearest."""
    found = known.get(name)
    if name == SERVERLESS:
        expected = (
            f"a class of one size; how many connections {name} has is up to its capacity: give --max-connections N"
        )
        raise ConfigError("--instance-class", expected, repr(name), "the command line")
    if found is None:
        near = difflib.get_close_matches(name, known, NEAREST_MAX)
        hint = f", perhaps {' or '.join(near)}" if near else "; gbot plan db lists them"
        raise ConfigError(
            "--instance-class", f"a class that RDS has for MySQL or MariaDB{hint}", repr(name), "the command line"
        )
    limit = found.limits.get(engine)
    if limit is None:
        has = ", ".join(found.limits)
        raise ConfigError("--engine", f"one that {name} has ({has})", engine, "the command line")
    return found, limit


def by_size(known: dict[str, InstanceClass], engine: str) -> dict[str, int]:
    """The classes to choose from, the smallest first, with the connections to count on.

    None of those that AWS is giving up: it has deprecated them, or offers them for one engine of RDS alone. Where
    classes have about as much memory (old ones have 61 GiB, new ones 64), the order is that of the table.
    """
    current = {"mysql", "mariadb", engine}
    offered = [one for one in known.values() if current <= set(one.limits) and not one.deprecated]
    offered.sort(key=lambda one: round(2 * math.log2(one.memory_gib)))
    return {one.name: one.limits[engine].expected for one in offered}


def by_formula(memory_bytes: float, formula: Formula) -> int:
    """What the formula gives for so much memory."""
    return min(int(memory_bytes / formula.bytes_per_connection), formula.at_most)


def expected(memory_bytes: float, formula: Formula) -> int:
    """What a server with so much memory says at least, as far as anybody has seen."""
    return by_formula(max(0.0, memory_bytes - KEPT_BACK_BYTES) * (1 - KEPT_BACK_SHARE), formula)


def _instance_class(table: Table, family_name: str, family: Family, size: Size) -> InstanceClass:
    memory = size.memory_gib * GIB
    limits = {}
    for engine in ENGINES:
        formula = table.formulas.get(engine)
        if formula is None and size.aurora:
            limits[engine] = Limit(size.aurora, size.aurora, None)
        elif formula is not None and engine in (*family.offered, *family.deprecated):
            limits[engine] = Limit(by_formula(memory, formula), expected(memory, formula), formula)
    name = f"db.{family_name}.{size.name}"
    return InstanceClass(name, size.vcpu, size.memory_gib, limits, tuple(family.deprecated))
