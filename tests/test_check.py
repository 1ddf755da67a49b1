"""gbot.checks inside this process: what is found of settings, files, ports and certificates."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbot.checks import machine, screens
from gbot.checks.app import app
from gbot.checks.certificate import certificate
from gbot.checks.checking import Check, check_all, run
from gbot.checks.clock import Reading, clock, http_date, reading
from gbot.checks.database import judged, sessions
from gbot.checks.finding import HIDDEN, Finding, State, fail, ok, passed, secrets_in, size, skip, warn, without
from gbot.checks.inbox import inbox
from gbot.checks.port import holder_of, port
from gbot.checks.settings import Settings, config, config_file, read_settings, secrets, secrets_of
from gbot.config import SETTINGS, Config
from gbot.config_sources import load
from gbot.database.advice import RDS, when_away
from gbot.database.sizing import USER_BOUND, ServerLimits, Share, share_of
from gbot.errors import ConfigError, DatabaseDown
from gbot.inbox_screens import cells
from gbot.inboxes import sqlite_file
from gbot.inboxes.sqlite import SqliteStore
from gbot.inboxes.store import Policy
from tests.journeys.processes import eventually

POLICY: Final = Policy(strict=True, dedup_window_ms=60_000, keep_done_ms=0)
DAY_S: Final = 86_400.0
MIB: Final = 2**20
FILE: Final = "/etc/gbot/gbot.toml"


def settings_of(
    flags: dict[str, str | None] | None = None, environ: dict[str, str] | None = None, file: Path | None = None
) -> Settings:
    return read_settings(flags or {}, environ or {}, file)


def states(findings: Sequence[Finding]) -> list[State]:
    return [finding.state for finding in findings]


# ---- the table

TEXTS = st.text(max_size=150)
FINDINGS = st.lists(st.builds(Finding, st.text(max_size=15), st.sampled_from(State), TEXTS, TEXTS), max_size=6)


def test_a_table_is_aligned_and_says_what_to_do_below() -> None:
    findings = [
        ok("config", "all of it"),
        fail("port", "127.0.0.1 port 4000 is taken by nginx (process 812)", "end that, or give another --port"),
    ]
    assert screens.table_lines(findings, 40, colour=False) == [
        "ok    config  all of it",
        "fail  port    127.0.0.1 port 4000 is",
        "              taken by nginx (process",
        "              812)",
        "              -> end that, or give",
        "                 another --port",
        "",
        "1 ok, 1 fail. gbot serve would not start",
        "like this, or not do all of its work:",
        "mend what failed first.",
    ]


@given(FINDINGS, st.integers(10, 120))
def test_no_line_is_wider_than_the_terminal(findings: list[Finding], width: int) -> None:
    name = max((cells(finding.name) for finding in findings), default=0)
    lines = screens.table_lines(findings, width, colour=False)
    assert all(cells(line) <= max(width, name + 8 + screens.TEXT_CELLS_MIN) for line in lines)


@given(st.text(), st.integers(1, 60))
def test_wrapping_loses_nothing_but_space(text: str, width: int) -> None:
    lines = screens.wrapped(text, width)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(cells(line) <= max(width, 2) for line in lines)


def test_a_word_that_is_wider_than_a_line_is_cut_into_parts() -> None:
    assert screens.wrapped("see /a/very/long/path for more", 8) == ["see", "/a/very/", "long/pat", "h for", "more"]
    assert screens.wrapped("受信箱です", 4) == ["受信", "箱で", "す"]


def test_what_others_have_said_cannot_move_the_cursor() -> None:
    lines = screens.table_lines([fail("x", "bad\x1b[2J\nok    forged", "do\rit")], 200, colour=False)
    assert len(lines) == 4
    assert all(line.isprintable() for line in lines)


def test_colours_change_nothing_else() -> None:
    findings = [ok("a", "1"), warn("b", "2", "3"), fail("c", "4", "5"), skip("d", "6")]
    coloured = screens.table_lines(findings, 80, colour=True)
    assert len({re.match("\x1b\\[(\\d+)m", line)[1] for line in coloured if line[:1] == "\x1b"}) == 4  # type: ignore[index]
    assert [re.sub("\x1b\\[\\d+m", "", line) for line in coloured] == screens.table_lines(findings, 80, colour=False)


@pytest.mark.parametrize(
    ("findings", "sentence"),
    [
        ([ok("a", ""), skip("b", "")], "1 ok, 1 skip. gbot serve can start like this."),
        ([warn("a", "", "")], "1 warn. gbot serve can start like this, but look at what is warned of."),
        ([ok("a", ""), fail("b", "", "")], "1 ok, 1 fail. gbot serve would not start like this"),
    ],
)
def test_the_last_sentence_is_about_the_whole(findings: list[Finding], sentence: str) -> None:
    assert screens.summary(findings).startswith(sentence)
    assert passed(findings) == ("fail" not in sentence)


def test_the_figures_have_units() -> None:
    assert (size(17.3 * 1024), size(512 * MIB), size(1536 * MIB)) == ("17.3 KiB", "512 MiB", "1.5 GiB")
    assert size(2000 * 1024 * MIB) == "2,000.0 GiB"


def test_figures_are_in_the_json_of_lines_that_have_some() -> None:
    told = json.loads(screens.findings_json([ok("a", "2 of 3", {"there": 2, "took_ms": 0.5}), warn("b", "c", "d")]))
    assert told["checks"] == [
        {"name": "a", "state": "ok", "found": "2 of 3", "advice": "", "figures": {"there": 2, "took_ms": 0.5}},
        {"name": "b", "state": "warn", "found": "c", "advice": "d"},
    ]


# ---- secrets

PASSWORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=",/?#[]@:"), min_size=8)


@given(PASSWORDS, TEXTS, TEXTS)
def test_what_others_have_said_is_not_shown_if_it_holds_a_secret(secret: str, before: str, after: str) -> None:
    hidden = secrets_in([(secret,), f"mysql://bot:{secret}@db/chat"])
    said = f"{before}{secret}{after}"
    finding = without(fail("x", f"mybot:bot fails: {said} (line 2)", "mend it", said=said), hidden)
    assert finding == fail("x", f"mybot:bot fails: {HIDDEN} (line 2)", "mend it")


@given(TEXTS)
def test_what_others_have_said_is_shown_if_it_holds_none(said: str) -> None:
    finding = fail("x", f"mybot:bot fails: {said} (line 2)", "mend it", said=said)
    assert without(finding, {"\0 canary"}) == finding


def test_gbots_own_words_are_shown_whatever_the_password_is() -> None:
    finding = fail("x", "it holds a secret or a password: no such table", "mend the secret", said="no such table")
    assert without(finding, {"secret", "password"}) == finding


@pytest.mark.parametrize("said", ["p%40ss%2Fword", "p@ss/word", "bad@pass/word"])
def test_a_password_is_known_as_it_stands_in_the_url_and_as_the_server_has_it(said: str) -> None:
    hidden = secrets_in(["mysql://bot:p%40ss%2Fword@db/chat", "mysql://bot:bad@pass/word@db/chat", None])
    assert without(fail("x", f"it says {said}", "", said=said), hidden).found == f"it says {HIDDEN}"


def test_secrets_of_the_environment_are_hidden_even_if_they_cannot_be_used() -> None:
    environ = {
        "GBOT_LINE_CHANNEL_SECRET": "canary-one,canary-two,canary-three",
        "GBOT_DB": "mysql://bot:canary-four@db",
        "https_proxy": "http://me:canary-five@proxy:3128",
    }
    found = secrets_of(settings_of(environ=environ).config, environ)
    assert {f"canary-{number}" for number in ("one", "two", "three", "four", "five")} <= found


# ---- settings


def test_settings_that_are_right_are_one_line(tmp_path: Path) -> None:
    file = tmp_path / "gbot.toml"
    file.write_text("pool = 7\n")
    [finding] = config(settings_of({"port": "4001"}, {"GBOT_STOP_TIMEOUT": "3"}, file))
    assert finding.state is State.OK
    assert finding.found.startswith("3 of ")
    assert str(file) in finding.found
    [finding] = config(settings_of({"port": "4001"}))
    assert finding.found == f"1 of {len(SETTINGS)} settings differs from its default"


def test_every_problem_of_every_source_is_a_line(tmp_path: Path) -> None:
    file = tmp_path / "gbot.toml"
    file.write_text('pool = "many"\nprot = 3\nattempts-max = [1]\nstop-timeout = 3\nack = "received"\n')
    environ = {"GBOT_ORDER": "any", "GBOT_DEDUP_WINDOW": "soon", "GBOT_ACK": "stored"}
    found = settings_of({"port": "http", "db": "mysql://bot:pass@db/chat", "pool": "5"}, environ, file)
    findings = config(found)
    assert states(findings) == [State.FAIL] * 7
    names = {finding.found.partition(":")[0] for finding in findings}
    assert names == {"pool", "prot", "attempts-max", "GBOT_ORDER", "GBOT_DEDUP_WINDOW", "--port", "--db"}
    assert any("perhaps port" in finding.found for finding in findings)
    assert "pass@" not in str(findings)
    kept = found.config
    assert (kept.stop_timeout, kept.ack, kept.pool, kept.port) == (3.0, "stored", 5, 4000)


NAMES = st.sampled_from([row.name for row in SETTINGS.values()])
FLAGS = st.dictionaries(NAMES, st.none() | st.text(max_size=10), max_size=4)
VARIABLES = st.dictionaries(NAMES.map(lambda name: SETTINGS[name].variable), st.text(max_size=10), max_size=4)
VALUES = st.sampled_from(["3", "''", "true", "[1]", "['a', 'b']", "'mysql://a:b@c/d'", "'tcp://x'", "1.5", "'line'"])
TOML = st.dictionaries(NAMES.map(lambda name: SETTINGS[name].key) | st.just("prot"), VALUES, max_size=4)


@given(FLAGS, VARIABLES, TOML)
def test_whatever_is_wrong_the_settings_are_read(
    tmp_path_factory: pytest.TempPathFactory,
    flags: dict[str, str | None],
    environ: dict[str, str],
    toml: dict[str, str],
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_text("".join(f"{key} = {value}\n" for key, value in toml.items()))
    found = settings_of(flags, environ, file)
    first = refusal(flags, environ, file)
    assert (first in map(str, found.problems)) if first else found.config == load(flags, environ, file)[0]
    assert states(config(found)).count(State.FAIL) == len(found.problems)


def refusal(flags: dict[str, str | None], environ: dict[str, str], file: Path) -> str | None:
    """What gbot serve would say."""
    try:
        load(flags, environ, file)
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.parametrize("text", ["pool = ", "\xff", None])
def test_a_file_that_cannot_be_read_is_a_line_beside_the_others(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "gbot.toml"
    if text is not None:
        file.write_bytes(text.encode("latin-1"))
    findings = config(settings_of({"port": "http"}, {}, file))
    assert sorted(finding.found.partition(":")[0] for finding in findings) == ["--port", "config"]


@pytest.mark.parametrize(
    ("flags", "environ", "toml"),
    [
        ({"db": "mysql://bot@db"}, {}, ""),
        ({}, {"GBOT_DB": "mysql://bot@db/chat?tls=maybe"}, ""),
        ({}, {}, 'db = "postgres://bot@db/chat"'),
    ],
)
def test_a_database_whose_setting_is_wrong_is_one_all_the_same(
    tmp_path: Path, flags: dict[str, str | None], environ: dict[str, str], toml: str
) -> None:
    file = tmp_path / "gbot.toml"
    file.write_text(toml)
    found = settings_of(flags | {"port": "http"}, environ, file)
    assert (found.config.db, found.has_db, found.wrong) == (None, True, {"db", "port"})
    assert not settings_of().has_db
    assert settings_of(environ={"GBOT_DB": "mysql://bot@db/chat"}).has_db


def test_what_cannot_be_looked_at_because_of_its_setting_says_so(tmp_path: Path) -> None:
    environ = {"STATE_DIRECTORY": str(tmp_path), "GBOT_DB": "mysql://bot@db/chat?tls=maybe", "GBOT_INBOX": "mysql:"}
    findings = {finding.name: finding for finding in check_all("gbot.examples.echo:bot", {"port": "0"}, environ, None)}
    said = "not looked at: its setting cannot be used; see config"
    assert [findings[name] for name in ("database", "inbox")] == [skip("database", said), skip("inbox", said)]
    assert "50 to the database" in findings["open files"].found


def test_settings_that_do_not_go_together_are_lines() -> None:
    findings = config(settings_of({"tls_cert": "/cert.pem", "lanes": "line.push: 5/s"}))
    assert states(findings) == [State.FAIL] * 2
    assert findings[0].found.startswith("tls-key: expected a path, because tls-cert is set")
    assert findings[1].found.startswith("lanes: expected lanes of platforms that are served")
    [odd] = config(settings_of({"pool": "50", "inbox_max": "10"}))
    assert odd.state is State.WARN
    assert "inbox-max is below pool" in odd.found


def test_a_platform_without_its_secret_is_one_problem() -> None:
    found = settings_of({"platforms": "line"})
    [finding] = config(found)
    assert "GBOT_LINE_CHANNEL_SECRET: expected a secret, because line is to be served" in finding.found
    assert states(secrets(found)) == [State.SKIP]


def test_secrets_are_named_and_not_shown() -> None:
    environ = {"GBOT_LINE_CHANNEL_SECRET": "canary-one", "GBOT_MESSENGER_APP_SECRET": "canary-two"}
    findings = secrets(settings_of(environ=environ))
    assert states(findings) == [State.WARN] * 3
    names = ["line-channel-access-token", "messenger-page-token", "messenger-verify-token"]
    for name, finding in zip(names, findings, strict=True):
        variable = f"GBOT_{name.upper().replace('-', '_')}"
        assert finding.advice == f"set {variable} in the service's environment, or {name} in the file of --config"
    whole = environ | {"GBOT_LINE_CHANNEL_ACCESS_TOKEN": "canary-three", "GBOT_PLATFORMS": "line"}
    assert secrets(settings_of(environ=whole)) == [ok("secrets", "line: secret, access token")]
    assert "canary" not in str(findings)


def test_the_plain_platform_is_for_this_machine_alone() -> None:
    assert states(secrets(settings_of({"host": "127.0.0.1"}))) == [State.OK]
    [finding] = secrets(settings_of({"host": "::"}))
    assert finding.state is State.WARN
    assert "whoever reaches ::" in finding.found


@pytest.mark.parametrize(
    ("text", "mode", "state"),
    [
        ('line-channel-secret = "canary"\n', 0o644, State.WARN),
        ('line-channel-secret = "canary"\n', 0o640, State.OK),
        ('db = "mysql://bot:canary@db/chat"\n', 0o604, State.WARN),
        ('db = "mysql://bot@db/chat"\n', 0o644, State.OK),
        ("pool = 5\n", 0o644, State.OK),
        ("pool = \n", 0o644, State.WARN),
    ],
)
def test_a_file_with_a_secret_is_not_for_everybody(tmp_path: Path, text: str, mode: int, state: State) -> None:
    file = tmp_path / "gbot.toml"
    file.write_text(text)
    file.chmod(mode)
    finding = config_file(settings_of(file=file))
    assert finding.state is state
    assert "canary" not in str(finding)
    assert (finding.advice == f"chmod o-rwx {file}") == (state is State.WARN)


# ---- APP


@pytest.fixture
def in_tmp(tmp_path: Path) -> Iterator[Path]:
    """A current directory whose modules can be imported."""
    before = Path.cwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)


BOT: Final = "from gbot import Bot\nbot = Bot()\n"
HANDLER: Final = "@bot.text()\ndef answer(ctx): ...\n"


@pytest.mark.parametrize(
    ("source", "state", "parts"),
    [
        (BOT + HANDLER, State.OK, ["checked_bot:bot: 1 handler"]),
        (BOT, State.WARN, ["no handlers"]),
        ("1 / 0\n", State.FAIL, ["ZeroDivisionError", "line 1"]),
        ("bots = 1\n", State.FAIL, ["has no bot at all"]),
        (BOT + "@bot.text\ndef answer(ctx): ...\n", State.FAIL, ["needs parentheses"]),
        ("import sys\nsys.exit(0)\n", State.FAIL, ["SystemExit: 0", "line 2"]),
        ("import os\nos._exit(0)\n", State.FAIL, ["its import ends the process, with exit code 0"]),
        ("import os\nos.abort()\n", State.FAIL, ["its import ends the process, by signal 6 (Aborted)"]),
        ("raise ValueError('x' * 3000)\n", State.FAIL, ["ValueError: (a text of 3,000 characters) ("]),
        (f"raise ValueError('half a pair: {chr(92)}ud800')\n", State.FAIL, ["ValueError: half a pair: \ud800 ("]),
    ],
)
def test_the_bot_is_imported(in_tmp: Path, source: str, state: State, parts: list[str]) -> None:
    (in_tmp / "checked_bot.py").write_text(source)
    finding = app("checked_bot:bot")
    assert finding.state is state
    assert all(part in finding.found for part in parts), finding.found
    assert bool(finding.advice) == (state is not State.OK)


SWALLOWING: Final = "while True:\n    try:\n        sum(range(10_000))\n    except BaseException: pass\n"
DEAF: Final = "import signal\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\n"


@pytest.mark.parametrize(
    ("source", "start_max_s"),
    [
        ("import gevent\ngevent.sleep(60)\n", 10.0),
        (SWALLOWING, 10.0),
        ("import re\nre.match('(a+)+$', 'a' * 60 + 'b')\n", 10.0),  # which lets no other thread of Python run
        (DEAF + SWALLOWING, 5.0),  # all of which passes
    ],
)
def test_an_import_that_hangs_has_an_end(in_tmp: Path, source: str, start_max_s: float) -> None:
    (in_tmp / "checked_bot.py").write_text(f"import os\nopen('pid', 'w').write(str(os.getpid()))\n{BOT}{source}")
    finding = app("checked_bot:bot", 0.3, start_max_s)
    assert (finding.state, finding.found) == (State.FAIL, "checked_bot:bot: its import had not ended after 0.3 s")
    assert not is_running(int((in_tmp / "pid").read_text()))


def is_running(process: int) -> bool:
    """Also not a zombie, for which nobody may have asked yet."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_import_that_hangs_ends_though_the_check_is_killed(in_tmp: Path) -> None:
    (in_tmp / "checked_bot.py").write_text(f"import os\nopen('pid', 'w').write(str(os.getpid()))\n{SWALLOWING}")
    code = "from gbot.checks.app import app\napp('checked_bot:bot', 2.0)\n"
    with subprocess.Popen([sys.executable, "-c", code]) as check:
        written = in_tmp / "pid"
        eventually(lambda: written.exists() and written.read_text())
        check.kill()
    importing = int(written.read_text())
    try:
        eventually(lambda: not is_running(importing))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(importing, signal.SIGKILL)


def test_what_the_bot_prints_when_imported_goes_to_standard_error(
    in_tmp: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    noise = "import os\nprint('printed')\nos.write(1, b'written\\n')\nos.system('echo by a child')\n"
    (in_tmp / "checked_loud.py").write_text(f"{noise}{BOT}{HANDLER}")
    assert app("checked_loud:bot").state is State.OK
    shown = capfd.readouterr()
    assert (shown.out, sorted(shown.err.splitlines())) == ("", ["by a child", "printed", "written"])


@pytest.mark.parametrize(("source", "state"), [(BOT + HANDLER, State.OK), ("os._exit(0)\n", State.FAIL)])
def test_what_the_bot_leaves_behind_does_not_keep_the_check(in_tmp: Path, source: str, state: State) -> None:
    left = "import os, time\nif not os.fork():\n    open('left', 'w').write(str(os.getpid()))\n    time.sleep(600)\n"
    (in_tmp / "checked_parent.py").write_text(f"{left}{source}")
    try:
        assert app("checked_parent:bot").state is state
    finally:
        eventually(lambda: (in_tmp / "left").exists() and (in_tmp / "left").read_text())
        os.kill(int((in_tmp / "left").read_text()), signal.SIGKILL)


def test_modules_are_found_where_the_program_finds_them(in_tmp: Path) -> None:
    for name in ("json.py", "queue.py"):
        (in_tmp / name).write_text("raise AssertionError('not the one of the standard library')\n")
    (in_tmp / "checked_bot.py").write_text(f"import queue\n{BOT}{HANDLER}")
    assert app("checked_bot:bot").state is State.OK


# ---- the port


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def test_a_free_port_is_free_and_stays_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as made:
        number = made.getsockname()[1]
    assert port(Config(port=number)) == ok("port", f"127.0.0.1 port {number} is free")
    assert port(Config(port=number)).state is State.OK
    assert "that gbot serve picks" in port(Config(port=0)).found


def test_a_taken_port_tells_by_whom(listening: socket.socket) -> None:
    number = listening.getsockname()[1]
    finding = port(Config(port=number))
    assert finding.state is State.FAIL
    assert finding.found.startswith(f"127.0.0.1 port {number} is taken by ")
    assert f"(process {os.getpid()})" in finding.found


def test_a_port_that_is_taken_for_all_addresses_is_found_too() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as made:
        assert holder_of(made.getsockname()[1], None) is not None
        assert port(Config(port=made.getsockname()[1])).state is State.FAIL


def test_an_address_that_is_not_of_this_machine() -> None:
    finding = port(Config(host="192.0.2.1", port=0))
    assert finding.state is State.FAIL
    assert "give an address of this machine" in finding.advice


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can look with the eyes of another user")
def test_what_another_user_may_not_do_or_see_is_said(listening: socket.socket) -> None:
    code = (
        "import os, sys\n"
        "from gbot.config import Config\n"
        "from gbot.checks.port import port\n"
        "port(Config(port=0))  # the other user may not be able to read what this imports\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "for number in map(int, sys.argv[1:]):\n"
        "    print(port(Config(port=number)))\n"
    )
    command = [sys.executable, "-c", code, "1", str(listening.getsockname()[1])]
    first, second = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    if "FAIL" in first:  # a container may allow every port to everybody
        assert "CAP_NET_BIND_SERVICE" in first
    assert "is taken by a process of user root that this user cannot see" in second


def test_a_unix_socket_is_tried_without_touching_it(tmp_path: Path) -> None:
    path = tmp_path / "gbot.sock"
    address = Config(host=f"unix:{path}")
    assert port(address).state is State.OK
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
        made.listen()
        finding = port(address)
        assert finding.state is State.FAIL
        assert f"(process {os.getpid()})" in finding.found
    assert port(address).state is State.OK  # gbot serve replaces what was left behind
    assert path.exists()


def test_a_unix_socket_that_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("keep me")
    assert "is no socket" in port(Config(host=f"unix:{path}")).found
    assert path.read_text() == "keep me"
    assert "too long" in port(Config(host=f"unix:{tmp_path}/{'x' * 120}")).found
    assert "No such file" in port(Config(host=f"unix:{tmp_path}/missing/gbot.sock")).found


# ---- the certificate

Pair = tuple[Path, Path]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("pair"))


def make_pair(directory: Path, *options: str) -> Pair:
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", key, "-out", cert, "-days", "90", "-subj", "/CN=bot.example.com"),
            *("-addext", "subjectAltName=DNS:bot.example.com,IP:127.0.0.1", *options),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


def seen(cert: Path, key: Path, in_days: float = 0.5) -> Finding:
    return certificate(Config(tls_cert=str(cert), tls_key=str(key)), cert.stat().st_mtime + in_days * DAY_S)


@pytest.mark.parametrize(
    ("in_days", "state", "part"),
    [
        (0.5, State.OK, "cert.pem for bot.example.com, 127.0.0.1 is valid for 89 more days"),
        (68.9, State.OK, "valid for 21 more days"),
        (69.1, State.WARN, "valid for 20 more days"),
        (88.9, State.WARN, "valid for 1 more day"),
        (90.1, State.FAIL, "expired on"),
        (-1.0, State.FAIL, "is not valid before"),
    ],
)
def test_a_certificate_tells_for_how_long_it_is_valid(pair: Pair, in_days: float, state: State, part: str) -> None:
    finding = seen(*pair, in_days)
    assert (finding.state, part in finding.found) == (state, True), finding


def test_a_certificate_that_has_expired_is_read_all_the_same(tmp_path: Path) -> None:
    cert, key = make_pair(tmp_path, "-days", "-1") if _takes_past_dates(tmp_path) else make_pair(tmp_path)
    assert seen(cert, key, 400).state is State.FAIL
    assert "expired" in seen(cert, key, 400).found


def _takes_past_dates(directory: Path) -> bool:
    try:
        make_pair(directory, "-days", "-1")
    except subprocess.CalledProcessError:
        return False
    return True


def test_a_chain_is_read_by_its_first_certificate(pair: Pair, tmp_path: Path) -> None:
    other, _ = make_pair(tmp_path, "-subj", "/CN=authority")
    chain = tmp_path / "chain.pem"
    chain.write_bytes(pair[0].read_bytes() + other.read_bytes())
    assert seen(chain, pair[1]).state is State.OK


def test_a_certificate_that_cannot_be_served(pair: Pair, tmp_path: Path) -> None:
    _, other = make_pair(tmp_path)
    for key, part in ((other, "the key that belongs to it"), (tmp_path / "missing.pem", "No such file")):
        finding = seen(pair[0], key)
        assert finding.state is State.FAIL
        assert part in finding.found
    for_clients, its_key = make_pair(tmp_path, "-addext", "extendedKeyUsage=clientAuth")
    finding = seen(for_clients, its_key)
    assert finding.state is State.FAIL
    assert "clients would refuse it" in finding.found


def test_no_certificate_is_nothing_to_look_at() -> None:
    assert certificate(Config(), 0).state is State.SKIP


# ---- the machine

WITH_DB: Final = Config(db="mysql://bot@db/chat", db_pool=200, connections_max=10_000, pool=5000)


def test_open_files_are_counted() -> None:
    finding = machine.open_files(WITH_DB, True, True, 1024, 524_288)
    assert finding.state is State.OK
    assert "10,000 of clients + 200 to the database + 5,000 to APIs + 64 others = 15,264 at most" in finding.found
    assert "there are 524,288, to which gbot serve raises its soft limit of 1,024 by itself" in finding.found
    assert "APIs" not in machine.open_files(WITH_DB, False, True, 1024, 524_288).found
    assert "database" not in machine.open_files(Config(), False, False, 1024, 524_288).found


@pytest.mark.parametrize(
    ("hard", "state"), [(15_264, State.OK), (15_263, State.WARN), (351, State.WARN), (350, State.FAIL), (-1, State.OK)]
)
def test_too_few_open_files_are_said(hard: int, state: State) -> None:
    finding = machine.open_files(WITH_DB, True, True, hard, hard)
    assert finding.state is state
    assert ("LimitNOFILE=15264;" in finding.advice) == (state is not State.OK)
    assert finding.figures == ({"needed": 15_264, "limit": hard} if hard > 0 else {"needed": 15_264})
    assert ("raises its soft limit" in finding.found) == (hard == -1)


def test_the_files_that_are_kept_for_clients_are_not_the_databases() -> None:
    few = Config(db="mysql://bot@db/chat", db_pool=5000, connections_max=100)
    finding = machine.open_files(few, False, True, 5200, 5200)
    assert finding.state is State.FAIL
    assert "= 5,164 at most; there are 5,200; open-file limit 5200 - 1364 for clients and all else" in finding.found
    assert "LimitNOFILE=6751;" in finding.advice
    assert finding.advice.endswith("or lower --db-pool to 3836")
    assert machine.open_files(few, False, True, 6751, 6751).state is State.OK
    assert machine.open_files(few, False, True, 6750, 6750).state is State.FAIL
    clamped = machine.open_files(replace(few, db_oversize="clamp"), False, True, 5200, 5200)
    assert clamped.state is State.WARN


def kernel(directory: Path, somaxconn: int, syn_backlog: int, cookies: int) -> Path:
    values = {"core/somaxconn": somaxconn, "ipv4/tcp_max_syn_backlog": syn_backlog, "ipv4/tcp_syncookies": cookies}
    for name, value in values.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(f"{value}\n")
    return directory


@pytest.mark.parametrize(
    ("values", "host", "advice"),
    [
        ((4096, 4096, 0), "127.0.0.1", ""),
        ((4096, 128, 1), "127.0.0.1", ""),  # SYN cookies
        ((128, 128, 1), "127.0.0.1", "as root: sysctl -w net.core.somaxconn=4096;"),
        (
            (128, 128, 0),
            "127.0.0.1",
            "as root: sysctl -w net.core.somaxconn=4096 and sysctl -w net.ipv4.tcp_max_syn_backlog=4096;",
        ),
        ((4096, 128, 0), "unix:/run/gbot.sock", ""),
    ],
)
def test_the_kernels_backlog(tmp_path: Path, values: tuple[int, int, int], host: str, advice: str) -> None:
    finding = machine.backlog(Config(host=host), kernel(tmp_path, *values))
    assert (finding.state, finding.advice[: len(advice)]) == (State.WARN if advice else State.OK, advice)
    assert (finding.figures["somaxconn"], finding.figures["asked"]) == (values[0], 4096)


def test_a_kernel_that_does_not_tell_is_skipped(tmp_path: Path) -> None:
    assert machine.backlog(Config(), tmp_path / "missing").state is State.SKIP


def test_memory_is_compared_with_what_the_handlers_need() -> None:
    big = Config(pool=100_000)
    assert machine.memory(big, False, 8 * 1024 * MIB).state is State.OK
    finding = machine.memory(big, False, 1024 * MIB)
    assert finding.state is State.WARN
    assert "100,000 handlers at once of 17.3 KiB each" in finding.found
    assert finding.found.endswith(f"{size(finding.figures['needed_bytes'])} of 1.0 GiB")
    assert finding.figures["limit_bytes"] == 1024 * MIB
    assert machine.memory(big, False, float("inf")).state is State.SKIP
    assert 16 * MIB < machine.memory_limit() < 2**50


def test_the_lowest_limit_of_the_cgroups_counts(tmp_path: Path) -> None:
    for directory, text in {
        "": "max",
        "system.slice": str(700 * MIB),
        "system.slice/gbot.service": str(900 * MIB),
        "memory": str(2**63 - 4096),
        "memory/docker": str(500 * MIB),
    }.items():
        (tmp_path / directory).mkdir(parents=True, exist_ok=True)
        name = "memory.limit_in_bytes" if directory.startswith("memory") else "memory.max"
        (tmp_path / directory / name).write_text(text + "\n")
    second = ["0::/system.slice/gbot.service"]
    first = ["4:cpu,memory:/docker/missing", "1:cpuset:/", "0::/"]
    assert sorted(machine._of_cgroups(second, tmp_path)) == [700 * MIB, 900 * MIB]
    assert list(machine._of_cgroups(first, tmp_path)) == [500 * MIB]


# ---- the clock


@pytest.mark.parametrize(
    ("ahead", "unsure", "state"),
    [
        (1.9, 0.0, State.OK),
        (-2.4, 0.5, State.OK),
        (2.6, 0.5, State.WARN),
        (-30.0, 0.0, State.WARN),
        (30.6, 0.5, State.FAIL),
        (-3600.0, 0.5, State.FAIL),
    ],
)
def test_a_clock_is_off_only_if_that_is_sure(ahead: float, unsure: float, state: State) -> None:
    finding = clock([Reading("the database db", 0.1, 0.01), Reading("api.line.me", ahead, unsure)])
    assert finding.state is state
    assert "it is within 2 s of that of the database db" in finding.found
    if state is not State.OK:
        assert f"{abs(ahead):,.0f} s {'behind' if ahead > 0 else 'ahead of'} that of api.line.me" in finding.found


def test_a_server_that_was_asked_twice_is_told_once() -> None:
    finding = clock([Reading("db:3306", 0.1, 0.01), Reading("api", 0.0, 0.5), Reading("db:3306", 2.6, 0.01)])
    assert finding.found == "it is 3 s behind that of db:3306; it is within 2 s of that of api"
    assert finding.figures == {"off_s": 2.59}


def test_nobody_to_ask_for_the_time() -> None:
    assert clock([]).state is State.SKIP


def test_a_reading_is_in_the_middle_of_question_and_answer() -> None:
    assert reading("x", 105.0, 100.0, 102.0) == Reading("x", 4.0, 1.0)
    assert reading("x", 105.0, 100.0, 102.0, 1.0) == Reading("x", 4.5, 1.5)


@given(st.text())
def test_whatever_a_date_header_holds_is_a_time_or_none(text: str) -> None:
    assert isinstance(http_date(text), float | None)
    assert http_date("Sun, 06 Nov 1994 08:49:37 GMT") == 784111777.0


# ---- the database's connections


@pytest.mark.parametrize(
    ("pool", "clamp", "state"),
    [(70, False, State.OK), (71, False, State.FAIL), (71, True, State.WARN)],
)
def test_the_pool_is_compared_with_the_share(pool: int, clamp: bool, state: State) -> None:
    share = share_of(ServerLimits(300, 0, 16, 0), 4, with_inbox=False)
    finding = judged(share, pool, clamp=clamp)
    assert finding.state is state
    assert "max_connections 300 - 18 kept for others (16 there now) = 282; / 4 nodes = 70" in finding.found
    assert ("--db-pool 70, or raise max_connections" in finding.advice) == (state is not State.OK)


@pytest.mark.parametrize(
    ("limits", "advice"),
    [
        (ServerLimits(20, 0, 18, 0), f"raise max_connections {RDS}, or end sessions of others"),
        (ServerLimits(9, 0, 8, 0), f"raise max_connections {RDS}"),  # fewer sessions of others would make no room
        (ServerLimits(100, 1, 30, 0), f"raise {USER_BOUND} {RDS}"),
    ],
)
def test_a_server_that_is_full_fails_even_where_the_share_would_be_taken(limits: ServerLimits, advice: str) -> None:
    finding = judged(share_of(limits, 1, with_inbox=False), 5, clamp=True)
    assert (finding.state, finding.advice) == (State.FAIL, advice)


@pytest.mark.parametrize(
    ("there", "pool", "nodes", "state", "part"),
    [
        (0, 280, 1, State.OK, "user bot has no other connections open there"),
        (1, 279, 1, State.OK, "user bot has 1 connection open there already; with 279 more for --db-pool that is 280"),
        (40, 241, 1, State.WARN, "user bot has 40 connections open there already; with 241 more for --db-pool that is"),
        (40, 999, 1, State.WARN, "with 280 more for --db-pool that is 320, more than the 280 of this"),
        (140, 70, 4, State.OK, "user bot has 140 connections open there already, which are in the shares of the 4"),
    ],
)
def test_connections_of_the_same_user_hint_at_other_nodes(
    there: int, pool: int, nodes: int, state: State, part: str
) -> None:
    config = Config(db="mysql://bot@db/chat", db_pool=pool, db_share=nodes)
    share = Share(280 // nodes, "", "max_connections")
    finding = sessions("bot", there, share, config)
    assert (finding.state, part in finding.found) == (state, True), finding
    assert finding.figures == {"used_by_user": there}
    assert ("set --db-share to the number of nodes" in finding.advice) == (state is State.WARN)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("1040 Too many connections", "all its connections are in use"),
        ("1226 User 'bot' has exceeded the 'max_user_connections' resource", "what this user may have is in use"),
        ("2026 SSL connection error; ?tls=off in its URL connects without", "see to the server's certificate"),
        ("3032 The server is currently in offline mode", "wait until its admin has it online again"),
        ("2003 Can't connect to MySQL server on 'db' (timed out)", "start it, or see to host, port and firewall"),
        ("what answers there does not speak MySQL's protocol", "start it, or see to host, port and firewall"),
    ],
)
def test_what_to_do_about_a_server_depends_on_what_it_says(text: str, advice: str) -> None:
    assert when_away(DatabaseDown(text)).startswith(advice)


# ---- the SQLite inbox


def look_at(path: Path) -> Finding:
    told: list[Reading] = []
    return inbox(load({"inbox": f"sqlite://{path}"}, {}, None)[0], told.append)[0]


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if not path.name.endswith("-shm")}


def test_an_inbox_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    finding = look_at(tmp_path / "deep" / "inbox.sqlite3")
    assert finding.state is State.OK
    assert "is not there yet" in finding.found
    assert list(tmp_path.iterdir()) == []


def test_an_inbox_that_nobody_uses_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "inbox.sqlite3"
    store = SqliteStore(path, POLICY)
    store.open()
    store.close()
    before = contents(tmp_path)
    finding = look_at(path)
    known = len(sqlite_file.MIGRATIONS)
    figures = {"schema": known, "workers": 0}
    assert finding == ok("inbox", f"{path} has schema {known}; no worker uses it now", figures)
    assert contents(tmp_path) == before


def test_an_older_inbox_is_not_upgraded(tmp_path: Path) -> None:
    path = tmp_path / "inbox.sqlite3"
    with sqlite3.connect(path) as made:
        for statement in sqlite_file.MIGRATIONS[0]:
            made.execute(statement)
        made.execute(f"PRAGMA application_id = {sqlite_file.APPLICATION_ID}")
        made.execute("PRAGMA user_version = 1")
    made.close()
    before = contents(tmp_path)
    finding = look_at(path)
    assert finding.state is State.WARN
    assert "has schema 1; no worker uses it now; gbot serve brings it to" in finding.found
    assert contents(tmp_path) == before


def test_an_inbox_in_use_is_looked_at_beside_its_workers(tmp_path: Path) -> None:
    path = tmp_path / "inbox.sqlite3"
    store = SqliteStore(path, POLICY)
    store.open()
    store.enlist()
    finding = look_at(path)
    assert finding.state is State.OK
    assert "1 worker uses it now, which this look does not disturb" in finding.found
    with sqlite3.connect(path, isolation_level=None) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert look_at(path).state is State.OK  # it waits for no lock
        writer.execute("ROLLBACK")
    writer.close()
    store.close()
    assert "no worker uses it now" in look_at(path).found


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda path: path.write_text("notes " * 1000), "no SQLite database"),
        (lambda path: path.mkdir(), "is not a file"),
        (lambda path: _with_table(path), "belongs to another program"),
    ],
)
def test_a_file_that_cannot_be_the_inbox_fails_and_stays(tmp_path: Path, make: Any, part: str) -> None:
    path = tmp_path / "inbox.sqlite3"
    make(path)
    finding = look_at(path)
    assert finding.state is State.FAIL
    assert part in finding.found
    assert [each.name for each in tmp_path.iterdir()] == ["inbox.sqlite3"]


def _with_table(path: Path) -> None:
    made = sqlite3.connect(path)
    made.execute("CREATE TABLE theirs (x)")
    made.close()


def test_an_inbox_in_memory_is_warned_of() -> None:
    [finding] = inbox(Config(inbox="memory:"), print)
    assert finding.state is State.WARN


# ---- all of them


def test_a_check_that_breaks_is_a_line_and_not_the_end() -> None:
    def break_down() -> Finding:
        raise KeyError("some\nthing")

    findings = run([Check("a", lambda: ok("a", "1")), Check("b", break_down), Check("c", lambda: [ok("c", "2")])])
    assert [finding.name for finding in findings] == ["a", "b", "c"]
    assert states(findings) == [State.OK, State.FAIL, State.OK]
    assert "the check itself broke: KeyError: 'some\\nthing'" in findings[1].found
    assert without(findings[1], {"some\\nthing"}).found == f"the check itself broke: KeyError: {HIDDEN}"


def test_a_check_that_takes_too_long_is_a_line_and_not_the_end() -> None:
    stuck = threading.Event()

    def wait() -> Finding:
        gevent.sleep(60)
        raise AssertionError

    def hang() -> Finding:
        stuck.wait(60)
        raise AssertionError

    findings = run(
        [
            Check("a", wait, "mysql://bot@db:3306/chat", "see to it", 0.05),
            Check("b", hang, late="see to it", limit_s=0.05, in_thread=True),
            Check("c", lambda: ok("c", "1")),
        ]
    )
    stuck.set()
    assert findings[:2] == [
        fail("a", "mysql://bot@db:3306/chat was not through after 0.05 s", "see to it"),
        fail("b", "it was not through after 0.05 s", "see to it"),
    ]
    assert findings[2].state is State.OK


def test_the_lines_of_a_default_start(tmp_path: Path) -> None:
    before = list(tmp_path.iterdir())
    findings = check_all("gbot.examples.echo:bot", {"port": "0"}, {"STATE_DIRECTORY": str(tmp_path)}, None)
    names = [finding.name for finding in findings]
    assert names == [
        *("config", "config file", "secrets", "app", "port", "certificate", "open files", "backlog", "memory"),
        *("inbox", "disk", "database", "clock"),
    ]
    assert State.FAIL not in states(findings)
    assert list(tmp_path.iterdir()) == before
