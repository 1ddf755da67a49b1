"""What ``gbot users`` shows: users in, lines of text out. Pure, and with the manners of :mod:`gbot.inbox_screens`.

A table shows users by the names that they have given themselves; control characters in them are escaped.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from gbot.counts import counted
from gbot.inbox_screens import NARROW, WORDS, cells, clean, cut, moment, padded, pretty, utc
from gbot.inboxes.store import Erased, Place
from gbot.user import Profile, User

HEADS: Final = ("PLATFORM", "USER", "NAME", "LANGUAGE", "GONE")
NAME: Final = HEADS.index("NAME")
NAME_CELLS_MIN: Final = 10


def day(time_ms: int) -> str:
    """The date in this machine's zone."""
    return (moment(time_ms, time_ms) or "")[:10]


def row(user: User) -> Sequence[str]:
    """A user as the cells of the table."""
    gone = f"since {day(user.gone_ms)}" if user.gone else "-"
    return (clean(user.platform), clean(user.id), clean(user.display_name) or "-", clean(user.language or "-"), gone)


def table_layout(rows: Sequence[Sequence[str]], width: int) -> Callable[[Sequence[str]], str]:
    """How to write rows that look like these: natural widths, and names in what is left."""
    gap = " " if width < NARROW else "  "
    widths = [max(map(cells, column)) for column in zip(HEADS, *rows, strict=True)]
    rest = width - len(gap) * (len(HEADS) - 1) - sum(widths) + widths[NAME]
    widths[NAME] = min(widths[NAME], max(NAME_CELLS_MIN, rest))

    def line(row: Sequence[str]) -> str:
        texts = [cut(text, widths[at]) if at == NAME else text for at, text in enumerate(row)]
        return gap.join(padded(text, widths[at], to_the_right=False) for at, text in enumerate(texts)).rstrip()

    return line


def user_json(user: User) -> str:
    """A user as a line for programs."""
    profile = user.profile
    return json.dumps(
        {
            "platform": user.platform,
            "user_id": user.id,
            "gone": user.gone,
            "gone_changed": utc(user.gone_ms or None),
            "display_name": profile.display_name if profile else None,
            "language": profile.language if profile else None,
            "picture_url": profile.picture_url if profile else None,
            "status_message": profile.status_message if profile else None,
            "profile_fetched": utc(user.profile_ms or None),
        }
    )


def shown(user: User, known: bool, state: str | None, entries: Mapping[int, Place], now_ms: int) -> list[str]:
    """Everything about a user; ``known``: it is one of the users that are kept."""
    profile = user.profile or Profile("")
    rows = [
        ("Name", profile.display_name),
        ("Language", profile.language),
        ("Says", profile.status_message),
        ("Picture", profile.picture_url),
        ("Profile", f"as of {moment(user.profile_ms, now_ms)}" if user.profile else "not known"),
        ("Left" if user.gone else "Came", moment(user.gone_ms or None, now_ms)),
        ("Entries", _counted(entries.values()) or "none"),
    ]
    lines = [f"User {clean(user.id)} of {clean(user.platform)}{'' if known else ', of whom nothing else is known'}"]
    lines += [f"  {name:<10} {clean(value)}" for name, value in rows if value]
    if state is None:
        return lines
    return [*lines, "", "State of the conversation", *_state(state)]


def _counted(places: Iterable[Place]) -> str:
    """``1 running, 3 waiting``."""
    counts = Counter(WORDS[place] for place in places)
    return ", ".join(f"{counts[word]:,} {word}" for word in dict.fromkeys(WORDS.values()) if word in counts)


def _state(text: str) -> list[str]:
    try:
        return pretty(json.loads(text))
    except ValueError:
        return [clean(text)]


def erased_sentence(erased: Erased, who: str) -> str:
    """What was done, for the one who asked for it."""
    parts = [
        "what was known of the user" if erased.user else "",
        "the state of the conversation" if erased.state else "",
        counted(erased.entries, "entry", "entries") if erased.entries else "",
    ]
    what = ", ".join(part for part in parts if part)
    parts_text = counted(erased.parts, "part of a broadcast", "parts of broadcasts")
    taken = f"taken out of {parts_text}" if erased.parts else ""
    if what:
        return f"Removed of {who}: {'; '.join(filter(None, (what, taken)))}."
    return f"Nothing was removed of {who}{', who was ' + taken if taken else ''}."


def left_sentence(erased: Erased) -> str:
    """What could not be done."""
    left = counted(erased.running, "entry that runs", "entries that run")
    return f"left {left} at the moment: say this again when that has ended"
