"""Documents: every relative link leads somewhere."""

from __future__ import annotations

import re

import pytest

from tests.support.checkout import CHECKOUT, documents, name


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as the forges make them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", documents(), ids=name)
def test_relative_links_lead_somewhere(document):
    prose = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            broken.append(link)

    assert broken == []


def test_every_decision_has_a_number_of_its_own():
    records = sorted(path.name for path in (CHECKOUT / "docs" / "decisions").glob("*.md"))

    assert [record[:4] for record in records] == [f"{number:04}" for number in range(1, len(records) + 1)]
