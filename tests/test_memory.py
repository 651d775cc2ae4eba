"""Freed memory goes back to the machine, though something taken later is still in use."""

import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
import psutil
from pipeline.memory import give_back

process = psutil.Process()
freed = [bytes(1000) for _ in range(100_000)]
kept = [bytes(1000) for _ in range(100)]
del freed
before = process.memory_info().rss
give_back()
print(before - process.memory_info().rss)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc alone can")
def test_what_is_free_is_given_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )

    assert int(done.stdout) > 50_000_000
