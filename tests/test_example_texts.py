"""The texts that the commands of the pages name."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import pytest

from examples.metrics import texts
from prunerzero.errors import TextError
from prunerzero.language.corpora import PARTS, read_corpus


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that commands are given in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_texts(monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    monkeypatch.setattr(sys, "argv", ["texts", "--output", "texts", *more])
    texts.main()


def test_the_texts_of_the_pages_are_made_of_what_each_comes_from(
    monkeypatch: pytest.MonkeyPatch, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f" Line {number} . \n" for number in range(2000)]
    Path("wiki.test.raw").write_text(" \n" + " \n".join(lines), encoding="utf-8")
    content = "".join(f"{number:07} \n" for number in range(50_000)).encode()
    Path("manual.txt.gz").write_bytes(gzip.compress(content))
    make_texts(monkeypatch, "--wikitext", "wiki.test.raw", "--manual", "manual.txt.gz")
    made = {str(path.relative_to("texts")): path for path in Path("texts").rglob("*.txt")}
    assert set(made) == set(texts.MEASURED)
    wikitext = [made[f"wikitext2/{part}.txt"].read_text() for part in PARTS[:2]]
    assert wikitext == ["".join(lines[:845]), "".join(lines[845:1218])]
    assert made["manual_test.txt"].read_bytes() == content[59_999:359_999]
    for part in PARTS:
        documents = "\n\n".join(read_corpus("python-docs", part))
        assert made[f"python_{part}.txt"].read_text(encoding="utf-8") == documents
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 6
    for line in told:
        if "python" not in line:  # which is the same on one Python, and not on another
            assert line.endswith(
                "NOT the bytes that the figures are of: its source is of another version"
            )


def test_a_text_that_the_figures_are_of_is_known_by_its_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    monkeypatch.setitem(texts.MEASURED, "manual_test.txt", empty)
    assert texts.sameness("manual_test.txt", "") == "the same bytes as the figures are of"
    assert texts.sameness("manual_test.txt", "x").startswith("NOT the bytes")


def test_texts_whose_source_is_missing_are_told_and_the_others_are_made(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    Path("damaged.gz").write_bytes(gzip.compress(b"text" * 99)[:-20])
    with pytest.raises(SystemExit) as ended:
        make_texts(monkeypatch, "--wikitext", "none.raw", "--manual", "damaged.gz")
    wikitext, manual = str(ended.value.code).splitlines()
    assert wikitext == "Error: text file 'none.raw' cannot be read: no such file or directory."
    assert manual.startswith("Error: the Debian Reference cannot be read from damaged.gz; install")
    assert len([*Path("texts").iterdir()]) == len(PARTS)


def test_where_the_hub_cannot_be_reached_wikitext_is_asked_for_as_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none(corpus: str, part: str) -> list[str]:
        raise TextError("could not be fetched")

    monkeypatch.setattr(texts, "read_corpus", none)
    with pytest.raises(TextError, match="pass wiki.test.raw, .*`--wikitext FILE`"):
        texts.wikitext(None)
