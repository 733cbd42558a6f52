"""The part of JSON Schema 2020-12 that the record's schema uses; a keyword beyond it is an error, not a pass."""

from __future__ import annotations

import re

_NOTES = {"$schema", "$defs", "title", "description"}
_TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}


def problems(value: object, schema: dict, whole: dict | None = None, at: str = "") -> list[str]:
    """What is wrong with a value, a line each; empty when nothing is."""
    whole = schema if whole is None else whole
    found = []
    for keyword, wanted in schema.items():
        if keyword in _NOTES:
            continue
        if keyword == "$ref":
            found += problems(value, whole["$defs"][wanted.removeprefix("#/$defs/")], whole, at)
        elif keyword == "oneOf":
            fits = [not problems(value, option, whole, at) for option in wanted]
            if sum(fits) != 1:
                found.append(f"{at}: fits {sum(fits)} of {len(fits)} forms")
        elif keyword == "items":
            for i, item in enumerate(value):
                found += problems(item, wanted, whole, f"{at}/{i}")
        elif keyword == "properties":
            for name in value.keys() & wanted.keys():
                found += problems(value[name], wanted[name], whole, f"{at}/{name}")
        elif keyword == "additionalProperties":
            for name in value.keys() - schema.get("properties", {}).keys():
                found += (
                    [f"{at}/{name}: unknown"]
                    if wanted is False
                    else problems(value[name], wanted, whole, f"{at}/{name}")
                )
        elif not _CHECKS[keyword](value, wanted):
            found.append(f"{at}: {keyword} {wanted!r} does not hold for {value!r}")
    return found


def _is_of(value: object, wanted: str) -> bool:
    return isinstance(value, _TYPES[wanted]) and (wanted == "boolean" or not isinstance(value, bool))


_CHECKS = {
    "type": _is_of,
    "const": lambda value, wanted: value == wanted and type(value) is type(wanted),
    "enum": lambda value, wanted: value in wanted,
    "required": lambda value, wanted: isinstance(value, dict) and set(wanted) <= value.keys(),
    "pattern": lambda value, wanted: bool(re.search(wanted, value)),
    "minimum": lambda value, wanted: value >= wanted,
    "maxLength": lambda value, wanted: len(value) <= wanted,
    "maxItems": lambda value, wanted: len(value) <= wanted,
    "maxProperties": lambda value, wanted: len(value) <= wanted,
}
