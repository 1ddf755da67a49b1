"""The simulated API and the deliveries on real sockets: what is to go wrong goes wrong, and is written down."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import gevent
import gevent.socket
import pytest

from gbot.httpd import Server
from gbot.limiter import Limit
from gbot.simulator.calls import DROPPED, Calls
from gbot.simulator.faults import Fate, Fates, Faults, Trouble
from gbot.simulator.ledger import Ledger, Mishap
from gbot.simulator.line_api import LineApi
from gbot.simulator.postman import NoAnswer, Postman
from gbot.simulator.scene import Scene
from gbot.simulator.server import ApiApp, ApiServer, bind
from gbot.wsgi import ClientGone
from tests.rig import wait_until

TOKEN = "a channel access token"
Raw = tuple[int, dict[str, Any]]


class Place:
    """A simulated LINE API on a port, and a client of it."""

    def __init__(self, faults: Faults | None = None, count: int | None = None, rate_limits: bool = True) -> None:
        self.scene = Scene.of(1, 10, (("text", 1),), 1_790_000_000_000)
        self.ledger, self.calls = Ledger(), Calls()
        for number in range(200):
            self.ledger.send(number, True, time.monotonic())
        api = LineApi(self.scene, TOKEN, self.ledger, self.calls)
        if count is not None:
            api.limits = dict.fromkeys(api.limits, Limit(count=count))
        fates = Fates(faults or Faults(), 1)
        self.app = ApiApp(api, fates, self.ledger, self.calls, rate_limits=rate_limits)
        self.server = ApiServer(self.app, bind(0))
        self.server.start()

    def reply(self, number: int, token: str = TOKEN) -> Raw:
        """The status and the JSON of the answer; status 0 when there was none. Raises NoAnswer: nobody is there."""
        body = {"replyToken": self.scene.codes.hexadecimal(number), "messages": [{"type": "text", "text": "hello"}]}
        return self.ask("/v2/bot/message/reply", json.dumps(body).encode(), {"Authorization": f"Bearer {token}"})

    def ask(self, path: str, body: bytes, headers: dict[str, str]) -> Raw:
        postman = Postman(self.server.address + path, 10.0)
        try:
            return postman.post(body, headers), {}
        finally:
            postman.close()


MakePlace = Callable[..., Place]


@pytest.fixture
def make_place() -> Iterator[MakePlace]:
    made: list[Place] = []

    def make(faults: Faults | None = None, count: int | None = None, rate_limits: bool = True) -> Place:
        made.append(Place(faults, count, rate_limits))
        return made[-1]

    yield make
    for place in made:
        place.server.stop()


def first(place: Place, faults: Faults, trouble: Trouble) -> tuple[int, Fate]:
    """Send requests until the next one is to meet this; returns its number."""
    fates = Fates(faults, 1)
    number = next(n for n in range(200) if fates.of(n).trouble is trouble)
    while place.calls.asked < number:
        place.ask("/v2/nothing", b"", {})
    return number, fates.of(number)


def test_a_reply_is_served_and_counted(make_place: MakePlace) -> None:
    place = make_place()
    assert place.reply(0)[0] == 200
    assert place.reply(0)[0] == 400
    assert place.reply(1, "another token")[0] == 401
    assert place.ask("/v2/nothing", b"", {})[0] == 404
    assert {name: dict(counts) for name, counts in place.calls.statuses.items()} == {
        "reply": {200: 1, 400: 1, 401: 1},
        "elsewhere": {404: 1},
    }
    assert (place.calls.asked, place.calls.waiting, place.calls.bad, place.calls.reused) == (4, 0, 2, 1)
    assert place.ledger.answered == 1


def test_requests_over_the_rate_are_refused(make_place: MakePlace) -> None:
    place = make_place(count=3)
    statuses = [place.reply(number)[0] for number in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    assert (place.calls.over_rate["reply"], place.app.windows["reply"].peak) == (2, 3)
    assert place.ledger.totals().never_why[Mishap.UNREPEATED] == 2


def test_without_rate_limits_a_bot_may_call_as_fast_as_it_likes(make_place: MakePlace) -> None:
    place = make_place(count=3, rate_limits=False)
    assert [place.reply(number)[0] for number in range(5)] == [200] * 5
    assert place.calls.over_rate.total() == 0
    assert (place.app.windows["reply"].peak, place.app.everything.peak, place.calls.waiting_max) == (5, 5, 1)


def test_a_storm_accepts_nothing(make_place: MakePlace) -> None:
    place = make_place(Faults(storm=1.0))
    assert place.reply(0)[0] == 429
    assert (place.calls.storms, place.ledger.answered, place.calls.over_rate.total()) == (1, 0, 0)


@pytest.mark.parametrize(("trouble", "accepted"), [(Trouble.FAIL, 0), (Trouble.HIDE, 1)])
def test_a_failure_may_have_been_accepted(make_place: MakePlace, trouble: Trouble, accepted: int) -> None:
    faults = Faults(fail=0.5)
    place = make_place(faults)
    _, fate = first(place, faults, trouble)
    assert place.reply(7)[0] == fate.status
    assert place.ledger.answered == accepted
    assert place.ledger.lost == 1 - accepted
    assert place.ledger.totals().unseen == accepted


def test_a_dropped_connection_has_accepted(make_place: MakePlace) -> None:
    place = make_place(Faults(drop=1.0))
    with pytest.raises(NoAnswer, match="closed before the answer"):
        place.reply(7)
    assert place.ledger.answered == 1
    assert place.calls.statuses["reply"][DROPPED] == 1
    assert place.calls.waiting == 0
    assert place.ledger.totals().unseen == 1


def test_the_answer_takes_its_time_and_many_wait_at_once(make_place: MakePlace) -> None:
    place = make_place(Faults(latency_s=(3.0, 3.1)))
    began = time.monotonic()
    replies = [gevent.spawn(place.reply, number) for number in range(50)]
    wait_until(lambda: place.calls.waiting == 50)
    assert place.ledger.answered == 0
    gevent.joinall(replies, raise_error=True)
    assert {reply.value[0] for reply in replies} == {200}
    assert time.monotonic() - began >= 3.0
    assert (place.calls.waiting, place.ledger.answered) == (0, 50)


def test_down_means_cut_off_and_refused_and_then_up_again(make_place: MakePlace) -> None:
    place = make_place(Faults(latency_s=(30.0, 30.0)))

    def reply() -> str:
        with pytest.raises(NoAnswer) as raised:
            place.reply(7)
        return str(raised.value)

    under_way = gevent.spawn(reply)
    wait_until(lambda: place.calls.waiting == 1)
    place.server.stop()
    assert not place.server.is_up
    assert "closed" in under_way.get()
    with pytest.raises(NoAnswer, match="refused"):
        place.reply(8)
    assert (place.calls.cut, place.calls.waiting, place.ledger.lost, place.ledger.answered) == (1, 0, 1, 0)
    assert place.ledger.totals().never_why[Mishap.CUT] == 1
    place.server.start()
    place.server.start()
    assert place.ask("/v2/nothing", b"", {})[0] == 404
    place.server.stop()
    place.server.stop()


def test_what_the_end_of_the_run_cuts_off_is_no_excuse(make_place: MakePlace) -> None:
    place = make_place(Faults(latency_s=(30.0, 30.0)))

    def reply() -> None:
        with pytest.raises(NoAnswer):
            place.reply(7)

    under_way = gevent.spawn(reply)
    wait_until(lambda: place.calls.waiting == 1)
    place.app.ending = True
    place.server.stop()
    under_way.get()
    assert (place.calls.cut, place.ledger.lost) == (0, 0)
    assert place.ledger.totals().never_why[Mishap.UNFINISHED] == 1


# The postman.


class Bot:
    """Takes deliveries as it is told to."""

    def __init__(self) -> None:
        self.listener = gevent.socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(16)
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}/callback/line"
        self.seen: list[tuple[str, str, bytes, str]] = []
        self.status = "200 OK"
        self.wait_s = 0.0
        self.gone = False
        self.server = Server(self, [self.listener])
        self.server.start()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        body = environ["wsgi.input"].read()
        target = environ["PATH_INFO"] + "?" * bool(environ["QUERY_STRING"]) + environ["QUERY_STRING"]
        self.seen.append((environ["REQUEST_METHOD"], target, body, environ["REMOTE_PORT"]))
        gevent.sleep(self.wait_s)
        if self.gone:
            raise ClientGone
        start_response(self.status, [("Content-Type", "text/plain")])
        return [b"taken"]


@pytest.fixture
def bot() -> Iterator[Bot]:
    made = Bot()
    yield made
    made.server.stop()
    made.server.drain(time.monotonic())


@pytest.fixture
def postman(bot: Bot) -> Iterator[Postman]:
    made = Postman(bot.address, 1.0)
    yield made
    made.close()


def test_deliveries_go_over_one_connection(bot: Bot, postman: Postman) -> None:
    for number in range(5):
        assert postman.post(b"%d" % number, {"x-line-signature": "signed"}) == 200
    assert [(method, target, body) for method, target, body, _ in bot.seen] == [
        ("POST", "/callback/line", b"%d" % number) for number in range(5)
    ]
    assert len({port for *_, port in bot.seen}) == 1


def test_deliveries_at_the_same_time_go_over_several(bot: Bot, postman: Postman) -> None:
    bot.wait_s = 0.05
    posts = [gevent.spawn(postman.post, b"x", {}) for _ in range(10)]
    gevent.joinall(posts, raise_error=True)
    assert [post.value for post in posts] == [200] * 10
    assert len({port for *_, port in bot.seen}) == 10


def test_a_status_is_told(bot: Bot, postman: Postman) -> None:
    bot.status = "503 Service Unavailable"
    assert postman.post(b"x", {}) == 503
    assert postman.get("hub.mode=subscribe") == (503, b"taken")
    assert bot.seen[-1][:2] == ("GET", "/callback/line?hub.mode=subscribe")


def test_a_connection_that_the_bot_has_closed_is_not_used_again(bot: Bot, postman: Postman) -> None:
    assert postman.post(b"1", {}) == 200
    bot.server.stop()
    bot.server.drain(time.monotonic())
    with pytest.raises(NoAnswer, match="refused"):
        postman.post(b"2", {})


def test_no_answer_in_time_is_no_answer(bot: Bot) -> None:
    bot.wait_s = 5.0
    hasty = Postman(bot.address, 0.05)
    with pytest.raises(NoAnswer, match="timed out"):
        hasty.post(b"x", {})
    bot.wait_s, bot.gone = 0.0, True
    with pytest.raises(NoAnswer, match="closed before the answer"):
        Postman(bot.address, 5.0).post(b"x", {})


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", 200),
        (b"HTTP/1.0 204 No Content\r\nX: y\r\n\r\n", 204),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200),
        (b"HTTP/1.1 200 OK\r\ncontent-LENGTH:  2 \r\nConnection: close\r\n\r\nok", 200),
        (b"SSH-2.0-OpenSSH\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok", None),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000, None),
        (b"", None),
    ],
)
def test_strange_answers(answer: bytes, status: int | None) -> None:
    listener = gevent.socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1)

    def serve() -> None:
        sock, _ = listener.accept()
        with sock:
            sock.recv(65_536)
            sock.sendall(answer)

    serving = gevent.spawn(serve)
    postman = Postman(f"http://127.0.0.1:{listener.getsockname()[1]}", 5.0)
    if status is None:
        with pytest.raises(NoAnswer):
            postman.post(b"x", {})
    else:
        assert postman.post(b"x", {}) == status
    postman.close()
    serving.kill()
    listener.close()
