"""Requests of callers after parsing: typed, and independent of the wire. The operations check lengths."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import ClassVar, TypeAlias

from privyseal_service.domain.operation_names import Operation
from privyseal_service.domain.operations import InputError, SignatureScheme, WrapScheme

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_MOST_CHARACTERS = 512


@dataclass(frozen=True, slots=True)
class Context:
    """What a request is for, according to its caller: recorded, neither signed nor proven."""

    app_id: str = ""
    bundle_version: str = ""
    source_revision: str = ""
    build_url: str = ""

    def check(self) -> None:
        """Raise InputError for a field of more than 512 characters or with a control character."""
        for name in CONTEXT_FIELDS:
            value = getattr(self, name)
            if value and (len(value) > _MOST_CHARACTERS or _CONTROL.search(value)):
                wanted = f"must be at most {_MOST_CHARACTERS} characters, none of them a control character"
                raise InputError(f"context.{name}", wanted)


CONTEXT_FIELDS = tuple(f.name for f in fields(Context))
NO_CONTEXT = Context()


@dataclass(frozen=True, slots=True)
class WrapSessionKey:
    """Wrap a session key. An empty `key` means the only key that the caller may use."""

    operation: ClassVar[Operation] = Operation.WRAP_SESSION_KEY
    key: str
    scheme: WrapScheme
    context: Context
    session_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SignChecksums:
    """Sign checksums. In a batch each has its own result; otherwise there is one, and its error is the call's."""

    operation: ClassVar[Operation] = Operation.SIGN_CHECKSUM
    key: str
    scheme: SignatureScheme
    context: Context
    checksums: tuple[bytes, ...]
    batch: bool


@dataclass(frozen=True, slots=True)
class UnwrapSessionKey:
    """Recover a session key that was wrapped for a decryption key."""

    operation: ClassVar[Operation] = Operation.UNWRAP_SESSION_KEY
    key: str
    scheme: WrapScheme
    context: Context
    wrapped_key: bytes = field(repr=False)


SigningRequest: TypeAlias = WrapSessionKey | SignChecksums | UnwrapSessionKey
"""A request that uses a private or public key."""
