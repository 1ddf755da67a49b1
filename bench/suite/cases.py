"""What bench/run.py measures: the scenarios, and one server in one of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from inboxes import Kind
from subjects import GO, Subject, gbot_command
from waiting import WAIT_S, fitting_rate
from wrk import WARM_UP_S, Form

GBOT = "gbot"
GBOT_MYSQL = "gbot-mysql"  # the same with its inbox there
PEERS = ("fastapi", "flask-gunicorn", "falcon-gunicorn", "fastify", GO)
MESSAGES = 10  # of each delivery of wrk
PROBES_PER_S = 10.0  # deliveries of one message, which take the time of their answer
POOL = 5000  # of gbot: how many handlers may run at once
RATE = fitting_rate(POOL)
HANDLERS_SPARE = 1.1
CONNECTIONS = 64  # of wrk where a server is to be saturated
CONNECTIONS_MAX = 256
TURNS_PER_S = 3.0  # at a given rate: how often each of wrk's connections delivers


@dataclass(frozen=True)
class Scenario:
    """What a handler does. Where it waits, events come at a given rate, else as fast as deliveries are answered."""

    name: str
    title: str
    question: str
    app: str  # gbot's bot for it
    nap_s: tuple[float, float] = (0.0, 0.0)
    asks_database: bool = False
    subjects: Sequence[str] = (GBOT, *PEERS)  # by their names in the report

    @property
    def at_rate(self) -> bool:
        return self.nap_s[1] > 0


NOOP = Scenario(
    "1",
    "a handler that does nothing",
    "How many events does a server complete when it gets as many as it answers, and each only prints a line?",
    "bench.napping:noting_bot",
    # Without waiting, how node prints makes a difference; it prints nothing in the others.
    subjects=(GBOT, *PEERS, "fastify-buffered"),
)
DURABLE = Scenario(
    "1d",
    "a handler that does nothing, and events that are stored before they are acknowledged",
    "What does it cost that 200 means stored? gbot alone: in SQLite, its default, and in MySQL where there is one.",
    NOOP.app,
    subjects=(GBOT, GBOT_MYSQL),
)
CALL = Scenario(
    "2",
    "an external call of 2-3 s",
    "Does a server keep up when each handler waits 2-3 s? A handler that waits counts in the backlog: 2.5 s' worth of "
    "events are in it by right.",
    "bench.napping:bot",
    WAIT_S,
)
QUERY = Scenario(
    "3",
    "an external call of 2-3 s, then a query",
    "And when each handler then asks a database for the time, through a pool of connections that were opened before?",
    "bench.napping:asking_bot",
    WAIT_S,
    asks_database=True,
)
SCENARIOS = {one.name: one for one in (NOOP, DURABLE, CALL, QUERY)}


@dataclass(frozen=True)
class Case:
    """One server in one scenario; without a `rate`, saturated. `database` is for what handlers ask."""

    scenario: Scenario
    subject: Subject
    name: str  # in the report
    inbox: Kind
    seconds: int
    rate: float | None
    db_pool: int
    database: Kind | None

    @property
    def ours(self) -> bool:
        return self.subject.name == GBOT

    @property
    def warm_up_s(self) -> int:
        return min(WARM_UP_S, self.seconds)

    @property
    def handlers(self) -> int:
        """As many as the rate asks for, and some: the peers have no bound."""
        return max(POOL, round((self.rate or 0) * self.scenario.nap_s[1] * HANDLERS_SPARE))

    def duration_s(self) -> float:
        """How long it takes when all goes well: start, warm-up, its end, the load, its end, stop."""
        return 3 + self.warm_up_s + self.seconds + 2 * self.scenario.nap_s[1]

    def command(self, port: int) -> list[str]:
        if not self.ours:
            return self.subject.command(port)
        pools = ["--pool", str(self.handlers)]
        if self.database:
            pools += ["--db-pool", str(self.db_pool), "--db-warm", str(self.db_pool)]
        log = ["--log-level", "info", "--log-format", "json", "--sample-interval", "1"]
        return gbot_command(port, app=self.scenario.app, options=[*pools, *log])

    def environment(self, inbox_url: str, database_url: str | None, counters: Path) -> dict[str, str]:
        """For gbot and for the peers, each of which reads its own. A URL may hold a password: no command line."""
        nap_s = "{:g}-{:g}".format(*self.scenario.nap_s)
        ours = {"GBOT_INBOX": inbox_url, "BENCH_NAP_COUNTERS": str(counters)}
        asked = {**ours, "BENCH_SCENARIO": self.scenario.name, "BENCH_NAP_S": nap_s}
        if database_url is None:
            return asked
        return {**asked, "GBOT_DB": database_url, "BENCH_DB": database_url, "BENCH_DB_POOL": str(self.db_pool)}


def form_of(rate: float | None, server_core: int | None = None, client_core: int | None = None) -> Form:
    """wrk with as many connections as the rate needs."""
    wanted = CONNECTIONS if rate is None else round(deliveries_per_s(rate) / TURNS_PER_S)
    return Form("suite", 1, min(max(1, wanted), CONNECTIONS_MAX), server_core, client_core)


def deliveries_per_s(rate: float) -> float:
    """wrk's part of the events: the probe brings the rest, one by one."""
    return (rate - PROBES_PER_S) / MESSAGES
