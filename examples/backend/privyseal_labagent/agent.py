"""The agent: holds RSA keys in memory and uses them for whoever runs as the same user.

    python -m privyseal_labagent.agent --socket PATH [--passphrase-file FILE] NAME:PURPOSE:FILE.pem …

PURPOSE is type1, signatures or decryption: a key has one. It prints `listening PATH` once it accepts connections, and
ends on SIGTERM. Requests and answers are lines of JSON; see `_answer`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo, Prehashed
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

_MOST_WAITING = 64
_PURPOSES = {
    "type1": {"TYPE1"},
    "signatures": {"PKCS1_V1_5_SHA256", "PSS_SHA256"},
    "decryption": {"OAEP_SHA256", "OAEP_SHA1"},
}
_LENGTHS = {"TYPE1": {16, 32, 48}, "PKCS1_V1_5_SHA256": {32}, "PSS_SHA256": {32}}


@dataclass(frozen=True)
class HeldKey:
    """A private key and its one purpose."""

    key: rsa.RSAPrivateKey
    purpose: str

    def use(self, op: str, mechanism: str, data: bytes) -> bytes:
        """Sign or decrypt. Raises ValueError for what the key is not for, and for what does not decrypt.

        The agent checks lengths by itself: it does not know that Privyseal alone talks to it.
        """
        if mechanism not in _PURPOSES[self.purpose] or (op == "decrypt") != (self.purpose == "decryption"):
            raise ValueError("not the key's purpose")
        if op == "decrypt":
            hash_type = SHA1 if mechanism == "OAEP_SHA1" else SHA256
            return self.key.decrypt(data, padding.OAEP(padding.MGF1(hash_type()), hash_type(), None))
        if len(data) not in _LENGTHS[mechanism]:
            raise ValueError("not a length that the mechanism signs")
        if mechanism == "TYPE1":
            return self.key.sign(data, padding.PKCS1v15(), NoDigestInfo())
        pss = padding.PSS(padding.MGF1(SHA256()), salt_length=32)
        return self.key.sign(data, pss if mechanism == "PSS_SHA256" else padding.PKCS1v15(), Prehashed(SHA256()))


class Server:
    """Answers requests; the mathematics is done by two threads, so that the loop goes on."""

    def __init__(self, keys: dict[str, HeldKey]) -> None:
        self._keys = keys
        self._threads = ThreadPoolExecutor(2)
        self._waiting = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until its other end goes."""
        same_user = _user_of(writer) == os.getuid()
        # A peer that left, or a line without an end: there is nobody to tell.
        with contextlib.closing(writer), contextlib.suppress(ConnectionError, ValueError):
            while line := await reader.readline():
                answer = await self._answer(line) if same_user else {"error": "refused"}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        """`{"op": "describe" | "sign" | "decrypt", "key": NAME, "mechanism": …, "data": HEX}` is answered with `spki`
        and `purpose`, with `value` and `seconds`, or with `error`."""
        try:
            request = json.loads(line)
            held = self._keys.get(request["key"])
            if held is None:
                return {"error": "unknown-key"}
            if request["op"] == "describe":
                spki = held.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
                return {"spki": spki.hex(), "purpose": held.purpose}
            operation = (request["op"], request["mechanism"], bytes.fromhex(request["data"]))
        except (ValueError, TypeError, KeyError):
            return {"error": "malformed"}
        if self._waiting >= _MOST_WAITING:
            return {"error": "busy"}
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, _timed, held, operation)
        finally:
            self._waiting -= 1


def _timed(held: HeldKey, operation: tuple[str, str, bytes]) -> dict[str, Any]:
    began_s = time.monotonic()
    try:
        value = held.use(*operation)
    except ValueError:
        return {"error": "unfit" if operation[0] == "decrypt" else "malformed"}
    return {"value": value.hex(), "seconds": time.monotonic() - began_s}


def _user_of(writer: asyncio.StreamWriter) -> int:
    """The user at the other end, as the kernel tells (Linux: SO_PEERCRED gives pid, uid, gid)."""
    peer = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", peer)[1])


def _load(argument: str, passphrase: bytes | None) -> tuple[str, HeldKey]:
    name, purpose, file = argument.split(":", 2)
    if purpose not in _PURPOSES:
        raise SystemExit(f"agent: {purpose} is no purpose; use one of {', '.join(_PURPOSES)}")
    try:
        key = load_pem_private_key(Path(file).read_bytes(), passphrase)
    except (OSError, ValueError, TypeError) as error:
        raise SystemExit(f"agent: {file} is not a private key that can be read: {type(error).__name__}") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise SystemExit(f"agent: {file} is not an RSA key")
    return name, HeldKey(key, purpose)


async def run(path: Path, keys: dict[str, HeldKey]) -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    path.unlink(missing_ok=True)
    os.umask(0o077)  # the socket is this user's alone, from the moment that it is there
    server = await asyncio.start_unix_server(Server(keys).serve, path)
    print(f"listening {path}", flush=True)
    await stop.wait()
    server.close()
    path.unlink(missing_ok=True)


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(prog="python -m privyseal_labagent.agent", description="Hold RSA keys in memory.")
    parser.add_argument("--socket", required=True, type=Path)
    parser.add_argument("--passphrase-file", type=Path)
    parser.add_argument("keys", nargs="+", metavar="NAME:PURPOSE:FILE")
    arguments = parser.parse_args()
    passphrase = arguments.passphrase_file.read_bytes().rstrip(b"\n") if arguments.passphrase_file else None
    asyncio.run(run(arguments.socket, dict(_load(each, passphrase) for each in arguments.keys)))


if __name__ == "__main__":
    main()
