"""One of the models that are measured, and how all of them are."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from prunerzero.errors import ModelError
from prunerzero.language.locate import files_of
from prunerzero.language.source import ModelSource

SHORTEST = 16
"""Tokens of the shortest prompt that is continued."""

Runtime = Literal["transformers", "torch int8", "torch int4", "llama.cpp"]


@dataclass(frozen=True)
class Subject:
    """A model to measure.

    Attributes:
        name: as the user named it, or what the rival is called.
        source: of the model, or of the one that the rival was made of.
        runtime: what runs it.
        file: the GGUF file that llama.cpp runs, or the pickled module of a rival of torch's; None
            where transformers loads ``source``.
        is_rival: whether it was made to be compared with.
        notes: sentences on what is not as one would expect.
    """

    name: str
    source: ModelSource
    runtime: Runtime = "transformers"
    file: Path | None = None
    is_rival: bool = False
    notes: tuple[str, ...] = ()

    def known_bytes(self) -> int:
        """Bytes of the weights' files, as far as they are on this machine."""
        files = files_of(self.source) if self.file is None else (self.file,)
        return sum(file.stat().st_size for file in files)

    def to_json(self) -> dict[str, Any]:
        """What the process that measures it has to know."""
        file = None if self.file is None else str(self.file)
        return {
            "name": self.name,
            "runtime": self.runtime,
            "file": file,
            "source": asdict(self.source),
        }


@dataclass(frozen=True)
class Plan:
    """How models are measured: all of them alike.

    Attributes:
        windows: token ids [count, length] of the text; prompts are taken from it too.
        threads: of each model.
        repeats: how often each speed is measured.
        seconds: no repeat begins that would end later; None for no limit. One is always made.
        perplexity: whether perplexity is measured.
        prefill_tokens: lengths of the prompts that are read alone.
        prompt_tokens: length of the prompts that are continued.
        new_tokens: by how many tokens they are continued.
        batches: so many prompts are continued at once.
        device: where the models are.
        in_graphs: whether speeds are measured in CUDA graphs too.
    """

    windows: Tensor
    threads: int
    repeats: int = 5
    seconds: float | None = None
    perplexity: bool = True
    prefill_tokens: tuple[int, ...] = (512,)
    prompt_tokens: int = SHORTEST
    new_tokens: int = 32
    batches: tuple[int, ...] = (1, 4, 16)
    device: str = "cpu"
    in_graphs: bool = False

    def within(self, context: int) -> Plan:
        """The plan for models of which one reads no more than so many tokens.

        Raises:
            ModelError: too few.
        """
        if context <= SHORTEST:
            raise ModelError(
                f"a model reads at most {context} tokens, and more than {SHORTEST} are "
                "needed to measure its speed."
            )
        new_tokens = min(self.new_tokens, context - SHORTEST)
        return replace(
            self,
            prefill_tokens=tuple(dict.fromkeys(min(n, context) for n in self.prefill_tokens)),
            prompt_tokens=min(self.prompt_tokens, context - new_tokens),
            new_tokens=new_tokens,
        )

    def prompt(self, length: int) -> list[int]:
        """A prompt that is read alone: the text from its beginning, repeated if it is shorter."""
        return self._tokens_from(0, length)

    def prompts(self, count: int) -> list[list[int]]:
        """So many prompts to continue: the text from where each window begins."""
        windows, width = self.windows.shape
        begins = (number % windows * width for number in range(count))
        return [self._tokens_from(begin, self.prompt_tokens) for begin in begins]

    def _tokens_from(self, begin: int, length: int) -> list[int]:
        flat = self.windows.flatten()
        places = torch.arange(begin, begin + length) % len(flat)
        tokens: list[int] = flat[places].tolist()
        return tokens
