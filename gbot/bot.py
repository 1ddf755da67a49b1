"""The author's API: a Bot collects handlers, a Context is what each of them gets.

::

    import re
    from gbot import Bot

    bot = Bot()

    @bot.text(re.compile(r"weather in (?P<city>\\w+)"))
    def weather(ctx, city):
        ctx.reply(f"Looking out of the window in {city} …")

Handlers are plain functions. Each event runs in a greenlet of its own, so ``time.sleep``, requests and PyMySQL may
wait as long as they like without holding anybody up. The first handler that matches, in order of registration, gets
the event.
"""

from __future__ import annotations

import inspect
import logging
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from gbot.errors import ApiUnavailable, BotError, ReplyRefused, ReplyTokenExpired, ResultUnknown, SendError
from gbot.event import Event, Message

Handler = Callable[..., object]
CallNext = Callable[[], object]
Middleware = Callable[["Context", CallNext], object]
ErrorHandler = Callable[["Context", BaseException], object]
Groups = Mapping[str, str | None]

H = TypeVar("H", bound=Handler)

NO_GROUPS: Groups = {}


class Sender(Protocol):
    """The way out to one platform; outbound/ has the implementations."""

    def reply(self, event: Event, messages: Sequence[Message]) -> None:
        """Answer this event. Raises SendError."""

    def push(self, to: str, messages: Sequence[Message], retry_key: str) -> None:
        """Send to a user, group or room. Raises SendError."""

    @property
    def reply_within_s(self) -> float | None:
        """How long after its arrival an event can be replied to; None: for ever."""


class Context:
    """One event on its way through a handler, and the ways to answer it."""

    __slots__ = ("_log", "_received_ms", "_replied", "_sender", "args", "attempt", "event")

    def __init__(self, event: Event, sender: Sender, attempt: int = 1, received_ms: int | None = None) -> None:
        self.event = event
        self.attempt = attempt  # 1 in the first run, 2 in the next …
        self._received_ms = received_ms
        self.args = ""  # what follows the command, for handlers of @bot.command
        self._sender = sender
        self._replied = False
        self._log: logging.LoggerAdapter[logging.Logger] | None = None

    @property
    def text(self) -> str:
        """The event's text, or ``""`` when it has none."""
        return self.event.text or ""

    @property
    def age_s(self) -> float:
        """Seconds since gbot accepted the event: short in its first run, longer after a retry or a restart."""
        return 0.0 if self._received_ms is None else max(0.0, time.time() - self._received_ms / 1000)

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose lines carry the platform and the event's id."""
        if self._log is None:
            context = {"platform": self.event.platform, "event_id": self.event.id}
            self._log = logging.LoggerAdapter(logging.getLogger("gbot.app"), context)
        return self._log

    def reply(self, *messages: object) -> None:
        """Answer the event with texts, dicts or an SDK's message models; once per event.

        Raises MessageRefused (wrong shape), ReplyTokenExpired (the event is older than the platform lets anybody reply
        to; ``push`` still works), ReplyRefused (standby, no reply token, already replied), ApiError. After
        ResultUnknown or ApiUnavailable the reply may have arrived, so it counts as made.
        """
        if self._replied:
            raise ReplyRefused("this event has been replied to, and its reply token works once; use ctx.push")
        sending = Message.all_of(messages)
        self._check_age()
        self._replied = True  # before the wait: another greenlet of the handler may try as well
        try:
            self._sender.reply(self.event, sending)
        except (ResultUnknown, ApiUnavailable):
            raise
        except SendError:
            self._replied = False
            raise

    def _check_age(self) -> None:
        """A reply token is not worth a request when it is certain to be refused. Raises ReplyTokenExpired."""
        limit_s = self._sender.reply_within_s
        if limit_s is not None and self.age_s > limit_s:
            raise ReplyTokenExpired(
                f"this event arrived {self.age_s:.0f} s ago and could be replied to for {limit_s:g} s; use ctx.push"
            )

    def push(self, *messages: object, to: str | None = None) -> None:
        """Send to where the event came from, or to ``to`` (a user, group or room id of the same platform).

        Raises MessageRefused (wrong shape), ReplyRefused (nowhere to send to), ApiError. Calling it again
        after ResultUnknown may send twice: each call is a message of its own.
        """
        conversation = self.event.conversation
        address = to if to is not None else conversation.id if conversation else None
        if address is None:
            raise ReplyRefused("this event does not say where it came from; give ctx.push a to=")
        self._sender.push(address, Message.all_of(messages), str(uuid.uuid4()))


Match = Callable[[Event], "Groups | None"]


@dataclass(frozen=True, slots=True)
class Route:
    """One registered handler. ``match`` returns the handler's named arguments, or None when it is not for it."""

    rule: str  # as `gbot routes` shows it
    handler: Handler
    match: Match
    command: str | None = None
    timeout_s: float | None = None  # None: the server's --handler-timeout


class Bot:
    """A collection of handlers. Create one in your module and name it to ``gbot serve module:attribute``."""

    def __init__(self) -> None:
        self._routes: list[Route] = []
        self._default: Route | None = None
        self._middleware: list[Middleware] = []
        self._error_handler: ErrorHandler | None = None

    # Registration.

    def text(self, pattern: str | re.Pattern[str] | None = None, *, timeout: float | None = None) -> Callable[[H], H]:
        """For text messages: those equal to a string, those in which a compiled regex is found, or all of them.

        Named groups of the regex become the handler's arguments (None for a group that took no part).
        ``timeout`` in seconds overrides ``--handler-timeout``. Raises BotError if the handler cannot take the groups.
        """
        if pattern is None:
            return self._adder("text", lambda event: NO_GROUPS if event.kind == "message.text" else None, (), timeout)
        if isinstance(pattern, str):
            return self._adder(f'text "{pattern}"', _equals(pattern), (), timeout)
        if isinstance(pattern, re.Pattern):
            if not isinstance(pattern.pattern, str):
                raise BotError("@bot.text: expected a regex for text, got one for bytes")
            return self._adder(f"text /{pattern.pattern}/", _finds(pattern), tuple(pattern.groupindex), timeout)
        raise BotError(_not_called("text", pattern, "a string, a compiled regex or nothing"))

    def command(self, name: str, *, timeout: float | None = None) -> Callable[[H], H]:
        """For text messages whose first word is ``name``, such as ``"/help"``; ``ctx.args`` holds what follows it."""
        if not isinstance(name, str):
            raise BotError(_not_called("command", name, 'a word such as "/help"'))
        if not name or name.split() != [name]:
            raise BotError(f"@bot.command: expected one word, such as '/help', got {name!r}")
        return self._adder(f"command {name}", _first_word(name), (), timeout, command=name)

    def on(self, kind: str, *, timeout: float | None = None) -> Callable[[H], H]:
        """For events of a kind: ``"follow"``, ``"message.image"`` …; ``"message"`` is every kind of message."""
        if not isinstance(kind, str):
            raise BotError(_not_called("on", kind, 'a kind of event such as "follow"'))
        if kind.split() != [kind] or kind.endswith("."):
            raise BotError(f"@bot.on: expected a kind of event such as 'follow' or 'message.image', got {kind!r}")
        prefix = kind + "."
        return self._adder(
            f"on {kind}",
            lambda event: NO_GROUPS if event.kind == kind or event.kind.startswith(prefix) else None,
            (),
            timeout,
        )

    def default(self, handler: H) -> H:
        """For every event that no other handler takes."""
        if self._default is not None:
            raise BotError(f"@bot.default is {_name(self._default.handler)} already; there can be one")
        _check_call(handler, "@bot.default", ("ctx",))
        self._default = Route("default", handler, lambda event: NO_GROUPS)
        return handler

    def error(self, handler: ErrorHandler) -> ErrorHandler:
        """Called with (ctx, error) when an event is given up: its last attempt failed, and the error has been logged.

        Not called for events that are dropped, nor when the last attempt ran out of time or was killed.
        """
        if self._error_handler is not None:
            raise BotError(f"@bot.error is {_name(self._error_handler)} already; there can be one")
        _check_call(handler, "@bot.error", ("ctx", "error"))
        self._error_handler = handler
        return handler

    def middleware(self, function: Middleware) -> Middleware:
        """Wraps every handler: called with (ctx, call_next) and calls ``call_next()`` to go on. First one outermost."""
        _check_call(function, "@bot.middleware", ("ctx", "call_next"))
        self._middleware.append(function)
        return function

    def _adder(
        self,
        rule: str,
        match: Match,
        names: tuple[str, ...],
        timeout: float | None,
        command: str | None = None,
    ) -> Callable[[H], H]:
        if timeout is not None and (isinstance(timeout, bool | str) or not timeout > 0):  # not: so that NaN is refused
            raise BotError(f"{rule}: expected timeout to be a positive number of seconds, got {timeout!r}")

        def add(handler: H) -> H:
            _check_call(handler, rule, ("ctx",), names)
            self._routes.append(Route(rule, handler, match, command, timeout))
            return handler

        return add

    # What the server asks.

    def routes(self) -> list[Route]:
        """All handlers in the order in which they are tried."""
        return [*self._routes, *([self._default] if self._default else [])]

    def find(self, event: Event) -> tuple[Route, Groups] | None:
        """The handler for this event and its named arguments; None when the bot has none."""
        for route in self._routes:
            groups = route.match(event)
            if groups is not None:
                return route, groups
        return (self._default, NO_GROUPS) if self._default is not None else None

    def call(self, ctx: Context, route: Route, groups: Groups) -> None:
        """Run the handler inside the middleware. Raises whatever they raise."""
        if route.command is not None:
            ctx.args = ctx.text.strip()[len(route.command) :].strip()
        if not self._middleware:
            route.handler(ctx, **groups) if groups else route.handler(ctx)
            return

        def call_from(index: int) -> object:
            if index == len(self._middleware):
                return route.handler(ctx, **groups)
            return self._middleware[index](ctx, lambda: call_from(index + 1))

        call_from(0)

    def call_error_handler(self, ctx: Context, error: BaseException) -> None:
        """Tell the author's error handler, if there is one. Raises whatever it raises."""
        if self._error_handler is not None:
            self._error_handler(ctx, error)


def _equals(text: str) -> Match:
    return lambda event: NO_GROUPS if event.kind == "message.text" and event.text == text else None


def _finds(pattern: re.Pattern[str]) -> Match:
    def match(event: Event) -> Groups | None:
        found = pattern.search(event.text) if event.kind == "message.text" and event.text is not None else None
        return found.groupdict() if found else None

    return match


def _first_word(word: str) -> Match:
    def match(event: Event) -> Groups | None:
        words = event.text.split(None, 1) if event.kind == "message.text" and event.text is not None else ()
        return NO_GROUPS if words and words[0] == word else None

    return match


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))


def _not_called(decorator: str, given: object, expected: str) -> str:
    if callable(given):
        return f"@bot.{decorator} needs parentheses: @bot.{decorator}(…), with {expected} in them"
    return f"@bot.{decorator}: expected {expected}, got {type(given).__name__}"


def _check_call(function: Callable[..., Any], rule: str, given: tuple[str, ...], names: tuple[str, ...] = ()) -> None:
    """Fail when the bot is put together rather than at the first message. Raises BotError."""
    if not callable(function):
        raise BotError(f"{rule}: expected a function to decorate, got {type(function).__name__}")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise BotError(f"{rule}: {_name(function)} is async; handlers are plain functions, waiting is what they may do")
    if inspect.isgeneratorfunction(function):
        raise BotError(f"{rule}: {_name(function)} has a yield in it, so that calling it would run nothing")
    try:
        signature = inspect.signature(function)
    except ValueError:
        return  # some functions written in C do not tell what they take
    try:
        signature.bind(*given, **dict.fromkeys(names))
    except TypeError as error:
        call = ", ".join([*given, *names])
        raise BotError(f"{rule}: {_name(function)} will be called with ({call}), but: {error}") from None
