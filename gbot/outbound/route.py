"""How to get to an origin: straight or through a proxy, with which certificates.

The environment decides, as it does for most programs: ``http_proxy``, ``https_proxy``, ``all_proxy`` and ``no_proxy``
(host names, their ends, networks like ``10.0.0.0/8``); REQUESTS_CA_BUNDLE, or SSL_CERT_FILE and SSL_CERT_DIR, in place
of the certificate authorities that come with certifi. ``.netrc`` is not read: it would replace the platform's
Authorization header.

Nothing is connected here; an address that cannot be an address is ApiUnreachable.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi
import gevent.ssl

from gbot.errors import ApiUnreachable

PORTS = {"http": 80, "https": 443}
VISIBLE = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Route:
    """The way to one origin."""

    origin: str
    address: tuple[str, int]  # of the host, or of the proxy
    server_name: str | None  # whose certificate is asked for; None: no TLS
    target_prefix: str  # what a request line has before the path
    fixed_lines: str  # the header lines that every request has
    tunnel: bytes | None  # what a proxy is asked first

    @property
    def is_proxied(self) -> bool:
        return self.tunnel is not None or bool(self.target_prefix)

    def __repr__(self) -> str:
        """Without what may hold a proxy's password."""
        return f"<Route to {self.origin} through {self.address[0]}:{self.address[1]}>"


def find_route(origin: str) -> Route:
    """The way to this origin, as the environment is now. Raises ApiUnreachable."""
    parts, host, port = _parse(origin, origin)
    if parts.username is not None or parts.path or parts.query:
        raise ApiUnreachable(f"the address of {host} has more than scheme, host and port")
    server_name = host if parts.scheme == "https" else None
    fixed_lines = f"Host: {parts.netloc}\r\nUser-Agent: gbot\r\nAccept-Encoding: identity\r\n"
    proxy = _find_proxy(parts.scheme, host, port)
    if proxy is None:
        return Route(origin, (host, port), server_name, "", fixed_lines, None)
    address, authorization = _proxy_address(origin, proxy)
    if server_name is None:
        return Route(origin, address, None, origin, fixed_lines + authorization, None)
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    tunnel = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorization}\r\n"
    return Route(origin, address, server_name, "", fixed_lines, tunnel.encode("latin-1"))


def make_tls_context(origin: str) -> ssl.SSLContext:
    """Certificates are checked, and that they are the host's. Raises ApiUnreachable when there is nothing to trust.

    Loading the authorities takes tens of milliseconds: one context is enough for all connections.
    """
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bundle = os.environ.get("REQUESTS_CA_BUNDLE")
    try:
        if bundle:
            place = {"capath": bundle} if Path(bundle).is_dir() else {"cafile": bundle}
            context.load_verify_locations(**place)
        elif os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR"):
            context.load_default_certs()
        else:
            context.load_verify_locations(cafile=certifi.where())
    except OSError as error:  # ssl.SSLError is one
        name = bundle or certifi.where()
        raise ApiUnreachable(f"no connection to {origin}: no certificates can be read from {name}") from error
    return context


def _parse(url: str, origin: str) -> tuple[SplitResult, str, int]:
    """The address in its parts, with its host and port."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna").decode("ascii")  # finds labels that are empty or too long
        port = parts.port
    except ValueError:  # UnicodeError is one
        parts, host, port = SplitResult("", "", "", "", ""), "", None
    if parts.scheme not in PORTS or not host or not VISIBLE.fullmatch(url):
        what = "is not an http or https address"
        raise ApiUnreachable(f"{origin} {what}" if url == origin else f"no connection to {origin}: its proxy {what}")
    return parts, host, PORTS[parts.scheme] if port is None else port


def _find_proxy(scheme: str, host: str, port: int) -> str | None:
    proxies = getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy or proxy_bypass(f"{host}:{port}") or _in_bypassed_network(host, proxies):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _in_bypassed_network(host: str, proxies: dict[str, str]) -> bool:
    """``no_proxy`` may name networks, which the standard library does not know."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    for entry in proxies.get("no", "").split(","):
        try:
            if address in ipaddress.ip_network(entry.strip(), strict=False):
                return True
        except ValueError:
            continue
    return False


def _proxy_address(origin: str, proxy: str) -> tuple[tuple[str, int], str]:
    """Where the proxy is, and the header line that tells it who we are."""
    parts, host, port = _parse(proxy, origin)
    if parts.scheme != "http":
        raise ApiUnreachable(f"no connection to {origin}: its proxy has to be an http:// address")
    if parts.username is None:
        return (host, port), ""
    credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
    return (host, port), f"Proxy-Authorization: Basic {base64.b64encode(credentials).decode()}\r\n"
