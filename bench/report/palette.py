"""The colours of the report, once for light and once for dark: of the page, and of the plots on it. Pure.

A subject has the same colour on every plot, together with dashes of its own. The plots' colours are Okabe and Ito's,
which colour-blind people tell apart, darkened or lightened until a line stands out from its ground by 3 to 1; grey
takes the place of their second blue. Text has 4.5 to 1. gbot's is the blue one.
"""

import re
from collections.abc import Sequence

from report.reading import GBOT

COLOURS = {  # on paper and on a light screen, on a dark screen
    "ground": ("#ffffff", "#14181d"),
    "band": ("#f3f5f7", "#1e242b"),
    "ink": ("#1f2933", "#e4e7eb"),
    "quiet": ("#52606d", "#a8b3bf"),
    "line": ("#d5dae0", "#3a434d"),
    "shade": ("#9fa8b2", "#000000"),
    "link": ("#005a8c", "#7cc4f0"),
    "alarm": ("#a61b1b", "#ff9b9b"),
    "warning": ("#fdf0e3", "#3a1f1f"),
    "gbot": ("#0072b2", "#4db3f0"),
    "subject-1": ("#d55e00", "#ff8a3d"),
    "subject-2": ("#009e73", "#2cc295"),
    "subject-3": ("#b0508a", "#e59ac4"),
    "subject-4": ("#a87400", "#e6b422"),
    "subject-5": ("#6b7280", "#9aa5b1"),
    "subject-6": ("#111418", "#f7f9fb"),
}
OF_SUBJECTS = [name for name in COLOURS if name.startswith("subject-")]
IN_LIGHT = {light: name for name, (light, _) in COLOURS.items()}
WRITTEN = re.compile("#[0-9a-f]{6}")


def light(name: str) -> str:
    return COLOURS[name][0]


def colours_of(subjects: Sequence[str]) -> dict[str, str]:
    """For light ground. With more subjects than colours they begin again."""
    others = [subject for subject in subjects if subject != GBOT]
    return {GBOT: light("gbot")} | {one: light(OF_SUBJECTS[at % len(OF_SUBJECTS)]) for at, one in enumerate(others)}


def variables() -> str:
    """The colours as CSS; paper is always light."""
    on_light = " ".join(f"--{name}: {light};" for name, (light, _) in COLOURS.items())
    on_dark = " ".join(f"--{name}: {dark};" for name, (_, dark) in COLOURS.items())
    return f":root {{ {on_light} }}\n@media screen and (prefers-color-scheme: dark) {{ :root {{ {on_dark} }} }}\n"


def as_variables(style: str) -> str:
    """CSS in which our light colours have become the variables, so that they change with the page's."""
    return WRITTEN.sub(lambda found: f"var(--{IN_LIGHT[found[0]]})" if found[0] in IN_LIGHT else found[0], style)
