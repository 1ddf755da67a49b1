"""Reading JSON that a chat platform sent, when it is not quite as it should be. Pure; used by ``platforms/``.

A platform decodes with msgspec first, which is fast and strict: half a surrogate pair (a cut emoji) or a number out of
range in one event makes it refuse all of them. ``salvage`` reads such a body again with the standard library's decoder,
and ``storable`` puts each event right for itself, so that the others get through. What is no JSON at all is refused.
"""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn

import msgspec

from gbot.errors import MalformedDelivery
from gbot.platform import json_kind

# The platforms' ids and tokens have 16 to 200 characters. A longer one would be refused by an inbox's column, and with
# it every other event of the same commit.
ID_CHARS_MAX: Final = 255
TIMESTAMP_MS_MAX: Final = 2**63 - 1  # what a database's integer holds

_MISSING: Final = object()
_decode = msgspec.json.Decoder().decode


def sent_id(value: Any) -> str | None:
    """The value if it can be an id or a token; an empty one counts as none, or two events would pass for duplicates."""
    return value if isinstance(value, str) and 0 < len(value) <= ID_CHARS_MAX else None


def sent_timestamp_ms(value: Any) -> int | None:
    """The value if it can be a time in milliseconds. type() and not isinstance(): true is an int to Python."""
    return value if type(value) is int and 0 <= value <= TIMESTAMP_MS_MAX else None


def salvage(raw_body: bytes, platform: str) -> dict[str, Any]:
    """The body's JSON object, which may hold what no store can. Raises MalformedDelivery."""
    try:
        body: Any = json.loads(raw_body.decode(), parse_constant=_refuse_constant)
    except RecursionError:
        raise MalformedDelivery(f"the body: expected a {platform} delivery, got JSON nested too deeply") from None
    except ValueError:
        raise MalformedDelivery("the body: expected a JSON object in UTF-8, got something that is not JSON") from None
    if not isinstance(body, dict):
        raise MalformedDelivery(f"the body: expected a JSON object, got {json_kind(body)}")
    return body


def salvaged_list(body: dict[str, Any], field: str) -> list[Any]:
    """The list that a field of a salvaged body must hold. Raises MalformedDelivery."""
    value = body.get(field, _MISSING)
    if value is _MISSING:
        raise MalformedDelivery(f"{field}: expected a list, but the field is missing")
    if not isinstance(value, list):
        raise MalformedDelivery(f"{field}: expected a list, got {json_kind(value)}")
    return value


def storable(value: Any) -> Any:
    """The value as any store can hold it, with ``?`` for half a surrogate pair, or None if none can."""
    try:
        return _decode(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def read_json(body: bytes) -> Any:
    """The JSON value of an API's answer, or None for what is none. Raises nothing."""
    try:
        return _decode(body)
    except (ValueError, RecursionError):  # msgspec's own errors and UnicodeDecodeError are ValueErrors
        pass
    try:
        return storable(json.loads(body))
    except (ValueError, RecursionError):
        return None


def member(value: Any, *path: str | int) -> Any:
    """What is at the end of a path of fields and places in lists, or None where the path ends before."""
    for step in path:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return None
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
