"""Wires one worker: Config → running process. The only place where contracts meet their implementations.

::

    start:  bot → inbox → execution → dispatcher → intake → Falcon → listener → server → sampler
    stop:   intake refuses (503) → server closes listener and idle connections → dispatcher drains → server drains

The first SIGTERM or SIGINT begins the stop; a second one ends the process at once, even when a handler never waits.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import resource
import signal
import socket as stdlib_socket
import ssl
import stat
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import gevent
import gevent.event
import gevent.socket
from gevent import monkey

from gbot import logs
from gbot.bot import Bot, Sender
from gbot.config import CONFIG_VARIABLE, Config, load
from gbot.dispatcher import Dispatcher, Leftovers
from gbot.errors import StartError
from gbot.execution import Execution
from gbot.http_parser import Bounds
from gbot.httpd import HttpSettings, Server
from gbot.inbox import Inbox
from gbot.inboxes.memory import MemoryInbox
from gbot.loader import load_bot
from gbot.outbound.sender import ApiSender, ConsoleSender
from gbot.outbound.transport import Transport
from gbot.platform import Platform
from gbot.platforms.line import LinePlatform
from gbot.platforms.plain import PlainPlatform
from gbot.sampler import Load, Sampler
from gbot.webhook import Intake, application, callback_path
from gbot.wsgi import WsgiApp

log = logging.getLogger(__name__)

BACKLOG = 4096  # connections that wait in the kernel; capped by net.core.somaxconn
FILES_RESERVED = 256  # descriptors kept for everything that is not a client's connection
STDOUT_FLUSH_INTERVAL_S = 1.0
HTTP_DRAIN_S = 2.0  # for answers still being written when the handlers have ended
API_CONNECTIONS_MAX = 1000
GC_THRESHOLDS = (20_000, 5, 1_000_000)  # the last one: full collections come by the clock instead
GC_FULL_INTERVAL_S = 60.0


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
    return MemoryInbox(config.inbox_max)


class Engine:
    """The part of a worker between the HTTP server and the handlers."""

    def __init__(self, config: Config, bot: Bot) -> None:
        self.platforms = build_platforms(config)
        self.inbox = build_inbox(config)
        senders = {platform.name: build_sender(platform, config) for platform in self.platforms}
        self.execution = Execution(bot, self.inbox, senders, config.handler_timeout)
        self.dispatcher = Dispatcher(self.execution, config.pool)
        self.intake = Intake(self.inbox, self.dispatcher.submit, config.body_bytes_max)
        self.app = application(self.platforms, self.intake)


class Worker:
    """One serving process."""

    def __init__(self, config: Config, bot: Bot) -> None:
        self._config = config
        raise_file_limit()
        tls = load_tls(config)
        self._listener = listen(config)
        self._engine = Engine(config, bot)
        settings = HttpSettings(Bounds(body_bytes_max=config.body_bytes_max), connections_max=connections_max(config))
        self._server = Server(self._engine.app, [self._listener], settings, tls)
        self._sampler = Sampler(self._load, config.sample_interval)
        self._stop_asked = gevent.event.Event()
        self._signals = 0

    def run(self) -> None:
        """Serve until told to stop, then drain. Returns when everything has stopped."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self._address = describe(self._listener, self._config)  # a stopped listener has no address any more
        if self._config.sample_interval:
            self._sampler.start()  # first: it counts the greenlets that are started from then on
        self._server.start()
        housekeeping = [gevent.spawn(collect_garbage_calmly), gevent.spawn(flush_stdout_regularly)]
        self._announce()
        self._stop_asked.wait()
        self._stop()
        gevent.killall(housekeeping)
        flush_stdout()

    def _announce(self) -> None:
        config = self._config
        for platform in self._engine.platforms:
            log.info("Taking %s deliveries at %s%s", platform.name, self._address, callback_path(platform))
        log.info(
            "Up to %d handlers at once, %d events held in %s; stop with SIGTERM or Ctrl-C",
            config.pool,
            config.inbox_max,
            config.inbox,
        )
        names = [platform.name for platform in self._engine.platforms]
        if "plain" in names and not is_loopback(config.host):
            log.warning("The plain platform has no signature: whoever reaches %s can make this bot act", self._address)
        if "line" in names and not config.line_channel_access_token:
            log.warning("GBOT_LINE_CHANNEL_ACCESS_TOKEN is not set: handlers cannot reply or push")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Runs between two bytecodes of whatever runs, even of a handler that never waits."""
        self._signals += 1
        if self._signals > 1:
            self._stop_at_once()
        gevent.get_hub().loop.run_callback_threadsafe(self._stop_asked.set)

    def _stop_at_once(self) -> NoReturn:
        """End the process, whatever was going on: buffers may be in use, so nothing goes through them."""
        try:
            statistics = self._engine.dispatcher.statistics()
            left = Leftovers(statistics.running, statistics.waiting)
            logs.warn_at_once(left_sentence(left, "Stopped at once"))
            remove_socket_file(self._config)
        finally:
            os._exit(0)

    def _stop(self) -> None:
        """Drain: nothing new comes in, what runs may finish until the deadline."""
        deadline = time.monotonic() + self._config.stop_timeout
        log.info("Stopping: no new events; handlers get %g s to finish", self._config.stop_timeout)
        self._engine.intake.drain()
        self._server.stop()
        left = self._engine.dispatcher.drain(deadline)
        self._server.drain(time.monotonic() + HTTP_DRAIN_S)
        self._sampler.stop()
        remove_socket_file(self._config)
        log.log(logging.WARNING if left.running or left.waiting else logging.INFO, "%s", left_sentence(left, "Stopped"))

    def _load(self) -> Load:
        dispatcher = self._engine.dispatcher.statistics()
        http = self._server.statistics()
        return Load(
            running=dispatcher.running,
            pool_size=dispatcher.pool_size,
            waiting=dispatcher.waiting,
            pool_greenlets=dispatcher.greenlets,
            connections=http.connections,
            events_finished=dispatcher.finished,
            deliveries_refused=http.refused,
        )


def left_sentence(left: Leftovers, how: str) -> str:
    """What a stop left undone, and what becomes of it."""
    if not left.running and not left.waiting:
        return f"{how}. Nothing was left to do"
    return (
        f"{how}. Left: {left.running} running handlers were stopped and {left.waiting} waiting events never started; "
        "the memory: inbox has lost them"
    )


def wsgi(app: str) -> WsgiApp:
    """The WSGI application alone, for other servers: ``gunicorn -k gevent "gbot.worker:wsgi('mybot:bot')"``.

    Settings come from the environment and the file that GBOT_CONFIG names. Raises ConfigError.
    """
    file = os.environ.get(CONFIG_VARIABLE)
    config, warnings = load({}, os.environ, Path(file) if file else None)
    for sentence in warnings:
        logs.warn(sentence)
    return Engine(config, load_bot(app)).app


# What the machine has to give.


def raise_file_limit() -> None:
    """Use as many descriptors as the hard limit allows: every connection needs one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connections_max(config: Config) -> int:
    """As configured, or what the open-file limit leaves for it."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    possible = max(1, limit - FILES_RESERVED)
    if config.connections_max > possible:
        log.warning(
            "The open-file limit is %d: %d connections at once instead of %d", limit, possible, config.connections_max
        )
    return min(config.connections_max, possible)


def load_tls(config: Config) -> ssl.SSLContext | None:
    """Raises StartError when the certificate or key cannot be used."""
    if config.tls_cert is None or config.tls_key is None:
        return None
    for path in (config.tls_cert, config.tls_key):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise StartError(f"cannot read {path}: {error.strerror}") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key, password="")  # or it would ask for one at the terminal
    except ssl.SSLError as error:
        raise StartError(
            f"{config.tls_cert} and {config.tls_key} are not a PEM certificate and its key without a password: "
            f"{error.reason or error}"
        ) from error
    return context


def listen(config: Config) -> gevent.socket.socket:
    """A listening socket where the configuration says. Raises StartError."""
    try:
        if config.host.startswith("unix:"):
            return _listen_unix(config.host.removeprefix("unix:"))
        family, address = _resolve(config.host, config.port)
        listener = gevent.socket.socket(family, stdlib_socket.SOCK_STREAM)
        listener.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_REUSEADDR, 1)
        if family == stdlib_socket.AF_INET6:
            listener.setsockopt(stdlib_socket.IPPROTO_IPV6, stdlib_socket.IPV6_V6ONLY, config.host != "::")
        listener.bind(address)
        listener.listen(BACKLOG)
        return listener
    except OSError as error:
        where = config.host if config.host.startswith("unix:") else f"{config.host} port {config.port}"
        raise StartError(f"cannot listen on {where}: {error.strerror or error}") from error


def _resolve(host: str, port: int) -> tuple[int, Any]:
    """The first address of a name. Asks the blocking resolver: nothing runs yet, and gevent's would leave threads."""
    getaddrinfo = monkey.get_original("socket", "getaddrinfo")
    found = getaddrinfo(host, port, type=stdlib_socket.SOCK_STREAM, flags=stdlib_socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    return family, address


def _listen_unix(path: str) -> gevent.socket.socket:
    """Replaces the socket file of a server that is gone, never one that answers."""
    listener = gevent.socket.socket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_STREAM)
    if os.path.exists(path) and stat.S_ISSOCK(os.stat(path).st_mode) and not _answers(path):
        os.unlink(path)
    listener.bind(path)
    listener.listen(BACKLOG)
    return listener


def _answers(path: str) -> bool:
    with gevent.socket.socket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_STREAM) as probe:
        return probe.connect_ex(path) == 0


def remove_socket_file(config: Config) -> None:
    if config.host.startswith("unix:"):
        with contextlib.suppress(FileNotFoundError):  # somebody was quicker
            os.unlink(config.host.removeprefix("unix:"))


def describe(listener: gevent.socket.socket, config: Config) -> str:
    """The address as one would type it into a client."""
    if listener.family == stdlib_socket.AF_UNIX:
        return config.host
    host, port = listener.getsockname()[:2]
    scheme = "https" if config.tls_cert else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def is_loopback(host: str) -> bool:
    return host.startswith(("127.", "unix:")) or host in ("localhost", "::1")


def collect_garbage_calmly() -> None:
    """Take what start-up made out of the cyclic collector's way, and look at everything only once a minute.

    Events, requests and responses are freed by reference counting; the collector is there for what authors make. By
    its own rules it would look at all objects again and again while many handlers wait, 100 ms each time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    while True:
        gevent.sleep(GC_FULL_INTERVAL_S)
        gc.collect()


def flush_stdout_regularly() -> None:
    """What handlers print reaches a pipe or a file within a second, without a write for every line."""
    while True:
        gevent.sleep(STDOUT_FLUSH_INTERVAL_S)
        flush_stdout()


def flush_stdout() -> None:
    """Whoever read it may have gone away; that is no reason to stop serving."""
    try:
        sys.stdout.flush()
    except OSError as error:
        log.warning("What handlers print goes nowhere: %s", error.strerror)
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for as long as the process lives
