"""Draws a report of the suite again, as a page, plots and tables.

python bench/report report.json --to DIR
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where the scripts of bench/ find each other

from measuring import Unavailable, say

from report import ReportError, terminal_table, terminal_width, write_report

PROGRAM = "python bench/report"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("report", type=Path, metavar="report.json", help="what bench/run.py has written")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="write report.html and plots/ into it")
    given = parser.parse_args()
    try:
        report = json.loads(given.report.read_text(encoding="utf-8"))
        written = write_report(report, given.to)
    except (OSError, ValueError, ReportError, Unavailable) as error:
        reason = str(error) if isinstance(error, OSError) else f"{given.report}: {error}"
        raise SystemExit(f"{PROGRAM}: {reason}") from error
    print(terminal_table(report, terminal_width()))
    say(f"written: {written}")


if __name__ == "__main__":
    main()
