"""Parse the words of a command: its JavaScript runtime, its Capgo command, and whether that must sign.

Only what is plain is recognised; a command that is not understood owes one.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

FOREIGN_RUNTIMES = frozenset({"bun", "bunx", "deno"})
"""They ignore NODE_OPTIONS and would sign with any key file that they find."""

_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh"})
_SHELL_TEXT = re.compile("-[a-z]*c")
_CLI = re.compile(r"(npm:)?@capgo/cli(@[^/]*)?|capgo|.*[/\\]\.bin[/\\]capgo|.*[/\\]?@capgo[/\\]cli[/\\].*")

_NEVER_SIGN = frozenset(
    {
        "account", "app", "build", "channel", "doctor", "generate-docs", "get-qr", "help", "key", "l", "login",
        "notifications", "observe", "organisation", "organization", "probe", "star", "star-all",
    }
)  # fmt: skip
_BUNDLE_NEVER_SIGNS = frozenset(
    {"c", "cleanup", "compatibility", "d", "decrypt", "delete", "help", "l", "list", "releaseType", "zip"}
)
_ANSWERS_ALONE = frozenset({"--help", "-h", "--version", "-v"})


@dataclass(frozen=True)
class Command:
    """A command as far as it was understood. `capgo` holds the words after the Capgo CLI's name, None without one;
    `in_shell` is whether they were found in the text of a shell, where more may stand beside them."""

    foreign_runtime: str | None
    capgo: tuple[str, ...] | None
    in_shell: bool

    @property
    def subcommand(self) -> tuple[str, ...]:
        """The first two words of the Capgo command that are no options, as ("bundle", "upload")."""
        words = list(self.capgo or ())
        while "--capacitor-config" in words:  # the one option with a value that may stand before them
            index = words.index("--capacitor-config")
            del words[index : index + 2]
        return tuple([word for word in words if not word.startswith("-")][:2])

    @property
    def uploads(self) -> bool:
        """Whether it is `bundle upload`."""
        return self.subcommand in {("bundle", "upload"), ("bundle", "u")}

    @property
    def encrypts(self) -> bool:
        """Whether it is `bundle encrypt`."""
        return self.subcommand == ("bundle", "encrypt")

    def has_option(self, *names: str) -> bool:
        """Whether an option of the Capgo command is one of `names`, as NAME or NAME=VALUE."""
        return any(word.split("=", 1)[0] in names for word in self.capgo or ())

    def option(self, name: str) -> str | None:
        """The value of an option of the Capgo command."""
        words = self.capgo or ()
        for index, word in enumerate(words):
            if word.startswith(f"{name}="):
                return word.split("=", 1)[1]
            if word == name and index + 1 < len(words):
                return words[index + 1]
        return None

    @property
    def bundle_version(self) -> str:
        """The version that the Capgo command gives the bundle; empty where the CLI takes it from package.json."""
        return self.option("--bundle") or self.option("-b") or ""

    @property
    def owes_signature(self) -> bool:
        """Whether a success without a signature would be a failure in disguise."""
        if self.capgo is None or self.in_shell:
            return True
        if not self.capgo or self.has_option(*_ANSWERS_ALONE):
            return False
        if self.uploads:
            return not self.has_option("--external", "-e")  # sealed before; the CLI takes no key here
        first, *rest = self.subcommand or ("",)
        if first == "bundle":
            return bool(rest) and rest[0] not in _BUNDLE_NEVER_SIGNS
        return first not in _NEVER_SIGN


def understand(words: Sequence[str]) -> Command:
    """Read a command: its words, and those in the text of `sh -c TEXT`."""
    flat, in_shell = _flatten(words)
    at = next((index for index, word in enumerate(flat) if _CLI.fullmatch(word)), None)
    before = flat if at is None else flat[:at]
    foreign = next((name for word in before if (name := PurePath(word).name) in FOREIGN_RUNTIMES), None)
    return Command(foreign, None if at is None else tuple(flat[at + 1 :]), in_shell)


def _flatten(words: Sequence[str]) -> tuple[list[str], bool]:
    """The words, those of a shell's text among them, and whether there was such a text."""
    flat: list[str] = []
    for index, word in enumerate(words):
        if index >= 2 and PurePath(words[index - 2]).name in _SHELLS and _SHELL_TEXT.fullmatch(words[index - 1]):
            try:
                inner = shlex.split(word)
            except ValueError:
                inner = word.split()
            return [*flat, *inner, *words[index + 1 :]], True
        flat.append(word)
    return flat, False
