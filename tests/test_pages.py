"""What the documentation says of the repository is so."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import prunerzero
from prunerzero.cli.commands import app
from prunerzero.metrics.operators import OPERATORS, TERMINALS, Operator

ROOT = Path(__file__).parents[1]
check_links: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "check_links.py"))
generate_pages: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "generate_pages.py"))


def test_every_link_leads_to_a_file_and_a_heading() -> None:
    assert check_links["broken_inside"](ROOT) == []


def test_a_link_to_a_heading_that_is_not_there_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(
        "# One\n\n[x](b.md#two) [y](b.md#one--two) [z](c.md) `[n](o.md)`\n"
    )
    (tmp_path / "b.md").write_text("# One & two\n\n```\n[no](link.md)\n```\n")
    assert check_links["broken_inside"](tmp_path) == [
        "a.md:3: b.md#two: there is no such heading",
        "a.md:3: c.md: there is no such file",
    ]


def test_both_readmes_list_the_same_pages() -> None:
    def pages(name: str, heading: str) -> set[str]:
        readme = (ROOT / name).read_text(encoding="utf-8")
        listed = readme.split(f"\n## {heading}\n")[1].split("\n## ")[0]
        return set(re.findall(r"\((docs/\w+\.md)", listed))

    english = pages("README.md", "More")
    assert len(english) >= 20
    assert pages("README.ja.md", "詳しい資料（英語）") == english


def test_the_page_of_commands_has_every_command_and_option() -> None:
    page = generate_pages["command_line"]()
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert len(commands) >= 12
    for command in commands:
        assert f"\n## {command}\n" in page
    for option in ("--max-degradation", "--workers", "--group", "--block-by-block", "--config"):
        assert f"| `{option}` |" in page
    assert "[bold]" not in page


def test_the_page_of_the_api_has_every_public_name() -> None:
    page = generate_pages["python_api"]()
    for name in prunerzero.__all__:
        assert re.search(rf"auto\w+:: prunerzero\.{name}$", page, re.MULTILINE)


def test_every_module_says_what_it_is_about() -> None:
    page = generate_pages["modules"]()
    assert re.findall(r"^\| `\w+` \|  \|.*$", page, re.MULTILINE) == []


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_a_page_names_only_files_that_are_there(page: Path) -> None:
    places = (ROOT, ROOT / "src", ROOT / "src" / "prunerzero")
    for name in re.findall(r"`([a-z_0-9]+/[a-z_/0-9]+\.(?:py|md|sh|ipynb))`", page.read_text()):
        assert any((place / name).exists() for place in places), name


def test_the_table_of_notation_has_every_operator_and_terminal_and_no_other() -> None:
    page = (ROOT / "docs" / "own_metric.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (`.+?) \| ", page.split("## Notation")[1].split("\n## ")[0], re.MULTILINE
    )
    written = {code.split("(")[0] for row in rows for code in re.findall(r"`(.+?)`", row)}
    assert written == {*TERMINALS, *map(as_written, OPERATORS.values())}


def as_written(operator: Operator) -> str:
    """Its name, or where it has a symbol how that stands beside its arguments."""
    if operator.infix is None:
        return operator.name
    return f"a {operator.infix} b" if operator.arity == 2 else f"{operator.infix}a"


def test_the_changelog_and_the_citation_name_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)", changelog, re.MULTILINE)[1] == prunerzero.__version__  # type: ignore[index]
    assert f"version: {prunerzero.__version__}\n" in (ROOT / "CITATION.cff").read_text()
