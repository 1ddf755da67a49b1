"""Many rows in parts, so that no statement is too long."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def chunks(
    items: Sequence[T], count_max: int, bytes_max: int = 0, size: Callable[[T], int] = lambda item: 0
) -> Iterator[list[T]]:
    """Parts of the items, in order, each of so many and of so many bytes at most, unless one item alone is larger."""
    part: list[T] = []
    room = bytes_max
    for item in items:
        need = size(item)
        if part and (len(part) == count_max or need > room):
            yield part
            part, room = [], bytes_max
        part.append(item)
        room -= need
    if part:
        yield part
