"""Files that a user wrote: marks, encodings, keys twice, and YAML scalars as they are written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from prunerzero import InputError, TextError
from prunerzero.documents import read_yaml
from prunerzero.language.corpora import read_file

MARK = "\ufeff"


def test_a_mark_at_the_beginning_of_a_text_is_no_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(f"{MARK}{MARK}one\r\ntwo {MARK}three".encode())
    assert read_file(path) == [f"one\ntwo {MARK}three"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
def test_a_text_in_another_encoding_is_refused(tmp_path, encoding):
    path = tmp_path / "a.txt"
    path.write_bytes("é plain text".encode(encoding))
    with pytest.raises(TextError, match="UTF-8") as refusal:
        read_file(path)
    if encoding in ("utf-16", "utf-32"):
        assert encoding.upper() in str(refusal.value)


@pytest.mark.parametrize(
    "scalar",
    ["2:4", "1:30", "0:8", "1:30:00", "010", "0x10", "1_000", "no", "off", "y", "2024-01-01",
     "1e3", ".5", "0.50", "50%", "5%", "1.10"],
)  # fmt: skip
def test_what_is_not_quoted_in_yaml_stays_as_it_is_written(tmp_path, scalar):
    path = tmp_path / "a.yaml"
    path.write_text(f"{MARK}key: {scalar}\nlist: [{scalar}]\n", encoding="utf-8")
    assert read_yaml(path, "a.yaml") == {"key": scalar, "list": [scalar]}


def test_true_false_and_null_are_what_they_say(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: true\nb: False\nc: null\nd: ~\ne:\nf: 'true'\nbase: &x {q: 1}\ng: {<<: *x}")
    found = read_yaml(path, "a.yaml")
    assert [found[key] for key in "abcdef"] == [True, False, None, None, None, "true"]
    assert found["g"] == {"q": "1"}


@pytest.mark.parametrize("text", ["a: 1\na: 1\n", "a: {b: 1, b: 2}\n", "- {x: 1, y: 2, x: 1}\n"])
def test_a_key_twice_in_yaml_is_refused(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError, match="twice"):
        read_yaml(tmp_path / "a.yaml", "a.yaml")


@given(st.binary(max_size=60))
def test_any_bytes_are_yaml_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    try:
        read_yaml(path, "any.yaml")
    except InputError as refusal:
        assert "any.yaml" in str(refusal)


SETTINGS = """\
model: model
calibration: calibration.txt
validation: validation.txt
num_calibration_samples: 2
num-validation-samples: 2
max_seq_length: 32
metric: magnitude
output_dir: from-yaml
"""


def test_a_pattern_in_a_config_need_not_be_quoted(in_workplace, workplace):
    more = "sparsity: 2:4\nallow_pickle: no\ntrust_remote_code: off\nignore: '*.q_proj'\n"
    (workplace / "pattern.yaml").write_text(SETTINGS + more)
    done = in_workplace("prune", "--config", "pattern.yaml")
    assert done.exit_code == 0, done.output
    recipe = yaml.safe_load((workplace / "from-yaml" / "recipe.yaml").read_text())
    assert (recipe["sparsity"], recipe["num_calibration_samples"]) == ("2:4", 2)
    assert (recipe["allow_pickle"], recipe["ignore"]) == (False, ["*.q_proj"])
    (workplace / "unquoted.yaml").write_text(
        (workplace / "from-yaml" / "recipe.yaml").read_text().replace("'2:4'", "2:4")
    )
    again = in_workplace(
        "prune", "--recipe", "unquoted.yaml", "--output-dir", "yaml-again", "--json"
    )
    assert json.loads(again.stdout)["repeated"] is True


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("sparsity: [0.5, 0.6]", ["--sparsity is given 2 times"]),
        ("batch_size: [1, 2]", ["batch_size", "list", "single value"]),
        ("sparsity: {a: 1}", ["sparsity", "plain value"]),
        ("sparsity: 0.5\nsparsity: 0.6", ["sparsity", "twice"]),
        ("max-seq-length: 16", ["max_seq_length", "twice"]),
        ("seed: 1", ["seed", "no option"]),
        ("ignore: [null]", ["ignore", "empty entry"]),
        ("test: true", ["test", "write 'true'"]),
        ("sparsity: 50", ["did you mean 50%?"]),
        ("batch_size: many", ["batch-size"]),
    ],
)
def test_a_config_that_cannot_be_meant_is_refused(in_workplace, workplace, lines, words):
    (workplace / "wrong.yaml").write_text(SETTINGS.replace("from-yaml", "never") + lines + "\n")
    done = in_workplace("prune", "--config", "wrong.yaml")
    assert done.exit_code == 2, done.output
    assert all(word in " ".join(done.stderr.split()) for word in words), done.stderr
    assert not (workplace / "never").exists()


def test_several_metrics_may_be_a_list(in_workplace, workplace):
    settings = SETTINGS.replace("metric: magnitude\noutput_dir: from-yaml\n", "")
    (workplace / "list.yaml").write_text(settings + "metrics: [magnitude, 'mul(W, X)']\n")
    done = in_workplace("compare", "--config", "list.yaml", "--json")
    assert done.exit_code == 0, done.output
    assert set(json.loads(done.stdout)["formulas"]) == {"magnitude", "mul(W, X)"}


def test_a_path_in_a_config_may_begin_at_home(in_workplace, workplace, monkeypatch):
    monkeypatch.setenv("HOME", str(workplace))
    (workplace / "home.yaml").write_text(
        SETTINGS.replace(": model\n", ": ~/model\n").replace(": val", ": ~/val")
        .replace("from-yaml", "~/from-home")
    )  # fmt: skip
    done = in_workplace("prune", "--config", "~/home.yaml")
    assert done.exit_code == 0, done.output
    assert (workplace / "from-home" / "config.json").is_file()
    assert not Path("~").exists()
