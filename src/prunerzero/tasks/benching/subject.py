"""One of the models that are measured, and how all of them are."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from prunerzero.errors import ModelError
from prunerzero.language.locate import files_of
from prunerzero.language.source import ModelSource

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
        prefill_tokens: length of the long prompt.
        prompt_tokens: length of the prompts that are continued.
        new_tokens: by how many tokens they are continued.
        batches: so many prompts are continued at once.
    """

    windows: Tensor
    threads: int
    repeats: int = 5
    seconds: float | None = None
    perplexity: bool = True
    prefill_tokens: int = 512
    prompt_tokens: int = 16
    new_tokens: int = 32
    batches: tuple[int, ...] = (1, 4, 16)

    def within(self, context: int) -> Plan:
        """The plan for models of which one reads no more than so many tokens.

        Raises:
            ModelError: too few.
        """
        if context <= self.prompt_tokens:
            raise ModelError(
                f"a model reads at most {context} tokens, and more than {self.prompt_tokens} are "
                "needed to measure its speed."
            )
        return replace(
            self,
            prefill_tokens=min(self.prefill_tokens, context),
            new_tokens=min(self.new_tokens, context - self.prompt_tokens),
        )

    def long_prompt(self) -> list[int]:
        """The tokens of the long prompt."""
        length = self.prefill_tokens
        tokens: list[int] = self.windows.flatten().tolist()
        return (tokens * -(-length // len(tokens)))[:length]

    def prompts(self, count: int) -> list[list[int]]:
        """So many short prompts: the beginnings of windows."""
        rows: list[list[int]] = self.windows[:, : self.prompt_tokens].tolist()
        return (rows * -(-count // len(rows)))[:count]
