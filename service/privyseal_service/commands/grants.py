"""`privyseal-server grants`: list the grants, and explain which of them would allow a call. No key is opened."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from privyseal_service.commands._errors import CommandError
from privyseal_service.commands._options import config_option, json_option
from privyseal_service.commands._run import load_or_fail
from privyseal_service.system.exit_codes import REFUSED, USAGE

if TYPE_CHECKING:
    from privyseal_service.config.root import Config
    from privyseal_service.domain.grant_explanation import Question, Verdict
    from privyseal_service.domain.grants import Grant


@click.group()
def grants() -> None:
    """List and explain the grants of a configuration."""


@grants.command("list")
@config_option
@json_option
def grants_list(config_file: Path, *, as_json: bool) -> None:
    """List every grant with all its settings, for a review.

    \b
    Example:
      privyseal-server grants list --config server.toml --json
    """  # noqa: D301 - click's own mark
    found = [each.grant() for each in load_or_fail(config_file).grants]
    if as_json:
        click.echo(json.dumps([_to_json(grant) for grant in found], indent=2))
        return
    for grant in found:
        settings = {name: value for name, value in _to_json(grant).items() if name not in {"name", "file"} and value}
        click.echo(f"{grant.name}: {json.dumps(settings)}")


@grants.command("explain", short_help="Report which grant allows a call, or why none does.")
@config_option
@click.option("--caller", required=True, metavar="NAME", help="spiffe://…, dns:NAME, cn:NAME or oidc:ISSUER:SUBJECT.")
@click.option("--operation", required=True, metavar="OPERATION", help="As in grants: sign-checksum and so on.")
@click.option("--key", default="", metavar="NAME", help="The key; not for list-records.")
@click.option("--scheme", metavar="SCHEME", help="As in grants; by default any scheme of the key.")
@click.option(
    "--claim", "claims", multiple=True, metavar="NAME=VALUE", help="A claim of the caller's token; may be repeated."
)
@click.option(
    "--context", multiple=True, metavar="FIELD=VALUE", help="A field of the request's context; may be repeated."
)
@click.option("--at", metavar="TIME", help="A time as 2026-05-01T08:00:00+02:00; by default now.")
@json_option
def grants_explain(
    config_file: Path,
    *,
    caller: str,
    operation: str,
    key: str,
    scheme: str | None,
    claims: tuple[str, ...],
    context: tuple[str, ...],
    at: str | None,
    as_json: bool,
) -> None:
    """Report which grant allows a call, or why none does: one line for each grant.

    The rules are those that decide on real calls; rates and quotas are named, but not counted. Exits with 1 when the
    call would be refused.

    \b
    Example:
      privyseal-server grants explain --config server.toml --caller dns:a.build.example \\
          --key app-release --operation sign-checksum --scheme capgo-v3
    """  # noqa: D301 - click's own mark
    from privyseal_service.domain.grant_explanation import explain  # noqa: PLC0415

    config = load_or_fail(config_file)
    question = _question(
        caller, operation, key, scheme=scheme, claims=_pairs("claim", claims), context=_pairs("context", context), at=at
    )
    verdicts = explain([each.grant() for each in config.grants], question)
    obstacle = _key_obstacle(config, question)
    allowed_by = next((v.grant.name for v in verdicts if v.allows), None) if not obstacle else None
    if as_json:
        lines = [{"grant": v.grant.name, "file": v.grant.origin, "allows": v.allows, "why": v.why} for v in verdicts]
        click.echo(json.dumps({"allowed_by": allowed_by, "key": obstacle, "grants": lines}, indent=2))
    else:
        click.echo("\n".join([*map(_line, verdicts), _conclusion(allowed_by, obstacle)]))
    if allowed_by is None:
        sys.exit(REFUSED)


def _pairs(option: str, texts: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise CommandError(f"--{option} must be NAME=VALUE", USAGE)
        pairs[name] = value
    return pairs


def _question(
    caller: str,
    operation: str,
    key: str,
    *,
    scheme: str | None,
    claims: dict[str, str],
    context: dict[str, str],
    at: str | None,
) -> Question:
    from privyseal_service.domain.grant_explanation import Question  # noqa: PLC0415
    from privyseal_service.domain.grants import CONTEXT_FIELDS  # noqa: PLC0415
    from privyseal_service.domain.operation_names import GRANTABLE, Operation  # noqa: PLC0415
    from privyseal_service.domain.operations import SignatureScheme, WrapScheme  # noqa: PLC0415
    from privyseal_service.domain.requests import Context  # noqa: PLC0415

    operations = {each.value: each for each in (*GRANTABLE, Operation.LIST_RECORDS)}
    schemes = {each.value: each for each in (*WrapScheme, *SignatureScheme)}
    _require_known("operation", operation, operations)
    if scheme is not None:
        _require_known("scheme", scheme, schemes)
    for name in context:
        _require_known("context", name, CONTEXT_FIELDS)
    if not key and operations[operation] is not Operation.LIST_RECORDS:
        raise CommandError("name the key with --key", USAGE)
    return Question(
        caller,
        tuple(claims.items()),
        key,
        operations[operation],
        schemes[scheme] if scheme else None,
        Context(**context),
        _time(at),
    )


def _require_known(option: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise CommandError(f"--{option} must be one of {', '.join(known)}", USAGE)


def _time(at: str | None) -> float:
    import datetime  # noqa: PLC0415

    if at is None:
        return datetime.datetime.now(datetime.UTC).timestamp()
    wanted = "--at must be a time with its offset from UTC, as 2026-05-01T08:00:00+02:00"
    try:
        found = datetime.datetime.fromisoformat(at)
    except ValueError:
        raise CommandError(wanted, USAGE) from None
    if found.tzinfo is None:
        raise CommandError(wanted, USAGE)
    return found.timestamp()


def _key_obstacle(config: Config, question: Question) -> str:
    """Return why the key serves no caller this call, or an empty string."""
    if not question.key:
        return ""
    key = next((key for key in config.keys if key.name == question.key), None)
    if key is None:
        return "there is no such key"
    if question.scheme is not None and question.scheme not in key.schemes:
        return f"the key is not enrolled for {question.scheme.value}"
    return "the key is frozen" if key.state == "frozen" else ""


def _line(verdict: Verdict) -> str:
    return f"{'allows' if verdict.allows else 'no    '}  {verdict.grant.name}: {verdict.why}"


def _conclusion(allowed_by: str | None, obstacle: str) -> str:
    if obstacle:
        return f"refused: {obstacle}"
    return f"allowed by {allowed_by}" if allowed_by is not None else "refused: no grant allows it"


def _to_json(grant: Grant) -> dict[str, object]:
    """Return all settings of a grant; those that it does not have are null or empty."""
    return {
        "name": grant.name,
        "file": grant.origin,
        "callers": [pattern.text for pattern in grant.callers],
        "claims": {rule.claim: [pattern.text for pattern in rule.patterns] for rule in grant.claims},
        "keys": sorted(grant.keys),
        "operations": sorted(operation.value for operation in grant.operations),
        "schemes": None if grant.schemes is None else sorted(scheme.value for scheme in grant.schemes),
        "window": grant.hours.text if grant.hours else None,
        "context": list(grant.context),
        "rate": grant.rate.text if grant.rate else None,
        "daily_quota": grant.daily_quota,
        "counted": grant.counted.value if grant.counts else None,
        "priority": grant.priority,
    }
