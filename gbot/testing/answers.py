"""What a bot under test has answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

import msgspec

from gbot.inbox import Outcome, State

How = Literal["reply", "push", "multicast", "announcement", "typing"]


class Sent(msgspec.Struct, frozen=True):
    """One message on its way out. ``to`` names users, groups or rooms; nobody in particular for an announcement."""

    how: How
    to: tuple[str, ...]
    body: Mapping[str, Any] = {}  # the message as the platform's JSON; empty for typing

    @property
    def text(self) -> str | None:
        """The text of a text message, None for any other."""
        text = self.body.get("text")
        return text if self.body.get("type", "text") == "text" and isinstance(text, str) else None


class Answers(Sequence[Sent]):
    """What the bot has sent because of one event, in order, and how the run of its handler ended."""

    def __init__(self, sent: Sequence[Sent], outcome: Outcome | None) -> None:
        self._sent = tuple(sent)
        self._outcome = outcome

    @property
    def texts(self) -> list[str]:
        """The texts among what was sent."""
        return [sent.text for sent in self._sent if sent.text is not None]

    @property
    def ended(self) -> State | None:
        """``"done"``, ``"unhandled"``, ``"dropped"``, ``"retry"`` or ``"dead"``; None: a duplicate, nothing ran."""
        return self._outcome.state if self._outcome is not None else None

    @property
    def reason(self) -> str:
        """Why it did not end well: what Retry or Drop were given, or a traceback."""
        return self._outcome.error if self._outcome is not None else ""

    @property
    def after_s(self) -> float:
        """When the event is to be run again, for ``"retry"``."""
        return self._outcome.after_s if self._outcome is not None else 0.0

    def __len__(self) -> int:
        return len(self._sent)

    @overload
    def __getitem__(self, index: int) -> Sent: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sent]: ...
    def __getitem__(self, index: int | slice) -> Sent | Sequence[Sent]:
        return self._sent[index]

    def __repr__(self) -> str:
        return f"<Answers {list(self._sent)!r}, {self.ended}>"
