"""Events to fill an inbox with, without a platform that sends them."""

import hashlib
import json

from gbot.event import Conversation, Event
from gbot.inboxes.store import encode_event


class Events:
    """Makes events that nobody has seen before, each with a conversation of its own: all of them are ready."""

    def __init__(self, size_bytes: int | None) -> None:
        self.size_bytes = size_bytes
        self.made = 0
        self.padding = ""
        if size_bytes is not None:
            smallest = len(json.dumps(self.line(0).raw, separators=(",", ":")))
            if size_bytes < smallest:
                raise SystemExit(f"expected --event-bytes to be {smallest} or more, got {size_bytes}")
            self.padding = "." * (size_bytes - smallest)
        [one] = self.take(1)
        self.stored_bytes = len(encode_event(one))

    def take(self, count: int) -> list[Event]:
        first, self.made = self.made, self.made + count
        make = self.plain if self.size_bytes is None else self.line
        return [make(number) for number in range(first, first + count)]

    def plain(self, number: int) -> Event:
        text = str(number)
        return Event(platform="plain", kind="message.text", raw=text, text=text)

    def line(self, number: int) -> Event:
        """As LINE would have sent it; ids that begin with the time, and users in no order."""
        user = "U" + hashlib.md5(b"%d" % number, usedforsecurity=False).hexdigest()
        token = hashlib.md5(b"token %d" % number, usedforsecurity=False).hexdigest()
        event_id, sent_ms = f"01K{number:023d}", 1_750_000_000_000 + number
        text = f"Is a table free at {number:09d}?{self.padding}"
        raw = {
            "type": "message",
            "message": {"type": "text", "id": f"{number:018d}", "quoteToken": token, "text": text},
            "webhookEventId": event_id,
            "deliveryContext": {"isRedelivery": False},
            "timestamp": sent_ms,
            "source": {"type": "user", "userId": user},
            "replyToken": token,
            "mode": "active",
        }
        return Event(
            platform="line",
            kind="message.text",
            raw=raw,
            id=event_id,
            text=text,
            conversation=Conversation("user", user),
            user_id=user,
            reply_token=token,
            timestamp_ms=sent_ms,
        )
