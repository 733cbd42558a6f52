"""The PKCS#11 key store: opens keys, keeps what they share, closes it again."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace

import pkcs11
from pkcs11.exceptions import PKCS11Error

from privyseal_backends.interface import (
    BackendError,
    CallerError,
    KeyDescription,
    Mechanism,
    OperatorError,
    Protection,
    PublicKey,
    Purpose,
    UnavailableError,
)
from privyseal_backends.pkcs11 import creation
from privyseal_backends.pkcs11.address import KeyAddress, parse_uri
from privyseal_backends.pkcs11.capability import KeyFacts, adds_digest_info, assess, may_decrypt, read_mechanisms
from privyseal_backends.pkcs11.custody import custody, find_protection
from privyseal_backends.pkcs11.errors import Fault, backend_error, meaning
from privyseal_backends.pkcs11.executor import Executor
from privyseal_backends.pkcs11.key import Pkcs11DecryptionKey, Pkcs11Key
from privyseal_backends.pkcs11.locate import init_string, locate
from privyseal_backends.pkcs11.module import Module
from privyseal_backends.pkcs11.module_registry import MODULES
from privyseal_backends.pkcs11.objects import KeyAttributes, find_private_key, read_attributes, read_public_key
from privyseal_backends.pkcs11.settings import Settings, parse_settings
from privyseal_backends.pkcs11.threads import Abandoned, on_thread
from privyseal_backends.pkcs11.token import TokenInfo, TokenLogin, describe_token, find_token, login_on
from privyseal_backends.pkcs11.token_connection import TokenConnection
from privyseal_backends.pkcs11.token_key import TokenKey, check_same, try_decryption
from privyseal_backends.pkcs11.token_state import TokenLease

_LOOK_AGAIN_S = (0.05, 0.15)


@dataclass(frozen=True)
class _Place:
    """Where a key is: a module, a token in it, and this process's login on it."""

    module: Module
    token: pkcs11.Token
    info: TokenInfo
    login: TokenLogin
    generation: int

    @property
    def token_id(self) -> Hashable:
        """What tells this token from the others of the process. A slot is not asked for: it may be another one after
        the module was begun anew."""
        return self.module.path, self.info.serial or self.info.slot_id, self.info.label


class Pkcs11Store:
    """All that is open through PKCS#11. See `KeyStore`, `KeyCreator`, `ProcessBound`, `Computing`, `Latching` of the
    interface."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._modules: list[Module] = []
        self._threads: dict[Hashable, Executor] = {}
        self._new_process = False
        self._cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._closed = False

    def prefer_new_process(self) -> None:
        """See `ProcessBound.prefer_new_process`."""
        self._new_process = True

    def use_cores(self, cores: int) -> None:
        """See `Computing.use_cores`."""
        self._cores = cores

    def latch(self, uri: str, error: OperatorError) -> None:
        """See `Latching.latch`."""
        parsed = parse_uri(uri)
        with contextlib.suppress(OperatorError):  # through a module that is not there nobody logs in
            MODULES.at(locate(parsed)).latch(parsed, error)

    async def open_key(self, uri: str, fingerprint: str | None = None) -> Pkcs11Key:
        """Open the key; see `KeyStore.open_key`."""
        parsed = parse_uri(uri)
        timeout_s = self._settings.open_timeout_s

        def work(abandoned: Abandoned) -> Pkcs11Key:
            key = self._open(parsed, fingerprint)
            if abandoned:
                key.forget()
            return key

        return await on_thread(work, "open a key", timeout_s)

    async def create_key(self, uri: str, purpose: Purpose = Purpose.TYPE1, modulus_bits: int = 2048) -> Pkcs11Key:
        """Generate a key inside the token; see `KeyCreator.create_key`. The URI names it by `object=`; its CKA_ID is
        that of the URI's `id=` or else random."""
        creation.check_size(purpose, modulus_bits)
        return await self._make(uri, lambda token, new: creation.generate(token, new, purpose, modulus_bits))

    async def import_key(self, uri: str, private_key_pkcs1_der: bytes, purpose: Purpose = Purpose.TYPE1) -> Pkcs11Key:
        """Put an existing key into the token; see `KeyCreator.import_key`. Its CKA_ID is as in `create_key`."""
        imported = creation.parse_private_key(private_key_pkcs1_der, purpose)
        return await self._make(uri, lambda token, new: creation.put(token, new, purpose, imported))

    async def close(self) -> None:
        """Finish what is queued, then log out and finalise; see `KeyStore.close`. A module with a call inside it that
        does not end within `close_timeout_s` is left as it is, and the log says so."""
        with self._lock:
            self._closed = True
            modules, self._modules = self._modules, []
            threads, self._threads = self._threads, {}
        if not modules or modules[0].forked:
            return  # a fork's copy has nothing to give back, and its locks may be held by threads that it does not have
        timeout_s = self._settings.close_timeout_s

        def finish(_: Abandoned) -> None:
            hung = any(each.connection.hangs for each in threads.values())
            until_s = time.monotonic() + (0.0 if hung else timeout_s)
            for each in threads.values():
                each.connection.close()
                each.close()
            for each in threads.values():
                each.join(until_s)
            for module in modules:
                module.release(max(0.0, until_s - time.monotonic()))

        # A module that hangs in C_Logout or C_Finalize must not keep the service from ending.
        with contextlib.suppress(UnavailableError):
            await on_thread(finish, "close the key store", 2 * timeout_s)

    def _open(self, uri: KeyAddress, fingerprint: str | None) -> Pkcs11Key:
        with self._place(uri) as place:

            def work(session: pkcs11.Session) -> Pkcs11Key:
                return self._open_on(session, place, uri, fingerprint)

            return place.login.run(work, uri.pin_source, self._settings)

    def _open_on(self, session: pkcs11.Session, place: _Place, uri: KeyAddress, fingerprint: str | None) -> Pkcs11Key:
        handle = find_private_key(session, uri)
        public_key = read_public_key(session, handle, uri)
        if fingerprint is not None:
            check_same(public_key, fingerprint, uri)
        attributes = read_attributes(handle)
        description = _describe(place, handle, public_key, attributes)
        exact = replace(uri, object_id=attributes.object_id or uri.object_id)
        kind = Pkcs11DecryptionKey if may_decrypt(attributes) else Pkcs11Key
        key = TokenKey(exact, public_key, attributes)
        return kind(key, description, self._signing_threads(place, key))

    async def _make(self, uri: str, make: Callable[[pkcs11.Token, KeyAddress], KeyAddress]) -> Pkcs11Key:
        parsed = parse_uri(uri)
        if parsed.object_label is None:
            raise CallerError("URI", "the PKCS#11 URI does not name the new key", "add object=LABEL")

        def work(abandoned: Abandoned) -> Pkcs11Key:
            with self._place(parsed) as place, place.login.session(parsed.pin_source, self._settings):
                named = make(place.token, parsed)
                if abandoned:
                    creation.remove(place.token, named)
            return self._open(named, None)

        return await on_thread(work, "make a key", self._settings.create_timeout_s)

    @contextlib.contextmanager
    def _place(self, uri: KeyAddress) -> Iterator[_Place]:
        """Where the key is to be, with this thread counted into the module."""
        path = locate(uri)
        module = MODULES.acquire(path, init_string(path, self._settings.init_strings))
        self._keep(module)
        place = self._find(module, uri)
        while True:
            with module.call():
                if place.generation == module.generation:
                    try:
                        yield place
                    except PKCS11Error as error:
                        raise backend_error(error, "to open a key") from None
                    return
            place = self._log_in(module, uri)  # the module was begun anew meanwhile, for another token

    def _find(self, module: Module, uri: KeyAddress) -> _Place:
        """Find the token and log in, with a second and a third look: a process that initialises SoftHSM at the moment
        when another one does may see no token in it, or one that does not work, until it initialises it again."""
        for pause_s in _LOOK_AGAIN_S:
            generation = module.generation
            try:
                return self._log_in(module, uri)
            except BackendError as error:
                if error.part != "token":
                    raise
            time.sleep(pause_s)
            module.refresh(generation, self._settings.open_timeout_s)
            if module.generation == generation and module.bears_another_start:
                # Other tokens are in use, and a module may not show one that has come since it was initialised.
                idle_s, start_s = self._settings.hang_after_s, self._settings.open_timeout_s
                module.reinitialize(generation, idle_s=idle_s, start_s=start_s)
        return self._log_in(module, uri)

    def _log_in(self, module: Module, uri: KeyAddress) -> _Place:
        with module.call():
            generation = module.generation
            token = find_token(module, uri)
            login = login_on(module, token)
            with login.session(uri.pin_source, self._settings):
                return _Place(module, token, describe_token(module, token), login, generation)

    def _keep(self, module: Module) -> None:
        """Remember a module until the store is closed: finalising it earlier would forget a refused PIN."""
        with self._lock:
            if not self._closed:
                self._modules.append(module)
                return
        module.release(0.0)
        raise UnavailableError("module", "the key store was closed", "open another one")

    def _signing_threads(self, place: _Place, key: TokenKey) -> Executor:
        protection, _ = find_protection(place.info)
        sessions = self._settings.sessions
        number = self._settings.threads or (
            min(self._cores, sessions) if protection is Protection.SOFTWARE else sessions
        )
        with self._lock:
            if self._closed:
                raise UnavailableError("module", "the key store was closed", "open another one")
            if place.token_id not in self._threads:
                lease = TokenLease(place.token, place.generation, place.login, place.login.epoch)
                connection = TokenConnection(
                    place.module, lease, key.uri, self._settings, new_process=self._new_process
                )
                self._threads[place.token_id] = Executor(connection, self._settings, threads=number)
            self._threads[place.token_id].connection.add_key(key)
            return self._threads[place.token_id]


def _describe(
    place: _Place, handle: pkcs11.PrivateKey, public_key: PublicKey, attributes: KeyAttributes
) -> KeyDescription:
    if attributes.always_authenticate:
        raise OperatorError(
            "attribute",
            "the key wants its PIN for every signature (CKA_ALWAYS_AUTHENTICATE)",
            "make a key without that attribute",
        )
    facts = KeyFacts(
        attributes=attributes,
        modulus_bits=public_key.modulus_bits,
        public_exponent=public_key.key.public_numbers().e,
        mechanisms=read_mechanisms(place.token.slot),
        oaep_failures={},
        adds_digest_info=adds_digest_info(place.info),
    )
    mechanisms, refusals = assess(_with_trials(facts, handle, public_key))
    return KeyDescription(
        key_version=attributes.object_id.hex() or public_key.fingerprint,
        public_key=public_key,
        mechanisms=mechanisms,
        refusals=refusals,
        custody=custody(attributes, place.info),
    )


def _with_trials(facts: KeyFacts, handle: pkcs11.PrivateKey, public_key: PublicKey) -> KeyFacts:
    """Try each OAEP mechanism that seems to be there: no list of mechanisms tells which hashes a token takes."""
    able, _ = assess(facts)
    trials = {
        mechanism: _trial(handle, mechanism, public_key)
        for mechanism in able & {Mechanism.OAEP_SHA256, Mechanism.OAEP_SHA1}
    }
    return replace(facts, oaep_failures={mechanism: answer for mechanism, answer in trials.items() if answer})


def _trial(handle: pkcs11.PrivateKey, mechanism: Mechanism, public_key: PublicKey) -> str:
    """What the token answered to a trial in vain; empty where it went well. A token that is away raises."""
    try:
        try_decryption(handle, mechanism, public_key)
    except PKCS11Error as error:
        what = meaning(error)
        if what.fault not in (Fault.CALLER, Fault.DOUBTFUL, Fault.BUSY):
            raise
        return what.name
    return ""


def open_store(settings: Mapping[str, object]) -> Pkcs11Store:
    """Open the store: the backend's entry point, see `privyseal_backends.interface.OpenStore`."""
    return Pkcs11Store(parse_settings(settings))
