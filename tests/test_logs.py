"""Log lines: whole, in one piece, and nobody can forge one."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbot import logs
from gbot.context import Context
from gbot.event import Event
from gbot.logs import JsonFormatter, TextFormatter, one_line
from tests.rig import Outbox, services

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d{4}"


def record(message: str, *args: object, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("gbot.test", logging.WARNING, __file__, 1, message, args, None)
    vars(made).update(fields)
    return made


def failed(message: str, error: Exception) -> logging.LogRecord:
    try:
        raise error
    except Exception:
        made = record(message)
        made.exc_info = sys.exc_info()
        return made


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """What configure() changes is as before when the test is over."""
    root, urllib3 = logging.getLogger(), logging.getLogger("urllib3")
    before = root.handlers[:], root.level, urllib3.level
    for handler in before[0]:
        root.removeHandler(handler)  # so that configure() does not close pytest's own
    yield
    root.handlers[:], _, _ = before
    root.setLevel(before[1])
    urllib3.setLevel(before[2])


def test_a_text_line_has_time_level_logger_and_sentence() -> None:
    line = TextFormatter().format(record("%d handlers stopped", 3))
    assert re.fullmatch(STAMP + r" WARNING gbot\.test  3 handlers stopped", line)


def test_a_text_line_carries_the_event() -> None:
    line = TextFormatter().format(record("hello", platform="line", event_id="01H"))
    assert line.endswith(" gbot.test platform=line event_id=01H  hello")


def test_a_json_line_has_the_same() -> None:
    line = json.loads(JsonFormatter().format(record("%s", "hello", platform="line", event_id=None)))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {"level": "warning", "logger": "gbot.test", "message": "hello", "platform": "line"}


def test_a_json_line_has_a_sample_as_an_object_and_a_text_line_has_only_the_sentence() -> None:
    made = record("3 running", sample={"running": 3, "cpu_s": 1.5})
    assert json.loads(JsonFormatter().format(made))["sample"] == {"running": 3, "cpu_s": 1.5}
    assert TextFormatter().format(made).endswith("3 running")


def test_an_error_comes_with_its_traceback() -> None:
    made = failed("it failed", ValueError("the reason"))
    text = TextFormatter().format(made).splitlines()
    assert text[0].endswith("it failed")
    assert text[1].strip() == "Traceback (most recent call last):"
    assert text[-1].strip() == "ValueError: the reason"
    assert "ValueError: the reason" in json.loads(JsonFormatter().format(made))["error"]


def test_a_line_break_in_a_message_forges_no_line() -> None:
    forged = "2026-01-01T00:00:00.000+0000 INFO    gbot.test  all is well"
    for made in (
        record("got %s", f"x\n{forged}"),
        record("got it", event_id=f"x\n{forged}", platform=f"y\r{forged}"),
        failed("it failed", ValueError(f"x\n{forged}")),
        failed("it failed", ValueError(f"x\u2028{forged}\x85{forged}")),
    ):
        lines = TextFormatter().format(made).splitlines()
        assert [line for line in lines if re.match(STAMP, line)] == lines[:1]
        assert len(JsonFormatter().format(made).split("\n")) == 1


def test_control_characters_are_escaped() -> None:
    assert one_line("a\tb \x1b[31mred\x07 \u2028 c") == "a\tb \\x1b[31mred\\x07 \\u2028 c"


@given(st.text(alphabet=st.characters(), max_size=50), st.text(alphabet=st.characters(), max_size=50))
def test_any_text_makes_one_line_of_either_format(message: str, event_id: str) -> None:
    made = record("%s", message, platform="line", event_id=event_id)
    assert len(TextFormatter().format(made).splitlines()) == 1
    line = JsonFormatter().format(made)
    assert json.loads(line)["message"] == message
    assert "\n" not in line
    assert line.encode("utf-8")


def test_a_field_that_is_not_a_text_does_not_stop_a_json_line() -> None:
    line = json.loads(JsonFormatter().format(record("x", platform=Event, event_id=7)))
    assert line["event_id"] == 7
    assert "Event" in line["platform"]


def test_context_log_names_the_event(caplog: pytest.LogCaptureFixture) -> None:
    event = Event(platform="line", kind="message.text", raw={}, id="01H", text="do not log this")
    with caplog.at_level(logging.INFO):
        Context(event, services(Outbox())).log.info("looked up %d rows", 3)
    line = TextFormatter().format(caplog.records[0])
    assert line.endswith("gbot.app platform=line event_id=01H  looked up 3 rows")
    assert "do not log this" not in line


@pytest.mark.usefixtures("restored_logging")
@pytest.mark.parametrize(("format_name", "is_json"), [("text", False), ("json", True)])
def test_configure_sends_lines_to_standard_error(
    format_name: str, is_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(format_name, "info")
    logging.getLogger("somebody.elses").info("shown")
    logging.getLogger("somebody.elses").debug("not shown")
    logs.warn("a %s warning")
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.startswith("{") for line in err.splitlines()] == [is_json, is_json]
    assert "shown" in err.splitlines()[0]
    assert "a %s warning" in err.splitlines()[1]


@pytest.mark.usefixtures("restored_logging")
@pytest.mark.parametrize(("format_name", "is_json"), [("text", False), ("json", True)])
def test_a_signal_in_the_middle_of_a_line_can_still_warn(
    format_name: str, is_json: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure(format_name, "info")

    class Interrupting(str):
        """Stands for the moment in which a signal handler runs: while a line is being written."""

        def __str__(self) -> str:
            logs.warn_at_once("stopped at once")
            return "the line"

    logging.getLogger("gbot.x").info("%s", Interrupting())
    first, second = capfd.readouterr().err.splitlines()
    assert "stopped at once" in first
    assert "the line" in second
    assert first.startswith("{") == is_json


@pytest.mark.usefixtures("restored_logging")
def test_addresses_of_requests_are_not_logged_at_any_level(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("text", "debug")
    logging.getLogger("urllib3.connectionpool").debug("GET /v2/bot/profile/U123")
    logging.getLogger("gbot.x").debug("shown")
    err = capsys.readouterr().err
    assert "U123" not in err
    assert "shown" in err
