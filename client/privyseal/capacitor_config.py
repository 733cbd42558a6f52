"""Put a public key into the text of an app's Capacitor configuration, and leave the rest of the text as it is.

Capgo's devices read `plugins.CapacitorUpdater.publicKey`, a PKCS#1 PEM. JSON is edited wherever that has to go; a .ts
or .js only where one plain string holds the key now. Pure functions of text: whoever calls them reads and writes.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from privyseal.errors import InputError

_PATH = ("plugins", "CapacitorUpdater", "publicKey")
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


def script_line(pem: str) -> str:
    """What to put into `plugins.CapacitorUpdater` of a .ts or .js by hand."""
    return f"publicKey: {json.dumps(pem)},"


def edit_json(text: str, pem: str) -> str:
    """The text of a capacitor.config.json with `pem` in it. Raises InputError where there is no place for it."""
    body = text.removeprefix("\ufeff")
    try:
        before = json.loads(body)
    except ValueError as error:
        raise InputError(f"the configuration is not JSON ({error})", remedy="repair it first") from None
    edited = _edited(body, pem)
    if before == _expected(before, pem):
        return text  # written differently, perhaps, and not to be touched
    if json.loads(edited) != _expected(before, pem):
        raise InputError(
            "the configuration cannot be edited safely", remedy=f'put in by hand: "publicKey": {json.dumps(pem)}'
        )
    return text[: len(text) - len(body)] + edited


def _expected(before: dict[str, Any], pem: str) -> dict[str, Any]:
    after = copy.deepcopy(before)
    inner = after
    for name in _PATH[:-1]:
        inner = inner.setdefault(name, {})
    inner[_PATH[-1]] = pem
    return after


@dataclass(frozen=True)
class _Member:
    """A member of a JSON object by its place in the text."""

    name: str
    start: int
    value_start: int
    value_end: int


def _edited(text: str, pem: str) -> str:
    start = _skip(text, 0)
    unit = _unit(text, start)
    for depth, name in enumerate(_PATH):
        if text[start] != "{":
            where = ".".join(_PATH[:depth]) or "the configuration"
            raise InputError(f"{where} is not a JSON object", remedy="repair it first")
        members = list(_members(text, start))
        found = [member for member in members if member.name == name]
        if len(found) > 1:
            raise InputError(f"the configuration has {'.'.join(_PATH[: depth + 1])} twice", remedy="take one out first")
        if not found:
            return _with_member(text, start, members, pem, depth=depth, unit=unit)
        start = found[0].value_start
    return text[:start] + json.dumps(pem) + text[found[0].value_end :]


def _with_member(text: str, start: int, members: list[_Member], pem: str, *, depth: int, unit: str) -> str:
    """The text with what is missing of the path at the end of the object that begins at `start`."""
    value: Any = pem
    for name in reversed(_PATH[depth + 1 :]):
        value = {name: value}
    newline = "\r\n" if "\r\n" in text else "\n"
    first = text[start + 1 : members[0].start] if members else ""
    if members and "\n" not in first:  # an object on one line stays on it
        at = members[-1].value_end
        return f"{text[:at]}, {json.dumps(_PATH[depth])}: {json.dumps(value)}{text[at:]}"
    indent = first.rpartition("\n")[2] if members else _line_indent(text, start) + unit
    shown = json.dumps(value, indent=unit).replace("\n", newline + indent)
    member = f"{newline}{indent}{json.dumps(_PATH[depth])}: {shown}"
    if members:
        at = members[-1].value_end
        return f"{text[:at]},{member}{text[at:]}"
    end = text.index("}", start)
    return f"{text[: start + 1]}{member}{newline}{_line_indent(text, start)}{text[end:]}"


def _members(text: str, start: int) -> Iterator[_Member]:
    """The members of the object that begins at `start`, in text that is known to be JSON."""
    at = _skip(text, start + 1)
    while text[at] != "}":
        name, end = _DECODER.raw_decode(text, at)
        value_start = _skip(text, _skip(text, end) + 1)
        _, value_end = _DECODER.raw_decode(text, value_start)
        yield _Member(name, at, value_start, value_end)
        at = _skip(text, value_end)
        if text[at] == ",":
            at = _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def _line_indent(text: str, at: int) -> str:
    """The white space at the beginning of the line."""
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _unit(text: str, start: int) -> str:
    """What one step of indentation is: that of the first member."""
    space = text[start + 1 : _skip(text, start + 1)]
    return space.rpartition("\n")[2] if "\n" in space else "  "


@dataclass(frozen=True)
class _Literal:
    """A string in a script: its place, its quotes, and what it means; None for what is not understood."""

    start: int
    end: int
    quote: str
    value: str | None


_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", "'": "'", '"': '"', "`": "`", "/": "/", "\n": ""}
_TOKEN = re.compile(
    r"""//[^\n]*|/\*.*?\*/|(?P<quote>['"`])(?P<inner>(?:\\.|(?!(?P=quote))[^\\])*)(?P=quote)|(?P<odd>[/'"`])""",
    re.DOTALL,
)
_PROPERTY = re.compile(r"""(?:(?<![\w$.])publicKey|'publicKey'|"publicKey")\s*:\s*\Z""")


def edit_script(text: str, current: str, pem: str) -> str | None:
    """The text of a .ts or .js with `pem` in the place of `current`, its public key now; None where that is not safe.

    Safe is one string in all of the text with that value, plain, as the value of a property `publicKey`. Text with
    anything that is not understood, such as a regular expression, is left unchanged. What comes out is to be evaluated.
    """
    literals = _literals(text)
    if literals is None:
        return None
    held = [literal for literal in literals if literal.value == current]
    if len(held) != 1 or not _PROPERTY.search(text[: held[0].start]):
        return None
    literal = held[0]
    inner = pem if literal.quote == "`" else json.dumps(pem)[1:-1]
    return f"{text[: literal.start]}{literal.quote}{inner}{literal.quote}{text[literal.end :]}"


def _literals(text: str) -> list[_Literal] | None:
    """The strings of a script, comments left out; None for text with a `/` or a quote that begins something else."""
    found = []
    for token in _TOKEN.finditer(text):
        if token["odd"]:
            return None
        if token["quote"]:
            found.append(_Literal(token.start(), token.end(), token["quote"], _meaning(token["quote"], token["inner"])))
    return found


def _meaning(quote: str, inner: str) -> str | None:
    inner = inner.replace("\r\n", "\n")
    if "${" in inner or (quote != "`" and re.search(r"(?<!\\)\n", inner)):
        return None
    parts = re.split(r"\\(.)", inner, flags=re.DOTALL)
    if any(escaped not in _ESCAPES for escaped in parts[1::2]):
        return None
    parts[1::2] = [_ESCAPES[escaped] for escaped in parts[1::2]]
    return "".join(parts)
