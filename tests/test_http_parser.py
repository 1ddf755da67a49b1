"""The parser: bounds, smuggling, and that nothing depends on how the bytes were cut."""

from __future__ import annotations

import tracemalloc
from typing import NamedTuple

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gbot.http_parser import Bounds, Request, RequestError, RequestParser, State, cgi_name, split_target
from tests.hostile import BOUNDS, CHUNKED, CLOSED, GET, HOST, POST, REFUSED, SERVED, Hostile

RECEIVE_BYTES = 64 * 1024


class Parsed(NamedTuple):
    """What came of some bytes. Requests as tuples, to compare them."""

    requests: list[tuple[str, bytes, str, dict[str, str], bytes, bool]]
    refusal: tuple[int, str] | None
    state: State


def parse(raw: bytes, cuts: list[int] | None = None, bounds: Bounds = BOUNDS) -> Parsed:
    """Feed these bytes cut at these places, and also where a socket would cut them at the latest."""
    ends = sorted(
        {*(cut for cut in cuts or () if cut < len(raw)), *range(RECEIVE_BYTES, len(raw), RECEIVE_BYTES), len(raw)}
    )
    parser = RequestParser(bounds)
    refusal = None
    begin = 0
    try:
        for end in ends:
            parser.feed(raw[begin:end])
            begin = end
    except RequestError as error:
        refusal = (error.status, error.word)
    parsed = Parsed([as_tuple(request) for request in parser.requests], refusal, parser.state)
    parser.close()
    return parsed


def as_tuple(request: Request) -> tuple[str, bytes, str, dict[str, str], bytes, bool]:
    return (request.method, request.target, request.version, request.headers, request.body, request.keep_alive)


def by_name(hostile: Hostile) -> str:
    return hostile.name


# One request.


def test_a_post_as_platforms_send_it() -> None:
    parser = RequestParser(Bounds())
    parser.feed(POST + b"Content-Type: application/json\r\nX-Line-Signature: abc=\r\nContent-Length: 2\r\n\r\n{}")
    (request,) = parser.requests
    assert as_tuple(request) == (
        "POST",
        b"/",
        "1.1",
        {
            "HTTP_HOST": "bot.example",
            "CONTENT_TYPE": "application/json",
            "HTTP_X_LINE_SIGNATURE": "abc=",
            "CONTENT_LENGTH": "2",
        },
        b"{}",
        True,
    )
    assert parser.state is State.IDLE
    assert parser.unfinished_bytes == 0


def test_the_state_tells_what_the_next_byte_belongs_to() -> None:
    parser = RequestParser(Bounds())
    states = []
    for piece in (b"P", b"OST / HTTP/1.1\r\n", HOST, b"Content-Length: 4\r\n\r\n", b"ab", b"cd"):
        parser.feed(piece)
        states.append(parser.state)
    assert states == [State.HEAD] * 3 + [State.BODY] * 2 + [State.IDLE]


def test_what_is_held_of_an_unfinished_request_is_counted() -> None:
    parser = RequestParser(Bounds())
    counts = []
    for piece in (POST, b"Content-Length: 1000\r\n", b"X: " + b"a" * 500, b"\r\n\r\n", b"b" * 999, b"b"):
        parser.feed(piece)
        counts.append(parser.unfinished_bytes)
    assert counts[2] >= 500
    assert counts[4] >= 1499
    assert counts[5] == 0


def test_repeated_fields_become_one_list() -> None:
    parsed = parse(GET + b"X-A: 1\r\nCookie: a=1\r\nx-a: 2\r\ncookie: b=2\r\n\r\n")
    headers = parsed.requests[0][3]
    assert headers["HTTP_X_A"] == "1, 2"
    assert headers["HTTP_COOKIE"] == "a=1; b=2"


@pytest.mark.parametrize("value", [b"y", b" y", b"\ty\t", b"  y  \t "])
def test_white_space_around_a_value_is_not_part_of_it(value: bytes) -> None:
    assert parse(GET + b"X:" + value + b"\r\n\r\n").requests[0][3]["HTTP_X"] == "y"


@pytest.mark.parametrize(
    ("version", "connection", "keep_alive"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: keep-alive, close\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: keep-alive\r\n", True),
    ],
)
def test_whether_the_connection_goes_on(version: bytes, connection: bytes, keep_alive: bool) -> None:
    parsed = parse(b"GET / HTTP/" + version + b"\r\n" + HOST + connection + b"\r\n")
    assert parsed.requests[0][5] is keep_alive


def test_after_connection_close_nothing_more_is_read() -> None:
    raw = GET + b"Connection: close\r\n\r\n" + GET + b"\r\n"
    assert len(parse(raw).requests) == 1
    assert parse(raw) == parse(raw, list(range(len(raw))))


def test_an_upgrade_without_a_body_is_ignored_and_ends_the_connection() -> None:
    (request,) = parse(GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n").requests
    assert request[5] is False


def test_expect_is_told_until_the_body_comes() -> None:
    parser = RequestParser(Bounds())
    parser.feed(POST + b"Expect: 100-Continue\r\nContent-Length: 4\r\n\r\n")
    assert parser.expects_continue
    parser.feed(b"ab")
    assert not parser.expects_continue
    parser.feed(b"cd")
    assert parser.requests[0].body == b"abcd"


@pytest.mark.parametrize(
    "raw",
    [
        POST + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\na",
        POST + b"Expect: 100-continue\r\nContent-Length: 0\r\n\r\n",
        b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n",
    ],
    ids=["body came", "no body", "HTTP/1.0"],
)
def test_expect_that_needs_no_answer(raw: bytes) -> None:
    parser = RequestParser(Bounds())
    parser.feed(raw)
    assert not parser.expects_continue


# Bounds.


def test_a_body_of_exactly_the_bound_is_taken() -> None:
    size = BOUNDS.body_bytes_max
    assert len(parse(POST + b"Content-Length: %d\r\n\r\n" % size + b"a" * size).requests[0][4]) == size
    assert parse(POST + b"Content-Length: %d\r\n\r\n" % (size + 1)).refusal == (413, "too_large")


def test_exactly_a_hundred_fields_are_taken() -> None:
    assert len(parse(GET + b"X: y\r\n" * 99 + b"\r\n").requests) == 1
    assert parse(GET + b"X: y\r\n" * 100 + b"\r\n").refusal == (431, "head_too_large")


def test_trailers_count_as_fields_of_the_same_request_only() -> None:
    request = CHUNKED + b"0\r\n" + b"X: y\r\n" * 60 + b"\r\n"
    assert len(parse(request * 3).requests) == 3


def test_a_head_is_not_charged_for_the_requests_before_it() -> None:
    """A pipeline longer than one receive, cut in the middle of heads."""
    assert len(parse((GET + b"\r\n") * 10_000).requests) == 10_000


def test_a_head_in_small_pieces_is_charged_once() -> None:
    raw = GET + b"X: " + b"a" * 50_000 + b"\r\n\r\n"
    assert parse(raw, list(range(0, len(raw), 100))).refusal is None


def test_a_body_in_tiny_chunks_takes_little_more_memory_than_its_bytes() -> None:
    parser = RequestParser(BOUNDS)
    piece = b"2\r\nab\r\n" * 1024
    parser.feed(CHUNKED)
    tracemalloc.start()
    for _ in range(15):
        parser.feed(piece)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 4 * 15 * 2048
    assert parser.unfinished_bytes >= 15 * 2048


def test_names_too_long_to_be_real_do_not_stay_in_the_cache() -> None:
    before = cgi_name.cache_info().currsize
    for number in range(10):
        assert parse(GET + b"x" * 1000 + b"%d: y\r\n\r\n" % number).refusal == (431, "header_name_too_long")
    assert cgi_name.cache_info().currsize <= before + 1  # Host


def test_an_abandoned_request_holds_nothing() -> None:
    parser = RequestParser(BOUNDS)
    parser.feed(POST + b"Content-Length: 5\r\n\r\nhell")
    parser.abandon()
    assert parser.unfinished_bytes == 0
    parser.close()


# Targets.


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/", ("/", "")),
        (b"/a/b?c=d&e", ("/a/b", "c=d&e")),
        (b"/a?b?c", ("/a", "b?c")),
        (b"/%e3%81%82%2F", ("/\xe3\x81\x82/", "")),
        (b"/%00%0d%0a", ("/\0\r\n", "")),
        (b"/%zz%2", ("/%zz%2", "")),
        (b"//evil.example/x", ("//evil.example/x", "")),
        (b"*", ("*", "")),
        (b"http://bot.example", ("/", "")),
        (b"https://bot.example:443/a?b", ("/a", "b")),
        (b"http://bot.example?to=/a", ("/", "to=/a")),
        (b"HTTP://bot.example/", ("/", "")),
    ],
)
def test_targets(target: bytes, expected: tuple[str, str]) -> None:
    assert split_target(target) == expected


@pytest.mark.parametrize(
    "target", [b"a", b"ftp://a/", b"http:/a", b"http://", b"http:///a", b"http://?a", b"/a#b", b"/a?b#c", b"**", b""]
)
def test_bad_targets(target: bytes) -> None:
    with pytest.raises(RequestError, match="target") as caught:
        split_target(target)
    assert caught.value.status == 400


# The hostile.


@pytest.mark.parametrize("hostile", REFUSED, ids=by_name)
def test_hostile_requests_are_refused_however_they_are_cut(hostile: Hostile) -> None:
    whole = parse(hostile.raw)
    bytewise = parse(hostile.raw, list(range(len(hostile.raw))))
    assert (whole.requests, whole.refusal) == (bytewise.requests, bytewise.refusal)
    if hostile.status == CLOSED:
        assert (whole.requests, whole.refusal) == ([], None)
    elif whole.requests:  # what only its target is wrong with
        assert whole.refusal is None
        with pytest.raises(RequestError) as caught:
            split_target(whole.requests[0][1])
        assert caught.value.status == hostile.status
    else:
        assert whole.refusal is not None
        assert whole.refusal[0] == hostile.status


@pytest.mark.parametrize("odd", SERVED, ids=by_name)
def test_odd_requests_are_served_however_they_are_cut(odd: Hostile) -> None:
    whole = parse(odd.raw)
    bytewise = parse(odd.raw, list(range(len(odd.raw))))
    assert (whole.requests, whole.refusal) == (bytewise.requests, bytewise.refusal)
    assert whole.refusal is None
    assert len(whole.requests) == 1, "what follows must not pass for a request"


# Properties.

TOKENS = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789!#$%&'*+.^`|~-", min_size=1, max_size=20)
VALUES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=40)
RESERVED = {"host", "content-length", "content-type", "transfer-encoding", "connection", "expect", "upgrade", "te"}
FIELDS = st.lists(
    st.tuples(TOKENS.filter(lambda name: name.lower() not in RESERVED), VALUES.map(str.strip)), max_size=8
)
TARGET = st.text("abcXYZ019-._~!$&'()*+,;=:@%/?", max_size=60).map(lambda text: "/" + text)


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, tuple[str, bytes, bytes]]:
    """The bytes of a valid request, and its (method, target, body)."""
    method = draw(st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]))
    target = draw(TARGET).encode()
    lines = [f"{name}: {value}".encode("latin-1") for name, value in draw(FIELDS)]
    body = draw(st.binary(max_size=300))
    if draw(st.booleans()):
        lines.append(b"Transfer-Encoding: chunked")
        sent = chunked(body, draw(st.lists(st.integers(1, 50), max_size=5)))
    else:
        lines.append(b"Content-Length: %d" % len(body))
        sent = body
    lines.insert(draw(st.integers(0, len(lines))), b"Host: bot.example")
    head = b"%b %b HTTP/1.1\r\n%b\r\n\r\n" % (method.encode(), target, b"\r\n".join(lines))
    return head + sent, (method, target, body)


def chunked(body: bytes, sizes: list[int]) -> bytes:
    pieces = []
    for size in sizes:
        piece, body = body[:size], body[size:]
        if piece:
            pieces.append(b"%x\r\n%b\r\n" % (len(piece), piece))
    if body:
        pieces.append(b"%X;ext\r\n%b\r\n" % (len(body), body))
    return b"".join(pieces) + b"0\r\n\r\n"


@given(st.lists(requests(), min_size=1, max_size=4), st.lists(st.integers(1, 3000), max_size=12))
def test_a_valid_pipeline_means_the_same_however_it_is_cut(
    pipeline: list[tuple[bytes, tuple[str, bytes, bytes]]], cuts: list[int]
) -> None:
    raw = b"".join(sent for sent, _ in pipeline)
    whole = parse(raw)
    assert [(method, target, body) for method, target, _, _, body, _ in whole.requests] == [
        want for _, want in pipeline
    ]
    assert whole.refusal is None
    assert parse(raw, cuts) == whole
    assert parse(raw, list(range(len(raw)))) == whole


FRAGMENTS = st.sampled_from(
    [
        *(b"GET ", b"POST ", b"/ HTTP/1.1\r\n", b"/ HTTP/1.0\r\n", b"* HTTP/1.1\r\n", b"http://a/ HTTP/1.1\r\n"),
        *(HOST, b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Content-Length: 11\r\n"),
        *(b"Content-Length:5 \r\n", b"Transfer-Encoding: identity\r\n"),
        *(b"Transfer-Encoding: chunked\r\n", b"transfer-encoding:chunked \r\n", b"Expect: 100-continue\r\n"),
        *(b"Connection: close\r\n", b"Connection: upgrade\r\n", b"Upgrade: h2c\r\n"),
        *(b"\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b"X: y\r\n", b"X : y\r\n", b" z\r\n", b"X_Y: z\r\n"),
        *(b"0\r\n", b"0\r\n\r\n", b"5\r\n", b"hello", b"5;a=b\r\n", b'5;a="b\r\n', b"5 \r\n", b"05\r\n"),
        *(b"b\r\nhello world\r\n", GET + b"\r\n", POST + b"Content-Length: 5\r\n\r\nhello"),
        *(CHUNKED, CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"),
    ]
)
GARBLED = st.lists(st.one_of(FRAGMENTS, st.binary(max_size=6)), max_size=14).map(b"".join)


@given(st.one_of(st.binary(max_size=500), GARBLED), st.lists(st.integers(1, 400), max_size=6))
@settings(max_examples=400)
def test_any_bytes_are_requests_or_a_refusal_however_they_are_cut(raw: bytes, cuts: list[int]) -> None:
    whole, cut = parse(raw), parse(raw, cuts)
    assert (cut.requests, cut.refusal and cut.refusal[0]) == (whole.requests, whole.refusal and whole.refusal[0])


class Elsewhere(NamedTuple):
    """What h11 makes of some bytes."""

    requests: list[tuple[str, bytes, bytes]]
    refused: bool
    ended: bool  # the connection closes after the last request


def parse_with_h11(raw: bytes) -> Elsewhere:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=200_000)
    found: list[tuple[str, bytes, bytes]] = []
    connection.receive_data(raw)
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                method, target, body = event.method.decode(), event.target, b""
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                found.append((method, target, body))
                connection.send(h11.Response(status_code=404, headers=[("Content-Length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is h11.MUST_CLOSE:
                    return Elsewhere(found, False, True)
                connection.start_next_cycle()
            else:
                return Elsewhere(found, False, False)
    except h11.RemoteProtocolError:
        return Elsewhere(found, True, False)


def check_against_h11(raw: bytes) -> None:
    ours = parse(raw)
    theirs = parse_with_h11(raw)
    found = [(method, target, body) for method, target, _, _, body, _ in ours.requests]
    both = min(len(found), len(theirs.requests))
    assert found[:both] == theirs.requests[:both]
    if len(found) > both:
        assert theirs.refused, "gbot sees a request where h11 waits for more or has closed"
    for request in ours.requests[:-1]:
        assert request[5], "nothing may follow a request that ends the connection"


@given(st.one_of(GARBLED, GARBLED.map(lambda raw: GET + raw), GARBLED.map(lambda raw: CHUNKED + raw)))
@example(POST + b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello")
@settings(max_examples=600)
def test_what_is_accepted_h11_reads_the_same_way_or_refuses(raw: bytes) -> None:
    check_against_h11(raw)


@given(st.lists(requests(), min_size=1, max_size=3), st.integers(0, 2000), st.binary(max_size=3), st.integers(0, 3))
@settings(max_examples=300)
def test_valid_requests_with_one_damaged_place_too(
    pipeline: list[tuple[bytes, tuple[str, bytes, bytes]]], place: int, patch: bytes, cut_out: int
) -> None:
    raw = b"".join(sent for sent, _ in pipeline)
    place %= len(raw)
    check_against_h11(raw[:place] + patch + raw[place + cut_out :])


@pytest.mark.parametrize("hostile", [*REFUSED, *SERVED], ids=by_name)
def test_the_hostile_list_against_h11(hostile: Hostile) -> None:
    check_against_h11(hostile.raw)
