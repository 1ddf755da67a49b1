"""The sampler's line: whole, true, and measured anew each time."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from gbot.sampler import LAG_PROBE_S, Load, Sampler
from tests.rig import burn, wait_until


class Server:
    """What a sampler is told of; the test changes it."""

    def __init__(self) -> None:
        self.finished = 0
        self.db_size = 0
        self.db_waits = 23
        self.db_waited_s = 24.5

    def load(self) -> Load:
        return Load(
            running=3,
            pool_size=5000,
            waiting=12,
            pool_greenlets=17,
            connections=4,
            handlers_ran_s=2.5,
            events_finished=self.finished,
            events_failed=5,
            events_timed_out=6,
            events_unhandled=7,
            events_put_off=10,
            events_dead=8,
            events_held=15,
            events_duplicate=9,
            events_late=11,
            outcomes_unsaved=1,
            requests_refused=2,
            api_calls=40,
            api_calls_saved=13,
            api_calls_waiting=14,
            api_retries=16,
            db_size=self.db_size,
            db_open=20,
            db_in_use=18,
            db_waiting=19,
            db_uses=21,
            db_held_s=22.5,
            db_waits=self.db_waits,
            db_waited_s=self.db_waited_s,
            db_timeouts=25,
        )


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def sampler(server: Server) -> Iterator[Sampler]:
    made = Sampler(server.load, 60)
    made.start()
    yield made
    made.stop()


def test_the_line_has_every_figure(sampler: Sampler) -> None:
    line = sampler.sample().line()
    assert re.fullmatch(
        r"handlers 3/5000 running, 12 waiting; greenlets 18; events \d+/s; connections 4; "
        r"CPU \d+ % \(cores \d+( \d+)*\); RSS \d+ MiB; hub lag \d+ ms; files \d+/\d+; "
        r"inbox 15 held, 1 outcomes unsaved; API calls \d+/s, 14 waiting; "
        r"since start: failed 5, timed out 6, dead 8, put off 10, unhandled 7, late 11, duplicates 9, "
        r"refused requests 2, API calls 40, repeated 16, saved 13",
        line,
    )


def test_with_a_database_the_line_tells_of_its_connections_too(sampler: Sampler, server: Server) -> None:
    server.db_size = 50
    line = sampler.sample().line()
    assert "; database 18/50 in use, 20 open, 19 waiting; since start:" in line
    assert line.endswith(", database waits 23 (mean 1065 ms), time-outs 25")


def test_nobody_who_waited_is_no_mean(sampler: Sampler, server: Server) -> None:
    server.db_size, server.db_waits, server.db_waited_s = 50, 0, 0.0
    assert sampler.sample().line().endswith(", database waits 0 (mean 0 ms), time-outs 25")


def test_programs_get_every_figure_in_one_flat_object(sampler: Sampler, server: Server) -> None:
    server.db_size = 50
    figures = json.loads(json.dumps(sampler.sample().figures()))
    told = {name: figures[name] for name in dataclasses.asdict(server.load())}
    assert told == dataclasses.asdict(server.load())
    assert set(figures) - set(told) == {
        *("at_s", "greenlets", "events_per_s", "api_calls_per_s", "cpu_s", "cpu_percent", "cores_percent"),
        *("rss_bytes", "hub_lag_s", "open_files", "open_files_max"),
    }


def test_programs_can_tell_what_happened_between_two_samples(sampler: Sampler) -> None:
    before, cpu_before, now_before = sampler.sample(), time.process_time(), time.monotonic()
    burn(0.2)
    after, cpu_s, now = sampler.sample(), time.process_time() - cpu_before, time.monotonic()
    assert after.cpu_s - before.cpu_s == pytest.approx(cpu_s, abs=0.1)
    assert after.at_s - before.at_s == pytest.approx(now - now_before, abs=0.1)


def test_figures_of_the_process_are_true(sampler: Sampler) -> None:
    before = sampler.sample()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    assert before.rss_bytes == pytest.approx(pages * resource.getpagesize(), rel=0.1)
    assert len(before.cores_percent) == os.cpu_count()
    assert before.open_files_max == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(10)]
    after = sampler.sample()
    for file in opened:
        os.close(file)
    assert after.open_files == before.open_files + 10


def test_greenlets_of_whoever_started_them_are_counted(sampler: Sampler) -> None:
    before = sampler.sample().greenlets
    sleepers = [gevent.spawn(gevent.sleep, 30) for _ in range(5)]
    assert sampler.sample().greenlets == before + 5
    gevent.killall(sleepers)
    wait_until(lambda: sampler.sample().greenlets == before)


def test_rates_are_since_the_look_before(sampler: Sampler, server: Server) -> None:
    sampler.sample()
    server.finished += 1000
    gevent.sleep(0.1)
    rate = sampler.sample().events_per_s
    assert 1000 < rate <= 10_100
    assert sampler.sample().events_per_s == 0


def test_a_handler_that_computes_shows_as_hub_lag_and_cpu(sampler: Sampler) -> None:
    gevent.sleep(LAG_PROBE_S)
    sampler.sample()
    burn(0.4)
    gevent.sleep(LAG_PROBE_S / 2)
    sample = sampler.sample()
    assert 0.2 < sample.hub_lag_s < 2
    assert sample.cpu_percent > 20
    gevent.sleep(LAG_PROBE_S * 2)
    assert sampler.sample().hub_lag_s < 0.2


def test_lines_are_logged_until_it_is_stopped(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    sampler = Sampler(server.load, 0.01)
    with caplog.at_level(logging.INFO, "gbot.sampler"):
        sampler.start()
        wait_until(lambda: len(caplog.records) >= 3)
        sampler.stop()
        count = len(caplog.records)
        gevent.sleep(0.05)
    assert len(caplog.records) == count
    assert all(record.getMessage().startswith("handlers 3/5000 running") for record in caplog.records)
    assert [vars(record)["sample"]["running"] for record in caplog.records] == [3] * count


def test_stopping_what_never_started_is_harmless(server: Server) -> None:
    sampler = Sampler(server.load, 10)
    sampler.stop()
    sampler.stop()
