"""Wires one worker: Config → running process. The only place where contracts meet their implementations.

::

    start:  bot → inbox → execution → dispatcher → intake → Falcon → listener → inbox starts → server → sampler
    stop:   intake refuses (503) → server closes listener and idle connections → dispatcher drains →
            inbox writes down what was settled → server drains

The first SIGTERM or SIGINT begins the stop; a second one, or the stop timeout when a handler never waits, ends the
process at once.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

import gevent
import gevent.event
from gevent import monkey

from gbot import logs
from gbot.bot import Bot, Sender
from gbot.config import CONFIG_VARIABLE, Config, load
from gbot.connection import HttpSettings
from gbot.database import READ_TIMEOUT_S
from gbot.dispatcher import Dispatcher, Leftovers
from gbot.errors import StartError
from gbot.execution import Execution
from gbot.http_parser import Bounds
from gbot.httpd import Server
from gbot.inbox import Inbox
from gbot.inbox import State as Ended
from gbot.inboxes.calls import Call, InOneThread, directly
from gbot.inboxes.desk import SqlDesk
from gbot.inboxes.durable import DurableInbox
from gbot.inboxes.memory import MemoryInbox
from gbot.inboxes.mysql import MySqlStore
from gbot.inboxes.sqlite import SqliteStore
from gbot.inboxes.store import Desk, Policy
from gbot.listener import listen, load_tls
from gbot.loader import load_bot
from gbot.outbound.sender import ApiSender, ConsoleSender
from gbot.outbound.transport import Transport
from gbot.platform import Platform
from gbot.platforms.line import LinePlatform
from gbot.platforms.plain import PlainPlatform
from gbot.process import (
    collect_garbage_calmly,
    flush_stdout,
    flush_stdout_regularly,
    log_stray_errors,
    possible_connections,
    raise_file_limit,
)
from gbot.sampler import Load, Sampler
from gbot.webhook import Intake, application, callback_path
from gbot.wsgi import WsgiApp

log = logging.getLogger(__name__)

HTTP_DRAIN_S = 2.0  # for answers still being written when the handlers have ended
SETTLE_S = 2.0  # for outcomes to be written down when the handlers' time is over
STOP_OVERTIME_S = 8.0  # what the steps of a stop may take beside the handlers
API_CONNECTIONS_MAX = 1000
DESK_READ_TIMEOUT_S = 600.0  # people who count millions of entries, or change their table, have the time


def build_platforms(config: Config) -> list[Platform]:
    """The platforms to serve: those asked for by name, else those with a secret, else plain."""
    names = config.platforms or (("line",) if config.line_channel_secret else ("plain",))
    return [_build_platform(name, config) for name in names]


def _build_platform(name: str, config: Config) -> Platform:
    if name == "plain":
        return PlainPlatform()
    token = config.line_channel_access_token[0] if config.line_channel_access_token else None
    return LinePlatform(config.line_channel_secret, token, config.line_api_base)


def build_sender(platform: Platform, config: Config) -> Sender:
    if platform.name == "plain":
        return ConsoleSender()
    return ApiSender(platform, Transport(config.line_api_base, min(config.pool, API_CONNECTIONS_MAX)))


def build_inbox(config: Config) -> Inbox:
    """The implementation that the URL names."""
    strict = config.order == "strict"
    if config.inbox == "memory:":
        return MemoryInbox(
            config.entries_max, config.inbox_bytes_max, strict=strict, dedup_window_s=config.dedup_window
        )
    store = build_store(config)
    call: Call = InOneThread() if store.blocks else directly
    return DurableInbox(store, call, config.entries_max, config.inbox_bytes_max, waits=config.ack == "stored")


def build_store(config: Config, read_timeout_s: float = READ_TIMEOUT_S) -> SqliteStore | MySqlStore:
    """The database that the URL names, not opened yet; ``memory:`` is none."""
    policy = Policy(
        strict=config.order == "strict",
        dedup_window_ms=round(config.dedup_window * 1000),
        keep_done_ms=round(config.keep_done * 1000),
    )
    if config.inbox.startswith("sqlite://"):
        return SqliteStore(Path(config.inbox.removeprefix("sqlite://")), policy)
    return MySqlStore(config.inbox, policy, read_timeout_s=read_timeout_s)


def build_desk(config: Config) -> Desk:
    """For work by hand on the inbox, not opened yet."""
    return SqlDesk(build_store(config, DESK_READ_TIMEOUT_S))


class Engine:
    """The part of a worker between the HTTP server and the handlers."""

    def __init__(self, config: Config, bot: Bot) -> None:
        self.platforms = build_platforms(config)
        self.inbox = build_inbox(config)
        senders = {platform.name: build_sender(platform, config) for platform in self.platforms}
        self.execution = Execution(bot, self.inbox, senders, config.handler_timeout, config.attempts_max)
        self.dispatcher = Dispatcher(self.execution, config.pool, strict=config.order == "strict")
        self.intake = Intake(self.inbox, config.body_bytes_max)
        self.app = application(self.platforms, self.intake)

    def start(self) -> None:
        """Begin to run what is in the inbox. Raises StartError when that cannot be used."""
        self.inbox.start(self.dispatcher.submit, self.dispatcher.room, self.dispatcher.in_hand)

    def drain(self, deadline: float) -> str:
        """Let handlers finish, write down how they ended; returns a sentence about what was left."""
        left = self.dispatcher.drain(deadline, give_back=self.inbox.keeps)
        unsaved = self.inbox.stop(max(deadline, time.monotonic() + SETTLE_S))
        return left_sentence(left, self.inbox, unsaved, self.inbox.statistics().held)

    def drain_at_exit(self, stop_timeout: float) -> None:
        """For servers that do not drain handlers themselves."""
        self.intake.drain()
        log.info("Stopped. %s", self.drain(time.monotonic() + stop_timeout))


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
            Bounds(body_bytes_max=config.body_bytes_max), connections_max=possible_connections(config.connections_max)
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
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)  # it has stopped: another one must not change the exit code

    def _announce(self) -> None:
        config, address = self._config, self._listener.address
        if not address.startswith("unix:"):
            address = f"https://{address}" if config.tls_cert else f"http://{address}"
        for platform in self._engine.platforms:
            log.info("Taking %s deliveries at %s%s", platform.name, address, callback_path(platform))
        log.info(
            "Up to %d handlers at once, %d events held in %s; stop with SIGTERM or Ctrl-C",
            config.pool,
            config.entries_max,
            self._engine.inbox.place,
        )
        names = [platform.name for platform in self._engine.platforms]
        if "plain" in names and not self._listener.is_loopback:
            log.warning("The plain platform has no signature: whoever reaches %s can make this bot act", address)
        if "line" in names and not config.line_channel_access_token:
            log.warning("GBOT_LINE_CHANNEL_ACCESS_TOKEN is not set: handlers cannot reply or push")

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
        return Load(
            running=dispatcher.running,
            pool_size=dispatcher.pool_size,
            waiting=dispatcher.waiting,
            pool_greenlets=dispatcher.greenlets,
            connections=http.connections,
            events_finished=dispatcher.finished,
            events_failed=execution.failed,
            events_timed_out=execution.timed_out,
            events_unhandled=inbox.settled[Ended.UNHANDLED],
            events_dead=inbox.settled[Ended.DEAD],
            events_held=inbox.held,
            events_duplicate=inbox.duplicates,
            outcomes_unsaved=inbox.unsaved,
            requests_refused=http.refused + self._engine.intake.refusals.total,
        )


def left_sentence(left: Leftovers, inbox: Inbox, unsaved: int, put_off: int) -> str:
    """What a stop left undone, and what becomes of it; ``put_off`` events were to be tried again later."""
    sentences = []
    unstored = inbox.statistics().unstored
    if left.running or left.waiting:
        fate = "the next start runs them" if inbox.keeps else f"the {inbox.place} inbox has lost them"
        sentences.append(
            f"Left: {left.running} running handlers were stopped and {left.waiting} waiting events never started; "
            f"{fate}"
        )
    if put_off > 0 and not inbox.keeps:
        sentences.append(f"{put_off} events that were to be tried again are lost")
    if unstored:
        sentences.append(f"{unstored} events that were on their way into the store are lost, or will be sent again")
    if unsaved:
        sentences.append(f"{unsaved} outcomes could not be written down: these events run again")
    return ". ".join(sentences) or "Nothing was left to do"


def wsgi(app: str) -> WsgiApp:
    """The WSGI application alone, for other servers: ``gunicorn -k gevent "gbot.worker:wsgi('mybot:bot')"``.

    Settings come from the environment and the file that GBOT_CONFIG names. Raises ConfigError, and StartError where
    gevent has not patched the standard library: handlers would never run.
    """
    if not monkey.is_module_patched("socket"):
        raise StartError("the webhook needs a server that runs on gevent, such as gunicorn -k gevent without --preload")
    file = os.environ.get(CONFIG_VARIABLE)
    config, warnings = load({}, os.environ, Path(file) if file else None)
    if not logging.getLogger().handlers:
        logs.configure(config.log_format, config.log_level)
    for sentence in warnings:
        logs.warn(sentence)
    engine = Engine(config, load_bot(app))
    engine.start()
    atexit.register(engine.drain_at_exit, config.stop_timeout)
    return engine.app
