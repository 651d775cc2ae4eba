"""What a model expects of a state that it is made of again.

A state comes from a file or a topic: whatever is wrong with it is said in one line, and no model
is ever made of half of it.

>>> integer({"learned": 3}, "learned")
3
>>> array({"cells": np.zeros(2)}, "cells", np.float64, (3,))
Traceback (most recent call last):
pipeline.errors.SnapshotError: state: cells must be float64 (3,) (got float64 (2,))
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.contract import Arrays, Header
from pipeline.errors import SnapshotError


def integer(header: Header, name: str) -> int:
    """Give a whole number from 0 that fits 62 bits."""
    value = header.get(name)
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise SnapshotError(f"state: {name} must be a whole number from 0 (got {value!r})")
    return value


def number(header: Header, name: str) -> float:
    """Give a finite number."""
    value = header.get(name)
    if type(value) is not float or not np.isfinite(value):
        raise SnapshotError(f"state: {name} must be a finite number (got {value!r})")
    return value


def text(header: Header, name: str) -> str:
    """Give a string."""
    value = header.get(name)
    if not isinstance(value, str):
        raise SnapshotError(f"state: {name} must be a string (got {value!r})")
    return value


def truth(header: Header, name: str) -> bool:
    """Give true or false."""
    value = header.get(name)
    if not isinstance(value, bool):
        raise SnapshotError(f"state: {name} must be true or false (got {value!r})")
    return value


def names(header: Header, name: str) -> tuple[str, ...]:
    """Give a list of different strings."""
    value = header.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise SnapshotError(f"state: {name} must be a list of strings")
    if len(set(value)) < len(value):
        raise SnapshotError(f"state: {name} must be different from each other")
    return tuple(value)


def array(arrays: Arrays, name: str, dtype: type, shape: tuple[int, ...]) -> NDArray[Any]:
    """Give a copy of an array of this type and shape; what was learned (float64) is finite."""
    expected = f"{np.dtype(dtype)} {shape}"
    if name not in arrays:
        raise SnapshotError(f"state: {name} must be {expected} (got none)")
    found = arrays[name]
    if found.dtype != dtype or found.shape != shape:
        raise SnapshotError(f"state: {name} must be {expected} (got {found.dtype} {found.shape})")
    if dtype is np.float64 and not np.isfinite(found).all():
        raise SnapshotError(f"state: {name} must be finite numbers (got NaN or infinity)")
    return found.copy()


def check_not_negative(found: NDArray[Any], name: str) -> None:
    """Refuse counts and sums of squares below 0."""
    if (found < 0.0).any():
        raise SnapshotError(f"state: {name} must be at least 0")
