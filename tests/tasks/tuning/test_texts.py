"""Parts that are set aside share nothing, and together are the text."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from prunerzero import Setup, TextError
from prunerzero.tasks.tuning.texts import BLOCKS, cut_blocks, cut_parts, fitting_length, write_parts

LINES = [f"line {i} of the text" for i in range(160)]


@given(st.text("ab \n", min_size=1, max_size=400), st.integers(1, 8))
def test_blocks_are_the_text_in_order(text, count):
    try:
        blocks = cut_blocks(text, count)
    except TextError:
        return
    assert len(blocks) == count
    assert "".join("".join(blocks).split()) == "".join(text.split())


@given(st.lists(st.text("abc", min_size=5, max_size=30), min_size=64, max_size=200))
def test_no_line_is_torn_where_lines_are_short(lines):
    text = "\n".join(lines)
    assume(max(map(len, lines)) < len(text) / (2 * BLOCKS))
    assert "\n".join(cut_blocks(text, BLOCKS)) == text


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.txt"
    path.write_text("\n".join(LINES))
    return path


@pytest.mark.parametrize(
    ("named", "cut"),
    [
        ([], {"calibration": 4, "validation": 8, "test": 4}),
        (["calibration"], {"validation": 11, "test": 5}),
        (["test"], {"validation": 11, "calibration": 5}),
    ],
)
def test_missing_parts_are_cut_from_the_validation_text(mine, tmp_path, named, cut):
    other = tmp_path / "other.txt"
    other.write_text("another text")
    setup = Setup(validation=mine, **dict.fromkeys(named, other))
    texts, facts = cut_parts(setup, tmp_path / "texts")
    assert set(texts) == set(cut)
    assert all(list(cut_out) == [part] for part, cut_out in texts.items())
    lines = {part: [x for x in cut_out[part].splitlines() if x] for part, cut_out in texts.items()}
    assert Counter(sum(lines.values(), [])) == Counter(LINES), "each line in exactly one part"
    for part, blocks in cut.items():
        assert len(lines[part]) == pytest.approx(len(LINES) * blocks / BLOCKS, abs=8)
        assert facts["turns"].count(part) == round(blocks * len(facts["turns"]) / BLOCKS)
    written = write_parts(setup, texts, tmp_path / "texts")
    for part, cut_out in texts.items():
        assert getattr(written, part).read_text() == cut_out[part]
    assert mine.read_text() == "\n".join(LINES)


def test_of_several_validation_texts_each_is_cut(mine, tmp_path):
    other = tmp_path / "mine.md"
    other.write_text("\n".join(f"another line {i}" for i in range(160)))
    setup = Setup(validation=[mine, other])
    texts, facts = cut_parts(setup, tmp_path / "texts")
    assert facts["text"] == [str(mine), str(other)]
    written = write_parts(setup, texts, tmp_path / "texts")
    for number, source in ((1, mine), (2, other)):
        files = [written.files(part)[number - 1] for part in ("calibration", "validation", "test")]
        assert files[0].name == f"calibration-{number}-mine.txt"
        lines = [line for file in files for line in file.read_text().splitlines() if line]
        assert Counter(lines) == Counter(source.read_text().splitlines())


def test_texts_of_their_own_are_left_as_they_are(mine):
    setup = Setup(validation=mine, calibration=mine, test=mine)
    assert cut_parts(setup, Path("nowhere"))[0] == {}
    assert cut_parts(Setup(dataset="wikitext2"), Path("nowhere"))[0] == {}
    several = Setup(dataset=["wikitext2", "c4"])
    assert cut_parts(several, Path("nowhere"))[1]["dataset"] == ["wikitext2", "c4"]


def test_a_dataset_named_beside_the_text_gives_the_calibration_part(mine):
    texts, _ = cut_parts(Setup(validation=mine, dataset="wikitext2"), Path("nowhere"))
    assert set(texts) == {"validation", "test"}


def test_a_text_too_short_to_be_cut_is_refused(tmp_path):
    (tmp_path / "short.txt").write_text("ten words")
    with pytest.raises(TextError, match="too short"):
        cut_parts(Setup(validation=tmp_path / "short.txt"), tmp_path)


def test_windows_are_shortened_until_there_are_enough_to_judge_by(tmp_path):
    def letters(text, **_):
        return {"input_ids": list(text)}

    (tmp_path / "long.txt").write_text("x" * 12 * 512)
    (tmp_path / "short.txt").write_text("x" * 1000)
    long, short = (Setup(validation=tmp_path / f"{n}.txt") for n in ("long", "short"))
    assert fitting_length(long, letters, 2048) == 512
    assert fitting_length(long, letters, 256) == 256
    assert fitting_length(short, letters, 2048) == 128, "never below what predicts anything"
