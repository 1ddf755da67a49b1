"""``gbot inbox``: what people do with a stored inbox by hand, while workers use it or when none does.

Exit codes: 0 done; 1 the store cannot be used, or an entry is not there or cannot be changed; 2 wrong usage. Lists and
results go to standard output, everything else to standard error. Work on many entries is done a portion at a time;
whatever interrupts it, a sentence tells how many were done, if any were.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final, NoReturn

import click

from gbot import desk_cli
from gbot import inbox_screens as screens
from gbot.counts import counted
from gbot.desk_cli import EXIT_NOT_DONE, complain, inbox_options, now_ms, refuse, stored_desk, write_table
from gbot.inboxes.store import Desk, Place, Record
from gbot.logs import one_line

PORTION: Final = 500  # entries in one go, and the fewest for which there is a progress bar
PAGE: Final = 100  # entries read at once; each may be as large as a delivery
NAMED_MAX: Final = 100  # entries named in one line

HELD: Final = (Place.READY, Place.RUNNING, Place.WAITING, Place.BEHIND, Place.DEAD)
STATES: Final = {
    word: tuple(place for place, own in screens.WORDS.items() if own == word)
    for word in ("dead", "waiting", "ready", "running", "done")
}
REASONS: Final = {
    None: "no such entry",
    Place.READY: "about to run already",
    Place.RUNNING: "running",
    Place.WAITING: "changed meanwhile",
    Place.BEHIND: "waiting for their conversation already",
    Place.DEAD: "changed meanwhile",
    Place.DONE: "done",
}


class _Number(click.IntRange):
    name = "number of an entry"


@click.group(short_help="Look at stored events and run them again.", invoke_without_command=True)
@click.pass_context
def inbox(context: click.Context) -> None:
    """Look at the events that an inbox holds, and run them again or remove them.

    \b
    ready    will run as soon as a worker has room
    running  a worker runs its handler now
    waiting  for its next attempt, or an earlier event of its conversation
    dead     its last attempt failed; it stays until you retry or drop it
    done     its handler ended; kept only where gbot serve has --keep-done

    Workers may go on while you do this. Begin with: gbot inbox stats
    """
    desk_cli.begin(context)


@inbox.command(short_help="How many events are where.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
@inbox_options
def stats(url: str | None, config_file: str | None, as_json: bool) -> None:
    """Count the entries by state, and tell where the inbox is and how long the first one has been ready."""
    with stored_desk(url, config_file) as desk:
        counts = desk.counts()
        if as_json:
            click.echo(screens.counts_json(counts, desk.place, now_ms()))
        else:
            click.echo("\n".join(screens.counts_lines(counts, desk.place, now_ms())))


@inbox.command(short_help="List entries.")
@click.option("--state", type=click.Choice(list(STATES)), help="Only these.  [default: all but done]")
@click.option("--limit", type=click.IntRange(1), default=100, metavar="N", help="No more than N.  [default: 100]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for programs.")
@inbox_options
def ls(url: str | None, config_file: str | None, state: str | None, limit: int, as_json: bool) -> None:
    """List entries, oldest first, without what users wrote.

    WHO is the conversation, or the user where there is none; ATT how many attempts have failed; RES how often the entry
    was taken over from a worker that was gone; AGE the time since it arrived. NOTE tells what it waits for and the last
    line of its error, after "before:" if that is of an earlier attempt and it runs again now or soon; gbot inbox show
    has the rest.
    """
    with stored_desk(url, config_file) as desk:
        pages = _pages(desk, STATES[state] if state else HELD, limit)
        if as_json:
            _write_json(pages)
        else:
            rows = ([screens.row(record, now_ms()) for record in records] for records in pages)
            what = f"{state} entries" if state else "entries"
            write_table(rows, screens.HEADS, screens.table_layout, f"No {what} in {desk.place}.")


def _pages(desk: Desk, places: tuple[Place, ...], limit: int) -> Iterator[list[Record]]:
    """The first so many, a page at a time; says so if there are more."""
    after, left = 0, limit
    while left and (records := desk.records(places, after, min(PAGE, left))):
        yield records
        after, left = records[-1].number, left - len(records)
    if not left and desk.records(places, after, 1):
        complain(f"more entries follow; --limit N shows N of them (this was {limit:,})")


def _write_json(pages: Iterable[list[Record]]) -> None:
    for records in pages:
        click.echo("\n".join(map(screens.record_json, records)))


@inbox.command(short_help="Show one entry: its error, and the event with its text.")
@click.argument("number", type=_Number(1, 2**63 - 1), metavar="ID")
@inbox_options
def show(url: str | None, config_file: str | None, number: int) -> None:
    """Show everything about the entry ID (its NUMBER in gbot inbox ls), what the user wrote included."""
    with stored_desk(url, config_file) as desk:
        record = desk.record(number)
        if record is None:
            refuse(f"there is no entry {number} in {desk.place}")
    click.echo("\n".join(screens.shown(record, now_ms())))


@inbox.command(short_help="Run dead or waiting entries again, soon.")
@click.argument("numbers", nargs=-1, type=_Number(1, 2**63 - 1), metavar="[ID...]")
@click.option("--all-dead", is_flag=True, help="All dead entries.")
@inbox_options
def retry(url: str | None, config_file: str | None, numbers: tuple[int, ...], all_dead: bool) -> None:
    """Run the entries ID... again as if for the first time: dead ones, or those waiting for their next attempt."""
    if bool(numbers) == all_dead:
        raise click.UsageError("Name the entries to run again, or say --all-dead.")
    with stored_desk(url, config_file) as desk:
        length = desk.counts().by_place.get(Place.DEAD, 0) if all_dead else len(set(numbers))
        left = _work(
            _dead(desk) if all_dead else _portions(numbers),
            length,
            lambda some: desk.retry(some, now_ms()),
            "will run again",
        )
        if left and not all_dead:  # somebody else was at a dead one first
            _tell_left(desk, left, "not run again")


@inbox.command(short_help="Remove entries that do not run.")
@click.argument("numbers", nargs=-1, type=_Number(1, 2**63 - 1), metavar="[ID...]", required=True)
@inbox_options
def drop(url: str | None, config_file: str | None, numbers: tuple[int, ...]) -> None:
    """Remove the entries ID... for good: dead, ready or waiting ones. One that runs is left to its worker."""
    with stored_desk(url, config_file) as desk:
        left = _work(_portions(numbers), len(set(numbers)), desk.drop, "dropped")
        if left:
            _tell_left(desk, left, "not dropped")


def _portions(numbers: Iterable[int]) -> Iterator[list[int]]:
    ordered = sorted(set(numbers))
    return (ordered[start : start + PORTION] for start in range(0, len(ordered), PORTION))


def _dead(desk: Desk) -> Iterator[list[int]]:
    """The numbers of all dead entries, in portions."""
    after = 0
    while records := desk.records([Place.DEAD], after, PAGE):
        after = records[-1].number
        yield [record.number for record in records]


def _work(portions: Iterable[list[int]], length: int, step: Callable[[list[int]], list[int]], done: str) -> list[int]:
    """Do the step for each portion, and say at the end how many were ``done``; returns the numbers that were not.

    That none was is only said where nothing else tells why.
    """
    count, left = 0, []
    try:
        with _progress(length) as advance:
            for some in portions:
                changed = step(some)
                count += len(changed)
                left += sorted(set(some) - set(changed))
                advance(len(some))
    except BaseException:
        _say_count(count, done, unless_none=True)
        raise
    _say_count(count, done, unless_none=bool(left))
    return left


def _say_count(count: int, done: str, *, unless_none: bool) -> None:
    if count or not unless_none:
        click.echo(f"{counted(count, 'entry', 'entries')} {done}.")


@contextmanager
def _progress(length: int) -> Iterator[Callable[[int], object]]:
    """A bar on a terminal, where the work is long enough to watch it."""
    if length < PORTION or not sys.stderr.isatty():
        yield lambda count: None
        return
    with click.progressbar(length=length, file=sys.stderr, show_pos=True) as bar:
        yield bar.update


def _tell_left(desk: Desk, numbers: list[int], refusal: str) -> NoReturn:
    by_reason: dict[str, list[int]] = {}
    for number in numbers:
        record = desk.record(number)
        by_reason.setdefault(REASONS[record.place if record else None], []).append(number)
    for reason, own in by_reason.items():
        named = ", ".join(map(str, own[:NAMED_MAX])) + (f" and {len(own) - NAMED_MAX:,} more" * (len(own) > NAMED_MAX))
        complain(f"{refusal}, because {reason}: {named}")
    sys.exit(EXIT_NOT_DONE)


class _When(click.ParamType):  # type: ignore[type-arg]  # older versions of click cannot be subscripted
    """A moment before now by its distance, or by date and time; without a zone in this machine's."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        distance = re.fullmatch(r"([0-9]{1,6})([smhd])", value)
        if distance:
            seconds = {"s": 1, "m": 60, "h": 3600, "d": 86_400}[distance[2]] * int(distance[1])
            return now_ms() - seconds * 1000
        try:
            return int(datetime.fromisoformat(value).timestamp() * 1000)
        except (ValueError, OverflowError):
            self.fail(f"expected an age such as 30m, 24h or 7d, or a date such as 2026-11-22T09:00, got {value!r}.")


@inbox.command(short_help="Remove done entries that were kept.")
@click.option(
    "--done-before",
    "before_ms",
    type=_When(),
    metavar="WHEN",
    required=True,
    help="Those done longer ago than 30m, 24h, 7d, or before a date or time such as 2026-11-22 or 2026-11-22T09:00.",
)
@inbox_options
def purge(url: str | None, config_file: str | None, before_ms: int) -> None:
    """Remove done entries for good, for those who keep them with --keep-done. Dead ones stay: see gbot inbox drop."""
    count = 0
    with stored_desk(url, config_file) as desk:
        try:
            with _progress(desk.counts().by_place.get(Place.DONE, 0)) as advance:
                while purged := desk.purge_done(before_ms, PORTION):
                    count += purged
                    advance(purged)
        except BaseException:
            _say_count(count, "purged", unless_none=True)
            raise
        _say_count(count, "purged", unless_none=False)


@inbox.command(short_help="Bring the database's tables up to date.")
@inbox_options
def migrate(url: str | None, config_file: str | None) -> None:
    """Create the tables that this gbot needs, or change those of an older one; without harm when nothing is to do.

    MySQL needs it before the first start and after an upgrade that says so. SQLite does it by itself.
    """
    with stored_desk(url, config_file, opened=False) as desk:
        steps = desk.migrate()
        click.echo("\n".join(map(one_line, steps)) if steps else f"{one_line(desk.place)} is up to date.")
