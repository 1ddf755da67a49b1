"""LINE's outgoing side, with LINE's own SDK as the counterpart: requests, and what the answers to them mean."""

from __future__ import annotations

import json
from typing import Any

import pytest
from linebot.v3 import messaging as sdk

from gbot.errors import ApiRejected, MessageRefused, ReplyRefused
from gbot.event import Event, Message
from gbot.platform import (
    Announcement,
    ApiAnswer,
    ApiRequest,
    AskContent,
    AskProfile,
    AskQuota,
    Judgement,
    Multicast,
    Outgoing,
    Push,
    Reply,
    Typing,
)
from gbot.platforms.line import LinePlatform
from gbot.user import Profile
from tests.samples import line

RETRY_KEY = "123e4567-e89b-42d3-a456-426614174000"
HELLO = Message.of("hello")
ORIGIN = "https://api.line.me"
AUTHORIZED = {"Authorization": f"Bearer {line.ACCESS_TOKEN}"}
platform = LinePlatform([line.SECRET], line.ACCESS_TOKEN)


def event(sent: Any = None, **fields: Any) -> Event:
    """One event as LINE would send it: a text in a chat with Anna, or what is given."""
    [parsed] = platform.parse(line.delivery(line.text_event("hi", **fields) if sent is None else sent))
    return parsed


EVENT = event()
TOKEN = line.reply_token(1)


def users(count: int) -> list[str]:
    return [line.hex_id("U", str(number)) for number in range(count)]


# ---- encode


def test_a_reply_in_full() -> None:
    assert platform.encode(Reply(EVENT, [Message.of("hi"), Message.of("\u65e5")])) == ApiRequest(
        "POST",
        ORIGIN,
        "/v2/bot/message/reply",
        {**AUTHORIZED, "Content-Type": "application/json"},
        f'{{"replyToken":"{TOKEN}","messages":[{{"type":"text","text":"hi"}},'
        '{"type":"text","text":"\u65e5"}]}'.encode(),
        "reply",
        False,
    )


def test_a_push_in_full() -> None:
    assert platform.encode(Push(line.GROUP, [HELLO], RETRY_KEY)) == ApiRequest(
        "POST",
        ORIGIN,
        "/v2/bot/message/push",
        {**AUTHORIZED, "Content-Type": "application/json", "X-Line-Retry-Key": RETRY_KEY},
        f'{{"to":"{line.GROUP}","messages":[{{"type":"text","text":"hello"}}]}}'.encode(),
        "push",
        True,
    )


def test_a_multicast_in_full() -> None:
    assert platform.encode(Multicast([line.ANNA, line.BEN], [HELLO], RETRY_KEY)) == ApiRequest(
        "POST",
        ORIGIN,
        "/v2/bot/message/multicast",
        {**AUTHORIZED, "Content-Type": "application/json", "X-Line-Retry-Key": RETRY_KEY},
        f'{{"to":["{line.ANNA}","{line.BEN}"],"messages":[{{"type":"text","text":"hello"}}]}}'.encode(),
        "multicast",
        True,
    )


def test_an_announcement_in_full() -> None:
    assert platform.encode(Announcement([HELLO], RETRY_KEY)) == ApiRequest(
        "POST",
        ORIGIN,
        "/v2/bot/message/broadcast",
        {**AUTHORIZED, "Content-Type": "application/json", "X-Line-Retry-Key": RETRY_KEY},
        b'{"messages":[{"type":"text","text":"hello"}]}',
        "broadcast",
        True,
    )


@pytest.mark.parametrize(
    ("outgoing", "path", "lane"),
    [
        (AskProfile(line.ANNA), f"/v2/bot/profile/{line.ANNA}", "profile"),
        (AskQuota(), "/v2/bot/message/quota", "quota"),
        (AskQuota(used=True), "/v2/bot/message/quota/consumption", "quota"),
    ],
)
def test_a_question_in_full(outgoing: AskProfile | AskQuota, path: str, lane: str) -> None:
    assert platform.encode(outgoing) == ApiRequest("GET", ORIGIN, path, AUTHORIZED, b"", lane, True)


def test_each_way_out_has_a_lane_of_its_own_with_lines_limit() -> None:
    rates = {name: (limit.count, limit.per_s, limit.in_flight) for name, limit in platform.limits.lanes.items()}
    assert rates == {
        **dict.fromkeys(["reply", "push", "profile", "content", "quota"], (2000, 1.0, 1000)),
        "multicast": (200, 1.0, 1000),
        "broadcast": (60, 3600.0, 1000),
        "loading": (100, 1.0, 1000),
    }


def test_the_limits_are_lines() -> None:
    limits = platform.limits
    assert (limits.messages_per_request, limits.reply_messages_max, limits.recipients_per_multicast) == (5, 5, 500)
    assert (limits.reply_within_s, limits.request_bytes_max) == (60.0, 2 * 1024 * 1024)


@pytest.mark.parametrize("end", ["", "/"])
def test_the_api_may_be_somewhere_else(end: str) -> None:
    local = "http://127.0.0.1:8090"
    simulated = LinePlatform([line.SECRET], line.ACCESS_TOKEN, local + end, f"{local}/data{end}")
    reply = simulated.encode(Reply(EVENT, [HELLO]))
    assert (reply.origin, reply.path) == (local, "/v2/bot/message/reply")
    content = simulated.encode(AskContent(content_event("image")))
    assert (content.origin, content.path) == (local, "/data/v2/bot/message/565000000000000005/content")


def test_the_same_push_encoded_twice_is_the_same_request() -> None:
    assert platform.encode(Push(line.ANNA, [HELLO], RETRY_KEY)) == platform.encode(Push(line.ANNA, [HELLO], RETRY_KEY))


@pytest.mark.parametrize("token", [None, ""])
@pytest.mark.parametrize("outgoing", [Reply(EVENT, [HELLO]), Push(line.ANNA, [HELLO], RETRY_KEY), AskQuota()])
def test_without_an_access_token_the_setting_is_named(token: str | None, outgoing: Outgoing) -> None:
    with pytest.raises(ReplyRefused, match="set GBOT_LINE_CHANNEL_ACCESS_TOKEN; nothing was sent"):
        LinePlatform([line.SECRET], token).encode(outgoing)


@pytest.mark.parametrize("kind", ["unfollow", "leave", "unsend"])
def test_an_event_without_a_reply_token_cannot_be_replied_to(kind: str) -> None:
    with pytest.raises(ReplyRefused, match=f"an event of kind {kind} came without a reply token; use ctx.push"):
        platform.encode(Reply(event(line.every_event()[kind]), [HELLO]))


def test_a_push_to_nobody_is_refused() -> None:
    with pytest.raises(MessageRefused, match="to: expected the id of a user, group or room"):
        platform.encode(Push("", [HELLO], RETRY_KEY))


@pytest.mark.parametrize("key", ["", "1", RETRY_KEY + "\r\nX-Other: 1", RETRY_KEY + "\n", "{" + RETRY_KEY + "}"])
def test_a_retry_key_that_is_no_uuid_is_refused(key: str) -> None:
    for outgoing in (
        Push(line.ANNA, [HELLO], key),
        Multicast([line.ANNA], [HELLO], key),
        Announcement([HELLO], key),
    ):
        with pytest.raises(MessageRefused, match="retry_key: expected a UUID"):
            platform.encode(outgoing)


def test_a_multicast_takes_five_hundred_users_and_no_more() -> None:
    body = platform.encode(Multicast(users(500), [HELLO], RETRY_KEY)).body
    assert json.loads(body)["to"] == users(500)
    for count in (0, 501):
        with pytest.raises(MessageRefused, match=f"expected 1 to 500 users in one multicast, got {count}"):
            platform.encode(Multicast(users(count), [HELLO], RETRY_KEY))


@pytest.mark.parametrize("place", [line.GROUP, line.ROOM, ""])
def test_a_multicast_takes_users_only(place: str) -> None:
    assert not platform.may_multicast(place)
    assert platform.may_multicast(line.ANNA)
    with pytest.raises(MessageRefused, match="expected ids of users only"):
        platform.encode(Multicast([line.ANNA, place], [HELLO], RETRY_KEY))


def test_a_multicast_takes_each_user_once() -> None:
    with pytest.raises(MessageRefused, match="expected each user once"):
        platform.encode(Multicast([line.ANNA, line.BEN, line.ANNA], [HELLO], RETRY_KEY))


@pytest.mark.parametrize(
    ("seconds", "sent"),
    [(0.1, 5), (5, 5), (5.01, 10), (7, 10), (20, 20), (59, 60), (60, 60), (61, 60), (1e9, 60), (float("inf"), 60)],
)
def test_the_loading_animation_shows_at_least_as_long_as_asked(seconds: float, sent: int) -> None:
    request = platform.encode(Typing(EVENT, seconds))
    assert json.loads(request.body) == {"chatId": line.ANNA, "loadingSeconds": sent}
    assert (request.path, request.lane, request.repeatable) == ("/v2/bot/chat/loading/start", "loading", True)
    assert sdk.ShowLoadingAnimationRequest.from_dict(json.loads(request.body)).loading_seconds == sent


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("-inf")])
def test_a_loading_animation_of_no_time_is_refused(seconds: float) -> None:
    with pytest.raises(MessageRefused, match="seconds: expected a positive number; nothing was sent"):
        platform.encode(Typing(EVENT, seconds))


@pytest.mark.parametrize("source", [line.FROM_GROUP, line.FROM_ROOM, None])
def test_the_loading_animation_is_for_chats_with_one_user(source: line.JsonObject | None) -> None:
    with pytest.raises(ReplyRefused, match="in one-to-one chats only; nothing was sent"):
        platform.encode(Typing(event(source=source), 5))


@pytest.mark.parametrize("user_id", ["", "..", "a/b", "U1?x=y", "U 1", "\ud800", "U1\r\nX: y", "x" * 256, "\u65e5"])
def test_a_user_id_that_would_be_another_path_is_refused(user_id: str) -> None:
    with pytest.raises(MessageRefused, match="user_id: expected an id of letters, digits, - and _; nothing was asked"):
        platform.encode(AskProfile(user_id))


# ---- encode: content


def content_event(type_: str, **fields: Any) -> Event:
    return event(line.event("message", message=line.message(type_, 5, **fields)))


@pytest.mark.parametrize("type_", ["image", "video", "audio", "file"])
def test_content_comes_from_its_own_host(type_: str) -> None:
    path = "/v2/bot/message/565000000000000005/content"
    assert platform.encode(AskContent(content_event(type_))) == ApiRequest(
        "GET", "https://api-data.line.me", path, AUTHORIZED, b"", "content", True
    )


@pytest.mark.parametrize("type_", ["image", "video", "audio"])
def test_content_that_line_does_not_keep_says_where_it_is(type_: str) -> None:
    elsewhere = {"type": "external", "originalContentUrl": "https://example.com/secret.jpg"}
    with pytest.raises(ReplyRefused, match=r"LINE does not keep this content.*originalContentUrl") as caught:
        platform.encode(AskContent(content_event(type_, contentProvider=elsewhere)))
    assert "example.com" not in str(caught.value)


@pytest.mark.parametrize("kind", ["message.text", "message.sticker", "message.location", "follow", "module"])
def test_an_event_without_content_says_so(kind: str) -> None:
    with pytest.raises(ReplyRefused, match=f"an event of kind {kind} has no content"):
        platform.encode(AskContent(event(line.every_event()[kind])))


@pytest.mark.parametrize("odd", [None, 5, "", "..", "1/2", "x" * 256, []])
def test_content_with_an_odd_id_is_refused(odd: object) -> None:
    with pytest.raises(MessageRefused, match="the message's id: expected an id"):
        platform.encode(AskContent(content_event("image", id=odd)))


# ---- encode: messages


def test_five_messages_go_and_six_do_not() -> None:
    assert len(json.loads(platform.encode(Reply(EVENT, [HELLO] * 5)).body)["messages"]) == 5
    for count in (0, 6):
        with pytest.raises(MessageRefused, match=f"expected 1 to 5 messages in one request, got {count}"):
            platform.encode(Reply(EVENT, [HELLO] * count))


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, 'message 2: expected a "type", but the field is missing; nothing was sent'),
        ({"text": "secret"}, 'message 2: expected a "type", but the field is missing; nothing was sent'),
        ({"type": 5}, 'message 2: expected a text as "type", got int; nothing was sent'),
        ({"type": None}, 'message 2: expected a text as "type", got NoneType; nothing was sent'),
        ({"type": ""}, 'message 2: expected a text as "type", got an empty one; nothing was sent'),
        (["text"], "message 2: expected an object, got list; nothing was sent"),
    ],
)
def test_a_message_without_a_type_is_refused_by_its_number(body: Any, sentence: str) -> None:
    with pytest.raises(MessageRefused) as caught:
        platform.encode(Reply(EVENT, [HELLO, Message(body)]))
    assert str(caught.value) == sentence


def cycle() -> dict[str, Any]:
    knot: dict[str, Any] = {"type": "text"}
    knot["text"] = knot
    return knot


@pytest.mark.parametrize(
    "body", [{"type": "text", "text": object()}, {"type": "text", "text": "\ud83c"}, {"type": "t", 1j: 2}, cycle()]
)
def test_a_value_that_json_cannot_carry_is_refused(body: Any) -> None:
    with pytest.raises(MessageRefused, match="a value that JSON cannot carry; nothing was sent"):
        platform.encode(Reply(EVENT, [Message(body)]))


def test_a_request_is_refused_from_the_first_byte_over_the_bound() -> None:
    bound = platform.limits.request_bytes_max
    empty = len(platform.encode(Reply(EVENT, [Message.of("")])).body)
    assert len(platform.encode(Reply(EVENT, [Message.of("x" * (bound - empty))])).body) == bound == 2_097_152
    with pytest.raises(MessageRefused, match="expected a request of at most 2097152 bytes, got 2097153"):
        platform.encode(Reply(EVENT, [Message.of("x" * (bound - empty + 1))]))


def test_encode_leaves_the_message_as_it_was() -> None:
    body = {"type": "text", "text": "hi", "quickReply": {"items": []}}
    before = json.dumps(body)
    platform.encode(Push(line.ANNA, [Message(body)], RETRY_KEY))
    assert json.dumps(body) == before


# ---- encode: the SDK's models


def sdk_messages() -> dict[str, Any]:
    """One of each message model that an author may hand over."""
    go = sdk.PostbackAction(label="order", data="item=7", displayText="order!")
    bubble = sdk.FlexBubble(body=sdk.FlexBox(layout="vertical", contents=[sdk.FlexText(text="menu", weight="bold")]))
    picture = {"originalContentUrl": "https://example.com/a.jpg", "previewImageUrl": "https://example.com/b.jpg"}
    area = sdk.ImagemapArea(x=0, y=0, width=520, height=1040)
    return {
        "text": sdk.TextMessage(text="hi \U0001f31e", quickReply=sdk.QuickReply(items=[sdk.QuickReplyItem(action=go)])),
        "textV2": sdk.TextMessageV2(text="hello {name}"),
        "sticker": sdk.StickerMessage(packageId="446", stickerId="1988"),
        "image": sdk.ImageMessage(**picture, sender=sdk.Sender(name="Otter")),
        "video": sdk.VideoMessage(**picture, trackingId="spring-film"),
        "audio": sdk.AudioMessage(originalContentUrl="https://example.com/a.m4a", duration=60_000),
        "location": sdk.LocationMessage(title="quay", address="1 Quay Street", latitude=35.6, longitude=139.7),
        "flex": sdk.FlexMessage(altText="menu", contents=bubble),
        "carousel": sdk.FlexMessage(altText="menus", contents=sdk.FlexCarousel(contents=[bubble, bubble])),
        "buttons": sdk.TemplateMessage(
            altText="order?", template=sdk.ButtonsTemplate(title="lunch", text="what?", actions=[go])
        ),
        "confirm": sdk.TemplateMessage(
            altText="sure?",
            template=sdk.ConfirmTemplate(text="sure?", actions=[go, sdk.MessageAction(label="no", text="no")]),
        ),
        "imagemap": sdk.ImagemapMessage(
            baseUrl="https://example.com/map",
            altText="a map",
            baseSize=sdk.ImagemapBaseSize(width=1040, height=1040),
            actions=[sdk.URIImagemapAction(linkUri="https://example.com/", area=area)],
        ),
    }


@pytest.mark.parametrize("name", sdk_messages())
def test_an_sdk_message_goes_out_as_the_sdk_would_send_it(name: str) -> None:
    model = sdk_messages()[name]
    reply = json.loads(platform.encode(Reply(EVENT, [Message.of(model)])).body)
    push = json.loads(platform.encode(Push(line.ANNA, [Message.of(model)], RETRY_KEY)).body)

    theirs = sdk.ReplyMessageRequest.from_dict(reply)
    assert theirs == sdk.ReplyMessageRequest(replyToken=TOKEN, messages=[model])
    assert theirs.to_dict() == reply | {"notificationDisabled": False}
    also_theirs = sdk.PushMessageRequest.from_dict(push)
    assert also_theirs == sdk.PushMessageRequest(to=line.ANNA, messages=[model])
    assert also_theirs.to_dict() == push | {"notificationDisabled": False}


def test_five_sdk_messages_go_out_in_one_request() -> None:
    models = list(sdk_messages().values())[:5]
    body = json.loads(platform.encode(Reply(EVENT, Message.all_of(models))).body)
    assert sdk.ReplyMessageRequest.from_dict(body).messages == models


def test_a_multicast_is_what_the_sdk_would_send() -> None:
    models = list(sdk_messages().values())[:5]
    body = json.loads(platform.encode(Multicast(users(3), Message.all_of(models), RETRY_KEY)).body)
    theirs = sdk.MulticastRequest.from_dict(body)
    assert theirs == sdk.MulticastRequest(to=users(3), messages=models)
    assert theirs.to_dict() == body | {"notificationDisabled": False}


def test_an_announcement_is_what_the_sdk_would_send() -> None:
    models = list(sdk_messages().values())[:5]
    body = json.loads(platform.encode(Announcement(Message.all_of(models), RETRY_KEY)).body)
    theirs = sdk.BroadcastRequest.from_dict(body)
    assert theirs == sdk.BroadcastRequest(messages=models)
    assert theirs.to_dict() == body | {"notificationDisabled": False}


# ---- judge

LANES = list(platform.limits.lanes)
KEYED = ["push", "multicast", "broadcast"]


def answer(status: int, body: object = None) -> ApiAnswer:
    return ApiAnswer(status, {"content-type": "application/json"}, json.dumps(body).encode())


def judged(lane: str, status: int, body: object = None) -> Judgement:
    return platform.judge(ApiRequest("POST", ORIGIN, "/", {}, b"", lane), answer(status, body))


@pytest.mark.parametrize("lane", LANES)
def test_a_status_means_the_same_in_every_lane(lane: str) -> None:
    assert judged(lane, 200, {}) is Judgement.ACCEPTED
    assert {judged(lane, status) for status in (300, 400, 401, 403, 413, 415, 499)} == {Judgement.REJECTED}
    assert {judged(lane, status) for status in (500, 502, 503, 504)} == {Judgement.UNAVAILABLE}
    assert judged(lane, 429) is Judgement.RATE


@pytest.mark.parametrize(
    ("status", "judgement", "lanes"),
    [
        (202, Judgement.NOT_READY, ["content"]),
        (202, Judgement.ACCEPTED, [lane for lane in LANES if lane != "content"]),
        (409, Judgement.ACCEPTED, KEYED),
        (409, Judgement.REJECTED, [lane for lane in LANES if lane not in KEYED]),
        (404, Judgement.MISSING, ["content", "profile"]),
        (404, Judgement.REJECTED, [lane for lane in LANES if lane not in ("content", "profile")]),
        (410, Judgement.MISSING, ["content"]),
        (410, Judgement.REJECTED, [lane for lane in LANES if lane != "content"]),
    ],
)
def test_a_status_may_mean_something_else_in_some_lanes(status: int, judgement: Judgement, lanes: list[str]) -> None:
    assert {lane: judged(lane, status) for lane in lanes} == dict.fromkeys(lanes, judgement)


@pytest.mark.parametrize(
    ("message", "judgement"),
    [
        ("You have reached your monthly limit.", Judgement.QUOTA),
        ("you have reached your MONTHLY LIMIT", Judgement.QUOTA),
        ("The API rate limit has been exceeded. Try again later.", Judgement.RATE),
        ("You have sent too many messages to the same user.", Judgement.RECIPIENT_LIMIT),
        ("Too many messages to one recipient", Judgement.RECIPIENT_LIMIT),
        ("", Judgement.RATE),
        (None, Judgement.RATE),
        (5, Judgement.RATE),
        (["monthly limit"], Judgement.RATE),
    ],
)
def test_a_429_is_sorted_by_its_message(message: object, judgement: Judgement) -> None:
    assert judged("push", 429, {"message": message}) is judgement


# ---- explain


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"message": "Invalid reply token"}, "Invalid reply token"),
        (
            {
                "message": "The request body has 2 error(s)",
                "details": [
                    {"message": "May not be empty", "property": "messages[0].text"},
                    {"message": "Must be one of: [text, image]", "property": "messages[1].type"},
                ],
            },
            "The request body has 2 error(s): messages[0].text: May not be empty",
        ),
        ({"message": "Not found", "details": []}, "Not found"),
        ({"message": "Not found", "details": [{"message": 5}]}, "Not found"),
        ({"message": f"bad token {line.ACCESS_TOKEN}!"}, "bad token [token]!"),
        ({"message": "two\r\nlines \x1b[31m\u2028here"}, "two lines [31m here"),
        ({"message": "\ud83c cut"}, "? cut"),
        *((odd, "") for odd in (None, 5, [], "x", {}, {"message": None}, {"message": ["x"]})),
    ],
)
def test_explain_gives_lines_own_words_on_one_line(body: object, words: str) -> None:
    assert platform.explain(answer(400, body)) == words


def test_explain_is_cut_to_200_characters() -> None:
    told = platform.explain(answer(400, {"message": "word " * 5_000}))
    assert len(told) == 200
    assert told.endswith("…")


# ---- profile, quota


@pytest.mark.parametrize(
    ("told", "profile"),
    [
        ({"displayName": "Anna"}, Profile("Anna")),
        (
            {
                "displayName": "日本",
                "language": "ja",
                "pictureUrl": "https://profile.line-scdn.net/ab",
                "statusMessage": "hello",
            },
            Profile("日本", "ja", "https://profile.line-scdn.net/ab", "hello"),
        ),
        ({"displayName": "", "language": "", "pictureUrl": None, "statusMessage": 5}, Profile("")),
        ({"displayName": "half \ud83c"}, Profile("half ?")),
    ],
)
def test_a_profile_is_read(told: dict[str, Any], profile: Profile) -> None:
    assert platform.read_profile(answer(200, told | {"userId": line.ANNA})) == profile


def test_a_profile_is_read_as_the_sdk_reads_it() -> None:
    told = {"displayName": "Anna", "userId": line.ANNA, "language": "en", "statusMessage": "hi", "pictureUrl": "u"}
    theirs = sdk.UserProfileResponse.from_dict(told)
    ours = platform.read_profile(answer(200, told))
    assert (ours.display_name, ours.language) == (theirs.display_name, theirs.language)
    assert (ours.picture_url, ours.status_message) == (theirs.picture_url, theirs.status_message)


@pytest.mark.parametrize("told", [None, 5, [], {}, {"userId": line.ANNA}, {"displayName": None}, {"displayName": 5}])
def test_a_profile_without_a_name_is_none(told: object) -> None:
    with pytest.raises(ApiRejected, match="holds no displayName") as caught:
        platform.read_profile(answer(200, told))
    assert caught.value.status == 200


@pytest.mark.parametrize(
    ("told", "number"),
    [
        ({"type": "none"}, None),
        ({"type": "limited", "value": 1000}, 1000),
        ({"type": "limited", "value": 0}, 0),
        ({"totalUsage": 500}, 500),
        ({"totalUsage": 0}, 0),
    ],
)
def test_a_quota_is_read(told: dict[str, Any], number: int | None) -> None:
    assert platform.read_quota(answer(200, told)) == number
    model = sdk.QuotaConsumptionResponse if "totalUsage" in told else sdk.MessageQuotaResponse
    assert model.from_dict(told)


@pytest.mark.parametrize(
    "told",
    [None, [], {}, {"type": "limited"}, {"type": "limited", "value": "1"}, {"totalUsage": -1}, {"totalUsage": True}],
)
def test_a_quota_without_a_number_is_none(told: object) -> None:
    with pytest.raises(ApiRejected, match="holds no number"):
        platform.read_quota(answer(200, told))
