"""The answer in words, and the commands that repeat it."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from prunerzero import Setup
from prunerzero.report import tune_words
from prunerzero.tasks.tune_file import read_result
from prunerzero.tasks.tune_result import Limit, TaskFigures, TestDecision, TuneResult
from prunerzero.tasks.tuning.limit import Wish
from prunerzero.tasks.tuning.repeat import commands


def answer(result: TuneResult) -> str:
    return tune_words.answer(asdict(result))


EXAMPLE = Path(__file__).parents[2] / "report" / "tune_example.json"


@pytest.fixture
def result() -> TuneResult:
    """38 % sparsity, 22.9 → 24.0 on the validation part, 23.1 → 24.2 on the test part."""
    found = read_result(EXAMPLE)
    validation = replace(found.parts["validation"], dense=22.9, pruned=24.0, rise=24 / 22.9 - 1)
    test = replace(
        found.parts["test"],
        dense=23.1,
        pruned=24.2,
        rise=24.2 / 23.1 - 1,
        rise_interval=(0.04, 0.055),
        windows=31,
        window_length=1024,
    )
    return replace(
        found,
        sparsity=0.38,
        pattern="0.38",
        metric=replace(found.metric, name="evolved", formula="W * G"),
        limit=Limit("degradation", 0.05, 22.9 * 1.05),
        parts={"validation": validation, "test": test},
        decision=TestDecision(True, False, ((0.38, 24.2),)),
    )


def test_the_answer_says_what_can_be_pruned_and_what_it_costs(result):
    assert answer(result) == (
        "At 38 % sparsity, weights being kept by the evolved metric W * G, your text's perplexity "
        "rises from 22.90 to 24.00 (+4.8 %; at most +5.0 % was allowed). On text that no choice "
        "has seen it rises from 23.10 to 24.20 (+4.8 %, 95 % interval +4.0 % to +5.5 %; 31 windows "
        "of 1024 tokens)."
    )


def test_the_answer_says_within_what_scores_compete(result):
    for group, words in (("layer", "of each layer"), ("model", "of the whole model")):
        assert f"weights {words} being kept by" in answer(replace(result, group=group))


def test_a_step_back_is_owned_up_to(result):
    decision = TestDecision(False, True, ((0.4, 25.0), (0.38, 24.2)))
    told = answer(replace(result, decision=decision))
    assert "40 % sparsity, which kept the limit on your text, missed it" in told
    assert "(perplexity 25.00)" in told
    assert "no choice has seen" not in told


def test_a_pattern_is_answered_with_yes_or_no(result):
    asked = replace(result, pattern_asked="2:4", pattern="2:4", sparsity=0.5)
    assert answer(asked).startswith("Yes: in the pattern 2:4 (50 % sparsity), weights")
    assert answer(replace(asked, reached=False)).startswith("No: in the pattern 2:4 (50 %")
    missed = replace(asked, reached=False, decision=TestDecision(False, False, ((0.5, 30.0),)))
    assert answer(missed).endswith("The limit is missed on that text.")


def test_a_share_that_was_asked_about_is_answered_with_yes_or_no(result):
    asked = replace(result, pattern_asked="50%", pattern="0.5", sparsity=0.5, group="model")
    assert answer(asked).startswith("Yes: at 50 % sparsity, weights of the whole model being kept")
    assert answer(replace(asked, reached=False)).startswith("No: at 50 % sparsity, weights of")


def test_no_sparsity_is_told_as_such(result):
    told = answer(replace(result, reached=False, sparsity=0.005, decision=None))
    assert told.startswith("No: even at 0.5 % sparsity, ")


def test_other_limits_are_told_in_their_own_terms(result):
    perplexity = replace(result, limit=Limit("perplexity", 25.0, 25.0))
    assert "at most 25 was allowed" in answer(perplexity)
    task = replace(
        result,
        limit=Limit("task", 0.02, None, "arc_easy", "acc", 0.58),
        task=TaskFigures("arc_easy", "acc", 2376, 0.6, 0.01, 0.59, 0.01),
        decision=None,
    )
    assert (
        "acc on arc_easy goes from 0.6 to 0.59 over 2376 examples (a drop of at most 0.02 was "
        "allowed), and your text's perplexity rises from 22.90 to 24.00 (+4.8 %)."
    ) in answer(task)


def test_commands_name_what_differs_from_the_defaults():
    setup = Setup(
        model="ORG/NAME", validation=Path("my text.txt"), ignore=("*.q", "*.k"), allow_pickle=True
    )
    measured = {"max_seq_length": 512, "num_test_samples": 64, "test": "out/texts/test.txt"}
    asked = {"pattern": "2:4", "evaluations": 200, "time": None}
    wish = Wish("degradation", 0.05)
    given = (setup, measured, Path("out"), wish, asked)
    ask, prune, measure = commands(*given, reached=True)
    assert commands(*given, reached=False) == (ask,)
    assert ask == (
        "prunerzero tune --model ORG/NAME --allow-pickle --validation 'my text.txt' --ignore '*.q' "
        "--ignore '*.k' --max-degradation 5% --pattern 2:4 --evaluations 200 --output-dir out"
    )
    assert prune == "prunerzero prune --recipe out/model/recipe.yaml --output-dir again"
    assert measure == (
        "prunerzero eval --model out/model --max-seq-length 512 --num-test-samples 64 "
        "--text out/texts/test.txt"
    )
