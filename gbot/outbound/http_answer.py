"""Bytes in, one HTTP/1 answer out: llhttp does the grammar, this module sets the bounds. Pure: no socket, no clock.

The connection feeds what it received until the answer is ``done``::

    HEAD ──blank line──▶ BODY ──last byte──▶ done        answers 100 to 199 only announce another one: skipped
      │                   └─ neither length nor chunks: the end of the connection is the end of the answer
      └─ any of them ──AnswerError──▶ the connection is closed; nothing that came is used

Refused besides what llhttp refuses: an answer with a length and chunks, codings other than ``chunked``, versions other
than 1.0 and 1.1, a switch to another protocol (none was asked for). What follows a complete answer is nobody's: the
connection then cannot be used again. Answers to HEAD are not for this module: they announce a body that never comes.
"""

from __future__ import annotations

import httptools

HEAD_BYTES_MAX = 64 * 1024
HEAD_FIELDS_MAX = 100
NO_BODY = (204, 304)


class AnswerError(Exception):
    """What came is no answer that can be used. The text completes "… answered with"; it holds nothing of what came."""


class AnswerParser:
    """One answer. Call ``close`` at the end: it breaks the cycle with llhttp.

    ``bytes_max`` bounds the whole answer as it is received. None is for answers that are taken in parts: then only
    what comes between two pieces of body is bounded, as large as a head.
    """

    __slots__ = (
        "_body",
        "_bytes_max",
        "_fault",
        "_fields",
        "_llhttp",
        "_received",
        "_until_end",
        "done",
        "head_done",
        "headers",
        "keep_alive",
        "status",
    )

    def __init__(self, bytes_max: int | None) -> None:
        self._bytes_max = bytes_max
        self._llhttp = httptools.HttpResponseParser(self)
        self._fault = ""
        self._received = 0  # of the whole answer; where it is taken in parts: since its body last grew
        self._body: bytes | bytearray = b""
        self.done = False
        self._begin()

    def _begin(self) -> None:
        self.headers: dict[str, str] = {}  # names in lower case; repeated ones joined
        self.status = 0
        self.head_done = False
        self.keep_alive = False
        self._until_end = False
        self._fields = 0

    def close(self) -> None:
        del self._llhttp

    def feed(self, data: bytes) -> None:
        """Take what was received; nothing stands for the end of the connection. Raises AnswerError."""
        if not data:
            self._end()
            return
        self._received += len(data)
        try:
            self._llhttp.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if self.done:
                self.keep_alive = False
                return
            fault = self._fault or "something that is not valid HTTP"
        else:
            if self.done or self._received <= (self._bytes_max or HEAD_BYTES_MAX):
                return
            fault = "more than it may"
        raise AnswerError(fault)  # outside of the handler, whose error would hold this frame as its context

    def take_body(self) -> bytes:
        """What has come of the body since the last time."""
        body, self._body = self._body, b""
        return bytes(body)

    def _end(self) -> None:
        if not self._until_end:
            raise AnswerError("half an answer" if self._received else "nothing, and closed the connection")
        self.done = True

    def _refuse(self, fault: str) -> AnswerError:
        """Remember the reason: llhttp wraps what a callback raises in an error of its own."""
        self._fault = fault
        return AnswerError(fault)

    # What llhttp calls, in this order. Exceptions end the connection.

    def on_message_begin(self) -> None:
        if self.done:
            raise self._refuse("a second answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        if self._fields > HEAD_FIELDS_MAX:
            raise self._refuse("more header fields than it may")
        if self.head_done:
            return  # a trailer: no platform has a use for it
        key = name.decode("latin-1").lower()
        text = value.rstrip().decode("latin-1")  # llhttp leaves the white space after a value to us
        headers = self.headers
        headers[key] = f"{headers[key]}, {text}" if key in headers else text

    def on_headers_complete(self) -> None:
        llhttp, headers = self._llhttp, self.headers
        self.status = status = llhttp.get_status_code()
        if llhttp.get_http_version() not in ("1.1", "1.0") or status < 100:
            raise self._refuse("another version of HTTP")
        if status < 200:
            return
        self.head_done = True
        if self._bytes_max is None:
            self._received = 0
        if "transfer-encoding" in headers:
            if headers["transfer-encoding"].lower() != "chunked" or "content-length" in headers:
                raise self._refuse("a body whose end cannot be told for sure")
        elif "content-length" in headers:
            if self._bytes_max is not None and int(headers["content-length"]) > self._bytes_max:
                raise self._refuse("more than it may")
        else:
            self._until_end = status not in NO_BODY

    def on_body(self, piece: bytes) -> None:
        if self._bytes_max is None:
            self._received = 0
        body = self._body  # never a list of pieces: a body in tiny chunks would weigh many times as much
        if not body:
            self._body = piece
        elif isinstance(body, bytearray):
            body += piece
        else:
            self._body = bytearray(body) + piece

    def on_message_complete(self) -> None:
        if self.status < 200:
            self._begin()
            return
        self.done = True
        self.keep_alive = self._llhttp.should_keep_alive()
