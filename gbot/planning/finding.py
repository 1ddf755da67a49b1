"""What the samples of a measured server say of its handlers. Pure: samples in, figures out.

Everything is the growth of a counter by the number of events that ended; samples are taken when nothing runs. (Handlers
that were seen at work would tell less of their latency: those that come and go in bunches were told to take 0.25 s
instead of 0.3.) CPU is what the process has used, less what it used at rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from gbot.counts import counted
from gbot.planning.costs import Figures, Measured, waiting_bytes
from gbot.planning.plan import US_PER_S

SAMPLE_S: Final = 0.5  # between two samples
END_MAX_S: Final = 90.0  # for handlers to end, at the warm-up and after the load
EVENTS_FEW: Final = 20


class Sample(msgspec.Struct, frozen=True):
    """What the sampler tells, as far as it is needed here; counts and seconds are since the start."""

    at_s: float
    running: int
    events_finished: int
    events_failed: int
    events_held: int
    cpu_s: float
    rss_bytes: int
    handlers_ran_s: float = 0.0  # those that have ended
    events_dead: int = 0  # those that asked to be run again are dead and have not failed
    events_put_off: int = 0
    events_unhandled: int = 0
    waiting: int = 0
    db_open: int | None = None
    db_uses: int | None = None
    db_held_s: float | None = None

    @property
    def is_futile(self) -> bool:
        """Whether nothing runs or is about to, and all that ever ran was put off, as it may well be the next time."""
        return not (self.running or self.waiting) and 0 < self.events_finished == self.events_put_off


class Finding(msgspec.Struct, frozen=True):
    """What a measurement has found. Counts are of events, ``ended`` with those that failed and those put off.

    ``trouble``: what the server has said of it, if anything.
    """

    measured: Measured
    asked: int
    sent: int
    ended: int
    failed: int
    put_off: int
    unhandled: int
    left: int  # taken, and not ended when the time was over
    running_max: int
    trouble: str

    @property
    def succeeded(self) -> int:
        return self.ended - self.failed - self.put_off

    def doubts(self) -> list[str]:
        """Why the figures may not tell much."""
        ended, was = counted(self.ended, "event"), "was" if self.put_off == 1 else "were"
        facts = {
            f"{self.failed} of {ended} failed": self.failed,
            f"{self.put_off} of {ended} {was} put off, as what they need is away or busy": self.put_off,
            f"{self.unhandled} of {ended} had no handler": self.unhandled,
            f"{counted(self.left, 'event')} had not ended {END_MAX_S:g} s after the load": self.left,
            f"the server took {self.sent} of {counted(self.asked, 'event')} in the time": self.sent < self.asked,
            f"only {counted(self.ended, 'event has', 'events have')} ended": self.ended < EVENTS_FEW,
        }
        return [fact for fact, is_so in facts.items() if is_so]


def finding(
    rest: Sequence[Sample],
    samples: Sequence[Sample],
    asked: int,
    sent: int,
    rate_per_s: float,
    trouble: str,
    figures: Figures,
) -> Finding:
    """What the samples say: those taken at rest, and those from then on until the end."""
    first, last = samples[0], samples[-1]
    fullest = max(samples, key=lambda sample: sample.running)
    ended = last.events_finished - first.events_finished
    each = max(1, ended)
    uses, held_s = (last.db_uses or 0) - (first.db_uses or 0), (last.db_held_s or 0.0) - (first.db_held_s or 0.0)
    cpu_s = max(0.0, _cpu_s(rest, first, last))
    opened = (fullest.db_open or 0) - (first.db_open or 0)
    measured = Measured(
        where="measured",
        latency_s=(last.handlers_ran_s - first.handlers_ran_s) / each,
        cpu_us=cpu_s * US_PER_S / each,
        base_bytes=first.rss_bytes,
        waiting_bytes=waiting_bytes(fullest.rss_bytes - first.rss_bytes, fullest.running, opened, figures),
        queries=uses / each,
        query_s=held_s / uses if uses else None,
        rate_per_s=rate_per_s,
    )
    return Finding(
        measured,
        asked,
        sent,
        ended,
        failed=max(last.events_failed - first.events_failed, last.events_dead - first.events_dead),
        put_off=last.events_put_off - first.events_put_off,
        unhandled=last.events_unhandled - first.events_unhandled,
        left=last.events_held,
        running_max=fullest.running,
        trouble=trouble,
    )


def _cpu_s(rest: Sequence[Sample], first: Sample, last: Sample) -> float:
    """What the events have used: without what the process uses at rest."""
    idle_share = (rest[-1].cpu_s - rest[0].cpu_s) / max(SAMPLE_S, rest[-1].at_s - rest[0].at_s)
    return last.cpu_s - first.cpu_s - idle_share * (last.at_s - first.at_s)
