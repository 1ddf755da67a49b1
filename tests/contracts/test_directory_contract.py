"""What every directory promises (gbot/directory.py): first on each inbox, as a worker uses it; then on each store."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import gevent
import msgspec
import pytest
from gevent.lock import BoundedSemaphore as Semaphore

from gbot.broadcast import PART
from gbot.directory import Change, ProfileSeen, StateChange, UserForgotten, UserGone
from gbot.event import Conversation, Event
from gbot.inbox import Entry, Outcome, State
from gbot.inboxes.desk_users import Amend, SqlUsersDesk
from gbot.inboxes.store import Erased, Place
from gbot.user import Profile, User
from tests.contracts.conftest import HireWorker
from tests.contracts.inboxes import Bench, Maker
from tests.contracts.stores import DEAD, DONE, FOR_EVER_MS, KEEP_MS, LONG_AGO_MS, RETRY_AT_ONCE, Worker, event_of
from tests.rig import text_event, wait_until

ANNA = Conversation("user", "anna")
GROUP = Conversation("group", "anna")  # of the same id: only the kind tells them apart


def state_of(document: str | None, conversation: Conversation = ANNA, expires_ms: int = FOR_EVER_MS) -> StateChange:
    return StateChange("plain", conversation, document, expires_ms)


def gone(at_ms: int, user_id: str = "anna") -> UserGone:
    return UserGone("plain", user_id, True, at_ms)


def back(at_ms: int, user_id: str = "anna") -> UserGone:
    return UserGone("plain", user_id, False, at_ms)


def named(name: str, at_ms: int, user_id: str = "anna") -> ProfileSeen:
    return ProfileSeen("plain", user_id, Profile(name, "ja"), at_ms)


def done(*changes: Change, state: State = State.DONE) -> Outcome:
    return Outcome(state, "", 60.0, True, changes)


def written(bench: Bench) -> None:
    wait_until(lambda: bench.inbox.statistics().unsaved == 0)


def user(bench: Bench, user_id: str = "anna") -> User | None:
    return bench.inbox.directory.users("plain", [user_id]).get(user_id)


# ---- states


def test_at_first_nothing_is_known(make: Maker) -> None:
    directory = make().inbox.directory
    assert directory.state("plain", ANNA) is None
    assert directory.users("plain", ["anna"]) == {}
    assert directory.users("plain", []) == {}
    directory.save([])


@pytest.mark.parametrize("state", [state for state in State if state is not State.RELEASED])
def test_a_state_that_is_settled_is_seen_at_once_and_stays(make: Maker, state: State) -> None:
    bench = make()
    directory = bench.inbox.directory
    [entry] = bench.take(text_event("x", "anna"))
    bench.settle(done(state_of('{"step":1}'), state=state), entry)
    assert directory.state("plain", ANNA) == '{"step":1}'
    written(bench)
    assert directory.state("plain", ANNA) == '{"step":1}'
    assert directory.state("plain", GROUP) is None
    assert directory.state("other", ANNA) is None


def test_the_last_of_many_changes_counts_and_none_removes_the_state(make: Maker) -> None:
    bench = make()
    directory = bench.inbox.directory
    for number, entry in enumerate(bench.take(*(text_event(str(number)) for number in range(5)))):
        bench.settle(done(state_of("[]"), state_of(str(number)), state_of("[]", GROUP)), entry)
        assert directory.state("plain", ANNA) == str(number)
    written(bench)
    assert (directory.state("plain", ANNA), directory.state("plain", GROUP)) == ("4", "[]")
    bench.settle(done(state_of(None)), *bench.take(text_event("last")))
    assert directory.state("plain", ANNA) is None
    written(bench)
    assert (directory.state("plain", ANNA), directory.state("plain", GROUP)) == (None, "[]")


def test_a_state_is_forgotten_when_its_time_is_over(make: Maker) -> None:
    bench = make()
    directory = bench.inbox.directory
    soon_ms = time.time_ns() // 1_000_000 + 300
    first, second = bench.take(text_event("1"), text_event("2"))
    bench.settle(done(state_of("1", expires_ms=soon_ms), state_of("2", GROUP, expires_ms=1)), first)
    assert directory.state("plain", GROUP) is None
    written(bench)
    assert directory.state("plain", GROUP) is None
    assert directory.state("plain", ANNA) == "1" or time.time_ns() // 1_000_000 >= soon_ms
    wait_until(lambda: directory.state("plain", ANNA) is None)
    assert time.time_ns() // 1_000_000 >= soon_ms
    bench.settle(done(state_of("3")), second)
    written(bench)
    assert directory.state("plain", ANNA) == "3"


def test_a_state_may_be_saved_without_an_outcome(make: Maker) -> None:
    directory = make().inbox.directory
    directory.save([state_of("1"), state_of("2", GROUP)])
    assert (directory.state("plain", ANNA), directory.state("plain", GROUP)) == ("1", "2")


DOCUMENTS = ['"a\\u0000b"', '"it\'s \\"100 %s\\" {} ? \\\\"', '"名前 🐈"', '"' + "x" * 64_000 + '"']


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: ascii(document[:12]))
def test_any_document_comes_back_as_it_was(make: Maker, document: str) -> None:
    directory = make().inbox.directory
    conversation = Conversation("room", "a\0b 名前 %s '\" " + "c" * 3000)
    directory.save([state_of(document, conversation)])
    assert directory.state("plain", conversation) == document
    assert directory.state("plain", Conversation("room", conversation.id + "c")) is None


def test_many_may_ask_at_once(make: Maker) -> None:
    directory = make().inbox.directory
    rooms = [Conversation("room", str(number)) for number in range(1200)]
    directory.save([state_of(room.id, room) for room in rooms])
    asking = [gevent.spawn(directory.state, "plain", room) for room in [*rooms, ANNA]]
    gevent.joinall(asking, raise_error=True)
    assert [greenlet.value for greenlet in asking] == [*(room.id for room in rooms), None]


class Counting:
    """Somebody whose handler counts a conversation's events in its state; one after the other, as a dispatcher does."""

    def __init__(self, bench: Bench, seen: dict[str, list[int]]) -> None:
        self._bench = bench
        self._seen = seen
        self._taken = 0
        self._turns: dict[str, Semaphore] = defaultdict(Semaphore)

    def work(self) -> None:
        """Begin all that was handed out since the last time."""
        fresh, self._taken = self._bench.out[self._taken :], len(self._bench.out)
        for entry in fresh:
            gevent.spawn(self._handle, entry)

    def _handle(self, entry: Entry) -> None:
        conversation = entry.event.conversation
        assert conversation is not None
        with self._turns[conversation.id]:
            count = int(self._bench.inbox.directory.state("plain", conversation) or 0) + 1
            self._seen[conversation.id].append(count)
            gevent.sleep(0.001)
            change = state_of(str(count), conversation)
            again = count % 7 == 3 and not entry.attempts  # it fails after a change that is stored: that counts, too
            self._bench.settle(
                done(change) if not again else Outcome(State.RETRY, "again", 0.0, True, (change,)), entry
            )


@pytest.mark.parametrize("workers", [1, 2])
def test_each_event_of_a_conversation_sees_the_state_that_the_one_before_has_left(make: Maker, workers: int) -> None:
    """With several workers on one store, whichever of them runs an event."""
    benches = [make(pool=3)]
    if benches[0].inbox.keeps:
        benches += [make(pool=3) for _ in range(workers - 1)]
    seen: dict[str, list[int]] = defaultdict(list)
    counting = [Counting(bench, seen) for bench in benches]
    for number in range(60):
        benches[number % len(benches)].put(text_event(str(number), "abc"[number % 3]))

    def all_done() -> bool:
        for each in counting:
            each.work()
        return sum(bench.inbox.statistics().settled[State.DONE] for bench in benches) == 60

    wait_until(all_done, deadline_s=30)
    for of in "abc":
        assert seen[of] == list(range(1, len(seen[of]) + 1))
        assert len(seen[of]) > 20, "none was tried again"


# ---- users


def test_what_happened_later_counts_in_whichever_order_it_arrives(make: Maker) -> None:
    bench = make()
    directory = bench.inbox.directory
    steps: list[tuple[UserGone, bool, int]] = [
        (back(1000), False, 1000),
        (gone(3000), True, 3000),
        (back(2000), True, 3000),
        (back(4000), False, 4000),
        (gone(4000), True, 4000),
    ]
    for change, is_gone, gone_ms in steps:
        directory.save([change])
        assert user(bench) == User("plain", "anna", is_gone, gone_ms)
    directory.save([gone(9000, "ben"), back(8000, "ben"), back(7000, "carl"), gone(7500, "carl")])
    found = directory.users("plain", ["carl", "ben", "nobody", "anna"])
    assert {user_id: (each.gone, each.gone_ms) for user_id, each in found.items()} == {
        "anna": (True, 4000),
        "ben": (True, 9000),
        "carl": (True, 7500),
    }
    assert directory.users("other", ["anna"]) == {}


def test_the_later_profile_counts(make: Maker) -> None:
    bench = make()
    directory = bench.inbox.directory
    whole = Profile("名前 🐈 \0 '", "ja-JP", "https://example.org/p?a=1&b=%20", "100 %s")
    directory.save([ProfileSeen("plain", "anna", whole, 2000)])
    assert user(bench) == User("plain", "anna", False, 0, whole, 2000)
    directory.save([named("old", 1000), gone(500)])
    assert user(bench) == User("plain", "anna", True, 500, whole, 2000)
    directory.save([named("new", 3000)])
    assert user(bench) == User("plain", "anna", True, 500, Profile("new", "ja"), 3000)


def test_a_name_cut_in_the_middle_of_a_character_is_kept_as_far_as_it_goes(make_on_disk: Maker) -> None:
    bench = make_on_disk()
    bench.inbox.directory.save([named("cat \ud83d", 1000)])
    found = user(bench)
    assert found is not None
    assert found.display_name == "cat ?"


def test_users_come_with_outcomes_as_well(make: Maker) -> None:
    bench = make()
    first, second = bench.take(text_event("1", "anna"), text_event("2", "ben"))
    bench.settle(done(back(1000), named("Anna", 1000)), first)
    bench.settle(done(gone(2000)), second)
    written(bench)
    assert user(bench) == User("plain", "anna", True, 2000, Profile("Anna", "ja"), 1000)


def test_a_user_who_is_forgotten_leaves_nothing(make: Maker) -> None:
    bench = make()
    directory = bench.inbox.directory
    everything: list[Change] = [
        *(gone(1000), named("Anna", 1000), named("Ben", 1000, "ben")),
        *(state_of("1"), state_of("2", GROUP), state_of("3", Conversation("user", "ben"))),
    ]
    directory.save(everything)
    bench.settle(done(UserForgotten("plain", "anna")), *bench.take(text_event("x", "anna")))
    assert directory.state("plain", ANNA) is None
    assert user(bench) is None
    written(bench)
    assert directory.state("plain", ANNA) is None
    assert (directory.state("plain", GROUP), directory.state("plain", Conversation("user", "ben"))) == ("2", "3")
    found = directory.users("plain", ["anna", "ben"])
    assert {user_id: each.display_name for user_id, each in found.items()} == {"ben": "Ben"}


def test_who_is_forgotten_may_come_back_in_the_same_breath(make: Maker) -> None:
    bench = make()
    bench.inbox.directory.save([gone(5000), named("Anna", 5000), state_of("1")])
    bench.inbox.directory.save([UserForgotten("plain", "anna"), back(1000), state_of("2")])
    assert user(bench) == User("plain", "anna", False, 1000)
    assert bench.inbox.directory.state("plain", ANNA) == "2"


IDS = ["a", "A", "a ", "名前", 'it\'s "100 %s" {} ? \\', "a\0b", "x" * 900, "y" * 3000]


def test_ids_are_told_apart_exactly(make: Maker) -> None:
    directory = make().inbox.directory
    directory.save([gone(number, user_id) for number, user_id in enumerate(IDS, 1)])
    found = directory.users("plain", [*IDS, "a\0c", "\ud83d", "", "y" * 2999])
    assert {user_id: each.gone_ms for user_id, each in found.items()} == {
        user_id: number for number, user_id in enumerate(IDS, 1)
    }
    assert all(each.id == user_id for user_id, each in found.items())


def test_any_number_of_users_may_be_asked_for(make: Maker) -> None:
    directory = make().inbox.directory
    ids = [f"U{number:032}" for number in range(1203)]
    directory.save([gone(1000, user_id) for user_id in ids[::2]])
    found = directory.users("plain", ids)
    assert list(found) == ids[::2]
    assert all(each.gone for each in found.values())
    asking = [gevent.spawn(directory.users, "plain", ids[start : start + 400]) for start in range(0, 800, 100)]
    gevent.joinall(asking, raise_error=True)
    assert {len(greenlet.value) for greenlet in asking} == {200}


def test_times_of_a_clock_gone_mad_are_kept_as_far_as_they_go(make: Maker) -> None:
    bench = make()
    [entry] = bench.take(text_event("x", "anna"))
    changes = (gone(2**70), named("Anna", -(2**70)), state_of("1", expires_ms=2**80), state_of("2", GROUP, -(2**80)))
    bench.settle(done(*changes), entry)
    written(bench)
    found = user(bench)
    assert found is not None
    assert (found.gone, found.display_name) == (True, "Anna")
    assert bench.inbox.directory.state("plain", ANNA) == "1"
    assert bench.inbox.directory.state("plain", GROUP) is None


# ---- put off


def test_a_retry_that_is_not_counted_is_no_attempt(make: Maker) -> None:
    bench = make()
    bench.take(text_event("x", "anna"))
    for counted, attempts in [(False, 0), (True, 1), (False, 1), (True, 2)]:
        before = len(bench.out)
        bench.settle(Outcome(State.RETRY, "put off", 0.0, counted), bench.out[-1])
        wait_until(lambda before=before: len(bench.out) > before)
        assert bench.out[-1].attempts == attempts


def test_what_is_put_off_keeps_its_place_in_its_conversation(make: Maker) -> None:
    bench = make(strict=True)
    [first] = bench.take(text_event("first", "anna"))
    bench.settle(Outcome(State.RETRY, "put off", 0.3, False), first)
    written(bench)
    bench.put(text_event("second", "anna"), text_event("another", "ben"))
    wait_until(lambda: bench.texts() == ["first", "another", "first"])
    assert bench.out[-1].attempts == 0
    bench.settle(DONE, bench.out[-1])
    wait_until(lambda: bench.texts() == ["first", "another", "first", "second"])


# ---- stores: what a turn stores


def line_state(document: str | None, of: str = "u", expires_ms: int = FOR_EVER_MS) -> StateChange:
    return StateChange("line", Conversation("user", of), document, expires_ms)


def test_an_outcome_that_is_late_changes_nothing(hire: HireWorker) -> None:
    gone_one, other = hire(), hire()
    lost, kept = gone_one.run(event_of("lost"), event_of("kept"))
    other.save(line_state('"before"'))
    gone_one.vanish()
    other.tidy_all()
    again = {entry.event.text: entry for entry in other.claim()}
    change = (line_state('"late"'), UserGone("line", "u", True, 1))
    turned = other.turn([(lost, Outcome(State.DONE, changes=change)), (again["kept"], DONE), (kept, DONE)])
    assert turned.late == 2
    assert (other.state("u"), other.user("u")) == ('"before"', None)
    assert other.settle(Outcome(State.DONE, changes=change), again["lost"]).late == 0
    assert other.state("u") == '"late"'


def test_of_outcomes_in_one_turn_only_the_late_ones_change_nothing(hire: HireWorker) -> None:
    gone_one, other = hire(), hire()
    lost = gone_one.run(*(event_of(str(number)) for number in range(600)))
    gone_one.vanish()
    own = other.run(*(event_of(f"own {number}") for number in range(600)))
    other.tidy_all()
    settlements = [
        (entry, Outcome(State.DONE, changes=(line_state(f'"{kind}"', f"{kind} {number}"),)))
        for kind, entries in (("late", lost), ("own", own))
        for number, entry in enumerate(entries)
    ]
    assert other.turn(settlements[::-1]).late == 600
    for number in range(600):
        assert (other.state(f"late {number}"), other.state(f"own {number}")) == (None, '"own"')


def test_what_was_settled_goes_before_what_was_saved(worker: Worker) -> None:
    [entry] = worker.run(event_of("x"))
    settlement = (entry, Outcome(State.DONE, changes=(line_state("1"), line_state("1", "v"))))
    worker.turn([settlement], changes=[line_state("2")])
    assert (worker.state("u"), worker.state("v")) == ("2", "1")


@pytest.mark.parametrize("outcome", [DEAD, RETRY_AT_ONCE, Outcome(State.RELEASED), Outcome(State.DROPPED)])
def test_whatever_ends_a_run_stores_its_changes(worker: Worker, outcome: Outcome) -> None:
    [entry] = worker.run(event_of("x", of="u"))
    worker.settle(Outcome(outcome.state, outcome.error, changes=(line_state("1"),)), entry)
    assert worker.state("u") == "1"


def test_retries_that_count_and_that_do_not_share_a_turn(worker: Worker) -> None:
    entries = worker.run(*map(event_of, "abcd"))
    outcomes = [Outcome(State.RETRY, f"error {n}", float(n), counted=bool(n % 2)) for n in range(4)]
    worker.turn(list(zip(entries, outcomes, strict=True)))
    records = [worker.record_of(text) for text in "abcd"]
    assert [record.attempts for record in records] == [0, 1, 0, 1]
    assert [record.error for record in records] == ["error 0", "error 1", "error 2", "error 3"]
    assert [record.due_ms for record in records] == [LONG_AGO_MS + 1000 * n for n in range(4)]


def test_states_whose_time_is_over_are_not_there_and_are_purged(worker: Worker) -> None:
    old = [line_state("1", str(number), LONG_AGO_MS + 1 + number) for number in range(2500)]
    worker.save(*old, line_state("2", "kept"))
    worker.now_ms += 1001
    assert worker.state("1000") is None
    assert worker.state("1001") == "1"
    worker.save(line_state("3", "1000"))  # a new one in its place
    assert worker.look().tidy
    worker.tidy_all()
    assert count(worker, "states") == 1501
    worker.now_ms += 10_000
    worker.tidy_all()
    assert count(worker, "states") == 2
    assert (worker.state("kept"), worker.state("1000")) == ("2", "3")
    assert not worker.look().tidy


def count(worker: Worker, table: str) -> int:
    found: int = worker.store.rows(f"SELECT count(*) FROM {{{table}}}", ())[0][0]
    return found


def test_a_profile_that_cannot_be_read_is_asked_for_again(worker: Worker) -> None:
    worker.save(ProfileSeen("line", "u", Profile("Anna"), 1000), UserGone("line", "u", True, 1000))
    worker.store.change("UPDATE {users} SET profile = ?", ("{}",))
    assert worker.user("u") == User("line", "u", True, 1000, None, 1000)


def test_changes_that_nobody_made_cost_no_statement(worker: Worker) -> None:
    entries = worker.run(event_of("x", of="u"))
    worker.store.change("DELETE FROM {users}", ())
    worker.turn([(entry, DONE) for entry in entries], [event_of("y", of="u")])
    assert (count(worker, "users"), count(worker, "states")) == (0, 0)


# ---- work by hand


def from_user(text: str, user_id: str, of: Conversation | None = None, platform: str = "line") -> Event:
    return Event(platform=platform, kind="message.text", raw={}, text=text, user_id=user_id, conversation=of)


def test_users_are_listed_by_platform_and_id(worker: Worker) -> None:
    assert worker.desk.users.platforms() == []
    worker.save(
        *(UserGone("line", f"U{number}", number % 2 == 0, 1000) for number in range(5)),
        *(ProfileSeen("messenger", "1", Profile("Anna"), 500), ProfileSeen("line", "U3", Profile("名前", "ja"), 500)),
    )
    desk = worker.desk.users
    assert desk.platforms() == ["line", "messenger"]
    assert [each.id for each in desk.page("line", "", 3, gone=False)] == ["U0", "U1", "U2"]
    rest = desk.page("line", "U2", 3, gone=False)
    assert rest == [User("line", "U3", False, 1000, Profile("名前", "ja"), 500), User("line", "U4", True, 1000)]
    assert [each.id for each in desk.page("line", "", 9, gone=True)] == ["U0", "U2", "U4"]
    assert [each.id for each in desk.page("line", "U2", 9, gone=True)] == ["U4"]
    assert desk.page("messenger", "", 9, gone=False) == [User("messenger", "1", False, 0, Profile("Anna"), 500)]
    assert desk.page("messenger", "", 9, gone=True) == []
    assert desk.user("line", "U3") == rest[0]
    assert desk.user("line", "U9") is None


@pytest.fixture
def crowd(hire: HireWorker) -> Worker:
    """A worker with entries of users u and v in all places, in conversations of their own and in a group."""
    worker = hire(keep_done_ms=KEEP_MS)
    group = Conversation("group", "u")
    running = worker.run(
        *(from_user(text, "u") for text in ("dead", "done")),
        from_user("running", "u", Conversation("user", "u")),
        *(from_user(f"{text} of v", "v") for text in ("dead", "done", "running")),
    )
    states = [DEAD, DONE, None, DEAD, DONE, None]
    worker.turn([(entry, outcome) for entry, outcome in zip(running, states, strict=True) if outcome])
    worker.put(
        from_user("behind", "u", Conversation("user", "u")),
        from_user("in a group", "u", group),
        from_user("v in the group", "v", group),
        event_of("the bot joined", of="u", kind="group"),
        event_of("without a user", of="u"),
        from_user("elsewhere", "u", platform="messenger"),
    )
    worker.save(line_state("1"), line_state("2", "v"), UserGone("line", "u", False, 1), UserGone("line", "v", False, 1))
    return worker


OWN = {"dead", "done", "running", "behind", "in a group", "without a user"}


def test_the_entries_of_a_user_are_found_wherever_they_are(crowd: Worker) -> None:
    entries = crowd.desk.users.entries("line", "u")
    found = {record.event.text: record.place for record in crowd.records() if record.number in entries}
    assert set(found) == OWN
    assert entries == {record.number: record.place for record in crowd.records() if record.number in entries}
    assert crowd.desk.users.entries("line", "nobody") == {}


def test_everything_of_a_user_is_erased_but_what_runs(crowd: Worker) -> None:
    before, held = set(crowd.places()), crowd.look().held
    erased = crowd.desk.users.erase("line", "u", crowd.now_ms)
    assert erased == Erased(user=True, state=True, entries=5, running=1)
    assert before - set(crowd.places()) == OWN - {"running"}
    assert (crowd.user("u"), crowd.state("u"), crowd.state("v")) == (None, None, "2")
    assert crowd.user("v") is not None
    assert crowd.look().held == held - 4  # a done one was not held
    [running] = [record for record in crowd.records() if record.event.text == "running"]
    assert running.place is Place.RUNNING
    assert crowd.desk.users.erase("line", "u", crowd.now_ms) == Erased(False, False, 0, 1)


def test_a_conversation_goes_on_when_the_first_of_it_is_erased(crowd: Worker) -> None:
    crowd.desk.users.erase("line", "u", crowd.now_ms)
    assert "v in the group" in {entry.event.text for entry in crowd.claim()}


def test_ids_of_every_kind_are_found_in_events(worker: Worker) -> None:
    worker.put(*(from_user(f"text {user_id}", user_id) for user_id in IDS))
    for number, user_id in enumerate(IDS, 1):
        erased = worker.desk.users.erase("line", user_id, worker.now_ms)
        assert erased == Erased(False, False, 1, 0), user_id
        assert len(worker.records()) == len(IDS) - number


def test_many_entries_are_erased_in_portions(worker: Worker) -> None:
    worker.put(*(from_user(f"{number}", "uv"[number % 5 == 0]) for number in range(2600)))
    assert worker.desk.users.erase("line", "u", worker.now_ms) == Erased(False, False, 2080, 0)
    assert len(worker.records()) == 520
    assert worker.look().held == 520


def part_to(*users: str, platform: str = "line", text: str = "part") -> Event:
    """A part of a broadcast, as gbot/broadcast.py makes it."""
    raw = {"broadcast": "weekly", "number": 1, "of": 1, "to": users, "messages": [{"type": "text", "text": "u"}]}
    return Event(platform=platform, kind=PART, raw=raw, text=text)


def recipients(worker: Worker) -> dict[str, list[str]]:
    """Of each stored part, by its text."""
    return {record.event.text or "": record.event.raw["to"] for record in worker.records()}


@pytest.fixture
def broadcasting(hire: HireWorker) -> Worker:
    """A worker with parts of broadcasts to u and others in all places, and parts to u alone."""
    worker = hire(keep_done_ms=KEEP_MS)
    names = ("dead", "done", "waiting", "dead alone", "done alone", "running")
    running = worker.run(*(part_to("u", *([] if "alone" in name else ["v"]), text=name) for name in names))
    outcomes = [DEAD, DONE, Outcome(State.RETRY, "it failed", 60.0), DEAD, DONE]
    worker.turn(list(zip(running, outcomes, strict=False)))
    worker.put(
        part_to("v", "u", "w", text="ready"),
        part_to("u", text="ready alone"),
        part_to("v", "uu", text="of others"),
        part_to("u", "v", platform="messenger", text="elsewhere"),
    )
    return worker


UNTOUCHED = {"running": ["u", "v"], "of others": ["v", "uu"], "elsewhere": ["u", "v"]}
OTHERS = {"dead": ["v"], "done": ["v"], "waiting": ["v"], "ready": ["v", "w"]}
ALONE = {"dead alone", "done alone", "ready alone"}


def test_who_is_erased_is_taken_out_of_broadcasts_but_what_runs(broadcasting: Worker) -> None:
    before, held = {record.event.text: record for record in broadcasting.records()}, broadcasting.look().held
    erased = broadcasting.desk.users.erase("line", "u", broadcasting.now_ms)
    assert erased == Erased(user=False, state=False, entries=0, running=1, parts=7)
    assert recipients(broadcasting) == UNTOUCHED | OTHERS
    assert broadcasting.look().held == held - 2  # a done one was not held
    for record in broadcasting.records():
        old = before[record.event.text]
        raw = old.event.raw | {"to": record.event.raw["to"]}
        assert record == replace(old, event=msgspec.structs.replace(old.event, raw=raw))
    assert broadcasting.desk.users.erase("line", "u", broadcasting.now_ms) == Erased(False, False, 0, 1)


def test_a_part_goes_to_the_others_alone(broadcasting: Worker) -> None:
    broadcasting.desk.users.erase("line", "u", broadcasting.now_ms)
    handed_out = {entry.event.text: entry.event.raw["to"] for entry in broadcasting.claim()}
    assert handed_out == {"ready": ["v", "w"], "of others": ["v", "uu"], "elsewhere": ["u", "v"]}


def test_another_user_stays_in_broadcasts(broadcasting: Worker) -> None:
    before = recipients(broadcasting)
    assert broadcasting.desk.users.erase("line", "w", broadcasting.now_ms) == Erased(False, False, 0, 0, 1)
    assert recipients(broadcasting) == before | {"ready": ["v", "u"]}


def test_who_is_the_last_in_a_part_ends_it(broadcasting: Worker) -> None:
    for user_id in ("u", "v", "w"):
        broadcasting.desk.users.erase("line", user_id, broadcasting.now_ms)
    assert recipients(broadcasting) == {"running": ["u", "v"], "of others": ["uu"], "elsewhere": ["u", "v"]}
    assert broadcasting.look().held == 3


def test_a_part_is_an_entry_of_all_who_are_in_it(broadcasting: Worker) -> None:
    found = broadcasting.desk.users.entries("line", "u")
    texts = {record.event.text for record in broadcasting.records() if record.number in found}
    assert texts == {"running", *OTHERS, *ALONE}
    assert found == {record.number: record.place for record in broadcasting.records() if record.number in found}


def test_ids_of_every_kind_are_taken_out_of_broadcasts(worker: Worker) -> None:
    worker.put(part_to(*IDS))
    for number, user_id in enumerate(IDS, 1):
        assert worker.desk.users.erase("line", user_id, worker.now_ms) == Erased(False, False, 0, 0, 1), user_id
        assert [record.event.raw["to"] for record in worker.records()] == ([IDS[number:]] if IDS[number:] else [])


def test_somebody_is_taken_out_of_many_broadcasts_in_portions(worker: Worker) -> None:
    worker.put(*(part_to("u", *("v" * (number % 2)), text=f"{number}") for number in range(230)))
    worker.settle(DEAD, *worker.claim(120))
    assert worker.desk.users.erase("line", "u", worker.now_ms) == Erased(False, False, 0, 0, 230)
    assert recipients(worker) == {f"{number}": ["v"] for number in range(1, 230, 2)}
    assert worker.look().held == 115


@pytest.mark.parametrize("event", [from_user("x", "u"), part_to("u", "v")], ids=["own", "part"])
@pytest.mark.parametrize(("outcome", "left"), [(DEAD, 1), (RETRY_AT_ONCE, 1), (DONE, 0)])
def test_what_has_run_when_its_turn_came_is_told(worker: Worker, event: Event, outcome: Outcome, left: int) -> None:
    [entry] = worker.run(event)

    class EndsAfterwards:
        """The desk, while a worker settles what was passed over."""

        def erase(self, numbers: Sequence[int]) -> list[int]:
            return worker.desk.erase(numbers)

        def amend(self, numbers: Sequence[int], amended: Amend) -> list[int]:
            done = worker.desk.amend(numbers, amended)
            worker.settle(outcome, entry)
            return done

    desk = SqlUsersDesk(worker.store, EndsAfterwards())
    assert desk.erase("line", "u", worker.now_ms) == Erased(False, False, 0, left)
    again = desk.erase("line", "u", worker.now_ms)
    assert (again.entries + again.parts, again.running) == (left, 0)


def test_an_event_that_cannot_be_read_is_erased_when_it_names_the_user(worker: Worker) -> None:
    worker.put(event_of("x"), event_of("y"), event_of("z"))
    texts: Sequence[str] = ['{"user_id":"u" broken', '{"user_id":"uu" broken']
    for number, text in enumerate(texts):
        worker.store.change("UPDATE {entries} SET event = ? WHERE number = ?", (text, worker.records()[number].number))
    assert worker.desk.users.erase("line", "u", worker.now_ms).entries == 1
    assert len(worker.records()) == 2
