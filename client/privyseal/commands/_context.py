"""The flags for a request's context, which the service records; shared by the commands that sign."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from privyseal.model import RequestContext

F = TypeVar("F", bound=Callable[..., Any])

_RECORD_OPTIONS = (
    click.option("--app-id", metavar="ID", help="For the record: the app's identifier."),
    click.option(
        "--revision", metavar="COMMIT", help="For the record: the source revision.  [default: from the CI system]"
    ),
    click.option(
        "--build-url", metavar="URL", help="For the record: where the build is.  [default: from the CI system]"
    ),
)


def record_options(function: F) -> F:
    """Add `--app-id`, `--revision` and `--build-url`."""
    for option in reversed(_RECORD_OPTIONS):
        function = option(function)
    return function


def bundle_version_option(function: F) -> F:
    """Add `--bundle-version`."""
    return click.option("--bundle-version", metavar="VERSION", help="For the record: the bundle's version.")(function)


def context_from(
    app_id: str | None, bundle_version: str | None, revision: str | None, build_url: str | None
) -> RequestContext:
    """The context from the flags and the CI system's variables."""
    from privyseal import ci  # noqa: PLC0415 - help and version need none of it

    return ci.with_flags(
        ci.context_from(os.environ),
        app_id=app_id,
        bundle_version=bundle_version,
        source_revision=revision,
        build_url=build_url,
    )
