"""Who is compared by bench/pools.py: ways to share connections, all of them on the same connections.

Imported after monkey-patching only. PooledDB is DBUtils'; its connections are opened one by one when it is made.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from gevent.lock import Semaphore

from gbot.database.client import Database
from gbot.database.connection import Connection
from gbot.database.lender import Lender
from gbot.database.place import Place
from gbot.database.pool import Pool

QUERY = "SELECT NOW()"
# The longest wait of the crowd is what is to be found out: nobody is turned away.
WAIT_S = 120.0
BARE, OURS, POOL = "bare LIFO", "gbot", "gbot's pool, PyMySQL's cursor"
DEFAULTS, FAST = "DBUtils, defaults", "DBUtils, ping=0, reset=False"

Raw = Any  # a connection of PyMySQL
Connect = Callable[[], Connection]


class Contender(Protocol):
    """A way to share connections. What `take` returns is for `rows` and `give` alone."""

    def ask(self) -> object:
        """QUERY on one of the connections, as its users would write it."""

    def take(self) -> Any: ...

    def rows(self, taken: Any) -> object:
        """QUERY on a connection that was taken."""

    def give(self, taken: Any) -> None: ...

    def execute(self, sql: str) -> None: ...

    def close(self) -> None: ...


def asked(raw: Raw, sql: str = QUERY) -> object:
    cursor = raw.cursor()
    cursor.execute(sql)
    rows = cursor.fetchall()
    cursor.close()
    return rows


class Bare:
    """A list: nothing is looked at, and nobody can wait."""

    def __init__(self, raws: Sequence[Raw]) -> None:
        self.idle = list(raws)

    def ask(self) -> object:
        raw = self.idle.pop()
        cursor = raw.cursor()
        cursor.execute(QUERY)
        rows = cursor.fetchall()
        cursor.close()
        self.idle.append(raw)
        return rows

    def take(self) -> Raw:
        return self.idle.pop()

    def rows(self, taken: Raw) -> object:
        return asked(taken)

    def give(self, taken: Raw) -> None:
        self.idle.append(taken)

    def execute(self, sql: str) -> None:
        raw = self.take()
        asked(raw, sql)
        self.give(raw)

    def close(self) -> None:
        """The connections are somebody else's."""


class Guarded(Bare):
    """The list, and a semaphore to wait at."""

    def __init__(self, raws: Sequence[Raw]) -> None:
        super().__init__(raws)
        self.free = Semaphore(len(self.idle))

    def ask(self) -> object:
        self.free.acquire()
        rows = super().ask()
        self.free.release()
        return rows

    def take(self) -> Raw:
        self.free.acquire()
        return self.idle.pop()

    def give(self, taken: Raw) -> None:
        self.idle.append(taken)
        self.free.release()


class Ours:
    """Database.query, and the pool below it; it opens its connections itself when it is started."""

    def __init__(self, connect: Connect, size: int, warm: int) -> None:
        name = "the database of the benchmark"
        self.pool: Pool[Connection] = Pool(connect, name, size, warm=warm, wait_s=WAIT_S)
        self.database = Database(Lender(self.pool, name))
        self.pool.start()

    def ask(self) -> object:
        return self.database.query(QUERY)

    def take(self) -> Place[Connection]:
        return self.pool.take()

    def rows(self, taken: Place[Connection]) -> object:
        return taken.connection.rows(QUERY)

    def give(self, taken: Place[Connection]) -> None:
        self.pool.give(taken)

    def execute(self, sql: str) -> None:
        self.database.execute(sql)

    def close(self) -> None:
        self.pool.stop()


class OurPool:
    """Our pool alone, with PyMySQL's cursor on what is taken from it, as the bare list has it."""

    def __init__(self, ours: Ours) -> None:
        self.pool = ours.pool

    def ask(self) -> object:
        place = self.pool.take()
        cursor = place.connection.raw.cursor()
        cursor.execute(QUERY)
        rows = cursor.fetchall()
        cursor.close()
        self.pool.give(place)
        return rows

    def take(self) -> Place[Connection]:
        return self.pool.take()

    def rows(self, taken: Place[Connection]) -> object:
        return asked(taken.connection.raw)

    def give(self, taken: Place[Connection]) -> None:
        self.pool.give(taken)

    def execute(self, sql: str) -> None:
        place = self.take()
        asked(place.connection.raw, sql)
        self.give(place)

    def close(self) -> None:
        """The pool is somebody else's."""


class Steady:
    """PooledDB, asked as its documentation does; it opens `warm` connections when it is made."""

    def __init__(self, connect: Callable[[], Raw], size: int, warm: int, **options: Any) -> None:
        from dbutils.pooled_db import PooledDB  # may not be installed

        self.pool = PooledDB(connect, mincached=warm, maxconnections=size, blocking=True, **options)

    def ask(self) -> object:
        connection = self.pool.connection()
        cursor = connection.cursor()
        cursor.execute(QUERY)
        rows = cursor.fetchall()
        cursor.close()
        connection.close()
        return rows

    def take(self) -> Any:
        return self.pool.connection()

    def rows(self, taken: Any) -> object:
        return asked(taken)

    def give(self, taken: Any) -> None:
        taken.close()

    def execute(self, sql: str) -> None:
        connection = self.take()
        asked(connection, sql)
        self.give(connection)

    def close(self) -> None:
        self.pool.close()


# What DBUtils is given besides: nothing, or what makes it as fast as it can be.
STEADY: dict[str, dict[str, Any]] = {DEFAULTS: {}, FAST: {"ping": 0, "reset": False}}
