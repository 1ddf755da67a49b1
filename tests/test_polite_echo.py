"""The example that authors read: what it says, to whom, and in which language."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gbot.examples.polite_echo import ENGLISH, JAPANESE, TEXT_CHARS_MAX, bot
from gbot.testing import Answers, Client, Talk


@pytest.fixture
def client() -> Client:
    return Client(bot)


@pytest.fixture
def taro(client: Client) -> Talk:
    return client.user("太郎", language="ja")


MESSAGES: dict[str, Callable[[Talk], Answers]] = {
    "follow": Talk.follow,
    "text": lambda talk: talk.text("hello"),
    "image": lambda talk: talk.image(bytes(48_213)),
    "video": Talk.video,
    "audio": Talk.audio,
    "location": lambda talk: talk.location(35.65, 139.7),
    "sticker": Talk.sticker,
    "contact": lambda talk: talk.event("message.contact"),
    "file": Talk.file,
}
IN_ENGLISH = {
    "follow": "Anna, welcome! Send me a message, a picture, a sticker or a place, and I will tell you what arrived.",
    "text": "Anna, you wrote: hello",
    "image": "Anna, thank you for the picture. It is 48,213 bytes.",
    "video": "Anna, thank you for the video.",
    "audio": "Anna, thank you for the voice message.",
    "location": "Anna, thank you for telling me the place.",
    "sticker": "Anna, what a nice sticker!",
    "contact": "Anna, thank you. I do not know this kind of message yet, sorry.",
    "file": "Anna, thank you. I do not know this kind of message yet, sorry.",
}
UNKNOWN_IN_JAPANESE = "ありがとうございます。申し訳ありませんが、この種類のメッセージにはまだ対応していません。"
IN_JAPANESE = {
    "follow": "友だち追加ありがとうございます。メッセージや画像などを送っていただくと、届いたものをお知らせします。",
    "text": "「hello」とのメッセージをいただきました。",
    "image": "画像をありがとうございます。大きさは48,213バイトです。",
    "video": "動画をありがとうございます。",
    "audio": "音声メッセージをありがとうございます。",
    "location": "位置情報をありがとうございます。",
    "sticker": "すてきなスタンプをありがとうございます。",
    "contact": UNKNOWN_IN_JAPANESE,
    "file": UNKNOWN_IN_JAPANESE,
}


@pytest.mark.parametrize("about", MESSAGES)
def test_everything_has_its_own_sentence(client: Client, taro: Talk, about: str) -> None:
    assert MESSAGES[about](client).texts == [IN_ENGLISH[about]]
    assert MESSAGES[about](taro).texts == ["太郎さん、" + IN_JAPANESE[about]]


@pytest.mark.parametrize("about", MESSAGES)
def test_without_a_name_it_still_reads_well(client: Client, about: str) -> None:
    [said] = MESSAGES[about](client.user("")).texts
    without_name = IN_ENGLISH[about].removeprefix("Anna, ")
    assert said == without_name[0].upper() + without_name[1:]


def test_all_but_japanese_is_answered_in_english(client: Client) -> None:
    assert client.user("Ben", language="de").video().texts == ["Ben, thank you for the video."]
    assert client.user("花子", language="ja-JP").video().texts == ["花子さん、動画をありがとうございます。"]


def test_both_languages_say_the_same_things() -> None:
    assert ENGLISH.keys() == JAPANESE.keys()


def test_a_long_text_is_quoted_in_part(client: Client) -> None:
    assert client.text("x" * 5000).texts == ["Anna, you wrote: " + "x" * TEXT_CHARS_MAX + "…"]
    whole = "x" * TEXT_CHARS_MAX
    assert client.text(whole).texts == ["Anna, you wrote: " + whole]


def test_braces_are_only_text(client: Client) -> None:
    assert client.text("{text} {0}").texts == ["Anna, you wrote: {text} {0}"]


def test_a_picture_that_was_taken_back_is_left_alone(client: Client) -> None:
    answers = client.image(None)
    assert (answers.texts, answers.ended) == ([], "dropped")


def test_groups_are_greeted_in_both_languages_and_answered_by_name(client: Client, taro: Talk) -> None:
    assert client.group("friends").join().texts == [ENGLISH["join"], JAPANESE["join"]]
    assert client.group("friends").text("hi").texts == ["Anna, you wrote: hi"]
    assert taro.group("friends").sticker().texts == ["太郎さん、" + IN_JAPANESE["sticker"]]


def test_a_group_member_whom_the_platform_does_not_name(client: Client) -> None:
    source = {"type": "group", "groupId": client.group("friends").conversation.id}
    message = {"type": "video", "id": "1", "contentProvider": {"type": "line"}}
    assert client.event("message.video", source=source, message=message).texts == ["Thank you for the video."]


def test_who_leaves_is_forgotten_but_for_having_left(client: Client) -> None:
    client.follow()
    assert client.stored_user is not None
    assert client.stored_user.profile is not None
    assert client.unfollow().texts == []
    assert client.stored_user is not None
    assert (client.stored_user.gone, client.stored_user.profile) == (True, None)


def test_it_speaks_on_messenger_too() -> None:
    client = Client(bot, platform="messenger")
    assert client.text("hello").texts == ["Anna, you wrote: hello"]
    assert client.image(b"12345").texts == ["Anna, thank you for the picture. It is 5 bytes."]
    assert client.event("reaction").ended == "unhandled"
