"""Tiny models and texts, whole and damaged."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tiny_model import some_text, tiny_model, tiny_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

WEIGHTS = "model.safetensors"


def _llama(folder: Path) -> None:
    tiny_model().save_pretrained(folder)


def _narrow(folder: Path) -> None:
    tiny_model(1, tie_word_embeddings=False).to(torch.bfloat16).save_pretrained(folder)


def _shards(folder: Path) -> None:
    tiny_model(2).save_pretrained(folder, max_shard_size="5KB")


def _biased(folder: Path) -> None:
    tiny_model(3, attention_bias=True, mlp_bias=True, head_dim=4).save_pretrained(folder)


def _gpt2(folder: Path) -> None:
    torch.manual_seed(4)
    config = GPT2Config(
        vocab_size=32,
        n_positions=64,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data.mul_(8)
    model.save_pretrained(folder)


MODELS: dict[str, Callable[[Path], None]] = {
    "llama": _llama,
    "narrow": _narrow,
    "shards": _shards,
    "biased": _biased,
    "gpt2": _gpt2,
}


def build(folder: Path) -> None:
    """All models, each in a folder of its name, and three texts."""
    folder.mkdir(parents=True)
    for name, save in MODELS.items():
        save(folder / name)
        tiny_tokenizer().save_pretrained(folder / name)
    for seed, part in enumerate(("calibration", "validation", "test")):
        (folder / f"{part}.txt").write_text(some_text(seed, 1500))


JUNK: tuple[Any, ...] = (
    0, -1, 1, 3, 7, 2**31, 10**18, 1.5, -0.0, 1e308, float("nan"), True, None, "", "16", "llama",
    "../..", [], [1, 2], {}, {"a": 1}, "\x00", "½",
)  # fmt: skip
"""Values that a setting may be given by mistake."""


# Other models of the same shape: nothing that is remembered of the one is true of the other


def vary(folder: Path, random: Random) -> str:
    """Change the model into another that is as good; says how."""
    if random.random() < 0.5:
        return "as it is"
    config = folder / "config.json"
    content = json.loads(config.read_text())
    if "rms_norm_eps" in content and random.random() < 0.5:
        name, value = random.choice(
            [("rms_norm_eps", 0.01), ("hidden_act", "relu"), ("hidden_act", "gelu")]
        )
        config.write_text(json.dumps(content | {name: value}))
        return f"{name} {value}"
    files = sorted(folder.glob("*.safetensors"))
    tensors = load_file(files[0])
    name = random.choice(sorted(tensors))
    flat = tensors[name].flatten()
    place = random.randrange(len(flat))
    flat[place] = random.uniform(1, 3)
    tensors[name] = flat.view_as(tensors[name])
    save_file(tensors, files[0], metadata={"format": "pt"})
    return f"{name}[{place}] changed"


# Damage


def _truncate(file: Path, random: Random) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: random.randrange(len(content) + 1)])


def _flip(file: Path, random: Random) -> None:
    content = bytearray(file.read_bytes())
    for _ in range(random.randrange(1, 5)):
        if content:
            content[random.randrange(len(content))] = random.randrange(256)
    file.write_bytes(content)


def _delete(file: Path, random: Random) -> None:
    file.unlink()


def _empty(file: Path, random: Random) -> None:
    file.write_bytes(b"")


def _folder(file: Path, random: Random) -> None:
    file.unlink()
    file.mkdir()


def _dangling(file: Path, random: Random) -> None:
    file.unlink()
    file.symlink_to("nowhere")


def _garbage(file: Path, random: Random) -> None:
    file.write_bytes(random.randbytes(random.randrange(1, 200)))


def _other_json(file: Path, random: Random) -> None:
    file.write_text(random.choice(["[]", "null", "3", '"a"', "{}", "{", "[" * 5000, '{"a": NaN}']))


def _junk_value(file: Path, random: Random) -> None:
    """One value of a JSON file, anywhere in it, becomes another, goes, or comes twice."""
    try:
        content = json.loads(file.read_text())
    except ValueError:
        return _garbage(file, random)
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            places.append((value, key))
            if isinstance(inner, dict | list) and inner:
                walk(inner)

    if isinstance(content, dict | list):
        walk(content)
    if not places:
        return _garbage(file, random)
    owner, key = random.choice(places)
    if random.random() < 0.2:
        del owner[key]
    else:
        owner[key] = random.choice(JUNK)
        if key == "num_hidden_layers" and type(owner[key]) in (int, float) and owner[key] > 100:
            owner[key] = 100  # transformers itself builds them one by one
    text = json.dumps(content)
    if random.random() < 0.1 and isinstance(key, str):
        text = text[:-1] + f", {json.dumps(key)}: {json.dumps(random.choice(JUNK))}}}"
    file.write_text(text)
    return None


def damage(folder: Path, random: Random) -> str:
    """Damage one file of a model's folder, or add one; says how."""
    if random.random() < 0.2:
        try:
            return _add(folder, random)
        except (OSError, ValueError, SafetensorError):  # where it is too damaged already
            return "nothing"
    file = random.choice(sorted(path for path in folder.iterdir() if path.is_file()))
    ways = [_truncate, _flip, _delete, _empty, _folder, _dangling, _garbage]
    if file.suffix == ".json":
        ways += [_other_json, _junk_value, _junk_value, _junk_value, _junk_value]
    way = random.choice(ways)
    way(file, random)
    return f"{way.__name__.strip('_')} {file.name}"


def _add(folder: Path, random: Random) -> str:
    weights = sorted(folder.glob("*.safetensors"))
    kind = random.choice(
        ["ema", "index", "adapter", "tokens", "pickle", "generation", "shard", "duplicate"]
    )
    match kind:
        case "ema" if weights:
            tensors = {k: v * 0 + 0.5 for k, v in load_file(weights[0]).items()}
            save_file(tensors, folder / "model_ema.safetensors", metadata={"format": "pt"})
        case "index":
            content = {"metadata": {}, "weight_map": {"lm_head.weight": "nowhere.safetensors"}}
            (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(content))
        case "adapter":
            (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
            (folder / "adapter_model.safetensors").write_bytes(b"\0" * 16)
        case "tokens":
            tokenizer = tiny_tokenizer()
            tokenizer.add_tokens([f"<{i}>" for i in range(random.randrange(1, 40))] + ["e", "ab"])
            tokenizer.save_pretrained(folder)
        case "pickle":
            (folder / "pytorch_model.bin").write_bytes(random.randbytes(50))
        case "generation":
            (folder / "generation_config.json").write_text(
                random.choice(['{"temperature": -1}', "{", "[]", '{"max_new_tokens": "x"}'])
            )
        case "shard" if weights:
            shutil.copy(weights[0], folder / "model-00009-of-00009.safetensors")
        case _:
            config = folder / "config.json"
            config.write_text(config.read_text().rstrip()[:-1] + ', "vocab_size": 7}')
    return f"added {kind}"


# Texts


def random_text(random: Random) -> bytes:
    """In some encoding, with some marks, of some length."""
    alphabet = random.choice(
        [
            "abc def.\n",
            "é½√ü",
            "日本語 ",
            " \n\t",
            "\0a",
            "a",
            "😀a",
            "\u2028\x85\x0c",
            "e\u0301",
            "\r\n ab",
        ]
    )
    length = random.choice([0, 1, 2, 20, 63, 64, 65, 200, 3000])
    text = "".join(random.choice(alphabet) for _ in range(length))
    if random.random() < 0.1:
        text = "\n".join(["word " * 40] * 30)
    mark = random.choice(["", "", "\ufeff", "\ufeff\ufeff"])
    encoding = random.choice(
        ["utf-8", "utf-8", "utf-8", "utf-16", "utf-16-le", "latin-1", "utf-32"]
    )
    content = (mark + text).encode(encoding, "replace")
    if random.random() < 0.15:
        content += random.choice([b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x80\x80", b"\0" * 50])
    return content


def listing(folder: Path) -> dict[str, Any]:
    """All that lies in a folder but the cache, each with what tells whether it was touched."""
    found = {}
    for where, folders, names in os.walk(folder):
        if "cache" in folders:
            folders.remove("cache")
        for name in [*folders, *names]:
            path = Path(where, name)
            state = path.lstat()
            what = (state.st_size, state.st_mtime_ns) if not path.is_dir() else None
            found[str(path.relative_to(folder))] = what
    return found
