"""The database of a bot under test: a real one, with connections as ``gbot serve`` has them."""

from __future__ import annotations

from typing import Final

from gbot.database.address import parse
from gbot.database.client import Database
from gbot.database.connection import Connection
from gbot.database.connector import Connector
from gbot.database.lender import Lender
from gbot.database.pool import Pool
from gbot.errors import DatabaseDown, StartError

SIZE: Final = 5  # handlers run one after the other; some take more than one connection
WAIT_S: Final = 1.0  # there is hardly anybody to wait for


class OwnDatabase:
    """Raises ValueError for what is no URL of a database, and StartError where none can be reached there."""

    def __init__(self, url: str) -> None:
        address = parse(url)
        connector = Connector(address)
        try:
            connector.connect().close()
        except DatabaseDown as error:
            raise StartError(f"The database {address.place} cannot be used: {error}") from None
        self._pool: Pool[Connection] = Pool(lambda: connector.connect(None), address.place, SIZE, wait_s=WAIT_S)
        self.client = Database(Lender(self._pool, address.place))
        self.close = self._pool.stop
        self._pool.start()

    def close_idle(self) -> None:
        """Nothing looks after connections between two events of a test, and there may be hundreds of tests."""
        self._pool.resize(0)
        self._pool.resize(SIZE)
