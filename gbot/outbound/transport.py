"""HTTP to a platform's API over kept-alive connections, with every failure as a typed error.

Nothing is repeated here: whether repeating is safe is not for a transport to know. This is the one module that knows
requests. The environment's proxy variables and REQUESTS_CA_BUNDLE are honoured, ``.netrc`` is not: it would replace the
platform's Authorization header.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator

import requests
from requests.adapters import HTTPAdapter
from requests.exceptions import InvalidSchema, InvalidURL, MissingSchema, ProxyError
from requests.utils import get_environ_proxies
from urllib3.exceptions import HTTPError, LocationValueError, NewConnectionError

from gbot.errors import ApiLimited, ApiRejected, ApiUnavailable, ApiUnreachable, ResultUnknown
from gbot.platform import ApiRequest

CONNECT_TIMEOUT_S = 3.05
READ_TIMEOUT_S = 15.0
DETAIL_CHARACTERS_MAX = 200
NEVER_SENT = (InvalidSchema, InvalidURL, MissingSchema, ProxyError, LocationValueError)


class Session(requests.Session):
    """Works out no redirects: requests does even when told not to follow them, and fails on some that lead nowhere."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        return None


class Transport:
    """Connections to one API. ``connections_max`` bounds them; a greenlet waits when all are in use."""

    def __init__(self, api_base: str, connections_max: int, read_timeout_s: float = READ_TIMEOUT_S) -> None:
        self._api_base = api_base
        self._timeouts = (CONNECT_TIMEOUT_S, read_timeout_s)
        self._session = Session()
        self._session.trust_env = False
        self._session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True
        self._session.proxies = get_environ_proxies(api_base)
        adapter = HTTPAdapter(pool_connections=1, pool_maxsize=connections_max, pool_block=True)
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)

    def send(self, request: ApiRequest) -> bytes:
        """The body of the API's 2xx answer. Raises ApiError."""
        try:
            response = self._session.request(
                request.method,
                request.url,
                headers=dict(request.headers),
                data=request.body,
                timeout=self._timeouts,
                allow_redirects=False,
            )
        except (requests.RequestException, HTTPError) as error:  # requests does not wrap all of urllib3's
            raise self._sort(error) from error
        return self._check(response)

    def close(self) -> None:
        self._session.close()

    def _sort(self, error: requests.RequestException | HTTPError) -> ApiUnreachable | ResultUnknown:
        """Whether the request can have arrived: only a failed connect says for sure that it did not."""
        kind = type(error).__name__
        causes = list(_causes(error))
        if isinstance(error, requests.ConnectTimeout):
            return ApiUnreachable(f"no connection to {self._api_base} within {CONNECT_TIMEOUT_S} s")
        if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
            return ApiUnreachable(f"{self._api_base} did not show a certificate that can be trusted")
        if isinstance(error, NEVER_SENT):
            return ApiUnreachable(f"no connection to {self._api_base}: {kind}")
        if any(isinstance(cause, NewConnectionError) for cause in causes):
            return ApiUnreachable(f"no connection to {self._api_base}: nothing answers there, or there is no such host")
        return ResultUnknown(f"no answer from {self._api_base}: {kind}; the message may have arrived")

    def _check(self, response: requests.Response) -> bytes:
        status = response.status_code
        if 200 <= status < 300:
            return response.content
        sentence = f"{self._api_base} answered {status}: {_detail(response)}"
        if status == 429:
            raise ApiLimited(sentence, status)
        if status >= 500:
            raise ApiUnavailable(sentence, status)
        raise ApiRejected(sentence, status)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was made of: requests wraps urllib3's errors, urllib3 those of the socket."""
    yield error
    for cause in (*error.args, getattr(error, "reason", None)):
        if isinstance(cause, BaseException):
            yield from _causes(cause)


def _detail(response: requests.Response) -> str:
    """What the API says about its refusal; platforms put it into ``message``. It does not repeat what was sent."""
    try:
        detail = response.json()["message"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "no explanation"
    return str(detail)[:DETAIL_CHARACTERS_MAX]
