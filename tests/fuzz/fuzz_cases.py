"""Kinds of cases: each makes one at random in a folder of its own, and raises what is wrong."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import random as random_module
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import torch
import yaml
from fuzz_formulas import json_of, random_tree, scrambled, sensible_tree, text_of
from fuzz_oracle import Asked, check_pruned, load, perplexity, windows_of
from fuzz_place import JUNK, MODELS, damage, listing, random_text, vary
from installed_command import run_here
from transformers import AutoTokenizer

SLOW = 120
"""Seconds after which a case counts as hanging."""

INTERNAL = re.compile(
    r"Traceback|object at 0x|NoneType|has no attribute|unexpected keyword|positional argument|"
    r"KeyError|TypeError|ValueError|IndexError|AttributeError|unhashable|not subscriptable|"
    r"unsupported operand|not supported between|out of range\b.*index|<class |Errno",
)
"""Words of Python's own, which a sentence for a user does not have."""

CATALOG = {
    "magnitude": "W",
    "wanda": ("mul", "W", ("sqrt", "X")),
    "gblm": ("add", ("mul", "W", ("sqrt", "X")), ("mul", "W", "G")),
    "fisher": ("mul", "W", "G"),
    "pruner-zero": ("mul", ("abs", ("mul", "W", "W")), ("mms", "G")),
    "ria": (
        "mul",
        ("add", ("rownorm", "W"), ("colnorm", "W")),
        ("sqrt", ("sqrt", "X")),
    ),
    "power-law(1,0.5)": ("mul", ("mul", "W", "X"), ("epow", "G", 0.5)),
}


class Fault(AssertionError):
    """Something that must not happen did."""


@dataclass
class Place:
    """A folder with models and texts, in which a case may do what it likes."""

    folder: Path
    random: Random
    told: list[str] = field(default_factory=list)
    """What the case did, to be shown where it fails."""

    def model(self, name: str | None = None) -> Path:
        return self.folder / (name or self.random.choice(list(MODELS)))

    def run(
        self,
        *arguments: str,
        may_write: tuple[str, ...] = (),
        wants: int | None = None,
        may_stop: bool = False,
    ) -> Any:
        """Run a command in this process, and check how it ends."""
        self.told.append("prunerzero " + " ".join(map(repr, arguments)))
        before = listing(self.folder)
        with time_limit(SLOW):
            done = run_here(*arguments)
        if may_stop and done.exit_code == 130:
            return done
        check_words(done.exit_code, done.stdout, done.stderr)
        if wants is not None and done.exit_code != wants:
            raise Fault(f"exit code {done.exit_code}, not {wants}: {done.stderr}")
        kept = tuple(f"{name}/{part}" for name in may_write for part in ("run", "texts"))
        # what was measured before is kept
        refused = may_write if may_stop else kept if arguments[0] == "tune" else ()
        self.check_files(before, refused if done.exit_code == 2 else may_write)
        if done.exit_code == 0 and "--json" in arguments and "--help" not in arguments:
            return json.loads(done.stdout, parse_constant=_no_constant)
        return done

    def check_files(self, before: dict[str, Any], may_write: tuple[str, ...]) -> None:
        after = listing(self.folder)
        changed = {
            path for path in before.keys() | after.keys() if before.get(path) != after.get(path)
        }
        wrong = {p for p in changed if not p.startswith(tuple(may_write) or ("\0",))}
        begun = tuple(name for name in may_write if name.startswith("."))  # and gone on with
        wrong |= {p for p in changed if p.endswith(".partial") and not p.startswith(begun or "\0")}
        if wrong:
            raise Fault(f"written, changed or left behind: {sorted(wrong)[:5]}")


def _no_constant(name: str) -> None:
    raise Fault(f"{name} is no JSON")


def check_words(code: int, out: str, errors: str) -> None:
    """Exit code 0; or 2 and one sentence on standard error, nothing on standard output."""
    if code not in (0, 2):
        raise Fault(f"exit code {code}: {errors[-500:]}")
    if "Traceback" in errors + out:
        raise Fault(f"a traceback: {errors[-500:]}")
    if code == 0:
        return
    if out.strip():
        raise Fault(f"refused, yet on standard output: {out[:200]}")
    where = errors.rfind("Error")
    if where < 0:
        raise Fault(f"refused without a sentence: {errors!r}")
    sentence = re.sub(r"[│╭╮╰╯─]", "", errors[where:]).removeprefix("Error").lstrip(": \n").strip()
    if not sentence:
        raise Fault(f"an empty sentence: {errors!r}")
    check_sentence(sentence if "Usage:" not in errors else f"{sentence.rstrip('.')}.")


def check_sentence(sentence: str) -> None:
    first = sentence.split("\n")[0]
    if INTERNAL.search(sentence):
        raise Fault(f"words of Python: {sentence!r}")
    if (
        not first.rstrip().endswith((".", "?", ":", "'", '"', ")", ",", ";"))
        and "\n" not in sentence
    ):
        raise Fault(f"no sentence: {sentence!r}")
    if len(sentence) > 1500:
        raise Fault(f"{len(sentence)} characters: {sentence[:300]!r}")


class TooSlow(Fault):
    """A case that takes longer than it may."""


@contextmanager
def time_limit(seconds: float) -> Any:
    def end(*_: Any) -> None:
        raise TooSlow(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def texts(random: Random, *parts: str) -> list[str]:
    return [word for part in parts for word in (f"--{part}", f"{part}.txt")]


# Commands that are right: what they give is what brute force gives


def _metric(place: Place) -> tuple[str, Any]:
    """A metric as users name one, and its tree."""
    random = place.random
    if random.random() < 0.3:
        return random.choice(list(CATALOG.items()))
    tree = sensible_tree(random)
    match random.randrange(3):
        case 0:
            content = json_of(tree)
            if random.random() < 0.5:
                content = {"name": "x", "tree": content, "else": [1]}
            (place.folder / "metric.json").write_text(json.dumps(content))
            return "metric.json", tree
        case _:
            return text_of(tree, random), tree


def _sparsity(random: Random) -> tuple[str, float | None, tuple[int, int] | None, str]:
    if random.random() < 0.3:
        keep, of = random.choice([(2, 4), (1, 2), (1, 4), (4, 8), (3, 8), (7, 8), (1, 8)])
        return f"{keep}:{of}", None, (keep, of), "row"
    ratio = random.choice([0.5, 0.3, 0.66, 0.01, 0.99, 0.0, round(random.random(), 3)])
    text = random.choice([str(ratio), str(ratio), f"{ratio * 100:g}%"])
    if text.endswith("%"):
        ratio = float(text[:-1]) / 100
    return text, ratio, None, random.choice(["row", "row", "layer", "model"])


def pruned(place: Place) -> None:
    """``prune``, in all its ways."""
    random = place.random
    model = place.model()
    place.told.append(f"{model.name}: {vary(model, random)}")
    metric, tree = _metric(place)
    sparsity, ratio, pattern, group = _sparsity(random)
    length = random.choice([16, 32, 64])
    samples = random.choice([1, 3, 5, None])
    part = random.choice(["test", "validation", None])
    options = ["--model", random.choice([model.name, str(model), f"./{model.name}/"])]
    options += texts(random, "calibration", *([part] if part else []))
    options += ["--metric", metric, "--sparsity", sparsity, "--group", group]
    options += ["--max-seq-length", str(length)]
    if samples:
        options += ["--num-calibration-samples", str(samples)]
    patterns = []
    if random.random() < 0.2:
        patterns = [random.choice(["*.mlp.*", "*.1.*", "*down_proj", "*attn*"])]
        options += [random.choice(["--ignore", "--target"]), patterns[0]]
    if random.random() < 0.3:
        options += ["--batch-size", str(random.choice([1, 2, 3, 1000]))]
    if random.random() < 0.3 and group != "model":
        options += ["--block-by-block"]
        if random.random() < 0.3:
            options += ["--activation-memory", random.choice(["0", "1KiB", "1GB"])]
    options += ["--output-dir", "out"]

    def chosen(name: str) -> bool:
        if not patterns:
            return True
        inside = fnmatchcase(name, patterns[0])
        return inside if "--target" in options else not inside

    result = place.run("prune", *options, "--json", may_write=("out",))
    if not isinstance(result, dict):
        if re.search("NaN|no linear layer", result.stderr):
            return
        raise Fault(f"refused: {result.stderr}")
    asked = Asked(
        model, place.folder / "calibration.txt", length, samples or 128, tree, ratio, pattern, group
    )
    check_pruned(asked, place.folder / "out", chosen)
    tokenizer = AutoTokenizer.from_pretrained(model)
    if part:
        windows = windows_of(tokenizer, place.folder / f"{part}.txt", length, None)
        for name, folder in (("dense", model), ("pruned", place.folder / "out")):
            same(result["perplexity"][part][name], perplexity(load(folder), windows), name)
    if random.random() < 0.2:
        again = place.run(
            "prune", "--recipe", "out/recipe.yaml", "--output-dir", "again", "--json",
            may_write=("again",), wants=0,
        )  # fmt: skip
        if again["repeated"] is not True:
            raise Fault("the recipe gives other weights")


def same(told: float | None, expected: float, what: str) -> None:
    if told is None or not math.isfinite(expected):
        if told is not None or math.isfinite(expected):
            raise Fault(f"{what}: {told} is not {expected}")
    elif not math.isclose(told, expected, rel_tol=2e-4):
        raise Fault(f"{what}: {told} is not {expected}")


def evaluated(place: Place) -> None:
    """``eval`` and ``compare`` on texts of every sort."""
    random = place.random
    model = place.model()
    place.told.append(f"{model.name}: {vary(model, random)}")
    text = place.folder / random.choice(
        ["some.txt", "so me.txt", "日本.txt", "-x.txt", "[red].txt"]
    )
    text.write_bytes(random_text(random))
    place.told.append(f"{text.name}: {text.read_bytes()[:60]!r}, {text.stat().st_size} bytes")
    length = random.choice([2, 16, 64])
    options = ["--model", model.name, "--max-seq-length", str(length), "--json"]
    if random.random() < 0.7:
        result = place.run("eval", *options, f"--text={text.name}")
        figures = None if not isinstance(result, dict) else result["perplexity"]
    else:
        metric = random.choice(list(CATALOG))
        words = ["compare", *options, *texts(random, "calibration"), f"--text={text.name}"]
        result = place.run(*words, "--metrics", metric)
        figures = None
        if isinstance(result, dict):
            [by_name] = result["perplexity"].values()
            figures = by_name["dense"]
    if figures is None and isinstance(result, dict):
        expected = math.inf
    elif figures is None:
        _check_text_refused(text, length, model, result.stderr)
        return
    windows = windows_of(AutoTokenizer.from_pretrained(model), text, length, None)
    expected = perplexity(load(model), windows)
    same(figures, expected, "perplexity")


def _check_text_refused(text: Path, length: int, model: Path, words: str) -> None:
    try:
        windows = windows_of(AutoTokenizer.from_pretrained(model), text, length, None)
    except (UnicodeDecodeError, RuntimeError):
        return
    content = text.read_bytes().decode().removeprefix("\ufeff")
    if len(windows) and content.strip() and "\0" not in content:
        raise Fault(f"{len(windows)} windows, yet refused: {words}")


def measured(place: Place) -> None:
    """Sliding windows, the divergence from a reference, and what ``compare`` says of metrics."""
    random = place.random
    length = random.choice([8, 16, 32])
    stride = random.choice([None, 1, 3, length // 2, length - 1, length])
    model, reference = (place.model(name) for name in random.sample(["llama", "shards", "gpt2"], 2))
    sliding = [] if stride is None else ["--stride", str(stride)]
    options = ["--max-seq-length", str(length), "--json", *sliding]
    (place.folder / "short.txt").write_text((place.folder / "test.txt").read_text()[:300])
    text, tokenizer = place.folder / "short.txt", AutoTokenizer.from_pretrained(model)
    result = place.run(
        "eval", "--model", model.name, "--reference", reference.name, "--text", "short.txt",
        *options,
    )  # fmt: skip
    if not isinstance(result, dict):
        raise Fault(f"refused: {result.stderr}")
    ids = torch.tensor(tokenizer(text.read_text())["input_ids"])
    windows = ids.unfold(0, length, min(stride or length, length))
    new = min(stride or length, length - 1)
    losses: dict[Path, list[float]] = {model: [], reference: []}
    predictions: dict[Path, list[Any]] = {model: [], reference: []}
    for folder in losses:
        loaded = load(folder)
        for number, window in enumerate(windows):
            with torch.no_grad():
                logits = loaded(input_ids=window[None]).logits[0, :-1].log_softmax(-1)
            found = -logits.gather(1, window[1:, None])[:, 0]
            losses[folder] += (found if number == 0 else found[-new:]).tolist()
            predictions[folder].append(logits)
    [figures] = result["texts"]
    for folder, told in ((model, figures["perplexity"]), (reference, figures["reference"])):
        same(told, math.exp(math.fsum(losses[folder]) / len(losses[folder])), folder.name)
    ours, theirs = (torch.cat(predictions[folder]) for folder in (model, reference))
    kl = float((theirs.exp() * (theirs - ours)).sum(-1).mean())
    agreement = float((theirs.argmax(-1) == ours.argmax(-1)).double().mean())
    same(figures["divergence"]["kl"], kl, "divergence")
    same(figures["divergence"]["agreement"], agreement, "agreement")
    metric, tree = random.choice(list(CATALOG.items()))
    sparsity, _, _, group = _sparsity(random)
    pruning = ["--model", model.name, "--calibration", "calibration.txt", "--sparsity", sparsity]
    pruning += ["--group", group, "--max-seq-length", str(length)]
    compared = place.run(
        "compare", *pruning, "--metrics", metric, "--text", "short.txt", *sliding, "--json"
    )
    place.run("prune", *pruning, "--metric", metric, "--output-dir", "out", may_write=("out",))
    again = place.run("eval", "--model", "out", "--text", "short.txt", *options)
    same(compared["perplexity"]["short.txt"][metric], again["perplexity"], f"compare {metric}")


def searched(place: Place) -> None:
    """A small search, resumed, reported on, and used; then with one of its files damaged."""
    random = place.random
    model = place.model("llama")
    place.told.append(f"{model.name}: {vary(model, random)}")
    sparsity, _, _, group = _sparsity(random)
    options = ["--model", model.name, *texts(random, "calibration", "validation")]
    options += ["--sparsity", sparsity, "--group", group, "--max-seq-length", "32"]
    options += ["--num-validation-samples", str(random.choice([1, 4, 20])), "--output-dir", "run"]
    options += ["--seed", str(random.randrange(3))]
    for name, choices in (
        ("--strategy", ["evolution", "random", "powerlaw"]),
        ("--operators", ["auto", "published", "extended"]),
        ("--seed-metrics", ["none", "known"]),
    ):
        if random.random() < 0.4:
            options += [name, random.choice(choices)]
    result = None
    for evaluations in sorted(random.sample(range(1, 12), 2)):
        result = place.run(
            "search", *options, "--evaluations", str(evaluations), "--json", may_write=("run",)
        )
        if not isinstance(result, dict):
            return
        if result["evaluations"] > evaluations:
            raise Fault(f"{result['evaluations']} evaluations, {evaluations} were asked for")
    place.run("report", "run", may_write=("run",), wants=0)
    place.run("explain", "run", "--json", wants=0)
    again = place.run(
        "prune", "--model", model.name, *texts(random, "calibration", "validation"), "--metric",
        "run", "--sparsity", sparsity, "--group", group, "--max-seq-length", "32",
        "--num-validation-samples", options[options.index("--num-validation-samples") + 1],
        "--output-dir", "out", "--json", may_write=("out",), wants=0,
    )  # fmt: skip
    windows = windows_of(
        AutoTokenizer.from_pretrained(model),
        place.folder / "validation.txt",
        32,
        int(options[options.index("--num-validation-samples") + 1]),
    )
    figures = result["perplexity"]["validation"]
    same(figures["dense"], perplexity(load(model), windows), "dense")
    best = perplexity(load(place.folder / "out"), windows)
    told = [value for name, value in figures.items() if name != "dense"]
    if not any(math.isclose(value or math.inf, best, rel_tol=2e-4) for value in told):
        raise Fault(f"the best metric has {best}, of {figures}")
    same(again["perplexity"]["validation"]["pruned"], best, "pruned")
    files = sorted(path for path in (place.folder / "run").rglob("*") if path.is_file())
    _damage_one(place, files)
    command = random.choice(["search", "report", "explain", "prune"])
    if command == "search":
        place.run("search", *options, "--evaluations", "13", may_write=("run",))
    elif command == "prune":
        place.run(
            "prune", "--model", model.name, *texts(random, "calibration"), "--metric", "run",
            "--output-dir", "other", may_write=("other",),
        )  # fmt: skip
    else:
        place.run(command, "run", may_write=("run",))


def _damage_one(place: Place, files: list[Path]) -> None:
    from fuzz_place import _delete, _empty, _flip, _garbage, _junk_value, _other_json, _truncate

    file = place.random.choice(files)
    ways = [_truncate, _flip, _delete, _empty, _garbage]
    if file.suffix == ".json":
        ways += [_other_json, _junk_value, _junk_value, _junk_value]
    way = place.random.choice(ways)
    way(file, place.random)
    place.told.append(f"{way.__name__} {file}")


def tuned(place: Place) -> None:
    """``tune`` among the known metrics, then again, with a file damaged in between."""
    random = place.random
    model = place.model("llama")
    options = ["--model", model.name, *texts(random, "calibration", "validation", "test")]
    options += ["--max-seq-length", "32", "--output-dir", "tuned", "--samples", "1"]
    options += ["--evaluations", random.choice(["0", "0", "2"])]
    limit = random.choice(
        [["--max-degradation", "5%"], ["--max-degradation", "1"], ["--max-perplexity", "30"], []]
    )
    options += limit
    if random.random() < 0.4:
        options += ["--pattern", random.choice(["2:4", "1:2", "4:8"])]
    elif random.random() < 0.5:
        options += ["--group", random.choice(["row", "layer", "model"])]
    result = place.run("tune", *options, "--json", may_write=("tuned",))
    if not isinstance(result, dict):
        return
    if result["reached"]:
        out = load(place.folder / "tuned" / "model")
        windows = windows_of(
            AutoTokenizer.from_pretrained(model), place.folder / "test.txt", 32, None
        )
        figures = json.loads((place.folder / "tuned" / "model" / "figures.json").read_text())
        told = figures["perplexity"]
        if "test" in told:
            same(told["test"]["pruned"], perplexity(out, windows), "tuned")
    if random.random() < 0.5:
        files = sorted(path for path in (place.folder / "tuned").rglob("*") if path.is_file())
        _damage_one(place, files)
    place.run("tune", *options, "--json", may_write=("tuned",))
    place.run("report", "tuned", "--language", random.choice(["en", "ja"]), may_write=("tuned",))


# Input that is wrong in some way: done right or refused


def damaged_model(place: Place) -> None:
    """A model's folder in which something is broken or too much."""
    random = place.random
    model = place.model()
    for _ in range(random.choice([1, 1, 1, 2])):
        place.told.append(f"{model.name}: {damage(model, random)}")
    command = random.choice(["eval", "prune", "compare"])
    if command == "eval":
        result = place.run("eval", "--model", model.name, "--text", "test.txt", "--json")
        if isinstance(result, dict):
            windows = windows_of(
                AutoTokenizer.from_pretrained(model),
                place.folder / "test.txt",
                result["window_length"],
                None,
            )
            same(result["perplexity"], perplexity(load(model), windows), "perplexity")
        return
    options = ["--model", model.name, *texts(random, "calibration", "test"), "--json"]
    options += ["--max-seq-length", "32"]
    if command == "compare":
        place.run("compare", *options, "--metrics", "wanda,fisher")
        return
    if random.random() < 0.4:
        options.append("--block-by-block")
    result = place.run("prune", *options, "--output-dir", "out", may_write=("out",))
    if isinstance(result, dict):
        asked = Asked(
            model, place.folder / "calibration.txt", 32, 128, CATALOG["wanda"], 0.5, None, "row"
        )
        check_pruned(asked, place.folder / "out")


def formula(place: Place) -> None:
    """Formulas and JSON trees, right and scrambled, explained."""
    random = place.random
    tree = random_tree(random, random.randrange(5))
    text = text_of(tree, random)
    kind = random.randrange(4)
    if kind == 0:
        arguments = [text]
    elif kind == 1:
        arguments = [scrambled(text, random)]
    else:
        content = json.dumps(json_of(tree))
        if kind == 3:
            content = scrambled(content, random)
        (place.folder / "tree.json").write_text(content, encoding="utf-8")
        arguments = ["tree.json"]
        place.told.append(content)
    result = place.run("explain", "--json", "--", *arguments)
    if kind in (0, 2):
        _check_scores(tree, text, random)
        if isinstance(result, dict):
            return
        if not re.search("constant|NaN|not finite|tells no weights apart", result.stderr):
            raise Fault(f"refused: {result.stderr}")


def _check_scores(tree: Any, text: str, random: Random) -> None:
    """The package's scores are those of the evaluator here."""
    import numpy as np
    from fuzz_formulas import evaluate

    from prunerzero import Expression

    generator = np.random.default_rng(random.randrange(100))
    given = {
        "W": np.abs(generator.normal(size=(3, 8))),
        "X": np.exp(generator.normal(size=(1, 8))),
        "G": np.abs(generator.normal(size=(3, 8))),
    }
    exact = evaluate(tree, given)
    rough = evaluate(tree, given, np.float32)
    tensors = {name: torch.tensor(value, dtype=torch.float32) for name, value in given.items()}
    found = np.broadcast_to(Expression.parse(text).score(**tensors).numpy(), exact.shape)
    if not np.isfinite(exact).all() or not np.isfinite(rough).all():
        return
    with np.errstate(all="ignore"):
        error = np.abs(exact - rough)
        close = np.abs(found - exact) <= 50 * error + 3e-5 * np.abs(exact) + 1e-30
    if not close.all() and error.max() < 1e-3 * np.abs(exact).max():
        raise Fault(f"{text}: scores {found[~close][:3]}, not {exact[~close][:3]}")


WORDS = (
    "0", "1", "-1", "0.5", "50", "2:4", "4:2", "nan", "inf", "1e999", "99999999999999999999", "",
    " ", "auto", "none", "true", "wanda", "W", "X - X", "5", "model", "llama", "./llama", "gpt2",
    "calibration.txt", "validation.txt", "nowhere", "nowhere.json", "llama/config.json", ".", "..",
    "/", "/dev/null", "~", "~nobody/x", "out", "out/", "out/deep/er", "a\nb", "½", "\x1b[31m",
    "[bold]", "[/]", "*", "%", "5%", "-5%", "10s", "1h", "-1s", "5x", "cpu", "cuda", "cuda:9",
    "meta", "mps", "cpu,cpu", "cpu:3", "float32", "float16", "bfloat16", "int8", "row", "layer",
    "extended", "full", "block", "x" * 300, "1KiB", "4GiB", "-1GiB", "lots", "wanda,fisher", ",",
    "test", "calibration", "validation", "ja", "en", "ORG/NAME", "a/b/c", "dense", "pruned",
    "evolution", "random", "arc_easy", "arc_easy:acc:0.02", ":::", "python-docs",
)  # fmt: skip
"""Values for options, most of them wrong for most."""

COMMANDS = ("prune", "eval", "compare", "search", "tune", "explain", "metrics", "report")


def _options(command: str) -> dict[str, Any]:
    """The command's options by their flags."""
    import typer

    from prunerzero.cli.commands import app

    group = typer.main.get_command(app)
    found = {}
    for parameter in group.commands[command].params:  # type: ignore[attr-defined]
        for flag in parameter.opts:
            if flag.startswith("--"):
                found[flag] = parameter
    return found


LEFT_OUT = {"--workers", "--storage", "--push-to-hub", "--tasks", "--trust-remote-code", "--help"}
"""They start processes, ask networks, or need other packages."""


def _sensible(command: str, random: Random) -> list[str]:
    """A small command that is right."""
    base = ["--model", "llama", "--max-seq-length", "32"]
    match command:
        case "prune":
            return [*base, *texts(random, "calibration"), "--output-dir", "out"]
        case "eval":
            return [*base, "--text", "test.txt"]
        case "compare":
            return [*base, *texts(random, "calibration", "test"), "--metrics", "wanda"]
        case "search" | "tune":
            return [*base, *texts(random, "calibration", "validation"), "--output-dir", "out"]
        case "explain":
            return ["wanda"]
        case "report":
            return ["out"]
    return []


def _bounded(command: str) -> list[str]:
    """What keeps a command small, whatever was said before."""
    if command == "search":
        return ["--evaluations", "2", "--time", "20s"]
    return ["--evaluations", "0", "--samples", "1"] if command == "tune" else []


def command_line(place: Place) -> None:
    """A command that is right, with some options that may be wrong."""
    random = place.random
    command = random.choice(COMMANDS)
    arguments = _sensible(command, random)
    flags = sorted(set(_options(command)) - LEFT_OUT)
    for _ in range(random.choice([1, 1, 2, 3])):
        match random.randrange(8):
            case 0 if arguments:
                del arguments[random.randrange(len(arguments))]
            case 1:
                arguments.insert(random.randrange(len(arguments) + 1), random.choice(WORDS))
            case 2:
                arguments.append(random.choice(["--no-such", "-x", "--", "--sparsty", "-5"]))
            case _ if flags:
                flag = random.choice(flags)
                arguments.append(flag)
                if not getattr(_options(command)[flag], "is_flag", False) or random.random() < 0.1:
                    arguments.append(random.choice(WORDS))
    outputs = [arguments[i + 1] for i, a in enumerate(arguments[:-1]) if a == "--output-dir"]
    if any(name.startswith(("/", "~")) for name in outputs):
        return
    limits = _bounded(command)
    if "--" in arguments:
        return
    result = place.run(
        command, *arguments, *limits, may_write=tuple(o.split("/")[0] for o in outputs)
    )
    if isinstance(result, dict | list) or result.exit_code:
        return
    if command == "prune":
        for name in outputs[-1:]:
            load(place.folder / name)


def config_file(place: Place) -> None:
    """Options from a YAML file, of every type."""
    random = place.random
    command = random.choice(["prune", "eval", "compare", "search", "tune"])
    names = sorted(p.name for p in _options(command).values() if p.opts[0] not in LEFT_OUT)
    values = [
        *JUNK,
        "wanda",
        "2:4",
        "0.5",
        ["*.mlp.*"],
        "llama",
        "test.txt",
        [None],
        [[1]],
        {"x": []},
    ]
    content: Any = {random.choice(names): random.choice(values) for _ in range(random.randrange(4))}
    text = yaml.safe_dump(content, allow_unicode=True)
    match random.randrange(10):
        case 0:
            text = scrambled(text, random)
        case 1:
            text = random.choice(["", "- 1", "3", "{", "a: &a [*a]", "x: !!python/object:os.system",
                                  "? [1]\n: 2", "sparsity: 2:4", "sparsity: 0x10", "\ufeffseed: 1",
                                  "seed: 1\nseed: 2", "true: 1", "2: 3", "a: " + "[" * 500,
                                  "sparsity: 2024-01-01", "sparsity: 1_0"])  # fmt: skip
    place.told.append(text)
    (place.folder / "settings.yaml").write_bytes(
        text.encode(random.choice(["utf-8"] * 8 + ["utf-16", "latin-1"]), "replace")
    )
    output = content.get("output_dir") if isinstance(content, dict) else None
    if isinstance(output, str) and output.startswith(("/", "..")):
        return
    options = [*_sensible(command, random), *_bounded(command)]
    flag = "--recipe" if command == "prune" and random.random() < 0.3 else "--config"
    if random.random() < 0.5 and "--output-dir" not in options:
        options = options[: 2 * random.randrange(1, len(options) // 2)]
    place.run(command, flag, "settings.yaml", *options, may_write=("out",))


def output_folder(place: Place) -> None:
    """Folders to write that exist, cannot be, or are something else."""
    random = place.random
    folder = place.folder
    (folder / "full").mkdir()
    (folder / "full" / "letter").write_text("keep me")
    (folder / "empty").mkdir()
    (folder / "real").mkdir()
    (folder / "link").symlink_to("real")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "to-full").symlink_to("full")
    (folder / "loop").symlink_to("loop")
    (folder / "file").write_text("x")
    name = random.choice([
        "full", "empty", "link", "dangling", "to-full", "loop", "file", "file/x", ".", "..", "",
        "llama", "llama/x", "new", "new/", "./new", "new/../other", "a/b/c", "real/x", "link/x",
        "new folder", "日本", "-out", "[red]", "x" * 255, "x" * 250, "/dev/null/x", "/proc/x", " ",
        "a\nb",
        "calibration.txt", "cache", ".hidden", "/", "out.json",
    ])  # fmt: skip
    command = random.choice(["prune", "prune", "search", "tune"])
    options = [
        "--model",
        "llama",
        *texts(random, "calibration", "validation"),
        "--max-seq-length",
        "32",
    ]
    options += _bounded(command) + [f"--output-dir={name}"]
    if command == "prune" and random.random() < 0.3:
        options.append("--block-by-block")
    first = "real" if name.startswith("link") else "nowhere" if name == "dangling" else name
    parts = [part for part in Path(first).parts if part not in (".", "..")]
    may = (parts[0] if name != "new/../other" else "other", "dangling", "link") if parts else ()
    if name in ("full", "to-full", "file", "calibration.txt") or name == "llama":
        may = ()
    result = place.run(command, *options, may_write=may)
    if (folder / "full" / "letter").read_text() != "keep me":
        raise Fault("what was there is gone")
    if result.exit_code == 0 and command == "prune":
        load(Path(os.path.normpath(folder / name)))


def recipe(place: Place) -> None:
    """The recipe of a pruning, with something in it changed."""
    random = place.random
    options = ["--model", "llama", *texts(random, "calibration", "test"), "--max-seq-length", "32"]
    place.run("prune", *options, "--output-dir", "out", may_write=("out",), wants=0)
    file = place.folder / "out" / "recipe.yaml"
    content = yaml.safe_load(file.read_text())
    key = random.choice(sorted(content))
    if random.random() < 0.3:
        del content[key]
    else:
        content[key] = random.choice(JUNK)
    place.told.append(f"recipe: {key} {content.get(key, 'gone')!r}")
    changed = yaml.safe_dump(content)
    file.write_text(scrambled(changed, random) if random.random() < 0.2 else changed)
    place.run("prune", "--recipe", "out/recipe.yaml", "--output-dir", "again", may_write=("again",))


class Odd:
    """A value that nothing expects."""


PYTHON_JUNK: tuple[Any, ...] = (
    *JUNK, Odd(), b"llama", ("a",), {1, 2}, object, len, 1j, Path("nowhere"), "wanda", 0.5, "0.5",
    ["wanda"], range(3), -5, "*.mlp.*", ("*.mlp.*",), [Odd()], Path("calibration.txt"),
)  # fmt: skip


def python_api(place: Place) -> None:
    """Calls from Python with arguments of any type: done, or a ValueError with a sentence."""
    import prunerzero
    from prunerzero import Expression, InputError, MetricError, Setup, Sparsity

    random = place.random
    setup_given: dict[str, Any] = {
        "model": "llama", "calibration": "calibration.txt", "validation": "validation.txt",
        "max_seq_length": 32, "num_validation_samples": 3, "num_calibration_samples": 3,
    }  # fmt: skip
    junk = random.choice(PYTHON_JUNK)

    def replaced(given: dict[str, Any]) -> dict[str, Any]:
        name = random.choice(sorted(given))
        place.told.append(f"{name}={junk!r}")
        if name == "evaluations" and isinstance(junk, int) and junk > 100:
            return given  # so many it would make
        return {**given, name: junk}

    def setup(**changes: Any) -> Any:
        return Setup(**{**setup_given, **changes})

    tensors = {"W": torch.randn(4, 8), "X": torch.rand(8), "G": torch.rand(4, 8)}
    fields = sorted(Setup.__dataclass_fields__)
    small: dict[str, dict[str, Any]] = {
        "prune": {"metric": "wanda", "sparsity": "0.5", "output_dir": "out"},
        "evaluate": {"part": "validation", "datasets": (), "texts": (), "stride": None},
        "compare": {"metrics": ["wanda"], "sparsity": "0.5", "samples": 0, "texts": ()},
        "search": {
            "sparsity": "0.5", "output_dir": "out", "evaluations": 2, "seed": 0, "group": "row",
            "strategy": "evolution", "operators": "published", "seed_metrics": "none", "time": None,
        },
        "tune": {
            "output_dir": "out", "evaluations": 0, "max_degradation": "5%", "pattern": None,
            "group": "auto", "samples": 0, "seed": 0, "language": "en",
        },
    }  # fmt: skip
    kind = random.choice(["setup", "parse", "json", "sparsity", "mask", "score", *small])
    place.told.append(kind)
    before = listing(place.folder)
    try:
        with time_limit(SLOW):
            match kind:
                case "setup":
                    name = random.choice(fields)
                    place.told.append(f"Setup({name}={junk!r})")
                    prunerzero.prune(setup(**{name: junk}), "wanda", "0.5", "out")
                case "parse":
                    Expression.parse(junk)
                case "json":
                    Expression.from_json(junk)
                case "sparsity":
                    Sparsity(
                        **replaced({"ratio": 0.5, "group": "row"})
                    ) if random.random() < 0.5 else (Sparsity.parse(junk))
                case "mask":
                    prunerzero.prune_mask(
                        **replaced({"score": tensors["W"], "sparsity": Sparsity(0.5)})
                    )
                case "score":
                    wanda = Expression.parse("W * X * G")
                    wanda.score(**replaced(tensors))
                case _:
                    given = replaced(small[kind])
                    getattr(prunerzero, kind)(setup(), **given)
    except (InputError, MetricError) as error:
        check_sentence(str(error))
        if INTERNAL.search(str(error)) or "--" in str(error):
            raise Fault(f"not in the words of Python's caller: {error}") from None
        if before != listing(place.folder):
            raise Fault(f"refused, and yet written: {error}") from None
        if type(error) in (InputError, MetricError) or isinstance(error, ValueError):
            return
    except KeyboardInterrupt:
        raise Fault("a KeyboardInterrupt of nowhere") from None


def natural_python(place: Place) -> None:
    """The same call in another natural spelling gives the same weights."""
    import numpy as np

    from prunerzero import Setup, Sparsity, prune

    random = place.random
    spellings: dict[str, list[Any]] = {
        "calibration": ["calibration.txt", Path("calibration.txt"), "./calibration.txt"],
        "validation": ["validation.txt", place.folder / "validation.txt"],
        "model": ["llama", "./llama", str(place.folder / "llama"), Path("llama"), "llama/"],
        "max_seq_length": [32, np.int64(32)],
        "num_calibration_samples": [3, np.int32(3)],
        "num_validation_samples": [4, np.int64(4)],
        "target": ["*.mlp.*", ["*.mlp.*"], ("*.mlp.*",)],
        "ignore": [(), [], None],
        "batch_size": [None, 2, 1],
    }
    arguments: dict[str, list[Any]] = {
        "metric": ["wanda", " wanda ", "W * sqrt(X)", "Wanda", "mul(W,sqrt(X))"],
        "sparsity": [0.5, "0.5", "50%", np.float64(0.5), np.float32(0.5), Sparsity(0.5), ".5"],
        "output_dir": ["out", Path("out"), str(place.folder / "out")],
    }
    given = {name: random.choice(choices) for name, choices in spellings.items()}
    call = {name: random.choice(choices) for name, choices in arguments.items()}
    place.told.append(f"Setup(**{given}), {call}")
    result = prune(Setup(**given), **call)
    first = {name: choices[0] for name, choices in spellings.items()}
    usual = prune(Setup(**first), "wanda", "0.5", "usual")
    if result.settings["fingerprints"]["weights"] != usual.settings["fingerprints"]["weights"]:
        raise Fault("other weights than the usual spelling gives")
    if len(result.layers) != 6:
        raise Fault(f"{len(result.layers)} layers, 6 were meant")


def identity(place: Place) -> None:
    """A search and a recipe notice what has changed, and only that."""
    random = place.random
    parts = texts(random, "calibration", "validation")
    command = random.choice(["search", "tune", "recipe"])
    model = "llama"

    def run(evaluations: str) -> Any:
        options = ["--model", model, *parts, "--max-seq-length", "32"]
        match command:
            case "search":
                options += ["--evaluations", evaluations, "--output-dir", "run"]
                return place.run("search", *options, may_write=("run",))
            case "tune":
                options += ["--evaluations", "0", "--samples", "0", "--output-dir", "run"]
                return place.run("tune", *options, "--pattern", "2:4", may_write=("run",))
        if evaluations == "2":
            return place.run("prune", *options, "--output-dir", "run", may_write=("run",))
        options = ["--recipe", "run/recipe.yaml", "--model", model, "--output-dir", "again"]
        return place.run("prune", *options, may_write=("again",))

    if run("2").exit_code:
        raise Fault("refused at first")
    folder = place.folder / "llama"
    weights, config = folder / "model.safetensors", folder / "config.json"
    tokenizer, text = folder / "tokenizer.json", place.folder / "calibration.txt"
    change = random.choice([
        "touched", "spelt", "copied", "config in another order", "a text's end",
        "weight", "config", "tokenizer", "text",
    ])  # fmt: skip
    place.told.append(f"then: {change}")
    match change:
        case "touched":
            for file in (weights, config, text):
                os.utime(file, (1, 1))
        case "spelt":
            model = random.choice(["./llama", "llama/", str(folder), "../case/llama"])
        case "copied":
            shutil.copytree(folder, place.folder / "same")
            model = "same"
        case "config in another order":
            content = json.loads(config.read_text())
            config.write_text(json.dumps(dict(reversed(content.items()))))
        case "a text's end":
            text.write_text(text.read_text()[:1500] + "abc")  # fills no further window
        case "weight":
            content = bytearray(weights.read_bytes())
            content[-4 * random.randrange(1, 1000) - 2] ^= 1
            weights.write_bytes(content)
        case "config":
            name, value = random.choice(
                [("rms_norm_eps", 0.5), ("hidden_act", "relu"), ("attention_bias", False)]
            )
            content = json.loads(config.read_text())
            change = "nothing" if content.get(name) == value else change
            config.write_text(json.dumps({**content, name: value}))
        case "tokenizer":
            content = json.loads(tokenizer.read_text())
            vocabulary = content["model"]["vocab"]
            vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
            tokenizer.write_text(json.dumps(content))
        case "text":
            letters = text.read_text()
            place_of = random.randrange(1400)
            other = "b" if letters[place_of] == "a" else "a"
            text.write_text(letters[:place_of] + other + letters[place_of + 1 :])
    done = run("3")
    is_other = change in ("weight", "config", "tokenizer", "text")
    if is_other != (done.exit_code == 2):
        raise Fault(f"{change}: exit code {done.exit_code}: {done.stderr}")


def surroundings(place: Place) -> None:
    """The installed command where terminals, homes and caches are not as usual."""
    random = place.random
    command = random.choice(["metrics", "explain", "prune", "eval", "search"])
    words = [command, *_sensible(command, random), *_bounded(command)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    changes: dict[str, list[str]] = {
        "PYTHONIOENCODING": ["cp1252", "ascii", "utf-16", "latin-1"],
        "HOME": ["/proc/nowhere", "/dev/null", str(place.folder), ""],
        "PRUNERZERO_CACHE": ["/proc/nowhere", "/dev/null/x", "calibration.txt", "new/cache", ""],
        "HF_HOME": ["/proc/nowhere", "/dev/null"],
        "COLUMNS": ["1", "0", "-5", "x", "100000"],
        "TERM": ["dumb", "", "unknown"],
        "LANG": ["C", "de_DE.ISO-8859-1", "ja_JP.UTF-8"],
        "LC_ALL": ["C", "POSIX"],
        "TMPDIR": ["/proc/nowhere"],
        "NO_COLOR": ["1"],
        "FORCE_COLOR": ["1"],
        "PYTHONUTF8": ["0", "1"],
    }
    for name in random.sample(sorted(changes), random.choice([1, 1, 2, 3])):
        environment[name] = random.choice(changes[name])
        place.told.append(f"{name}={environment[name]!r}")
    out = random.choice(["pipe", "pipe", "pipe", "full", "closed", "none"])
    place.told.append(f"{' '.join(words)}; standard output: {out}")
    whole = [str(Path(sys.executable).with_name("prunerzero")), *words]
    with open("/dev/full" if out == "full" else os.devnull, "w") as device:
        if out == "closed":
            reading, writing = os.pipe()
            os.close(reading)
        stdout: Any = {"pipe": subprocess.PIPE, "full": device, "none": None}.get(out)
        process = subprocess.Popen(
            whole, cwd=place.folder, env=environment, stderr=subprocess.PIPE,
            stdout=writing if out == "closed" else stdout,
            preexec_fn=(lambda: os.close(1)) if out == "none" else None,
        )  # fmt: skip
        if out == "closed":
            os.close(writing)
        told, errors = process.communicate(timeout=SLOW)
    words_of = errors.decode("utf-8", "replace")
    if "Traceback" in words_of or "Exception ignored" in words_of:
        raise Fault(f"a traceback, exit code {process.returncode}: {words_of[-1200:]}")
    if process.returncode not in (0, 2) and out == "pipe":
        raise Fault(f"exit code {process.returncode}: {words_of[-500:]}")
    if process.returncode and out == "pipe" and "Error" not in words_of.replace("\0", ""):
        raise Fault(f"exit code {process.returncode} without a sentence: {words_of[-500:]}")


CALLS = ("replace", "rename", "fsync", "mkdir", "rmdir", "unlink", "write", "link")
"""Of ``os``, what a full disk or a signal may come in the midst of."""


@contextmanager
def failing(folder: Path, number: int, error: BaseException) -> Any:
    """Inside, the call of that number of those that write into the folder fails with ``error``."""
    left = number
    before = {name: getattr(os, name) for name in CALLS} | {"open": io.open}

    def instead(name: str, first: Any, *more: Any, **options: Any) -> Any:
        nonlocal left
        writes = name != "open" or any(letter in str(more[:1]) for letter in "wax+")
        named = isinstance(first, str | os.PathLike)
        if writes and (not named or Path(first).absolute().is_relative_to(folder)):
            left -= 1
            if left == 0:
                raise error
        return before[name](first, *more, **options)

    with ExitStack() as stack:
        for name in CALLS:
            stack.enter_context(patch.object(os, name, partial(instead, name)))
        stack.enter_context(patch("io.open", partial(instead, "open")))
        yield


def cut_short(place: Place) -> None:
    """A full disk or Ctrl-C at some write; the same command again does it all."""
    random = place.random
    command = random.choice(["prune", "prune", "prune", "search", "tune"])
    options = [*_sensible(command, random), *_bounded(command)]
    if command == "prune":
        options += ["--metric", "fisher", *random.choice([[], ["--block-by-block"]])]
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    error = random.choice([full, full, KeyboardInterrupt()])
    number = random.choice([random.randrange(1, 15), random.randrange(1, 80)])
    place.told.append(f"write {number} fails with {error!r}")
    mine = place.folder / "cache of its own"
    with patch.dict(os.environ, {"PRUNERZERO_CACHE": str(mine)}):
        with failing(place.folder, number, error):
            may = ("out", "cache of", *([".out"] if "--block-by-block" in options else []))
            done = place.run(command, *options, may_write=may, may_stop=True)
        if done.exit_code == 2 and command == "prune" and (place.folder / "out").exists():
            raise Fault("refused, and yet there is a folder")
        if random.random() < 0.3 and (files := sorted(mine.rglob("*.safetensors"))):
            _damage_one(place, files)
        if command != "prune" or not (place.folder / "out").exists():
            place.run(command, *options, may_write=("out", ".out", "cache of"), wants=0)
    if command == "prune":
        asked = Asked(
            place.folder / "llama", place.folder / "calibration.txt", 32, 128, CATALOG["fisher"],
            0.5, None, "row",
        )  # fmt: skip
        check_pruned(asked, place.folder / "out")


def interrupted(place: Place) -> None:
    """The installed command, stopped at some moment; the same command again then succeeds."""
    random = place.random
    command = random.choice(["prune", "prune", "search", "tune", "eval"])
    options = [*_sensible(command, random), *_bounded(command)]
    if command == "prune":
        options += ["--metric", "fisher"]
        if random.random() < 0.5:
            options.append("--block-by-block")
    whole = [str(Path(sys.executable).with_name("prunerzero")), command, *options]
    place.told.append(" ".join(whole))
    process = subprocess.Popen(
        whole, cwd=place.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    number = random.choice([signal.SIGINT, signal.SIGTERM])
    wait = random.uniform(0.3, 12)
    place.told.append(f"{number.name} after {wait:.1f} s")
    time.sleep(wait)
    process.send_signal(number)
    out, errors = process.communicate(timeout=SLOW)
    # a signal while Python ends, all being done, is the system's
    if process.returncode not in (0, 128 + number, -number) or "Traceback" in errors:
        raise Fault(f"ended with {process.returncode}: {errors[-600:]}")
    if command != "prune" or not (place.folder / "out").exists():
        place.run(command, *options, may_write=("out", ".out"), wants=0)
    if command == "prune":
        asked = Asked(
            place.folder / "llama", place.folder / "calibration.txt", 32, 128, CATALOG["fisher"],
            0.5, None, "row",
        )  # fmt: skip
        check_pruned(asked, place.folder / "out")


KINDS: dict[str, tuple[Callable[[Place], None], int]] = {
    "prune": (pruned, 6),
    "eval": (evaluated, 5),
    "measured": (measured, 2),
    "damaged model": (damaged_model, 5),
    "formula": (formula, 3),
    "command line": (command_line, 5),
    "config file": (config_file, 4),
    "output folder": (output_folder, 3),
    "recipe": (recipe, 1),
    "python": (python_api, 3),
    "search": (searched, 2),
    "tune": (tuned, 1),
    "cut short": (cut_short, 4),
    "interrupt": (interrupted, 2),
    "natural python": (natural_python, 1),
    "identity": (identity, 2),
    "surroundings": (surroundings, 3),
}
"""Each kind with its share of the time."""


def run_case(kind: str, seed: str, model_place: Path, folder: Path) -> None:
    """Run the case of this kind and seed in a new ``folder``. Raises what is wrong with a note."""
    shutil.copytree(model_place, folder, symlinks=True)
    (folder / "cache").symlink_to(model_place.parent / "cache")
    place = Place(folder, Random(f"{kind}:{seed}"))
    before = Path.cwd()
    os.chdir(folder)
    random_module.seed(0)
    try:
        with warnings.catch_warnings(action="ignore"):
            KINDS[kind][0](place)
    except BaseException as error:
        error.add_note("\n".join([f"case {kind}:{seed}", *place.told]))
        raise
    finally:
        os.chdir(before)
        shutil.rmtree(folder, ignore_errors=True)
