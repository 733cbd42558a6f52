"""The keys of the configuration: opened together at the start, then retried in the background until they are open.

A key that does not fit its configuration stops the start. An unavailable key store does not: its keys are UNAVAILABLE
until it answers, except keys that the configuration marks as required.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from privyseal_backends.backoff import Backoff
from privyseal_backends.interface import (
    BackendError,
    BusyError,
    Key,
    OperatorError,
    UnavailableError,
)
from privyseal_backends.registry import same_store
from privyseal_service.keys.enrollment import check_enrollment, check_one_purpose
from privyseal_service.keys.served_key import FIRST_RETRY_S, ServedKey, close_key, may_heal
from privyseal_service.keys.stores import Stores, open_key

if TYPE_CHECKING:
    from privyseal_service.config.keys import KeyConfig

_LOG = logging.getLogger(__name__)

LONGEST_RETRY_S = 1.5
"""A store that has recovered is found within this time, plus the time that opening takes."""
LONGEST_BUSY_RETRY_S = 30.0


class KeyringError(Exception):
    """A start or a change of the configuration is stopped: a key cannot serve as configured. `cause` is the error of
    its store or its enrollment."""

    def __init__(self, key: str, cause: BackendError, *, others: int = 0) -> None:
        more = f" ({others} more keys failed; privyseal-server check lists them)" if others else ""
        super().__init__(f"key {key!r}: {cause}{more}")
        self.key = key
        self.cause = cause


@dataclass(frozen=True)
class PreparedKeys:
    """The keys of a new configuration, checked before it is applied.

    `opened` holds the keys that were opened for it, by name. `unavailable` holds the errors of those whose store is
    unavailable.
    """

    configs: tuple[KeyConfig, ...]
    opened: Mapping[str, Key]
    unavailable: Mapping[str, BackendError]

    def close(self) -> None:
        """Close the keys: the configuration is not applied."""
        for key in self.opened.values():
            close_key(key)


class Keyring:
    """All keys of the configuration."""

    def __init__(self, keys: Sequence[KeyConfig], stores: Stores, *, first_retry_s: float = FIRST_RETRY_S) -> None:
        self._changed: Callable[[], None] = lambda: None
        self.keys: Mapping[str, ServedKey] = MappingProxyType(
            {config.name: ServedKey(config, self._state_changed) for config in keys}
        )
        self._stores = stores
        self._first_retry_s = first_retry_s
        self._started = False
        self._served_before = False
        self._logged: dict[str, str] = {}
        self._tasks: dict[ServedKey, asyncio.Task[None]] = {}

    def _state_changed(self) -> None:
        self._changed()

    def on_change(self, changed: Callable[[], None]) -> None:
        """Call `changed` on the event loop whenever a key's state changes."""
        self._changed = changed

    @property
    def serves(self) -> bool:
        """Whether a key that is not frozen serves now. True when all are frozen, so that callers receive that error."""
        wanted = [key for key in self.keys.values() if not key.frozen]
        return not wanted or any(key.serves for key in wanted)

    @property
    def lost(self) -> BackendError | None:
        """The error for which this process must be replaced; None when it need not be."""
        return next((key.problem for key in self.keys.values() if key.lost), None)

    async def open(self, wait_s: float, *, strict: bool = True) -> None:
        """Open all keys together. Those whose store is unavailable, or silent for `wait_s`, are retried in background.

        Raises KeyringError for a key that does not fit, and for a required one that is not open by then. Without
        `strict`, such a key does not serve and the others do: the configuration has served before, so a missing token
        or key is treated as unavailable and is retried.
        """
        self._served_before = not strict
        keys = list(self.keys.values())
        for key in keys:
            self._start_opening(key)
        tries = [asyncio.create_task(key.tried.wait()) for key in keys]
        _, silent = await asyncio.wait(tries, timeout=wait_s)
        for task in silent:
            task.cancel()
        for key in keys:
            if not key.tried.is_set():
                key.failed(_silent(wait_s))
        stopping = [(key.name, key.problem) for key in keys if key.problem and _stops(key.config, key.problem)]
        if stopping and strict:
            raise KeyringError(*stopping[0], others=len(stopping) - 1)
        self._started = True
        for key in keys:
            _log_opened(key)

    async def _keep_opening(self, served: ServedKey) -> None:
        """Retry until the key is open or only an operator can help."""
        failures = 1
        while not await self._try_to_open(served):
            longest_s = LONGEST_BUSY_RETRY_S if isinstance(served.problem, BusyError) else LONGEST_RETRY_S
            backoff = Backoff(self._first_retry_s, longest_s, jitter=0.5)
            wait_s = backoff.delay_s(failures)
            if served.blocked and isinstance(served.problem, OperatorError) and served.problem.part == "object":
                wait_s = LONGEST_BUSY_RETRY_S  # its token is present, so an operator has to create it
            failures += backoff.most_s(failures) < longest_s
            served.next_try_s = time.monotonic() + wait_s
            await asyncio.sleep(wait_s)

    async def _try_to_open(self, served: ServedKey) -> bool:
        """Try once; return whether no retry is needed."""
        try:
            key = await open_key(served.config, self._stores)
            self._check_purpose(served, key)
            served.opened(key)
        except BackendError as error:
            served.failed(error, heals=may_heal(error) or (self._served_before and _may_appear(error)))
        served.tried.set()
        if self._started and (served.problem is None or self._is_news(served)):
            _log_opened(served)
        return served.problem is None or not (may_heal(served.problem) or _may_appear(served.problem))

    def _check_purpose(self, served: ServedKey, key: Key) -> None:
        try:
            check_one_purpose(served.config, _fingerprint(key), self._others(served))
        except BackendError:
            close_key(key)
            raise

    def _is_news(self, served: ServedKey) -> bool:
        """Whether this problem of the key differs from the last one logged; the key is retried about every second."""
        logged, self._logged[served.name] = self._logged.get(served.name), str(served.problem)
        return logged != str(served.problem)

    async def prepare(self, keys: Sequence[KeyConfig], wait_s: float) -> PreparedKeys:
        """Check the keys of a new configuration without changing what is served.

        Opens the keys that are new or whose table has changed, and checks all of them against their enrollment. A key
        whose store is unavailable, or silent for `wait_s`, is opened after the change, as after a start. A key whose
        table is unchanged, or that is only frozen or thawed, is not checked. Raises KeyringError for a key that does
        not fit, and for a required one that is not open by then.
        """
        fresh = [config for config in keys if self._wants_opening(config)]
        tries = await asyncio.gather(*(self._open_within(config, wait_s) for config in fresh))
        found = dict(zip((config.name for config in fresh), tries, strict=True))
        opened = {name: key for name, key in found.items() if not isinstance(key, BackendError)}
        unavailable = {name: problem for name, problem in found.items() if isinstance(problem, BackendError)}
        failures = [(config, unavailable[config.name]) for config in fresh if config.name in unavailable]
        stopping = [
            (config.name, problem)
            for config, problem in failures
            if _stops(config, problem) and not self._is_lost(config, problem)
        ]
        stopping += self._misfits(keys, opened)
        prepared = PreparedKeys(tuple(keys), opened, unavailable)
        if stopping:
            prepared.close()
            raise KeyringError(*stopping[0], others=len(stopping) - 1)
        return prepared

    def _is_lost(self, config: KeyConfig, problem: BackendError) -> bool:
        """Whether a missing token was lost: a key on it is configured already and does not serve now. Without such a
        key, the token's name may be a typing error in the configuration."""
        if config.required or not _may_appear(problem) or problem.part == "object":
            return False
        return any(same_store(key.config.uri, config.uri) and not key.serves for key in self.keys.values())

    def _wants_opening(self, config: KeyConfig) -> bool:
        """Whether a key of another configuration must be opened to decide whether it fits."""
        old = self.keys.get(config.name)
        if old is None or not _same_key(old.config, config):
            return True
        return old.key is None and _but_frozen(old.config) != _but_frozen(config)

    async def _open_within(self, config: KeyConfig, wait_s: float) -> Key | BackendError:
        try:
            return await asyncio.wait_for(open_key(config, self._stores), wait_s)
        except TimeoutError:
            return _silent(wait_s)
        except BackendError as error:
            return error

    def _misfits(self, keys: Sequence[KeyConfig], opened: Mapping[str, Key]) -> list[tuple[str, BackendError]]:
        """Return the open keys that do not fit the new configuration, with the reasons."""
        held = {name: served.key for name, served in self.keys.items() if served.key is not None}
        known = [(config, key) for config in keys if (key := opened.get(config.name) or held.get(config.name))]
        found = list[tuple[str, BackendError]]()
        for config, key in known:
            old = self.keys.get(config.name)
            if old is not None and config.name not in opened and _but_frozen(old.config) == _but_frozen(config):
                continue
            try:
                check_enrollment(config, key.description)
                others = [(other, _fingerprint(each)) for other, each in known if other is not config]
                check_one_purpose(config, _fingerprint(key), others)
            except BackendError as error:
                found.append((config.name, error))
        return found

    def adopt(self, prepared: PreparedKeys) -> None:
        """Serve these keys from now on. A freeze also reaches calls that wait for a replaced key: the old key is frozen
        with the new one."""
        before, served = self.keys, dict[str, ServedKey]()
        for config in prepared.configs:
            old = before.get(config.name)
            if old is not None:
                old.frozen = config.state == "frozen"
            goes_on = old is not None and _same_key(old.config, config) and config.name not in prepared.opened
            served[config.name] = old if old is not None and goes_on else ServedKey(config, self._state_changed)
        self.keys = MappingProxyType(served)
        for name, old in before.items():
            if served.get(name) is not old:
                old.close()
                if old in self._tasks:
                    self._tasks.pop(old).cancel()
        for config in prepared.configs:
            self._begin(served[config.name], config, prepared, anew=served[config.name] is not before.get(config.name))
        self._changed()

    def _begin(self, served: ServedKey, config: KeyConfig, prepared: PreparedKeys, *, anew: bool) -> None:
        """Serve a key under its new configuration, or open it in the background."""
        if config.name in prepared.opened:
            served.tried.set()
            served.opened(prepared.opened[config.name])
            _log_opened(served)
        elif anew or not self._refit(served, config):
            if config.name in prepared.unavailable:
                served.failed(prepared.unavailable[config.name], heals=True)
                _log_opened(served)
            self._start_opening(served)

    def _start_opening(self, served: ServedKey) -> None:
        """Open a key in the background."""
        if served in self._tasks:
            self._tasks[served].cancel()
        self._tasks[served] = asyncio.create_task(self._keep_opening(served), name=f"open key {served.name}")

    def _refit(self, served: ServedKey, config: KeyConfig) -> bool:
        """Apply a new configuration to a key; return whether the key is open or being opened."""
        served.config, served.schemes = config, frozenset(config.schemes)
        if served.key is None:
            # A blocked key is retried: an operator just changed something.
            return served.problem is None or may_heal(served.problem)
        try:
            check_enrollment(config, served.key.description)
            check_one_purpose(config, _fingerprint(served.key), self._others(served))
        except BackendError as error:
            served.shut(error)
            _log_opened(served)
        return True

    def _others(self, served: ServedKey) -> list[tuple[KeyConfig, str]]:
        """Return the other open keys, with their fingerprints."""
        others = (other for other in self.keys.values() if other is not served)
        return [(other.config, _fingerprint(other.key)) for other in others if other.key is not None]

    async def close(self) -> None:
        """Stop opening, then close every store."""
        for key in self.keys.values():
            key.close()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._stores.close()


def _fingerprint(key: Key) -> str:
    return key.description.public_key.fingerprint


def _may_appear(error: BackendError) -> bool:
    """Whether what is missing may appear without a restart of the service, so that retrying makes sense. A PIN is never
    retried."""
    return type(error) is OperatorError and error.part in ("module", "token", "object")


def _stops(config: KeyConfig, problem: BackendError) -> bool:
    """Whether an error of a key stops a start or a change of the configuration."""
    return config.required or not may_heal(problem)


def _silent(wait_s: float) -> UnavailableError:
    sentence = f"the key store did not answer within {wait_s:g} s"
    return UnavailableError("network", sentence, "look at its network and its health")


def _same_key(one: KeyConfig, other: KeyConfig) -> bool:
    return (one.uri, one.fingerprint) == (other.uri, other.fingerprint)


def _but_frozen(config: KeyConfig) -> KeyConfig:
    return config.model_copy(update={"state": "serving"})


def _log_opened(served: ServedKey) -> None:
    if served.key is not None:
        description = served.key.description
        _LOG.info("key %r serves: %r, version %s", served.name, description.public_key, description.key_version)
    elif served.blocked:
        _LOG.error("key %r is blocked until somebody acts: %s", served.name, served.problem)
    else:
        _LOG.warning("key %r is unavailable, opening goes on in the background: %s", served.name, served.problem)
