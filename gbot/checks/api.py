"""Whether the APIs of the platforms can be reached, the same way as messages go there.

One GET of the API's base address, with no token and no body: it can do nothing, and counts against no quota. Whatever
the answer is, somebody has answered.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

import gevent

from gbot.checks.clock import Reading, http_date, reading
from gbot.checks.finding import Finding, fail, in_ms, milliseconds, ok, warn
from gbot.config import Config
from gbot.errors import ApiUnreachable, ResultUnknown
from gbot.outbound.http_answer import AnswerParser
from gbot.outbound.http_connection import connect, request_bytes
from gbot.outbound.lookup import Lookup
from gbot.outbound.route import Route, find_route, make_tls_context
from gbot.platform import ApiRequest

CONNECT_MAX_S: Final = 2.5
ANSWER_MAX_S: Final = 2.5
ANSWER_BYTES_MAX: Final = 1024 * 1024
DATE_STEP_S: Final = 1.0  # of the Date header
FROM_PROXY: Final = frozenset({407, 502, 503, 504})  # what a proxy says when it does not get through
LOSS: Final = "handlers could not reply or push"
CONTENT_LOSS: Final = "images and files that users send could not be fetched"

Place = tuple[str, str, str]  # what the line is called, the address, what is missing without it


def places(config: Config, platforms: Sequence[str]) -> list[Place]:
    """What there is to reach for these platforms."""
    found: list[Place] = []
    if "line" in platforms:
        found.append(("api line", config.line_api_base, LOSS))
        if config.line_content_base != config.line_api_base:
            found.append(("api line files", config.line_content_base, CONTENT_LOSS))
    if "messenger" in platforms:
        found.append(("api messenger", config.messenger_api_base, LOSS))
    return found


def api(place: Place, tell: Callable[[Reading], object]) -> Finding:
    """``tell`` takes what the Date header says its time is."""
    name, base, loss = place
    parts = urlsplit(base)
    origin = f"{parts.scheme}://{parts.netloc}"
    failed = fail if loss == LOSS else warn
    advice = f"see to DNS, firewall and https_proxy on this machine: {loss}"
    began, asked_s = time.monotonic(), time.time()
    try:
        route = find_route(origin)
        answer = _ask(route, parts.path or "/")
    except (ApiUnreachable, ResultUnknown) as error:
        found = str(error).removesuffix("; nothing was sent").removesuffix("; the request may have arrived")
        return failed(name, found, advice)
    took_s = time.monotonic() - began
    by_proxy = f" through the proxy {route.address[0]}:{route.address[1]}" if route.is_proxied else ""
    if route.target_prefix and answer.status in FROM_PROXY:
        return failed(name, f"no way to {origin}{by_proxy}: it answered with status {answer.status}", advice)
    date = http_date(answer.headers.get("date", ""))
    if date is not None:
        tell(reading(parts.hostname or origin, date, asked_s, time.time(), DATE_STEP_S))
    found = f"{origin} answers{by_proxy} in {milliseconds(took_s)} (status {answer.status})"
    return ok(name, found, {"answer_ms": in_ms(took_s), "status": answer.status})


def _ask(route: Route, path: str) -> AnswerParser:
    """Raises ApiUnreachable, ResultUnknown."""
    tls = make_tls_context(route.origin) if route.server_name is not None else None
    hub = gevent.get_hub()
    connection = connect(route, Lookup(*route.address), tls, hub, CONNECT_MAX_S, ANSWER_MAX_S)
    try:
        connection.ask(request_bytes(route, ApiRequest("GET", route.origin, path, {}, b"", "")))
        return connection.receive_all(ANSWER_BYTES_MAX)
    finally:
        connection.close()
