"""Who is measured: gbot and its peers, how each is started, and how one learns what it lacks."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from measuring import LOCALHOST, ROOT, Unavailable, command_output, say

PEERS = ROOT / "bench" / "peers"
FASTIFY = PEERS / "fastify"
# Whoever is compared with gbot keeps events in memory only; bench/durability.py asks what keeping them on disk costs.
MEMORY = ("--inbox", "memory:")
DISTRIBUTIONS = {
    "gbot": ["gbot", "gevent", "greenlet", "falcon", "httptools", "msgspec"],
    "fastapi": ["fastapi", "starlette", "pydantic", "uvicorn", "uvloop", "httptools"],
    "falcon-gunicorn": ["falcon", "gunicorn", "gevent", "greenlet"],
    "echo-floor": ["gevent", "greenlet"],
}


@dataclass(frozen=True)
class Subject:
    """One server of the comparison.

    `command` gets the port. `runs_events` is False for the floor, which answers and does nothing else; `counts` says
    that GET /count tells the number of completed events. What is printed is counted in any case.
    """

    name: str
    python: str
    command: Callable[[int], list[str]]
    modules: tuple[str, ...] = ()
    counts: bool = True
    runs_events: bool = True

    def require(self) -> None:
        """Raises Unavailable with what to do when something it is started with is missing."""
        if self.name.startswith("fastify"):
            require_fastify()
        else:
            require_modules(self.python, self.modules)

    def versions(self) -> dict[str, str | None]:
        if self.name.startswith("fastify"):
            return {"node": command_output(["node", "--version"]), "fastify": fastify_version()}
        return python_versions(self.python, DISTRIBUTIONS[self.name])


def gbot_command(port: int, *, app: str | None = None, options: Sequence[str] = ()) -> list[str]:
    """How gbot is started; `app` is the bot as module:name, the default is the bot that prints every message."""
    chosen = [app] if app else []
    return [
        *[sys.executable, "-m", "gbot", "serve", *chosen],
        *["--port", str(port), "--log-level", "warning"],
        *options,
    ]


def subjects(peer_python: str, gbot_options: Sequence[str] = ()) -> dict[str, Subject]:
    """All of them, in the order of the table."""

    def fastapi(port: int) -> list[str]:
        where = ["--app-dir", str(PEERS), "--host", LOCALHOST, "--port", str(port)]
        how = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
        return [peer_python, "-m", "uvicorn", "fastapi_app:app", *where, *how]

    def falcon(port: int) -> list[str]:
        where = ["--chdir", str(PEERS), "--bind", f"{LOCALHOST}:{port}"]
        how = ["-k", "gevent", "-w", "1", "--no-control-socket", "--log-level", "warning"]
        return [peer_python, "-m", "gunicorn", "falcon_gunicorn:app", *where, *how]

    def fastify(printing: str) -> Callable[[int], list[str]]:
        return lambda port: ["node", str(FASTIFY / "server.mjs"), str(port), printing]

    def gbot(port: int) -> list[str]:
        return gbot_command(port, options=["--pool", "5000", *MEMORY, *gbot_options])

    def floor(port: int) -> list[str]:
        return [peer_python, str(PEERS / "echo_floor.py"), str(port)]

    everyone = [
        Subject("gbot", sys.executable, gbot, ("gbot.__main__",), counts=False),
        Subject("fastapi", peer_python, fastapi, ("fastapi", "uvicorn", "uvloop", "httptools")),
        Subject("falcon-gunicorn", peer_python, falcon, ("falcon", "gunicorn", "gevent")),
        Subject("fastify", "", fastify("console")),
        Subject("fastify-buffered", "", fastify("buffered")),
        Subject("echo-floor", peer_python, floor, ("gevent",), counts=False, runs_events=False),
    ]
    return {subject.name: subject for subject in everyone}


def require_modules(python: str, modules: Iterable[str]) -> None:
    probe = (
        "import sys, importlib.util as u\n"
        "def has(name):\n"
        "    try: return u.find_spec(name) is not None\n"
        "    except ImportError: return False\n"
        "print(*[name for name in sys.argv[1:] if not has(name)])"
    )
    try:
        done = subprocess.run(
            [python, "-c", probe, *modules], capture_output=True, text=True, cwd=ROOT, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"the interpreter {Path(python).name} cannot be run: {error}") from error
    if missing := done.stdout.split():
        raise Unavailable(f"{', '.join(missing)} missing; run: pip install -e '.[bench]'")


def require_fastify() -> None:
    if not shutil.which("node"):
        raise Unavailable("node is not installed (20 or newer)")
    if not fastify_version():
        raise Unavailable("Fastify missing; run `npm ci` in bench/peers/fastify, or pass --install-peers")


def fastify_version() -> str | None:
    try:
        found: str = json.loads((FASTIFY / "node_modules" / "fastify" / "package.json").read_text())["version"]
    except (OSError, ValueError, KeyError):
        return None
    return found


def install_fastify() -> None:
    """npm ci in bench/peers/fastify; SystemExit with one line when it fails."""
    say("npm ci in bench/peers/fastify")
    try:
        done = subprocess.run(["npm", "ci"], cwd=FASTIFY, capture_output=True, text=True, timeout=600, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SystemExit(f"npm ci could not be run: {error}") from error
    if done.returncode:
        reasons = [line for line in done.stderr.splitlines() if line.startswith("npm error")]
        raise SystemExit(f"npm ci failed: {reasons[0] if reasons else 'no reason given'}")


def python_versions(python: str, distributions: Iterable[str]) -> dict[str, str | None]:
    probe = (
        "import json, platform, sys, importlib.metadata as m\n"
        "def version(name):\n"
        "    try: return m.version(name)\n"
        "    except m.PackageNotFoundError: return None\n"
        "found = {name: version(name) for name in sys.argv[1:]}\n"
        "print(json.dumps({'python': platform.python_version(), **found}))"
    )
    found: dict[str, str | None] = json.loads(command_output([python, "-c", probe, *distributions]) or "{}")
    return found
