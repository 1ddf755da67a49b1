"""200 means stored: workers and databases are killed under load, and a ledger outside gbot tells what was handled.

Every journey prints what it counted (``pytest -rP`` shows it). Seeds are fixed; the instants of the kills still depend
on the machine, so that each run tries others.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Final

import pytest

from gbot.inboxes.sqlite import SqliteStore
from gbot.inboxes.store import Place, Policy
from tests.conftest import Report, Serve
from tests.journeys.client import Answer, connect, request
from tests.journeys.crashing import CALLBACK, Client
from tests.journeys.mariadb import MariaDb
from tests.journeys.processes import DEADLINE_S, Program, Served, eventually, free_port
from tests.journeys.stage import LossyWire, Stage, connections, desk_of, id_of, new_database, server_pid
from tests.samples import line

ANSWER_MAX_S: Final = 5.0  # the platform waits two seconds; a busy machine needs more
CONSEQUENCE: Final = (
    r"Deliveries get 503 until it can; running handlers go on, and their outcomes \(\d+ so far\) are kept"
)
OVERTIME_S: Final = 5.0  # what a stop may take beside its handlers on a busy machine


@pytest.fixture(scope="module")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDb]:
    """A server that these tests may kill."""
    server = MariaDb(tmp_path_factory.mktemp("mariadb"))
    yield server
    server.stop()


@pytest.fixture
def stage_on(serve: Serve, tmp_path: Path) -> Iterator[Callable[[str], Stage]]:
    """Makes the stage on an inbox."""
    with ExitStack() as stages:
        yield lambda url: stages.enter_context(closing(Stage(serve, tmp_path, url)))


@pytest.fixture(params=["sqlite", "mariadb"])
def stage(request: pytest.FixtureRequest, stage_on: Callable[[str], Stage], tmp_path: Path) -> Stage:
    if request.param == "sqlite":
        return stage_on(f"sqlite://{tmp_path}/inbox.sqlite3")
    return stage_on(new_database(request.getfixturevalue("mariadb"), f"crash_{request.node.originalname[-50:]}"))


def random_instant(random: Random, client: Client, most_s: float) -> None:
    """Some moment under load."""
    client.wait_for_load()
    threading.Event().wait(random.uniform(0.0, most_s))


def test_workers_killed_at_random_instants_lose_nothing(stage: Stage, report: Report) -> None:
    rounds = 20 if stage.is_sqlite else 8
    random, port = Random(1), free_port()
    worker = stage.start(port=port)
    client = stage.play(1, worker)
    at_kill: list[str] = []
    for _ in range(rounds):
        random_instant(random, client, 0.6)
        assert stage.end(worker, signal.SIGKILL) == -signal.SIGKILL
        at_kill += stage.left_running()
        worker = stage.start(port=port)
    assert len(at_kill) > rounds
    report(f"{rounds} kills:", stage.tally(client).check(at_kill))
    assert stage.end(worker, signal.SIGTERM) == 0


def test_workers_stopped_at_random_instants_handle_nothing_twice(stage: Stage, report: Report) -> None:
    rounds, stop_timeout_s = (6 if stage.is_sqlite else 4), 0.03
    random, port, slowest_s = Random(2), free_port(), 0.0
    options = ("--stop-timeout", str(stop_timeout_s))
    worker = stage.start(*options, port=port)
    client = stage.play(2, worker)
    for _ in range(rounds):
        random_instant(random, client, 0.4)
        begun = time.monotonic()
        assert stage.end(worker, signal.SIGTERM) == 0, worker.report()
        slowest_s = max(slowest_s, time.monotonic() - begun)
        assert stage.left_running() == []
        worker = stage.start(*options, port=port)
    tally = stage.tally(client)
    report(f"{rounds} stops, the slowest in {slowest_s:.1f} s:", tally.check())
    assert tally.cut, "no handler was cut off"
    assert tally.twice() == []
    assert slowest_s < stop_timeout_s + OVERTIME_S
    assert stage.end(worker, signal.SIGTERM) == 0


def test_a_second_signal_during_a_stop_loses_nothing(stage: Stage, report: Report) -> None:
    random, port = Random(3), free_port()
    worker = stage.start(port=port)
    client = stage.play(3, worker)
    at_kill: list[str] = []
    for second in (signal.SIGTERM, signal.SIGKILL) * 2:
        random_instant(random, client, 0.3)
        worker.send(signal.SIGTERM)
        worker.wait_for_line("Stopping: ")
        threading.Event().wait(random.uniform(0.0, 0.08))
        assert stage.end(worker, second) in (0, -signal.SIGKILL)
        at_kill += stage.left_running()
        worker = stage.start(port=port)
    assert at_kill
    report("4 stops, each with a second signal:", stage.tally(client).check(at_kill))
    assert stage.end(worker, signal.SIGTERM) == 0


def test_of_two_workers_one_is_killed_and_the_other_finishes(stage: Stage, report: Report) -> None:
    victim = stage.start()
    survivor = stage.start()
    client = stage.play(4, victim, survivor)
    client.wait_for_load(50)
    random_instant(Random(4), client, 0.5)
    eventually(lambda: {victim.pid, survivor.pid} <= {note.pid for note in stage.ledger.notes()})
    at_kill = kill_the_first(stage, victim)
    killed = time.monotonic()
    if not stage.is_sqlite:
        client.finish()  # ten seconds of load would take as long to be handled
    rescue = survivor.wait_for_line(r"Worker \d+ is gone; its ([\d,]+) entr(y runs|ies run) again")
    rescue_s = time.monotonic() - killed
    assert int(rescue[1].replace(",", "")) == len(at_kill)
    assert at_kill
    tally = stage.tally(client)
    report(
        f"taken over after {rescue_s:.1f} s, all done after {time.monotonic() - killed:.1f} s:", tally.check(at_kill)
    )
    assert rescue_s < (5.0 if stage.is_sqlite else 17.0)
    assert stage.end(survivor, signal.SIGTERM) == 0


def kill_the_first(stage: Stage, victim: Program) -> list[str]:
    """Kill the one of two workers that was started first; returns the ids of what it ran, before the other takes them.

    Of SQLite's the other takes them within a second, so that they are read while the first stands still. MariaDB may
    still be busy with its last words then, and nobody takes them for ten seconds.
    """
    with desk_of(stage.url) as desk:
        victim.send(signal.SIGSTOP)
        os.waitid(os.P_PID, victim.pid, os.WSTOPPED)
        stage.ledger.write_gone(victim.pid)  # before the other may begin what this one ran
        running = desk.records([Place.RUNNING], 0, 10_000)
        victim.stop(signal.SIGKILL)
        if not stage.is_sqlite:
            eventually(lambda: connections(stage.url) == 2)  # the other's and the desk's
            running = desk.records([Place.RUNNING], 0, 10_000)
    lives = sorted({record.worker or 0 for record in running})
    assert len(lives) == 2, "only one of the workers ran anything"
    return [id_of(record) for record in running if record.worker == lives[0]]


def test_an_event_that_is_sent_fifty_times_at_once_runs_once(stage: Stage) -> None:
    workers = [stage.start(), stage.start()]
    for number in range(1, 6):
        body = line.delivery(line.text_event("wait 5", number), line.text_event("wait 1 again", 10 + number))
        assert post_at_once([worker.address for worker in workers] * 25, body) == [200] * 50
    stage.drain()
    ran = Counter((note.event_id, note.word) for note in stage.ledger.notes())
    once = {(line.ulid(number), word): 1 for number in range(1, 6) for word in ("begin", "end")}
    again = {(line.ulid(10 + number), word): 1 for number in range(1, 6) for word in ("again", "end")}
    assert ran == once | again | {(line.ulid(10 + number), "begin"): 2 for number in range(1, 6)}
    assert [stage.end(worker, signal.SIGTERM) for worker in workers] == [0, 0]


def post_at_once(addresses: list[str], body: bytes) -> list[int]:
    """The same delivery to each of these, over connections that are open already; returns the statuses."""
    ready = threading.Barrier(len(addresses))

    def post(address: str) -> int:
        with closing(connect(address)) as connection:
            connection.connect()
            ready.wait(DEADLINE_S)
            connection.request("POST", CALLBACK, body, line.headers(body))
            return connection.getresponse().status

    with ThreadPoolExecutor(len(addresses)) as threads:
        return list(threads.map(post, addresses))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory on a disk of 96 MiB of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk to fill it")
    directory = tmp_path / "disk"
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96m", "gbot-test", directory], capture_output=True, text=True, timeout=10
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted to fill it: {mounted.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True, timeout=10)


def fill_disk_with(file: Path) -> None:
    """Write to this file until not a byte is left."""
    with file.open("ab", buffering=0) as filler, suppress(OSError):
        while filler.write(bytes(64 * 1024)):
            pass


def refusal(worker: Served) -> Answer:
    """What a delivery gets that must not be accepted."""
    body = line.delivery(line.text_event("wait 1", 10**9))
    return request(worker.address, "POST", CALLBACK, body, line.headers(body))


def quick_check(stage: Stage) -> list[tuple[str]]:
    store = SqliteStore(Path(stage.url.removeprefix("sqlite://")), Policy(True, 60_000, 0))
    with closing(store):
        store.open()
        return store.rows("PRAGMA quick_check")


def test_a_full_disk_is_refused_and_loses_nothing(
    stage_on: Callable[[str], Stage], small_disk: Path, report: Report
) -> None:
    stage = stage_on(f"sqlite://{small_disk}/inbox.sqlite3")
    worker = stage.start()
    client = stage.play(6, worker)
    client.wait_for_load(20)
    filler = small_disk / "filler"
    with refusing(client):
        fill_disk_with(filler)
        worker.wait_for_line(rf"The inbox {re.escape(stage.url)} cannot be used: .*\. {CONSEQUENCE}")
    for free_bytes in (0, 32 * 1024 * 1024):
        with refusing(client, for_s=2.5):  # it is tried once a second whether there is room again
            os.truncate(filler, filler.stat().st_size - free_bytes)
        answer = refusal(worker)
        assert (answer.status, answer.json["error"]) == (503, "store_unavailable")
        assert int(answer.headers["Retry-After"]) > 0
        assert quick_check(stage) == [("ok",)]
    stage.drain()  # what was accepted before is still handled
    assert refusal(worker).status == 503
    filler.unlink()
    worker.wait_for_line("can be used again")
    client.wait_for_load(20)
    report("a full disk:", stage.tally(client).check())
    assert stage.end(worker, signal.SIGTERM) == 0
    assert quick_check(stage) == [("ok",)]


def test_a_database_that_is_killed_and_comes_back_loses_nothing(
    mariadb: MariaDb, stage_on: Callable[[str], Stage], report: Report
) -> None:
    stage = stage_on(new_database(mariadb, "crash_database_killed"))
    worker = stage.start()
    client, random = stage.play(5, worker), Random(5)
    for _ in range(4):
        random_instant(random, client, 0.6)
        with refusing(client):
            mariadb.kill()
        threading.Event().wait(random.uniform(0.0, 1.0))
        mariadb.start()
        client.wait_for_load()
    report(f"4 kills of the database, slowest answer {client.slowest_s():.1f} s:", stage.tally(client).check())
    assert [count_lines(worker, words) for words in (CONSEQUENCE, "can be used again")] == [4, 4]
    assert client.slowest_s() < ANSWER_MAX_S
    assert stage.end(worker, signal.SIGTERM) == 0


def test_a_database_that_hangs_is_not_waited_for(
    mariadb: MariaDb, stage_on: Callable[[str], Stage], report: Report
) -> None:
    stage = stage_on(new_database(mariadb, "crash_database_hangs"))
    worker = stage.start()
    client = stage.play(7, worker)
    random_instant(Random(7), client, 0.5)
    pid = server_pid(mariadb.url)
    try:
        with refusing(client):
            os.kill(pid, signal.SIGSTOP)
        worker.wait_for_line(CONSEQUENCE)
    finally:
        os.kill(pid, signal.SIGCONT)
    client.wait_for_load()
    report(f"a hanging database, slowest answer {client.slowest_s():.1f} s:", stage.tally(client).check())
    assert client.slowest_s() < ANSWER_MAX_S
    assert stage.end(worker, signal.SIGTERM) == 0


def test_a_commit_whose_answer_is_lost_is_found_again(
    mariadb: MariaDb, stage_on: Callable[[str], Stage], report: Report
) -> None:
    with closing(LossyWire(new_database(mariadb, "crash_answer_lost"))) as wire:
        stage = stage_on(wire.url)
        worker = stage.start()
        client, random = stage.play(8, worker), Random(8)
        for _ in range(6):
            random_instant(random, client, 0.3)
            wire.lose_an_answer()
        report("6 answers of the database lost:", stage.tally(client).check())
        assert stage.end(worker, signal.SIGTERM) == 0


@contextmanager
def refusing(client: Client, for_s: float = 0.0) -> Iterator[None]:
    """What is done here makes deliveries get 503, and no 200 any more, for so long at least."""
    yield
    since = time.monotonic()
    eventually(lambda: any(answer.begun > since + for_s for answer in client.answers()))
    eventually(lambda: any(answer.begun > since and answer.status == 503 for answer in client.answers()))
    assert {answer.status for answer in client.answers() if answer.begun > since} == {503}


def count_lines(worker: Program, pattern: str) -> int:
    return sum(bool(re.search(pattern, logged)) for logged in list(worker.stderr))
