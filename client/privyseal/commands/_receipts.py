"""`--receipt FILE`: the receipts of what was signed, proven and kept beside the result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from privyseal.errors import DeadlineExceededError, NotFoundError, ServiceError

if TYPE_CHECKING:
    from privyseal._client import Client
    from privyseal._files import AtomicOutput
    from privyseal.transparency.receipts import Receipt

F = TypeVar("F", bound=Callable[..., Any])


def receipt_option(function: F) -> F:
    """Add `--receipt FILE`."""
    return click.option(
        "--receipt",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Keep the receipts of the audit trail there, for `privyseal audit check`.",
    )(function)


class ReceiptKeeper:
    """Proves receipts and writes them to a file; does nothing where none is wanted."""

    def __init__(self, output: AtomicOutput | None) -> None:
        self._output = output
        self.client: Client | None = None

    def keep(self, receipts: Sequence[Receipt]) -> None:
        """Wait for the proofs and write the file. When they do not come, the file is written without them and an error
        is raised; what was signed stays signed. Raises ServiceError, NotVerifiedError, WriteError."""
        if self._output is None:
            return
        assert self.client is not None  # it has signed
        try:
            proven = self.client.prove_all(receipts)
        except ServiceError as error:
            write_receipts(self._output, receipts)
            kind = DeadlineExceededError if isinstance(error, NotFoundError) else type(error)
            raise kind(
                f"all is signed, but the receipts in {self._output.path} have no proof yet: {error.message}",
                code=error.code,
                details=error.details,
                request_id=error.request_id,
                remedy=f"ask for it with `privyseal audit prove {self._output.path}`",
            ) from error
        write_receipts(self._output, proven)


def write_receipts(output: AtomicOutput, receipts: Sequence[Receipt]) -> None:
    """Write a file of receipts whole. Raises WriteError."""
    from privyseal._files import write_all  # noqa: PLC0415
    from privyseal.transparency.receipts import pack_receipts  # noqa: PLC0415

    with output.writing():
        write_all(output.file, pack_receipts(receipts))
    output.publish()


@contextmanager
def keeping_receipts(path: Path | None, apart_from: Iterable[Path] = ()) -> Iterator[ReceiptKeeper]:
    """A keeper for the file, which is opened at once: what cannot be written is found before anything is signed, and
    so is one that is another file of the command."""
    if path is None:
        yield ReceiptKeeper(None)
        return
    from privyseal._files import AtomicOutput, check_apart  # noqa: PLC0415

    check_apart(path, apart_from)
    with AtomicOutput(path) as output:
        yield ReceiptKeeper(output)
