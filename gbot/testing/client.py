"""Users who talk to a bot under test."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from typing import Any, Final

from gbot.bot import Bot
from gbot.event import Conversation
from gbot.testing.answers import Answers
from gbot.testing.deliveries import Happening
from gbot.testing.recorder import Attached
from gbot.testing.stage import OnSent, Stage
from gbot.user import User

STILL: Final = {"stickerResourceType": "STATIC"}
NOTHING: Final[Mapping[str, Any]] = {}
SOME_BYTES: Final = b"some bytes that a user has sent"

__tracebackhide__ = True  # pytest then shows the test's line and the handler's

AnyContent = bytes | str | PathLike[str]


class Talk:
    """One user's talk with the bot, alone or in a group; every method makes an event and returns the Answers to it."""

    def __init__(self, stage: Stage, user_id: str, conversation: Conversation) -> None:
        self._stage = stage
        self.user_id = user_id
        self.conversation = conversation

    @property
    def state(self) -> dict[str, Any]:
        """What is stored as ``ctx.state`` of this conversation."""
        text = self._stage.directory.state(self._stage.platform, self.conversation)
        state: dict[str, Any] = json.loads(text) if text else {}
        return state

    @property
    def stored_user(self) -> User | None:
        """What is stored of the user; None: nothing."""
        return self._stage.directory.users(self._stage.platform, [self.user_id]).get(self.user_id)

    def group(self, name: str) -> Talk:
        """The same user, talking in the group of this name."""
        return Talk(self._stage, self.user_id, Conversation("group", self._stage.writer.group_id(name)))

    def text(self, text: str) -> Answers:
        return self._message("text", {"text": text})

    def image(self, content: AnyContent | None = SOME_BYTES) -> Answers:
        """``content`` is bytes, or the path of a file; None: the user has taken it back. So it is for the others."""
        return self._message("image", NOTHING, _attached(content, "image/jpeg"))

    def video(self, content: AnyContent | None = SOME_BYTES) -> Answers:
        return self._message("video", {"duration": 60_000}, _attached(content, "video/mp4"))

    def audio(self, content: AnyContent | None = SOME_BYTES) -> Answers:
        return self._message("audio", {"duration": 2_500}, _attached(content, "audio/x-m4a"))

    def file(self, content: AnyContent | None = SOME_BYTES, name: str = "minutes.pdf") -> Answers:
        attached = _attached(content, "application/octet-stream")
        size = attached.length if attached is not None else 0
        return self._message("file", {"fileName": name, "fileSize": size}, attached)

    def location(self, latitude: float, longitude: float, title: str = "", address: str = "") -> Answers:
        named = {name: value for name, value in (("title", title), ("address", address)) if value}
        return self._message("location", {**named, "latitude": latitude, "longitude": longitude})

    def sticker(self, package_id: str = "446", sticker_id: str = "1988") -> Answers:
        return self._message("sticker", {"packageId": package_id, "stickerId": sticker_id, **STILL})

    def postback(self, data: str) -> Answers:
        """A button of a template, a quick reply or a rich menu was pressed."""
        return self._event("postback", {"data": data})

    def follow(self) -> Answers:
        """The user adds the bot as a friend, or unblocks it."""
        self._stage.come(self.user_id)
        return self._event("follow", {"isUnblocked": False})

    def unfollow(self) -> Answers:
        """The user blocks the bot; the platform does not tell the user's profile any more."""
        self._stage.go(self.user_id)
        return self._event("unfollow")

    def join(self) -> Answers:
        """The bot is invited into the group."""
        return self._stage.happen(Happening("join", NOTHING, NOTHING, None, self.conversation, 0, 0))

    def leave(self) -> Answers:
        """The bot is removed from the group."""
        return self._stage.happen(Happening("leave", NOTHING, NOTHING, None, self.conversation, 0, 0))

    def event(self, kind: str, **fields: Any) -> Answers:
        """Any other event, such as ``"unsend"`` or ``"message.contact"``.

        ``fields`` are added to the event's JSON object, or replace what is there:
        ``client.event("beacon", beacon={"hwid": "d41d8cd98f", "type": "enter"})``.
        """
        return self._event(kind, fields=fields)

    def _message(self, message_type: str, details: Mapping[str, Any], attached: Attached | None = None) -> Answers:
        return self._event(f"message.{message_type}", details, attached=attached)

    def _event(
        self,
        kind: str,
        details: Mapping[str, Any] = NOTHING,
        fields: Mapping[str, Any] = NOTHING,
        attached: Attached | None = None,
    ) -> Answers:
        return self._stage.happen(Happening(kind, details, fields, self.user_id, self.conversation, 0, 0), attached)


class Client(Talk):
    """A bot under test, and a first user who talks to it alone; ``user`` and ``group`` make more talks.

    ``platform`` is the one that the events come from. With ``raise_errors`` off, a handler's error is in
    ``Answers.reason`` only. ``on_sent`` is called with every message at the moment it leaves. ``db`` is the URL of the
    database that handlers have as ``ctx.db``, ``mysql://user:password@host/database``; StartError is raised where it
    cannot be reached.
    """

    def __init__(
        self,
        bot: Bot,
        *,
        platform: str = "line",
        name: str = "Anna",
        language: str = "en",
        raise_errors: bool = True,
        on_sent: OnSent = lambda sent: None,
        db: str | None = None,
    ) -> None:
        stage = Stage(bot, platform, raise_errors, on_sent, db)
        super().__init__(stage, *stage.introduce(name, language))

    def user(self, name: str, language: str = "en") -> Talk:
        """The user of this name, talking to the bot alone; ``""`` is one whose profile the platform does not tell."""
        return Talk(self._stage, *self._stage.introduce(name, language))

    def again(self, after_s: float = 0.0) -> Answers:
        """Run the last event again, as gbot does after a failure; ``after_s`` seconds have passed since."""
        return self._stage.again(after_s)

    def redeliver(self) -> Answers:
        """The platform sends the last event a second time, as a redelivery: gbot drops it, and nothing runs."""
        return self._stage.redeliver()

    def broadcasts(self) -> Answers:
        """Send what ``bot.broadcast`` and ``bot.announce`` have stored outside of a handler."""
        return self._stage.answers()


def _attached(content: AnyContent | None, content_type: str) -> Attached | None:
    return Attached(content, content_type) if content is not None else None
