"""Which changed settings a reload cannot put into effect, by the marks of the models' fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from privyseal_service.config.fields import Model, ReloadMark

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from privyseal_service.config.root import Config


def needs_restart(old: Config, new: Config) -> tuple[str, ...]:
    """Return the changed settings that need a restart, as `server.share_port` or `listeners[0].address`."""
    return tuple(_changed(old, new, ""))


def mark_of(field: FieldInfo) -> ReloadMark:
    """Return the mark of a field. Raises LookupError where it has none, or more than one."""
    marks = [each for each in field.metadata if isinstance(each, ReloadMark)]
    if len(marks) != 1:
        raise LookupError(f"a field has one mark for a reload, not {len(marks)}")
    return marks[0]


def _changed(old: Model, new: Model, prefix: str) -> Iterator[str]:
    for name, field in type(old).model_fields.items():
        before, after = getattr(old, name), getattr(new, name)
        if before == after:
            continue
        pairs = _pairs(before, after, name)
        if pairs is not None:
            for place, one, other in pairs:
                yield from _changed(one, other, f"{prefix}{place}.")
        elif mark_of(field).needs_restart(before, after):
            yield f"{prefix}{name}"


def _pairs(before: object, after: object, name: str) -> list[tuple[str, Model, Model]] | None:
    """Return the tables to compare field by field, each with its place: of one table, or of two lists as long as each
    other. None for anything else."""
    if not isinstance(before, tuple) or not isinstance(after, tuple):
        tables = [(name, before, after)]
    elif before and len(before) == len(after):
        tables = [(f"{name}[{place}]", *pair) for place, pair in enumerate(zip(before, after, strict=True))]
    else:
        return None
    found = [
        (place, one, other)
        for place, one, other in tables
        if isinstance(one, Model) and isinstance(other, Model) and type(one) is type(other)
    ]
    return found if len(found) == len(tables) else None
