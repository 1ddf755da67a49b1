"""LINE's Messaging API, as far as gbot uses it: what it takes, what it refuses, and in which words. Pure.

From the Messaging API reference: "Send reply message", "Send push message", "Send multicast message", "Send broadcast
message", "Retrying an API request", "Get profile", "Get content", "Display a loading animation", "Get the target limit
for sending messages this month", "Get number of messages sent this month", "Rate limits", "Error responses".

A reply token is good for a minute from when its event was last sent.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from gbot.limiter import Limit
from gbot.simulator import line_rules as rules
from gbot.simulator.calls import Calls
from gbot.simulator.codes import Codes
from gbot.simulator.dice import Dice
from gbot.simulator.ledger import Ledger, Mishap, Token
from gbot.simulator.line import FIRST_MESSAGE_ID
from gbot.simulator.platform import Answer, Call
from gbot.simulator.scene import Scene

WITH_KEY: Final = frozenset(("push", "multicast", "broadcast"))
KEYS_KEPT_MAX: Final = 200_000
FIRST_ACCEPTED: Final = 1 << 48  # numbers that no request of a run will have
ASKED_KEPT_MAX: Final = 100_000
CONTENT_TYPES: Final = {
    "image": "image/jpeg",
    "video": "video/mp4",
    "audio": "audio/x-m4a",
    "file": "application/octet-stream",
}
NOT_READY_SHARE: Final = 0.2  # of all contents: asked for the first time, they are still being prepared
GONE_SHARE: Final = 0.02  # of all contents: the user has taken them back
CONTENT_BYTES: Final = (1_000, 100_000)


class LineApi:
    """The API of one channel. ``quota`` is how many messages may be sent, None: any number."""

    def __init__(
        self,
        scene: Scene,
        token: str,
        ledger: Ledger,
        calls: Calls,
        reply_window_s: float = 60.0,
        quota: int | None = None,
    ) -> None:
        self._authorization = f"Bearer {token}"
        self._people, self._kind, self._codes = scene.people, scene.mix.kind, scene.codes
        self._ledger, self._calls = ledger, calls
        self._reply_window_s = reply_window_s
        self._quota = quota
        self._used = 0  # of the quota
        self._sent = 0  # message objects, for their ids
        self._accepted = 0  # requests with a retry key, for theirs
        self._keys: OrderedDict[str, Answer] = OrderedDict()
        self._asked: OrderedDict[str, None] = OrderedDict()  # contents
        self._content = Dice(scene.seed, "content").roll
        self._length = Dice(scene.seed, "content's length").between
        self._request_ids = Codes(scene.seed, "requests").hexadecimal
        self._serve: Mapping[str, Callable[[Call], Answer]] = {
            "reply": self._reply,
            "push": self._push,
            "multicast": self._multicast,
            "broadcast": self._broadcast,
            "loading": self._loading,
            "profile": self._profile,
            "content": self._content_of,
            "quota": self._quota_of,
            "consumption": self._consumption,
        }
        self.limits: Mapping[str, Limit] = rules.LIMITS

    def route(self, method: str, path: str) -> tuple[str, str] | None:
        return rules.route(method, path)

    def may(self, endpoint: str, authorization: str | None, query: str) -> bool:
        return authorization == self._authorization

    def refuse(self, status: int) -> Answer:
        return rules.REFUSALS[status]

    def common_headers(self, number: int) -> Sequence[tuple[str, str]]:
        return (("x-line-request-id", self._request_ids(number)),)

    def repeatable(self, call: Call) -> bool:
        return call.endpoint != "reply" and (call.endpoint not in WITH_KEY or call.retry_key is not None)

    def answers(self, call: Call) -> list[int]:
        if call.endpoint == "reply":
            try:
                number = self._codes.of_hexadecimal(rules.decode(call.body)["replyToken"])
            except (ValueError, KeyError, TypeError):
                return []
            return [] if number is None else [number]
        return self._codes.quoted(call.body) if call.endpoint in WITH_KEY else []

    def serve(self, call: Call) -> Answer:
        if len(call.body) > rules.BODY_BYTES_MAX:
            return self._refused(call, rules.REFUSALS[413])
        return self._serve[call.endpoint](call)

    # Sending.

    def _reply(self, call: Call) -> Answer:
        request = rules.parsed(call.body)
        if call.retry_key is not None:
            return self._refused(call, rules.said(400, "The retry key is not supported for this API"))
        refusal = rules.refusal_of(request)
        if refusal is not None:
            return self._refused(call, refusal)
        token = request.get("replyToken")
        number = self._codes.of_hexadecimal(token) if isinstance(token, str) else None
        worth = Token.UNKNOWN if number is None else self._ledger.token(number, call.at, self._reply_window_s)
        if number is None or worth is not Token.GOOD:
            return self._bad_token(number, worth)
        self._ledger.use_token(number)
        self._ledger.answer(number, call.at)
        self._calls.messages += len(request["messages"])
        self._calls.reach(self._people.writer(number))
        return self._sent_messages(request)

    def _bad_token(self, number: int | None, worth: Token) -> Answer:
        if number is None or worth is Token.UNKNOWN:
            self._calls.strange += 1
        elif worth is Token.USED:
            self._calls.reused += 1
            self._ledger.mishap(number, Mishap.REUSED)
        else:
            self._calls.expired += 1
            self._ledger.mishap(number, Mishap.EXPIRED)
        return rules.said(400, rules.BAD_TOKEN)

    def _push(self, call: Call) -> Answer:
        request = rules.parsed(call.body)
        to = request.get("to")
        if not isinstance(to, str) or not rules.ADDRESS.fullmatch(to):
            return self._refused(call, rules.said(400, rules.BAD_ADDRESS))
        return self._send(call, request, [to])

    def _multicast(self, call: Call) -> Answer:
        request = rules.parsed(call.body)
        to = request.get("to")
        if not isinstance(to, list) or not 1 <= len(to) <= rules.RECIPIENTS_MAX:
            return self._refused(call, rules.invalid([("to", f"Size must be between 1 and {rules.RECIPIENTS_MAX}")]))
        if not all(isinstance(user, str) and rules.USER.fullmatch(user) for user in to):
            return self._refused(call, rules.said(400, rules.BAD_ADDRESS))
        return self._send(call, request, to)

    def _broadcast(self, call: Call) -> Answer:
        return self._send(call, rules.parsed(call.body), None)

    def _send(self, call: Call, request: dict[str, Any], to: Sequence[str] | None) -> Answer:
        """What push, multicast and broadcast, to None, have in common: the retry key, the messages, the quota."""
        refusal = rules.refusal_of(request)
        if call.retry_key is not None and not rules.UUID.fullmatch(call.retry_key):
            refusal = rules.said(400, "The retry key is invalid")
        if refusal is not None:
            return self._refused(call, refusal)
        known = self._keys.get(call.retry_key or "")
        if known is not None:
            self._calls.repeated += 1
            return known
        recipients, quoted = self._people.count if to is None else len(to), self.answers(call)
        if self._quota is not None and self._used + recipients > self._quota:
            for number in quoted:
                self._ledger.mishap(number, Mishap.QUOTA)
            return rules.said(429, rules.NO_MORE)
        self._used += recipients
        messages = recipients * len(request["messages"])
        self._calls.messages += messages
        self._calls.unquoting += 0 if quoted else messages
        self._calls.saved += recipients - 1 if call.endpoint == "multicast" else 0
        self._reach(to)
        for number in quoted:
            self._ledger.answer(number, call.at)
        answer = self._sent_messages(request) if call.endpoint == "push" else rules.EMPTY
        if call.retry_key is not None:
            self._remember(call.retry_key, answer)
        return answer

    def _reach(self, to: Sequence[str] | None) -> None:
        if to is None:
            self._calls.reach_all(self._people.count)
            return
        for address in to:
            person = self._people.of_code(address[1:]) if address[0] == "U" else None
            if person is not None:
                self._calls.reach(person)

    def _remember(self, retry_key: str, answer: Answer) -> None:
        """What this retry key is answered with from now on."""
        self._accepted += 1
        again = rules.said(409, "The retry key is already accepted", **rules.decode(answer.body))
        accepted = ("x-line-accepted-request-id", self._request_ids(FIRST_ACCEPTED + self._accepted))
        self._keys[retry_key] = Answer(409, again.body, (*again.headers, accepted))
        if len(self._keys) > KEYS_KEPT_MAX:
            self._keys.popitem(last=False)

    def _sent_messages(self, request: dict[str, Any]) -> Answer:
        first = self._sent
        self._sent += len(request["messages"])
        ids = [{"id": str(FIRST_MESSAGE_ID * 2 + number)} for number in range(first, self._sent)]
        return Answer(200, rules.encode({"sentMessages": ids}))

    def _refused(self, call: Call, answer: Answer) -> Answer:
        self._calls.bad += 1
        for number in self.answers(call):
            self._ledger.mishap(number, Mishap.REFUSED)
        return answer

    # Asking.

    def _loading(self, call: Call) -> Answer:
        request = rules.parsed(call.body)
        chat, seconds = request.get("chatId"), request.get("loadingSeconds", 20)
        if not isinstance(chat, str) or not rules.USER.fullmatch(chat):
            return self._refused(call, rules.said(400, rules.BAD_ADDRESS.replace("to", "chatId", 1)))
        if type(seconds) is not int or not 5 <= seconds <= 60 or seconds % 5:
            wrong = ("loadingSeconds", "Must be a multiple of 5 between 5 and 60")
            return self._refused(call, rules.invalid([wrong]))
        return rules.ACCEPTED

    def _profile(self, call: Call) -> Answer:
        person = self._people.of_code(call.argument[1:]) if call.argument.startswith("U") else None
        if person is None:
            return rules.REFUSALS[404]
        profile = {
            "userId": call.argument,
            "displayName": self._people.name(person),
            "language": self._people.language(person),
            "pictureUrl": f"https://profile.example/{call.argument}",
            "statusMessage": "I am made up",
        }
        return Answer(200, rules.encode(profile))

    def _content_of(self, call: Call) -> Answer:
        number = int(call.argument) - FIRST_MESSAGE_ID if re.fullmatch("[0-9]{18}", call.argument) else -1
        if not 0 <= number < self._ledger.sent or self._kind(number) not in CONTENT_TYPES:
            return rules.REFUSALS[404]
        roll = self._content(number)
        if roll < GONE_SHARE:
            self._ledger.mishap(number, Mishap.GONE)
            return rules.said(410, "The content was deleted")
        if roll > 1 - NOT_READY_SHARE and call.argument not in self._asked:
            self._asked[call.argument] = None
            if len(self._asked) > ASKED_KEPT_MAX:
                self._asked.popitem(last=False)
            return rules.ACCEPTED
        noise = hashlib.shake_128(call.argument.encode()).digest(self._length(number, *CONTENT_BYTES))
        return Answer(200, noise, (("Content-Type", CONTENT_TYPES[self._kind(number)]),))

    def _quota_of(self, call: Call) -> Answer:
        if self._quota is None:
            return Answer(200, rules.encode({"type": "none"}))
        return Answer(200, rules.encode({"type": "limited", "value": self._quota}))

    def _consumption(self, call: Call) -> Answer:
        return Answer(200, rules.encode({"totalUsage": self._used}))
