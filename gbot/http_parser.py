"""Bytes in, HTTP/1 requests out: llhttp does the grammar, this module sets the bounds and closes the smuggling gaps.

Pure: no socket, no clock. The connection feeds what it received and takes finished requests from ``requests``::

    IDLE ──first byte──▶ HEAD ──blank line──▶ BODY ──last byte──▶ IDLE    (one finished request more)
      any of them ──RequestError──▶ the connection answers it and closes; nothing after it is read

llhttp in its strict mode already refuses most ambiguous requests (RFC 9112 §11.2): Transfer-Encoding together with
Content-Length, repeated Content-Lengths, bad chunk sizes, white space before the colon, obs-fold, bare CR or LF, control
characters. Refused here: names with an underscore (they would pass for the same name with a hyphen in the WSGI environ),
repeated or missing Host, Transfer-Encoding in HTTP/1.0, codings other than ``chunked``, other protocols that llhttp speaks.

This is the one module that knows httptools.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote_to_bytes

import httptools

METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")}


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
        "_body_bytes",
        "_bounds",
        "_error",
        "_fields",
        "_head_bytes",
        "_headers",
        "_last",
        "_llhttp",
        "_method",
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
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._fields = 0
        self._head_bytes = 0

    @property
    def body_bytes(self) -> int:
        """How much of an unfinished body is held in memory."""
        return self._body_bytes

    def close(self) -> None:
        del self._llhttp

    def feed(self, data: bytes | memoryview) -> None:
        """Take what was received. Raises RequestError; the requests finished before it stay in ``requests``."""
        if self.state is State.IDLE:
            self.state = State.HEAD
        try:
            self._llhttp.feed_data(data)
        except httptools.HttpParserUpgrade:
            return  # answered as plain HTTP/1.1; the request says that the connection closes after it
        except httptools.HttpParserError as error:
            if self._last:
                return  # what follows a request with "Connection: close" has no meaning
            raise self._error or RequestError(400, "bad_request", f"This is not valid HTTP: {error}.") from None
        if self.state is State.HEAD:
            self._count_head(len(data))

    def _refuse(self, status: int, word: str, sentence: str) -> RequestError:
        """Remember the reason: llhttp wraps what a callback raises in an error of its own."""
        self._error = RequestError(status, word, sentence)
        return self._error

    def _count_head(self, count: int) -> None:
        """Bound a head of which no end is in sight; ``on_header`` bounds one that arrives whole."""
        self._head_bytes += count
        if self._head_bytes > self._bounds.head_bytes_max + self._bounds.request_line_bytes_max:
            raise self._head_too_large()

    def _head_too_large(self) -> RequestError:
        bounds = self._bounds
        return self._refuse(
            431,
            "head_too_large",
            f"The header block may have {bounds.head_bytes_max} bytes and {bounds.head_fields_max} fields.",
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
        key = cgi_name(name)
        if key is None:
            raise self._refuse(400, "bad_header_name", "Header names with an underscore are ambiguous and refused.")
        headers = self._headers
        if key in headers:
            headers[key] = self._joined(key, value)
        else:
            headers[key] = value.decode("latin-1")

    def _joined(self, key: str, value: bytes) -> str:
        """A repeated field is one list (RFC 9110 §5.3), but for those that can only stand once."""
        if key in ("HTTP_HOST", "CONTENT_TYPE", "CONTENT_LENGTH"):
            raise self._refuse(400, "repeated_header", "Host, Content-Type and Content-Length may stand only once.")
        separator = "; " if key == "HTTP_COOKIE" else ", "
        return self._headers[key] + separator + value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.state = State.BODY
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

    def _check_transfer_encoding(self, value: str) -> None:
        if self._version == "1.0":
            raise self._refuse(400, "bad_transfer_encoding", "HTTP/1.0 has no Transfer-Encoding.")
        if value.lower() != "chunked":
            raise self._refuse(501, "unknown_transfer_encoding", "The only Transfer-Encoding served is chunked.")

    def _check_expect(self, value: str) -> None:
        if value.lower() != "100-continue":
            raise self._refuse(417, "unknown_expectation", "The only expectation served is 100-continue.")
        self.expects_continue = self._version == "1.1"

    def _body_too_large(self) -> RequestError:
        return self._refuse(413, "too_large", f"The body may have {self._bounds.body_bytes_max} bytes.")

    def on_body(self, piece: bytes) -> None:
        self.expects_continue = False
        self._body_bytes += len(piece)
        if self._body_bytes > self._bounds.body_bytes_max:
            raise self._body_too_large()
        self._body.append(piece)

    def on_message_complete(self) -> None:
        pieces = self._body
        keep_alive = self._llhttp.should_keep_alive() and not self._llhttp.should_upgrade()
        self.requests.append(
            Request(
                self._method,
                self._target,
                self._version,
                self._headers,
                pieces[0] if len(pieces) == 1 else b"".join(pieces),
                keep_alive,
            )
        )
        self._last = not keep_alive
        self._begin()


@lru_cache(maxsize=1024)
def cgi_name(name: bytes) -> str | None:
    """``b"Content-Type"`` → ``"CONTENT_TYPE"``, ``b"Host"`` → ``"HTTP_HOST"``; None for a name with an underscore."""
    if b"_" in name:
        return None
    key = name.decode("ascii").upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + key


@lru_cache(maxsize=1024)
def split_target(target: bytes) -> tuple[str, str]:
    """A request target as (path, query) for the WSGI environ: percent-decoded bytes as latin-1, and the query as sent.

    Takes the origin form, the absolute form and ``*`` (RFC 9112 §3.2). Raises RequestError.
    """
    if not target.startswith(b"/") and target != b"*":
        scheme, separator, rest = target.partition(b"://")
        if not separator or scheme.lower() not in (b"http", b"https"):
            raise RequestError(400, "bad_target", "The request target is neither a path nor an http address.")
        slash = rest.find(b"/")
        target = rest[slash:] if slash >= 0 else b"/"
    if b"#" in target:
        raise RequestError(400, "bad_target", "A request target has no fragment.")
    path, _, query = target.partition(b"?")
    return unquote_to_bytes(path).decode("latin-1"), query.decode("latin-1")
