"""FastAPI on uvicorn (uvloop, httptools): every message runs in an asyncio task of its own.

    python -m uvicorn fastapi_app:app --app-dir bench/peers --loop uvloop --http httptools --no-access-log

The connections are asyncmy's, in its own pool. GET /count tells how many events were completed.
"""

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from asked import DB_POOL, NAP_S, QUESTION, SCENARIO, Tally, database
from fastapi import FastAPI
from pydantic import BaseModel


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    if SCENARIO == 3:
        import asyncmy

        async with asyncmy.create_pool(minsize=DB_POOL, maxsize=DB_POOL, **database()) as app.state.pool:
            yield
    else:
        yield
    # uvicorn ends by raising the signal it was stopped with once more, which skips Python's own flush at exit.
    sys.stdout.flush()


app = FastAPI(lifespan=lifespan)
# The event loop keeps only weak references to tasks; without this set a task may be collected half-way.
running: set[asyncio.Task[None]] = set()
tally = Tally()


class Delivery(BaseModel):
    messages: str


async def handle(message: str) -> None:
    if SCENARIO == 1:
        print(f"message = {message!r}")
        return
    await asyncio.sleep(random.uniform(*NAP_S))
    if SCENARIO == 3:
        async with app.state.pool.acquire() as connection, connection.cursor() as cursor:
            await cursor.execute(QUESTION)
            await cursor.fetchone()


def ended(task: asyncio.Task[None]) -> None:
    running.discard(task)
    tally.running -= 1
    if task.cancelled() or task.exception():
        tally.failed += 1
    else:
        tally.events += 1


@app.post("/callback")
async def callback(delivery: Delivery) -> dict[str, str]:
    for message in delivery.messages.split(","):
        tally.running += 1
        task = asyncio.create_task(handle(message))
        running.add(task)
        task.add_done_callback(ended)
    return {"ok": "ok"}


@app.get("/count")
async def count() -> dict[str, int]:
    return tally.told()
