"""From the settings to a pool of the right size.

The pool must fit into what the open-file limit leaves, and into the node's share of what the server allows. One that
does not is refused with the arithmetic, or made smaller where the settings say so. The server is asked at the start:

- It does not let the user in, or has no such database: that is a wrong setting, and gbot does not start.
- It cannot be reached: gbot starts. Deliveries are taken and stored, what needs the database is put off, and the pool
  makes do with one connection until the server has been asked, which leaves room to ask. Then it takes its share: it is
  too late to refuse.
- It does not tell what it allows, such as a proxy that knows other questions only: the settings are taken as they are.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Final

import gevent

from gbot.counts import counted
from gbot.database.address import Address
from gbot.database.client import Database
from gbot.database.connection import Connection
from gbot.database.connector import Connector
from gbot.database.lender import Lender
from gbot.database.limits import limits_beside
from gbot.database.pool import Pool
from gbot.database.sizing import INBOX_CONNECTIONS, Share, fit, may_be_of_other_nodes, share_of
from gbot.errors import DatabaseError, DatabaseMistake, DatabaseRefused, StartError

log = logging.getLogger(__name__)

ASK_AGAIN_S: Final = 2.0
END_S: Final = 2.0  # for statements to be ended at a stop


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """``size`` is for the node, which shares the server with ``nodes`` in all; ``clamp``: take less rather than refuse.

    ``inbox`` is where the inbox is, if that is on the same server.
    """

    address: Address
    size: int
    warm: int
    wait_s: float
    hold_warning_s: float
    nodes: int
    clamp: bool
    inbox: Address | None = None


class Opening:
    """Makes the database of a worker, and opens it. ``files`` is what the open-file limit leaves for it.

    ``size`` is the most connections that it will have open. Raises StartError where they do not fit.
    """

    def __init__(self, settings: DatabaseSettings, files: Share) -> None:
        self._settings = settings
        self._place = settings.address.place
        self._connector = Connector(settings.address)
        self.size = self._fitting(settings.size, files, clamp=settings.clamp)
        self._pool: Pool[Connection] = Pool(
            lambda: self._connector.connect(None),  # an author's statement may take as long as its handler
            self._place,
            self.size,
            warm=settings.warm,
            wait_s=settings.wait_s,
            hold_warning_s=settings.hold_warning_s,
        )
        self._asking: gevent.Greenlet[[], None] | None = None
        self.database = Database(Lender(self._pool, self._place))

    def start(self) -> None:
        """Size the pool and begin to open it. Raises StartError."""
        try:
            self._fit(clamp=self._settings.clamp)
        except DatabaseRefused as error:
            raise StartError(self._refusal(error)) from None
        except DatabaseError as error:
            log.warning("The database %s cannot be used now: %s; what needs it is put off", self._place, error)
            self._pool.resize(1)
            self._asking = gevent.spawn(self._fit_later)
        self._pool.start()

    def stop(self) -> None:
        """Close the connections, and end in the server what handlers that were stopped have left running there."""
        if self._asking is not None:
            self._asking.kill()
        self._pool.stop()
        left = self._pool.end_unfinished(time.monotonic() + END_S)
        if left:
            statements = counted(left, "statement that was", "statements that were")
            log.warning("%s left unfinished may still run in %s", statements, self._place)

    def _fit(self, *, clamp: bool) -> None:
        """Ask the server and size the pool. Raises DatabaseError, and StartError where it is to refuse."""
        try:
            share = self._share()
        except DatabaseMistake as error:
            log.warning(
                "The database %s does not tell how many connections it allows (%s); --db-pool %d is taken as it is",
                *(self._place, error, self.size),
            )
            self._pool.resize(self.size)
            return
        size = self._fitting(self.size, share, clamp=clamp)
        there = share.used_by_user - 1  # this one has one open
        if may_be_of_other_nodes(share, size, there - INBOX_CONNECTIONS, self._settings.nodes):
            log.warning(
                "User %s has %d connections open in %s already; with %d more for --db-pool that is more than the %d of "
                "this node: if they are those of other nodes, set --db-share to the number of nodes",
                *(self._settings.address.user, there, self._place, size, share.connections),
            )
        if size == self.size:
            log.info("Database %s: %s; %d fit", self._place, share.arithmetic, size)
        self._pool.resize(size)

    def _share(self) -> Share:
        """Raises DatabaseError, which is DatabaseMistake where the server has no answer."""
        settings = self._settings
        connection = self._connector.connect()
        try:
            limits = limits_beside(connection, settings.address, settings.inbox)
        finally:
            connection.close()
        return share_of(limits, settings.nodes, with_inbox=settings.inbox is not None)

    def _fitting(self, size: int, share: Share, *, clamp: bool) -> int:
        """As many of ``size`` as fit into this share. Raises StartError where that is none, or to be refused."""
        taken, line = fit(size, share, clamp=clamp)
        if share.connections < 1:
            raise StartError(f"Database {self._place}: {line}. Raise {share.bound}.")
        if not taken:
            advice = f"Lower it, raise {share.bound}, or take what there is with --db-oversize clamp."
            raise StartError(f"Database {self._place}: {line}. {advice}")
        if taken < size:
            log.warning("Database %s: %s: taking %d", self._place, line, taken)
        return taken

    def _refusal(self, error: DatabaseRefused) -> str:
        return f"The database {self._place} does not let gbot in: {error}"

    def _fit_later(self) -> None:
        """The server is there at last: the pool takes its share, or keeps its one connection."""
        told = False
        while True:
            gevent.sleep(ASK_AGAIN_S)
            try:
                return self._fit(clamp=True)
            except StartError as error:
                return log.error("%s Until the next start one connection is used.", error)
            except DatabaseRefused as error:
                if not told:
                    log.error("%s; what needs it is put off", self._refusal(error))
                told = True
            except DatabaseError as error:
                log.debug("The database %s cannot be used yet: %s", self._place, error)
