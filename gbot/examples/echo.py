"""The bot that ``gbot serve`` runs when it is given none: it prints what arrives, as the old benchmark's bot did."""

from gbot import Bot, Context

bot = Bot()


@bot.default
def echo(ctx: Context) -> None:
    print(f"message = '{ctx.text}'")
