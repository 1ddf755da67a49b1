"""A plot's SVG as a part of the page, so that it takes the page's colours and letters, in light and in dark. Pure."""

import re
from xml.etree import ElementTree

from report.markup import Markup
from report.palette import as_variables

REFERENCE = re.compile(r"url\(#([^)]+)\)|^#(.+)$")
LEFT_OUT = {"metadata", "style"}  # a style would be one of the whole page
COLOURED = ("style", "fill", "stroke")


def inlined(svg: bytes, name: str, alt: str, kind: str) -> Markup:
    """<svg>, as wide as there is room. `name` goes before its ids, which are to be unique in the page."""
    root = ElementTree.fromstring(svg)
    referenced = {id_ for one in root.iter() for value in one.attrib.values() for id_ in references(value)}
    tidy(root, name, referenced)
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.attrib |= {"class": f"plot {kind}", "role": "img", "aria-label": alt}
    return Markup(ElementTree.tostring(root, encoding="unicode", short_empty_elements=False))


def tidy(parent: ElementTree.Element, name: str, referenced: set[str]) -> None:
    """No namespaces, which HTML has no use for; no id that nobody refers to."""
    parent.tag = local(parent.tag)
    parent.attrib = {local(key): adapted(local(key), value, name) for key, value in parent.attrib.items()}
    if parent.get("id", "").removeprefix(f"{name}-") not in referenced:
        parent.attrib.pop("id", None)
    for child in list(parent):
        if local(child.tag) in LEFT_OUT:
            parent.remove(child)
        else:
            tidy(child, name, referenced)


def adapted(attribute: str, value: str, name: str) -> str:
    if attribute == "id":
        return f"{name}-{value}"
    for id_ in references(value):
        value = value.replace(f"#{id_}", f"#{name}-{id_}")
    return as_variables(value) if attribute in COLOURED else value


def references(value: str) -> list[str]:
    """The ids that an attribute refers to."""
    return [found[1] or found[2] for found in REFERENCE.finditer(value)]


def local(name: str) -> str:
    return name.rpartition("}")[2]
