"""The key store and its keys: what `privyseal_backends.interface` asks for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from privyseal_backends.interface import (
    BackendError,
    CallerError,
    DeadlineError,
    IntegrityError,
    KeyDescription,
    Mechanism,
    Plaintext,
    PublicKey,
    Signature,
    SigningInput,
    SigningResult,
    UnavailableError,
)
from privyseal_backends.verification import verify

from privyseal_labagent.address import KeyAddress, Settings, parse_uri
from privyseal_labagent.description import PURPOSE_NAMES, describe
from privyseal_labagent.wire import Agent, field, unfit_ciphertext


class LabAgentStore:
    """All agents that are in use. See `privyseal_backends.interface.KeyStore`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._agents: dict[str, Agent] = {}
        self._in_use = 0
        self._idle = asyncio.Event()
        self._closed = False

    async def open_key(self, uri: str, fingerprint: str | None = None) -> LabAgentKey:
        """See `KeyStore.open_key`."""
        address = parse_uri(uri)
        with self.use():
            try:
                return await self._open(address, fingerprint, time.monotonic() + self._settings.open_timeout_s)
            except DeadlineError as error:
                # Nobody asked for a deadline: to whoever opens the key, an agent that is silent is one that is away.
                raise UnavailableError(error.part, "the agent does not answer", "look at the agent") from None

    async def _open(self, address: KeyAddress, fingerprint: str | None, deadline_s: float) -> LabAgentKey:
        agent = self._agents.get(address.socket)
        if agent is None:
            agent = self._agents[address.socket] = Agent(address.socket, self._settings.connections)
        answer = await agent.ask({"op": "describe", "key": address.key}, deadline_s)
        try:
            public_key = PublicKey.from_spki_der(field(answer, "spki"))
            purpose = str(answer["purpose"])
            description = describe(public_key, purpose, address.socket, address.key)
        except (KeyError, ValueError):
            raise IntegrityError(
                "answer", "the agent did not describe the key", "use the agent of this package"
            ) from None
        if fingerprint is not None and public_key.fingerprint != fingerprint:
            raise IntegrityError(
                "key",
                f"the agent's key {address.key} has the fingerprint {public_key.fingerprint}, not the pinned one",
                "find out who replaced it, or correct the pin",
            )
        kind = LabAgentDecryptionKey if purpose == "decryption" else LabAgentKey
        return kind(self, agent, address.key, description, self._settings.connections)

    @contextmanager
    def use(self) -> Iterator[None]:
        """Around everything that talks to an agent: `close` waits for it. Raises `UnavailableError` after that."""
        if self._closed:
            raise UnavailableError("store", "it was closed", "open the key again")
        self._in_use += 1
        try:
            yield
        finally:
            self._in_use -= 1
            if not self._in_use:
                self._idle.set()

    async def close(self) -> None:
        """See `KeyStore.close`. What is in flight ends at its own deadline at the latest."""
        self._closed = True
        while self._in_use:
            self._idle.clear()
            await self._idle.wait()
        for agent in self._agents.values():
            agent.close()


class LabAgentKey:
    """A key that signs. See `privyseal_backends.interface.Key`."""

    def __init__(
        self, store: LabAgentStore, agent: Agent, name: str, description: KeyDescription, at_once: int
    ) -> None:
        self._store = store
        self._agent = agent
        self._name = name
        self._description = description
        self._at_once = at_once

    @property
    def description(self) -> KeyDescription:
        """What the key is; learnt once, when it was opened."""
        return self._description

    async def sign(self, inputs: Sequence[SigningInput], deadline_s: float) -> Sequence[SigningResult]:
        """See `Key.sign`. A few workers share the group: each input's failure is its own, and when the caller leaves
        the workers end with it, so that what they had not begun is never begun."""
        results: dict[int, SigningResult] = {}
        turns = iter(enumerate(inputs))

        async def work() -> None:
            for index, signing_input in turns:
                try:
                    results[index] = await self._sign(signing_input, deadline_s)
                except BackendError as error:
                    results[index] = error

        try:
            with self._store.use():
                workers = [asyncio.ensure_future(work()) for _ in range(min(self._at_once, len(inputs)))]
                try:
                    await asyncio.gather(*workers)
                finally:
                    for worker in workers:
                        worker.cancel()
        except UnavailableError as closed:
            return [closed] * len(inputs)
        return [results[index] for index in range(len(inputs))]

    async def _sign(self, signing_input: SigningInput, deadline_s: float) -> Signature:
        self._check(signing_input.mechanism)
        value, queued_s, store_s = await self._ask("sign", signing_input.mechanism, signing_input.data, deadline_s)
        verify(self._description.public_key, signing_input, value)  # raises IntegrityError
        return Signature(value, queued_s=queued_s, store_s=store_s)

    def _check(self, mechanism: Mechanism) -> None:
        if mechanism not in self._description.mechanisms:
            raise CallerError("mechanism", f"the key has no {mechanism.value}", self._description.refusals[mechanism])

    async def _ask(self, op: str, mechanism: Mechanism, data: bytes, deadline_s: float) -> tuple[bytes, float, float]:
        """The agent's answer, and the seconds in the queue here and at the agent."""
        asked_s = time.monotonic()
        request = {"op": op, "key": self._name, "mechanism": mechanism.name, "data": data.hex()}
        answer = await self._agent.ask(request, deadline_s)
        all_s, store_s = time.monotonic() - asked_s, float(answer.get("seconds", 0.0))
        return field(answer, "value"), max(0.0, all_s - store_s), store_s


class LabAgentDecryptionKey(LabAgentKey):
    """A key that decrypts. A class of its own, since the service asks with `isinstance(key, Decrypter)`."""

    async def decrypt(self, ciphertext: bytes, mechanism: Mechanism, deadline_s: float) -> Plaintext:
        """See `Decrypter.decrypt`."""
        self._check(mechanism)
        if len(ciphertext) != self._description.public_key.modulus_bytes:
            raise unfit_ciphertext()
        with self._store.use():
            value, queued_s, store_s = await self._ask("decrypt", mechanism, ciphertext, deadline_s)
        return Plaintext(value, queued_s=queued_s, store_s=store_s)
