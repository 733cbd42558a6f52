"""Sends checkpoints off the host as they are made, so that whoever owns the host cannot rewrite log and key unseen."""

from __future__ import annotations

import base64
import binascii
import http.client
import json
import os
import re
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol, TextIO
from urllib.parse import urlsplit

from privyseal.transparency.checkpoint import Checkpoint, Note, VerifierKey, cosigned_by
from privyseal.transparency.errors import AuditError
from privyseal_backends.backoff import Backoff
from privyseal_service.audit.errors import PublishError
from privyseal_service.audit.log_reader import LogReader
from privyseal_service.system.files import FILE_MODE, SystemFiles, make_folder, write_atomically
from privyseal_service.system.http import TimedConnection

_SILENCE_S = 10.0
ANSWER_S = 30.0
"""What a place may take for all of its answer, however slowly it comes."""
_MAX_ANSWER_BYTES = 64 * 1024
_MAX_WAITING = 1_000
_BACKOFF = Backoff(0.5, 30.0)
_TOKEN = re.compile(r"[!-~]+")
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class Sink(Protocol):
    """A place outside that keeps checkpoints."""

    name: str
    """For the operator's log: no secret."""

    newest_only: bool
    """Whether a checkpoint that waits is of no use once there is a newer one."""

    def publish(self, note: bytes) -> None:
        """Hand over a signed checkpoint. May block; raises PublishError when it was not taken."""


class FileSink:
    """Appends each checkpoint to a file, on another disk or a mount that only appends. `audit verify` reads it."""

    newest_only = False

    def __init__(self, path: Path) -> None:
        self.name = f"file {path}"
        self._path = path

    def publish(self, note: bytes) -> None:
        """Append the note and an empty line, and sync."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        files = SystemFiles()
        try:
            descriptor = os.open(self._path, flags, FILE_MODE)
            try:
                files.write(descriptor, note + b"\n")
                files.sync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise PublishError(str(error)) from error


class StreamSink:
    """Writes each checkpoint as one line of JSON, `{"audit_checkpoint": …}`, for whatever collects standard output."""

    newest_only = False

    def __init__(self, stream: TextIO, name: str = "standard output") -> None:
        self.name = name
        self._stream = stream

    def publish(self, note: bytes) -> None:
        """Write the line and flush."""
        try:
            self._stream.write(json.dumps({"audit_checkpoint": note.decode()}, ensure_ascii=False) + "\n")
            self._stream.flush()
        except (OSError, ValueError) as error:  # ValueError: the stream was closed
            raise PublishError(str(error)) from error


class HttpsPoster:
    """POSTs to one URL over a connection that is kept. https, or http only to this host's loopback; redirects are not
    followed, so that no answer can send a token elsewhere."""

    def __init__(self, url: str, *, ca_file: Path | None = None, token_file: Path | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
            raise PublishError(f"{url} is not https")
        if not parts.hostname or parts.username or parts.query or parts.fragment:
            raise PublishError(f"{url} is not of the form https://HOST[:PORT]/PATH")
        self._host, self._port = parts.hostname, parts.port
        self._path = parts.path or "/"
        self._token_file = token_file
        self._context = ssl.create_default_context(cafile=ca_file) if parts.scheme == "https" else None
        self._connection: TimedConnection | None = None

    def post(self, body: bytes) -> tuple[int, bytes]:
        """The answer's status and body, at most 64 KiB of it. Raises PublishError when there is none.

        A kept connection that the server has closed meanwhile costs a second try.
        """
        kept = self._connection is not None
        try:
            return self._post(body)
        except (OSError, http.client.HTTPException) as error:
            self._drop()
            if not kept:
                raise PublishError(f"no answer from {self._host}: {error or type(error).__name__}") from error
        try:
            return self._post(body)
        except (OSError, http.client.HTTPException) as error:
            self._drop()
            raise PublishError(f"no answer from {self._host}: {error or type(error).__name__}") from error

    def _post(self, body: bytes) -> tuple[int, bytes]:
        headers = {"Content-Type": "text/plain; charset=utf-8", "User-Agent": "privyseal-server"}
        if self._token_file is not None:
            headers["Authorization"] = f"Bearer {_token(self._token_file)}"
        if self._connection is None:
            self._connection = TimedConnection(self._host, self._port, self._context, idle_timeout_s=_SILENCE_S)
        with self._connection.within(ANSWER_S):
            self._connection.request("POST", self._path, body, headers)
            response = self._connection.getresponse()
            answer = response.read(_MAX_ANSWER_BYTES + 1)
        if len(answer) > _MAX_ANSWER_BYTES or not response.isclosed():
            self._drop()
        return response.status, answer[:_MAX_ANSWER_BYTES]

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _token(file: Path) -> str:
    """The bearer token in a file. Raises PublishError, which has nothing of it."""
    try:
        token = file.read_text().strip()
    except OSError as error:
        raise PublishError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        token = ""
    if not _TOKEN.fullmatch(token):
        raise PublishError(f"{file} does not hold a token: one line of printable ASCII without spaces")
    return token


class HttpsSink:
    """POSTs each checkpoint (text/plain) to a URL; any 2xx status means that it is kept.

    `ca_file` are the CAs to trust, by default the system's; `token_file` holds a bearer token, read at every call.
    Raises PublishError for a URL that cannot be used.
    """

    newest_only = False

    def __init__(self, url: str, *, ca_file: Path | None = None, token_file: Path | None = None) -> None:
        self.name = url
        self._poster = HttpsPoster(url, ca_file=ca_file, token_file=token_file)

    def publish(self, note: bytes) -> None:
        """POST the note."""
        status, _ = self._poster.post(note)
        if not 200 <= status < 300:
            raise PublishError(f"answered with status {status}")


class WitnessSink:
    """Has a C2SP tlog-witness cosign the newest checkpoint, and keeps the cosigned one.

    `url` is the witness's submission prefix and `key` its Ed25519 cosignature key (a vkey of type 4). The newest
    cosigned checkpoint is in `DIR/witnessed/`, in a file named by the key's name.
    """

    newest_only = True

    def __init__(self, url: str, key: VerifierKey, root: Path, *, ca_file: Path | None = None) -> None:
        self.name = f"witness {key.name}"
        self._poster = HttpsPoster(url.rstrip("/") + "/add-checkpoint", ca_file=ca_file)
        self._key = key
        self._reader = LogReader(root)
        self.path = root / "witnessed" / f"{sha256(key.name.encode()).hexdigest()[:16]}.checkpoint"

    def publish(self, note: bytes) -> None:
        """Ask for a cosignature, from the size that the witness saw last."""
        checkpoint = Checkpoint.parse(Note.parse(note).text)
        old_size = self._last_size()
        if old_size > checkpoint.size:
            return
        status, answer = self._ask(note, checkpoint, old_size)
        if status == 409:
            old_size = self._size_in(answer)
            if old_size > checkpoint.size:
                raise PublishError(f"has seen {old_size} records of this log, which has {checkpoint.size} now")
            status, answer = self._ask(note, checkpoint, old_size)
        if status != 200:
            raise PublishError(f"answered with status {status}")
        self._keep(note, answer)

    def _last_size(self) -> int:
        try:
            return Checkpoint.parse(Note.parse(self.path.read_bytes()).text).size
        except (OSError, AuditError):
            return 0  # the witness answers with its size

    def _ask(self, note: bytes, checkpoint: Checkpoint, old_size: int) -> tuple[int, bytes]:
        try:
            proof = self._reader.consistency(old_size, checkpoint.size)
        except (AuditError, OSError) as error:
            raise PublishError(f"there is no proof from {old_size} records on: {error}") from error
        lines = [f"old {old_size}", *(base64.b64encode(item).decode() for item in proof), "", ""]
        return self._poster.post("\n".join(lines).encode() + note)

    @staticmethod
    def _size_in(answer: bytes) -> int:
        if not answer.rstrip(b"\n").isdigit() or len(answer) > 20:
            raise PublishError("answered with a conflict, and no size")
        return int(answer)

    def _keep(self, note: bytes, answer: bytes) -> None:
        cosigned = note + answer
        try:
            seen = cosigned_by(cosigned, [self._key])
            # What it adds could be more text, and its signature over that.
            same = Note.parse(cosigned).text == Note.parse(note).text
        except (AuditError, binascii.Error) as error:
            raise PublishError(f"gave a cosignature that does not hold: {error}") from error
        if not seen or not same:
            raise PublishError("gave no cosignature of its own for this checkpoint")
        files = SystemFiles()
        try:
            make_folder(files, self.path.parent)
            write_atomically(self.path, cosigned, files)
            files.sync_folder(self.path.parent)
        except OSError as error:
            raise PublishError(f"cosigned, but that could not be kept: {error}") from error


@dataclass(frozen=True)
class SinkState:
    """How a sink is doing: what waits, how long the oldest of it has, and what went wrong last (None: nothing)."""

    name: str
    waiting: int
    behind_s: float
    problem: str | None


class _SinkThread:
    """One sink, its queue and its thread: a slow or dead place holds up nothing but itself."""

    def __init__(self, sink: Sink, report: Callable[[str], None], clock_s: Callable[[], float]) -> None:
        self._sink = sink
        self._report = report
        self._clock_s = clock_s
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._problem: str | None = None
        self._thread = threading.Thread(target=self._run, name=f"audit-publish {sink.name}", daemon=True)
        self._thread.start()

    def submit(self, note: bytes) -> None:
        """Queue a checkpoint. When too many wait, the oldest goes: a later one covers all that it did."""
        with self._changed:
            if self._sink.newest_only:
                self._waiting.clear()
            elif len(self._waiting) >= _MAX_WAITING:
                self._waiting.popleft()
            self._waiting.append((self._clock_s(), note))
            self._changed.notify_all()

    def state(self) -> SinkState:
        """How it is doing."""
        with self._changed:
            behind_s = self._clock_s() - self._waiting[0][0] if self._waiting else 0.0
            return SinkState(self._sink.name, len(self._waiting), behind_s, self._problem)

    def close(self, deadline_s: float) -> None:
        """Let it finish what waits, until the deadline."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(max(0.0, deadline_s - self._clock_s()))

    def _run(self) -> None:
        failures = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                entry = self._waiting[0]
            try:
                self._sink.publish(entry[1])
            except Exception as error:  # noqa: BLE001  # whatever a sink meets, the thread must live on
                self._failed(str(error) if isinstance(error, PublishError) else f"{type(error).__name__}: {error}")
                failures += 1
                with self._changed:
                    if self._changed.wait_for(lambda: self._closing, timeout=_BACKOFF.delay_s(failures)):
                        return
                continue
            failures = 0
            self._succeeded(entry)

    def _failed(self, problem: str) -> None:
        with self._changed:
            is_new, self._problem = self._problem != problem, problem
        if is_new:
            self._report(f"audit checkpoints do not reach {self._sink.name}: {problem}")

    def _succeeded(self, entry: tuple[float, bytes]) -> None:
        with self._changed:
            if self._waiting and self._waiting[0] is entry:
                self._waiting.popleft()
            was, self._problem = self._problem, None
        if was is not None:
            self._report(f"audit checkpoints reach {self._sink.name} again")


class Publisher:
    """Hands each checkpoint to every sink, each on a thread of its own. Call it with a signed note; it never blocks.

    `report` gets a sentence when a sink begins to fail, fails otherwise than before, or works again. Sequencing goes on
    whatever happens here; `states` is for health and metrics.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        report: Callable[[str], None],
        *,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock_s = clock_s
        self._threads = [_SinkThread(sink, report, clock_s) for sink in sinks]

    def __call__(self, note: bytes) -> None:
        """Queue a checkpoint for every sink."""
        for thread in self._threads:
            thread.submit(note)

    def states(self) -> list[SinkState]:
        """How each sink is doing."""
        return [thread.state() for thread in self._threads]

    def close(self, timeout_s: float = 5.0) -> None:
        """Let the sinks finish what waits, for some seconds at most."""
        deadline_s = self._clock_s() + timeout_s
        for thread in self._threads:
            thread.close(deadline_s)
