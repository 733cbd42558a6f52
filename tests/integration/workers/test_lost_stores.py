"""Reloads, tokens of an issuer and the number of workers, while a key store is lost and workers are replaced."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from privyseal import Client, SignatureScheme
from privyseal.errors import DeadlineExceededError, ServiceError
from tests.chaos.stage import Stage, free_port
from tests.support.processes import until
from tests.support.programs import AUDIT_LOG, CALLER, VECTORS, privyseal_server
from tests.support.shim import Ckr
from tests.support.softhsm import SoftHsmToken, import_rsa_key, make_token
from tests.support.tokens import ISSUER, SUBJECT, issuer_settings, jwk, key_set, rsa_key, token

CHECKSUM = hashlib.sha256(b"zip").digest()
ALL = ("capgo-v2", "capgo-v3")


class Farm:
    """Workers with a key on each of two tokens of one module, for a certificate and for a token of an issuer."""

    def __init__(self, folder: Path) -> None:
        self.stage = Stage(folder, workers=2, settings="hang_after_s = 1.0")
        self.pipelines = f"127.0.0.1:{free_port()}"
        folder_of = self.stage.token.tokens_folder
        before = set(folder_of.iterdir())
        self.second: SoftHsmToken = make_token(folder_of.parent, "second")
        (self._there,) = set(folder_of.iterdir()) - before
        self._away = folder / "away"
        for label in ("other", "third"):
            import_rsa_key(self.second, label, VECTORS / "capgo-v2" / "private.pem", id=label.encode().hex())
        (folder / "jwks.json").write_bytes(key_set(jwk(rsa_key(), "a")))
        self.configure()

    def configure(self, workers: int = 2, *, schemes: Sequence[str] = ALL, frozen: bool = False, **more: str) -> None:
        """Write the configuration; `more` are other keys on the second token, by their labels."""
        names = ["demo", "other", *more]
        keys = [("demo", self.stage.token, "capgo-v3"), ("other", self.second, "other")]
        keys += [(name, self.second, label) for name, label in more.items()]
        tls = {"certificate": "server.pem", "certificate_key": "server-key.pem"}
        tables: list[tuple[str, dict[str, object]]] = [
            ("[server]", {"workers": workers}),
            ("[stores.pkcs11]", {"sessions": 4}),
            ("[audit]", {"folder": "audit", "log": AUDIT_LOG, "key": "audit.key"}),
            ("[[listeners]]", {"address": self.stage.address, "auth": "mtls", **tls}),
            ("[[listeners.client_cas]]", {"file": "ca.pem", "names": [CALLER]}),
            ("[[listeners]]", {"address": self.pipelines, "auth": "oidc", **tls}),
            ("[[issuers]]", issuer_settings("jwks.json")),
        ]
        callers = [CALLER, f"oidc:{ISSUER}:{SUBJECT}"]
        tables.append(
            ("[[grants]]", {"name": "all", "callers": callers, "keys": names, "operations": ["sign-checksum"]})
        )
        for name, on, label in keys:
            uri = on.uri(label, module_path=self.stage.shim.path)
            state = "frozen" if frozen and name == "other" else "serving"
            tables.append(("[[keys]]", {"name": name, "uri": uri, "schemes": list(schemes), "state": state}))
        lines = [
            line for head, table in tables for line in (head, *(f"{k} = {json.dumps(v)}" for k, v in table.items()))
        ]
        (self.stage.folder / "server.toml").write_text("\n".join(lines))

    def reload(self) -> None:
        """Reload the configuration, and wait until it is in force."""
        before = self.stage.program.log.count("the configuration was reloaded")
        self.stage.program.hang_up()
        until(lambda: self.stage.program.log.count("the configuration was reloaded") > before, what="the reload")

    def lose_second(self) -> None:
        """Move the second token away."""
        shutil.move(self._there, self._away)

    def find_second(self) -> None:
        """Move the second token back."""
        shutil.move(self._away, self._there)

    def pipeline(self) -> Client:
        """A client that shows a token of the issuer."""
        return Client(self.pipelines, ca=self.stage.folder / "ca.pem", token=token(), timeout_s=2)


def answer(client: Client, key: str, scheme: SignatureScheme = SignatureScheme.CAPGO_V3) -> str:
    """The reason for which a call is refused; empty for a signature. A call to a store that is away is over soon, and
    what is merely slow is given more time."""
    for timeout_s in (0.4, 2.0):
        try:
            assert len(client.sign_checksum(CHECKSUM, key=key, scheme=scheme, timeout_s=timeout_s).signature) == 256
        except DeadlineExceededError:
            continue
        except ServiceError as error:
            return error.details.reason or error.code.name
        return ""
    return "DEADLINE_EXCEEDED"


def everywhere(connect: Callable[[], Client], key: str, scheme: SignatureScheme = SignatureScheme.CAPGO_V3) -> set[str]:
    """The answers over many connections, side by side: workers share the port, and a connection belongs to one."""

    def ask(_: int) -> str:
        with connect() as client:
            return answer(client, key, scheme)

    with ThreadPoolExecutor(12) as threads:
        return set(threads.map(ask, range(12)))


def test_a_reload_while_one_token_of_two_is_lost(tmp_path: Path) -> None:
    farm = Farm(tmp_path)
    with farm.stage as stage, stage.client(2) as client, farm.pipeline() as pipeline:
        until(
            lambda: len(stage.program.workers) == 2 and everywhere(stage.client, "other") == {""}, what="both workers"
        )
        farm.lose_second()
        until(lambda: answer(client, "other") and answer(pipeline, "other"), what="the loss")
        assert answer(client, "demo") == answer(pipeline, "demo") == ""

        farm.configure(3, schemes=["capgo-v3"], frozen=True, third="third")
        farm.reload()
        until(lambda: everywhere(stage.client, "demo", SignatureScheme.CAPGO_V2) == {"KEY_CANNOT"}, what="schemes")
        assert everywhere(stage.client, "other") == {"KEY_FROZEN"}
        assert "" not in everywhere(stage.client, "third")

        farm.find_second()
        until(lambda: everywhere(stage.client, "third") == {""}, what="the key that is new")
        assert everywhere(farm.pipeline, "other") == {"KEY_FROZEN"}
        assert everywhere(farm.pipeline, "demo") == {""}
        until(lambda: len(stage.program.workers) == 3, what="the third worker")

        farm.configure(3, schemes=["capgo-v3"])
        farm.reload()
        until(lambda: everywhere(stage.client, "other") == {""}, what="the key that was frozen")
        assert set(everywhere(stage.client, "third")) == {"NO_GRANT"}


def test_a_wrong_pin_is_tried_once_by_serve_and_check_together(tmp_path: Path) -> None:
    """What one process learned of the token, the next ones ask the token for: none is a worker of another."""
    stage = Stage(tmp_path, workers=2)
    stage.token.pin_file.write_text("wrong\n")
    command = ("--config", tmp_path / "server.toml")
    said = [privyseal_server(name, *command, env=stage.token.environment) for name in ("serve", "check", "serve")]
    assert [done.returncode for done in said] == [1] * 3
    assert "refused the PIN" in said[0].stderr
    assert all("says that the last login had a wrong PIN" in done.stderr + done.stdout for done in said[1:])
    assert stage.shim.calls("C_Login") == 1


def test_a_wrong_pin_is_tried_once_by_workers_that_open_a_key_in_the_background(tmp_path: Path) -> None:
    """The token is slow to refuse it, so that both workers are at it at once, and its flags do not warn them."""
    stage = Stage(tmp_path, workers=2, settings="try_low_pin_count = true", server="open_wait_s = 0.4")
    second = make_token(stage.token.tokens_folder.parent, "second")
    second.pin_file.write_text("wrong\n")
    with stage:
        until(lambda: sorted(stage.shim.sessions.values())[-2:] >= [1, 1], what="both workers")
        logins = stage.shim.calls("C_Login")
        stage.shim.delay("C_Login", 1.5)
        uri = second.uri("demo", module_path=stage.shim.path)
        with (tmp_path / "server.toml").open("a") as file:
            file.write(f'\n[[keys]]\nname = "second"\nuri = "{uri}"\nschemes = ["capgo-v3"]\n')
        stage.program.hang_up()
        blocked = "key 'second' is blocked until somebody acts: PIN: the token 'second' refused the PIN"
        until(lambda: stage.program.log.count(blocked) == 2, what="two workers that know it")
    assert stage.shim.calls("C_Login") == logins + 1  # a stop waits for who is still at it


def test_workers_that_take_over_have_the_configuration_of_the_day(tmp_path: Path) -> None:
    farm = Farm(tmp_path)
    with farm.stage as stage:
        until(
            lambda: len(stage.program.workers) == 2 and everywhere(stage.client, "other") == {""}, what="both workers"
        )
        farm.configure(2, schemes=["capgo-v3"], frozen=True)
        farm.reload()
        first = set(stage.program.workers)
        stage.shim.fail("C_Sign", Ckr.DEVICE_REMOVED)
        until(lambda: "" not in everywhere(stage.client, "demo"), what="the loss")
        # The number of workers changes while each of them is being replaced.
        farm.configure(1, schemes=["capgo-v3"], frozen=True)
        stage.program.hang_up()
        stage.shim.clear()
        until(lambda: len(stage.program.workers) == 1 and not first & set(stage.program.workers), what="one worker")
        until(lambda: everywhere(stage.client, "demo") == {""}, what="service")
        assert everywhere(farm.pipeline, "demo") == {""}
        assert everywhere(stage.client, "demo", SignatureScheme.CAPGO_V2) == {"KEY_CANNOT"}
        assert everywhere(stage.client, "other") == {"KEY_FROZEN"}
    assert "did not end in" not in stage.program.log
    assert "Traceback" not in stage.program.log
