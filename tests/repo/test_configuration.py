"""docs/configuration.md has every setting of the service, each with its default and with what a reload does."""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Mapping
from typing import get_args, get_origin

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from privyseal_backends.aws_kms.address import Connection
from privyseal_backends.aws_kms.settings import Settings as AwsKmsSettings
from privyseal_backends.google_kms.settings import Settings as GoogleKmsSettings
from privyseal_backends.pkcs11.settings import Settings as Pkcs11Settings
from privyseal_service.config.changes import mark_of
from privyseal_service.config.keys import MinimumCustody
from privyseal_service.config.root import Config
from tests.support.checkout import CHECKOUT

PAGE = (CHECKOUT / "docs" / "configuration.md").read_text()
TABLES = dict(re.findall(r"^## `(\[+[a-z0-9.]+\]+)`\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
ELSEWHERE = {"audit", "grants", "metrics", "stores"}


STORES = "[stores."
"""How the titles of tables begin that have no column for a reload: a store's settings are its backend's."""


def said(title: str) -> dict[str, tuple[str, ...]]:
    """Each setting of a table of the page, with its default and, but for stores, what a reload does."""
    rows = re.findall(r"^\| `([a-z0-9_]+)` \| ?(.*?) ?\| (.*?) \|(?: .* \|)?$", TABLES[title], re.MULTILINE)
    return {name: (default,) if title.startswith(STORES) else (default, reload) for name, default, reload in rows}


def written(default: object) -> str:
    """A default as the page has it."""
    if default in (None, "", (), PydanticUndefined) or isinstance(default, (MinimumCustody, Mapping)):
        return ""
    if isinstance(default, tuple):
        return ", ".join(map(written, default))
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, (int, float)):
        return f"{default:.10g}"
    return f"`{default.value if isinstance(default, enum.Enum) else default}`"


def of_model(model: type[BaseModel]) -> dict[str, tuple[str, ...]]:
    return {
        name: (written(field.get_default(call_default_factory=True)), mark_of(field).word)
        for name, field in model.model_fields.items()
    }


def of_settings(settings: type) -> dict[str, tuple[str, ...]]:
    made = settings()
    return {field.name: (written(getattr(made, field.name)),) for field in dataclasses.fields(settings)}


def tables() -> dict[str, dict[str, tuple[str, ...]]]:
    """What there is, by the title of its table."""
    found = {}
    for name, field in Config.model_fields.items():
        many = get_origin(field.annotation) is tuple
        if name not in ELSEWHERE:
            model = get_args(field.annotation)[0] if many else field.annotation
            found[f"[[{name}]]" if many else f"[{name}]"] = of_model(model)
    aws = of_settings(AwsKmsSettings)
    del aws["defaults"]
    google = of_settings(GoogleKmsSettings) | {"endpoint": ("`cloudkms.googleapis.com`",)}
    return found | {
        "[stores.pkcs11]": of_settings(Pkcs11Settings),
        "[stores.awskms]": of_settings(Connection) | aws,
        "[stores.gcpkms]": google,
    }


@pytest.mark.parametrize("title", sorted(tables()))
def test_every_setting_is_on_the_page_with_its_default_and_its_mark(title):
    assert said(title) == tables()[title]


def test_the_page_has_no_other_table():
    assert set(TABLES) == set(tables())


@pytest.mark.parametrize(("name", "word"), [("audit", "restart"), ("metrics", "restart"), ("grants", "live")])
def test_tables_with_pages_of_their_own_have_one_mark(name, word):
    """The page says of each of them that all of it is live, or needs a restart."""

    def marks(model):
        for field in model.model_fields.values():
            yield mark_of(field).word
            for inner in models_in(field.annotation):
                yield from marks(inner)

    def models_in(annotation):
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return [annotation]
        return [model for argument in get_args(annotation) for model in models_in(argument)]

    field = Config.model_fields[name]
    assert {mark_of(field).word, *(mark for model in models_in(field.annotation) for mark in marks(model))} == {word}
