"""The suite's load on a host of deploy/hosts.toml: what wrk shows of it, and its count of events where it tells one.

Of the host's machine nothing is known, so there are no figures of CPU, memory or connections; what handlers do there is
what the operator has written into the file.
"""

import time
from typing import Any

from hosts import Host
from measuring import Unavailable
from wrk import WARM_UP_S, Load

from suite.cases import SCENARIOS, form_of
from suite.load import Loader, drain
from suite.watch import Count, count_by_http

UNKNOWN = (
    *("events_per_s", "cpu_us_per_event", "rss_mb", "idle_rss_mb", "waiting_median", "accepted", "completed"),
    *("backlog", "left", "failed", "drain_s", "db_connections_max"),
)


def measure_host(host: Host, seconds: int, rate: float) -> dict[str, Any]:
    """One run, as the report has it. Raises Unavailable."""
    scenario = SCENARIOS[host.scenario]
    asked = rate if scenario.at_rate else None
    loader = Loader(form_of(asked), asked, host.address, host.port)
    before = counted(host)
    loader.warm_up(min(WARM_UP_S, seconds))
    if before is None:
        window = loader.measure(seconds)
        return run(asked, window, loader, notes=["it tells no count of its events: only answers were counted"])

    def settled(count: Count) -> int:
        return count.completed + count.failed - before.completed - before.failed

    def count() -> Count:
        return count_by_http(host.address, host.port)

    def is_over(count: Count) -> bool:
        return settled(count) >= loader.answered and not count.running

    drain(count, is_over, time.monotonic())
    middle = count()
    window = loader.measure(seconds)
    ended = time.monotonic()
    at_end = count()
    drain_s = drain(count, is_over, ended)
    after = count()
    accepted = max(loader.answered, settled(after))
    completed = after.completed - middle.completed
    return run(
        asked,
        window,
        loader,
        events_per_s=completed / (window.duration_s + max(0.0, drain_s - scenario.nap_s[1])),
        accepted=accepted,
        completed=after.completed - before.completed,
        backlog=accepted - settled(at_end),
        left=accepted - settled(after),
        failed=after.failed - before.failed,
        drain_s=drain_s,
    )


def counted(host: Host) -> Count | None:
    try:
        return count_by_http(host.address, host.port)
    except Unavailable:
        return None


def run(asked: float | None, window: Load, loader: Loader, **known: Any) -> dict[str, Any]:
    """The rest is None: not known."""
    return {
        "asked_events_per_s": asked,
        "deliveries_per_s": window.rate,
        "ack_ms": window.latency_ms,
        "errors": loader.errors,
        **dict.fromkeys(UNKNOWN),
        "samples": [],
        "notes": [],
        **known,
    }
