"""Which format an app's devices take, decided by its installed updater plugin as Capgo's own CLI decides it.

The rule and the order in which folders are searched are those of @capgo/cli 8.68.1: V3, unless the plugin has major 5
below 5.30.0, 6 below 6.30.0 or 7 below 7.30.0; V2 also where no version can be read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from privyseal.errors import FileUnusableError
from privyseal.model import SignatureScheme

PLUGIN = "@capgo/capacitor-updater"

_FIRST_V3 = {5: (5, 30, 0), 6: (6, 30, 0), 7: (7, 30, 0)}

# Semantic Versioning 2.0.0, with the leading v that Capgo's CLI allows.
_NUMBER = r"(?:0|[1-9][0-9]*)"
_IDENTIFIER = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_VERSION = re.compile(
    rf"v?({_NUMBER})\.({_NUMBER})\.({_NUMBER})(-{_IDENTIFIER}(?:\.{_IDENTIFIER})*)?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
)


@dataclass(frozen=True)
class Decision:
    """The format, the version that it rests on (None when none was found), and whether that could be understood."""

    scheme: SignatureScheme
    version: str | None

    @property
    def certain(self) -> bool:
        """Whether the format follows from a version, and not from the lack of one."""
        return _parse(self.version) is not None


def decide(working_folder: Path, package_files: Sequence[Path] = ()) -> Decision:
    """The format for the app in `working_folder`; `package_files` are the package.json files that the user named."""
    version = installed_version(working_folder, package_files)
    return Decision(scheme_for(version), version)


def check_named(working_folder: Path, package_files: Sequence[Path]) -> None:
    """Raise FileUnusableError for a package.json that the user named and that is not there: Capgo's CLI would go on
    without it, and may then seal for other devices than those that were meant."""
    for path in _named(working_folder.absolute(), package_files):
        if not path.is_file():
            raise FileUnusableError(f"{path}: no such file", remedy="correct --package-json, or leave it out")


def scheme_for(version: str | None) -> SignatureScheme:
    """The format that devices with this version of the plugin take."""
    match = _parse(version)
    if match is None:
        return SignatureScheme.CAPGO_V2
    release = tuple(int(part) for part in match.group(1, 2, 3))
    first = _FIRST_V3.get(release[0])
    # A pre-release comes before its release (Semantic Versioning, 11.3), so 7.30.0-beta.1 is below 7.30.0.
    if first is not None and (release < first or (release == first and match.group(4))):
        return SignatureScheme.CAPGO_V2
    return SignatureScheme.CAPGO_V3


def _parse(version: str | None) -> re.Match[str] | None:
    return _VERSION.fullmatch(version.strip()) if version else None


def installed_version(working_folder: Path, package_files: Sequence[Path] = ()) -> str | None:
    """The plugin's version: as installed, else as the native projects name it, else as package.json asks for it."""
    working_folder = working_folder.absolute()
    root = _root(working_folder)
    named = _named(working_folder, package_files)
    folders = _distinct([*(path.parent for path in named if path.exists()), root, working_folder])
    candidates = [
        *(parent / "node_modules" / PLUGIN for folder in folders for parent in (folder, *folder.parents)),
        *_native_projects(root),
    ]
    found = next((version for folder in candidates if (version := _version_in(folder / "package.json"))), None)
    return found or _declared(named or [working_folder / "package.json"])


def _named(working_folder: Path, package_files: Iterable[Path]) -> list[Path]:
    root = _root(working_folder)
    return [root / path for path in package_files]


def _root(working_folder: Path) -> Path:
    return _workspace_root(working_folder) or working_folder


def _distinct(folders: Iterable[Path]) -> list[Path]:
    return list(dict.fromkeys(folders))


def _workspace_root(folder: Path) -> Path | None:
    """The root of the workspace (npm, yarn, pnpm, Nx) that the folder is in."""
    for candidate in (folder, *folder.parents):
        if (candidate / "pnpm-workspace.yaml").exists() or _read(candidate / "package.json").get("workspaces"):
            return candidate
    return next((candidate for candidate in (folder, *folder.parents) if (candidate / "nx.json").exists()), None)


def _native_projects(root: Path) -> Iterator[Path]:
    """Where the native projects take the plugin from, in installations without a node_modules folder."""
    podfile = _text(root / "ios" / "App" / "Podfile")
    pod = re.search(r"""pod\s+['"]CapgoCapacitorUpdater['"],\s*:path\s*=>\s*['"]([^'"]+)['"]""", podfile)
    if pod:
        yield root / "ios" / "App" / pod.group(1)
        return
    gradle = _text(root / "android" / "capacitor.settings.gradle")
    project = re.search(
        r"""project\(':capgo-capacitor-updater'\)\.projectDir\s*=\s*new\s+File\(['"]([^'"]+)['"]""", gradle
    )
    if project:
        yield root / "android" / project.group(1).removesuffix("/android")


def _declared(package_files: Iterable[Path]) -> str | None:
    found = None
    for path in package_files:
        package = _read(path)
        for group in ("dependencies", "devDependencies"):
            wanted = package.get(group)
            version = wanted.get(PLUGIN) if isinstance(wanted, dict) else None
            if isinstance(version, str):
                found = version.replace("^", "", 1).replace("~", "", 1)
    return found


def _version_in(package_file: Path) -> str | None:
    version = _read(package_file).get("version")
    return version if isinstance(version, str) and version else None


def _read(package_file: Path) -> dict[str, object]:
    try:
        content = json.loads(_text(package_file))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
