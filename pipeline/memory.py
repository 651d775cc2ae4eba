"""How a process looks after its memory: what nothing uses goes back, cycles are looked for seldom.

The C library keeps freed memory below whatever was taken later: of the compiler and of a file's
parts that is a hundred megabytes, which a long pass over millions of events would hold to its end.

>>> give_back()
"""

import ctypes
import gc
from typing import Final

# The collector looks for cycles after so many new objects; of a fetch, each record is some, and at
# Python's own 700 looking takes longer than fetching.
GC_OBJECTS: Final = 20_000


def give_back() -> None:
    """Give back what is free, where the C library can (glibc can)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def collect_seldom() -> None:
    """Look for cycles among new objects alone, and seldom, from now on.

    What was loaded until here stays: looking through it again would halt the process each time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_OBJECTS)
