"""For the tests of bench/report: a report as the suite writes it, smaller and odd ones, and a page that is walked.

bench/ is no package: its scripts find each other as siblings, and so do these tests.
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

sys.path.append(str(Path(__file__).resolve().parent.parent / "bench"))

from report import write_report
from report.reading import read

ACK_SPREAD = {"p50": 1.0, "p90": 1.6, "p99": 2.1, "p99.9": 3.0, "max": 3.5}
VOID = {"meta"}
SECONDS = 20
# Events/s, ack ms, CPU us/event and MB of each subject: what a server that keeps up shows, more or less.
SUBJECTS = {
    "fastapi": (38_000, 9.0, 26.0, 95),
    "flask-gunicorn": (21_000, 16.0, 47.0, 71),
    "gbot": (191_000, 3.1, 5.24, 45),
    "fastify": (141_000, 4.2, 7.0, 120),
    "go": (246_000, 2.4, 4.1, 60),
}
SCENARIOS = {
    "1": ("nothing to do", "How many events per second does each server run whose handler does nothing?"),
    "1d": ("durable inbox", "What does 200 cost when it means stored?"),
    "2": ("an external call of 2-3 s", "What does an event cost whose handler waits for 2-3 s?"),
    "3": ("an external call, then the database", "What do 2-3 s of waiting and a SELECT through a pool cost?"),
}


def sample_report() -> dict[str, Any]:
    """What the suite finds on a machine of two cores, with fastapi and flask in trouble where handlers wait."""
    chance = random.Random(5)
    return {
        "gbot_report": 1,
        "date": "2026-11-23T10:00:00+00:00",
        "command": "python bench/run.py --seconds 20 --report report",
        "commit": "e95625e",
        "machine": {"cores": 2, "cpu": "AMD EPYC", "memory_gb": 23.5, "kernel": "Linux 6.18.44"},
        "versions": {"gbot": {"python": "3.11.2", "gevent": "26.9.0"}, "fastify": {"node": "v20.20.2", "mysql2": None}},
        "scenarios": {name: sample_scenario(name, chance) for name in SCENARIOS},
        "skipped": {"falcon-gunicorn": "gunicorn missing; run: pip install -e '.[bench]'"},
    }


def smaller_report() -> dict[str, Any]:
    """Scenario 2 of gbot and fastapi alone, for tests that draw."""
    report = sample_report()
    runs = report["scenarios"]["2"]["runs"]
    report["scenarios"] = {"2": report["scenarios"]["2"] | {"runs": {one: runs[one] for one in ("gbot", "fastapi")}}}
    return report


def sample_scenario(name: str, chance: random.Random) -> dict[str, Any]:
    title, question = SCENARIOS[name]
    names = ["gbot"] if name == "1d" else list(SUBJECTS)
    return {"title": title, "question": question, "runs": {one: sample_run(name, one, chance) for one in names}}


def sample_run(scenario: str, subject: str, chance: random.Random) -> dict[str, Any]:
    most, ack_ms, cpu_us, rss_mb = SUBJECTS[subject]
    waits = scenario in ("2", "3")
    share = {"fastapi": 0.83, "flask-gunicorn": 0.41}.get(subject, 1.0) if waits else 1.0
    rate = 1900 * share if waits else most * (0.6 if scenario == "1d" else 1)
    slow = 60 if share < 1 else 1
    accepted, left = round(1900 * SECONDS if waits else rate * SECONDS), 12_340 if share < 0.5 else 0
    return {
        "asked_events_per_s": 1900.0 if waits else None,
        "events_per_s": rate,
        "deliveries_per_s": rate / 10,
        "ack_ms": {name: ack_ms * slow * times for name, times in ACK_SPREAD.items()},
        "cpu_us_per_event": cpu_us * (7 if waits else 1) + (60 if scenario == "3" else 0),
        "rss_mb": rss_mb * (4.1 if waits else 1),
        "idle_rss_mb": rss_mb * 0.8,
        "waiting_median": 4748 if waits else None,
        "accepted": accepted,
        "completed": accepted - left,
        "backlog": round(accepted * (1.12 - share)) if waits else 120,
        "left": left,
        "failed": 3 if subject == "flask-gunicorn" and scenario == "3" else 0,
        "errors": 1 if subject == "fastapi" and waits else 0,
        "drain_s": 30.0 if left else 14.2 if slow > 1 else 2.9 if waits else 0.01,
        "db_connections_max": 50 if scenario == "3" else None,
        "samples": [sample(t, scenario, subject, rate, ack_ms * slow, chance) for t in range(SECONDS + 3)],
        "notes": ["the machine was 14 % busy with other things"] if subject == "fastapi" else [],
    }


def sample(t: int, scenario: str, subject: str, rate: float, ack_ms: float, chance: random.Random) -> dict[str, Any]:
    def about(value: float) -> float:
        return value * chance.uniform(0.93, 1.07)

    waits, counts = scenario in ("2", "3"), subject in ("gbot", "go")
    share = min(1.0, t / 3) if waits else 1.0
    ended = t > SECONDS
    growing = 1 + t / 5 if ack_ms > 200 else 1
    return {
        "t_s": float(t),
        "ack_ms": None if ended or t % 11 == 7 else about(ack_ms * growing),
        "events_per_s": about(rate * share * (0.4 if ended else 1)),
        "greenlets": about(4750 * share + 20) if counts else None,
        "cpu_percent": about(min(100.0, rate * SUBJECTS[subject][2] / 7000)),
        "rss_mb": about(SUBJECTS[subject][3] * (1 + 3 * share)),
        "db_connections": min(50, 10 + t * 4) if scenario == "3" else None,
    }


class Page(HTMLParser):
    """Walks a page: what is open must be closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.source = text
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def plots(self) -> Iterator[ElementTree.Element]:
        for drawn in re.findall(r"<svg .*?</svg>", self.source, re.DOTALL):
            yield ElementTree.fromstring(drawn)


def alts(page: Page) -> list[str]:
    return [image["aria-label"] or "" for image in page.all("svg")]


def written(report: dict[str, Any], directory: Path) -> Page:
    return Page(write_report(report, directory).read_text(encoding="utf-8"))


def runs_of(report: dict[str, Any], scenario: str) -> dict[str, Any]:
    return dict(read(report).runs(scenario))


def one_run(**values: Any) -> dict[str, Any]:
    """A report of one run that says only this."""
    return {"gbot_report": 1, "scenarios": {"2": {"title": "a call", "question": "?", "runs": {"gbot": values}}}}


def named(scenario: str, *plots: str) -> set[str]:
    return {f"scenario-{scenario}-{plot}.{kind}" for plot in plots for kind in ("svg", "png")}
