"""A loopback stand-in of Capgo's API: what `bundle upload` of the published CLI calls, and not one call more."""

from __future__ import annotations

import base64
import json
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

APP_ID = "com.example.app"
ORGANIZATION = "11111111-1111-4111-8111-111111111111"
API_KEY = "22222222-2222-4222-8222-222222222222"
CHANNEL = "production"


@dataclass
class Received:
    """All that the CLI sent: the objects that it uploaded by their paths in the store, the rows that it wrote, and the
    requests that this stand-in has no answer for, of which there should be none."""

    objects: dict[str, bytes] = field(default_factory=dict)
    version: dict[str, Any] = field(default_factory=dict)
    manifest: list[dict[str, Any]] = field(default_factory=list)
    channel_bundle: str | None = None
    unexpected: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """A response: JSON unless `body` is bytes."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class CapgoApi:
    """Serves while its context lasts, on a free port of 127.0.0.1. `received` says what came."""

    def __init__(self) -> None:
        self.received = Received()
        self.lock = threading.Lock()
        self.uploads: dict[str, _Upload] = {}

    def __enter__(self) -> CapgoApi:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.api = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def settings(self) -> dict[str, str]:
        """See settings_for."""
        return settings_for(self.url)

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """The answer to one request; 501 to one that is not known."""
        path = urlsplit(target).path.removeprefix("/functions/v1")
        with self.lock:
            if (method, path) in _CONSTANT:
                return Answer(_CONSTANT[method, path])
            for prefix, handle in (
                ("POST /rest/v1/app_versions", self._write_version),
                ("PATCH /rest/v1/app_versions", self._write_version),
                ("POST /files/upload_link", self._link),
                ("PUT /objects/", self._put),
                ("POST /files/upload/attachments/", self._begin_tus),
                ("PATCH /tus/", self._continue_tus),
                ("POST /private/set_manifest", self._write_manifest),
                ("POST /channel", self._write_channel),
            ):
                if f"{method} {path}".startswith(prefix):
                    return handle(path, headers, body)
            self.received.unexpected.append(f"{method} {target} {body[:300]!r}")
            return Answer({"error": "not known here"}, 501)

    def _write_version(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        self.received.version.update(json.loads(body))
        return Answer(None, 201)

    def _link(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        row = json.loads(body)
        return Answer({"url": f"{self.url}/objects/orgs/{ORGANIZATION}/apps/{row['app_id']}/{row['name']}.zip"})

    def _put(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        self.received.objects[path.removeprefix("/objects/")] = body
        return Answer({})

    def _begin_tus(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """tus 1.0, creation."""
        pairs = (item.split(" ") for item in headers["upload-metadata"].split(","))
        metadata = {name: base64.b64decode(value).decode() for name, value in pairs}
        upload = f"/tus/{len(self.uploads)}"
        self.uploads[upload] = _Upload(metadata["filename"], int(headers["upload-length"]))
        return Answer(b"", 201, {"location": f"{self.url}{upload}", "tus-resumable": "1.0.0"})

    def _continue_tus(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        upload = self.uploads[path]
        if int(headers["upload-offset"]) != len(upload.data):
            return Answer(b"", 409)
        upload.data += body
        if len(upload.data) == upload.length:
            self.received.objects[upload.name] = bytes(upload.data)
        return Answer(b"", 204, {"upload-offset": str(len(upload.data)), "tus-resumable": "1.0.0"})

    def _write_manifest(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        self.received.manifest = json.loads(body)["manifest"]
        return Answer({"status": "ok"})

    def _write_channel(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        row = json.loads(body)
        self.received.channel_bundle = f"{row['channel']}={row['version']}"
        return Answer({"id": 1, "public": True})


@dataclass
class _Upload:
    name: str
    length: int
    data: bytearray = field(default_factory=bytearray)


_RPC = "/rest/v1/rpc"
_CONSTANT: Mapping[tuple[str, str], Any] = {
    ("GET", "/private/config"): {},
    ("GET", "/files/config"): {
        "partialUpload": True,
        "TUSUpload": True,
        "partialUploadForced": False,
        "TUSUploadForced": False,
        "maxUploadLength": 1 << 30,
        "maxChunkSize": 100 << 20,
        "alertUploadSize": 1 << 30,
    },
    ("POST", "/private/events"): {"status": "ok"},
    ("GET", f"/app/{APP_ID}"): {"app_id": APP_ID, "owner_org": ORGANIZATION},
    ("GET", "/rest/v1/apps"): {"default_upload_channel": CHANNEL},
    ("GET", "/rest/v1/channels"): [],
    ("POST", f"{_RPC}/reject_access_due_to_2fa_for_app"): False,
    ("POST", f"{_RPC}/cli_check_permission"): True,
    ("POST", f"{_RPC}/request_actor_user_id"): ORGANIZATION,
    ("POST", f"{_RPC}/get_organization_cli_warnings"): [],
    ("POST", f"{_RPC}/exist_app_versions"): False,
    ("POST", f"{_RPC}/is_allowed_action_org_action"): True,
    ("POST", f"{_RPC}/is_trial_org"): 0,
    ("POST", f"{_RPC}/is_paying_org"): True,
    ("POST", f"{_RPC}/has_usage_credits_org"): True,
}


def settings_for(url: str) -> dict[str, str]:
    """What in `plugins.CapacitorUpdater` of an app's configuration sends the CLI to the stand-in at `url`."""
    services = ("localHost", "localWebHost", "localApi", "localApiFiles", "localSupa")
    return {**dict.fromkeys(services, url), "localSupaAnon": "anon"}


def main() -> None:
    """Serve until SIGTERM or SIGINT; prints the address."""
    with CapgoApi() as api:
        print(api.url, flush=True)
        signal.sigwait({signal.SIGTERM, signal.SIGINT})


class _Server(ThreadingHTTPServer):
    api: CapgoApi
    daemon_threads = True
    request_queue_size = 1024  # the CLI uploads 500 files at once, and waits for seconds after a refused connection


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        answer = self.server.api.answer(self.command, self.path, self.headers, body)
        data = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        self.send_header("content-type", "application/json")
        for k, v in answer.headers.items():
            self.send_header(k, v)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        """Nothing: `received` is the record."""
