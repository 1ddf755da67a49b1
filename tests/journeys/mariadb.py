"""A database server of the tests' own: a fresh data directory, a free port, gone afterwards.

It is MariaDB. ``GBOT_TEST_MYSQLD`` names the ``mysqld`` of a MySQL that takes its place in all tests, such as that of
Oracle's packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pymysql
import pytest

from tests.journeys.processes import DEADLINE_S, eventually, free_port

SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


class MariaDb:
    """A server, running from the start; ``url`` is how to reach it, ``socket`` its unix socket.

    ``options`` are more options of mariadbd. After ``kill`` or ``stop``, ``start`` runs it again on the same port and
    data.
    """

    def __init__(self, directory: Path, *options: str) -> None:
        self._port = free_port()
        self.url = f"mysql://root@127.0.0.1:{self._port}/mysql"
        self.socket = directory / "socket"
        # Servers that start remove what they find of others in a shared directory for temporary files.
        common = ["--no-defaults", f"--datadir={directory / 'data'}", f"--tmpdir={directory}"]
        if os.geteuid() == 0:
            common.append("--user=root")
        server, *own = (_mysql if os.environ.get("GBOT_TEST_MYSQLD") else _mariadb)(directory, common)
        self._command = [
            *(server, *common, "--bind-address=127.0.0.1", f"--port={self._port}", f"--socket={self.socket}"),
            *("--skip-name-resolve", "--innodb-buffer-pool-size=16M", *own, *options),
        ]
        self._log_path = directory / "log"
        self.start()

    def start(self) -> None:
        """Run it and wait until it answers."""
        self._log = self._log_path.open("ab")
        self._process = subprocess.Popen(self._command, stdout=self._log, stderr=self._log)
        try:
            eventually(self._answers, 60)
        except BaseException:
            self.kill()
            raise

    def _answers(self) -> bool:
        assert self._process.poll() is None, f"{self._command[0]} ended by itself; its log says why"
        try:
            pymysql.connect(host="127.0.0.1", port=self._port, user="root").close()
        except pymysql.err.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """End it in good order; again does no harm."""
        self._process.terminate()
        self._process.wait(DEADLINE_S)
        self._log.close()

    def kill(self) -> None:
        """End it as a power failure does."""
        self._process.kill()
        self._process.wait(DEADLINE_S)
        self._log.close()


def _mariadb(_directory: Path, common: list[str]) -> list[str]:
    """Make what the server needs. Returns its program, and options of its own."""
    server, install = (shutil.which(name, path=SEARCH_PATH) for name in ("mariadbd", "mariadb-install-db"))
    if server is None or install is None:
        pytest.skip("mariadbd is not installed (Debian: apt-get install mariadb-server-core); it runs these tests")
    _install(install, *common, "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve")
    return [server, "--innodb-log-file-size=8M"]


def _mysql(directory: Path, common: list[str]) -> list[str]:
    server, first = os.environ["GBOT_TEST_MYSQLD"], directory / "first.sql"
    first.write_text("CREATE USER root@127.0.0.1;\nGRANT ALL ON *.* TO root@127.0.0.1 WITH GRANT OPTION;\n")
    _install(server, *common, "--initialize-insecure", f"--init-file={first}")
    return [server, "--mysqlx=OFF", "--secure-file-priv=", "--innodb-redo-log-capacity=8M"]


def _install(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60)
