"""How many API calls does it take to tell 100,000 users the same, and is the platform's rate kept?

    python bench/multicast.py
    python bench/multicast.py --users 1000000 --only broadcast

The bot of bench/telling.py tells them by ``bot.broadcast``, by one ``ctx.push`` to a list, and by a greenlet with a
``ctx.push`` for each user, which gbot merges. `gbot simulate line` counts the calls, and the most in any second. At 500
users a call, 100,000 users are 200 calls; LINE takes 200 multicasts a second.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from measuring import (
    LOCALHOST,
    Server,
    Unavailable,
    circumstances,
    exit_on_sigterm,
    figure,
    free_port,
    pinned,
    running_server,
    say,
    server_environment,
    table,
    two_cores,
    write_json,
)
from subjects import gbot_command
from wrk import positive

WAYS = ("broadcast", "list", "greenlets")
SECRETS = {"GBOT_LINE_CHANNEL_SECRET": "bench", "GBOT_LINE_CHANNEL_ACCESS_TOKEN": "bench"}
RECIPIENTS_MAX = 500
SPARE = 1.01  # calls, by the fewest possible
TIMEOUT_S = 300


@dataclass(frozen=True)
class Finding:
    """What one way has taken."""

    way: str
    users: int
    calls: int
    fewest_calls: int
    calls_in_a_second_max: int
    refused_as_too_fast: int
    seconds: float
    cpu_us_per_user: float
    rss_mb: float
    verdict: dict[str, Any]


def measure(way: str, users: int, cores: tuple[int, int]) -> Finding:
    say(f"{way}: {users:,} users")
    port, api_port = free_port(), free_port()
    base = f"http://{LOCALHOST}:{api_port}"
    with tempfile.TemporaryDirectory(prefix="gbot-bench-") as name:
        directory = Path(name)
        environment = {
            **SECRETS,
            **{"GBOT_LINE_API_BASE": base, "GBOT_LINE_CONTENT_BASE": base},
            **{"TELL_USERS": str(users), "TELL_BY": way, "STATE_DIRECTORY": name},
        }
        command = gbot_command(port, app="bench.telling:bot", options=("--handler-timeout", "0"))
        with running_server(
            "gbot", command, port=port, directory=directory, core=cores[0], environment=environment
        ) as server:
            before_s = server.cpu_s()
            verdict = simulate(port, api_port, directory, cores[1])
            return finding(way, users, server, before_s, verdict)


def simulate(port: int, api_port: int, directory: Path, core: int) -> dict[str, Any]:
    """Send the one text, serve the API until the bot has answered, and return the verdict."""
    target, result = f"http://{LOCALHOST}:{port}/callback/line", directory / "verdict.json"
    command = [sys.executable, "-m", "gbot", "simulate", "line", "--to", target, "--events", "1"]
    command += ["--api-port", str(api_port), "--wait", f"{TIMEOUT_S}s", "--reply-window", "1h", "--json", str(result)]
    done = subprocess.run(
        pinned(command, core), env=server_environment(SECRETS), capture_output=True, text=True, timeout=2 * TIMEOUT_S
    )
    if not result.exists():
        raise Unavailable(f"the simulator failed: {done.stderr.strip()[-200:]}")
    verdict: dict[str, Any] = json.loads(result.read_text())
    return verdict


def finding(way: str, users: int, server: Server, before_s: float, verdict: dict[str, Any]) -> Finding:
    asked = verdict["api"]["endpoints"]
    nothing = {"statuses": {}, "peak": 0, "over_rate": 0}
    sending = [asked.get(name, nothing) for name in ("multicast", "push")]
    return Finding(
        way=way,
        users=users,
        calls=sum(sum(endpoint["statuses"].values()) for endpoint in sending),
        fewest_calls=-(-users // RECIPIENTS_MAX),
        calls_in_a_second_max=sending[0]["peak"],
        refused_as_too_fast=sum(endpoint["over_rate"] for endpoint in sending),
        seconds=verdict["seconds"],
        cpu_us_per_user=(server.cpu_s() - before_s) * 1e6 / users,
        rss_mb=server.rss_bytes() / 2**20,
        verdict=verdict,
    )


def report(findings: list[Finding]) -> str:
    header = ["way", "users", "calls", "fewest", "most in 1 s", "refused", "seconds", "CPU us/user", "RSS MiB"]
    rows = [
        [
            found.way,
            figure(found.users),
            figure(found.calls),
            figure(found.fewest_calls),
            figure(found.calls_in_a_second_max),
            figure(found.refused_as_too_fast),
            figure(found.seconds, 1),
            figure(found.cpu_us_per_user, 1),
            figure(found.rss_mb),
        ]
        for found in findings
    ]
    return table(header, rows)


def main() -> None:
    exit_on_sigterm()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=positive, default=100_000, help="how many (default 100000)")
    parser.add_argument("--only", choices=WAYS, help="only this way")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything found into this file")
    given = parser.parse_args()
    cores = two_cores()
    try:
        findings = [measure(way, given.users, cores) for way in ([given.only] if given.only else WAYS)]
    except Unavailable as reason:
        raise SystemExit(str(reason)) from reason
    print(report(findings))
    for found in findings:
        if found.calls > SPARE * found.fewest_calls:
            print(f"{found.way}: more calls than the fewest and 1 %")
    if given.json:
        write_json(given.json, {**circumstances(), "found": [asdict(found) for found in findings]})
        say(f"written: {given.json}")


if __name__ == "__main__":
    main()
