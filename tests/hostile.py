"""Hostile and odd requests as data, each with its expected answer.

``REFUSED`` holds what must be answered with that status and then closed; status 0 stands for a request that never ends
and is closed without an answer. ``SERVED`` holds what looks odd but has exactly one meaning, so it is answered.
The sizes go by ``BOUNDS``, whose body bound is smaller than the server's default, so that each fits a quick test.
"""

from __future__ import annotations

from typing import NamedTuple

from gbot.http_parser import Bounds

BOUNDS = Bounds(body_bytes_max=32 * 1024)
CLOSED = 0
HOST = b"Host: bot.example\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST
POST = b"POST / HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
SECOND = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"


class Hostile(NamedTuple):
    name: str
    raw: bytes
    status: int


def field(line: bytes) -> bytes:
    """A GET with this header line."""
    return GET + line + b"\r\n\r\n"


def length(value: bytes) -> bytes:
    """A POST with this Content-Length and the body ``hello``."""
    return POST + b"Content-Length: " + value + b"\r\n\r\nhello"


def coding(value: bytes, version: bytes = b"1.1") -> bytes:
    """A POST with this Transfer-Encoding and a chunked body."""
    head = b"POST / HTTP/%b\r\n%bTransfer-Encoding: %b\r\n\r\n" % (version, HOST, value)
    return head + b"5\r\nhello\r\n0\r\n\r\n" + SECOND


def chunks(body: bytes) -> bytes:
    """A POST whose chunked body is this."""
    return CHUNKED + body + SECOND


def target(text: bytes) -> bytes:
    return b"GET " + text + b" HTTP/1.1\r\n" + HOST + b"\r\n"


def line(text: bytes) -> bytes:
    """A request with this request line."""
    return text + b"\r\n" + HOST + b"\r\n"


TOO_LARGE = [
    Hostile("target over 8 KiB", target(b"/" + b"a" * 8192), 414),
    Hostile("target over 8 KiB without end", b"GET /" + b"a" * 9000, 414),
    Hostile("query over 8 KiB", target(b"/?" + b"a" * 8192), 414),
    Hostile("absolute target over 8 KiB", target(b"http://" + b"a" * 8192 + b"/"), 414),
    Hostile("header block over 64 KiB", GET + b"".join(b"X-%d: %b\r\n" % (i, b"a" * 2000) for i in range(40)), 431),
    Hostile("one header of 70 KiB", field(b"X: " + b"a" * 70 * 1024), 431),
    Hostile("one header without end", GET + b"X: " + b"a" * 80 * 1024, 431),
    Hostile("one header name without end", GET + b"X" * 80 * 1024, 431),
    Hostile("header name of 300 bytes", field(b"X" * 300 + b": y"), 431),
    Hostile("white space without end before a value", GET + b"X:" + b" " * 80 * 1024, 431),
    Hostile("101 fields", GET + b"".join(b"X-%d: y\r\n" % i for i in range(100)) + b"\r\n", 431),
    Hostile("101 times the same field", GET + b"X: y\r\n" * 100 + b"\r\n", 431),
    Hostile("spaces without end before the target", b"GET" + b" " * 80 * 1024, 431),
    Hostile("spaces without end after the target", b"GET /" + b" " * 80 * 1024, 431),
    Hostile("line breaks without end", b"\r\n" * 40 * 1024, 431),
    Hostile("Content-Length over the bound", POST + b"Content-Length: 32769\r\n\r\n", 413),
    Hostile("Content-Length far over the bound", POST + b"Content-Length: 9999999999\r\n\r\n", 413),
    Hostile(
        "Content-Length over the bound, expecting",
        POST + b"Expect: 100-continue\r\nContent-Length: 9" + b"9" * 9 + b"\r\n\r\n",
        413,
    ),
    Hostile("chunked body over the bound", CHUNKED + b"1000\r\n%b\r\n" % (b"a" * 4096) * 9, 413),
    Hostile("one chunk over the bound", CHUNKED + b"8001\r\n" + b"a" * 32769, 413),
    Hostile("very many tiny chunks", CHUNKED + b"1\r\na\r\n" * 32769, 413),
    Hostile("chunk extension without end", CHUNKED + b"1;" + b"a" * 150 * 1024, 431),
    Hostile("trailer without end", CHUNKED + b"1\r\na\r\n0\r\nX: " + b"a" * 150 * 1024, 431),
    Hostile("101 trailers", CHUNKED + b"1\r\na\r\n0\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431),
    Hostile("trailers over 64 KiB", CHUNKED + b"1\r\na\r\n0\r\n" + (b"X: %b\r\n" % (b"a" * 2000)) * 40 + b"\r\n", 431),
]

LENGTHS = [
    Hostile(
        "Transfer-Encoding, then Content-Length",
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + SECOND,
        400,
    ),
    Hostile(
        "Content-Length, then Transfer-Encoding",
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SECOND,
        400,
    ),
    Hostile(
        "Content-Length: 0, then Transfer-Encoding",
        POST + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    Hostile(
        "Content-Length with Transfer-Encoding: identity",
        POST + b"Transfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello",
        400,
    ),
    Hostile(
        "Content-Length with an empty Transfer-Encoding",
        POST + b"Content-Length: 5\r\nTransfer-Encoding:\r\n\r\nhello",
        400,
    ),
    Hostile("two differing Content-Lengths", POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 400),
    Hostile("two equal Content-Lengths", POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400),
    Hostile("Content-Length: 5, 5", length(b"5, 5"), 400),
    Hostile("Content-Length: 5,", length(b"5,"), 400),
    Hostile("Content-Length: 5 5", length(b"5 5"), 400),
    Hostile("Content-Length: +5", length(b"+5"), 400),
    Hostile("Content-Length: -5", length(b"-5"), 400),
    Hostile("Content-Length: 0x5", length(b"0x5"), 400),
    Hostile("Content-Length: 5.0", length(b"5.0"), 400),
    Hostile("Content-Length: 5_0", length(b"5_0"), 400),
    Hostile("Content-Length: 5e0", length(b"5e0"), 400),
    Hostile("Content-Length: five", length(b"five"), 400),
    Hostile("Content-Length: superscript", length(b"\xb2"), 400),
    Hostile("empty Content-Length", length(b""), 400),
    Hostile("blank Content-Length", length(b"  "), 400),
    Hostile("Content-Length over 64 bits", length(b"18446744073709551621"), 400),
    Hostile("Content-Length of 5000 digits", length(b"9" * 5000), 400),
    Hostile("Content-Length in a trailer", chunks(b"5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n"), 400),
    Hostile("Transfer-Encoding in a trailer", chunks(b"5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400),
    Hostile("Content_Length", POST + b"Content_Length: 5\r\n\r\nhello", 400),
]

CODINGS = [
    Hostile("Transfer-Encoding: xchunked", coding(b"xchunked"), 501),
    Hostile("Transfer-Encoding: gzip", coding(b"gzip"), 501),
    Hostile("Transfer-Encoding: gzip, chunked", coding(b"gzip, chunked"), 501),
    Hostile("Transfer-Encoding: chunked, gzip", coding(b"chunked, gzip"), 400),
    Hostile("Transfer-Encoding: chunked, chunked", coding(b"chunked, chunked"), 400),
    Hostile("Transfer-Encoding: chunked twice", coding(b"chunked\r\nTransfer-Encoding: chunked"), 400),
    Hostile("Transfer-Encoding: identity", coding(b"identity"), 501),
    Hostile("Transfer-Encoding: identity, then chunked", coding(b"identity\r\nTransfer-Encoding: chunked"), 501),
    Hostile("Transfer-Encoding: chunked;q=1", coding(b"chunked;q=1"), 501),
    Hostile('Transfer-Encoding: "chunked"', coding(b'"chunked"'), 501),
    Hostile("Transfer-Encoding: chunk", coding(b"chunk"), 501),
    Hostile("Transfer-Encoding: a vertical tab and chunked", coding(b"\x0bchunked"), 400),
    Hostile("Transfer-Encoding: chunked and a tab", coding(b"chunked\t"), 400),
    Hostile("empty Transfer-Encoding", coding(b""), 400),
    Hostile("Transfer-Encoding before a colon with space", POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    Hostile("Transfer_Encoding", POST + b"Transfer_Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    Hostile("Transfer-Encoding on HTTP/1.0", coding(b"chunked", b"1.0"), 400),
    Hostile("Transfer-Encoding folded", coding(b"\r\n chunked"), 400),
]

CHUNK_SIZES = [
    Hostile("negative chunk size", chunks(b"-1\r\na\r\n0\r\n\r\n"), 400),
    Hostile("signed chunk size", chunks(b"+1\r\na\r\n0\r\n\r\n"), 400),
    Hostile("chunk size 0x1", chunks(b"0x1\r\na\r\n0\r\n\r\n"), 400),
    Hostile("chunk size 1_0", chunks(b"1_0\r\naaaaaaaaaaaaaaaa\r\n0\r\n\r\n"), 400),
    Hostile("space after the chunk size", chunks(b"1 \r\na\r\n0\r\n\r\n"), 400),
    Hostile("space before the chunk size", chunks(b" 1\r\na\r\n0\r\n\r\n"), 400),
    Hostile("chunk size over 64 bits", chunks(b"10000000000000001\r\na\r\n0\r\n\r\n"), 400),
    Hostile("empty chunk size", chunks(b"\r\na\r\n0\r\n\r\n"), 400),
    Hostile("chunk size that is no number", chunks(b"g\r\na\r\n0\r\n\r\n"), 400),
    Hostile("chunk longer than its size", chunks(b"1\r\nab\r\n0\r\n\r\n"), 400),
    Hostile("no line break after a chunk", chunks(b"1\r\na0\r\n\r\n"), 400),
    Hostile("bare LF after the chunk size", chunks(b"1\na\r\n0\r\n\r\n"), 400),
    Hostile("bare CR after the chunk size", chunks(b"1\ra\r\n0\r\n\r\n"), 400),
    Hostile("bare LF after a chunk", chunks(b"1\r\na\n0\r\n\r\n"), 400),
    Hostile("bare LF after the last chunk", chunks(b"1\r\na\r\n0\n\n"), 400),
    Hostile("LF in a chunk extension", chunks(b"1;a\nb\r\na\r\n0\r\n\r\n"), 400),
    Hostile("CR in a chunk extension", chunks(b"1;a\rb\r\na\r\n0\r\n\r\n"), 400),
    Hostile("LF in a chunk extension's value", chunks(b"1;a=b\nc\r\na\r\n0\r\n\r\n"), 400),
    Hostile("LF in a chunk extension's quotes", chunks(b'1;a="\n"\r\na\r\n0\r\n\r\n'), 400),
    Hostile("NUL in a chunk extension", chunks(b"1;a\0b\r\na\r\n0\r\n\r\n"), 400),
    Hostile("bare LF in the trailers", chunks(b"1\r\na\r\n0\r\nX: y\n\r\n"), 400),
    Hostile("folded trailer", chunks(b"1\r\na\r\n0\r\nX: y\r\n z\r\n\r\n"), 400),
]

FIELDS = [
    Hostile("space before the colon", field(b"X : y"), 400),
    Hostile("tab before the colon", field(b"X\t: y"), 400),
    Hostile("folded with a space", field(b"X: y\r\n z"), 400),
    Hostile("folded with a tab", field(b"X: y\r\n\tz"), 400),
    Hostile("first field folded", b"GET / HTTP/1.1\r\n Host: bot.example\r\n\r\n", 400),
    Hostile("blank folded line", field(b"X: y\r\n "), 400),
    Hostile("bare CR in a value", field(b"X: a\rb"), 400),
    Hostile("bare CR before the line break", field(b"X: a\r"), 400),
    Hostile("bare CR in place of the blank line", GET + b"\rX", 400),
    Hostile("bare LF line ends", (GET + b"\r\n").replace(b"\r\n", b"\n"), 400),
    Hostile("bare LF after a field", field(b"X: a\nY: b"), 400),
    Hostile("bare LF as the blank line", GET + b"\n", 400),
    Hostile("NUL in a value", field(b"X: a\0b"), 400),
    Hostile("NUL in a name", field(b"X\0: a"), 400),
    *(
        Hostile(f"control character {code:#04x} in a value", field(b"X: a%cb" % code), 400)
        for code in (1, 8, 11, 12, 27, 31, 127)
    ),
    Hostile("name with an underscore", field(b"X_Line_Signature: a"), 400),
    Hostile("name with an underscore first", field(b"_: a"), 400),
    Hostile("empty name", field(b": a"), 400),
    Hostile("no colon", field(b"abc"), 400),
    Hostile("space in a name", field(b"a b: c"), 400),
    Hostile("parenthesis in a name", field(b"(a): c"), 400),
    Hostile("non-ASCII name", field(b"\xe9: c"), 400),
    Hostile("two Hosts", field(HOST.strip()), 400),
    Hostile("two differing Hosts", field(b"host: evil.example"), 400),
    Hostile("missing Host", b"GET / HTTP/1.1\r\n\r\n", 400),
    Hostile("two Content-Types", POST + b"Content-Type: a/b\r\nContent-Type: c/d\r\nContent-Length: 0\r\n\r\n", 400),
    Hostile("unknown expectation", POST + b"Expect: the-unexpected\r\nContent-Length: 5\r\n\r\n", 417),
    Hostile("two expectations", POST + b"Expect: 100-continue, 200-ok\r\nContent-Length: 5\r\n\r\n", 417),
    Hostile(
        "repeated expectation", POST + b"Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", 417
    ),
    Hostile("empty expectation", POST + b"Expect:\r\nContent-Length: 5\r\n\r\n", 417),
    Hostile(
        "upgrade with a body",
        POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello" + SECOND,
        501,
    ),
    Hostile(
        "upgrade with a chunked body",
        POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        501,
    ),
]

REQUEST_LINES = [
    Hostile("CONNECT", b"CONNECT bot.example:443 HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    Hostile("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    Hostile("unknown method", line(b"BREW / HTTP/1.1"), 400),
    Hostile("method of another protocol", line(b"M-SEARCH * HTTP/1.1"), 501),
    Hostile("method in small letters", line(b"get / HTTP/1.1"), 400),
    Hostile("RTSP method", line(b"DESCRIBE /a RTSP/1.0"), 501),
    Hostile("RTSP method over HTTP", line(b"DESCRIBE /a HTTP/1.1"), 400),
    Hostile("ICE", line(b"SOURCE /a ICE/1.0"), 501),
    Hostile("GET over ICE", line(b"GET /a ICE/1.0"), 400),
    Hostile("HTTP/1.2", line(b"GET / HTTP/1.2"), 400),
    Hostile("HTTP/1.10", line(b"GET / HTTP/1.10"), 400),
    Hostile("HTTP/01.1", line(b"GET / HTTP/01.1"), 400),
    Hostile("HTTP/2.0", line(b"GET / HTTP/2.0"), 505),
    Hostile("HTTP/0.9 by name", line(b"GET / HTTP/0.9"), 505),
    Hostile("HTTP/0.9", b"GET /\r\n\r\n", 505),
    Hostile("http in small letters", line(b"GET / http/1.1"), 400),
    Hostile("space after the version", line(b"GET / HTTP/1.1 "), 400),
    Hostile("tabs in the request line", line(b"GET\t/\tHTTP/1.1"), 400),
    Hostile("space before the method", line(b" GET / HTTP/1.1"), 400),
    Hostile("space in the target", target(b"/a b"), 400),
    Hostile("NUL in the target", target(b"/\0"), 400),
    Hostile("CR in the target", target(b"/\rX"), 400),
    Hostile("non-ASCII target", target(b"/\xff"), 400),
    Hostile("relative target", target(b"callback"), 400),
    Hostile("query as target", target(b"?a"), 400),
    Hostile("backslash target", target(b"\\callback"), 400),
    Hostile("no target", line(b"GET HTTP/1.1"), 400),
    Hostile("# in the target", target(b"/a#b"), 400),
    Hostile("# in the query", target(b"/a?b#c"), 400),
    Hostile("foreign scheme", target(b"ftp://bot.example/"), 400),
    Hostile("absolute target without a host", target(b"http:///callback"), 400),
    Hostile("TLS hello", bytes.fromhex("16030100a50100") + bytes(range(160)), 400),
    Hostile("SSH", b"SSH-2.0-OpenSSH_9.2\r\n", 400),
    Hostile("JSON", b'{"messages": "1,2,3"}\r\n', 400),
    Hostile("zeros", bytes(4096), 400),
    Hostile("0xff", b"\xff" * 4096, 400),
    Hostile("a response", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 400),
]

UNFINISHED = [
    Hostile("head cut off", GET + b"X: y", CLOSED),
    Hostile("request line cut off", b"GET / HT", CLOSED),
    Hostile("body cut off", length(b"6"), CLOSED),
    Hostile("chunked body cut off", CHUNKED + b"5\r\nhel", CLOSED),
    Hostile("last chunk missing", CHUNKED + b"5\r\nhello\r\n", CLOSED),
    Hostile("huge chunk announced", CHUNKED + b"7fffffffffffffff\r\nhello", CLOSED),
    Hostile("nothing", b"", CLOSED),
    Hostile("line breaks only", b"\r\n\r\n", CLOSED),
]

REFUSED = TOO_LARGE + LENGTHS + CODINGS + CHUNK_SIZES + FIELDS + REQUEST_LINES + UNFINISHED

SERVED = [
    Hostile("line breaks before the request", b"\r\n" * 100 + GET + b"\r\n", 200),
    Hostile(
        "several spaces in the request line",
        b"GET" + b" " * 9000 + b"/" + b" " * 9000 + b"HTTP/1.1\r\n" + HOST + b"\r\n",
        200,
    ),
    Hostile("target of nearly 8 KiB", target(b"/" + b"a" * 8170), 200),
    Hostile(
        "100 fields of nearly 64 KiB",
        GET + b"".join(b"X-%d: %b\r\n" % (i, b"a" * 600) for i in range(99)) + b"\r\n",
        200,
    ),
    Hostile("absolute form", target(b"http://bot.example/a?b"), 200),
    Hostile("absolute form, no path", target(b"HTTP://bot.example?b=/c"), 200),
    Hostile("asterisk form", b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 200),
    Hostile(
        "h2c upgrade",
        GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n" + SECOND,
        200,
    ),
    Hostile("upgrade not named in Connection", POST + b"Upgrade: h2c\r\nContent-Length: 5\r\n\r\nhello", 200),
    Hostile("RTSP passing for HTTP", line(b"GET /a RTSP/1.0"), 200),
    Hostile("HTTP/1.0 without Host", b"GET / HTTP/1.0\r\n\r\n" + SECOND, 200),
    Hostile("Content-Length with leading zeros", length(b"00000000000000000000000005"), 200),
    Hostile("Content-Length with spaces around", length(b"  5  "), 200),
    Hostile(
        "Transfer-Encoding: CHUNKED and a space",
        POST + b"Transfer-Encoding: CHUNKED \r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        200,
    ),
    Hostile("chunk extensions", CHUNKED + b'5;a=b;c="d \\" e"\r\nhello\r\n0;z\r\n\r\n', 200),
    Hostile("chunk sizes with leading zeros", CHUNKED + b"0005\r\nhello\r\n0000\r\n\r\n", 200),
    Hostile("tiny chunks up to the bound", CHUNKED + b"1\r\na\r\n" * 32768 + b"0\r\n\r\n", 200),
    Hostile(
        "underscore in a trailer, second Host in a trailer", CHUNKED + b"0\r\nX_Y: z\r\nHost: evil.example\r\n\r\n", 200
    ),
    Hostile("empty Host", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 200),
    Hostile("what follows Connection: close", GET + b"Connection: close\r\n\r\n" + SECOND, 200),
    Hostile("percent-encoded NUL and line break", target(b"/%00%0d%0aX-Evil:%20y?%0d%0a"), 200),
    Hostile("percent sign alone", target(b"/%zz%"), 200),
    Hostile("latin-1 value", field(b"X: \xe9\xff"), 200),
    Hostile(
        "Connection naming Content-Length", POST + b"Connection: Content-Length\r\nContent-Length: 5\r\n\r\nhello", 200
    ),
    Hostile("body on GET", b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello", 200),
]
