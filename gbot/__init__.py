"""gbot: a chat-bot webhook server. Its face: what bots import, with the errors that handlers raise and catch."""

from gbot.bot import Bot
from gbot.context import Context
from gbot.errors import (
    ApiError,
    DatabaseAway,
    DatabaseBusy,
    DatabaseDown,
    DatabaseError,
    DatabaseMistake,
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
    "DatabaseAway",
    "DatabaseBusy",
    "DatabaseDown",
    "DatabaseError",
    "DatabaseMistake",
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
