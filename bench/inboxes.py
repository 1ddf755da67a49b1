"""The databases of the inbox benchmarks: a fresh one for each measurement, nothing of anybody else's touched.

SQLite files are made in a directory of their own below --directory. On a MySQL or MariaDB server each measurement gets
a database of its own, gbot_bench_…, which is dropped at the end; the server is one that runs already, or a MariaDB
started for the run on a data directory that is removed with it.
"""

import argparse
import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from measuring import LOCALHOST, Unavailable, free_port, pinned, say, two_cores

from gbot.database.address import EXPECTED, parse
from gbot.database.connection import Connection
from gbot.database.connector import Connector
from gbot.errors import DatabaseDown, StartError
from gbot.inboxes.desk import SqlDesk
from gbot.inboxes.mysql import MySqlStore
from gbot.inboxes.sqlite import SqliteStore
from gbot.inboxes.store import Place, Policy, StoreDown

# As `gbot serve` has it by default.
POLICY = Policy(strict=True, dedup_window_ms=25 * 3_600_000, keep_done_ms=0)
MYSQL_VARIABLE = "BENCH_MYSQL_URL"
MARIADB_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
MARIADB_READY_S = 60.0
# Durable to the last commit, as it is by default; the rest is what anybody would set for a database of some size.
MARIADB_SETTINGS = (
    *("--innodb-flush-log-at-trx-commit=1", "--innodb-buffer-pool-size=512M", "--innodb-log-file-size=256M"),
    *("--skip-name-resolve", "--skip-log-bin", "--max-allowed-packet=64M"),
)
# As the old system had it, for a pool of 5,000; a server that runs already is taken as it is.
CONNECTIONS_MAX = 5100
CONNECTIONS_FOR_OTHERS = 20  # gbot keeps some free, who measures looks through one
FSYNCS = 100
FSYNC_BYTES = 4096

Store = SqliteStore | MySqlStore
# Makes an empty inbox and removes it at the end; gives its URL.
Fresh = Callable[[], AbstractContextManager[str]]


@dataclass(frozen=True)
class Kind:
    """A kind of inbox that can be measured. ``database`` is the process of a server that was started for it."""

    name: str
    fresh: Fresh
    database: psutil.Process | None = None

    def database_cpu_s(self) -> float | None:
        return None if self.database is None else sum(self.database.cpu_times()[:2])


@contextlib.contextmanager
def fresh_memory() -> Iterator[str]:
    yield "memory:"


@contextlib.contextmanager
def fresh_sqlite(directory: Path) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="gbot-bench-inbox-", dir=directory) as own:
        yield f"sqlite://{own}/inbox.sqlite3"


@contextlib.contextmanager
def fresh_mysql(server_url: str) -> Iterator[str]:
    """A database of its own on that server, with gbot's tables, made by the command that users are told to use."""
    name = f"gbot_bench_{secrets.token_hex(6)}"
    url = urlsplit(server_url)._replace(path=f"/{name}").geturl()
    administer(server_url, f"CREATE DATABASE {name}")
    try:
        migrate(url)
        yield url
    finally:
        administer(server_url, f"DROP DATABASE {name}")


def administer(server_url: str, statement: str) -> None:
    # Dropping a database of a gigabyte takes a while.
    connection = connect(server_url, timeout_s=300)
    try:
        connection.execute(statement)
    finally:
        connection.close()


def connect(url: str, timeout_s: float) -> Connection:
    try:
        return Connector(parse(url)).connect(timeout_s)
    except DatabaseDown as error:
        raise Unavailable(f"the MySQL server cannot be used: {error}") from error


def migrate(url: str) -> None:
    # In the environment, for a URL on the command line may hold no password.
    environment = {**os.environ, "GBOT_INBOX": url}
    done = subprocess.run(
        [sys.executable, "-m", "gbot", "inbox", "migrate"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
    )
    if done.returncode:
        raise Unavailable(f"gbot inbox migrate failed: {(done.stderr or done.stdout).strip()[-300:]}")


def store_of(url: str) -> Store:
    """The store of a fresh inbox, opened. Raises Unavailable."""
    store: Store = (
        SqliteStore(Path(urlsplit(url).path), POLICY) if url.startswith("sqlite:") else MySqlStore(url, POLICY)
    )
    try:
        store.open()
    except StartError as error:
        raise Unavailable(str(error)) from error
    return store


def unsettled(store: Store) -> int:
    """How many entries have not come to an end. Raises Unavailable."""
    try:
        by_place = SqlDesk(store).counts().by_place
    except StoreDown:  # MySQL ends the sessions of inboxes that are idle for 10 s; the next call begins another
        try:
            by_place = SqlDesk(store).counts().by_place
        except StoreDown as error:
            raise Unavailable(f"the inbox cannot be read: {error}") from error
    return sum(by_place.get(place, 0) for place in Place if place is not Place.DONE)


@contextlib.contextmanager
def mariadb(directory: Path, core: int | None, settings: Sequence[str] = ()) -> Iterator[tuple[str, psutil.Process]]:
    """Starts a MariaDB of its own; its URL and its process. The data directory is removed at the end."""
    server, install = (shutil.which(name, path=MARIADB_PATH) for name in ("mariadbd", "mariadb-install-db"))
    if server is None or install is None:
        raise Unavailable("mariadbd is not installed; Debian: apt-get install mariadb-server-core")
    with tempfile.TemporaryDirectory(prefix="gbot-bench-mariadb-", dir=directory) as own:
        data, socket, port = Path(own, "data"), Path(own, "socket"), free_port()
        # A user mysql need not exist, and would not be allowed into a directory of root's.
        user = ["--user=root"] if os.geteuid() == 0 else []
        # Servers that start remove what they find of others in a shared directory for temporary files.
        common = ["--no-defaults", f"--datadir={data}", f"--tmpdir={own}", *user]
        prepare_data(install, common)
        url = f"mysql://root@{LOCALHOST}:{port}/mysql"
        listen = [f"--bind-address={LOCALHOST}", f"--port={port}", f"--socket={socket}"]
        with Path(own, "log").open("wb") as output:
            process = subprocess.Popen(
                pinned([server, *common, *listen, *MARIADB_SETTINGS, *settings], core),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # A Ctrl-C in the terminal stops the script, and the script stops the server.
                start_new_session=True,
            )
        try:
            wait_until_it_answers(process, url, Path(own, "log"))
            yield url, psutil.Process(process.pid)
        finally:
            stop_process(process)


def prepare_data(install: str, common: list[str]) -> None:
    options = ["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]
    done = subprocess.run([install, *common, *options], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise Unavailable(f"mariadb-install-db failed: {(done.stderr or done.stdout).strip()[-300:]}")


def wait_until_it_answers(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + MARIADB_READY_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Unavailable(f"mariadbd ended while starting: {log.read_text(errors='replace').strip()[-300:]}")
        try:
            connect(url, timeout_s=5).close()
            return
        except Unavailable:
            time.sleep(0.05)
    raise Unavailable(f"mariadbd did not answer within {MARIADB_READY_S:g} s")


def stop_process(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def disk(directory: Path) -> dict[str, object]:
    """What 'stored' means where the files are: the file system, and the time until one small write is on the disk."""
    path = directory.resolve()
    mounts = [part for part in psutil.disk_partitions(all=True) if path.is_relative_to(part.mountpoint)]
    kind = max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else None
    times_ms = []
    with tempfile.TemporaryFile(dir=path, buffering=0) as file:
        for _ in range(FSYNCS):
            started = time.perf_counter()
            file.write(bytes(FSYNC_BYTES))
            os.fdatasync(file.fileno())
            times_ms.append((time.perf_counter() - started) * 1000)
    times_ms.sort()
    return {"file_system": kind, "fdatasync_p50_ms": times_ms[FSYNCS // 2], "fdatasync_max_ms": times_ms[-1]}


def disk_sentence(found: dict[str, object]) -> str:
    kind, typical, longest = found.values()
    sentence = (
        f"the files are on {kind}; a write of 4 KiB is on the disk after {typical:.2f} ms (at most {longest:.2f})"
    )
    return f"{sentence}: memory, no disk; nothing here is durable" if kind in ("tmpfs", "ramfs") else sentence


# What the scripts that measure inboxes can be told about them.


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--directory",
        type=existing_directory,
        default=Path(tempfile.gettempdir()),
        metavar="PATH",
        help="where files are made and removed, on the disk that is to be measured (default: $TMPDIR)",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--mysql",
        type=mysql_url,
        default=os.environ.get(MYSQL_VARIABLE),
        metavar="URL",
        help="a running server, on which databases are made and dropped; "
        f"the environment's {MYSQL_VARIABLE} may hold a password as well",
    )
    which.add_argument("--start-mariadb", action="store_true", help="start a MariaDB for this run and remove it")
    parser.add_argument(
        "--mysql-core", type=int, metavar="CORE", help="the core of that MariaDB (default: the client's)"
    )


def existing_directory(text: str) -> Path:
    path = Path(text).resolve()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"expected a directory, got {text!r}")
    return path


def mysql_url(text: str) -> str:
    """A command line can be read by every user of the machine, and is written into the result."""
    try:
        address = parse(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected {EXPECTED}") from None
    if address.password and text != os.environ.get(MYSQL_VARIABLE):
        raise argparse.ArgumentTypeError(f"a URL with a password belongs into the environment's {MYSQL_VARIABLE}")
    return text


@contextlib.contextmanager
def mysql_kind(arguments: argparse.Namespace, name: str, settings: Sequence[str] = ()) -> Iterator[Kind | None]:
    """MySQL as the options have it, or None where they do not speak of it; `settings` are for one that is started."""
    if arguments.start_mariadb:
        core = two_cores()[1] if arguments.mysql_core is None else arguments.mysql_core
        say(f"starting a MariaDB on core {core}")
        with mariadb(arguments.directory, core, settings) as (url, process):
            yield Kind(name, lambda: fresh_mysql(url), process)
    elif arguments.mysql:
        yield Kind(name, lambda: fresh_mysql(arguments.mysql))
    else:
        yield None


@contextlib.contextmanager
def roomy_mysql(arguments: argparse.Namespace, connections: int) -> Iterator[Kind]:
    """A server that allows so many connections to gbot. Raises Unavailable when the options name none that does."""
    with mysql_kind(arguments, "mysql", [f"--max-connections={CONNECTIONS_MAX}"]) as mysql:
        if mysql is None:
            raise Unavailable("this needs a database: --start-mariadb, or --mysql URL")
        check_room(mysql, connections)
        yield mysql


def check_room(mysql: Kind, connections: int) -> None:
    with mysql.fresh() as url, contextlib.closing(connect(url, timeout_s=10)) as connection:
        allowed = int(connection.rows("SELECT @@max_connections")[0][0])
    wanted = connections + CONNECTIONS_FOR_OTHERS
    if allowed < wanted:
        raise Unavailable(
            f"{connections} connections need a database with max_connections of {wanted} or more; it has {allowed}"
        )


@contextlib.contextmanager
def connections_of(url: str) -> Iterator[Callable[[], int]]:
    """Tells how many connections that server has open, the one that asks left out."""
    with contextlib.closing(connect(url, timeout_s=10)) as connection:
        yield lambda: int(connection.rows("SHOW GLOBAL STATUS LIKE 'Threads_connected'")[0][1]) - 1


def mysql_version(kind: Kind) -> str:
    with kind.fresh() as url, contextlib.closing(connect(url, timeout_s=5)) as connection:
        version: str = connection.rows("SELECT VERSION()")[0][0]
        return version
