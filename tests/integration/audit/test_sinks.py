"""Checkpoints of the running service on their way off the host, and a change of `[audit]` while it runs."""

from __future__ import annotations

import hashlib
import json
import signal

from privyseal import SignatureScheme
from privyseal.transparency.checkpoint import Checkpoint, Note
from privyseal.v1 import audit_pb2
from privyseal.v1.audit_pb2_grpc import AuditServiceStub
from tests.integration.audit.conftest import Farm
from tests.support.processes import until
from tests.unit.audit.test_sinks import Witness, server_context, serving

CHECKSUM = hashlib.sha256(b"zip").digest()


def problems(farm: Farm) -> dict[str, str]:
    done = farm.place.run("health", "--config", str(farm.place.config), "--json")
    detail = json.loads(done.stdout)
    assert done.returncode == (1 if detail["problems"] else 0), done.stderr
    return dict(detail["problems"])


def test_checkpoints_reach_an_endpoint_and_a_witness(farm: Farm) -> None:
    kept: list[bytes] = []
    witness = Witness(farm.log_key)

    def keep(path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        assert (path, headers["Authorization"]) == ("/keep", "Bearer a-secret-token")
        kept.append(body)
        return 200, b""

    (farm.folder / "endpoint").mkdir()
    (farm.folder / "token").write_text("a-secret-token\n")
    context = server_context(farm.folder / "endpoint")
    with serving(witness) as witness_url, serving(keep, context) as url:
        sinks = f"""
sinks = [
    {{ kind = "https", url = "{url}/keep", ca_file = "endpoint/ca.pem", token_file = "token" }},
    {{ kind = "witness", url = "{witness_url}/prefix/", key = "{witness.key}" }},
]
"""
        farm.configure(server='workers = 1\nstate_folder = "state"', audit=sinks)
        checked = farm.place.run("check", "--config", str(farm.place.config), "--json")
        assert json.loads(checked.stdout)["audit"]["sinks"] == ["https", "witness"]
        with farm.serving() as service, farm.client(service) as client:
            client.sign_checksum(CHECKSUM, scheme=SignatureScheme.CAPGO_V3, key="demo")
            until(lambda: kept and Checkpoint.parse(Note.parse(kept[-1]).text).size >= 2)
            until(lambda: witness.seen.size >= 2)
            assert all(Note.parse(note).verified_by([farm.log_key]) for note in kept)
            with service.channel() as channel:
                stub = AuditServiceStub(channel)
                until(lambda: stub.GetCheckpoint(audit_pb2.GetCheckpointRequest(), timeout=20).cosigned_checkpoints)
            assert problems(farm) == {}

            witness.lie = True
            client.sign_checksum(CHECKSUM, scheme=SignatureScheme.CAPGO_V3, key="demo")
            until(lambda: "does not hold" in problems(farm).get(f"checkpoints to witness {witness.key.name}", ""))

            farm.configure(server='workers = 1\nstate_folder = "state"', audit=f"segment_mib = 65\n{sinks}")
            service.process.send_signal(signal.SIGHUP)
            until(lambda: "configuration" in problems(farm))
            said = problems(farm)["configuration"]
            assert "audit.segment_mib" in said
            assert said in service.log
            client.sign_checksum(CHECKSUM, scheme=SignatureScheme.CAPGO_V3, key="demo")
            assert "a-secret-token" not in service.log
            assert service.stop() == 0
    outside = farm.folder / "outside"
    outside.write_bytes(b"\n".join(kept))
    done = farm.verify("--checkpoint", outside)
    assert done.returncode == 0, done.stdout
