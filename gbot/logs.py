"""Log lines, as text for people or as JSON for programs. They go to standard error; standard output is the bot's."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time

from gevent import monkey

CONTEXT_FIELDS = ("platform", "event_id")
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


class TextFormatter(logging.Formatter):
    """``2026-11-22T09:00:00.123+0900 INFO gbot.worker  sentence``, and an error's traceback indented below."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.localtime(record.created)
        when = f"{time.strftime('%Y-%m-%dT%H:%M:%S', stamp)}.{record.msecs:03.0f}{time.strftime('%z', stamp)}"
        context = "".join(f" {name}={one_line(str(value))}" for name, value in _context(record).items())
        line = f"{when} {record.levelname:<7} {record.name}{context}  {one_line(record.getMessage())}"
        return line + (_indented(self.formatException(record.exc_info)) if record.exc_info else "")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger, message; and what else there is.

    That may be ``platform`` and ``event_id``, ``sample`` (the sampler's figures as an object) and ``error``.
    """

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{stamp}.{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_context(record),
        }
        if hasattr(record, "sample"):
            line["sample"] = record.sample
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        text = json.dumps(line, default=str, ensure_ascii=False)
        return text.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair becomes JSON's escape for it


def _context(record: logging.LogRecord) -> dict[str, object]:
    """What Context.log adds to its lines."""
    fields = vars(record)
    return {name: fields[name] for name in CONTEXT_FIELDS if fields.get(name) is not None}


def one_line(text: str) -> str:
    """The text with its control characters and line breaks escaped: nobody can forge a line by sending one."""
    return _CONTROL.sub(lambda found: repr(found.group())[1:-1], text)


def _indented(text: str) -> str:
    """A traceback, which ends with the error's own text: none of its lines begins like a log line."""
    return "".join(f"\n    {one_line(line)}" for line in text.splitlines())


def configure(format_name: str, level: str) -> None:
    """Send every logger's lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if format_name == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("urllib3").setLevel(logging.WARNING)  # its debug lines hold URLs


def warn(sentence: str) -> None:
    """A warning about how gbot was started."""
    logging.getLogger("gbot").warning("%s", sentence)


def warn_at_once(sentence: str) -> None:
    """A warning from a signal handler, past Python's buffers: the signal may have come while one was in use."""
    [handler] = logging.getLogger().handlers
    record = logging.LogRecord("gbot", logging.WARNING, __file__, 0, sentence, (), None)
    select = monkey.get_original("select", "select")
    if select([], [sys.stderr], [], 0)[1]:  # nobody may be reading, and this must not wait
        os.write(sys.stderr.fileno(), (handler.format(record) + "\n").encode("utf-8", "backslashreplace"))
