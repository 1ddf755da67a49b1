"""The program: what it says, to whom, and with which exit code."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from gbot import __version__
from gbot.config import SETTINGS
from tests.journeys.processes import Program, gbot

GOOD = "from gbot import Bot\nbot = Bot()\n"


def refused(program: Program, code: int = 2) -> str:
    """The one line with which it refused to go on."""
    assert program.code == code, program.report()
    assert program.stdout == []
    assert len(program.stderr) == 1, program.report()
    assert program.stderr[0].startswith("gbot: ")
    return program.stderr[0].removeprefix("gbot: ")


def test_a_bad_flag_is_one_line() -> None:
    line = refused(gbot("serve", "--port", "http"))
    assert line == "--port: expected a whole number from 0 to 65535, got 'http' (from the command line)"


def test_a_bad_variable_is_one_line() -> None:
    line = refused(gbot("serve", environ={"GBOT_STOP_TIMEOUT": "soon"}))
    assert line.startswith(
        "GBOT_STOP_TIMEOUT: expected a number of seconds from 0 to 3600, or a time such as 90s, 5m, 25h or 7d, "
        "got 'soon'"
    )
    assert line.endswith("(from the environment)")


def test_a_bad_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "gbot.toml"
    path.write_text('pool = "many"\n')
    line = refused(gbot("serve", "--config", str(path)))
    assert line == f"pool: expected a whole number from 1 to 1000000, got 'many' (from {path})"
    assert refused(gbot("serve", environ={"GBOT_CONFIG": str(path)})) == line
    path.write_text('"new\\nline" = 1\n')
    assert "new\\nline: expected the name of a setting" in refused(gbot("serve", "--config", str(path)))


@pytest.mark.parametrize("name", ["", "missing.toml"])
def test_a_file_that_is_not_there_is_one_line(name: str) -> None:
    assert "config: expected a readable file" in refused(gbot("serve", "--config", name))


def test_a_bad_secret_is_not_shown() -> None:
    program = gbot("serve", environ={"GBOT_LINE_CHANNEL_SECRET": "hush1,hush2,hush3"})
    assert "GBOT_LINE_CHANNEL_SECRET: expected one secret, or 2" in refused(program)
    assert "hush" not in program.report()


def test_a_token_that_fits_in_no_header_is_not_shown() -> None:
    secrets = {"GBOT_LINE_CHANNEL_SECRET": "secret", "GBOT_LINE_CHANNEL_ACCESS_TOKEN": "hush hush"}
    program = gbot("serve", "--port", "0", environ=secrets)
    assert "GBOT_LINE_CHANNEL_ACCESS_TOKEN" in refused(program)
    assert "hush" not in program.report()


def test_a_secret_cannot_be_given_as_a_flag() -> None:
    line = refused(gbot("serve", "--line-channel-secret", "hush"))
    assert "--line-channel-secret" in line
    assert "hush" not in line


# ---- APP


@pytest.mark.parametrize("command", ["serve", "routes"])
@pytest.mark.parametrize(
    ("app", "source", "parts"),
    [
        ("missing_module:bot", None, ["missing_module, which is not there"]),
        ("mybot", GOOD, ["a module and an attribute, such as mybot:bot", "got mybot"]),
        ("mybot.py", GOOD, ["a module and an attribute"]),
        ("mybot:bot", "1 / 0\n", ["ZeroDivisionError: division by zero", "mybot.py, line 1"]),
        ("mybot:bot", "def x(:\n", ["SyntaxError", "mybot.py, line 1"]),
        ("mybot:bot", "import sys\nsys.exit()\n", ["SystemExit", "mybot.py, line 2"]),
        ("mybot:bot", "import not_installed_here\n", ["needs not_installed_here: not installed"]),
        ("mybot:bot", GOOD + "@bot.text\ndef x(ctx): ...\n", ["BotError: @bot.text needs parentheses", "line 3"]),
        ("mybot:app", GOOD, ["app, which is not there", "it has a bot named bot"]),
        ("mybot:bot", "bot = 5\n", ["bot, which is of type int", "it has no bot at all"]),
    ],
)
def test_an_app_that_is_no_bot_is_one_line(
    command: str, app: str, source: str | None, parts: list[str], tmp_path: Path
) -> None:
    if source is not None:
        (tmp_path / "mybot.py").write_text(source)
    line = refused(gbot(command, app, cwd=tmp_path))
    assert line.startswith("APP: expected ")
    assert all(part in line for part in parts), line


# ---- what the machine refuses


def test_a_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        line = refused(gbot("serve", "--port", port), code=1)
    assert line == f"cannot listen on 127.0.0.1 port {port}: Address already in use"


@pytest.mark.parametrize("host", ["host.invalid", "192.0.2.1", "999.999.999.999"])
def test_an_address_that_is_not_ours_is_one_line(host: str) -> None:
    assert f"cannot listen on {host} port 0: " in refused(gbot("serve", "--host", host, "--port", "0"), code=1)


def test_a_socket_path_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    missing = f"unix:{tmp_path}/missing/gbot.sock"
    assert refused(gbot("serve", "--host", missing), code=1) == f"cannot listen on {missing}: No such file or directory"
    long = f"unix:{tmp_path}/{'x' * 120}"
    line = refused(gbot("serve", "--host", long), code=1)
    assert "too long" in line
    assert "None" not in line


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("keep me")
    assert "Address already in use" in refused(gbot("serve", "--host", f"unix:{path}"), code=1)
    assert path.read_text() == "keep me"


def make_certificate(directory: Path, *options: str) -> tuple[Path, Path]:
    certificate, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=localhost", *options),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


def serve_tls(certificate: Path, key: Path) -> Program:
    return gbot("serve", "--port", "0", "--tls-cert", str(certificate), "--tls-key", str(key))


def test_a_certificate_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    line = refused(serve_tls(tmp_path / "cert.pem", tmp_path / "key.pem"), code=1)
    assert line == f"cannot read {tmp_path / 'cert.pem'}: No such file or directory"


def test_a_certificate_that_is_none_is_one_line(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, "-nodes")
    broken = tmp_path / "broken.pem"
    broken.write_text("not a certificate")
    for pair in [(broken, key), (certificate, broken), (certificate, certificate), (key, key)]:
        line = refused(serve_tls(*pair), code=1)
        assert f"{pair[0]} and {pair[1]} are not a PEM certificate and the key that belongs to it" in line


def test_a_key_of_another_certificate_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    certificate, _ = make_certificate(tmp_path, "-nodes")
    _, other_key = make_certificate(tmp_path / "other", "-nodes")
    assert "are not a PEM certificate and the key that belongs to it" in refused(
        serve_tls(certificate, other_key), code=1
    )


def test_a_key_with_a_password_is_one_line(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, "-passout", "pass:hush")
    line = refused(serve_tls(certificate, key), code=1)
    assert str(key) in line


def test_a_directory_in_place_of_a_key_is_one_line(tmp_path: Path) -> None:
    certificate, _ = make_certificate(tmp_path, "-nodes")
    assert refused(serve_tls(certificate, tmp_path), code=1) == f"cannot read {tmp_path}: Is a directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file, so this cannot be tried as root")
def test_a_key_that_may_not_be_read_is_one_line(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, "-nodes")
    key.chmod(0)
    assert refused(serve_tls(certificate, key), code=1) == f"cannot read {key}: Permission denied"


def test_half_of_a_tls_pair_is_one_line() -> None:
    line = refused(gbot("serve", "--tls-key", "key.pem"))
    assert line == "tls-cert: expected a path, because tls-key is set, got nothing (from no source)"


# ---- what it tells


def test_help_lists_every_setting_and_its_default() -> None:
    program = gbot("serve", "--help")
    text = " ".join(" ".join(program.stdout).split())
    assert (program.code, program.stderr) == (0, [])
    for row in SETTINGS.values():
        assert (f"--{row.key} " in text) == row.has_flag
        assert (row.variable in text) or row.has_flag
        sentence = " ".join(row.sentence.split())
        assert sentence in text, row.name
        if isinstance(row.default, str | int | float):
            is_whole = isinstance(row.default, float) and row.default.is_integer()
            shown = int(row.default) if is_whole else row.default
            assert f"{sentence} [default: {shown}]" in text
    assert "--config" in text


def test_the_program_tells_its_commands_and_version() -> None:
    commands = " ".join(gbot("--help").stdout)
    assert "serve" in commands
    assert "routes" in commands
    assert gbot("--version").stdout == [f"gbot, version {__version__}"]


def test_routes_lists_handlers_in_order(tmp_path: Path) -> None:
    (tmp_path / "mybot.py").write_text(
        "import functools, re\nfrom gbot import Bot\nbot = Bot()\n"
        "@bot.default\ndef rest(ctx): ...\n"
        "@bot.text(re.compile('a\\nb'))\ndef lines(ctx): ...\n"
        "@bot.command('/help')\ndef help_(ctx): ...\n"
        "def two(ctx, x): ...\nbot.on('follow')(functools.partial(two, x=1))\n"
    )
    program = gbot("routes", "mybot:bot", cwd=tmp_path)
    assert (program.code, program.stderr) == (0, [])
    assert [line.split() for line in program.stdout] == [
        ["1", "text", "/a\\nb/", "mybot:6", "lines"],
        ["2", "command", "/help", "mybot:8", "help_"],
        ["3", "on", "follow", "functools"],
        ["4", "default", "mybot:4", "rest"],
    ]


def test_routes_says_when_there_are_none(tmp_path: Path) -> None:
    (tmp_path / "mybot.py").write_text(GOOD)
    program = gbot("routes", "mybot:bot", cwd=tmp_path)
    assert program.stdout == ["mybot:bot has no handlers: every event will be counted as unhandled."]


def test_routes_without_an_app_shows_the_echo_bot() -> None:
    program = gbot("routes")
    assert program.code == 0
    assert "gbot.examples.echo" in program.stdout[0]
