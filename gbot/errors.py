"""Every error gbot raises on purpose, as one tree.

::

    GbotError
    ├── ConfigError             a setting is wrong: the operator mends it, exit code 2
    │   └── AppError            APP cannot be imported, or holds no bot
    ├── StartError              the machine refuses: port in use, unreadable certificate; exit code 1
    ├── BotError                the author's code uses the Bot API wrongly
    ├── DeliveryError           a webhook delivery was refused; carries the HTTP answer
    │   ├── MalformedDelivery   400
    │   ├── BadSignature        401
    │   ├── Forbidden           403
    │   ├── NotFound            404
    │   ├── DeliveryTooLarge    413
    │   ├── NotJson             415
    │   └── Unavailable         503, with Retry-After
    │       ├── InboxFull
    │       ├── StoreUnavailable  the inbox's database does not answer, or its disk is full
    │       └── Draining
    ├── Verdict                 raised by a handler: how its run is to end
    │   ├── Retry               run this event again later
    │   └── Drop                be done with this event
    ├── StateRefused            ctx.state holds what cannot be stored
    ├── NotNow                  what a handler needs is away or busy: the event is put off, which is no failure
    │   ├── DirectoryUnavailable  users and states cannot be read or stored
    │   ├── DatabaseBusy        every connection of the pool is in use; also a DatabaseError
    │   ├── DatabaseAway        no connection to the database could be made; also a DatabaseDown
    │   ├── LaneBusy            the lane to the API is full, or it took too long to get through; also a SendError
    │   └── ApiDown             the API has failed too often and is left alone for a while; also an ApiUnreachable
    ├── DatabaseError           a statement of ctx.db did not do what it should
    │   ├── DatabaseDown        the connection broke under it: nobody knows whether it was executed
    │   │   └── DatabaseRefused the server does not let this user in, or has no such database
    │   ├── Deadlock            another was in its way, and it is undone: do the whole transaction again
    │   └── DatabaseMistake     the server refuses it, wrong SQL for one: it would do so again
    │       └── DuplicateKey    a row with this key is there already
    └── SendError               a message did not go out
        ├── ReplyRefused        gbot did not try: standby, no reply token, token used, no access token
        │   ├── ReplyTokenExpired  the event is too old to be replied to; push is still possible
        │   └── RecipientGone   the user has left, or blocked the bot
        ├── MessageRefused      gbot did not try: the message has the wrong shape
        └── ApiError            the platform's API was asked
            ├── ApiRejected     it answered 4xx: trying again will not help
            │   ├── ReplyTokenRefused  the reply token was used before, or is too old
            │   ├── ContentGone     the user has taken the content back, or it was kept too long ago
            │   └── ApiLimited  429
            │       ├── QuotaUsedUp         no more messages this month
            │       └── TooManyToRecipient  too many messages to this user
            ├── ApiUnavailable  it answered 5xx
            ├── ApiUnreachable  no connection: the message certainly did not arrive
            └── ResultUnknown   the connection broke after sending: it may have arrived

Sentences are written for the person who has to act. No error's text holds a secret or a message body.
"""

from __future__ import annotations

from typing import Final

RETRY_AFTER_MAX_S: Final = 30 * 24 * 3600


class GbotError(Exception):
    """Base of every error that gbot raises on purpose."""


class ConfigError(GbotError):
    """A setting has a value gbot cannot use.

    ``name`` is the setting as the operator wrote it, ``expected`` completes "expected …", ``given`` is the value
    as it should be shown (never a secret), ``source`` says where it came from.
    """

    def __init__(self, name: str, expected: str, given: str, source: str) -> None:
        super().__init__(f"{name}: expected {expected}, got {given} (from {source})")
        self.name = name
        self.expected = expected
        self.given = given
        self.source = source


class AppError(ConfigError):
    """APP cannot be imported, or what it names is not a bot."""


class StartError(GbotError):
    """The machine does not let the server start as configured."""


class BotError(GbotError):
    """A bot was put together in a way that cannot work, such as a handler that cannot take what it will be given."""


class DeliveryError(GbotError):
    """A webhook delivery was refused.

    ``status`` is the HTTP status code, ``word`` the stable ``error`` word of the JSON answer.
    """

    status = 400
    word = "bad_delivery"


class MalformedDelivery(DeliveryError):
    """The body is not JSON, or not of the shape the platform sends."""

    word = "malformed"


class BadSignature(DeliveryError):
    """The signature is missing or does not belong to this body."""

    status = 401
    word = "bad_signature"


class Forbidden(DeliveryError):
    """Whoever asks does not know what only the platform knows."""

    status = 403
    word = "forbidden"


class NotFound(DeliveryError):
    """There is nothing at this address."""

    status = 404
    word = "not_found"


class DeliveryTooLarge(DeliveryError):
    """The body, or the number of events in it, is over the bound."""

    status = 413
    word = "too_large"


class NotJson(DeliveryError):
    """The body is declared as something other than JSON."""

    status = 415
    word = "not_json"


class Unavailable(DeliveryError):
    """gbot cannot accept events now; the platform should send them again after ``retry_after`` seconds."""

    status = 503
    word = "unavailable"
    retry_after = 1


class InboxFull(Unavailable):
    """As many events are waiting as the inbox may hold."""

    word = "inbox_full"


class StoreUnavailable(Unavailable):
    """Events cannot be stored at the moment, so none are accepted."""

    word = "store_unavailable"
    retry_after = 5


class Draining(Unavailable):
    """The server is stopping and takes no new events."""

    word = "draining"
    retry_after = 5


class Verdict(GbotError):
    """Raised by a handler to say how its run ends. Not an accident: it is not logged as an error."""


class Retry(Verdict):
    """Run this event again later: the API it needs is down, the answer is not ready yet.

    ``after`` is in seconds; None leaves it to the growing pause that failed runs get. It counts as an attempt:
    after ``--attempts-max`` of them the event is dead, with the reason kept. Raises ValueError for a negative time.
    """

    def __init__(self, reason: str = "the handler asked to be run again", *, after: float | None = None) -> None:
        if after is not None and not 0 <= after < RETRY_AFTER_MAX_S:
            raise ValueError(f"Retry(after=…): expected seconds from 0 to {RETRY_AFTER_MAX_S}, got {after!r}")
        super().__init__(reason)
        self.after_s = None if after is None else float(after)


class Drop(Verdict):
    """Be done with this event: no later attempt will help. It is counted as dropped, and the reason logged.

    What the handler has replied and not flushed is not sent.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class StateRefused(GbotError):
    """``ctx.state`` holds what cannot be stored: something that is not JSON, or too much of it."""


class NotNow(GbotError):
    """What a handler needs is away or busy at the moment.

    An event whose handler ends with it is put off for ``after_s`` seconds. That is no failure: it is not counted as an
    attempt, however long the trouble lasts.
    """

    def __init__(self, sentence: str, after_s: float) -> None:
        super().__init__(sentence)
        self.after_s = after_s


class DirectoryUnavailable(NotNow):
    """The database with the users and states does not answer."""


class DatabaseError(GbotError):
    """A statement did not do what it should. The text holds no password and no value that was sent."""


class DatabaseDown(DatabaseError):
    """The connection broke, or the server stops, is read-only or has a full disk.

    Nothing is known of a statement that was under way, or of a transaction that was being committed.
    """


class DatabaseRefused(DatabaseDown):
    """The server does not let this user in, or has no database of this name."""


class DatabaseAway(NotNow, DatabaseDown):
    """No connection could be made, or the server is read-only: nothing was executed.

    It is tried again after ``after_s`` seconds.
    """


class DatabaseBusy(NotNow, DatabaseError):
    """All connections of the pool were in use for as long as one may wait; nothing was executed."""


class Deadlock(DatabaseError):
    """The server gave up this transaction, or one of its statements that waited too long for a lock.

    In either case all of the transaction is undone: do all of it again.
    """


class DatabaseMistake(DatabaseError):
    """The server refused the statement. ``code`` is the number of its error; 0: it was not sent, see to its values."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


class DuplicateKey(DatabaseMistake):
    """A row with this primary or unique key is there already.

    ``key`` is the name of the key, PRIMARY for the primary one; None where the server does not tell.
    """

    def __init__(self, sentence: str, code: int, key: str | None = None) -> None:
        super().__init__(sentence, code)
        self.key = key


class SendError(GbotError):
    """A message did not go out, or may not have.

    ``final``: a later run of the handler must not, or need not, try again. The event is then kept as dead at once.
    """

    final = False


class ReplyRefused(SendError):
    """There is no way to send: the event cannot be replied to, or credentials are missing; nothing was sent."""


class ReplyTokenExpired(ReplyRefused):
    """The event arrived too long ago: the platform no longer takes its reply token; nothing was sent."""

    final = True


class RecipientGone(ReplyRefused):
    """The user has left or blocked the bot; nothing was sent."""

    final = True


class MessageRefused(SendError):
    """The message has a shape that the platform does not take; nothing was sent."""


class LaneBusy(NotNow, SendError):
    """Too many requests to the API wait already, or this one has waited too long; nothing was sent."""


class ApiError(SendError):
    """The platform's API was asked and the message was not confirmed.

    ``status`` is the HTTP status code, or None when there was no answer.
    """

    def __init__(self, sentence: str, status: int | None = None, *, final: bool = False) -> None:
        super().__init__(sentence)
        self.status = status
        self.final = final


class ApiRejected(ApiError):
    """The API answered 4xx: sending the same again will not help."""


class ReplyTokenRefused(ApiRejected):
    """The reply token was used before, by an earlier run of the handler for one, or is too old."""

    def __init__(self, sentence: str, status: int | None = None) -> None:
        super().__init__(sentence, status, final=True)


class ContentGone(ApiRejected):
    """The content is not there any more: the user has taken it back, or it was sent too long ago."""


class ApiLimited(ApiRejected):
    """The API answered 429, and goes on doing so."""


class QuotaUsedUp(ApiLimited):
    """As many messages were sent this month as the contract with the platform allows."""


class TooManyToRecipient(ApiLimited):
    """Too many messages were sent to this user."""


class ApiUnavailable(ApiError):
    """The API answered 5xx."""


class ApiUnreachable(ApiError):
    """No connection could be made: the message certainly did not arrive."""


class ApiDown(NotNow, ApiUnreachable):
    """The API has failed again and again and is left alone for ``after_s`` seconds; nothing was sent."""

    def __init__(self, sentence: str, after_s: float) -> None:
        ApiUnreachable.__init__(self, sentence)
        self.after_s = after_s


class ResultUnknown(ApiError):
    """The request went out and no answer came back: the message may or may not have arrived."""
