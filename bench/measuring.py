"""What the benchmark scripts share: starting a server, reading its CPU and memory, telling what was found.

Servers are started on 127.0.0.1, write their stdout to a file, are stopped by their own pid and waited for. CPU and
memory are those of the server's whole process tree.
"""

import contextlib
import datetime
import http.client
import json
import os
import platform
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
LOCALHOST = "127.0.0.1"
READY_TIMEOUT_S = 20.0
# Longer than the servers themselves give their last events (gbot: 25 s).
STOP_TIMEOUT_S = 35.0
QUIET_POLL_S = 0.1
# Of one core: below this a server only keeps its timers running.
QUIET_CPU_SHARE = 0.15


class Unavailable(Exception):
    """A server that cannot be measured; the message is one line that says what to do."""


def say(text: str) -> None:
    """Progress goes to stderr, so that stdout holds the result alone."""
    print(text, file=sys.stderr, flush=True)


def exit_on_sigterm() -> None:
    """Turns SIGTERM into SystemExit, so that started servers are stopped on the way out."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM"))


def two_cores() -> tuple[int, int]:
    """The core for the server and the core for the client; SystemExit when there is only one."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        raise SystemExit("pinning needs two cores and an operating system that lets a process be bound to one")
    return cores[0], cores[1]


def pinned(command: Sequence[str], core: int | None) -> list[str]:
    """The command, bound to one core. The pid stays that of the command itself."""
    if core is None:
        return list(command)
    if shutil.which("taskset"):
        return ["taskset", "-c", str(core), *command]
    bind = f"import os, sys; os.sched_setaffinity(0, {{{core}}}); os.execvp(sys.argv[1], sys.argv[1:])"
    return [sys.executable, "-c", bind, *command]


def pin_this_process(core: int) -> None:
    os.sched_setaffinity(0, {core})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Server:
    """A running server."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    stdout: Path
    stderr: Path

    def tree(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def cpu_s(self) -> float:
        """User and system seconds of all its processes, those that ended and were waited for included."""
        total = 0.0
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])
        return total

    def rss_bytes(self) -> int:
        total = 0
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total

    def last_error(self) -> str:
        lines = self.stderr.read_text(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "nothing on stderr"


@contextlib.contextmanager
def running_server(
    name: str,
    command: Sequence[str],
    *,
    port: int,
    directory: Path,
    core: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Starts a server, waits until it accepts connections, stops it at the end; `directory` takes its output."""
    stdout, stderr = directory / "stdout", directory / "stderr"
    with stdout.open("wb") as out, stderr.open("wb") as err:
        process = subprocess.Popen(
            pinned(command, core),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=ROOT,
            env=server_environment(environment or {}),
            # A Ctrl-C in the terminal stops the script, and the script stops its servers.
            start_new_session=True,
        )
    server = Server(name, process, port, stdout, stderr)
    try:
        wait_until_ready(server)
        yield server
    finally:
        stop(server)


def server_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Ours, without what would make Python write every printed line by itself."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return {**kept, **extra}


def wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise Unavailable(f"{server.name} ended while starting: {server.last_error()}")
        with contextlib.suppress(OSError), socket.create_connection((LOCALHOST, server.port), timeout=1):
            return
        time.sleep(0.05)
    raise Unavailable(f"{server.name} accepted no connection within {READY_TIMEOUT_S:g} s: {server.last_error()}")


def stop(server: Server) -> None:
    """SIGTERM to its pid and wait; whatever is left of its process tree after the deadline is killed."""
    try:
        left = server.tree()
    except psutil.NoSuchProcess:
        left = []
    server.process.terminate()
    try:
        server.process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        say(f"  {server.name} did not stop within {STOP_TIMEOUT_S:g} s and is killed")
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    server.process.wait()


def wait_until_quiet(server: Server, timeout_s: float) -> float:
    """Waits until the server has nothing left to do; returns how long it was still busy, in seconds."""
    started = time.monotonic()
    before = server.cpu_s()
    while (now := time.monotonic()) < started + timeout_s:
        time.sleep(QUIET_POLL_S)
        after = server.cpu_s()
        if after - before <= QUIET_CPU_SHARE * QUIET_POLL_S:
            return now - started
        before = after
    return time.monotonic() - started


def deliver(connection: http.client.HTTPConnection, messages: Sequence[str]) -> tuple[int, bytes]:
    """One POST /callback; its status and its answer."""
    body = json.dumps({"messages": ",".join(messages)}).encode()
    connection.request("POST", "/callback", body, {"Content-Type": "application/json", "Accept": "application/json"})
    response = connection.getresponse()
    return response.status, response.read()


@dataclass(frozen=True)
class Counters:
    """How many handlers have begun to wait, have ended, and of those have failed since the start; napping.py tells."""

    slept: int = 0
    woken: int = 0
    failed: int = 0

    @property
    def asleep(self) -> int:
        return self.slept - self.woken


def read_counters(path: Path) -> Counters:
    """Nothing has been told before the first handler ran."""
    text = path.read_text().split() if path.exists() else []
    return Counters(*map(int, text)) if len(text) == 3 else Counters()


@dataclass(frozen=True)
class Sample:
    """One look at the server."""

    at_s: float
    counters: Counters
    cpu_s: float
    rss_bytes: int


def take_sample(server: Server, counters: Path) -> Sample:
    return Sample(time.monotonic(), read_counters(counters), server.cpu_s(), server.rss_bytes())


def machine() -> dict[str, object]:
    return {
        "cores": os.cpu_count(),
        "cpu": cpu_model(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()}",
    }


def cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_busy_percent() -> float:
    """How busy the machine is with other things just now: figures taken next to other work are worth little."""
    return psutil.cpu_percent(interval=0.5)


def command_output(command: Sequence[str]) -> str | None:
    """The first line a command prints to stdout, or None when there is none or the command cannot be run."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=ROOT, check=False)
        if lines := done.stdout.strip().splitlines():
            return lines[0].strip()
    return None


def commit() -> str | None:
    return command_output(["git", "describe", "--always", "--dirty"])


def command_line() -> str:
    """The command as it was typed; of an absolute path only the last part, so that a result tells no directories."""
    script = Path(sys.argv[0]).resolve().relative_to(ROOT)
    arguments = [Path(one).name if Path(one).is_absolute() else one for one in sys.argv[1:]]
    return shlex.join(["python", str(script), *arguments])


def circumstances() -> dict[str, object]:
    """When, how and where a result was found."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        "commit": commit(),
        "machine": machine(),
    }


def write_json(path: Path, result: Mapping[str, object]) -> None:
    path.write_text(json.dumps(result, indent=2) + "\n")


def median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def figure(value: float | None, digits: int = 0, unit: str = "") -> str:
    return "-" if value is None else f"{value:,.{digits}f}{unit}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A simple reStructuredText table: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    rule = "  ".join("=" * width for width in widths)
    lines = [table_line(row, widths) for row in [header, *rows]]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def table_line(row: Sequence[str], widths: Sequence[int]) -> str:
    first = row[0].ljust(widths[0])
    rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
    return "  ".join([first, *rest]).rstrip()
