"""How long does an acknowledgement take when deliveries arrive at a constant rate, whatever the server does meanwhile?

    python bench/constant_rate.py --port 4000 --rate 500 --seconds 20

Open loop: delivery i is due at start + i / rate, and its latency counts from that moment, not from when a connection
was free for it. A server that stands still for a second therefore shows the whole second in every delivery that was
due in it. Prints one JSON line; an unanswered delivery counts as failed and with the time it had waited until the end.
"""

import argparse
import contextlib
import json
import math
import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

BODY = b'{"messages":"1"}'
REQUEST = (
    b"POST /callback HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Accept: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
)
GRACE_S = 10.0
# Each connection is used about once a second at the default rate; select() can watch no more than 1024.
CONNECTIONS = 500


class Connection:
    """One kept-alive connection with at most one delivery under way."""

    def __init__(self, address: str, port: int) -> None:
        self.address = (address, port)
        self.due_s = 0.0
        self.received = b""
        self.open()

    def open(self) -> None:
        self.socket = socket.create_connection(self.address, timeout=5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, due_s: float) -> None:
        """Sends a delivery; a connection the server had closed while it was idle is opened anew, once."""
        self.due_s, self.received = due_s, b""
        try:
            self.socket.sendall(REQUEST)
        except OSError:
            self.reopen()
            self.socket.sendall(REQUEST)

    def reopen(self) -> None:
        self.socket.close()
        self.open()

    def receive(self) -> int | None:
        """The status once the whole answer is there, None before; ConnectionError when it will never be."""
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("closed before the answer was complete")
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        if not end or len(body) < content_length(head):
            return None
        return int(head.split(b" ", 2)[1])


def content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0


@dataclass
class Probe:
    """The deliveries of one run: what is free, what is under way, how long each one took."""

    free: deque[Connection]
    under_way: set[Connection] = field(default_factory=set)
    waiting: deque[float] = field(default_factory=deque)
    ack_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    failed: int = 0

    def send_waiting(self) -> None:
        while self.waiting and self.free:
            due_s = self.waiting.popleft()
            connection = self.free.popleft()
            self.late_s.append(time.monotonic() - due_s)
            try:
                connection.send(due_s)
                self.under_way.add(connection)
            except OSError:
                self.settle(connection, None)

    def receive(self, timeout_s: float) -> None:
        readable, _, _ = select.select(self.under_way, [], [], max(0.0, timeout_s))
        for connection in readable:
            try:
                status = connection.receive()
            except OSError:
                self.settle(connection, None)
            else:
                if status is not None:
                    self.settle(connection, status)

    def settle(self, connection: Connection, status: int | None) -> None:
        """Takes the time of an answered (or, without a status, failed) delivery; its connection is free again."""
        self.ack_s.append(time.monotonic() - connection.due_s)
        self.failed += status != 200
        self.under_way.discard(connection)
        if status is None:
            with contextlib.suppress(OSError):
                connection.reopen()
        self.free.append(connection)

    def give_up(self) -> None:
        now = time.monotonic()
        unanswered = [connection.due_s for connection in self.under_way] + list(self.waiting)
        self.ack_s += [now - due_s for due_s in unanswered]
        self.failed += len(unanswered)


def run(address: str, port: int, rate: float, seconds: float) -> Probe:
    probe = Probe(deque(Connection(address, port) for _ in range(CONNECTIONS)))
    total, planned = round(rate * seconds), 0
    start = time.monotonic()
    while planned < total or probe.under_way or probe.waiting:
        now = time.monotonic()
        if now > start + seconds + GRACE_S:
            break
        while planned < total and start + planned / rate <= now:
            probe.waiting.append(start + planned / rate)
            planned += 1
        probe.send_waiting()
        next_due_s = start + planned / rate if planned < total else now + 0.1
        probe.receive(next_due_s - time.monotonic())
    probe.give_up()
    return probe


def percentile_ms(seconds: Sequence[float], percent: float) -> float:
    """Nearest rank: the smallest value that `percent` of all values do not exceed."""
    ordered = sorted(seconds)
    return round(ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] * 1000, 3)


def result(probe: Probe) -> dict[str, object]:
    percents = {"p50": 50, "p90": 90, "p99": 99, "p99.9": 99.9, "max": 100}
    return {
        "deliveries": len(probe.ack_s),
        "failed": probe.failed,
        "ack_ms": {name: percentile_ms(probe.ack_s, percent) for name, percent in percents.items()},
        # How late this client itself was: near the acks' own figures it is the client that was measured.
        "sent_late_ms": {name: percentile_ms(probe.late_s or [0.0], percents[name]) for name in ("p50", "p99")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default="127.0.0.1", choices=["127.0.0.1"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, default=500, help="deliveries per second (default 500)")
    parser.add_argument("--seconds", type=float, default=20)
    arguments = parser.parse_args()
    try:
        probe = run(arguments.address, arguments.port, arguments.rate, arguments.seconds)
    except OSError as error:
        raise SystemExit(f"no connection to port {arguments.port}: {error}") from error
    print(json.dumps(result(probe)))


if __name__ == "__main__":
    main()
