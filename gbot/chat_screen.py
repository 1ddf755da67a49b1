"""What a bot sends, as lines of text for the terminal. Pure: messages in, lines out.

Texts are shown as they are, what can be pressed with what to type instead of pressing it, everything else as JSON.
Control characters are escaped, so that no message can do anything to the terminal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from gbot.logs import one_line
from gbot.testing.answers import Sent

JSON_CHARS_MAX: Final = 300
NAMED_MAX: Final = 3  # recipients named in a line

JsonObject = Mapping[str, Any]


def sent_lines(sent: Sent, home: str, names: Mapping[str, str]) -> list[str]:
    """One message, labelled with how it leaves. ``home`` is where the user reads, ``names`` are those of known ids."""
    label: str = sent.how
    if sent.how == "typing":
        return ["typing …"]
    if sent.how != "reply" and sent.to and sent.to != (home,):
        label += f" to {_recipients(sent.to, names)}"
    first, *others = message_lines(sent.body)
    return [f"{label}: {first}", *(f"{' ' * len(label)}  {line}" for line in others)]


def _recipients(ids: tuple[str, ...], names: Mapping[str, str]) -> str:
    known = [names.get(one, one) for one in ids[:NAMED_MAX]]
    return one_line(", ".join(known)) + (f" and {len(ids) - NAMED_MAX} more" if len(ids) > NAMED_MAX else "")


def message_lines(body: JsonObject) -> list[str]:
    """One message; at least one line."""
    kind, text, template = body.get("type"), body.get("text"), body.get("template")
    if kind == "text" and isinstance(text, str):
        lines = text.splitlines() or [""]
    elif kind == "template" and isinstance(template, dict):
        lines = list(_template_lines(template, body.get("altText")))
    else:
        lines = [_short_json({name: value for name, value in body.items() if name != "quickReply"})]
    quick_reply = body.get("quickReply")
    items = _objects(quick_reply.get("items")) if isinstance(quick_reply, dict) else []
    lines += [_action_line(item.get("action")) for item in items]
    return [one_line(line) for line in lines]


def _template_lines(template: JsonObject, alternative: object) -> Iterator[str]:
    yield f"({template.get('type')}) {alternative}"
    for column in [template, *_objects(template.get("columns"))]:
        for name in ("title", "text"):
            if isinstance(column.get(name), str):
                yield from column[name].splitlines()
        actions = _objects(column.get("actions"))
        if isinstance(column.get("action"), dict):
            actions.append(column["action"])
        for action in actions:
            yield _action_line(action)


def _action_line(action: object) -> str:
    """What can be pressed, and what comes of it."""
    if not isinstance(action, dict):
        return _short_json(action)
    label = f"[{action.get('label', action.get('type'))}]"
    match action:
        case {"type": "message", "text": str(text)}:
            return f"{label} {text}"
        case {"type": "postback", "data": str(data)}:
            return f"{label} /postback {data}"
        case {"type": "uri", "uri": str(uri)}:
            return f"{label} {uri}"
    rest = {name: value for name, value in action.items() if name != "label"}
    return f"{label} {_short_json(rest)}"


def _objects(value: object) -> list[JsonObject]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _short_json(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= JSON_CHARS_MAX else text[:JSON_CHARS_MAX] + " …"
