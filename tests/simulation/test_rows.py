"""Rows of profiles under simulated faults, and the races that take the most luck, step by step."""

from collections import Counter

import pytest

from tests.simulation.rows import Life, simulate_rows

SEEDS, BATCHES = 32, 250
HALVES = [range(SEEDS // 2), range(SEEDS // 2, SEEDS)]


@pytest.mark.parametrize("seeds", HALVES, ids=lambda seeds: f"{seeds.start}-{seeds.stop - 1}")
def test_every_batch_is_decided_on_the_fold_of_what_was_committed(seeds: range) -> None:
    faults: Counter[str] = Counter()
    written = trimmed = 0
    for seed in seeds:
        life = simulate_rows(seed, batches=BATCHES)
        faults.update(life.faults)
        written += life.store.written
        trimmed += life.store.trimmed

    names = ("crash", "move", "sleep", "late commit", "put back")
    assert min(faults[name] for name in names) >= len(seeds)
    assert written >= len(seeds)
    assert trimmed >= 10 * len(seeds)


def test_a_life_that_fails_names_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(life: Life) -> None:
        raise AssertionError(f"{len(life.faults)} faults")

    monkeypatch.setattr(Life, "run", fail)

    with pytest.raises(AssertionError, match="seed 5: 0 faults"):
        simulate_rows(5, batches=10)
