"""What the simulator makes of a run: the ledger, the verdict, and how they look."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbot.limiter import Limit
from gbot.simulator import screen
from gbot.simulator.calls import DROPPED, Calls
from gbot.simulator.ledger import EXCUSES, Ledger, Mishap, Token
from gbot.simulator.screen import Progress
from gbot.simulator.traffic import Why
from gbot.simulator.verdict import Times, Verdict, judge
from gbot.simulator.window import Window


def ledger_of(*answers: int, kept_max: int = 1000) -> Ledger:
    """Events sent and taken, and answered so often."""
    ledger = Ledger(kept_max)
    for number, count in enumerate(answers):
        ledger.send(number, True, number)
        ledger.take(number, number + 0.01)
        for _ in range(count):
            ledger.answer(number, number + 2.5)
    return ledger


def everything_of(calls: Calls | None) -> Window:
    """All requests, 1,024 of them in a second."""
    window = Window(Limit())
    for number in range(calls.asked if calls else 0):
        window.admit(number / 1024)
    return window


def verdict_of(ledger: Ledger, calls: Calls | None = None, windows: dict[str, Window] | None = None) -> Verdict:
    sent, failed = Counter({Why.NEW: ledger.sent}), {503: 1200, 0: 1}
    return judge("line", 1, 12.345, sent, failed, ledger, calls or Calls(), windows or {}, everything_of(calls))


# The ledger.


def test_events_are_counted_by_how_often_they_were_answered() -> None:
    ledger = ledger_of(1, 1, 0, 2, 3, 1)
    totals = ledger.totals()
    assert (totals.sent, totals.taken, totals.wanting) == (6, 6, 6)
    assert (totals.once, totals.twice, totals.never) == (3, 2, 1)
    assert (ledger.answered, ledger.twice, ledger.open, ledger.untaken) == (5, 2, 1, 0)
    assert ledger.time_to_take.max_s == pytest.approx(0.01)
    assert ledger.time_to_answer.max_s == pytest.approx(2.5)


def test_an_event_that_is_sent_again_is_the_same_event() -> None:
    ledger = ledger_of(1)
    ledger.send(0, True, 60.0)
    ledger.take(0, 60.1)
    assert (ledger.sent, ledger.taken, ledger.time_to_take.count) == (1, 1, 1)


def test_a_reply_token_is_good_once_and_for_a_minute_from_the_last_sending() -> None:
    ledger = ledger_of(0, 0)
    assert ledger.token(7, 0.0, 60.0) is Token.UNKNOWN
    assert ledger.token(0, 60.0, 60.0) is Token.GOOD
    assert ledger.token(0, 60.1, 60.0) is Token.EXPIRED
    ledger.send(0, True, 50.0)
    assert ledger.token(0, 110.0, 60.0) is Token.GOOD
    ledger.use_token(0)
    assert ledger.token(0, 110.0, 60.0) is Token.USED
    assert ledger.token(1, 110.0, 60.0) is Token.EXPIRED


def test_what_no_bot_can_mend_is_not_waited_for() -> None:
    ledger = ledger_of(0, 0, 0)
    ledger.mishap(0, Mishap.FAILED)
    ledger.mishap(0, Mishap.CUT)
    ledger.mishap(1, Mishap.UNREPEATED)
    ledger.mishap(2, Mishap.REFUSED)
    assert (ledger.open, ledger.lost) == (2, 1)
    ledger.answer(0, 9.0)
    assert (ledger.open, ledger.lost, ledger.answered) == (2, 0, 1)
    ledger.mishap(99, Mishap.FAILED)  # of another run


def test_an_event_that_is_given_up_may_still_be_taken() -> None:
    ledger = Ledger()
    ledger.send(0, True, 0.0)
    ledger.give_up(0)
    ledger.give_up(0)
    assert (ledger.untaken, ledger.given_up) == (0, 1)
    ledger.take(0, 5.0)
    assert (ledger.untaken, ledger.given_up, ledger.taken) == (0, 0, 1)


def test_answers_to_what_wants_none_are_counted_apart() -> None:
    ledger = Ledger()
    ledger.send(0, False, 0.0)
    ledger.answer(0, 1.0)
    ledger.answer(5, 1.0)
    assert (ledger.unasked, ledger.answered, ledger.open, ledger.totals().wanting) == (2, 0, 0, 0)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["send", "take", "answer", "give up", *Mishap]),
        st.integers(0, 12),
    ),
    max_size=120,
)


@given(STEPS, st.integers(1, 20))
def test_the_numbers_agree_whatever_happens(steps: list[tuple[str | Mishap, int]], kept_max: int) -> None:
    ledger, sent = Ledger(kept_max), 0
    for step, number in steps:
        number = min(number, sent)
        if step == "send":
            ledger.send(sent, sent % 3 != 0, 0.0)
            sent += 1
        elif step == "take":
            ledger.take(number, 1.0)
        elif step == "answer":
            ledger.answer(number, 1.0)
        elif step == "give up":
            ledger.give_up(number)
        elif isinstance(step, Mishap):
            ledger.mishap(number, step)
    totals = ledger.totals()
    assert totals.sent == ledger.sent == sent
    assert totals.taken == ledger.taken
    assert totals.once + totals.twice == ledger.answered
    assert totals.twice == ledger.twice == totals.twice_why.total()
    assert totals.wanting == totals.once + totals.twice + totals.never
    assert totals.never == totals.never_why.total()
    assert ledger.lost == sum(totals.never_why[excuse] for excuse in EXCUSES)
    if sent <= kept_max:
        assert ledger.open == totals.never - ledger.lost
        assert ledger.untaken + ledger.given_up == sent - ledger.taken
    assert ledger.open >= 0
    assert ledger.untaken >= 0


def test_old_events_are_folded_and_their_late_answers_told() -> None:
    ledger = ledger_of(1, 0, 1, 2, 0, 1, kept_max=2)
    totals = ledger.totals()
    assert (totals.sent, totals.once, totals.twice, totals.never) == (6, 3, 1, 2)
    assert ledger.open == 1  # the last but one: the other one is past waiting for
    ledger.answer(0, 99.0)
    assert ledger.unasked == 1
    assert ledger.token(0, 0.0, 60.0) is Token.UNKNOWN


# The verdict.


def test_every_event_once_is_good() -> None:
    verdict = verdict_of(ledger_of(1, 1, 1))
    assert (verdict.good, verdict.sentence) == (True, "Good: every event was answered exactly once.")


def test_a_reply_that_was_lost_by_the_api_is_excused_and_told() -> None:
    ledger = ledger_of(1, 0, 0, 1)
    ledger.mishap(1, Mishap.FAILED)
    ledger.mishap(2, Mishap.CUT)
    ledger.mishap(3, Mishap.HIDDEN)
    verdict = verdict_of(ledger)
    assert verdict.good
    assert "where the platform makes that possible; it did not for 2 of 4." in verdict.sentence
    assert (verdict.events.lost, verdict.events.never, verdict.events.answered_unseen) == (2, 2, 1)
    assert sum(verdict.events.never_why.values()) == 2


@pytest.mark.parametrize(
    ("mishap", "reason"),
    [
        (None, "no message came with its reply token, or quoting it"),
        (Mishap.EXPIRED, "the reply came when its token had expired"),
        (Mishap.REUSED, "the reply came with a token that had been used"),
        (Mishap.REFUSED, "the platform does not take such a message"),
        (Mishap.UNREPEATED, "a request for it met 429 or 5xx, and was not repeated though it may be"),
    ],
)
def test_no_answer_without_an_excuse_is_not_good(mishap: Mishap | None, reason: str) -> None:
    ledger = ledger_of(1, 0)
    if mishap is not None:
        ledger.mishap(1, mishap)
    verdict = verdict_of(ledger)
    assert not verdict.good
    assert verdict.sentence == f"Not good: 1 event never answered ({reason})."


def test_messages_that_quote_nothing_are_told_where_answers_are_missing() -> None:
    calls, ledger = Calls(), ledger_of(1, 0)
    calls.unquoting = 1
    assert verdict_of(ledger_of(1), calls).good
    assert "1 message came without quoting an event, so nobody knows" in verdict_of(ledger, calls).sentence
    ledger.mishap(1, Mishap.EXPIRED)  # which explains it
    assert "quoting" not in verdict_of(ledger, calls).sentence


def test_a_second_answer_is_not_good_whatever_the_reason() -> None:
    ledger = ledger_of(2, 2)
    ledger.mishap(0, Mishap.DROPPED)
    verdict = verdict_of(ledger)
    assert not verdict.good
    assert len(verdict.events.twice_why) == 2
    assert "1 event answered more than once (the API dropped the connection of the first one" in verdict.sentence


def test_an_event_that_the_bot_does_not_take_is_not_good() -> None:
    ledger = ledger_of(1)
    ledger.send(1, False, 0.0)
    ledger.send(2, True, 0.0)
    verdict = verdict_of(ledger)
    assert verdict.sentence == "Not good: the bot did not take 2 events."
    assert verdict.events.never_why == {"the bot did not take it": 1}


def test_broken_limits_are_not_good_unless_they_are_a_thousandth() -> None:
    calls, window = Calls(), Window(Limit(count=2000))
    for _ in range(2000):
        calls.begin()
        calls.end("reply", 200)
    calls.over_rate["reply"] = 2
    assert verdict_of(ledger_of(1), calls, {"reply": window}).good
    calls.over_rate["reply"] = 3
    verdict = verdict_of(ledger_of(1), calls, {"reply": window})
    assert verdict.sentence == "Not good: 3 requests faster than the platform allows."
    calls.over_rate["reply"], calls.reused, calls.bad = 0, 1, 2
    sentence = verdict_of(ledger_of(1), calls, {"reply": window}).sentence
    assert sentence == "Not good: 1 reply with a token that had been used; 2 requests that the platform does not take."


def test_serving_the_api_alone_is_judged_too() -> None:
    calls = Calls()
    assert verdict_of(Ledger(), calls).sentence == "Good: nothing was sent, and the API was asked 0 times."
    calls.bad = 1
    assert not verdict_of(Ledger(), calls).good


# How it looks.


def full_verdict() -> Verdict:
    ledger, calls = ledger_of(1, 1, 2, 0, 0, 1), Calls()
    ledger.mishap(4, Mishap.FAILED)
    ledger.mishap(5, Mishap.DROPPED)
    for endpoint, status, times in (("reply", 200, 1200), ("reply", 503, 1), ("reply", DROPPED, 1), ("push", 429, 2)):
        for _ in range(times):
            calls.begin()
            calls.end(endpoint, status)
    calls.storms, calls.expired, calls.strange, calls.messages, calls.unquoting = 2, 1, 3, 1200, 97
    for person in (0, 2, 0):
        calls.reach(person)
    window = Window(Limit(count=2000))
    for number in range(90):
        window.admit(number / 1000)
    return verdict_of(ledger, calls, {"reply": window, "push": Window(Limit(count=2000))})


def test_the_verdict_as_people_see_it() -> None:
    *table, _, sentence = screen.report(full_verdict())
    assert sentence == (
        "Not good: 1 event never answered (no message came with its reply token, or quoting it); "
        "97 messages came without quoting an event, so nobody knows which were answered; "
        "1 event answered more than once (nothing had gone wrong with the first one)."
    )
    assert "\n".join(table) == (
        """\
Verdict on line after 12.3 s, seed 1

  events sent             6  in 6 deliveries; 0 sent again, 1,201 not taken
                             (no answer: 1, 503: 1,200)
    taken by the bot      6  p50 10 ms, p99 10 ms, max 10 ms
    to be answered        6
  answered once           3  p50 2.50 s, p99 2.50 s, max 2.50 s
                          1  of them without the bot knowing: the API hid that
                             it had accepted
  answered twice          1
                          1  nothing had gone wrong with the first one
  never answered          2
                          1  no message came with its reply token, or quoting it
                          1  the API answered the reply with 5xx and did not
                             accept it; a reply may not be repeated
  messages               97  came without quoting an event, so nobody knows
                             which were answered

  API calls           1,204  at most 1,024 in 1 s, 1 at once, 2 met a storm of
                             429, 3 with a reply token of another run, or made
                             up
    push                  2  429: 2   at most 0 in 1 s of 2,000
    reply             1,202  200: 1,200  503: 1  dropped: 1
                             at most 90 in 1 s of 2,000
  rules broken            1
                          1  replies with a token that had expired
  calls saved             0  by multicast, for 1,200 messages to 2 users"""
    )
    assert max(map(len, table)) <= 80


def test_the_verdict_as_json_has_everything() -> None:
    verdict = full_verdict()
    read = msgspec.json.decode(msgspec.json.encode(verdict), type=Verdict)
    assert read == verdict
    assert read.api.endpoints["reply"].statuses == {"200": 1200, "503": 1, "dropped": 1}


def progress(share: float | None = 0.4) -> Progress:
    return Progress(
        title="gbot simulate line",
        phase="sending",
        elapsed_s=72.4,
        share=share,
        sent=12_000,
        taken=11_990,
        answered=11_700,
        sent_rate=1000.4,
        taken_rate=998.0,
        answered_rate=990.0,
        open=290,
        untaken=10,
        lost=3,
        twice=0,
        again=34,
        behind_s=0.0,
        take_s=Times(0.0031, 0.012, 0.2),
        answer_s=Times(2.4, 3.1, 3.2),
        api_is_up=False,
        waiting=250,
        calls={"reply": {200: 11_700, 429: 20, 500: 2, 0: 1}, "profile": {404: 1}},
    )


def test_the_live_table() -> None:
    assert "\n".join(screen.live(progress())) == (
        """\
gbot simulate line

  01:12  ████████████░░░░░░░░░░░░░░░░░░  40%  sending

  events           total     per s       p50       p99
  sent            12,000     1,000
  taken           11,990       998    3.1 ms     12 ms
  answered        11,700       990    2.40 s    3.10 s

  290 unanswered, 10 not taken, 3 lost, 0 twice, 34 sent again

  API DOWN, 250 requests being answered

  calls              2xx       4xx       429       5xx   dropped
  profile              0         1         0         0         0
  reply           11,700         0        20         2         1"""
    )


def test_the_line_for_logs() -> None:
    assert screen.line(progress(None)) == (
        "01:12 sending: 12,000 sent (1,000/s), 11,990 taken, 11,700 answered (990/s), 290 unanswered, 10 not taken, "
        "3 lost, 0 twice, 34 sent again; API DOWN, 250 being answered"
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0004, "0.4 ms"), (0.0123, "12 ms"), (0.9996, "1.00 s"), (65.0, "65.00 s")]
)
def test_spans(seconds: float, text: str) -> None:
    assert screen.span(seconds) == text
