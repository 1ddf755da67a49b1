"""A bot, an inbox, an execution and a dispatcher wired as the worker wires them, for tests inside one process.

Nothing of it is replaced: the inbox is the memory inbox, which here also keeps a ledger of what was settled, and the
way out of the plain platform is a sender that keeps what it is given. Unless a test asks for more, an event is run
once: a failure is then its end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import gevent

from gbot.bot import Bot
from gbot.dispatcher import Dispatcher, Leftovers
from gbot.event import Conversation, Event, Message
from gbot.execution import Execution
from gbot.inbox import Entry, Outcome, State
from gbot.inboxes.memory import MemoryInbox

DEADLINE_S = 10.0


class Ledger(MemoryInbox):
    """The memory inbox, with a list of what was settled."""

    def __init__(self, held_max: int, strict: bool = True) -> None:
        super().__init__(held_max, bytes_max=1_000_000, strict=strict, dedup_window_s=3600)
        self.settled: list[tuple[Entry, Outcome]] = []

    def settle(self, entry: Entry, outcome: Outcome) -> None:
        super().settle(entry, outcome)
        self.settled.append((entry, outcome))

    def states(self) -> dict[str, State]:
        """How each event's run ended, by its text. Fails when one was settled twice."""
        texts = [entry.event.text or "" for entry, _ in self.settled]
        assert len(set(texts)) == len(texts), f"settled more than once: {sorted(texts)}"
        return {text: outcome.state for text, (_, outcome) in zip(texts, self.settled, strict=True)}


class Outbox:
    """A way out that keeps what it is given: (kind of sending, address, messages)."""

    reply_within_s: float | None = None

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, list[Message]]] = []
        self.error: Exception | None = None  # raised instead, after keeping

    def reply(self, event: Event, messages: Sequence[Message]) -> None:
        self._keep("reply", event.reply_token or "", messages)

    def push(self, to: str, messages: Sequence[Message], retry_key: str) -> None:
        self._keep("push", to, messages)

    def _keep(self, kind: str, address: str, messages: Sequence[Message]) -> None:
        self.sent.append((kind, address, list(messages)))
        if self.error is not None:
            raise self.error

    def texts(self) -> list[str]:
        return [message.body["text"] for _, _, messages in self.sent for message in messages]


def text_event(text: str, user: str | None = None) -> Event:
    """A text message; from ``user``, or belonging to no conversation."""
    conversation = Conversation("user", user) if user is not None else None
    return Event(
        platform="plain",
        kind="message.text",
        raw=text,
        text=text,
        conversation=conversation,
        user_id=user,
        reply_token=f"token of {text}",
    )


def event(kind: str, **fields: object) -> Event:
    return Event(platform="plain", kind=kind, raw={}, **fields)  # type: ignore[arg-type]


class Rig:
    """What the worker makes of a bot, without its HTTP server."""

    def __init__(
        self, bot: Bot, pool: int = 10, timeout_s: float = 0.0, attempts_max: int = 1, strict: bool = True
    ) -> None:
        self.inbox = Ledger(1_000_000, strict)
        self.outbox = Outbox()
        self.execution = Execution(
            bot, self.inbox, {"plain": self.outbox}, timeout_s, attempts_max, delay=lambda failures: 0.01 * failures
        )
        self.dispatcher = Dispatcher(self.execution, pool, strict)
        self.inbox.start(self.dispatcher.submit, self.dispatcher.room, self.dispatcher.in_hand)

    def submit(self, *events: Event | str) -> None:
        """Hand these events over; a text stands for a text message of no conversation."""
        made = [text_event(given) if isinstance(given, str) else given for given in events]
        self.inbox.put(made, body_bytes=1)

    def settle_all(self, *events: Event | str) -> dict[str, State]:
        """Hand these events over and wait until all that was ever handed over is settled; the states by text."""
        self.submit(*events)
        wait_until(lambda: self.inbox.statistics().held == 0)
        return self.inbox.states()

    def drain(self, seconds: float = 0.0) -> Leftovers:
        return self.dispatcher.drain(time.monotonic() + seconds)


def wait_until(condition: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
    """Let the other greenlets run until this is true; fails after the deadline."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"still not so after {deadline_s} s"
        gevent.sleep(0.001)


def burn(seconds: float) -> None:
    """Compute without ever waiting."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
