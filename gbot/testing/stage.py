"""Everything between the platform and the handlers of a bot under test.

It is wired as the engine wires a worker, with an inbox that hands an entry out when it is asked to::

    happen ──▶ Writer.delivery ──▶ Platform.parse ──▶ OneByOne.put ──▶ Execution.run ──▶ bot ──▶ Recorder ──▶ Answers
"""

from __future__ import annotations

import itertools
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final

import msgspec

from gbot.bot import Bot
from gbot.broadcast import ANNOUNCEMENT, PART, Broadcaster
from gbot.config import Config
from gbot.context import Context, Services
from gbot.directory import Directory
from gbot.event import Conversation, Event
from gbot.execution import NEVER, Execution, Seat
from gbot.inbox import Entry, InboxStatistics, InHand, Outcome, Room, State, Submit
from gbot.inboxes.memory import RecentIds
from gbot.inboxes.memory_directory import MemoryDirectory
from gbot.outbound.session import make_session
from gbot.testing.answers import Answers, Sent
from gbot.testing.database import OwnDatabase
from gbot.testing.deliveries import Happening, writer_for
from gbot.testing.recorder import Attached, Recorder
from gbot.user import Profile
from gbot.users import Users

IDS_MAX: Final = 10_000
DEDUP_WINDOW_S: Final = 3600.0

RUNNERS: Final = {"gbot.execution", "gbot.bot"}  # the modules that stand between the stage and a handler

__tracebackhide__ = True  # pytest then shows the test's line and the handler's

OnSent = Callable[[Sent], None]


class Stage:
    """Everything between the platform and the handlers."""

    def __init__(self, bot: Bot, platform: str, raise_errors: bool, on_sent: OnSent, database_url: str | None) -> None:
        self.platform = platform
        self.writer = writer_for(platform)
        self._inbox = OneByOne()
        self.directory = self._inbox.directory
        self._raise_errors = raise_errors
        self._on_sent = on_sent
        self._sent: list[Sent] = []
        self._at_ms = 0  # of the last event
        self._numbers = itertools.count(1)
        self._names: dict[str, Profile] = {}  # of those who have left as well
        self._delivered: tuple[Happening, Attached | None] | None = None
        self._run: tuple[Entry, Outcome] | None = None  # of the last event
        self._recorder = Recorder(self.writer.platform, self._keep)
        http = make_session()
        weakref.finalize(self, http.close)
        users = Users(platform, self.directory, self._recorder)
        self._database = OwnDatabase(database_url) if database_url is not None else None
        db = None
        if self._database is not None:
            weakref.finalize(self, self._database.close)
            db = self._database.client
        services = {platform: Services(self._recorder, self.directory, users, http, Config.state_ttl, db)}
        broadcaster = Broadcaster(self._inbox, services)
        bot.attach(broadcaster)
        internal = {PART: broadcaster.send_part, ANNOUNCEMENT: broadcaster.send_announcement}
        self._execution = WatchedExecution(
            bot, self._inbox, services, Config.handler_timeout, Config.attempts_max, internal=internal
        )

    # Users.

    def introduce(self, name: str, language: str) -> tuple[str, Conversation]:
        user_id = self.writer.user_id(name)
        if name:
            self._names[user_id] = Profile(name, language)
            self.come(user_id)
        return user_id, Conversation("user", user_id)

    def come(self, user_id: str) -> None:
        if user_id in self._names:
            self._recorder.profiles[user_id] = self._names[user_id]

    def go(self, user_id: str) -> None:
        self._recorder.profiles.pop(user_id, None)

    # Events.

    def happen(self, happening: Happening, attached: Attached | None = None) -> Answers:
        """Let something happen; its number and time are given here."""
        # No two at the same time: that is how Messenger's events without an id are told apart.
        self._at_ms = max(time.time_ns() // 1_000_000, self._at_ms + 1)
        happening = msgspec.structs.replace(happening, number=next(self._numbers), at_ms=self._at_ms)
        self._delivered = happening, attached
        return self._deliver(happening, attached)

    def redeliver(self) -> Answers:
        if self._delivered is None:
            raise ValueError("nothing has happened yet that could be delivered again")
        happening, attached = self._delivered
        return self._deliver(msgspec.structs.replace(happening, redelivered=True), attached)

    def _deliver(self, happening: Happening, attached: Attached | None) -> Answers:
        body = self.writer.delivery(happening)
        events = self.writer.platform.parse(body)
        self._recorder.contents = {event.id: attached for event in events if event.id and attached is not None}
        self._inbox.put(events, len(body))
        return self.answers()

    def again(self, after_s: float) -> Answers:
        if self._run is None:
            raise ValueError("nothing has run yet that could run again")
        entry, outcome = self._run
        attempts, received_ms = entry.attempts + outcome.counted, entry.received_ms - round(after_s * 1000)
        self._inbox.waiting.append(msgspec.structs.replace(entry, attempts=attempts, received_ms=received_ms))
        return self.answers()

    def answers(self) -> Answers:
        """Run what waits: an event, and what it has stored to be sent. Raises what a handler has raised."""
        self._sent = sent = list[Sent]()
        first: Outcome | None = None
        while self._inbox.waiting:
            entry = self._inbox.waiting.popleft()
            outcome = self._execution.run(entry, OnStage())
            if self._database is not None:
                self._database.close_idle()
            if first is None:
                self._run, first = (entry, outcome), outcome
            error, self._execution.error = self._execution.error, None
            if error is not None and self._raise_errors:
                raise error.with_traceback(_from_the_handler_on(error.__traceback__))
        return Answers(sent, first)

    def _keep(self, sent: Sent) -> None:
        self._sent.append(sent)
        self._on_sent(sent)


def _from_the_handler_on(frames: TracebackType | None) -> TracebackType | None:
    while frames is not None and frames.tb_frame.f_globals.get("__name__") in RUNNERS:
        frames = frames.tb_next
    return frames


class WatchedExecution(Execution):
    """Keeps a handler's error for the one who called."""

    error: BaseException | None = None

    def _failure_of(self, entry: Entry, ctx: Context, seat: Seat, error: BaseException) -> Outcome:
        self.error = error
        return super()._failure_of(entry, ctx, seat, error)


class OnStage:
    """See :class:`gbot.execution.Seat`: the test itself, which nobody throws anything into."""

    timeout_s = deadline = NEVER
    killed = False


class OneByOne:
    """See :class:`gbot.inbox.Inbox`: entries wait until they are asked for, and what has ended is forgotten."""

    keeps = False
    place = "the test"

    def __init__(self) -> None:
        self.directory: Directory = MemoryDirectory()
        self.waiting: deque[Entry] = deque()
        self._numbers = itertools.count(1)
        self._seen = RecentIds(DEDUP_WINDOW_S, IDS_MAX)
        self._settled = dict.fromkeys(State, 0)

    def start(self, submit: Submit, room: Room, in_hand: InHand) -> None:
        """Nothing is handed out by itself."""

    def put(self, events: Sequence[Event], body_bytes: int) -> None:
        now_ms = time.time_ns() // 1_000_000
        self.waiting.extend(
            Entry(next(self._numbers), event, received_ms=now_ms)
            for event in events
            if event.id is None or self._seen.add(event.platform, event.id, now_ms)
        )

    def settle(self, entry: Entry, outcome: Outcome) -> None:
        self._settled[outcome.state] += 1
        self.directory.save(outcome.changes)

    def stop(self, deadline: float) -> int:
        return 0

    def statistics(self) -> InboxStatistics:
        return InboxStatistics(len(self.waiting), 0, 0, 0, 0, 0, 0, 0, dict(self._settled))
