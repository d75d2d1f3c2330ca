"""Several texts are mixed in equal numbers of windows, by turns."""

from __future__ import annotations

from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from prunerzero.language.corpora import Text, mixed, part_of, places_of, the_text

lengths_of_texts = st.lists(st.integers(1, 40), min_size=2, max_size=5)


def texts_of(lengths: list[int]) -> list[Text]:
    """Each window holds the number of its text and its place in it."""
    return [
        Text(f"{n}.txt", torch.tensor([[n, place] for place in range(length)]))
        for n, length in enumerate(lengths)
    ]


@given(lengths_of_texts, st.none() | st.integers(1, 150))
def test_every_prefix_holds_equally_many_windows_of_each_text(lengths, count):
    mixture = mixed(texts_of(lengths), count)
    for end in range(1, len(mixture.windows) + 1):
        of_each = Counter(mixture.windows[:end, 0].tolist())
        numbers = [of_each[n] for n in range(len(lengths))]
        assert max(numbers) - min(numbers) <= 1
        assert numbers == sorted(numbers, reverse=True), "the first texts go before"


@given(lengths_of_texts, st.none() | st.integers(1, 150))
def test_a_text_gives_its_share_evenly_spaced_or_all_as_many_as_the_shortest(lengths, count):
    texts = texts_of(lengths)
    mixture = mixed(texts, count)
    shares = [len(text.windows) for text in mixture.texts]
    wanted = None if count is None else max(count, len(lengths))
    if wanted is None or sum(shares) != wanted:
        assert shares == [min(lengths)] * len(lengths)
    for text, part, share in zip(texts, mixture.texts, shares, strict=True):
        assert torch.equal(part.windows, text.spread(share).windows)
    for n, part in enumerate(mixture.texts):
        assert torch.equal(mixture.windows[n :: len(texts)], part.windows)


@given(lengths_of_texts, st.integers(1, 20))
def test_few_windows_of_a_mixture_are_of_each_text_too(lengths, count):
    few = mixed(texts_of(lengths)).spread(count)
    assert set(few.windows[:, 0].tolist()) == set(range(len(lengths)))


def test_a_part_with_one_text_is_called_by_its_own_name_and_texts_of_several_by_theirs():
    one, two = texts_of([1, 1])
    corpus = Text("wikitext2 (test)", one.windows)
    assert places_of("test", [one]) == ("test",)
    assert places_of("test", [one, two]) == ("test: 0.txt", "test: 1.txt")
    assert places_of("test", [corpus, two])[0] == "test: wikitext2"
    assert {part_of(place) for place in ("test", "test: 0.txt")} == {"test"}
    assert the_text("validation: 0.txt") == "validation text 0.txt"
