"""One request through a WSGI application (PEP 3333): environ in, response bytes out, one write per response.

Pure but for the application itself: bytes leave through the ``send`` it is given. A response whose body is one chunk,
which is what Falcon returns, leaves as one ``send`` of head and body together; anything longer is sent as it is
produced, chunked when its length is not known (HTTP/1.1) or ended by closing (HTTP/1.0).
"""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import Callable, Iterable
from functools import lru_cache
from types import TracebackType
from typing import Any

import msgspec
from greenlet import GreenletExit

from gbot.counts import counted
from gbot.http_parser import Request, split_target

log = logging.getLogger(__name__)

Environ = dict[str, Any]
Headers = list[tuple[str, str]]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]
StartResponse = Callable[..., Callable[[bytes], object]]
WsgiApp = Callable[[Environ, StartResponse], Iterable[bytes]]

REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    413: "Content Too Large",
    414: "URI Too Long",
    417: "Expectation Failed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}
HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "te", "trailer", "transfer-encoding", "upgrade")
)
STATUS = re.compile(r"[2-5][0-9][0-9]( [\t\x20-\x7e\x80-\xff]*)?")  # an interim 1xx would be taken for the response
FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.1
FIELD_VALUE_FORBIDDEN = "\0"  # beside CR and LF, which are counted


class AppProtocolError(Exception):
    """The application broke PEP 3333; it is answered with 500 and logged."""


class ClientGone(Exception):
    """The response could not be sent: the client closed the connection or stopped reading."""


def base_environ(server_name: str, server_port: str, scheme: str) -> Environ:
    """What is the same for every request of one listener."""
    return {
        "SCRIPT_NAME": "",
        "SERVER_NAME": server_name,
        "SERVER_PORT": server_port,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scheme,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }


def request_environ(base: Environ, request: Request) -> Environ:
    """The environ of one request. The body is complete, so ``wsgi.input`` never blocks. Raises RequestError."""
    environ = base.copy()
    environ.update(request.headers)
    environ["REQUEST_METHOD"] = request.method
    environ["PATH_INFO"], environ["QUERY_STRING"] = split_target(request.target)
    environ["SERVER_PROTOCOL"] = "HTTP/1.1" if request.version == "1.1" else "HTTP/1.0"
    environ["wsgi.input"] = io.BytesIO(request.body)
    if "HTTP_TRANSFER_ENCODING" in environ:  # already undone: what follows is an ordinary body
        del environ["HTTP_TRANSFER_ENCODING"]
        environ["CONTENT_LENGTH"] = str(len(request.body))
    return environ


def plain_response(status: int, word: str, sentence: str, date_line: str) -> bytes:
    """A complete response of the server's own, which closes the connection."""
    body = msgspec.json.encode({"error": word, "detail": sentence})
    retry = "Retry-After: 1\r\n" if status == 503 else ""
    head = (
        f"HTTP/1.1 {status} {REASONS[status]}\r\n{date_line}Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n{retry}Connection: close\r\n\r\n"
    )
    return head.encode("latin-1") + body


@lru_cache(maxsize=64)
def status_line(status: str) -> tuple[str, bool]:
    """The response's first line, and whether its status allows a body. Raises AppProtocolError."""
    if not STATUS.fullmatch(status):
        raise AppProtocolError(f"{status!r} is not a status like '200 OK'")
    return f"HTTP/1.1 {status}\r\n", not status.startswith(("204", "304"))


@lru_cache(maxsize=256)
def special_field(name: str) -> str:
    """``"length"`` or ``"date"`` for fields the server has to know of, else ``""``. Raises AppProtocolError."""
    lowered = name.lower()
    if lowered in HOP_BY_HOP:
        raise AppProtocolError(f"{name} is the server's to set, not the application's")
    if not FIELD_NAME.fullmatch(name):
        raise AppProtocolError(f"{name!r} is not a header name")
    return {"content-length": "length", "date": "date"}.get(lowered, "")


class Exchange:
    """One request and the response to it. ``keep_alive`` tells afterwards whether the connection may go on."""

    __slots__ = (
        "_chunked",
        "_date_line",
        "_has_body",
        "_headers",
        "_overlong",
        "_remaining",
        "_request",
        "_send",
        "_sent",
        "_status",
        "keep_alive",
    )

    def __init__(self, request: Request, send: Callable[[bytes], None], date_line: str, keep_alive: bool) -> None:
        self._request = request
        self._send = send
        self._date_line = date_line
        self._status = ""
        self._headers: Headers = []
        self._sent = False
        self._chunked = False
        self._has_body = True
        self._overlong = False  # the application sends more than it announced
        self._remaining: int | None = None  # bytes of the body still to come, where the length was announced
        self.keep_alive = keep_alive and request.keep_alive

    def run(self, app: WsgiApp, environ: Environ) -> None:
        """Call the application and send what it answers. Raises ClientGone.

        An application that fails is logged and answered with 500, or, when the response has begun, cut off.
        """
        try:
            result = app(environ, self.start_response)
            try:
                self._send_result(result)
            finally:
                close = getattr(result, "close", None)
                if close is not None:
                    close()
        except (ClientGone, GreenletExit, KeyboardInterrupt):
            raise
        except BaseException:  # also a gevent.Timeout of the application's own, or a sys.exit()
            self._fail(environ)
        finally:
            self._send = _too_late

    def _fail(self, environ: Environ) -> None:
        log.exception("The application failed on %s %r", environ["REQUEST_METHOD"], environ["PATH_INFO"])
        self.keep_alive = False
        if not self._sent:
            response = plain_response(
                500, "internal_error", "The application failed; its log says why.", self._date_line
            )
            head, blank_line, _ = response.partition(b"\r\n\r\n")
            self._send(head + blank_line if self._request.method == "HEAD" else response)

    def start_response(
        self, status: str, headers: Headers, exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], object]:
        """PEP 3333's start_response."""
        if exc_info is not None:
            try:
                if self._sent and exc_info[1] is not None:
                    raise exc_info[1]
            finally:
                exc_info = None  # breaks the cycle through the traceback
        elif self._status:
            raise AppProtocolError("start_response was called twice without exc_info")
        self._status = status
        self._headers = headers
        return self._write

    def _send_result(self, result: Iterable[bytes]) -> None:
        if self._status and isinstance(result, list | tuple) and len(result) <= 1 and not self._sent:
            body = result[0] if result else b""
            self._send_whole(body)
            return
        for chunk in result:
            if chunk:
                self._write(chunk)
                if self._overlong:
                    break
        self._finish()

    def _send_whole(self, body: bytes) -> None:
        """The whole response in one write."""
        head = self._head(len(body))
        if not self._has_body:
            self._send(head)
        elif self._remaining is not None and len(body) != self._remaining:
            self._send(head + body[: self._remaining])
            self._end_of_body(self._remaining - len(body))
        else:
            self._send(head + body)
        self._sent = True

    def _head(self, body_bytes: int | None) -> bytes:
        """Status line and headers. ``body_bytes`` is the body's length where it is known before the body is sent."""
        if not self._status:
            raise AppProtocolError("the application returned without calling start_response")
        first, allows_body = status_line(self._status)
        self._has_body = allows_body and self._request.method != "HEAD"
        lines = [first]
        announced = dated = False
        for name, value in self._headers:
            special = special_field(name)
            if special == "length":
                self._remaining = self._announced_length(value, announced)
                announced = True
            elif special == "date":
                dated = True
            lines.append(name + ": " + value + "\r\n")
        if not dated:
            lines.append(self._date_line)
        if not announced and self._has_body:
            self._frame(lines, body_bytes)
        if not self.keep_alive:
            lines.append("Connection: close\r\n")
        elif self._request.version == "1.0":
            lines.append("Connection: keep-alive\r\n")
        lines.append("\r\n")
        head = "".join(lines)
        if head.count("\n") != len(lines) or head.count("\r") != len(lines) or FIELD_VALUE_FORBIDDEN in head:
            raise AppProtocolError("a header holds a line break or a NUL")
        return head.encode("latin-1")

    def _announced_length(self, value: str, announced: bool) -> int:
        if announced or not (value.isascii() and value.isdecimal()):
            raise AppProtocolError(f"Content-Length may stand once and be a number, got {value!r}")
        return int(value)

    def _frame(self, lines: list[str], body_bytes: int | None) -> None:
        """Say where the body ends."""
        if body_bytes is not None:
            lines.append(f"Content-Length: {body_bytes}\r\n")
        elif self._request.version == "1.1":
            self._chunked = True
            lines.append("Transfer-Encoding: chunked\r\n")
        else:
            self.keep_alive = False  # HTTP/1.0 can only close

    def _write(self, chunk: bytes) -> None:
        """Send a piece of the body, the head before the first one in the same write. Also PEP 3333's ``write``."""
        head = b"" if self._sent else self._head(None)
        data = head + self._framed(chunk)
        if data:
            self._sent = True
            self._send(data)

    def _framed(self, chunk: bytes) -> bytes:
        """A piece of the body as it goes over the wire."""
        if not self._has_body:
            return b""
        if self._chunked:
            return b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunk else b""
        if self._remaining is None:
            return chunk
        surplus = len(chunk) - self._remaining
        if surplus > 0 and not self._overlong:
            self._overlong = True
            self._end_of_body(-surplus)
        chunk = chunk[: self._remaining]
        self._remaining -= len(chunk)
        return chunk

    def _finish(self) -> None:
        if not self._sent:
            self._send_whole(b"")
        elif self._chunked and self._has_body:
            self._send(b"0\r\n\r\n")
        elif self._remaining and self._has_body:
            self._end_of_body(self._remaining)

    def _end_of_body(self, missing: int) -> None:
        """The body did not have the length that was announced."""
        if missing > 0:
            self.keep_alive = False  # only closing tells the client that nothing more will come
            log.error("The application sent %s fewer than its Content-Length", counted(missing, "byte"))
        elif missing < 0:
            excess = counted(-missing, "byte")
            log.error("The application sent %s more than its Content-Length; the excess was cut off", excess)


def _too_late(data: bytes) -> None:
    """Stands in for ``send`` after the response: what a kept ``write`` sends would land in the next response."""
    raise AppProtocolError("the response has ended")
