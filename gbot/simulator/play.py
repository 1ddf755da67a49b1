"""One run: deliveries go out, the API answers, until all is answered or the patience is over; then the verdict.

::

    sending ──▶ waiting for what is not taken or not answered ──▶ lingering, to see second answers ──▶ over
       └─ stop ──────▶ ┘                    └─ stop ────────────────────────────────────────────────▶ ┘

A delivery that the bot does not take is sent again, later and later, REDELIVERIES_S; then it is given up. Where nobody
is there at the very beginning, the run does not begin.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import gevent
import gevent.event
import gevent.pool

from gbot.errors import StartError
from gbot.simulator.calls import Calls
from gbot.simulator.ledger import Ledger
from gbot.simulator.platform import Webhook
from gbot.simulator.postman import NoAnswer, NoConnection, Postman
from gbot.simulator.screen import Progress
from gbot.simulator.server import ApiApp, ApiServer
from gbot.simulator.settings import Settings
from gbot.simulator.traffic import Delivery, Why, sendings
from gbot.simulator.verdict import Times, Verdict, judge

REDELIVERIES_S: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
REDELIVERIES_WAITING_MAX: Final = 100_000
UNDER_WAY_MAX: Final = 1000  # deliveries
LINGER_S: Final = 1.0
LOOK_S: Final = 0.05  # how often it is looked whether something is due


class Play:
    """One run. ``postman`` is None when nothing is to be sent."""

    def __init__(
        self,
        settings: Settings,
        webhook: Webhook,
        postman: Postman | None,
        app: ApiApp,
        server: ApiServer,
        ledger: Ledger,
        calls: Calls,
    ) -> None:
        self._settings = settings
        self._webhook = webhook
        self._postman = postman
        self._app, self._server = app, server
        self._ledger, self._calls = ledger, calls
        self._under_way = gevent.pool.Pool(UNDER_WAY_MAX)
        self._redeliveries: list[tuple[float, int, Delivery, int]] = []
        self._sent: Counter[Why] = Counter()
        self._failed: Counter[int] = Counter()  # by status; 0: no answer
        self._behind_s = 0.0
        self._say: Callable[[str], object] | None = None  # until there has been something to say
        self._began = time.monotonic()
        self._stops = self._stops_heard = 0
        self._stopped = gevent.event.Event()  # the first stop: nothing new is sent
        self._phase = "starting"
        self._before = (self._began, 0, 0, 0)

    @property
    def api_address(self) -> str:
        return self._server.address

    def run(self, show: Callable[[Progress], object], every_s: float, say: Callable[[str], object]) -> Verdict:
        """All of it; ``say`` takes what the operator has to know at once.

        Raises StartError when nobody is at the bot's address, or it is not the bot's.
        """
        self._say = say
        self._server.start()
        try:
            self._introduce()
            self._began = time.monotonic()
            helpers = gevent.pool.Group()
            helpers.spawn(self._go_down)
            helpers.spawn(self._show, show, every_s)
            try:
                self._perform()
            finally:
                helpers.kill()
        finally:
            self._app.ending = True
            self._server.stop()
            self._under_way.kill()
            if self._postman is not None:
                self._postman.close()
        seconds = time.monotonic() - self._began
        settings = self._settings
        return judge(
            settings.platform,
            settings.seed,
            seconds,
            self._sent,
            self._failed,
            self._ledger,
            self._calls,
            self._app.windows,
            self._app.everything,
        )

    def stop(self) -> None:
        """Send nothing new; when nothing is being sent any more, wait for nothing either."""
        self._stops += 1
        self._stopped.set()

    def progress(self) -> Progress:
        """How it stands. Rates are since the last call."""
        ledger, calls = self._ledger, self._calls
        now = time.monotonic()
        before_at, *before = self._before
        span_s = max(0.001, now - before_at)
        counts = (ledger.sent, ledger.taken, ledger.answered)
        rates = [(count - earlier) / span_s for count, earlier in zip(counts, before, strict=True)]
        self._before = (now, *counts)
        return Progress(
            title=f"gbot simulate {self._settings.platform}, API at {self._server.address}, seed {self._settings.seed}",
            phase=self._phase,
            elapsed_s=now - self._began,
            share=self._share(now - self._began),
            sent=counts[0],
            taken=counts[1],
            answered=counts[2],
            sent_rate=rates[0],
            taken_rate=rates[1],
            answered_rate=rates[2],
            open=ledger.open,
            untaken=ledger.untaken + ledger.given_up,
            lost=ledger.lost,
            twice=ledger.twice,
            again=self._sent.total() - self._sent[Why.NEW],
            behind_s=self._behind_s,
            take_s=Times.of(ledger.time_to_take),
            answer_s=Times.of(ledger.time_to_answer),
            api_is_up=self._server.is_up,
            waiting=calls.waiting,
            calls=calls.statuses,
        )

    def _share(self, elapsed_s: float) -> float | None:
        traffic = self._settings.traffic
        shares = []
        if traffic.events_max is not None and traffic.rate:
            shares.append(self._ledger.sent / traffic.events_max)
        if traffic.seconds is not None:
            shares.append(elapsed_s / traffic.seconds)
        return max(shares) if shares else None

    # What runs beside: the API's outage, the screen.

    def _go_down(self) -> None:
        if self._settings.down is None:
            return
        from_s, for_s = self._settings.down
        gevent.sleep(max(0.0, self._began + from_s - time.monotonic()))
        self._server.stop()
        gevent.sleep(for_s)
        self._server.start()

    def _show(self, show: Callable[[Progress], object], every_s: float) -> None:
        while True:
            show(self.progress())
            gevent.sleep(every_s)

    # The run itself.

    def _introduce(self) -> None:
        """Make sure that somebody is there, and where the platform does so, that it is the bot. Raises StartError."""
        if self._postman is None:
            return
        try:
            self._postman.connect()
        except NoConnection as error:
            raise StartError(f"cannot connect to the bot at {self._settings.to}: {error}; is it running?") from None
        challenge = self._webhook.challenge()
        if challenge is None:
            return
        query, expected = challenge
        try:
            status, body = self._postman.get(query)
        except NoAnswer as error:
            raise StartError(f"the bot did not answer the platform's verification: {error}") from None
        if status != 200 or body.decode("utf-8", "replace") != expected:
            raise StartError(f"the bot answered the platform's verification with {status} and not with the challenge")

    def _perform(self) -> None:
        if self._postman is None:
            self._phase = "serving the API; Ctrl-C ends it"
            self._stopped.wait(self._settings.traffic.seconds)
            return
        redelivering = gevent.spawn(self._redeliver, self._postman)
        try:
            self._phase = "sending"
            self._send_all(self._postman)
            self._stops_heard = int(self._stopped.is_set())  # which has ended the sending
            self._phase = "waiting for answers"
            if self._wait_until(self._all_done, self._settings.wait_s):
                self._phase = "looking for second answers"
                self._wait_until(lambda: False, LINGER_S)
        finally:
            gevent.kill(redelivering)

    def _wait_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Returns whether it came true; gives up after so long, or when told to stop."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() >= end or self._stops > self._stops_heard:
                return False
            gevent.sleep(LOOK_S)
        return True

    def _all_done(self) -> bool:
        ledger = self._ledger
        return not (ledger.open or ledger.untaken or len(self._under_way) or self._redeliveries)

    def _send_all(self, postman: Postman) -> None:
        for sending in sendings(self._settings.traffic, self._settings.seed):
            ahead_s = self._began + sending.at_s - time.monotonic()
            if ahead_s > 0:
                self._stopped.wait(ahead_s)
            if self._stopped.is_set():
                return
            self._behind_s = max(0.0, -ahead_s)
            self._under_way.spawn(self._deliver, postman, sending.delivery, sending.why, 0)  # waits for room

    def _deliver(self, postman: Postman, delivery: Delivery, why: Why, failures: int) -> None:
        body = self._webhook.body(delivery, again=why in (Why.AGAIN, Why.UNANSWERED))
        now = time.monotonic()
        for event in delivery.events:
            self._ledger.send(event, self._webhook.wants_answer(event), now)
        self._sent[why] += 1
        try:
            status = postman.post(body, self._webhook.headers(body))
        except NoAnswer as error:
            status = 0
            if isinstance(error, NoConnection):
                self._miss_the_bot(error)
        if 200 <= status < 300:
            now = time.monotonic()
            for event in delivery.events:
                self._ledger.take(event, now)
            return
        self._failed[status] += 1
        if why in (Why.NEW, Why.UNANSWERED):
            self._put_off(delivery, failures)

    def _miss_the_bot(self, error: NoConnection) -> None:
        if self._say is not None:
            self._say(
                f"Cannot connect to the bot at {self._settings.to} any more: {error}. "
                f"Each delivery is sent again for {sum(REDELIVERIES_S):.0f} s."
            )
            self._say = None

    def _put_off(self, delivery: Delivery, failures: int) -> None:
        if failures < len(REDELIVERIES_S) and len(self._redeliveries) < REDELIVERIES_WAITING_MAX:
            due = time.monotonic() + REDELIVERIES_S[failures]
            heapq.heappush(self._redeliveries, (due, delivery.number, delivery, failures + 1))
        else:
            for event in delivery.events:
                self._ledger.give_up(event)

    def _redeliver(self, postman: Postman) -> None:
        while True:
            gevent.sleep(LOOK_S)
            while self._redeliveries and self._redeliveries[0][0] <= time.monotonic():
                delivery, failures = self._redeliveries[0][2:]
                self._under_way.spawn(self._deliver, postman, delivery, Why.UNANSWERED, failures)
                heapq.heappop(self._redeliveries)  # last: until then it is to be seen that something is to be done
