"""SoftHSM tokens for tests: made in a folder of the test's own, with keys of the test's own.

    token = make_token(tmp_path, "demo")
    import_rsa_key(token, "demo", VECTORS / "capgo-v3" / "private.pem")
    uri = token.uri("demo")
    subprocess.run([...], env=os.environ | token.environment)      # another process
    with token.in_this_process():                                  # or this one
        store = open_store({})
        ...
        await store.close()

SoftHSM reads SOFTHSM2_CONF when a process initialises it, and a process has one state of it. So: inside one
`in_this_process()` block use one folder (`make_token` puts several tokens into the same one), and close every store
before the block ends. Keys are made by short-lived processes of their own, so that the test's process is free.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

_OBJECTS = Path(__file__).with_name("softhsm_objects.py")
_DEFAULT_PIN = "1234-user"
_SO_PIN = "5678-officer"


@dataclass(frozen=True)
class SoftHsmToken:
    """A token in a folder. `pin_file` holds the user PIN and a newline; `serial` is the token's own."""

    module_path: Path
    conf: Path
    label: str
    pin: str
    pin_file: Path
    serial: str

    @property
    def environment(self) -> Mapping[str, str]:
        """What another process needs in its environment to see the token."""
        return {"SOFTHSM2_CONF": str(self.conf)}

    @property
    def tokens_folder(self) -> Path:
        """Where SoftHSM keeps its tokens; move it away and the token is gone."""
        return self.conf.with_name("tokens")

    def uri(self, label: str, *, module_path: Path | None = None, extra: str = "") -> str:
        """The URI of the key with that label. `module_path` is another module in front of SoftHSM, a fault shim for
        one; `extra` goes into the path, as `;id=%01`."""
        return (
            f"pkcs11:token={quote(self.label, safe='')};object={quote(label, safe='')}{extra}"
            f"?module-path={quote(str(module_path or self.module_path))}&pin-source=file:{quote(str(self.pin_file))}"
        )

    @contextlib.contextmanager
    def in_this_process(self) -> Iterator[None]:
        """Let this process see the token. Open stores inside the block, and close them before it ends."""
        before = os.environ.get("SOFTHSM2_CONF")
        os.environ["SOFTHSM2_CONF"] = str(self.conf)
        try:
            yield
        finally:
            if before is None:
                del os.environ["SOFTHSM2_CONF"]
            else:
                os.environ["SOFTHSM2_CONF"] = before


def find_module() -> Path:
    """SoftHSM's module: $PRIVYSEAL_SOFTHSM_MODULE, or where distributions put it."""
    named = os.environ.get("PRIVYSEAL_SOFTHSM_MODULE")
    triplet = sysconfig.get_config_var("MULTIARCH") or "none"
    folders = ("/usr/lib/softhsm", "/usr/lib64/pkcs11", "/usr/lib64/softhsm", f"/usr/lib/{triplet}/softhsm")
    for file in (named, *(f"{folder}/libsofthsm2.so" for folder in (*folders, "/usr/local/lib/softhsm"))):
        if file and Path(file).exists():
            return Path(file)
    raise FileNotFoundError("SoftHSM is not here: install the package softhsm2, or set PRIVYSEAL_SOFTHSM_MODULE")


def _find_util(module: Path) -> str:
    """softhsm2-util, from the PATH or from where the module was unpacked."""
    found = shutil.which("softhsm2-util")
    beside = (str(folder / "bin" / "softhsm2-util") for folder in module.parents)
    found = found or next((file for file in beside if Path(file).exists()), None)
    if found is None:
        raise FileNotFoundError("softhsm2-util is not here: install the package softhsm2")
    return found


def make_token(folder: Path, label: str, pin: str = _DEFAULT_PIN) -> SoftHsmToken:
    """Make a token in `folder`, beside those that are there already. Its label need not be unique."""
    module = find_module()
    conf, tokens = folder / "softhsm2.conf", folder / "tokens"
    tokens.mkdir(parents=True, exist_ok=True)
    conf.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
    before = {each.name for each in tokens.iterdir()}
    init = [_find_util(module), "--module", str(module), "--init-token", "--free", "--label", label]
    subprocess.run(
        [*init, "--pin", pin, "--so-pin", _SO_PIN],
        env=os.environ | {"SOFTHSM2_CONF": str(conf)},
        check=True,
        capture_output=True,
    )
    (new,) = {each.name for each in tokens.iterdir()} - before
    serial = new.replace("-", "")[-16:]  # SoftHSM names a token's folder by a UUID that ends in the serial
    pin_file = folder / f"pin-{serial}.txt"
    pin_file.write_text(pin + "\n")
    pin_file.chmod(0o600)
    return SoftHsmToken(module, conf, label, pin, pin_file, serial)


def import_rsa_key(token: SoftHsmToken, label: str, private_pem: Path, **attributes: bool | str) -> None:
    """Put an RSA key (PEM) into the token under `label`: sensitive, not extractable, for signing alone.

    `attributes` are those of the private object by their PKCS#11 names in lower case (`extractable=True`,
    `decrypt=True`, `always_authenticate=True`); `id` is hex; `public=False` leaves the public object out.
    """
    _make_object(token, {"label": label, "pem": private_pem.read_text(), **attributes})


def generate_rsa_key(token: SoftHsmToken, label: str, bits: int = 2048, **attributes: bool | str) -> None:
    """Generate a key pair in the token; `attributes` as in `import_rsa_key`, `allowed` as "1,13" for mechanisms."""
    _make_object(token, {"label": label, "bits": bits, **attributes})


def delete_objects(token: SoftHsmToken, label: str) -> None:
    """Delete every object with that label, as another process would."""
    _make_object(token, {"label": label, "delete": True})


def _make_object(token: SoftHsmToken, order: Mapping[str, object]) -> None:
    full = {"module": str(token.module_path), "serial": token.serial, "pin": token.pin, **order}
    subprocess.run(
        [sys.executable, str(_OBJECTS)],
        input=json.dumps(full),
        text=True,
        env=os.environ | token.environment,
        check=True,
    )
