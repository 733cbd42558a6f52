"""Other makers' PKCS#11 modules as stores of the conformance suite, each behind the fault shim: one function a module.

They come from Debian's packages (scripts/install_modules.sh). Each function starts what its module needs, in folders
of its own, and ends it. What a module cannot do stands in its store as such, and in docs/pkcs11-modules.md with the
reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from privyseal_backends.interface import Export, KeyCreator, Mechanism, Origin, Protection, Purpose
from privyseal_backends.registry import backend
from privyseal_service.domain.operations import Scheme, WrapScheme
from tests.conformance.stores import (
    CAPGO,
    RSASSA,
    SIGNING,
    KeyUnderTest,
    KnownAnswer,
    StoreUnderTest,
    token_store,
    vector_answers,
    vector_key,
)
from tests.support.shim import FaultShim
from tests.support.softhsm import make_token

RAW = Path(__file__).with_name("raw.py")
PIN, SO_PIN = "12345678", "87654321"
"""opencryptoki takes 8 characters and not one more, and its new token has this SO PIN."""
TOKEN = "conformance"
SHA1, SHA256 = frozenset({Mechanism.OAEP_SHA1}), frozenset({Mechanism.OAEP_SHA256})
BOTH_OAEP = (WrapScheme.RSAES_OAEP_SHA256, WrapScheme.RSAES_OAEP_SHA1)

MODULES: dict[str, Callable[[Path], contextlib.AbstractContextManager[StoreUnderTest]]] = {}
"""Every module, by the name that its cases carry."""


def _module(
    function: Callable[[Path], Iterator[StoreUnderTest]],
) -> Callable[[Path], contextlib.AbstractContextManager[StoreUnderTest]]:
    MODULES[function.__name__] = contextlib.contextmanager(function)
    return MODULES[function.__name__]


def find(name: str) -> Path:
    """A module's file, where distributions put it."""
    for folder in (*Path("/usr/lib").glob("*-linux-gnu"), Path("/usr/lib"), Path("/usr/lib64")):
        for file in (folder / name, folder / "pkcs11" / name):
            if file.exists():
                return file.resolve()
    raise FileNotFoundError(f"{name} is not here: run scripts/install_modules.sh")


def program(name: str) -> str:
    """A program's file."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        raise FileNotFoundError(f"{name} is not here: run scripts/install_modules.sh")
    return found


@contextlib.contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """The environment that a module reads, for a while."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield


@contextlib.contextmanager
def running(*command: str, ready: Callable[[], bool], env: Mapping[str, str] | None = None) -> Iterator[None]:
    """A program of the module's, from the moment when it is ready."""
    with subprocess.Popen(
        command, env={**os.environ, **(env or {})}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            until_s = time.monotonic() + 20
            while not ready():
                if process.poll() is not None or time.monotonic() > until_s:
                    process.kill()
                    _, said = process.communicate()
                    raise RuntimeError(f"{command[0]} does not start: {said}")
                time.sleep(0.02)
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


@dataclass
class ModuleUnderTest:
    """A module and its one token, and the keys that are made in it. `environment` is what the module reads, `reserved`
    its string for C_Initialize."""

    folder: Path
    path: Path
    token: str = TOKEN
    pin: str = PIN
    reserved: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    keys: list[KeyUnderTest] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pin_file = self.folder / "pin"
        self.pin_file.write_text(f"{self.pin}\n")
        self.shim = FaultShim.build(self.folder, self.path)

    def raw(self, do: str, **order: Any) -> Any:
        """Have `raw.py` do something."""
        full = {"do": do, "module": str(self.path), "reserved": self.reserved, **order}
        command = [sys.executable, str(RAW), json.dumps(full)]
        done = subprocess.run(command, env={**os.environ, **self.environment}, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{do} with {self.path}: {done.stderr}")
        return json.loads(done.stdout or "null")

    def initialize(self, slot: int, label: str, so_pin: str, new_so_pin: str) -> None:
        """Make the token; without a label, set its PIN alone."""
        self.raw("initialize", slot=slot, label=label, so_pin=so_pin, new_so_pin=new_so_pin, pin=self.pin)

    def uri(self, name: str, path: Path | None = None) -> str:
        """The URI of a key, through the shim unless another path is given."""
        return (
            f"pkcs11:token={quote(self.token)};object={name}"
            f"?module-path={quote(str(path or self.shim.path))}&pin-source=file:{quote(str(self.pin_file))}"
        )

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the backend for this module."""
        if self.reserved is None:
            return {}
        return {"init_strings": {str(path): self.reserved for path in (self.path, self.shim.path)}}

    def make(self, *orders: tuple[str, Purpose]) -> None:
        """Make keys with the backend: those of tests/vectors are brought in by their names, others generated."""

        async def work() -> None:
            store = backend("pkcs11")(self.settings)
            assert isinstance(store, KeyCreator)
            try:
                for name, purpose in orders:
                    uri = self.uri(name, self.path)
                    if name.startswith("capgo-v"):
                        await store.import_key(uri, pkcs1_der(vector_key(name)), purpose)
                    else:
                        await store.create_key(uri, purpose)
            finally:
                await store.close()

        with variables(self.environment):
            asyncio.run(work())

    def expect(
        self,
        name: str,
        can: frozenset[Mechanism],
        schemes: tuple[Scheme, ...],
        custody: tuple[Protection, Origin, Export],
        known: tuple[KnownAnswer, ...] = (),
    ) -> None:
        """What is to be true of a key, with its public key as `raw.py` reads it."""
        if not hasattr(self, "_public"):
            self._public = self.raw("public_keys", label=self.token, pin=self.pin)
        modulus, exponent = (int(number, 16) for number in self._public[name])
        public_key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
        place = (self.token, str(self.shim.path))
        self.keys.append(KeyUnderTest(name, self.uri(name), public_key, can, schemes, custody, place, known))

    def store(self, **more: Any) -> StoreUnderTest:
        """The store that the suite runs on."""
        return token_store(
            self.shim,
            tuple(self.keys),
            self.uri,
            settings=self.settings,
            in_this_process=lambda: variables(self.environment),
            secrets=(self.pin,),
            places=(self.token,),
            **more,
        )


def without_shim(uri: str) -> str:
    """The URI through the module itself."""
    head, _, rest = uri.partition("module-path=")
    path, _, query = rest.partition("&")
    module = Path(f"{path}.control").read_bytes().partition(b"\0")[0].decode()
    return f"{head}module-path={module}&{query}"


def pkcs1_der(key: rsa.RSAPrivateKey) -> bytes:
    """As an import wants it."""
    return key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def expect_usual(
    module: ModuleUnderTest,
    oaep: frozenset[Mechanism],
    imported: tuple[Protection, Origin, Export],
    generated: tuple[Protection, Origin, Export],
) -> None:
    """The keys that most modules have: two of tests/vectors, one generated for RSASSA, one for RSAES."""
    module.make(
        ("capgo-v2", Purpose.TYPE1),
        ("capgo-v3", Purpose.TYPE1),
        ("rsassa", Purpose.SIGNATURES),
        ("wrapping", Purpose.DECRYPTION),
    )
    for name in ("capgo-v2", "capgo-v3"):
        module.expect(name, SIGNING, CAPGO, imported, vector_answers(name))
    module.expect("rsassa", SIGNING, RSASSA, generated)
    schemes = tuple(each for each, hashed in zip(BOTH_OAEP, (SHA256, SHA1), strict=True) if hashed <= oaep)
    module.expect("wrapping", oaep, schemes, generated)


@_module
def nss(folder: Path) -> Iterator[StoreUnderTest]:
    """NSS's softokn with a database of its own. It does not say that it generated a key."""
    database = folder / "nss"
    database.mkdir(mode=0o700)
    module = ModuleUnderTest(
        folder,
        find("libsoftokn3.so"),
        token="NSS Certificate DB",
        reserved=f"configdir='sql:{database}' certPrefix='' keyPrefix='' secmod='secmod.db' flags= ",
        environment={"NSS_MAX_MP_PBE_ITERATION_COUNT": "1"},  # for tests: else each login and signature takes 30 ms
    )
    module.initialize(2, label="", so_pin="", new_so_pin="")
    unknown = (Protection.SOFTWARE, Origin.UNKNOWN, Export.POSSIBLE_ONCE)
    expect_usual(module, SHA1 | SHA256, unknown, unknown)
    yield module.store()


@_module
def opencryptoki(folder: Path) -> Iterator[StoreUnderTest]:
    """opencryptoki's soft token, with a daemon and folders that this process alone sees."""
    _hide_opencryptoki(folder)
    pid_file = Path("/run/pkcsslotd.pid")
    with running(
        program("pkcsslotd"), "-f", ready=lambda: pid_file.exists() and Path("/run/pkcsslotd.socket").exists()
    ):
        module = ModuleUnderTest(folder, find("libopencryptoki.so"))
        module.initialize(0, TOKEN, SO_PIN, "11223344")
        # It says of a key from outside that it was always sensitive and never extractable, which no such key can be.
        imported = (Protection.SOFTWARE, Origin.UNKNOWN, Export.POSSIBLE_ONCE)
        generated = (Protection.SOFTWARE, Origin.GENERATED_INSIDE, Export.NEVER_POSSIBLE)
        expect_usual(module, SHA1 | SHA256, imported, generated)
        yield module.store()


_NEW_MOUNTS, _NEW_IPC, _PRIVATE, _BIND = 0x00020000, 0x08000000, 0x00044000, 0x1000


def _hide_opencryptoki(folder: Path) -> None:
    """Put folders of our own in the places that opencryptoki has fixed, for this process and those that it starts: the
    machine's own opencryptoki is not touched. It needs root, and lasts until the process ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_MOUNTS | _NEW_IPC) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise PermissionError(f"opencryptoki's fixed folders cannot be replaced ({reason}): run these tests as root")
    assert libc.mount(b"none", b"/", None, _PRIVATE, None) == 0
    group = Path("/var/lib/opencryptoki").stat().st_gid
    layout = {"etc": "/etc/opencryptoki", "var": "/var/lib/opencryptoki", "run": "/run", "shm": "/dev/shm"}
    for name in ("etc", "var/swtok/TOK_OBJ", "run/lock/opencryptoki/swtok", "run/opencryptoki", "shm"):
        (folder / name).mkdir(parents=True)
    for file in Path("/etc/opencryptoki").iterdir():
        shutil.copy(file, folder / "etc")
    (folder / "etc/opencryptoki.conf").write_text("version opencryptoki-3.1\nslot 0\n{\nstdll = libpkcs11_sw.so\n}\n")
    for path in (folder, *folder.rglob("*")):
        os.chown(path, -1, group)
        path.chmod(path.stat().st_mode | (0o070 if path.is_dir() else 0o060))
    for name, place in layout.items():
        assert libc.mount(str(folder / name).encode(), place.encode(), None, _BIND, None) == 0


_GENERATE = """
import sys, pkcs11
from pkcs11.constants import DEFAULT, Attribute as A, MechanismFlag
module, pin, name = sys.argv[1:]
token = next(iter(pkcs11.lib(module).get_tokens(token_label="conformance")))
with token.open(rw=True, user_pin=pin) as session:
    session.generate_keypair(
        pkcs11.KeyType.RSA, 2048, store=True, label=name, id=name.encode(), capabilities=MechanismFlag(0),
        public_template=dict.fromkeys((A.VERIFY, A.ENCRYPT, A.WRAP), DEFAULT),
        private_template={A.SIGN: True, **dict.fromkeys((A.DECRYPT, A.UNWRAP, A.DERIVE), DEFAULT)},
    )
"""


@_module
def tpm2(folder: Path) -> Iterator[StoreUnderTest]:
    """tpm2-pkcs11 on a software TPM behind the resource manager. It takes no key from outside, and what it lists does
    not have PSS. Its keys that sign are made by python-pkcs11, with the decrypt attribute that CKM_RSA_PKCS needs."""
    with _tpm(folder) as environment:
        module = ModuleUnderTest(folder, find("libtpm2_pkcs11.so"), environment=environment)
        module.initialize(1, TOKEN, SO_PIN, SO_PIN)
        for name in ("capgo", "rsassa"):
            command = [sys.executable, "-c", _GENERATE, str(module.path), PIN, name]
            subprocess.run(command, env={**os.environ, **environment}, check=True)
        module.make(("wrapping", Purpose.DECRYPTION))
        inside = (Protection.SOFTWARE, Origin.GENERATED_INSIDE, Export.UNKNOWN)
        can = SIGNING - {Mechanism.PSS_SHA256}
        module.expect("capgo", can, CAPGO, inside)
        module.expect("rsassa", can, RSASSA[:1], inside)
        module.expect("wrapping", SHA1 | SHA256, BOTH_OAEP, inside)
        yield module.store(takes_no_key=True)


@contextlib.contextmanager
def _tpm(folder: Path) -> Iterator[dict[str, str]]:
    """A software TPM, a resource manager on a bus of its own, and what the module needs to find them."""
    (folder / "tpm").mkdir()
    (folder / "store").mkdir()
    port = _two_ports()
    bus = folder / "bus"
    swtpm = (
        *(program("swtpm"), "socket", "--tpm2", "--tpmstate", f"dir={folder / 'tpm'}"),
        *("--server", f"type=tcp,port={port},bindaddr=127.0.0.1"),
        *("--ctrl", f"type=tcp,port={port + 1},bindaddr=127.0.0.1", "--flags", "not-need-init,startup-clear"),
    )
    environment = {
        "DBUS_SESSION_BUS_ADDRESS": f"unix:path={bus}",
        "TPM2_PKCS11_TCTI": "tabrmd:bus_type=session",
        "TPM2_PKCS11_STORE": str(folder / "store"),
        "TPM2_PKCS11_LOG_LEVEL": "0",
        "TSS2_LOG": "all+NONE",
    }
    manager = (program("tpm2-abrmd"), "--session", "--allow-root", f"--tcti=swtpm:host=127.0.0.1,port={port}")
    daemon = (program("dbus-daemon"), "--session", f"--address=unix:path={bus}", "--nofork", "--nopidfile")
    with (
        running(*swtpm, ready=lambda: _listens(port + 1)),
        running(*daemon, ready=bus.exists),
        running(*manager, env=environment, ready=lambda: _has_name(environment)),
    ):
        yield environment


def _two_ports() -> int:
    """The first of two free ports in a row: a client of swtpm takes the second one for its control port."""
    while True:
        with socket.socket() as first, socket.socket() as second, contextlib.suppress(OSError, OverflowError):
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            second.bind(("127.0.0.1", port + 1))
            return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _has_name(environment: Mapping[str, str]) -> bool:
    """Whether the resource manager is on the bus."""
    call = ("--session", "--dest=org.freedesktop.DBus", "--print-reply", "/", "org.freedesktop.DBus.NameHasOwner")
    asked = subprocess.run(
        [program("dbus-send"), *call, "string:com.intel.tss2.Tabrmd"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    return "true" in asked.stdout


@_module
def p11_kit(folder: Path) -> Iterator[StoreUnderTest]:
    """p11-kit's client, which gives a new function list at each call, and its server in front of SoftHSM."""
    token = make_token(folder, TOKEN, PIN)
    address = folder / "p"
    server = (program("p11-kit"), "server", "-f", "-n", str(address), "--provider", str(token.module_path))
    with running(*server, f"pkcs11:token={TOKEN}", env=token.environment, ready=address.exists):
        module = ModuleUnderTest(
            folder,
            find("p11-kit-client.so"),
            environment={"P11_KIT_SERVER_ADDRESS": f"unix:path={address}"},
        )
        module.shim.give_private_lists()
        imported = (Protection.SOFTWARE, Origin.IMPORTED, Export.POSSIBLE_ONCE)
        generated = (Protection.SOFTWARE, Origin.GENERATED_INSIDE, Export.NEVER_POSSIBLE)
        expect_usual(module, SHA1, imported, generated)
        yield module.store()
