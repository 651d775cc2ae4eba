"""Labels as columns against the general join: the same bits, whatever the stream holds."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.durations import DAY_MS, HOUR_MS
from pipeline.engine import Decisions
from pipeline.replay import Labelled, Learned, Replay, ReplayOptions, ReplayResult
from pipeline.settings import Settings
from pipeline.texts import Numerals
from tests.strategies import CARD, traffic

EVENTS = 900


def stream() -> Labelled:
    batch = traffic(21, EVENTS, cards=15, terminals=10)
    batch = batch.take(np.argsort(batch.event_time_ms, kind="stable"))
    return batch, (batch.amount_minor > 4000).astype(np.int8)


def as_it_is(batch: Labelled) -> Labelled:
    return batch


def one_comes_twice(batch: Labelled) -> Labelled:
    rows = np.insert(np.arange(EVENTS), 500, 480)
    events = batch[0].take(rows)
    times = np.maximum.accumulate(events.event_time_ms)
    return replace(events, event_time_ms=times), batch[1][rows]


def one_comes_again_much_later(batch: Labelled) -> Labelled:
    # Beyond what the card's profile remembers, so it is decided a second time.
    ids = list(batch[0].transaction_id)
    ids[700] = ids[20]
    return replace(batch[0], transaction_id=ids), batch[1]


def one_that_nobody_knows_of(batch: Labelled) -> Labelled:
    is_fraud = batch[1].copy()
    is_fraud[400] = -1
    return batch[0], is_fraud


def one_comes_late(batch: Labelled) -> Labelled:
    times = batch[0].event_time_ms.copy()
    times[600] = times[590]
    return replace(batch[0], event_time_ms=times), batch[1]


def numbered(batch: Labelled) -> Labelled:
    return replace(batch[0], transaction_id=Numerals(np.arange(EVENTS) * 3)), batch[1]


def a_number_comes_again_much_later(batch: Labelled) -> Labelled:
    numbers = np.arange(EVENTS) * 3
    numbers[700] = numbers[20]
    return replace(batch[0], transaction_id=Numerals(numbers)), batch[1]


def a_smaller_number_comes_and_one_again(batch: Labelled) -> Labelled:
    numbers = np.arange(EVENTS) * 3
    numbers[300] = 7
    numbers[800] = numbers[600]
    return replace(batch[0], transaction_id=Numerals(numbers)), batch[1]


STREAMS: tuple[Callable[[Labelled], Labelled], ...] = (
    as_it_is, one_comes_twice, one_comes_again_much_later, one_that_nobody_knows_of, one_comes_late,
    numbered, a_number_comes_again_much_later, a_smaller_number_comes_and_one_again,
)  # fmt: skip


def run(
    batch: Labelled, *, general: bool, delay_ms: int, **settings: object
) -> tuple[ReplayResult, list[Decisions], list[Learned]]:
    """Replay; whoever asks for what became of each label gets the general join."""
    decided: list[Decisions] = []
    learned: list[Learned] = []
    replay = Replay(
        CARD, Settings(**settings), ReplayOptions(delay_ms),  # type: ignore[arg-type]
        decided=decided.append, learned=learned.append,
        settled=(lambda items: None) if general else None,
    )  # fmt: skip

    def cut() -> Iterator[Labelled]:
        for start in range(0, len(batch[0]), 250):
            stop = start + 250
            yield batch[0].slice(start, stop), batch[1][start:stop]

    return replay.run(cut(), lambda result: None), decided, learned


def joined(parts: list[NDArray[np.float64]]) -> bytes:
    return b"".join(part.tobytes() for part in parts)


@pytest.mark.parametrize("change", STREAMS, ids=lambda change: change.__name__)
@pytest.mark.parametrize("delay_ms", [0, HOUR_MS, DAY_MS + 17])
@pytest.mark.parametrize("limit", [1_000_000, 122])
def test_the_bits_are_those_of_the_general_join(
    change: Callable[[Labelled], Labelled], delay_ms: int, limit: int
) -> None:
    batch = change(stream())
    found, decided, learned = run(batch, general=False, delay_ms=delay_ms, feedback_limit=limit)

    wanted, ours, theirs = run(batch, general=True, delay_ms=delay_ms, feedback_limit=limit)

    assert (found.labels, found.actions, found.quality, found.model_version) == (
        wanted.labels, wanted.actions, wanted.quality, wanted.model_version,
    )  # fmt: skip
    assert found.duplicates == wanted.duplicates
    assert joined([part.scores for part in decided]) == joined([part.scores for part in ours])
    assert [part.label_offset for part in decided] == [part.label_offset for part in ours]
    for name in ("additive", "logistic"):
        assert joined([part.scores[name] for part in learned]) == joined(
            [part.scores[name] for part in theirs]
        )
    for column in ("label_time_ms", "source"):
        assert joined([getattr(part, column) for part in learned]) == joined(
            [getattr(part, column) for part in theirs]
        )
    assert [part.examples.transaction_id for part in learned] == [
        part.examples.transaction_id for part in theirs
    ]
    assert [part.examples.features.tobytes() for part in learned] == [
        part.examples.features.tobytes() for part in theirs
    ]


def test_what_matures_before_its_label_goes_by_the_general_join() -> None:
    given = {"delay_ms": 3 * DAY_MS, "maturity_days": 1.0}
    found, decided, _ = run(stream(), general=False, **given)  # type: ignore[arg-type]

    wanted, ours, _ = run(stream(), general=True, **given)  # type: ignore[arg-type]

    assert found.labels == wanted.labels
    assert found.labels["confirmed"] > 0
    assert joined([part.scores for part in decided]) == joined([part.scores for part in ours])
