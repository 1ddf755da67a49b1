"""gbot: a chat-bot webhook server. This is its face: what bots import. All errors are in :mod:`gbot.errors`."""

from gbot.bot import Bot
from gbot.context import Context
from gbot.errors import (
    ApiError,
    Deadlock,
    Drop,
    DuplicateKey,
    GbotError,
    MessageRefused,
    RecipientGone,
    ReplyRefused,
    Retry,
    SendError,
)
from gbot.event import Conversation, Event, Message
from gbot.user import Profile, User

__version__ = "0.1.0"

__all__ = [
    "ApiError",
    "Bot",
    "Context",
    "Conversation",
    "Deadlock",
    "Drop",
    "DuplicateKey",
    "Event",
    "GbotError",
    "Message",
    "MessageRefused",
    "Profile",
    "RecipientGone",
    "ReplyRefused",
    "Retry",
    "SendError",
    "User",
]
