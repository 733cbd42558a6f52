"""Picks records out of a log, and writes or sums them: what `audit export` and `audit report` do."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from privyseal_service.audit.log_reader import LogReader
from privyseal_service.system.escaping import escape_unprintable

Body: TypeAlias = "dict[str, Any]"

_PAGE = 4_096
_REFUSED = {"INVALID_ARGUMENT", "FAILED_PRECONDITION", "NOT_FOUND"}
"""Codes of what a summary counts that is no denial: the request was unfit for the key or for any operation."""

COLUMNS = (
    "index",
    "n",
    "time",
    "replica",
    "worker",
    "kind",
    "request_id",
    "caller",
    "proof",
    "peer",
    "operation",
    "outcome",
    "code",
    "reason",
    "key",
    "key_version",
    "key_fingerprint",
    "scheme",
    "checksum",
    "signature_sha256",
    "wrapped_key_sha256",
    "item",
    "app_id",
    "bundle_version",
    "source_revision",
    "build_url",
    "grant",
    "store_request_id",
    "queue_s",
    "store_s",
    "count",
    "first",
    "last",
    "batch",
    "call_id",
)
"""The columns of a CSV export. New ones are added at the end."""


@dataclass(frozen=True)
class Selection:
    """Which records are wanted: all that is set must hold. Texts are compared whole; `since` and `until` are the
    beginning of a record's time (`2026-05-28`, `2026-05-28T09`), the first included and the second not."""

    caller: str | None = None
    key: str | None = None
    operation: str | None = None
    outcome: str | None = None
    kind: str | None = None
    since: str | None = None
    until: str | None = None

    def wants(self, body: Mapping[str, Any]) -> bool:
        """Whether a record, parsed, is wanted."""
        for name in ("key", "operation", "outcome", "kind"):
            wanted = getattr(self, name)
            if wanted is not None and body.get(name) != wanted:
                return False
        if self.caller is not None and _within(body, "caller").get("name") != self.caller:
            return False
        time = str(body.get("time", ""))
        return not ((self.since is not None and time < self.since) or (self.until is not None and time >= self.until))

    def wants_line(self, line: bytes) -> bool:
        """Whether a record's line is wanted. A line that is no JSON object is not."""
        body = parse(line)
        return body is not None and self.wants(body)


def parse(line: bytes) -> Body | None:
    """A record's fields, or None for a line that is no JSON object."""
    try:
        body = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return body if isinstance(body, dict) else None


def _within(body: Mapping[str, Any], name: str) -> Body:
    """A field of a record that has fields of its own; empty where it has another form, as a worker that lies could
    write it: that must not keep the other records from anybody."""
    found = body.get(name)
    return found if isinstance(found, dict) else {}


def select(root: Path, selection: Selection) -> Iterator[tuple[int, bytes, Body]]:
    """The wanted records of the log in the folder `root`: index, line and fields, in the log's order.

    Raises what `LogReader` raises. It does not verify: `verify` does.
    """
    reader = LogReader(root)
    at, size = 0, reader.checkpoint()[1].size
    while at < size:
        page, at = reader.records(at, min(_PAGE, size - at))
        for index, line in page:
            body = parse(line)
            if body is not None and selection.wants(body):
                yield index, line, body


def csv_line(values: Iterable[object]) -> str:
    """A line of CSV (RFC 4180). A text that a spreadsheet would take for a formula begins with an apostrophe."""
    out = io.StringIO()
    csv.writer(out).writerow([_harmless(value) for value in values])
    return out.getvalue()


def _harmless(value: object) -> object:
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return "'" + value
    return value


def csv_row(index: int, body: Body) -> list[object]:
    """A record's values for `COLUMNS`. How a caller was proven is JSON, without what names it already."""
    caller = _within(body, "caller")
    flat = {**body, **_within(body, "context"), "index": index, "caller": caller.get("name")}
    if proof := caller.get("proof"):
        flat["proof"] = orjson.dumps(proof).decode()
    return [flat.get(column, "") for column in COLUMNS]


@dataclass
class Sums:
    """Numbers of calls by what an auditor asks for. `rows` counts each combination of day, caller, key, operation and
    outcome; each call of a batch counts, and each denial of a summary."""

    rows: Counter[tuple[str, str, str, str, str]] = field(default_factory=Counter)

    def add(self, body: Body) -> None:
        """Count a record."""
        day = str(body.get("time", ""))[:10]
        caller = str(_within(body, "caller").get("name") or "(not proven)")
        if body.get("kind") == "denials":
            for what, count in _within(body, "counts").items():
                if not isinstance(count, int):
                    continue
                operation, _, code = what.partition(" ")
                self.rows[day, caller, "", operation, "refused" if code in _REFUSED else "denied"] += count
        elif body.get("kind") == "decision":
            key, operation, outcome = (str(body.get(name, "")) for name in ("key", "operation", "outcome"))
            self.rows[day, caller, key, operation, outcome] += 1

    def by(self, dimension: int) -> list[tuple[str, int, int]]:
        """For each day (0), caller (1), key (2) or operation (3): its name, calls answered, calls not answered."""
        answered: Counter[str] = Counter()
        others: Counter[str] = Counter()
        for row, count in self.rows.items():
            (answered if row[4] == "answered" else others)[row[dimension]] += count
        return [(name, answered[name], others[name]) for name in sorted(answered | others)]

    def to_json(self) -> dict[str, object]:
        """All sums, for a program."""
        names = ("day", "caller", "key", "operation")
        body: dict[str, object] = {
            f"by_{name}": [
                {name: value, "answered": answered, "not_answered": others} for value, answered, others in self.by(i)
            ]
            for i, name in enumerate(names)
        }
        body["rows"] = [
            dict(zip((*names, "outcome", "calls"), (*row, count), strict=True))
            for row, count in sorted(self.rows.items())
        ]
        return body

    def to_text(self) -> str:
        """All sums, for a person. A key's name is as a caller wrote it where there is no such key."""
        lines = []
        for i, title in enumerate(("day", "caller", "key", "operation")):
            found = [(escape_unprintable(name), answered, others) for name, answered, others in self.by(i)]
            width = max([len(title), *(len(name) for name, _, _ in found)])
            lines.append(f"{title:<{width}}  {'answered':>10}  {'not answered':>12}")
            lines += [f"{name or '(none)':<{width}}  {answered:>10}  {others:>12}" for name, answered, others in found]
            lines.append("")
        return "\n".join(lines)
