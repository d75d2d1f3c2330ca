"""Make the texts that the commands of docs/metrics.md and docs/results.md name.

    python -m examples.metrics.texts --output texts

- ``python_calibration.txt``, ``python_validation.txt``, ``python_test.txt``: the parts of the
  corpus `python-docs`, made of what the running Python carries; the figures are of Python 3.11.
- ``wikitext2/calibration.txt``, ``wikitext2/validation.txt``: the first 30 % of WikiText-2's *test*
  split and the next 15 %, without its empty lines. It comes from the hub, or with ``--wikitext``
  from `wiki.test.raw`, as its authors publish it.
- ``manual_test.txt``: 300,000 bytes of the Debian Reference, from the file that Debian's package
  `debian-reference-en` installs; the figures are of its version 2.100.

Each text is compared, byte for byte, with the one that the figures are of. Where a source is
missing, the other texts are made, what has to be brought is told, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import zlib
from functools import partial
from pathlib import Path

from benchmarks.commands import in_one_sentence
from prunerzero.errors import TextError
from prunerzero.files import make_folder, write_text
from prunerzero.language.corpora import PARTS, read_corpus, read_file

MANUAL = Path("/usr/share/debian-reference/debian-reference.en.txt.gz")

MEASURED = {
    "python_calibration.txt": "b3d4e92a8de557fc239b7751bcad44c183193477b346d74d7659dad12af82792",
    "python_validation.txt": "0c141fd43e780054968bb4854739a8aeb1c0780485c6f5e153fd82bce7069774",
    "python_test.txt": "97395531b4ec2745741209f9ac67b027672466455c84f7fd039fb56d948d456d",
    "wikitext2/calibration.txt": "6ad6e76158967cf25a4b7227ba3295c9b0f7e6a350389ae29f595a657ce7eb97",
    "wikitext2/validation.txt": "9cc133b3ad173b83fb6d6f40a36acfd9be8c5988bc0b0e40480da79331f527ff",
    "manual_test.txt": "c04955401436a27828640a8a486fedbeac96a62c5795649328cac64e83fc3e8a",
}
"""The SHA-256 of each text that the figures are of."""


@in_one_sentence()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write the texts to")
    parser.add_argument("--wikitext", type=Path, help="wiki.test.raw; from the hub by default")
    parser.add_argument("--manual", type=Path, default=MANUAL, help="by default %(default)s")
    options = parser.parse_args()
    missing = []
    for make in (python_docs, partial(wikitext, options.wikitext), partial(manual, options.manual)):
        try:
            made = make()
        except TextError as error:
            missing.append(f"Error: {error}")
            continue
        for name, text in made.items():
            path = options.output / name
            make_folder(path.parent)
            write_text(path, text)
            print(f"{path}: {sameness(name, text)}", flush=True)
    if missing:
        raise SystemExit("\n".join(missing))


def python_docs() -> dict[str, str]:
    """Each part of Python's documentation, one document after the other."""
    return {f"python_{part}.txt": "\n\n".join(read_corpus("python-docs", part)) for part in PARTS}


def wikitext(file: Path | None) -> dict[str, str]:
    """The first 845 lines of the test split and the next 373, of those that are not empty."""
    try:
        [text] = read_corpus("wikitext2", "test") if file is None else read_file(file)
    except TextError as error:
        if file is not None:
            raise
        raise TextError(
            "WikiText-2 cannot be had from the hub, which needs prunerzero[hub] and a connection; "
            "pass wiki.test.raw, its raw test split, with `--wikitext FILE`."
        ) from error
    lines = [f"{line}\n" for line in text.split("\n") if line.strip()]
    return {
        "wikitext2/calibration.txt": "".join(lines[:845]),
        "wikitext2/validation.txt": "".join(lines[845 : 845 + 373]),
    }


def manual(file: Path) -> dict[str, str]:
    """300,000 bytes of the Debian Reference, from the 60,000th on."""
    try:
        content = gzip.decompress(file.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise TextError(
            f"the Debian Reference cannot be read from {file}; install Debian's package "
            "debian-reference-en, or pass its debian-reference.en.txt.gz with `--manual FILE`."
        ) from error
    return {"manual_test.txt": content[59_999:359_999].decode(errors="ignore")}


def sameness(name: str, text: str) -> str:
    """Whether it is the text that the figures are of, in words."""
    if hashlib.sha256(text.encode()).hexdigest() == MEASURED[name]:
        return "the same bytes as the figures are of"
    return "NOT the bytes that the figures are of: its source is of another version"


if __name__ == "__main__":
    main()
