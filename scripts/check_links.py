"""Check the links of every Markdown file of the repository; exit code 1 where one is broken.

    python scripts/check_links.py              files and headings, then addresses on the web
    python scripts/check_links.py --offline    files and headings alone

A relative link has to name a file that is there, and a heading that it has. An address on the web
is broken where its server says so (404 or 410). One that cannot be reached from here is counted,
and is no error: a machine behind a firewall checks what it can.
"""

from __future__ import annotations

import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).parents[1]
SKIPPED = {".venv", "_build", "node_modules", "demo", ".git"}
GENERATED = {"docs/api.md", "docs/command_line.md", "docs/modules.md", "docs/tutorial.md"}
"""Written by ``generate_pages.py``; Sphinx checks the links into them."""

_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^\s()<>]+(?:\([^\s()]*\))?)>?[^()]*\)")
_BARE = re.compile(r"<(https?://[^>\s]+)>")
_ATTRIBUTE = re.compile(r"<(?:img|a|source)\s[^>]*?(?:src|srcset|href)=\"([^\"]+)\"")
_HEADING = re.compile(r"#{1,6}\s+(.*?)\s*#*$")


def markdown_files(root: Path) -> list[Path]:
    """The Markdown files that people write, not those that are generated or installed."""
    files = [p for p in root.rglob("*.md") if not SKIPPED & set(p.relative_to(root).parts)]
    return sorted(p for p in files if p.relative_to(root).as_posix() not in GENERATED)


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Numbered lines outside fenced blocks, without code spans."""
    fence = ""
    for number, line in enumerate(text.splitlines(), 1):
        mark = re.match(r"\s*(```+|~~~+)", line)
        if mark and not fence:
            fence = mark[1]
        elif mark and line.strip().startswith(fence):
            fence = ""
        elif not fence:
            yield number, line


def links(text: str) -> Iterator[tuple[int, str]]:
    """Line and target of every link and picture."""
    for number, line in prose(text):
        line = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "`code`", line)
        for pattern in (_LINK, _BARE, _ATTRIBUTE):
            for match in pattern.finditer(line):
                yield number, match[1]


def anchors(text: str) -> set[str]:
    """The anchors of a file's headings, as GitHub and MyST make them."""
    seen: dict[str, int] = {}
    found: set[str] = set()
    for _, line in prose(text):
        if heading := _HEADING.match(line):
            name = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])
            name = re.sub(r"[^\w\- ]", "", name.lower()).strip().replace(" ", "-")
            count = seen.get(name, 0)
            seen[name] = count + 1
            found.add(f"{name}-{count}" if count else name)
    return found


def broken_inside(root: Path) -> list[str]:
    """One line for each relative link to a file or heading that is not there."""
    broken = []
    for file in markdown_files(root):
        for number, target in links(file.read_text(encoding="utf-8")):
            if re.match(r"[a-z][a-z+.-]*:", target):
                continue
            path, _, anchor = unquote(target).partition("#")
            place = f"{file.relative_to(root)}:{number}"
            to = (file.parent / path).resolve() if path else file
            inside = to.relative_to(root).as_posix() if to.is_relative_to(root) else ""
            if inside in GENERATED:
                continue
            if not to.exists():
                broken.append(f"{place}: {target}: there is no such file")
            elif anchor and to.suffix == ".md":
                if anchor not in anchors(to.read_text(encoding="utf-8")):
                    broken.append(f"{place}: {target}: there is no such heading")
    return broken


def addresses(root: Path) -> dict[str, str]:
    """Every address on the web that is linked to, and where first."""
    found: dict[str, str] = {}
    for file in markdown_files(root):
        for number, target in links(file.read_text(encoding="utf-8")):
            if target.startswith(("http://", "https://")) and "127.0.0.1" not in target:
                found.setdefault(target.partition("#")[0], f"{file.relative_to(root)}:{number}")
    return found


def answer(address: str) -> int | None:
    """The HTTP status of an address; None where it cannot be reached from here."""
    request = urllib.request.Request(address, headers={"User-Agent": "prunerzero link check"})
    try:
        with urllib.request.urlopen(request, timeout=8) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError):
        return None


def main(arguments: list[str]) -> int:
    broken = broken_inside(ROOT)
    print(f"links inside the repository: {len(broken)} broken")
    if "--offline" not in arguments:
        wanted = addresses(ROOT)
        with ThreadPoolExecutor(16) as pool:
            answers = dict(zip(wanted, pool.map(answer, wanted), strict=True))
        unknown = sum(
            status is None or status not in (200, 404, 410) for status in answers.values()
        )
        gone = [f"{wanted[a]}: {a}: {s}" for a, s in answers.items() if s in (404, 410)]
        print(f"addresses on the web: {len(gone)} broken, {unknown} not reached of {len(wanted)}")
        broken += gone
    print(*broken, sep="\n", end="\n" * bool(broken))
    return bool(broken)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
