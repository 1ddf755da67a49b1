"""report.html: one page that holds everything, the plots too, and needs neither network nor JavaScript."""

import datetime
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gbot.counts import counted
from report.findings import disturbed, findings, other_notes
from report.inlined import inlined
from report.markup import Markup, element, joined
from report.measures import DETAILS, SUMMARY, Measure, any_known
from report.palette import variables
from report.reading import GBOT, Report, Run

if TYPE_CHECKING:
    from report.drawing import Plot

STYLE = Path(__file__).with_name("page.css")
TITLE = "gbot bench"
HOW_TO_READ = (
    "Every subject is a server that takes webhook deliveries, answers each of them and runs each event of it in a task "
    "of its own. Compare figures within this report, which come from one machine and one run; next to those of another "
    "machine they mean little."
)
WORDS = {
    "asked": "How many events per second were sent. Where no rate was asked for, as much was sent as was answered.",
    "ack": "The acknowledgement: how long a delivery waited for its answer.",
    "events/s": "Completed ones: those whose handler has ended.",
    "CPU, RSS": "Processor time and memory of all processes of a server.",
    "db conns": "Connections that its database had open, at most.",
    "backlog": "Accepted and not completed when the load ended. Where handlers wait for two or three seconds, so many "
    "seconds of events are in it even if the server keeps up.",
    "left": "Still not completed when the time to drain was over. It should be 0, like what failed and the errors.",
    "-": "Was not measured.",
}
NARROW_SUBJECTS = 2  # so few leave room for the plots beside their table
HINT = "Scroll the table sideways to see all of it."


def page_of(report: Report, plots: Mapping[str, Sequence["Plot"]]) -> str:
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{TITLE}, {report.date}" if report.date else TITLE),
        element("style", Markup(variables() + STYLE.read_text(encoding="utf-8"))),
    )
    sections = [scenario_section(report, name, plots.get(name, ())) for name in report.scenarios]
    body = element(
        "body", header(report), element("main", overview(report), *sections, skipped(report), versions(report))
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


# ---- the top


def header(report: Report) -> Markup:
    known = {
        "Measured": when(report.date),
        "Command": report.command,
        "Commit": report.commit,
        "Machine": machine(report),
    }
    facts = element("dl", *(pair(name, text) for name, text in known.items() if text))
    words = element("dl", *(pair(name, text) for name, text in WORDS.items()))
    return element(
        "header",
        element("h1", TITLE),
        element("p", f"{counted(len(report.scenarios), 'scenario')}, {counted(len(report.subjects), 'subject')}"),
        warning(disturbed(report)),
        element("div", element("div", facts, element("p", HOW_TO_READ)), words, class_="about"),
    )


def warning(text: str) -> Markup:
    """Before everything else."""
    return element("p", element("strong", "Not to be relied on. "), text, class_="warning") if text else Markup()


def when(date: str | None) -> str | None:
    """2026-11-22 11:06 UTC, if it can be read as a time."""
    try:
        return datetime.datetime.fromisoformat(date or "").astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return date


def pair(name: str, text: str) -> Markup:
    return element("div", element("dt", name), element("dd", text))


def machine(report: Report) -> str:
    """On one line, whatever is known: AMD EPYC, 2 cores, 23.5 GiB of memory, Linux 6.18."""
    known = dict(report.machine or {})
    words = {"cpu": "{}", "cores": "{} cores", "memory_gb": "{} GiB of memory", "kernel": "{}"}
    parts = [text.format(known.pop(name)) for name, text in words.items() if known.get(name) is not None]
    return ", ".join([*parts, *(f"{name}: {value}" for name, value in known.items() if value is not None)])


def overview(report: Report) -> Markup:
    stands_out = [
        element("div", element("h3", title(report, name)), bullets(findings(report.runs(name))))
        for name in report.scenarios
    ]
    return joined(
        section("summary", "Summary", hint(len(SUMMARY)), summary_table(report)),
        section("findings", "What stands out", element("div", *stands_out, class_="findings")),
    )


def title(report: Report, name: str) -> str:
    return f"Scenario {name}: {report.scenarios[name].title}"


def section(name: str, heading: str, *content: Markup) -> Markup:
    return element("section", element("h2", heading, id=name), *content, aria_labelledby=name)


def bullets(texts: Sequence[str]) -> Markup:
    return element("ul", *(element("li", text) for text in texts))


# ---- tables


def summary_table(report: Report) -> Markup:
    columns = ["subject", *(measure.short for measure in SUMMARY)]
    heads = element("thead", element("tr", *(element("th", column, scope="col") for column in columns)))
    groups = [summary_group(report, name, len(columns)) for name in report.scenarios]
    return scrolling("All subjects in all scenarios", heads, *groups)


def summary_group(report: Report, name: str, width: int) -> Markup:
    link = element("a", title(report, name), href=f"#scenario-{name}")
    rows = [
        element("tr", subject_head(subject, "row"), *(cell(measure, run) for measure in SUMMARY))
        for subject, run in report.runs(name).items()
    ]
    nothing = element("tr", element("td", "no subject was measured", colspan=width))
    return element("tbody", group_head(link, width), *(rows or [nothing]))


def group_head(text: str, width: int) -> Markup:
    return element("tr", element("th", element("span", text), colspan=width, scope="rowgroup"), class_="group")


def details_table(name: str, runs: Mapping[str, Run]) -> Markup:
    """The measures down, the subjects across."""
    heads = element("tr", element("td"), *(subject_head(subject, "col") for subject in runs))
    groups = []
    for group, measures in DETAILS.items():
        rows = [details_row(measure, runs) for measure in measures if any_known(measure, runs)]
        groups += [element("tbody", group_head(group, len(runs) + 1), *rows)] if rows else []
    return scrolling(f"Everything that was measured in scenario {name}", element("thead", heads), *groups)


def details_row(measure: Measure, runs: Mapping[str, Run]) -> Markup:
    return element("tr", element("th", measure.name, scope="row"), *(cell(measure, run) for run in runs.values()))


def subject_head(subject: str, scope: str) -> Markup:
    return element("th", subject, scope=scope, **({"class_": "ours"} if subject == GBOT else {}))


def cell(measure: Measure, run: Run) -> Markup:
    return element("td", measure.text(run), **({"class_": "alarm"} if measure.alarms(run) else {}))


def scrolling(caption: str, *content: Markup) -> Markup:
    """A table that is scrolled by itself where the window is too narrow for it, with the keyboard too."""
    table = element("table", element("caption", caption), *content)
    return element("div", table, class_="scrolling", tabindex=0, role="region", aria_label=caption)


# ---- scenarios


def scenario_section(report: Report, name: str, plots: Sequence["Plot"]) -> Markup:
    runs = report.runs(name)
    question = element("p", report.scenarios[name].question, class_="question")
    if not runs:
        nothing = element("p", "No subject was measured in this scenario.")
        return section(f"scenario-{name}", title(report, name), question, nothing)
    bars, curves = ([plot for plot in plots if plot.kind == kind] for kind in ("bars", "curves"))
    told = [*map(picture, curves), reading(curves, other_notes(runs))]
    measured = element(
        "div",
        element("div", hint(len(runs)), details_table(name, runs), class_="table"),
        element("div", *map(picture, bars), class_="plots bars"),
        element("div", *told, class_="plots curves"),
        class_="measured narrow" if len(runs) <= NARROW_SUBJECTS else "measured",
    )
    return section(f"scenario-{name}", title(report, name), question, measured)


def hint(columns: int) -> Markup:
    """Shown where the table is wider than the window."""
    return element("p", HINT, class_="hint") if columns > NARROW_SUBJECTS else Markup()


def picture(plot: "Plot") -> Markup:
    return inlined(plot.svg, plot.name, plot.alt, plot.kind)


def reading(curves: Sequence["Plot"], notes: Sequence[str]) -> Markup:
    """What is to be known of the plots over time and of single runs."""
    told = [pair(plot.title, plot.about) for plot in curves if plot.about]
    parts = [element("div", element("h3", "How to read the curves"), element("dl", *told))] if told else []
    parts += [element("div", element("h3", "Notes"), bullets(notes))] if notes else []
    return element("div", *parts, class_="reading") if parts else Markup()


# ---- the end


def skipped(report: Report) -> Markup:
    if not report.skipped:
        return Markup()
    return section("skipped", "Not measured", bullets([f"{who}: {why}" for who, why in report.skipped.items()]))


def versions(report: Report) -> Markup:
    """Of what each subject is made."""
    if not report.versions:
        return Markup()
    rows = element("dl", *(pair(subject, ", ".join(parts(found))) for subject, found in report.versions.items()))
    where = "Next to this page are the figures (report.json) and the plots (in the directory plots, as SVG and PNG)."
    return section("versions", "Versions", rows, element("p", where))


def parts(found: Any) -> Iterator[str]:
    if isinstance(found, Mapping):
        yield from (f"{name} {version}" for name, version in found.items() if version is not None)
    else:
        yield str(found)
