"""`privyseal-server serve` as an operator starts and stops it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from pathlib import Path

import grpc
import pytest

from privyseal.v1 import signing_pb2 as pb
from privyseal.v1.signing_pb2_grpc import SigningServiceStub
from tests.support.processes import children
from tests.support.serving import KEY, PROGRAM, SIGN, Place, configure_software, sentence


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_a_signal_stops_it(software: Place, number: signal.Signals) -> None:
    with software.serving() as serving, serving.channel() as channel:
        answer, call = SigningServiceStub(channel).SignChecksum.with_call(SIGN, timeout=20)
        assert len(answer.signature) == 256
        assert serving.stop(number) == 0
        assert f'request_id="{dict(call.trailing_metadata())["privyseal-request-id"]}"' in serving.log
        assert "stopped" in serving.log


def test_a_stop_finishes_what_is_in_flight(software: Place) -> None:
    configure_software(software, delay_s=0.5)
    with software.serving() as serving, serving.channel() as channel:
        calls = [SigningServiceStub(channel).SignChecksum.future(SIGN, timeout=30) for _ in range(8)]
        # A call on the same connection after them ends only when the server has received all of them.
        with pytest.raises(grpc.RpcError):
            SigningServiceStub(channel).SignChecksum(pb.SignChecksumRequest(), timeout=20)
        assert serving.stop() == 0
        assert [len(call.result().signature) for call in calls] == [256] * 8


def test_it_is_stopped_while_it_starts(software: Place) -> None:
    configure_software(software, head="[server]\nopen_wait_s = 600", hang=True)
    process = subprocess.Popen(
        [PROGRAM, "serve", "--config", str(software.config)],
        env=software.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        # Until the handler of SIGTERM is there, the signal would end the process.
        assert process.stdout is not None
        status = Path(f"/proc/{process.pid}/status")
        while not int(_field(status, "SigCgt"), 16) >> (signal.SIGTERM - 1) & 1:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=200)
    assert (process.returncode, out) == (0, "")


def _field(status: Path, name: str) -> str:
    return next(line.split()[1] for line in status.read_text().splitlines() if line.startswith(name))


def test_it_leaves_no_core(software: Place) -> None:
    with software.serving() as serving:
        processes = [serving.process.pid, *children(serving.process.pid)]
        assert len(processes) > 1  # the workers, where the keys and the PINs are
        for pid in processes:
            limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
            (core,) = [line.split() for line in limits if line.startswith("Max core file size")]
            assert core[4:6] == ["0", "0"]
            # Of a process that is not dumpable, root owns what others might read of it (proc(5)).
            assert Path(f"/proc/{pid}/environ").stat().st_uid == 0
            assert _field(Path(f"/proc/{pid}/status"), "Umask") == "0077"


def test_systemd_is_notified(software: Place, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20)
        with software.serving(NOTIFY_SOCKET=str(tmp_path / "notify")) as serving:
            assert systemd.recv(100) == b"READY=1"
            assert serving.stop() == 0
            assert systemd.recv(100) == b"STOPPING=1"


def test_json_logs(software: Place) -> None:
    configure_software(software, head='[log]\nformat = "json"')
    with software.serving() as serving, serving.channel() as channel:
        SigningServiceStub(channel).SignChecksum(SIGN, timeout=20)
        serving.stop()
        lines = [json.loads(line) for line in serving.log.splitlines()]
    (decision,) = [line for line in lines if line["logger"] == "privyseal.decision"]
    assert (decision["message"], decision["caller"], decision["grant"]) == ("answered", "dns:a.build.example", "all")
    assert decision["scheme"] == "capgo-v3"


def test_a_socket_is_private(software: Place) -> None:
    configure_software(software)
    unix = '[[listeners]]\naddress = "unix:s"\nauth = "none"\n'
    software.config.write_text(software.config.read_text() + unix)
    with software.serving() as serving:
        assert serving.process.stdout is not None
        assert serving.process.stdout.readline() == f"listening none unix:{software.folder}/s\n"
        assert (software.folder / "s").stat().st_mode & 0o077 == 0
        assert "HAS NO TLS" in serving.log


def test_an_unavailable_store_does_not_stop_the_start(software: Place) -> None:
    gate = software.folder / "away"
    gate.touch()
    configure_software(software, away_file=str(gate))
    with software.serving() as serving, serving.channel() as channel:
        with pytest.raises(grpc.RpcError) as caught:
            SigningServiceStub(channel).SignChecksum(SIGN, timeout=20)
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "is unavailable" in serving.log
        assert serving.stop() == 0


def test_sentences_and_exit_codes(software: Place) -> None:
    serve = ("serve", "--config", str(software.config))
    configure_software(software, key=KEY + "required = true\n", away=True)
    assert "key 'demo': network: " in sentence(software.run(*serve), 3)
    configure_software(software, key=KEY + 'fingerprint = "' + "0" * 64 + '"\n')
    assert "key 'demo': object: " in sentence(software.run(*serve), 1)
    configure_software(software, key=KEY.replace('"capgo", "capgo-v2", "capgo-v3"', '"rsassa-pss-sha256"'))
    assert "key 'demo': mechanism: " in sentence(software.run(*serve), 1)
    configure_software(software, key=KEY + 'custody = { protection = "hardware" }\n')
    assert "key 'demo': custody: protection" in sentence(software.run(*serve), 1)
    configure_software(software, unknown=1)
    assert "'unknown'" in sentence(software.run(*serve), 1)
    software.configure(KEY.replace("software:demo", "hardware:demo"))
    assert "'hardware'" in sentence(software.run(*serve), 1)
    configure_software(software, key=KEY + "colour = 1\n")
    assert "keys[0].colour: " in sentence(software.run(*serve), 2)
    configure_software(software)
    (software.folder / "server-key.pem").write_bytes(software.ca.server().key_pem)
    assert "server-key.pem" in sentence(software.run(*serve), 2)


def test_an_address_that_is_taken(software: Place) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        software.config.write_text(
            software.config.read_text().replace("127.0.0.1:0", f"127.0.0.1:{taken.getsockname()[1]}")
        )
        done = software.run("serve", "--config", str(software.config))
    assert done.returncode == 2
    assert "127.0.0.1" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["serve"], "Missing option '--config'"),
        (["serve", "--config", "/nonexistent/p.toml"], "/nonexistent/p.toml: "),
        (["serve", "--colour"], "No such option"),
        (["dance"], "No such command 'dance'; see `privyseal-server --help`"),
        (["check"], "Missing option '--config'"),
        (["key", "create"], "name the key with --config FILE NAME, or with --uri URI"),
        (["key", "create", "demo", "--uri", "software:x"], "name the key with --config FILE NAME, or with --uri URI"),
        (["key", "import"], "Missing argument 'PEM'"),
        (["key", "create", "--uri", "software:x", "--bits", "1024"], "'1024' is not one of"),
        (["key", "create", "--uri", "software:x", "--bits", "4096"], "2048 bits"),
        (["key", "create", "--uri", "nonsense"], "URI"),
    ],
)
def test_usage(software: Place, arguments: list[str], says: str) -> None:
    assert says in sentence(software.run(*arguments), 2)


def test_only_the_packages_of_the_client(software: Place) -> None:
    (software.folder / "sitecustomize.py").write_text("import sys\nsys.modules['pydantic'] = None\n")
    assert "pydantic" in sentence(software.run("check", "--config", str(software.config)), 2)


@pytest.mark.parametrize("command", ["check", "serve"])
def test_standard_output_is_full(software: Place, command: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [PROGRAM, command, "--config", str(software.config)],
            env=software.environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=200,
            check=False,
        )
    assert done.returncode == 1
    assert "privyseal-server: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def list_modules(place: Place) -> Path:
    """Have every program of the place write the modules that it had imported when it ended; the file."""
    file = place.folder / "modules"
    write = f"atexit.register(lambda: open({str(file)!r}, 'w').write('\\n'.join(sys.modules)))"
    (place.folder / "sitecustomize.py").write_text(f"import atexit, sys\n{write}\n")
    return file


def test_help_imports_little(software: Place) -> None:
    modules = list_modules(software)
    assert software.run("--help").returncode == 0
    imported = set(modules.read_text().split())
    assert "click" in imported
    assert not {"grpc", "pydantic", "cryptography", "asyncio", "importlib.metadata"} & imported


def test_a_service_imports_only_the_backends_of_its_keys(software: Place) -> None:
    configure_software(software, head="[server]\nworkers = 0")
    modules = list_modules(software)
    with software.serving() as serving:
        assert serving.stop() == 0
    imported = set(modules.read_text().split())
    assert "tests.fakes.software_store" in imported
    backends = {"privyseal_backends.aws_kms", "privyseal_backends.google_kms", "privyseal_backends.pkcs11"}
    assert not {"boto3", "botocore", "google.cloud.kms", "pkcs11", "click.testing", *backends} & imported


def test_a_supervisor_imports_no_backend_and_no_grpc(software: Place) -> None:
    configure_software(software, head="[server]\nworkers = 1")
    modules = list_modules(software)
    with software.serving() as serving:
        assert serving.stop() == 0
    imported = set(modules.read_text().split())
    assert "privyseal_service.runtime.supervisor" in imported
    assert not {"grpc", "tests.fakes.software_store", "privyseal_backends.pkcs11"} & imported
