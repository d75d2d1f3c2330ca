"""A loaded language model: what it is, how it reads a text, how it is saved."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from prunerzero import identity
from prunerzero.errors import TextError
from prunerzero.language.checkpoint_files import CheckpointFiles, restore_dtypes
from prunerzero.language.corpora import Text, cut_windows
from prunerzero.language.devices import device_of
from prunerzero.language.kinds import context_length
from prunerzero.language.quiet import quiet_transformers


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model with its tokenizer.

    Attributes:
        name: as the user gave it.
        model: the transformers model, in evaluation mode, on its device.
        tokenizer: the transformers tokenizer.
        stored_dtype: dtype of the checkpoint, which a pruned checkpoint keeps.
        dtypes: dtype of each parameter and buffer in the checkpoint: some keep a few in float32.
        files: the checkpoint's files.
        config_digest: ``identity.of_config`` of the checkpoint's config.
        unused: tensors of the checkpoint that the model has no place for.
    """

    name: str
    model: Any
    tokenizer: Any
    stored_dtype: torch.dtype
    dtypes: dict[str, torch.dtype]
    files: CheckpointFiles = field(default_factory=CheckpointFiles)
    config_digest: str = ""
    unused: tuple[str, ...] = ()

    @property
    def device(self) -> torch.device:
        """The device that token ids go to."""
        return device_of(self.model)

    @property
    def context_length(self) -> int:
        """The longest window the model can read, in tokens."""
        return context_length(self.model.config)

    @property
    def begin(self) -> int | None:
        """The token that begins every window: Gemma models predict poorly without theirs.

        Other models get text without one, as in the tables of the pruning literature.
        """
        family: str = self.model.config.get_text_config().model_type
        begin: int | None = self.tokenizer.bos_token_id if "gemma" in family else None
        return begin

    @property
    def embeddings(self) -> int | None:
        """Number of tokens that the model has an embedding for; None where it is not known."""
        try:
            weight = self.model.get_input_embeddings().weight
        except (AttributeError, NotImplementedError):
            return None
        return int(weight.shape[0])

    def identity(self, on_bytes: Callable[[int], None] = lambda done: None) -> dict[str, str]:
        """What the model is: digests of its weights, config and tokenizer.

        Every byte of the weights files is read, once: their digests are cached. Where the files are
        not known, the weights in memory are read.

        Args:
            on_bytes: called with the number of bytes done.
        """
        if self.files.weights:
            weights = identity.of_weights(self.files.weights, on_bytes)
        else:
            tensors = identity.of_tensors(sorted(self.model.state_dict().items()))
            weights = identity.digest(*tensors, *tensors.values())
        return {
            "weights": weights,
            "config": self.config_digest,
            "tokenizer": identity.of_tokenizer(self.tokenizer),
        }

    def windows(
        self, documents: list[str], length: int, name: str, stride: int | None = None
    ) -> Text:
        """The documents as windows of tokens that the model can read; see ``cut_windows``.

        Raises:
            TextError: too short for one window, or with tokens that the model has no embedding for.
        """
        text = cut_windows(documents, self.tokenizer, length, name, stride, self.begin)
        highest = int(text.windows.max())
        if (known := self.embeddings) is not None and highest >= known:
            token = self.tokenizer.convert_ids_to_tokens(highest)
            raise TextError(
                f"{name} holds the token {token!r} (number {highest}), but the model {self.name!r} "
                f"has embeddings for only {known} tokens: its tokenizer, of {len(self.tokenizer)} "
                "tokens, belongs to another model; pass the model with its own tokenizer."
            )
        return text

    @quiet_transformers()
    def save(self, folder: Path) -> None:
        """Write a checkpoint with the dtypes of the original; the model has them too afterwards."""
        for name, tensor in floating_tensors(self.model).items():
            tensor.data = tensor.data.to(self.dtypes[name])
        self.model.config.transformers_weights = None  # the files get their usual names
        self.model.save_pretrained(folder)
        restore_dtypes(folder, self.files.tensors())
        self.save_companions(folder)

    def save_companions(self, folder: Path) -> None:
        """Write the tokenizer, and the files for images, sound and chats."""
        self.tokenizer.save_pretrained(folder)
        for file in self.files.companions:
            if not (folder / file.name).exists():
                shutil.copyfile(file, folder / file.name)


def floating_tensors(model: Any) -> dict[str, torch.Tensor]:
    """Parameters and floating-point buffers by name."""
    named = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor for name, tensor in named if tensor.is_floating_point()}
