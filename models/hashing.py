"""A coin and a die that fall the same on every machine: a hash of an example's number.

>>> int(splitmix64(np.uint64(1)))
16294208416658607535
"""

from typing import Any

import numpy as np

from models.compiled import kernel


@kernel
def splitmix64(number: Any) -> Any:
    """Mix the bits of a `uint64` (Steele, Lea and Flood, Fast Splittable PRNGs, OOPSLA 2014)."""
    mixed = number * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
