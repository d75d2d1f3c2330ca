"""Train the bundled model and its tokenizer, and write them to a folder.

    PYTHONPATH=src python scripts/train_bundled_model.py --minutes 2 --output-dir model

On a CPU the same command works, only at a thousandth of the speed: give it more minutes.

- The text is documentation: the training part of the corpus "python-docs", and the docstrings of
  every package installed beside it (the more scientific packages there are, the better).
- No paragraph of the calibration, validation and test parts is trained on: packages that carry
  copies of standard library modules are skipped, and every paragraph that occurs in one of the
  three parts is dropped.
- The schedule follows the clock: the learning rate reaches zero when the minutes are over.
- The checkpoint with the lowest loss on the calibration part is kept. Validation and test parts
  are never evaluated here.
"""

import argparse
import copy
import os
import sysconfig
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from prunerzero.language.python_docs import docstrings, python_documents

END_OF_TEXT = "<|endoftext|>"
VOCABULARY_SIZE = 2048
HEAD_DIM = 32
WINDOW = 512

# Tests, and copies of the standard library or of other packages.
SKIPPED_PACKAGE_PARTS = frozenset(
    "_distutils _vendor backports distutils externals importlib_metadata importlib_resources "
    "test testing tests third_party typing_extensions vendor vendored zipp".split()
)
# Shorter paragraphs are phrases such as "Return a string." that nobody owns.
SHORTEST_HELD_OUT_PARAGRAPH = 40


def held_out_paragraphs() -> set[str]:
    """The paragraphs on which the model must not be trained, with whitespace normalised."""
    parts = (python_documents(part) for part in ("calibration", "validation", "test"))
    paragraphs = (_normalised(text) for part in parts for doc in part for text in doc.split("\n\n"))
    return {text for text in paragraphs if len(text) >= SHORTEST_HELD_OUT_PARAGRAPH}


def without(held_out: set[str], documents: Iterable[str]) -> Iterator[str]:
    """The documents less their held-out paragraphs."""
    for document in documents:
        kept = [text for text in document.split("\n\n") if _normalised(text) not in held_out]
        if kept:
            yield "\n\n".join(kept)


def package_documents() -> list[str]:
    """The docstrings of each module of the installed packages, repeated ones only once."""
    root = Path(sysconfig.get_path("purelib"))
    files = [
        path
        for path in sorted(root.rglob("*.py"))
        if SKIPPED_PACKAGE_PARTS.isdisjoint(path.relative_to(root).with_suffix("").parts)
    ]
    seen: set[str] = set()
    documents = []
    with ProcessPoolExecutor() as pool:
        for texts in pool.map(_file_docstrings, files, chunksize=64):
            documents.append("\n\n".join(text for text in texts if text not in seen))
            seen.update(texts)
    return [document for document in documents if document]


def train_tokenizer(documents: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: any text is representable, decoding gives the text back."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
        model_max_length=WINDOW,
    )


def encode(tokenizer: PreTrainedTokenizerFast, documents: Sequence[str]) -> Tensor:
    """All documents as one row of tokens [n], each document after an end-of-text token."""
    separator = tokenizer.eos_token_id
    tokens: list[int] = []
    for encoding in tokenizer.backend_tokenizer.encode_batch_fast(list(documents)):
        tokens.append(separator)
        tokens.extend(encoding.ids)
    return torch.tensor(tokens)


def new_model(hidden_size: int, layers: int, intermediate_size: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        intermediate_size=intermediate_size,
        num_attention_heads=hidden_size // HEAD_DIM,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    return LlamaForCausalLM(config)


def train(
    model: LlamaForCausalLM,
    own: Tensor,
    others: Tensor,
    calibration: Tensor,
    *,
    minutes: float,
    learning_rate: float,
    weight_decay: float,
    share: float,
    batch_size: int,
) -> LlamaForCausalLM:
    """Train on windows at random places of two texts, `share` of them of the model's own corpus.

    Returns the model as it was when its loss on the calibration part was lowest.
    """
    device = next(model.parameters()).device
    own, others, calibration = own.to(device), others.to(device), calibration.to(device)
    # Not for the calibration loss: its last batch would make it compile twice more.
    compiled = torch.compile(model) if device.type == "cuda" else model
    rows = round(share * batch_size)
    optimizers = new_optimizers(model, learning_rate, weight_decay)

    def loss_of(tokens: Tensor, forward: Callable[..., Any]) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = forward(input_ids=tokens[:, :-1], use_cache=False).logits
        return nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())

    def step(progress: float) -> None:
        for each in optimizers:
            for group in each.param_groups:
                group["lr"] = learning_rate * min(progress / 0.02, (1 - progress) / 0.98)
        tokens = torch.cat([windows(own, rows), windows(others, batch_size - rows)])
        loss_of(tokens, compiled).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for each in optimizers:
            each.step()
            each.zero_grad(set_to_none=True)

    @torch.no_grad()
    def calibration_loss() -> float:
        whole = calibration[: len(calibration) // (WINDOW + 1) * (WINDOW + 1)]
        batches = whole.view(-1, WINDOW + 1).split(batch_size)
        losses = [loss_of(batch, model).item() * len(batch) for batch in batches]
        return sum(losses) / (len(whole) // (WINDOW + 1))

    step(0.0)  # compiles, and at a learning rate of zero changes nothing
    best_loss, best_state = calibration_loss(), copy.deepcopy(model.state_dict())
    start, steps, reports = time.monotonic(), 0, 0
    progress = 0.0
    while progress < 1:
        step(progress)
        steps += 1
        if device.type == "cuda" and steps % 10 == 0:
            torch.cuda.synchronize()  # or the queue of kernels runs ahead of the clock
        progress = min((time.monotonic() - start) / (60 * minutes), 1.0)
        if progress * 20 >= reports + 1:
            reports += 1
            loss = calibration_loss()
            if loss < best_loss:
                best_loss, best_state = loss, copy.deepcopy(model.state_dict())
            print(
                f"{progress:4.0%}  {steps} steps  {steps * batch_size * WINDOW / 1e6:.1f} M tokens"
                f"  calibration loss {loss:.4f}",
                flush=True,
            )
    model.load_state_dict(best_state)
    return model


def new_optimizers(
    model: LlamaForCausalLM, learning_rate: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices; AdamW without weight decay for the embedding and the norms' gains."""
    matrices = [w for name, w in model.named_parameters() if "_proj" in name]
    rest = [w for name, w in model.named_parameters() if "_proj" not in name]
    return [
        torch.optim.Muon(
            matrices, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(rest, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def windows(tokens: Tensor, count: int) -> Tensor:
    """`count` windows [count, WINDOW + 1] that begin at random places."""
    starts = torch.randint(len(tokens) - WINDOW, (count, 1), device=tokens.device)
    return tokens[starts + torch.arange(WINDOW + 1, device=tokens.device)]


def _normalised(text: str) -> str:
    return " ".join(text.split())


def _file_docstrings(path: Path) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's invalid escapes
        try:
            return docstrings(path.read_bytes())
        except (SyntaxError, ValueError, RecursionError):  # templates, Python 2
            return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--hidden-size", type=int, default=192)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--intermediate-size", type=int, default=512)
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--weight-decay", type=float, default=0.6)
    parser.add_argument("--share", type=float, default=0.04, help="of windows of python-docs")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    held_out = held_out_paragraphs()
    own_documents = list(without(held_out, python_documents("training")))
    other_documents = list(without(held_out, package_documents()))
    tokenizer = train_tokenizer(own_documents)
    own, others = encode(tokenizer, own_documents), encode(tokenizer, other_documents)
    print(f"python-docs: {len(own_documents)} documents, {len(own)} tokens")
    print(f"packages: {len(other_documents)} modules, {len(others)} tokens", flush=True)

    torch.manual_seed(args.seed)
    model = new_model(args.hidden_size, args.layers, args.intermediate_size)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    train(
        model,
        own,
        others,
        encode(tokenizer, python_documents("calibration")),
        minutes=args.minutes,
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        share=args.share,
        batch_size=args.batch_size,
    )
    model.to("cpu", torch.bfloat16).save_pretrained(args.output_dir)
    tokenizer.save_pretrained(args.output_dir)
    print(f"written to {args.output_dir}")


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    main()
