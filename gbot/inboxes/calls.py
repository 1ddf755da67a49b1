"""How a store is called, so that the hub never waits for it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final, ParamSpec, Protocol, TypeVar, cast

from gevent.threadpool import ThreadPool

# The thread takes turns with the hub; by default every turn would cost it up to 5 ms of waiting.
SWITCH_INTERVAL_S: Final = 0.0002

P = ParamSpec("P")
T = TypeVar("T")


class Call(Protocol):
    """How a method of the store is called: directly, or in a native thread while the hub goes on."""

    def __call__(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T: ...


def directly(method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """A Call for stores whose waiting is cooperative."""
    return method(*args, **kwargs)


class InOneThread:
    """A Call for stores that block: always the same native thread, while the hub goes on."""

    def __init__(self) -> None:
        self._pool = ThreadPool(1)
        sys.setswitchinterval(SWITCH_INTERVAL_S)

    def __call__(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        def caught() -> tuple[T | None, BaseException | None]:
            """gevent would print what a thread raises, beside raising it here."""
            try:
                return method(*args, **kwargs), None
            except BaseException as error:
                return None, error

        result, error = self._pool.apply(caught)
        if error is not None:
            raise error
        return cast("T", result)
