"""On a GPU: fused scores and masks are those of eager torch, to the bit."""

import warnings

import pytest
import torch
from gpu_cases import alike, awkward, masks_of

from prunerzero.metrics import Expression, Sparsity
from prunerzero.metrics.operators import OPERATORS
from prunerzero.scoring import score_mask

if not torch.cuda.is_available():
    warnings.warn("no GPU here: the GPU kernels are not tested", stacklevel=1)
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=lambda o: o.name)
@pytest.mark.parametrize("names", ["WG", "GW", "WX", "GX", "XG", "WD", "DG", "XD"])
def test_every_operator_gives_the_bits_of_eager_torch(operator, names):
    from prunerzero.scoring.gpu import Layers

    e = Expression(operator.name, tuple(map(Expression, names[: operator.arity])))
    values = awkward()
    if e.terminals <= {"X", "D"}:
        e = Expression("add", (Expression("W"), e))
    layer = Layers([values["W"]], values["X"][None], [values["G"]], values["D"][None])
    ours = layer.score(e)[0]
    theirs = e.score(**values)
    same = (ours == theirs) | (ours.isnan() & theirs.isnan())
    i = tuple((~same).nonzero()[0].tolist()) if not same.all() else (0, 0)
    assert same.all(), (int((~same).sum()), ours[i].item(), theirs[i].item())


def test_a_power_has_the_special_cases_of_eager_torch():
    from prunerzero.scoring.gpu import Layers

    values = torch.tensor([0, 1e-45, 1e-38, 0.5, 1, 2, 3e38, torch.inf, torch.nan], device="cuda")
    values = torch.cat((values, -values))
    base, exponent = torch.meshgrid(values, values, indexing="ij")
    W, G = base.contiguous(), exponent.contiguous()
    e = Expression.parse("W ** G")
    ours, theirs = Layers([W], None, [G]).score(e)[0], e.score(W=W, G=G)
    assert ((ours == theirs) | (ours.isnan() & theirs.isnan())).all()
    torch.testing.assert_close(theirs, torch.pow(W.abs(), G), rtol=2e-5, atol=1e-38, equal_nan=True)


@pytest.mark.parametrize("seed", range(200))
def test_any_metric_prunes_as_the_plain_path_does(seed):
    found, expected, case = masks_of(seed)
    assert [alike(a, b) for a, b in zip(found, expected, strict=True)] == [True] * 3, case


def test_a_view_is_taken_and_ties_go_in_column_order():
    W = torch.ones(6, 64, device="cuda")
    for view in (W, W.t().contiguous().t(), W[::2]):
        mask = score_mask(Expression("W"), Sparsity(0.5), W=view)
        assert mask[:, :32].all() and not mask[:, 32:].any()
