"""Messages to many users at once, and to everybody: work that is stored in the inbox before it begins.

A broadcast becomes entries, *parts* of as many recipients as the platform takes in one request; an announcement, to
everybody who follows the bot, is one entry. They are handed out, tried again, kept when they are dead and counted like
any event, so a crash in the middle costs nothing: what was not sent is sent by the next worker, and what was sent but
not written down has the same retry key as before.

The same id is the same broadcast: its parts are known by their ids, and storing them a second time changes nothing
within the deduplication window.

A part that the platform refuses is tried again like an event whose handler failed, with the same retry key, and is dead
in the end; the other parts go on.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gbot.context import KEYS, Services
from gbot.counts import counted
from gbot.errors import BotError, InboxFull, MessageRefused
from gbot.event import Event, Message
from gbot.inbox import Inbox
from gbot.json_requests import check_count, request_body

log = logging.getLogger(__name__)

PART: Final = "gbot.broadcast"  # the kinds of event that gbot makes itself
ANNOUNCEMENT: Final = "gbot.announcement"
PUT_BYTES_MAX: Final = 1024 * 1024  # of parts that are stored in one go
PUT_EVENTS_MAX: Final = 500
ID_CHARS_MAX: Final = 200  # with what is put before and behind it, an event's id of 255
FULL_PAUSE_S: Final = 0.5  # while the inbox is full
FULL_WAIT_MAX_S: Final = 60.0
REMEMBERED_MAX: Final = 100  # broadcasts whose progress is known
LOG_LINES: Final = 10  # for a broadcast


class Part(msgspec.Struct, frozen=True):
    """What is in the event of a part. ``number`` is from 1 to ``of``."""

    broadcast: str
    number: int
    of: int
    to: tuple[str, ...]
    messages: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far this worker has come with a broadcast; other workers on the same inbox may have sent parts as well."""

    recipients: int  # in all parts that this worker has seen, or all if the broadcast was begun here
    sent: int  # recipients whose request the platform has taken
    gone: int  # recipients who were left out because they have left or blocked the bot
    parts: int  # of the whole broadcast
    parts_done: int


class Broadcast:
    """A broadcast that was stored. ``id`` finds it in the log, and its parts, ``broadcast:ID/NUMBER``, in the inbox."""

    def __init__(self, broadcast_id: str, tally: Tally) -> None:
        self.id = broadcast_id
        self._tally = tally

    def __repr__(self) -> str:
        progress = self.progress()
        return f"<Broadcast {self.id}: {progress.parts_done} of {progress.parts} parts done>"

    def progress(self) -> Progress:
        """How far it has come."""
        return self._tally.progress()


class Tally:
    """Counts the parts of one broadcast that this worker has done, and logs every tenth of it."""

    def __init__(self, broadcast_id: str, parts: int) -> None:
        self._id = broadcast_id
        self._parts = parts
        self.recipients = 0
        self._sent = self._gone = self._parts_done = 0
        self._lines = 0

    def part_done(self, sent: int, gone: int) -> None:
        self._sent += sent
        self._gone += gone
        self._parts_done += 1
        self.recipients = max(self.recipients, self._sent + self._gone)
        lines = self._parts_done * LOG_LINES // self._parts
        if lines > self._lines:
            self._lines = lines
            log.info(
                "Broadcast %s: this worker has done %s of %s, sent to %s, %s gone",
                *(self._id, f"{self._parts_done:,}", counted(self._parts, "part")),
                *(counted(self._sent, "user"), counted(self._gone, "was", "were")),
            )

    def progress(self) -> Progress:
        return Progress(self.recipients, self._sent, self._gone, self._parts, self._parts_done)


class Broadcaster:
    """Stores broadcasts, and sends their parts when the inbox hands them out.

    ``full_wait_s`` is how long storing waits for a full inbox to have room.
    """

    def __init__(self, inbox: Inbox, services: Mapping[str, Services], full_wait_s: float = FULL_WAIT_MAX_S) -> None:
        self._inbox = inbox
        self._services = services
        self._full_wait_s = full_wait_s
        self._tallies: OrderedDict[tuple[str, str], Tally] = OrderedDict()

    # Storing.

    def broadcast(
        self, users: Iterable[str], messages: Sequence[Message], platform: str | None, broadcast_id: str | None
    ) -> Broadcast:
        """Store the parts of a broadcast; returns when all are. Raises MessageRefused, BotError, DeliveryError."""
        platform, services = self._platform(platform)
        bodies = _bodies(services, messages)
        recipients = _recipients(users)
        size = services.sender.limits.recipients_per_multicast
        name = _id(broadcast_id)
        tally = self._tally(platform, name, -(-len(recipients) // size))
        tally.recipients = len(recipients)
        for events, size_bytes in _in_slices(_parts(platform, name, recipients, size, bodies)):
            self._put(events, size_bytes)
        return Broadcast(name, tally)

    def announce(self, messages: Sequence[Message], platform: str | None, announcement_id: str | None) -> str:
        """Store an announcement and return its id. Raises as ``broadcast`` does."""
        platform, services = self._platform(platform)
        raw = {"messages": _bodies(services, messages)}
        name = _id(announcement_id)
        event = Event(platform=platform, kind=ANNOUNCEMENT, id=f"announcement:{name}", raw=raw)
        self._put([event], len(msgspec.json.encode(event)))
        return name

    def _platform(self, given: str | None) -> tuple[str, Services]:
        served = list(self._services)
        platform = given if given is not None else served[0] if len(served) == 1 else None
        if platform not in self._services or platform is None:
            raise BotError(f"expected platform= to be one that is served ({', '.join(served)}), got {given!r}")
        return platform, self._services[platform]

    def _put(self, events: Sequence[Event], size_bytes: int) -> None:
        """Store them; waits a while for a full inbox to have room."""
        give_up_at = time.monotonic() + self._full_wait_s
        while True:
            try:
                self._inbox.put(events, size_bytes)
            except InboxFull:
                if time.monotonic() > give_up_at:
                    raise
            else:
                return
            time.sleep(FULL_PAUSE_S)

    # Sending: handlers of gbot's own kinds of event. Raise SendError.

    def send_part(self, event: Event, services: Services) -> None:
        part = msgspec.convert(event.raw, Part)
        there = services.users.there(part.to)
        if there:
            key = uuid.uuid5(KEYS, str(event.id))
            services.sender.multicast(there, [Message(body) for body in part.messages], str(key))
        self._tally(event.platform, part.broadcast, part.of).part_done(len(there), len(part.to) - len(there))

    def send_announcement(self, event: Event, services: Services) -> None:
        messages = [Message(body) for body in event.raw["messages"]]
        services.sender.announce(messages, str(uuid.uuid5(KEYS, str(event.id))))
        log.info("%s was sent", event.id)

    def _tally(self, platform: str, broadcast_id: str, parts: int) -> Tally:
        tally = self._tallies.get((platform, broadcast_id))
        if tally is None:
            tally = self._tallies[platform, broadcast_id] = Tally(broadcast_id, parts)
            if len(self._tallies) > REMEMBERED_MAX:
                self._tallies.popitem(last=False)
        return tally


def _id(given: str | None) -> str:
    """The author's own, or a new one. Raises BotError for one that could not be stored, or forges a log line."""
    if given is None:
        return str(uuid.uuid4())
    if not isinstance(given, str) or not 1 <= len(given) <= ID_CHARS_MAX or not given.isprintable():
        raise BotError(f"id: expected a text of 1 to {ID_CHARS_MAX} printable characters, got {given!r}")
    return given


def _recipients(users: Iterable[str]) -> list[str]:
    """Each of them once. Raises MessageRefused: one that is no id would fail a whole part later."""
    if isinstance(users, str):
        raise BotError("bot.broadcast: expected a list of user ids, got a text")
    recipients = list(dict.fromkeys(users))
    if not recipients:
        raise MessageRefused("expected the ids of one or more users, got none; nothing was sent")
    if not all(isinstance(user, str) and user and user.isprintable() for user in recipients):
        raise MessageRefused("expected ids of users, got something else among them; nothing was sent")
    return recipients


def _bodies(services: Services, messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages as JSON objects. Raises MessageRefused for what no request could carry."""
    limits = services.sender.limits
    check_count(messages, limits.messages_per_request)
    text = request_body({"messages": [message.body for message in messages]}, limits.request_bytes_max)
    bodies: list[dict[str, Any]] = msgspec.json.decode(text)["messages"]
    return bodies


def _parts(
    platform: str, name: str, recipients: Sequence[str], size: int, bodies: list[dict[str, Any]]
) -> Iterator[Event]:
    count = -(-len(recipients) // size)
    for number in range(1, count + 1):
        part = Part(name, number, count, tuple(recipients[(number - 1) * size : number * size]), bodies)
        yield Event(platform=platform, kind=PART, id=f"broadcast:{name}/{number}", raw=msgspec.to_builtins(part))


def _in_slices(events: Iterator[Event]) -> Iterator[tuple[list[Event], int]]:
    """The events in slices that an inbox takes in one go, with their size in bytes."""
    held: list[Event] = []
    held_bytes = 0
    for event in events:
        size_bytes = len(msgspec.json.encode(event))
        if held and (held_bytes + size_bytes > PUT_BYTES_MAX or len(held) == PUT_EVENTS_MAX):
            yield held, held_bytes
            held, held_bytes = [], 0
        held.append(event)
        held_bytes += size_bytes
    if held:
        yield held, held_bytes
