"""Ids as numbers from 0, in the order in which they come: what tables of rows are found by.

>>> known: dict[str, int] = {}
>>> numbers_of(known, ["c7", "c9", "c7"]).tolist(), numbers_of(known, ["c9", "c1"]).tolist()
([0, 1, 0], [1, 2])
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def numbers_of(known: dict[str, int], ids: Sequence[str]) -> NDArray[np.int64]:
    """Give the number of each id; an id that is new takes the next."""
    # Most batches hold known ids alone, and looking those up needs no loop of Python.
    numbers = list(map(known.get, ids))
    if None in numbers:
        return np.array([known.setdefault(key, len(known)) for key in ids], np.int64)
    return np.array(numbers, np.int64)
