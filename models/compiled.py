"""Loops that must be fast are compiled once and kept.

A kernel is a plain Python function over arrays: the same source runs without compilation, which
is how it is tested (`kernel_source`). Results are the same on every run and for every batch
size: no fast mathematics, no threads, sums in the order written.

Constants and kernels that a kernel uses are compiled into it. They must stand in its own package
or in this one: compiled code on disk is renewed when any source file of the two changes.

>>> @kernel
... def total(values: Floats) -> float:
...     result = 0.0
...     for value in values:
...         result += value
...     return result
>>> total(np.array([0.5, 2.0]))
2.5
>>> kernel_source(total)([0.5, 2.0])
2.5
"""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Float32s = NDArray[np.float32]
Int8s = NDArray[np.int8]
Int32s = NDArray[np.int32]

_HERE = Path(__file__).parent

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


def kernel(function: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
    """Compile a function over arrays; the lock of the interpreter is free while it runs.

    Division by zero gives infinity, as in numpy. Compiled code is kept beside the source.
    """
    source = Path(function.__code__.co_filename)
    # A function typed at a prompt or in a doctest has no file to keep compiled code beside.
    if not source.is_file():
        return cast(
            Callable[_Given, _Result], numba.njit(nogil=True, error_model="numpy")(function)
        )
    compiled: Any = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    # numba compares the time and size of the function's own file only; a changed constant in
    # another file would leave wrong code in use.
    compiled._cache._cache_file._source_stamp = _digest(source.parent) + _digest(_HERE)
    return cast(Callable[_Given, _Result], compiled)


@cache
def _digest(folder: Path) -> str:
    sources = b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))
    return hashlib.sha256(sources).hexdigest()


def kernel_source(compiled: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
    """Give the Python function that a kernel was made of."""
    return cast(Callable[_Given, _Result], compiled.py_func)  # type: ignore[attr-defined]
