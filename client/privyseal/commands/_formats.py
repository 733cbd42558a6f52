"""The flags for the format of a sealed bundle and the key that opens it, for the commands that seal and open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from privyseal._terminal import say, warn
from privyseal.model import BundleFormat, SignatureScheme

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

F = TypeVar("F", bound=Callable[..., Any])

_FORMAT_OPTIONS = (
    click.option(
        "--format",
        "bundle_format",
        type=click.Choice([f.value for f in BundleFormat]),
        help="What devices take; auto decides by the installed @capgo/capacitor-updater.  [default: auto]",
    ),
    click.option(
        "--package-json",
        metavar="FILES",
        help="The package.json files, with commas between them, near which auto looks for the plugin.",
    ),
)


def format_options(function: F) -> F:
    """Add `--format` and `--package-json`; the command takes `bundle_format` and `package_json`."""
    for option in reversed(_FORMAT_OPTIONS):
        function = option(function)
    return function


def public_key_option(function: F) -> F:
    """Add `--public-key PEM`; the command takes `public_key_path`."""
    return click.option(
        "--public-key",
        "public_key_path",
        type=click.Path(path_type=Path),
        metavar="PEM",
        required=True,
        help="The app's public key, PKCS#1 or SPKI.",
    )(function)


def read_public_key(path: Path) -> RSAPublicKey:
    """The public key in a file. Raises FileUnusableError and InputError."""
    from privyseal import capgo  # noqa: PLC0415 - help and version need none of it
    from privyseal._files import read_small  # noqa: PLC0415
    from privyseal.errors import InputError  # noqa: PLC0415

    try:
        return capgo.load_public_key(read_small(path))
    except InputError as error:
        raise InputError(f"{path}: {error.message}", remedy=error.remedy) from None


def scheme_of(bundle_format: BundleFormat, package_json: str | None) -> SignatureScheme:
    """The scheme of a format; auto decides by the app in the working folder, and says so. Raises FileUnusableError when
    one of the files of `package_json` is not there."""
    files = [Path(name.strip()) for name in (package_json or "").split(",") if name.strip()]
    if bundle_format is not BundleFormat.AUTO and not files:
        return SignatureScheme(bundle_format.value)
    from privyseal import plugin_version  # noqa: PLC0415

    plugin_version.check_named(Path.cwd(), files)
    if bundle_format is not BundleFormat.AUTO:
        return SignatureScheme(bundle_format.value)
    decision = plugin_version.decide(Path.cwd(), files)
    if decision.certain:
        say(f"{plugin_version.PLUGIN} {decision.version} takes {decision.scheme.value}.")
    else:
        found = f"the version {decision.version} of {plugin_version.PLUGIN} does not decide it"
        warn(
            f"{found if decision.version else f'no {plugin_version.PLUGIN} was found'}, so this is "
            f"{decision.scheme.value}, as Capgo's CLI has it; newer devices refuse that: pass --format to be sure"
        )
    return decision.scheme
