"""The `[audit]` table: where and how the audit trail is kept. No file is opened here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from privyseal.transparency.checkpoint import SignatureType, VerifierKey, check_key_name
from privyseal.transparency.errors import KeyFileError
from privyseal_service.config.fields import Model, PathField, Restart
from privyseal_service.domain.replica import Source

_SECONDS_A_DAY = 86_400.0


def _public_key(text: str) -> VerifierKey:
    try:
        return VerifierKey.parse(text)
    except KeyFileError:
        raise ValueError("must be a public key: the line NAME+ID+BASE64 that `audit keygen` prints") from None


class FileSinkConfig(Model):
    """A file that checkpoints are appended to, on another disk or an append-only mount."""

    kind: Restart[Literal["file"]]
    path: Restart[PathField]


class StdoutSinkConfig(Model):
    """Standard output: one line of JSON for each checkpoint."""

    kind: Restart[Literal["stdout"]]


class HttpsSinkConfig(Model):
    """An HTTPS server: checkpoints are sent to `url` by POST. `ca_file` has the CAs to trust, by default the system's;
    `token_file` has a bearer token."""

    kind: Restart[Literal["https"]]
    url: Restart[str]
    ca_file: Restart[PathField | None] = None
    token_file: Restart[PathField | None] = None


class WitnessSinkConfig(Model):
    """A C2SP tlog-witness at the prefix `url`, which cosigns checkpoints. `key` is its public key, a vkey of type 4."""

    kind: Restart[Literal["witness"]]
    url: Restart[str]
    key: Restart[str]
    ca_file: Restart[PathField | None] = None

    @field_validator("key")
    @classmethod
    def _check_key(cls, text: str) -> str:
        if _public_key(text).type is not SignatureType.COSIGNATURE:
            raise ValueError("must be a witness's Ed25519 cosignature key (a vkey of type 4)")
        return text

    def verifier(self) -> VerifierKey:
        """Return the key in the form that verifies."""
        return _public_key(self.key)


SinkConfig: TypeAlias = Annotated[
    FileSinkConfig | StdoutSinkConfig | HttpsSinkConfig | WitnessSinkConfig, Field(discriminator="kind")
]


class AuditConfig(Model):
    """Where and how the audit trail is kept.

    `folder` has all of it. `log` is the permanent name of the log, the origin of its checkpoints. `key` is the file
    with the private key of that name, which only the sequencer reads; `former_keys` are the public keys before it.
    `replica` is the writer's name in the records, by default the last part of `log`. `enabled = false`, as the only
    setting of the table, is for a first try: no decision is recorded.

    A new segment begins at `segment_mib` MiB. Segments whose records are all in the tree are kept, or removed after
    `keep_segments_days`. Each caller has `denials_per_s` records of denials a second, with a burst of
    `denials_at_once`; further denials are only counted.
    """

    enabled: Restart[bool] = True
    folder: Restart[PathField | None] = None
    log: Restart[str] = ""
    key: Restart[PathField | None] = None
    former_keys: Restart[tuple[str, ...]] = ()
    replica: Restart[str] = ""
    segment_mib: Restart[Annotated[int, Field(ge=1, le=4096)]] = 64
    keep_segments_days: Restart[Annotated[float, Field(gt=0, le=36_500, allow_inf_nan=False)] | None] = None
    denials_per_s: Restart[Annotated[float, Field(gt=0, le=10_000, allow_inf_nan=False)]] = 10.0
    denials_at_once: Restart[Annotated[int, Field(ge=1, le=100_000)]] = 20
    sinks: Restart[tuple[SinkConfig, ...]] = ()

    @field_validator("log")
    @classmethod
    def _check_log(cls, name: str) -> str:
        try:
            check_key_name(name)
        except KeyFileError:
            raise ValueError(
                "must be a URL without scheme, as audit.example.com/replica-1; spaces and + are not allowed"
            ) from None
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
                raise ValueError(f"enabled = false keeps no audit trail: remove {' and '.join(more)}")
            return self
        missing = [name for name in ("folder", "log", "key") if not getattr(self, name)]
        if missing:
            raise ValueError(f"an audit trail needs {' and '.join(missing)}")
        for text in self.former_keys:
            if _public_key(text).name != self.log:
                raise ValueError("former_keys must be keys of the log that `log` names")
        try:
            Source(self.replica_name, "w0")
        except ValueError:
            why = "" if self.replica else "; set it, since the last part of log is not"
            raise ValueError(f"replica must be 1 to 64 letters, digits, dots, hyphens and underscores{why}") from None
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
        """The writer's name in the records."""
        return self.replica or self.log.rpartition("/")[2]

    @property
    def keep_segments_s(self) -> float | None:
        """How long segments are kept after their records are in the tree, in seconds; None is without limit."""
        return None if self.keep_segments_days is None else self.keep_segments_days * _SECONDS_A_DAY

    def verifiers(self) -> list[VerifierKey]:
        """Return the former keys in the form that verifies."""
        return [_public_key(text) for text in self.former_keys]
