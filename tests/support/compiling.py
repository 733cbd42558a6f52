"""Shared libraries of the tests' own, built from one C file when they are needed, once in a process.

By the C compiler of the machine: $CC, cc, gcc or clang, or the one in the package ziglang.
"""

from __future__ import annotations

import atexit
import functools
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path


@functools.cache
def compiled(source: Path, *flags: str) -> Path:
    """The library that is made of a C file with these flags beside the usual ones."""
    folder = Path(tempfile.mkdtemp(prefix=f"privyseal-{source.stem}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    target = folder / f"{source.stem}.so"
    command = [*_compiler(), "-shared", "-fPIC", "-O1", *flags, "-o", str(target), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return target


def _compiler() -> list[str]:
    named = shlex.split(os.environ.get("CC", ""))
    if named:
        return named
    for name in ("cc", "gcc", "clang"):
        found = shutil.which(name)
        if found:
            return [found]
    if find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    raise FileNotFoundError("no C compiler is here: install gcc, or the Python package ziglang")
