"""The files of a folder that is to be released: all of them, sorted, each a regular file inside of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from privyseal._files import FileState, reading
from privyseal.errors import FileUnusableError, InputError
from privyseal.release import names

INDEX = "index.html"


@dataclass(frozen=True)
class FolderFile:
    """A file of the folder: its name in the bundle with slashes, the file to read (not a link), and its state."""

    name: str
    path: Path
    state: FileState


def list_files(folder: Path) -> list[FolderFile]:
    """All files of `folder`, however deep, sorted by their names' code points, which is the same order everywhere.

    A link counts as the file that it leads to, which must be inside the folder. Raises FileUnusableError where
    something cannot be read, and InputError for what no device could make of it: nothing in it, no index.html, names
    that devices refuse or take for one, and anything but files and folders.
    """
    with reading(folder):
        if not stat.S_ISDIR(folder.stat().st_mode):
            raise FileUnusableError(f"{folder} is not a folder", remedy="name the folder of the built web app")
        root = folder.resolve()
    found = sorted(_walk(folder, root), key=lambda file: file.name)
    if not found:
        raise InputError(f"{folder} has no files in it", remedy="build the web app first")
    _check_index(folder, found)
    two = names.clash(file.name for file in found)
    if two is not None:
        raise InputError(
            f"{folder} has {_shown(two[0])} and {_shown(two[1])}, which are one name to some devices",
            remedy="rename one of them",
        )
    return found


def _check_index(folder: Path, found: list[FolderFile]) -> None:
    """A device starts the index.html of the bundle, or of the only folder in it."""
    inside = {file.name for file in found}
    tops = {name.partition("/")[0] for name in inside}
    if INDEX not in inside and not (len(tops) == 1 and f"{tops.pop()}/{INDEX}" in inside):
        raise InputError(
            f"{folder} has no {INDEX}, so that no device could start it",
            remedy="name the folder of the built web app",
        )


def _walk(folder: Path, root: Path) -> Iterator[FolderFile]:
    waiting = [("", folder)]
    while waiting:
        prefix, path = waiting.pop()
        with reading(path), os.scandir(path) as entries:
            inside = list(entries)
        for entry in inside:
            name = prefix + entry.name
            found = Path(entry.path)
            _check_name(found, name)
            with reading(found):
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode):
                    waiting.append((f"{name}/", found))
                else:
                    yield _file(name, found, mode, root)


def _file(name: str, path: Path, mode: int, root: Path) -> FolderFile:
    if stat.S_ISLNK(mode):
        path = _followed(path, root)
    state = path.stat(follow_symlinks=False)
    if not stat.S_ISREG(state.st_mode):
        raise InputError(f"{path} is neither a file nor a folder", remedy="take it out of the folder")
    return FolderFile(name, path, FileState.of(state))


def _followed(path: Path, root: Path) -> Path:
    """The file that a link leads to."""
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError):  # Python before 3.13 raises RuntimeError for links in a circle
        raise InputError(f"{path} is a link that leads nowhere", remedy="take it out of the folder") from None
    if not real.is_relative_to(root):
        raise InputError(f"{path} is a link that leads out of the folder", remedy="put a copy of the file in its place")
    if real.is_dir():
        raise InputError(f"{path} is a link to a folder", remedy="put a copy of the folder in its place")
    return real


def _check_name(path: Path, name: str) -> None:
    wrong = names.problem(name)
    if wrong is not None:
        raise InputError(f"the name {_shown(str(path))} {wrong}", remedy="rename it")


def _shown(name: str) -> str:
    """A name on a terminal, whatever is in it."""
    return repr(name) if not name.isprintable() else name
