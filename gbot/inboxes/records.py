"""Users and states of a durable inbox: what many greenlets ask, put to the store with one query for all of them.

Questions and saves wait here for the next step of the greenlet that talks to the store (:mod:`gbot.inboxes.durable`)::

    state ──▶ states asked ──┐                        ┌─▶ answered, with the overlay over it
    users ──▶ users asked  ──┼─▶ the greenlet's step ─┤
    save  ──▶ saves        ──┘                        └─▶ saves: stored in the turn, with the outcomes

A state that was settled and is not written yet is answered from the overlay at once, with or without the store.

**When the store is down** a question waits for it, for PUT_TIMEOUT_S at most, and then raises DirectoryUnavailable; a
save that was under way when it went down raises it at once, and may have been stored. Whoever stops waiting takes the
question along: nothing piles up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Final, Generic, TypeVar, cast

from gevent.event import AsyncResult

from gbot.directory import Change
from gbot.errors import DirectoryUnavailable
from gbot.event import Conversation
from gbot.inboxes.calls import Call
from gbot.inboxes.changes import UserKey
from gbot.inboxes.overlay import Overlay
from gbot.inboxes.parcels import PUT_TIMEOUT_S
from gbot.inboxes.store import Store, StoreDown, conversation_key
from gbot.user import User

Q = TypeVar("Q")
A = TypeVar("A")

STATES_AT_ONCE: Final = 500  # each may be 64 KiB long
USERS_AT_ONCE: Final = 500  # ids in one question
QUESTIONS_AT_ONCE: Final = 500  # questions about users in one step
PUT_OFF_S: Final = 5.0  # for which an event is put off that needs what cannot be read
DOWN: Final = "Users and states cannot be read or stored at the moment."


class Question(Generic[Q, A]):
    """What a greenlet asks or wants to be stored, and the answer it waits for."""

    __slots__ = ("about", "answer")

    def __init__(self, about: Q) -> None:
        self.about = about
        self.answer: AsyncResult[A] = AsyncResult()


StateQuestion = Question[str, "str | None"]
UsersQuestion = Question[Sequence[UserKey], "dict[str, User]"]
Saving = Question[Sequence[Change], None]


class Records:
    """The Directory of a durable inbox. ``wake`` lets the greenlet that talks to the store begin its next step."""

    def __init__(self, store: Store, call: Call, wake: Callable[[], object]) -> None:
        self._store = store
        self._call = call
        self._wake = wake
        self._overlay = Overlay()
        self._states: dict[StateQuestion, None] = {}  # in the order in which they were asked
        self._users: dict[UsersQuestion, None] = {}
        self._saves: dict[Saving, None] = {}
        self._under_way: list[Saving] = []
        self._stopped = False

    # What handlers ask. See gbot.directory.Directory.

    def state(self, platform: str, conversation: Conversation) -> str | None:
        key = conversation_key(platform, conversation)
        coming = self._overlay.state(key)
        return coming.at(_now_ms()) if coming is not None else self._wait(self._states, Question(key))

    def users(self, platform: str, ids: Sequence[str]) -> dict[str, User]:
        found: dict[str, User] = {}
        wanted = [(platform, user_id) for user_id in ids if _is_text(user_id)]  # others are nobody's
        for start in range(0, len(wanted), USERS_AT_ONCE):
            question: UsersQuestion = Question(wanted[start : start + USERS_AT_ONCE])
            answer = self._wait(self._users, question)
            found |= answer
        return found

    def save(self, changes: Sequence[Change]) -> None:
        if changes:
            self._wait(self._saves, Question(changes))

    def _wait(self, queue: dict[Question[Q, A], None], question: Question[Q, A]) -> A:
        if self._stopped:
            raise DirectoryUnavailable(DOWN, PUT_OFF_S)
        queue[question] = None
        self._wake()
        try:
            question.answer.wait(PUT_TIMEOUT_S)
            if not question.answer.ready():
                raise DirectoryUnavailable(DOWN, PUT_OFF_S)
            return cast("A", question.answer.get())  # or its exception is raised
        finally:
            queue.pop(question, None)

    # Changes that come with outcomes.

    def settled(self, changes: Iterable[Change]) -> None:
        """These are on their way into the store, and are seen from now on."""
        self._overlay.add(changes)

    def life_ended(self) -> None:
        """None of them will be written: their entries were taken away."""
        self._overlay = Overlay()

    @property
    def coming(self) -> bool:
        """Whether any are on their way."""
        return bool(self._overlay)

    def written(self, changes: Iterable[Change]) -> None:
        """These have been written, or refused."""
        self._overlay.remove(changes)

    # What the greenlet that talks to the store does.

    def __bool__(self) -> bool:
        """Whether anybody waits for its next step."""
        return bool(self._states or self._users or self._saves)

    @property
    def wants_turn(self) -> bool:
        return bool(self._saves)

    def answer(self) -> None:
        """Ask the store what is asked here, a bounded part of it. Raises what the store raises.

        After a StoreDown the questions go on waiting; any other error is their answer, for it may be their fault.
        """
        try:
            if self._states:
                self._answer_states(list(islice(self._states, STATES_AT_ONCE)))
            if self._users:
                self._answer_users(list(islice(self._users, QUESTIONS_AT_ONCE)))
        except StoreDown:
            raise
        except Exception:
            _refuse(self._states)
            _refuse(self._users)
            raise

    def _answer_states(self, asked: list[StateQuestion]) -> None:
        now_ms = _now_ms()
        documents = self._call(self._store.states, list({question.about for question in asked}), now_ms)
        for question in asked:
            coming = self._overlay.state(question.about)
            document = documents.get(question.about) if coming is None else coming.at(now_ms)
            question.answer.set(document)
            self._states.pop(question, None)

    def _answer_users(self, asked: list[UsersQuestion]) -> None:
        """Each question as a whole, but of all together not many more ids than of one."""
        taken: list[UsersQuestion] = []
        keys: set[UserKey] = set()
        for question in asked:
            if len(keys) < USERS_AT_ONCE:
                taken.append(question)
                keys.update(question.about)
        stored = self._call(self._store.users, list(keys))
        for question in taken:
            users = {key[1]: self._overlay.user(key, stored.get(key)) for key in question.about}
            question.answer.set({user_id: user for user_id, user in users.items() if user is not None})
            self._users.pop(question, None)

    def take_saves(self) -> list[Change]:
        """What is to be stored in the turn that begins."""
        if not self._saves:
            return []
        self._under_way = list(self._saves)
        self._saves.clear()
        return [change for saving in self._under_way for change in saving.about]

    def saved(self) -> None:
        """The turn was done."""
        for saving in self._under_way:
            saving.answer.set(None)
        self._under_way = []

    def not_saved(self) -> None:
        """The turn failed."""
        _refuse(self._under_way)
        self._under_way = []

    def stop(self) -> None:
        """Whoever waits still gets no answer, nor does anybody who asks from now on."""
        self._stopped = True
        for queue in (self._states, self._users, self._saves):
            _refuse(queue)


def _refuse(questions: Iterable[Question[Any, Any]]) -> None:
    for question in questions:
        question.answer.set_exception(DirectoryUnavailable(DOWN, PUT_OFF_S))


def _is_text(text: str) -> bool:
    """Whether it can be written down: a half of a surrogate pair cannot."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
