"""What the service needs to know of key URIs without opening a store: the paths in them, and which store each names.

A backend registers an instance of `StoreUris` under the entry point group `privyseal.backend_uris`, with its URI
scheme as the name, in a module that imports without the packages of its extra. One that registers none gets the
defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

# What RFC 7512 (section 2.3) allows in a query attribute unescaped, as far as a path needs it.
_PLAIN = "/:@!$'()*+,=[]?"


@dataclass(frozen=True)
class StoreUris:
    """The URIs of one backend.

    `path_attributes` are the attributes of a URI's query that hold a path, each with the prefix of the path in its
    value, such as `file:`. `path_settings` are the settings in `[stores.SCHEME]` that hold a path.
    """

    path_attributes: Mapping[str, str] = field(default_factory=dict)
    path_settings: frozenset[str] = frozenset()

    def resolve_paths(self, uri: str, folder: Path) -> str:
        """Return the URI with the relative paths in it made absolute from `folder`. The rest stays as it was written,
        for the backend to judge."""
        start, question_mark, query = uri.partition("?")
        if not question_mark or not self.path_attributes:
            return uri
        return f"{start}?{'&'.join(self._resolve(attribute, folder) for attribute in query.split('&'))}"

    def resolve_settings(self, settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """Return the settings of the store with the relative paths among them made absolute from `folder`."""
        return {
            name: str(folder / value) if name in self.path_settings and isinstance(value, str) and value else value
            for name, value in settings.items()
        }

    def store_name(self, uri: str) -> str:
        """Return a name for the store of a key: keys whose stores have one name share a queue."""
        return uri.partition(":")[0].lower()

    def same_store(self, one: str, other: str) -> bool:
        """Return whether two keys may be in one token, so that a PIN that it refused for one is refused for both."""
        return one == other

    def _resolve(self, attribute: str, folder: Path) -> str:
        name, equals, value = attribute.partition("=")
        prefix = self.path_attributes.get(name)
        if prefix is None or not equals or not value.startswith(prefix):
            return attribute
        path = value.removeprefix(prefix)
        if not path or unquote(path).startswith("/"):
            return attribute
        return f"{name}={prefix}{quote(str(folder), safe=_PLAIN)}/{path}"
