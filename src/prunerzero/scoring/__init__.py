"""The engine: a metric over the tensors of a layer, on CPU and GPU, to scores and masks.

``Expression.score`` says what a metric means; here the same values are computed fast, to the bit.
"""

from prunerzero.scoring.mask import prune_mask
from prunerzero.scoring.selection import score_mask

__all__ = ["prune_mask", "score_mask"]
