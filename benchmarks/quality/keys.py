"""What a row's result depends on, as one short key: a row with the same key need not run again.

Code counts by what it does: comments, layout, docstrings and the help of settings may change.

>>> code_of("x = 1  # one") == code_of("x = 1") != code_of("x = 2")
True
>>> code_of("l2 = _setting(1.0, 'pull')") == code_of("l2 = _setting(1.0, 'pull to 0')")
True
"""

import ast
import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.quality.rows import Row

ROOT = Path(__file__).parent.parent.parent
QUALITY = "benchmarks/quality"
# What a table needs: the stream and, for the Handbook's features, how they are made.
STREAM = ("schemas/*.toml", f"{QUALITY}/streams.py", "producers/simulator.py")
OURS = ("models/**/*.py", "pipeline/*.py")
# The command line decides nothing about a score.
APART = ("pipeline/cli.py",)
RIVAL = (f"{QUALITY}/refitted.py", f"{QUALITY}/online.py")
CODE = {
    "handbook": (f"{QUALITY}/handbook_features.py", *RIVAL),
    "own": (*OURS, *STREAM, *RIVAL),
    "replay": (*OURS, *STREAM),
    "loop": (*OURS, *STREAM, *RIVAL, f"{QUALITY}/loop.py", "producers/closed_loop.py"),
    "cost": (*OURS, f"{QUALITY}/cost.py"),
}
# What declares a setting: its default, then its help.
SETTING = "_setting"
LIBRARIES = {
    "lightgbm": ("lightgbm",),
    "xgboost": ("xgboost-cpu",),
    "vw": ("vowpalwabbit",),
    "river": ("river",),
    "forest": ("river",),
}


def row_key(row: Row) -> str:
    """Give the key of a row's code, libraries and options."""
    parts = [repr(row), *(f"{name} {_version(name)}" for name in _libraries(row))]
    return _digest([*parts, *(_file_code(path) for path in _files(CODE[row.kind]))])


def table_key(features: str) -> str:
    """Give the key of the code that makes a table of these features."""
    patterns = (f"{QUALITY}/handbook_features.py",) if features == "handbook" else OURS
    return _digest([_file_code(path) for path in _files((*patterns, *STREAM))])


def code_of(source: str) -> str:
    """Give what a source does, whatever it looks like."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            first.value.value = ""
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == SETTING:
            del node.args[1:]
    return ast.dump(tree)


@cache
def _file_code(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    return code_of(text) if path.suffix == ".py" else text


def _files(patterns: tuple[str, ...]) -> list[Path]:
    apart = {ROOT / name for name in APART}
    return sorted({path for pattern in patterns for path in ROOT.glob(pattern)} - apart)


def _libraries(row: Row) -> tuple[str, ...]:
    return LIBRARIES.get(row.model.split("-")[0], ())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
