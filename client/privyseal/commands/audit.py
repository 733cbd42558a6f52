"""`privyseal audit`: prove with a build's receipts that what it was given is on record."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from privyseal._terminal import result, say
from privyseal.commands._connection import connection_options, open_client, settings_from
from privyseal.errors import ConfigurationError, InputError, NotVerifiedError

if TYPE_CHECKING:
    from privyseal.transparency.checkpoint import VerifierKey
    from privyseal.transparency.receipts import OnRecord, Receipt


_MOST_RECEIPTS_BYTES = 1 << 28
"""More than the receipts of a hundred thousand signatures have."""


@click.group()
def audit() -> None:
    """Prove that what was signed is on record."""


_CHECK_EPILOG = """\b
Examples:
  privyseal audit check receipts.json --log-key audit.vkey --sealed sealed.json
  privyseal audit check receipts.json --log-key "$LOG_KEY" --signature "$SIGNATURE"

The log's public key is the line that `privyseal-server audit keygen` printed. Get it from whoever verifies the log, not
from the service itself.
"""


@audit.command(epilog=_CHECK_EPILOG, short_help="Check receipts, without the log and without the service.")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--log-key",
    "log_keys",
    metavar="VKEY",
    multiple=True,
    envvar="PRIVYSEAL_LOG_KEY",
    help="The log's public key, or a file with it; again for former keys.  [default: PRIVYSEAL_LOG_KEY]",
)
@click.option(
    "--signature",
    "signatures",
    metavar="VALUE",
    multiple=True,
    help="A signature or wrapped key that must be on record, hex or base64. Again for more.",
)
@click.option(
    "--sealed",
    "sealed_files",
    metavar="FILE",
    multiple=True,
    type=click.Path(path_type=Path),
    help="What `bundle encrypt --json` printed, or an update.json: checksum and session key must be on record. "
    "Again for more.",
)
@click.option("-j", "--json", "as_json", is_flag=True, help="Print what is on record as JSON.")
def check(
    *,
    file: Path,
    log_keys: tuple[str, ...],
    signatures: tuple[str, ...],
    sealed_files: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Prove with the receipts in FILE that their records are in the log, under a checkpoint that its key signed.

    Each --signature, and both values of each --sealed, must be that of one of the records. Exits with 1 when anything
    does not hold.
    """
    from privyseal.transparency.receipts import is_record_of  # noqa: PLC0415 - help and version need none of it

    keys = [_key(text) for text in log_keys]
    if not keys:
        raise ConfigurationError(
            "without the log's public key nothing is proven", remedy="pass --log-key VKEY or set PRIVYSEAL_LOG_KEY"
        )
    wanted = [(f"--signature {value[:16]}…", _decode(value)) for value in signatures]
    wanted += [named for path in sealed_files for named in _sealed(path)]
    found = [_on_record(file, number, receipt, keys) for number, receipt in enumerate(_read(file), 1)]
    for name, value in wanted:
        if not any(is_record_of(each.record, value) for each in found):
            raise NotVerifiedError(
                f"{name} is not on record in {file}", remedy="take the receipts that came with it, whole"
            )
    if as_json:
        result(json.dumps({"on_record": [_as_json(each) for each in found]}, indent=2, ensure_ascii=False))
    else:
        result("\n".join(_line(each) for each in found))
        if not wanted:
            say("No signature was named: pass --signature or --sealed to hold one against these records.")


_PROVE_EPILOG = """\b
Example:
  privyseal audit prove receipts.json
"""


@audit.command(epilog=_PROVE_EPILOG, short_help="Ask the service for the proofs that receipts still lack.")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@connection_options
def prove(*, file: Path, timeout_s: float, **connection: Any) -> None:
    """Ask the service for the proofs that receipts in FILE still lack, and write them there.

    The service looks for a record among its log's newest million.
    """
    from privyseal._files import AtomicOutput  # noqa: PLC0415 - help and version need none of it
    from privyseal.commands._receipts import write_receipts  # noqa: PLC0415

    receipts = _read(file)
    settings = settings_from(connection)
    missing = sum(receipt.proven is None for receipt in receipts)
    if missing:
        with AtomicOutput(file) as output, open_client(settings, timeout_s) as client:
            write_receipts(output, client.prove_all(receipts))
    say(f"{missing} of {len(receipts)} receipts were proven; check them with `privyseal audit check {file}`.")


def _read(file: Path) -> list[Receipt]:
    from privyseal._files import read_small  # noqa: PLC0415
    from privyseal.transparency.errors import ReceiptError  # noqa: PLC0415
    from privyseal.transparency.receipts import parse_receipts  # noqa: PLC0415

    try:
        receipts = parse_receipts(read_small(file, _MOST_RECEIPTS_BYTES))
    except ReceiptError as error:
        raise InputError(f"{file}: {error}", remedy="pass what --receipt wrote") from None
    if not receipts:
        raise InputError(f"{file} holds no receipt", remedy="pass what --receipt wrote")
    return receipts


def _on_record(file: Path, number: int, receipt: Receipt, keys: Sequence[VerifierKey]) -> OnRecord:
    from privyseal.transparency.errors import ReceiptError  # noqa: PLC0415
    from privyseal.transparency.receipts import check as check_receipt  # noqa: PLC0415

    try:
        return check_receipt(receipt, keys)
    except ReceiptError as error:
        raise NotVerifiedError(f"receipt {number} of {file} does not hold: {error}") from None


def _key(text: str) -> VerifierKey:
    from privyseal._files import read_small  # noqa: PLC0415
    from privyseal.transparency.checkpoint import VerifierKey  # noqa: PLC0415
    from privyseal.transparency.errors import KeyFileError  # noqa: PLC0415

    try:
        return VerifierKey.parse(text if "+" in text else read_small(Path(text)).decode(errors="replace"))
    except KeyFileError as error:
        raise ConfigurationError(f"--log-key: {error}") from None


def _decode(text: str, name: str = "--signature") -> bytes:
    """A signature or wrapped key, as hex or base64."""
    text = text.strip()
    try:
        return bytes.fromhex(text)
    except ValueError:
        pass
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InputError(f"{name} is neither hex nor base64", remedy="pass it as it was printed") from None


def _sealed(path: Path) -> list[tuple[str, bytes]]:
    """The two signed values of what `bundle encrypt --json` printed, or of an update.json, each with its name."""
    from privyseal._files import read_small  # noqa: PLC0415

    try:
        body = json.loads(read_small(path))
        checksum, iv_session_key = body["checksum"], body.get("ivSessionKey") or body["session_key"]
        wrapped_key = iv_session_key.partition(":")[2]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{path} is not what `bundle encrypt --json` prints, and no update.json",
            remedy="pass one of them, or each value with --signature",
        ) from None
    return [
        (f"the checksum in {path}", _decode(str(checksum), f"the checksum in {path}")),
        (f"the session key in {path}", _decode(wrapped_key, f"the session key in {path}")),
    ]


def _as_json(found: OnRecord) -> dict[str, object]:
    return {
        "log": found.checkpoint.origin,
        "index": found.index,
        "size": found.checkpoint.size,
        "record": found.record,
    }


def _line(found: OnRecord) -> str:
    """What is on record, for a person. A record's texts came from a caller once."""
    record = found.record
    caller = record.get("caller")
    name = caller.get("name", "") if isinstance(caller, dict) else ""
    said = (
        f"on record  {record.get('time', '')}  {record.get('operation', '')} by {record.get('key', '')} for {name}"
        f"  (record {found.index} of {found.checkpoint.size}, {found.checkpoint.origin})"
    )
    return "".join(c if c.isprintable() else " " for c in said)
