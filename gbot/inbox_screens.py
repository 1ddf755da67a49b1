"""What ``gbot inbox`` shows: counts and records in, lines of text out. Pure; the time and the width are handed in.

A table shows no text that users wrote; one entry shown by its number does. Control characters are escaped, so that
nothing that came in can move the cursor, and columns are counted in cells of the terminal: two for a kanji.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from gbot.inboxes.store import Counts, Place, Record
from gbot.logs import one_line

WORDS: Final = {
    Place.READY: "ready",
    Place.RUNNING: "running",
    Place.WAITING: "waiting",
    Place.BEHIND: "waiting",
    Place.DEAD: "dead",
    Place.DONE: "done",
}
HEADS: Final = ("NUMBER", "STATE", "EVENT", "WHO", "ATT", "RES", "AGE", "NOTE")
TO_THE_RIGHT: Final = {0, 4, 5}
AGAIN: Final = {Place.RUNNING, Place.READY, Place.BEHIND}  # whose error is that of an earlier attempt
WHO, NOTE = HEADS.index("WHO"), HEADS.index("NOTE")
EVENT_CELLS_MAX: Final = 24
WHO_CELLS_MIN: Final = 10
NOTE_CELLS: Final = 24  # that the note gets before the conversation's id is shown whole
NARROW: Final = 100  # columns below which the gaps shrink to one
# What a traceback's last line has before the name of an exception: in a narrow note it would hide the reason.
MODULE: Final = re.compile(r"^(?:(?:\w+|<locals>)\.)+(?=[A-Z]\w*(?::|$))")
UNITS: Final = ((86_400, "d", 2 * 86_400), (3600, "h", 3600), (60, "min", 60), (1, "s", 0))


def age(span_ms: int) -> str:
    """A span of time in one unit, rounded down: ``5 s``, ``3 min``, ``2 h``, ``4 d``."""
    seconds = max(0, span_ms) // 1000
    return next(f"{seconds // size} {unit}" for size, unit, least in UNITS if seconds >= least)


def cells(text: str) -> int:
    """How many columns of a terminal the text takes."""
    return sum(map(_cells_of, text))


def _cells_of(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int) -> str:
    """The text, or its beginning with an ellipsis, in no more than this many columns."""
    if cells(text) <= width:
        return text
    kept, used = "", 0
    for character in text:
        used += _cells_of(character)
        if used > width - 1:
            break
        kept += character
    return kept + "…"


def padded(text: str, width: int, to_the_right: bool) -> str:
    space = " " * (width - cells(text))
    return space + text if to_the_right else text + space


def clean(text: str) -> str:
    return one_line(text).replace("\t", " ")


# ---- many entries


def row(record: Record, now_ms: int) -> Sequence[str]:
    """An entry as the cells of the table."""
    event = record.event
    who = event.conversation.id if event.conversation else event.user_id or "-"
    return (
        str(record.number),
        WORDS[record.place],
        cut(clean(f"{event.platform} {event.kind}"), EVENT_CELLS_MAX),
        clean(who),
        str(record.attempts),
        str(record.rescues),
        age(now_ms - record.received_ms),
        _note(record, now_ms),
    )


def _note(record: Record, now_ms: int) -> str:
    lines = record.error.strip().splitlines()
    reason = clean(MODULE.sub("", lines[-1])) if lines else None
    if reason and record.place in AGAIN:
        reason = f"before: {reason}"
    due_ms = record.due_ms or 0
    state = {
        Place.WAITING: f"in {age(due_ms - now_ms)}" if due_ms > now_ms else "due",
        Place.BEHIND: "behind its conversation",
        Place.RUNNING: f"worker {record.worker}",
    }
    return (": " if record.place not in AGAIN else "; ").join(filter(None, (state.get(record.place), reason)))


def table_layout(rows: Sequence[Sequence[str]], width: int) -> Callable[[Sequence[str]], str]:
    """How to write rows that look like these: natural widths, and what is left for id and note."""
    gap = " " if width < NARROW else "  "
    widths = [max(map(cells, column)) for column in zip(HEADS, *rows, strict=True)]
    rest = width - len(gap) * (len(HEADS) - 1) - sum(widths) + widths[WHO] + widths[NOTE]
    widths[WHO] = min(widths[WHO], max(WHO_CELLS_MIN, rest - NOTE_CELLS))
    widths[NOTE] = max(WHO_CELLS_MIN, rest - widths[WHO])
    flexible = (WHO, NOTE)

    def line(row: Sequence[str]) -> str:
        texts = [cut(text, widths[at]) if at in flexible else text for at, text in enumerate(row)]
        return gap.join(padded(text, widths[at], at in TO_THE_RIGHT) for at, text in enumerate(texts)).rstrip()

    return line


def record_json(record: Record) -> str:
    """An entry as a line for programs, without what users wrote."""
    event = record.event
    waits_for = {Place.WAITING: "attempt", Place.BEHIND: "conversation"}
    return json.dumps(
        {
            "number": record.number,
            "state": WORDS[record.place],
            "waits_for": waits_for.get(record.place),
            "platform": event.platform,
            "kind": event.kind,
            "event_id": event.id,
            "conversation": event.conversation and msgspec.to_builtins(event.conversation),
            "user_id": event.user_id,
            "attempts": record.attempts,
            "rescues": record.rescues,
            "received": utc(record.received_ms),
            "due": utc(record.due_ms),
            "ended": utc(record.ended_ms),
            "worker": record.worker,
            "error": record.error,
        }
    )


def utc(time_ms: int | None) -> str | None:
    if time_ms is None:
        return None
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# ---- one entry


def shown(record: Record, now_ms: int) -> list[str]:
    """Everything about an entry."""
    event = record.event
    where = event.conversation and f"{event.conversation.kind} {event.conversation.id}"
    behind = record.place is Place.BEHIND
    rows = [
        ("State", WORDS[record.place] + (", for an earlier event of its conversation" if behind else "")),
        ("Due", moment(record.due_ms, now_ms)),
        ("Worker", record.worker),
        ("Failed", _times(record.attempts) if record.attempts else "never"),
        ("Rescued", f"from a worker that was gone, {_times(record.rescues)}" if record.rescues else None),
        ("Received", moment(record.received_ms, now_ms)),
        ("Ended", moment(record.ended_ms, now_ms)),
        ("Platform", event.platform),
        ("Kind", event.kind),
        ("Event id", event.id),
        ("Conversation", where),
        ("User", event.user_id),
    ]
    lines = [f"Entry {record.number}", *(f"  {name:<13} {clean(str(value))}" for name, value in rows if value)]
    if record.error:
        lines += ["", "Error", *(f"  {clean(line)}" for line in record.error.strip().splitlines())]
    return [*lines, "", "Event", *pretty(event)]


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def moment(time_ms: int | None, now_ms: int) -> str | None:
    """ISO 8601 with this machine's zone, and how far away it is."""
    if time_ms is None:
        return None
    stamp = datetime.fromtimestamp(time_ms / 1000).astimezone().isoformat(timespec="milliseconds")
    away = f"{age(now_ms - time_ms)} ago" if time_ms <= now_ms else f"in {age(time_ms - now_ms)}"
    return f"{stamp} ({away})"


def pretty(value: Any) -> list[str]:
    """As JSON for people, with the escapes of JSON for what a terminal would obey."""
    text = json.dumps(msgspec.to_builtins(value), ensure_ascii=False, indent=2)
    return re.sub("[\x7f-\x9f\u2028\u2029]", lambda found: f"\\u{ord(found.group()):04x}", text).split("\n")


# ---- the whole


def counts_lines(counts: Counts, place: str, now_ms: int) -> list[str]:
    at = counts.by_place
    waiting, behind = at.get(Place.WAITING, 0), at.get(Place.BEHIND, 0)
    oldest = counts.oldest_ready_ms
    notes = {
        "ready": f"the oldest since {age(now_ms - oldest)}" if oldest is not None else "",
        "waiting": f"{waiting:,} for their next attempt, {behind:,} for their conversation" if waiting + behind else "",
        "dead": "gbot inbox ls --state dead tells why" if at.get(Place.DEAD) else "",
        "workers": "one that was killed counts until another notices" if counts.workers else "so nothing is run",
        "remembered ids": "of events that would not run twice",
    }
    numbers = _by_word(counts) | {"workers": counts.workers, "remembered ids": counts.seen}
    width = max(len(f"{number:,}") for number in numbers.values())
    return [
        clean(place),
        *(f"  {name:<14}  {n:>{width},}  {notes.get(name, '')}".rstrip() for name, n in numbers.items()),
    ]


def counts_json(counts: Counts, place: str, now_ms: int) -> str:
    oldest = counts.oldest_ready_ms
    return json.dumps(
        {
            "place": place,
            **_by_word(counts),
            "waiting_for_conversation": counts.by_place.get(Place.BEHIND, 0),
            "oldest_ready_s": max(0, now_ms - oldest) / 1000 if oldest is not None else None,
            "workers": counts.workers,
            "remembered_ids": counts.seen,
        }
    )


def _by_word(counts: Counts) -> dict[str, int]:
    numbers = dict.fromkeys(WORDS.values(), 0)
    for place, count in counts.by_place.items():
        numbers[WORDS[place]] += count
    return numbers
