"""Sends a service damaged requests, tokens and key sets for some minutes, and says what it ever did wrong.

The service runs in this process, over real TLS, with a key store that counts every use. Wrong is: an INTERNAL answer,
an answer without a request id, a signature that no answer has, a name proven by a token that the issuer did not sign,
or a service that does not answer a good call afterwards. Exit codes: 0; 1 when anything was wrong; 2 usage.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from privyseal.v1 import signing_pb2 as pb
from privyseal_service.domain.caller import IdentityError, Peer
from privyseal_service.identity.jwks import KeySetError, parse_key_set
from tests.support.farm import BUILD, farm_store
from tests.support.pki import CA
from tests.support.service import RunningService, secure_channel
from tests.support.targets import Target, config
from tests.support.tokens import jwk, key_set, rsa_key, token

METHODS = ("WrapSessionKey", "SignChecksum", "BatchSignChecksums", "UnwrapSessionKey")
MAY_BE = {"OK", "INVALID_ARGUMENT", "PERMISSION_DENIED", "FAILED_PRECONDITION", "UNAUTHENTICATED"}
IN_FLIGHT = 32


class Wrong(Exception):  # noqa: N818 - it is what the program looks for
    """Something that must never happen."""


def damage(dice: random.Random, whole: bytes) -> bytes:
    """The bytes with some of them changed, taken away, put in, or all at once."""
    data = bytearray(whole)
    for _ in range(dice.randint(1, 6)):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(6):
            case 0:
                data[at:at] = dice.randbytes(dice.randint(1, 20))
            case 1:
                del data[at : at + dice.randint(1, 20)]
            case 2 if data:
                data[at % len(data)] ^= 1 << dice.randrange(8)
            case 3:
                data[at:] = dice.randbytes(dice.randint(0, 60))
            case 4:
                data[at:at] = data[: dice.randint(0, 60)]
            case _:
                data[at:at] = dice.choice([b"\xff" * 10, b"\0" * 10, b"\x7f", b"\x80\x80\x80\x80\x80\x01"])
    return bytes(data[:2000])


class Fuzz:
    """All that is thrown at one service."""

    def __init__(self, target: Target, dice: random.Random) -> None:
        self._target = target
        self._dice = dice
        self.outcomes: Counter[str] = Counter()
        checksums = [dice.randbytes(32) for _ in range(3)]
        self._good = [
            pb.WrapSessionKeyRequest(key="capgo", session_key=bytes(16), scheme=pb.WRAP_SCHEME_CAPGO),
            pb.SignChecksumRequest(key="capgo", checksum=checksums[0], scheme=pb.SIGNATURE_SCHEME_CAPGO_V3),
            pb.BatchSignChecksumsRequest(key="capgo", checksums=checksums, scheme=pb.SIGNATURE_SCHEME_CAPGO_V2),
            pb.UnwrapSessionKeyRequest(key="opener", wrapped_key=bytes(256), scheme=pb.WRAP_SCHEME_RSAES_OAEP_SHA256),
        ]
        self._token = token(exp=int(time.time()) + 86_400, iat=int(time.time()) - 10)
        client = target.ca.issue(uris=[BUILD])
        self._build = secure_channel(target.running.address(0), target.ca, client)
        self._pipeline = secure_channel(target.running.address(1), target.ca, None)

    def turn(self) -> None:
        """Some of everything. Raises Wrong."""
        self.requests()
        self.tokens()
        self.key_sets()

    def requests(self) -> None:
        """Damaged messages from a caller who is granted all."""
        before = self._target.store.calls.signed
        calls = []
        for _ in range(IN_FLIGHT):
            body = damage(self._dice, self._dice.choice(self._good).SerializeToString())
            method = self._build.unary_unary(f"/privyseal.v1.SigningService/{self._dice.choice(METHODS)}")
            calls.append((body, method.future(body, timeout=60)))
        answered = sum(self._look("request", body, call) for body, call in calls)
        made = self._target.store.calls.signed - before
        if made and not answered:
            raise Wrong(f"{made} signatures were made, and no answer has them")

    def tokens(self) -> None:
        """Damaged tokens with a good request."""
        body = self._good[1].SerializeToString()
        calls = []
        for _ in range(IN_FLIGHT):
            shown = damage(self._dice, self._token.encode()).decode("latin-1")
            shown = "".join(letter for letter in shown if " " < letter < "\x7f")
            metadata = (("authorization", f"{self._dice.choice(['Bearer ', 'bearer ', 'Bearer', ''])}{shown}"),)
            method = self._pipeline.unary_unary("/privyseal.v1.SigningService/SignChecksum")
            calls.append((shown, method.future(body, timeout=60, metadata=metadata)))
        for shown, call in calls:
            if self._look("token", shown.encode(), call) and shown != self._token:
                raise Wrong(f"a token that nobody signed proved a caller: {shown}")

    def key_sets(self) -> None:
        """Damaged JWK sets: a set, or a sentence."""
        whole = key_set(jwk(rsa_key(), "a"), jwk(rsa_key("b"), "b"))
        for _ in range(IN_FLIGHT):
            text = damage(self._dice, whole)
            try:
                parse_key_set(text, ["RS256", "ES256", "EdDSA"])
            except KeySetError:
                self.outcomes["key set refused"] += 1
            except Exception as error:
                raise Wrong(f"a key set raised {type(error).__name__}: {text!r}") from error
            else:
                self.outcomes["key set taken"] += 1

    def _look(self, kind: str, sent: bytes, call: Any) -> bool:
        """Whether a call was answered. Raises Wrong."""
        call.exception()
        code = str(call.code().name)
        self.outcomes[f"{kind} {code}"] += 1
        if code not in MAY_BE:
            raise Wrong(f"{code} for {sent.hex()}: {call.details()}")
        if "privyseal-request-id" not in dict(call.trailing_metadata()):
            raise Wrong(f"no request id for {sent.hex()}")
        return code == "OK"

    def still_there(self) -> None:
        """A good call is answered. Raises Wrong."""
        body = self._good[1].SerializeToString()
        method = self._build.unary_unary("/privyseal.v1.SigningService/SignChecksum")
        if method.future(body, timeout=60).exception() is not None:
            raise Wrong("a good call is not answered any more")
        peer = Peer("x", authorization=(f"Bearer {self._token}x",))
        identifier = self._target.running.service._listeners[1]._identifier()
        try:
            identifier.identify(peer)
        except IdentityError:
            return
        raise Wrong("a token with a letter more proved a caller")


def run(minutes: float, seed: int, say: Callable[[str], None]) -> int:
    """Fuzz for so long; the exit code."""
    say(f"seed {seed}, {minutes:g} minutes; run it again with --seed {seed}")
    end_s = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as folder:
        ca, store = CA(), farm_store(rsa.generate_private_key(65537, 2048))
        with RunningService(config(ca, Path(folder)), store.backends) as running:
            fuzz = Fuzz(Target(running, store, ca, Path(folder)), random.Random(seed))
            turns = 0
            try:
                while time.monotonic() < end_s:
                    fuzz.turn()
                    turns += 1
                    running.decisions.kept.clear()
                    if turns % 20 == 0:
                        fuzz.still_there()
                fuzz.still_there()
            except Wrong as wrong:
                say(f"WRONG after {turns} turns: {wrong}")
                return 1
            say(json.dumps(dict(sorted(fuzz.outcomes.items())), indent=2))
    return 0


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    sys.exit(run(options.minutes, options.seed, print))


if __name__ == "__main__":
    main()
