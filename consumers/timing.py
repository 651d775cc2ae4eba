"""How long the stages of a batch take; only the shells have a clock."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.counts import Stage, WorkerCounts


@contextmanager
def timed(counts: WorkerCounts, stage: Stage) -> Iterator[None]:
    """Take the duration of a block as one of a stage; a stage may lie within another."""
    started = time.perf_counter()
    yield
    counts.stage_seconds[stage].observe(time.perf_counter() - started)
