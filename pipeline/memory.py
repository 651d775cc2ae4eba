"""Memory that nothing uses any more, back to the machine.

The C library keeps freed memory below whatever was taken later: of the compiler and of a file's
parts that is a hundred megabytes, which a long pass over millions of events would hold to its end.

>>> give_back()
"""

import ctypes


def give_back() -> None:
    """Give back what is free, where the C library can (glibc can)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
