"""What the environment asks of a peer in Python; those in other languages read the same variables.

BENCH_SCENARIO  what a handler does: 1 nothing but print a line, 2 wait, 3 wait and then ask the database for the time
BENCH_NAP_S     how long it waits, in seconds: 2-3
BENCH_DB        mysql://user:password@host:port/database
BENCH_DB_POOL   how many connections the peer's pool opens at its start, and holds at most
"""

import os
from urllib.parse import unquote, urlsplit

SCENARIO = int(os.environ.get("BENCH_SCENARIO", "1"))
NAP_S = tuple(float(text) for text in os.environ.get("BENCH_NAP_S", "2-3").split("-"))
DB_POOL = int(os.environ.get("BENCH_DB_POOL", "50"))
QUESTION = "SELECT NOW()"


def database() -> dict[str, object]:
    """Where the database is, by the names that PyMySQL and asyncmy have for it."""
    url = urlsplit(os.environ["BENCH_DB"])
    return {
        "host": url.hostname or "127.0.0.1",
        "port": url.port or 3306,
        "user": unquote(url.username or ""),
        "password": unquote(url.password or ""),
        "database": url.path.lstrip("/"),
        # Else a statement opens a transaction, which costs a second round trip to end.
        "autocommit": True,
    }


class Tally:
    """How many events were completed and how many failed since the start, and how many are running."""

    def __init__(self) -> None:
        self.events = 0
        self.failed = 0
        self.running = 0

    def told(self) -> dict[str, int]:
        """The answer of GET /count."""
        return {"events": self.events, "failed": self.failed, "running": self.running}
