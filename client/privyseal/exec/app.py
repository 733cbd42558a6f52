"""The app's folder before a command runs in it: the public key that the app trusts, and private keys that lie about."""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from privyseal import capgo
from privyseal.errors import ConfigurationError, InputError

CONFIG_NAMES = ("capacitor.config.ts", "capacitor.config.js", "capacitor.config.json")
"""In the order in which the Capgo CLI looks for them."""

_CONFIG_SCRIPT = Path(__file__).parent / "config.mjs"
_EVALUATION_TIMEOUT_S = 60.0
_LARGEST_ANSWER_BYTES = 64 * 1024
_PKCS1_BEGIN, _PKCS1_END = "-----BEGIN RSA PUBLIC KEY-----", "-----END RSA PUBLIC KEY-----"


@dataclass(frozen=True)
class AppConfig:
    """What the Capgo CLI would read from the configuration at `path`: CapacitorUpdater's public key in PEM (None
    without one), whether it holds a private key too, and the app's identifier."""

    path: Path
    public_key: str | None
    has_private_key: bool
    app_id: str


def find_config(folder: Path, named: str | None = None) -> Path | None:
    """The configuration of the app in `folder`, or the one that --capacitor-config names."""
    if named is not None:
        path = folder / named
        if not path.is_file():
            raise InputError(f"the Capacitor configuration {path} does not exist")
        return path
    return next((path for name in CONFIG_NAMES if (path := folder / name).is_file()), None)


def read_config(path: Path, environment: Mapping[str, str], *, named: bool = False) -> AppConfig:
    """Read a configuration as the CLI does: JSON is parsed, .ts and .js are evaluated by node. Raises InputError."""
    found = _parse(path) if path.suffix == ".json" else _evaluate(path, environment, named=named)
    public_key, app_id = found.get("publicKey"), found.get("appId")
    return AppConfig(
        path,
        public_key if isinstance(public_key, str) and public_key else None,
        bool(found.get("privateKey")),
        app_id if isinstance(app_id, str) else "",
    )


def _parse(path: Path) -> Mapping[str, object]:
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from None
    config = config if isinstance(config, dict) else {}
    updater = config
    for name in ("plugins", "CapacitorUpdater"):
        inner = updater.get(name)
        updater = inner if isinstance(inner, dict) else {}
    return {**{name: updater.get(name) for name in ("publicKey", "privateKey")}, "appId": config.get("appId")}


def _evaluate(path: Path, environment: Mapping[str, str], *, named: bool) -> Mapping[str, object]:
    """Run config.mjs, in the app's folder as the CLI would. Its answer comes on a descriptor of its own, since the
    app's code may print."""
    receive, send = os.pipe()
    with os.fdopen(receive, "rb", buffering=0) as answer:
        try:
            process = subprocess.Popen(  # noqa: S603 - our script, and a file that was found
                ["node", str(_CONFIG_SCRIPT), str(send), str(path.resolve()), *(["named"] if named else [])],  # noqa: S607
                cwd=path.parent,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[send],
            )
        except OSError:
            raise InputError(f"{path} cannot be evaluated: node was not found", remedy="put it on the PATH") from None
        finally:
            os.close(send)
        try:
            process.wait(_EVALUATION_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise InputError(f"{path} was not evaluated within {_EVALUATION_TIMEOUT_S:.0f} seconds") from None
        finally:
            process.kill()
            process.wait()
        os.set_blocking(receive, False)  # a process that the app's code left behind may hold the other end
        text = answer.read(_LARGEST_ANSWER_BYTES)
    found = json.loads(text) if text else {"error": f"node ended with exit code {process.returncode}"}
    if "error" in found:
        raise InputError(f"{path} cannot be evaluated: {found['error']}")
    return dict(found)


def check_public_key(config: AppConfig, key_name: str, public_key: RSAPublicKey) -> None:
    """Raise ConfigurationError, with the exact text to put in, unless the app trusts `public_key` in the form (PKCS#1)
    that its devices read."""
    configured = config.public_key
    pem = capgo.pkcs1_pem(public_key)
    if configured is None:
        problem = "has no plugins.CapacitorUpdater.publicKey, so no device could check an update"
    elif "BEGIN PUBLIC KEY" in configured:
        problem = "holds its publicKey as SPKI (BEGIN PUBLIC KEY), with which the app fails at its start"
    elif _pkcs1_der(configured) is None:
        problem = "holds a publicKey that is not an RSA public key in PKCS#1 PEM"
    elif _pkcs1_der(configured) != public_key.public_bytes(Encoding.DER, PublicFormat.PKCS1):
        problem = f'holds another publicKey than that of the key "{key_name}" at the service'
    else:
        return
    raise ConfigurationError(
        f"{config.path} {problem}",
        remedy=(
            f'use the key that the app trusts, or put this in for an app that is to trust "{key_name}", and build and '
            f'publish it in the stores:\n  "publicKey": {json.dumps(pem)}'
        ),
    )


def _pkcs1_der(pem: str) -> bytes | None:
    """The DER of a PKCS#1 PEM; as on devices, line breaks do not matter."""
    text = pem.strip()
    if not (text.startswith(_PKCS1_BEGIN) and text.endswith(_PKCS1_END)):
        return None
    try:
        return base64.b64decode("".join(text[len(_PKCS1_BEGIN) : -len(_PKCS1_END)].split()), validate=True)
    except (ValueError, binascii.Error):
        return None
