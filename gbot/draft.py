"""A conversation's state while a handler works on it: a JSON document, and what is to be stored of it. Pure.

What was changed is found by comparing texts, so names are sorted: a document that was only read is not stored again.
"""

from __future__ import annotations

import json
from typing import Any, Final

from gbot.errors import StateRefused

STATE_BYTES_MAX: Final = 64 * 1024
STATE_KEPT_MAX_S: Final = 3660 * 86_400.0


class Draft:
    """One conversation's state; ``document`` is the author's to change."""

    __slots__ = ("_before", "document", "forgotten", "kept_s")

    def __init__(self, before: str | None, *, forgotten: bool = False) -> None:
        self._before = before  # as it is stored; None: nothing is
        self.document: dict[str, Any] = json.loads(before) if before else {}
        self.forgotten = forgotten  # with the user: whatever is stored goes
        self.kept_s: float | None = None  # None: as long as --state-ttl says

    def text(self) -> str | None:
        """The document as JSON text, None for an empty one. Raises StateRefused."""
        if not self.document:
            return None
        try:
            text = json.dumps(self.document, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True)
            size = len(text.encode())
        except (TypeError, ValueError, RecursionError) as error:
            sentence = f"ctx.state: expected JSON values only; {type(error).__name__}: nothing was stored"
            raise StateRefused(sentence) from None
        if size > STATE_BYTES_MAX:
            raise StateRefused(f"ctx.state: expected at most {STATE_BYTES_MAX} bytes of JSON, got {size}")
        return text

    def differs(self, text: str | None) -> bool:
        """Whether this text of the document, or how long it is kept, has to be stored."""
        return self.forgotten or text != self._before or self.kept_s is not None
