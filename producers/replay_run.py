"""One replay as its options want it: the plan, the pass over the events, and what goes with it.

Ctrl-C ends a pass between two batches, so that everything that watches it has seen the same events:
the decisions file is whole, and the numbers are those of the events until then. A second Ctrl-C
ends at once.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from models import make_model
from models.snapshot import Snapshot
from pipeline.engine import Decisions
from pipeline.errors import DataError
from pipeline.features import FeatureKernel
from pipeline.quality.findings import SCENARIO, RunWatch
from pipeline.quality.folds import Folds, Scheme
from pipeline.quality.groups import Groups
from pipeline.quality.overfitting import OverfittingGauge
from pipeline.quality.what_if import Thresholds
from pipeline.replay import Labelled, Learned, Replay, ReplayOptions, ReplayResult
from pipeline.rule_stats import RuleStats
from pipeline.rules import NO_RULES, Rules
from pipeline.schema import Schema
from pipeline.settings import Settings
from pipeline.texts import Coded, Vocabulary
from producers.batch import EventBatch
from producers.closed_loop import ClosedLoop
from producers.commands import stopped_by_signal
from producers.decision_file import DecisionFile

if TYPE_CHECKING:  # River's detectors take 150 MB to import, and only a report needs them.
    from pipeline.reporting.run_log import RunLog


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayPlan:
    """What one replay does.

    Parameters
    ----------
    total
        How many events there are, where it is known.
    segments
        Fields that quality is asked by: names of categories, or what `EventBatch.segments` holds.
    decisions, with_features
        The file that decisions go to, and whether features stand beside them.
    log
        Watches for a report.
    rules
        Rules that act or watch beside the model.
    """

    title: str
    batches: Iterable[EventBatch]
    total: int | None
    schema: Schema
    settings: Settings
    options: ReplayOptions
    segments: tuple[str, ...] = ()
    thresholds: tuple[Thresholds, ...] = ()
    folds: int | None = None
    fold_scheme: Scheme = "cross"
    decisions: Path | None = None
    with_features: bool = False
    snapshot: Snapshot | None = None
    world: ClosedLoop | None = None
    log: "RunLog | None" = None
    rules: Rules = NO_RULES

    @property
    def names(self) -> tuple[str, ...]:
        """The models that run, the champion first."""
        return (self.settings.model, *self.settings.challenger_names)

    def watch(self) -> RunWatch:
        """Give what goes with the run."""
        rules = RuleStats(rule.code for rule in self.rules.beside)
        return RunWatch(OverfittingGauge(), Groups(), self._folds(), self.thresholds, rules)

    def labelled(self, groups: Groups) -> Iterator[Labelled]:
        """Give the events with their truth; what they are judged by goes to the groups."""
        columns = {category.name: place for place, category in enumerate(self.schema.categories)}
        beside = [name for name in self.segments if name not in columns]
        scenarios = Vocabulary()
        for batch in self.batches:
            if batch.scenario is not None:
                numbers, codes = np.unique(batch.scenario, return_inverse=True)
                names = scenarios.numbers([str(number) for number in numbers.tolist()])
                groups.add(SCENARIO, Coded(scenarios, names[codes]))
            for name in self.segments:
                if name in columns:
                    groups.add(name, batch.categories[columns[name]])
                else:
                    groups.add(name, batch.segments[beside.index(name)])
            yield batch.transactions(), batch.is_fraud

    def _folds(self) -> Folds | None:
        if self.folds is None:
            return None
        kernel, options = FeatureKernel(self.schema), self.settings.model_options
        models = [
            [make_model(name, kernel.names, options) for name in self.names]
            for _ in range(self.folds)
        ]
        return Folds(self.schema, kernel.schema_hash, models, scheme=self.fold_scheme)


def file_segments(schema: Schema, asked: tuple[str, ...], columns: Iterable[str]) -> list[str]:
    """Give the columns of a file that must stand beside its events, since no category has them."""
    names = {category.name for category in schema.categories}
    present = list(columns)
    beside = [name for name in asked if name not in names]
    for name in beside:
        if name not in present:
            raise DataError(
                f"--segment {name!r}: neither a category of schema {schema.name!r} "
                f"({', '.join(sorted(names)) or 'none'}) nor a column of the file "
                f"({', '.join(present)})"
            )
    return beside


def run_replay(plan: ReplayPlan, watch: RunWatch) -> Replay:
    """Make the pass."""
    with ExitStack() as stack:
        progress = stack.enter_context(_progress(plan.total))
        stopped = stack.enter_context(stopped_by_signal())
        judges: list[Callable[[Decisions, NDArray[np.int8]], None]] = []
        if plan.decisions is not None:
            features = FeatureKernel(plan.schema).names if plan.with_features else ()
            file = DecisionFile(plan.decisions, plan.schema, plan.names, features)
            judges.append(stack.enter_context(file).add)
        if watch.folds is not None:
            folds = watch.folds
            judges.append(lambda decisions, is_fraud: folds.judge(decisions))

        def judged(decisions: Decisions, is_fraud: NDArray[np.int8]) -> None:
            for judge in judges:
                judge(decisions, is_fraud)
            if decisions.rules:
                _count_rules(watch.rules, decisions, is_fraud)

        def learned(found: Learned) -> None:
            watch.gauge.add(found)
            if plan.log is not None:
                plan.log.add_learned(found)
            if watch.folds is not None:
                watch.folds.learn(found)

        def told(result: ReplayResult) -> None:
            progress(result)
            if stopped():
                raise KeyboardInterrupt

        run = Replay(
            plan.schema,
            plan.settings,
            plan.options,
            decided=None if plan.log is None else plan.log.add_decisions,
            judged=judged,
            learned=learned,
            snapshot=plan.snapshot,
            labels=plan.world,
            rules=plan.rules,
        )
        run.run(plan.labelled(watch.groups), told)
    return run


def _count_rules(stats: RuleStats, decisions: Decisions, is_fraud: NDArray[np.int8]) -> None:
    """Count the hits of rules, and whether each was a fraud where that is known."""
    amounts = decisions.transactions.amount_minor
    for row, codes in enumerate(decisions.rules):
        if codes:
            stats.decided(codes, int(amounts[row]))
            if is_fraud[row] >= 0:
                stats.labelled(codes, int(amounts[row]), is_fraud=bool(is_fraud[row]))


@contextmanager
def _progress(total: int | None) -> Iterator[Callable[[ReplayResult], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,} events"),
        TextColumn("{task.fields[rate]:>9,.0f} events/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("replay", total=total, rate=0.0)

        def report(result: ReplayResult) -> None:
            progress.update(task, completed=result.passed, rate=result.events_per_second)

        yield report
