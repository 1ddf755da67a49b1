"""The author's API: a Bot collects handlers; a Context, from :mod:`gbot.context`, is what each of them gets.

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
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from gbot.broadcast import Broadcast, Broadcaster
from gbot.context import Context
from gbot.errors import BotError
from gbot.event import Event, Message

Handler = Callable[..., object]
CallNext = Callable[[], object]
Middleware = Callable[[Context, CallNext], object]
ErrorHandler = Callable[[Context, BaseException], object]
Groups = Mapping[str, str | None]

H = TypeVar("H", bound=Handler)

NO_GROUPS: Groups = {}


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
        self._broadcaster: Broadcaster | None = None  # while the bot is served

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
        """Called with (ctx, error) when an event is given up, and the error has been logged.

        That is when its last attempt has failed, or one with an error that is final: no later attempt would help. What
        the handler had replied and not flushed is not sent; what is replied here is, unless the platform takes one
        reply per event and has had it. Not called for events that are dropped, nor when the last attempt ran out of
        time or was killed.
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

    # Sending without an event.

    def broadcast(
        self, users: Iterable[str], *messages: object, platform: str | None = None, id: str | None = None
    ) -> Broadcast:
        """Send the same to many users, in as few requests as the platform takes; returns once all of it is stored.

        It is sent as the platform's limits allow, also by the next worker when this one ends, and left out for those
        who have left or blocked the bot. Give it an ``id`` where it may be called twice for the same thing, as in a
        handler that runs again: the same id, with the same users in the same order, is the same broadcast.
        ``platform`` is needed when several are served. Raises MessageRefused, BotError (the bot is not served),
        DeliveryError (it could not be stored).
        """
        return self._served("broadcast").broadcast(users, Message.all_of(messages), platform, id)

    def announce(self, *messages: object, platform: str | None = None, id: str | None = None) -> str:
        """Send to everybody who follows the bot, where the platform has that; returns its id once it is stored.

        For ``platform``, ``id`` and what it raises see ``broadcast``.
        """
        return self._served("announce").announce(Message.all_of(messages), platform, id)

    def _served(self, method: str) -> Broadcaster:
        if self._broadcaster is None:
            raise BotError(f"bot.{method} works while the bot is served, not when its module is imported")
        return self._broadcaster

    # What the server asks.

    def attach(self, broadcaster: Broadcaster) -> None:
        """From now on the bot is served."""
        self._broadcaster = broadcaster

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
