"""What refitting the weights that stay is worth: metric × what competes × update × sparsity.

    python -m benchmarks.refit --model ORG/NAME --calibration a.txt --calibration b.txt \\
        --test a_test.txt --test b_test.txt --device cuda --output refit.json

Prints a line for each model that is made, with its perplexity on every text, the seconds that
pruning and refitting took (statistics and Gram matrices left out, as they are made once), and the
mean share of the layers' outputs that changes. SparseGPT and ALPS stand beside it. The model is
computed in fp32.
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import fmean
from typing import Any

import torch

from benchmarks.commands import at_least, in_one_sentence, new_file, require
from prunerzero.metrics import Sparsity
from prunerzero.metrics.catalog import find_metric
from prunerzero.metrics.operators import TERMINALS
from prunerzero.pruning.methods import METHODS
from prunerzero.tasks.methods import prune_by
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.prune_loaded import prune_loaded
from prunerzero.tasks.settings import describe
from prunerzero.tasks.setup import Setup
from prunerzero.tasks.workspace import Workspace

ROWS = (
    ("wanda", "0.5", "row"),
    ("obs", "0.5", "row"),
    ("W * epow(G, 0.75)", "0.5", "model"),
    ("fisher", "0.5", "model"),
    ("W * epow(G, 0.75)", "0.3", "model"),
    ("wanda", "2:4", "row"),
    ("W * sqrt(X) * G", "2:4", "row"),
    ("obs", "2:4", "row"),
)
WAYS = (RefitOptions(), RefitOptions("least-squares"), RefitOptions("least-squares", "admm"))


def asked(description: str) -> tuple[argparse.Namespace, Workspace]:
    """The options of a benchmark of refits, and the model and texts that they name, in fp32."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--dataset", action="append", default=[])
    parser.add_argument("--calibration", action="append", default=[])
    parser.add_argument("--test", action="append", default=[])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--max-seq-length", type=at_least(2))
    parser.add_argument(
        "--windows", type=at_least(1), help="of calibration, and of the tests, at most"
    )
    parser.add_argument("--output", type=new_file, help="JSON file")
    options = parser.parse_args()
    require(options.device)
    named = {name: getattr(options, name) for name in ("dataset", "calibration", "test")}
    return options, Workspace(
        Setup(
            model=options.model,
            device=options.device,
            dtype="float32",
            max_seq_length=options.max_seq_length,
            num_calibration_samples=options.windows or 128,
            num_test_samples=options.windows,
            **{name: value for name, value in named.items() if value},
        )
    )


@in_one_sentence()
def main() -> None:
    options, work = asked(__doc__)
    places = work.texts.places("test")
    rows: list[dict[str, Any]] = []

    def tell(row: dict[str, Any]) -> None:
        rows.append(row | {place: work.measure(place, "").value for place in places})
        print(json.dumps(rows[-1]), flush=True)
        if options.output:
            found = {"settings": describe(work), "torch": torch.__version__, "rows": rows}
            options.output.write_text(json.dumps(found, indent=1, default=str))

    tell({"metric": "dense"})
    work.calibration.statistics(TERMINALS)
    _wait(work, lambda: work.calibration.grams)
    for formula, sparsity, group in ROWS:
        for how in WAYS:
            with work.pruned_for_now():
                amount = Sparsity.parse(sparsity, group)  # type: ignore[arg-type]
                metric = find_metric(formula).expression
                seconds, layers = _wait(
                    work, lambda m=metric, s=amount, h=how: prune_loaded(work, m, s, h)
                )
                errors = [layer.error for layer in layers if layer.error is not None]
                tell(
                    {
                        "metric": formula,
                        "sparsity": amount.in_words,
                        "refit": how.in_words,
                        "seconds": round(seconds, 1),
                        "error": round(fmean(errors), 4) if errors else None,
                    }
                )
    for name, method in METHODS.items():
        for sparsity in ("0.5", "2:4"):
            amount = Sparsity.parse(sparsity)
            with work.pruned_for_now():
                seconds, _ = _wait(work, lambda m=method, s=amount: prune_by(work, m, s))
                tell({"metric": name, "sparsity": sparsity, "seconds": round(seconds, 1)})


def _wait(work: Workspace, make: Any) -> tuple[float, Any]:
    """How long it takes, on a GPU too, and what it gives."""
    begun = time.perf_counter()
    found = make()
    if work.language_model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun, found


if __name__ == "__main__":
    main()
