"""``gbot serve`` as an operator meets it: what it answers, what it says, and how it stops."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.conftest import Serve
from tests.fake_line import FakeLineProcess
from tests.journeys.client import post_plain, request
from tests.journeys.processes import ROOT, Program, Served, clean_environ, eventually
from tests.samples import line

WORKING = "tests.journeys.bots.working:bot"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for the questions that change nothing."""
    environ = {"GBOT_PORT": "0", "STATE_DIRECTORY": str(tmp_path_factory.mktemp("state"))}
    served = Served(WORKING, "--body-bytes-max", "2048", environ=environ)
    yield served
    served.kill()


# ---- what it answers


def test_the_echo_bot_prints_what_arrives(serve: Serve) -> None:
    served = serve()
    answer = post_plain(served.address, "1,2,,3 ,")
    assert (answer.status, answer.body) == (200, b'{"ok":"ok"}')
    assert answer.headers["content-type"] == "application/json"
    for number in "123":
        served.wait_for_output(f"message = '{number}'")
    assert served.stop() == 0
    assert sorted(served.stdout) == ["message = '1'", "message = '2'", "message = '3'"]


def test_the_front_page_says_what_this_is(shared: Served) -> None:
    answer = request(shared.address, "GET", "/")
    assert answer.json["name"] == "gbot"
    assert answer.json["callbacks"] == ["/callback"]
    assert request(shared.address, "HEAD", "/").body == b""


def test_it_says_that_it_is_well(shared: Served) -> None:
    assert (request(shared.address, "GET", "/healthz").status) == 200


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "a list"),
        (b"{}", "messages: expected a text of comma-separated items, but the field is missing"),
        (b'{"messages": 5}', "messages: expected a text of comma-separated items, got a number"),
        (b'{"messages": ["1"]}', "messages: expected a text of comma-separated items, got a list"),
    ],
)
def test_a_malformed_delivery_is_told_which_field(shared: Served, body: bytes, part: str) -> None:
    answer = request(shared.address, "POST", "/callback", body, JSON)
    assert (answer.status, answer.json["error"]) == (400, "malformed")
    assert part in answer.json["detail"]


@pytest.mark.parametrize("path", ["/nothing", "/callback/", "/callback/line", "/callback/plain"])
def test_another_address_is_not_found(shared: Served, path: str) -> None:
    answer = request(shared.address, "POST", path, b"{}", JSON)
    assert (answer.status, answer.json["error"]) == (404, "not_found")


@pytest.mark.parametrize(("method", "path", "allowed"), [("GET", "/callback", "POST"), ("POST", "/", "GET")])
def test_another_method_is_told_which_are_allowed(shared: Served, method: str, path: str, allowed: str) -> None:
    answer = request(shared.address, method, path)
    assert (answer.status, answer.json["error"]) == (405, "method_not_allowed")
    assert allowed in answer.headers["Allow"].split(", ")
    assert method not in answer.headers["Allow"].split(", ")


def test_a_body_over_the_bound_is_too_large(shared: Served) -> None:
    body = json.dumps({"messages": "x" * 2048}).encode()
    answer = request(shared.address, "POST", "/callback", body, JSON)
    assert (answer.status, answer.json["error"]) == (413, "too_large")
    exact = json.dumps({"messages": "x" * (2048 - 16)}).encode()
    assert len(exact) == 2048
    assert request(shared.address, "POST", "/callback", exact, JSON).status == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", "json"])
def test_what_is_declared_as_something_else_is_refused(shared: Served, kind: str) -> None:
    answer = request(shared.address, "POST", "/callback", b'{"messages":"1"}', {"Content-Type": kind})
    assert (answer.status, answer.json["error"]) == (415, "not_json")


@pytest.mark.parametrize("kind", [None, "application/json", "Application/JSON; charset=utf-8", "application/x+json"])
def test_json_by_any_of_its_names_is_taken(shared: Served, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    assert request(shared.address, "POST", "/callback", b'{"messages":"1"}', headers).status == 200


def test_a_handler_that_fails_costs_its_neighbours_nothing(shared: Served) -> None:
    assert post_plain(shared.address, "before,fail,after").status == 200
    shared.wait_for_output("reply: echo before")
    shared.wait_for_output("reply: echo after")
    shared.wait_for_line("ValueError: the author's mistake")


def test_when_as_much_waits_as_may_a_delivery_is_put_off(serve: Serve) -> None:
    served = serve(WORKING, "--inbox-max", "2", "--pool", "1")
    too_many = post_plain(served.address, "1,2,3")
    assert (too_many.status, too_many.json["error"]) == (413, "too_large")
    assert post_plain(served.address, "sleep 0.6,sleep 0.1").status == 200
    served.wait_for_output("sleeping")
    refused = post_plain(served.address, "not now")
    assert (refused.status, refused.json["error"]) == (503, "inbox_full")
    assert int(refused.headers["Retry-After"]) >= 1
    served.wait_for_output("slept", times=2)
    eventually(lambda: post_plain(served.address, "now").status == 200)
    served.wait_for_output("reply: echo now")
    assert served.stop() == 0
    assert "reply: echo not now" not in served.stdout
    assert served.stdout.count("sleeping") == 2


# ---- what it serves


def test_the_plain_platform_is_not_served_beside_a_secret(serve: Serve) -> None:
    served = serve(environ={"GBOT_LINE_CHANNEL_SECRET": line.SECRET})
    assert post_plain(served.address, "1").status == 404
    assert request(served.address, "GET", "/").json["callbacks"] == ["/callback/line"]
    assert request(served.address, "POST", "/callback/line", b"{}", JSON).status == 401


def test_the_plain_platform_is_served_when_asked_for(serve: Serve) -> None:
    served = serve("--platforms", "plain,line", environ={"GBOT_LINE_CHANNEL_SECRET": line.SECRET})
    assert post_plain(served.address, "1").status == 200
    body = line.delivery(line.text_event("2"))
    assert request(served.address, "POST", "/callback/line", body, line.headers(body)).status == 200
    served.wait_for_output("message = '1'")
    served.wait_for_output("message = '2'")


def test_on_an_open_address_the_plain_platform_is_warned_of(serve: Serve) -> None:
    served = serve("--host", "0.0.0.0")
    served.wait_for_line(r"WARNING .*The plain platform has no signature: whoever reaches http://0\.0\.0\.0:\d+")
    assert post_plain(served.address.replace("0.0.0.0", "127.0.0.1"), "1").status == 200


def test_on_loopback_nothing_is_warned_of(shared: Served) -> None:
    assert "has no signature" not in "\n".join(shared.stderr)


def test_an_unknown_variable_is_warned_of(serve: Serve) -> None:
    served = serve(environ={"GBOT_PROT": "80"})
    served.wait_for_line("GBOT_PROT in the environment is no setting of gbot; perhaps GBOT_PORT was meant")


def test_ipv6_is_served(serve: Serve) -> None:
    if not socket.has_ipv6 or not _binds("::1"):
        pytest.skip("this machine has no IPv6 address ::1")
    served = serve("--host", "::1")
    assert re.fullmatch(r"http://\[::1\]:\d+", served.address)
    assert post_plain(served.address, "1").status == 200


def _binds(host: str) -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def test_a_unix_socket_is_served_and_removed(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "gbot.sock"
    served = serve("--host", f"unix:{path}")
    assert served.address == f"unix:{path}"
    assert post_plain(served.address, "1").status == 200
    served.wait_for_output("message = '1'")
    assert served.stop() == 0
    assert not path.exists()


def test_the_socket_of_a_server_that_is_gone_is_replaced(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "gbot.sock"
    serve("--host", f"unix:{path}").kill()
    assert path.exists()
    served = serve("--host", f"unix:{path}")
    assert post_plain(served.address, "1").status == 200
    second = Program([sys.executable, "-m", "gbot", "serve", "--host", f"unix:{path}"], {})
    assert second.wait() == 1
    assert "Address already in use" in second.stderr[0]
    assert post_plain(served.address, "2").status == 200


def test_a_socket_file_that_somebody_removed_does_not_spoil_the_end(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "gbot.sock"
    served = serve("--host", f"unix:{path}")
    path.unlink()
    assert served.stop() == 0
    assert "Traceback" not in "\n".join(served.stderr)


def test_tls_is_served(serve: Serve, tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=gbot"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    served = serve("--tls-cert", str(certificate), "--tls-key", str(key))
    assert served.address.startswith("https://127.0.0.1:")
    assert post_plain(served.address, "1", ca_file=str(certificate)).status == 200
    served.wait_for_output("message = '1'")
    with pytest.raises(OSError, match=r"reset|closed|without response"):
        post_plain(served.address.replace("https:", "http:"), "2")
    assert post_plain(served.address, "3", ca_file=str(certificate)).status == 200


def test_file_environment_and_flags_meet(serve: Serve, tmp_path: Path) -> None:
    file = tmp_path / "gbot.toml"
    file.write_text('pool = 7\ninbox-max = 70\nstop-timeout = 3\nlog-format = "json"\nplatforms = ["plain"]\n')
    environ = {"GBOT_CONFIG": str(file), "GBOT_POOL": "8", "GBOT_INBOX_MAX": "80", "GBOT_LOG_FORMAT": "text"}
    served = serve("--pool", "9", environ=environ)
    served.wait_for_line("INFO .*Up to 9 handlers at once, 80 events held in sqlite:///.*/state/inbox.sqlite3;")
    assert served.stop() == 0
    served.wait_for_line("handlers get 3 s to finish")


def test_json_logs_are_json(serve: Serve) -> None:
    served = serve(WORKING, "--log-format", "json", "--host", "0.0.0.0", "--sample-interval", "0.5")
    post_plain(served.address, "fail")
    served.wait_for_line("ValueError")
    served.wait_for_line("handlers 0/5000 running")
    assert served.stop() == 0
    lines = [json.loads(logged) for logged in served.stderr]
    assert all({"time", "level", "logger", "message"} <= set(logged) for logged in lines)
    [failed] = [logged for logged in lines if "error" in logged]
    assert failed["level"] == "error"
    assert "ValueError: the author's mistake" in failed["error"]
    assert {logged["level"] for logged in lines} == {"info", "warning", "error"}


def test_the_sampler_tells_how_it_goes(serve: Serve) -> None:
    served = serve(WORKING, "--sample-interval", "0.5", "--pool", "1")
    post_plain(served.address, "sleep 2,later,later")
    served.wait_for_line(
        r"handlers 1/1 running, 1 waiting; greenlets \d+; events 0/s; .*RSS \d+ MiB; hub lag \d+ ms; .*inbox 3 held"
    )


def test_without_an_interval_there_is_no_sampler(serve: Serve) -> None:
    served = serve("--sample-interval", "0")
    post_plain(served.address, "1")
    served.wait_for_output("message = '1'")
    assert served.stop() == 0
    assert "running," not in "\n".join(served.stderr)


# ---- waiting in handlers holds nobody up


def seconds_until(served: Served, messages: str, line_: str, times: int) -> float:
    """How long it takes from a delivery until this line has been printed so often."""
    started = time.monotonic()
    assert post_plain(served.address, messages).status == 200
    served.wait_for_output(line_, times)
    return time.monotonic() - started


def test_time_sleep_yields(shared: Served) -> None:
    assert 0.5 <= seconds_until(shared, ",".join(["sleep 0.5"] * 20), "slept", 20) < 3


def test_requests_yields(serve: Serve, fake_line: FakeLineProcess) -> None:
    served = serve(WORKING)
    fake_line.order(*({"delay_s": 0.5, "status": 418} for _ in range(20)))
    took = seconds_until(served, ",".join([f"fetch {fake_line.address}/slow"] * 20), "fetched 418", 20)
    assert 0.5 <= took < 4


def test_pymysql_yields(serve: Serve, mysql_url: str) -> None:
    served = serve(WORKING, environ={"TEST_MYSQL_URL": mysql_url})
    took = seconds_until(served, ",".join(["select"] * 20), "selected 42", 20)
    assert 0.5 <= took < 5


def test_the_answer_does_not_wait_for_the_handlers(shared: Served) -> None:
    started = time.monotonic()
    assert post_plain(shared.address, "sleep 5,sleep 5").status == 200
    assert time.monotonic() - started < 1


def test_a_handler_that_takes_too_long_is_stopped(serve: Serve) -> None:
    served = serve(WORKING, "--handler-timeout", "0.2")
    post_plain(served.address, "wait until killed,after")
    served.wait_for_output("cleaned up")
    served.wait_for_line(
        r"plain event 1 \(message\.text\): the handler .*working:wait ran longer than its timeout of 0\.2 s "
        r"\(in line \d+ of .*working\.py\); the event is tried again"
    )


# ---- stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_stop_lets_everything_finish_that_would_be_lost(serve: Serve, number: int) -> None:
    served = serve(WORKING, "--pool", "2", "--inbox", "memory:")
    post_plain(served.address, "sleep 0.4,sleep 0.4,sleep 0.1")
    served.wait_for_output("sleeping", times=2)
    served.send(number)
    served.wait_for_line("Stopping: no new events; handlers get 25 s to finish")
    assert served.wait() == 0
    assert sorted(served.stdout) == ["sleeping"] * 3 + ["slept"] * 3
    assert served.stderr[-1].endswith("Stopped. Nothing was left to do")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_stop_lets_running_handlers_finish_and_the_next_start_runs_the_rest(serve: Serve, number: int) -> None:
    served = serve(WORKING, "--pool", "2")
    post_plain(served.address, "sleep 0.4,sleep 0.4,sleep 0.1,sleep 0.1,later,last")
    served.wait_for_output("sleeping", times=2)
    served.send(number)
    served.wait_for_line("Stopping: no new events; handlers get 25 s to finish")
    assert served.wait() == 0
    assert sorted(served.stdout) == ["sleeping"] * 2 + ["slept"] * 2
    assert (
        "0 running handlers were stopped and 2 waiting events never started; the next start runs" in served.stderr[-1]
    )
    again = serve(WORKING, "--pool", "2")
    again.wait_for_output("slept", times=2)
    again.wait_for_output("reply: echo later")
    again.wait_for_output("reply: echo last")
    assert again.stop() == 0
    assert len(again.stdout) == 6
    assert again.stderr[-1].endswith("Stopped. Nothing was left to do")


def test_while_it_stops_nothing_new_is_taken(serve: Serve) -> None:
    served = serve(WORKING)
    address = urlsplit(served.address)
    assert address.hostname is not None
    body = b'{"messages":"too late"}'
    head = f"POST /callback HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with (
        socket.create_connection((address.hostname, address.port), 10) as idle,
        socket.create_connection((address.hostname, address.port), 10) as begun,
    ):
        begun.sendall(head + body[:5])
        post_plain(served.address, "sleep 1.5")
        served.wait_for_output("sleeping")
        served.send()
        served.wait_for_line("Stopping: no new events")
        assert idle.recv(1) == b""
        begun.sendall(body[5:])
        answer = b""
        while data := begun.recv(65536):
            answer += data
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b'"error":"draining"' in answer
    assert re.search(rb"\r\nretry-after: [1-9]", answer, re.IGNORECASE)
    assert re.search(rb"\r\nconnection: close\r\n", answer, re.IGNORECASE)
    with pytest.raises(ConnectionRefusedError):
        post_plain(served.address, "much too late")
    assert served.wait() == 0
    assert served.stdout == ["sleeping", "slept"]


@pytest.mark.parametrize(
    ("inbox", "left"),
    [
        ("memory:", "2 waiting events never started; the memory: inbox has lost them"),
        ("sqlite:", "1 waiting event never started; the next start runs them"),  # the third one never left the file
    ],
)
def test_when_the_time_is_over_it_says_what_was_left(serve: Serve, inbox: str, left: str) -> None:
    served = serve(WORKING, "--pool", "1", "--stop-timeout", "0.3", "--inbox", inbox)
    post_plain(served.address, "wait until killed,never,started")
    served.wait_for_output("waiting")
    started = time.monotonic()
    assert served.stop() == 0
    assert 0.3 <= time.monotonic() - started < 3
    assert served.stdout == ["waiting", "cleaned up"]
    served.wait_for_line(f"Left: 1 running handler was stopped and {left}")


def test_a_second_signal_ends_it_at_once(serve: Serve) -> None:
    served = serve(WORKING)
    post_plain(served.address, "sleep 600")
    served.wait_for_output("sleeping")
    served.send(signal.SIGTERM)
    served.wait_for_line("Stopping: no new events")
    assert served.stop(signal.SIGTERM) == 0
    served.wait_for_line("Stopped at once. Left: 1 running handler was stopped and 0 waiting")


def test_what_is_said_of_a_memory_inbox_that_was_stopped_at_once_is_true(serve: Serve) -> None:
    served = serve(WORKING, "--inbox", "memory:", "--pool", "1")
    post_plain(served.address, "sleep 600,never started")
    served.wait_for_output("sleeping")
    served.send(signal.SIGTERM)
    served.wait_for_line("Stopping: no new events")
    assert served.stop(signal.SIGTERM) == 0
    [last] = [logged for logged in served.stderr if "Stopped at once" in logged]
    left = "Left: 1 running handler was stopped and 1 waiting event never started; the memory: inbox has lost them"
    assert last.endswith(f"Stopped at once. {left}")


def test_what_waits_for_its_next_attempt_is_lost_with_the_memory_and_kept_on_disk(serve: Serve) -> None:
    served = serve(WORKING, "--inbox", "memory:")
    post_plain(served.address, "fail,fail")
    for number in (1, 2):
        served.wait_for_line(f"event {number} .*; the event is tried again in")
    assert served.stop() == 0
    assert served.stderr[-1].endswith("Stopped. 2 events that were to be tried again are lost")
    served = serve(WORKING)
    post_plain(served.address, "fail")
    served.wait_for_line("event 1 .*; the event is tried again in")
    assert served.stop() == 0
    assert served.stderr[-1].endswith("Stopped. Nothing was left to do")
    again = serve(WORKING)
    again.wait_for_line(r"event 1 \(.*\): a handler failed; the event is tried again in .* \(attempt 3 of 5\)")


def test_an_event_that_failed_for_the_last_time_is_kept_as_dead(serve: Serve) -> None:
    served = serve(WORKING, "--attempts-max", "1")
    post_plain(served.address, "fail")
    served.wait_for_line("a handler failed; the event is kept as dead entry 1 after 1 attempt")
    post_plain(served.address, "after")
    served.wait_for_output("reply: echo after")
    assert served.stop() == 0
    again = serve(WORKING, "--sample-interval", "0.5")
    again.wait_for_line("handlers 0/5000 running, 0 waiting; .*inbox 1 held, 0 outcomes unsaved")
    assert again.stdout == []


def test_a_second_signal_ends_even_a_handler_that_never_waits(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "gbot.sock"
    served = serve(WORKING, "--host", f"unix:{path}")
    post_plain(served.address, "burn")
    served.wait_for_output("burning")
    served.send(signal.SIGTERM)
    assert served.stop(signal.SIGINT) == 0
    served.wait_for_line("Stopped at once. Left: 1 running handler was stopped")
    assert not path.exists()


def test_what_handlers_printed_last_is_not_lost(serve: Serve) -> None:
    served = serve("--pool", "10", "--inbox", "memory:")
    post_plain(served.address, ",".join(map(str, range(200))))
    assert served.stop() == 0
    assert len(served.stdout) == 200


def test_a_reader_of_the_output_that_goes_away_does_not_stop_the_server(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with open(writing, "wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "gbot", "serve", "--port", "0"],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environ({"STATE_DIRECTORY": str(tmp_path)}),
        )
    assert process.stderr is not None
    try:
        address = ""
        for logged in process.stderr:
            found = re.search(r"deliveries at (\S+)/callback", logged)
            address = found[1] if found else address
            if "handlers at once" in logged:
                break
        os.close(reading)
        assert post_plain(address, ",".join(["x" * 5000] * 5)).status == 200
        assert post_plain(address, "the last words").status == 200
        process.terminate()
        rest = process.communicate(timeout=20)[1]
        assert "Stopped. Nothing was left to do" in rest
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


# ---- other servers


def test_events_that_gunicorn_leaves_running_finish_at_its_end(programs: list[Program]) -> None:
    gunicorn = Program(
        [
            *(sys.executable, "-m", "gunicorn", "-k", "gevent", "-b", "127.0.0.1:0", "--no-control-socket"),
            f"gbot.worker:wsgi('{WORKING}')",
        ],
        {},
    )
    programs.append(gunicorn)
    address = gunicorn.wait_for_line(r"Listening at: (http://127\.0\.0\.1:\d+)")[1]
    assert post_plain(address, "sleep 1.5").status == 200
    gunicorn.wait_for_output("sleeping")
    assert gunicorn.stop() == 0
    assert "slept" in gunicorn.stdout
    gunicorn.wait_for_line("Nothing was left to do")


def test_without_gevent_gunicorn_refuses_to_start(programs: list[Program]) -> None:
    gunicorn = Program(
        [
            *(sys.executable, "-m", "gunicorn", "-b", "127.0.0.1:0", "--no-control-socket"),
            f"gbot.worker:wsgi('{WORKING}')",
        ],
        {},
    )
    programs.append(gunicorn)
    gunicorn.wait_for_line("needs a server that runs on gevent")


def test_the_stop_timeout_ends_even_a_handler_that_never_waits(serve: Serve) -> None:
    served = serve(WORKING, "--stop-timeout", "0")
    post_plain(served.address, "burn")
    served.wait_for_output("burning")
    assert served.stop() == 0
    served.wait_for_line("Stopped at once. Left: 1 running handler was stopped")


def test_a_new_server_takes_over_the_socket_of_one_that_drains(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "gbot.sock"
    old = serve(WORKING, "--host", f"unix:{path}")
    assert post_plain(old.address, "sleep 1").status == 200
    old.wait_for_output("sleeping")
    old.send(signal.SIGTERM)
    eventually(lambda: not path.exists())
    new = serve(WORKING, "--host", f"unix:{path}")
    assert old.wait() == 0
    assert post_plain(new.address, "hello").status == 200


def test_gunicorn_serves_the_same(programs: list[Program], tmp_path: Path) -> None:
    gunicorn = Program(
        [
            *(sys.executable, "-m", "gunicorn", "-k", "gevent", "-b", "127.0.0.1:0", "--no-control-socket"),
            f"gbot.worker:wsgi('{WORKING}')",
        ],
        {"GBOT_BODY_BYTES_MAX": "2048"},
    )
    programs.append(gunicorn)
    address = gunicorn.wait_for_line(r"Listening at: (http://127\.0\.0\.1:\d+)")[1]
    assert request(address, "GET", "/").json["callbacks"] == ["/callback"]
    assert post_plain(address, "sleep 0.3,sleep 0.3,hello").status == 200
    gunicorn.wait_for_output("slept", times=2)
    assert request(address, "POST", "/callback", b"{}", JSON).json["error"] == "malformed"
    assert post_plain(address, "x" * 2048).status == 413
    assert request(address, "POST", "/callback", b"{}", {"Content-Type": "text/plain"}).status == 415
    assert request(address, "PUT", "/callback").status == 405
    assert gunicorn.stop() == 0


def test_a_process_that_was_forked_too_late_says_so_and_stops(programs: list[Program], tmp_path: Path) -> None:
    (tmp_path / "patched.py").write_text("from gevent import monkey\nmonkey.patch_all()\npreload_app = True\n")
    gunicorn = Program(
        [
            *(sys.executable, "-m", "gunicorn", "-c", "patched.py", "-k", "gevent", "-b", "127.0.0.1:0"),
            *("--no-control-socket", f"gbot.worker:wsgi('{WORKING}')"),
        ],
        {"STATE_DIRECTORY": str(tmp_path), "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
    )
    programs.append(gunicorn)
    address = gunicorn.wait_for_line(r"Listening at: (http://127\.0\.0\.1:\d+)")[1]
    assert post_plain(address, "hello").status == 500
    gunicorn.wait_for_line("forked when the bot had been started already: use gunicorn -k gevent without --preload")
    assert gunicorn.stop() == 0


@pytest.mark.parametrize("workers", [0, 51])
def test_workers_that_cannot_each_have_a_connection_are_refused(programs: list[Program], workers: int) -> None:
    gunicorn = Program(
        [
            *(sys.executable, "-m", "gunicorn", "-k", "gevent", "-b", "127.0.0.1:0", "--no-control-socket"),
            f"gbot.worker:wsgi('{WORKING}', workers={workers})",
        ],
        {},
    )
    programs.append(gunicorn)
    gunicorn.wait_for_line(f"{workers} workers cannot share --db-pool 50: each needs one connection")


def test_under_gunicorn_the_configuration_file_counts_too(programs: list[Program], tmp_path: Path) -> None:
    file = tmp_path / "gbot.toml"
    file.write_text("body-bytes-max = 1024\n")
    gunicorn = Program(
        [
            *(sys.executable, "-m", "gunicorn", "-k", "gevent", "-b", "127.0.0.1:0", "--no-control-socket"),
            f"gbot.worker:wsgi('{WORKING}')",
        ],
        {"GBOT_CONFIG": str(file)},
    )
    programs.append(gunicorn)
    address = gunicorn.wait_for_line(r"Listening at: (http://127\.0\.0\.1:\d+)")[1]
    assert post_plain(address, "x" * 2000).status == 413
