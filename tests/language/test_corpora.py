import pytest
import torch
from tiny_model import tiny_tokenizer

from prunerzero.errors import TextError
from prunerzero.language.corpora import cut_windows, read_corpus, read_file


def test_windows_are_consecutive_and_do_not_overlap():
    text = cut_windows(["abcdefghij"], tiny_tokenizer(), 4, "letters")
    assert text.windows.shape == (2, 4)
    assert text.windows.flatten().tolist() == list(range(2, 10))


def test_documents_are_joined_by_the_end_of_text_token():
    text = cut_windows(["abc", "d"], tiny_tokenizer(), 5, "two")
    assert text.windows.tolist() == [[2, 3, 4, 0, 5]]


def test_windows_may_begin_with_a_token_before_their_text():
    text = cut_windows(["abcdefgh"], tiny_tokenizer(), 4, "letters", begin=0)
    assert text.windows.tolist() == [[0, 2, 3, 4], [0, 5, 6, 7]]
    text = cut_windows(["abcdef"], tiny_tokenizer(), 4, "letters", stride=2, begin=0)
    assert text.windows.tolist() == [[0, 2, 3, 4], [0, 4, 5, 6]]


def test_a_text_too_short_says_how_many_tokens_there_are_and_are_needed():
    with pytest.raises(TextError, match=r"has 3 tokens, 8 are needed"):
        cut_windows(["abc"], tiny_tokenizer(), 8, "short.txt")


def test_fewer_windows_are_spread_evenly():
    text = cut_windows(["ab" * 20], tiny_tokenizer(), 4, "letters")
    assert len(text.spread(None).windows) == len(text.spread(99).windows) == 10
    text.windows[:, 0] = torch.arange(10)
    assert text.spread(5).windows[:, 0].tolist() == [0, 2, 4, 6, 8]


def test_equal_windows_have_equal_fingerprints():
    first, second, other = (
        cut_windows([t], tiny_tokenizer(), 4, "x") for t in ("abcd", "abcd", "abce")
    )
    assert first.fingerprint == second.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is empty"), (b" \n", "is empty"), (b"\xff\xfe", "not UTF-8")]
)
def test_a_file_without_text_is_refused(tmp_path, content, message):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(TextError, match=message):
        read_file(tmp_path / "a.txt")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(TextError, match="no such file"):
        read_file(tmp_path / "none.txt")


def test_an_unknown_corpus_names_the_known_ones():
    with pytest.raises(TextError, match="wikitext2"):
        read_corpus("wikitext3", "test")


@pytest.mark.parametrize("name", ["wikitext2", "c4"])
def test_a_corpus_the_hub_cannot_give_says_what_to_pass_instead(name, monkeypatch):
    monkeypatch.setattr("prunerzero.language.corpora.ask_hub", lambda *_: "unreachable")
    with pytest.raises(TextError, match="`calibration=FILE`, `validation=FILE` and `test=FILE`"):
        read_corpus(name, "test")
