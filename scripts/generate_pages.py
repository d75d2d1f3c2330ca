"""Write the pages of the documentation that come from the code: commands, API, modules, tutorial.

``docs/conf.py`` calls ``write_pages`` before Sphinx reads its sources, so that an option, a public
name or a cell of the notebook is described in one place only. By hand:

    python scripts/generate_pages.py docs
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer.main

import prunerzero
from prunerzero.cli.commands import app

NOTEBOOK = Path(__file__).parents[1] / "examples" / "tutorial.ipynb"

PLOTLY = "plotly.min.js"
"""Where ``_static`` of the built site has plotly's own code, so that the site opens offline."""

_TYPES: dict[Any, str] = {int: "whole number", float: "number", str: "text", Path: "path"}


def write_pages(folder: Path) -> None:
    """Write the generated pages, each only where it has changed."""
    pages: dict[str, Callable[[], str]] = {
        "command_line.md": command_line,
        "api.md": python_api,
        "modules.md": modules,
        "tutorial.md": lambda: tutorial(NOTEBOOK),
    }
    for name, page in pages.items():
        path, text = folder / name, page()
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def command_line() -> str:
    """Every command with its help and options, in the order of ``prunerzero --help``."""
    group: Any = typer.main.get_command(app)
    lines = [
        "# The command line",
        "",
        "Generated from the code. `prunerzero COMMAND --help` shows the same in a terminal.",
        "",
        "Every command ends with exit code 0 when it has done its work, 2 when you can mend what "
        "stopped it (one sentence says how, and nothing was written), 130 after Ctrl-C and 143 "
        "after SIGTERM.",
        "",
    ]
    for name, command in group.commands.items():
        lines += [f"## {name}", "", _markdown(inspect.cleandoc(command.help)), ""]
        panels: dict[str, list[str]] = {"Options": []}
        for parameter in command.params:
            panel = getattr(parameter, "rich_help_panel", None) or "Options"
            panels.setdefault(panel, []).append(_parameter(parameter))
        for panel, rows in panels.items():
            if panel != "Options":
                lines += [f"**{panel}**", ""]
            lines += ["| option | value | meaning |", "| --- | --- | --- |", *rows, ""]
    return "\n".join(lines)


def _parameter(parameter: Any) -> str:
    argument = parameter.param_type_name == "argument"
    name = parameter.name.upper() if argument else " ".join(parameter.opts)
    about = _markdown(getattr(parameter, "help", None) or "")
    if parameter.required and not argument:
        about += " *Required.*"
    elif parameter.default not in (None, "", [], ()) and parameter.default is not False:
        about += f" Default: `{_default(parameter.default)}`."
    cells = (f"`{name}`", _kind(parameter), about.strip())
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(value: Any) -> str:
    return str(getattr(value, "value", value))


def _kind(parameter: Any) -> str:
    """What the option takes: its choices, its metavar, or its type."""
    if getattr(parameter, "is_flag", False):
        return ""
    annotation = parameter.type_descriptor.annotation
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    return parameter.metavar or _TYPES.get(annotation, "text")


def _markdown(text: str) -> str:
    """Rich's markup as Markdown: what is bold in a terminal is a command here."""
    text = re.sub(r"\[bold\](.*?)\[/(?:bold)?\]", _code, text, flags=re.DOTALL)
    return text.replace("\\[", "[")


def _code(match: re.Match[str]) -> str:
    return f"`{' '.join(match[1].split())}`"


def python_api() -> str:
    """The public names, by kind; autodoc adds signatures and docstrings."""
    kinds: dict[str, list[str]] = {"Functions": [], "Types": [], "Errors": [], "Values": []}
    for name in prunerzero.__all__:
        value = getattr(prunerzero, name)
        if inspect.isclass(value):
            kinds["Errors" if issubclass(value, BaseException) else "Types"].append(name)
        else:
            kinds["Functions" if inspect.isfunction(value) else "Values"].append(name)
    lines = [
        "# The Python API",
        "",
        "Generated from the docstrings. Everything here is imported from `prunerzero` itself; "
        "names that are not listed may change without notice.",
        "",
        "| name | what it is |",
        "| --- | --- |",
    ]
    for kind in kinds.values():
        for name in kind:
            lines.append(f"| [`{name}`](#prunerzero.{name}) | {_first_line(name)} |")
    for title, names in kinds.items():
        if names:
            lines += ["", f"## {title}"]
        for name in names:
            lines += ["", "```{eval-rst}", *_directive(name, title), "```"]
    return "\n".join([*lines, ""])


def _first_line(name: str) -> str:
    about = inspect.getdoc(getattr(prunerzero, name)) or ""
    return _rst_to_markdown(about.split("\n\n")[0]).replace("|", "\\|")


def _directive(name: str, kind: str) -> list[str]:
    if kind == "Functions":
        return [f".. autofunction:: prunerzero.{name}"]
    if kind == "Values":
        return [f".. autodata:: prunerzero.{name}"]
    members = ["   :members:"] if kind == "Types" else ["   :show-inheritance:"]
    return [f".. autoclass:: prunerzero.{name}", *members]


def modules() -> str:
    """Every module with the first sentence of its docstring, by folder."""
    house = Path(prunerzero.__file__).parent
    lines = ["# Every module", "", "Generated from the docstrings; `lines` counts the whole file."]
    folder = None
    for file in sorted(house.rglob("*.py"), key=lambda path: (path.parent, path.name)):
        source = file.read_text(encoding="utf-8")
        about = ast.get_docstring(ast.parse(source)) or ""
        here = file.parent.relative_to(house).as_posix()
        if file.name == "__init__.py" and here != ".":
            continue
        if here != folder:
            folder = here
            face = file.parent / "__init__.py"
            room = ast.get_docstring(ast.parse(face.read_text(encoding="utf-8"))) or ""
            title = "The package itself" if here == "." else f"{here}/"
            lines += ["", f"## {title}", "", _rst_to_markdown(room.split("\n\n")[0])]
            lines += ["", "| module | what it is about | lines |", "| --- | --- | ---: |"]
        sentence = _rst_to_markdown(about.split("\n\n")[0]).replace("|", "\\|")
        lines.append(f"| `{file.stem}` | {sentence} | {len(source.splitlines())} |")
    return "\n".join([*lines, ""])


def _rst_to_markdown(text: str) -> str:
    return " ".join(text.split()).replace("``", "`")


def tutorial(path: Path) -> str:
    """The notebook as a page: its text, its code, and what came out when it was last executed."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    lines: list[str] = []
    charts = 0
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            lines += [source.replace("](../docs/", "]("), ""]
            continue
        lines += ["```python", source, "```", ""]
        for output in cell["outputs"]:
            if output.get("name") == "stderr":
                continue
            data = output.get("data", {})
            if "application/vnd.plotly.v1+json" in data:
                charts += 1
                lines += [_chart(data["application/vnd.plotly.v1+json"], charts), ""]
            else:
                text = output.get("text") or data.get("text/plain") or []
                lines += ["```text", "".join(text).rstrip("\n"), "```", ""]
    if charts:
        lines.insert(0, f'<script src="_static/{PLOTLY}"></script>\n')
    return "\n".join(lines)


def _chart(figure: dict[str, Any], number: int) -> str:
    data, layout = (json.dumps(figure[key]).replace("<", "\\u003c") for key in ("data", "layout"))
    return (
        f'<div id="chart-{number}" class="chart"></div>\n'
        f"<script>Plotly.newPlot('chart-{number}', {data}, {layout}, "
        "{displayModeBar: false, responsive: true});</script>"
    )


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
