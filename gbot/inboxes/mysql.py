"""The inbox that several nodes share, ``mysql://…``: MariaDB 10.6 or later, MySQL 8 or later.

A store has one connection, opened when it is needed and again after it broke, and waits cooperatively. Transactions
are READ COMMITTED; one that deadlocks is done again a few times. What they do to the tables is in
:mod:`gbot.inboxes.mysql_tables`.

A worker is there as long as it writes its heartbeat, by the database's clock: with every look, once a second, and
with every turn. One without a beat for GONE_AFTER_S is taken for gone, and the others put back what it was running.
When the database itself was away, every beat is old though every worker may be there; therefore a store takes from
others only after it has been beating for ``grace_s`` without a gap, in which the others had the time to beat too.

Turns of a worker and its end exclude each other by the lock on the worker's row: a worker that is only slow writes
its beat in time or finds its life ended, and then nothing of its turn is kept.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any, Final, TypeVar

from gbot.database.address import parse
from gbot.database.connection import Connection
from gbot.database.connector import READ_TIMEOUT_S, Connector
from gbot.directory import Change
from gbot.errors import DatabaseDown, DatabaseError, DatabaseMistake, Deadlock, StartError
from gbot.inboxes import mysql_records, mysql_schema, mysql_upkeep
from gbot.inboxes.changes import UserKey
from gbot.inboxes.mysql_tables import ANY_READY, CHUNK, WORKERS, Tables, binary
from gbot.inboxes.mysql_turn import Turn
from gbot.inboxes.mysql_upkeep import FIRST_DONE, FIRST_DUE, FIRST_EXPIRY, FIRST_SEEN, PURGE_CHUNK, RUNNING_OF
from gbot.inboxes.store import (
    LifeEnded,
    Look,
    Policy,
    StoreBusy,
    StoreDown,
    StoreRefused,
    Tidied,
    Turned,
    Work,
    pauses_when_busy,
)
from gbot.user import User

T = TypeVar("T")

GONE_AFTER_S: Final = 10  # without a beat
WATCH_S: Final = 2.5  # a step of the database's clock makes all look silent: others beat meanwhile
LOCK_WAIT_S: Final = 2

SETUP: Final = (
    # Whatever the server's own defaults are.
    "SET SESSION completion_type = 'NO_CHAIN',"
    " sql_mode = 'STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO', time_zone = '+00:00',"
    f" innodb_lock_wait_timeout = {LOCK_WAIT_S}, lock_wait_timeout = {LOCK_WAIT_S},"
    # A worker that stands still within a transaction must not keep its locks: the server ends its connection.
    f" wait_timeout = {GONE_AFTER_S}",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
)
GONE: Final = f"life > 0 AND life <> %s AND beat < NOW(6) - INTERVAL {GONE_AFTER_S} SECOND"
# One statement that beats and looks: what it finds comes back as the number that it gave to LAST_INSERT_ID(): held,
# times four, plus 2 for something to tidy and 1 for something ready. The subqueries lock nothing.
LOOK: Final = (
    f"UPDATE {WORKERS} SET beat = NOW(6), found = LAST_INSERT_ID("
    " (SELECT GREATEST(w.held, 0) * 4 + IF(w.gone AND %s, 2, 0)"
    f" FROM (SELECT SUM(held) AS held, MAX({GONE}) AS gone FROM gbot_workers) AS w)"
    f" | IF({FIRST_DUE} <= %s OR {FIRST_SEEN} < %s OR {FIRST_DONE} < %s OR {FIRST_EXPIRY} <= %s, 2, 0)"
    f" | {ANY_READY}) WHERE life = %s"
)
WORKER: Final = "SELECT life FROM gbot_workers WHERE life = %s FOR UPDATE"
# Where the text of an error goes on with the statement, which is gbot's own and would hide the reason.
STATEMENT: Final = re.compile(
    "(; nobody knows whether it was executed)?: "
    r"(SELECT|INSERT|UPDATE|DELETE|REPLACE|SET|START|COMMIT|ROLLBACK|EXPLAIN|CREATE|ALTER|KILL|SHOW)\b| for: "
)
GONE_WORKER: Final = f"SELECT life FROM gbot_workers WHERE life = %s AND {GONE} FOR UPDATE SKIP LOCKED"


class MySqlStore:
    """See :class:`gbot.inboxes.store.Store`; the rest is what :class:`gbot.inboxes.desk.SqlDesk` needs.

    ``grace_s`` is how long a store must have been beating before it rescues entries of others; ``read_timeout_s`` is
    for one answer of the database.
    """

    blocks: Final = False

    def __init__(
        self, url: str, policy: Policy, grace_s: float = GONE_AFTER_S, read_timeout_s: float = READ_TIMEOUT_S
    ) -> None:
        try:
            address = parse(url)
        except ValueError as error:
            raise StartError(f"The inbox's address cannot be used: {error}") from None
        self.place = address.place
        self._grantee = f"{address.database}.* TO {address.user}"
        self._connector = Connector(address, SETUP)
        self._policy = policy
        self._grace_s = grace_s
        self._read_timeout_s = read_timeout_s
        self._connection: Connection | None = None
        self._statement_bytes_max = 0
        self._watched: dict[int, tuple[object, float]] = {}  # silent lives: their beat, and since when it is that one
        self._beat_at = self._steady_since = -math.inf  # monotonic

    # Coming and going.

    def open(self) -> None:
        with self._starting(mysql_schema.RIGHTS_TO_WORK):
            mysql_schema.check(self._connected(), self.place)

    def migrate(self) -> list[str]:
        """Bring the tables up to date; see :class:`gbot.inboxes.store.Desk`."""
        with self._starting(mysql_schema.RIGHTS_TO_MIGRATE):
            return mysql_schema.migrate(self._connected(), self.place)

    @contextmanager
    def _starting(self, rights: str) -> Iterator[None]:
        """``rights`` are those that its user needs for it."""
        try:
            mysql_schema.check_server(self.place, self._connected_version())
            yield
        except (DatabaseDown, Deadlock) as error:
            raise StartError(f"{self.place} cannot be used as inbox: {reason_of(error)}") from None
        except DatabaseMistake as error:
            if error.code == mysql_schema.NOT_LOGGED:
                raise StartError(
                    f"{self.place} cannot be used as inbox: its server has binlog_format=STATEMENT, which logs no work "
                    "of an inbox; set it to ROW or MIXED."
                ) from None
            if error.code not in mysql_schema.NOT_ALLOWED:
                raise
            raise StartError(f"{self.place} cannot be used as inbox: {self._not_allowed(error, rights)}") from None
        except StartError:
            self.close()
            raise

    def _not_allowed(self, error: DatabaseMistake, rights: str) -> str:
        return (
            f"its user is not allowed to do what the inbox needs ({reason_of(error)}); "
            f"GRANT {rights} ON {self._grantee} allows it"
        )

    def _connected_version(self) -> str:
        version: str = self._connected().rows("SELECT VERSION()")[0][0]
        return version

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def enlist(self) -> int:
        self._again(mysql_schema.check_rights)
        life = self._transact(Tables.enlist)
        self._beaten()
        return life

    def leave(self, life: int) -> None:
        while self._transact(lambda tables: mysql_upkeep.end_part(tables, WORKER, (life,), rescued=False)) == CHUNK:
            pass

    # The beat.

    def _beaten(self) -> None:
        now = time.monotonic()
        if self._gap(now):
            self._steady_since = now
        self._beat_at = now

    def _gap(self, now: float) -> bool:
        """Whether the last beat is so long ago that the database may have been away."""
        return now - self._beat_at > self._grace_s / 2

    def _may_rescue(self) -> bool:
        now = time.monotonic()
        return not self._grace_s or (not self._gap(now) and now - self._steady_since >= self._grace_s)

    def look(self, life: int) -> Look:
        now_ms = time.time_ns() // 1_000_000
        policy = self._policy
        args = (
            *(self._may_rescue(), life),
            *(now_ms, now_ms - policy.dedup_window_ms, now_ms - policy.keep_done_ms, now_ms),
            life,
        )
        done = self._again(lambda connection: connection.execute(LOOK, args))
        if done.rows == 0:
            raise LifeEnded
        self._beaten()
        return Look(ready=bool(done.last_id & 1), tidy=bool(done.last_id & 2), held=done.last_id >> 2)

    # Work.

    def turn(self, life: int, work: Work) -> Turned:
        turned = self._transact(lambda tables: Turn(tables, life, work).take())
        self._beaten()
        return turned

    def orphans(self, life: int, known: Sequence[int]) -> int:
        def put_back(tables: Tables) -> int:
            if not tables.rows(WORKER, (life,)):  # waits for a commit of this worker that may still be under way
                raise LifeEnded
            keep = frozenset(known)
            rows = [row for row in tables.rows(RUNNING_OF, (life,)) if row[0] not in keep]
            return tables.put_back(rows, f"claim = {int(life)}")

        return self._transact(put_back)

    def tidy(self, life: int, now_ms: int) -> Tidied:
        """Several transactions, each of a bounded part, so that turns of other workers get in between."""
        woken, due_left = self._transact(lambda tables: mysql_upkeep.wake(tables, now_ms))
        rescued, ended, left = self._rescue_all(life)
        seen = self._transact(lambda tables: mysql_upkeep.purge_seen(tables, now_ms))
        done = self._transact(lambda tables: mysql_upkeep.purge_done(tables, now_ms))
        states = self._transact(lambda tables: mysql_upkeep.purge_states(tables, now_ms))
        more = due_left or left or PURGE_CHUNK in (seen, done, states)
        return Tidied(woken, rescued, tuple(ended), more)

    def _rescue_all(self, life: int) -> tuple[int, list[int], bool]:
        """How many entries were rescued, the lives that ended, and whether there may be more."""
        rescued, ended, left = 0, [], False
        if self._may_rescue():
            for other in self._silent(life):
                count = self._transact(
                    partial(mysql_upkeep.end_part, worker=GONE_WORKER, args=(other, life), rescued=True)
                )
                rescued += count or 0
                left = left or count == CHUNK
                if count is not None and count < CHUNK:
                    ended.append(other)
        return rescued, ended, left

    def _silent(self, life: int) -> list[int]:
        """The lives of others that have not beaten while this store watched them, whatever the clocks did meanwhile."""
        with self._guarded() as connection:
            beats = dict(connection.rows(f"SELECT life, beat FROM gbot_workers WHERE {GONE}", (life,)))
        now = time.monotonic()
        unchanged = {other: watched for other, watched in self._watched.items() if beats.get(other) == watched[0]}
        self._watched = {other: (beat, now) for other, beat in beats.items()} | unchanged
        return [other for other, (_, since) in self._watched.items() if now - since >= min(WATCH_S, self._grace_s)]

    # Users and states.

    def states(self, conversations: Sequence[str], now_ms: int) -> dict[str, str]:
        with self._guarded() as connection:
            return mysql_records.states(connection, conversations, now_ms)

    def users(self, wanted: Sequence[UserKey]) -> dict[UserKey, User]:
        with self._guarded() as connection:
            return mysql_records.users(connection, wanted)

    # Work by hand.

    def rows(self, sql: str, args: Sequence[Any]) -> list[tuple[Any, ...]]:
        with self._guarded() as connection:
            return connection.rows(words_of(sql), args)

    def change(self, sql: str, args: Sequence[Any]) -> int:
        with self._guarded() as connection:
            return connection.execute(words_of(sql), args).rows

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._guarded() as connection, _transaction(connection):
            yield

    def save(self, changes: Sequence[Change]) -> None:
        """Store these; to be called within a transaction."""
        with self._guarded() as connection:
            mysql_records.save(self._tables(connection), changes)

    def promote(self, conversations: Sequence[str]) -> None:
        keys = {binary(conversation, mysql_schema.KEY_BYTES_MAX) for conversation in conversations}
        with self._guarded() as connection:
            tables = self._tables(connection)
            tables.lock(keys)
            tables.promote(keys)

    # The connection.

    def _connected(self) -> Connection:
        if self._connection is None or not self._connection.is_open:
            self._connection = self._connector.connect(self._read_timeout_s)
            packet_bytes_max = self._connection.rows("SELECT @@max_allowed_packet")[0][0]
            self._statement_bytes_max = packet_bytes_max // 2
        return self._connection

    def _tables(self, connection: Connection) -> Tables:
        return Tables(connection, self._policy, self._statement_bytes_max)

    @contextmanager
    def _guarded(self) -> Iterator[Connection]:
        """The connection; what the database cannot do becomes StoreDown, and a mistake stays one."""
        try:
            yield self._connected()
        except Deadlock as error:
            raise StoreBusy(reason_of(error)) from None
        except DatabaseDown as error:
            raise StoreDown(reason_of(error)) from None
        except DatabaseMistake as error:
            if error.code not in mysql_schema.NOT_ALLOWED:
                raise
            raise StoreRefused(self._not_allowed(error, mysql_schema.RIGHTS_TO_WORK)) from None

    def _transact(self, work: Callable[[Tables], T]) -> T:
        def once(connection: Connection) -> T:
            with _transaction(connection):
                return work(self._tables(connection))

        return self._again(once)

    def _again(self, do: Callable[[Connection], T]) -> T:
        """Do it; again, after growing pauses, when it deadlocked."""
        with self._guarded() as connection:
            for pause_s in pauses_when_busy():
                try:
                    return do(connection)
                except Deadlock:
                    time.sleep(pause_s)
            return do(connection)


@contextmanager
def _transaction(connection: Connection) -> Iterator[None]:
    """Commits, or rolls back on an exception; a connection that cannot even do that is closed by it."""
    connection.execute("START TRANSACTION")
    try:
        yield
        connection.execute("COMMIT")
    except Exception:
        if connection.is_open:
            connection.execute("ROLLBACK")
        raise
    except BaseException:  # the greenlet is being killed: nothing more is to be waited for
        connection.close()
        raise


def reason_of(error: DatabaseError) -> str:
    """Why, without the statement that it is about."""
    return STATEMENT.split(str(error), maxsplit=1)[0]


@lru_cache(maxsize=256)
def words_of(sql: str) -> str:
    """SQL of the desk in MySQL's way: ``{entries}`` is gbot_entries, ``?`` is %s."""
    return re.sub(r"\{(\w+)\}", r"gbot_\1", sql.replace("%", "%%")).replace("?", "%s")
