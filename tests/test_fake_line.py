"""The fake LINE API that the other tests send to: LINE's own SDK has to take it for LINE."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from linebot.v3 import messaging as sdk
from linebot.v3.messaging.exceptions import ApiException, UnauthorizedException

from tests.fake_line import CONTENT, MONTHLY_LIMIT, QUOTA_USED_UP, TOO_FAST, TOO_MANY_TO_USER, FakeLineProcess, Order
from tests.samples import line

RETRY_KEY = "123e4567-e89b-42d3-a456-426614174000"
HELLO = sdk.TextMessage(text="hello")


def client(fake: FakeLineProcess, token: str = line.ACCESS_TOKEN) -> sdk.ApiClient:
    return sdk.ApiClient(sdk.Configuration(host=fake.address, access_token=token))


@pytest.fixture
def api(fake_line: FakeLineProcess) -> Iterator[sdk.MessagingApi]:
    with client(fake_line) as opened:
        yield sdk.MessagingApi(opened)


def reply(api: sdk.MessagingApi, token: str, *messages: sdk.Message) -> sdk.ReplyMessageResponse:
    return api.reply_message(sdk.ReplyMessageRequest(replyToken=token, messages=list(messages or [HELLO])))


def test_the_sdk_replies_and_pushes(api: sdk.MessagingApi, fake_line: FakeLineProcess) -> None:
    sticker = sdk.StickerMessage(packageId="446", stickerId="1988")
    assert len(reply(api, "token 1", HELLO, sticker).sent_messages) == 2
    api.push_message(sdk.PushMessageRequest(to=line.ANNA, messages=[HELLO]), x_line_retry_key=RETRY_KEY)
    first, second = fake_line.requests()
    assert (first["path"], first["status"]) == ("/v2/bot/message/reply", 200)
    assert first["body"]["replyToken"] == "token 1"
    assert [message["type"] for message in first["body"]["messages"]] == ["text", "sticker"]
    assert (second["path"], second["status"]) == ("/v2/bot/message/push", 200)
    assert (second["body"]["to"], second["retry_key"]) == (line.ANNA, RETRY_KEY)


def test_a_reply_token_works_once(api: sdk.MessagingApi) -> None:
    reply(api, "token")
    with pytest.raises(ApiException) as raised:
        reply(api, "token")
    assert raised.value.status == 400
    assert "invalid reply token" in raised.value.body


def test_a_refused_reply_leaves_its_token_unused(api: sdk.MessagingApi) -> None:
    with pytest.raises(ApiException):
        reply(api, "token", sdk.TextMessage(text=""))
    reply(api, "token")


def test_a_retry_key_works_once(api: sdk.MessagingApi) -> None:
    push = sdk.PushMessageRequest(to=line.ANNA, messages=[HELLO])
    api.push_message(push, x_line_retry_key=RETRY_KEY)
    with pytest.raises(ApiException) as raised:
        api.push_message(push, x_line_retry_key=RETRY_KEY)
    assert raised.value.status == 409
    assert raised.value.headers["x-line-accepted-request-id"]


def test_another_access_token_is_refused(fake_line: FakeLineProcess) -> None:
    with client(fake_line, "another token") as opened, pytest.raises(UnauthorizedException):
        reply(sdk.MessagingApi(opened), "token")
    assert fake_line.requests()[0]["status"] == 401


def test_more_than_five_messages_are_refused(fake_line: FakeLineProcess, api: sdk.MessagingApi) -> None:
    unchecked = sdk.ReplyMessageRequest.construct(reply_token="token", messages=[HELLO] * 6)
    with pytest.raises(ApiException) as raised:
        api.reply_message(unchecked)
    assert raised.value.status == 400


@pytest.mark.parametrize("status", [429, 500, 503])
def test_it_fails_when_ordered_to_and_only_then(fake_line: FakeLineProcess, api: sdk.MessagingApi, status: int) -> None:
    fake_line.order({"status": status})
    with pytest.raises(ApiException) as raised:
        reply(api, "token")
    assert raised.value.status == status
    reply(api, "token")


def test_the_sdk_sends_to_many_and_to_everybody(api: sdk.MessagingApi, fake_line: FakeLineProcess) -> None:
    multicast = sdk.MulticastRequest(to=[line.ANNA, line.BEN], messages=[HELLO])
    api.multicast(multicast, x_line_retry_key=RETRY_KEY)
    api.broadcast(sdk.BroadcastRequest(messages=[HELLO]), x_line_retry_key=RETRY_KEY.replace("1", "2"))
    first, second = fake_line.requests()
    assert (first["path"], first["body"]["to"]) == ("/v2/bot/message/multicast", [line.ANNA, line.BEN])
    assert (second["path"], second["status"]) == ("/v2/bot/message/broadcast", 200)
    with pytest.raises(ApiException) as raised:
        api.multicast(multicast, x_line_retry_key=RETRY_KEY)
    assert raised.value.status == 409


@pytest.mark.parametrize(
    "to", [[], [line.ANNA] * 2, [line.GROUP], [line.hex_id("U", str(number)) for number in range(501)]]
)
def test_a_multicast_goes_to_at_most_500_different_users(api: sdk.MessagingApi, to: list[str]) -> None:
    with pytest.raises(ApiException) as raised:
        api.multicast(sdk.MulticastRequest.construct(to=to, messages=[HELLO]))
    assert raised.value.status == 400


def test_the_sdk_learns_who_a_user_is(api: sdk.MessagingApi) -> None:
    profile = api.get_profile(line.ANNA)
    assert (profile.display_name, profile.language, profile.picture_url) == ("Anna", "ja", None)
    with pytest.raises(ApiException) as raised:
        api.get_profile(line.hex_id("U", "a stranger"))
    assert raised.value.status == 404


def test_the_sdk_downloads_what_a_user_sent(fake_line: FakeLineProcess) -> None:
    with client(fake_line) as opened:
        assert bytes(sdk.MessagingApiBlob(opened).get_message_content("565000000000000001")) == CONTENT
    assert fake_line.requests()[0]["path"] == "/v2/bot/message/565000000000000001/content"


def test_the_sdk_shows_that_an_answer_is_coming(api: sdk.MessagingApi) -> None:
    api.show_loading_animation(sdk.ShowLoadingAnimationRequest(chatId=line.ANNA, loadingSeconds=20))
    for chat, seconds in ((line.GROUP, 20), (line.ANNA, 7), (line.ANNA, 65)):
        refused = sdk.ShowLoadingAnimationRequest.construct(chat_id=chat, loading_seconds=seconds)
        with pytest.raises(ApiException) as raised:
            api.show_loading_animation(refused)
        assert raised.value.status == 400


def test_the_quota_counts_every_recipient(api: sdk.MessagingApi) -> None:
    reply(api, "token")  # costs nothing
    api.push_message(sdk.PushMessageRequest(to=line.ANNA, messages=[HELLO]), x_line_retry_key=RETRY_KEY)
    api.multicast(
        sdk.MulticastRequest(to=[line.ANNA, line.BEN], messages=[HELLO]), x_line_retry_key=RETRY_KEY.replace("1", "2")
    )
    assert api.get_message_quota().value == MONTHLY_LIMIT
    assert api.get_message_quota_consumption().total_usage == 3


@pytest.mark.parametrize(
    ("order", "words"),
    [(TOO_FAST, "rate limit"), (QUOTA_USED_UP, "reached your monthly limit"), (TOO_MANY_TO_USER, "same user")],
)
def test_each_429_says_what_it_is_about(
    fake_line: FakeLineProcess, api: sdk.MessagingApi, order: Order, words: str
) -> None:
    fake_line.order(order)
    with pytest.raises(ApiException) as raised:
        reply(api, "token")
    assert raised.value.status == 429
    assert words in raised.value.body
