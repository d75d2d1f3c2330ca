"""How much is pruned, and among which weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from numbers import Real
from typing import Literal, get_args

from prunerzero.metrics.errors import SparsityError

Group = Literal["row", "layer", "model"]
"""Within what scores compete: an output row, a layer, or all prunable layers of the model."""


@dataclass(frozen=True)
class Sparsity:
    """How much is pruned, and among which weights.

    >>> Sparsity.parse("0.5"), str(Sparsity.parse("2:4")), Sparsity.parse("2:4").fraction
    (Sparsity(ratio=0.5, keep=None, of=None, group='row'), '2:4', 0.5)

    Attributes:
        ratio: share of weights to prune in each group, in [0, 1); None for N:M.
        keep, of: N and M of an N:M pattern: N of each M consecutive inputs of a row are *kept*.
        group: within what scores compete (ratio only).
    """

    ratio: float | None = None
    keep: int | None = None
    of: int | None = None
    group: Group = "row"

    def __post_init__(self) -> None:
        if not isinstance(self.group, str) or self.group not in get_args(Group):
            raise SparsityError(
                "scores compete within a 'row', a 'layer' or the 'model'"
                + (f", not {self.group!r}." if isinstance(self.group, str) else ".")
            )
        if (self.ratio is None) == (self.of is None) or (self.keep is None) != (self.of is None):
            raise SparsityError("a sparsity is either a ratio or a pattern N:M.")
        for name in ("ratio", "keep", "of"):
            kinds = (int, float) if name == "ratio" else (int,)
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
                raise SparsityError(f"{name} of a sparsity must be a number.")
        if self.ratio is not None:
            if not 0 <= self.ratio < 1:
                percent = 1 < self.ratio < 100 and self.ratio == int(self.ratio)
                hint = f"; did you mean {self.ratio:g}%?" if percent else "."
                raise SparsityError(f"sparsity {self.ratio} must be at least 0 and below 1{hint}")
        elif self.keep is not None and self.of is not None:
            if not 0 < self.keep < self.of:
                raise SparsityError(
                    f"sparsity {self} must keep at least 1 of so many weights, but not all of "
                    "them: write for example 2:4, 2 of each 4."
                )
            if self.group != "row":
                raise SparsityError(f"sparsity {self} compares weights within runs of a row only.")

    @classmethod
    def parse(cls, text: str | float, group: Group = "row") -> Sparsity:
        """Read ``"0.5"``, ``"50%"`` or ``"2:4"``.

        Raises:
            SparsityError: not readable, a ratio outside [0, 1), or N not in 1 … M - 1.
        """
        if not isinstance(text, str | Real):
            raise SparsityError("a sparsity is a number such as 0.5, or text such as '2:4'.")
        text = str(text).strip()
        if pattern := re.fullmatch(r"([0-9]{1,4})\s*:\s*([0-9]{1,4})", text):
            return cls(keep=int(pattern[1]), of=int(pattern[2]), group=group)
        try:
            ratio = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        except ValueError:
            raise SparsityError(
                f"sparsity {text!r} is neither a share such as 0.5 nor a pattern such as 2:4."
            ) from None
        return cls(ratio=ratio + 0.0, group=group)

    def __str__(self) -> str:
        """``"0.5"`` or ``"2:4"``; with ``parse`` it reads back (the group is apart)."""
        if self.ratio is None:
            return f"{self.keep}:{self.of}"
        return repr(self.ratio).removesuffix(".0")

    @property
    def in_words(self) -> str:
        """``"0.5 per row"``, ``"0.5 of the model"``, ``"2:4"``."""
        within = {"row": " per row", "layer": " per layer", "model": " of the model"}
        return f"{self}{within[self.group] if self.of is None else ''}"

    @property
    def fraction(self) -> float:
        """The share of weights that is pruned, before rounding to whole weights in a row."""
        if self.ratio is not None:
            return self.ratio
        assert self.keep is not None and self.of is not None
        return 1 - self.keep / self.of

    def check(self, width: int, name: str = "the layer") -> None:
        """Raise SparsityError where rows of ``width`` inputs cannot be pruned so."""
        if self.of is not None and width % self.of:
            raise SparsityError(
                f"sparsity {self} needs a number of inputs that is a multiple of {self.of}, "
                f"but {name} has {width}."
            )
