"""Sets a run up: the one module that knows which platforms there are."""

from __future__ import annotations

import time

from gbot.process import raise_file_limit
from gbot.simulator.calls import Calls
from gbot.simulator.faults import Fates
from gbot.simulator.ledger import Ledger
from gbot.simulator.line import LineWebhook
from gbot.simulator.line_api import LineApi
from gbot.simulator.messenger import MessengerWebhook
from gbot.simulator.messenger_api import MessengerApi
from gbot.simulator.platform import Api, Webhook
from gbot.simulator.play import Play
from gbot.simulator.postman import Postman
from gbot.simulator.scene import Scene
from gbot.simulator.server import ApiApp, ApiServer, bind
from gbot.simulator.settings import Settings


def build(settings: Settings) -> Play:
    """The run, ready to begin. Raises StartError, ConfigError."""
    raise_file_limit()
    listener = bind(settings.api_port)
    address = f"http://{listener.address}"
    scene = Scene.of(settings.seed, settings.users, settings.traffic.mix, time.time_ns() // 1_000_000, address)
    ledger, calls = Ledger(), Calls()
    webhook, api = _platform(settings, scene, ledger, calls)
    app = ApiApp(api, Fates(settings.faults, settings.seed), ledger, calls, rate_limits=settings.rate_limits)
    server = ApiServer(app, listener)
    postman = None
    if settings.to is not None and settings.traffic.rate:
        postman = Postman(settings.to, webhook.answer_within_s)
    return Play(settings, webhook, postman, app, server, ledger, calls)


def _platform(settings: Settings, scene: Scene, ledger: Ledger, calls: Calls) -> tuple[Webhook, Api]:
    if settings.platform == "messenger":
        secret, verify_token, page_token = settings.shared
        return MessengerWebhook(scene, secret, verify_token), MessengerApi(scene, page_token, ledger, calls)
    secret, access_token = settings.shared
    api = LineApi(scene, access_token, ledger, calls, settings.reply_window_s, settings.quota)
    return LineWebhook(scene, secret), api
