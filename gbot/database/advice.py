"""What to do about a database's server that is away, or does not let gbot in. Pure.

An error's text tells what is wrong and the way out, for whoever reads it: the log, gbot serve, gbot inbox. Reports that
have a line of advice of their own add what follows from it, and where the URL is.
"""

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

# Ways out, as texts of errors have them.
WITH_TLS: Final = "; it may want TLS: add ?tls=on to the URL"
AUTHORITY: Final = (
    "; SSL_CERT_FILE in the environment names the file of its authority (RDS: global-bundle.pem); ?tls=on in the URL "
    "checks no certificate"
)
OTHER_NAME: Final = "; put a name that is in its certificate into the URL as host; ?tls=on there checks no certificate"
TLS_MISSING: Final = "the server offers no TLS; enable it there"
NEEDS_PACKAGE: Final = "without TLS this way of logging in needs the package cryptography; "
IN_CLEAR: Final = "its server asks for the password as it is, which it gets by TLS alone: add ?tls=on to the URL"
INSTALL: Final = "run pip install cryptography"
NEAR: Final = "connect by ?unix_socket= on the same machine"

UNIX_SOCKET: Final = "the unix socket"
NO_SERVER: Final = "it may be no MySQL server"
_SILENT: Final = "see to host and port; if it is one, see why it does not answer (its DNS is slow: skip_name_resolve)"
_DO_ONE: Final = "do one of these"
_NEW_PASSWORD: Final = "let its admin give this user a new password (ALTER USER … IDENTIFIED BY …), and put it into "
_UNLOCK: Final = "let its admin do that, or name another user in "
_DATABASE: Final = "let its admin do that, or see to the name of the database in "
_AFTER_REFUSAL: Final = {
    **dict.fromkeys((1044, 1049), _DATABASE),
    1130: "let its admin allow this user from this machine (CREATE USER …@…), or see to the host in ",
    **dict.fromkeys((1820, 1862), _NEW_PASSWORD),
    **dict.fromkeys((3118, 4151), _UNLOCK),
}


def when_away(error: DatabaseDown) -> str:
    """What to do about a server that cannot be reached; its text begins with the number of MySQL's error, if any."""
    text = str(error)
    if any(way in text for way in (AUTHORITY, OTHER_NAME, TLS_MISSING)):
        return _DO_ONE
    if UNIX_SOCKET in text:
        return "start it, or see to ?unix_socket= in the URL"
    if NO_SERVER in text:
        return _SILENT
    return ADVICE.get(_number(text), "start it, or see to host, port and firewall")


def when_refused(error: DatabaseDown, where: str) -> str:
    """What to do when it does not want this user, or has no such database; ``where`` its URL is."""
    text = str(error)
    if text.startswith(NEEDS_PACKAGE):
        return f"{_DO_ONE}, to the server, this machine or {where}"
    return _AFTER_REFUSAL.get(_number(text), "see to user, password, database and ?tls= in ") + where


def without_package(*, tls_offered: bool) -> str:
    """What an error tells whose way of logging in needs more than there is."""
    first = "add ?tls=on to the URL" if tls_offered else f"enable TLS on the server, {NEAR}"
    return f"{NEEDS_PACKAGE}{first}, or {INSTALL}"


def without_tls(*, needs_package: bool) -> str:
    """What an error tells where the URL wants TLS, and the server has none."""
    return TLS_MISSING + (f", {NEAR}, or {INSTALL} and put" if needs_package else " or put") + " ?tls=off into the URL"


def way_out(code: int, user: str, database: str) -> str:
    """What its admin can do about a refusal, to be added to its text; empty: that is not known."""
    user, database = _named(user), _named(database)
    if code == 1044:
        make = f"CREATE DATABASE {database}; GRANT … ON {database}.* TO {user}"
        return f"; it is not there, or its user has no rights on it: as admin, {make}"
    if code == 1049:
        return f"; as admin, CREATE DATABASE {database}"
    if code == 1862:
        return f"; as admin, ALTER USER {user} IDENTIFIED BY …"
    if code in (3118, 4151):
        return f"; as admin, ALTER USER {user} ACCOUNT UNLOCK"
    return ""


def _number(text: str) -> int:
    found = re.match(r"(\d+) ", text)
    return int(found[1]) if found else 0


def _named(name: str) -> str:
    """As a statement has it."""
    if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        return name
    return "`" + name.replace("`", "``") + "`"
