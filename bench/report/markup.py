"""HTML from values: what is not markup itself is escaped, so that no name, note or reason becomes part of the page."""

from __future__ import annotations

from html import escape

VOID = {"img", "meta"}  # of those that the page uses


class Markup(str):
    """Text that is HTML already; only `element`, `joined` and what this package wrote itself make it."""

    __slots__ = ()


def element(name: str, /, *content: str, **attributes: str | int | bool) -> Markup:
    """<name attributes>content</name>. ``class_`` is the attribute class; other underscores become hyphens."""
    written = "".join(map(attribute, attributes, attributes.values()))
    return Markup(f"<{name}{written}>" + ("" if name in VOID else f"{joined(*content)}</{name}>"))


def joined(*content: str) -> Markup:
    return Markup("".join(part if isinstance(part, Markup) else escape(part) for part in content))


def attribute(name: str, value: str | int | bool) -> str:
    if isinstance(value, bool):
        return f" {name}" if value else ""
    return f' {name.removesuffix("_").replace("_", "-")}="{escape(str(value))}"'
