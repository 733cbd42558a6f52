"""What a build farm installs: the SDK, and the `privyseal` command.

    from privyseal import Client, SignatureScheme

    with Client.from_environment() as client:
        signed = client.sign_checksum(checksum, scheme=SignatureScheme.CAPGO_V3)

Names are imported when they are first used, so that `import privyseal` is fast. The client imports nothing of the
service and the backends. Begin to read in `_client.py`; docs/architecture.md has the layers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from privyseal._version import __version__

if TYPE_CHECKING:
    from privyseal._client import Client as Client
    from privyseal.errors import PrivysealError as PrivysealError
    from privyseal.errors import ServiceError as ServiceError
    from privyseal.model import RequestContext as RequestContext
    from privyseal.model import SignatureScheme as SignatureScheme
    from privyseal.model import WrapScheme as WrapScheme

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
