"""What handlers do with their context: replies that leave together, pushes that arrive once, state that is kept."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linebot.v3 import messaging as sdk

from gbot import Context, Conversation, Event, Message
from gbot.directory import Change, StateChange, UserForgotten, UserGone
from gbot.draft import STATE_BYTES_MAX
from gbot.errors import (
    ApiLimited,
    ApiRejected,
    ApiUnavailable,
    ApiUnreachable,
    BotError,
    ContentGone,
    DirectoryUnavailable,
    LaneBusy,
    MessageRefused,
    RecipientGone,
    ReplyRefused,
    ReplyTokenExpired,
    ReplyTokenRefused,
    ResultUnknown,
    StateRefused,
)
from gbot.inboxes.memory_directory import MemoryDirectory
from gbot.sender import Quota
from gbot.user import Profile, User
from tests.rig import HTTP, ONE_REPLY, PLAIN, STATE_TTL_S, Outbox, event, services, text_event, wait_until

REFUSED_MESSAGES = [5, None, b"bytes", object(), ["text"], 1.5, {"a", "set"}]
ANNA = Conversation("user", "anna")


def ms_ago(seconds: float) -> int:
    return time.time_ns() // 1_000_000 - round(seconds * 1000)


def context(outbox: Outbox, of: Event | None = None, age_s: float = 0.0) -> Context:
    """The context of an event that arrived so long ago; it is a text of Anna's unless told otherwise."""
    return Context(of or text_event("x", "anna"), services(outbox), 1, ms_ago(age_s))


def from_platform(event_id: str | None, platform: str = "plain") -> Event:
    return Event(platform=platform, kind="follow", raw={}, id=event_id, conversation=ANNA, user_id="anna")


def bodies(sent: tuple[str, str, list[Message]]) -> list[dict[str, Any]]:
    return [dict(message.body) for message in sent[2]]


class Down:
    """A directory whose database does not answer."""

    def state(self, platform: str, conversation: Conversation) -> str | None:
        raise DirectoryUnavailable("the database does not answer", 5.0)

    def users(self, platform: str, ids: Sequence[str]) -> dict[str, User]:
        raise DirectoryUnavailable("the database does not answer", 5.0)

    def save(self, changes: Sequence[Change]) -> None:
        raise DirectoryUnavailable("the database does not answer", 5.0)


# ---- what is a message


def test_reply_takes_texts_dicts_sdk_models_and_messages() -> None:
    outbox = Outbox()
    ctx = context(outbox)
    ctx.reply(
        "text",
        {"type": "sticker", "packageId": "446", "stickerId": "1988"},
        sdk.TextMessage(text="from the SDK", quickReply=sdk.QuickReply(items=[])),
        Message({"type": "text", "text": "ready"}),
    )
    ctx.finish()
    assert outbox.ways() == [("reply", "token of x")]
    assert bodies(outbox.sent[0]) == [
        {"type": "text", "text": "text"},
        {"type": "sticker", "packageId": "446", "stickerId": "1988"},
        {"type": "text", "text": "from the SDK", "quickReply": {"items": []}},
        {"type": "text", "text": "ready"},
    ]


@pytest.mark.parametrize("value", REFUSED_MESSAGES, ids=repr)
def test_what_is_no_message_is_refused_and_leaves_the_reply_open(value: object) -> None:
    outbox = Outbox(ONE_REPLY)
    ctx = context(outbox)
    for send in (ctx.reply, ctx.push):
        with pytest.raises(MessageRefused, match=type(value).__name__):
            send("fine", value)
        with pytest.raises(MessageRefused, match="at least one"):
            send()
    ctx.reply("now")
    ctx.finish()
    assert outbox.texts() == ["now"]


# ---- packing


def test_nothing_leaves_before_the_handler_ends_and_then_all_replies_as_one() -> None:
    outbox = Outbox(ONE_REPLY)
    ctx = context(outbox)
    ctx.reply("1", "2")
    ctx.reply("3")
    ctx.reply("4")
    assert outbox.sent == []
    assert ctx.finish() == ()
    assert outbox.ways() == [("reply", "token of x")]
    assert outbox.texts() == ["1", "2", "3", "4"]


def test_a_handler_that_says_nothing_sends_nothing() -> None:
    outbox = Outbox(ONE_REPLY)
    ctx = context(outbox)
    ctx.flush()
    assert ctx.finish() == ()
    assert outbox.sent == []


@given(st.lists(st.integers(1, 7), max_size=5))
def test_replies_are_packed_in_order_up_to_the_platforms_limit(sizes: list[int]) -> None:
    """Whatever a handler replies, what fits leaves in order, and what does not fit is refused whole."""
    outbox = Outbox(ONE_REPLY)
    ctx = context(outbox)
    expected: list[str] = []
    for number, size in enumerate(sizes):
        texts = [f"{number}.{part}" for part in range(size)]
        if len(expected) + size > 5:
            with pytest.raises(ReplyRefused, match=r"5 messages in all; use ctx\.push"):
                ctx.reply(*texts)
        else:
            ctx.reply(*texts)
            expected += texts
    ctx.finish()
    assert outbox.texts() == expected
    assert len(outbox.sent) == bool(expected)


def test_a_platform_without_a_limit_takes_any_number_and_more_after_a_flush() -> None:
    outbox = Outbox(PLAIN)
    ctx = context(outbox)
    ctx.reply(*(str(number) for number in range(12)))
    ctx.flush()
    ctx.reply("after")
    ctx.finish()
    assert [len(messages) for _, _, messages in outbox.sent] == [12, 1]


def test_flush_sends_at_once_and_uses_up_the_token() -> None:
    outbox = Outbox(ONE_REPLY)
    ctx = context(outbox)
    ctx.reply("first")
    ctx.flush()
    assert outbox.texts() == ["first"]
    with pytest.raises(ReplyRefused, match=r"works once; use ctx\.push"):
        ctx.reply("second")
    ctx.flush()
    ctx.finish()
    assert outbox.texts() == ["first"]


def test_a_reply_leaves_before_the_push_that_was_written_after_it() -> None:
    outbox = Outbox(ONE_REPLY)
    ctx = context(outbox)
    ctx.reply("1")
    ctx.reply("2")
    ctx.push("3")
    ctx.push("4", to="ben")
    ctx.finish()
    assert outbox.ways() == [("reply", "token of x"), ("push", "anna"), ("push", "ben")]
    assert outbox.texts() == ["1", "2", "3", "4"]


def test_an_event_in_standby_is_not_replied_to() -> None:
    outbox = Outbox(ONE_REPLY)
    ctx = context(outbox, event("message.text", standby=True, reply_token="t"))
    with pytest.raises(ReplyRefused, match="standby"):
        ctx.reply("not our turn")
    ctx.finish()
    assert outbox.sent == []


def test_where_an_event_can_be_replied_to_once_it_needs_a_token() -> None:
    with pytest.raises(ReplyRefused, match=r"of kind unsend came without a reply token; use ctx\.push"):
        context(Outbox(ONE_REPLY), event("unsend")).reply("nothing to hold on to")
    outbox = Outbox(PLAIN)
    ctx = context(outbox, event("unsend"))
    ctx.reply("no token needed")
    ctx.finish()
    assert outbox.texts() == ["no token needed"]


MAY_HAVE_ARRIVED = [ResultUnknown("?", final=True), ApiUnavailable("?", 500, final=True)]
NOT_ARRIVED = [ApiRejected("?", 400), ApiLimited("?", 429), ApiUnreachable("?"), LaneBusy("?", 1.0)]


@pytest.mark.parametrize("error", MAY_HAVE_ARRIVED, ids=repr)
def test_a_reply_that_may_have_arrived_counts_as_made(error: Exception) -> None:
    outbox = Outbox(ONE_REPLY)
    outbox.error = error
    ctx = context(outbox)
    ctx.reply("first")
    with pytest.raises(type(error)):
        ctx.flush()
    outbox.error = None
    with pytest.raises(ReplyRefused):
        ctx.reply("second")
    ctx.finish()
    assert outbox.texts() == ["first"]


def test_a_reply_that_an_earlier_run_has_made_is_as_good_as_made() -> None:
    outbox = Outbox(ONE_REPLY)
    outbox.error = ReplyTokenRefused("Invalid reply token", 400)
    ctx = Context(text_event("x", "anna"), services(outbox), again=True)
    ctx.reply("again")
    ctx.finish()
    with pytest.raises(ReplyRefused, match="has been replied to"):
        ctx.reply("second")
    first = Context(text_event("x", "anna"), services(outbox))
    first.reply("too late, or somebody else has the token")
    with pytest.raises(ReplyTokenRefused) as raised:
        first.finish()
    assert raised.value.final


@pytest.mark.parametrize("error", NOT_ARRIVED, ids=repr)
def test_a_reply_that_certainly_did_not_arrive_is_given_up_and_another_can_be_made(error: Exception) -> None:
    outbox = Outbox(ONE_REPLY)
    outbox.error = error
    ctx = context(outbox)
    ctx.reply("1", "2", "3", "4", "5")
    with pytest.raises(type(error)):
        ctx.flush()
    outbox.error = None
    ctx.reply("instead")
    ctx.finish()
    assert outbox.texts() == ["1", "2", "3", "4", "5", "instead"]


def test_an_error_of_the_reply_ends_the_handlers_run() -> None:
    outbox = Outbox(ONE_REPLY)
    outbox.error = ApiUnreachable("?")
    ctx = context(outbox)
    ctx.state["seen"] = True
    ctx.reply("hello")
    with pytest.raises(ApiUnreachable):
        ctx.finish()


def test_two_greenlets_of_a_handler_do_not_both_use_the_token() -> None:
    class Slow(Outbox):
        def reply(self, event: Event, messages: Sequence[Message], within_s: float | None) -> None:
            super().reply(event, messages, within_s)
            gevent.sleep(0.05)

    outbox = Slow(ONE_REPLY)
    ctx = context(outbox)
    ctx.reply("first")
    other = gevent.spawn(ctx.flush)
    wait_until(lambda: outbox.sent)
    with pytest.raises(ReplyRefused):
        ctx.reply("second")
    other.join()
    assert outbox.texts() == ["first"]


# ---- the age of an event


def test_a_context_knows_its_attempt_and_its_age() -> None:
    known = services(Outbox())
    assert Context(event("follow"), known).attempt == 1
    assert Context(event("follow"), known).age_s == 0
    ctx = Context(event("follow"), known, 3, ms_ago(90))
    assert ctx.attempt == 3
    assert 90 <= ctx.age_s < 120


def test_a_clock_that_was_set_back_makes_no_event_younger_than_new() -> None:
    assert context(Outbox(), age_s=-3600).age_s == 0


def test_an_event_that_is_too_old_is_not_replied_to_and_can_be_pushed_to() -> None:
    outbox = Outbox(ONE_REPLY)
    ctx = context(outbox, age_s=90)
    sentence = r"arrived 9\d s ago and could be replied to for 60 s; use ctx\.push"
    for _ in range(2):  # it stays the reason: nothing was sent, so the event does not count as replied to
        with pytest.raises(ReplyTokenExpired, match=sentence):
            ctx.reply("too late")
    ctx.push("instead")
    ctx.finish()
    assert outbox.ways() == [("push", "anna")]


def growing_old(outbox: Outbox) -> Context:
    """A context with a reply whose token expires before it leaves."""
    ctx = context(outbox, age_s=59.7)
    ctx.reply("in time")
    wait_until(lambda: ctx.age_s > 60)
    return ctx


def test_a_reply_that_has_grown_too_old_when_the_handler_ends_is_not_sent() -> None:
    outbox = Outbox(ONE_REPLY)
    ctx = growing_old(outbox)
    with pytest.raises(ReplyTokenExpired) as raised:
        ctx.finish()
    assert raised.value.final
    assert outbox.sent == []


def test_a_reply_that_has_grown_too_old_can_be_pushed_instead() -> None:
    outbox = Outbox(ONE_REPLY)
    ctx = growing_old(outbox)
    with pytest.raises(ReplyTokenExpired):
        ctx.flush()
    ctx.push("instead")
    ctx.finish()
    assert outbox.ways() == [("push", "anna")]


@pytest.mark.parametrize(("limits", "age_s", "low", "high"), [(ONE_REPLY, 20, 35, 40), (PLAIN, 10_000_000, None, None)])
def test_a_reply_may_wait_for_as_long_as_its_token_is_good(limits: Any, age_s: float, low: Any, high: Any) -> None:
    outbox = Outbox(limits)
    ctx = context(outbox, age_s=age_s)
    ctx.reply("in time")
    ctx.finish()
    [left_s] = outbox.left_s
    assert left_s is None if low is None else left_s is not None and low < left_s <= high


def test_a_wrong_message_is_told_before_the_age() -> None:
    with pytest.raises(MessageRefused):
        context(Outbox(ONE_REPLY), age_s=90).reply(5)


def test_an_expired_reply_token_is_a_refused_reply() -> None:
    assert issubclass(ReplyTokenExpired, ReplyRefused)


# ---- where a push goes


@pytest.mark.parametrize("kind", ["user", "group", "room"])
def test_push_goes_to_the_conversation(kind: Any) -> None:
    outbox = Outbox()
    context(outbox, event("follow", conversation=Conversation(kind, "id of it"), user_id="somebody")).push("hello")
    assert outbox.ways() == [("push", "id of it")]


def test_push_goes_where_it_is_told_and_may_be_repeated() -> None:
    outbox = Outbox()
    ctx = context(outbox)
    ctx.push("one", to="ben")
    ctx.push("two")
    assert outbox.ways() == [("push", "ben"), ("push", "anna")]


def test_push_without_a_conversation_needs_an_address() -> None:
    outbox = Outbox()
    ctx = context(outbox, text_event("x"))
    with pytest.raises(ReplyRefused, match="to="):
        ctx.push("hello")
    ctx.push("hello", to="ben")
    assert outbox.ways() == [("push", "ben")]


def test_push_to_an_empty_address_does_not_go_to_the_conversation_instead() -> None:
    outbox = Outbox()
    context(outbox).push("for somebody else", to="")
    assert outbox.ways() == [("push", "")]


def test_push_to_many_leaves_as_one_and_reaches_each_once() -> None:
    outbox = Outbox()
    context(outbox).push("dinner", to=["ben", "cleo", "ben", "dan", "cleo"])
    assert outbox.ways() == [("multicast", "ben,cleo,dan")]


def test_push_to_many_needs_somebody() -> None:
    outbox = Outbox()
    with pytest.raises(ReplyRefused, match="at least one user"):
        context(outbox).push("dinner", to=[])
    assert outbox.sent == []


@pytest.mark.parametrize(
    ("to", "sentence"),
    [("ben", "the user has left"), (["ben"], "the user has left"), (["ben", "cleo", "dan"], "2 of 3 users have left")],
)
def test_a_push_to_somebody_who_has_left_is_refused_and_nothing_of_the_run_was_sent(
    to: str | list[str], sentence: str
) -> None:
    outbox = Outbox(ONE_REPLY)
    directory = MemoryDirectory()
    directory.save([UserGone("plain", "ben", True, 1), UserGone("plain", "dan", True, 1)])
    ctx = Context(text_event("x", "anna"), services(outbox, directory))
    ctx.reply("before it")
    with pytest.raises(RecipientGone, match=sentence):
        ctx.push("hello", to=to)
    assert outbox.sent == []


def test_a_push_waits_for_the_directory_with_the_whole_run() -> None:
    """It is put off: then the reply must not have left, or it would leave twice."""
    outbox = Outbox(ONE_REPLY)
    ctx = Context(text_event("x", "anna"), services(outbox, Down()))
    ctx.reply("before it")
    with pytest.raises(DirectoryUnavailable):
        ctx.push("hello")
    assert outbox.sent == []


# ---- retry keys


def keys_of(send: Callable[[Context], object], of: Event) -> list[str]:
    """The retry keys of what this handler sends in one run."""
    outbox = Outbox()
    send(context(outbox, of))
    assert len({uuid.UUID(key) for key in outbox.keys}) == len(outbox.keys)
    return outbox.keys


def test_a_later_run_pushes_under_the_same_keys() -> None:
    def send(ctx: Context) -> None:
        for _ in range(3):
            ctx.push("hello")
        ctx.push("hello", to=["ben", "cleo"])

    keys = keys_of(send, from_platform("01H"))
    assert len(keys) == 4
    assert keys_of(send, from_platform("01H")) == keys


def test_pushes_that_greenlets_of_a_handler_make_in_any_order_have_the_same_keys() -> None:
    """Which of them is first depends on how long their own calls take."""

    def keys(order: list[str]) -> dict[str, str]:
        outbox = Outbox()
        ctx = context(outbox, from_platform("01H"))
        for user in order:
            ctx.push("hello", to=user)
        return dict(zip(order, outbox.keys, strict=True))

    assert keys(["ben", "cleo", "dan"]) == keys(["dan", "ben", "cleo"])


def test_a_push_that_the_handler_tries_again_after_an_error_is_the_same_push() -> None:
    outbox = Outbox()
    ctx = context(outbox, from_platform("01H"))
    ctx.push("hello")
    outbox.error = ResultUnknown("?")
    for _ in range(2):
        with pytest.raises(ResultUnknown):
            ctx.push("hello")
    outbox.error = None
    ctx.push("hello")
    ctx.push("hello")
    first, *second, third = outbox.keys
    assert len(set(second)) == 1
    assert len({first, second[0], third}) == 3


def test_the_order_of_a_messages_fields_does_not_change_its_key() -> None:
    one = keys_of(lambda ctx: ctx.push({"type": "text", "text": "x"}), from_platform("01H"))
    assert keys_of(lambda ctx: ctx.push({"text": "x", "type": "text"}), from_platform("01H")) == one


@pytest.mark.parametrize(
    ("send", "of"),
    [
        pytest.param(lambda ctx: ctx.push("other"), from_platform("01H"), id="content"),
        pytest.param(lambda ctx: ctx.push("hello", "hello"), from_platform("01H"), id="number of messages"),
        pytest.param(lambda ctx: ctx.push("hello", to="ben"), from_platform("01H"), id="address"),
        pytest.param(lambda ctx: ctx.push("hello", to=["anna", "ben"]), from_platform("01H"), id="addresses"),
        pytest.param(lambda ctx: ctx.push("hello"), from_platform("01J"), id="event"),
        pytest.param(lambda ctx: ctx.push("hello"), from_platform("01H", "line"), id="platform"),
    ],
)
def test_what_differs_has_another_key(send: Callable[[Context], object], of: Event) -> None:
    assert keys_of(lambda ctx: ctx.push("hello"), from_platform("01H")) != keys_of(send, of)


def test_without_an_event_id_every_key_is_new() -> None:
    def send(ctx: Context) -> None:
        ctx.push("hello")
        ctx.push("hello")

    assert not set(keys_of(send, from_platform(None))) & set(keys_of(send, from_platform(None)))


def endless() -> dict[str, Any]:
    body: dict[str, Any] = {}
    body["again"] = body
    return body


@pytest.mark.parametrize(
    "send",
    [
        pytest.param(lambda ctx: ctx.push({"type": object()}), id="no JSON"),
        pytest.param(lambda ctx: ctx.push(endless()), id="endless"),
        pytest.param(lambda ctx: ctx.push("half \ud800"), id="half a character"),
        pytest.param(lambda ctx: ctx.push("hello", to="half \ud800"), id="half a character in the address"),
        pytest.param(lambda ctx: ctx.push("hello", to=[5]), id="address"),
    ],
)
def test_what_cannot_be_written_down_is_refused(send: Callable[[Context], object]) -> None:
    outbox = Outbox(ONE_REPLY)
    ctx = context(outbox, from_platform("01H"))
    with pytest.raises(MessageRefused, match="JSON"):
        send(ctx)
    assert outbox.sent == []


# ---- state


class Asked(MemoryDirectory):
    """Counts how often a state was read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def state(self, platform: str, conversation: Conversation) -> str | None:
        self.reads += 1
        return super().state(platform, conversation)


def with_state(directory: MemoryDirectory, of: Event | None = None) -> Context:
    return Context(of or text_event("x", "anna"), services(Outbox(), directory))


def test_state_is_read_when_it_is_asked_for_and_once() -> None:
    directory = Asked()
    ctx = with_state(directory)
    ctx.reply("without it")
    assert ctx.finish() == ()
    assert directory.reads == 0
    ctx = with_state(directory)
    ctx.state["a"] = 1
    ctx.state["b"] = 2
    assert directory.reads == 1


def test_what_one_run_leaves_the_next_one_finds() -> None:
    directory = Asked()
    for count in range(3):
        ctx = with_state(directory)
        assert ctx.state.get("count", 0) == count
        ctx.state["count"] = count + 1
        ctx.state.setdefault("seen", []).append({"text": "ひとつ", "at": None, "price": 1.5})
        directory.save(ctx.finish())
    assert len(with_state(directory).state["seen"]) == 3


def test_a_change_is_of_this_conversation_and_lasts_for_the_time_to_live() -> None:
    ctx = with_state(MemoryDirectory())
    ctx.state["b"], ctx.state["a"] = "é", [1, 2]
    before_ms = time.time() * 1000
    [change] = ctx.finish()
    assert isinstance(change, StateChange)
    assert (change.platform, change.conversation) == ("plain", ANNA)
    assert change.document == '{"a":[1,2],"b":"é"}'
    assert abs(change.expires_ms - before_ms - STATE_TTL_S * 1000) < 60_000


def test_a_run_that_does_not_finish_changes_nothing() -> None:
    directory = MemoryDirectory()
    with_state(directory).state["lost"] = True
    assert with_state(directory).state == {}


def test_a_state_that_is_as_it_was_is_not_stored_again() -> None:
    directory = MemoryDirectory()
    ctx = with_state(directory)
    ctx.state.update(a=1, b={"c": [1]})
    directory.save(ctx.finish())
    ctx = with_state(directory)
    b = ctx.state.pop("b")
    ctx.state["b"] = b  # in another order
    assert ctx.finish() == ()
    ctx = with_state(directory)
    ctx.state["b"]["c"].append(2)
    assert len(ctx.finish()) == 1


def test_an_empty_state_is_none() -> None:
    directory = MemoryDirectory()
    ctx = with_state(directory)
    assert ctx.state == {}
    assert ctx.finish() == ()
    ctx = with_state(directory)
    ctx.state["a"] = 1
    directory.save(ctx.finish())
    ctx = with_state(directory)
    ctx.state.clear()
    [change] = ctx.finish()
    assert isinstance(change, StateChange)
    assert change.document is None
    directory.save([change])
    assert directory.state("plain", ANNA) is None


def test_a_state_can_be_kept_longer_even_when_nothing_of_it_has_changed() -> None:
    directory = MemoryDirectory()
    ctx = with_state(directory)
    ctx.state["a"] = 1
    directory.save(ctx.finish())
    ctx = with_state(directory)
    ctx.keep_state(7 * 86_400)
    [change] = ctx.finish()
    assert isinstance(change, StateChange)
    assert change.document == '{"a":1}'
    assert abs(change.expires_ms - time.time() * 1000 - 7 * 86_400_000) < 60_000


def test_a_state_whose_time_is_over_is_gone() -> None:
    directory = MemoryDirectory()
    ctx = with_state(directory)
    ctx.state["a"] = 1
    ctx.keep_state(0.01)
    directory.save(ctx.finish())
    wait_until(lambda: with_state(directory).state == {})


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 1e300, 3661 * 86_400])
def test_a_time_that_cannot_be_is_refused(seconds: float) -> None:
    ctx = with_state(MemoryDirectory())
    with pytest.raises(ValueError, match="keep_state: expected seconds above 0"):
        ctx.keep_state(seconds)
    assert ctx.finish() == ()


def circle() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


def deep() -> list[Any]:
    found: list[Any] = []
    for _ in range(10_000):
        found = [found]
    return found


@pytest.mark.parametrize(
    "make",
    [
        object,
        set,
        lambda: b"x",
        lambda: float("nan"),
        lambda: float("-inf"),
        lambda: "\udc80",
        circle,
        deep,
        uuid.uuid4,
    ],
)
def test_a_state_that_is_not_json_is_refused_before_anything_is_sent(make: Callable[[], object]) -> None:
    outbox = Outbox()
    ctx = Context(text_event("x", "anna"), services(outbox))
    ctx.state["secret"] = ["do not tell", make()]
    ctx.reply("hello")
    with pytest.raises(StateRefused, match="JSON values only") as raised:
        ctx.finish()
    assert outbox.sent == []
    assert "tell" not in str(raised.value)


@pytest.mark.parametrize("odd", [{1: "a", "b": 2}, {("a", "b"): 1}])
def test_names_that_json_does_not_have_are_refused(odd: dict[Any, Any]) -> None:
    ctx = with_state(MemoryDirectory())
    ctx.state["odd"] = odd
    with pytest.raises(StateRefused):
        ctx.finish()


@pytest.mark.parametrize("character", ["x", "é", "字"])
def test_a_state_may_have_so_many_bytes_and_not_one_more(character: str) -> None:
    ctx = with_state(MemoryDirectory())
    size = len(character.encode())
    room = STATE_BYTES_MAX - len('{"a":"","b":""}')
    ctx.state["a"] = character * (room // size)
    ctx.state["b"] = "x" * (room % size)
    [change] = ctx.finish()
    assert isinstance(change, StateChange)
    assert change.document is not None
    assert len(change.document.encode()) == STATE_BYTES_MAX
    ctx.state["b"] += "x"
    with pytest.raises(StateRefused, match=f"at most {STATE_BYTES_MAX} bytes of JSON, got {STATE_BYTES_MAX + 1}"):
        ctx.finish()


def test_without_a_conversation_the_state_is_for_this_run_only() -> None:
    directory = MemoryDirectory()
    ctx = with_state(directory, text_event("x"))
    ctx.state["a"] = 1
    ctx.keep_state(60)
    assert ctx.state == {"a": 1}
    assert ctx.finish() == ()


def test_greenlets_of_a_handler_share_its_state() -> None:
    class Slow(MemoryDirectory):
        def state(self, platform: str, conversation: Conversation) -> str | None:
            gevent.sleep(0.01)
            return super().state(platform, conversation)

    ctx = with_state(Slow())

    def remember(name: str) -> None:
        ctx.state[name] = True

    gevent.joinall([gevent.spawn(remember, name) for name in ("a", "b", "c")], raise_error=True)
    assert sorted(ctx.state) == ["a", "b", "c"]


def test_conversations_do_not_see_each_others_state() -> None:
    directory = MemoryDirectory()
    places = [Conversation(kind, name) for kind in ("user", "group", "room") for name in ("anna", "ben")]
    for place in places:
        ctx = with_state(directory, event("follow", conversation=place))
        ctx.state["place"] = [place.kind, place.id]
        directory.save(ctx.finish())
    for place in places:
        assert with_state(directory, event("follow", conversation=place)).state == {"place": [place.kind, place.id]}


def test_a_database_that_is_away_is_told_when_the_state_is_asked_for() -> None:
    ctx = Context(text_event("x", "anna"), services(Outbox(), Down()))
    with pytest.raises(DirectoryUnavailable):
        ctx.state["a"] = 1
    with pytest.raises(DirectoryUnavailable):
        ctx.keep_state(60)
    assert ctx.finish() == ()


LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5)


@settings(max_examples=50)
@given(st.dictionaries(st.text(max_size=5), LEAVES | st.lists(LEAVES, max_size=3), max_size=4))
def test_any_json_document_comes_back_as_it_was(document: dict[str, Any]) -> None:
    directory = MemoryDirectory()
    ctx = with_state(directory)
    ctx.state.update(document)
    try:
        changes = ctx.finish()
    except StateRefused:  # half of a character somewhere in it
        with pytest.raises(UnicodeEncodeError):
            json.dumps(document, ensure_ascii=False).encode()
        return
    directory.save(changes)
    assert with_state(directory).state == document


# ---- forgetting


def known_anna() -> MemoryDirectory:
    directory = MemoryDirectory()
    directory.save(
        [
            UserGone("plain", "anna", True, 1),
            StateChange("plain", ANNA, '{"a":1}', ms_ago(-3600)),
        ]
    )
    return directory


def test_forgetting_removes_the_user_and_the_state() -> None:
    directory = known_anna()
    ctx = with_state(directory)
    assert ctx.state == {"a": 1}
    ctx.forget()
    assert ctx.state == {}
    directory.save(ctx.finish())
    assert directory.users("plain", ["anna"]) == {}
    assert directory.state("plain", ANNA) is None


def test_a_group_in_which_somebody_is_forgotten_loses_its_state_too() -> None:
    directory = known_anna()
    group = Conversation("group", "g")
    directory.save([StateChange("plain", group, '{"b":1}', ms_ago(-3600))])
    ctx = with_state(directory, event("leave", conversation=group, user_id="anna"))
    ctx.forget()
    directory.save(ctx.finish())
    assert directory.users("plain", ["anna"]) == {}
    assert directory.state("plain", group) is None


def test_what_is_written_after_forgetting_is_kept() -> None:
    directory = known_anna()
    ctx = with_state(directory)
    ctx.forget()
    ctx.state["met before"] = True
    directory.save(ctx.finish())
    assert directory.users("plain", ["anna"]) == {}
    assert with_state(directory).state == {"met before": True}


def test_a_run_that_does_not_finish_forgets_nothing() -> None:
    directory = known_anna()
    with_state(directory).forget()
    assert with_state(directory).state == {"a": 1}
    assert "anna" in directory.users("plain", ["anna"])


def test_an_event_without_a_conversation_forgets_its_user() -> None:
    ctx = with_state(MemoryDirectory(), event("leave", user_id="anna"))
    ctx.forget()
    assert ctx.finish() == (UserForgotten("plain", "anna"),)


def test_an_event_without_a_user_forgets_the_state() -> None:
    group = Conversation("group", "g")
    ctx = with_state(MemoryDirectory(), event("leave", conversation=group))
    ctx.forget()
    [change] = ctx.finish()
    assert isinstance(change, StateChange)
    assert (change.conversation, change.document) == (group, None)


def test_an_event_of_nobody_forgets_nothing() -> None:
    ctx = with_state(MemoryDirectory(), event("unknown"))
    ctx.forget()
    assert ctx.finish() == ()


def test_somebody_who_is_forgotten_is_read_again() -> None:
    directory = known_anna()
    outbox = Outbox()
    known = services(outbox, directory)
    with pytest.raises(RecipientGone):
        Context(text_event("x", "anna"), known).push("hello")
    ctx = Context(text_event("x", "anna"), known)
    ctx.forget()
    directory.save(ctx.finish())
    Context(text_event("x", "anna"), known).push("hello")
    assert outbox.ways() == [("push", "anna")]


# ---- the rest


def test_text_is_empty_for_events_that_have_none() -> None:
    assert context(Outbox(), event("follow")).text == ""
    assert context(Outbox(), text_event("x")).text == "x"


def test_ctx_user_is_the_events_user() -> None:
    outbox = Outbox()
    outbox.profiles["anna"] = Profile("Anna", "ja")
    ctx = context(outbox)
    assert (ctx.user.id, ctx.user.display_name, ctx.user.language) == ("anna", "Anna", "ja")
    assert (ctx.user.display_name, outbox.asked) == ("Anna", ["anna"])


def test_ctx_user_needs_a_user() -> None:
    with pytest.raises(ReplyRefused, match="does not say which user"):
        _ = context(Outbox(), event("unknown")).user


def test_typing_is_shown_at_once() -> None:
    outbox = Outbox()
    ctx = context(outbox)
    ctx.typing()
    ctx.typing(5)
    assert outbox.ways() == [("typing 20", "anna"), ("typing 5", "anna")]


@pytest.mark.parametrize(
    "error", [ReplyRefused("not in groups"), ApiUnavailable("?", 500), LaneBusy("?", 1.0)], ids=repr
)
def test_typing_is_a_nicety_that_fails_nobody(error: Exception) -> None:
    outbox = Outbox()
    outbox.error = error
    context(outbox).typing()
    assert outbox.ways() == [("typing 20", "anna")]


def test_the_quota_and_the_content_are_the_senders() -> None:
    ctx = context(Outbox())
    assert ctx.quota() == Quota(500, 20)
    with pytest.raises(ContentGone):
        ctx.content()


def test_all_handlers_share_a_session_for_calls_of_their_own() -> None:
    assert context(Outbox()).http is HTTP


def test_replies_that_are_given_up_leave_room_for_others() -> None:
    outbox = Outbox(ONE_REPLY)
    ctx = context(outbox)
    ctx.reply("1", "2", "3", "4", "5")
    ctx.give_up_replies()
    ctx.reply("sorry")
    ctx.flush()
    assert outbox.texts() == ["sorry"]


def test_a_bot_without_a_database_is_told_how_to_get_one() -> None:
    with pytest.raises(BotError, match="--db or GBOT_DB"):
        context(Outbox()).db  # noqa: B018 - asking is what raises
