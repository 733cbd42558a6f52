"""The `[audit]` table of the configuration, checked by itself: no file is opened here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from privyseal.transparency.checkpoint import SignatureType, VerifierKey, check_key_name
from privyseal.transparency.errors import KeyFileError
from privyseal_service.domain.replica import Source

_SECONDS_A_DAY = 86_400.0


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _public_key(text: str) -> VerifierKey:
    try:
        return VerifierKey.parse(text)
    except KeyFileError as error:
        raise ValueError(f"must be a public key as `audit keygen` prints it: {error}") from None


class FileSinkConfig(_Model):
    """Checkpoints are appended to a file, on another disk or a mount that only appends."""

    kind: Literal["file"]
    path: Path


class StdoutSinkConfig(_Model):
    """Checkpoints are written to standard output, one line of JSON each."""

    kind: Literal["stdout"]


class HttpsSinkConfig(_Model):
    """Checkpoints are POSTed to `url`. `ca_file` are the CAs to trust (else the system's), `token_file` holds a bearer
    token."""

    kind: Literal["https"]
    url: str
    ca_file: Path | None = None
    token_file: Path | None = None


class WitnessSinkConfig(_Model):
    """A C2SP tlog-witness at the prefix `url` cosigns checkpoints; `key` is its public key, a vkey of type 4."""

    kind: Literal["witness"]
    url: str
    key: str
    ca_file: Path | None = None

    @field_validator("key")
    @classmethod
    def _check_key(cls, text: str) -> str:
        if _public_key(text).type is not SignatureType.COSIGNATURE:
            raise ValueError("must be a witness's Ed25519 cosignature key (a vkey of type 4)")
        return text

    def verifier(self) -> VerifierKey:
        """The key, to verify with."""
        return _public_key(self.key)


SinkConfig: TypeAlias = Annotated[
    FileSinkConfig | StdoutSinkConfig | HttpsSinkConfig | WitnessSinkConfig, Field(discriminator="kind")
]


class AuditConfig(_Model):
    """Where and how the audit trail is kept.

    `folder` holds all of it. `log` is the log's name for ever, the origin of its checkpoints; `key` the file with the
    private key of that name, which the sequencer alone reads, and `former_keys` the public keys before it. `replica` is
    who the records say wrote them: by default the last part of `log`. `enabled = false`, alone in the table, is for a
    first try: decisions are on record nowhere.

    A segment is followed by the next at `segment_mib` MiB. Segments that are wholly in the tree are kept for ever, or
    for `keep_segments_days`. Each caller has `denials_per_s` records of denials a second and `denials_at_once` at once;
    what is beyond is counted.
    """

    enabled: bool = True
    folder: Path | None = None
    log: str = ""
    key: Path | None = None
    former_keys: tuple[str, ...] = ()
    replica: str = ""
    segment_mib: Annotated[int, Field(ge=1, le=4096)] = 64
    keep_segments_days: Annotated[float, Field(gt=0, le=36_500, allow_inf_nan=False)] | None = None
    denials_per_s: Annotated[float, Field(gt=0, le=10_000, allow_inf_nan=False)] = 10.0
    denials_at_once: Annotated[int, Field(ge=1, le=100_000)] = 20
    sinks: tuple[SinkConfig, ...] = ()

    @field_validator("log")
    @classmethod
    def _check_log(cls, name: str) -> str:
        try:
            check_key_name(name)
        except KeyFileError as error:
            raise ValueError(str(error)) from None
        return name

    @field_validator("former_keys")
    @classmethod
    def _check_former_keys(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        for text in texts:
            _public_key(text)
        return texts

    @model_validator(mode="after")
    def _check(self) -> AuditConfig:
        if not self.enabled:
            more = sorted(self.model_fields_set - {"enabled"})
            if more:
                raise ValueError(f"enabled = false keeps no audit trail: take away {' and '.join(more)}")
            return self
        missing = [name for name in ("folder", "log", "key") if not getattr(self, name)]
        if missing:
            raise ValueError(f"an audit trail needs {' and '.join(missing)}")
        for text in self.former_keys:
            if _public_key(text).name != self.log:
                raise ValueError(f"former_keys must be keys of {self.log}")
        try:
            Source(self.replica_name, "w0")
        except ValueError as error:
            raise ValueError(f"set replica, since the last part of log does not do: {error}") from None
        return self

    @property
    def root(self) -> Path:
        """The folder of an audit trail that is kept."""
        assert self.folder is not None  # checked with `enabled`
        return self.folder

    @property
    def key_file(self) -> Path:
        """The file with the private key of an audit trail that is kept."""
        assert self.key is not None  # checked with `enabled`
        return self.key

    @property
    def replica_name(self) -> str:
        """Who the records say wrote them."""
        return self.replica or self.log.rpartition("/")[2]

    @property
    def keep_segments_s(self) -> float | None:
        """How long segments are kept once they are in the tree, in seconds; None is for ever."""
        return None if self.keep_segments_days is None else self.keep_segments_days * _SECONDS_A_DAY

    def verifiers(self) -> list[VerifierKey]:
        """The former keys, to verify with."""
        return [_public_key(text) for text in self.former_keys]

    def within(self, folder: Path) -> AuditConfig:
        """The same with relative paths made absolute."""
        if not self.enabled:
            return self
        sinks = tuple(sink.model_copy(update=_absolute(sink, folder)) for sink in self.sinks)
        return self.model_copy(update={**_absolute(self, folder), "sinks": sinks})


def _absolute(model: BaseModel, folder: Path) -> dict[str, Path]:
    paths = {name: getattr(model, name) for name in type(model).model_fields}
    return {name: folder / path for name, path in paths.items() if isinstance(path, Path)}
