"""``gbot users``: what people do with the users that a stored inbox knows. Its manners are those of ``gbot inbox``.

``forget`` removes everything stored of a user: the entries first, a portion at a time, and at the end what is known of
it; whatever breaks it off, saying it again does the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

import click

from gbot import desk_cli
from gbot import users_screens as screens
from gbot.desk_cli import complain, inbox_options, now_ms, refuse, stored_desk, write_table
from gbot.inboxes.store import UsersDesk
from gbot.logs import one_line
from gbot.user import User

PAGE: Final = 500  # users read at once


@click.group(short_help="Look at the users of a bot, and forget one.", invoke_without_command=True)
@click.pass_context
def users(context: click.Context) -> None:
    """Look at the users that an inbox knows, and remove everything that is stored of one.

    Users are known from their follow and unfollow events, and when a handler has asked for their profile. Workers may
    go on while you do this; what a worker knows of a user it may remember for another minute.
    """
    desk_cli.begin(context)


@users.command(short_help="List users.")
@click.option("--platform", metavar="PLATFORM", help="Only of this platform, such as line.  [default: all]")
@click.option("--gone", is_flag=True, help="Only those who have left, or blocked the bot.")
@click.option("--limit", type=click.IntRange(1), default=100, metavar="N", help="No more than N.  [default: 100]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for programs.")
@inbox_options
def ls(url: str | None, config_file: str | None, platform: str | None, gone: bool, limit: int, as_json: bool) -> None:
    """List users by platform and id: the name they show, and since when they are gone."""
    with stored_desk(url, config_file) as desk:
        pages = _pages(_known(desk.users, platform, gone), limit)
        if as_json:
            for page in pages:
                click.echo("\n".join(map(screens.user_json, page)))
        else:
            rows = ([screens.row(user) for user in page] for page in pages)
            of = f" of {platform}" if platform else ""
            none = f"No users{of}{' who are gone' if gone else ''} in {desk.place}."
            write_table(rows, screens.HEADS, screens.table_layout, none)


def _known(desk: UsersDesk, platform: str | None, gone: bool) -> Iterator[User]:
    for name in desk.platforms() if platform is None else [platform]:
        after = ""
        while page := desk.page(name, after, PAGE, gone=gone):
            yield from page
            after = page[-1].id


def _pages(known: Iterator[User], limit: int) -> Iterator[list[User]]:
    """The first so many, a page at a time; says so if there are more."""
    left = limit
    while left and (page := list(islice(known, min(PAGE, left)))):
        yield page
        left -= len(page)
    if not left and next(known, None) is not None:
        complain(f"more users follow; --limit N shows N of them (this was {limit:,})")


@users.command(short_help="Show what is stored of a user.")
@click.argument("platform")
@click.argument("user_id")
@inbox_options
def show(url: str | None, config_file: str | None, platform: str, user_id: str) -> None:
    """Show what is known of the user USER_ID of PLATFORM, the state of the conversation with it, and how many entries.

    It reads all entries, which may take a while.
    """
    with stored_desk(url, config_file) as desk:
        user = desk.users.user(platform, user_id)
        state = desk.users.state(platform, user_id, now_ms())
        entries = desk.users.entries(platform, user_id)
        if user is None and state is None and not entries:
            refuse(f"nothing is stored of the {platform} user {user_id} in {desk.place}")
    known = user is not None
    lines = screens.shown(user or User(platform, user_id), known, state, entries, now_ms())
    click.echo("\n".join(lines))


@users.command(short_help="Remove everything that is stored of a user.")
@click.argument("platform")
@click.argument("user_id")
@click.option("--yes", is_flag=True, help="Without asking.")
@inbox_options
def forget(url: str | None, config_file: str | None, platform: str, user_id: str, yes: bool) -> None:
    """Remove what is known of the user USER_ID of PLATFORM, the state of the conversation with it, and its entries.

    Those are the events that the user sent, wherever, and all events of the conversation with it: ready, waiting, dead
    and done ones. The user is also taken out of the parts of broadcasts, which go to the others. An entry that runs is
    left to its worker, and this says so. It reads all entries, which may take a while.
    """
    who = f"the {platform} user {user_id}"
    with stored_desk(url, config_file) as desk:
        if not yes:
            click.confirm(one_line(f"Remove everything that is stored of {who} in {desk.place}?"), abort=True, err=True)
        erased = desk.users.erase(platform, user_id, now_ms())
    click.echo(one_line(screens.erased_sentence(erased, who)))
    if erased.running:
        refuse(screens.left_sentence(erased))
