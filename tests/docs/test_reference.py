"""The pages that are made are what they are made from, and links lead somewhere."""

import re
from pathlib import Path

import pytest

from app.config import ROOT
from docs import generate

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize(
    "name", ["settings.md", "errors.md", "cli.md", "api.md", "services.md", "../decisions/README.md"]
)
def test_a_page_that_is_made_is_what_it_is_made_from(name: str) -> None:
    made = generate.pages()[name]

    kept = (generate.REFERENCE / name).read_text(encoding="utf-8")

    assert kept == made, "run python -m docs.generate, and commit what it wrote"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_that_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))

    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]

    assert broken == []


def test_every_service_verb_tells_its_contract() -> None:
    for verb in generate.VERBS:
        assert verb.__doc__ is not None
        assert len(verb.__doc__.splitlines()) > 3, verb.__name__
