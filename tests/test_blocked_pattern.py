"""A fraud pattern that the model blocks keeps its score; with a naive maturity it loses it.

A scheme of large amounts is learned from forty days of labelled history. From then on the loop is
closed: what the model declines is never heard of again, for eighty days. Its maturity is twenty
days, so that what was blocked first is old enough on day sixty, and is so for sixty days more.
Every holder calls, so that what goes through is known before it could mature: silence of what went
through tells the truth here, and the two rules differ in what was declined alone.

The score of a pattern is measured on its own events as they keep coming, each scored by the model
of its moment before anything is known of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.durations import DAY_MS
from pipeline.engine import Decisions
from pipeline.events import Transactions
from pipeline.feedback import WentThrough, went_through
from pipeline.label_source import ConstantDelay, Known
from pipeline.label_words import OutcomeKind
from pipeline.policy import DECLINE
from pipeline.records import Action, Taken
from pipeline.replay import Labelled, Replay, ReplayOptions
from pipeline.settings import Settings
from producers.closed_loop import ClosedLoop, LoopOptions
from producers.simulator import SimulatorOptions, simulate
from tests.strategies import CARD

HISTORY_DAYS, MATURITY_DAYS, DAYS = 40, 20, 120
PATTERN_SHARE = 0.004
PATTERN_AMOUNTS_MINOR = (30_000, 40_000)


def declined_is_genuine(
    taken: Taken, outcome: OutcomeKind | None, incumbent: Action | None = None
) -> bool:
    """The naive rule: nobody complained of what was declined either."""
    return taken == "decline" or went_through(taken, outcome, incumbent)


class HistoryThenLoop:
    """Labelled history up to a day, and a closed loop from then on."""

    def __init__(self, world: ClosedLoop, loop_from_ms: int) -> None:
        self._world, self._loop_from_ms = world, loop_from_ms
        self._history = ConstantDelay(DAY_MS)

    def decided(
        self, batch: Transactions, decisions: Decisions, is_fraud: NDArray[np.int8]
    ) -> None:
        is_history = batch.event_time_ms[0] < self._loop_from_ms
        (self._history if is_history else self._world).decided(batch, decisions, is_fraud)

    def due(self, now_ms: int) -> Known:
        told, answered = self._history.due(now_ms), self._world.due(now_ms)
        return Known(told.labels + answered.labels, answered.outcomes)


@dataclass
class Pattern:
    """The events of the pattern: when each was, its score, and whether it was declined."""

    ids: set[str] = field(default_factory=set)
    days: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    declined: list[bool] = field(default_factory=list)
    first_ms: int = 0
    missed_minor: int = 0

    def see(self, decisions: Decisions) -> None:
        events = decisions.transactions
        for row, name in enumerate(events.transaction_id):
            if name in self.ids:
                self.days.append(float(events.event_time_ms[row] - self.first_ms) / DAY_MS)
                self.scores.append(float(decisions.scores[row]))
                self.declined.append(bool(decisions.actions[row] == DECLINE))

    def between(self, first_day: int, last_day: int) -> tuple[float, float]:
        """Give the median score, and the share that was declined."""
        days = np.array(self.days)
        chosen = (days >= first_day) & (days < last_day)
        scores, declined = np.array(self.scores)[chosen], np.array(self.declined)[chosen]
        return float(np.median(scores)), float(declined.mean())


def with_pattern(seed: int, pattern: Pattern) -> Iterator[Labelled]:
    """Give the simulator's traffic, in which some events are part of the scheme."""
    chance = np.random.default_rng(seed)
    world = SimulatorOptions(
        customers=300, terminals=300, days=DAYS, seed=seed, fraud_scale=0.25
    )  # fmt: skip
    for batch in simulate(world):
        chosen = np.flatnonzero((chance.random(len(batch)) < PATTERN_SHARE) & (batch.is_fraud == 0))
        batch.amount_minor[chosen] = chance.integers(*PATTERN_AMOUNTS_MINOR, len(chosen))
        batch.is_fraud[chosen] = 1
        pattern.ids |= {batch.transaction_id[row] for row in chosen.tolist()}
        pattern.first_ms = pattern.first_ms or int(batch.event_time_ms[0])
        yield batch.transactions(), batch.is_fraud


def blocked(maturity: WentThrough, seed: int) -> Pattern:
    """Let the pattern be learned and then blocked, under a rule of maturity."""
    pattern = Pattern()
    batches = list(with_pattern(seed, pattern))
    world = ClosedLoop(
        LoopOptions(seed=seed, review_budget=0, unnoticed_share=0.0, called_share=1.0)
    )
    settings = Settings(
        mode="act",
        challengers="none",
        maturity_days=float(MATURITY_DAYS),
        review_score_min=0.49,
        decline_score_min=0.5,
    )
    labels = HistoryThenLoop(world, pattern.first_ms // DAY_MS * DAY_MS + HISTORY_DAYS * DAY_MS)
    run = Replay(
        CARD, settings, ReplayOptions(0), decided=pattern.see, labels=labels, maturity=maturity
    )
    run.run(batches, lambda result: None)
    pattern.missed_minor = world.report().missed_minor
    return pattern


@pytest.fixture(scope="module", params=[1, 3])
def patterns(request: pytest.FixtureRequest) -> tuple[Pattern, Pattern]:
    """The same events under our rule and under the naive one."""
    return blocked(went_through, request.param), blocked(declined_is_genuine, request.param)


def test_the_pattern_is_learned_and_blocked_before_maturity_can_act(
    patterns: tuple[Pattern, Pattern],
) -> None:
    for pattern in patterns:
        median, declined = pattern.between(HISTORY_DAYS, HISTORY_DAYS + MATURITY_DAYS)

        assert median > 0.85
        assert declined > 0.9


def test_blocked_for_sixty_days_and_more_it_keeps_its_score(
    patterns: tuple[Pattern, Pattern],
) -> None:
    ours, _ = patterns

    # Blocked for 20 to 80 days, and the last of these: the first one's silence is long "mature".
    for first_day in (HISTORY_DAYS + MATURITY_DAYS, HISTORY_DAYS + 60):
        median, declined = ours.between(first_day, DAYS)
        assert median > 0.65
        assert declined > 0.8


def test_where_declined_counts_as_genuine_it_loses_it(patterns: tuple[Pattern, Pattern]) -> None:
    ours, naive = patterns

    _, kept = ours.between(HISTORY_DAYS + MATURITY_DAYS, DAYS)
    median, declined = naive.between(HISTORY_DAYS + MATURITY_DAYS, DAYS)
    assert median < 0.7
    assert declined < kept - 0.2
    # What it lets through again costs more than twice the money.
    assert naive.missed_minor > 2 * ours.missed_minor
