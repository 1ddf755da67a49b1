"""Kinds of settings: what is expected, in words, and how a value is read. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from gbot import times
from gbot.database import address
from gbot.limiter import Limit, read_lanes


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of setting: what is expected, in words, and how a value is read. ``read`` raises ValueError."""

    expected: str
    read: Callable[[str], Any]
    metavar: str


def integer(low: int, high: int, metavar: str = "N") -> Kind:
    def read(text: str) -> int:
        value = int(text) if re.fullmatch(r"[0-9]{1,18}", text) else -1
        if not low <= value <= high:
            raise ValueError
        return value

    return Kind(f"a whole number from {low} to {high}", read, metavar)


def seconds(low: float, high: float, zero: str = "") -> Kind:
    """``zero``: what 0 means, where it is allowed below ``low``. 90, 90s, 20ms, 1.5m, 25h and 7d are all understood."""

    def read(text: str) -> float:
        found = re.fullmatch(f"{times.NUMBER}{times.UNIT}?", text)
        value = times.seconds(found[1], found[2] or "s") if found else -1.0
        if not (low <= value <= high or (zero and value == 0)):
            raise ValueError
        return value

    expected = f"a number of seconds from {low:.10g} to {high:.10g}, or a time such as 90s, 5m, 25h or 7d"
    return Kind(f"{expected}; 0 for {zero}" if zero else expected, read, "SECONDS")


def choice(*words: str) -> Kind:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError
        return text

    return Kind(f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0], read, "|".join(words))


def matching(pattern: str, expected: str, metavar: str) -> Kind:
    def read(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError
        return text

    return Kind(expected, read, metavar)


def words(*known: str) -> Kind:
    def read(text: str) -> tuple[str, ...]:
        words = tuple(word.strip() for word in text.split(",") if word.strip())
        if not set(words) <= set(known):
            raise ValueError
        return tuple(dict.fromkeys(words))

    return Kind(f"a comma-separated list of {', '.join(known)}", read, "NAMES")


def secrets(count_max: int) -> Kind:
    def read(text: str) -> tuple[str, ...]:
        secrets = tuple(secret.strip() for secret in text.split(",") if secret.strip())
        if not 1 <= len(secrets) <= count_max or not all(re.fullmatch(r"[!-~]+", secret) for secret in secrets):
            raise ValueError
        return secrets

    expected = (
        "one secret of printable ASCII characters"
        if count_max == 1
        else f"one secret, or {count_max} separated by a comma while rotating"
    )
    return Kind(expected, read, "SECRET")


def listening() -> Kind:
    def read(text: str) -> str:
        if text.startswith("unix:"):
            if not re.fullmatch(r"unix:/[^\0]+", text):
                raise ValueError
        elif re.search(r"[\s/\x00-\x1f\x7f]", text) or not text.encode("idna"):  # raises UnicodeError, a ValueError
            raise ValueError
        return text

    return Kind("a host name, an IP address or unix:/PATH", read, "ADDRESS")


def url() -> Kind:
    def read(text: str) -> str:
        if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", text) or not text.isprintable():
            raise ValueError
        parts = urlsplit(text)
        if not (parts.hostname or "").encode("idna") or parts.port == 0:  # both raise ValueError for what cannot be
            raise ValueError
        return text

    return Kind("an address that begins with https:// or http:// and holds no password", read, "URL")


def inbox() -> Kind:
    def read(text: str) -> str:
        if text.startswith("mysql:"):
            address.parse(text)  # raises NoAddress
        elif text not in ("memory:", "sqlite:") and not re.fullmatch(r"sqlite:///[^\0?#]*[^\0?#/]", text):
            raise ValueError
        return text

    return Kind("memory:, sqlite:, sqlite:///PATH or mysql://USER:PASSWORD@HOST/DATABASE", read, "URL")


def database() -> Kind:
    def read(text: str) -> str:
        address.parse(text)  # raises NoAddress
        return text

    return Kind(address.EXPECTED, read, "URL")


def lanes() -> Kind:
    def read(text: str) -> tuple[tuple[str, Limit], ...]:
        lanes = read_lanes(text)
        if not lanes:
            raise ValueError
        return tuple(lanes.items())

    return Kind(
        "limits such as 'line.push: 500/s; line.multicast: 100/s' or 'line.all: 1 at once, 100ms apart'", read, "LIMITS"
    )


ADDRESS = listening()
DATABASE = database()
INBOX = inbox()
LANES = lanes()
PATH = matching(r"[^\0]+", "the path of a file", "PATH")
API_BASE = url()
