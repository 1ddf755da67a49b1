"""Answers as bytes: what is one, what is none, and that it does not matter how the bytes are cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbot.outbound.http_answer import HEAD_BYTES_MAX, AnswerError, AnswerParser

BOUND = 200_000
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
END = b""  # of the connection

ANSWERS = {
    "length": (OK + b"Content-Length: 5\r\nX-Id:  7 \r\n\r\nhello", 200, b"hello", True),
    "no body": (b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", 500, b"", True),
    "chunks": (CHUNKED + b'5;a="b"\r\nhello\r\n1\r\n!\r\n0\r\nX-Trailer: y\r\n\r\n', 200, b"hello!", True),
    "chunks, in capitals": (OK + b"TRANSFER-ENCODING: Chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", 200, b"a", True),
    "until the end": (OK + b"\r\nhello", 200, b"hello", False),
    "until the end, nothing": (OK + b"\r\n", 200, b"", False),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    "304": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, b"", True),
    "302": (b"HTTP/1.1 302 Found\r\nLocation: http://[\r\nContent-Length: 0\r\n\r\n", 302, b"", True),
    "close": (OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nab", 200, b"ab", False),
    "close, and more": (OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nabc", 200, b"ab", False),
    "1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nab", 200, b"ab", False),
    "1.0, kept": (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nab", 200, b"ab", True),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nab", 200, b"ab", True),
    "after a 100": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\na", 200, b"a", True),
    "after hints": (
        b"HTTP/1.1 102 Processing\r\nX: y\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n"
        + OK
        + b"Content-Length: 1\r\n\r\na",
        200,
        b"a",
        True,
    ),
    "second answer behind": (
        OK + b"Content-Length: 2\r\n\r\nab" + OK + b"Content-Length: 0\r\n\r\n",
        200,
        b"ab",
        False,
    ),
    "garbage behind": (OK + b"Content-Length: 2\r\n\r\nabc", 200, b"ab", False),
    "coded without being asked": (OK + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nab", 200, b"ab", True),
}

NO_ANSWERS = {
    "nothing": b"",
    "half a status line": b"HTTP/1.1",
    "half a head": OK + b"Content-Le",
    "half a body": OK + b"Content-Length: 5\r\n\r\nhell",
    "half a chunk": CHUNKED + b"5\r\nhel",
    "no last chunk": CHUNKED + b"5\r\nhello\r\n",
    "a 100 alone": b"HTTP/1.1 100 Continue\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH\r\n\r\n",
    "a request": b"GET / HTTP/1.1\r\n\r\n",
    "zeros": bytes(100),
    "HTTP/2": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n",
    "status of two digits": b"HTTP/1.1 99 No\r\nContent-Length: 0\r\n\r\n",
    "status below 100": b"HTTP/1.1 042 No\r\nContent-Length: 0\r\n\r\n",
    "another protocol agreed": b"HTTP/1.1 101 Yes\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nabc",
    "two lengths": OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a list of lengths": OK + b"Content-Length: 1, 2\r\n\r\nab",
    "a negative length": OK + b"Content-Length: -1\r\n\r\nab",
    "a length of 5000 digits": OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nab",
    "chunks and a length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n1\r\na\r\n0\r\n\r\n",
    "a length and chunks": OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    "gzip, then chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    "gzip for an ending": OK + b"Transfer-Encoding: gzip\r\n\r\nab",
    "a chunk of no size": CHUNKED + b"zz\r\n",
    "a chunk of 80 bits": CHUNKED + b"1" + b"0" * 20 + b"\r\n",
    "folded field": OK + b"X: y\r\n z\r\nContent-Length: 0\r\n\r\n",
    "no colon": OK + b"abc\r\nContent-Length: 0\r\n\r\n",
    "NUL in a value": OK + b"X: \0\r\nContent-Length: 0\r\n\r\n",
    "101 fields": OK + b"X: y\r\n" * 100 + b"Content-Length: 0\r\n\r\n",
    "101 trailers": CHUNKED + b"0\r\n" + b"X: y\r\n" * 101 + b"\r\n",
    "a body over the bound, announced": OK + b"Content-Length: %d\r\n\r\n" % (BOUND + 1),
    "a body over the bound": CHUNKED + b"c350\r\n%b\r\n" % (b"a" * 50_000) * 5,
    "tiny chunks over the bound": CHUNKED + b"1\r\na\r\n" * 50_000,
    "an endless end": OK + b"\r\n" + b"a" * (BOUND + 1),
    "an endless field": OK + b"X: " + b"a" * (BOUND + 1),
    "an endless status line": b"HTTP/1.1 200 " + b"a" * (BOUND + 1),
    "an endless chunk extension": CHUNKED + b"1;" + b"a" * (BOUND + 1),
    "an endless trailer": CHUNKED + b"0\r\nX: " + b"a" * (BOUND + 1),
    "endless 100s": b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000,
    "line breaks without end": b"\r\n" * BOUND,
}


def parsed(pieces: list[bytes], bytes_max: int | None = BOUND) -> AnswerParser:
    """What comes of these pieces. Raises AnswerError."""
    answer = AnswerParser(bytes_max)
    try:
        for piece in pieces:
            answer.feed(piece)
            if answer.done:
                break
        if not answer.done:
            answer.feed(END)
    finally:
        answer.close()
    return answer


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer(name: str) -> None:
    raw, status, body, keep_alive = ANSWERS[name]
    answer = parsed([raw])
    assert (answer.status, answer.take_body(), answer.keep_alive) == (status, body, keep_alive)


@pytest.mark.parametrize("name", [name for name in ANSWERS if "behind" not in name and "more" not in name])
@given(cuts=st.lists(st.integers(1, 200), max_size=10))
def test_it_does_not_matter_how_an_answer_is_cut(name: str, cuts: list[int]) -> None:
    raw, status, body, keep_alive = ANSWERS[name]
    edges = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
    pieces = [raw[start:end] for start, end in itertools.pairwise(edges)]
    for bytes_max in (BOUND, None):
        answer = parsed(pieces, bytes_max)
        assert (answer.status, answer.take_body(), answer.keep_alive) == (status, body, keep_alive)


@pytest.mark.parametrize("name", NO_ANSWERS)
@pytest.mark.parametrize("step", [64 * 1024, 997])
def test_no_answer(name: str, step: int) -> None:
    raw = NO_ANSWERS[name]
    with pytest.raises(AnswerError) as raised:
        parsed([raw[start : start + step] for start in range(0, len(raw), step)])
    assert len(str(raised.value)) < 60


@pytest.mark.parametrize("name", [name for name in NO_ANSWERS if "endless" in name and name != "an endless end"])
def test_what_is_taken_in_parts_is_bounded_between_two_parts(name: str) -> None:
    raw = NO_ANSWERS[name][: HEAD_BYTES_MAX + 8192]
    with pytest.raises(AnswerError, match="more than it may"):
        parsed([raw[start : start + 4096] for start in range(0, len(raw), 4096)], None)


def test_what_is_taken_in_parts_may_be_of_any_length() -> None:
    answer = AnswerParser(None)
    answer.feed(OK + b"Content-Length: 10000000\r\n\r\n")
    received = 0
    while not answer.done:
        answer.feed(b"a" * 50_000)
        received += len(answer.take_body())
    answer.close()
    assert received == 10_000_000


def test_headers_are_in_lower_case_and_repeated_ones_are_one_list() -> None:
    answer = parsed([OK + b"X-Id:  7 \r\nVARY: a\r\nVary: b\r\nContent-Length: 0\r\n\r\n"])
    assert answer.headers == {"x-id": "7", "vary": "a, b", "content-length": "0"}
    hints = parsed([ANSWERS["after hints"][0]])
    assert hints.headers == {"content-length": "1"}
