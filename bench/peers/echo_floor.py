"""The floor: a gevent server that receives something and sends one constant answer, nothing else.

    python bench/peers/echo_floor.py PORT

It parses nothing and runs no events, so no server on gevent in Python can answer faster, and its p99 is what the
machine and the load generator add by themselves.
"""

import signal
import socket
import sys

from gevent.server import StreamServer
from gevent.signal import signal as on_signal

BODY = b'{"ok":"ok"}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


def answer_everything(connection: socket.socket, address: tuple[str, int]) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        while connection.recv(65536):
            connection.sendall(ANSWER)
    except ConnectionError:
        return


def main() -> None:
    server = StreamServer(("127.0.0.1", int(sys.argv[1])), answer_everything, backlog=1024)
    on_signal(signal.SIGTERM, lambda *_: server.stop())
    server.serve_forever()


if __name__ == "__main__":
    main()
