"""The program ``gbot``. gevent patches the standard library before anything else is imported."""

import gevent
from gevent import monkey

gevent.config.track_greenlet_tree = False  # costs a dictionary and a stack walk for every greenlet
monkey.patch_all()

from gbot.cli import run  # noqa: E402 - after the patching

if __name__ == "__main__":
    run()
