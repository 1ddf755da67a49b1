"""Whether the server of a shared inbox is set so that what it has stored is kept, and what is large gets through."""

from __future__ import annotations

from typing import Final

from gbot.checks.finding import Finding, ok, size, skip, warn
from gbot.database.advice import RDS
from gbot.database.connection import Connection
from gbot.errors import DatabaseMistake

COMMITS: Final = "inbox commits"
PACKETS: Final = "inbox packets"
PACKETS_PER_BODY: Final = 4
PACKET_STEP_BYTES: Final = 1024  # a server rounds down to it

SYNCED: Final = (1, 3)  # 3 is MariaDB's own, and does more than 1
FLUSH: Final = "SELECT @@GLOBAL.innodb_flush_log_at_trx_commit"
BINARY_LOG: Final = "SELECT @@GLOBAL.log_bin, @@GLOBAL.sync_binlog"
PACKET: Final = "SELECT @@max_allowed_packet"


def commits(connection: Connection) -> list[Finding]:
    """Whether what was committed survives a power cut: a line for each setting that says it need not."""
    try:
        [(flush,)] = connection.rows(FLUSH)
        [(binary_log, sync)] = connection.rows(BINARY_LOG)
    except DatabaseMistake:
        return [skip(COMMITS, "the server does not tell whether what it has committed survives a power cut")]
    found = []
    if int(flush) not in SYNCED:
        found.append(_unsafe("innodb_flush_log_at_trx_commit", int(flush)))
    if int(binary_log) and int(sync) != 1:
        found.append(_unsafe("sync_binlog", int(sync)))
    told = f"innodb_flush_log_at_trx_commit {flush}, {f'sync_binlog {sync}' if int(binary_log) else 'no binary log'}"
    return found or [ok(COMMITS, f"what was answered with 200 survives a power cut of the server ({told})")]


def _unsafe(name: str, value: int) -> Finding:
    found = f"{name} is {value}: a power cut of the server may take events with it that were answered with 200"
    return warn(COMMITS, found, f"as its admin: {_set_global(name, 1)}", {name: value})


def packets(connection: Connection, body_bytes_max: int) -> Finding:
    """Whether the largest delivery goes through to the server, with all that is stored beside it."""
    try:
        [(packet,)] = connection.rows(PACKET)
    except DatabaseMistake:
        return skip(PACKETS, "the server does not tell how long a statement may be (max_allowed_packet)")
    bytes_, needed = int(packet), PACKETS_PER_BODY * body_bytes_max
    figures = {"max_allowed_packet_bytes": bytes_, "needed_bytes": needed}
    limit = f"max_allowed_packet is {size(bytes_)}"
    rule = f"{PACKETS_PER_BODY} times --body-bytes-max, which is {size(body_bytes_max)}"
    if bytes_ >= needed:
        return ok(PACKETS, f"{limit}, no less than {rule}", figures)
    rounded = -(-needed // PACKET_STEP_BYTES) * PACKET_STEP_BYTES
    advice = f"as its admin: {_set_global('max_allowed_packet', rounded)}, or lower --body-bytes-max"
    return warn(PACKETS, f"{limit}, less than {rule}: a large delivery may be refused", advice, figures)


def _set_global(name: str, value: int) -> str:
    return f"SET GLOBAL {name} = {value}, and the same in its configuration file {RDS}"
