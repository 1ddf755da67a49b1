"""The HTTP session that authors use for their own calls: ``ctx.http``, requests' own, shared by all handlers.

Three things differ from ``requests.Session()``: a call without a timeout gets one, connections are pooled and bounded
(a greenlet waits when all of a host are in use), and no cookies are kept, as one user's would go out with the next
user's call. This is the one module that knows requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from http.cookiejar import DefaultCookiePolicy

import requests
from requests.adapters import HTTPAdapter

TIMEOUTS_S = (3.05, 15.0)  # to connect, and between two pieces of an answer
HOSTS_MAX = 20  # whose connections are kept
CONNECTIONS_MAX = 100  # to one host


def make_session(timeouts_s: tuple[float, float] = TIMEOUTS_S) -> requests.Session:
    """``timeouts_s`` is for calls that have no timeout of their own."""
    session = requests.Session()
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    adapter = TimedAdapter(timeouts_s)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


class TimedAdapter(HTTPAdapter):
    """Gives a timeout to calls that have none: a handler would wait for ever."""

    def __init__(self, timeouts_s: tuple[float, float]) -> None:
        super().__init__(pool_connections=HOSTS_MAX, pool_maxsize=CONNECTIONS_MAX, pool_block=True)
        self.timeouts_s = timeouts_s

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: float | tuple[float, float] | tuple[float, None] | None = None,
        verify: bool | str = True,
        cert: bytes | str | tuple[bytes | str, bytes | str] | None = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        timeouts = self.timeouts_s if timeout is None else timeout
        return super().send(request, stream, timeouts, verify, cert, proxies)
