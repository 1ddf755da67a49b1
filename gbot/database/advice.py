"""What to do about a database's server that is away, or does not let gbot in. Pure."""

from __future__ import annotations

import re
from typing import Final

from gbot.errors import DatabaseDown

RDS: Final = "(RDS, Aurora: in the parameter group)"
FULL: Final = (
    "all its connections are in use: see whose they are with SHOW PROCESSLIST, for which the server keeps one more for "
    f"its admin; then lower --db-pool on nodes that have more than their share, or raise max_connections {RDS}"
)
USER_FULL: Final = (
    "what this user may have is in use: lower --db-pool on the nodes, or raise the user's limit (ALTER USER … WITH "
    f"MAX_USER_CONNECTIONS …) or, if that is the server's own, max_user_connections {RDS}"
)
BLOCKED: Final = "let its admin do that, when what has broken the connections from here is mended"
OFFLINE: Final = "wait until its admin has it online again (SET GLOBAL offline_mode = OFF)"
NO_TLS: Final = "see to the server's certificate, or choose ?tls=off, on or verify at the end of the URL"
ADVICE: Final = {1040: FULL, 1129: BLOCKED, 1203: USER_FULL, 1226: USER_FULL, 2026: NO_TLS, 3032: OFFLINE}


def when_away(error: DatabaseDown) -> str:
    """What to do about a server that cannot be reached; its text begins with the number of MySQL's error, if any."""
    number = re.match(r"\d+", str(error))
    return ADVICE.get(int(number[0]) if number else 0, "start it, or see to host, port and firewall")


def when_refused(where: str) -> str:
    """What to do when it does not want this user, or has no such database; ``where`` its URL is."""
    return f"see to user, password, database and ?tls= in {where}"
