"""The `privyseal-server` program: how a failure is reported, and with which exit code."""

from __future__ import annotations

import io
import sys

import click
import pytest

from privyseal_service import cli
from privyseal_service.commands._errors import CommandError
from privyseal_service.commands.audit import show_progress


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a command that raises; its exit code and what it wrote to standard error."""
    monkeypatch.setattr("privyseal_service.system.hardening.harden", lambda: None)
    monkeypatch.setattr("os.dup2", lambda *_: None)

    def run(error: Exception) -> tuple[object, str]:
        @click.command()
        def fail() -> None:
            raise error

        monkeypatch.setitem(cli.cli.commands, "fail", fail)
        monkeypatch.setattr(sys, "argv", ["privyseal-server", "fail"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (CommandError("the key is frozen", 3), 3, "the key is frozen"),
        (click.UsageError("No such option: --x."), 2, "No such option: --x; see `privyseal-server fail --help`"),
        (click.ClickException("a sentence"), 2, "a sentence"),
        (OSError(28, "No space left on device"), 1, "No space left on device; nothing more was done"),
        (ZeroDivisionError("by zero"), 1, "internal error, ZeroDivisionError: by zero"),
        (
            ModuleNotFoundError("no", name="pydantic"),
            2,
            (
                "the service's packages are not all installed (pydantic is missing); install privyseal with its extra: "
                "pip install 'privyseal[server]'"
            ),
        ),
    ],
)
def test_failures(failing, error: Exception, code: int, sentence: str) -> None:
    if isinstance(error, click.UsageError):
        error.ctx = click.Context(click.Command("fail"), info_name="privyseal-server fail")
    assert failing(error) == (code, f"privyseal-server: {sentence}\n")


def test_an_interrupt(failing) -> None:
    assert failing(click.exceptions.Abort()) == (130, "")  # type: ignore[arg-type]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with show_progress() as progress:
            progress(16_384, 40_000)
            progress(32_768, 40_000)
        assert ("32768/40000" in stream.getvalue()) == shown
        assert bool(stream.getvalue()) == shown
