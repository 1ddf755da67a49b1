"""What pools do when something goes wrong: a connection that is killed, and a server that is slow to connect to.

Imported after monkey-patching only.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import gevent.event
import gevent.server
import gevent.socket
from inboxes import connect as connected
from measuring import LOCALHOST, Unavailable
from pools_contenders import OURS, STEADY, Contender, Ours, Steady

from gbot.database.address import Address, parse
from gbot.database.connection import Connection
from gbot.database.connector import Connector

SLOW_S = 1.0  # until the slow server has refused
PATIENCE_S = 20.0
# Each statement of a procedure is committed by itself. The second one waits for a lock that the operator has.
PROCEDURE = "CREATE PROCEDURE note() BEGIN INSERT INTO counted VALUES (NULL); DO GET_LOCK(DATABASE(), 60); END"
CALLING = (
    "SELECT ID FROM information_schema.PROCESSLIST"
    " WHERE DB = DATABASE() AND ID <> CONNECTION_ID() AND COMMAND = 'Query'"
)

# Makes a pool of at most so many connections, of which it opens one at once.
Make = Callable[[Callable[[], Connection], int], Contender]


def everybody() -> dict[str, Make]:
    def steady(options: dict[str, Any]) -> Make:
        return lambda connect, size: Steady(lambda: connect().raw, size, 1, **options)

    return {OURS: lambda connect, size: Ours(connect, size, 1), **{name: steady(how) for name, how in STEADY.items()}}


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise Unavailable(f"what was waited for did not happen within {PATIENCE_S:g} s")
        gevent.sleep(0.005)


# A connection that is killed while its statement runs.


@dataclasses.dataclass(frozen=True)
class Killed:
    """How often the server has executed what was called once, and what the caller was told."""

    executed: int
    told: str


def killed(url: str) -> dict[str, Killed]:
    """The operator kills the connection of a call when the first half of what it does is committed."""
    with contextlib.closing(connected(url, timeout_s=PATIENCE_S)) as operator:
        operator.execute("CREATE TABLE counted (id INT AUTO_INCREMENT PRIMARY KEY)")
        operator.execute(PROCEDURE)
        return {name: killed_once(make, url, operator) for name, make in everybody().items()}


def killed_once(make: Make, url: str, operator: Connection) -> Killed:
    operator.execute("TRUNCATE TABLE counted")
    operator.rows("SELECT GET_LOCK(DATABASE(), 60)")
    connector = Connector(parse(url))
    contender = make(lambda: connector.connect(None), 2)
    try:
        call = gevent.spawn(told, contender)
        wait_until(lambda: counted(operator) and operator.rows(CALLING))
        [(number,)] = operator.rows(CALLING)
        operator.execute(f"KILL {number:d}")
        operator.execute("DO RELEASE_LOCK(DATABASE())")
        return Killed(told=call.get(timeout=PATIENCE_S), executed=counted(operator))
    finally:
        contender.close()


def told(contender: Contender) -> str:
    try:
        contender.execute("CALL note()")
    except Exception as error:
        return type(error).__name__
    return "that all went well"


def counted(operator: Connection) -> int:
    return int(operator.rows("SELECT COUNT(*) FROM counted")[0][0])


# A server that takes its time to let somebody in.


class SlowServer:
    """Accepts, says nothing for SLOW_S, and hangs up. `asked` is set when somebody has connected."""

    def __init__(self) -> None:
        self.asked = gevent.event.Event()
        self.server = gevent.server.StreamServer((LOCALHOST, 0), self.hang_up)
        self.server.start()

    def address(self, like: Address) -> Address:
        return dataclasses.replace(like, host=LOCALHOST, port=int(self.server.address[1]), unix_socket=None)

    def hang_up(self, client: gevent.socket.socket, _address: object) -> None:
        with contextlib.closing(client):
            self.asked.set()
            gevent.sleep(SLOW_S)

    def close(self) -> None:
        self.server.stop()


def waited_for_another(url: str) -> dict[str, float]:
    """How long it takes to give a connection back and to get one again while another is being opened, in seconds."""
    return {name: waited_once(make, url) for name, make in everybody().items()}


def waited_once(make: Make, url: str) -> float:
    address = parse(url)
    with contextlib.closing(SlowServer()) as slow:
        connectors = first_then(Connector(address), Connector(slow.address(address)))
        contender = make(lambda: next(connectors).connect(None), 2)
        try:
            mine = contender.take()
            other = gevent.spawn(take_and_give, contender)  # finds none, so that another one is opened
            if not slow.asked.wait(PATIENCE_S):
                raise Unavailable("no second connection was opened")
            started = time.monotonic()
            contender.give(mine)
            contender.give(contender.take())
            waited_s = time.monotonic() - started
            other.join(PATIENCE_S)
            return waited_s
        finally:
            contender.close()


def first_then(first: Connector, others: Connector) -> Iterator[Connector]:
    yield first
    while True:
        yield others


def take_and_give(contender: Contender) -> None:
    with contextlib.suppress(Exception):  # PooledDB tells who caused the opening that it went wrong
        contender.give(contender.take())
