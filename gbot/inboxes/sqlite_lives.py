"""Which workers of a SQLite inbox are alive, as the kernel knows it.

Every life holds a lock on one byte of a file beside the database: the byte whose number is the life. The kernel drops
the lock when the process ends, however it ends, so there is no heartbeat, and nothing has to be waited for. The locks
belong to the open file (Linux's open file description locks), not to the process, so that two stores in one process
see each other as two processes would.

The file stays empty. Should somebody remove it, workers look gone to each other: their lives end, and each enlists
again with the new file. Entries that were running then run twice, and nothing is lost.
"""

from __future__ import annotations

import fcntl
import os
import struct
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_FLOCK: Final = "hhqqi4x"  # struct flock: type, whence, start, length, process


class Lives:
    """The lives that this store holds, and a look at those of others. Methods raise OSError, and none ever waits."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._held: set[int] = set()
        _let_go_in_children(self)

    def hold(self, life: int) -> None:
        """Show that this life is there, until ``release``, ``close`` or the end of the process."""
        if life in self._held:
            return
        if not self._held:
            self.close()  # to find the file that has taken the place of a removed one
        fcntl.fcntl(self._open(), fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK, life))
        self._held.add(life)

    def release(self, life: int) -> None:
        if life in self._held:
            fcntl.fcntl(self._open(), fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, life))
            self._held.discard(life)

    def gone(self, lives: Iterable[int]) -> list[int]:
        """Those of the lives that nobody holds."""
        return [life for life in lives if life not in self._held and self._is_free(life)]

    def _is_free(self, life: int) -> bool:
        answer = fcntl.fcntl(self._open(), fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, life))
        return bool(struct.unpack(_FLOCK, answer)[0] == fcntl.F_UNLCK)

    def _open(self) -> int:
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return self._descriptor

    def close(self) -> None:
        """Let go of all lives; a later call opens the file anew."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None
        self._held.clear()


def _let_go_in_children(lives: Lives) -> None:
    """A process that a handler forks shares the open file: it would keep the locks when its parent has died."""
    here = weakref.ref(lives)

    def let_go() -> None:
        lives = here()
        if lives is not None:
            lives.close()

    os.register_at_fork(after_in_child=let_go)


def _flock(kind: int, life: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, life, 1, 0)
