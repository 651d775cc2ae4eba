"""The results folder: one JSON file a row, named after it, with the key of what it was made from.

>>> from tempfile import TemporaryDirectory
>>> with TemporaryDirectory() as folder:
...     results = Results(Path(folder))
...     results.save("tiny-7d-replay-additive", "k1", {"average_precision": 0.5}, seconds=1.0)
...     results.is_done("tiny-7d-replay-additive", "k1"), results.is_done("other", "k1")
(True, False)
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import machine


@dataclass(frozen=True, slots=True)
class Results:
    """Rows that are done, in a folder."""

    folder: Path

    def save(self, name: str, key: str, found: dict[str, Any], *, seconds: float) -> None:
        """Keep a row's result; a file appears when it is whole."""
        record = {"row": name, "key": key, "seconds": round(seconds, 1)}
        record |= {"result": _rounded(found), "machine": machine()}
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{name}.partial"
        partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        partial.replace(self.folder / f"{name}.json")

    def load(self, name: str) -> dict[str, Any] | None:
        """Give a row's record, of whatever key; `None` where there is none."""
        path = self.folder / f"{name}.json"
        if not path.is_file():
            return None
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return record

    def is_done(self, name: str, key: str) -> bool:
        """Say whether a row's result is there and made from what this key names."""
        record = self.load(name)
        return record is not None and record["key"] == key


def _rounded(found: Any) -> Any:
    """Keep six significant digits: a file that is read by people, and compared in reviews."""
    if isinstance(found, dict):
        return {name: _rounded(value) for name, value in found.items()}
    if isinstance(found, float):
        return float(f"{found:.6g}")
    return found
