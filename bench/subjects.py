"""Who is measured: gbot and its peers, how each is started, and how one learns what it lacks."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from measuring import LOCALHOST, ROOT, Unavailable, command_output, say

PEERS = ROOT / "bench" / "peers"
FASTIFY = PEERS / "fastify"
GO = "go"
GO_PATH, GO_DRIVER = Path("/usr/share/gocode"), "github.com/go-sql-driver/mysql"  # where Debian has Go's libraries
# Whoever is compared with gbot keeps events in memory only; bench/durability.py asks what keeping them on disk costs.
MEMORY = ("--inbox", "memory:")
GUNICORN = ["gunicorn", "gevent", "greenlet", "PyMySQL", "DBUtils"]
DISTRIBUTIONS = {
    "gbot": ["gbot", "gevent", "greenlet", "falcon", "httptools", "msgspec", "PyMySQL"],
    "fastapi": ["fastapi", "starlette", "pydantic", "uvicorn", "uvloop", "httptools", "asyncmy"],
    "flask-gunicorn": ["flask", "werkzeug", *GUNICORN],
    "falcon-gunicorn": ["falcon", *GUNICORN],
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
    database_modules: tuple[str, ...] = ()
    counts: bool = True
    runs_events: bool = True

    def require(self, *, database: bool = False) -> None:
        """Raises Unavailable with what to do when something it is started with, or asks a database with, is missing."""
        if self.name == GO:
            require_go()
        elif self.name.startswith("fastify"):
            require_fastify(*(["mysql2"] if database else []))
        else:
            require_modules(self.python, [*self.modules, *(self.database_modules if database else ())])

    def versions(self) -> dict[str, str | None]:
        if self.name == GO:
            return {"go": command_output(["go", "version"])}
        if self.name.startswith("fastify"):
            found = {package: node_version(package) for package in ("fastify", "mysql2")}
            return {"node": command_output(["node", "--version"]), **found}
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

    def gunicorn(app: str) -> Callable[[int], list[str]]:
        how = ["-k", "gevent", "-w", "1", "--no-control-socket", "--log-level", "warning"]
        start = [peer_python, "-m", "gunicorn", app, "--chdir", str(PEERS), *how]
        return lambda port: [*start, "--bind", f"{LOCALHOST}:{port}"]

    def fastify(printing: str) -> Callable[[int], list[str]]:
        return lambda port: ["node", str(FASTIFY / "server.mjs"), str(port), printing]

    def gbot(port: int) -> list[str]:
        return gbot_command(port, options=["--pool", "5000", *MEMORY, *gbot_options])

    def floor(port: int) -> list[str]:
        return [peer_python, str(PEERS / "echo_floor.py"), str(port)]

    under, pooled = ("gunicorn", "gevent"), ("pymysql", "dbutils")
    everyone = [
        Subject("gbot", sys.executable, gbot, ("gbot.__main__",), counts=False),
        Subject("fastapi", peer_python, fastapi, ("fastapi", "uvicorn", "uvloop", "httptools"), ("asyncmy",)),
        Subject("flask-gunicorn", peer_python, gunicorn("flask_gunicorn:app"), ("flask", *under), pooled),
        Subject("falcon-gunicorn", peer_python, gunicorn("falcon_gunicorn:app"), ("falcon", *under), pooled),
        Subject("fastify", "", fastify("console")),
        Subject("fastify-buffered", "", fastify("buffered")),
        Subject("echo-floor", peer_python, floor, ("gevent",), counts=False, runs_events=False),
    ]
    return {subject.name: subject for subject in everyone}


def go_subject(directory: Path) -> Subject:
    """The peer in Go, which is built into this directory when it is first started."""
    return Subject(GO, "", lambda port: [str(built_go(directory)), str(port)])


def require_go() -> None:
    if not shutil.which("go"):
        raise Unavailable("go is not installed; Debian: apt-get install golang-go")
    if not (GO_PATH / "src" / GO_DRIVER).is_dir():
        raise Unavailable(f"{GO_DRIVER} missing; Debian: apt-get install golang-github-go-sql-driver-mysql-dev")


def built_go(directory: Path) -> Path:
    binary = directory / "go-server"
    if binary.exists():
        return binary
    say("building the peer in Go")
    own = {"GO111MODULE": "off", "GOPATH": str(GO_PATH), "GOCACHE": str(directory / "go-cache"), "GOFLAGS": ""}
    build = ["go", "build", "-o", str(binary), str(PEERS / "go_http" / "main.go")]
    try:
        done = subprocess.run(
            build, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, **own}
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable("go build did not end within 300 s") from error
    if done.returncode:
        raise Unavailable(f"go build failed: {done.stderr.strip()[-300:]}")
    return binary


def present(chosen: Sequence[Subject], skipped: dict[str, str], *, database: bool = False) -> list[Subject]:
    """Those whose parts are all installed; the others are put on the list of the skipped with the reason."""
    ready = []
    for subject in chosen:
        try:
            subject.require(database=database)
            ready.append(subject)
        except Unavailable as reason:
            skipped[subject.name] = str(reason)
            say(f"{subject.name} skipped: {reason}")
    return ready


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


def require_fastify(*besides: str) -> None:
    if not shutil.which("node"):
        raise Unavailable("node is not installed (20 or newer)")
    if missing := [package for package in ("fastify", *besides) if not node_version(package)]:
        names = " and ".join(missing)
        raise Unavailable(f"{names} missing; run `npm ci` in bench/peers/fastify, or pass --install-peers")


def node_version(package: str) -> str | None:
    try:
        found: str = json.loads((FASTIFY / "node_modules" / package / "package.json").read_text())["version"]
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
