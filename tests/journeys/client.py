"""An HTTP client for the journeys: one request, one answer, over TCP, TLS or a unix socket."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

TIMEOUT_S = 10.0


class Answer(NamedTuple):
    """What came back. ``headers`` takes a name in any case."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)


def connect(address: str, ca_file: str | None = None) -> http.client.HTTPConnection:
    """A connection to an address as gbot's log gives it."""
    if address.startswith("unix:"):
        return UnixConnection(address.removeprefix("unix:"))
    parts = urlsplit(address)
    assert parts.hostname is not None
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=ca_file)
        return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=TIMEOUT_S, context=context)
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_S)


def request(
    address: str,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    ca_file: str | None = None,
) -> Answer:
    """One request on a connection of its own."""
    connection = connect(address, ca_file)
    try:
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def post_plain(address: str, messages: str, **options: Any) -> Answer:
    """A delivery of the plain platform."""
    body = json.dumps({"messages": messages}).encode()
    return request(address, "POST", "/callback", body, {"Content-Type": "application/json"}, **options)
