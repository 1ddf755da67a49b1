"""What a check says. Pure."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

HIDDEN: Final = "(not shown, because it holds a secret)"
SECRET_CHARACTERS_MIN: Final = 6  # a shorter one is a part of too many words


class State(enum.StrEnum):
    """How bad it is. With ``FAIL`` gbot would not start, or not do its work; ``SKIP``: there is nothing to look at."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table. ``found`` and ``advice`` are sentences without a full stop; ``advice`` says what to do.

    ``figures`` are the numbers in them, for programs; each name ends with its unit, unless it counts something.
    ``said`` is the part of ``found`` that is none of gbot's own words, such as an error's text, and may hold a secret.
    """

    name: str
    state: State
    found: str
    advice: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    said: str = ""


def ok(name: str, found: str, figures: Mapping[str, float] | None = None) -> Finding:
    return Finding(name, State.OK, found, "", figures or {})


def warn(name: str, found: str, advice: str, figures: Mapping[str, float] | None = None) -> Finding:
    return Finding(name, State.WARN, found, advice, figures or {})


def fail(name: str, found: str, advice: str, figures: Mapping[str, float] | None = None, *, said: str = "") -> Finding:
    return Finding(name, State.FAIL, found, advice, figures or {}, said)


def skip(name: str, found: str) -> Finding:
    return Finding(name, State.SKIP, found)


def passed(findings: Iterable[Finding]) -> bool:
    return all(finding.state is not State.FAIL for finding in findings)


def without(finding: Finding, secrets: Iterable[str]) -> Finding:
    """The finding with no secret in it, whatever an error's text may have held.

    All of such a text goes: a gap in a sentence that can be guessed would tell what stood there. What gbot itself says
    stays, and holds none.
    """
    if not any(secret in finding.said for secret in secrets):
        return finding
    return dataclasses.replace(finding, found=finding.found.replace(finding.said, HIDDEN), said="")


def secrets_in(values: Iterable[Any]) -> set[str]:
    """What must not be shown of these settings' values: secrets, several to a tuple, and URLs with a password."""
    found: set[str] = set()
    for value in values:
        if isinstance(value, tuple):
            found |= secrets_in(value)
        elif isinstance(value, str):
            found |= _passwords(value) if "://" in value else {value}
    return {secret for secret in found if len(secret) >= SECRET_CHARACTERS_MIN}


def _passwords(url: str) -> set[str]:
    """As it stands there, and as the server has it; one with a stray ``@`` or ``/`` in it is no URL any more."""
    try:
        parts = urlsplit(url)
        password = parts.password or ""
    except ValueError:
        password = ""
    careless = url.partition("://")[2].rpartition("@")[0].partition(":")[2]
    plain = unquote(password)
    return {password, careless, plain, quote(plain, safe="")}


def size(bytes_: float) -> str:
    """``17.3 KiB``, ``512 MiB``, ``1.4 GiB``: each is 1,024 of the one before."""
    if math.isinf(bytes_):
        return "no limit"
    kib = bytes_ / 2**10
    if kib < 1024:
        return f"{kib:,.1f} KiB"
    return f"{kib / 2**10:,.0f} MiB" if kib < 2**20 else f"{kib / 2**20:,.1f} GiB"


def in_ms(seconds: float) -> float:
    """For figures, to the microsecond."""
    return round(seconds * 1000, 3)


def milliseconds(seconds: float) -> str:
    """``0.3 ms``, ``21 ms``."""
    return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else f"{seconds * 1000:,.0f} ms"
