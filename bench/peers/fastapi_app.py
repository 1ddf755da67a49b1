"""FastAPI on uvicorn (uvloop, httptools): every message runs in an asyncio task of its own.

    python -m uvicorn fastapi_app:app --app-dir bench/peers --loop uvloop --http httptools --no-access-log

GET /count tells how many events were completed.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from pydantic import BaseModel


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    # uvicorn ends by raising the signal it was stopped with once more, which skips Python's own flush at exit.
    sys.stdout.flush()


app = FastAPI(lifespan=lifespan)
# The event loop keeps only weak references to tasks; without this set a task may be collected half-way.
running: set[asyncio.Task[None]] = set()


class Delivery(BaseModel):
    messages: str


class Tally:
    """How many events were completed since the start."""

    def __init__(self) -> None:
        self.events = 0


tally = Tally()


async def handle(message: str) -> None:
    print(f"message = {message!r}")
    tally.events += 1


@app.post("/callback")
async def callback(delivery: Delivery) -> dict[str, str]:
    for message in delivery.messages.split(","):
        task = asyncio.create_task(handle(message))
        running.add(task)
        task.add_done_callback(running.discard)
    return {"ok": "ok"}


@app.get("/count")
async def count() -> dict[str, int]:
    return {"events": tally.events}
