"""Flask on gunicorn's gevent worker: every message runs in a greenlet of its own.

    python -m gunicorn flask_gunicorn:app --chdir bench/peers -k gevent -w 1

GET /count tells how many events were completed; one worker, so the count is the whole count.
"""

import greenlets
from flask import Flask, request

app = Flask(__name__)


@app.post("/callback")
def callback() -> dict[str, str]:
    greenlets.start(request.get_json()["messages"])
    return {"ok": "ok"}


@app.get("/count")
def count() -> dict[str, int]:
    return greenlets.tally.told()
