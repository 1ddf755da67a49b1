"""The contract of a simulated platform: the deliveries it sends, and the API it serves.

Its implementations are pure but for the ledgers they are given: bytes and times come in, bytes go out. ``server`` and
``postman`` do the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from gbot.limiter import Limit
from gbot.simulator.traffic import Delivery

JSON: tuple[str, str] = ("Content-Type", "application/json")


class Call(msgspec.Struct, frozen=True, gc=False):
    """One request to the API, at ``at`` by the ledger's clock."""

    endpoint: str
    argument: str  # what stands in the path, such as a user's id
    body: bytes
    retry_key: str | None
    at: float


class Answer(msgspec.Struct, frozen=True):
    """What the API answers."""

    status: int
    body: bytes
    headers: Sequence[tuple[str, str]] = (JSON,)


class Webhook(Protocol):
    """The deliveries."""

    answer_within_s: float
    """How long the bot may take to answer one."""

    def wants_answer(self, event: int) -> bool:
        """Whether the bot can answer this event."""

    def body(self, delivery: Delivery, again: bool) -> bytes:
        """The delivery's bytes; ``again`` as the platform sends them a second time."""

    def headers(self, body: bytes) -> Mapping[str, str]:
        """With the signature."""

    def challenge(self) -> tuple[str, str] | None:
        """The query by which the platform makes sure of the callback's address, and the answer it expects."""


class Api(Protocol):
    """The API that the bot answers to."""

    limits: Mapping[str, Limit]
    """By endpoint."""

    def route(self, method: str, path: str) -> tuple[str, str] | None:
        """The endpoint and the argument in its path; None where the platform has nothing."""

    def may(self, endpoint: str, authorization: str | None, query: str) -> bool:
        """Whether the request carries the access token."""

    def answers(self, call: Call) -> list[int]:
        """The events that this request is to answer."""

    def repeatable(self, call: Call) -> bool:
        """Whether a client may repeat this request when it does not know what became of the first one."""

    def serve(self, call: Call) -> Answer:
        """Do what is asked."""

    def refuse(self, status: int) -> Answer:
        """The platform's words for 401, 404, 413, 429 and 5xx."""

    def common_headers(self, number: int) -> Sequence[tuple[str, str]]:
        """What every answer carries."""
