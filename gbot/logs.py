"""Log lines, as text for people or as JSON for programs. They go to standard error; standard output is the bot's."""

from __future__ import annotations

import logging
import sys
import time

import msgspec

CONTEXT_FIELDS = ("platform", "event_id")


class TextFormatter(logging.Formatter):
    """``2026-11-22T09:00:00.123+0900 INFO gbot.worker  sentence``; line breaks inside a sentence are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.localtime(record.created)
        when = f"{time.strftime('%Y-%m-%dT%H:%M:%S', stamp)}.{record.msecs:03.0f}{time.strftime('%z', stamp)}"
        context = "".join(f" {name}={value}" for name, value in _context(record).items())
        line = f"{when} {record.levelname:<7} {record.name}{context}  {_one_line(record.getMessage())}"
        return line + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger, message; platform, event_id, error if there are."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{stamp}.{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_context(record),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def _context(record: logging.LogRecord) -> dict[str, object]:
    """What Context.log adds to its lines."""
    fields = vars(record)
    return {name: fields[name] for name in CONTEXT_FIELDS if fields.get(name) is not None}


def _one_line(text: str) -> str:
    """Nobody can forge a line by sending a line break."""
    return text.replace("\r", "\\r").replace("\n", "\\n")


def configure(format_name: str, level: str) -> None:
    """Send every logger's lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if format_name == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("urllib3").setLevel(logging.WARNING)  # its debug lines hold URLs


def warn(sentence: str) -> None:
    """A warning about how gbot was started."""
    logging.getLogger("gbot").warning("%s", sentence)
