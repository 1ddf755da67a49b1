"""Pushes of the same content to different users, sent as one request.

A batch::

    open ──window over, or recipients_max users──┬─ one user ──▶ alone: its push sends itself, with its own key
                                                 └─ several ───▶ leaving: send_multicast, with a new key ──▶ done

- Contents are the same when their JSON is: what differs by one character is never merged.
- A user gets one message at a time, in the order of the pushes: a push waits until the one before it to the same user
  has ended, whatever that one's content is. So no user is twice in a batch, and no message is dropped for being alike.
- An error of a request reaches every push in it.
- A push whose greenlet is killed is taken out of its batch; when that is leaving already, it leaves with the others. In
  neither case does anybody wait for it.

A multicast has a key of its own, so a push that was merged cannot be repeated under the push's key: it would arrive
twice if the multicast has arrived. Two things keep it from being repeated:

- A multicast that may have arrived is repeated here, as the same request, until the API has said what became of it, or
  for UNSURE_FOR_S; the error is then final.
- Which batch a push has left with is remembered by the push's key, of the last REMEMBERED_MAX. A handler that is run
  again, because it failed later or ran out of time, shares the end of that batch: its push has arrived, or is still
  under way. An error is told once; after it, the next push under the key is a new one.

What another process knows is beyond this: when an event whose push was merged is run again by another worker, or after
a restart, that user may get the message twice. Where that matters more than the calls saved, the window is 0: nothing
is merged, and every push keeps its key.
"""

from __future__ import annotations

import enum
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import gevent
import msgspec
from gevent.event import Event as Signal

from gbot.counts import counted
from gbot.errors import (
    ApiError,
    ApiLimited,
    ApiUnavailable,
    ApiUnreachable,
    MessageRefused,
    NotNow,
    ResultUnknown,
    SendError,
)
from gbot.event import Message
from gbot.outbound.retries import may_have_arrived

if TYPE_CHECKING:
    from gevent._types import _TimerWatcher

UNSURE_FOR_S: Final = 300.0
PAUSE_S: Final = 1.0  # before a multicast that may have arrived is sent again
PAUSE_MAX_S: Final = 30.0
REMEMBERED_MAX: Final = 100_000  # pushes that have left with others
EARLY_SHARE: Final = 0.1  # of the window, by which a batch may close early, to close several at once

SendPush = Callable[[str, Sequence[Message], str], None]
SendMulticast = Callable[[Sequence[str], Sequence[Message], str], None]


@dataclass(frozen=True, slots=True)
class CoalescerStatistics:
    """``users`` is of this moment, the rest counts since the start."""

    users: int  # who are being sent to
    pushes: int
    calls: int  # that these pushes have taken so far, repetitions not counted
    saved: int  # calls that merging has made unnecessary


class _Stage(enum.Enum):
    OPEN = enum.auto()
    ALONE = enum.auto()
    LEAVING = enum.auto()


OPEN: Final = _Stage.OPEN
ALONE: Final = _Stage.ALONE
LEAVING: Final = _Stage.LEAVING


class _Batch:
    """Users who get the same messages. ``done`` is set when they have been sent, or the one push may send itself."""

    __slots__ = ("content", "done", "due", "error", "messages", "stage", "users")

    def __init__(self, content: bytes, due: float) -> None:
        self.content = content
        self.due = due
        # Made of what was compared: an author may change a message that has been handed over.
        self.messages = [Message(body) for body in msgspec.json.decode(content)]
        self.users: dict[str, str] = {}  # with the keys of their pushes, in the order of these
        self.stage = OPEN
        self.done = Signal()
        self.error: Exception | None = None


class Coalescer:
    """Merges pushes that come within ``window_s`` of each other; with a window of 0 it only keeps their order.

    ``send_push`` and ``send_multicast`` send one request, wait for its end and raise SendError.
    """

    def __init__(
        self,
        window_s: float,
        recipients_max: int,
        send_push: SendPush,
        send_multicast: SendMulticast,
        unsure_for_s: float = UNSURE_FOR_S,
    ) -> None:
        self._window_s = window_s
        self._recipients_max = recipients_max
        self._send_push = send_push
        self._send_multicast = send_multicast
        self._unsure_for_s = unsure_for_s
        self._loop = gevent.get_hub().loop
        self._open: dict[bytes, _Batch] = {}
        self._due: deque[_Batch] = deque()  # by the time at which their windows are over
        self._timer: _TimerWatcher | None = None  # while any is due
        self._left: OrderedDict[str, _Batch] = OrderedDict()  # by the keys of the pushes that have left with others
        self._lines: dict[str, list[Signal]] = {}  # the users who are being sent to, and the pushes that wait for it
        self._pushes = self._calls = self._saved = 0

    def push(self, to: str, messages: Sequence[Message], retry_key: str) -> None:
        """Send this to a user, perhaps together with others; returns when it was sent. Raises SendError."""
        content = _encoded(messages) if self._window_s > 0 else b""
        self._pushes += 1
        batch = self._left.get(retry_key)
        if batch is None:
            self._take_turn(to)
            if not content:
                self._push_alone(to, messages, retry_key)
                return
            batch = self._joined(content, to, retry_key)
        try:
            batch.done.wait()
        except BaseException:
            self._withdraw(batch, to)
            raise
        if batch.stage is ALONE:
            self._push_alone(to, batch.messages, retry_key)
        elif batch.error is not None:
            self._left.pop(retry_key, None)
            raise _twin(batch.error) from batch.error

    def statistics(self) -> CoalescerStatistics:
        return CoalescerStatistics(len(self._lines), self._pushes, self._calls, self._saved)

    # One message at a time to each user.

    def _take_turn(self, to: str) -> None:
        line = self._lines.get(to)
        if line is None:
            self._lines[to] = []
            return
        turn = Signal()
        line.append(turn)
        try:
            turn.wait()
        except BaseException:
            if turn.is_set():  # it was given the turn while it was being killed
                self._pass_turn(to)
            else:
                line.remove(turn)
            raise

    def _pass_turn(self, to: str) -> None:
        line = self._lines[to]
        if line:
            line.pop(0).set()
        else:
            del self._lines[to]

    def _push_alone(self, to: str, messages: Sequence[Message], retry_key: str) -> None:
        self._calls += 1
        try:
            self._send_push(to, messages, retry_key)
        finally:
            self._pass_turn(to)

    # A batch, from its first push to its end.

    def _joined(self, content: bytes, to: str, retry_key: str) -> _Batch:
        batch = self._open.get(content)
        if batch is None:
            batch = self._open[content] = _Batch(content, time.monotonic() + self._window_s)
            self._due.append(batch)
            if self._timer is None:
                self._wake_after(self._window_s)
        batch.users[to] = retry_key
        if len(batch.users) >= self._recipients_max:
            self._close(batch)
        return batch

    def _withdraw(self, batch: _Batch, to: str) -> None:
        """This push will not be there any more."""
        if batch.stage is LEAVING:
            return  # the user's turn ends with the batch
        if batch.stage is OPEN:
            del batch.users[to]
        self._pass_turn(to)

    def _wake_after(self, seconds: float) -> None:
        self._timer = self._loop.timer(seconds)
        self._timer.start(self._close_due, update=True)

    def _close_due(self) -> None:
        """Called by the hub."""
        self._timer = None
        now = time.monotonic() + self._window_s * EARLY_SHARE
        while self._due and self._due[0].due <= now:
            batch = self._due.popleft()
            if batch.stage is OPEN:
                self._close(batch)
        if self._due:
            self._wake_after(self._due[0].due - time.monotonic())

    def _close(self, batch: _Batch) -> None:
        del self._open[batch.content]
        if len(batch.users) > 1:
            batch.stage = LEAVING
            self._remember(batch)
            # In a greenlet of its own: that of a push may be killed, and the other pushes would wait for ever.
            gevent.spawn(self._see_off, batch)
        else:
            batch.stage = ALONE
            batch.done.set()

    def _remember(self, batch: _Batch) -> None:
        left = self._left
        left.update(dict.fromkeys(batch.users.values(), batch))
        while len(left) > REMEMBERED_MAX:
            left.popitem(last=False)

    def _see_off(self, batch: _Batch) -> None:
        batch.error = self._sent(list(batch.users), batch.messages)
        for to in batch.users:
            self._pass_turn(to)
        batch.users, batch.messages, batch.content = {}, [], b""  # it is remembered for longer
        batch.done.set()

    def _sent(self, to: Sequence[str], messages: Sequence[Message]) -> Exception | None:
        """Send to these users; the error with which that ended."""
        self._calls += 1
        self._saved += len(to) - 1
        try:
            self._multicast(to, messages)
        except Exception as error:
            return error
        except BaseException:  # whoever stops this greenlet does not mean the pushes
            return ResultUnknown("sending was stopped from outside; the message may have arrived", final=True)
        return None

    def _multicast(self, to: Sequence[str], messages: Sequence[Message]) -> None:
        """Send one request, again and again while it may have arrived. Raises SendError."""
        retry_key = str(uuid.uuid4())
        unsure = False
        end = time.monotonic() + self._unsure_for_s
        while True:
            try:
                self._send_multicast(to, messages, retry_key)
            except SendError as error:
                unsure = unsure or may_have_arrived(error)
                if not unsure or _is_verdict(error):
                    raise
                if time.monotonic() >= end:
                    raise _given_up(error, len(to)) from error
                pause_s = error.after_s if isinstance(error, NotNow) else PAUSE_S
            else:
                return
            gevent.sleep(min(pause_s, PAUSE_MAX_S))


def _encoded(messages: Sequence[Message]) -> bytes:
    bodies: list[Any] = [message.body for message in messages]
    try:
        return msgspec.json.encode(bodies)
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise MessageRefused(
            "expected messages of JSON values only, got a value that JSON cannot carry; nothing was sent"
        ) from None


def _is_verdict(error: SendError) -> bool:
    """Whether the API, or gbot, has decided: then no earlier try was accepted either, or this one would have been."""
    if isinstance(error, NotNow | ApiUnavailable | ApiUnreachable | ResultUnknown):
        return False
    return type(error) is not ApiLimited


def _given_up(error: SendError, users: int) -> ApiError:
    status = error.status if isinstance(error, ApiError) else None
    return ResultUnknown(
        f"a multicast to {counted(users, 'user')} may have arrived, and the API does not say; "
        f"it is not sent again: {error}",
        status,
        final=True,
    )


def _twin(error: Exception) -> Exception:
    """The same error once more: one that is raised in many greenlets would collect the tracebacks of all of them."""
    twin = error.__class__.__new__(error.__class__, *error.args)
    twin.__dict__.update(error.__dict__)
    return twin
