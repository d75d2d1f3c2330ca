"""What the pages show passes ``mypy --strict`` as a user runs it, and a mistake does not."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import prunerzero

ROOT = Path(__file__).parents[1]

PAGES = ("README.md", "README.ja.md", "docs/own_metric.md", "docs/bench.md")

BY_NAME = """\
from pathlib import Path

import prunerzero
from prunerzero import Setup, Sparsity

setup = Setup("ORG/NAME", calibration="c.txt", validation=["a.txt", Path("b.txt")], ignore="*.up")
run = prunerzero.search([setup, "bundled"], ["0.5", Sparsity.parse("2:4")], Path("run"),
                        time="1h", strategy="random", begin_with=["W * X"], workers="auto",
                        update="least-squares", group="row")
sparsity: str = run.sparsity
answer = prunerzero.tune(setup, "out", max_degradation="5%", update="auto", language="ja")
reached: bool = answer.reached
prunerzero.prune("bundled", "wanda", 0.5, "pruned", refine="admm", steps=2, group="layer")
prunerzero.compare(setup, ["wanda", "run"], "2:4", reconstruct=10, methods="alps")
prunerzero.pack("pruned", "packed", values="int8", revision="main", texts="t.txt")
prunerzero.unpack("packed", "again", trust_remote_code=True)
prunerzero.bench("packed", rivals=["int8", "dense"], repeats=3, output_dir="bench")
prunerzero.evaluate(setup, "validation", stride=64)
"""
"""Every function that takes options, with some of them by name."""

WRONG = """\
from prunerzero import pack, search, tune

search("bundled", "0.5", "run", evaluation=3)
search("bundled", "0.5", "run", strategy="luck")
tune("bundled", "out", max_perplexity="20")
pack("pruned", "packed", values="int3")
"""


def snippets(page: str) -> list[str]:
    """The Python of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def complaints(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> dict[str, list[str]]:
    """What mypy says of each file of a user, who has the package installed and no settings.

    What mypy found out of torch is kept beside pytest's own cache: half a minute the first time,
    seconds after.
    """
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed: what users are shown is NOT type-checked")
    folder = tmp_path_factory.mktemp("user")
    files = {
        f"{Path(page).stem.replace('.', '_').lower()}_{place}.py": code
        for page in PAGES
        for place, code in enumerate(snippets(page))
    } | {"by_name.py": BY_NAME, "wrong.py": WRONG}
    for name, code in files.items():
        (folder / name).write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary"]
    cache = pytestconfig.rootpath / ".mypy_cache" / "as_a_user"
    said = subprocess.run(
        [*command, "--hide-error-context", f"--cache-dir={cache}", *files],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(prunerzero.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert not said.stderr
    found: dict[str, list[str]] = {name: [] for name in files}
    for line in said.stdout.splitlines():
        name, _, words = line.partition(":")
        if ": error: " in words:
            found[name].append(words)
    return found


def test_what_the_pages_show_is_what_a_user_may_write(complaints):
    assert len([name for name in complaints if name.startswith("readme")]) >= 2
    assert {name: said for name, said in complaints.items() if said and name != "wrong.py"} == {}


def test_a_wrong_name_or_value_of_an_option_is_found_before_it_runs(complaints):
    assert [words.split(":")[0] for words in complaints["wrong.py"]] == ["3", "4", "5", "6"]
