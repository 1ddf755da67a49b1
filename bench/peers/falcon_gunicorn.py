"""Falcon on gunicorn's gevent worker: every message runs in a greenlet of its own.

    python -m gunicorn falcon_gunicorn:app --chdir bench/peers -k gevent -w 1

gunicorn patches the standard library before it loads this module. GET /count tells how many events were completed;
one worker, so the count is the whole count.
"""

import falcon
import gevent


class Callback:
    """Takes deliveries and counts the events that came in them and were completed."""

    def __init__(self) -> None:
        self.events = 0

    def handle(self, message: str) -> None:
        print(f"message = {message!r}")
        self.events += 1

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        for message in req.get_media()["messages"].split(","):
            gevent.spawn(self.handle, message)
        resp.media = {"ok": "ok"}

    def on_get_count(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.media = {"events": self.events}


callback = Callback()
app = falcon.App()
app.add_route("/callback", callback)
app.add_route("/count", callback, suffix="count")
