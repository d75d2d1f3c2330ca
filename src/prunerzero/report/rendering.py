"""What every page has in common: it is rendered from a template and written whole."""

import os
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs


def render(template: str, filters: dict[str, Any], **values: Any) -> str:
    """The page of a template, with plotly's own code as ``plotly``; values are escaped."""
    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(template).render(plotly=get_plotlyjs(), **values)


def write_page(path: Path, page: str) -> None:
    """Write whole or not at all: beside it, then renamed."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        beside.write_text(page, encoding="utf-8")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
