"""Messenger's part of the Graph API, as far as gbot uses it. Pure.

From Meta's reference: "Send API", "User Profile API", "Error codes", "Rate limiting" of the Messenger Platform.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec

from gbot.limiter import Limit
from gbot.simulator.calls import Calls
from gbot.simulator.codes import Codes
from gbot.simulator.ledger import Ledger, Mishap
from gbot.simulator.messenger import CONTENT_PATH, person_of
from gbot.simulator.platform import Answer, Call
from gbot.simulator.scene import Scene

SEND: Final = re.compile(r"/v[0-9]+\.[0-9]+/me/messages")
PROFILE: Final = re.compile(r"/v[0-9]+\.[0-9]+/([0-9]+)")
ACTIONS: Final = ("typing_on", "typing_off", "mark_seen")
TYPES: Final = ("RESPONSE", "UPDATE", "MESSAGE_TAG")
TEXT_CHARACTERS_MAX: Final = 2000
# By HTTP status: Meta's code, type and words.
WORDS: Final = {
    401: (190, "OAuthException", "Invalid OAuth access token - Cannot parse access token"),
    404: (2500, "OAuthException", "Unknown path components"),
    429: (613, "OAuthException", "Calls to this api have exceeded the rate limit."),
    500: (2, "OAuthException", "An unexpected error has occurred. Please retry your request later."),
}
WORDS_5XX: Final = WORDS[500]

encode: Final[Callable[[object], bytes]] = msgspec.json.Encoder().encode
decode: Final[Callable[[bytes], Any]] = msgspec.json.Decoder().decode


def _error(status: int, code: int, kind: str, message: str) -> Answer:
    return Answer(
        status, encode({"error": {"message": message, "type": kind, "code": code, "fbtrace_id": "A0simulated"}})
    )


REFUSALS: Final = {status: _error(status, *WORDS.get(status, WORDS_5XX)) for status in (*WORDS, 502, 503, 504)}


class MessengerApi:
    """The API of one page."""

    limits: Mapping[str, Limit] = {"send": Limit(count=300), "profile": Limit(count=200), "content": Limit()}

    def __init__(self, scene: Scene, token: str, ledger: Ledger, calls: Calls) -> None:
        self._token = token
        self._people, self._kind, self._codes = scene.people, scene.mix.kind, scene.codes
        self._ledger, self._calls = ledger, calls
        self._mids = Codes(scene.seed, "messages").hexadecimal
        self._sent = 0

    def route(self, method: str, path: str) -> tuple[str, str] | None:
        if method == "POST" and SEND.fullmatch(path):
            return "send", ""
        if method == "GET":
            if path.startswith(CONTENT_PATH):
                return "content", path.removeprefix(CONTENT_PATH)
            found = PROFILE.fullmatch(path)
            if found:
                return "profile", found[1]
        return None

    def may(self, endpoint: str, authorization: str | None, query: str) -> bool:
        if endpoint == "content" or authorization == f"Bearer {self._token}":
            return True
        return parse_qs(query).get("access_token") == [self._token]

    def refuse(self, status: int) -> Answer:
        return REFUSALS[status]

    def common_headers(self, number: int) -> Sequence[tuple[str, str]]:
        return ()

    def repeatable(self, call: Call) -> bool:
        return call.endpoint != "send"

    def answers(self, call: Call) -> list[int]:
        return self._codes.quoted(call.body) if call.endpoint == "send" else []

    def serve(self, call: Call) -> Answer:
        if call.endpoint == "send":
            return self._send(call)
        return self._profile(call) if call.endpoint == "profile" else self._content(call)

    def _send(self, call: Call) -> Answer:
        try:
            request = decode(call.body)
            to = request["recipient"]["id"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return self._refused(call, "(#100) The parameter recipient is required")
        person = person_of(to, self._people) if isinstance(to, str) else None
        if person is None:
            return self._refused(call, "(#100) No matching user found")
        action, message = request.get("sender_action"), request.get("message")
        if message is None and action in ACTIONS:
            return Answer(200, encode({"recipient_id": to}))
        wrong = _fault(message, request.get("messaging_type"))
        if wrong is not None:
            return self._refused(call, wrong)
        quoted = self._codes.quoted(call.body)
        for number in quoted:
            self._ledger.answer(number, call.at)
        self._calls.messages += 1
        self._calls.unquoting += not quoted
        self._calls.reach(person)
        self._sent += 1
        return Answer(200, encode({"recipient_id": to, "message_id": "m_" + self._mids(self._sent)}))

    def _refused(self, call: Call, message: str) -> Answer:
        self._calls.bad += 1
        for number in self.answers(call):
            self._ledger.mishap(number, Mishap.REFUSED)
        return _error(400, 100, "OAuthException", message)

    def _profile(self, call: Call) -> Answer:
        person = person_of(call.argument, self._people)
        if person is None:
            return _error(400, 100, "GraphMethodException", "Unsupported get request. The object does not exist")
        first, _, last = self._people.name(person).partition(" ")
        locale = {"en": "en_US", "ja": "ja_JP"}[self._people.language(person)]
        profile = {"first_name": first, "last_name": last, "name": f"{first} {last}", "locale": locale}
        return Answer(
            200, encode(profile | {"id": call.argument, "profile_pic": "https://profile.example/picture.jpg"})
        )

    def _content(self, call: Call) -> Answer:
        number = int(call.argument) if re.fullmatch("[0-9]{1,12}", call.argument) else -1
        if not 0 <= number < self._ledger.sent:
            return REFUSALS[404]
        noise = hashlib.shake_128(call.argument.encode()).digest(10_000)
        return Answer(200, noise, (("Content-Type", "application/octet-stream"),))


def _fault(message: object, messaging_type: object) -> str | None:
    """What is wrong with what is to be sent, in Meta's words; None when it is well."""
    if messaging_type not in TYPES:
        return "(#100) Param messaging_type must be one of {RESPONSE, UPDATE, MESSAGE_TAG}"
    if not isinstance(message, dict) or not (message.get("text") or message.get("attachment")):
        return "(#100) The message must have a text or an attachment"
    text = message.get("text", "")
    if not isinstance(text, str) or len(text) > TEXT_CHARACTERS_MAX:
        return f"(#100) Length of param message[text] must be less than or equal to {TEXT_CHARACTERS_MAX}"
    return None
