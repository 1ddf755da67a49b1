"""Pushes that are merged: what may leave together, in which order, and what everybody is told about it."""

from __future__ import annotations

import random
import traceback
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import gevent
import pytest
from greenlet import GreenletExit

from gbot.errors import (
    ApiDown,
    ApiError,
    ApiLimited,
    ApiRejected,
    ApiUnavailable,
    ApiUnreachable,
    LaneBusy,
    MessageRefused,
    QuotaUsedUp,
    RecipientGone,
    ResultUnknown,
    SendError,
)
from gbot.event import Message
from gbot.outbound.coalescer import Coalescer, CoalescerStatistics
from tests.rig import wait_until

WINDOW_S = 0.02
NEVER_S = 1000.0  # a window that is closed by the number of users alone
KEY = str(uuid.uuid4())


class Post:
    """Takes what a coalescer sends: (users, text, retry key) of every request, in the order of their beginnings."""

    def __init__(self) -> None:
        self.sent: list[tuple[list[str], str, str]] = []
        self.multicasts = 0
        self.errors: list[BaseException | None] = []  # of the next requests
        self.takes_s: Callable[[], float] = lambda: 0.0

    def push(self, to: str, messages: Sequence[Message], retry_key: str) -> None:
        self._take([to], messages, retry_key)

    def multicast(self, to: Sequence[str], messages: Sequence[Message], retry_key: str) -> None:
        self.multicasts += 1
        self._take(list(to), messages, retry_key)

    def _take(self, to: list[str], messages: Sequence[Message], retry_key: str) -> None:
        self.sent.append((to, " ".join(str(message.body.get("text")) for message in messages), retry_key))
        error = self.errors.pop(0) if self.errors else None
        gevent.sleep(self.takes_s())
        if error is not None:
            raise error

    def texts_of(self, user: str) -> list[str]:
        return [text for to, text, _ in self.sent if user in to]


class Gate(Post):
    """A Post whose requests end when they are told to."""

    def __init__(self) -> None:
        super().__init__()
        self.open = gevent.event.Event()

    def _take(self, to: list[str], messages: Sequence[Message], retry_key: str) -> None:
        super()._take(to, messages, retry_key)
        self.open.wait()


@pytest.fixture
def post() -> Post:
    return Post()


def coalescer(post: Post, window_s: float = WINDOW_S, recipients_max: int = 500, **options: Any) -> Coalescer:
    return Coalescer(window_s, recipients_max, post.push, post.multicast, **options)


def text(words: str) -> list[Message]:
    return [Message.of(words)]


class Pusher(gevent.Greenlet):  # type: ignore[misc]
    """A greenlet that pushes once; ``error`` is what it was told."""

    def __init__(self, given: Coalescer, to: str, words: str, retry_key: str | None = None) -> None:
        super().__init__()
        self.given, self.to, self.words, self.retry_key = given, to, words, retry_key or str(uuid.uuid4())
        self.error: BaseException | None = None
        self.ended = False
        self.start()

    def _run(self) -> None:
        try:
            self.given.push(self.to, text(self.words), self.retry_key)
        except Exception as error:
            self.error = error
        self.ended = True


def push_all(given: Coalescer, *pushes: tuple[str, str]) -> list[Pusher]:
    """Push these at once, wait for all."""
    pushers = [Pusher(given, to, words) for to, words in pushes]
    gevent.joinall(pushers, timeout=10)
    assert all(pusher.ended for pusher in pushers)
    assert given.statistics().users == 0
    return pushers


# ---- what leaves together


def test_a_push_that_is_alone_leaves_under_its_own_key(post: Post) -> None:
    given = coalescer(post)
    given.push("anna", text("hello"), KEY)
    assert post.sent == [(["anna"], "hello", KEY)]
    assert post.multicasts == 0
    assert given.statistics() == CoalescerStatistics(users=0, pushes=1, calls=1, saved=0)


def test_the_same_for_several_users_leaves_as_one_request(post: Post) -> None:
    given = coalescer(post)
    push_all(given, ("anna", "hello"), ("ben", "hello"), ("chie", "hello"))
    [(users, words, key)] = post.sent
    assert (users, words, post.multicasts) == (["anna", "ben", "chie"], "hello", 1)
    assert key != KEY
    assert str(uuid.UUID(key)) == key
    assert given.statistics() == CoalescerStatistics(users=0, pushes=3, calls=1, saved=2)


def test_each_multicast_has_a_key_of_its_own(post: Post) -> None:
    given = coalescer(post)
    for _ in range(3):
        push_all(given, ("anna", "hello"), ("ben", "hello"))
    assert len({key for _, _, key in post.sent}) == 3


def test_a_full_batch_leaves_at_once(post: Post) -> None:
    given = coalescer(post, NEVER_S, recipients_max=3)
    push_all(given, *((f"user {number}", "hello") for number in range(9)))
    assert [len(users) for users, _, _ in post.sent] == [3, 3, 3]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"type": "text", "text": "hello"}, {"type": "text", "text": "hello "}),
        ({"type": "x", "value": 1}, {"type": "x", "value": True}),
        ({"type": "x", "value": 1}, {"type": "x", "value": 1.0}),
        ({"type": "x", "value": None}, {"type": "x"}),
        ({"type": "x", "value": "1"}, {"type": "x", "value": 1}),
    ],
)
def test_what_differs_is_never_merged(post: Post, one: dict[str, Any], other: dict[str, Any]) -> None:
    given = coalescer(post)
    gevent.joinall(
        [
            gevent.spawn(given.push, "anna", [Message(one)], KEY),
            gevent.spawn(given.push, "ben", [Message(other)], KEY),
        ],
        raise_error=True,
        timeout=10,
    )
    assert (len(post.sent), post.multicasts) == (2, 0)


def test_two_messages_are_not_the_same_as_one_of_them(post: Post) -> None:
    given = coalescer(post)
    both = gevent.spawn(given.push, "anna", [*text("a"), *text("b")], KEY)
    one = gevent.spawn(given.push, "ben", text("a"), str(uuid.uuid4()))
    gevent.joinall([both, one], raise_error=True, timeout=10)
    assert sorted(words for _, words, _ in post.sent) == ["a", "a b"]


def test_with_a_window_of_0_nothing_is_merged(post: Post) -> None:
    given = coalescer(post, 0.0)
    pushers = push_all(given, ("anna", "hello"), ("ben", "hello"), ("chie", "hello"))
    assert [(users, key) for users, _, key in post.sent] == [([each.to], each.retry_key) for each in pushers]
    assert given.statistics() == CoalescerStatistics(users=0, pushes=3, calls=3, saved=0)


def test_a_message_that_is_changed_after_it_was_pushed_leaves_as_it_was(post: Post) -> None:
    given = coalescer(post)
    body = {"type": "text", "text": "first"}
    pusher = gevent.spawn(given.push, "anna", [Message(body)], KEY)
    gevent.sleep(0)
    body["text"] = "second"
    pusher.get(timeout=10)
    assert post.texts_of("anna") == ["first"]


@pytest.mark.parametrize("body", [{"type": object()}, {"type": "x" + chr(0xD800)}, {1j: "x"}])
def test_what_json_cannot_carry_is_refused(post: Post, body: dict[str, Any]) -> None:
    given = coalescer(post)
    with pytest.raises(MessageRefused, match="nothing was sent"):
        given.push("anna", [Message(body)], KEY)
    assert post.sent == []
    assert given.statistics().users == 0


# ---- one message at a time to each user


@pytest.mark.parametrize("window_s", [0.0, 0.001])
def test_the_same_content_twice_to_a_user_is_two_messages(post: Post, window_s: float) -> None:
    push_all(coalescer(post, window_s), ("anna", "hello"), ("anna", "hello"))
    assert post.texts_of("anna") == ["hello", "hello"]


@pytest.mark.parametrize("window_s", [0.0, 0.001])
def test_a_push_waits_for_the_one_before_it_to_the_same_user(window_s: float) -> None:
    gate = Gate()
    given = coalescer(gate, window_s)
    first, second, third = (Pusher(given, "anna", words) for words in "123")
    other = Pusher(given, "ben", "9")
    wait_until(lambda: len(gate.sent) == 2)
    assert (gate.texts_of("anna"), gate.texts_of("ben")) == (["1"], ["9"])
    assert not any(pusher.ended for pusher in (first, second, third, other))
    gate.open.set()
    gevent.joinall([first, second, third, other], timeout=10)
    assert gate.texts_of("anna") == ["1", "2", "3"]


def test_a_push_behind_one_that_fails_is_sent(post: Post) -> None:
    post.errors = [ApiRejected("no", 400)]
    first, second = push_all(coalescer(post), ("anna", "1"), ("anna", "2"))
    assert type(first.error) is ApiRejected
    assert second.error is None


# ---- greenlets that are killed


def test_a_push_that_is_killed_before_its_batch_leaves_is_not_sent(post: Post) -> None:
    given = coalescer(post)
    pushers = [Pusher(given, name, "hello") for name in ("anna", "ben", "chie")]
    gevent.sleep(0)
    pushers[0].kill()  # the one that has opened the batch
    push_all(given, ("anna", "2"))
    gevent.joinall(pushers, timeout=10)
    assert sorted(users for users, _, _ in post.sent) == [["anna"], ["ben", "chie"]]
    assert post.texts_of("anna") == ["2"]
    assert [pusher.ended for pusher in pushers] == [False, True, True]
    assert given.statistics().users == 0


def test_a_batch_whose_pushes_were_all_killed_is_forgotten(post: Post) -> None:
    given = coalescer(post)
    pushers = [Pusher(given, name, "hello") for name in ("anna", "ben")]
    gevent.sleep(0)
    gevent.killall(pushers)
    push_all(given, ("chie", "hello"))
    push_all(given, ("chie", "hello"))
    assert [users for users, _, _ in post.sent] == [["chie"], ["chie"]]


def test_a_push_that_is_killed_when_it_may_send_itself_is_not_sent(post: Post) -> None:
    given = coalescer(post, NEVER_S, recipients_max=1)  # the batch is full at once
    pusher = Pusher(given, "anna", "hello")
    gevent.get_hub().loop.run_callback(lambda: pusher.kill(block=False))
    pusher.join(10)
    push_all(given, ("anna", "2"))
    assert post.texts_of("anna") in (["2"], ["hello", "2"])


def test_a_push_that_is_killed_when_its_batch_is_leaving_leaves_with_it() -> None:
    gate = Gate()
    given = coalescer(gate)
    first, second, third = Pusher(given, "anna", "1"), Pusher(given, "ben", "1"), Pusher(given, "anna", "2")
    wait_until(lambda: gate.sent)
    first.kill()
    gevent.sleep(2 * WINDOW_S)
    assert gate.texts_of("anna") == ["1"]  # the next message waits for the end of the multicast
    gate.open.set()
    gevent.joinall([second, third], timeout=10)
    assert (second.ended, third.ended) == (True, True)
    assert gate.texts_of("anna") == ["1", "2"]
    assert given.statistics().users == 0


@pytest.mark.parametrize("window_s", [0.0, 0.001])
def test_a_push_that_is_killed_while_it_waits_for_its_turn_is_not_sent(window_s: float) -> None:
    gate = Gate()
    given = coalescer(gate, window_s)
    first, second, third = (Pusher(given, "anna", words) for words in "123")
    wait_until(lambda: gate.sent)
    second.kill()
    gate.open.set()
    gevent.joinall([first, third], timeout=10)
    assert gate.texts_of("anna") == ["1", "3"]
    assert given.statistics().users == 0


def test_a_push_that_is_killed_when_its_turn_has_come_passes_it_on() -> None:
    gate = Gate()
    given = coalescer(gate, 0.0)
    first, second, third = (Pusher(given, "anna", words) for words in "123")
    wait_until(lambda: gate.sent)
    gate.open.set()
    first.rawlink(lambda _: second.kill(block=False))  # the turn has been given, and not yet taken
    gevent.joinall([first, third], timeout=10)
    assert third.ended
    assert gate.texts_of("anna") in (["1", "3"], ["1", "2", "3"])
    assert given.statistics().users == 0


def test_a_sending_greenlet_that_is_stopped_leaves_nobody_waiting(post: Post) -> None:
    post.errors = [GreenletExit()]
    pushers = push_all(coalescer(post), ("anna", "hello"), ("ben", "hello"))
    assert [type(pusher.error) for pusher in pushers] == [ResultUnknown] * 2
    assert all(isinstance(pusher.error, SendError) and pusher.error.final for pusher in pushers)


# ---- pushes of a handler that is run again


def again(given: Coalescer, *pushers: Pusher) -> list[Pusher]:
    """The same pushes once more; waits for all."""
    return ended([Pusher(given, pusher.to, pusher.words, pusher.retry_key) for pusher in pushers])


def ended(pushers: list[Pusher]) -> list[Pusher]:
    gevent.joinall(pushers, timeout=10)
    assert all(pusher.ended for pusher in pushers)
    return pushers


def test_a_merged_push_that_has_arrived_does_not_arrive_again(post: Post) -> None:
    given = coalescer(post)
    pushers = push_all(given, ("anna", "hello"), ("ben", "hello"))
    assert [pusher.error for pusher in again(given, *pushers)] == [None, None]
    assert len(post.sent) == 1
    push_all(given, ("anna", "hello"), ("ben", "hello"))  # others of the same content are not meant
    assert len(post.sent) == 2


def test_a_merged_push_that_was_stopped_shares_the_end_of_its_batch_later() -> None:
    gate = Gate()
    given = coalescer(gate)
    pushers = [Pusher(given, name, "hello") for name in ("anna", "ben")]
    wait_until(lambda: gate.sent)
    gevent.killall(pushers)
    later = [Pusher(given, pusher.to, pusher.words, pusher.retry_key) for pusher in pushers]
    gevent.sleep(2 * WINDOW_S)
    assert not any(pusher.ended for pusher in later)
    later.pop().kill()  # it too runs out of time
    gate.open.set()
    ended(later)
    again(given, *pushers)
    assert len(gate.sent) == 1
    assert given.statistics().users == 0


def test_a_merged_push_that_has_failed_is_sent_by_the_next_run(post: Post) -> None:
    given = coalescer(post)
    post.errors = [LaneBusy("full", 1.0)]
    pushers = push_all(given, ("anna", "hello"), ("ben", "hello"))
    assert [type(pusher.error) for pusher in pushers] == [LaneBusy] * 2
    assert [pusher.error for pusher in again(given, *pushers)] == [None, None]
    assert len(post.sent) == 2


def test_who_was_stopped_is_told_the_end_of_the_batch_once(post: Post) -> None:
    given = coalescer(post, unsure_for_s=0.0)
    post.errors = [ResultUnknown("no answer")]
    post.takes_s = lambda: WINDOW_S
    pushers = [Pusher(given, name, "hello") for name in ("anna", "ben")]
    wait_until(lambda: post.sent)
    gevent.killall(pushers)
    wait_until(lambda: not given.statistics().users)
    for pusher in again(given, *pushers):
        assert isinstance(pusher.error, ResultUnknown)
        assert pusher.error.final
    assert len(post.sent) == 1
    assert [pusher.error for pusher in again(given, *pushers)] == [None, None]  # run again by hand, say


# ---- errors


ERRORS = [
    ApiRejected("no", 400),
    QuotaUsedUp("used up", 429),
    ApiLimited("too fast", 429),
    ApiUnreachable("not there"),
    ApiDown("down", 7.0),
    LaneBusy("full", 3.0),
    RecipientGone("gone"),
    MessageRefused("odd"),
    ValueError("a bug", 5),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_reaches_every_push_of_the_batch(post: Post, error: Exception) -> None:
    post.errors = [error]
    told = [pusher.error for pusher in push_all(coalescer(post), ("anna", "hello"), ("ben", "hello"))]
    assert len(post.sent) == 1
    assert len({id(each) for each in (error, *told)}) == 3
    for each in told:
        assert each is not None
        assert type(each) is type(error)
        assert str(each) == str(error)
        assert each.args == error.args
        assert vars(each) == vars(error)
        assert each.__cause__ is error


def test_tracebacks_do_not_grow_with_the_number_of_pushes(post: Post) -> None:
    post.errors = [ApiRejected("no", 400)]
    pushers = push_all(coalescer(post), *((f"user {number}", "hello") for number in range(200)))
    lengths = {len(traceback.extract_tb(pusher.error.__traceback__)) for pusher in pushers if pusher.error}
    assert len(lengths) == 1
    assert max(lengths) < 5


def test_an_error_of_a_push_that_was_alone_keeps_its_meaning(post: Post) -> None:
    post.errors = [ResultUnknown("no answer")]  # the push's own key makes a later run safe: it is not final
    [pusher] = push_all(coalescer(post), ("anna", "hello"))
    assert isinstance(pusher.error, ResultUnknown)
    assert not pusher.error.final
    assert len(post.sent) == 1


# ---- a multicast that may have arrived


def caused(error: SendError, cause: SendError) -> SendError:
    error.__cause__ = cause
    return error


def test_a_multicast_that_may_have_arrived_is_sent_again_as_the_same_request(post: Post) -> None:
    unknown = ResultUnknown("no answer")
    post.errors = [caused(LaneBusy("full", 0.01), unknown), ApiDown("down", 0.01), LaneBusy("full", 0.01)]
    pushers = push_all(coalescer(post), ("anna", "hello"), ("ben", "hello"))
    assert [pusher.error for pusher in pushers] == [None, None]
    assert len(post.sent) == 4
    assert len({(tuple(users), words, key) for users, words, key in post.sent}) == 1


def test_what_the_api_says_in_the_end_is_believed(post: Post) -> None:
    post.errors = [caused(LaneBusy("full", 0.01), ApiUnavailable("failed", 500)), ApiRejected("never", 400)]
    pushers = push_all(coalescer(post), ("anna", "hello"), ("ben", "hello"))
    assert [type(pusher.error) for pusher in pushers] == [ApiRejected] * 2
    assert len(post.sent) == 2


@pytest.mark.parametrize("error", [ResultUnknown("no answer"), ApiUnavailable("failed", 500)])
def test_a_multicast_of_which_nobody_will_ever_know_is_final(post: Post, error: ApiError) -> None:
    post.errors = [error]
    pushers = push_all(coalescer(post, unsure_for_s=0.0), ("anna", "hello"), ("ben", "hello"))
    for pusher in pushers:
        assert isinstance(pusher.error, ResultUnknown)
        assert pusher.error.final
        assert pusher.error.status == error.status
        assert "2 users may have arrived" in str(pusher.error)


# ---- everything at once


class Chaos(Post):
    """Fails at random, in every way; remembers who was sent what, and whether he got it."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self.dice = dice
        self.busy: set[str] = set()
        self.arrived: dict[str, list[str]] = defaultdict(list)
        self.accepted: set[str] = set()

    def _take(self, to: list[str], messages: Sequence[Message], retry_key: str) -> None:
        assert not self.busy & set(to), "a user is being sent to twice at the same time"
        assert len(set(to)) == len(to)
        self.busy |= set(to)
        words = str(messages[0].body["text"])
        self.sent.append((to, words, retry_key))
        try:
            gevent.sleep(self.dice.random() * 0.003)
            fate = self.dice.random()
            if fate < 0.1:
                raise self.dice.choice([LaneBusy("full", 0.001), ApiDown("down", 0.001)])
            if retry_key not in self.accepted:
                if fate < 0.2:
                    raise self.dice.choice([ApiRejected("no", 400), ValueError("a bug")])
                self.accepted.add(retry_key)
                for user in to:
                    self.arrived[user].append(words)
            if fate > 0.85:
                raise caused(LaneBusy("full", 0.001), ResultUnknown("it may have arrived"))
        finally:
            self.busy -= set(to)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_every_push_is_answered_once_in_order_and_unmixed(seed: int) -> None:
    dice = random.Random(seed)
    chaos = Chaos(dice)
    given = coalescer(chaos, dice.choice([0.0, 0.001, 0.004]), recipients_max=dice.choice([2, 5, 500]))
    told: dict[str, list[tuple[str, str]]] = defaultdict(list)  # by user: (content, how it ended)

    def run(user: str, words: str) -> None:
        try:
            given.push(user, text(words), str(uuid.uuid4()))
        except (SendError, ValueError) as error:
            told[user].append((words, type(error).__name__))
        else:
            told[user].append((words, "sent"))

    contents = ["all", "all", "some", *(f"only {number}" for number in range(5))]
    pushed: dict[str, list[str]] = defaultdict(list)
    pushers, killed = [], []
    for number in range(400):
        user, words = f"user {dice.randrange(20)}", dice.choice(contents)
        pusher = gevent.spawn(run, user, words)
        if dice.random() < 0.05:
            killed.append(user)
            gevent.spawn_later(dice.random() * 0.01, pusher.kill)
        else:
            pushed[user].append(words)
        pushers.append(pusher)
        if number % 20 == 0:
            gevent.sleep(dice.random() * 0.004)
    gevent.joinall(pushers, timeout=30)
    wait_until(lambda: given.statistics().users == 0)
    assert all(pusher.ready() for pusher in pushers)
    for user in pushed:
        if user not in killed:
            # Every push was told how it ended, once, in the order in which they were made …
            assert [words for words, _ in told[user]] == pushed[user]
            # … and what was said to be sent has arrived, in that order, and nothing else but what may have.
            sent = [words for words, end in told[user] if end == "sent"]
            unsure = [words for words, end in told[user] if end == "LaneBusy"]
            assert _is_subsequence(sent, chaos.arrived[user])
            assert len(chaos.arrived[user]) <= len(sent) + len(unsure)
    requests = {key: users for users, _, key in chaos.sent}
    statistics = given.statistics()
    assert statistics.calls == len(requests)
    assert statistics.saved == sum(len(users) - 1 for users in requests.values())


def _is_subsequence(short: list[str], long: list[str]) -> bool:
    rest = iter(long)
    return all(words in rest for words in short)
