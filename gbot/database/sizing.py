"""How many connections a node may take: of what the server allows, and of what the open-file limit leaves. Pure.

::

    max_connections - what is kept for others = what gbot may use ÷ nodes - the inbox's = the node's pool

Sessions of the same user, and of the inbox's, are those of gbot's other nodes, and of this one before a restart: they
are in the shares. So every node of a rolling restart comes to the same share, whoever of them is there already, and
whether or not somebody is looking at the server meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

KEPT_FOR_OTHERS: Final = 10  # people, their tools, and the server's own services, whether or not they are there now
KEPT_FREE: Final = 2  # beside others who are there
KEPT_OF_USER: Final = 2  # of what the user may have: to end what a handler left unfinished
INBOX_CONNECTIONS: Final = 2  # of a node whose inbox is on the same server: one for its worker, one for gbot inbox
USER_BOUND: Final = (
    "the user's limit (ALTER USER … WITH MAX_USER_CONNECTIONS …) or, if that is the server's own, max_user_connections"
)
FILES_RESERVED: Final = 64  # descriptors for everything that is not a connection of a client or to the database


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What a server says of itself. ``user_max`` is the limit of this user, 0: none of its own.

    ``used`` counts all sessions, ``used_by_user`` those of the user who asks, ``used_by_inbox`` those of the inbox's
    user if that is another one.
    """

    connections_max: int
    user_max: int
    used: int
    used_by_user: int
    used_by_inbox: int = 0

    @property
    def used_by_others(self) -> int:
        return max(0, self.used - self.used_by_user - self.used_by_inbox)

    @property
    def kept_for_others(self) -> int:
        return max(KEPT_FOR_OTHERS, self.used_by_others + KEPT_FREE)

    @property
    def is_crowded(self) -> bool:
        """Whether others are why more than usual is kept for them."""
        return self.kept_for_others > KEPT_FOR_OTHERS


@dataclass(frozen=True, slots=True)
class Share:
    """What one node may have open, the arithmetic behind it in one line, and what would have to be raised for more.

    ``used_by_user`` counts sessions of the same user, who are taken for those of other nodes, or of this one before;
    ``is_crowded``: it would be more if sessions of others ended.
    """

    connections: int
    arithmetic: str
    bound: str
    used_by_user: int = 0
    is_crowded: bool = False


def share_of(limits: ServerLimits, nodes: int, *, with_inbox: bool) -> Share:
    """The share of one of ``nodes`` nodes; ``with_inbox``: their inbox is on the same server.

    It may be 0. The arithmetic then ends where nothing is left, and says so rather than what would be below 0.
    """
    kept, there = limits.kept_for_others, limits.used_by_others
    free = max(0, limits.connections_max - kept)
    bound, is_crowded = "max_connections", limits.is_crowded
    for_others = f"{kept} kept for others ({there} there now)"
    line = f"max_connections {limits.connections_max}"
    line += f" - {for_others} = {free}" if free else f", no more than the {for_others}"
    of_user = max(0, limits.user_max - KEPT_OF_USER)
    if limits.user_max > 0 and of_user < free:  # MariaDB: -1 is no limit, and nobody else is let in
        free, bound, is_crowded = of_user, USER_BOUND, False
        line += f", of which max_user_connections {limits.user_max}"
        line += f" - {KEPT_OF_USER} kept free allows {free}" if free else f" allows none: {KEPT_OF_USER} are kept free"
    each = free // nodes
    if nodes > 1 and free:
        line += f"; / {nodes} nodes = {each}"
    if with_inbox and each:
        each = max(0, each - INBOX_CONNECTIONS)
        of_inbox = f"{INBOX_CONNECTIONS} of the inbox"
        line += f"; - {of_inbox} = {each}" if each else f", no more than the {of_inbox}"
    return Share(each, line, bound, limits.used_by_user, is_crowded)


def may_be_of_other_nodes(share: Share, size: int, there: int, nodes: int) -> bool:
    """Whether ``there`` sessions of the same user hint at nodes that are not counted among ``nodes``.

    They are this node's own from before a restart as well as another's, and are let be where this one's pool of
    ``size`` fits in beside them.
    """
    return nodes == 1 and there > 0 and there + min(size, share.connections) > share.connections


def fit(size: int, share: Share, *, clamp: bool) -> tuple[int, str]:
    """How many of ``size`` connections to take, and the sentence that tells why; 0: none, and it is to be refused."""
    if size <= share.connections:
        return size, f"{share.arithmetic}; --db-pool {size} fits"
    line = f"{share.arithmetic}; --db-pool {size} is more"
    if share.connections < 1:
        return 0, f"{line}, and nothing is left to take"
    return share.connections if clamp else 0, line


def files_for_clients(files_max: int) -> int:
    """How many files of a process no pool of connections to somebody else may take."""
    return files_max // 4


def share_of_files(files_max: int) -> Share:
    """What the open-file limit of the process leaves. It may be 0."""
    kept = files_for_clients(files_max) + FILES_RESERVED
    left = max(0, files_max - kept)
    line = f"open-file limit {files_max} - {kept} for clients and all else = {left}"
    return Share(left, line, "the open-file limit (systemd: LimitNOFILE=)")


def files_for_share(connections: int) -> int:
    """The lowest open-file limit that leaves so many connections."""
    return (connections + FILES_RESERVED - 1) * 4 // 3 + 1
