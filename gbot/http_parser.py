"""Bytes in, HTTP/1 requests out: llhttp does the grammar, this module sets the bounds and closes the smuggling gaps.

Pure: no socket, no clock. The connection feeds what it received and takes finished requests from ``requests``::

    IDLE ──first byte──▶ HEAD ──blank line──▶ BODY ──last byte──▶ IDLE    (one finished request more)
      any of them ──RequestError──▶ the connection answers it and closes; nothing after it is read

llhttp in its strict mode already refuses most ambiguous requests (RFC 9112 §11.2): Transfer-Encoding together with
Content-Length, repeated Content-Lengths, bad chunk sizes, white space before the colon, obs-fold, bare CR or LF,
control characters. Refused here: names with an underscore (they would pass for the same name with a hyphen in the WSGI
environ), repeated or missing Host, Transfer-Encoding in HTTP/1.0, codings other than ``chunked``, upgrades of requests
with a body (llhttp would drop the body).

What llhttp lets through and cannot be seen from here: ``RTSP/1.1`` passes for ``HTTP/1.1``, and several spaces around
the target for one; they count towards the head's bound, not the request line's.

This module and ``outbound/http_answer`` are the ones that know httptools.
"""

from __future__ import annotations

import enum
import re
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote_to_bytes

import httptools

METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")}
HEADER_NAME_BYTES_MAX = 256  # real ones have under 60; bounds what the cache of names can hold
ABSOLUTE_FORM = re.compile(rb"https?://[^/?#]+", re.IGNORECASE)


class RequestError(Exception):
    """The request is refused: the HTTP status, a stable word for programs, a sentence for people."""

    def __init__(self, status: int, word: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.word = word
        self.sentence = sentence


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of a request is taken. All in bytes, but for the number of header fields."""

    request_line_bytes_max: int = 8 * 1024
    head_bytes_max: int = 64 * 1024
    head_fields_max: int = 100
    body_bytes_max: int = 1024 * 1024


class State(enum.Enum):
    """What the next byte belongs to."""

    IDLE = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()


class Request:
    """One complete request. ``headers`` has CGI names (``CONTENT_TYPE``, ``HTTP_HOST``) and latin-1 values."""

    __slots__ = ("body", "headers", "keep_alive", "method", "target", "version")

    def __init__(
        self, method: str, target: bytes, version: str, headers: dict[str, str], body: bytes, keep_alive: bool
    ) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.headers = headers
        self.body = body
        self.keep_alive = keep_alive


class RequestParser:
    """The requests of one connection, in order. Call ``close`` at the end: it breaks the cycle with llhttp."""

    __slots__ = (
        "_body",
        "_bounds",
        "_error",
        "_fed",
        "_fields",
        "_head_bytes",
        "_headers",
        "_last",
        "_llhttp",
        "_method",
        "_taken",
        "_target",
        "_version",
        "expects_continue",
        "requests",
        "state",
    )

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._llhttp = httptools.HttpRequestParser(self)
        self._error: RequestError | None = None
        self._last = False
        self.requests: deque[Request] = deque()
        self._begin()

    def _begin(self) -> None:
        self.state = State.IDLE
        self.expects_continue = False  # the client holds the body back until it is told to go on
        self._headers: dict[str, str] = {}
        self._target = b""
        self._body: bytes | bytearray = b""
        self._fields = 0
        self._head_bytes = 0  # of the fields that are complete
        self._fed = 0  # bytes received for a head, or within a body since it last grew
        self._taken = 0  # how long the body was when that was looked at

    @property
    def unfinished_bytes(self) -> int:
        """How much of an unfinished request is held in memory."""
        if self.state is State.IDLE:
            return 0
        return max(self._head_bytes, self._fed) + len(self._body)

    def abandon(self) -> None:
        """Let go of the unfinished request."""
        self._begin()

    def close(self) -> None:
        self._error = None
        del self._llhttp

    def feed(self, data: bytes) -> None:
        """Take what was received. Raises RequestError; the requests finished before it stay in ``requests``."""
        if self._last:
            return
        if self.state is State.IDLE:
            self.state = State.HEAD
        finished = len(self.requests)
        try:
            self._llhttp.feed_data(data)
        except httptools.HttpParserUpgrade:
            return  # answered as plain HTTP/1.1; the request says that the connection closes after it
        except httptools.HttpParserError as error:
            if self._last:
                return  # what follows a request with "Connection: close" has no meaning
            refusal = self._error or RequestError(400, "bad_request", f"This is not valid HTTP: {error}.")
        else:
            if self.state is not State.IDLE and len(self.requests) == finished:
                self._count_unfinished(len(data))
            return
        raise refusal  # outside of the handler, whose error would hold this frame as the refusal's context

    def _refuse(self, status: int, word: str, sentence: str) -> RequestError:
        """Remember the reason: llhttp wraps what a callback raises in an error of its own."""
        self._error = RequestError(status, word, sentence)
        return self._error

    def _count_unfinished(self, count: int) -> None:
        """Bound what comes without an end in sight: one endless field (llhttp's binding keeps it), also as a trailer,
        one endless chunk extension, line breaks before a request. ``on_header`` bounds what arrives whole.
        """
        if len(self._body) > self._taken:
            self._taken = len(self._body)
            self._fed = 0
            return
        self._fed += count
        if self._fed > self._bounds.head_bytes_max + self._bounds.request_line_bytes_max:
            raise self._head_too_large()

    def _head_too_large(self) -> RequestError:
        bounds = self._bounds
        return self._refuse(
            431,
            "head_too_large",
            f"Header block and trailers may have {bounds.head_bytes_max} bytes and {bounds.head_fields_max} fields.",
        )

    # What llhttp calls, in this order. Exceptions end the connection.

    def on_url(self, piece: bytes) -> None:
        self.state = State.HEAD
        self._target += piece
        if len(self._target) > self._bounds.request_line_bytes_max - len("OPTIONS  HTTP/1.1"):
            raise self._refuse(
                414,
                "request_line_too_long",
                f"The request line may have {self._bounds.request_line_bytes_max} bytes.",
            )

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        self._head_bytes += len(name) + len(value) + 4
        if self._fields > self._bounds.head_fields_max or self._head_bytes > self._bounds.head_bytes_max:
            raise self._head_too_large()
        if self.state is State.BODY:
            return  # a trailer: nothing that gbot serves has a use for it
        try:
            key = cgi_name(name)
        except RequestError as error:
            self._error = error
            raise
        headers = self._headers
        text = value.rstrip().decode("latin-1")  # llhttp leaves the white space after a value to us
        if key in headers:
            headers[key] = self._joined(key, text)
        else:
            headers[key] = text

    def _joined(self, key: str, value: str) -> str:
        """A repeated field is one list (RFC 9110 §5.3), but for those that can only stand once."""
        if key in ("HTTP_HOST", "CONTENT_TYPE", "CONTENT_LENGTH"):
            raise self._refuse(400, "repeated_header", "Host, Content-Type and Content-Length may stand only once.")
        separator = "; " if key == "HTTP_COOKIE" else ", "
        return self._headers[key] + separator + value

    def on_headers_complete(self) -> None:
        self.state = State.BODY
        self._fed = 0
        headers = self._headers
        method = METHODS.get(self._llhttp.get_method())
        if method is None:
            raise self._refuse(501, "unknown_method", "This method is not served here.")
        self._method = method
        self._version = self._llhttp.get_http_version()
        if self._version == "1.1":
            if "HTTP_HOST" not in headers:
                raise self._refuse(400, "missing_host", "HTTP/1.1 requests need a Host header.")
        elif self._version != "1.0":
            raise self._refuse(505, "unknown_version", "HTTP/1.0 and HTTP/1.1 are served here.")
        if "HTTP_TRANSFER_ENCODING" in headers:
            self._check_transfer_encoding(headers["HTTP_TRANSFER_ENCODING"])
        elif int(headers.get("CONTENT_LENGTH", 0)) > self._bounds.body_bytes_max:
            raise self._body_too_large()
        if "HTTP_EXPECT" in headers:
            self._check_expect(headers["HTTP_EXPECT"])
        if "HTTP_UPGRADE" in headers:
            self._check_upgrade(headers)

    def _check_transfer_encoding(self, value: str) -> None:
        if self._version == "1.0":
            raise self._refuse(400, "bad_transfer_encoding", "HTTP/1.0 has no Transfer-Encoding.")
        if value.lower() != "chunked":
            raise self._refuse(501, "unknown_transfer_encoding", "The only Transfer-Encoding served is chunked.")

    def _check_expect(self, value: str) -> None:
        if value.lower() != "100-continue":
            raise self._refuse(417, "unknown_expectation", "The only expectation served is 100-continue.")
        self.expects_continue = self._version == "1.1"

    def _check_upgrade(self, headers: dict[str, str]) -> None:
        """An upgrade is ignored (RFC 9110 §7.8), but llhttp takes what follows the head for the other protocol."""
        has_body = "HTTP_TRANSFER_ENCODING" in headers or int(headers.get("CONTENT_LENGTH", 0)) > 0
        if has_body and self._llhttp.should_upgrade():
            raise self._refuse(501, "unknown_upgrade", "No upgrade is served; send the request without Upgrade.")

    def _body_too_large(self) -> RequestError:
        return self._refuse(413, "too_large", f"The body may have {self._bounds.body_bytes_max} bytes.")

    def on_body(self, piece: bytes) -> None:
        self.expects_continue = False
        body = self._body  # never a list of pieces: a body in tiny chunks would weigh thirty times as much
        if len(body) + len(piece) > self._bounds.body_bytes_max:
            raise self._body_too_large()
        if not body:
            self._body = piece
        elif isinstance(body, bytearray):
            body += piece
        else:
            self._body = bytearray(body) + piece

    def on_message_complete(self) -> None:
        keep_alive = self._llhttp.should_keep_alive() and not self._llhttp.should_upgrade()
        self.requests.append(
            Request(
                self._method,
                self._target,
                self._version,
                self._headers,
                bytes(self._body),
                keep_alive,
            )
        )
        self._last = not keep_alive
        self._begin()


@lru_cache(maxsize=1024)
def cgi_name(name: bytes) -> str:
    """``b"Content-Type"`` → ``"CONTENT_TYPE"``, ``b"Host"`` → ``"HTTP_HOST"``.

    Raises RequestError (which the cache does not keep) for a name with an underscore or an overlong one.
    """
    if b"_" in name:
        raise RequestError(400, "bad_header_name", "Header names with an underscore are ambiguous and refused.")
    if len(name) > HEADER_NAME_BYTES_MAX:
        raise RequestError(431, "header_name_too_long", f"A header name may have {HEADER_NAME_BYTES_MAX} bytes.")
    key = name.decode("ascii").upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + key


@lru_cache(maxsize=256)
def split_target(target: bytes) -> tuple[str, str]:
    """A request target as (path, query) for the WSGI environ: percent-decoded bytes as latin-1, and the query as sent.

    Takes the origin form, the absolute form and ``*`` (RFC 9112 §3.2). Raises RequestError.
    """
    if not target.startswith(b"/") and target != b"*":
        absolute = ABSOLUTE_FORM.match(target)
        if absolute is None:
            raise RequestError(400, "bad_target", "The request target is neither a path nor an http address.")
        target = target[absolute.end() :]
        if not target.startswith(b"/"):
            target = b"/" + target
    if b"#" in target:
        raise RequestError(400, "bad_target", "A request target has no fragment.")
    path, _, query = target.partition(b"?")
    return unquote_to_bytes(path).decode("latin-1"), query.decode("latin-1")
