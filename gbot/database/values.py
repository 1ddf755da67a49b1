"""Values as SQL, and statements with their values filled in. Pure.

What a value is written as means the same in every session. Whether a backslash escapes is up to its ``sql_mode``, and
what the server tells of that is not always so: after a procedure that has SET it for itself, for one. Therefore no
backslash is ever sent; a text that has one goes as hexadecimal digits.
"""

from __future__ import annotations

import datetime
import enum
import numbers
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import PurePath
from typing import Any, Final

Arguments = Sequence[object] | Mapping[str, object]

_MARK: Final = re.compile(r"%(?:%|s|\(([^()]*)\)s)?")
_EXPONENT_MAX: Final = 400  # beyond all that a column can hold; 1E+999999999 would be written with as many zeros


class Unsendable(ValueError):
    """What is wrong with the values of a statement. The text names types, numbers and placeholders, and no value."""


# ---- statements


def filled_in(sql: str, args: Arguments) -> str:
    """A statement with its values in the places of ``%s`` or ``%(name)s``. Raises Unsendable."""
    if isinstance(args, list | tuple):
        if sql.count("%") == sql.count("%s") == len(args):  # nearly always: nothing that could go wrong
            try:
                return sql % tuple(map(literal, args))
            except Unsendable:  # which one?
                pass
        return _by_number(sql, args)
    if isinstance(args, Mapping):
        return _by_name(sql, args)
    if isinstance(args, Sequence) and not isinstance(args, str | bytes | bytearray | memoryview):
        return _by_number(sql, args)
    several = isinstance(args, Iterable) and not isinstance(args, str | bytes | bytearray | memoryview)
    raise Unsendable(
        f"expected a list, tuple or dict of values, got {_type(args)} (write {'list(…)' if several else '[value]'})"
    )


def _by_number(sql: str, args: Sequence[object]) -> str:
    given, wanted = len(args), 0

    def written(mark: re.Match[str]) -> str:
        nonlocal wanted
        found = mark[0]
        if found != "%s":
            return _percent(mark, f"is for a dict of values, not for {_type(args)}")
        wanted += 1
        try:
            return literal(args[wanted - 1]) if wanted <= given else ""
        except Unsendable as error:
            raise Unsendable(f"value {wanted}: {error}") from None

    filled = _MARK.sub(written, sql)
    if wanted != given:
        hint = " (a ? is none)" if "?" in sql else ""
        raise Unsendable(f"{_count(wanted, 'placeholder')} %s{hint}, {_count(given, 'value')}")
    return filled


def _by_name(sql: str, args: Mapping[str, object]) -> str:
    def written(mark: re.Match[str]) -> str:
        name = mark[1]
        if name is None:
            return _percent(mark, f"is for a list of values, not for {_type(args)}")
        try:
            return literal(args[name])
        except KeyError:
            raise Unsendable(f"no value for {mark[0]}") from None
        except Unsendable as error:
            raise Unsendable(f"{mark[0]}: {error}") from None

    return _MARK.sub(written, sql)


def _percent(mark: re.Match[str], what_it_is: str) -> str:
    """The sign itself, for ``%%``; anything else is a mistake, a placeholder of another kind among them."""
    if mark[0] == "%%":
        return "%"
    if mark[0] != "%":
        raise Unsendable(f"{mark[0]} {what_it_is}")
    shown = mark.string[mark.start() : mark.start() + 2]
    raise Unsendable(f"{shown} is no placeholder: they are %s or %(name)s, and a literal % is written %%")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number or 'no'} {what}s"


# ---- values


def literal(value: object) -> str:
    """A value as SQL. Raises Unsendable for one that is none, rather than to send what Python would print of it."""
    write = _WRITERS.get(type(value))
    return write(value) if write is not None else _writer_of(value)(value)


def _writer_of(value: object) -> Callable[[Any], str]:
    """Of a value whose type is derived from one that is known, or a number such as numpy's."""
    for base in type(value).__mro__:
        if base in _WRITERS:
            return _WRITERS[base]
    if isinstance(value, numbers.Integral):
        return lambda number: str(int(number))
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Rational):
        return lambda number: _float(float(number))
    if isinstance(value, enum.Enum):
        raise Unsendable(f"a member of {_type(value)}: give its .value or its .name")
    expected = "None, a text, number, bytes, date or time, or a list of these"
    raise Unsendable(f"expected {expected}, got {_type(value)}")


def _type(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _text(value: str) -> str:
    if "\\" in value or "\0" in value:  # the latter is in the way of tools that read what the server has logged
        try:
            return f"_utf8mb4 X'{value.encode().hex()}'"
        except UnicodeEncodeError:
            raise Unsendable("half a character cannot be sent") from None
    return "'" + str.replace(value, "'", "''") + "'"


def _binary(value: bytes | bytearray | memoryview) -> str:
    """Binary in every place, whatever the character set."""
    return f"X'{value.hex()}'"


def _integer(value: int) -> str:
    try:
        return int.__repr__(value)
    except ValueError:  # Python writes no more than 4,300 digits
        raise Unsendable("a number with too many digits") from None


def _float(value: float) -> str:
    text = float.__repr__(value)
    if "n" in text:  # inf, nan
        raise Unsendable(f"expected a finite number, got {text.removeprefix('-')}")
    return text if "e" in text else text + "e0"  # or it would be a DECIMAL


def _decimal(value: Decimal) -> str:
    if not value.is_finite():
        raise Unsendable("expected a finite number, got a Decimal that is none")
    if abs(value.adjusted()) > _EXPONENT_MAX:
        raise Unsendable("a number with too many digits")
    return format(value, "f")


def _moment(value: datetime.datetime | datetime.time) -> str:
    """Without a time zone, which no column keeps: UTC can go without saying, others would be lost."""
    if value.utcoffset():
        raise Unsendable("a time of another zone than UTC, which the database would forget: use .astimezone(UTC)")
    plain = value.replace(tzinfo=None)
    if isinstance(plain, datetime.datetime):
        return f"'{datetime.datetime.isoformat(plain, ' ')}'"
    return f"'{datetime.time.isoformat(plain)}'"


def _date(value: datetime.date) -> str:
    return f"'{datetime.date.isoformat(value)}'"


def _duration(value: datetime.timedelta) -> str:
    sign, length = ("-", -value) if value.days < 0 else ("", value)
    minutes, seconds = divmod(length.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    parts = f".{length.microseconds:06}" if length.microseconds else ""
    return f"'{sign}{length.days * 24 + hours:02}:{minutes:02}:{seconds:02}{parts}'"


def _several(values: Iterable[object]) -> str:
    """``(…, …)``, as IN has it."""
    written = ", ".join(map(literal, values))
    if not written:
        raise Unsendable("an empty list, which SQL does not know: IN () is an error")
    return f"({written})"


_WRITERS: Final[dict[type, Callable[[Any], str]]] = {
    str: _text,
    int: _integer,
    type(None): lambda _: "NULL",
    bool: int.__repr__,
    float: _float,
    Decimal: _decimal,
    **dict.fromkeys((bytes, bytearray, memoryview), _binary),
    **dict.fromkeys((datetime.datetime, datetime.time), _moment),
    datetime.date: _date,
    datetime.timedelta: _duration,
    **dict.fromkeys((list, tuple, set, frozenset), _several),
    **dict.fromkeys((uuid.UUID, PurePath), lambda value: _text(str(value))),
}
