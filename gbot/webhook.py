"""The webhook's front desk, a Falcon app: a delivery in, ``{"ok":"ok"}`` out as soon as its events are accepted.

::

    POST /callback/<platform>   size check → platform.verify(raw bytes) → platform.parse → inbox.put → 200
    POST /callback              the same for the plain platform
    GET  /callback/<platform>   platform.challenge → 200, where the platform asks whether the address is ours
    GET  /                      what this is
    GET  /healthz               200 while events are taken, 503 while the server drains

Every error is JSON: ``{"error": <a stable word for programs>, "detail": <a sentence for people>}``. The app runs
under any WSGI server; it waits for the request's body and for the inbox, which stores the events. This is the one
module, with admin later, that knows Falcon.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import falcon
import msgspec

from gbot.errors import DeliveryError, DeliveryTooLarge, Draining, NotFound, NotJson, Unavailable
from gbot.inbox import Inbox
from gbot.platform import Platform
from gbot.wsgi import WsgiApp

log = logging.getLogger(__name__)

OK = b'{"ok":"ok"}'
EVENTS_PER_DELIVERY_MAX = 10_000
JSON_TYPES = (None, "application/json")


class Intake:
    """Where all callbacks hand in their events. ``drain`` makes it answer 503 from then on."""

    def __init__(self, inbox: Inbox, body_bytes_max: int) -> None:
        self._inbox = inbox
        self._body_bytes_max = body_bytes_max
        self.draining = False
        self.refusals = RefusalLog()

    def drain(self) -> None:
        self.draining = True

    def take(self, platform: Platform, req: falcon.Request) -> None:
        """Accept all events of a delivery or none. Raises DeliveryError."""
        if self.draining:
            raise Draining("The server is stopping; send this again.")
        if req.content_type not in JSON_TYPES:
            _check_content_type(req.content_type)
        body = self._read(req)
        platform.verify(req.get_header, body)
        events = platform.parse(body)
        if len(events) > EVENTS_PER_DELIVERY_MAX:
            raise DeliveryTooLarge(f"A delivery may hold {EVENTS_PER_DELIVERY_MAX} events.")
        self._inbox.put(events, len(body))

    def _read(self, req: falcon.Request) -> bytes:
        """The raw body; reads one byte more than the bound to know whether it is over. Raises DeliveryTooLarge."""
        bound = self._body_bytes_max
        if (req.content_length or 0) <= bound:
            stream = req.stream if req.env.get("wsgi.input_terminated") else req.bounded_stream
            body: bytes = stream.read(bound + 1)
            if len(body) <= bound:
                return body
        raise DeliveryTooLarge(f"The body may have {bound} bytes.")


def _check_content_type(content_type: str | None) -> None:
    """JSON by any of its names, with any parameters. Raises NotJson."""
    media_type = (content_type or "").partition(";")[0].strip().lower()
    if media_type and media_type != "application/json" and not media_type.endswith("+json"):
        raise NotJson("The body is declared as something other than JSON; send Content-Type: application/json.")


class Callback:
    """Takes one platform's deliveries."""

    def __init__(self, platform: Platform, intake: Intake) -> None:
        self._platform = platform
        self._intake = intake

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        self._intake.take(self._platform, req)
        resp.data = OK


class AskedCallback(Callback):
    """The callback of a platform that asks by GET whether the address is ours, and sends deliveries only then."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        # A parameter given twice has a list as its value, and no platform sends one.
        params = {name: value for name, value in req.params.items() if isinstance(value, str)}
        resp.text = self._platform.challenge(params)
        resp.content_type = falcon.MEDIA_TEXT


def callback(platform: Platform, intake: Intake) -> Callback:
    """The platform's callback. Where it has no challenge, a GET is answered 405 like any other method."""
    try:
        platform.challenge({})
    except NotFound:
        return Callback(platform, intake)
    except DeliveryError:  # it has one, which this was not
        pass
    return AskedCallback(platform, intake)


class Front:
    """Says what this is, to whoever opens the address in a browser."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._body = msgspec.json.encode({"name": "gbot", "what": "a chat-bot webhook server", "callbacks": paths})

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.data = self._body

    on_head = on_get


class Health:
    """For load balancers and monitors."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        if self._intake.draining:
            raise Draining("The server is stopping.")
        resp.data = OK

    on_head = on_get


def callback_path(platform: Platform) -> str:
    """The plain platform keeps the old benchmark's address; every other has its name in the path."""
    return "/callback" if platform.name == "plain" else f"/callback/{platform.name}"


def application(platforms: Sequence[Platform], intake: Intake) -> WsgiApp:
    """The WSGI application that serves these platforms."""
    app: falcon.App[falcon.Request, falcon.Response] = falcon.App(media_type=falcon.MEDIA_JSON)
    for platform in platforms:
        app.add_route(callback_path(platform), callback(platform, intake))
    app.add_route("/", Front([callback_path(platform) for platform in platforms]))
    app.add_route("/healthz", Health(intake))
    app.add_error_handler(DeliveryError, _error_handler(intake.refusals))
    app.add_error_handler(Exception, _answer_internal_error)
    app.set_error_serializer(_serialize_http_error)
    return app


class RefusalLog:
    """Logs refused deliveries, at most one line per kind of refusal every ten seconds: anybody can cause them."""

    INTERVAL_S = 10.0

    def __init__(self) -> None:
        self.total = 0
        self._next_line: dict[str, float] = {}
        self._unlogged: dict[str, int] = {}

    def note(self, path: str, error: DeliveryError, now: float) -> None:
        self.total += 1
        word = error.word
        if now < self._next_line.get(word, 0.0):
            self._unlogged[word] = self._unlogged.get(word, 0) + 1
            return
        self._next_line[word] = now + self.INTERVAL_S
        more = self._unlogged.pop(word, 0)
        log.warning(
            "Refused a delivery to %s with %d %s: %s%s",
            path,
            error.status,
            word,
            error,
            f" ({more} more like it since the last such line)" if more else "",
        )


def _error_handler(refusals: RefusalLog) -> Callable[..., None]:
    def answer(req: falcon.Request, resp: falcon.Response, error: DeliveryError, params: dict[str, object]) -> None:
        refusals.note(req.path, error, time.monotonic())
        resp.status = error.status
        resp.data = msgspec.json.encode({"error": error.word, "detail": str(error)})
        if isinstance(error, Unavailable):
            resp.set_header("Retry-After", str(error.retry_after))

    return answer


def _answer_internal_error(
    req: falcon.Request, resp: falcon.Response, error: Exception, params: dict[str, object]
) -> None:
    """A mistake of gbot's own: to the log, in its format, instead of Falcon's text on standard error."""
    log.error("Failed on %s %r", req.method, req.path, exc_info=error)
    resp.status = 500
    resp.data = msgspec.json.encode({"error": "internal_error", "detail": "The server failed; its log says why."})


HTTP_WORDS = {404: "not_found", 405: "method_not_allowed"}


def _serialize_http_error(req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError) -> None:
    """Falcon's own errors (404, 405, 500) in the same JSON as all others."""
    status = error.status_code
    sentences = {
        404: "There is nothing at this address; GET / tells what there is.",
        405: "This address does not take this method; the Allow header lists those it takes.",
    }
    word = HTTP_WORDS.get(status, "internal_error" if status >= 500 else "bad_request")
    detail = sentences.get(status) or error.title or falcon.code_to_http_status(status)
    resp.content_type = falcon.MEDIA_JSON
    resp.data = msgspec.json.encode({"error": word, "detail": detail})
