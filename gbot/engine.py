"""The parts between the HTTP server and the handlers, chosen by the settings and put together.

This is the only place where contracts meet their implementations::

    intake ──▶ inbox ──▶ dispatcher ──▶ execution ──▶ bot
                 │                          └──▶ services: sender ──▶ lanes ──▶ transport; users; http; database
                 └── directory ─────────────────────┘
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from gbot.bot import Bot
from gbot.broadcast import ANNOUNCEMENT, PART, Broadcaster
from gbot.config import Config
from gbot.context import Services
from gbot.counts import counted
from gbot.database.address import parse
from gbot.database.connector import READ_TIMEOUT_S
from gbot.database.limits import inbox_beside
from gbot.database.opening import DatabaseSettings, Opening
from gbot.database.sizing import share_of_files
from gbot.dispatcher import Dispatcher, Leftovers
from gbot.errors import ConfigError
from gbot.execution import Execution
from gbot.inbox import Inbox
from gbot.inboxes.calls import Call, InOneThread, directly
from gbot.inboxes.desk import SqlDesk
from gbot.inboxes.durable import DurableInbox
from gbot.inboxes.memory import MemoryInbox
from gbot.inboxes.mysql import MySqlStore
from gbot.inboxes.sqlite import SqliteStore
from gbot.inboxes.store import Desk, Policy
from gbot.limiter import ALL
from gbot.outbound.api import Api
from gbot.outbound.api_sender import ApiSender, SenderStatistics
from gbot.outbound.console import ConsoleSender
from gbot.outbound.session import make_session
from gbot.outbound.transport import Transport
from gbot.platform import Platform
from gbot.platforms.line import LinePlatform
from gbot.platforms.messenger import MessengerPlatform
from gbot.platforms.plain import PlainPlatform
from gbot.process import file_limit, possible_calls
from gbot.sender import Sender
from gbot.users import Users
from gbot.webhook import Intake, application

log = logging.getLogger(__name__)

WAITING_BESIDE_HANDLERS_MAX = 1000  # greenlets that authors start themselves
SETTLE_S = 2.0  # for outcomes to be written down when the handlers' time is over
DESK_READ_TIMEOUT_S = 600.0  # people who count millions of entries, or change their table, have the time


def build_platforms(config: Config) -> list[Platform]:
    """The platforms to serve: those asked for by name, else those with a secret, else plain."""
    with_secret = [
        name
        for name, secret in (("line", config.line_channel_secret), ("messenger", config.messenger_app_secret))
        if secret
    ]
    return [_build_platform(name, config) for name in config.platforms or with_secret or ["plain"]]


def _build_platform(name: str, config: Config) -> Platform:
    if name == "line":
        token = _only(config.line_channel_access_token)
        return LinePlatform(config.line_channel_secret, token, config.line_api_base, config.line_content_base)
    if name == "messenger":
        return MessengerPlatform(
            config.messenger_app_secret,
            _only(config.messenger_verify_token),
            _only(config.messenger_page_token),
            config.messenger_api_base,
        )
    return PlainPlatform()


def _only(values: tuple[str, ...]) -> str | None:
    return values[0] if values else None


def build_sender(platform: Platform, transport: Transport, config: Config) -> Sender:
    """The way out to a platform, in the lanes that it and the operator allow."""
    if platform.name == "plain":
        return ConsoleSender()
    api = Api(
        platform, transport, config.lanes_of(platform.name), waiting_max=config.pool + WAITING_BESIDE_HANDLERS_MAX
    )
    return ApiSender(platform, api, config.merge_window)


def check_lanes(config: Config, platforms: Sequence[Platform]) -> None:
    """Raise ConfigError for the limit of a lane that no platform has: the operator would count on it."""
    endpoints = {platform.name: platform.limits.lanes for platform in platforms}
    for name, _ in config.lanes or ():
        platform, _, endpoint = name.partition(".")
        if not endpoints.get(platform):
            served = ", ".join(name for name, lanes in endpoints.items() if lanes) or "none that has an API"
            _refuse_lanes(f"lanes of platforms that are served ({served})", name)
        if endpoint != ALL and endpoint not in endpoints[platform]:
            _refuse_lanes(f"endpoints of {platform}: {', '.join([*endpoints[platform], ALL])}", name)
        if endpoint == ALL and len(config.lanes_of(platform)) > 1:
            _refuse_lanes(f"{name} alone, or single endpoints of {platform}", "both")


def _refuse_lanes(expected: str, given: str) -> NoReturn:
    raise ConfigError("lanes", expected, given, "the settings")


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


def build_database(config: Config) -> Opening | None:
    """The bot's own database, not opened yet; None when it has none. Raises StartError where it does not fit."""
    if config.db is None:
        return None
    address = parse(config.db)
    return Opening(
        DatabaseSettings(
            address=address,
            size=config.db_pool,
            warm=config.db_warm,
            wait_s=config.db_wait_timeout,
            hold_warning_s=config.db_hold_warning,
            nodes=config.db_share,
            clamp=config.db_oversize == "clamp",
            inbox=inbox_beside(address, config.inbox),
        ),
        share_of_files(file_limit()),
    )


class Engine:
    """The part of a worker between the HTTP server and the handlers."""

    def __init__(self, config: Config, bot: Bot) -> None:
        self.platforms = build_platforms(config)
        check_lanes(config, self.platforms)
        self.inbox = build_inbox(config)
        self._http = make_session()
        self._opening = build_database(config)
        self.database = self._opening.database if self._opening is not None else None
        calls_max = possible_calls(config.pool + WAITING_BESIDE_HANDLERS_MAX, self.database_connections_max)
        self.transport = Transport(calls_max)
        self.senders = {platform.name: build_sender(platform, self.transport, config) for platform in self.platforms}
        services = {name: self._services(name, sender, config) for name, sender in self.senders.items()}
        broadcaster = Broadcaster(self.inbox, services)
        bot.attach(broadcaster)
        internal = {PART: broadcaster.send_part, ANNOUNCEMENT: broadcaster.send_announcement}
        self.execution = Execution(
            bot, self.inbox, services, config.handler_timeout, config.attempts_max, internal=internal
        )
        self.dispatcher = Dispatcher(self.execution, config.pool, strict=config.order == "strict")
        self.intake = Intake(self.inbox, config.body_bytes_max)
        self.app = application(self.platforms, self.intake)

    def _services(self, platform: str, sender: Sender, config: Config) -> Services:
        directory = self.inbox.directory
        return Services(
            sender, directory, Users(platform, directory, sender), self._http, config.state_ttl, self.database
        )

    @property
    def database_connections_max(self) -> int:
        """How many descriptors the bot's own database may need."""
        return self._opening.size if self._opening is not None else 0

    def sending(self) -> list[SenderStatistics]:
        """What the ways out to APIs have done, one for each platform that has an API."""
        return [sender.statistics() for sender in self.senders.values() if isinstance(sender, ApiSender)]

    def start(self) -> None:
        """Begin to run what is in the inbox. Raises StartError when that, or the bot's database, cannot be used."""
        if self._opening is not None:
            self._opening.start()
        self.inbox.start(self.dispatcher.submit, self.dispatcher.room, self.dispatcher.in_hand)

    def drain(self, deadline: float) -> str:
        """Let handlers finish, write down how they ended; returns a sentence about what was left."""
        left = self.dispatcher.drain(deadline, give_back=self.inbox.keeps)
        if self._opening is not None:
            self._opening.stop()
        unsaved = self.inbox.stop(max(deadline, time.monotonic() + SETTLE_S))
        return left_sentence(left, self.inbox, unsaved, self.inbox.statistics().held)

    def drain_at_exit(self, stop_timeout: float) -> None:
        """For servers that do not drain handlers themselves."""
        self.intake.drain()
        log.info("Stopped. %s", self.drain(time.monotonic() + stop_timeout))


def left_sentence(left: Leftovers, inbox: Inbox, unsaved: int, put_off: int) -> str:
    """What a stop left undone, and what becomes of it; ``put_off`` events were to be tried again later."""
    sentences = []
    unstored = inbox.statistics().unstored
    if left.running or left.waiting:
        fate = "the next start runs them" if inbox.keeps else f"the {inbox.place} inbox has lost them"
        stopped = counted(left.running, "running handler was", "running handlers were")
        never_started = counted(left.waiting, "waiting event")
        sentences.append(f"Left: {stopped} stopped and {never_started} never started; {fate}")
    if put_off > 0 and not inbox.keeps:
        lost = counted(put_off, "event that was to be tried again is", "events that were to be tried again are")
        sentences.append(f"{lost} lost")
    if unstored:
        one = "event that was on its way into the store is"
        lost = counted(unstored, one, "events that were on their way into the store are")
        sentences.append(f"{lost} lost, or will be sent again")
    if unsaved:
        one = "outcome could not be written down: this event runs again"
        sentences.append(counted(unsaved, one, "outcomes could not be written down: these events run again"))
    return ". ".join(sentences) or "Nothing was left to do"
