"""From a key's URI to its backend: the URI's scheme names an entry point, and nothing else is imported."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, cast

from privyseal_backends.interface import CallerError, OperatorError
from privyseal_backends.uris import StoreUris

if TYPE_CHECKING:
    from privyseal_backends.interface import OpenStore

GROUP = "privyseal.backends"
URIS_GROUP = "privyseal.backend_uris"


def uri_scheme(uri: str) -> str:
    """The scheme of a key's URI, lower case (RFC 3986, 3.1). Raises `CallerError` when there is none."""
    scheme, colon, _ = uri.partition(":")
    if not colon or not scheme.isascii() or not scheme.isalnum():
        raise CallerError("URI", "a key's URI begins with its key store", "write pkcs11:, awskms: or gcpkms:")
    return scheme.lower()


def backend(scheme: str) -> OpenStore:
    """The entry point that serves `scheme`. Raises `OperatorError` when there is none, or when a package that it
    needs is not installed: the sentence then names the extra to install.
    """
    found = [point for point in entry_points(group=GROUP) if point.name == scheme]
    if not found:
        known = ", ".join(sorted({point.name for point in entry_points(group=GROUP)}))
        raise OperatorError("backend", f"no key store serves the scheme {scheme!r}", f"those installed serve {known}")
    if len({point.value for point in found}) > 1:
        packages = " and ".join(sorted(point.value for point in found))
        raise OperatorError("backend", f"two packages serve the scheme {scheme!r}: {packages}", "uninstall one of them")
    try:
        return cast("OpenStore", found[0].load())
    except ModuleNotFoundError as error:
        extra = ",".join(found[0].extras)
        remedy = f"install it with: pip install 'privyseal[{extra}]'" if extra else "install what the backend needs"
        raise OperatorError("backend", f"{scheme} keys need the package {error.name}", remedy) from None


@cache
def _registered_uris(scheme: str) -> StoreUris:
    found = [point for point in entry_points(group=URIS_GROUP) if point.name == scheme]
    return cast("StoreUris", found[0].load()) if found else StoreUris()


def store_uris(uri: str) -> StoreUris:
    """Return what the backend of a URI, or of a URI scheme, offers about its URIs, or the defaults.

    The backend itself is not imported, and need not be installed with its extra.
    """
    return _registered_uris(uri.partition(":")[0].lower())


def same_store(one: str, other: str) -> bool:
    """Return whether the keys of two URIs may be in one token (`StoreUris.same_store`)."""
    return one.partition(":")[0].lower() == other.partition(":")[0].lower() and store_uris(one).same_store(one, other)
