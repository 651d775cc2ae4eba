"""Nothing knows the future: neither a feature nor a score, however the future is changed.

A stream is replayed twice, alike up to a moment and otherwise afterwards: events that come later
are changed, removed or added, labels that become known later are turned. Everything up to that
moment must be the same, bit for bit. And labels that mean nothing teach nothing.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.durations import DAY_MS, HOUR_MS
from pipeline.engine import Decisions
from pipeline.events import Transactions
from pipeline.replay import Labelled, Replay, ReplayOptions
from pipeline.settings import Settings
from producers.simulator import SimulatorOptions, simulate
from tests.strategies import CARD, declined_of, joined, traffic

EVENTS = 500
DELAY_MS = 5 * HOUR_MS + 17 * 60_000
Change = Callable[[Transactions, NDArray[np.int8], int], Labelled]


def stream(seed: int = 11) -> Labelled:
    """Give sorted traffic in which large amounts are frauds."""
    batch = traffic(seed, EVENTS, cards=12, terminals=9)
    batch = batch.take(np.argsort(batch.event_time_ms, kind="stable"))
    return batch, (batch.amount_minor > 4000).astype(np.int8)


def replayed(batch: Labelled) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Give the features and all models' scores of each event, in the order of the stream."""
    decided: list[Decisions] = []
    run = Replay(CARD, Settings(), ReplayOptions(DELAY_MS), decided=decided.append)
    run.run([batch], lambda result: None)
    features = [part.features for part in decided]
    scores = [np.column_stack([part.scores, *part.challengers.values()]) for part in decided]
    return np.concatenate(features), np.concatenate(scores)


def other_amounts(events: Transactions, is_fraud: NDArray[np.int8], rows: int) -> Labelled:
    amounts = events.amount_minor.copy()
    amounts[rows:] = amounts[rows:] * 3 + 1
    return replace(events, amount_minor=amounts), is_fraud


def other_places(events: Transactions, is_fraud: NDArray[np.int8], rows: int) -> Labelled:
    cards, terminals = (ids[:rows] + ids[rows:][::-1] for ids in events.keys)
    return replace(events, keys=(cards, terminals)), is_fraud


def other_times(events: Transactions, is_fraud: NDArray[np.int8], rows: int) -> Labelled:
    times = events.event_time_ms.copy()
    times[rows:] += 3 * DAY_MS
    return replace(events, event_time_ms=times), is_fraud


def other_answers(events: Transactions, is_fraud: NDArray[np.int8], rows: int) -> Labelled:
    """Turn the answer of the last known event as well: it comes after that was decided."""
    answers = declined_of(events).copy()
    answers[rows - 1 :] = ~answers[rows - 1 :]
    return replace(events, declined=answers), is_fraud


def nothing_more(events: Transactions, is_fraud: NDArray[np.int8], rows: int) -> Labelled:
    return events.slice(0, rows), is_fraud[:rows]


def much_more(events: Transactions, is_fraud: NDArray[np.int8], rows: int) -> Labelled:
    later = traffic(99, EVENTS, cards=12, terminals=9)
    # The first of the others comes right after the last that both streams have.
    shift = int(events.event_time_ms[rows - 1] - later.event_time_ms.min())
    later = replace(later, event_time_ms=np.sort(later.event_time_ms + shift))
    frauds = np.concatenate([is_fraud[:rows], np.ones(EVENTS, np.int8)])
    return joined(events.slice(0, rows), later), frauds


def turned_labels(events: Transactions, is_fraud: NDArray[np.int8], rows: int) -> Labelled:
    # Labels of events from before the moment as well, where they become known after it.
    moment_ms = int(events.event_time_ms[rows - 1])
    later = events.event_time_ms + DELAY_MS > moment_ms
    return events, np.where(later, 1 - is_fraud, is_fraud).astype(np.int8)


def no_labels(events: Transactions, is_fraud: NDArray[np.int8], rows: int) -> Labelled:
    moment_ms = int(events.event_time_ms[rows - 1])
    later = events.event_time_ms + DELAY_MS > moment_ms
    return events, np.where(later, -1, is_fraud).astype(np.int8)


CHANGES: tuple[Change, ...] = (
    other_amounts, other_places, other_times, other_answers, nothing_more, much_more,
    turned_labels, no_labels,
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("rows", [1, 60, 233, 470])
def test_no_feature_and_no_score_changes_when_the_future_does(rows: int, change: Change) -> None:
    batch = stream()
    features, scores = replayed(batch)

    other_features, other_scores = replayed(change(*batch, rows))

    assert other_features[:rows].tobytes() == features[:rows].tobytes()
    assert other_scores[:rows].tobytes() == scores[:rows].tobytes()


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_the_changes_are_felt_afterwards(change: Change) -> None:
    batch = stream()
    features, scores = replayed(batch)

    other_features, other_scores = replayed(change(*batch, 233))

    # Without this, the test above would pass where nothing had been changed.
    assert (
        other_features.tobytes() != features.tobytes() or other_scores.tobytes() != scores.tobytes()
    )


@given(
    seed=st.integers(0, 1_000_000), rows=st.integers(1, EVENTS - 1), change=st.sampled_from(CHANGES)
)
@hypothesis_settings(max_examples=15)
def test_no_feature_changes_whatever_the_stream_and_the_moment(
    seed: int, rows: int, change: Change
) -> None:
    batch = stream(seed)
    features, scores = replayed(batch)

    other_features, other_scores = replayed(change(*batch, rows))

    assert other_features[:rows].tobytes() == features[:rows].tobytes()
    assert other_scores[:rows].tobytes() == scores[:rows].tobytes()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_shuffled_labels_give_an_average_precision_at_the_base_rate(seed: int) -> None:
    world = SimulatorOptions(customers=300, terminals=300, days=20, seed=seed)
    days = [(batch.transactions(), batch.is_fraud) for batch in simulate(world)]
    truth = np.concatenate([is_fraud for _, is_fraud in days])
    shuffled = np.random.default_rng(seed).permutation(truth)
    ends = np.cumsum([len(events) for events, _ in days])[:-1]
    batches = [(day[0], part) for day, part in zip(days, np.split(shuffled, ends), strict=True)]
    run = Replay(CARD, Settings(), ReplayOptions(DAY_MS))

    result = run.run(batches, lambda _: None)

    # What scores that know nothing give on the same labels, a thousand times.
    for name, quality in result.quality.items():
        assert quality.average_precision is not None, name
        low, high = chance_average_precision(quality.events, quality.frauds)
        assert low < quality.average_precision < high, name
        assert quality.roc_auc is not None
        assert abs(quality.roc_auc - 0.5) < 4.5 * (1 / 12 / quality.frauds) ** 0.5, name


def chance_average_precision(events: int, frauds: int) -> tuple[float, float]:
    """Give the range that holds all but a thousandth of the average precisions of random orders."""
    chance = np.random.default_rng(12)
    found = []
    for _ in range(1000):
        ranks = np.sort(chance.choice(events, frauds, replace=False)) + 1
        found.append(float((np.arange(1, frauds + 1) / ranks).mean()))
    low, high = np.quantile(found, (0.0005, 0.9995))
    return float(low), float(high)
