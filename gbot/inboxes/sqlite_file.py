"""The file of a SQLite inbox: how it is made, how gbot knows its own, and the steps that lead to the newest schema.

``PRAGMA user_version`` is the number of steps a file has taken. Steps are only ever added at the end. The numbers of
``state`` are those of :class:`gbot.inboxes.store.Place`, but that a running entry is a ready one with a claim: handing
out an entry then leaves the index of the conversations alone, whose rows are scattered over as many pages. SQL has to
spell the numbers out, because SQLite uses a partial index only for a condition that is written like the index's own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final, Protocol

from gbot.errors import StartError

FULL_CHECK_BYTES_MAX: Final = 32 * 1024 * 1024  # a file up to this size is read whole before it is opened
APPLICATION_ID: Final = 0x67626F74  # "gbot", in PRAGMA application_id

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """CREATE TABLE entries (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            state INTEGER NOT NULL,
            claim INTEGER,
            attempts INTEGER NOT NULL DEFAULT 0,
            rescues INTEGER NOT NULL DEFAULT 0,
            due_ms INTEGER,
            conversation TEXT,
            received_ms INTEGER NOT NULL,
            error TEXT NOT NULL DEFAULT '',
            event TEXT NOT NULL
        )""",
        "CREATE INDEX entries_ready ON entries (number) WHERE state = 0 AND claim IS NULL",
        "CREATE INDEX entries_due ON entries (due_ms) WHERE state = 2",
        "CREATE INDEX entries_conversation ON entries (conversation, state, number) WHERE conversation IS NOT NULL",
        "CREATE INDEX entries_claim ON entries (claim) WHERE claim IS NOT NULL",
        """CREATE TABLE ended (
            number INTEGER PRIMARY KEY,
            state INTEGER NOT NULL,
            attempts INTEGER NOT NULL,
            rescues INTEGER NOT NULL,
            received_ms INTEGER NOT NULL,
            ended_ms INTEGER NOT NULL,
            error TEXT NOT NULL,
            event TEXT NOT NULL
        )""",
        "CREATE INDEX ended_state ON ended (state, ended_ms)",
        """CREATE TABLE seen (
            number INTEGER PRIMARY KEY,
            platform TEXT NOT NULL,
            event_id TEXT NOT NULL,
            seen_ms INTEGER NOT NULL,
            UNIQUE (platform, event_id)
        )""",
        "CREATE TABLE workers (life INTEGER PRIMARY KEY AUTOINCREMENT, held INTEGER NOT NULL DEFAULT 0)",
        "INSERT INTO workers (life) VALUES (0)",
    ),
    (
        """CREATE TABLE users (
            number INTEGER PRIMARY KEY,
            platform TEXT NOT NULL,
            user_id TEXT NOT NULL,
            gone INTEGER NOT NULL,
            gone_ms INTEGER NOT NULL,
            profile TEXT,
            profile_ms INTEGER NOT NULL,
            UNIQUE (platform, user_id)
        )""",
        "CREATE INDEX users_gone ON users (platform, user_id) WHERE gone = 1",
        """CREATE TABLE states (
            number INTEGER PRIMARY KEY,
            conversation TEXT NOT NULL UNIQUE,
            expires_ms INTEGER NOT NULL,
            document TEXT NOT NULL
        )""",
        "CREATE INDEX states_expires ON states (expires_ms)",
    ),
)

# The tables that a file has from the first and from the second step on, with their keys.
TABLES: Final = (
    (("entries", "number"), ("ended", "number"), ("seen", "number"), ("workers", "life")),
    (("users", "number"), ("states", "number")),
)


class Rows(Protocol):
    """The answer to a statement, as sqlite3's cursor gives it."""

    @property
    def rowcount(self) -> int: ...
    @property
    def lastrowid(self) -> int | None: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...


class Database(Protocol):
    """A connection, as sqlite3 has it."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Rows: ...


def make_directory(directory: Path) -> None:
    for missing in reversed([each for each in (directory, *directory.parents) if not each.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)


def create(path: Path) -> bool:
    """Create an empty file; returns whether it was not there before."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return False
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return True


def identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def wal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def owner(db: Database) -> tuple[int, int]:
    [application] = db.execute("PRAGMA application_id").fetchone()
    [version] = db.execute("PRAGMA user_version").fetchone()
    return application, version


def check_owner(path: Path, db: Database) -> int:
    """The schema version of a file that is gbot's, or nobody's yet. Raises StartError for others."""
    application, version = owner(db)
    [tables] = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (application or version or tables):
        raise StartError(f"The database {path} belongs to another program: name another file with --inbox.")
    if version > len(MIGRATIONS):
        raise StartError(
            f"The inbox file {path} was written by a newer gbot (schema {version}, this gbot knows {len(MIGRATIONS)}): "
            "start that gbot, or name another file with --inbox."
        )
    return int(version)


def upgrade(path: Path, db: Database) -> list[str]:
    """Take the steps that are missing, inside a transaction; a sentence when there were some."""
    version = check_owner(path, db)
    if version == len(MIGRATIONS):
        return []
    for migration in MIGRATIONS[version:]:
        for statement in migration:
            db.execute(statement)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    return [f"Brought the inbox file {path} from schema {version} to {len(MIGRATIONS)}."]


def check_pages(path: Path, db: Database, version: int) -> None:
    """Read both ends of every table, to find out whether its pages can be read at all, and a small file whole."""
    for table, key in chain.from_iterable(TABLES[:version]):
        for direction in ("ASC", "DESC"):
            db.execute(f"SELECT * FROM {table} ORDER BY {key} {direction} LIMIT 1").fetchall()
    if path.stat().st_size <= FULL_CHECK_BYTES_MAX:
        [verdict] = db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise damaged(path, verdict)


def damaged(path: Path, reason: str) -> StartError:
    return StartError(
        f"The inbox file {path} is damaged ({' '.join(reason.split())}): restore it from a backup, or move it away "
        "together with the files beside it, and gbot starts with an empty one."
    )
