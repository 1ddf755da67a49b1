"""``gbot simulate``: plays the platform for a bot that runs elsewhere, and tells at the end how the bot did.

Exit codes: 0 a good verdict; 1 not a good one, or the run could not begin; 2 wrong usage. The table and the verdict go
to standard output, everything else to standard error.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec

from gbot import kinds, logs
from gbot.kinds import Kind
from gbot.simulator import line, messenger, options, screen
from gbot.simulator.faults import Faults
from gbot.simulator.screen import Progress
from gbot.simulator.settings import Settings
from gbot.simulator.traffic import Traffic
from gbot.simulator.verdict import Verdict

F = TypeVar("F", bound=Callable[..., Any])

EXIT_NOT_GOOD: Final = 1
TABLE_EVERY_S: Final = 0.5
LINE_EVERY_S: Final = 5.0
MADE_UP: Final = "made-up-for-local-play"  # where nothing is set
KINDS: Final[Mapping[str, tuple[str, ...]]] = {"line": line.KINDS, "messenger": messenger.KINDS}
KINDS_KNOWN: Final = "; ".join(f"{platform} has {', '.join(kinds)}" for platform, kinds in KINDS.items())
# What the bot and the simulator have to know both, by the name that gbot serve knows it by.
SHARED: Final[Mapping[str, tuple[str, ...]]] = {
    "line": ("GBOT_LINE_CHANNEL_SECRET", "GBOT_LINE_CHANNEL_ACCESS_TOKEN"),
    "messenger": ("GBOT_MESSENGER_APP_SECRET", "GBOT_MESSENGER_VERIFY_TOKEN", "GBOT_MESSENGER_PAGE_TOKEN"),
}
BASES: Final[Mapping[str, Mapping[str, str]]] = {
    "line": {"GBOT_LINE_API_BASE": "", "GBOT_LINE_CONTENT_BASE": ""},
    "messenger": {"GBOT_MESSENGER_API_BASE": "/v23.0"},
}


class _Option(click.ParamType):  # type: ignore[type-arg]  # older versions of click cannot be subscripted
    """A Kind as click takes it."""

    def __init__(self, kind: Kind) -> None:
        self.name = kind.metavar
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._kind.read(value)
        except ValueError:
            self.fail(f"expected {self._kind.expected}, got {value!r}.", param, ctx)


def _option(name: str, kind: Kind, default: str | None, sentence: str) -> Callable[[F], F]:
    shown = f"  [default: {default}]" if default is not None else ""
    return click.option(name, type=_Option(kind), default=default, metavar=kind.metavar, help=sentence + shown)


COUNT: Final = kinds.integer(1, 10**9)
USERS: Final = kinds.integer(1, 10**7)
PORT: Final = kinds.integer(0, 65535, "PORT")
SEED: Final = kinds.integer(0, 10**18)


@click.command(short_help="Play the platform for a bot that runs elsewhere.")
@click.argument("platform", type=click.Choice(list(KINDS)))
@_option("--to", kinds.API_BASE, None, "Where the bot takes deliveries, such as http://127.0.0.1:4000/callback/line.")
@_option("--rate", options.RATE, "10/s", "Events per second; 0 sends nothing and only serves the API.")
@_option("--events", COUNT, None, "How many events; without it and --seconds, until Ctrl-C.")
@_option("--seconds", options.SPAN, None, "For how long events are sent.")
@_option("--batch", options.BATCH, "1", "Events in one delivery.")
@_option("--burst", options.BURST, None, "FACTOR times the rate in the last second of every EVERY, such as 20@10s.")
@_option("--users", USERS, "1000", "How many users write.")
@click.option(
    "--mix", default="text", metavar="KIND=N,…", help=f"Kinds of events with weights; {KINDS_KNOWN}.  [default: text]"
)
@_option("--redeliver", options.SHARE, "0", "Share of the deliveries sent again though the bot took them.")
@_option("--duplicates", options.SHARE, "0", "Share of the deliveries sent twice, byte for byte.")
@_option("--disorder", options.SHARE, "0", "Share of the deliveries overtaken by later ones.")
@_option("--latency", options.LATENCY, "0", "How long the API takes to answer.")
@_option("--fail", options.SHARE, "0", "Share of the API's answers that are 5xx; half of them accepted the message.")
@_option("--storm", options.SHARE, "0", "Share of the API's answers that are 429, 20 in a row.")
@_option("--drop", options.SHARE, "0", "Share of requests whose connection closes after the message was accepted.")
@_option("--down", options.DOWN, None, "For how long, and from when, nobody can connect to the API, such as 30s@1m.")
@_option("--reply-window", options.SPAN, "60s", "How long LINE's reply tokens are good.")
@click.option("--no-rate-limits", is_flag=True, help="Let the bot call as fast as it likes.")
@_option("--quota", COUNT, None, "How many messages LINE lets the bot push.  [default: any number]")
@_option("--api-port", PORT, "8100", "Port of the API on 127.0.0.1; 0: any free one.")
@_option("--wait", options.SPAN, "60s", "How long to wait for missing answers at the end.")
@_option("--seed", SEED, "1", "The same seed: the same events, the same faults.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the verdict there, as JSON.")
def simulate(platform: str, to: str | None, mix: str, json_file: Path | None, **given: Any) -> None:
    """Send signed deliveries to a bot, serve the API it answers to, and judge how it did.

    \b
    gbot serve APP            with the settings that this command prints
    gbot simulate line --to http://127.0.0.1:4000/callback/line --rate 100/s --seconds 30

    Shares are 30% or 0.3, times 500ms, 30s or 2m. An answer belongs to the event whose reply token it carries, or whose
    id or text it quotes. Secrets come from the variables that gbot serve reads; without them made-up ones are shown.
    """
    if given["fail"] + given["drop"] > 1:
        raise click.UsageError("--fail and --drop are more than 100% together.")
    if to is None and given["rate"]:
        raise click.UsageError("Name the bot's address with --to, or serve the API alone with --rate 0.")
    try:
        weights = options.mix(KINDS[platform]).read(mix)
    except ValueError:
        raise click.UsageError(f"--mix: expected {options.mix(KINDS[platform]).expected}, got {mix!r}.") from None
    shared = {name: os.environ.get(name, "").split(",")[0] for name in SHARED[platform]}
    settings = Settings(
        platform,
        tuple(value or MADE_UP for value in shared.values()),
        to,
        traffic=_traffic(weights, given),
        faults=Faults(given["latency"], given["fail"], given["storm"], given["drop"]),
        seed=given["seed"],
        users=given["users"],
        api_port=given["api_port"],
        down=given["down"],
        reply_window_s=given["reply_window"],
        rate_limits=not given["no_rate_limits"],
        quota=given["quota"],
        wait_s=given["wait"],
    )
    logs.configure("text", "warning")
    verdict = _play(settings, [name for name, value in shared.items() if not value])
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(verdict), indent=2) + b"\n")
    if not verdict.good:
        sys.exit(EXIT_NOT_GOOD)


def _traffic(mix: tuple[tuple[str, int], ...], given: Mapping[str, Any]) -> Traffic:
    return Traffic(
        rate=given["rate"],
        events_max=given["events"],
        seconds=given["seconds"],
        batch=given["batch"],
        burst=given["burst"],
        mix=mix,
        redeliver=given["redeliver"],
        duplicates=given["duplicates"],
        disorder=given["disorder"],
    )


def _play(settings: Settings, made_up: Sequence[str]) -> Verdict:
    """Raises StartError, ConfigError."""
    import gevent  # as late as gbot serve does, or every gbot command would load it

    from gbot.process import collect_garbage_calmly
    from gbot.simulator.stage import build

    play = build(settings)
    for sentence in _preparations(settings.platform, play.api_address, made_up):
        click.echo(sentence, err=True)
    loop = gevent.get_hub().loop
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: loop.run_callback_threadsafe(play.stop))
    collecting = gevent.spawn(collect_garbage_calmly)
    output = _Screen()
    try:
        verdict = play.run(output.show, TABLE_EVERY_S if output.is_terminal else LINE_EVERY_S, output.say)
    finally:
        gevent.kill(collecting)
    output.end(verdict)
    return verdict


def _preparations(platform: str, address: str, made_up: Sequence[str]) -> list[str]:
    """What the bot has to be started with, to be copied into a shell."""
    lines = [f"Simulated {platform} API at {address}. gbot serve needs, before it starts:"]
    lines += [f"  export {name}={address}{path}" for name, path in BASES[platform].items()]
    for name in SHARED[platform]:
        lines.append(f"  export {name}={MADE_UP}" if name in made_up else f"  {name} as it is set here")
    return lines


class _Screen:
    """Standard output: a table that is drawn again and again on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self.is_terminal = sys.stdout.isatty()
        self._drawn = 0

    def show(self, now: Progress) -> None:
        if self.is_terminal:
            self._draw(screen.live(now))
        else:
            click.echo(screen.line(now))

    def say(self, sentence: str) -> None:
        """To standard error, above the table."""
        if self._drawn:
            sys.stdout.write(f"\x1b[{self._drawn}F\x1b[J")
            sys.stdout.flush()
            self._drawn = 0
        click.echo(sentence, err=True)

    def end(self, verdict: Verdict) -> None:
        self._drawn = 0  # the last table stays
        click.echo("\n".join(["", *screen.report(verdict)]))

    def _draw(self, lines: Sequence[str]) -> None:
        size = shutil.get_terminal_size()
        kept = [line[: size.columns - 1] for line in lines][: size.lines - 1]
        back = f"\x1b[{self._drawn}F" if self._drawn else ""
        sys.stdout.write(f"{back}\x1b[J" + "\n".join(kept) + "\n")
        sys.stdout.flush()
        self._drawn = len(kept)
