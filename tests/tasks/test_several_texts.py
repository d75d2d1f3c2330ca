"""Several texts for a part: mixed where they are read together, each by itself in every figure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from math import log
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st
from tiny_model import some_text

from prunerzero import InputError, Setup, Sparsity
from prunerzero.metrics import CATALOG
from prunerzero.tasks.cases import fitness_of
from prunerzero.tasks.observer import Observer
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.tune_result import Limit
from prunerzero.tasks.tuning.curve import Curve
from prunerzero.tasks.tuning.limit import allowed_on
from prunerzero.tasks.tuning.workbench import Measured
from prunerzero.tasks.workspace import Workspace

MODEL = ["--model", "model"]


@pytest.fixture(scope="module", autouse=True)
def kinds(workplace: Path) -> None:
    """Texts of two kinds, ``a``, ``b`` … ``e``, and a short one."""
    for name, seed in {"a": 11, "b": 12, "c": 13, "d": 14, "e": 16}.items():
        (workplace / f"{name}.txt").write_text(some_text(seed))
    (workplace / "short.txt").write_text(some_text(15, 64 * 5))


@pytest.fixture
def printed(in_workplace: Callable[..., Any]) -> Callable[..., Any]:
    def run(*arguments: str) -> Any:
        done = in_workplace(*arguments, "--json")
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture
def opened(workplace, monkeypatch) -> Callable[..., Workspace]:
    """A workspace of the tiny model with these texts, and what it told in ``.told``."""
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("PRUNERZERO_CACHE", str(workplace / "cache"))

    class Told(Observer):
        def __init__(self) -> None:
            self.notes: list[str] = []

        def note(self, text: str) -> None:
            self.notes.append(text)

    return lambda **given: Workspace(Setup(model="model", **given), Told())


def test_a_setup_takes_one_text_as_ever_or_several():
    assert Setup(calibration="a.txt") == Setup(calibration=["a.txt"])
    assert Setup(calibration="a.txt").calibration == Path("a.txt")
    assert Setup(dataset=[]).dataset is None
    several = Setup(dataset=("c4", "wikitext2"), test=[Path("a.txt"), "b.txt"])
    assert several.corpora == ("c4", "wikitext2")
    assert several.files("test") == (Path("a.txt"), Path("b.txt"))
    assert several.files("validation") == ()
    with pytest.raises(InputError, match="`test` names 'a.txt' twice"):
        Setup(test=["a.txt", "./a.txt"])


def test_calibration_is_mixed_in_equal_numbers_of_windows(opened):
    work = opened(calibration=["a.txt", "b.txt"], num_calibration_samples=9)
    assert [len(text.windows) for text in work.texts.each("calibration")] == [5, 4]
    a = opened(calibration="a.txt", num_calibration_samples=5).texts.of("calibration").windows
    b = opened(calibration="b.txt", num_calibration_samples=4).texts.of("calibration").windows
    windows = work.texts.of("calibration").windows
    assert torch.equal(windows[0::2], a) and torch.equal(windows[1::2], b)
    assert not work.observer.notes


def test_where_one_text_is_short_each_gives_as_many_and_it_is_told(opened):
    work = opened(calibration=["a.txt", "short.txt"], num_calibration_samples=20)
    assert [len(text.windows) for text in work.texts.each("calibration")] == [5, 5]
    assert len(work.texts.of("calibration").windows) == 10
    [note] = work.observer.notes
    assert "short.txt has only 5 windows" in note and "2 calibration texts" in note


def test_without_a_limit_each_text_is_read_whole_and_the_mixture_is_equal(opened):
    work = opened(validation=["a.txt", "short.txt"])
    assert [len(text.windows) for text in work.texts.each("validation")] == [31, 5]
    assert not work.observer.notes
    assert len(work.texts.of("validation").windows) == 10
    assert "short.txt" in work.observer.notes[0]
    assert work.texts.places("validation") == ("validation: a.txt", "validation: short.txt")
    assert torch.equal(
        work.texts.of("validation: a.txt").windows,
        opened(validation="a.txt").texts.of("validation").windows,
    )


def test_what_a_text_is_called_does_not_count_but_which_texts_and_their_order_do(opened, workplace):
    (workplace / "a2.txt").write_text((workplace / "a.txt").read_text())
    both = opened(test=["a.txt", "b.txt"]).texts.fingerprint("test")
    assert both == opened(test=["a2.txt", "b.txt"]).texts.fingerprint("test")
    others = [["b.txt", "a.txt"], ["a.txt", "b.txt", "c.txt"], "a.txt", ["a.txt", "c.txt"]]
    assert both not in [opened(test=other).texts.fingerprint("test") for other in others]
    one = opened(test="a.txt")
    assert one.texts.fingerprint("test") == one.texts.of("test").fingerprint


def test_each_chunk_of_a_race_holds_each_text(opened):
    texts = {"calibration": "calibration.txt", "validation": ["a.txt", "b.txt"]}
    work = opened(**texts, max_seq_length=16)
    fitness = fitness_of(work, Sparsity(ratio=0.5))
    own = {tuple(w.tolist()) for w in work.texts.of("validation: a.txt").windows}
    of_a = [tuple(window.tolist()) in own for window in fitness._windows]
    assert of_a == [turn % 2 == 0 for turn in range(len(of_a))]
    per_chunk = len(of_a) // fitness.total_chunks
    assert per_chunk % 2 == 0 and fitness.chunks == 16


def test_a_pruning_shows_each_text_by_itself_and_repeats(printed, in_workplace, workplace):
    texts = ["--calibration", "a.txt", "--calibration", "b.txt", "--test", "c.txt"]
    folder = workplace / "of-two"
    found = printed("prune", *MODEL, *texts, "--test", "d.txt", "--output-dir", "of-two")
    assert list(found["perplexity"]) == ["test: c.txt", "test: d.txt"]
    assert set(found["divergence"]) == set(found["perplexity"])
    for name in ("c", "d"):
        alone = printed("eval", *MODEL, "--text", f"{name}.txt")
        assert found["perplexity"][f"test: {name}.txt"]["dense"] == alone["perplexity"]
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert recipe["calibration"] == ["a.txt", "b.txt"]
    assert recipe["windows"]["calibration"] == 62
    again = ["prune", "--recipe", "of-two/recipe.yaml", "--output-dir", "of-two-again"]
    assert printed(*again)["repeated"] is True
    card = (folder / "README.md").read_text()
    for text in ("`a.txt`", "`b.txt`", "| test | `c.txt` | 31 |", "| test | `d.txt` | 31 |"):
        assert text in card
    shown = in_workplace(*again[:-1], "of-two-shown").stdout
    assert "Perplexity on the test text c.txt" in shown and "test text d.txt" in shown
    (workplace / "b.txt").write_text(some_text(99))
    refused = in_workplace(*again[:-1], "never")
    (workplace / "b.txt").write_text(some_text(12))
    assert refused.exit_code == 2 and "has changed since the recipe was written" in refused.stderr


def test_block_by_block_gives_the_same(printed):
    texts = [
        "--calibration",
        "a.txt",
        "--calibration",
        "b.txt",
        "--test",
        "c.txt",
        "--test",
        "d.txt",
    ]
    whole = printed("prune", *MODEL, *texts, "--output-dir", "of-whole")
    blocks = printed("prune", *MODEL, *texts, "--block-by-block", "--output-dir", "of-blocks")
    for place, figures in whole["perplexity"].items():
        assert blocks["perplexity"][place] == pytest.approx(figures, rel=1e-5)


def test_a_comparison_has_an_entry_for_each_text(printed, in_workplace):
    asked = ["compare", *MODEL, "--calibration", "a.txt", "--metrics", "wanda,magnitude"]
    both = ["--validation", "c.txt", "--test", "c.txt", "--test", "d.txt"]
    found = printed(*asked, *both)
    assert list(found["perplexity"]) == ["validation", "test: c.txt", "test: d.txt"]
    alone = printed(*asked, "--test", "d.txt")
    assert found["perplexity"]["test: d.txt"] == alone["perplexity"]["test"]
    shown = in_workplace(*asked, *both).stdout
    assert "test: c.txt" in shown and "test: d.txt" in shown and "31 on test: d.txt" in shown


def test_an_evaluation_has_a_line_for_each_text(printed):
    asked = ["eval", *MODEL, "--test", "c.txt", "--test", "d.txt", "--num-test-samples", "9"]
    found = printed(*asked)
    assert [(t["text"], t["windows"]) for t in found["texts"]] == [("c.txt", 5), ("d.txt", 4)]


def test_a_file_of_options_may_list_texts(printed, workplace):
    (workplace / "options.yaml").write_text("calibration: [a.txt, b.txt]\ntest: c.txt\n")
    found = printed("compare", *MODEL, "--config", "options.yaml", "--metrics", "wanda")
    assert found["settings"]["calibration"] == ["a.txt", "b.txt"]
    assert found["settings"]["test"] == "c.txt"
    assert found["settings"]["windows"] == {
        "calibration": 62,
        "calibration: a.txt": 31,
        "calibration: b.txt": 31,
        "test": 31,
    }


def test_a_search_is_judged_by_the_mixture_and_shows_each_text(printed, in_workplace, workplace):
    texts = [*MODEL, "--calibration", "e.txt", "--validation", "c.txt", "--validation", "d.txt"]
    texts += ["--test", "a.txt", "--test", "b.txt"]
    found = printed("search", *texts, "--evaluations", "8", "--output-dir", "mixed-run")
    assert list(found["perplexity"]) == [
        "validation",
        "validation: c.txt",
        "validation: d.txt",
        "test: a.txt",
        "test: b.txt",
    ]
    mixture, *each = (
        found["perplexity"][place]["dense"] for place in list(found["perplexity"])[:3]
    )
    assert mixture == pytest.approx((each[0] * each[1]) ** 0.5), "of equally many windows"
    for figures in found["perplexity"].values():
        assert set(figures) == {"dense", "evolved", found["best_known"]}
    assert found["settings"]["windows"]["validation"] == 62
    shown = in_workplace("search", *texts, "--evaluations", "8", "--output-dir", "mixed-run").stdout
    assert "on the whole mixture of the validation texts" in found["answer"]
    for column in ("validation, mixed", "validation: c.txt", "test: b.txt"):
        assert column in shown
    assert in_workplace("report", "mixed-run").exit_code == 0
    page = (workplace / "mixed-run" / "report.html").read_text()
    assert "On the test texts, which no search reads: a.txt " in page


@pytest.fixture(scope="module")
def tuned(workplace: Path, here: Any) -> Any:
    for name, seed in (("easy", 21), ("hard", 22)):
        (workplace / f"{name}.txt").write_text(some_text(seed, 8000))
    texts = ["--validation", "easy.txt", "--validation", "hard.txt"]
    few = ["--evaluations", "6", "--samples", "2", "--max-degradation", "2%"]
    return here.json("tune", *MODEL, *texts, *few, "--output-dir", "tuned-on-two")


def test_a_tuning_keeps_the_limit_on_each_text(tuned):
    assert tuned["reached"]
    for part in ("validation", "test"):
        figures = tuned["parts"][part]
        assert [text["within"] for text in figures["texts"]] == [True, True] and figures["within"]
        for text in figures["texts"]:
            assert text["rise"] == pytest.approx(text["pruned"] / text["dense"] - 1)
            assert text["rise"] <= 0.02 and text["allowed"] == pytest.approx(1.02 * text["dense"])
        windows = [text["windows"] for text in figures["texts"]]
        assert windows[0] == windows[1] and figures["windows"] == sum(windows)
        assert figures["confidence"] == min(text["confidence"] for text in figures["texts"])
        one, two = (text["dense"] for text in figures["texts"])
        assert figures["dense"] == pytest.approx((one * two) ** 0.5)


def test_each_point_of_its_curve_tells_each_text(tuned):
    names = [text["text"] for text in tuned["parts"]["validation"]["texts"]]
    assert [Path(name).name for name in names] == ["validation-1-easy.txt", "validation-2-hard.txt"]
    for point in tuned["curve"]:
        assert list(point["rises"]) == list(point["perplexities"]) == names
        assert point["rise"] == max(point["rises"].values())
        assert point["within"] == all(rise <= 0.02 for rise in point["rises"].values())
    for tried in tuned["decision"]["tried_texts"]:
        assert [Path(name).name for name in tried] == ["test-1-easy.txt", "test-2-hard.txt"]
    assert len(tuned["decision"]["tried_texts"]) == len(tuned["decision"]["tried"])


def test_its_answer_report_and_commands_name_each_text(tuned, in_workplace, workplace):
    for name in ("validation-1-easy.txt", "validation-2-hard.txt", "test-1-easy.txt"):
        assert f" on {name} (" in tuned["answer"]
    folder = workplace / "tuned-on-two"
    assert "test text test-1-easy.txt" in (folder / "report.html").read_text()
    assert in_workplace("report", "tuned-on-two", "--language", "ja").exit_code == 0
    card = (folder / "model" / "README.md").read_text()
    assert "test-1-easy.txt" in card and "2 calibration texts" in card
    measure = shlex.split(tuned["commands"][2])[1:]
    found = json.loads(in_workplace(*measure, "--json").stdout)
    for text, figures in zip(tuned["parts"]["test"]["texts"], found["texts"], strict=True):
        assert figures["perplexity"] == pytest.approx(text["pruned"], rel=1e-5)


def test_it_is_continued_by_the_same_command(tuned, workplace, in_workplace):
    texts = ["--validation", "easy.txt", "--validation", "hard.txt"]
    few = ["--evaluations", "6", "--samples", "2", "--max-degradation", "2%"]
    again = in_workplace("tune", *MODEL, *texts, *few, "--output-dir", "tuned-on-two", "--json")
    assert json.loads(again.stdout) == tuned
    other = ["--validation", "hard.txt", "--validation", "easy.txt"]
    refused = in_workplace("tune", *MODEL, *other, *few, "--output-dir", "tuned-on-two")
    assert refused.exit_code == 2 and "other validation text" in refused.stderr


@given(
    dense=st.lists(st.floats(1.5, 50), min_size=2, max_size=4),
    rises=st.lists(st.floats(0, 2), min_size=4, max_size=4),
    limit=st.one_of(
        st.floats(0.01, 1).map(lambda share: Limit("degradation", share, 10 * (1 + share))),
        st.floats(50, 200).map(lambda most: Limit("perplexity", most, most)),
    ),
)
def test_what_decides_is_within_the_limit_exactly_where_each_text_is(dense, rises, limit):
    texts = {
        f"{n}": (d, d * (1 + rise)) for n, (d, rise) in enumerate(zip(dense, rises, strict=False))
    }
    for before, after in texts.values():  # apart from the limit by more than rounding
        allowed = allowed_on(limit, before)
        assume(allowed is not None and abs(after / allowed - 1) > 1e-9)
    curve = Curve(_OnTexts(texts), limit)
    point = curve.measure(CATALOG["wanda"], Sparsity(ratio=0.5), "bracket")
    kept = {n: after <= (allowed_on(limit, before) or 0) for n, (before, after) in texts.items()}
    assert point.within == all(kept.values())
    assert point.rise == max(point.rises.values())
    _, held = curve.on_test(CATALOG["wanda"], Sparsity(ratio=0.5))
    assert held == all(kept.values())


class _OnTexts:
    """A bench on which each text has a dense and a pruned perplexity."""

    def __init__(self, texts: dict[str, tuple[float, float]]) -> None:
        self.texts = texts
        self.refit = RefitOptions()
        self.work = SimpleNamespace(
            texts=SimpleNamespace(
                each=lambda part: [SimpleNamespace(name=name) for name in texts],
                places=lambda part: [f"{part}: {name}" for name in texts],
            )
        )

    def _losses(self, place: str, which: int) -> Measured:
        names = [name for name in self.texts if place.endswith(f": {name}")] or list(self.texts)
        return Measured(tuple(log(self.texts[name][which]) for name in names), 0.0)

    def dense(self, place: str, windows: int | None = None) -> Measured:
        return self._losses(place, 0)

    def pruned(self, metric: Any, sparsity: Any, place: str, *_: Any, **__: Any) -> Measured:
        return self._losses(place, 1)
