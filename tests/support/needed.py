"""Programs of the system that tests need, and what to install where one is missing."""

from __future__ import annotations

import importlib
import shutil

NEEDED = {
    "node": "node 20 or newer (nodejs.org, or on Debian 13: apt-get install nodejs)",
    "curl": "curl (on Debian: apt-get install curl)",
    "npm": "npm (it comes with node, or on Debian: apt-get install npm)",
    "go": "Go 1.25 or newer (go.dev/dl)",
}


class MissingError(Exception):
    """A program is not there; the text says what to install."""


def program(name: str) -> str:
    """The path of a program. Raises MissingError."""
    found = shutil.which(name)
    if found is None:
        raise MissingError(f"{name} is missing, and tests that need it fail; install {NEEDED[name]}")
    return found


def install(module: str) -> None:
    """Have one of the tests' helpers install what it keeps in the user's cache; print what is missing for it."""
    try:
        importlib.import_module(module).install()
    except MissingError as error:
        print(error)
