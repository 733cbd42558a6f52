"""`privyseal-server audit`: verify an audit trail, export and sum its records, and make the key of its checkpoints."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from privyseal_service.commands._errors import CommandError
from privyseal_service.system.exit_codes import REFUSED, USAGE
from privyseal_service.system.files import atomic_writer

if TYPE_CHECKING:
    from privyseal.transparency.checkpoint import VerifierKey
    from privyseal_service.audit.export import Selection


@contextmanager
def _command_errors() -> Iterator[None]:
    """Raise CommandError for errors of files, keys and logs."""
    from privyseal.transparency.errors import AuditError, KeyFileError  # noqa: PLC0415

    try:
        yield
    except BrokenPipeError:
        raise
    except KeyFileError as error:
        raise CommandError(str(error), USAGE) from None
    except AuditError as error:
        raise CommandError(str(error), REFUSED) from None
    except OSError as error:
        sentence = f"{error.filename or 'a file'}: {(error.strerror or str(error)).lower()}"
        raise CommandError(sentence, USAGE) from None


_TIME = re.compile(r"(\d{4}-\d\d-\d\d)(?:T(\d\d(?::\d\d(?::\d\d(?:\.\d{1,6})?)?)?))?Z?", re.ASCII)


def _parse_time(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Return the text of a time, which is compared with the beginning of a record's time. Raises BadParameter."""
    if value is None:
        return None
    match = _TIME.fullmatch(value)
    if match is None or not _exists(match[1], match[2] or "00"):
        raise click.BadParameter(f"{value!r} is not a time such as 2026-05-28 or 2026-05-28T09:30, in UTC")
    return value.rstrip("Z")


def _exists(day: str, clock: str) -> bool:
    try:
        date.fromisoformat(day)
        time.fromisoformat(clock[:8])
    except ValueError:
        return False
    return True


_folder = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
_FILTERS = (
    click.option("--caller", metavar="NAME", help="Only this caller, as dns:build.example."),
    click.option("--key", metavar="NAME", help="Only this key."),
    click.option("--operation", metavar="NAME", help="Only this operation, as sign-checksum."),
    click.option(
        "--outcome",
        type=click.Choice(["answered", "denied", "refused", "failed", "cancelled"]),
        help="Only calls with this outcome.",
    ),
    click.option(
        "--since",
        metavar="TIME",
        callback=_parse_time,
        help="From this time on, as 2026-05-28 or 2026-05-28T09:30 (UTC).",
    ),
    click.option("--until", metavar="TIME", callback=_parse_time, help="Before this time."),
)


def _filters(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_FILTERS):
        command = option(command)
    return command


@click.group(short_help="Verify the audit trail, read it, make its key.")
def audit() -> None:
    """The audit trail: verify it, read it, and make the key that signs its checkpoints."""


@audit.command(short_help="Find what was changed, removed or cut off.")
@_folder
@click.option(
    "--public-key",
    "public_keys",
    metavar="VKEY",
    multiple=True,
    required=True,
    help="The log's public key: the line that keygen printed, or a file with it. May be repeated, for former keys.",
)
@click.option(
    "--checkpoint",
    "checkpoints",
    metavar="FILE",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A file of checkpoints that were kept elsewhere: notes, or collected standard output. May be repeated.",
)
@click.option(
    "--witness",
    "witnesses",
    metavar="VKEY",
    multiple=True,
    help="A witness's public key. At least one witness must have cosigned a checkpoint of the --checkpoint files.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(
    folder: Path,
    public_keys: tuple[str, ...],
    checkpoints: tuple[Path, ...],
    witnesses: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    """Read the whole audit trail in DIR and find what was changed, removed, reordered, inserted or cut off.

    Prints what was read, and each place where something is wrong, in the log's order. Only --checkpoint detects changes
    by somebody who has both the log and its key. May run while the service does. Exits with 1 when anything is wrong, 2
    for a missing file or a public key that cannot be used.

    \b
    Examples:
      privyseal-server audit verify /var/lib/privyseal/audit --public-key audit.vkey
      privyseal-server audit verify DIR --public-key audit.vkey --checkpoint /mnt/elsewhere/checkpoints
    """  # noqa: D301 - click's own mark
    from privyseal_service.audit import verify as verifying  # noqa: PLC0415

    with _command_errors():
        keys, cosigners = _read_keys(public_keys), _read_keys(witnesses)
        _require(folder)
        with show_progress() as progress:
            report = verifying.verify(folder, keys, outside=checkpoints, witnesses=cosigners, progress=progress)
    click.echo(_as_json(report) if as_json else _as_text(report, outside=bool(checkpoints)))
    if not report.ok:
        raise CommandError(f"the audit trail fails verification: {report.findings[0]}", REFUSED)


@contextmanager
def show_progress() -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows how many records were read, and of how many, if standard error is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _records, _size: None
        return
    with click.progressbar(length=1, label="records", show_pos=True, file=sys.stderr) as bar:

        def show(records: int, size: int) -> None:
            bar.length = size
            bar.update(records - bar.pos)

        yield show


def _as_json(report: Any) -> str:
    import json  # noqa: PLC0415

    checkpoint = report.checkpoint
    body = {
        "ok": report.ok,
        "log": checkpoint.origin if checkpoint else None,
        "size": checkpoint.size if checkpoint else None,
        "root": checkpoint.root.hex() if checkpoint else None,
        "records": report.records,
        "bytes": report.size_bytes,
        "checkpoints": report.anchors,
        "unmerged": report.unmerged,
        "findings": [{"place": finding.place, "message": finding.message} for finding in report.findings],
        "notes": report.notes,
    }
    return json.dumps(body, indent=2)


def _as_text(report: Any, *, outside: bool) -> str:
    lines = []
    if report.checkpoint is not None:
        lines.append(f"log      {report.checkpoint.origin}, {report.checkpoint.size} records")
    lines.append(f"read     {report.records} records, {report.size_bytes} bytes; {report.anchors} checkpoints verified")
    lines += [f"note     {note}" for note in report.notes]
    lines += [f"WRONG    {finding}" for finding in report.findings]
    if report.ok:
        lines.append("ok       nothing was changed, removed, reordered or inserted")
        if not outside:
            lines.append("note     changes by somebody who has the log's key show only with --checkpoint")
    return "\n".join(lines)


def _require(folder: Path) -> None:
    if not (folder / "log").is_dir() and not (folder / "segments").is_dir():
        raise CommandError(f"{folder} is not the folder of an audit trail", USAGE)


def _read_keys(texts: Sequence[str]) -> list[VerifierKey]:
    """Return the keys, each written as itself or as the name of a file."""
    from privyseal.transparency.checkpoint import VerifierKey  # noqa: PLC0415

    return [VerifierKey.parse(text if "+" in text else Path(text).read_text()) for text in texts]


def _selection(**chosen: str | None) -> Selection:
    from privyseal_service.audit.export import Selection  # noqa: PLC0415

    return Selection(**chosen)


@audit.command(short_help="Print records as JSON lines or CSV.")
@_folder
@_filters
@click.option(
    "--format", "form", type=click.Choice(["json", "csv"]), default="json", show_default=True, help="JSON lines or CSV."
)
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A new file, mode 0600; by default standard output.",
)
def export(folder: Path, form: str, output: Path | None, **filters: str | None) -> None:
    """Print the records of the audit trail in DIR that pass the filters, in the log's order.

    JSON lines are the records as they are in the log. Run verify first: this command checks nothing. Exits with 2 when
    DIR is not an audit trail.

    \b
    Examples:
      privyseal-server audit export DIR --key app --outcome denied --since 2026-05-01
      privyseal-server audit export DIR --format csv --output records.csv
    """  # noqa: D301 - click's own mark
    from privyseal_service.audit import export as choosing  # noqa: PLC0415

    with _command_errors():
        _require(folder)
        with _output(output) as write:
            if form == "csv":
                write(choosing.csv_line(choosing.COLUMNS).encode())
            for index, line, body in choosing.select(folder, _selection(**filters)):
                if form == "csv":
                    write(choosing.csv_line(choosing.csv_row(index, body)).encode())
                else:
                    write(line + b"\n")


@contextmanager
def _output(path: Path | None) -> Iterator[Callable[[bytes], object]]:
    """Yield the writer of standard output, or of a new file that appears only when it is complete."""
    if path is None:
        if sys.stdout is None:
            raise CommandError("standard output is closed; name a file with --output", USAGE)
        out = sys.stdout.buffer
        yield out.write
        out.flush()
        return
    with atomic_writer(path, shared=True) as write:
        yield write


@audit.command(short_help="Sum calls by day, caller, key and operation.")
@_folder
@_filters
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with each combination too.")
def report(folder: Path, *, as_json: bool, **filters: str | None) -> None:
    """Sum the calls in the audit trail in DIR by day, caller, key and operation.

    Each checksum of a batch is a call, and so is each denial that was only counted. Run verify first: this command
    checks nothing. Exits with 2 when DIR is not an audit trail.

    \b
    Example:
      privyseal-server audit report DIR --since 2026-05-01 --until 2026-06-01
    """  # noqa: D301 - click's own mark
    import json  # noqa: PLC0415

    from privyseal_service.audit import export as choosing  # noqa: PLC0415

    sums = choosing.Sums()
    with _command_errors():
        _require(folder)
        for _, _, body in choosing.select(folder, _selection(**filters)):
            sums.add(body)
    click.echo(json.dumps(sums.to_json(), indent=2) if as_json else sums.to_text().rstrip("\n"))


@audit.command()
@click.argument("name")
@click.option(
    "--output", metavar="FILE", required=True, type=click.Path(path_type=Path), help="The private key, a new file."
)
def keygen(name: str, output: Path) -> None:
    """Make the key that signs the checkpoints of one replica's log.

    NAME is the permanent name of the log, its origin: a URL without scheme, as audit.example.com/replica-1. The private
    key goes to FILE (mode 0600, never replaced), which only the sequencer reads. The public key is printed: give it to
    those who verify, and keep it where the service's host cannot change it.

    \b
    Example:
      privyseal-server audit keygen audit.example.com/replica-1 --output audit.key > audit.vkey
    """  # noqa: D301 - click's own mark
    from privyseal_service.audit import keys  # noqa: PLC0415

    with _command_errors():
        click.echo(str(keys.make_key(name, output)))
