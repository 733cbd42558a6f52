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
        ones, others = _tables(before), _tables(after)
        if ones and list(map(type, ones)) == list(map(type, others)):
            for place, (one, other) in enumerate(zip(ones, others, strict=True)):
                index = f"[{place}]" if isinstance(before, tuple) else ""
                yield from _changed(one, other, f"{prefix}{name}{index}.")
        elif mark_of(field).needs_restart(before, after):
            yield f"{prefix}{name}"


def _tables(value: object) -> list[Model]:
    """Return a table, or the tables of a list; nothing for any other value."""
    values = value if isinstance(value, tuple) else (value,)
    return [each for each in values if isinstance(each, Model)]
