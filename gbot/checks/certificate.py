"""Whether the certificate can be served, and for how long.

Both ends of a TLS handshake are made in memory, with the certificate itself as what the client trusts: that shows the
certificate as a client sees it, and that its key belongs to it.
"""

from __future__ import annotations

import ssl
from typing import Any, Final

from gbot.checks.finding import Finding, fail, ok, skip, warn
from gbot.config import Config
from gbot.counts import counted
from gbot.errors import StartError
from gbot.listener import load_tls

NAME: Final = "certificate"
DAYS_MIN: Final = 21
DAY_S: Final = 86_400
STEPS_MAX: Final = 10  # of a handshake
# OpenSSL's X509_V_FLAG_NO_CHECK_TIME, for which the standard library has no name: an expired one is to be shown too.
NO_CHECK_TIME: Final = 0x200000


def certificate(config: Config, now_s: float) -> Finding:
    """``now_s`` is in seconds since 1970."""
    path, key = config.tls_cert, config.tls_key
    if path is None or key is None:
        return skip(NAME, "there is no --tls-cert: gbot serve speaks HTTP, for a proxy that has the certificate")
    try:
        context = load_tls(path, key)
        assert context is not None
        shown = _shown(context, path)
    except StartError as error:
        advice = "name with --tls-cert and --tls-key the PEM files of the chain and its key, readable for gbot's user"
        return fail(NAME, str(error), advice)
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "") or error.reason
        return fail(NAME, f"{path}: clients would refuse it: {reason}", "get one that is for a TLS server")
    return judged(path, shown, now_s)


def judged(path: str, shown: dict[str, Any], now_s: float) -> Finding:
    """What the certificate says of itself, as ``getpeercert`` gives it. Pure."""
    names = ", ".join(name for kind, name in shown.get("subjectAltName", ()) if kind in ("DNS", "IP Address"))
    itself = f"{path} for {names or 'no host name'}"
    begins_s, ends_s = (ssl.cert_time_to_seconds(shown[moment]) for moment in ("notBefore", "notAfter"))
    days = int((ends_s - now_s) // DAY_S)
    figures = {"valid_days": days}
    if now_s >= ends_s:
        advice = "renew it, and start gbot serve again: clients refuse it"
        return fail(NAME, f"{itself} expired on {shown['notAfter']}", advice, figures)
    if now_s < begins_s:
        advice = "set this machine's clock, or use the one before"
        return fail(NAME, f"{itself} is not valid before {shown['notBefore']}", advice, figures)
    found = f"{itself} is valid for {counted(days, 'more day')}"
    if days < DAYS_MIN:
        return warn(NAME, found, "renew it soon; gbot serve reads it when it starts", figures)
    return ok(NAME, found, figures)


def _shown(context: ssl.SSLContext, path: str) -> dict[str, Any]:
    """The certificate as a client sees it. Raises SSLError."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.load_verify_locations(cafile=path)
    trusting.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(NO_CHECK_TIME)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(to_server, to_client, server_side=True)
    client = trusting.wrap_bio(to_client, to_server)
    for _ in range(STEPS_MAX):
        ended = [_went_on(end) for end in (client, server)]
        if all(ended):
            break
    return client.getpeercert() or {}


def _went_on(end: ssl.SSLObject) -> bool:
    """One end's part of the handshake, as far as it gets; returns whether it is through."""
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
