"""`update.json`: what a self-hosted endpoint answers to a device that asks for an update."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from urllib.parse import quote, unquote, urlsplit

from privyseal.errors import ConfigurationError, InputError

FILE_NAME = "update.json"
ARCHIVE_NAME = "bundle.zip"
OBJECTS_NAME = "files"

_NUMBER = r"(?:0|[1-9][0-9]*)"
_IDENTIFIER = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_VERSION = re.compile(
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-{_IDENTIFIER}(?:\.{_IDENTIFIER})*)?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
)
_LONGEST_VERSION = 100

_REMEDY = "pass the update.json that `bundle seal` wrote"


@dataclass(frozen=True)
class ManifestEntry:
    """A file of the delta. `file_name` ends in `.br` when the body is compressed, beside what the name itself ends in;
    `file_hash` is the signed SHA-256 of the file, written as the checksum of the zip is."""

    file_name: str
    file_hash: str
    download_url: str


@dataclass(frozen=True)
class Update:
    """The answer. `session_key` and `checksum` are what `bundle encrypt` calls ivSessionKey and checksum; `manifest` is
    None for a release without a delta."""

    version: str
    url: str
    session_key: str
    checksum: str
    manifest: tuple[ManifestEntry, ...] | None


def check_version(version: str) -> None:
    """Raise ConfigurationError unless `version` is a semantic version (2.0.0): devices and the Capgo CLI ask for one.
    It is then a fit name for a folder too."""
    if len(version) > _LONGEST_VERSION or not _VERSION.fullmatch(version):
        raise ConfigurationError(
            f"--version {version} is not a semantic version", remedy="pass one such as 1.2.3 or 1.2.3-beta.1"
        )


def check_base_url(url: str) -> str:
    """The base URL with a slash at its end. Raises ConfigurationError."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme in {"https", "http"} and parts.hostname and not (parts.query or parts.fragment)
        fits = fits and not parts.username and parts.port != 0
    except ValueError:
        fits = False
    if not fits or not url.isascii() or any(c.isspace() or not c.isprintable() for c in url):
        raise ConfigurationError(
            f"--base-url {url} is not the address of a folder",
            remedy="pass one such as https://updates.example.com/my-app",
        )
    return url.rstrip("/") + "/"


def archive_path(version: str) -> str:
    """Where the zip is, from the folder of update.json and from the base URL."""
    return f"{version}/{ARCHIVE_NAME}"


def object_path(version: str, object_name: str) -> str:
    """Where a file of the delta is, likewise."""
    return f"{version}/{OBJECTS_NAME}/{object_name}"


def url_of(base_url: str, path: str) -> str:
    """The URL of a path; relative when there is no base URL."""
    return base_url + quote(path)


def base_url_of(update: Update) -> str:
    """The base URL of an update that `bundle seal` made. Raises InputError for one that was laid out differently."""
    tail = quote(archive_path(update.version))
    if not update.url.endswith(tail):
        raise InputError(
            f"the url of the update does not end in {tail}",
            remedy="pass --base-url, the URL of the folder that the update.json is in",
        )
    return update.url[: -len(tail)]


def path_of(base_url: str, url: str) -> str:
    """The path of a URL from the base URL, percent-decoded. Raises InputError for a URL that is elsewhere."""
    if not url.startswith(base_url) or "?" in url or "#" in url:
        raise InputError(
            f"the URL {url} is not below {base_url or 'the folder'}",
            remedy="pass --base-url, the URL of the folder that the update.json is in",
        )
    return unquote(url[len(base_url) :], errors="surrogateescape")


def format_update(update: Update) -> bytes:
    """The file, in ASCII only, so that no server's charset can change it."""
    fields = {name: value for name, value in asdict(update).items() if value is not None}
    return json.dumps(fields, indent=2).encode() + b"\n"


def parse_update(data: bytes) -> Update:
    """Read an update.json. Raises InputError."""
    try:
        found = json.loads(data)
    except ValueError:
        raise InputError("the update is not JSON", remedy=_REMEDY) from None
    if not isinstance(found, dict):
        raise InputError("the update is not a JSON object", remedy=_REMEDY)
    entries = found.get("manifest")
    if entries is not None and not isinstance(entries, list):
        raise InputError("manifest is not a list", remedy=_REMEDY)
    return Update(
        version=_text(found, "version", "the update"),
        url=_text(found, "url", "the update"),
        session_key=_text(found, "session_key", "the update"),
        checksum=_text(found, "checksum", "the update"),
        manifest=None if entries is None else tuple(_entry(entry, index) for index, entry in enumerate(entries)),
    )


def _entry(entry: object, index: int) -> ManifestEntry:
    where = f"entry {index} of the manifest"
    if not isinstance(entry, dict):
        raise InputError(f"{where} is not an object", remedy=_REMEDY)
    return ManifestEntry(
        file_name=_text(entry, "file_name", where),
        file_hash=_text(entry, "file_hash", where),
        download_url=_text(entry, "download_url", where),
    )


def _text(found: Mapping[str, object], name: str, where: str) -> str:
    value = found.get(name)
    if not isinstance(value, str) or not value:
        raise InputError(f"{where} has no {name}", remedy=_REMEDY)
    return value
