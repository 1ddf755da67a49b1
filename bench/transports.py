"""What does one small API call cost in CPU, by each way of making it?

    python bench/transports.py                  over plain HTTP
    python bench/transports.py --tls            over TLS, with the certificate checked
    python bench/transports.py --waiting 5000   also: memory of so many calls that wait for their answer at once

A call is a POST of 300 bytes with the headers of a LINE push, and a small JSON answer, on kept-alive connections: one
connection used by one greenlet, and 100 greenlets at once. Each figure is the client process's own CPU (user and
system); the server answers from another core. The subjects take turns, each round in a fresh process; medians of the
rounds. Libraries that are not installed are left out.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import resource
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gevent import monkey

if __name__ == "__main__" and {"--serve", "--client"} & set(sys.argv):
    monkey.patch_all()

import gevent
import gevent.server
from measuring import (
    LOCALHOST,
    ROOT,
    Unavailable,
    circumstances,
    cpu_busy_percent,
    exit_on_sigterm,
    figure,
    free_port,
    pinned,
    running_server,
    say,
    table,
    two_cores,
    write_json,
)

sys.path.insert(0, str(ROOT))

BODY = json.dumps({"to": "U" + "0" * 32, "messages": [{"type": "text", "text": "x" * 210}]}).encode()
HEADERS = {
    "Content-Type": "application/json",
    "Authorization": "Bearer " + "t" * 172,
    "X-Line-Retry-Key": "123e4567-e89b-42d3-a456-426614174000",
}
ANSWER_HEAD = (
    "HTTP/1.1 200 OK\r\nServer: legy\r\nContent-Type: application/json\r\n"
    "x-line-request-id: 123e4567-e89b-42d3-a456-426614174000\r\nx-frame-options: DENY\r\n"
    "Date: Sun, 01 Nov 2026 00:00:00 GMT\r\n"
)
ANSWER_BODY = b'{"sentMessages":[{"id":"461230966842064897","quoteToken":"IStG5h1Tz7b"}]}'
ANSWER = f"{ANSWER_HEAD}Content-Length: {len(ANSWER_BODY)}\r\n\r\n".encode() + ANSWER_BODY
NAP_S = 4.0
GREENLETS = 100

Call = Callable[[str], int]  # asks for a path, returns the status


# ---- the server, in a process of its own


def serve(port: int, directory: Path, tls: bool) -> None:
    files = {"certfile": str(directory / "cert.pem"), "keyfile": str(directory / "key.pem")} if tls else {}
    gevent.server.StreamServer((LOCALHOST, port), converse, backlog=4096, **files).serve_forever()


def converse(sock: gevent.socket.socket, _peer: object) -> None:
    received = b""
    try:
        while data := sock.recv(64 * 1024):
            received += data
            head, blank, body = received.partition(b"\r\n\r\n")
            if blank and len(body) >= len(BODY):
                received = b""
                if b" /nap " in head[:20]:
                    gevent.sleep(NAP_S)
                sock.sendall(ANSWER)
    except OSError:
        pass  # the client is done
    finally:
        sock.close()


# ---- the subjects, each imported where it is used only


def gbot_transport(origin: str, _directory: Path, connections: int) -> Call:
    from gbot.outbound.transport import Transport
    from gbot.platform import ApiRequest

    transport = Transport(connections)
    return lambda path: transport.send(ApiRequest("POST", origin, path, HEADERS, BODY, "push")).status


def requests_session(origin: str, directory: Path, connections: int) -> Call:
    import requests
    from requests.adapters import HTTPAdapter

    session = requests.Session()
    session.trust_env = False  # else it looks through the environment for every call
    session.verify = str(directory / "cert.pem")
    session.mount(origin, HTTPAdapter(pool_connections=1, pool_maxsize=connections, pool_block=True))

    def call(path: str) -> int:
        answer = session.post(origin + path, BODY, headers=HEADERS, timeout=(3.05, 15.0), allow_redirects=False)
        return answer.status_code

    return call


def urllib3_pool(origin: str, directory: Path, connections: int) -> Call:
    import urllib3

    trust = {"ca_certs": str(directory / "cert.pem")} if origin.startswith("https") else {}
    pool = urllib3.connection_from_url(origin, maxsize=connections, block=True, retries=False, timeout=15.0, **trust)
    return lambda path: pool.urlopen("POST", path, BODY, HEADERS).status


def geventhttpclient_client(origin: str, directory: Path, connections: int) -> Call:
    from geventhttpclient import HTTPClient

    def context() -> ssl.SSLContext:
        return trusting(directory)

    client = HTTPClient.from_url(origin, concurrency=connections, network_timeout=15.0, ssl_context_factory=context)

    def call(path: str) -> int:
        answer = client.post(path, BODY, HEADERS)
        answer.read()
        return answer.status_code

    return call


def httpx_client(origin: str, directory: Path, connections: int) -> Call:
    import httpx

    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    client = httpx.Client(verify=trusting(directory), limits=limits, timeout=15.0, trust_env=False)
    return lambda path: client.post(origin + path, content=BODY, headers=HEADERS).status_code


SUBJECTS = {
    "gbot.outbound.transport": gbot_transport,
    "geventhttpclient": geventhttpclient_client,
    "urllib3 pool": urllib3_pool,
    "requests.Session": requests_session,
    "httpx.Client": httpx_client,
}


def trusting(directory: Path) -> ssl.SSLContext:
    certificate = directory / "cert.pem"
    return ssl.create_default_context(cafile=str(certificate) if certificate.exists() else None)


# ---- one subject, measured in a process of its own


def measure(name: str, origin: str, directory: Path, calls: int, waiting: int) -> dict[str, float]:
    call = SUBJECTS[name](origin, directory, max(GREENLETS, waiting))
    found = {"one_us": cpu_us(call, 1, calls), "hundred_us": cpu_us(call, GREENLETS, calls)}
    if waiting:
        found["waiting_kb"] = kb_per_waiting_call(call, waiting)
    return found


def cpu_us(call: Call, greenlets: int, calls: int) -> float:
    def work(count: int) -> None:
        for _ in range(count):
            if call("/v2/bot/message/push") != 200:
                raise SystemExit("the server did not answer 200")

    gevent.joinall([gevent.spawn(work, 3) for _ in range(greenlets)], raise_error=True)
    before = time.process_time()
    gevent.joinall([gevent.spawn(work, calls // greenlets) for _ in range(greenlets)], raise_error=True)
    return (time.process_time() - before) / (calls // greenlets * greenlets) * 1e6


def kb_per_waiting_call(call: Call, waiting: int) -> float:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    before = rss_kb()
    asked = [gevent.spawn(call, "/nap") for _ in range(waiting)]
    gevent.sleep(NAP_S * 0.9)
    during = rss_kb()
    gevent.joinall(asked, raise_error=True)
    return (during - before) / waiting


def rss_kb() -> float:
    import psutil

    return psutil.Process().memory_info().rss / 1024


# ---- the parent


def run_client(name: str, port: int, directory: Path, core: int, given: argparse.Namespace) -> dict[str, float] | None:
    options = ["--port", str(port), "--directory", str(directory), "--calls", str(given.calls)]
    options += ["--waiting", str(given.waiting), *(["--tls"] if given.tls else [])]
    command = pinned([sys.executable, __file__, "--client", name, *options], core)
    environment = {"PATH": os.defpath}  # no proxy, and no other trust
    if given.tls:
        environment["REQUESTS_CA_BUNDLE"] = str(directory / "cert.pem")
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    if done.returncode != 0:
        say(f"  {name} is left out: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
        return None
    found: dict[str, float] = json.loads(done.stdout)
    return found


def versions(names: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in ["gevent", *(name.partition(" ")[0].partition(".")[0] for name in names)]:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def make_certificate(directory: Path) -> None:
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", directory / "key.pem", "-out", directory / "cert.pem", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )


def compare(given: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    server_core, client_core = two_cores()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in given.only or SUBJECTS}
    with tempfile.TemporaryDirectory(prefix="gbot-bench-") as temporary:
        directory, port = Path(temporary), free_port()
        if given.tls:
            make_certificate(directory)
        command = [sys.executable, __file__, "--serve", "--port", str(port), "--directory", temporary]
        command += ["--tls"] if given.tls else []
        with running_server("server", command, port=port, directory=directory, core=server_core):
            for number in range(given.rounds):
                say(f"round {number + 1} of {given.rounds}")
                for name in list(found):
                    one = run_client(name, port, directory, client_core, given)
                    if one is None:
                        del found[name]
                    else:
                        found[name].append(one)
    return found


def report(medians: dict[str, dict[str, float]], given: argparse.Namespace) -> str:
    header = ["CPU of one small POST", "one connection", f"{GREENLETS} greenlets"]
    header += ["memory per waiting call"] if given.waiting else []
    rows = []
    for name, values in medians.items():
        row = [name, figure(values["one_us"], 1, " us"), figure(values["hundred_us"], 1, " us")]
        rows.append([*row, figure(values["waiting_kb"], 1, " KiB")] if given.waiting else row)
    title = f"{'TLS' if given.tls else 'plain HTTP'}, {given.calls} calls, medians of {given.rounds} rounds"
    return "\n".join([title, "", table(header, rows)])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tls", action="store_true", help="over TLS")
    parser.add_argument("--calls", type=int, default=3000, help="calls per figure (default 3000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--waiting", type=int, default=0, help="calls that wait at once, for their memory")
    parser.add_argument("--only", action="append", choices=SUBJECTS, help="this subject only; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything found into this file")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--client", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    given = parse()
    if given.serve:
        serve(given.port, given.directory, given.tls)
        return
    if given.client:
        origin = f"{'https' if given.tls else 'http'}://{LOCALHOST}:{given.port}"
        print(json.dumps(measure(given.client, origin, given.directory, given.calls, given.waiting)))
        return
    exit_on_sigterm()
    busy = cpu_busy_percent()
    try:
        found = compare(given)
    except Unavailable as reason:
        raise SystemExit(str(reason)) from reason
    medians = {
        name: {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        for name, rounds in found.items()
    }
    print(report(medians, given))
    if given.json:
        settings = {"tls": given.tls, "calls": given.calls, "waiting": given.waiting}
        result = {"machine_busy_percent": busy, "versions": versions(list(found)), **settings}
        write_json(given.json, {**circumstances(), **result, "medians": medians, "rounds": found})
        say(f"written: {given.json}")


if __name__ == "__main__":
    main()
