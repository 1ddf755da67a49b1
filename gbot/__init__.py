"""gbot: a chat-bot webhook server. This is its face: all that a bot's author imports."""

from gbot.bot import Bot, Context
from gbot.errors import (
    ApiError,
    ApiLimited,
    ApiRejected,
    ApiUnavailable,
    ApiUnreachable,
    BotError,
    Drop,
    GbotError,
    MessageRefused,
    ReplyRefused,
    ReplyTokenExpired,
    ResultUnknown,
    Retry,
    SendError,
)
from gbot.event import Conversation, Event, Message

__version__ = "0.1.0"

__all__ = [
    "ApiError",
    "ApiLimited",
    "ApiRejected",
    "ApiUnavailable",
    "ApiUnreachable",
    "Bot",
    "BotError",
    "Context",
    "Conversation",
    "Drop",
    "Event",
    "GbotError",
    "Message",
    "MessageRefused",
    "ReplyRefused",
    "ReplyTokenExpired",
    "ResultUnknown",
    "Retry",
    "SendError",
]
