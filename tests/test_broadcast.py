"""Broadcasts: stored in parts before they begin, sent once to everybody who is still there, and counted."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbot import Bot, Context, Event, Message
from gbot.broadcast import ANNOUNCEMENT, PART, PUT_EVENTS_MAX, REMEMBERED_MAX, Broadcaster, Progress, Tally
from gbot.directory import UserGone
from gbot.dispatcher import Dispatcher
from gbot.errors import ApiDown, ApiRejected, ApiUnavailable, BotError, GbotError, InboxFull, MessageRefused
from gbot.execution import Execution
from gbot.inbox import Entry, Outcome, State
from gbot.inboxes.calls import InOneThread
from gbot.inboxes.durable import DurableInbox
from gbot.inboxes.sqlite import SqliteStore
from gbot.inboxes.store import Policy
from gbot.platform import Limits
from tests.conftest import MakeRig
from tests.rig import ONE_REPLY, Ledger, Outbox, Rig, services, text_event, wait_until

SIZE = ONE_REPLY.recipients_per_multicast
HELLO = [Message.of("hello")]


def users(count: int) -> list[str]:
    return [f"user {number}" for number in range(count)]


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    """A rig whose platform takes three recipients in one request."""
    made = make_rig(Bot(), attempts_max=3)
    made.outbox.limits = ONE_REPLY
    return made


def wait_for_all(rig: Rig) -> None:
    wait_until(lambda: rig.inbox.statistics().held == 0)


def recipients(outbox: Outbox) -> list[str]:
    return [user for way, address in outbox.ways() if way == "multicast" for user in address.split(",")]


# ---- parts


def test_everybody_gets_it_once_in_as_few_requests_as_possible(rig: Rig) -> None:
    broadcast = rig.broadcaster.broadcast(users(7), HELLO, None, None)
    wait_for_all(rig)
    assert rig.outbox.ways() == [
        ("multicast", "user 0,user 1,user 2"),
        ("multicast", "user 3,user 4,user 5"),
        ("multicast", "user 6"),
    ]
    assert rig.outbox.texts() == ["hello"] * 3
    assert broadcast.progress() == Progress(recipients=7, sent=7, gone=0, parts=3, parts_done=3)
    assert uuid.UUID(broadcast.id)


def test_its_parts_are_events_with_ids_that_tell_what_they_are(rig: Rig) -> None:
    rig.broadcaster.broadcast(users(4), HELLO, "plain", "weekly")
    wait_for_all(rig)
    events = [entry.event for entry, _ in rig.inbox.settled]
    assert [(event.kind, event.id) for event in events] == [(PART, "broadcast:weekly/1"), (PART, "broadcast:weekly/2")]
    assert all(event.conversation is None for event in events)


def test_messages_arrive_as_they_were_written(rig: Rig) -> None:
    sticker = {"type": "sticker", "packageId": "446", "stickerId": "1988", "quickReply": {"items": []}}
    rig.broadcaster.broadcast(["anna"], [Message.of("ひとつ"), Message(sticker)], None, None)
    wait_for_all(rig)
    [(_, _, messages)] = rig.outbox.sent
    assert [dict(message.body) for message in messages] == [{"type": "text", "text": "ひとつ"}, sticker]


@settings(max_examples=50)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=40))
def test_any_list_reaches_each_of_its_users_once(numbers: list[int]) -> None:
    rig = Rig(Bot())
    rig.outbox.limits = ONE_REPLY
    rig.broadcaster.broadcast(iter([str(number) for number in numbers]), HELLO, None, None)
    wait_for_all(rig)
    rig.drain()
    assert recipients(rig.outbox) == list(dict.fromkeys(map(str, numbers)))
    assert len(rig.outbox.sent) == -(-len(set(numbers)) // SIZE)


def test_many_parts_are_stored_in_slices() -> None:
    class Slices(Ledger):
        def put(self, events: Sequence[Event], body_bytes: int) -> None:
            super().put(events, body_bytes)
            slices.append((len(events), body_bytes))

    slices: list[tuple[int, int]] = []
    inbox = Slices(1_000_000, bytes_max=100_000_000)
    entries: list[Entry] = []
    inbox.start(entries.extend, lambda: 1, lambda: ())
    outbox = Outbox()
    Broadcaster(inbox, {"plain": services(outbox)}).broadcast(users(2 * PUT_EVENTS_MAX + 1), HELLO, None, None)
    assert [count for count, _ in slices] == [PUT_EVENTS_MAX, PUT_EVENTS_MAX, 1]
    assert all(100 * count < size_bytes < 1000 * count for count, size_bytes in slices)
    outbox.limits = Limits(messages_per_request=5, request_bytes_max=10_000_000)
    slices.clear()
    large = [Message.of("x" * 400_000)]
    Broadcaster(inbox, {"plain": services(outbox)}).broadcast(["a", "b", "c"], large, None, None)
    assert [count for count, _ in slices] == [2, 1]


# ---- from an author's bot


def test_a_handler_broadcasts_and_announces(make_rig: MakeRig) -> None:
    bot = Bot()
    begun: list[str] = []

    @bot.text("everybody")
    def everybody(ctx: Context) -> None:
        begun.append(bot.broadcast(users(4), "dinner", "is ready", id="dinner").id)
        begun.append(bot.announce("dinner", platform="plain", id="dinner"))

    rig = make_rig(bot)
    rig.outbox.limits = ONE_REPLY
    rig.submit("everybody")
    wait_for_all(rig)
    assert begun == ["dinner", "dinner"]
    assert sorted(rig.outbox.ways()) == [
        ("announce", ""),
        ("multicast", "user 0,user 1,user 2"),
        ("multicast", "user 3"),
    ]
    assert rig.outbox.texts() == ["dinner", "is ready", "dinner", "is ready", "dinner"]


def test_the_authors_handlers_and_middleware_are_not_called(make_rig: MakeRig) -> None:
    bot = Bot()
    seen: list[str] = []
    bot.default(lambda ctx: seen.append(ctx.event.kind))
    bot.middleware(lambda ctx, call_next: seen.append(ctx.event.kind))
    rig = make_rig(bot)
    bot.broadcast(users(2), "hello")
    bot.announce("hello")
    wait_for_all(rig)
    assert seen == []
    assert len(rig.outbox.sent) == 3


def test_a_bot_that_is_not_served_has_nowhere_to_store_it() -> None:
    with pytest.raises(BotError, match=r"bot\.broadcast works while the bot is served"):
        Bot().broadcast(["anna"], "hello")
    with pytest.raises(BotError, match=r"bot\.announce works while the bot is served"):
        Bot().announce("hello")


# ---- the same broadcast


def test_the_same_id_is_the_same_broadcast(rig: Rig) -> None:
    for _ in range(3):
        broadcast = rig.broadcaster.broadcast(users(7), HELLO, None, "weekly")
        wait_for_all(rig)
    assert recipients(rig.outbox) == users(7)
    assert rig.inbox.statistics().duplicates == 6
    assert broadcast.progress() == Progress(7, 7, 0, 3, 3)


def test_an_announcement_with_the_same_id_is_the_same_announcement_and_no_broadcast(rig: Rig) -> None:
    for _ in range(2):
        assert rig.broadcaster.announce(HELLO, None, "weekly") == "weekly"
        rig.broadcaster.broadcast(["anna"], HELLO, None, "weekly")
        wait_for_all(rig)
    assert rig.outbox.ways() == [("announce", ""), ("multicast", "anna")]
    events = [entry.event for entry, _ in rig.inbox.settled]
    assert [(event.kind, event.id) for event in events] == [
        (ANNOUNCEMENT, "announcement:weekly"),
        (PART, "broadcast:weekly/1"),
    ]


def test_an_authors_id_is_not_taken_for_one_of_the_platforms(rig: Rig) -> None:
    rig.submit(Event(platform="plain", kind="message.text", raw="", text="x", id="1"))
    rig.broadcaster.announce(HELLO, None, "1")
    wait_for_all(rig)
    assert rig.outbox.ways() == [("announce", "")]


def test_without_an_id_each_is_its_own(rig: Rig) -> None:
    ids = {rig.broadcaster.broadcast(["anna"], HELLO, None, None).id for _ in range(3)}
    ids |= {rig.broadcaster.announce(HELLO, None, None) for _ in range(3)}
    wait_for_all(rig)
    assert len(ids) == 6
    assert len(rig.outbox.sent) == 6
    assert len(set(rig.outbox.keys)) == 6


def test_a_later_run_of_a_part_has_the_same_key_and_other_parts_have_others(rig: Rig) -> None:
    rig.outbox.error = ApiUnavailable("?", 503)
    rig.broadcaster.broadcast(users(4), HELLO, None, "weekly")
    wait_until(lambda: len(rig.outbox.sent) == 2)
    rig.outbox.error = None
    wait_for_all(rig)
    keys = list(zip([address for _, address in rig.outbox.ways()], rig.outbox.keys, strict=True))
    assert len(keys) == 4
    assert len(set(keys)) == 2
    assert len({uuid.UUID(key) for _, key in keys}) == 2


def test_another_process_sends_under_the_same_keys() -> None:
    """As after a crash: nothing of the first one is left but the id."""
    keys = []
    for name in ("weekly", "weekly", "monthly"):
        rig = Rig(Bot())
        rig.broadcaster.broadcast(users(2), HELLO, None, name)
        rig.broadcaster.announce(HELLO, None, name)
        wait_for_all(rig)
        rig.drain()
        keys.append(rig.outbox.keys)
    assert keys[0] == keys[1]
    assert not set(keys[0]) & set(keys[2])


# ---- when it cannot be sent


def test_who_has_left_is_left_out(rig: Rig) -> None:
    rig.inbox.directory.save([UserGone("plain", f"user {number}", True, 1) for number in (1, 3, 4, 5)])
    broadcast = rig.broadcaster.broadcast(users(7), HELLO, None, None)
    wait_for_all(rig)
    assert rig.outbox.ways() == [("multicast", "user 0,user 2"), ("multicast", "user 6")]
    assert broadcast.progress() == Progress(recipients=7, sent=3, gone=4, parts=3, parts_done=3)


def test_a_part_waits_until_the_api_is_back_however_long_that_takes(rig: Rig) -> None:
    rig.outbox.error = ApiDown("?", 0.001)
    broadcast = rig.broadcaster.broadcast(["anna"], HELLO, None, None)
    wait_until(lambda: len(rig.outbox.sent) > 10)
    assert broadcast.progress().parts_done == 0
    rig.outbox.error = None
    wait_for_all(rig)
    assert broadcast.progress() == Progress(1, 1, 0, 1, 1)


def test_a_part_that_fails_for_good_is_dead_and_the_others_are_sent(make_rig: MakeRig) -> None:
    bot = Bot()
    told: list[str | None] = []
    bot.error(lambda ctx, error: told.append(ctx.event.id))
    rig = make_rig(bot, attempts_max=2)
    rig.outbox.refused = {"user 1": ApiRejected("?", 400)}
    broadcast = bot.broadcast(users(3), "hello", id="weekly")
    wait_for_all(rig)
    assert told == ["broadcast:weekly/2"]
    assert broadcast.progress() == Progress(recipients=3, sent=2, gone=0, parts=3, parts_done=2)
    assert rig.inbox.statistics().settled[State.DEAD] == 1


class Life:
    """One worker on an inbox that is kept on disk."""

    def __init__(self, file: Path) -> None:
        policy = Policy(strict=True, dedup_window_ms=3_600_000, keep_done_ms=0)
        self.outbox = Outbox(ONE_REPLY)
        self.inbox = DurableInbox(SqliteStore(file, policy), InOneThread(), 1000, 1_000_000)
        served = {"plain": services(self.outbox, self.inbox.directory)}
        self.broadcaster = Broadcaster(self.inbox, served)
        self._execution = Execution(Bot(), self.inbox, served, 0, internal={PART: self.broadcaster.send_part})
        self._dispatcher = Dispatcher(self._execution, 10)
        self.inbox.start(self._dispatcher.submit, self._dispatcher.room, self._dispatcher.in_hand)

    def end(self) -> None:
        self._dispatcher.drain(time.monotonic() + 5, give_back=True)
        assert self.inbox.stop(time.monotonic() + 5) == 0


def test_what_one_worker_has_stored_and_not_sent_the_next_one_sends(tmp_path: Path) -> None:
    first = Life(tmp_path / "inbox.sqlite3")
    first.outbox.error = ApiDown("?", 0.01)  # from the beginning
    first.broadcaster.broadcast(users(7), HELLO, None, "weekly")
    wait_until(lambda: first.outbox.sent)
    first.end()
    second = Life(tmp_path / "inbox.sqlite3")
    second.broadcaster.broadcast(users(7), HELLO, None, "weekly")  # as a handler that runs again does
    wait_until(lambda: second.inbox.statistics().held == 0)
    second.end()
    assert sorted(recipients(second.outbox)) == users(7)
    assert len(second.outbox.sent) == 3
    assert set(first.outbox.keys) <= set(second.outbox.keys)


# ---- an inbox that is full


class Draining(Ledger):
    """A full inbox in which there is room as soon as it has refused something ``after`` times."""

    def __init__(self, after: int) -> None:
        super().__init__(2)
        self.entries: list[Entry] = []
        self.refusals = 0
        self._after = after
        self.start(self.entries.extend, lambda: 1, lambda: ())
        self.put([text_event("1"), text_event("2")], 1)

    def put(self, events: Sequence[Event], body_bytes: int) -> None:
        try:
            super().put(events, body_bytes)
        except InboxFull:
            self.refusals += 1
            if self.refusals == self._after:
                for entry in self.entries:
                    self.settle(entry, Outcome(State.DONE))
            raise


def test_storing_waits_until_a_full_inbox_has_room() -> None:
    inbox = Draining(after=1)
    Broadcaster(inbox, {"plain": services(Outbox())}).broadcast(["anna"], HELLO, None, None)
    assert inbox.refusals == 1
    assert [entry.event.kind for entry in inbox.entries] == ["message.text", "message.text", PART]


def test_storing_gives_up_when_the_inbox_stays_full() -> None:
    inbox = Draining(after=1000)
    broadcaster = Broadcaster(inbox, {"plain": services(Outbox())}, full_wait_s=0.001)
    with pytest.raises(InboxFull):
        broadcaster.broadcast(["anna"], HELLO, None, None)
    assert inbox.refusals == 2
    with pytest.raises(InboxFull):
        broadcaster.announce(HELLO, None, None)


# ---- progress


@pytest.mark.parametrize(("parts", "lines"), [(1, 1), (3, 3), (10, 10), (25, 10), (1000, 10)])
def test_the_log_tells_every_tenth(parts: int, lines: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    tally = Tally("weekly", parts)
    for _ in range(parts):
        tally.part_done(sent=2, gone=1)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == lines
    of, gone = ("1 of 1 part", "1 was") if parts == 1 else (f"{parts:,} of {parts:,} parts", f"{parts:,} were")
    assert said[-1] == f"Broadcast weekly: this worker has done {of}, sent to {2 * parts:,} users, {gone} gone"
    found = [re.search(r"done ([\d,]+) of", line) for line in said]
    done = [int(each[1].replace(",", "")) for each in found if each]
    assert all(later - earlier <= -(-parts // 10) for earlier, later in zip([0, *done], done, strict=False))


def test_a_worker_that_has_not_begun_it_counts_what_it_sees() -> None:
    tally = Tally("weekly", 3)
    tally.part_done(sent=500, gone=0)
    tally.part_done(sent=400, gone=100)
    assert tally.progress() == Progress(recipients=1000, sent=900, gone=100, parts=3, parts_done=2)


def test_broadcasts_of_two_platforms_are_counted_apart() -> None:
    inbox = Ledger(1000)
    inbox.start(lambda entries: None, lambda: 1, lambda: ())
    served = {"plain": services(Outbox()), "line": services(Outbox(ONE_REPLY))}
    broadcaster = Broadcaster(inbox, served)
    counts = [broadcaster.broadcast(users(4), HELLO, name, "weekly").progress().parts for name in ("plain", "line")]
    assert counts == [4, 2]


def test_the_progress_of_so_many_broadcasts_is_remembered() -> None:
    inbox = Ledger(1_000_000)
    inbox.start(lambda entries: None, lambda: 1, lambda: ())
    broadcaster = Broadcaster(inbox, {"plain": services(Outbox())})
    for number in range(REMEMBERED_MAX + 10):
        broadcaster.broadcast(["anna"], HELLO, None, str(number))
    assert len(broadcaster._tallies) == REMEMBERED_MAX


def test_the_log_names_no_user_and_no_message(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    rig.outbox.error = ApiUnavailable("?", 503)
    rig.broadcaster.broadcast(["anna"], HELLO, None, None)
    wait_until(lambda: rig.outbox.sent)
    rig.outbox.error = None
    rig.broadcaster.announce(HELLO, None, "weekly")
    wait_for_all(rig)
    assert "announcement:weekly was sent" in caplog.text
    assert "anna" not in caplog.text
    assert "hello" not in caplog.text


# ---- what is refused before anything is stored

Broadcast = Callable[[Broadcaster], object]
REFUSED: list[tuple[str, Broadcast, type[GbotError], str]] = [
    ("text", lambda it: it.broadcast("anna", HELLO, None, None), BotError, "a list of user ids"),
    ("nobody", lambda it: it.broadcast([], HELLO, None, None), MessageRefused, "one or more users, got none"),
    ("empty", lambda it: it.broadcast(["anna", ""], HELLO, None, None), MessageRefused, "something else among them"),
    ("number", lambda it: it.broadcast([7], HELLO, None, None), MessageRefused, "something else"),  # type: ignore[list-item]
    ("half", lambda it: it.broadcast(["\ud800"], HELLO, None, None), MessageRefused, "something else among them"),
    ("many", lambda it: it.broadcast(["anna"], HELLO * 6, None, None), MessageRefused, "5 messages"),
    ("json", lambda it: it.announce([Message({"a": object()})], None, None), MessageRefused, "JSON"),
    ("character", lambda it: it.announce([Message({"a": "\ud800"})], None, None), MessageRefused, "JSON"),
    ("large", lambda it: it.announce([Message.of("x" * 1_000_001)], None, None), MessageRefused, "1000000 bytes"),
    ("id-empty", lambda it: it.broadcast(["anna"], HELLO, None, ""), BotError, "1 to 200 printable characters"),
    ("id-long", lambda it: it.announce(HELLO, None, "x" * 201), BotError, "1 to 200 printable characters"),
    ("id-line", lambda it: it.announce(HELLO, None, "x\ny"), BotError, "1 to 200 printable characters"),
    ("id-number", lambda it: it.announce(HELLO, None, 7), BotError, "1 to 200 printable"),  # type: ignore[arg-type]
    ("platform", lambda it: it.announce(HELLO, "line", None), BotError, r"one that is served \(plain\), got 'line'"),
]


@pytest.mark.parametrize(("refused", "error", "words"), [pytest.param(*given, id=name) for name, *given in REFUSED])
def test_what_cannot_be_sent_is_refused_and_nothing_is_stored(
    rig: Rig, refused: Broadcast, error: type[GbotError], words: str
) -> None:
    with pytest.raises(error, match=words):
        refused(rig.broadcaster)
    assert rig.inbox.statistics().accepted == 0


def test_with_several_platforms_it_needs_to_be_told_which() -> None:
    inbox = Ledger(10)
    entries: list[Entry] = []
    inbox.start(entries.extend, lambda: 1, lambda: ())
    broadcaster = Broadcaster(inbox, {"plain": services(Outbox()), "line": services(Outbox())})
    with pytest.raises(BotError, match=r"\(plain, line\), got None"):
        broadcaster.announce(HELLO, None, None)
    broadcaster.announce(HELLO, "line", None)
    assert [entry.event.platform for entry in entries] == ["line"]
