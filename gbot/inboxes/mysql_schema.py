"""The tables of the MySQL inbox, and their versions.

A worker only checks them; ``gbot inbox migrate`` makes and changes them, so that a deploy decides when. Each migration
is a list of statements that may be run again after it was cut off half-way, because MySQL commits every change of a
table by itself. Two migrations at once take turns.

Ids and conversations are binary: they compare exactly, in case and in trailing spaces. One index, ``by_state``, finds
the ready entries by number, the running ones by worker and the waiting ones by time; the check on the table keeps the
columns that are not used by a state empty, because that index counts on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from gbot.database.connection import Connection
from gbot.errors import DatabaseMistake, StartError
from gbot.inboxes.store import ERROR_CHARS_MAX

KEY_BYTES_MAX: Final = 2048  # of a conversation: 255 characters of an id, or more, and what is before it
ID_BYTES_MAX: Final = 1020  # of an event's id, or a user's
PLATFORM_BYTES_MAX: Final = 255
SLOTS: Final = 4096  # rows that stand for conversations while they are worked on
MARIADB_MIN: Final = (10, 6)
MYSQL_MIN: Final = (8, 0)
LOCK_WAIT_S: Final = 2  # for another migration, at a time
LOCK_WAITS_MAX: Final = 30

NO_SUCH_TABLE: Final = 1146
NOT_LOGGED: Final = 1665  # READ COMMITTED, and a binary log of statements
NOT_ALLOWED: Final = {1044, 1142, 1143, 1227}
RIGHTS_TO_WORK: Final = "SELECT, INSERT, UPDATE, DELETE"
RIGHTS_TO_MIGRATE: Final = f"{RIGHTS_TO_WORK}, CREATE, ALTER, INDEX"
# What a worker does to each table, which is known by a column with numbers that are never negative.
CHANGES: Final = {
    ("gbot_entries", "number"): ("INSERT", "UPDATE", "DELETE"),
    ("gbot_ended", "number"): ("INSERT", "DELETE"),
    ("gbot_seen", "number"): ("INSERT", "DELETE"),
    ("gbot_workers", "life"): ("INSERT", "UPDATE", "DELETE"),
    ("gbot_slots", "slot"): ("UPDATE",),
    ("gbot_users", "number"): ("INSERT", "UPDATE", "DELETE"),
    ("gbot_states", "number"): ("INSERT", "UPDATE", "DELETE"),
}

_OPTIONS: Final = "ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"

MIGRATIONS: Final = (
    (
        f"""CREATE TABLE IF NOT EXISTS gbot_entries (
            number BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
            state TINYINT NOT NULL,
            claim BIGINT NULL,
            attempts INT NOT NULL DEFAULT 0,
            rescues INT NOT NULL DEFAULT 0,
            due_ms BIGINT NULL,
            conversation VARBINARY({KEY_BYTES_MAX}) NULL,
            received_ms BIGINT NOT NULL,
            error VARCHAR({ERROR_CHARS_MAX}) NOT NULL DEFAULT '',
            event LONGTEXT NOT NULL,
            KEY by_state (state, claim, due_ms, number),
            KEY by_conversation (conversation, state, number),
            CONSTRAINT gbot_entries_state CHECK (
                (state = 1) = (claim IS NOT NULL) AND (state = 2) = (due_ms IS NOT NULL)
            )
        ) {_OPTIONS}""",
        f"""CREATE TABLE IF NOT EXISTS gbot_ended (
            number BIGINT NOT NULL PRIMARY KEY,
            state TINYINT NOT NULL,
            attempts INT NOT NULL DEFAULT 0,
            rescues INT NOT NULL DEFAULT 0,
            received_ms BIGINT NOT NULL,
            ended_ms BIGINT NOT NULL,
            error VARCHAR({ERROR_CHARS_MAX}) NOT NULL DEFAULT '',
            event LONGTEXT NOT NULL,
            KEY by_state (state, ended_ms, number)
        ) {_OPTIONS}""",
        f"""CREATE TABLE IF NOT EXISTS gbot_seen (
            number BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
            platform VARBINARY({PLATFORM_BYTES_MAX}) NOT NULL,
            event_id VARBINARY({ID_BYTES_MAX}) NOT NULL,
            seen_ms BIGINT NOT NULL,
            turn BIGINT NOT NULL DEFAULT 0,
            UNIQUE KEY by_id (platform, event_id)
        ) {_OPTIONS}""",
        f"""CREATE TABLE IF NOT EXISTS gbot_workers (
            life BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
            held BIGINT NOT NULL DEFAULT 0,
            beat TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
            found BIGINT UNSIGNED NOT NULL DEFAULT 0
        ) {_OPTIONS}""",
        "INSERT IGNORE INTO gbot_workers (life) VALUES (0)",
        f"CREATE TABLE IF NOT EXISTS gbot_slots (slot INT NOT NULL PRIMARY KEY) {_OPTIONS}",
        f"INSERT IGNORE INTO gbot_slots (slot) VALUES {', '.join(f'({slot})' for slot in range(SLOTS))}",
    ),
    (
        f"""CREATE TABLE IF NOT EXISTS gbot_users (
            number BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
            platform VARBINARY({PLATFORM_BYTES_MAX}) NOT NULL,
            user_id VARBINARY({ID_BYTES_MAX}) NOT NULL,
            gone TINYINT NOT NULL,
            gone_ms BIGINT NOT NULL,
            profile LONGTEXT NULL,
            profile_ms BIGINT NOT NULL,
            UNIQUE KEY by_id (platform, user_id),
            KEY by_gone (gone, platform, user_id)
        ) {_OPTIONS}""",
        f"""CREATE TABLE IF NOT EXISTS gbot_states (
            number BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
            conversation VARBINARY({KEY_BYTES_MAX}) NOT NULL,
            expires_ms BIGINT NOT NULL,
            document LONGTEXT NOT NULL,
            UNIQUE KEY by_conversation (conversation),
            KEY by_time (expires_ms)
        ) {_OPTIONS}""",
    ),
)
"""The statements that lead to version 1, 2, …; a migration that was released is never changed."""

VERSION: Final = len(MIGRATIONS)


def check_server(place: str, version: str) -> None:
    """Raises StartError for a server that is too old; ``version`` is what VERSION() says."""
    name, minimum = ("MariaDB", MARIADB_MIN) if "mariadb" in version.lower() else ("MySQL", MYSQL_MIN)
    try:
        found = tuple(int(part) for part in version.split("-")[0].split(".")[:2])
    except ValueError:
        found = (0, 0)
    if found < minimum:
        needed = ".".join(map(str, minimum))
        raise StartError(f"{place} is {name} {version}; the inbox needs {name} {needed} or later.")


def version_of(connection: Connection) -> int:
    """The version of the tables; 0 when there are none."""
    try:
        found = connection.rows("SELECT MAX(version) FROM gbot_schema")[0][0]
    except DatabaseMistake as error:
        if error.code != NO_SUCH_TABLE:
            raise
        return 0
    return found or 0


def check(connection: Connection, place: str) -> None:
    """Raises StartError unless the tables are of this version."""
    version = version_of(connection)
    if version > VERSION:
        raise _newer(place, version)
    if version < VERSION:
        lack = "has no tables of gbot yet" if version == 0 else f"has tables of an older gbot (version {version})"
        raise StartError(f"{place} {lack}: run `gbot inbox migrate` with the same --inbox (GBOT_INBOX).")


def check_rights(connection: Connection) -> None:
    """Raises DatabaseMistake, with a code that is NOT_ALLOWED, unless the user may do a worker's work.

    To explain a statement takes the right to run it. Nothing is changed, and no lock is waited for.
    """
    for (table, key), rights in CHANGES.items():
        row = f"{table} WHERE {key} = -1"
        explained = {
            "INSERT": f"EXPLAIN INSERT INTO {table} SELECT * FROM {row}",
            "UPDATE": f"EXPLAIN UPDATE {table} SET {key} = {key} WHERE {key} = -1",
            "DELETE": f"EXPLAIN DELETE FROM {row}",
        }
        for right in rights:
            connection.rows(explained[right])


def migrate(connection: Connection, place: str) -> list[str]:
    """Bring the tables to this version; a sentence for each step taken. Raises StartError."""
    with _alone(connection, place):
        connection.execute(f"CREATE TABLE IF NOT EXISTS gbot_schema (version INT NOT NULL PRIMARY KEY) {_OPTIONS}")
        version = version_of(connection)
        if version > VERSION:
            raise _newer(place, version)
        steps = []
        for reached, statements in enumerate(MIGRATIONS[version:], version + 1):
            for statement in statements:
                connection.execute(statement)
            connection.execute("INSERT INTO gbot_schema (version) VALUES (%s)", (reached,))
            steps.append(f"Brought the tables of {place} to version {reached}.")
    return steps


def _newer(place: str, version: int) -> StartError:
    return StartError(
        f"{place} has tables of a newer gbot (version {version}; this gbot knows up to {VERSION}): use that gbot."
    )


@contextmanager
def _alone(connection: Connection, place: str) -> Iterator[None]:
    lock = "LEFT(CONCAT('gbot migrates ', DATABASE()), 64)"  # names of locks hold for the whole server
    for _ in range(LOCK_WAITS_MAX):
        if connection.rows(f"SELECT GET_LOCK({lock}, {LOCK_WAIT_S})")[0][0] == 1:
            break
    else:
        raise StartError(f"{place} is being migrated by another process, for more than a minute now.")
    try:
        yield
    finally:
        if connection.is_open:
            connection.rows(f"SELECT RELEASE_LOCK({lock})")
