"""A checkpoint as files: read tensor by tensor, and written again under the same names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from prunerzero.documents import read_users_json
from prunerzero.errors import ModelError, OutputError
from prunerzero.files import real, write_text
from prunerzero.language.checkpoint_files import INDEX, SINGLE, weight_files
from prunerzero.language.download import checkpoint_folder
from prunerzero.language.source import ModelSource
from prunerzero.report.wording import bytes_text
from prunerzero.tensor_file import Form, Header, read_header


@dataclass(frozen=True)
class Checkpoint:
    """The folder of a model, its config as JSON has it, and the headers of its weights files."""

    name: str
    folder: Path
    config: Mapping[str, Any]
    headers: Mapping[Path, Header]

    @classmethod
    def of(cls, source: ModelSource) -> Checkpoint:
        """Raises ModelError where there is no such model, or its files are damaged."""
        folder = checkpoint_folder(source)
        config = read_users_json(folder / "config.json", f"'{folder / 'config.json'}'")
        if not isinstance(config, dict):
            raise ModelError(f"'{folder / 'config.json'}' is not a JSON object.")
        headers = {file: read_header(file) for file in weight_files(folder)}
        return cls(source.model, folder, config, headers)

    @cached_property
    def owners(self) -> dict[str, Path]:
        """Tensor → the file that holds it; of several, the one that is read last."""
        return {name: file for file, header in self.headers.items() for name in header.forms}

    def tensors(self) -> Iterator[tuple[str, Path, Form]]:
        """Every tensor, its file and its form, in the files' order."""
        for name, file in self.owners.items():
            yield name, file, self.headers[file].forms[name]

    @property
    def bytes(self) -> int:
        """Of all weights files."""
        return sum(file.stat().st_size for file in self.headers)

    def written_as(self, file: Path) -> str:
        """What a weights file is called in a folder made of this one."""
        return file.name if len(self.headers) > 1 else SINGLE

    def write_index(self, folder: Path, headers: Mapping[Path, Header]) -> None:
        """Write which file holds each tensor, where there are several."""
        if len(headers) == 1:
            return
        index = self.folder / INDEX
        known = read_users_json(index, INDEX) if index.is_file() else {}
        size = sum(form.bytes for header in headers.values() for form in header.forms.values())
        places = {
            name: self.written_as(file) for file, header in headers.items() for name in header.forms
        }
        metadata = {**known.get("metadata", {}), "total_size": size}
        content = {"metadata": metadata, "weight_map": dict(sorted(places.items()))}
        write_text(folder / INDEX, as_transformers_writes(content))

    def check_room(self, folder: Path, headers: Mapping[Path, Header]) -> None:
        """Raise OutputError where the disk has no room for these weights files."""
        place = real(folder)
        while not place.exists():
            place = place.parent
        free, need = shutil.disk_usage(place).free, sum(one.bytes for one in headers.values())
        if need > free:
            raise OutputError(
                f"'{folder}' needs {bytes_text(need)}, and the disk has {bytes_text(free)} left; "
                "make room, or name a folder on another disk."
            )


def as_transformers_writes(value: Any) -> str:
    """JSON laid out as transformers does, so that what is unchanged is the same text again."""
    return json.dumps(value, indent=2) + "\n"
