"""One connection to an API: made, asked one request after the other, closed.

::

    connect ──▶ idle ──ask──▶ waiting for the answer ──done──▶ idle      (``reusable`` tells)
                  │                 │
                  └──── close ◀─────┴── any error, any exception thrown into the greenlet, the timer

Until the first byte of a request is written every failure is ApiUnreachable: nothing arrived. From then on every
failure is ResultUnknown: it may have arrived. Nothing is repeated here.

The timer shuts the socket: the greenlet that waits wakes up with an ordinary end of file and sees why. A request that
waits holds no buffer and no parser; those are made when the first bytes of the answer are there.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket as stdlib_socket
import ssl

import gevent
import gevent.socket
import gevent.ssl
from gevent.hub import Hub
from gevent.monkey import get_original

from gbot.errors import ApiUnreachable, MessageRefused, ResultUnknown
from gbot.outbound.http_answer import HEAD_BYTES_MAX, AnswerError, AnswerParser
from gbot.outbound.lookup import Lookup
from gbot.outbound.route import Route
from gbot.platform import ApiRequest
from gbot.turns import Turn

RECEIVE_BYTES = 64 * 1024
READABLE = 1  # libev's EV_READ
ADDRESSES_MAX = 3  # of one host name that are tried, each within the connect timeout
POLL: type[select.poll] = get_original("select", "poll")  # gevent's own would let others run; this one only looks
NOT_A_TARGET = re.compile(r"[^\x21-\x7e]")


def request_bytes(route: Route, request: ApiRequest) -> bytes:
    """The request as it is written. Raises MessageRefused for what would not stay one request."""
    lines = [f"{name}: {value}\r\n" for name, value in request.headers.items()]
    start = f"{request.method} {route.target_prefix}{request.path} HTTP/1.1\r\n"
    head = f"{start}{route.fixed_lines}Content-Length: {len(request.body)}\r\n{''.join(lines)}\r\n"
    breaks = len(lines) + route.fixed_lines.count("\n") + 3
    whole = head.count("\n") == breaks == head.count("\r") and "\0" not in head
    if not whole or not request.path.startswith("/") or NOT_A_TARGET.search(request.path):
        raise MessageRefused(f"a request to {route.origin} has an impossible path or header; nothing was sent")
    try:
        return head.encode("latin-1") + request.body
    except UnicodeEncodeError:
        sentence = f"a request to {route.origin} has a header with characters that no header can have; nothing was sent"
    raise MessageRefused(sentence)  # outside of the handler: the error of encoding holds the whole head


class Connection:
    """One connection. Whoever uses it must close it after an exception, whichever it was."""

    __slots__ = ("_expired", "_hub", "_readable", "_route", "_sock", "_timer", "_turn", "idle_until", "reusable")

    def __init__(self, route: Route, hub: Hub, sock: gevent.socket.socket, read_timeout_s: float) -> None:
        self._route = route
        self._hub = hub
        self._sock = sock
        self._readable = hub.loop.io(sock.fileno(), READABLE)
        self._timer = hub.loop.timer(read_timeout_s, read_timeout_s)
        self._expired = False
        self._turn = Turn()
        self.reusable = True
        self.idle_until = 0.0  # set while it is idle: then it is too old to be used again

    def close(self) -> None:
        self._readable.close()
        self._timer.close()
        self._sock.close()

    def is_quiet(self) -> bool:
        """Whether the server has left this idle connection alone: neither closed it nor said anything unasked."""
        poll = POLL()
        poll.register(self._sock.fileno(), select.POLLIN)
        if not poll.poll(0):
            return True
        if not isinstance(self._sock, gevent.ssl.SSLSocket):
            return False
        self._sock.settimeout(0.0)  # TLS has things to say of its own, such as tickets for later sessions
        try:
            self._sock.recv(1)
        except (ssl.SSLWantReadError, BlockingIOError):
            self._sock.settimeout(None)
            return True
        except OSError:
            pass
        return False

    def ask(self, data: bytes) -> None:
        """Write the request and wait for the first bytes of its answer. The time of the whole answer begins."""
        self._timer.again(self._expire, update=True)  # start would go on where it was stopped
        self._write(data)
        self._hub.wait(self._readable)

    def receive_all(self, bytes_max: int) -> AnswerParser:
        """The whole answer within the read timeout. Raises ResultUnknown."""
        answer = AnswerParser(bytes_max)
        try:
            while not answer.done:
                self._receive(answer)
        finally:
            self._timer.stop()
            answer.close()
        self.finish(answer)
        return answer

    def receive_head(self, answer: AnswerParser) -> None:
        """The answer's head, and what came along with it, within the read timeout. Raises ResultUnknown."""
        while not answer.head_done:
            self._receive(answer)
        self._timer.stop()

    def receive_part(self, answer: AnswerParser) -> bytes:
        """The body's next part, within the read timeout; nothing at its end. Raises ResultUnknown."""
        self._timer.again(self._expire, update=True)
        part = answer.take_body()
        while not part and not answer.done:
            self._receive(answer)
            part = answer.take_body()
        self._timer.stop()
        return part

    def finish(self, answer: AnswerParser) -> None:
        """The answer is complete: see whether the connection can be used again."""
        self.reusable = self.reusable and answer.keep_alive

    def _expire(self) -> None:
        """Runs in the hub. gevent's own ``shutdown`` would raise in the greenlet that waits; the socket's inside does
        not.
        """
        self._expired = True
        with contextlib.suppress(OSError):  # it was gone already, and the greenlet is about to see it
            self._sock._sock.shutdown(stdlib_socket.SHUT_RDWR)  # type: ignore[attr-defined]

    def _write(self, data: bytes) -> None:
        """A server may refuse a request before it has read all of it, and close: its answer can still be there."""
        try:
            sent = self._sock.send(data)
            if sent < len(data):
                self._sock.sendall(data[sent:])
        except OSError:
            self.reusable = False

    def _receive(self, answer: AnswerParser) -> None:
        self._turn.take()  # a fast server would never make this greenlet wait, and its timer never expire
        try:
            answer.feed(self._sock.recv(RECEIVE_BYTES))
            return
        except AnswerError as error:
            what = f"{self._route.origin} answered with {error}"
        except OSError as error:
            what = f"no answer from {self._route.origin}: {type(error).__name__}"
        if self._expired:
            what = f"no answer from {self._route.origin} in time"
        raise ResultUnknown(f"{what}; the request may have arrived")


def connect(
    route: Route,
    lookup: Lookup,
    tls: ssl.SSLContext | None,
    hub: Hub,
    connect_timeout_s: float,
    read_timeout_s: float,
) -> Connection:
    """A new connection. Raises ApiUnreachable.

    Each step has the connect timeout: looking up the name, and each address with its proxy and its TLS.
    """
    try:
        found = lookup.addresses(connect_timeout_s)
    except TimeoutError:
        raise _unreachable(route, "its name could not be looked up in time") from None
    except OSError:
        raise _unreachable(route, "there is no such host") from None
    reason = ""
    for family, address in found[:ADDRESSES_MAX]:
        try:
            with gevent.Timeout(connect_timeout_s, TimeoutError()):
                sock = _open(route, tls, family, address)
            return Connection(route, hub, sock, read_timeout_s)
        except (ssl.SSLError, AnswerError) as error:
            reason = _reason(error)
            break  # something answers there
        except OSError as error:
            reason = _reason(error)
    lookup.doubt()
    raise _unreachable(route, reason)


def _open(route: Route, tls: ssl.SSLContext | None, family: int, address: tuple[object, ...]) -> gevent.socket.socket:
    sock = gevent.socket.socket(family, stdlib_socket.SOCK_STREAM)
    try:
        sock.connect(address)
        sock.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)
        if route.tunnel is not None:
            _dig(sock, route.tunnel)
        if tls is not None:
            # An answer may end with the connection: a cut one must not pass for complete. The handshake is made here,
            # as gevent would not close the socket if this greenlet were killed in it.
            sock = tls.wrap_socket(
                sock,
                server_hostname=route.server_name,
                do_handshake_on_connect=False,
                suppress_ragged_eofs=False,
            )
            sock.do_handshake()
    except BaseException:
        sock.close()
        raise
    return sock


def _dig(sock: gevent.socket.socket, request: bytes) -> None:
    """Have the proxy connect us to the host. Raises AnswerError when it does not."""
    sock.sendall(request)
    answer = AnswerParser(HEAD_BYTES_MAX)
    try:
        while not answer.head_done:
            answer.feed(sock.recv(RECEIVE_BYTES))
    finally:
        answer.close()
    if not 200 <= answer.status < 300:
        raise AnswerError(f"status {answer.status}")
    if answer.take_body():
        raise AnswerError("more than it may")


def _unreachable(route: Route, reason: str) -> ApiUnreachable:
    through = f" through the proxy {route.address[0]}:{route.address[1]}" if route.is_proxied else ""
    return ApiUnreachable(f"no connection to {route.origin}{through}: {reason}; nothing was sent")


def _reason(error: OSError | AnswerError) -> str:
    """Why there is no connection, in words that hold nothing of what was sent or received."""
    if isinstance(error, AnswerError):
        return f"the proxy answered with {error}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "it did not show a certificate that can be trusted"
    if isinstance(error, ssl.SSLError):
        return "it does not speak TLS as expected"
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    return "nothing answers there"
