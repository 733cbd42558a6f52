"""What every command that signs has in common: its flags, the client, checked signatures, and kept receipts."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privyseal.commands._connection import connection_options, key_option, open_client, settings_from
from privyseal.commands._context import bundle_version_option, context_from, record_options
from privyseal.commands._receipts import keeping_receipts, receipt_option

if TYPE_CHECKING:
    from privyseal.configuration import Settings
    from privyseal.model import RequestContext
    from privyseal.signing import CheckedSigner


@dataclass(frozen=True)
class Job:
    """A run of a command that signs. `files` are those that its own arguments name."""

    settings: Settings
    timeout_s: float
    context: RequestContext
    receipt: Path | None
    files: tuple[Path, ...]

    @contextmanager
    def signer(self, key: str | None = None) -> Iterator[CheckedSigner]:
        """A signer with the named key, or the configured one. Where the block ends well, the receipts of what it signed
        are proven and kept, so write the result inside."""
        from privyseal.signing import CheckedSigner  # noqa: PLC0415 - help and version need none of it

        with (
            keeping_receipts(self.receipt, self.files) as keeper,
            open_client(self.settings, self.timeout_s, self.context) as client,
        ):
            keeper.client = client
            signer = CheckedSigner(client, key or self.settings.key, require_receipts=self.receipt is not None)
            yield signer
            keeper.keep(signer.receipts)


def signing_job(*, with_key: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the flags of a job, and the job as its parameter `job`."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        own = [name for name in inspect.signature(function).parameters if name != "job"]

        @functools.wraps(function)
        def command(
            *,
            timeout_s: float,
            receipt: Path | None,
            app_id: str | None,
            bundle_version: str | None,
            revision: str | None,
            build_url: str | None,
            key: str | None = None,
            **flags: Any,
        ) -> Any:
            arguments = {name: flags.pop(name) for name in own}
            settings = settings_from(flags, key=key)
            settings.require_connection()
            context = context_from(app_id, bundle_version, revision, build_url)
            files = tuple(value for value in arguments.values() if isinstance(value, Path))
            return function(job=Job(settings, timeout_s, context, receipt, files), **arguments)

        command = connection_options(receipt_option(bundle_version_option(record_options(command))))
        return key_option(command) if with_key else command

    return decorate
