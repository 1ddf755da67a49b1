"""What a serving process needs of its surroundings: descriptors, memory, standard output, a place for stray errors."""

from __future__ import annotations

import gc
import logging
import os
import resource
import sys
from types import TracebackType

import gevent

from gbot.database.sizing import FILES_RESERVED, files_for_clients

log = logging.getLogger(__name__)

STDOUT_FLUSH_INTERVAL_S = 1.0
GC_THRESHOLDS = (20_000, 5, 1_000_000)  # the last one: full collections come by the clock instead
GC_FULL_INTERVAL_S = 60.0


def raise_file_limit() -> None:
    """Use as many descriptors as the hard limit allows: every connection needs one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def file_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def possible_connections(wanted: int, of_database: int) -> int:
    """As many of clients as wanted, or what the open-file limit leaves for them beside those to the database."""
    limit = file_limit()
    possible = max(files_for_clients(limit), limit - FILES_RESERVED - of_database)
    if wanted > possible:
        beside = f" beside {of_database} to the database" if of_database else ""
        log.warning(
            "The open-file limit is %d: %d connections of clients at once%s, instead of %d; "
            "raise it (systemd: LimitNOFILE=), or lower --connections-max",
            *(limit, possible, beside, wanted),
        )
    return min(wanted, possible)


def possible_calls(wanted: int, of_database: int) -> int:
    """As many connections to an API as wanted, or half of what the database leaves of the open-file limit.

    Clients need the other half.
    """
    return min(wanted, (file_limit() - of_database) // 2)


def collect_garbage_calmly() -> None:
    """Take what start-up made out of the cyclic collector's way, and look at everything only once a minute.

    Events, requests and responses are freed by reference counting; the collector is there for what authors make. By
    its own rules it would look at all objects again and again while many handlers wait, 100 ms each time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    while True:
        gevent.sleep(GC_FULL_INTERVAL_S)
        gc.collect()


def flush_stdout_regularly() -> None:
    """What handlers print reaches a pipe or a file within a second, without a write for every line."""
    while True:
        gevent.sleep(STDOUT_FLUSH_INTERVAL_S)
        flush_stdout()


def flush_stdout() -> None:
    """Whoever read it may have gone away, or it was never there; that is no reason to stop serving."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError as error:
        log.warning("What handlers print goes nowhere: %s", error.strerror)
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for as long as the process lives


def log_stray_errors() -> None:
    """Errors of greenlets that authors started themselves go to the log, in its format, rather than to the console."""
    gevent.get_hub().print_exception = _log_stray_error  # type: ignore[assignment, method-assign]


def _log_stray_error(
    context: object,
    kind: type[BaseException] | None,
    error: object,
    traceback: TracebackType | None,
) -> None:
    exc_info = (type(error), error, traceback) if isinstance(error, BaseException) else None
    log.error("A greenlet or callback that nobody waits for failed with %s", kind, exc_info=exc_info)
