"""Tests for bots, in plain pytest: no network, no server, no patching.

Write ``test_mybot.py`` beside ``mybot.py`` and run ``pytest``::

    import pytest
    from gbot.testing import Client
    from mybot import bot

    @pytest.fixture
    def client() -> Client:
        return Client(bot)

    def test_it_answers(client):
        assert client.text("hi").texts == ["hi"]

    def test_it_greets_everybody_in_their_language(client):
        assert client.user("Taro", language="ja").follow().texts == ["Taroさん、はじめまして。"]

    def test_it_remembers(client):
        client.text("my cat is called Tama")
        assert client.state == {"cat": "Tama"}
        assert client.group("Cat lovers").state == {}

    def test_it_waits_for_the_kitchen(client):
        answers = client.postback("order=ramen")
        assert (answers.ended, answers.after_s) == ("retry", 600)
        assert client.again().texts == ["Ordered."]

Each call makes one event in the platform's own JSON and runs it as ``gbot serve`` would: parsed by the platform,
handled with a Context of its own, its messages encoded for the platform, its state and users stored. A message that
could not be sent fails the test, and so does an error in a handler, with its own traceback. Users, states and the ids
of events are kept for as long as the Client lives; every Client begins with none.

Handlers that use ``ctx.db`` get a real database, which is yours to fill before a test and to empty after it::

    client = Client(bot, db="mysql://tester@localhost/bot_test")

What differs from the server: events run one after the other and are not tried again by themselves, no timeout stops a
handler, one that sleeps makes the test wait, and ``ctx.http`` reaches the real network.
"""

from gbot.testing.answers import Answers, Sent
from gbot.testing.client import Client, Talk

__all__ = ["Answers", "Client", "Sent", "Talk"]
