"""Falcon on gunicorn's gevent worker: every message runs in a greenlet of its own.

    python -m gunicorn falcon_gunicorn:app --chdir bench/peers -k gevent -w 1

GET /count tells how many events were completed; one worker, so the count is the whole count.
"""

import falcon
import greenlets


class Callback:
    """Takes deliveries and tells what has become of the events that came in them."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        greenlets.start(req.get_media()["messages"])
        resp.media = {"ok": "ok"}

    def on_get_count(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.media = greenlets.tally.told()


callback = Callback()
app = falcon.App()
app.add_route("/callback", callback)
app.add_route("/count", callback, suffix="count")
