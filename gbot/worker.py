"""One worker: Config → running process, and its end.

::

    start:  bot → inbox → database → execution → dispatcher → intake → Falcon → listener →
            database is opened → inbox starts → server → sampler
    stop:   intake refuses (503) → server closes listener and idle connections → dispatcher drains →
            database is closed → inbox writes down what was settled → server drains

The first SIGTERM or SIGINT begins the stop; a second one, or the stop timeout when a handler never waits, ends the
process at once.
"""

from __future__ import annotations

import atexit
import dataclasses
import logging
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import NoReturn

import gevent
import gevent.event
from gevent import monkey

from gbot import logs
from gbot.bot import Bot
from gbot.config import Config
from gbot.config_sources import CONFIG_VARIABLE, load
from gbot.connection import HttpSettings
from gbot.counts import counted
from gbot.database.place import PoolStatistics
from gbot.dispatcher import Leftovers
from gbot.engine import Engine, left_sentence
from gbot.errors import StartError
from gbot.http_parser import Bounds
from gbot.httpd import Server
from gbot.inbox import State as Ended
from gbot.listener import listen, load_tls
from gbot.loader import load_bot
from gbot.process import (
    collect_garbage_calmly,
    flush_stdout,
    flush_stdout_regularly,
    log_stray_errors,
    possible_connections,
    raise_file_limit,
)
from gbot.sampler import Load, Sampler
from gbot.webhook import callback_path
from gbot.wsgi import Environ, StartResponse, WsgiApp

log = logging.getLogger(__name__)

HTTP_DRAIN_S = 2.0  # for answers still being written when the handlers have ended
GUNICORN = "gunicorn -k gevent without --preload"
THREADS_S = 2.0  # for threads of the author's to end, when everything else has stopped
STOP_OVERTIME_S = 8.0  # what the steps of a stop may take beside the handlers


class Worker:
    """One serving process."""

    def __init__(self, config: Config, bot: Bot) -> None:
        self._config = config
        log_stray_errors()
        raise_file_limit()
        self._engine = Engine(config, bot)
        tls = load_tls(config.tls_cert, config.tls_key)
        self._listener = listen(config.host, config.port)
        settings = HttpSettings(
            Bounds(body_bytes_max=config.body_bytes_max),
            connections_max=possible_connections(config.connections_max, self._engine.database_connections_max),
        )
        self._server = Server(self._engine.app, [self._listener.socket], settings, tls)
        self._sampler = Sampler(self._load, config.sample_interval)
        self._stop_asked = gevent.event.Event()
        self._signals = 0

    def run(self) -> None:
        """Serve until told to stop, then drain. Returns when everything has stopped."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        if self._config.sample_interval:
            self._sampler.start()  # first: it counts the greenlets that are started from then on
        self._engine.start()
        self._server.start()
        housekeeping = [gevent.spawn(collect_garbage_calmly), gevent.spawn(flush_stdout_regularly)]
        self._announce()
        self._stop_asked.wait()
        self._stop()
        gevent.killall(housekeeping)
        flush_stdout()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # it has stopped: another one must not change the exit code
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))  # a thread of the author's must not keep it
        signal.setitimer(signal.ITIMER_REAL, THREADS_S)

    def _announce(self) -> None:
        config, address = self._config, self._listener.address
        if not address.startswith("unix:"):
            address = f"https://{address}" if config.tls_cert else f"http://{address}"
        for platform in self._engine.platforms:
            log.info("Taking %s deliveries at %s%s", platform.name, address, callback_path(platform))
        log.info(
            "Up to %s at once, %s held in %s; stop with SIGTERM or Ctrl-C",
            counted(config.pool, "handler"),
            counted(config.entries_max, "event"),
            self._engine.inbox.place,
        )
        names = [platform.name for platform in self._engine.platforms]
        if "plain" in names and not self._listener.is_loopback:
            log.warning("The plain platform has no signature: whoever reaches %s can make this bot act", address)
        if "line" in names and not config.line_channel_access_token:
            log.warning("GBOT_LINE_CHANNEL_ACCESS_TOKEN is not set: handlers cannot reply or push")
        if "messenger" in names and not config.messenger_page_token:
            log.warning("GBOT_MESSENGER_PAGE_TOKEN is not set: handlers cannot reply or push")
        if "messenger" in names and not config.messenger_verify_token:
            log.warning("GBOT_MESSENGER_VERIFY_TOKEN is not set: Messenger cannot verify the webhook's address")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Runs between two bytecodes of whatever runs, even of a handler that never waits: then the alarm ends it."""
        self._signals += 1
        if self._signals > 1:
            self._stop_at_once()
        signal.signal(signal.SIGALRM, self._on_signal)
        signal.setitimer(signal.ITIMER_REAL, self._config.stop_timeout + STOP_OVERTIME_S)
        gevent.get_hub().loop.run_callback_threadsafe(self._stop_asked.set)

    def _stop_at_once(self) -> NoReturn:
        """End the process, whatever was going on: buffers may be in use, so nothing goes through them."""
        try:
            statistics = self._engine.dispatcher.statistics()
            left = Leftovers(statistics.running, statistics.waiting)
            inbox, here = self._engine.inbox, left.running + left.waiting
            held = inbox.statistics()
            logs.warn_at_once(f"Stopped at once. {left_sentence(left, inbox, held.unsaved, held.held - here)}")
            self._listener.remove_file()
        finally:
            os._exit(0)

    def _stop(self) -> None:
        """Drain: nothing new comes in, what runs may finish until the deadline."""
        deadline = time.monotonic() + self._config.stop_timeout
        log.info("Stopping: no new events; handlers get %g s to finish", self._config.stop_timeout)
        self._engine.intake.drain()
        self._server.stop()
        self._listener.remove_file()
        left = self._engine.drain(deadline)
        self._server.drain(time.monotonic() + HTTP_DRAIN_S)
        self._sampler.stop()
        log.info("Stopped. %s", left)

    def _load(self) -> Load:
        dispatcher = self._engine.dispatcher.statistics()
        http = self._server.statistics()
        execution = self._engine.execution.statistics()
        inbox = self._engine.inbox.statistics()
        sending = self._engine.sending()
        database = self._engine.database.statistics() if self._engine.database is not None else PoolStatistics()
        return Load(
            running=dispatcher.running,
            pool_size=dispatcher.pool_size,
            waiting=dispatcher.waiting,
            pool_greenlets=dispatcher.greenlets,
            connections=http.connections,
            handlers_ran_s=execution.ran_s,
            events_finished=dispatcher.finished,
            events_failed=execution.failed,
            events_timed_out=execution.timed_out,
            events_unhandled=inbox.settled[Ended.UNHANDLED],
            events_put_off=execution.put_off,
            events_dead=inbox.settled[Ended.DEAD],
            events_held=inbox.held,
            events_duplicate=inbox.duplicates,
            events_late=inbox.late,
            outcomes_unsaved=inbox.unsaved,
            requests_refused=http.refused + self._engine.intake.refusals.total,
            api_calls=sum(one.api.calls for one in sending),
            api_calls_saved=sum(one.calls_saved for one in sending),
            api_calls_waiting=sum(lane.waiting for one in sending for lane in one.api.lanes),
            api_retries=sum(one.api.retries for one in sending),
            db_size=database.size,
            db_open=database.open,
            db_in_use=database.in_use,
            db_waiting=database.waiting,
            db_uses=database.uses,
            db_held_s=database.held_s,
            db_waits=database.waits,
            db_waited_s=database.waited_s,
            db_timeouts=database.timeouts,
        )


def wsgi(app: str, workers: int = 1) -> WsgiApp:
    """The WSGI application alone, for other servers: ``gunicorn -k gevent "gbot.worker:wsgi('mybot:bot')"``.

    ``workers`` is how many of them that server runs: the node's connections to the database are divided by it.
    Settings come from the environment and the file that GBOT_CONFIG names. Raises ConfigError, and StartError where
    gevent has not patched the standard library: handlers would never run. Nor do they in a process that was forked
    from one that has called this: it answers no request.
    """
    if not monkey.is_module_patched("socket"):
        raise StartError(f"the webhook needs a server that runs on gevent, such as {GUNICORN}")
    file = os.environ.get(CONFIG_VARIABLE)
    config, warnings = load({}, os.environ, Path(file) if file else None)
    if not logging.getLogger().handlers:
        logs.configure(config.log_format, config.log_level)
    for sentence in warnings:
        logs.warn(sentence)
    raise_file_limit()
    engine = Engine(_part(config, workers), load_bot(app))
    engine.start()
    own = os.getpid()

    def serve(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if os.getpid() != own:
            raise StartError(f"this process was forked when the bot had been started already: use {GUNICORN}")
        return engine.app(environ, start_response)

    def end() -> None:
        if os.getpid() == own:
            engine.drain_at_exit(config.stop_timeout)

    atexit.register(end)
    return serve


def _part(config: Config, workers: int) -> Config:
    """One worker's part of the connections to the database."""
    if not 1 <= workers <= config.db_pool:
        raise StartError(f"{workers} workers cannot share --db-pool {config.db_pool}: each needs one connection")
    return dataclasses.replace(
        config,
        db_pool=config.db_pool // workers,
        db_warm=config.db_warm // workers,
        db_share=config.db_share * workers,
    )
