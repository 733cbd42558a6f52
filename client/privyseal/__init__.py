"""What a build farm installs: the SDK, and the `privyseal` command.

    from privyseal import Client, SignatureScheme

    with Client.from_environment() as client:
        signed = client.sign_checksum(checksum, scheme=SignatureScheme.CAPGO_V3)

Names are imported when they are first used, so that `import privyseal` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from privyseal._client import Client as Client
    from privyseal.errors import PrivysealError as PrivysealError
    from privyseal.errors import ServiceError as ServiceError
    from privyseal.model import RequestContext as RequestContext
    from privyseal.model import SignatureScheme as SignatureScheme
    from privyseal.model import WrapScheme as WrapScheme

__version__ = "0.1.0"

_HOMES = {
    "Client": "privyseal._client",
    "PrivysealError": "privyseal.errors",
    "RequestContext": "privyseal.model",
    "ServiceError": "privyseal.errors",
    "SignatureScheme": "privyseal.model",
    "WrapScheme": "privyseal.model",
}

__all__ = ["Client", "PrivysealError", "RequestContext", "ServiceError", "SignatureScheme", "WrapScheme", "__version__"]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)
