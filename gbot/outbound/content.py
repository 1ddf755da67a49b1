"""An image, video, audio or file on its way from the platform to a handler."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from gbot.outbound.transport import Download


class ApiContent:
    """A download that has begun; see :class:`gbot.sender.Content`."""

    def __init__(self, download: Download) -> None:
        self._download = download
        self.content_type = download.headers.get("content-type")
        length = download.headers.get("content-length", "")
        # A length of so many digits is none; int() would refuse one of thousands.
        self.length = int(length) if length.isascii() and length.isdigit() and len(length) < 19 else None

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._download)

    def save(self, path: str | os.PathLike[str]) -> int:
        """Write it to a file, through one beside it: whoever looks sees all of it or nothing. Raises OSError."""
        target = Path(path)
        partial = target.with_name(f".{uuid.uuid4().hex}.part")
        length = 0
        try:
            with self, partial.open("xb") as file:
                for part in self:
                    length += file.write(part)
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return length

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._download.close()
