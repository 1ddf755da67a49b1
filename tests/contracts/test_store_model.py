"""Two workers on one database do what they like, and the store stays what store_model.py says it is.

After each step every entry is compared, what a look tells, and the rules that hold at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gbot.directory import StateChange
from gbot.event import Conversation, Event
from gbot.inbox import Entry, Outcome, State
from gbot.inboxes.store import LifeEnded, Place, Record, Work
from tests.contracts.store_model import Model, Row, Settling, broken_rules
from tests.contracts.stores import (
    FOR_EVER_MS,
    KEEP_MS,
    Database,
    MySqlDatabase,
    SqliteDatabase,
    Worker,
    event_of,
    policy_of,
)

BY_HAND = [Place.DEAD, Place.WAITING, Place.READY, Place.BEHIND, Place.DONE]

workers = st.integers(0, 1)
moments = st.sampled_from([0, 0, 1, 4, 12])  # seconds that pass before
outcomes = st.tuples(st.integers(0, 50), st.sampled_from(State), st.sampled_from([0, 3_000, 20_000]))
conversations = st.sampled_from([None, None, "u1", "u1", "u2", "u3"])
ids = st.sampled_from([*[None] * 5, *(f"m{i}" for i in range(7))])
deliveries = st.lists(st.tuples(conversations, ids), min_size=1, max_size=5)
choices = st.lists(st.integers(0, 50), min_size=1, max_size=3)

Outcomes = Sequence[tuple[int, State, int]]
Delivery = Sequence[tuple[str | None, str | None]]


class StoreMachine(RuleBasedStateMachine):
    def __init__(self, database: Database, strict: bool) -> None:
        super().__init__()
        self._database = database
        self._strict = strict
        self._texts = 0
        self._numbers: dict[str, int] = {}
        self._last_life = 0
        self._handed_out: list[Entry] = []  # and not settled by whom they were handed to
        self._ended: list[tuple[Worker, int]] = []  # lives that cannot do anything any more
        self._vanished: list[Worker] = []  # and not missed yet

    @initialize(keep_done_ms=st.sampled_from([0, KEEP_MS]))
    def begin(self, keep_done_ms: int) -> None:
        policy = policy_of(self._strict, keep_done_ms)
        self._model = Model(policy)
        self._workers = [Worker(self._database, policy) for _ in range(2)]
        self._now_ms = self._workers[0].now_ms
        for worker in self._workers:
            self._lives(worker)

    def _lives(self, worker: Worker) -> None:
        assert worker.life > self._last_life
        self._last_life = worker.life
        self._model.lives[worker.life] = False

    # What workers do. Hypothesis takes each rule about as often: turns have several, because they do the most.

    @rule(index=workers, seconds=moments, delivery=deliveries, run_max=st.integers(0, 5))
    def put(self, index: int, seconds: int, delivery: Delivery, run_max: int) -> None:
        self._turn(index, seconds, [], delivery, run_max, 0)

    @rule(index=workers, seconds=moments, delivery=deliveries, claim=st.integers(0, 3))
    def put_and_claim(self, index: int, seconds: int, delivery: Delivery, claim: int) -> None:
        self._turn(index, seconds, [], delivery, 2, claim)

    @rule(index=workers, seconds=moments, picks=st.lists(outcomes, min_size=1, max_size=5), claim=st.integers(0, 3))
    def settle_and_claim(self, index: int, seconds: int, picks: Outcomes, claim: int) -> None:
        self._turn(index, seconds, picks, [], 0, claim)

    @rule(index=workers, picks=st.lists(outcomes, min_size=1, max_size=5), delivery=deliveries, claim=st.integers(0, 3))
    def turn(self, index: int, picks: Outcomes, delivery: Delivery, claim: int) -> None:
        self._turn(index, 0, picks, delivery, 4, claim)

    def _turn(self, index: int, seconds: int, picks: Outcomes, delivery: Delivery, run_max: int, claim: int) -> None:
        self._now_ms += 1000 * seconds
        worker = self._workers[index]
        settling = self._settling(worker, picks)
        events = [self._event(of, id) for of, id in delivery]
        turned = worker.store.turn(worker.life, Work(self._now_ms, settling, events, run_max, claim))
        self._handed_out += turned.running
        expected = self._model.turn(
            worker.life,
            self._now_ms,
            [
                Settling(
                    entry.event.text or "",
                    entry.claim,
                    outcome.state,
                    outcome.error,
                    round(outcome.after_s * 1000),
                    outcome.counted,
                    _whose(entry.event),
                    _document(outcome),
                )
                for entry, outcome in settling
            ],
            events,
            run_max,
            claim,
        )
        assert [(entry.event, entry.claim, entry.attempts, entry.received_ms) for entry in turned.running] == [
            (row.event, worker.life, row.attempts, row.received_ms) for row in expected.running
        ]
        assert (turned.stored, turned.duplicates, turned.late) == (
            expected.stored,
            expected.duplicates,
            expected.late,
        )
        assert turned.ready_left or not self._model.at(Place.READY)

    def _settling(self, worker: Worker, picks: Outcomes) -> list[tuple[Entry, Outcome]]:
        """Of what this worker was handed, now or in a life before it; also by the worker whose place it took."""
        others = {other.life for other in self._workers} - {worker.life}
        settling = []
        for pick, state, after_ms in picks:
            mine = [entry for entry in self._handed_out if entry.claim not in others]
            if mine:
                entry = mine[pick % len(mine)]
                self._handed_out.remove(entry)
                failed = state in (State.RETRY, State.DEAD)
                error = f"attempt {entry.attempts} of {entry.event.text} failed" if failed else ""
                after_s = after_ms / 1000 if state is State.RETRY else 0.0
                document = None if state is State.DROPPED else f'"{entry.event.text}, attempt {entry.attempts}"'
                change = StateChange("line", Conversation("user", _whose(entry.event)), document, FOR_EVER_MS)
                settling.append((entry, Outcome(state, error, after_s, pick % 3 > 0, (change,))))
        return settling

    def _event(self, of: str | None, id: str | None) -> Event:
        self._texts += 1
        return event_of(f"e{self._texts}", of=of, id=id)

    @rule(index=workers, seconds=moments)
    def tidy(self, index: int, seconds: int) -> None:
        worker = self._workers[index]
        self._now_ms += 1000 * seconds
        worker.now_ms = self._now_ms
        tidied = worker.tidy_all()
        woken, rescued, gone = self._model.tidy(self._now_ms)
        assert (tidied.woken, tidied.rescued, set(tidied.lives_ended)) == (woken, rescued, gone)
        assert worker.desk.counts().seen == len(self._model.seen)
        self._ended += [(vanished, vanished.life) for vanished in self._vanished]
        self._vanished.clear()

    @rule(index=workers, what=st.sampled_from(["leaves", "vanishes", "loses answers"]), forgotten=choices)
    def a_worker(self, index: int, what: str, forgotten: list[int]) -> None:
        if what == "leaves":
            self._leave(index)
        elif what == "vanishes":
            self._vanish(index)
        else:
            self._lose_answers(index, forgotten)

    def _leave(self, index: int) -> None:
        """And come back."""
        worker = self._workers[index]
        worker.store.leave(worker.life)
        self._model.leave(worker.life)
        self._ended.append((worker, worker.life))
        worker.life = worker.store.enlist()
        self._lives(worker)

    def _vanish(self, index: int) -> None:
        """And be replaced."""
        gone = self._workers[index]
        gone.vanish()
        self._model.lives[gone.life] = True
        self._vanished.append(gone)
        self._workers[index] = Worker(self._database, gone.policy)
        self._lives(self._workers[index])

    def _lose_answers(self, index: int, forgotten: list[int]) -> None:
        worker = self._workers[index]
        for pick in forgotten:
            mine = [entry for entry in self._handed_out if entry.claim == worker.life]
            if mine:
                self._handed_out.remove(mine[pick % len(mine)])
        known = [entry for entry in self._handed_out if entry.claim == worker.life]
        put_back = worker.store.orphans(worker.life, [entry.number for entry in known])
        assert put_back == self._model.orphans(worker.life, {entry.event.text or "" for entry in known})

    @precondition(lambda self: self._ended)
    @rule(which=st.integers(0, 50), delivery=st.just([]) | deliveries)
    def nothing_can_be_done_in_an_ended_life(self, which: int, delivery: Delivery) -> None:
        worker, life = self._ended[which % len(self._ended)]
        settling = [(entry, Outcome(State.DONE)) for entry in self._handed_out]
        events = [self._event(of, id) for of, id in delivery]
        with pytest.raises(LifeEnded):
            worker.store.turn(life, Work(self._now_ms, settling, events, 5, 5))
        with pytest.raises(LifeEnded):
            worker.store.look(life)
        if worker not in self._workers:
            worker.store.close()

    # What people do

    @precondition(lambda self: self._model.at(*BY_HAND))
    @rule(index=workers, picks=choices, act=st.sampled_from(["retry", "retry", "drop", "purge"]))
    def by_hand(self, index: int, picks: list[int], act: str) -> None:
        texts = list(dict.fromkeys(self._pick(pick).text for pick in picks))
        numbers = [self._numbers[text] for text in texts]
        desk = self._workers[index].desk
        if act == "purge":
            before_ms = self._now_ms - 3000
            assert desk.purge_done(before_ms, 1000) == self._model.purge_done(before_ms)
            return
        if act == "retry":
            done, expected = desk.retry(numbers, self._now_ms), self._model.retry(texts)
        else:
            done, expected = desk.drop(numbers), self._model.drop(texts)
        assert sorted(done) == sorted(self._numbers[text] for text in expected)

    def _pick(self, pick: int) -> Row:
        rows = self._model.at(*BY_HAND, Place.RUNNING)
        return rows[pick % len(rows)]

    # What is true at any time

    @invariant()
    def the_entries_are_those_of_the_model(self) -> None:
        records = self._workers[0].records()
        assert [_seen(record) for record in records] == [_seen(row) for row in self._model.entries.values()]
        for record in records:
            assert self._numbers.setdefault(record.event.text or "", record.number) == record.number
        numbers = [record.number for record in records]
        assert numbers == sorted(set(numbers))
        assert len(set(self._numbers.values())) == len(self._numbers), "a number was used again"
        rows = [Row(record.event, record.place, record.received_ms, record.worker) for record in records]
        assert not broken_rules(rows, self._strict)

    @invariant()
    def the_states_are_those_of_the_model(self) -> None:
        for worker in self._workers:
            states = {of: worker.state(of) for of in ("nobody", "u1", "u2", "u3")}
            assert {of: state for of, state in states.items() if state is not None} == self._model.states

    @invariant()
    def a_look_tells_what_there_is(self) -> None:
        model = self._model
        tidy = bool(model.at(Place.WAITING, Place.DONE) or model.seen or any(model.lives.values()))
        for worker in self._workers:
            look = worker.look()
            assert (look.ready, look.held) == (bool(model.at(Place.READY)), model.held())
            assert look.tidy == tidy, "what is due or old by the model's clock, which stands in 2001, is so by any"
        assert self._workers[1].desk.counts().workers == len(model.lives)

    def teardown(self) -> None:
        self._database.close()


def _whose(event: Event) -> str:
    return event.conversation.id if event.conversation else "nobody"


def _document(outcome: Outcome) -> str | None:
    [change] = outcome.changes
    assert isinstance(change, StateChange)
    return change.document


def _seen(row: Row | Record) -> tuple[object, ...]:
    """All that is known of an entry but its number."""
    return (
        row.event.text,
        row.place.name,
        row.worker,
        row.attempts,
        row.rescues,
        row.received_ms,
        row.due_ms,
        row.ended_ms,
        row.error,
    )


def agrees(fresh: Callable[[], Database], strict: bool, examples: int) -> None:
    run_state_machine_as_test(
        lambda: StoreMachine(fresh(), strict),
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_sqlite_agrees_with_the_model(tmp_path: Path, strict: bool) -> None:
    files = iter(range(1_000_000))
    agrees(lambda: SqliteDatabase(tmp_path / f"{next(files)}.sqlite3"), strict, 60)


def test_mysql_agrees_with_the_model(mysql_database: MySqlDatabase, strict: bool) -> None:
    def emptied() -> Database:
        mysql_database.clear()
        return mysql_database

    agrees(emptied, strict, 20)
