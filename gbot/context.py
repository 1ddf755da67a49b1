"""What a handler gets: one event on its way, and the ways to answer it.

**Replies are packed.** ``ctx.reply`` collects; what was collected leaves as one reply when the handler has ended well,
or before a push, so that messages arrive in the order in which they were written. ``ctx.flush`` sends it at once. A
handler that fails, or ends with Retry or Drop, has therefore not replied unless it has flushed. Should a run that has
replied be followed by another (its worker was killed, or what came after the reply failed), the platform refuses the
second reply, and that is as good as having replied.

**Pushes are sent at once** and have a retry key that a later run of the same handler computes again: a push that has
arrived does not arrive a second time, on platforms with retry keys. Of one that was merged with others only the worker
that sent it knows, see ``outbound/coalescer.py``.

**State** is read when it is first asked for, and stored together with the outcome of a run that has ended well.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from gbot.directory import Change, Directory, StateChange, UserForgotten
from gbot.draft import STATE_KEPT_MAX_S, Draft
from gbot.errors import BotError, MessageRefused, ReplyRefused, ReplyTokenExpired, ReplyTokenRefused, SendError
from gbot.event import Event, Message
from gbot.sender import Content, Quota, Sender
from gbot.user import User
from gbot.users import Users

if TYPE_CHECKING:
    from requests import Session

    from gbot.database.client import Database

TYPING_S: Final = 20.0
KEYS: Final = uuid.UUID("6f4a2a0e-94c5-4f0e-8f4e-1b1d0a3a6a35")  # the namespace of retry keys


@dataclass(frozen=True, slots=True)
class Services:
    """What the handlers of one platform's events may use."""

    sender: Sender
    directory: Directory
    users: Users
    http: Session
    state_ttl_s: float
    db: Database | None = None


class Context:
    """One event on its way through a handler, and the ways to answer it."""

    __slots__ = (
        *("_again", "_draft", "_log", "_pushed", "_received_ms", "_replied", "_replies", "_services"),
        *("args", "attempt", "event"),
    )

    def __init__(
        self,
        event: Event,
        services: Services,
        attempt: int = 1,
        received_ms: int | None = None,
        again: bool = False,
    ) -> None:
        self.event = event
        self.attempt = attempt  # 1 in the first run, 2 in the next …
        self.args = ""  # what follows the command, for handlers of @bot.command
        self._received_ms = received_ms
        self._again = again  # an earlier run may have replied
        self._services = services
        self._replies: list[Message] | None = None
        self._replied = 0  # messages of replies that have been sent, or may have been
        self._pushed: dict[uuid.UUID, int] | None = None  # how often each content has been
        self._draft: Draft | None = None
        self._log: logging.LoggerAdapter[logging.Logger] | None = None

    # The event.

    @property
    def text(self) -> str:
        """The event's text, or ``""`` when it has none."""
        return self.event.text or ""

    @property
    def age_s(self) -> float:
        """Seconds since gbot accepted the event: short in its first run, longer after a retry or a restart."""
        return 0.0 if self._received_ms is None else max(0.0, time.time() - self._received_ms / 1000)

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose lines carry the platform and the event's id."""
        if self._log is None:
            context = {"platform": self.event.platform, "event_id": self.event.id}
            self._log = logging.LoggerAdapter(logging.getLogger("gbot.app"), context)
        return self._log

    def content(self) -> Content:
        """The image, video, audio or file of the event, to be read in parts or saved; use it with ``with``.

        Waits while the platform is still preparing it. Raises ContentGone, ReplyRefused (the event has none), ApiError.
        """
        return self._services.sender.content(self.event)

    # Answering.

    def reply(self, *messages: object) -> None:
        """Answer the event with texts, dicts or an SDK's message models.

        All replies of a handler leave together when it has ended; see ``flush``. Raises MessageRefused (wrong shape),
        ReplyTokenExpired (the event is older than the platform lets anybody reply to; ``push`` still works),
        ReplyRefused (standby, no reply token, more messages than one reply takes, replied already).
        """
        sending = Message.all_of(messages)
        self._check_reply(len(sending))
        if self._replies is None:
            self._replies = sending
        else:
            self._replies += sending

    def _check_reply(self, count: int) -> None:
        """Refuse at once what is certain to be refused later. Raises ReplyRefused."""
        if self.event.standby:
            raise ReplyRefused("this event is in standby: another channel is in charge of the chat, so do not answer")
        count_max = self._services.sender.limits.reply_messages_max
        if count_max is not None:
            if self._replied:
                raise ReplyRefused("this event has been replied to, and its reply token works once; use ctx.push")
            if self.event.reply_token is None:
                raise ReplyRefused(f"an event of kind {self.event.kind} came without a reply token; use ctx.push")
            if count + len(self._replies or ()) > count_max:
                raise ReplyRefused(f"a reply takes {count_max} messages in all; use ctx.push for more")
        self._left_s()

    def _left_s(self) -> float | None:
        """How long the event can still be replied to. Raises ReplyTokenExpired when it cannot."""
        limit_s = self._services.sender.limits.reply_within_s
        if limit_s is None:
            return None
        age_s = self.age_s
        if age_s >= limit_s:
            raise ReplyTokenExpired(
                f"this event arrived {age_s:.0f} s ago and could be replied to for {limit_s:g} s; use ctx.push"
            )
        return limit_s - age_s

    def flush(self) -> None:
        """Send now what was replied; without it, it leaves when the handler ends.

        A platform such as LINE takes one reply per event, so nothing can be replied afterwards. Raises
        ReplyTokenExpired, ReplyRefused, MessageRefused, LaneBusy, ApiError; what was collected is then given up, and
        another reply is possible unless the error is ``final``: that one may have arrived. An event whose handler ends
        with a final error is not run again.
        """
        sending, self._replies = self._replies, None
        if sending is None:
            return
        left_s = self._left_s()
        self._replied += len(sending)  # before the wait: another greenlet of the handler may reply as well
        try:
            self._services.sender.reply(self.event, sending, left_s)
        except ReplyTokenRefused as error:
            if not self._again:
                raise
            self.log.info("Not replied again, as an earlier run of the handler has done so: %s", error)
        except SendError as error:
            if not error.final:
                self._replied -= len(sending)
            raise

    def push(self, *messages: object, to: str | Sequence[str] | None = None) -> None:
        """Send to where the event came from, or to ``to``: a user, group or room of the same platform, or many users.

        Many users get it in as few requests as the platform takes. Raises MessageRefused (wrong shape), RecipientGone
        (a user has left or blocked the bot), ReplyRefused (nowhere to send to), LaneBusy, ApiError,
        DirectoryUnavailable, and what ``flush`` raises.
        """
        sending = Message.all_of(messages)
        addresses = self._addresses(to)
        self._services.users.check_there(addresses, self.event)
        content = self._content_key(addresses, sending)
        self.flush()  # after all that may refuse: a run that is refused has not replied
        if self._pushed is None:
            self._pushed = {}
        count = self._pushed[content] = self._pushed.get(content, 0) + 1
        key = str(uuid.uuid5(content, str(count)))
        try:
            if isinstance(to, str) or to is None:
                self._services.sender.push(addresses[0], sending, key)
            else:
                self._services.sender.multicast(addresses, sending, key)
        except SendError:
            self._pushed[content] -= 1  # if the handler tries it again, it is the same push
            raise

    def _addresses(self, to: str | Sequence[str] | None) -> list[str]:
        if to is None:
            conversation = self.event.conversation
            if conversation is None:
                raise ReplyRefused("this event does not say where it came from; give ctx.push a to=")
            return [conversation.id]
        addresses = [to] if isinstance(to, str) else list(dict.fromkeys(to))
        if not addresses:
            raise ReplyRefused("to: expected at least one user to send to, got none")
        return addresses

    def _content_key(self, addresses: Sequence[str], messages: Sequence[Message]) -> uuid.UUID:
        """The same for the same push of a later run, in whatever order; random where the event has no id to tell it by.

        Raises MessageRefused for what cannot be written down.
        """
        try:
            bodies = msgspec.json.encode([message.body for message in messages], order="deterministic").decode()
            event_id = self.event.id if self.event.id is not None else str(uuid.uuid4())
            return uuid.uuid5(KEYS, "\n".join([self.event.platform, event_id, bodies, *addresses]))
        except (TypeError, ValueError, OverflowError, RecursionError):
            raise MessageRefused("expected messages of JSON values only, to ids of users; nothing was sent") from None

    def typing(self, seconds: float = TYPING_S) -> None:
        """Show the user that an answer is being prepared, for so long or until it comes.

        Only a nicety: where the platform cannot show it, as LINE in groups, or does not at the moment, nothing happens.
        """
        try:
            self._services.sender.typing(self.event, seconds)
        except SendError as error:
            self.log.debug("Not shown that an answer is being prepared: %s", error)

    def quota(self) -> Quota:
        """How many messages may be sent this month, and how many were. Raises SendError."""
        return self._services.sender.quota()

    @property
    def http(self) -> Session:
        """A session of requests with kept-alive connections, shared by all handlers: for APIs of your own."""
        return self._services.http

    @property
    def db(self) -> Database:
        """The bot's own database, see :class:`gbot.database.client.Database`. Raises BotError where it has none."""
        db = self._services.db
        if db is None:
            raise BotError("there is no database for ctx.db: name one with --db or GBOT_DB, in tests with Client(db=…)")
        return db

    # Who it is, and what was kept.

    @property
    def user(self) -> User:
        """The user the event came from, with a profile unless the platform does not tell it.

        The profile is asked for when it is first needed and kept for a day. Raises ReplyRefused for an event without a
        user, SendError when the platform does not answer and no older profile is there, DirectoryUnavailable.
        """
        if self.event.user_id is None:
            raise ReplyRefused("this event does not say which user it came from")
        return self._services.users.get(self.event.user_id)

    @property
    def state(self) -> dict[str, Any]:
        """A JSON document of the conversation, to be changed in place; stored when the handler has ended well.

        At most 64 KiB, kept for ``--state-ttl`` after its last change (``keep_state`` changes that). An event without a
        conversation has one of its own, which is not kept. Raises DirectoryUnavailable.
        """
        return self._drafted().document

    def _drafted(self) -> Draft:
        if self._draft is None:
            event = self.event
            text = None
            if event.conversation is not None:
                text = self._services.directory.state(event.platform, event.conversation)
            if self._draft is None:  # else another greenlet of the handler was faster
                self._draft = Draft(text)
        return self._draft

    def keep_state(self, seconds: float) -> None:
        """How long the state is kept from now on, instead of ``--state-ttl``. Raises DirectoryUnavailable."""
        if not 0 < seconds <= STATE_KEPT_MAX_S:
            raise ValueError(f"keep_state: expected seconds above 0, up to {STATE_KEPT_MAX_S:.0f}, got {seconds!r}")
        self._drafted().kept_s = float(seconds)

    def forget(self) -> None:
        """Remove what is stored of the user, and the state of the conversation, when the handler has ended well.

        Of somebody who leaves with this event, the id is kept as that of one who has left, so that nothing is pushed.
        """
        self._draft = Draft(None, forgotten=True)

    # What the execution asks.

    def finish(self) -> tuple[Change, ...]:
        """The handler has ended well: send what it replied; returns what is to be stored with the outcome.

        The reply is last, since nothing takes it back. Raises StateRefused, before anything is sent, and what ``flush``
        raises.
        """
        draft = self._draft
        if self.event.kind == "follow" and self.event.user_id is not None and not (draft and draft.forgotten):
            self._services.users.learn(self.event.user_id)
        changes = () if draft is None else self._changes(draft)
        if self._replies is not None:
            self.flush()
        return changes

    def give_up_replies(self) -> None:
        """The handler has failed: what it replied and has not flushed is not sent."""
        self._replies = None

    def _changes(self, draft: Draft) -> tuple[Change, ...]:
        event = self.event
        changes: list[Change] = []
        document = draft.text()
        if draft.forgotten and event.user_id is not None:
            self._services.users.forget([event.user_id])
            changes.append(UserForgotten(event.platform, event.user_id))
        if event.conversation is not None and draft.differs(document):
            kept_s = self._services.state_ttl_s if draft.kept_s is None else draft.kept_s
            expires_ms = round((time.time() + kept_s) * 1000)
            changes.append(StateChange(event.platform, event.conversation, document, expires_ms))
        return tuple(changes)
