"""What every page has in common: it is rendered from a template and written whole."""

import os
from pathlib import Path
from types import CodeType
from typing import Any

from jinja2 import BytecodeCache, Environment, PackageLoader, StrictUndefined
from jinja2.bccache import Bucket
from plotly.offline import get_plotlyjs


class _CompiledOnce(BytecodeCache):
    """Keeps the code of templates in memory: to compile it takes longer than to fill it in."""

    def __init__(self) -> None:
        self._code: dict[tuple[str, str], CodeType] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        bucket.code = self._code.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: Bucket) -> None:
        if bucket.code is not None:
            self._code[bucket.key, bucket.checksum] = bucket.code


_COMPILED = _CompiledOnce()


def render(template: str, filters: dict[str, Any], **values: Any) -> str:
    """The page of a template, with plotly's own code as ``plotly``; values are escaped."""
    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        bytecode_cache=_COMPILED,
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
