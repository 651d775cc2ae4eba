"""Everything that was found out about the quality of one run, for its JSON and its report alike.

`RunWatch` goes with the run and keeps what is needed; `findings_of` computes the rest when the run
is over, or was interrupted, from the columns that it left.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.contract import Model
from pipeline.durations import DAY_MS
from pipeline.evaluation import Measured
from pipeline.quality.folds import FoldNumber, Folds
from pipeline.quality.groups import (
    GroupColumn,
    Groups,
    ScenarioRecall,
    Segment,
    scenario_recalls,
    segments,
)
from pipeline.quality.intervals import Interval, bootstrap_by_day
from pipeline.quality.learning import LearningStep, learning_curve
from pipeline.quality.overfitting import GaugeReading, OverfittingGauge
from pipeline.quality.what_if import Thresholds, WhatIf, sweep, what_if
from pipeline.records import ACTIONS
from pipeline.replay import Replay, ReplayOptions
from pipeline.rule_stats import RuleNumbers, RuleStats
from pipeline.score_log import ScoreColumns, part_of
from pipeline.settings import Settings

SCENARIO = "scenario"
# What a report says of a model's weights and of what moved its scores.
WEIGHTS_SHOWN = 20
FEATURES_SHOWN = 20
# Rows that stand for the stream, where contributions are asked of every model.
CONTRIBUTIONS_ROWS = 2_000


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What one model took of the pass; processor time counts the threads of its calls."""

    model: str
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class FeaturePart:
    """How far a feature moves a model's log-odds, by the mean of its absolute contributions."""

    model: str
    feature: str
    mean_absolute: float


@dataclass(frozen=True, slots=True)
class ModelWeight:
    """One of the strongest weights of a model."""

    model: str
    name: str
    weight: float


@dataclass(frozen=True, slots=True)
class Findings:
    """All that was found beside `Quality`; what was not asked for, or cannot be said, is empty."""

    intervals: dict[str, dict[str, Interval]]
    costs: tuple[ModelCost, ...] = ()
    scenarios: tuple[ScenarioRecall, ...] = ()
    segments: tuple[Segment, ...] = ()
    what_if: tuple[WhatIf, ...] = ()
    sweep: tuple[WhatIf, ...] = ()
    learning_curve: tuple[LearningStep, ...] = ()
    overfitting: tuple[GaugeReading, ...] = ()
    features: tuple[FeaturePart, ...] = ()
    weights: tuple[ModelWeight, ...] = ()
    folds: dict[str, dict[str, FoldNumber]] | None = None
    rules: tuple[RuleNumbers, ...] = ()


@dataclass(frozen=True, slots=True)
class RunWatch:
    """What goes with a run: the gauge, the groups of its events, and folds where they are asked."""

    gauge: OverfittingGauge
    groups: Groups
    folds: Folds | None = None
    thresholds: tuple[Thresholds, ...] = ()
    rules: RuleStats = field(default_factory=RuleStats)


def findings_of(
    run: Replay, settings: Settings, options: ReplayOptions, watch: RunWatch
) -> Findings:
    """Find out what a run has to say, whole or interrupted."""
    costs = tuple(ModelCost(timed.name, timed.seconds, timed.cpu_seconds) for timed in run.models)
    log = run.scores.columns()
    if log is None:
        return Findings(intervals={}, costs=costs, rules=watch.rules.numbers)
    watch.gauge.read()
    measured = log.measured(options.start_ms, options.end_ms)
    judged = {name: log.of_model(name, measured) for name in log.scores}
    champion = judged[settings.model]
    groups = {
        name: GroupColumn(column.names, column.code[log.row[measured]])
        for name, column in watch.groups.columns().items()
    }
    scenario = groups.pop(SCENARIO, None)
    models = [timed.model for timed in run.models]
    return Findings(
        intervals={
            name: bootstrap_by_day(found, alerts_a_day=options.alerts_a_day)
            for name, found in judged.items()
        },
        costs=costs,
        scenarios=tuple(_scenarios(judged, scenario, settings)) if scenario else (),
        segments=tuple(_segments(groups, champion, log.action[measured])),
        what_if=tuple(_what_ifs(champion, watch.thresholds)),
        sweep=tuple(
            _what_ifs(
                champion,
                tuple(sweep(champion.scores, decline_score_min=settings.decline_score_min)),
            )
        ),
        learning_curve=tuple(_curve(log)),
        overfitting=watch.gauge.readings,
        features=tuple(_features(models, watch.gauge.recent_features)),
        weights=tuple(_weights(models)),
        folds=None
        if watch.folds is None
        else watch.folds.quality(
            log, options.start_ms, options.end_ms, alerts_a_day=options.alerts_a_day
        ),
        rules=watch.rules.numbers,
    )


def _scenarios(
    judged: dict[str, Measured], scenario: GroupColumn, settings: Settings
) -> Iterator[ScenarioRecall]:
    for name, found in judged.items():
        yield from scenario_recalls(
            name,
            found.scores,
            found.is_fraud,
            scenario,
            review_score_min=settings.review_score_min,
        )


def _segments(
    groups: dict[str, GroupColumn], champion: Measured, actions: NDArray[np.int8]
) -> Iterator[Segment]:
    alerted, declined = actions != ACTIONS.index("approve"), actions == ACTIONS.index("decline")
    for name, column in groups.items():
        yield from segments(name, column, champion.is_fraud, alerted=alerted, declined=declined)


def _what_ifs(champion: Measured, asked: Sequence[Thresholds]) -> Iterator[WhatIf]:
    times = champion.event_time_ms
    days = len(np.unique(times // DAY_MS))
    for thresholds in asked:
        yield what_if(
            champion.scores,
            champion.is_fraud,
            champion.amount_minor,
            days=float(days),
            review_score_min=thresholds.review_score_min,
            decline_score_min=thresholds.decline_score_min,
        )


def _curve(log: ScoreColumns) -> Iterator[LearningStep]:
    # From the first event on, whatever period is judged: that is where it is learned.
    known = part_of(log.is_fraud >= 0)
    is_fraud, labels_known = log.is_fraud[known] == 1, log.labels_known[known]
    for name, scores in log.scores.items():
        yield from learning_curve(name, scores[known], is_fraud, labels_known)


def _features(models: Sequence[Model], rows: NDArray[np.float32]) -> Iterator[FeaturePart]:
    """Ask each model what moves its scores, on the latest rows that it learned."""
    if not len(rows):
        return
    taken = rows[-CONTRIBUTIONS_ROWS:]
    for model in models:
        means = np.abs(model.score(taken).contributions).mean(axis=0)
        for column in np.argsort(-means, kind="stable")[:FEATURES_SHOWN].tolist():
            if means[column] > 0.0:
                yield FeaturePart(model.name, model.feature_names[column], float(means[column]))


def _weights(models: Sequence[Model]) -> Iterator[ModelWeight]:
    for model in models:
        for name, weight in model.weights(WEIGHTS_SHOWN):
            yield ModelWeight(model.name, name, weight)
