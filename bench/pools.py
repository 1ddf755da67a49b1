"""What does a connection from the pool cost?

    python bench/pools.py --start-mariadb                        about six minutes
    python bench/pools.py --start-mariadb --connections 50 --rounds 5

A connection is taken, SELECT NOW() is asked, and the connection is given back: by ctx.db.query, by a bare list of
PyMySQL's connections that is popped from and appended to, and by DBUtils' PooledDB, as it comes and as fast as it can
be made. All of them live in one process and share the very same connections, whose number is varied; they take turns in
an order that is shuffled for every round. One greenlet asks, or 50, or a crowd of 5,000, for whom 50 connections are
few: then it is told how long one waits. The process runs on one core, the database on another.

Then: how long opening all the connections takes, and what pools do when something goes wrong.
"""

import argparse
import gc
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gevent import monkey

if __name__ == "__main__":
    monkey.patch_all()

import logging

import gevent
from inboxes import add_options, connections_of, mysql_version, roomy_mysql
from measuring import (
    Unavailable,
    circumstances,
    cpu_busy_percent,
    exit_on_sigterm,
    pin_this_process,
    say,
    two_cores,
    write_json,
)
from pools_contenders import BARE, OURS, POOL, STEADY, Bare, Contender, Guarded, OurPool, Ours, Raw, Steady
from pools_faults import killed, waited_for_another
from pools_tables import SOME, Findings, Match, Turn, Wait, Warming, as_json, report
from subjects import python_versions, require_modules
from wrk import positive

from gbot.database.address import parse
from gbot.database.connection import Connection
from gbot.database.connector import Connector
from gbot.process import GC_THRESHOLDS, raise_file_limit

STEADY_WARM_MAX = 500  # connections that DBUtils opens for the figure; more would only take longer
EACH_OF_CROWD = 2  # times that everybody in a crowd asks in a round, at least
LEAVE_TIMEOUT_S = 30.0
DISTRIBUTIONS = ["gbot", "gevent", "greenlet", "PyMySQL", "DBUtils"]


def ours_warmed(connector: Connector, size: int) -> tuple[Ours, list[Raw], Warming]:
    """Our pool with all its connections open, and these connections."""
    raws: list[Raw] = []

    def connect() -> Connection:
        connection = connector.connect(None)
        raws.append(connection.raw)
        return connection

    started = time.monotonic()
    ours = Ours(connect, size, size)
    while ours.database.statistics().open < size:
        if time.monotonic() > started + 60:
            ours.close()
            raise Unavailable(f"{len(raws)} of {size} connections were opened within 60 s")
        gevent.sleep(0.01)
    return ours, raws, Warming(size, time.monotonic() - started)


def steady_warmed(connector: Connector, size: int) -> Warming:
    """PooledDB opens them itself, one after the other."""
    started = time.monotonic()
    steady = Steady(lambda: connector.connect(None).raw, size, size)
    seconds = time.monotonic() - started
    steady.close()
    return Warming(size, seconds)


def wait_until_left(connections: Callable[[], int], most: int) -> None:
    """A server needs a moment to notice that clients have gone."""
    deadline = time.monotonic() + LEAVE_TIMEOUT_S
    while connections() > most:
        if time.monotonic() > deadline:
            raise Unavailable(f"the database still has more than {most} connections after {LEAVE_TIMEOUT_S:g} s")
        gevent.sleep(0.05)


def steady_on(raws: Sequence[Raw], name: str) -> Steady:
    """PooledDB with connections that are open. It closes them when it is forgotten."""
    handed_out = iter(raws)
    return Steady(lambda: next(handed_out), len(raws), len(raws), **STEADY[name])


def spread(work: Callable[[int], None], greenlets: int, operations: int) -> int:
    """The work, so many times in all and in so many greenlets; how often it was done."""
    each = max(1, operations // greenlets)
    gevent.joinall([gevent.spawn(work, each) for _ in range(greenlets)], raise_error=True)
    return each * greenlets


def turn(contender: Contender, greenlets: int, operations: int) -> Turn:
    ask = contender.ask

    def work(times: int) -> None:
        for _ in range(times):
            ask()

    started, cpu_s = time.perf_counter(), time.process_time()
    done = spread(work, greenlets, operations)
    cpu_s, took_s = time.process_time() - cpu_s, time.perf_counter() - started
    return Turn(per_s=done / took_s, cpu_us=cpu_s / done * 1e6)


def wait(contender: Contender, greenlets: int, operations: int) -> Wait:
    waited_s: list[float] = []

    def work(times: int) -> None:
        for _ in range(times):
            started = time.perf_counter()
            taken = contender.take()
            waited_s.append(time.perf_counter() - started)
            contender.rows(taken)
            contender.give(taken)

    spread(work, greenlets, operations)
    waited_s.sort()
    last = len(waited_s) - 1
    return Wait(*(waited_s[round(last * share)] * 1000 for share in (0.5, 0.99, 1.0)))


def compare(ours: Ours, raws: Sequence[Raw], given: argparse.Namespace) -> list[Match]:
    """All of them on the same connections, which each leaves alone when it is not its turn."""
    steady = {name: steady_on(raws, name) for name in STEADY}
    found = []
    for greenlets in (1, SOME, given.crowd):
        bare = Guarded(raws) if greenlets > len(raws) else Bare(raws)
        everybody = {BARE: bare, OURS: ours, POOL: OurPool(ours), **steady}
        found.append(match(everybody, len(raws), greenlets, given))
    return found


def match(everybody: Mapping[str, Contender], connections: int, greenlets: int, given: argparse.Namespace) -> Match:
    say(f"{connections:,} connections, {greenlets:,} greenlets")
    operations = max(given.operations, EACH_OF_CROWD * greenlets)
    collect_as_served()
    turns: dict[str, list[Turn]] = {name: [] for name in everybody}
    for _ in range(given.rounds):
        for name in random.sample(list(everybody), len(everybody)):
            turns[name].append(turn(everybody[name], greenlets, operations))
    waits = {name: wait(contender, greenlets, operations) for name, contender in everybody.items()}
    return Match(connections, greenlets, turns, waits)


def collect_as_served() -> None:
    """The cyclic collector as `gbot serve` has it, but for its look at everything once a minute."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def measure(url: str, given: argparse.Namespace) -> Findings:
    connector = Connector(parse(url))
    matches, warmed, steady = [], [], []
    with connections_of(url) as connections:
        others = connections()
        for size in given.connections:
            say(f"opening {size:,} connections")
            steady.append(steady_warmed(connector, min(size, STEADY_WARM_MAX)))
            wait_until_left(connections, others)
            ours, raws, warming = ours_warmed(connector, size)
            warmed.append(warming)
            try:
                matches += compare(ours, raws, given)
            finally:
                ours.close()
            wait_until_left(connections, others)
    say("connections that are killed, and a server that is slow to connect to")
    return Findings(matches, warmed, steady, killed(url), waited_for_another(url))


def numbers(text: str) -> list[int]:
    return [positive(part) for part in text.split(",")]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--connections", type=numbers, default=[50, 5000], metavar="N,…", help="sizes of the pool (default 50,5000)"
    )
    parser.add_argument("--crowd", type=positive, default=5000, help="greenlets in a crowd (default 5000)")
    parser.add_argument("--rounds", type=positive, default=15, help="turns of everybody (default 15)")
    parser.add_argument("--operations", type=positive, default=4000, help="statements in a turn (default 4000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything found into this file")
    add_options(parser)
    return parser.parse_args()


def main() -> None:
    exit_on_sigterm()
    logging.getLogger("gbot").addHandler(logging.NullHandler())  # what goes wrong does so on purpose
    given = parse_arguments()
    busy = cpu_busy_percent()
    try:
        require_modules(sys.executable, ["dbutils"])
        raise_file_limit()
        with roomy_mysql(given, max(given.connections)) as mysql, mysql.fresh() as url:
            pin_this_process(two_cores()[0])
            found = measure(url, given)
            server = mysql_version(mysql)
    except Unavailable as reason:
        raise SystemExit(str(reason)) from reason
    title = f"{given.rounds} rounds of {given.operations:,} statements, or {EACH_OF_CROWD} of each greenlet; medians"
    print(report(found, title))
    if given.json:
        versions = {**python_versions(sys.executable, DISTRIBUTIONS), "database": server}
        result = {"machine_busy_percent": busy, "versions": versions, **as_json(found)}
        write_json(given.json, {**circumstances(), **result})
        say(f"written: {given.json}")


if __name__ == "__main__":
    main()
