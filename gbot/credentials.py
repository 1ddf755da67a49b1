"""Secrets and tokens as they come from the settings: refused when they could not work. Pure; used by ``platforms/``.

No error's text holds the secret or the token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from gbot.errors import ConfigError

_PRINTABLE: Final = re.compile(r"[!-~]+")


def usable_secrets(secrets: Sequence[str], setting: str, what: str, platform: str) -> tuple[bytes, ...]:
    """The secrets that a delivery may be signed with. Raises ConfigError where anyone could guess one."""
    # A lone str is a Sequence[str] too: each of its letters would pass as a secret.
    if isinstance(secrets, str) or not secrets or not all(secret.strip() for secret in secrets):
        raise ConfigError(setting, f"one or more {what}, none of them empty", "something else", platform)
    return tuple(secret.encode() for secret in secrets)


def usable_token(token: str | None, setting: str, platform: str) -> str | None:
    """The token, None for none. Raises ConfigError for one that fits into no HTTP header."""
    if not token:
        return None
    if not _PRINTABLE.fullmatch(token):
        raise ConfigError(
            setting,
            "a token of printable ASCII characters",
            "one with a space, a line break or another character that no HTTP header can carry",
            platform,
        )
    return token
