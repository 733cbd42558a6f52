"""The `privyseal` command: signals, exit codes, and one sentence for whatever goes wrong.

Exit codes: 0 done; 1 refused, not verified, an input that does not fit, or an output that cannot be written, standard
output among them; 2 wrong usage, a missing file, a wrong configuration; 3 the service could not be reached, ran out of
time or had too much to do; 130 and 143 after an interrupt and a termination.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

    import click

    from privyseal.errors import PrivysealError

EXIT_DONE = 0
EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_SIGNAL = 128
"""Plus the signal's number, as shells have it."""


class _SignalledError(BaseException):
    """A signal that ends the command. Not an Exception, so that nothing but a clean-up stands in its way."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _raise_signalled(number: int, _frame: FrameType | None) -> None:
    raise _SignalledError(number)


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit."""
    # Modules live as long as the process: looking for garbage among them, at every 700 new objects and once more at the
    # end, would be a fifth of the time of a small sealing.
    gc.set_threshold(50_000, 20, 20)
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            # What started the command may want it deaf to one of these, as `nohup` and a shell's `&` do.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _raise_signalled)
        code = _run(arguments)
    except _SignalledError as signalled:
        code = EXIT_SIGNAL + signalled.number
    gc.freeze()
    sys.exit(code)


def _run(arguments: list[str] | None) -> int:
    # gRPC's own log lines would stand between the user and the one sentence on what is wrong.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # After the signals, so that an interrupt during the imports is an interrupt too.
    from privyseal.commands import privyseal  # noqa: PLC0415

    try:
        code = privyseal.main(arguments, prog_name="privyseal", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except Exception as error:
        if os.environ.get("PRIVYSEAL_DEBUG"):
            raise
        return _explain(error)
    return code if isinstance(code, int) else EXIT_DONE


def _explain(error: Exception) -> int:
    """Say what went wrong, and return the exit code for it."""
    import click  # noqa: PLC0415

    from privyseal._terminal import complain  # noqa: PLC0415
    from privyseal.errors import PrivysealError, WriteError  # noqa: PLC0415

    code = EXIT_REFUSED
    if isinstance(error, PrivysealError):
        if isinstance(error, WriteError):
            _silence_stdout()  # which may be what could not be written
        complain(str(error), request_id=getattr(error, "request_id", ""))
        code = _exit_code(error)
    elif isinstance(error, click.UsageError):
        _explain_usage(error)
        code = EXIT_USAGE
    elif isinstance(error, click.Abort):
        code = EXIT_SIGNAL + signal.SIGINT
    elif isinstance(error, OSError):
        # The reader of stdout is gone, so there is nobody to report to. A full disk under stdout is reported.
        _silence_stdout()
        if not isinstance(error, BrokenPipeError):
            complain(f"{error.filename or 'the output'}: {error.strerror or error}")
    else:
        complain(f"unexpected {type(error).__name__}; run it again with PRIVYSEAL_DEBUG=1 to see where")
    return code


def _explain_usage(error: click.UsageError) -> None:
    import click  # noqa: PLC0415

    from privyseal._terminal import complain  # noqa: PLC0415

    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return
    hint = f"; see `{error.ctx.command_path} --help`" if error.ctx else ""
    complain(" ".join(error.format_message().split()).rstrip(".") + hint)


def _exit_code(error: PrivysealError) -> int:
    from privyseal import errors  # noqa: PLC0415

    if isinstance(error, (errors.ConfigurationError, errors.FileUnusableError)):
        return EXIT_USAGE
    passing = (
        errors.UnavailableError,
        errors.DeadlineExceededError,
        errors.ThrottledError,
        errors.InterruptedCallError,
    )
    return EXIT_UNREACHABLE if isinstance(error, passing) else EXIT_REFUSED


def _silence_stdout() -> None:
    """Keep the interpreter from trying, at its end, to write once more what could not be written."""
    if sys.stdout is None:
        return
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
