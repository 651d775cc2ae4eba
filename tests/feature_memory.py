"""Profiles and learned rows of one stream, whose features are read as dicts by name."""

from collections.abc import Callable, Sequence

import numpy as np

from pipeline.durations import DAY_MS
from pipeline.events import Transactions
from pipeline.feature_kernels import record_verdicts
from pipeline.features import FeatureKernel
from pipeline.profiles import LearnedProfiles, MemoryProfiles
from tests.strategies import CARD, MONDAY_MS, visits

KERNEL = FeatureKernel(CARD)
FloatRow = dict[str, float]


class Memory:
    """Profiles, and the labels learned into them, of one stream."""

    def __init__(self) -> None:
        self.learned = LearnedProfiles(CARD)
        self.profiles = MemoryProfiles(CARD, self.learned)

    def read(self, batch: Transactions) -> list[FloatRow]:
        """Read and record a batch; a row a dict of features."""
        out = KERNEL.read_and_record(batch, self.profiles.open(batch))
        return [dict(zip(KERNEL.names, row, strict=True)) for row in out.tolist()]

    def learn(
        self,
        times_ms: Sequence[int],
        is_fraud: Sequence[int],
        *,
        corrects: Sequence[bool] = (),
        amounts: Sequence[int] = (),
        unusual: Sequence[int] = (),
    ) -> None:
        """Learn verdicts of card `c1` at terminal `m1`."""
        count = len(times_ms)
        for rows in self.learned.rows((["c1"] * count, ["m1"] * count)):
            record_verdicts(
                rows.values,
                rows.slots,
                np.array(times_ms, dtype=np.int64),
                np.array(amounts or [1000] * count, dtype=np.int64),
                np.array(unusual or [0] * count, dtype=np.int8),
                np.array(is_fraud, dtype=np.int8),
                np.array(corrects or [False] * count),
            )

    def read_at(self, time_ms: int, *, amount: int = 1000) -> FloatRow:
        """Read the features of one event of card `c1` at terminal `m1`."""
        return self.read(visits([time_ms], amounts=[amount]))[0]


def float32(value: float) -> float:
    return float(np.float32(value))


def learn_some(memory: Memory, seed: int, record: Callable[..., None]) -> None:
    """Learn forty verdicts of any age, some of them corrections, of five cards and terminals."""
    chance = np.random.default_rng(seed)
    ids = [[f"{kind}{number}" for number in chance.integers(0, 5, 40)] for kind in "cm"]
    times = MONDAY_MS + chance.integers(0, 40 * DAY_MS, 40)
    amounts = chance.integers(0, 100_000, 40)
    unusual = chance.integers(0, 2, 40).astype(np.int8)
    is_fraud = chance.integers(0, 2, 40).astype(np.int8)
    corrects = chance.random(40) < 0.3
    for rows in memory.learned.rows(tuple(ids)):
        values = rows.values if record is record_verdicts else rows.values.view(np.recarray)
        record(values, rows.slots, times, amounts, unusual, is_fraud, corrects)
