"""Was it good? What a run has come to, in numbers, in words and in one sentence. Pure.

Good means: the bot took every event; it answered each exactly once, or never where the platform makes that impossible;
it used no reply token twice, sent nothing the platform does not take, and kept to the rates. A thousandth of the
requests may be over the rate: they left in time and were bunched up on their way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

import msgspec

from gbot.counts import counted
from gbot.simulator.calls import DROPPED, Calls
from gbot.simulator.histogram import Histogram
from gbot.simulator.ledger import EXCUSES, Ledger, Mishap
from gbot.simulator.traffic import Why
from gbot.simulator.window import Window

OVER_RATE_SHARE_MAX: Final = 0.001
REASONS: Final[Mapping[Mishap, str]] = {
    Mishap.FAILED: "the API answered the reply with 5xx and did not accept it; a reply may not be repeated",
    Mishap.CUT: "the reply was cut off when the API went down; a reply may not be repeated",
    Mishap.QUOTA: "the quota of messages was used up",
    Mishap.GONE: "the user had taken back the content that came with it",
    Mishap.UNFINISHED: "the run ended before the API had answered the request for it",
    Mishap.UNTAKEN: "the bot did not take it",
    Mishap.UNREPEATED: "a request for it met 429 or 5xx, and was not repeated though it may be",
    Mishap.HIDDEN: "the API answered the first one with 5xx, though it had accepted it",
    Mishap.DROPPED: "the API dropped the connection of the first one, which it had accepted",
    Mishap.EXPIRED: "the reply came when its token had expired",
    Mishap.REUSED: "the reply came with a token that had been used",
    Mishap.REFUSED: "the platform does not take such a message",
}
UNASKED: Final = "no message came with its reply token, or quoting it"
UNQUOTING: Final = "came without quoting an event, so nobody knows which were answered"
UNPROVOKED: Final = "nothing had gone wrong with the first one"


class Times(msgspec.Struct, frozen=True):
    """In seconds."""

    p50: float
    p99: float
    max: float

    @classmethod
    def of(cls, histogram: Histogram) -> Times:
        return cls(
            round(histogram.percentile_s(50), 4), round(histogram.percentile_s(99), 4), round(histogram.max_s, 4)
        )


class Sent(msgspec.Struct, frozen=True):
    """Deliveries, by why they were sent."""

    new: int
    duplicates: int
    again: int  # redeliveries by seed
    unanswered: int  # redeliveries because the bot had not taken the delivery
    failed: dict[str, int]  # not answered with 2xx in time, of all of them, by status or "no answer"


class Events(msgspec.Struct, frozen=True):
    """``lost`` are those of ``never`` that no bot could have answered."""

    sent: int
    taken: int
    wanting_an_answer: int
    once: int
    twice: int
    never: int
    lost: int
    answered_unseen: int  # once, but the bot was not told
    never_why: dict[str, int]
    twice_why: dict[str, int]
    take_s: Times
    answer_s: Times


class Endpoint(msgspec.Struct, frozen=True):
    """``peak`` is the most that were let in within any ``per_s`` seconds, ``limit`` what is allowed."""

    statuses: dict[str, int]  # "dropped" among them
    peak: int
    limit: int | None
    per_s: float
    over_rate: int


class Asked(msgspec.Struct, frozen=True):
    """What the API was asked."""

    calls: int
    peak: int  # the most calls within any second
    at_once: int  # the most that were under way at a time
    endpoints: dict[str, Endpoint]
    storms: int
    cut: int
    bad: int
    reused_tokens: int
    expired_tokens: int
    strange_tokens: int
    repeated: int
    messages: int  # that reached users
    users: int  # whom they reached
    unquoting: int  # messages that neither came with a reply token nor quote an event
    saved_by_multicast: int
    unasked: int


class Verdict(msgspec.Struct, frozen=True):
    """Everything."""

    good: bool
    sentence: str
    platform: str
    seed: int
    seconds: float
    deliveries: Sent
    events: Events
    api: Asked


def judge(
    platform: str,
    seed: int,
    seconds: float,
    sent: Mapping[Why, int],
    failed: Mapping[int, int],
    ledger: Ledger,
    calls: Calls,
    windows: Mapping[str, Window],
    everything: Window,
) -> Verdict:
    """What has come of it."""
    by_status = {str(status) if status else "no answer": count for status, count in sorted(failed.items())}
    deliveries = Sent(sent[Why.NEW], sent[Why.DUPLICATE], sent[Why.AGAIN], sent[Why.UNANSWERED], by_status)
    events, api = _events(ledger), _asked(calls, windows, everything, ledger)
    problems = [*_problems_with_events(events, api.unquoting), *_problems_with_requests(api)]
    sentence = f"Not good: {'; '.join(problems)}." if problems else f"Good: {_praise(events, api)}."
    return Verdict(not problems, sentence, platform, seed, round(seconds, 3), deliveries, events, api)


def _events(ledger: Ledger) -> Events:
    totals = ledger.totals()
    return Events(
        sent=totals.sent,
        taken=totals.taken,
        wanting_an_answer=totals.wanting,
        once=totals.once,
        twice=totals.twice,
        never=totals.never,
        lost=sum(totals.never_why[excuse] for excuse in EXCUSES),
        answered_unseen=totals.unseen,
        never_why=_in_words(totals.never_why, UNASKED),
        twice_why=_in_words(totals.twice_why, UNPROVOKED),
        take_s=Times.of(ledger.time_to_take),
        answer_s=Times.of(ledger.time_to_answer),
    )


def _in_words(why: Counter[Mishap | None], none: str) -> dict[str, int]:
    return {REASONS[mishap] if mishap else none: count for mishap, count in why.most_common()}


def _asked(calls: Calls, windows: Mapping[str, Window], everything: Window, ledger: Ledger) -> Asked:
    return Asked(
        calls=calls.asked,
        peak=everything.peak,
        at_once=calls.waiting_max,
        endpoints={name: _endpoint(name, calls, windows.get(name)) for name in sorted(calls.statuses)},
        storms=calls.storms,
        cut=calls.cut,
        bad=calls.bad,
        reused_tokens=calls.reused,
        expired_tokens=calls.expired,
        strange_tokens=calls.strange,
        repeated=calls.repeated,
        messages=calls.messages,
        users=calls.users,
        unquoting=calls.unquoting,
        saved_by_multicast=calls.saved,
        unasked=ledger.unasked,
    )


def _endpoint(name: str, calls: Calls, window: Window | None) -> Endpoint:
    statuses = {
        "dropped" if status == DROPPED else str(status): count
        for status, count in sorted(calls.statuses[name].items(), key=lambda item: item[0] or 1000)
    }
    if window is None:
        return Endpoint(statuses, 0, None, 1.0, 0)
    return Endpoint(statuses, window.peak, window.limit.count, window.limit.per_s, calls.over_rate[name])


def _problems_with_events(events: Events, unquoting: int) -> list[str]:
    problems = []
    if events.taken < events.sent:
        problems.append(f"the bot did not take {counted(events.sent - events.taken, 'event')}")
    told = [REASONS[mishap] for mishap in (*EXCUSES, Mishap.UNTAKEN)]
    for reason, count in events.never_why.items():
        if reason not in told:
            problems.append(f"{counted(count, 'event')} never answered ({reason})")
    if unquoting and UNASKED in events.never_why:
        problems.append(f"{counted(unquoting, 'message')} {UNQUOTING}")
    for reason, count in events.twice_why.items():
        problems.append(f"{counted(count, 'event')} answered more than once ({reason})")
    return problems


def _problems_with_requests(api: Asked) -> list[str]:
    problems = []
    if api.reused_tokens:
        problems.append(f"{counted(api.reused_tokens, 'reply', 'replies')} with a token that had been used")
    if api.bad:
        problems.append(f"{counted(api.bad, 'request')} that the platform does not take")
    over = sum(endpoint.over_rate for endpoint in api.endpoints.values())
    if over > OVER_RATE_SHARE_MAX * api.calls:
        problems.append(f"{counted(over, 'request')} faster than the platform allows")
    return problems


def _praise(events: Events, api: Asked) -> str:
    if not events.sent:
        return f"nothing was sent, and the API was asked {counted(api.calls, 'time')}"
    if not events.wanting_an_answer:
        return "the bot took every event; none of them could be answered"
    if not events.lost:
        return "every event was answered exactly once"
    return (
        "every event was answered exactly once where the platform makes that possible; "
        f"it did not for {events.lost:,} of {events.wanting_an_answer:,}"
    )
