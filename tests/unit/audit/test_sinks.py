"""Checkpoints leave the host; places that fail, hang or lie hold nothing up and are reported."""

from __future__ import annotations

import base64
import contextlib
import io
import ssl
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privyseal.transparency.checkpoint import Checkpoint, Note, SignatureType, Signer, VerifierKey, cosigned_by
from privyseal.transparency.merkle import verify_consistency
from privyseal_backends.backoff import Backoff
from privyseal_service.audit.errors import PublishError
from privyseal_service.audit.journal import Journal
from privyseal_service.audit.sequencer import Sequencer
from privyseal_service.audit.sinks import FileSink, HttpsSink, Publisher, StreamSink, WitnessSink
from privyseal_service.audit.verify import verify
from privyseal_service.domain.replica import Source
from tests.support.audit.helpers import decision

SIGNER = Signer.generate("audit.example.com/replica-1")
NOTES = [SIGNER.sign(Checkpoint(SIGNER.verifier.name, size, bytes([size]) * 32).text()) for size in range(1, 6)]


@contextmanager
def serving(answer, context: ssl.SSLContext | None = None):
    """A server on loopback; `answer(path, headers, body)` gives status and body. Yields its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, reply = answer(self.path, self.headers, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    with running(server):
        yield f"{'https' if context else 'http'}://127.0.0.1:{server.server_port}"


@contextmanager
def running(server):
    """Serve until the block ends."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Reports:
    """Sentences for the operator, and a way to wait for the next."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.changed = threading.Condition()

    def __call__(self, sentence: str) -> None:
        with self.changed:
            self.said.append(sentence)
            self.changed.notify_all()

    def wait_for(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.said) >= count, timeout=30)


def test_a_file_keeps_all_of_them_and_verify_reads_it(tmp_path):
    kept = tmp_path / "outside"
    publisher = Publisher([FileSink(kept)], Reports())
    journal = Journal(tmp_path / "audit", Source("replica-1", "w0"))
    sequencer = Sequencer(tmp_path / "audit", SIGNER, publish=publisher)
    for i in range(3):
        journal.append([decision(i)])
        sequencer.merge()
    journal.close()
    sequencer.close()
    publisher.close(30)
    report = verify(tmp_path / "audit", [SIGNER.verifier], outside=[kept])
    assert report.ok, report.findings
    assert report.anchors == 5
    assert kept.stat().st_mode & 0o777 == 0o600


def test_a_stream_gets_a_line_each(tmp_path):
    stream = io.StringIO()
    sink = StreamSink(stream)
    for note in NOTES:
        sink.publish(note)
    lines = stream.getvalue().splitlines()
    assert len(lines) == len(NOTES)
    assert all(line.startswith('{"audit_checkpoint": "audit.example.com/replica-1\\n') for line in lines)
    stream.close()
    with pytest.raises(PublishError):
        sink.publish(NOTES[0])


def test_https_posts_over_one_connection_with_a_token(tmp_path):
    got = []
    (tmp_path / "token").write_text("secret-token\n")

    def answer(path, headers, body):
        got.append((path, headers["Authorization"], headers["Content-Type"], body))
        return 204 if len(got) == 1 else 200, b""

    with serving(answer, server_context(tmp_path)) as url:
        sink = HttpsSink(f"{url}/keep", ca_file=tmp_path / "ca.pem", token_file=tmp_path / "token")
        assert "secret" not in sink.name
        sink.publish(NOTES[0])
        connection = sink._poster._connection
        sink.publish(NOTES[1])
        assert sink._poster._connection is connection
        sink._poster._drop()
    assert got == [("/keep", "Bearer secret-token", "text/plain; charset=utf-8", note) for note in NOTES[:2]]


def server_context(folder) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "audit test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (folder / "ca.pem").write_bytes(pem)
    (folder / "server.pem").write_bytes(
        pem
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context


def test_a_server_with_another_certificate_gets_nothing(tmp_path):
    got = []
    refused = pytest.raises(PublishError, match="no answer from")
    with serving(lambda *asked: got.append(asked) or (200, b""), server_context(tmp_path)) as url, refused:
        HttpsSink(f"{url}/keep").publish(NOTES[0])
    assert got == []


@pytest.mark.parametrize("content", [b"secret-one\nsecret-two", b"secret-\xff", "secret-é".encode(), b""])
def test_a_file_that_holds_no_token_is_named_and_not_shown(tmp_path, content):
    (tmp_path / "token").write_bytes(content)
    with serving(lambda *_asked: (200, b"")) as url:
        sink = HttpsSink(f"{url}/keep", token_file=tmp_path / "token")
        with pytest.raises(PublishError, match="does not hold a token") as caught:
            sink.publish(NOTES[0])
        (tmp_path / "token").unlink()
        with pytest.raises(PublishError, match="cannot be read: No such file"):
            sink.publish(NOTES[0])
    assert "secret" not in str(caught.value)


def test_a_place_that_says_too_little_is_cut_off(monkeypatch):
    monkeypatch.setattr("privyseal_service.audit.sinks.ANSWER_S", 0.2)
    ended = threading.Event()

    class Dripping(BaseHTTPRequestHandler):
        def do_POST(self):
            self.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
            with contextlib.suppress(OSError):
                while not ended.wait(0.02):
                    self.wfile.write(b"x")

        def log_message(self, *_args):
            pass

    with running(ThreadingHTTPServer(("127.0.0.1", 0), Dripping)) as server:
        try:
            with pytest.raises(PublishError, match=r"no whole answer within 0\.2 s"):
                HttpsSink(f"http://127.0.0.1:{server.server_port}").publish(NOTES[0])
        finally:
            ended.set()


@pytest.mark.parametrize("status", [301, 400, 404, 500])
def test_only_success_counts(status):
    with serving(lambda *_asked: (status, b"")) as url, pytest.raises(PublishError, match=f"status {status}"):
        HttpsSink(url).publish(NOTES[0])


@pytest.mark.parametrize(
    "url",
    ["http://audit.example.com/", "ftp://127.0.0.1/", "https://", "https://user:pw@audit.example.com/", "https://a/?q"],
)
def test_urls_that_cannot_be_used(url):
    with pytest.raises(PublishError):
        HttpsSink(url)


def test_a_place_that_hangs_holds_up_neither_the_tree_nor_the_others(tmp_path):
    release = threading.Event()

    class Hanging:
        name = "hanging"
        newest_only = False

        def publish(self, _note):
            assert release.wait(30)

    kept = tmp_path / "outside"
    publisher = Publisher([Hanging(), FileSink(kept)], Reports())
    for note in NOTES:
        publisher(note)
    while publisher.states()[1].waiting:
        threading.Event().wait(0.01)
    assert kept.read_bytes() == b"".join(note + b"\n" for note in NOTES)
    assert publisher.states()[0].waiting == 5
    assert publisher.states()[0].behind_s > 0
    release.set()
    publisher.close(30)
    assert publisher.states()[0].waiting == 0


def test_failures_are_reported_once_and_made_good(monkeypatch):
    monkeypatch.setattr("privyseal_service.audit.sinks._BACKOFF", Backoff(0.01, 0.01))
    reports = Reports()
    got = []

    class Failing:
        name = "failing"
        newest_only = False
        left = 3

        def publish(self, note):
            if self.left:
                self.left -= 1
                raise PublishError("away") if self.left else RuntimeError("a fault of our own")
            got.append(note)

    publisher = Publisher([Failing()], reports)
    for note in NOTES:
        publisher(note)
    reports.wait_for(3)
    publisher.close(30)
    assert got == NOTES
    assert reports.said == [
        "audit checkpoints do not reach failing: away",
        "audit checkpoints do not reach failing: RuntimeError: a fault of our own",
        "audit checkpoints reach failing again",
    ]


def test_what_waits_is_bounded(monkeypatch):
    monkeypatch.setattr("privyseal_service.audit.sinks._MAX_WAITING", 3)
    begun, release, got = threading.Event(), threading.Event(), []

    class Slow:
        name = "slow"
        newest_only = False

        def publish(self, note):
            got.append(note)
            begun.set()
            assert release.wait(30)

    publisher = Publisher([Slow()], Reports())
    publisher(NOTES[0])
    assert begun.wait(30)
    for note in NOTES[1:]:
        publisher(note)
    assert publisher.states()[0].waiting == 3
    release.set()
    publisher.close(30)
    assert got == [NOTES[0], *NOTES[2:]]


class Witness:
    """A C2SP tlog-witness: it checks what the document says a witness must."""

    def __init__(self, log: VerifierKey) -> None:
        self.log = log
        self.private = Ed25519PrivateKey.generate()
        self.key = VerifierKey("witness.example.com/w1", SignatureType.COSIGNATURE, self.private.public_key())
        self.seen = Checkpoint(log.name, 0, b"")
        self.statuses: list[int] = []
        self.lie = False
        self.more = ""

    def __call__(self, path, _headers, body):
        status, answer = self.answer(path, body)
        self.statuses.append(status)
        return status, answer

    def answer(self, path, body):
        assert path == "/prefix/add-checkpoint"
        head, _, data = body.partition(b"\n\n")
        old_line, *proof_lines = head.decode().split("\n")
        old_size = int(old_line.removeprefix("old "))
        note = Note.parse(data)
        assert note.verified_by([self.log]) == [self.log]
        checkpoint = Checkpoint.parse(note.text)
        if old_size != self.seen.size:
            return 409, f"{self.seen.size}\n".encode()
        proof = [base64.b64decode(line) for line in proof_lines]
        if old_size:
            verify_consistency(old_size, checkpoint.size, proof, self.seen.root, checkpoint.root)
        else:
            assert proof == []
        self.seen = checkpoint
        time_s = 1_780_000_000
        text = (data.decode() + self.more)[:-1] if self.more else note.text
        signature = self.private.sign(f"cosignature/v1\ntime {time_s}\n{text}{'x' if self.lie else ''}".encode())
        line = base64.b64encode(self.key.key_id + time_s.to_bytes(8, "big") + signature).decode()
        return 200, f"{self.more}— {self.key.name} {line}\n".encode()


def test_a_witness_cosigns_each_growth(tmp_path):
    root = tmp_path / "audit"
    witness = Witness(SIGNER.verifier)
    journal = Journal(root, Source("replica-1", "w0"))
    notes = []
    sequencer = Sequencer(root, SIGNER, publish=notes.append)
    with serving(witness) as url:
        sink = WitnessSink(f"{url}/prefix/", witness.key, root)
        for i in range(4):
            journal.append([decision(j) for j in range(i * 7 + 1)])
            sequencer.merge()
            sink.publish(notes[-1])
        cosigned = sink.path.read_bytes()
        assert cosigned_by(cosigned, [witness.key]) == [witness.key]
        assert Checkpoint.parse(Note.parse(cosigned).text) == witness.seen
        assert witness.statuses == [200] * 4

        sink.path.unlink()  # it asks the witness where it was
        journal.append([decision(99)])
        sequencer.merge()
        sink.publish(notes[-1])
        assert witness.statuses[4:] == [409, 200]

        (tmp_path / "cosigned").write_bytes(sink.path.read_bytes())
        report = verify(root, [SIGNER.verifier], outside=[tmp_path / "cosigned"], witnesses=[witness.key])
        assert (report.ok, report.notes) == (True, [])
        plain = tmp_path / "plain"
        plain.write_bytes(notes[-1])
        (finding,) = verify(root, [SIGNER.verifier], outside=[plain], witnesses=[witness.key]).findings
        assert "cosigned by a witness" in finding.message

        witness.more = "\nmore text\n\n"
        journal.append([decision(100)])
        sequencer.merge()
        with pytest.raises(PublishError, match="no cosignature of its own"):
            sink.publish(notes[-1])
        report = verify(root, [SIGNER.verifier], outside=[sink.path], witnesses=[witness.key])
        seen = witness.seen.size - 1
        assert (report.ok, report.notes) == (
            True,
            [f"a witness has seen the first {seen} records, and none that was given has more"],
        )

        witness.more, witness.lie = "", True
        journal.append([decision(100)])
        sequencer.merge()
        with pytest.raises(PublishError, match="does not hold"):
            sink.publish(notes[-1])
        witness.seen = Checkpoint(SIGNER.verifier.name, 10**6, bytes(32))
        with pytest.raises(PublishError, match="has seen 1000000 records"):
            sink.publish(notes[-1])
        sink._poster._drop()
    journal.close()
    sequencer.close()


@pytest.mark.parametrize(
    ("status", "answer", "says"),
    [
        (409, b"no number", "no size"),
        (403, b"", "status 403"),
        (200, b"", "does not hold|no cosignature"),
        (200, b"x", "hold"),
    ],
)
def test_a_witness_that_talks_nonsense(tmp_path, status, answer, says):
    root = tmp_path / "audit"
    notes = []
    Sequencer(root, SIGNER, publish=notes.append).close()
    with serving(lambda *_asked: (status, answer)) as url:
        sink = WitnessSink(url, Witness(SIGNER.verifier).key, root)
        with pytest.raises(PublishError, match=says):
            sink.publish(notes[-1])
        sink._poster._drop()
    assert not sink.path.exists()
