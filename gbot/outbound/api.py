"""One platform's API: a request goes through its host's circuit and its endpoint's lane, and again where that is safe.

One try::

    circuit admits ──▶ lane lets through ──▶ transport sends ──▶ platform judges
          │                  │                     │                   │
       ApiDown            LaneBusy        ApiUnreachable,        ACCEPTED, MISSING: settled
                                          ResultUnknown          what will not change: an error at once
                                                │                RATE, NOT_READY, UNAVAILABLE
                                                └──────────┬───────────┘
                                          retries.py: after which pause again, or not

A circuit opens when its host fails again and again: every call to it then ends with ApiDown, also those that wait in a
lane, and their events rest in the inbox until the host has been seen to answer. What is not repeatable, such as a
reply, is never sent again once it may have arrived: its error is ``final``. An error that ends a call whose earlier try
may have arrived has that try's error as its cause.
"""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Final

import gevent

from gbot.errors import (
    ApiDown,
    ApiError,
    ApiLimited,
    ApiRejected,
    ApiUnavailable,
    ApiUnreachable,
    ContentGone,
    LaneBusy,
    QuotaUsedUp,
    RecipientGone,
    ReplyTokenRefused,
    ResultUnknown,
    SendError,
    TooManyToRecipient,
)
from gbot.limiter import ALL, Limit
from gbot.outbound.content import ApiContent
from gbot.outbound.host import Host
from gbot.outbound.lane import Lane, LaneStatistics
from gbot.outbound.retries import Trouble, pause_s, read_retry_after
from gbot.outbound.transport import Download, Transport
from gbot.platform import ApiAnswer, ApiRequest, Judgement, Platform

WITHIN_S: Final = 45.0
HOSTS_MAX: Final = 100
REFUSAL_BYTES_MAX: Final = 64 * 1024

ACCEPTED: Final = Judgement.ACCEPTED
MISSING: Final = Judgement.MISSING
UNAVAILABLE: Final = Judgement.UNAVAILABLE
RATE: Final = Trouble.RATE
UNSURE: Final = frozenset({Trouble.UNKNOWN, Trouble.UNAVAILABLE})  # the request may have been accepted
TROUBLES: Final = {
    Judgement.UNAVAILABLE: Trouble.UNAVAILABLE,
    Judgement.RATE: Trouble.RATE,
    Judgement.NOT_READY: Trouble.NOT_READY,
}
REFUSALS: Final = {
    Judgement.QUOTA: QuotaUsedUp,
    Judgement.RECIPIENT_LIMIT: TooManyToRecipient,
    Judgement.TOKEN_REFUSED: ReplyTokenRefused,
    Judgement.REJECTED: ApiRejected,
}

Send = Callable[[ApiRequest], ApiAnswer]


@dataclass(frozen=True, slots=True)
class ApiStatistics:
    """Counts since the start; ``lanes`` and ``open_circuits`` are of this moment."""

    calls: int
    retries: int
    rate_limited: int  # answers by which the platform said: too fast
    failures: int  # calls that ended with an error
    lanes: tuple[LaneStatistics, ...]
    open_circuits: tuple[str, ...]  # the hosts that are left alone


class Api:
    """One platform's API, as one worker uses it.

    ``lanes`` are the operator's limits by endpoint, instead of the platform's; "all" puts every endpoint into one lane.
    At most ``waiting_max`` requests wait in a lane.
    """

    def __init__(self, platform: Platform, transport: Transport, lanes: Mapping[str, Limit], waiting_max: int) -> None:
        self._platform = platform
        self._transport = transport
        self._lanes = _make_lanes(platform, lanes, waiting_max)
        self._hosts: OrderedDict[str, Host] = OrderedDict()  # the one asked last at the end
        self._calls = self._retries = self._rate_limited = self._failures = 0

    def call(self, request: ApiRequest, flow: Hashable, within_s: float | None = None) -> ApiAnswer:
        """Send a request until it is settled, and return the answer that has accepted it.

        ``flow`` is whom it is for: in a lane the flows take turns. No try begins later than ``within_s``, or WITHIN_S
        from now. Raises LaneBusy, ApiError, RecipientGone.
        """
        judgement, answer = self._settled(request, flow, within_s, self._transport.send)
        if judgement is MISSING:
            self._failures += 1
            raise ApiRejected(self._sentence(request, answer), answer.status)
        return answer

    def find(self, request: ApiRequest, flow: Hashable) -> ApiAnswer | None:
        """``call`` for something that need not be there; None when it is not."""
        judgement, answer = self._settled(request, flow, None, self._transport.send)
        return None if judgement is MISSING else answer

    def download(self, request: ApiRequest, flow: Hashable) -> ApiContent:
        """Begin to download what the request asks for; waits until it is ready. Raises ContentGone, and as ``call``.

        The lane lets the next one through as soon as the download has begun.
        """
        opening = _Opening(self._platform, self._transport)
        judgement, answer = self._settled(request, flow, None, opening.send)
        if judgement is MISSING:
            self._failures += 1
            raise ContentGone(self._sentence(request, answer), answer.status)
        assert opening.download is not None  # nothing else is accepted
        return ApiContent(opening.download)

    def statistics(self) -> ApiStatistics:
        lanes = tuple(lane.statistics() for lane in dict.fromkeys(self._lanes.values()))
        down = tuple(origin for origin, host in self._hosts.items() if host.is_down)
        return ApiStatistics(self._calls, self._retries, self._rate_limited, self._failures, lanes, down)

    # A call: tries until it is settled.

    def _settled(
        self, request: ApiRequest, flow: Hashable, within_s: float | None, send: Send
    ) -> tuple[Judgement, ApiAnswer]:
        """ACCEPTED or MISSING, with the answer. Raises SendError for everything else."""
        self._calls += 1
        deadline = time.monotonic() + (WITHIN_S if within_s is None else min(within_s, WITHIN_S))
        met: dict[Trouble, int] = {}
        unsure: ApiError | None = None  # of the last try that may have arrived
        try:
            while True:
                try:
                    judgement, answer = self._try(request, flow, deadline, send)
                    if judgement is ACCEPTED or judgement is MISSING:
                        return judgement, answer
                    trouble, error, retry_after_s = self._trouble(request, judgement, answer)
                except (ApiDown, LaneBusy):
                    raise
                except ApiUnreachable as unreachable:
                    trouble, error, retry_after_s = Trouble.UNREACHABLE, unreachable, None
                except ResultUnknown as unknown:
                    trouble, error, retry_after_s = Trouble.UNKNOWN, unknown, None
                times = met[trouble] = met.get(trouble, 0) + 1
                left_s = deadline - time.monotonic()
                pause = pause_s(trouble, times, request.repeatable, retry_after_s, left_s, random.random())
                if pause is None:
                    raise _given_up(error, request.repeatable, sum(met.values())) from error.__cause__
                if trouble in UNSURE:
                    unsure = error
                self._retries += 1
                gevent.sleep(pause)
        except SendError as error:
            self._failures += 1
            if unsure is not None and not isinstance(error, ApiUnavailable | ResultUnknown):
                raise error from unsure
            raise

    def _trouble(
        self, request: ApiRequest, judgement: Judgement, answer: ApiAnswer
    ) -> tuple[Trouble, ApiError, float | None]:
        """What to do about an answer that settles nothing. Raises SendError for one that will not change."""
        trouble = TROUBLES.get(judgement)
        if trouble is Trouble.NOT_READY:
            error = ApiUnavailable(f"{request.origin} is still preparing what was asked for", answer.status)
            return trouble, error, None
        sentence = self._sentence(request, answer)
        if trouble is None:
            if judgement is Judgement.RECIPIENT_GONE:
                raise RecipientGone(f"{sentence}; nothing was sent")
            raise REFUSALS[judgement](sentence, answer.status)
        retry_after_s = read_retry_after(answer.headers.get("retry-after"), time.time())
        if trouble is RATE:
            self._rate_limited += 1
            self._lanes[request.lane].slow_down(retry_after_s)
            return trouble, ApiLimited(sentence, answer.status), retry_after_s
        return trouble, ApiUnavailable(sentence, answer.status), retry_after_s

    def _sentence(self, request: ApiRequest, answer: ApiAnswer) -> str:
        return f"{request.origin} answered {answer.status}: {self._platform.explain(answer) or 'no explanation'}"

    # One try.

    def _try(self, request: ApiRequest, flow: Hashable, deadline: float, send: Send) -> tuple[Judgement, ApiAnswer]:
        host = self._host(request.origin)
        host.check()
        lane = self._lanes[request.lane]
        host.enter(lane, flow, max(0.0, deadline - time.monotonic()))
        probing = False
        try:
            probing = host.admit()
            answer = send(request)
        except ApiDown:
            raise
        except (ApiUnreachable, ResultUnknown) as error:
            host.failed(str(error))
            raise
        except BaseException:
            if probing:
                host.abandoned()
            raise
        finally:
            lane.leave()
        judgement = self._platform.judge(request, answer)
        if judgement is UNAVAILABLE:
            host.failed(f"it answered {answer.status}")
        else:
            host.succeeded()
        return judgement, answer

    def _host(self, origin: str) -> Host:
        host = self._hosts.get(origin)
        if host is None:
            host = self._hosts[origin] = Host(origin)
            if len(self._hosts) > HOSTS_MAX:
                self._hosts.popitem(last=False)
        else:
            self._hosts.move_to_end(origin)
        return host


class _Opening:
    """Sends as Transport.send does, and leaves the body of an accepted answer to be read later."""

    def __init__(self, platform: Platform, transport: Transport) -> None:
        self.download: Download | None = None
        self._platform = platform
        self._transport = transport

    def send(self, request: ApiRequest) -> ApiAnswer:
        download = self._transport.open(request)
        head = ApiAnswer(download.status, download.headers, b"")
        if self._platform.judge(request, head) is ACCEPTED:
            self.download = download
            return head
        with download:
            return ApiAnswer(head.status, head.headers, download.read_all(REFUSAL_BYTES_MAX))


def _make_lanes(platform: Platform, given: Mapping[str, Limit], waiting_max: int) -> dict[str, Lane]:
    limits = platform.limits.lanes
    if ALL in given:
        return dict.fromkeys(limits, Lane(f"{platform.name}.{ALL}", given[ALL], waiting_max))
    return {name: Lane(f"{platform.name}.{name}", given.get(name, limits[name]), waiting_max) for name in limits}


def _given_up(error: ApiError, repeatable: bool, tries: int) -> ApiError:
    """The last try's error as that of the whole call, saying what became of the request."""
    if not repeatable and isinstance(error, ApiUnavailable):
        sentence = f"{error}; it may have been accepted, so it is not sent again"
        return ApiUnavailable(sentence, error.status, final=True)
    if not repeatable and isinstance(error, ResultUnknown):
        return ResultUnknown(f"{error}, so it is not sent again", error.status, final=True)
    return type(error)(f"{error}; tried {tries} times" if tries > 1 else str(error), error.status)
