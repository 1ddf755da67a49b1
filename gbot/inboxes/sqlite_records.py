"""Users and states in a SQLite inbox, as SQL: one statement for a whole batch, as in :mod:`gbot.inboxes.sqlite_turn`.

Functions here run inside a transaction of :mod:`gbot.inboxes.sqlite`, or with a single query, and it translates the
errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from gbot.directory import Change
from gbot.inbox import Entry, Outcome
from gbot.inboxes.changes import UserKey, fold, of_outcomes, profile_of, profile_text
from gbot.inboxes.chunks import chunks
from gbot.inboxes.sqlite_file import Database
from gbot.inboxes.sqlite_upkeep import decode_numbers, json_text, whole
from gbot.user import User

STATES: Final = """SELECT json_group_array(json_array(s.conversation, s.document))
    FROM json_each(?) AS v CROSS JOIN states AS s ON s.conversation = v.value WHERE s.expires_ms > ?"""
USERS: Final = """SELECT json_group_array(json_array(v.key, u.gone, u.gone_ms, u.profile, u.profile_ms))
    FROM json_each(?) AS v CROSS JOIN users AS u
    ON u.platform = json_extract(v.value, '$[0]') AND u.user_id = json_extract(v.value, '$[1]')"""
# "WHERE true" tells SQLite that ON CONFLICT does not belong to a join.
SAVE_STATES: Final = """INSERT INTO states (conversation, document, expires_ms)
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]') FROM json_each(?)
    WHERE true
    ON CONFLICT (conversation) DO UPDATE SET document = excluded.document, expires_ms = excluded.expires_ms"""
REMOVE_STATES: Final = "DELETE FROM states WHERE conversation IN (SELECT value FROM json_each(?))"
SAVE_USERS: Final = """INSERT INTO users (platform, user_id, gone, gone_ms, profile, profile_ms)
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
        json_extract(value, '$[3]'), json_extract(value, '$[4]'), json_extract(value, '$[5]') FROM json_each(?)
    WHERE true
    ON CONFLICT (platform, user_id) DO UPDATE SET
        gone = iif(excluded.gone_ms >= gone_ms, excluded.gone, gone),
        gone_ms = max(excluded.gone_ms, gone_ms),
        profile = iif(excluded.profile_ms >= profile_ms, excluded.profile, profile),
        profile_ms = max(excluded.profile_ms, profile_ms)"""
REMOVE_USERS: Final = """DELETE FROM users WHERE number IN (SELECT u.number FROM json_each(?) AS v CROSS JOIN users AS u
    ON u.platform = json_extract(v.value, '$[0]') AND u.user_id = json_extract(v.value, '$[1]'))"""

# By the indexes of [number, claim]: those that still carry it.
IN_TIME: Final = """SELECT json_group_array(v.key) FROM json_each(?) AS v CROSS JOIN entries AS e
    ON e.number = json_extract(v.value, '$[0]') AND e.claim = json_extract(v.value, '$[1]')"""
SAVED_CHARS_MAX: Final = 16 * 1024 * 1024  # of documents in one statement

_decode_states = msgspec.json.Decoder(list[tuple[str, str]]).decode
_decode_users = msgspec.json.Decoder(list[tuple[int, int, int, str | None, int]]).decode


def states(db: Database, conversations: Sequence[str], now_ms: int) -> dict[str, str]:
    return dict(_decode_states(db.execute(STATES, (json_text(conversations), now_ms)).fetchone()[0]))


def users(db: Database, wanted: Sequence[UserKey]) -> dict[UserKey, User]:
    asked = json_text([(platform, whole(user_id)) for platform, user_id in wanted])
    found: dict[UserKey, User] = {}
    for index, gone, gone_ms, profile, profile_ms in _decode_users(db.execute(USERS, (asked,)).fetchone()[0]):
        key = wanted[index]
        found[key] = User(*key, bool(gone), gone_ms, profile_of(profile), profile_ms)
    return found


def in_time(db: Database, settlements: Iterable[tuple[Entry, Outcome]]) -> list[Change]:
    """The changes of those outcomes whose entry was not taken away. Without any it costs nothing."""
    changes = of_outcomes(settlements)
    if not changes:
        return []
    indexes = set(decode_numbers(db.execute(IN_TIME, (json_text([*changes]),)).fetchone()[0]))
    return [change for index, own in enumerate(changes.values()) if index in indexes for change in own]


def save(db: Database, changes: Sequence[Change]) -> None:
    """Store changes, in their order. Without any it costs nothing."""
    if not changes:
        return
    folded = fold(changes)
    if folded.forgotten:
        db.execute(REMOVE_USERS, (json_text([(platform, whole(id)) for platform, id in folded.forgotten]),))
    rows = [
        (user.platform, whole(user.id), user.gone, user.gone_ms, profile_text(user.profile), user.profile_ms)
        for user in folded.users.values()
    ]
    if rows:
        db.execute(SAVE_USERS, (json_text(rows),))
    kept = [(key, state.document, state.expires_ms) for key, state in folded.states.items() if state.document]
    for part in chunks(kept, len(kept), SAVED_CHARS_MAX, lambda row: len(row[1])):
        db.execute(SAVE_STATES, (json_text(part),))
    removed = [key for key, state in folded.states.items() if not state.document]
    if removed:
        db.execute(REMOVE_STATES, (json_text(removed),))
