"""Open keys of a token: one that signs, and one that decrypts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from privyseal_backends.interface import (
    BackendError,
    CallerError,
    KeyDescription,
    Mechanism,
    OperatorError,
    Plaintext,
    Signature,
    SigningInput,
    SigningResult,
    UnavailableError,
)
from privyseal_backends.pkcs11.executor import Executor
from privyseal_backends.pkcs11.queue import Batch, Decryption, Operation, Result
from privyseal_backends.pkcs11.token_key import TokenKey, unfit_ciphertext


class Pkcs11Key:
    """An open key that signs. See `privyseal_backends.interface.Key`."""

    def __init__(self, key: TokenKey, description: KeyDescription, threads: Executor) -> None:
        self._key = key
        self._description = description
        self._threads = threads
        self._connection = threads.connection

    @property
    def description(self) -> KeyDescription:
        """What the key is."""
        return self._description

    @property
    def parallel_inputs(self) -> int:
        """What the token's signing threads take up at once; see `Parallel`."""
        return self._threads.parallel_inputs

    def observe(self, on_change: Callable[[BackendError | None], None]) -> None:
        """Follow the token; see `Observed`."""
        self._connection.observe(self._key, on_change)

    def forget(self) -> None:
        """Do not use the key from now on; see `Observed`."""
        self._connection.forget(self._key)

    async def sign(self, inputs: Sequence[SigningInput], deadline_s: float) -> Sequence[SigningResult]:
        """Sign each input; see `Key.sign`."""
        able = self._description.mechanisms
        fit = [each for each in inputs if each.mechanism in able]
        done = iter(await self._perform(fit, deadline_s))
        results: list[SigningResult] = []
        for each in inputs:
            result = next(done) if each.mechanism in able else self._refused(each.mechanism)
            assert isinstance(result, (Signature, BackendError))
            results.append(result)
        return results

    def _refused(self, mechanism: Mechanism) -> CallerError:
        return CallerError("mechanism", f"the key has no {mechanism.value}", self._description.refusals[mechanism])

    async def _perform(self, operations: Sequence[Operation], deadline_s: float) -> Sequence[Result]:
        if not operations:
            return ()
        try:
            self._connection.module.check_process()
        except OperatorError as error:
            return [error] * len(operations)
        refusal = self._connection.refusal(self._key)
        if refusal is not None:
            return [refusal] * len(operations)
        batch = Batch(self._key, operations, deadline_s)
        if not self._threads.put(batch):
            closed = UnavailableError("module", "the key store was closed", "open the key again")
            return [closed] * len(operations)
        return await batch.results()


class Pkcs11DecryptionKey(Pkcs11Key):
    """An open key that was made for decryption. See `privyseal_backends.interface.Decrypter`."""

    async def decrypt(self, ciphertext: bytes, mechanism: Mechanism, deadline_s: float) -> Plaintext:
        """Decrypt; see `Decrypter.decrypt`."""
        if mechanism not in self.description.mechanisms:
            raise self._refused(mechanism)
        if len(ciphertext) != self.description.public_key.modulus_bytes:
            raise unfit_ciphertext()
        (result,) = await self._perform((Decryption(mechanism, ciphertext),), deadline_s)
        if isinstance(result, BackendError):
            raise result
        assert isinstance(result, Plaintext)
        return result
