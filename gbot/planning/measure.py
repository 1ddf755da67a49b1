"""Measures the author's own handlers: a server for them alone, and a bounded load at a constant rate.

::

    gbot serve APP (a child) ──▶ warm-up ──▶ rest ──▶ load ──▶ end ──▶ the child is stopped

**Nothing reaches a chat platform.** The child listens on 127.0.0.1 alone, serves the plain platform alone, whose
replies are printed into nowhere, and gets none of the platforms' secrets. The author's database and other services are
real.

**How it is told.** The child's sampler writes a JSON object twice a second; :mod:`gbot.planning.finding` reads them.
Events come ten at a time, as platforms send them, because one that wakes up an idle server costs twice the CPU of one
among others. The rate is constant, but each bunch comes somewhere else within its share of time: in step with the
sampler they would always be seen in the same state.

**When it breaks.** A database that refuses all that the warm-up wants of it ends the measurement at once: gbot serve
would put the events off, again and again. So does a child that ends early, or says nothing for too long.
Whatever happens to this process short of SIGKILL, the child is told to stop, and killed if it does not.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NoReturn

import msgspec

from gbot.counts import counted
from gbot.errors import StartError
from gbot.planning.costs import Figures
from gbot.planning.finding import END_MAX_S, SAMPLE_S, Finding, Sample, finding

HOST: Final = "127.0.0.1"
START_MAX_S: Final = 30.0
REST_S: Final = 2.0
ANSWER_MAX_S: Final = 30.0
STOP_MAX_S: Final = 10.0
SAMPLES_MAX: Final = 3000  # of the longest measurement that can be asked for
LINE_BYTES_MAX: Final = 1024 * 1024
LATE_FACTOR: Final = 1.5  # of the time that sending should take
BUNCH_MAX: Final = 10
SPREAD: Final = 0.618033988749895  # of the golden section: its multiples fall everywhere between two whole numbers
# What only another platform, or another way of listening, would need.
WITHHELD: Final = ("GBOT_LINE_", "GBOT_MESSENGER_", "GBOT_TLS_")
SERVING: Final = re.compile(r"Taking plain deliveries at (https?)://[\d.]+:(\d+)/")
SERVE: Final = ("--host", HOST, "--port", "0", "--platforms", "plain", "--inbox", "memory:")
# One attempt: what is run again later would be counted as another event.
SETTINGS: Final = ("--attempts-max", "1", "--stop-timeout", "1", "--sample-interval", str(SAMPLE_S))
DATABASE_LOGGERS: Final = "gbot.database"  # why events are put off: there is no API that could be away
LOG: Final = ("--log-format", "json", "--log-level", "info")


class ServeRefused(StartError):
    """``gbot serve`` has ended by itself; ``code`` is its exit code, the text what it said last."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


class Line(msgspec.Struct, frozen=True):
    """A line of the child's log."""

    level: str = ""
    logger: str = ""
    message: str = ""
    error: str = ""
    sample: Sample | None = None


class Journal:
    """What the child's log has said so far, a line at a time."""

    def __init__(self) -> None:
        self.address = ("", 0)  # scheme and port, once it serves
        self.samples: deque[Sample] = deque(maxlen=SAMPLES_MAX)
        self.said = "nothing"  # last, outside of the log
        self._error = self._warning = ""

    def take(self, raw: bytes) -> None:
        try:
            line = msgspec.json.decode(raw, type=Line)
        except (msgspec.MsgspecError, UnicodeDecodeError):  # the author's own, or the reason why it does not start
            self.said = raw.decode(errors="backslashreplace").strip() or self.said
            return
        if line.sample is not None:
            self.samples.append(line.sample)
        elif found := SERVING.search(line.message):
            self.address = (found[1], int(found[2]))
        elif line.level == "error" and not self._error:  # with the traceback of a handler, or a sentence that tells all
            self._error = (line.error.strip() or line.message).splitlines()[-1]
        elif line.level == "warning" and line.logger.startswith(DATABASE_LOGGERS):
            self._warning = line.message

    def trouble(self, *, put_off: bool) -> str:
        """The first error; without one, and where events were put off, what was last said of the database."""
        if self._error:
            return f"The first error: {self._error}"
        return f"The server says: {self._warning}" if put_off and self._warning else ""


class Child:
    """``gbot serve``, with the journal of what it says."""

    def __init__(self, app: str, environ: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", "gbot", "serve", app, *SERVE, *SETTINGS, *LOG]
        self._process = subprocess.Popen(
            command,
            env=child_environ(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self.pid = self._process.pid
        self.journal = Journal()
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_until_it_serves(self) -> int:
        """Its port. Raises StartError."""
        self._wait_for(lambda: self.journal.address[1], START_MAX_S, "has not said where it serves")
        scheme, port = self.journal.address
        if scheme == "https":
            raise StartError("gbot plan measures over plain HTTP: leave tls-cert and tls-key out of the settings")
        return port

    def samples_for(self, seconds: float) -> list[Sample]:
        """Those of the time from now on, two at the least."""
        after_s = time.monotonic()
        self._wait_for(lambda: self._latest_s() > after_s + seconds, seconds + START_MAX_S, "tells no samples")
        return self.samples_since(after_s)

    def wait_until_ended(self) -> Sample:
        """Wait until nothing runs or waits any more, waiting is futile, or END_MAX_S have passed; the last sample."""
        now = time.monotonic()

        def is_over() -> bool:
            if self._latest_s() <= now:
                return False
            latest = self.journal.samples[-1]
            return not latest.events_held or latest.is_futile or latest.at_s > now + END_MAX_S

        self._wait_for(is_over, END_MAX_S + START_MAX_S, "tells no samples")
        return self.journal.samples[-1]

    def samples_since(self, at_s: float) -> list[Sample]:
        return [sample for sample in self.journal.samples if sample.at_s >= at_s]

    def stop(self) -> None:
        """Whatever it does, it goes."""
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_MAX_S)
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join(STOP_MAX_S)  # what the bot has started may still have its standard error

    def _latest_s(self) -> float:
        return self.journal.samples[-1].at_s if self.journal.samples else 0.0

    def _wait_for(self, condition: Callable[[], object], max_s: float, trouble: str) -> None:
        with self._news:
            met = self._news.wait_for(lambda: condition() or not self._reader.is_alive(), max_s)
        if not self._reader.is_alive() and not condition():
            code = self._process.wait()
            raise ServeRefused(f"gbot serve has ended: {self.journal.said.removeprefix('gbot: ')}", code)
        if not met:
            raise StartError(f"the server that is to be measured {trouble} for {max_s:g} s")

    def _read(self) -> None:
        stream = self._process.stderr
        assert stream is not None
        with stream:
            while raw := stream.readline(LINE_BYTES_MAX):
                with self._news:
                    self.journal.take(raw)
                    self._news.notify_all()
        with self._news:
            self._news.notify_all()


def measure(
    app: str,
    texts: Sequence[str],
    rate: float,
    seconds: float,
    figures: Figures,
    environ: Mapping[str, str],
    say: Callable[[str], None],
) -> Finding:
    """Run APP under a load of ``rate`` events per second for so many seconds; each event has the next of ``texts``.

    Raises StartError, and ServeRefused where gbot serve ends by itself. ``say`` is told what is going on.
    """
    with serving(app, environ) as child:
        port = child.wait_until_it_serves()
        say(f"{app} serves at {HOST}:{port} (pid {child.pid}); every text once, to warm up")
        send(port, texts, rate, len(texts))
        if child.wait_until_ended().is_futile:
            why = "nothing was measured: all events were put off, as what they need is away or busy"
            raise StartError(". ".join(filter(None, [why, child.journal.trouble(put_off=True)])))
        rest = child.samples_for(REST_S)
        asked = max(1, round(rate * seconds))
        say(f"now {counted(asked, 'event')}, {rate:g}/s for {seconds:g} s")
        sent = send(port, texts, rate, asked)
        child.wait_until_ended()
        samples = child.samples_since(rest[-1].at_s)
        trouble = child.journal.trouble(put_off=samples[-1].events_put_off > 0)
    return finding(rest, samples, asked, sent, rate, trouble, figures)


@contextlib.contextmanager
def serving(app: str, environ: Mapping[str, str]) -> Iterator[Child]:
    """A child that is gone afterwards, also when this process is told to stop meanwhile."""
    before = {number: signal.signal(number, _stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        child = Child(app, environ)
        try:
            yield child
        finally:
            child.stop()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: object) -> NoReturn:
    sys.exit(f"gbot: stopped by {signal.Signals(number).name}")


def child_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """What the child may know."""
    return {name: value for name, value in environ.items() if not name.startswith(WITHHELD)}


def due_s(number: int, rate: float) -> float:
    """When an event is sent, in seconds from the beginning: with its bunch, somewhere within the bunch's own time."""
    size = max(1, min(BUNCH_MAX, int(rate)))
    bunch = number // size
    return (bunch + bunch * SPREAD % 1) * size / rate


def send(port: int, texts: Sequence[str], rate: float, count: int) -> int:
    """Post so many events, one in each delivery; how many were posted before the time was over. Raises StartError."""
    connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_MAX_S)
    began = time.monotonic()
    enough = began + LATE_FACTOR * count / rate + ANSWER_MAX_S
    sent = 0
    with contextlib.closing(connection):
        while sent < count and time.monotonic() < enough:
            time.sleep(max(0.0, began + due_s(sent, rate) - time.monotonic()))
            body = json.dumps({"messages": texts[sent % len(texts)]})
            try:
                connection.request("POST", "/callback", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException) as error:
                raise StartError(f"the server that is to be measured does not answer: {error!r}") from None
            if answer.status != http.HTTPStatus.OK:
                raise StartError(f"the server that is to be measured answers {answer.status}")
            sent += 1
    return sent
