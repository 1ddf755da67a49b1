"""Users and states in a MySQL inbox, as SQL: a statement for each batch.

Rows are written in the order of their keys, so that two workers wait for each other rather than deadlock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from gbot.database.connection import Connection
from gbot.directory import Change
from gbot.inbox import Entry, Outcome
from gbot.inboxes.changes import KeptState, UserKey, fold, of_outcomes, profile_of, profile_text
from gbot.inboxes.chunks import chunks
from gbot.inboxes.mysql_schema import ID_BYTES_MAX, KEY_BYTES_MAX, PLATFORM_BYTES_MAX
from gbot.inboxes.mysql_tables import CHUNK, ENTRIES, Tables, binary, literal_bytes, values_of
from gbot.user import User

CARRIED: Final = f"SELECT number, claim FROM {ENTRIES} WHERE number IN %s FOR UPDATE"
STATES_BY_KEY: Final = "gbot_states FORCE INDEX (by_conversation) WHERE conversation IN %s"
USERS_BY_KEY: Final = "gbot_users FORCE INDEX (by_id) WHERE platform = %s AND user_id IN %s"
STATES: Final = f"SELECT conversation, document FROM {STATES_BY_KEY} AND expires_ms > %s"
USERS: Final = f"SELECT user_id, gone, gone_ms, profile, profile_ms FROM {USERS_BY_KEY}"
SAVE_STATES: Final = (
    "INSERT INTO gbot_states (conversation, document, expires_ms) VALUES {values}"
    " ON DUPLICATE KEY UPDATE document = VALUES(document), expires_ms = VALUES(expires_ms)"
)
# What is assigned first is assigned from the old times.
SAVE_USERS: Final = (
    "INSERT INTO gbot_users (platform, user_id, gone, gone_ms, profile, profile_ms) VALUES {values}"
    " ON DUPLICATE KEY UPDATE"
    " gone = IF(VALUES(gone_ms) >= gone_ms, VALUES(gone), gone), gone_ms = GREATEST(VALUES(gone_ms), gone_ms),"
    " profile = IF(VALUES(profile_ms) >= profile_ms, VALUES(profile), profile),"
    " profile_ms = GREATEST(VALUES(profile_ms), profile_ms)"
)
# Always so, but not in the index: see gbot.inboxes.mysql_tables.
REMOVE_STATES: Final = f"DELETE gbot_states FROM {STATES_BY_KEY} AND expires_ms IS NOT NULL"
REMOVE_USERS: Final = f"DELETE gbot_users FROM {USERS_BY_KEY} AND gone_ms IS NOT NULL"

BinaryKey = tuple[bytes, bytes]  # platform and id


def states(connection: Connection, conversations: Sequence[str], now_ms: int) -> dict[str, str]:
    by_key = {binary(conversation, KEY_BYTES_MAX): conversation for conversation in conversations}
    rows: list[tuple[bytes, str]] = []
    for part in chunks(list(by_key), CHUNK):
        rows += connection.rows(STATES, (part, now_ms))
    return {by_key[key]: document for key, document in rows}


def users(connection: Connection, wanted: Sequence[UserKey]) -> dict[UserKey, User]:
    by_key = {_binary_key(key): key for key in wanted}
    found: dict[UserKey, User] = {}
    for platform, ids in _by_platform(by_key):
        for user_id, gone, gone_ms, profile, profile_ms in connection.rows(USERS, (platform, ids)):
            key = by_key[platform, user_id]
            found[key] = User(*key, bool(gone), gone_ms, profile_of(profile), profile_ms)
    return found


def in_time(tables: Tables, settlements: Iterable[tuple[Entry, Outcome]]) -> list[Change]:
    """The changes of those outcomes whose entry was not taken away, nor will be before the commit."""
    changes = of_outcomes(settlements)
    carried: set[tuple[int, int]] = set()
    for part in chunks(sorted(number for number, _ in changes), CHUNK):
        carried.update(tables.rows(CARRIED, (part,)))
    return [change for carrier, own in changes.items() if carrier in carried for change in own]


def save(tables: Tables, changes: Sequence[Change]) -> None:
    """Store changes, in their order, within a transaction. Without any it costs nothing."""
    if not changes:
        return
    folded = fold(changes)
    for platform, ids in _by_platform(map(_binary_key, folded.forgotten)):
        tables.run(REMOVE_USERS, (platform, ids))
    _save_users(tables, [(_binary_key(key), user) for key, user in folded.users.items()])
    _save_states(tables, {binary(key, KEY_BYTES_MAX): state for key, state in folded.states.items()})


def _save_users(tables: Tables, users: Sequence[tuple[BinaryKey, User]]) -> None:
    rows = [
        (*key, int(user.gone), user.gone_ms, profile_text(user.profile), user.profile_ms)
        for key, user in sorted(users, key=lambda pair: pair[0])
    ]
    for part in chunks(
        rows, CHUNK, tables.statement_bytes_max, lambda row: 2 * len(row[1]) + literal_bytes(row[4] or "") + 200
    ):
        values = values_of("(%s, %s, %s, %s, %s, %s)", part)
        tables.run(SAVE_USERS.replace("{values}", values), [value for row in part for value in row])


def _save_states(tables: Tables, states: dict[bytes, KeptState]) -> None:
    removed = sorted(key for key, state in states.items() if not state.document)
    for part in chunks(removed, CHUNK):
        tables.run(REMOVE_STATES, (part,))
    rows = [(key, state.document, state.expires_ms) for key, state in sorted(states.items()) if state.document]
    for some in chunks(
        rows, CHUNK, tables.statement_bytes_max, lambda row: 2 * len(row[0]) + literal_bytes(row[1] or "") + 100
    ):
        values = values_of("(%s, %s, %s)", some)
        tables.run(SAVE_STATES.replace("{values}", values), [value for row in some for value in row])


def _binary_key(key: UserKey) -> BinaryKey:
    platform, user_id = key
    return binary(platform, PLATFORM_BYTES_MAX), binary(user_id, ID_BYTES_MAX)


def _by_platform(keys: Iterable[BinaryKey]) -> list[tuple[bytes, list[bytes]]]:
    """The ids of each platform, in their order and in parts that a statement takes."""
    ids: dict[bytes, list[bytes]] = {}
    for platform, user_id in sorted(keys):
        ids.setdefault(platform, []).append(user_id)
    return [(platform, part) for platform, own in ids.items() for part in chunks(own, CHUNK)]
