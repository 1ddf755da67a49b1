"""The rules of gbot/inboxes/store.py once more, over plain dictionaries: what the stores are compared with.

Entries are known by their event's text, which is different for each put, so that the model needs no numbers of its own:
the order of ``entries`` is the order of the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from gbot.event import Event
from gbot.inbox import State
from gbot.inboxes.store import SUSPECT_RESCUES, Place, Policy

TOGETHER_MAX = 100  # entries of one conversation that run at once
HELD = frozenset({Place.READY, Place.RUNNING, Place.WAITING, Place.BEHIND, Place.DEAD})
STORED = HELD - {Place.DEAD}
BUSY = frozenset({Place.READY, Place.RUNNING})
READY, RUNNING, WAITING, BEHIND, DEAD = Place.READY, Place.RUNNING, Place.WAITING, Place.BEHIND, Place.DEAD


@dataclass
class Row:
    """An entry, as Record in store.py has it."""

    event: Event
    place: Place
    received_ms: int
    worker: int | None = None
    attempts: int = 0
    rescues: int = 0
    due_ms: int | None = None
    ended_ms: int | None = None
    error: str = ""

    @property
    def text(self) -> str:
        return self.event.text or ""

    @property
    def conversation(self) -> tuple[str, str, str] | None:
        conversation = self.event.conversation
        return (self.event.platform, conversation.kind, conversation.id) if conversation else None


@dataclass(frozen=True)
class Settling:
    text: str
    claim: int
    state: State
    error: str
    after_ms: int
    counted: bool
    of: str  # whose state is changed with it
    document: str | None


@dataclass
class ModelTurned:
    running: list[Row]
    stored: int
    duplicates: int
    late: int


class Model:
    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.entries: dict[str, Row] = {}
        self.seen: dict[tuple[str, str], int] = {}
        self.lives: dict[int, bool] = {}  # and whether they are gone
        self.states: dict[str, str] = {}

    # What a worker does

    def turn(
        self, life: int, now_ms: int, settlings: Sequence[Settling], events: Iterable[Event], run_max: int, claim: int
    ) -> ModelTurned:
        late = self._settle(settlings, now_ms)
        new, duplicates = self._without_duplicates(events, now_ms)
        self._put(new, life, now_ms, run_max)
        running = [row for row in new if row.place is RUNNING]
        claimed = self.at(READY)[:claim]
        suspects = [place for place, row in enumerate(claimed) if row.rescues >= SUSPECT_RESCUES]
        claimed = claimed[: max(1, suspects[0])] if suspects else claimed
        for row in claimed:
            row.place, row.worker = RUNNING, life
        return ModelTurned(running + claimed, len(new), duplicates, late)

    def _settle(self, settlings: Sequence[Settling], now_ms: int) -> int:
        settled = []
        for settling in settlings:
            row = self.entries.get(settling.text)
            if row is not None and row.place is RUNNING and row.worker == settling.claim:
                settled.append(row)
                self.states.pop(settling.of, None)
                if settling.document is not None:
                    self.states[settling.of] = settling.document
                self._end_run(row, settling, now_ms)
        self._promote(settled)
        return len(settlings) - len(settled)

    def _end_run(self, row: Row, settling: Settling, now_ms: int) -> None:
        row.worker = None
        if settling.state is State.RELEASED:
            self._back(row)
        elif settling.state is State.RETRY:
            row.place, row.due_ms = WAITING, now_ms + settling.after_ms
            row.attempts, row.error = row.attempts + settling.counted, settling.error
        elif settling.state is State.DEAD:
            row.place, row.ended_ms = DEAD, now_ms
            row.attempts, row.error = row.attempts + 1, settling.error
        elif self._policy.keep_done_ms:
            row.place, row.ended_ms = Place.DONE, now_ms
        else:
            del self.entries[row.text]

    def _without_duplicates(self, events: Iterable[Event], now_ms: int) -> tuple[list[Row], int]:
        new, duplicates = [], 0
        for event in events:
            if event.id is not None:
                key = (event.platform, event.id)
                if key in self.seen and now_ms - self.seen[key] < self._policy.dedup_window_ms:
                    duplicates += 1
                    continue
                self.seen[key] = now_ms
            new.append(Row(event, BEHIND, now_ms))
        return new, duplicates

    def _put(self, new: Sequence[Row], life: int, now_ms: int, run_max: int) -> None:
        occupied = {row.conversation for row in self.entries.values() if self._occupies(row)}
        begun: dict[tuple[str, str, str], int] = {}  # conversations of this turn, and how many of each run
        closed = set(occupied)
        for row in new:
            key, room = row.conversation, run_max > 0
            self.entries[row.text] = row
            if key is None:
                row.place = RUNNING if room else READY
            elif key not in closed:
                count = begun.setdefault(key, 0)
                if room and count < TOGETHER_MAX:
                    row.place, begun[key] = RUNNING, count + 1
                else:
                    closed.add(key)
                    row.place = BEHIND if count else READY
            if row.place is RUNNING:
                row.worker = life
                run_max -= 1

    def _occupies(self, row: Row) -> bool:
        """Whether a new event of its conversation has to wait for it."""
        return row.place in STORED and (self._policy.strict or row.place is not WAITING)

    def tidy(self, now_ms: int) -> tuple[int, int, set[int]]:
        due = [row for row in self.at(WAITING) if row.due_ms is not None and row.due_ms <= now_ms]
        self._put_back(due)
        gone = {life for life, is_gone in self.lives.items() if is_gone}
        rescued = [row for row in self.at(RUNNING) if row.worker in gone]
        for row in rescued:
            row.rescues += 1
        self._put_back(rescued)
        for life in gone:
            del self.lives[life]
        self.seen = {key: at for key, at in self.seen.items() if now_ms - at < self._policy.dedup_window_ms}
        for row in self.at(Place.DONE):
            if row.ended_ms is not None and now_ms - row.ended_ms > self._policy.keep_done_ms:
                del self.entries[row.text]
        return len(due), len(rescued), gone

    def leave(self, life: int) -> None:
        self._put_back([row for row in self.at(RUNNING) if row.worker == life])
        self.lives.pop(life, None)

    def orphans(self, life: int, known: set[str]) -> int:
        lost = [row for row in self.at(RUNNING) if row.worker == life and row.text not in known]
        self._put_back(lost)
        return len(lost)

    # What people do by hand

    def retry(self, texts: Sequence[str]) -> set[str]:
        rows = [row for text in texts if (row := self.entries.get(text)) and row.place in (DEAD, WAITING)]
        for row in rows:
            row.attempts, row.ended_ms = 0, None
        self._put_back(rows)
        return {row.text for row in rows}

    def drop(self, texts: Sequence[str]) -> set[str]:
        rows = [row for text in texts if (row := self.entries.get(text)) and row.place in HELD - {RUNNING}]
        for row in rows:
            del self.entries[row.text]
        self._promote(rows)
        return {row.text for row in rows}

    def purge_done(self, before_ms: int) -> int:
        old = [row for row in self.at(Place.DONE) if row.ended_ms is not None and row.ended_ms < before_ms]
        for row in old:
            del self.entries[row.text]
        return len(old)

    # What they have in common

    def at(self, *places: Place) -> list[Row]:
        return [row for row in self.entries.values() if row.place in places]

    def held(self) -> int:
        return len(self.at(*HELD))

    def _back(self, row: Row) -> None:
        row.worker = row.due_ms = None
        row.place = READY if row.conversation is None else BEHIND

    def _put_back(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._back(row)
        self._promote(rows)

    def _promote(self, rows: Iterable[Row]) -> None:
        for key in {row.conversation for row in rows} - {None}:
            others = [row for row in self.entries.values() if row.conversation == key]
            if any(row.place in BUSY for row in others):
                continue
            first = next((row for row in others if row.place is BEHIND or self._bars(row)), None)
            if first is not None and first.place is BEHIND:
                first.place = READY

    def _bars(self, row: Row) -> bool:
        """Whether nothing later of its conversation may start before it."""
        return self._policy.strict and row.place is WAITING


def broken_rules(rows: Sequence[Row], strict: bool) -> list[str]:
    """Which of the rules that always hold do not hold for these entries, in the order of their numbers."""
    conversations: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row.conversation is not None and row.place in STORED:
            conversations.setdefault(row.conversation, []).append(row)
    broken = [f"{row.text} runs for nobody" for row in rows if row.place is RUNNING and row.worker is None]
    broken += [f"{row.text} carries a claim" for row in rows if row.place is not RUNNING and row.worker is not None]
    for key, entries in conversations.items():
        broken += [f"{' '.join(key)}: {rule}" for rule, holds in _RULES.items() if not holds(entries, strict)]
    return broken


def _at(entries: Sequence[Row], *places: Place) -> list[Row]:
    return [row for row in entries if row.place in places]


def _none_is_stuck(entries: Sequence[Row], strict: bool) -> bool:
    if not _at(entries, BEHIND) or _at(entries, *BUSY):
        return True
    return strict and entries[0].place is WAITING


_RULES: dict[str, Callable[[Sequence[Row], bool], bool]] = {
    "its running entries carry one claim": lambda rows, _: len({row.worker for row in _at(rows, RUNNING)}) <= 1,
    "at most one is ready": lambda rows, _: len(_at(rows, READY)) <= 1,
    "none is ready while another runs": lambda rows, _: not (_at(rows, READY) and _at(rows, RUNNING)),
    "none behind is stuck": _none_is_stuck,
}
