import pytest

from prunerzero.language.python_docs import docstrings, part_of, python_documents

PARTS = ("calibration", "validation", "test")
EXPECTED = ["validation", "training", "training", "calibration"]


def test_docstrings_come_in_source_order_and_without_indentation():
    source = (
        b'"""Module."""\nclass A:\n    """A.\n\n    More."""\n    def f(self):\n        """F."""'
    )
    assert docstrings(source) == ["Module.", "A.\n\nMore.", "F."]


def test_a_name_always_falls_to_the_same_part():
    assert [part_of(name) for name in ("argparse", "os", "json", "asyncio")] == EXPECTED


@pytest.mark.parametrize("part", PARTS)
def test_every_part_has_text_on_this_python(part):
    assert sum(map(len, python_documents(part))) > 50_000


def test_parts_share_no_document():
    seen: set[str] = set()
    for part in PARTS:
        documents = {d for d in python_documents(part) if len(d) > 200}
        assert not documents & seen
        seen |= documents


def test_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match="no part"):
        python_documents("exam")
