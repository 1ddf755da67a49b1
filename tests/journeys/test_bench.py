"""The benchmark that the README names runs, and finds that every acknowledged event was run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_scenario_1_counts_every_event(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [
        *(sys.executable, str(ROOT / "bench" / "scenario1.py")),
        *("--only", "gbot", "--form", "old", "--seconds", "1", "--json", str(report)),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "gbot" in ran.stdout
    median = json.loads(report.read_text())["old"]["gbot"]["median"]
    assert median["req_per_s"] > 0
    assert (median["errors"], median["events_missing"]) == (0, 0)
