"""Score + sparsity → mask: exact counts, ties in column order, against plain references."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prunerzero.metrics import ScoreError, Sparsity, SparsityError
from prunerzero.scoring import prune_mask

pytestmark = pytest.mark.filterwarnings("error")

INF, NAN = math.inf, math.nan


def lowest(scores: Tensor, count: int) -> Tensor:
    """The ``count`` lowest of each row, by a stable sort."""
    order = (scores + 0.0).argsort(dim=1, stable=True)[:, :count]
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, order, True)


def reference_mask(scores: Tensor, sparsity: Sparsity) -> Tensor:
    rows, columns = scores.shape
    if sparsity.of is not None:
        runs = scores.reshape(-1, sparsity.of)
        return lowest(runs, sparsity.of - sparsity.keep).reshape(rows, columns)
    groups = scores.reshape(1, -1) if sparsity.group != "row" else scores
    return lowest(groups, int(groups.shape[1] * sparsity.ratio)).reshape(rows, columns)


SPARSITIES = [
    *(Sparsity(ratio) for ratio in (0.0, 0.01, 0.25, 0.3, 0.5, 0.7, 0.999)),
    *(Sparsity(ratio, group="layer") for ratio in (0.0, 0.3, 0.5, 0.999)),
    *(
        Sparsity.parse(p)
        for p in ("1:2", "2:4", "1:4", "3:4", "4:8", "1:8", "5:16", "8:32", "7:48")
    ),
]
every_sparsity = pytest.mark.parametrize(
    "sparsity", SPARSITIES, ids=lambda s: f"{s} of a {s.group}"
)


@every_sparsity
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_masks_equal_a_stable_sort(sparsity, dtype):
    generator = torch.Generator().manual_seed(0)
    for levels in (2, 5, 40, 10**6):  # from almost nothing but ties to none
        scores = torch.randint(levels, (20, 96), generator=generator).double() / levels - 0.3
        scores = scores.to(dtype)
        assert torch.equal(prune_mask(scores, sparsity), reference_mask(scores, sparsity))


@every_sparsity
def test_masks_prune_exactly_as_many_as_asked(sparsity):
    for scores in (torch.randn(8, 96), torch.zeros(8, 96), torch.full((8, 96), -INF)):
        mask = prune_mask(scores, sparsity)
        assert mask.shape == scores.shape and mask.dtype == torch.bool
        if sparsity.of is not None:
            kept = (~mask).reshape(-1, sparsity.of).sum(1)
            assert (kept == sparsity.keep).all()
        elif sparsity.group != "row":
            assert mask.sum() == int(8 * 96 * sparsity.ratio)
        else:
            assert (mask.sum(1) == int(96 * sparsity.ratio)).all()


@settings(max_examples=200)
@given(st.data())
def test_any_scores_give_the_mask_of_a_stable_sort(data):
    of = data.draw(st.integers(2, 20))
    shape = data.draw(st.integers(0, 4)), of * data.draw(st.integers(1, 3))
    value = st.sampled_from([0.0, -0.0, 1.0, -1.0, INF, -INF, 1e-45, -1e-45, 3e38])
    numbers = data.draw(st.lists(value, min_size=math.prod(shape), max_size=math.prod(shape)))
    scores = torch.tensor(numbers).reshape(shape)
    sparsity = data.draw(
        st.builds(
            Sparsity,
            ratio=st.floats(0, 1, exclude_max=True),
            group=st.sampled_from(["row", "layer", "model"]),
        )
        | st.builds(Sparsity, keep=st.integers(1, of - 1), of=st.just(of))
    )
    assert torch.equal(prune_mask(scores, sparsity), reference_mask(scores, sparsity))


@pytest.mark.parametrize("sparsity", ["0.5", "2:4"])
def test_equal_scores_are_pruned_in_column_order(sparsity):
    scores = torch.tensor([[1.0, 1, 1, 1], [1, 0, 1, 0], [0, 1, 1, 1], [-0.0, 0.0, -1, 0.0]])
    expected = [[1, 1, 0, 0], [0, 1, 0, 1], [1, 1, 0, 0], [1, 0, 1, 0]]
    assert prune_mask(scores, Sparsity.parse(sparsity)).int().tolist() == expected


def test_infinite_scores_rank_as_such():
    scores = torch.tensor([[INF, 1.0, -INF, INF], [-INF, -INF, -INF, 0.0]])
    expected = [[0, 1, 1, 0], [1, 1, 0, 0]]
    for sparsity in ("0.5", "2:4"):
        assert prune_mask(scores, Sparsity.parse(sparsity)).int().tolist() == expected


def test_scores_that_only_float64_tells_apart_are_told_apart():
    scores = 1 + torch.tensor([[3.0, 1, 2, 0]], dtype=torch.float64) * 1e-12
    for sparsity in ("0.5", "2:4"):
        assert prune_mask(scores, Sparsity.parse(sparsity)).int().tolist() == [[0, 1, 0, 1]]


@pytest.mark.parametrize("sparsity", SPARSITIES[:1] + SPARSITIES[4:5] + SPARSITIES[-6:-5])
def test_nan_is_refused_and_counted(sparsity):
    scores = torch.randn(4, 96)
    scores[1, 2] = scores[3, 3] = NAN
    with pytest.raises(ScoreError, match="2 of 384 scores are NaN"):
        prune_mask(scores, sparsity)


@pytest.mark.parametrize("shape", [(0, 8), (3, 0), (0, 0)])
@pytest.mark.parametrize("sparsity", ["0.5", "2:4", "1:64"])
def test_nothing_is_pruned_of_nothing(shape, sparsity):
    if shape[1] % (Sparsity.parse(sparsity).of or 1) == 0:
        assert prune_mask(torch.zeros(shape), Sparsity.parse(sparsity)).shape == shape


def test_a_width_that_is_no_multiple_is_refused():
    with pytest.raises(SparsityError, match="multiple of 4, but the layer has 6"):
        prune_mask(torch.zeros(2, 6), Sparsity.parse("2:4"))
    with pytest.raises(SparsityError, match="but q_proj has 6"):
        Sparsity.parse("2:4").check(6, "q_proj")


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4), ()])
def test_what_is_no_matrix_is_refused(shape):
    with pytest.raises(ScoreError, match="matrix"):
        prune_mask(torch.zeros(shape), Sparsity(0.5))


def test_views_and_scores_with_gradients_are_taken_and_left_unchanged():
    scores = torch.randn(8, 12)
    before = scores.clone()
    for view in (scores.t(), scores[:, ::3], scores[:1].expand(5, 12), scores.requires_grad_()):
        for sparsity in (Sparsity(0.5), Sparsity.parse("2:4")):
            expected = reference_mask(view.detach().contiguous(), sparsity)
            assert torch.equal(prune_mask(view, sparsity), expected)
    assert torch.equal(scores, before)


# Sparsity


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.5", Sparsity(ratio=0.5)),
        ("0", Sparsity(ratio=0.0)),
        ("-0.0", Sparsity(ratio=0.0)),
        (0.5, Sparsity(ratio=0.5)),
        (" 50% ", Sparsity(ratio=0.5)),
        ("5e-1", Sparsity(ratio=0.5)),
        ("0.9999", Sparsity(ratio=0.9999)),
        ("2:4", Sparsity(keep=2, of=4)),
        (" 1 : 4 ", Sparsity(keep=1, of=4)),
        ("4:8", Sparsity(keep=4, of=8)),
        ("127:128", Sparsity(keep=127, of=128)),
    ],
)
def test_a_sparsity_is_read(text, expected):
    assert Sparsity.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    ["1", "1.0", "1.5", "-0.1", "100%", "nan", "inf", "-inf", "", "half", "0,5", "2:", ":4",
     "2:4:8", "4:4", "5:4", "0:4", "0:0", "-1:4", "2.0:4", "2:99999", "two:four",
     None, True, 1, [0.5]],
)  # fmt: skip
def test_a_sparsity_that_is_none_is_refused_in_one_line(text):
    with pytest.raises(SparsityError) as refusal:
        Sparsity.parse(text)
    assert "\n" not in str(refusal.value) and str(refusal.value).endswith(".")


@pytest.mark.parametrize(
    "fields",
    [{}, {"ratio": 1.0}, {"ratio": NAN}, {"keep": 2}, {"of": 4}, {"keep": 4, "of": 4},
     {"ratio": 0.5, "keep": 2, "of": 4}, {"ratio": 0.5, "group": "column"},
     {"keep": 2, "of": 4, "group": "layer"}, {"keep": 2, "of": 4, "group": "model"}],
)  # fmt: skip
def test_a_sparsity_that_is_none_cannot_be_made(fields):
    with pytest.raises(SparsityError):
        Sparsity(**fields)


@given(st.floats(0, 1, exclude_max=True))
def test_every_ratio_survives_its_text(ratio):
    assert Sparsity.parse(str(Sparsity(ratio))) == Sparsity(ratio)


def test_text_and_fraction_of_a_sparsity():
    assert [str(Sparsity.parse(s)) for s in ("50%", "0", "2:4")] == ["0.5", "0", "2:4"]
    assert [Sparsity.parse(s).fraction for s in ("0.3", "1:4")] == [0.3, 0.75]


@pytest.mark.parametrize("wrong", [None, 0.5, "0.5", [[1.0]], object()])
def test_what_is_no_tensor_or_no_sparsity_is_refused(wrong):
    with pytest.raises(ScoreError, match="tensor"):
        prune_mask(wrong, Sparsity(0.5))
    with pytest.raises(SparsityError, match="Sparsity.parse"):
        prune_mask(torch.ones(2, 4), wrong)


@pytest.mark.parametrize("fields", [{"ratio": "0.5"}, {"ratio": True}, {"keep": 2.0, "of": 4}])
def test_numbers_of_a_sparsity_are_numbers(fields):
    with pytest.raises(SparsityError, match="must be a number"):
        Sparsity(**fields)


@pytest.mark.parametrize("given", [None, ["0.5"], b"0.5", 1j, object()])
def test_what_is_neither_number_nor_text_is_no_sparsity(given):
    with pytest.raises(SparsityError, match=r"a number such as 0\.5"):
        Sparsity.parse(given)


@pytest.mark.parametrize("given", [np.float32(0.5), np.float64(0.5), "50%", " 0.5 "])
def test_a_share_may_be_any_number(given):
    assert Sparsity.parse(given) == Sparsity(0.5)
