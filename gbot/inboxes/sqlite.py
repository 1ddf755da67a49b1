"""The SQLite inbox: one file on a local disk, which the workers of one node share.

A commit is on the disk when it returns (WAL, synchronous=FULL). One connection per store; its methods block, so the
hub must not call them. The rules are in :mod:`gbot.inboxes.sqlite_turn` and :mod:`gbot.inboxes.sqlite_upkeep`; this
module opens the file, frames the transactions and translates the errors.

- A file that is not gbot's, of a newer gbot, or damaged: StartError, and the file stays as it is.
- Disk full, I/O error, locked for longer than a few seconds, file removed or replaced: StoreDown. The transaction is
  rolled back, the connection is dropped, and the next call opens a fresh one. With little disk space left, turns with
  new events are refused while settlements still go through, because they make room.
- A worker is killed: SQLite recovers by itself, and the entries come back at once (:mod:`gbot.inboxes.sqlite_lives`).
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from math import inf
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from gbot.directory import Change
from gbot.errors import StartError
from gbot.inboxes import sqlite_file, sqlite_records, sqlite_turn, sqlite_upkeep
from gbot.inboxes.changes import UserKey
from gbot.inboxes.sqlite_lives import Lives
from gbot.inboxes.store import LifeEnded, Look, Policy, StoreDown, StoreFull, Tidied, Turned, Work
from gbot.user import User

SQLITE_MIN: Final = (3, 35, 0)  # for MATERIALIZED
DISK_FREE_MIN_BYTES: Final = 64 * 1024 * 1024  # with less left, no new events
BUSY_TIMEOUT_S: Final = 5.0  # how long another process may hold the write lock
FILE_CHECK_INTERVAL_S: Final = 1.0  # how often the file and the room on its disk are looked at
WAL_KEPT_BYTES_MAX: Final = 64 * 1024 * 1024  # what a WAL shrinks to when it starts over


class SqliteStore:
    """A ``Store``, and what the desk of ``gbot inbox`` needs: ``rows``, ``change``, ``transaction``, ``promote``."""

    blocks = True

    def __init__(self, path: Path, policy: Policy) -> None:
        self._path = path.absolute()
        self.place = f"sqlite://{self._path}"
        self._policy = policy
        self._lives = Lives(_locks_of(self._path))
        self._connection: sqlite3.Connection | None = None
        self._file = (0, 0)  # device and inode of what is open
        self._checked_at = -inf  # when the file and the room on its disk were last looked at
        self._free_bytes = 0
        self._ready = True  # as far as this store knows, entries may be ready that were not handed out

    # Opening.

    def open(self) -> None:
        """Create, upgrade or just check the file. Raises StartError."""
        self.migrate()

    def migrate(self) -> list[str]:
        """The same; returns a sentence for each step that was taken."""
        self._drop()
        try:
            return self._prepare()
        except (sqlite3.Error, OSError) as error:
            self._drop()
            raise StartError(
                f"The inbox file {self._path} cannot be used ({_reason(error)}): "
                "mend that, or name another file with --inbox."
            ) from error
        except StartError:
            self._drop()
            raise

    def _prepare(self) -> list[str]:
        if sqlite3.sqlite_version_info < SQLITE_MIN:
            raise StartError(f"The inbox needs SQLite 3.35 or newer, and this Python has {sqlite3.sqlite_version}.")
        sqlite_file.make_directory(self._path.parent)
        created = sqlite_file.create(self._path)
        if not created:
            _inspect(self._path)
        connection = self._connect()
        [mode] = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StartError(f"The inbox file {self._path} must be on a local disk: name another file with --inbox.")
        connection.execute("BEGIN IMMEDIATE")
        steps = sqlite_file.upgrade(self._path, connection)
        connection.execute("COMMIT")
        return [f"Created the inbox file {self._path}."] * created + steps

    def _connect(self) -> sqlite3.Connection:
        self._file = sqlite_file.identity(self._path)
        connection = self._connection = _connect(self._path, "mode=rw")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_KEPT_BYTES_MAX}")
        return connection

    def _database(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        connection = self._connect()
        if sqlite_file.owner(connection) != (sqlite_file.APPLICATION_ID, len(sqlite_file.MIGRATIONS)):
            self._drop()
            raise StoreDown("the file is another now, or was changed by another version of gbot")
        return connection

    def close(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.execute("PRAGMA busy_timeout = 0")
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._drop()
        self._lives.close()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._checked_at = -inf
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    # Transactions.

    @contextmanager
    def _reaching(self) -> Iterator[sqlite3.Connection]:
        """The connection; what goes wrong with it is a StoreDown, and it is not used again."""
        try:
            yield self._database()
        except sqlite3.ProgrammingError:
            self._drop()
            raise
        except (sqlite3.Error, OSError) as error:
            self._drop()
            full = getattr(error, "sqlite_errorname", "") == "SQLITE_FULL"
            raise (StoreFull if full else StoreDown)(_reason(error)) from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: everything in it is on the disk when this returns, or nothing is."""
        with self._reaching() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def _check_file(self) -> None:
        """See whether the file is still the one that was opened, and what room its disk has."""
        now = time.monotonic()
        if now - self._checked_at < FILE_CHECK_INTERVAL_S:
            return
        with self._reaching():
            if sqlite_file.identity(self._path) != self._file:
                self._drop()
                raise StoreDown("the file was replaced by another")
            disk = os.statvfs(self._path)
            self._free_bytes = disk.f_bavail * disk.f_frsize
            self._checked_at = now

    # What a worker does.

    def enlist(self) -> int:
        life = 0
        try:
            with self._writing() as database:
                life = sqlite_upkeep.enlist(database)
                self._lives.hold(life)  # before others can see it
        except StoreDown:
            self._lives.release(life)
            raise
        return life

    def turn(self, life: int, work: Work) -> Turned:
        self._check_file()
        if work.events and self._free_bytes < DISK_FREE_MIN_BYTES:
            raise StoreFull(f"only {self._free_bytes >> 20} MiB are free on the disk of {self._path}")
        with self._writing() as database:
            self._lives.hold(life)
            in_time = sqlite_records.in_time(database, work.settlements)
            settled = sqlite_turn.settle(database, work.settlements, work.now_ms, self._policy)
            sqlite_records.save(database, [*in_time, *work.changes])
            stored = sqlite_turn.put(database, life, work, self._policy)
            if work.ready or settled.ready or stored.ready:
                claimed = sqlite_turn.claim(database, life, work, self._policy)
            else:
                claimed = sqlite_turn.NONE_CLAIMED
            if not sqlite_upkeep.is_alive(database, life, stored.stored - settled.left):
                self._lives.release(life)
                raise LifeEnded
        self._ready = claimed.full if work.claim_max > 0 else self._ready or settled.ready or stored.ready
        return Turned(
            running=stored.running + claimed.running,
            stored=stored.stored,
            duplicates=len(work.events) - stored.stored,
            late=settled.late,
            ready_left=self._ready,
        )

    def look(self, life: int) -> Look:
        self._check_file()
        with self._reaching() as database:
            self._lives.hold(life)
            found = sqlite_upkeep.look(database, *self._times(time.time_ns() // 1_000_000))
            if life not in found.lives:
                self._lives.release(life)
                raise LifeEnded
            self._ready = found.ready
            return Look(found.ready, found.due_or_old or bool(self._lives.gone(found.lives)), found.held)

    def _times(self, now_ms: int) -> tuple[int, int, int]:
        """Now, and up to when what was seen or done is too old to be kept."""
        return now_ms, now_ms - self._policy.dedup_window_ms, now_ms - self._policy.keep_done_ms

    def tidy(self, life: int, now_ms: int) -> Tidied:
        strict, rescued = self._policy.strict, 0
        with self._writing() as database:
            self._lives.hold(life)
            woken = sqlite_upkeep.wake(database, now_ms, strict)
            gone = self._lives.gone(sqlite_upkeep.lives(database))
            for other in gone:
                rescued += sqlite_upkeep.rescue(database, other, strict, now_ms)
            more = sqlite_upkeep.purge(database, *self._times(now_ms))
        self._ready = self._ready or woken + rescued > 0
        return Tidied(woken, rescued, tuple(gone), more or woken == sqlite_upkeep.DUE_MAX)

    def orphans(self, life: int, known: Sequence[int]) -> int:
        with self._writing() as database:
            count = sqlite_upkeep.take_unknown(database, life, known, self._policy.strict)
        self._ready = self._ready or count > 0
        return count

    def states(self, conversations: Sequence[str], now_ms: int) -> dict[str, str]:
        with self._reaching() as database:
            return sqlite_records.states(database, conversations, now_ms)

    def users(self, wanted: Sequence[UserKey]) -> dict[UserKey, User]:
        with self._reaching() as database:
            return sqlite_records.users(database, wanted)

    def leave(self, life: int) -> None:
        with self._writing() as database:
            sqlite_upkeep.end_life(database, life, self._policy.strict)
        self._lives.release(life)

    # What the desk needs.

    def rows(self, sql: str, args: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The answer to a query, in which tables are named in braces: ``SELECT … FROM {entries}``."""
        with self._reaching() as database:
            return database.execute(_named(sql), args).fetchall()

    def change(self, sql: str, args: Sequence[Any] = ()) -> int:
        """Change something; returns how many rows were changed."""
        with self._reaching() as database:
            return database.execute(_named(sql), args).rowcount

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._writing():
            yield

    def save(self, changes: Sequence[Change]) -> None:
        """Store these; to be called within a transaction."""
        with self._reaching() as database:
            sqlite_records.save(database, changes)

    def promote(self, conversations: Sequence[str]) -> int:
        """Make the first entry behind ready in those conversations that are free; returns how many became so."""
        with self._reaching() as database:
            return sqlite_upkeep.promote(database, conversations, self._policy.strict)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    address = f"file:{quote(str(path))}?{mode}"
    return sqlite3.connect(address, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, uri=True)


def _named(sql: str) -> str:
    return re.sub(r"\{(\w+)\}", r"\1", sql)


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


# The file, before it is opened.


def look_into(path: Path) -> tuple[int, int]:
    """The schema of an inbox and how many workers use it, which are not disturbed. Raises StartError, StoreDown."""
    try:
        version, lives = _inspect(path)
    except sqlite3.Error as error:
        raise StoreDown(_reason(error)) from error
    locks = _locks_of(path)
    if not lives or not locks.exists():
        return version, 0
    with closing(Lives(locks)) as held:
        return version, len(lives) - len(held.gone(lives))


def _locks_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-lives")


def _inspect(path: Path) -> tuple[int, list[int]]:
    """The schema of a file and the lives in it; neither it nor anything beside it is changed.

    Raises StartError when it cannot be the inbox.

    Only SQLite itself reads it: closing a file that SQLite has open as well would drop SQLite's locks on it.
    """
    if not path.is_file():
        raise StartError(f"The inbox {path} is not a file: name a file with --inbox.")
    if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):  # SQLite would quietly open it for reading
        raise StartError(
            f"The inbox file {path} may not be read and written by this user: change its owner or its mode."
        )
    # "immutable" reads the file alone and makes no files beside it; with a WAL, the two belong together.
    mode = "mode=ro" if sqlite_file.wal_of(path).exists() else "immutable=1"
    try:
        with closing(_connect(path, mode)) as connection:
            version = sqlite_file.check_owner(path, connection)
            sqlite_file.check_pages(path, connection, version)
            return version, [life for life in sqlite_upkeep.lives(connection) if life > 0] if version else []
    except sqlite3.DatabaseError as error:
        if mode == "immutable=1" and sqlite_file.wal_of(path).exists():
            return _inspect(path)  # another process has opened it meanwhile: what was read may have been half written
        if error.sqlite_errorname == "SQLITE_NOTADB":
            raise StartError(f"The file {path} is no SQLite database: name another one with --inbox.") from error
        if error.sqlite_errorname.startswith(("SQLITE_CORRUPT", "SQLITE_ERROR")):
            raise sqlite_file.damaged(path, str(error)) from error
        raise
