"""Find a token among a module's slots, and keep the one login session that this process has on it.

A login belongs to the process and the token, not to a session; closing the session that logged in logs every other
session out. So there is one login session for each token, open until the module is finalised, and every other session
is opened without a PIN.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import pkcs11
from pkcs11.constants import SlotFlag, TokenFlag
from pkcs11.exceptions import PKCS11Error, TokenNotPresent, TokenNotRecognised

from privyseal_backends.interface import BackendError, OperatorError, UnavailableError
from privyseal_backends.pkcs11.address import KeyAddress
from privyseal_backends.pkcs11.binding import CodeError, meaning_of
from privyseal_backends.pkcs11.errors import Fault, Meaning, backend_error, meaning
from privyseal_backends.pkcs11.module import Module
from privyseal_backends.pkcs11.objects import MAPPER
from privyseal_backends.pkcs11.pin import Pin, read_pin
from privyseal_backends.pkcs11.process_lock import take_turn
from privyseal_backends.pkcs11.settings import Settings

T = TypeVar("T")

_UNLUCKY = "CKR_GENERAL_ERROR"
"""What SoftHSM answers to a login at the moment when another process initialises it."""
_NO_PIN_YET = "CKR_USER_PIN_NOT_INITIALIZED"
_ALREADY = "CKR_USER_ALREADY_LOGGED_IN"
_HEARD_S = 2.0


@dataclass(frozen=True)
class TokenInfo:
    """What a module says of a token, its slot and itself. Versions are (major, minor)."""

    label: str
    serial: str
    manufacturer: str
    model: str
    hardware_version: tuple[int, int]
    firmware_version: tuple[int, int]
    slot_id: int
    slot_description: str
    slot_manufacturer: str
    hardware_slot: bool
    library_manufacturer: str
    library_description: str
    library_version: tuple[int, int]
    module_path: str


def describe_token(module: Module, token: pkcs11.Token) -> TokenInfo:
    """Copy what the module said of the token when it was found; asks the module nothing."""
    slot, library = token.slot, module.lib
    return TokenInfo(
        label=token.label,
        serial=_serial(token),
        manufacturer=token.manufacturer_id,
        model=token.model,
        hardware_version=token.hardware_version,
        firmware_version=token.firmware_version,
        slot_id=slot.slot_id,
        slot_description=slot.slot_description,
        slot_manufacturer=slot.manufacturer_id,
        hardware_slot=bool(slot.flags & SlotFlag.HW_SLOT),
        library_manufacturer=library.manufacturer_id,
        library_description=library.library_description,
        library_version=library.library_version,
        module_path=module.path,
    )


def find_token(module: Module, uri: KeyAddress) -> pkcs11.Token:
    """The one token that the URI names. Call it inside `module.call()`.

    Raises `OperatorError` when there is none or more than one, and `UnavailableError` when a slot that might hold it
    does not answer; their part is "token", or "module" where the URI wants another library.
    """
    _check_library(module, uri)
    tokens, broken = _tokens(module)
    matching = [token for token in tokens if _matches(token, uri)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise _ambiguous(uri, matching)
    if broken:
        raise UnavailableError(
            "token",
            f"no {uri.token_words} answers, and {len(broken)} slot(s) of {module.path} answered {broken[0]}",
            "check that the token is there and reachable",
        )
    there = ", ".join(f"{token.label!r} (serial {_serial(token)})" for token in tokens)
    remedy = f"it has {there}: correct the URI or the module"
    if not tokens:
        remedy = "it has no token at all: tell it where they are (SoftHSM reads SOFTHSM2_CONF), or correct the URI"
    raise OperatorError("token", f"there is no {uri.token_words} in {module.path}", remedy)


def _tokens(module: Module) -> tuple[list[pkcs11.Token], list[str]]:
    """The initialised tokens, and what the slots that failed answered: one broken slot must not hide the others."""
    tokens: list[pkcs11.Token] = []
    broken: list[str] = []
    try:
        slots = module.lib.get_slots()
    except PKCS11Error as error:
        return [], [meaning(error).name]
    for slot in slots:
        try:
            token = slot.get_token()
        except (TokenNotPresent, TokenNotRecognised):
            continue
        except PKCS11Error as error:
            broken.append(meaning(error).name)
            continue
        if token.flags & TokenFlag.TOKEN_INITIALIZED:
            tokens.append(token)
    return tokens, broken


def _matches(token: pkcs11.Token, uri: KeyAddress) -> bool:
    wanted_and_found = (
        (uri.token, token.label),
        (uri.serial, _serial(token)),
        (uri.manufacturer, token.manufacturer_id),
        (uri.model, token.model),
        (uri.slot_id, token.slot.slot_id),
        (uri.slot_description, token.slot.slot_description),
        (uri.slot_manufacturer, token.slot.manufacturer_id),
    )
    return all(wanted is None or wanted == found for wanted, found in wanted_and_found)


def _check_library(module: Module, uri: KeyAddress) -> None:
    library = module.lib
    for name, wanted, found in (
        ("library-manufacturer", uri.library_manufacturer, library.manufacturer_id),
        ("library-description", uri.library_description, library.library_description),
        ("library-version", uri.library_version, library.library_version),
    ):
        if wanted is not None and wanted != found:
            is_ = ".".join(map(str, found)) if isinstance(found, tuple) else repr(found)
            raise OperatorError("module", f"the {name} of {module.path} is {is_}, not as its URI says", "correct one")


def _ambiguous(uri: KeyAddress, tokens: list[pkcs11.Token]) -> OperatorError:
    serials = {_serial(token) for token in tokens}
    if len(serials) == len(tokens):
        remedy = f"add serial= to the URI, one of {', '.join(sorted(serials))}"
    else:
        remedy = f"add slot-id= to the URI, one of {', '.join(str(token.slot.slot_id) for token in tokens)}"
    return OperatorError("token", f"{len(tokens)} tokens are a {uri.token_words}", remedy)


def _serial(token: pkcs11.Token) -> str:
    return token.serial.rstrip(b"\0 ").decode("utf-8", "replace")


@contextlib.contextmanager
def _alone(module_path: str) -> Iterator[None]:
    """Let no other process log in through the module meanwhile: workers that lost their logins together would otherwise
    try a wrong PIN once each. After a refusal it takes a moment until the others have heard of it. Raises
    `UnavailableError` when the turn does not come."""
    descriptor = take_turn(module_path, must=True)
    try:
        yield
    except OperatorError:
        timer = threading.Timer(_HEARD_S, os.close, (descriptor,))
        timer.daemon = True
        timer.start()
        raise
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)


def _handle(session: pkcs11.Session) -> int:
    """The session's handle, which python-pkcs11 has and its stub leaves out."""
    return int(cast("Any", session).handle)


def login_on(module: Module, token: pkcs11.Token) -> TokenLogin:
    """This process's one login on a token."""
    name = (token.slot.slot_id, _serial(token), token.label)
    return module.attach(name, lambda: TokenLogin(module, token))


class TokenLogin:
    """This process's login on one token. Hangs on the module; safe to use from any thread, inside `Module.call`."""

    def __init__(self, module: Module, token: pkcs11.Token) -> None:
        self._module = module
        self._lib = module.lib
        self._token = token
        self._slot = token.slot
        self._label = token.label
        self._name = (token.label, _serial(token))
        self._lock = threading.RLock()
        self._session: pkcs11.Session | None = None
        self._pin_source: str | None = None
        self._epoch = 0

    @property
    def epoch(self) -> int:
        """How often it logged in. Handles of private objects do not outlive a login."""
        return self._epoch

    @contextlib.contextmanager
    def session(self, pin_source: str | None, settings: Settings) -> Iterator[pkcs11.Session]:
        """The login session, logged in, for one user at a time. Never close it: that would log out everyone.

        Raises `OperatorError` for a PIN that the token refused, from then on without asking the token again.
        """
        with self._lock:
            self._check_refused()
            if self._session is None:
                self._session = self._log_in(pin_source, settings)
                self._pin_source = pin_source
            elif pin_source != self._pin_source:
                self._check_same_pin(pin_source)
            yield self._session

    def run(self, work: Callable[[pkcs11.Session], T], pin_source: str | None, settings: Settings) -> T:
        """Return `work(session)`, done on the login session. Where that session turns out to be void, logged out, or
        left with an operation that a failed call did not end (PKCS#11 v2.40, 5.2: one operation of a kind at a time),
        log in again and do it once more. Raises `BackendError`, and `PKCS11Error` for what `work` met."""
        with self._lock:
            with self.session(pin_source, settings) as session:
                epoch = self._epoch
                try:
                    return work(session)
                except PKCS11Error as error:
                    if meaning(error).fault not in (Fault.STALE_HANDLE, Fault.LOGIN_LOST):
                        raise
            self.again(epoch, settings)
            with self.session(pin_source, settings) as session:
                return work(session)

    def wait(self) -> None:
        """Wait while somebody logs in."""
        with self._lock:
            pass

    def again(self, epoch: int, settings: Settings) -> None:
        """Log in again, once for all who met the loss of the same login. Raises `BackendError`."""
        with self._lock:
            self._check_refused()
            if epoch != self._epoch or self._session is None:
                return
            session, self._session = self._session, None
            with contextlib.suppress(PKCS11Error, CodeError):
                self._log_out(session)
            self._session = self._log_in(self._pin_source, settings)

    @property
    def in_use(self) -> bool:
        """Whether there is a login, or a refusal to remember."""
        return self._session is not None or self._name in self._module.refusals

    def close(self) -> None:
        """Log out and close the login session, before the module is finalised."""
        with self._lock:
            session, self._session = self._session, None
            if session is not None:
                self._log_out(session)

    def forget(self) -> None:
        """Drop the login session, which is void."""
        with self._lock:
            self._session = None

    def _check_refused(self) -> None:
        for uri, error in self._module.latched:
            if _matches(self._token, uri):
                self._module.refusals.setdefault(self._name, error)
        refused = self._module.refusals.get(self._name)
        if refused is not None:
            raise OperatorError(refused.part, refused.message, refused.remedy)

    def _log_out(self, session: pkcs11.Session) -> None:
        """End the login session. It was opened without a PIN where we log in ourselves, so that closing is closing."""
        try:
            if self._lib.logs_in:
                self._lib.log_out(_handle(session))
        finally:
            session.close()

    def _log_in(self, pin_source: str | None, settings: Settings) -> pkcs11.Session:
        with _alone(self._module.path):
            self._check_refused()
            return self._try_to_log_in(pin_source, settings)

    def _try_to_log_in(self, pin_source: str | None, settings: Settings) -> pkcs11.Session:
        try:
            token = self._slot.get_token()  # its flags change with every failed login
            if not token.flags & TokenFlag.LOGIN_REQUIRED:
                session = token.open(rw=settings.read_write, attribute_mapper=MAPPER)
            else:
                self._check_flags(token, settings)
                if pin_source is None:
                    raise OperatorError(
                        "PIN", f"the token {self._label!r} wants a PIN", "add pin-source=file:PATH to its URI"
                    )
                session = self._open_with(token, read_pin(pin_source), settings)
        except (PKCS11Error, CodeError) as error:
            raise self._login_error(meaning_of(error), pin_source) from None
        self._epoch += 1
        return session

    def _open_with(self, token: pkcs11.Token, pin: Pin, settings: Settings) -> pkcs11.Session:
        """A session that is logged in, or none: a login that fails leaves nothing open. Raises `PKCS11Error` and
        `CodeError`."""
        if not self._lib.logs_in:
            return token.open(rw=settings.read_write, user_pin=pin.reveal(), attribute_mapper=MAPPER)
        session = token.open(rw=settings.read_write, attribute_mapper=MAPPER)
        try:
            self._lib.log_in(_handle(session), pin.reveal())
        except CodeError as error:
            # What logged us out, as far as one session knew, may not have done so for all.
            if self._epoch and meaning_of(error).name == _ALREADY:
                return session
            with contextlib.suppress(PKCS11Error):
                session.close()
            raise
        return session

    def _check_flags(self, token: pkcs11.Token, settings: Settings) -> None:
        flags, what = token.flags, f"the token {self._label!r}"
        if flags & TokenFlag.USER_PIN_LOCKED:
            raise OperatorError(
                "PIN", f"{what} says that its user PIN is locked", "have its security officer set it again"
            )
        if flags & TokenFlag.USER_PIN_FINAL_TRY:
            raise OperatorError(
                "PIN",
                f"{what} says that one more wrong PIN locks it, so it was not asked",
                "log in by hand with the token's own tool, which proves the PIN and clears the count",
            )
        if flags & TokenFlag.USER_PIN_COUNT_LOW and not settings.try_low_pin_count:
            raise OperatorError(
                "PIN",
                f"{what} says that the last login had a wrong PIN, so it was not asked again",
                "check the PIN and log in by hand with the token's own tool, or start once with"
                " try_low_pin_count = true in [stores.pkcs11]",
            )

    def _login_error(self, what: Meaning, pin_source: str | None) -> BackendError:
        if what.name == "CKR_PIN_INCORRECT":
            failure = OperatorError(
                "PIN",
                f"the token {self._label!r} refused the PIN from {pin_source}",
                "correct it and start again; it will not be tried again, since a few wrong PINs lock a token",
            )
        elif what.name == _NO_PIN_YET:
            # Nothing was counted against the PIN, and somebody is likely to be making the token at this moment.
            return OperatorError("token", f"the token {self._label!r} has no user PIN yet", what.remedy)
        elif what.fault in (Fault.OPERATOR, Fault.CALLER) or (what.fault is Fault.DOUBTFUL and what.name != _UNLUCKY):
            # An answer that nobody here knows may be a vendor's way to refuse a PIN: it is not tried again either.
            failure = OperatorError("PIN", f"the token {self._label!r} answered {what.name} to the login", what.remedy)
        else:
            return backend_error(what, "to log in")
        self._module.refusals[self._name] = failure
        return failure

    def _check_same_pin(self, pin_source: str | None) -> None:
        if pin_source is None or self._pin_source is None:
            return
        if not read_pin(pin_source).same_as(read_pin(self._pin_source)):
            raise OperatorError(
                "PIN",
                f"two keys on the token {self._label!r} have different PINs, and a process logs in once",
                f"make {pin_source} and {self._pin_source} hold the same PIN",
            )
