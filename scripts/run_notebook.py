"""Execute a notebook in a fresh kernel and an empty folder; exit code 1 where a cell fails.

python scripts/run_notebook.py examples/tutorial.ipynb            as CI does
python scripts/run_notebook.py examples/tutorial.ipynb --write    and keep what came out
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError


def main(path: Path, write: bool) -> int:
    notebook = nbformat.read(path, as_version=4)
    began = time.monotonic()
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # a progress bar that none needs
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=600,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            record_timing=False,
        )
        try:
            client.execute()
        except CellExecutionError as error:
            print(error)
            return 1
    print(f"{path}: every cell runs, {time.monotonic() - began:.0f} s")
    if write:
        notebook.metadata.language_info = {"name": "python"}  # without the version of this Python
        nbformat.write(notebook, path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), "--write" in sys.argv))
