"""The order of things: look at the command and the app, compare keys, start the agent, run, judge what came of it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from privyseal import capgo, private_keys
from privyseal.errors import ConfigurationError, InputError, PrivysealError
from privyseal.exec import app, child
from privyseal.exec.agent import Agent
from privyseal.exec.words import Command, understand
from privyseal.model import Key, SignatureScheme, WrapScheme
from privyseal.verification import public_key_of

if TYPE_CHECKING:
    from privyseal._client import Client

OWN_FAILURE = 125
"""The exit code of what fails here before or around the command, as env has it."""

NOTHING_SIGNED = 1
"""The exit code when the command succeeded and a signature was due that never came through the agent."""

TESTED_CLI = ((8, 50, 3), (8, 68, 1))
"""The first and the last version of @capgo/cli that passed tests/interop/test_capgo_exec.py (docs/capgo-cli.md)."""


@dataclass(frozen=True)
class Options:
    """The values of the flags. `folder` is the app's; `timeout_s` bounds each call to the service."""

    folder: Path
    strict: bool
    allow_none: bool
    timeout_s: float


def tell(message: str) -> None:
    """One sentence for a person."""
    click.echo(f"privyseal exec: {message}", err=True)


def caution(message: str, *, strict: bool) -> None:
    """Warn of something, or fail for it with --strict."""
    if strict:
        raise ConfigurationError(message, remedy="--strict does not allow it")
    tell(f"warning: {message}")


def execute(
    words: Sequence[str], options: Options, environ: Mapping[str, str], open_client: Callable[[str, str], Client]
) -> int:
    """Run a command with the key at the service; the exit code. `open_client` makes a client whose requests are
    recorded for an app's identifier and a bundle's version. Ends this process by the signal that ended the command."""
    try:
        command = understand(words)
        check_command(command, words)
        config = look_at_app(command, options, environ)
        with open_client(config.app_id if config else "", command.bundle_version) as client:
            signer = choose_signer(client, config)
            status, agent = _run(words, options, environ, signer)
        if status == 0:
            return judge(command, agent, allow_none=options.allow_none)
    except child.SpawnError as error:
        tell(str(error))
        return error.exit_code
    except PrivysealError as error:
        tell(str(error))
        return OWN_FAILURE
    return child.end_as(status)


def check_command(command: Command, words: Sequence[str]) -> None:
    """Refuse what cannot be signed for, or would not be. Raises InputError."""
    runtime = command.foreign_runtime
    if runtime is not None:
        raise InputError(
            f"{runtime} does not load the signing hook and would sign with any key file that it finds",
            remedy="run the Capgo CLI with node, as `npx @capgo/cli …`",
        )
    if command.uploads and command.has_option("--no-key"):
        raise InputError("--no-key uploads the bundle unsigned", remedy="take the option away, or run without exec")
    if any(private_keys.is_private_key(os.fsencode(word)) for word in words):
        raise InputError(
            "there is a private key among the words of the command",
            remedy="take the option away: the placeholder is found where the Capgo CLI looks for a key",
        )


def look_at_app(command: Command, options: Options, environ: Mapping[str, str]) -> app.AppConfig | None:
    """Read the app's configuration and look for private keys. Raises PrivysealError."""
    for key_file in private_keys.private_keys(options.folder):
        caution(f"{key_file} holds a private key, which this machine should not have", strict=options.strict)
    # Only in `bundle encrypt` does the CLI read the public key from the file that --capacitor-config names.
    named = command.option("--capacitor-config") if command.encrypts else None
    path = app.find_config(options.folder, named)
    if path is None:
        caution(
            f"there is no capacitor.config in {options.folder}, so the app's public key was not compared; "
            "name the app's folder with --app",
            strict=options.strict,
        )
        return None
    config = app.read_config(path, child.without_token(environ), named=named is not None)
    if config.has_private_key:
        caution(f"{path} holds a privateKey, which every copy of the app would contain", strict=options.strict)
    return config


@dataclass(frozen=True)
class ServiceSigner:
    """The agent's operations, done by a key at the service."""

    client: Client
    key: str
    public_key: RSAPublicKey

    def wrap_session_key(self, session_key: bytes) -> bytes:
        """See agent.Signer."""
        return self.client.wrap_session_key(session_key, scheme=WrapScheme.CAPGO, key=self.key).wrapped_key

    def sign_checksum(self, scheme: SignatureScheme, checksum: bytes) -> bytes:
        """See agent.Signer."""
        return self.client.sign_checksum(checksum, scheme=scheme, key=self.key).signature


def choose_signer(client: Client, config: app.AppConfig | None) -> ServiceSigner:
    """The key at the service, once it is known that Capgo's operations are allowed and that the app trusts it."""
    key = client.get_key()
    public_key = _checked_public_key(key)
    if config is not None:
        app.check_public_key(config, key.name, public_key)
    return ServiceSigner(client, key.name, public_key)


def _checked_public_key(key: Key) -> RSAPublicKey:
    signs = {SignatureScheme.CAPGO_V2, SignatureScheme.CAPGO_V3}.intersection(key.signature_schemes)
    if WrapScheme.CAPGO not in key.wrap_schemes or not signs:
        raise ConfigurationError(
            f'the key "{key.name}" is not enrolled, or not granted to you, for capgo and capgo-v2 or capgo-v3',
            remedy="name another key with --key, or ask the security team",
        )
    public_key = public_key_of(key)
    capgo.check_capgo_key(public_key)
    return public_key


def _run(
    words: Sequence[str], options: Options, environ: Mapping[str, str], signer: ServiceSigner
) -> tuple[int, Agent]:
    with child.signals() as received, child.private_folder() as folder:
        socket_path = folder / "agent"
        agent = Agent(socket_path, signer, signer.public_key, lambda version: approve(version, strict=options.strict))
        with agent:
            env = child.environment(environ, folder, socket_path, options.timeout_s)
            return child.run(words, env, received), agent


def approve(version: str | None, *, strict: bool) -> None:
    """Warn of, or with --strict refuse, a CLI that was not tested. None is a program that is not the Capgo CLI."""
    if version is None:
        caution("the program that asks for a signature is not @capgo/cli, for which this is made", strict=strict)
        return
    release = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", version, re.ASCII)
    if release is None or not TESTED_CLI[0] <= tuple(map(int, release.groups())) <= TESTED_CLI[1]:
        first, last = (".".join(map(str, bound)) for bound in TESTED_CLI)
        caution(f"@capgo/cli {version} was not tested; {first} to {last} were", strict=strict)


def judge(command: Command, agent: Agent, *, allow_none: bool) -> int:
    """The exit code of a command that succeeded: 0 when what it owed came through the agent."""
    if agent.failed:
        tell(f"the command succeeded, but {agent.failed} of its signatures were refused or failed")
        return NOTHING_SIGNED
    if agent.signed == 0 and command.owes_signature and not allow_none:
        tell(
            "the command succeeded, but no signature came through the signing agent: what it made or uploaded is not "
            "signed by the key at the service; if nothing was to be signed, pass --allow-none"
        )
        return NOTHING_SIGNED
    return 0
