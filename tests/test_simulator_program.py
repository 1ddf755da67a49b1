"""The simulator as a program: LINE's own SDK has to take its API for LINE's, and the command has to do what it says."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from linebot.v3 import messaging as sdk
from linebot.v3.messaging.exceptions import ApiException, UnauthorizedException
from linebot.v3.webhook import SignatureValidator

from tests.journeys.processes import Program, clean_environ, eventually, free_port, gbot

SECRET, TOKEN = "a-channel-secret", "a-channel-access-token"
ENVIRON = {"GBOT_LINE_CHANNEL_SECRET": SECRET, "GBOT_LINE_CHANNEL_ACCESS_TOKEN": TOKEN}
HELLO = sdk.TextMessage(text="hello")
EVENTS = 60


GONE = "Connection (refused|reset by peer)"  # the latter when the listener was closed in between


class Taker:
    """A webhook that takes deliveries and lets the test answer."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.bad_signatures = 0
        self.refusing = False
        self.refused = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}/callback/line"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.01])
        self._thread.start()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        taker, validator = self, SignatureValidator(SECRET)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                taker.bad_signatures += not validator.validate(body, self.headers["x-line-signature"])
                if taker.refusing:
                    taker.refused += 1
                else:
                    taker.events += json.loads(body)["events"]
                self.send_response(503 if taker.refusing else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *words: object) -> None:
                """Say nothing."""

        return Handler

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def taker() -> Iterator[Taker]:
    made = Taker()
    yield made
    made.stop()


class Simulated(Program):
    """``gbot simulate line``; returns from its constructor when the API is there."""

    def __init__(self, *arguments: str, directory: Path) -> None:
        self._json = directory / "verdict.json"
        command = [sys.executable, "-m", "gbot", "simulate", "line", "--api-port", "0", "--json", str(self._json)]
        super().__init__([*command, *arguments], ENVIRON)
        self.address = self.wait_for_line(r"Simulated line API at (\S+)\. ")[1]

    def finish(self) -> dict[str, Any]:
        """Wait for its end; returns the verdict."""
        self.wait()
        verdict: dict[str, Any] = json.loads(self._json.read_text())
        return verdict

    def client(self, token: str = TOKEN) -> sdk.ApiClient:
        return sdk.ApiClient(sdk.Configuration(host=self.address, access_token=token))


@pytest.fixture
def simulated(taker: Taker, tmp_path: Path, programs: list[Program]) -> Simulated:
    """A simulator that has sent texts and images, which the bot has taken."""
    program = Simulated(
        "--to",
        taker.address,
        "--rate",
        "200",
        "--events",
        str(EVENTS),
        "--batch",
        "5",
        "--users",
        "5",
        "--mix",
        "text=1,image=1",
        directory=tmp_path,
    )
    programs.append(program)
    eventually(lambda: len(taker.events) == EVENTS)
    return program


def test_the_sdk_answers_every_event_and_the_verdict_says_so(simulated: Simulated, taker: Taker) -> None:
    with simulated.client() as client:
        api = sdk.MessagingApi(client)
        for number, event in enumerate(taker.events):
            user, quote = event["source"]["userId"], sdk.TextMessage(text=f"about {event['webhookEventId']}")
            key = str(uuid.uuid4())
            if number % 3 == 0:
                sent = api.reply_message(sdk.ReplyMessageRequest(replyToken=event["replyToken"], messages=[HELLO] * 5))
                assert len(sent.sent_messages) == 5
            elif number % 3 == 1:
                push = sdk.PushMessageRequest(to=user, messages=[quote])
                assert api.push_message(push, x_line_retry_key=key).sent_messages
                with pytest.raises(ApiException) as raised:
                    api.push_message(push, x_line_retry_key=key)
                assert raised.value.status == 409
                assert raised.value.headers["x-line-accepted-request-id"]
            else:
                api.multicast(sdk.MulticastRequest(to=[user], messages=[quote]), x_line_retry_key=key)
    verdict = simulated.finish()
    assert verdict["sentence"] == "Good: every event was answered exactly once."
    assert simulated.code == 0
    assert verdict["events"] | {"take_s": 0, "answer_s": 0} == {
        "sent": EVENTS,
        "taken": EVENTS,
        "wanting_an_answer": EVENTS,
        "once": EVENTS,
        "twice": 0,
        "never": 0,
        "lost": 0,
        "answered_unseen": 0,
        "never_why": {},
        "twice_why": {},
        "take_s": 0,
        "answer_s": 0,
    }
    assert verdict["api"]["repeated"] == EVENTS // 3
    assert verdict["api"]["endpoints"]["push"]["statuses"] == {"200": EVENTS // 3, "409": EVENTS // 3}
    assert taker.bad_signatures == 0


def test_the_sdk_gets_what_it_asks_for(simulated: Simulated, taker: Taker) -> None:
    with simulated.client() as client:
        api, blob = sdk.MessagingApi(client), sdk.MessagingApiBlob(client)
        users = {event["source"]["userId"] for event in taker.events}
        assert {api.get_profile(user).language for user in users} <= {"en", "ja"}
        with pytest.raises(ApiException) as raised:
            api.get_profile("U" + "0" * 32)
        assert (raised.value.status, json.loads(raised.value.body)) == (404, {"message": "Not found"})
        api.broadcast(sdk.BroadcastRequest(messages=[HELLO]))
        user = sorted(users)[0]
        api.show_loading_animation(sdk.ShowLoadingAnimationRequest(chatId=user, loadingSeconds=5))
        assert api.get_message_quota().type == "none"
        assert api.get_message_quota_consumption().total_usage == 5
        images = [event["message"]["id"] for event in taker.events if event["message"]["type"] == "image"]
        asked = [blob.get_message_content_with_http_info(image) for image in images[:10]]
        assert {answer.status_code for answer in asked} <= {200, 202}
        assert any(answer.status_code == 200 and len(answer.data) >= 1000 for answer in asked)


def test_the_sdk_is_refused_what_line_refuses(simulated: Simulated, taker: Taker) -> None:
    token = taker.events[0]["replyToken"]
    reply = sdk.ReplyMessageRequest(replyToken=token, messages=[HELLO])
    with simulated.client("another") as client, pytest.raises(UnauthorizedException):
        sdk.MessagingApi(client).reply_message(reply)
    with simulated.client() as client:
        api = sdk.MessagingApi(client)
        with pytest.raises(ApiException) as raised:
            api.reply_message(sdk.ReplyMessageRequest.construct(reply_token=token, messages=[HELLO] * 6))
        assert json.loads(raised.value.body)["details"][0]["property"] == "messages"
        api.reply_message(reply)
        with pytest.raises(ApiException) as raised:
            api.reply_message(reply)
        assert json.loads(raised.value.body) == {"message": "Invalid reply token"}
    assert len(raised.value.headers["x-line-request-id"]) == 32
    simulated.send(signal.SIGINT)
    verdict = simulated.finish()
    assert simulated.code == 1
    assert (verdict["api"]["bad"], verdict["api"]["reused_tokens"]) == (2, 1)
    assert "1 reply with a token that had been used" in verdict["sentence"]
    assert f"{EVENTS - 1} events never answered (no message came with its reply token" in verdict["sentence"]


def test_the_first_ctrl_c_ends_the_sending_and_the_second_the_waiting(
    taker: Taker, tmp_path: Path, programs: list[Program]
) -> None:
    program = Simulated("--to", taker.address, "--rate", "50", directory=tmp_path)
    programs.append(program)
    eventually(lambda: len(taker.events) >= 5)
    program.send(signal.SIGINT)
    before = len(taker.events)
    program.send(signal.SIGTERM)
    verdict = program.finish()
    assert program.code == 1
    assert before <= verdict["events"]["sent"] <= before + 10
    assert program.stdout[-1] == verdict["sentence"]


def test_a_delivery_that_is_not_taken_is_sent_again(taker: Taker, tmp_path: Path, programs: list[Program]) -> None:
    taker.refusing = True
    program = Simulated(
        "--to", taker.address, "--rate", "100", "--events", "5", "--mix", "unfollow", directory=tmp_path
    )
    programs.append(program)
    eventually(lambda: taker.refused >= 5)
    taker.refusing = False
    verdict = program.finish()
    assert program.code == 0
    assert verdict["sentence"] == "Good: the bot took every event; none of them could be answered."
    assert verdict["deliveries"]["unanswered"] >= 5
    assert {event["deliveryContext"]["isRedelivery"] for event in taker.events} == {True}


def test_a_run_without_a_bot_does_not_begin() -> None:
    to = f"http://127.0.0.1:{free_port()}/callback/line"
    for platform in ("line", "messenger"):
        program = gbot("simulate", platform, "--to", to, "--api-port", "0")
        assert program.code == 1
        assert f"cannot connect to the bot at {to}: Connection refused; is it running?" in program.stderr[-1]
        assert program.stdout == []


def test_a_bot_that_goes_away_is_missed_once(taker: Taker, tmp_path: Path, programs: list[Program]) -> None:
    program = Simulated(
        *("--to", taker.address, "--rate", "50", "--seconds", "2", "--wait", "10ms"), directory=tmp_path
    )
    programs.append(program)
    eventually(lambda: len(taker.events) >= 5)
    taker.stop()
    missed = f"Cannot connect to the bot at {taker.address} any more: {GONE}. Each delivery is sent again"
    verdict = program.finish()
    assert verdict["deliveries"]["failed"]["no answer"] > 1
    assert sum(re.search(missed, line) is not None for line in program.stderr) == 1


def test_the_api_alone(tmp_path: Path, programs: list[Program]) -> None:
    program = Simulated("--rate", "0", directory=tmp_path)
    programs.append(program)
    with program.client() as client:
        assert sdk.MessagingApi(client).get_message_quota().type == "none"
    program.send(signal.SIGINT)
    assert program.finish()["sentence"] == "Good: nothing was sent, and the API was asked 1 time."
    assert program.code == 0
    assert not any(SECRET in line or TOKEN in line for line in program.stderr + program.stdout)


def test_made_up_secrets_are_shown() -> None:
    program = gbot("simulate", "line", "--rate", "0", "--seconds", "10ms", "--api-port", "0")
    assert program.code == 0
    assert any(line.endswith("GBOT_LINE_CHANNEL_SECRET=made-up-for-local-play") for line in program.stderr)
    assert any("GBOT_LINE_CONTENT_BASE=http://127.0.0.1:" in line for line in program.stderr)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["line"], "Name the bot's address with --to"),
        (["line", "--rate", "often"], "expected events per second such as 200/s, got 'often'"),
        (["line", "--rate", "0", "--mix", "song"], "expected kinds with weights such as text=8,image=1"),
        (["line", "--rate", "0", "--fail", "60%", "--drop", "50%"], "more than 100% together"),
        (["line", "--to", "ftp://bot"], "expected an address that begins with https:// or http://"),
        (["telegram"], "'telegram' is not one of 'line', 'messenger'"),
        ([], "Missing argument '{line|messenger}'. Choose from: line, messenger. See gbot simulate --help"),
    ],
)
def test_wrong_usage_is_said(arguments: list[str], sentence: str) -> None:
    program = gbot("simulate", *arguments)
    assert program.code == 2
    assert sentence in " ".join(program.stderr)


def test_a_port_in_use_is_said(taker: Taker) -> None:
    port = taker.address.split(":")[2].partition("/")[0]
    program = gbot("simulate", "line", "--rate", "0", "--api-port", port)
    assert program.code == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in program.stderr[-1]


def on_a_terminal(*options: str, meanwhile: Callable[[], object] = lambda: None) -> tuple[list[str], str]:
    """The tables, each drawn over the one before, and standard error. ``meanwhile`` is called whenever one is drawn."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "gbot", "simulate", "line", "--api-port", "0", *options]
    environ = clean_environ(ENVIRON | {"COLUMNS": "80"})
    process = subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, env=environ)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # which is how a terminal says that nobody writes to it any more
        while part := os.read(ours, 65_536):
            shown += part
            meanwhile()
    os.close(ours)
    said = process.communicate(timeout=20)[1].decode()
    assert process.returncode in (0, 1), said
    return re.split("\x1b\\[[0-9]+F\x1b\\[J", shown.decode()), said


def test_on_a_terminal_a_table_is_drawn_over_and_over() -> None:
    (first, *others), said = on_a_terminal("--rate", "0", "--seconds", "1.2")
    assert said.startswith("Simulated line API")
    assert len(others) >= 2
    for table in [first, *others]:
        assert "serving the API; Ctrl-C ends it" in table
        assert all(len(row) < 80 for row in table.split("Verdict on line")[0].replace("\x1b[J", "").splitlines())
    assert others[-1].splitlines()[-1] == "Good: nothing was sent, and the API was asked 0 times."


def test_on_a_terminal_a_sentence_stands_above_the_table(taker: Taker) -> None:
    def leave() -> None:
        if taker.events:
            taker.stop()

    options = ("--to", taker.address, "--rate", "50", "--seconds", "2", "--wait", "10ms")
    tables, said = on_a_terminal(*options, meanwhile=leave)
    assert re.search(f"any more: {GONE}", said)
    # A table that is not drawn over another one: the first, and the one below the sentence.
    assert sum(table.startswith("\x1b[J") for table in tables) == 2


def test_messenger_makes_sure_of_the_address_first(taker: Taker) -> None:
    program = gbot("simulate", "messenger", "--to", taker.address, "--api-port", "0")
    assert program.code == 1
    assert "verification with 501 and not with the challenge" in program.stderr[-1]
