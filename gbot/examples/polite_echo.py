"""An echo bot with manners: it greets, says what it has received, and forgets those who leave.

Try it in the terminal: ``gbot chat gbot.examples.polite_echo:bot --user 太郎 --language ja``
"""

from gbot import Bot, Context, Drop
from gbot.errors import ContentGone

TEXT_CHARS_MAX = 500  # of what is quoted: a message that is longer than the platform's limit would be refused

ENGLISH = {
    "follow": "welcome! Send me a message, a picture, a sticker or a place, and I will tell you what arrived.",
    "join": "Hello everybody, and thank you for inviting me. I will tell you what arrives here.",
    "text": "you wrote: {text}",
    "image": "thank you for the picture. It is {size:,} bytes.",
    "video": "thank you for the video.",
    "audio": "thank you for the voice message.",
    "location": "thank you for telling me the place.",
    "sticker": "what a nice sticker!",
    "other": "thank you. I do not know this kind of message yet, sorry.",
}
JAPANESE = {
    "follow": "友だち追加ありがとうございます。メッセージや画像などを送っていただくと、届いたものをお知らせします。",
    "join": "みなさん、はじめまして。ご招待ありがとうございます。こちらに届いたものをお知らせします。",
    "text": "「{text}」とのメッセージをいただきました。",
    "image": "画像をありがとうございます。大きさは{size:,}バイトです。",
    "video": "動画をありがとうございます。",
    "audio": "音声メッセージをありがとうございます。",
    "location": "位置情報をありがとうございます。",
    "sticker": "すてきなスタンプをありがとうございます。",
    "other": "ありがとうございます。申し訳ありませんが、この種類のメッセージにはまだ対応していません。",
}

bot = Bot()


@bot.on("follow")
def greet(ctx: Context) -> None:
    ctx.reply(sentence(ctx, "follow"))


@bot.on("unfollow")
def forget(ctx: Context) -> None:
    ctx.forget()  # nothing can be sent any more, and nothing of the user needs to be kept


@bot.on("join")
def greet_group(ctx: Context) -> None:
    ctx.reply(ENGLISH["join"], JAPANESE["join"])  # nobody in particular has invited the bot: in both languages


@bot.text()
def text(ctx: Context) -> None:
    quoted = ctx.text if len(ctx.text) <= TEXT_CHARS_MAX else ctx.text[:TEXT_CHARS_MAX] + "…"
    ctx.reply(sentence(ctx, "text", text=quoted))


@bot.on("message.image")
def image(ctx: Context) -> None:
    try:
        with ctx.content() as content:
            size = sum(len(part) for part in content)  # content.save("picture.jpg") would keep it
    except ContentGone:
        raise Drop("the user has taken the picture back") from None
    ctx.reply(sentence(ctx, "image", size=size))


@bot.on("message")
def anything_else(ctx: Context) -> None:
    kind = ctx.event.kind.removeprefix("message.")
    ctx.reply(sentence(ctx, kind if kind in ENGLISH else "other"))


def sentence(ctx: Context, about: str, **details: object) -> str:
    """What to say about this, in the user's language and to the user by name, as far as they are known."""
    user = ctx.user if ctx.event.user_id else None  # in a group, LINE may keep it to itself
    name, language = (user.display_name, user.language or "") if user else ("", "")
    if language.partition("-")[0] == "ja":
        said = JAPANESE[about].format(**details)
        return f"{name}さん、{said}" if name else said
    said = ENGLISH[about].format(**details)
    return f"{name}, {said}" if name else said[0].upper() + said[1:]
