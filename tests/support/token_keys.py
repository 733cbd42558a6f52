"""Keys in a SoftHSM token as a configuration names them, and what of a private key must not appear anywhere."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.serving import Place, pem
from tests.support.softhsm import SoftHsmToken


def key_of(place: Place, token: SoftHsmToken, name: str = "demo", schemes: str = '"capgo", "capgo-v3"') -> str:
    """The table of a key in the token. Its PIN's file is named relatively."""
    uri = token.uri(name).replace(f"file:{place.folder}/", "file:")
    assert str(place.folder) not in uri.partition("pin-source")[2]
    return f'[[keys]]\nname = "{name}"\nuri = "{uri}"\nschemes = [{schemes}]\n'


def material(private_key: rsa.RSAPrivateKey) -> list[str]:
    """The texts of a private key that must not appear anywhere."""
    numbers = private_key.private_numbers()
    lines = pem(private_key).decode().splitlines()[1:-1]
    return [*lines, *(f"{number:x}" for number in (numbers.d, numbers.p, numbers.q))]
