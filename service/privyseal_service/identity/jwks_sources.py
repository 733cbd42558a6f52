"""Where an issuer's keys come from: a file, or a URL. A separate thread fetches the URL; calls never wait for it."""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import logging
import os
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from privyseal_service.config.issuers import IssuerConfig
from privyseal_service.identity.jwks import MAX_JWKS_BYTES, NO_KEYS, KeySet, KeySetError, parse_key_set
from privyseal_service.system.file_watch import FileWatch
from privyseal_service.system.files import write_atomically
from privyseal_service.system.http import TimedConnection
from privyseal_service.telemetry.active_issues import ActiveIssues
from privyseal_service.telemetry.metrics import ISSUER_FAILURES, ISSUER_REFRESHES

_LOG = logging.getLogger(__name__)

ANSWER_S = 10.0
"""The time limit for a server's whole answer."""

MISS_EVERY_S = 30.0
"""The shortest time between fetches that unknown keys in tokens cause: anybody can send such tokens."""

RETRY_S = 60.0
_SILENCE_S = 5.0


class SourceError(Exception):
    """An issuer's keys cannot be read or fetched. The text is a sentence that names the file or the URL."""


class KeySource(Protocol):
    """A source of an issuer's keys; see `tokens.Keys`."""

    config: IssuerConfig

    @property
    def now(self) -> KeySet:
        """The keys that are valid now."""

    def miss(self) -> None:
        """Report that a token names an unknown key."""

    def start(self) -> None:
        """Read the file, or start to fetch. Raises SourceError for a file that cannot be used."""

    def look(self) -> None:
        """Read a file that has changed. Called regularly, not on the event loop."""

    def wait(self, timeout_s: float) -> None:
        """Wait for the first keys."""

    def close(self) -> None:
        """Stop reading and fetching."""


def read_key_file(config: IssuerConfig) -> KeySet:
    """Return the keys of an issuer with a file. Raises SourceError."""
    assert config.jwks_file is not None  # checked with the configuration
    try:
        with config.jwks_file.open("rb") as file:
            return parse_key_set(file.read(MAX_JWKS_BYTES + 1), config.algorithms)
    except OSError as error:
        raise SourceError(f"{config.jwks_file} cannot be read: {error.strerror}") from None
    except KeySetError as error:
        raise SourceError(f"{config.jwks_file} {error}") from None


class FileSource:
    """Keys in a file, which is read again when it changes. A file that cannot be used leaves the keys unchanged."""

    def __init__(self, config: IssuerConfig, issues: ActiveIssues) -> None:
        assert config.jwks_file is not None  # checked with the configuration
        self.config = config
        self._issues = issues
        self._about = f"issuer {config.issuer}"
        self._watch = FileWatch([config.jwks_file])
        self._keys = NO_KEYS

    @property
    def now(self) -> KeySet:
        """The keys of the last readable file."""
        return self._keys

    def miss(self) -> None:
        """Do nothing: the file is watched already."""

    def start(self) -> None:
        """Read the file. Raises SourceError."""
        self._replace_keys(read_key_file(self.config))

    def look(self) -> None:
        """Read the file if it has changed."""
        if self._watch.changed():
            try:
                self._replace_keys(read_key_file(self.config))
            except SourceError as error:
                self._issues.set(self._about, f"{error}; its keys stay as they were", ISSUER_FAILURES)

    def _replace_keys(self, keys: KeySet) -> None:
        self._keys = keys
        self._issues.counters.add(ISSUER_REFRESHES)
        self._issues.clear(self._about)
        _log_notes(self.config, keys)

    def wait(self, timeout_s: float) -> None:
        """Return: `start` has read the file."""

    def close(self) -> None:
        """Do nothing."""


class UrlSource:
    """Keys that are fetched regularly, and soon after a token names an unknown key.

    While the server does not answer, the last keys stay valid for the configured grace time. They are kept over a
    restart in `cache_folder`.
    """

    def __init__(
        self,
        config: IssuerConfig,
        issues: ActiveIssues,
        cache_folder: Path | None,
        *,
        clock: Callable[[], float] = time.time,
        miss_every_s: float = MISS_EVERY_S,
    ) -> None:
        self.config = config
        self._issues = issues
        self._about = f"issuer {config.issuer}"
        self._clock = clock
        self._miss_every_s = miss_every_s
        self._cache = _cache_file(config, cache_folder) if cache_folder else None
        self._held: tuple[KeySet, float] = (NO_KEYS, 0.0)
        self._wanted = threading.Event()
        self._tried = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="issuer keys", daemon=True)

    @property
    def now(self) -> KeySet:
        """The keys of the last fetch; none when it is too long ago."""
        keys, until_s = self._held
        return keys if self._clock() < until_s else NO_KEYS

    def miss(self) -> None:
        """Fetch soon: a token names an unknown key."""
        self._wanted.set()

    def start(self) -> None:
        """Read the cache, and start to fetch."""
        self._restore()
        self._thread.start()

    def look(self) -> None:
        """Do nothing: the thread fetches."""

    def wait(self, timeout_s: float) -> None:
        """Wait until the first fetch has succeeded or failed."""
        self._tried.wait(timeout_s)

    def close(self) -> None:
        """Stop fetching. A fetch that has begun ends by itself."""
        self._closed.set()
        self._wanted.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._wanted.clear()
            fresh = self._refresh()
            self._tried.set()
            # Unknown keys in tokens cause an earlier fetch, but not before this time.
            self._closed.wait(self._miss_every_s)
            rest_s = (self.config.refresh_s if fresh else RETRY_S) - self._miss_every_s
            self._wanted.wait(max(0.0, rest_s))

    def _refresh(self) -> bool:
        url = self.config.jwks_url or ""
        try:
            body = fetch(url, self.config.jwks_ca_file)
            keys = parse_key_set(body, self.config.algorithms)
        except (SourceError, KeySetError) as error:
            reason = str(error) if isinstance(error, SourceError) else f"what {url} answers {error}"
            self._issues.set(self._about, f"{reason}; {self._what_counts()}", ISSUER_FAILURES)
            return False
        except Exception:  # noqa: BLE001 - no other thread fetches keys, so this one must not end
            _LOG.exception("%s: looking for its keys failed in a way that it should not", self._about)
            self._issues.set(self._about, f"its keys could not be read; {self._what_counts()}", ISSUER_FAILURES)
            return False
        fetched_s = self._clock()
        self._hold(keys, fetched_s)
        self._issues.counters.add(ISSUER_REFRESHES)
        self._issues.clear(self._about)
        _log_notes(self.config, keys)
        self._save(body, fetched_s)
        return True

    def _hold(self, keys: KeySet, fetched_s: float) -> None:
        # The grace time begins when the next refresh is due, not at this fetch.
        self._held = (keys, fetched_s + self.config.refresh_s + self.config.offline_grace_s)

    def _what_counts(self) -> str:
        return "the keys that it gave last still count" if self.now.keys else "none of its keys are known, or too old"

    def _save(self, body: bytes, fetched_s: float) -> None:
        if self._cache is None:
            return
        try:
            cached = {"url": self.config.jwks_url, "fetched_s": fetched_s, "jwks": body.decode()}
            _replace(self._cache, json.dumps(cached).encode())
        except (OSError, UnicodeDecodeError) as error:
            _LOG.warning("%s: its keys cannot be kept over a restart: %s", self._about, error)

    def _restore(self) -> None:
        if self._cache is None:
            return
        try:
            cached = json.loads(_read_own(self._cache))
            fetched_s, now_s = float(cached["fetched_s"]), self._clock()
            if cached["url"] == self.config.jwks_url and fetched_s <= now_s:
                self._hold(parse_key_set(cached["jwks"].encode(), self.config.algorithms), fetched_s)
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _LOG.warning("%s: the keys kept in %s cannot be used: %s", self._about, self._cache, error)


def source(config: IssuerConfig, issues: ActiveIssues, state_folder: Path | None) -> KeySource:
    """Return the configured source of an issuer's keys."""
    if config.jwks_file is not None:
        return FileSource(config, issues)
    return UrlSource(config, issues, state_folder / "issuers" if state_folder else None)


def _log_notes(config: IssuerConfig, keys: KeySet) -> None:
    for note in keys.notes:
        _LOG.warning("issuer %s: %s", config.issuer, note)


def _cache_file(config: IssuerConfig, folder: Path) -> Path:
    return folder / f"{hashlib.sha256(config.issuer.encode()).hexdigest()[:32]}.json"


def _read_own(file: Path) -> bytes:
    """Read a file that only this user can write: its content decides who may sign. Raises OSError."""
    with file.open("rb") as opened:
        found = os.fstat(opened.fileno())
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise PermissionError(errno.EPERM, "it is another user's, or others may write to it")
        return opened.read(4 * MAX_JWKS_BYTES)


def _replace(file: Path, content: bytes) -> None:
    """Write the file whole or not at all, readable only to this user."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(file, content, shared=True)


def fetch(url: str, ca_file: Path | None = None, *, answer_s: float = ANSWER_S) -> bytes:
    """Fetch a URL without following redirects. Raises SourceError, after `answer_s` at the latest.

    Proxies are not used: the content decides who may sign.
    """
    parts = urlsplit(url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        context = ssl.create_default_context(cafile=ca_file) if parts.scheme == "https" else None
    except OSError as error:
        raise SourceError(f"{ca_file} cannot be used to fetch {url}: {error.strerror or error}") from None
    connection = TimedConnection(parts.hostname or "", parts.port, context, idle_timeout_s=_SILENCE_S)
    try:
        with connection.within(answer_s):
            return _answer(connection, path)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise SourceError(f"{url} cannot be fetched: {str(error) or type(error).__name__}") from None
    finally:
        connection.close()


def _answer(connection: http.client.HTTPConnection, path: str) -> bytes:
    connection.request("GET", path, headers={"Accept": "application/json", "User-Agent": "privyseal-server"})
    response = connection.getresponse()
    if response.status != 200:
        raise ValueError(f"it answers with status {response.status}")
    body = response.read(MAX_JWKS_BYTES + 1)
    if len(body) > MAX_JWKS_BYTES:
        raise ValueError(f"its answer is longer than {MAX_JWKS_BYTES} bytes")
    return body
