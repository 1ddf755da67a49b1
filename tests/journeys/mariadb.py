"""A MariaDB of the tests' own: a fresh data directory, a free port, gone afterwards."""

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
    """A running server; ``url`` is how to reach it."""

    def __init__(self, directory: Path) -> None:
        server, install = (shutil.which(name, path=SEARCH_PATH) for name in ("mariadbd", "mariadb-install-db"))
        if server is None or install is None:
            pytest.skip("mariadbd is not installed (Debian: apt-get install mariadb-server-core); it runs these tests")
        port = free_port()
        self.url = f"mysql://root@127.0.0.1:{port}/mysql"
        common = ["--no-defaults", f"--datadir={directory / 'data'}"]
        if os.geteuid() == 0:
            common.append("--user=root")
        subprocess.run(
            [install, *common, "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=60,
        )
        self._log = (directory / "log").open("wb")
        self._process = subprocess.Popen(
            [
                *(server, *common, "--bind-address=127.0.0.1", f"--port={port}", f"--socket={directory / 'socket'}"),
                *("--skip-name-resolve", "--innodb-buffer-pool-size=16M", "--innodb-log-file-size=8M"),
            ],
            stdout=self._log,
            stderr=self._log,
        )
        try:
            eventually(lambda: self._answers(port), 60)
        except BaseException:
            self.stop()
            raise

    def _answers(self, port: int) -> bool:
        assert self._process.poll() is None, "mariadbd ended by itself; its log says why"
        try:
            pymysql.connect(host="127.0.0.1", port=port, user="root").close()
        except pymysql.err.OperationalError:
            return False
        return True

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(DEADLINE_S)
        self._log.close()
