"""Answers of AWS KMS, checked before they are believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from privyseal_backends.interface import (
    IntegrityError,
    UnavailableError,
)

if TYPE_CHECKING:
    pass


def check_answer(answer: Mapping[str, object], expected: Mapping[str, str]) -> None:
    """Raise `IntegrityError` unless each field of the answer says what was expected, the key's ARN above all.

    botocore takes a body that was cut, or that a portal in between made, for an answer without any field: that is no
    answer, and raises `UnavailableError`.
    """
    if not set(answer) - {"ResponseMetadata"}:
        raise UnavailableError("network", "an answer was cut on the way, or is not one of AWS KMS")
    for name, value in expected.items():
        if answer.get(name) != value:
            raise IntegrityError(
                "answer",
                f"an answer of AWS KMS has another {name} than the one that was asked for",
                "it was dropped; check what stands between the service and AWS KMS",
            )


def request_id(answer: Mapping[str, object]) -> str:
    """AWS's own name for the call that this answers; empty where it gave none."""
    metadata = answer.get("ResponseMetadata")
    found = metadata.get("RequestId") if isinstance(metadata, Mapping) else None
    return found if isinstance(found, str) else ""


def answer_bytes(answer: Mapping[str, object], name: str) -> bytes:
    """Return a field of an answer that must be bytes. Raises IntegrityError."""
    value = answer.get(name)
    if not isinstance(value, bytes):
        raise IntegrityError("answer", f"an answer of AWS KMS has no {name}", "it was dropped; ask again")
    return value
