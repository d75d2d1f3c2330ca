"""Least squares: the weights that stay are refitted, so that a layer's outputs change least.

Each row w [in] of a layer minimises (w - t)ᵀ A (w - t) over the weights that stay, where t is the
dense row and A the damped Gram matrix of the layer's inputs. That is the closed-form solution that
Optimal Brain Surgeon (Hassibi & Stork, NeurIPS 1992) has for one weight at a time. Conjugate
gradients find it for all rows at once.

In all of this module weights are scaled by the norms of their inputs. The diagonal of A is then one
everywhere, and no input is too large or small for float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prunerzero.arguments import kind
from prunerzero.errors import InputError
from prunerzero.pruning.conjugate import Course, quick_products, step_on
from prunerzero.pruning.gram import DAMPING

TOLERANCE = 1e-6
"""Of a row's error, what its solution may be above the least one."""

SETTLED = 0.003
"""Of a layer's error, what four more steps must lower it by: else a refit of a model stops. More
steps fit the calibration text closer and leave no lower perplexity (``docs/refit.md``)."""

_MOST_STEPS = 2000
_RESTARTS = 4
_CHECKED = 8
"""Steps between two looks at the residual, for which a GPU has to be waited for."""
_SETTLES = 4
"""Steps between two looks at the error."""


@dataclass(frozen=True)
class Scaled:
    """The least-squares problem of one layer, scaled to a diagonal of ones.

    Attributes:
        target: dense weights of ``size`` times the norms of their inputs, fp32 [out, in].
        matrix: the damped Gram matrix with rows and columns divided by these norms, fp32 [in, in].
        norms: fp32 [in]; zero for an input that is never active, whose weights change nothing.
        damping: share of the diagonal that the matrix was damped with.
        size: a power of two, about the largest dense weight. Squares of weights much smaller or
            larger than one have no place in float32.
    """

    target: Tensor
    matrix: Tensor
    norms: Tensor
    damping: float
    size: float

    @classmethod
    def of(cls, weight: Tensor, gram: Tensor, damping: float = DAMPING) -> Scaled:
        """Scale the problem of a layer.

        Args:
            weight: dense weights [out, in].
            gram: Gram matrix [in, in] of the layer's inputs, on the same device.
            damping: share of each diagonal entry that is added to it.

        Raises:
            InputError: shapes that do not fit, or a Gram matrix that is not finite.
        """
        if weight.dim() != 2:
            raise InputError(f"weights must be a matrix [out, in], not {list(weight.shape)}.")
        width = weight.shape[1]
        if gram.shape != (width, width):
            raise InputError(
                f"weights {list(weight.shape)} need a Gram matrix [{width}, {width}] of their "
                f"inputs, not {list(gram.shape)}."
            )
        if not bool(gram.isfinite().all()):
            raise InputError("a Gram matrix holds values that are not finite.")
        if bool((gram.diagonal() < 0).any()):
            raise InputError("a Gram matrix has negative values on its diagonal; pass XᵀX.")
        matrix, norms = scaled_grams(gram, damping)
        size = _size_of(weight)
        wide = weight if weight.dtype == torch.float64 else weight.float()
        return cls((wide / size).float() * norms, matrix, norms, damping, size)

    def weights(self, values: Tensor, dense: Tensor, mask: Tensor) -> Tensor:
        """Scaled values [out, in] as weights of the dense ones' dtype; zero where masked.

        Weights of an input that is never active, and rows that lose no weight, stay what they are
        in ``dense``.
        """
        changes = (self.norms > 0) & mask.any(1, keepdim=True)
        wide = torch.float64 if dense.dtype == torch.float64 else torch.float32
        found = ((values / self.norms).to(wide) * self.size).to(dense.dtype)
        return torch.where(changes, found, dense).masked_fill(mask, 0)

    def rows(self, chosen: Tensor) -> Scaled:
        """The problem of some rows, where ``chosen`` [out] is True."""
        return replace(self, target=self.target[chosen])

    def errors(self, values: Tensor) -> Tensor:
        """Error [out] of each row of scaled values: (w - t)ᵀ A (w - t)."""
        moved = values - self.target
        return ((moved @ self.matrix) * moved).sum(1).clamp_(min=0)


def _size_of(weight: Tensor) -> float:
    """The power of two next above the largest weight; 1 where all are zero."""
    largest = float(weight.abs().max()) if weight.numel() else 0.0
    if not 0 < largest < math.inf:
        return 1.0
    most = 1000 if weight.dtype == torch.float64 else 126
    return math.ldexp(1.0, min(max(math.frexp(largest)[1], -most), most))


def scaled_grams(grams: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Gram matrices [..., in, in] damped and scaled to diagonals of one, and the norms [..., in].

    Both are in fp32. Only the inputs' relations count, so no norm is too large or small for it.
    """
    norms = grams.diagonal(dim1=-2, dim2=-1).clamp(min=0).mul(1 + damping).sqrt()
    divisor = torch.where(norms > 0, norms, 1.0)
    matrix = (grams / divisor[..., None, :] / divisor[..., :, None]).float()
    matrix = (matrix + matrix.mT).div_(2)  # sums on a GPU differ in the last bits
    matrix.diagonal(dim1=-2, dim2=-1).fill_(1)
    return matrix, (norms / divisor.amax(-1, keepdim=True)).float()


def least_squares(
    weight: Tensor, gram: Tensor, mask: Tensor, *, damping: float = DAMPING
) -> Tensor:
    """Refit the weights that stay, so that the layer's outputs change least.

    >>> import torch
    >>> inputs = torch.tensor([[1.0, 1.0], [2.0, 2.0]])  # two equal inputs
    >>> mask = torch.tensor([[True, False]])  # one of them loses its weight
    >>> least_squares(torch.tensor([[1.0, 1.0]]), inputs.T @ inputs, mask, damping=1e-6)
    tensor([[0.0000, 2.0000]])

    Args:
        weight: dense weights [out, in].
        gram: Gram matrix XᵀX [in, in] of the layer's inputs, on the same device.
        mask: bool [out, in], True where pruned.
        damping: share of each diagonal entry of the Gram matrix that is added to it.

    Returns:
        weights [out, in] in the dtype of ``weight``, zero where pruned. Each row's error is at most
        one millionth above the least one. Where no input was ever active, all are as before.

    Raises:
        InputError: shapes that do not fit, what is not finite, or no Gram matrix.

    Source: the closed form of Optimal Brain Surgeon (Hassibi & Stork, NeurIPS 1992), for a mask
    that is given.
    """
    problem = checked(weight, gram, mask, damping)
    return problem.weights(solve(problem, mask), weight, mask)


def checked(weight: Tensor, gram: Tensor, mask: Tensor, damping: float) -> Scaled:
    """The problem of a layer as a user gives it. Raises InputError where it is none."""
    for name, value in (("weights", weight), ("a Gram matrix", gram), ("a mask", mask)):
        if not isinstance(value, Tensor):
            raise InputError(f"{name} must be a torch tensor, not {kind(value)}.")
    for name, tensor in (("weights", weight), ("a Gram matrix", gram)):
        if not tensor.is_floating_point():
            raise InputError(f"{name} must be of a floating-point dtype, not {tensor.dtype}.")
    if not isinstance(damping, int | float) or not 0 < damping < torch.inf:
        raise InputError(f"damping must be a positive number such as 0.01, not {damping!r}.")
    if not bool(weight.isfinite().all()):
        raise InputError("weights hold values that are not finite.")
    _check_mask(weight, mask)
    problem = Scaled.of(weight, gram, float(damping))
    size = gram.abs().max() if gram.numel() else gram.new_zeros(())
    symmetric = bool(((gram - gram.T).abs() <= 1e-3 * size).all())
    if not symmetric or int(torch.linalg.cholesky_ex(problem.matrix.double()).info):
        raise InputError(
            "a Gram matrix must be symmetric and positive semidefinite; pass XᵀX of the layer's "
            "inputs, and more damping where its rounding is what makes it indefinite."
        )
    return problem


def _check_mask(weight: Tensor, mask: Tensor) -> None:
    """Raise InputError unless the mask is a boolean one of the weights' shape."""
    if mask.dtype != torch.bool or mask.shape != weight.shape:
        raise InputError(
            f"a mask must be of bool {list(weight.shape)}, as its weights, not of "
            f"{str(mask.dtype).removeprefix('torch.')} {list(mask.shape)}."
        )


@torch.no_grad()
def solve(
    problem: Scaled,
    mask: Tensor,
    start: Tensor | None = None,
    tolerance: float = TOLERANCE,
) -> Tensor:
    """Scaled weights [out, in] of least error, zero where masked.

    Stops where each row is proven to be within the tolerance of its least error: no eigenvalue of
    the matrix is below damping / (1 + damping), so the squared residual bounds the distance.

    Args:
        problem: of the layer.
        mask: bool [out, in], True where pruned.
        start: scaled weights to begin with; the dense ones by default.
        tolerance: share of a row's error that it may be above the least one.
    """
    kept = ~mask
    values = torch.where(kept, problem.target if start is None else start, 0.0)
    bound = (1 + problem.damping) / problem.damping if problem.damping > 0 else torch.inf
    scale = problem.target.square().sum(1)
    take_step = step_on(values.device)
    for _ in range(_RESTARTS):  # the residual is computed anew: sums of steps drift in float32
        residual = ((problem.target - values) @ problem.matrix).mul_(kept)
        allowed = tolerance / bound * problem.errors(values) + 1e-14 / bound * scale
        course = Course.begin(values, residual, kept)
        if bool((course.left <= allowed).all()):
            break
        for step in range(1, _MOST_STEPS + 1):
            take_step(course, course.direction @ problem.matrix)
            if step % _CHECKED == 0 and bool((course.left <= 0.25 * allowed).all()):
                break
    return values


@torch.no_grad()
@quick_products()
def settle(problem: Scaled, mask: Tensor, start: Tensor | None = None) -> Tensor:
    """Scaled weights [out, in] whose error hardly falls any more, zero where masked.

    The first steps of conjugate gradients bring nearly all of what least squares gains. The last
    ones, up to twenty times as many, follow directions that hardly any token of the calibration
    text takes. Stops where four more steps lower the layer's error by less than ``SETTLED`` of it;
    no step makes a row worse. A GPU multiplies in TF32.

    Args:
        problem, mask, start: as for ``solve``.
    """
    kept = ~mask
    values = torch.where(kept, problem.target if start is None else start, 0.0)
    course = Course.begin(values, ((problem.target - values) @ problem.matrix).mul_(kept), kept)
    take_step = step_on(values.device)
    error = problem.errors(values).sum()
    for _ in range(_MOST_STEPS // _SETTLES):
        for _ in range(_SETTLES):
            take_step(course, course.direction @ problem.matrix)
        before, error = error, problem.errors(values).sum()
        if not bool(before - error > SETTLED * error):
            break
    return values
