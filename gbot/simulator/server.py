"""The simulated API on a socket: a WSGI application that lets happen to each request what is to happen to it.

::

    request ──▶ known? may? not too fast? ──▶ storm: 429
                                          └─▶ latency ──▶ 5xx, not accepted
                                                      └─▶ accepted ──▶ answered, or answered with 5xx, or dropped

While the API is down its listener is closed and the requests under way are cut off: nobody can connect.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Final

import gevent
from greenlet import GreenletExit

from gbot.connection import HttpSettings, Timeouts
from gbot.http_parser import Bounds
from gbot.httpd import Server
from gbot.limiter import Limit
from gbot.listener import Listener, listen
from gbot.simulator.calls import DROPPED, Calls
from gbot.simulator.faults import DROP, FAIL, HIDE, STORM, Fate, Fates
from gbot.simulator.ledger import Ledger, Mishap
from gbot.simulator.platform import Answer, Api, Call
from gbot.simulator.window import Window
from gbot.wsgi import ClientGone, Environ

HOST: Final = "127.0.0.1"
BODY_BYTES_MAX: Final = 4 * 1024 * 1024
CONNECTIONS_MAX: Final = 100_000  # as many as the open-file limit lets there be
IDLE_S: Final = 300.0
STATUS_LINES: Final = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}
NO_LIMIT: Final = Limit()
NOWHERE: Final = "elsewhere"  # in place of an endpoint, for a path that the API does not have

StartResponse = Callable[..., Callable[[bytes], object]]


class ApiApp:
    """The application."""

    def __init__(
        self,
        api: Api,
        fates: Fates,
        ledger: Ledger,
        calls: Calls,
        clock: Callable[[], float] = time.monotonic,
        rate_limits: bool = True,
    ) -> None:
        self._api = api
        self._fates = fates
        self._ledger = ledger
        self._calls = calls
        self._clock = clock
        self.ending = False  # the run is over: what is cut off from now on is not the API's fault
        self.everything = Window(NO_LIMIT)
        self.windows = {endpoint: Window(limit if rate_limits else NO_LIMIT) for endpoint, limit in api.limits.items()}

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        number = self._calls.begin()
        self.everything.admit(self._clock())
        found = self._api.route(environ["REQUEST_METHOD"], environ["PATH_INFO"])
        if found is None:
            self._calls.bad += 1
            endpoint, answer = NOWHERE, self._api.refuse(404)
        else:
            endpoint = found[0]
            answer = self._answer(number, environ, *found)
        self._calls.end(endpoint, answer.status)
        headers = [*answer.headers, *self._api.common_headers(number)]
        start_response(STATUS_LINES[answer.status], headers)
        return [answer.body]

    def _answer(self, number: int, environ: Environ, endpoint: str, argument: str) -> Answer:
        now = self._clock()
        if not self._api.may(endpoint, environ.get("HTTP_AUTHORIZATION"), environ["QUERY_STRING"]):
            self._calls.bad += 1
            return self._api.refuse(401)
        call = Call(endpoint, argument, environ["wsgi.input"].read(), environ.get("HTTP_X_LINE_RETRY_KEY"), now)
        fate = self._fates.of(number)
        if not self.windows[endpoint].admit(now):
            self._calls.over_rate[endpoint] += 1
        elif fate.trouble is STORM:
            self._calls.storms += 1
        else:
            return self._fare(call, fate)
        self._mishap(call, Mishap.UNREPEATED)
        return self._api.refuse(429)

    def _fare(self, call: Call, fate: Fate) -> Answer:
        if fate.latency_s:
            self._wait(call, fate.latency_s)
        if fate.trouble is FAIL:
            self._mishap(call, Mishap.UNREPEATED if self._api.repeatable(call) else Mishap.FAILED)
            return self._api.refuse(fate.status)
        answer = self._api.serve(call)
        if fate.trouble is HIDE:
            self._hide(call, Mishap.HIDDEN)
            return self._api.refuse(fate.status)
        if fate.trouble is DROP:
            self._hide(call, Mishap.DROPPED)
            self._calls.end(call.endpoint, DROPPED)
            raise ClientGone
        return answer

    def _wait(self, call: Call, seconds: float) -> None:
        try:
            gevent.sleep(seconds)
        except GreenletExit:
            if self.ending:
                self._mishap(call, Mishap.UNFINISHED)
            else:
                self._calls.cut_off()
                self._mishap(call, Mishap.UNREPEATED if self._api.repeatable(call) else Mishap.CUT)
            raise

    def _hide(self, call: Call, mishap: Mishap) -> None:
        """A client that may repeat the request will learn what became of it."""
        if not self._api.repeatable(call):
            self._mishap(call, mishap)

    def _mishap(self, call: Call, mishap: Mishap) -> None:
        for event in self._api.answers(call):
            self._ledger.mishap(event, mishap)


def bind(port: int) -> Listener:
    """Take the API's port; 0: any free one. Raises StartError."""
    return listen(HOST, port)


class ApiServer:
    """The application on a port, which can go down and come up again."""

    def __init__(self, app: ApiApp, listener: Listener) -> None:
        self._app = app
        self._settings = HttpSettings(
            Bounds(body_bytes_max=BODY_BYTES_MAX), Timeouts(idle_s=IDLE_S), connections_max=CONNECTIONS_MAX
        )
        self._listener: Listener | None = listener
        self._port: int = listener.socket.getsockname()[1]
        self._server: Server | None = None
        self.address = f"http://{listener.address}"

    @property
    def is_up(self) -> bool:
        return self._server is not None

    def start(self) -> None:
        """Serve; again, when it was stopped. Raises StartError."""
        if self._server is None:
            listener = self._listener or bind(self._port)
            self._listener = None  # the server closes it
            self._server = Server(self._app, [listener.socket], self._settings)
            self._server.start()

    def stop(self) -> None:
        """Cut everything off. A second call is harmless."""
        if self._server is not None:
            self._server.stop()
            self._server.drain(time.monotonic())
            self._server = None
