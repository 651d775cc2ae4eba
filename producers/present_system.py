"""A present system for simulated traffic: a rule with a score, to be compared with.

It knows large amounts and cards that pay often in one day, and errs about both; it knows nothing of
terminals or of a card's habits. What it declines did not go through, so nobody ever learns what
that was: the label of such an event is unknown, as it is in the life of a team that blocks.

>>> from producers.simulator import SimulatorOptions, simulate
>>> days = with_present_system(simulate(SimulatorOptions(customers=100, terminals=200)), seed=7)
>>> day = next(days)
>>> day.incumbents[0].action, 0.0 <= day.incumbents[0].score <= 1.0
('approve', True)
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.actions import ACTIONS
from pipeline.durations import DAY_MS
from pipeline.incumbent import Incumbent
from producers.batch import LABEL_UNKNOWN, EventBatch

REVIEW_SCORE_MIN, DECLINE_SCORE_MIN = 0.5, 0.9
AMOUNT_MINOR = 18_000
AMOUNT_WEIGHT, OFTEN_WEIGHT = 5.0, 0.7
# So many payments of a card in one day are usual.
OFTEN_MIN = 6
# How far the rule errs, in log-odds.
NOISE = 0.8
SCORE_DIGITS = 4

Floats = NDArray[np.float64]


def with_present_system(batches: Iterable[EventBatch], *, seed: int) -> Iterator[EventBatch]:
    """Let the rule judge events; a batch is a day, and the same seed gives the same scores."""
    for batch in batches:
        if not len(batch):
            yield batch
            continue
        scores = _scores(batch, seed)
        actions = (scores >= REVIEW_SCORE_MIN).astype(np.int64) + (scores >= DECLINE_SCORE_MIN)
        said = zip(scores.tolist(), actions.tolist(), strict=True)
        declined = actions == ACTIONS.index("decline")
        yield replace(
            batch,
            is_fraud=np.where(declined, LABEL_UNKNOWN, batch.is_fraud).astype(np.int8),
            incumbents=[Incumbent(score, ACTIONS[action]) for score, action in said],
        )


def _scores(batch: EventBatch, seed: int) -> Floats:
    random = np.random.default_rng([seed, int(batch.event_time_ms[0]) // DAY_MS])
    amount = np.log(np.maximum(batch.amount_minor, 1) / AMOUNT_MINOR)
    often = np.maximum(_visits_before(list(batch.keys[0])) + 1 - OFTEN_MIN, 0)
    noise = random.normal(0.0, NOISE, len(batch))
    odds = AMOUNT_WEIGHT * amount + OFTEN_WEIGHT * often + noise
    return np.round(1.0 / (1.0 + np.exp(-odds)), SCORE_DIGITS)


def _visits_before(cards: list[str]) -> NDArray[np.int64]:
    """Give how often each event's card came earlier in the batch."""
    _, card = np.unique(cards, return_inverse=True)
    order = np.argsort(card, kind="stable")
    starts = np.flatnonzero(np.diff(card[order], prepend=-1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    before = np.empty(len(order), np.int64)
    before[order] = rank
    return before
