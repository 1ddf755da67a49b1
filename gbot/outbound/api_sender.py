"""The way out to a platform that has an API: what a handler sends, cut into requests that the platform takes.

- More messages than a request takes leave as several requests, one after the other, so that they arrive in order.
- Pushes of the same content to different users are merged, see coalescer.py.
- Every request of a push, multicast or announcement has a retry key that follows from the whole one's: when a handler
  is run again, its requests are the same as before, and what has arrived does not arrive again.

What takes several requests and fails at the second has partly arrived. Without retry keys nothing of it is sent again.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from gbot.counts import counted
from gbot.errors import RecipientGone, ResultUnknown, SendError
from gbot.event import Event, Message
from gbot.outbound.api import Api, ApiStatistics
from gbot.outbound.coalescer import Coalescer, CoalescerStatistics
from gbot.platform import (
    Announcement,
    ApiRequest,
    AskContent,
    AskProfile,
    AskQuota,
    Limits,
    Multicast,
    Platform,
    Push,
    Reply,
    Typing,
)
from gbot.sender import Content, Quota
from gbot.user import Profile

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SenderStatistics:
    """Counts since the start, and the state of this moment, of one platform's way out."""

    api: ApiStatistics
    coalescer: CoalescerStatistics
    multicast_users: int  # who were sent to as part of a list
    multicast_calls: int  # that those took

    @property
    def calls_saved(self) -> int:
        """Calls that were not made because one request went to several users."""
        return self.coalescer.saved + self.multicast_users - self.multicast_calls


class ApiSender:
    """Sends through the platform's API; see :class:`gbot.sender.Sender`.

    Pushes of the same content within ``merge_window_s`` leave together; 0: every push leaves by itself.
    """

    def __init__(self, platform: Platform, api: Api, merge_window_s: float) -> None:
        self.limits: Limits = platform.limits
        self._platform = platform
        self._api = api
        recipients_max = platform.limits.recipients_per_multicast
        window_s = merge_window_s if recipients_max > 1 else 0.0
        self._coalescer = Coalescer(window_s, recipients_max, self._send_push, self._send_multicast)
        self._multicast_users = self._multicast_calls = 0

    # To one conversation.

    def reply(self, event: Event, messages: Sequence[Message], within_s: float | None) -> None:
        parts = self._parts(messages) if self.limits.reply_messages_max is None else [messages]
        self._send_all((self._platform.encode(Reply(event, part)) for part in parts), _flow(event), within_s)

    def push(self, to: str, messages: Sequence[Message], retry_key: str) -> None:
        parts = self._keyed(messages, retry_key)
        if self._platform.may_multicast(to):
            for part, key in parts:
                self._coalescer.push(to, part, key)
        else:
            self._send_all((self._platform.encode(Push(to, part, key)) for part, key in parts), to)

    def typing(self, event: Event, seconds: float) -> None:
        self._api.call(self._platform.encode(Typing(event, seconds)), _flow(event))

    # To many.

    def multicast(self, to: Sequence[str], messages: Sequence[Message], retry_key: str) -> None:
        """See the contract. Users who have left are passed over, as a platform passes over them in its multicast."""
        parts = list(self._parts(messages))
        for index, users in enumerate(self._groups(to)):
            for number, part in enumerate(parts):
                key = _part_key(retry_key, index * len(parts) + number)
                self._multicast_calls += 1
                if len(users) > 1:
                    self._send_multicast(users, part, key)
                elif not self._reached(users[0], part, key):
                    break
            self._multicast_users += len(users)

    def announce(self, messages: Sequence[Message], retry_key: str) -> None:
        parts = self._keyed(messages, retry_key)
        self._send_all((self._platform.encode(Announcement(part, key)) for part, key in parts), retry_key)

    # What the platform knows.

    def profile(self, user_id: str) -> Profile | None:
        answer = self._api.find(self._platform.encode(AskProfile(user_id)), user_id)
        return None if answer is None else self._platform.read_profile(answer)

    def content(self, event: Event) -> Content:
        return self._api.download(self._platform.encode(AskContent(event)), _flow(event))

    def quota(self) -> Quota:
        ask, read = self._platform.encode, self._platform.read_quota
        limit = read(self._api.call(ask(AskQuota()), None))
        used = read(self._api.call(ask(AskQuota(used=True)), None))
        return Quota(limit, used or 0)

    def statistics(self) -> SenderStatistics:
        merged = self._coalescer.statistics()
        return SenderStatistics(self._api.statistics(), merged, self._multicast_users, self._multicast_calls)

    # Requests.

    def _send_all(self, requests: Iterable[ApiRequest], flow: str | None, within_s: float | None = None) -> None:
        """One after the other. What has arrived must not arrive again, so a later one's error may be ``final``."""
        for arrived, request in enumerate(requests):
            try:
                self._api.call(request, flow, within_s)
            except SendError as error:
                if not arrived or request.repeatable:
                    raise
                earlier = counted(arrived, "message has arrived and is", "messages have arrived and are")
                sentence = f"{earlier} not sent again, the next has not: {error}"
                raise ResultUnknown(sentence, final=True) from error

    def _send_push(self, to: str, messages: Sequence[Message], retry_key: str) -> None:
        self._api.call(self._platform.encode(Push(to, messages, retry_key)), to)

    def _send_multicast(self, to: Sequence[str], messages: Sequence[Message], retry_key: str) -> None:
        self._api.call(self._platform.encode(Multicast(to, messages, retry_key)), retry_key)

    def _reached(self, to: str, messages: Sequence[Message], retry_key: str) -> bool:
        try:
            self._send_push(to, messages, retry_key)
        except RecipientGone as error:
            log.info("Passing over a user in a push to many %s users: %s", self._platform.name, error)
            return False
        return True

    def _keyed(self, messages: Sequence[Message], retry_key: str) -> Iterator[tuple[Sequence[Message], str]]:
        """The parts, each with a key of its own; what fits into one request keeps the key of the whole."""
        if len(messages) <= self.limits.messages_per_request:
            yield messages, retry_key
            return
        for index, part in enumerate(self._parts(messages)):
            yield part, _part_key(retry_key, index)

    def _parts(self, messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
        """As many messages at a time as a request takes."""
        size = self.limits.messages_per_request
        for start in range(0, len(messages), size):
            yield messages[start : start + size]

    def _groups(self, to: Sequence[str]) -> Iterator[Sequence[str]]:
        """Users who share a request; the same groups for the same users. First those that take part in no multicast."""
        size = self.limits.recipients_per_multicast
        together = [address for address in to if size > 1 and self._platform.may_multicast(address)]
        if len(together) < len(to):
            members = set(together)
            yield from ([address] for address in to if address not in members)
        for start in range(0, len(together), size):
            yield together[start : start + size]


def _flow(event: Event) -> str | None:
    """Whose turn it is in a lane: the conversation's, as a push to it has it too."""
    return event.conversation.id if event.conversation is not None else event.user_id or event.id


def _part_key(retry_key: str, index: int) -> str:
    return str(uuid.uuid5(uuid.UUID(retry_key), str(index)))
