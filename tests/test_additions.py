"""What events add, folded without reading, is what the feature kernels leave of the same events."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from pipeline.additions import additions_of, kinds_of, packed, unpacked
from pipeline.features import FeatureKernel, unusual_amounts
from pipeline.profiles import LearnedProfiles, MemoryProfiles, Table
from tests.strategies import CARD, MONDAY_MS, traffic, visits

KERNEL = FeatureKernel(CARD)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_fold_of_the_log_is_the_same_in_every_bit(seed: int) -> None:
    chance = np.random.default_rng(seed)
    whole = traffic(seed, 800)
    late = chance.random(800) < 0.1
    times = whole.event_time_ms - late * chance.integers(0, 40 * 86_400_000, 800)
    amounts = np.where(chance.random(800) < 0.2, chance.integers(0, 10**9, 800), 150)
    declined = chance.random(800) < 0.3
    whole = replace(whole, event_time_ms=times, amount_minor=amounts, declined=declined)
    memory = MemoryProfiles(CARD, LearnedProfiles(CARD))
    kinds = [kinds_of(CARD, number) for number in (0, 1)]
    folded = [[Table(kind.dtype, width=kind.width) for kind in of_one] for of_one in kinds]

    for start in range(0, 800, 37):
        batch = whole.slice(start, min(start + 37, 800))
        features = KERNEL.read_and_record(batch, memory.open(batch))
        unusual = unusual_amounts(features, CARD)
        added = unpacked(packed(additions_of(batch, unusual, CARD, partition=1)))
        for number, of_one in enumerate(kinds):
            for kind, table in zip(of_one, folded[number], strict=True):
                slots = table.slots(added.keys[number])
                kind.record(table.rows, slots, added.columns)

    view = memory.open(whole)
    wanted = [[view.traffic, view.probes[0]], [view.shared[0], view.probes[1]]]
    for number, of_one in enumerate(wanted):
        for rows, table in zip(of_one, folded[number], strict=True):
            slots = table.slots(whole.keys[number])
            assert table.rows[slots].tobytes() == rows.values[rows.slots].tobytes()
    assert view.probes[0].values["hours"]["declined"].any()
    assert view.shared[0].values["unusual"].any()


def test_events_of_ids_that_are_not_held_are_passed_over() -> None:
    added = additions_of(visits([MONDAY_MS]), np.zeros(1, np.int8), CARD, partition=0)

    for kind in (*kinds_of(CARD, 0), *kinds_of(CARD, 1)):
        rows = kind.empty(2)
        kind.record(rows, np.array([-1], np.int32), added.columns)
        assert not any(rows.tobytes())


@pytest.mark.parametrize("keys", [[["c1"]], [["c1"], ["m1", "m2"]], [["c1", "c2"], ["m1", "m2"]]])
def test_an_entry_whose_columns_do_not_fit_its_ids_is_none(keys: list[list[str]]) -> None:
    added = additions_of(visits([MONDAY_MS]), np.zeros(1, np.int8), CARD, partition=0)
    columns = msgspec.msgpack.decode(packed(added))[2]
    data = msgspec.msgpack.encode([0, keys, columns[:-1] if len(keys) == 1 else columns])

    with pytest.raises(ValueError, match="columns"):
        unpacked(data)
