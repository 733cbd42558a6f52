"""The table of backends and schemes, made from what the code declares: --write puts it into the documents that have its
marks, --check says which are not current."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from google.cloud.kms_v1.types import CryptoKeyVersion

from privyseal_backends.aws_kms import capability as aws
from privyseal_backends.google_kms import capability as google
from privyseal_backends.interface import PURPOSES, Mechanism, Purpose
from privyseal_backends.pkcs11.capability import KeyFacts, MechanismInfo, assess
from privyseal_backends.pkcs11.mechanisms import TOKEN_MECHANISMS, mechanism_name
from privyseal_backends.pkcs11.objects import KeyAttributes
from privyseal_service.domain.operations import MECHANISMS, MODULUS_BITS, Scheme, SignatureScheme, WrapScheme

CHECKOUT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- backends and schemes: made by scripts/backends_table.py -->", "<!-- end of backends and schemes -->"
SIZES = (2048, 3072, 4096)
SCHEMES: tuple[Scheme, ...] = (WrapScheme.CAPGO, *SignatureScheme, *list(WrapScheme)[1:])


@dataclass(frozen=True)
class Able:
    """What keys of a backend make a mechanism: sizes in bits, and how the store calls what they need. Without sizes,
    `needs` is the backend's own sentence: why no key does, and what would work."""

    sizes: frozenset[int]
    needs: str


def _pkcs11(mechanism: Mechanism) -> Able:
    """Of a key on a token that has every mechanism."""
    numbers = {each.mechanism for each in TOKEN_MECHANISMS.values()}
    infos = {int(number): MechanismInfo(1024, 4096, signs=True, decrypts=True) for number in numbers}
    decrypts = PURPOSES[mechanism] is Purpose.DECRYPTION
    attributes = KeyAttributes(sign=not decrypts, decrypt=decrypts)
    able = {bits for bits in SIZES if mechanism in assess(KeyFacts(attributes, bits, 65537, infos, {}))[0]}
    return Able(frozenset(able), mechanism_name(TOKEN_MECHANISMS[mechanism].mechanism))


def _aws(mechanism: Mechanism) -> Able:
    sentences: dict[tuple[int, str], str] = {
        (bits, usage): aws.capability(spec, usage, aws.ALGORITHMS.values())[mechanism]
        for spec, bits in aws.MODULUS_BITS.items()
        for usage in aws.USAGES.values()
    }
    able = frozenset(bits for (bits, _), refusal in sentences.items() if not refusal)
    return Able(able, aws.ALGORITHMS[mechanism] if able else next(iter(sentences.values())))


def _google(mechanism: Mechanism) -> Able:
    names = list(CryptoKeyVersion.CryptoKeyVersionAlgorithm.__members__)
    found = {name: google.capability(name, "HSM") for name in names}
    able = {name: can.bits for name, can in found.items() if mechanism in can.mechanisms and can.bits}
    (pattern,) = {name.replace(f"_{bits}", "_*") for name, bits in able.items()}
    return Able(frozenset(able.values()), pattern.replace("*", str(*able.values())) if len(able) == 1 else pattern)


BACKENDS = {"PKCS#11": _pkcs11, "AWS KMS": _aws, "Google Cloud KMS": _google}


def abilities() -> Mapping[tuple[str, Scheme], Able]:
    """What each backend can do, by its name and the scheme, within the key sizes that the service takes."""
    found = {}
    for scheme in SCHEMES:
        mechanism = MECHANISMS[scheme]
        for name, ask in BACKENDS.items():
            able = ask(mechanism)
            found[name, scheme] = Able(able.sizes & MODULUS_BITS[mechanism], able.needs)
    return found


def table() -> str:
    """The table in Markdown, and a sentence for each no."""
    able = abilities()
    lines = [_row(["Scheme", *BACKENDS]), _row(["---"] * (1 + len(BACKENDS)))]
    lines += [_row([f"`{scheme.value}`", *(_cell(able[name, scheme]) for name in BACKENDS)]) for scheme in SCHEMES]
    never = {
        (name, one.needs): [f"`{scheme.value}`" for scheme in SCHEMES if able[name, scheme] == one]
        for (name, _), one in able.items()
        if not one.sizes
    }
    why = [f"- {name} has no {', '.join(named)}: {sentence}." for (name, sentence), named in never.items()]
    return "\n".join([*lines, "", *why])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(able: Able) -> str:
    if not able.sizes:
        return "no"
    sizes = sorted(able.sizes)
    shown = f"{sizes[0]} to {sizes[-1]}" if sizes == list(SIZES) else ", ".join(map(str, sizes))
    return f"RSA-{shown}, `{able.needs}`"


def renewed(text: str) -> str:
    """A document with the table between its marks made anew. Raises ValueError where it has no marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the document has no marks for the table")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def documents() -> list[Path]:
    """The documents that have the table."""
    return [
        path
        for path in (CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md")))
        if BEGIN in path.read_text()
    ]


def main() -> None:
    """Print the table, or write it, or check it."""
    if sys.argv[1:] == ["--write"]:
        for path in documents():
            path.write_text(renewed(path.read_text()))
    elif sys.argv[1:] == ["--check"]:
        stale = [
            str(path.relative_to(CHECKOUT)) for path in documents() if renewed(path.read_text()) != path.read_text()
        ]
        if stale:
            raise SystemExit(f"backends_table: {', '.join(stale)} is not current; run it with --write")
    else:
        print(table())


if __name__ == "__main__":
    main()
