"""Settings: one table, four sources, one sentence for every mistake."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbot.config import INBOX_MAX_MEMORY, INBOX_MAX_STORED, SETTINGS, Config, Setting
from gbot.config_sources import load
from gbot.errors import ConfigError
from gbot.limiter import Limit

# For each setting: three texts that are right, and what they mean. Kept apart from the table on purpose: a new setting
# must be added here too.
GOOD: dict[str, list[tuple[str, Any]]] = {
    "host": [("0.0.0.0", "0.0.0.0"), ("::1", "::1"), ("unix:/run/gbot.sock", "unix:/run/gbot.sock")],
    "port": [("0", 0), ("8080", 8080), ("65535", 65535)],
    "pool": [("1", 1), ("100", 100), ("1000000", 1_000_000)],
    "platforms": [("line", ("line",)), ("plain", ("plain",)), ("plain, line,plain", ("plain", "line"))],
    "inbox": [
        (
            "mysql://u@db.example:3306/gbot?unix_socket=/run/my.sock",
            "mysql://u@db.example:3306/gbot?unix_socket=/run/my.sock",
        ),
        ("sqlite:///var/lib/a b/inbox.db", "sqlite:///var/lib/a b/inbox.db"),
        ("memory:", "memory:"),
        ("sqlite:", "sqlite:///state/gbot/inbox.sqlite3"),
        ("sqlite:////x", "sqlite:////x"),
        ("mysql://u:p%40ss@[::1]/gbot", "mysql://u:p%40ss@[::1]/gbot"),
    ],
    "inbox_max": [("1", 1), ("50", 50), ("100000000", 100_000_000)],
    "inbox_bytes_max": [("1048576", 1_048_576), ("2000000", 2_000_000), ("1099511627776", 2**40)],
    "ack": [("received", "received"), ("stored", "stored"), ("received", "received")],
    "dedup_window": [("60", 60.0), ("1.5h", 5400.0), ("2592000", 2_592_000.0)],
    "attempts_max": [("1", 1), ("3", 3), ("1000", 1000)],
    "order": [("relaxed", "relaxed"), ("strict", "strict"), ("relaxed", "relaxed")],
    "keep_done": [("0", 0.0), ("7d", 604_800.0), ("31622400", 31_622_400.0)],
    "state_ttl": [("60", 60.0), ("7d", 604_800.0), ("3660d", 316_224_000.0)],
    "lanes": [
        ("line.push: 500/s", (("line.push", Limit(count=500)),)),
        ("line.all: 1 at once, 100ms apart", (("line.all", Limit(in_flight=1, interval_s=0.1)),)),
        (
            "line.broadcast: 60/h; messenger.send: 200/s, 50 at once",
            (
                ("line.broadcast", Limit(count=60, per_s=3600)),
                ("messenger.send", Limit(count=200, in_flight=50)),
            ),
        ),
    ],
    "merge_window": [("0", 0.0), ("20ms", 0.02), ("5", 5.0)],
    "db": [
        ("mysql://u@h/db", "mysql://u@h/db"),
        ("mysql://u:p%40ss@db.example:3307/db?tls=verify", "mysql://u:p%40ss@db.example:3307/db?tls=verify"),
        ("mysql://u@localhost/db?unix_socket=/run/my.sock", "mysql://u@localhost/db?unix_socket=/run/my.sock"),
    ],
    "db_pool": [("1", 1), ("5000", 5000), ("100000", 100_000)],
    "db_warm": [("0", 0), ("5000", 5000), ("100000", 100_000)],
    "db_wait_timeout": [("0.01", 0.01), ("500ms", 0.5), ("3600", 3600.0)],
    "db_hold_warning": [("0", 0.0), ("100ms", 0.1), ("1d", 86_400.0)],
    "db_share": [("1", 1), ("4", 4), ("10000", 10_000)],
    "db_oversize": [("clamp", "clamp"), ("refuse", "refuse"), ("clamp", "clamp")],
    "body_bytes_max": [("1024", 1024), ("65536", 65536), ("104857600", 104_857_600)],
    "connections_max": [("1", 1), ("64", 64), ("1000000", 1_000_000)],
    "handler_timeout": [("0", 0.0), ("5m", 300.0), ("86400", 86400.0)],
    "stop_timeout": [("0", 0.0), ("2.5", 2.5), ("3600", 3600.0)],
    "tls_cert": [("cert.pem", "cert.pem"), ("/etc/a b.pem", "/etc/a b.pem"), ("./c", "./c")],
    "tls_key": [("key.pem", "key.pem"), ("/etc/a b.key", "/etc/a b.key"), ("./k", "./k")],
    "log_format": [("text", "text"), ("json", "json"), ("text", "text")],
    "log_level": [("debug", "debug"), ("warning", "warning"), ("error", "error")],
    "sample_interval": [("0", 0.0), ("0.5", 0.5), ("3600", 3600.0)],
    "line_channel_secret": [("first", ("first",)), ("old, new", ("old", "new")), ("x", ("x",))],
    "line_channel_access_token": [("token", ("token",)), ("t+/=", ("t+/=",)), ("u", ("u",))],
    "line_api_base": [("http://127.0.0.1:1/x", "http://127.0.0.1:1/x"), ("https://a.b", "https://a.b")] * 2,
    "line_content_base": [("http://127.0.0.1:2", "http://127.0.0.1:2"), ("https://c.d", "https://c.d")] * 2,
    "messenger_app_secret": [("first", ("first",)), ("old, new", ("old", "new")), ("x", ("x",))],
    "messenger_verify_token": [("token", ("token",)), ("t+/=", ("t+/=",)), ("u", ("u",))],
    "messenger_page_token": [("token", ("token",)), ("t+/=", ("t+/=",)), ("u", ("u",))],
    "messenger_api_base": [("http://127.0.0.1:1/v1", "http://127.0.0.1:1/v1"), ("https://a.b/v2", "https://a.b/v2")]
    * 2,
}

BAD: dict[str, list[str]] = {
    "host": ["", " ", "a b", "a/b", "unix:", "unix:relative", "unix:/a\0b", "a\0b", "a..b", "x" * 64, "a\nb", "\udcff"],
    "port": ["", "-1", "65536", "4000.0", "0x10", "four", " 80", "80\n", "٤", "9" * 30],
    "pool": ["", "0", "-5", "1000001", "1e3", "many"],
    "platforms": ["slack", "line plain", "line,slack", "LINE"],
    "inbox": [
        *("", "memory", "memory:x", "memory://", "Memory:", " memory:", "memory:\n"),
        *(
            "sqlite",
            "sqlite:/x",
            "sqlite://x",
            "sqlite:///",
            "sqlite:///x/",
            "sqlite:///a\0b",
            "sqlite:///a?b",
            "SQLITE:",
        ),
        *("mysql:", "mysql://", "mysql://h", "mysql://h/", "mysql:///db", "mysql://u@/db", "mysql://h:0/db"),
        *("mysql://h:99999/db", "mysql://h:port/db", "mysql://[::1/db", "postgres://h/db", "/var/lib/inbox"),
    ],
    "inbox_max": ["", "0", "100000001", "1_000"],
    "inbox_bytes_max": ["", "1023", "1099511627777", "64MB"],
    "ack": ["", "Stored", "now"],
    "dedup_window": ["", "0", "59", "2592001", "-60", "25 h", "25x", "59s", "31d"],
    "attempts_max": ["", "0", "1001", "-1", "2.0"],
    "order": ["", "STRICT", "none"],
    "keep_done": ["", "0.5", "31622401", "-1", "d", "400d"],
    "state_ttl": ["", "0", "59", "3661d", "-1", "soon"],
    "lanes": [
        "",
        "line.push",
        "push: 5/s",
        "line.push: fast",
        "line.push: 0/s",
        "line.push: 5/s, 6/s",
        "line.push 5/s",
    ],
    "merge_window": ["", "0.0001", "6", "-1", "nan"],
    "db": [
        *("", "mysql:", "mysql://h/db", "mysql://u@h", "mysql://u@h/", "mysql://u@/db", "mysql://u@h:0/db"),
        *("mysql://u@h/db/more", "mysql://u@h/db?tls=maybe", "mysql://u@h/db?tsl=off", "mysql://u@h/db#x"),
        *("postgres://u@h/db", "sqlite:", "MYSQL:", "db", "mysql://u@h:port/db"),
    ],
    "db_pool": ["", "0", "-1", "100001", "many"],
    "db_warm": ["", "-1", "100001", "all"],
    "db_wait_timeout": ["", "0", "0.001", "3601", "2h", "soon"],
    "db_hold_warning": ["", "0.05", "86401", "-1", "never"],
    "db_share": ["", "0", "10001", "1/4", "0.25"],
    "db_oversize": ["", "Clamp", "take"],
    "body_bytes_max": ["", "1023", "104857601", "1MB"],
    "connections_max": ["", "0", "1000001"],
    "handler_timeout": ["", "0.05", "86401", "-1", "nan", "inf", "1e3", "5 s", "0.01s", "25h", ".5"],
    "stop_timeout": ["", "-0.1", "3601", "nan", "soon"],
    "tls_cert": ["", "a\0b"],
    "tls_key": ["", "a\0b"],
    "log_format": ["", "JSON", "xml"],
    "log_level": ["", "INFO", "trace"],
    "sample_interval": ["", "0.4", "3601", "never"],
    "line_channel_secret": ["", " ", ",", "a,b,c", "tab\there", "\udcff"],
    "line_channel_access_token": ["", " ", "a,b", "new\nline"],
    "line_api_base": [
        "",
        "api.line.me",
        "ftp://a",
        "http://",
        "https://a b",
        "https://u:p@a",
        "https://a?q",
        "HTTP://A",
        *("http://[::1", "http://a:99999", "http://a:b", "http://a..b", "http://:80", "https://a:0", "http://a\0b"),
    ],
    "line_content_base": ["", "api-data.line.me", "ftp://a", "https://u:p@a"],
    "messenger_app_secret": ["", " ", ",", "a,b,c", "tab\there"],
    "messenger_verify_token": ["", " ", "a,b", "new\nline"],
    "messenger_page_token": ["", " ", "a,b", "new\nline"],
    "messenger_api_base": ["", "graph.facebook.com", "ftp://a", "https://a?q"],
}

ROWS = [pytest.param(row, id=row.name) for row in SETTINGS.values()]
FLAG_ROWS = [pytest.param(row, id=row.name) for row in SETTINGS.values() if row.has_flag]
SECRET_ROWS = [pytest.param(row, id=row.name) for row in SETTINGS.values() if row.is_secret]
BAD_VALUES = [
    pytest.param(SETTINGS[name], text, id=f"{name}-{number}")
    for name, texts in BAD.items()
    for number, text in enumerate(texts)
]
STATE = {"STATE_DIRECTORY": "/state/gbot"}
DEFAULTS = {"inbox": "sqlite:///state/gbot/inbox.sqlite3"}  # where a default says more than it is
COMPANIONS = {"tls_cert": {"GBOT_TLS_KEY": "k"}, "tls_key": {"GBOT_TLS_CERT": "c"}, "platforms": {}}
LINE_SECRET = {"GBOT_LINE_CHANNEL_SECRET": "companion"}


def companions(row: Setting) -> dict[str, str]:
    """What must be set besides, so that the settings make sense together."""
    return STATE | COMPANIONS.get(row.name, {}) | (LINE_SECRET if row.name == "platforms" else {})


def toml(path: Path, **values: object) -> Path:
    """A TOML file with these settings; JSON's texts, numbers and lists are TOML's too."""
    text = "".join(f"{SETTINGS[name].key} = {json.dumps(value)}\n" for name, value in values.items())
    path.write_text(text, encoding="utf-8")
    return path


def refusal(
    flags: dict[str, str | None] | None = None, environ: dict[str, str] | None = None, file: Path | None = None
) -> ConfigError:
    with pytest.raises(ConfigError) as raised:
        load(flags or {}, environ or {}, file)
    assert len(str(raised.value).splitlines()) == 1
    return raised.value


def test_the_tables_of_this_module_have_every_setting() -> None:
    assert set(GOOD) == set(BAD) == set(SETTINGS) == {field.name for field in dataclasses.fields(Config)}


# ---- precedence


@pytest.mark.parametrize("row", ROWS)
def test_a_default_is_used_where_nothing_is_given(row: Setting) -> None:
    config, warnings = load({}, STATE, None)
    assert getattr(config, row.name) == DEFAULTS.get(row.name, row.default)
    assert warnings == []


@pytest.mark.parametrize("row", ROWS)
def test_every_value_is_read_from_the_file(row: Setting, tmp_path: Path) -> None:
    for text, value in GOOD[row.name]:
        config, _ = load({}, companions(row), toml(tmp_path / "gbot.toml", **{row.name: text}))
        assert getattr(config, row.name) == value


@pytest.mark.parametrize("row", ROWS)
def test_the_environment_goes_before_the_file(row: Setting, tmp_path: Path) -> None:
    (in_file, _), (in_environ, value), _ = GOOD[row.name][:3]
    file = toml(tmp_path / "gbot.toml", **{row.name: in_file})
    config, _ = load({}, companions(row) | {row.variable: in_environ}, file)
    assert getattr(config, row.name) == value


@pytest.mark.parametrize("row", FLAG_ROWS)
def test_a_flag_goes_before_the_environment_and_the_file(row: Setting, tmp_path: Path) -> None:
    (in_file, _), (in_environ, _), (in_flag, value) = GOOD[row.name][:3]
    file = toml(tmp_path / "gbot.toml", **{row.name: in_file})
    config, _ = load({row.name: in_flag}, companions(row) | {row.variable: in_environ}, file)
    assert getattr(config, row.name) == value


@pytest.mark.parametrize("row", FLAG_ROWS)
def test_a_flag_that_was_not_given_changes_nothing(row: Setting, tmp_path: Path) -> None:
    text, value = GOOD[row.name][1]
    config, _ = load({row.name: None}, companions(row), toml(tmp_path / "gbot.toml", **{row.name: text}))
    assert getattr(config, row.name) == value


def test_names_follow_from_the_settings_name() -> None:
    row = SETTINGS["stop_timeout"]
    assert (row.key, row.variable) == ("stop-timeout", "GBOT_STOP_TIMEOUT")


# ---- mistakes


@pytest.mark.parametrize(("row", "text"), BAD_VALUES)
def test_a_bad_value_is_refused_with_its_name_and_source(row: Setting, text: str, tmp_path: Path) -> None:
    if text or row.is_secret:
        in_environ = refusal(environ={row.variable: text})
        assert (in_environ.name, in_environ.source) == (row.variable, "the environment")
        assert in_environ.expected == row.kind.expected
    if row.has_flag:
        in_flag = refusal({row.name: text})
        assert (in_flag.name, in_flag.source) == ("--" + row.key, "the command line")
        hides = "@" in text or text.startswith(("mysql:", "memory:x")) or ":" in text.partition(":")[2]
        assert in_flag.given == repr(text) or hides
    if text.isascii():
        path = toml(tmp_path / "gbot.toml", **{row.name: text})
        in_file = refusal(file=path)
        assert (in_file.name, in_file.source) == (row.key, str(path))
        assert row.key in str(in_file)
        assert str(path) in str(in_file)


@pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in SETTINGS.values() if not row.is_secret])
def test_an_empty_variable_is_as_none(row: Setting, tmp_path: Path) -> None:
    assert load({}, STATE | {row.variable: ""}, None) == load({}, STATE, None)
    text, value = GOOD[row.name][1]
    config, _ = load({}, companions(row) | {row.variable: ""}, toml(tmp_path / "gbot.toml", **{row.name: text}))
    assert getattr(config, row.name) == value


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("written", ["true", "1979-05-27", "{ a = 1 }", "[1, 2]", "[[[]]]"])
def test_a_toml_value_of_another_type_is_refused(row: Setting, written: str, tmp_path: Path) -> None:
    path = tmp_path / "gbot.toml"
    path.write_text(f"{row.key} = {written}\n")
    error = refusal(file=path)
    assert (error.name, error.source) == (row.key, str(path))


def test_toml_numbers_and_lists_are_taken_where_they_fit(tmp_path: Path) -> None:
    path = tmp_path / "gbot.toml"
    path.write_text(
        'port = 8080\nstop-timeout = 2.5\nhandler-timeout = 30\nplatforms = ["plain", "line"]\n'
        'line-channel-secret = ["old", "new"]\n'
    )
    config, _ = load({}, {}, path)
    assert (config.port, config.stop_timeout, config.handler_timeout) == (8080, 2.5, 30.0)
    assert (config.platforms, config.line_channel_secret) == (("plain", "line"), ("old", "new"))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("stop-timout", "stop-timeout"),
        ("stop_timeout", "stop-timeout"),
        ("Port", "port"),
        ("line-chanel-secret", "line-channel-secret"),
    ],
)
def test_a_typo_in_the_file_is_named_and_mended(written: str, meant: str, tmp_path: Path) -> None:
    path = tmp_path / "gbot.toml"
    path.write_text(f'{written} = "do not show this"\n')
    error = refusal(file=path)
    assert error.name == written
    assert meant in error.expected
    assert error.source == str(path)
    assert "do not show this" not in str(error)


def test_a_name_that_is_like_none_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "gbot.toml"
    path.write_text("[server]\nport = 1\n")
    assert refusal(file=path).name == "server"


def test_a_typo_in_the_environment_is_a_warning() -> None:
    _, warnings = load({}, {"GBOT_PROT": "80", "GBOT_PORT_4000_TCP_ADDR": "10.0.0.1", "HOME": "/"}, None)
    assert warnings[0].startswith("GBOT_PORT_4000_TCP_ADDR in the environment is no setting of gbot")
    assert warnings[1] == "GBOT_PROT in the environment is no setting of gbot; perhaps GBOT_PORT was meant"
    assert len(warnings) == 2


def test_the_variable_that_names_the_file_is_known() -> None:
    assert load({}, {"GBOT_CONFIG": "gbot.toml"}, None)[1] == []


@pytest.mark.parametrize(
    ("content", "part"),
    [(b"port = \n", "line 1"), (b"= 5", "line 1"), (b'host = "\xff"', "utf-8"), (b"x = " + b"[" * 5000, "deep")],
)
def test_a_file_that_is_not_toml_is_refused(content: bytes, part: str, tmp_path: Path) -> None:
    path = tmp_path / "gbot.toml"
    path.write_bytes(content)
    error = refusal(file=path)
    assert (error.name, error.expected) == ("config", "a TOML file")
    assert part in error.given
    assert str(path) in error.given


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(file=tmp_path / "missing.toml").given
    assert "directory" in refusal(file=tmp_path).given


@pytest.mark.parametrize(("given", "missing"), [("tls_cert", "tls-key"), ("tls_key", "tls-cert")])
def test_half_of_a_tls_pair_is_refused(given: str, missing: str) -> None:
    error = refusal({given: "x.pem"})
    assert error.name == missing
    assert SETTINGS[given].key in error.expected


def test_line_without_a_secret_is_refused() -> None:
    assert refusal({"platforms": "line"}).name == "GBOT_LINE_CHANNEL_SECRET"


# ---- secrets


@pytest.mark.parametrize("row", SECRET_ROWS)
def test_a_secret_has_no_flag_and_is_never_shown(row: Setting, tmp_path: Path) -> None:
    assert not row.has_flag
    config, _ = load({}, {row.variable: "hush"}, None)
    assert "hush" in getattr(config, row.name)
    assert "hush" not in repr(config)
    assert "hush" not in str(config)
    wrong = "hush,hush\thush,hush"
    assert "hush" not in str(refusal(environ={row.variable: wrong}))
    assert "hush" not in repr(refusal(environ={row.variable: wrong}))
    assert "hush" not in str(refusal(file=toml(tmp_path / "gbot.toml", **{row.name: wrong})))
    for written in ('{ a = "hush" }', '[["hush"]]'):
        (tmp_path / "gbot.toml").write_text(f"{row.key} = {written}\n")
        assert "hush" not in str(refusal(file=tmp_path / "gbot.toml"))


def test_the_secrets_are_known_by_their_names() -> None:
    secrets = {row.name for row in SETTINGS.values() if row.is_secret}
    assert secrets == {name for name in SETTINGS if "secret" in name or "token" in name}


# ---- addresses of databases, which may hold a password


URL_ROWS = ["inbox", "db"]
PASSWORDS = ["mysql://u:pa55@h/db", "mysql://u:pa55@h:port/db", "mysql://u:pa55@/db", "mysql://u:pa55@h/"]


@pytest.mark.parametrize("name", URL_ROWS)
def test_the_password_of_a_database_is_taken_and_not_shown(name: str, tmp_path: Path) -> None:
    url = "mysql://u:pa55@h/db"
    in_environ, _ = load({}, {SETTINGS[name].variable: url}, None)
    in_file, _ = load({}, {}, toml(tmp_path / "gbot.toml", **{name: url}))
    for config in (in_environ, in_file):
        assert getattr(config, name) == url
        assert "pa55" not in repr(config)
        assert "pa55" not in str(config)
        assert "mysql:" not in repr(config)


@pytest.mark.parametrize("name", URL_ROWS)
@pytest.mark.parametrize(
    "url", [*PASSWORDS[1:], "mysql://u:pa55@h", "mysql:u:pa55@h/db", "mysql//u:pa55@h/db", "mysq://u:pa55@h/db"]
)
def test_the_password_of_a_database_that_cannot_be_is_not_shown(name: str, url: str, tmp_path: Path) -> None:
    errors = [
        refusal(environ={SETTINGS[name].variable: url}),
        refusal({name: url}),
        refusal(file=toml(tmp_path / "gbot.toml", **{name: url})),
    ]
    for error in errors:
        assert "pa55" not in str(error)
        assert "pa55" not in repr(error)


@pytest.mark.parametrize("name", URL_ROWS)
@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("mysql://u:pa55@h", "has no /database"),
        ("mysql://u:pa55@h/db?charset=utf8", "has another option than tls and unix_socket"),
        ("mysql://u:pa55@h:port/db", "has a port that is no number from 1 to 65535"),
    ],
)
def test_what_the_address_of_a_database_lacks_is_told(name: str, url: str, problem: str) -> None:
    assert f", got one that {problem}, and is not shown" in str(refusal(environ={SETTINGS[name].variable: url}))


@pytest.mark.parametrize("name", URL_ROWS)
def test_a_password_in_a_place_where_none_belongs_is_not_shown(name: str) -> None:
    url = "mysql://root:pa55/db"  # the host was forgotten
    assert "pa55" not in str(refusal(environ={SETTINGS[name].variable: url}))


@pytest.mark.parametrize("name", URL_ROWS)
@pytest.mark.parametrize("url", ["mysql://u:pa55@h/db", "mysql://u:pa55%40@h/db?tls=off"])
def test_a_command_line_may_not_hold_the_password_of_a_database(name: str, url: str) -> None:
    error = refusal({name: url})
    assert (error.name, error.source) == (f"--{name}", "the command line")
    assert f"{SETTINGS[name].variable} may hold one" in str(error)
    assert "pa55" not in str(error)


@pytest.mark.parametrize("name", URL_ROWS)
def test_a_command_line_may_name_a_database_without_a_password(name: str) -> None:
    config, _ = load({name: "mysql://u@h/db"}, {SETTINGS[name].variable: "mysql://u:pa55@h/db"}, None)
    assert getattr(config, name) == "mysql://u@h/db"


# ---- the inbox


@pytest.mark.parametrize(
    ("environ", "directory"),
    [
        ({"STATE_DIRECTORY": "/var/lib/gbot"}, "/var/lib/gbot"),
        ({"STATE_DIRECTORY": "/var/lib/gbot:/var/lib/other", "XDG_STATE_HOME": "/x", "HOME": "/h"}, "/var/lib/gbot"),
        ({"STATE_DIRECTORY": "/var/lib/gbot/", "HOME": "/h"}, "/var/lib/gbot"),
        ({"XDG_STATE_HOME": "/x/state", "HOME": "/h"}, "/x/state/gbot"),
        ({"STATE_DIRECTORY": "", "XDG_STATE_HOME": "", "HOME": "/h"}, "/h/.local/state/gbot"),
        ({"STATE_DIRECTORY": "relative", "XDG_STATE_HOME": "relative", "HOME": "/h"}, "/h/.local/state/gbot"),
        ({"HOME": "/h"}, "/h/.local/state/gbot"),
    ],
)
@pytest.mark.parametrize("given", [{}, {"GBOT_INBOX": "sqlite:"}])
def test_the_state_directory_is_where_the_system_says(
    environ: dict[str, str], directory: str, given: dict[str, str]
) -> None:
    config, warnings = load({}, environ | given, None)
    assert config.inbox == f"sqlite://{directory}/inbox.sqlite3"
    assert warnings == []


def test_without_any_of_them_it_is_below_the_users_home() -> None:
    config, _ = load({}, {}, None)
    assert config.inbox.startswith("sqlite:///")
    assert config.inbox.endswith("/.local/state/gbot/inbox.sqlite3")


@pytest.mark.parametrize(
    ("environ", "entries_max"),
    [
        ({"GBOT_INBOX": "memory:"}, INBOX_MAX_MEMORY),
        ({}, INBOX_MAX_STORED),
        ({"GBOT_INBOX": "mysql://u@h/db"}, INBOX_MAX_STORED),
        ({"GBOT_INBOX": "memory:", "GBOT_INBOX_MAX": "7000"}, 7000),
        ({"GBOT_INBOX_MAX": "7000"}, 7000),
    ],
)
def test_how_many_events_an_inbox_holds_by_default_depends_on_where_it_is(
    environ: dict[str, str], entries_max: int
) -> None:
    assert load({}, environ, None)[0].entries_max == entries_max


# ---- any text at all


@pytest.mark.parametrize("row", ROWS)
@given(text=st.text(max_size=30))
def test_any_text_is_read_or_refused_in_one_sentence(row: Setting, text: str) -> None:
    sentence = None
    try:
        row.read(text, row.variable, "the environment")
    except ConfigError as error:
        sentence = str(error)
    if sentence is not None:
        assert row.kind.expected in sentence
        assert len(sentence.splitlines()) == 1


@given(st.integers(min_value=-(10**20), max_value=10**20))
def test_whole_numbers_are_taken_exactly_within_their_range(number: int) -> None:
    row = SETTINGS["port"]
    if 0 <= number <= 65535:
        assert row.read(str(number), "port", "test") == number
    else:
        with pytest.raises(ConfigError):
            row.read(str(number), "port", "test")


@given(st.decimals(min_value=0, max_value=4000, places=3))
def test_seconds_are_taken_within_their_range(number: Any) -> None:
    row = SETTINGS["stop_timeout"]
    if number <= 3600:
        assert row.read(str(number), "stop-timeout", "test") == float(number)
    else:
        with pytest.raises(ConfigError):
            row.read(str(number), "stop-timeout", "test")


def test_what_kubernetes_sets_beside_a_service_named_gbot_is_left_alone() -> None:
    environ = {"GBOT_PORT": "tcp://10.0.0.1:4000", "GBOT_SERVICE_HOST": "10.0.0.1"}
    config, warnings = load({}, environ, None)
    assert config.port == SETTINGS["port"].default
    assert len(warnings) == 2
    assert all("is no setting of gbot" in warning for warning in warnings)


def test_a_password_in_an_address_is_not_shown() -> None:
    assert "pa55" not in str(refusal(environ={"GBOT_LINE_API_BASE": "https://u:pa55@h/"}))


def test_an_empty_secret_is_called_nothing() -> None:
    assert "got nothing" in str(refusal(environ={"GBOT_LINE_CHANNEL_SECRET": ""}))


DB = {"GBOT_DB": "mysql://bot@localhost/bot"}


@pytest.mark.parametrize(
    ("environ", "word"),
    [
        ({"GBOT_LINE_CHANNEL_ACCESS_TOKEN": "token"}, "no LINE channel secret"),
        ({"GBOT_INBOX_MAX": "10"}, "below pool"),
        ({"GBOT_INBOX_BYTES_MAX": "2000"}, "below body-bytes-max"),
        ({"GBOT_DB_POOL": "200"}, "db-pool means nothing without db"),
        ({**DB, "GBOT_DB_POOL": "5", "GBOT_DB_WARM": "6"}, "no more than 5 connections will be opened"),
        ({**DB, "GBOT_HANDLER_TIMEOUT": "5s"}, "db-wait-timeout is not below handler-timeout"),
    ],
)
def test_settings_that_make_little_sense_together_are_named(environ: dict[str, str], word: str) -> None:
    _, [warning] = load({}, environ, None)
    assert word in warning


@pytest.mark.parametrize("own", [{}, {"GBOT_DB_POOL": "5"}, {"GBOT_DB_WARM": "50"}, {"GBOT_HANDLER_TIMEOUT": "0"}])
def test_a_database_alone_is_nothing_to_be_told_of(own: dict[str, str]) -> None:
    assert load({}, DB | own, None)[1] == []
