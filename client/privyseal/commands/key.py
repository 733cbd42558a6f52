"""`privyseal key`: what the caller may use, and where it lives."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

import click

from privyseal._terminal import result, say
from privyseal.commands._connection import connection_options, open_client, refuse_key_file, settings_from
from privyseal.commands.certificate import certificate
from privyseal.commands.key_install import capgo_pem, install
from privyseal.errors import Code, UnavailableError
from privyseal.model import Custody, Finding, Key, SignatureScheme, WrapScheme

if TYPE_CHECKING:
    from privyseal.custody import CustodyReport, KeyReport

_WIDEST = 400
"""Characters of one line of text; all of it is in the JSON."""


@click.group()
def key() -> None:
    """Show the keys that you may use, and put them into apps."""


key.add_command(install)
key.add_command(certificate)


@key.command("list", short_help="List the keys that you may use.", epilog="\b\nExample:\n  privyseal key list --json\n")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print all that is known, as JSON.")
@connection_options
def list_(*, as_json: bool, timeout_s: float, **connection: Any) -> None:
    """List the keys that you may use, each with its state, Capgo key_id and schemes."""
    settings = settings_from(connection)
    with open_client(settings, timeout_s) as client:
        keys = client.list_keys()
    if as_json:
        result(json.dumps([_as_json(found) for found in keys], indent=2, ensure_ascii=False))
    elif not keys:
        say("There is no key that you may use; ask the security team for a grant.")
    else:
        result(_table([("NAME", "STATE", "KEY ID", "SCHEMES"), *(_row(found) for found in keys)]))


_SHOW_EPILOG = """\b
Examples:
  privyseal key show my-app
  privyseal key show my-app --format capgo > .capgo_key_v2.pub && npx @capgo/cli key save
  privyseal key show my-app --format json > evidence.json
"""


@key.command(epilog=_SHOW_EPILOG, short_help="Show a key: public key, custody, evidence.")
@click.argument("name", required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(["capgo", "pkcs1", "spki", "json"]),
    help="The public key in PEM, as Capgo wants it (PKCS#1, if devices can use the key), as PKCS#1 or as SPKI; "
    "or everything, as JSON.  [default: a text]",
)
@connection_options
def show(*, name: str | None, form: str | None, timeout_s: float, **connection: Any) -> None:
    """Show the key NAME: its public key, what it may do, where it lives, and the evidence for that.

    Without NAME, the key of the configuration, else the only one that you may use.
    """
    settings = settings_from(connection)
    refuse_key_file(name)
    with open_client(settings, timeout_s) as client:
        found = client.get_key(name)
    if form == "json":
        result(json.dumps(_as_json(found), indent=2, ensure_ascii=False))
    elif form is None:
        result(_as_text(found))
    else:
        result(_public_key(found, form).rstrip("\n"))


_CUSTODY_EPILOG = """\b
Examples:
  privyseal key custody
  privyseal key custody --json > custody-$(date +%F).json
"""


@key.command(epilog=_CUSTODY_EPILOG, short_help="Report where your keys live, with evidence.")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print the report as JSON.")
@connection_options
def custody(*, as_json: bool, timeout_s: float, **connection: Any) -> None:
    """Report on the custody of every key that you may use: where it lives, whether it is in hardware, where it was
    made, whether it can leave, why that is thought, the key store's own answers, and what you may do with it.

    Exits with 3 when the service has not opened a key yet, which the report then leaves out.
    """
    from privyseal.custody import custody_report  # noqa: PLC0415 - help and version need none of it

    settings = settings_from(connection)
    with open_client(settings, timeout_s) as client:
        keys = client.list_keys()
    report = custody_report(keys, settings.require_connection(), datetime.now(UTC))
    if as_json:
        result(json.dumps(asdict(report, dict_factory=_plain), indent=2, ensure_ascii=False))
    else:
        result(_report_as_text(report))
    if report.silent:
        raise UnavailableError(
            f"the report lacks {', '.join(report.silent)}, which the service has not opened yet",
            code=Code.UNAVAILABLE,
            remedy="report again when the key store can be reached",
        )


def _public_key(found: Key, form: str) -> str:
    from privyseal import capgo  # noqa: PLC0415 - help and version need none of it
    from privyseal.verification import public_key_of  # noqa: PLC0415

    public_key = public_key_of(found)
    if form == "spki":
        return capgo.spki_pem(public_key)
    if form == "capgo":
        pem = capgo_pem(found, remedy="use --format pkcs1")
        say(f"Capgo's key_id is {capgo.key_id(public_key)}.")
        return pem
    return capgo.pkcs1_pem(public_key)


def _plain(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, Enum):
            return value.value
        return [plain(item) for item in value] if isinstance(value, tuple) else value

    return {name: plain(value) for name, value in pairs}


def _as_json(found: Key) -> dict[str, Any]:
    return asdict(found, dict_factory=_plain)


def _schemes(found: Key) -> list[str]:
    schemes: tuple[WrapScheme | SignatureScheme, ...] = (*found.wrap_schemes, *found.signature_schemes)
    return [scheme.value for scheme in schemes]


def _row(found: Key) -> tuple[str, str, str, str]:
    key_id = found.public_key.capgo_key_id if found.public_key else "-"
    return found.name, found.state.value, key_id, " ".join(_schemes(found)) or "-"


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _as_text(found: Key) -> str:
    lines = [("Name", found.name), ("State", found.state.value), ("Key version", found.key_version or "not known yet")]
    if found.public_key is not None:
        lines += [
            ("Algorithm", f"RSA-{found.public_key.modulus_bits}"),
            ("Fingerprint", found.public_key.fingerprint),
            ("Capgo key_id", found.public_key.capgo_key_id),
        ]
    lines.append(("Schemes", ", ".join(_schemes(found)) or "none"))
    if found.custody is not None:
        lines += _custody_lines(found.custody)
    return _block(lines)


def _block(lines: list[tuple[str, str]]) -> str:
    width = max(len(label) for label, _ in lines)
    return "\n".join(f"{label:<{width}}  {_one_line(value)}".rstrip() for label, value in lines)


def _report_as_text(report: CustodyReport) -> str:
    head = [
        ("Custody of", f"{len(report.keys)} keys" if len(report.keys) != 1 else "1 key"),
        ("Service", report.server),
        ("Made at", report.made_at),
        ("Asked as", report.asked_as),
        ("Grants", report.note),
    ]
    return "\n\n".join(_block(lines) for lines in (head, *(_report_lines(each) for each in report.keys)))


def _report_lines(found: KeyReport) -> list[tuple[str, str]]:
    lines = [("Key", found.name), ("State", found.state.value)]
    if found.custody is None or found.public_key is None:
        return [*lines, ("Custody", "not known: the service has not opened the key since it started")]
    public_key = found.public_key
    return [
        *lines,
        ("Lives in", found.lives_in),
        ("Key version", found.key_version),
        ("Algorithm", found.algorithm),
        ("Fingerprint", f"SHA-256 of the SPKI: {public_key.fingerprint}"),
        ("Capgo key_id", public_key.capgo_key_id),
        ("Granted", f"{', '.join(found.granted) or 'nothing'} (to the caller who asked)"),
        *_custody_lines(found.custody),
    ]


def _custody_lines(custody: Custody) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    findings: tuple[tuple[str, Finding], ...] = (
        ("Protection", custody.protection),
        ("Origin", custody.origin),
        ("Export", custody.export),
    )
    for label, finding in findings:
        lines.append((label, finding.value.replace("-", " ")))
        lines += [("", f"- {reason}") for reason in finding.reasons]
    return [*lines, *(("Evidence", f"{evidence.name} = {evidence.value}") for evidence in custody.evidence)]


def _one_line(value: str) -> str:
    """An answer of a key store may have several lines (a certificate), control characters, and great length."""
    first, *more = value.splitlines() or [""]
    shown = "".join(c if c.isprintable() else " " for c in first[:_WIDEST])
    if len(first) > _WIDEST:
        shown += f" … ({len(first) - _WIDEST} more characters)"
    return shown + (f" … ({len(more)} more lines)" if more else "")
