"""A run as text: the live table, the line for logs, the verdict. Pure: numbers come in, lines go out."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec

from gbot.counts import counted
from gbot.simulator.verdict import UNASKED, UNQUOTING, Asked, Endpoint, Sent, Times, Verdict

BAR: Final = 30  # characters
WIDTH: Final = 80  # of a row of the verdict
GLUE: Final = "\u00a0"  # a space where no row is broken
CLASSES: Final = ("2xx", "4xx", "429", "5xx", "dropped")


class Progress(msgspec.Struct, frozen=True):
    """A run at one moment. Rates are per second, of the time since the last look."""

    title: str
    phase: str
    elapsed_s: float
    share: float | None  # of all events or of the time, as far as there is an end
    sent: int
    taken: int
    answered: int
    sent_rate: float
    taken_rate: float
    answered_rate: float
    open: int
    untaken: int
    lost: int
    twice: int
    again: int  # deliveries sent more than once
    behind_s: float  # how late the simulator itself is
    take_s: Times
    answer_s: Times
    api_is_up: bool
    waiting: int
    calls: Mapping[str, Mapping[int, int]]  # by endpoint and status


def live(now: Progress) -> list[str]:
    """The table that is drawn again and again."""
    lines = [now.title, "", f"  {_clock(now.elapsed_s)}  {_bar(now.share)}{now.phase}", ""]
    lines += _columns(
        [
            ("events", "total", "per s", "p50", "p99"),
            ("sent", f"{now.sent:,}", f"{now.sent_rate:,.0f}", "", ""),
            ("taken", f"{now.taken:,}", f"{now.taken_rate:,.0f}", *_pair(now.take_s)),
            ("answered", f"{now.answered:,}", f"{now.answered_rate:,.0f}", *_pair(now.answer_s)),
        ]
    )
    lines += ["", f"  {_rest(now)}", ""]
    state = "up" if now.api_is_up else "DOWN"
    lines.append(f"  API {state}, {counted(now.waiting, 'request')} being answered")
    if now.calls:
        lines.append("")
        rows = [(name, *_classes(now.calls[name])) for name in sorted(now.calls)]
        lines += _columns([("calls", *CLASSES), *rows])
    return lines


def line(now: Progress) -> str:
    """The same on one line, for logs."""
    return (
        f"{_clock(now.elapsed_s)} {now.phase}: {now.sent:,} sent ({now.sent_rate:,.0f}/s), {now.taken:,} taken, "
        f"{now.answered:,} answered ({now.answered_rate:,.0f}/s), {_rest(now)}; "
        f"API {'up' if now.api_is_up else 'DOWN'}, {now.waiting:,} being answered"
    )


def report(verdict: Verdict) -> list[str]:
    """The verdict, for people; its sentence comes last."""
    events, sent, api = verdict.events, verdict.deliveries, verdict.api
    rows: list[Sequence[str]] = [
        ("events sent", f"{events.sent:,}", _sent(sent)),
        ("  taken by the bot", f"{events.taken:,}", _times(events.take_s) if events.taken else ""),
        ("  to be answered", f"{events.wanting_an_answer:,}", ""),
        ("answered once", f"{events.once:,}", _times(events.answer_s) if events.once else ""),
        *_unseen(verdict),
        ("answered twice", f"{events.twice:,}", ""),
        *(("", f"{count:,}", reason) for reason, count in events.twice_why.items()),
        ("never answered", f"{events.never:,}", ""),
        *(("", f"{count:,}", reason) for reason, count in events.never_why.items()),
        *_unquoting(verdict),
        ("", "", ""),
        ("API calls", f"{api.calls:,}", _calls(verdict)),
        *((f"  {name}", f"{_sum(endpoint):,}", _endpoint(endpoint)) for name, endpoint in api.endpoints.items()),
        *_broken(verdict),
        ("calls saved", f"{api.saved_by_multicast:,}", _saved(api)),
    ]
    width = max(len(row[0]) for row in rows)
    numbers = max(len(row[1]) for row in rows)
    head = f"Verdict on {verdict.platform} after {verdict.seconds:.1f} s, seed {verdict.seed}"
    table = [
        f"  {name:<{width}}  {count:>{numbers}}  {part}".rstrip()
        for row in rows
        for name, count, part in _folded(row, WIDTH - width - numbers - 6)
    ]
    return [head, "", *table, "", verdict.sentence]


def _folded(row: Sequence[str], width: int) -> Iterator[tuple[str, str, str]]:
    """The row as several whose third column is no wider than this."""
    name, count, rest = row
    for part in textwrap.wrap(rest, width, break_long_words=False, break_on_hyphens=False) or [""]:
        yield name, count, part.replace(GLUE, " ")
        name = count = ""


def _sent(sent: Sent) -> str:
    again = sent.duplicates + sent.again + sent.unanswered
    text = f"in {counted(sent.new, 'delivery', 'deliveries')}; {again:,} sent again"
    statuses = [_glued(f"{status}: {count:,}") for status, count in sent.failed.items()]
    return text + (f", {sum(sent.failed.values()):,} not taken ({', '.join(statuses)})" if statuses else "")


def _unseen(verdict: Verdict) -> list[Sequence[str]]:
    count = verdict.events.answered_unseen
    return [("", f"{count:,}", "of them without the bot knowing: the API hid that it had accepted")] if count else []


def _unquoting(verdict: Verdict) -> list[Sequence[str]]:
    count = verdict.api.unquoting
    return [("messages", f"{count:,}", UNQUOTING)] if count and UNASKED in verdict.events.never_why else []


def _saved(api: Asked) -> str:
    return f"by multicast, for {counted(api.messages, 'message')} to {counted(api.users, 'user')}"


def _broken(verdict: Verdict) -> list[Sequence[str]]:
    api = verdict.api
    counts = {
        "requests faster than the platform allows": sum(endpoint.over_rate for endpoint in api.endpoints.values()),
        "replies with a token that had been used": api.reused_tokens,
        "replies with a token that had expired": api.expired_tokens,
        "requests that the platform does not take": api.bad,
    }
    rows: list[Sequence[str]] = [("rules broken", f"{sum(counts.values()):,}", "")]
    return rows + [("", f"{count:,}", what) for what, count in counts.items() if count]


def _calls(verdict: Verdict) -> str:
    api = verdict.api
    parts = [f"at most {api.peak:,} in 1 s, {api.at_once:,} at once"] if api.calls else []
    parts += [f"{api.storms:,} met a storm of 429"] if api.storms else []
    parts += [f"{api.cut:,} cut off when the API went down"] if api.cut else []
    parts += [f"{api.repeated:,} known by their retry key"] if api.repeated else []
    parts += [f"{api.strange_tokens:,} with a reply token of another run, or made up"] if api.strange_tokens else []
    return ", ".join(parts)


def _endpoint(endpoint: Endpoint) -> str:
    text = "  ".join(_glued(f"{status}: {count:,}") for status, count in endpoint.statuses.items())
    if endpoint.limit is not None:
        text += "   " + _glued(f"at most {endpoint.peak:,} in {endpoint.per_s:g} s of {endpoint.limit:,}")
    return text + (f", {endpoint.over_rate:,} refused as too fast" if endpoint.over_rate else "")


def _glued(text: str) -> str:
    return text.replace(" ", GLUE)


def _sum(endpoint: Endpoint) -> int:
    return sum(endpoint.statuses.values())


def _rest(now: Progress) -> str:
    parts = [f"{now.open:,} unanswered", f"{now.untaken:,} not taken", f"{now.lost:,} lost", f"{now.twice:,} twice"]
    parts.append(f"{now.again:,} sent again")
    if now.behind_s >= 0.1:
        parts.append(f"sending is {now.behind_s:.1f} s behind")
    return ", ".join(parts)


def _classes(statuses: Mapping[int, int]) -> tuple[str, ...]:
    sums = dict.fromkeys(CLASSES, 0)
    for status, count in statuses.items():
        name = "dropped" if status == 0 else "429" if status == 429 else f"{status // 100}xx"
        sums[name] = sums.get(name, 0) + count
    return tuple(f"{sums[name]:,}" for name in CLASSES)


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(
            [f"{row[0]:<12}", *(f"{cell:>{max(8, width)}}" for cell, width in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    ]


def _bar(share: float | None) -> str:
    if share is None:
        return ""
    full = round(min(1.0, share) * BAR)
    return f"{'█' * full}{'░' * (BAR - full)} {min(1.0, share):4.0%}  "


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def _pair(times: Times) -> tuple[str, str]:
    return (span(times.p50), span(times.p99)) if times.max else ("", "")


def _times(times: Times) -> str:
    return f"p50 {span(times.p50)}, p99 {span(times.p99)}, max {span(times.max)}"


def span(seconds: float) -> str:
    """``3 ms``, ``2.40 s``."""
    if seconds < 0.0095:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else f"{seconds:.2f} s"
