"""Facts that are looked up rather than computed: TOML files beside this one, each with its sources and its date."""

from __future__ import annotations

from importlib.resources import files
from typing import TypeVar

import msgspec.toml

T = TypeVar("T")


def read(name: str, kind: type[T]) -> T:
    """The file ``name`` as this type. Raises msgspec.ValidationError when it is not of that shape."""
    return msgspec.toml.decode(files(__name__).joinpath(name).read_bytes(), type=kind)
