"""The author's API: which handler gets an event, what it is given, how it answers, which mistakes are told early."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbot import Bot, Context, Event
from gbot.errors import BotError
from tests.rig import Outbox, event, services, text_event

REFUSED_MESSAGES = [5, None, b"bytes", object(), ["text"], 1.5, {"a", "set"}]


def handle(bot: Bot, given: Event) -> Outbox | None:
    """What was sent while the bot handled this event; None when it has no handler for it."""
    found = bot.find(given)
    if found is None:
        return None
    outbox = Outbox()
    ctx = Context(given, services(outbox))
    bot.call(ctx, *found)
    ctx.finish()
    return outbox


def answers(bot: Bot, text: str) -> list[str] | None:
    outbox = handle(bot, text_event(text))
    return None if outbox is None else outbox.texts()


def answering(bot: Bot, register: Callable[[Any], Any], answer: str) -> None:
    """Register a handler that answers with this text."""

    @register
    def answer_it(ctx: Context) -> None:
        ctx.reply(answer)


# ---- which handler


def test_a_string_takes_the_text_that_equals_it() -> None:
    bot = Bot()
    answering(bot, bot.text("hello"), "equal")
    assert answers(bot, "hello") == ["equal"]
    for other in ("Hello", "hello ", "hello there", "", "hell"):
        assert answers(bot, other) is None


def test_a_regex_takes_the_texts_in_which_it_is_found() -> None:
    bot = Bot()
    answering(bot, bot.text(re.compile(r"\bcat\b", re.IGNORECASE)), "found")
    assert answers(bot, "a Cat sat") == ["found"]
    assert answers(bot, "concatenate") is None


def test_named_groups_become_arguments() -> None:
    bot = Bot()
    given: list[tuple[str, str | None]] = []

    @bot.text(re.compile(r"weather in (?P<city>\w+)( on (?P<day>\w+))?"))
    def weather(ctx: Context, city: str, day: str | None) -> None:
        given.append((city, day))

    handle(bot, text_event("the weather in Osaka on Monday"))
    handle(bot, text_event("the weather in Kyoto"))
    assert given == [("Osaka", "Monday"), ("Kyoto", None)]


def test_text_without_a_pattern_takes_every_text_and_nothing_else() -> None:
    bot = Bot()
    answering(bot, bot.text(), "text")
    assert answers(bot, "anything") == ["text"]
    assert answers(bot, "") == ["text"]
    assert handle(bot, event("message.image")) is None
    assert handle(bot, event("follow")) is None


@pytest.mark.parametrize("register", [lambda bot: bot.text("x"), lambda bot: bot.text(re.compile("x"))])
def test_text_handlers_take_only_text_messages(register: Callable[[Bot], Any]) -> None:
    bot = Bot()
    register(bot)(lambda ctx: None)
    assert handle(bot, event("messageEdited", text="x")) is None
    assert handle(bot, event("message.text", text=None)) is None


@pytest.mark.parametrize(
    ("text", "args"),
    [("/help", ""), ("/help me", "me"), ("  /help\tme  now \n", "me  now"), ("/help\n/help", "/help")],
)
def test_a_command_takes_its_first_word_and_keeps_the_rest(text: str, args: str) -> None:
    bot = Bot()
    given: list[str] = []

    @bot.command("/help")
    def help_(ctx: Context) -> None:
        given.append(ctx.args)

    handle(bot, text_event(text))
    assert given == [args]


@pytest.mark.parametrize("text", ["/helpme", "/HELP", "please /help", "", "   ", "help"])
def test_a_command_takes_nothing_else(text: str) -> None:
    bot = Bot()
    answering(bot, bot.command("/help"), "help")
    assert answers(bot, text) is None


def test_on_takes_a_kind_and_all_kinds_below_it() -> None:
    bot = Bot()
    answering(bot, bot.on("message.image"), "image")
    answering(bot, bot.on("message"), "message")
    answering(bot, bot.on("follow"), "follow")
    for kind, answer in [("message.image", "image"), ("message.sticker", "message"), ("follow", "follow")]:
        outbox = handle(bot, event(kind))
        assert outbox is not None
        assert outbox.texts() == [answer]
    assert answers(bot, "a text") == ["message"]
    for kind in ("messageEdited", "unfollow", "followed", "unknown"):
        assert handle(bot, event(kind)) is None


def test_the_default_takes_what_no_other_takes_wherever_it_is_registered() -> None:
    bot = Bot()
    answering(bot, bot.default, "default")
    answering(bot, bot.text("hello"), "hello")
    assert answers(bot, "hello") == ["hello"]
    assert answers(bot, "other") == ["default"]
    outbox = handle(bot, event("unknown"))
    assert outbox is not None
    assert outbox.texts() == ["default"]


def test_the_first_match_wins_and_routes_shows_the_order() -> None:
    bot = Bot()
    answering(bot, bot.default, "default")
    answering(bot, bot.text(re.compile("hel+o")), "regex")
    answering(bot, bot.text("hello"), "string")
    answering(bot, bot.command("/help", timeout=3), "command")
    answering(bot, bot.on("message"), "kind")
    answering(bot, bot.text(), "any")
    assert answers(bot, "hello") == ["regex"]
    assert answers(bot, "/help") == ["command"]
    rules = ["text /hel+o/", 'text "hello"', "command /help", "on message", "text", "default"]
    assert [route.rule for route in bot.routes()] == rules
    assert [route.timeout_s for route in bot.routes()] == [None, None, 3, None, None, None]


def test_a_bot_without_handlers_has_none() -> None:
    assert Bot().routes() == []
    assert answers(Bot(), "hello") is None


@given(st.lists(st.sampled_from(["a", "b", "c", None]), max_size=6), st.sampled_from(["a", "b", "c", "d"]))
def test_with_any_handlers_the_first_that_matches_wins(patterns: list[str | None], text: str) -> None:
    bot = Bot()
    for number, pattern in enumerate(patterns):
        answering(bot, bot.text(pattern), str(number))
    first = next((str(number) for number, pattern in enumerate(patterns) if pattern in (text, None)), None)
    assert answers(bot, text) == ([first] if first is not None else None)


def test_handlers_stay_callable_as_they_were() -> None:
    bot = Bot()

    def plain(ctx: Context) -> str:
        return "called"

    for register in (bot.text("x"), bot.command("x"), bot.on("x"), bot.default):
        assert register(plain) is plain  # type: ignore[operator]


# ---- middleware and the error handler


def test_middleware_wraps_in_order_of_registration() -> None:
    bot = Bot()
    steps: list[str] = []

    @bot.middleware
    def outer(ctx: Context, call_next: Callable[[], object]) -> None:
        steps.append("outer in")
        call_next()
        steps.append("outer out")

    @bot.middleware
    def inner(ctx: Context, call_next: Callable[[], object]) -> object:
        steps.append("inner in")
        result = call_next()
        steps.append(f"inner out {result}")
        return result

    @bot.text(re.compile("(?P<word>.+)"))
    def handler(ctx: Context, word: str) -> str:
        steps.append(f"handler {word}")
        return "result"

    handle(bot, text_event("hello"))
    assert steps == ["outer in", "inner in", "handler hello", "inner out result", "outer out"]


def test_middleware_that_does_not_go_on_ends_it_there() -> None:
    bot = Bot()
    answering(bot, bot.default, "not sent")

    @bot.middleware
    def gate(ctx: Context, call_next: Callable[[], object]) -> None:
        ctx.reply("closed")

    assert answers(bot, "hello") == ["closed"]


def test_middleware_sees_and_may_swallow_the_handlers_error() -> None:
    bot = Bot()
    seen: list[str] = []

    @bot.middleware
    def swallow(ctx: Context, call_next: Callable[[], object]) -> None:
        try:
            call_next()
        except ValueError as error:
            seen.append(str(error))

    @bot.default
    def failing(ctx: Context) -> None:
        raise ValueError(ctx.text)

    handle(bot, text_event("hello"))
    assert seen == ["hello"]


def test_middleware_sees_the_commands_arguments() -> None:
    bot = Bot()
    seen: list[str] = []
    bot.command("/add")(lambda ctx: None)

    @bot.middleware
    def look(ctx: Context, call_next: Callable[[], object]) -> None:
        seen.append(ctx.args)

    handle(bot, text_event("/add 1 2"))
    assert seen == ["1 2"]


def test_the_error_handler_is_told_context_and_error() -> None:
    bot = Bot()
    told: list[tuple[str, str]] = []
    error = ValueError("reason")
    ctx = Context(text_event("hello"), services(Outbox()))
    bot.call_error_handler(ctx, error)  # nobody to tell yet

    @bot.error
    def tell(ctx: Context, error: BaseException) -> None:
        told.append((ctx.text, str(error)))

    bot.call_error_handler(ctx, error)
    assert told == [("hello", "reason")]


# ---- mistakes in putting a bot together


async def an_async_function(ctx: Context) -> None: ...


def a_generator(ctx: Context) -> Any:
    yield ctx


async def an_async_generator(ctx: Context) -> Any:
    yield ctx


def without_arguments() -> None: ...


def with_two(ctx: Context, city: str) -> None: ...


def with_one(ctx: Context) -> None: ...


MISTAKES: list[tuple[str, Callable[[Bot], object], str]] = [
    ("text-bare", lambda bot: bot.text(with_one), "@bot.text needs parentheses"),  # type: ignore[arg-type]
    ("command-bare", lambda bot: bot.command(with_one), "@bot.command needs parentheses"),  # type: ignore[arg-type]
    ("on-bare", lambda bot: bot.on(with_one), "@bot.on needs parentheses"),  # type: ignore[arg-type]
    ("text-number", lambda bot: bot.text(5), "expected a string, a compiled regex or nothing, got int"),  # type: ignore[arg-type]
    ("text-bytes", lambda bot: bot.text(re.compile(b"x")), "a regex for text"),  # type: ignore[arg-type]
    ("command-list", lambda bot: bot.command(["/a"]), "expected a word"),  # type: ignore[arg-type]
    ("command-empty", lambda bot: bot.command(""), "expected one word"),
    ("command-two", lambda bot: bot.command("/help me"), "expected one word"),
    ("on-empty", lambda bot: bot.on(""), "expected a kind of event"),
    ("on-space", lambda bot: bot.on("follow unfollow"), "expected a kind of event"),
    ("on-dot", lambda bot: bot.on("message."), "expected a kind of event"),
    ("async", lambda bot: bot.text()(an_async_function), "an_async_function is async"),
    ("async-generator", lambda bot: bot.text()(an_async_generator), "an_async_generator is async"),
    ("async-default", lambda bot: bot.default(an_async_function), "an_async_function is async"),
    ("async-error", lambda bot: bot.error(an_async_function), "an_async_function is async"),
    ("async-middleware", lambda bot: bot.middleware(an_async_function), "an_async_function is async"),
    ("generator", lambda bot: bot.on("follow")(a_generator), "a_generator has a yield"),
    ("no-arguments", lambda bot: bot.text()(without_arguments), "will be called with (ctx)"),
    ("no-arguments-default", lambda bot: bot.default(without_arguments), "will be called with (ctx)"),
    ("too-many", lambda bot: bot.text("x")(with_two), "missing a required argument: 'city'"),
    ("group-missing", lambda bot: bot.text(re.compile("(?P<town>x)"))(with_two), "will be called with (ctx, town)"),
    ("group-ctx", lambda bot: bot.text(re.compile("(?P<ctx>x)"))(with_one), "multiple values for argument 'ctx'"),
    ("error-arguments", lambda bot: bot.error(with_one), "will be called with (ctx, error)"),  # type: ignore[arg-type]
    ("middleware-arguments", lambda bot: bot.middleware(with_one), "(ctx, call_next)"),  # type: ignore[arg-type]
    ("no-function", lambda bot: bot.text("x")("y"), "expected a function to decorate, got str"),  # type: ignore[type-var]
    ("default-no-function", lambda bot: bot.default(None), "expected a function"),  # type: ignore[type-var]
    ("error-no-function", lambda bot: bot.error("x"), "expected a function"),  # type: ignore[arg-type]
    ("middleware-no-function", lambda bot: bot.middleware("x"), "expected a function"),  # type: ignore[arg-type]
    ("timeout-zero", lambda bot: bot.text("x", timeout=0)(with_one), "a positive number of seconds, got 0"),
    ("timeout-negative", lambda bot: bot.on("x", timeout=-1.5)(with_one), "a positive number of seconds, got -1.5"),
    ("timeout-nan", lambda bot: bot.command("x", timeout=float("nan"))(with_one), "a positive number of seconds"),
    ("timeout-text", lambda bot: bot.text("x", timeout="5")(with_one), "got '5'"),  # type: ignore[arg-type]
    ("timeout-true", lambda bot: bot.text("x", timeout=True)(with_one), "got True"),
]


@pytest.mark.parametrize(("mistake", "part"), [pytest.param(make, part, id=name) for name, make, part in MISTAKES])
def test_a_mistake_is_told_at_once(mistake: Callable[[Bot], object], part: str) -> None:
    bot = Bot()
    with pytest.raises(BotError) as raised:
        mistake(bot)
    assert part in str(raised.value)
    assert bot.routes() == []


def test_there_can_be_one_default_and_one_error_handler() -> None:
    bot = Bot()
    bot.default(with_one)
    bot.error(with_two)  # type: ignore[arg-type]
    with pytest.raises(BotError, match=r"@bot\.default is with_one already"):
        bot.default(with_one)
    with pytest.raises(BotError, match=r"@bot\.error is with_two already"):
        bot.error(with_two)  # type: ignore[arg-type]


def test_anything_that_can_be_called_may_be_a_handler() -> None:
    class Counter:
        count = 0

        def __call__(self, ctx: Context) -> None:
            self.count += 1

        def method(self, ctx: Context) -> None:
            self.count += 10

    counter = Counter()
    bot = Bot()
    bot.text("1")(counter)
    bot.text("2")(counter.method)
    bot.text("3")(functools.partial(with_two, city="x"))
    bot.text("4")(lambda *args, **kwargs: None)
    bot.text("5")(getattr)  # tells no signature: taken on trust
    for text in "1234":
        handle(bot, text_event(text))
    assert counter.count == 11
