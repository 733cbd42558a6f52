"""The flags that say what a request is for, which the service records; shared by the commands that sign."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from privyseal.model import RequestContext

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--app-id", metavar="ID", help="For the record: the app's identifier."),
    click.option("--bundle-version", metavar="VERSION", help="For the record: the bundle's version."),
    click.option(
        "--revision", metavar="COMMIT", help="For the record: the source revision.  [default: from the CI system]"
    ),
    click.option(
        "--build-url", metavar="URL", help="For the record: where the build is.  [default: from the CI system]"
    ),
)
NAMES = ("app_id", "bundle_version", "revision", "build_url")
"""The parameters that a command with these flags gets."""


def context_options(function: F) -> F:
    """Add the flags of a request's context to a command."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def context_from(flags: dict[str, Any]) -> RequestContext:
    """What the flags and the CI system's variables say. `flags` holds each of `NAMES`."""
    from privyseal import ci  # noqa: PLC0415 - help and version need none of it

    return ci.with_flags(
        ci.context_from(os.environ),
        app_id=flags["app_id"],
        bundle_version=flags["bundle_version"],
        source_revision=flags["revision"],
        build_url=flags["build_url"],
    )
