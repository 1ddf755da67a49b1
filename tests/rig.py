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
from gbot.broadcast import ANNOUNCEMENT, PART, Broadcaster
from gbot.context import Services
from gbot.directory import Directory
from gbot.dispatcher import Dispatcher, Leftovers
from gbot.errors import ContentGone
from gbot.event import Conversation, Event, Message
from gbot.execution import Execution
from gbot.inbox import Entry, Outcome, State
from gbot.inboxes.memory import MemoryInbox
from gbot.inboxes.memory_directory import MemoryDirectory
from gbot.outbound.session import make_session
from gbot.platform import Limits
from gbot.sender import Content, Quota
from gbot.user import Profile
from gbot.users import Users

DEADLINE_S = 10.0
STATE_TTL_S = 3600.0
PLAIN = Limits(messages_per_request=5, request_bytes_max=1_000_000)
ONE_REPLY = Limits(  # as LINE has them
    messages_per_request=5,
    request_bytes_max=1_000_000,
    reply_within_s=60.0,
    reply_messages_max=5,
    recipients_per_multicast=3,
)
HTTP = make_session()  # nothing in these tests calls out: one for all of them


class Ledger(MemoryInbox):
    """The memory inbox, with a list of what was settled."""

    def __init__(self, held_max: int, strict: bool = True, bytes_max: int = 1_000_000) -> None:
        super().__init__(held_max, bytes_max, strict=strict, dedup_window_s=3600)
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
    """A way out that keeps what it is given: (kind of sending, address, messages). It is a gbot.sender.Sender."""

    def __init__(self, limits: Limits = PLAIN) -> None:
        self.limits = limits
        self.sent: list[tuple[str, str, list[Message]]] = []  # several addresses are separated by commas
        self.keys: list[str] = []  # the retry keys of what was sent with one
        self.left_s: list[float | None] = []  # how long each reply was allowed to wait
        self.profiles: dict[str, Profile | None] = {}
        self.asked: list[str] = []  # whose profiles were asked for
        self.error: Exception | None = None  # raised instead, after keeping
        self.refused: dict[str, Exception] = {}  # the same, by address

    def reply(self, event: Event, messages: Sequence[Message], within_s: float | None) -> None:
        self.left_s.append(within_s)
        self._keep("reply", event.reply_token or "", messages)

    def push(self, to: str, messages: Sequence[Message], retry_key: str) -> None:
        self.keys.append(retry_key)
        self._keep("push", to, messages)

    def multicast(self, to: Sequence[str], messages: Sequence[Message], retry_key: str) -> None:
        self.keys.append(retry_key)
        self._keep("multicast", ",".join(to), messages)

    def announce(self, messages: Sequence[Message], retry_key: str) -> None:
        self.keys.append(retry_key)
        self._keep("announce", "", messages)

    def typing(self, event: Event, seconds: float) -> None:
        self._keep(f"typing {seconds:g}", event.user_id or "", ())

    def profile(self, user_id: str) -> Profile | None:
        self.asked.append(user_id)
        if self.error is not None:
            raise self.error
        return self.profiles.get(user_id)

    def content(self, event: Event) -> Content:
        raise ContentGone("there is no content in these tests")

    def quota(self) -> Quota:
        return Quota(500, 20)

    def _keep(self, kind: str, address: str, messages: Sequence[Message]) -> None:
        self.sent.append((kind, address, list(messages)))
        error = self.refused.get(address, self.error)
        if error is not None:
            raise error

    def texts(self) -> list[str]:
        return [message.body["text"] for _, _, messages in self.sent for message in messages]

    def ways(self) -> list[tuple[str, str]]:
        """How and to whom it was sent, without the messages."""
        return [(kind, address) for kind, address, _ in self.sent]


def services(outbox: Outbox, directory: Directory | None = None) -> Services:
    """What handlers may use, with this way out; without a directory of its own kept nowhere else."""
    known = directory if directory is not None else MemoryDirectory()
    return Services(outbox, known, Users("plain", known, outbox), HTTP, STATE_TTL_S)


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
        served = {"plain": services(self.outbox, self.inbox.directory)}
        self.broadcaster = Broadcaster(self.inbox, served)
        bot.attach(self.broadcaster)
        self.execution = Execution(
            bot,
            self.inbox,
            served,
            timeout_s,
            attempts_max,
            delay=lambda failures: 0.01 * failures,
            internal={PART: self.broadcaster.send_part, ANNOUNCEMENT: self.broadcaster.send_announcement},
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
