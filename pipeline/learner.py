"""The fold of the training log: the one writer of the models and of what labels teach the profiles.

Test, then train, in the order of the log. The trainer runs it beside Kafka, replay runs it in
memory; the same examples give the same models, bit for bit.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from models.contract import Model
from pipeline.durations import HOUR_MS
from pipeline.examples import Examples
from pipeline.feature_kernels import record_verdicts
from pipeline.features import unusual_amounts
from pipeline.profiles import LearnedProfiles
from pipeline.records import TrainingExample
from pipeline.schema import Schema


class Learner:
    """Learns every example of the training log once.

    Parameters
    ----------
    marks
        The last `training_seq` that was learned of each feedback partition. The labeller numbers
        what it emits, so a record that was published twice is dropped here.
    """

    def __init__(
        self,
        schema: Schema,
        schema_hash: str,
        models: Sequence[Model],
        marks: dict[int, int] | None = None,
    ) -> None:
        self._names = [item.name for item in schema.keyed]
        self._schema_hash = schema_hash
        self.models = tuple(models)
        self.profiles = LearnedProfiles(schema)
        self.marks = dict(marks or {})
        self.counts: Counter[str] = Counter()
        self._hour = 0

    @property
    def offset(self) -> int:
        """How far the training log was folded: the offset of the next record."""
        return self.profiles.offset

    def fresh(self, examples: Sequence[TrainingExample]) -> list[TrainingExample]:
        """Give the examples that were not learned yet, and mark them as learned."""
        fresh = []
        for example in examples:
            if example.training_seq <= self.marks.get(example.partition, -1):
                self.counts["duplicate"] += 1
            elif example.schema_hash != self._schema_hash:
                self.marks[example.partition] = example.training_seq
                self.counts["foreign_schema"] += 1
            else:
                self.marks[example.partition] = example.training_seq
                fresh.append(example)
        return fresh

    def keys(self, examples: Sequence[TrainingExample]) -> tuple[list[str], ...]:
        """Give the ids of the examples' entities, one list for each."""
        return tuple([example.keys[name] for example in examples] for name in self._names)

    def learn(self, examples: Sequence[TrainingExample], *, profiles: bool = True) -> None:
        """Learn examples that are fresh, in their order.

        `profiles` is false where rows of the profiles hold these examples already, since they are
        kept in Redis and the models are restored from an older snapshot.
        """
        if examples:
            self.learn_columns(Examples.of(examples, names=self._names), profiles=profiles)

    def learn_columns(self, examples: Examples, *, profiles: bool = True) -> None:
        """Learn examples that are columns already, as `learn` does."""
        if not len(examples):
            return
        features, is_fraud, weights = examples.features, examples.is_fraud, examples.weights
        for start, stop in self._hours(examples.event_time_ms):
            for model in self.models:
                model.tick(self._hour)
                model.learn(features[start:stop], is_fraud[start:stop], weights[start:stop])
        if profiles:
            self._record(examples)
        self.counts["learned"] += len(examples)

    def _hours(self, event_time_ms: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
        """Cut examples where the hour of their event time, which never goes back, moves on."""
        hours = np.maximum.accumulate(np.maximum(event_time_ms // HOUR_MS, self._hour))
        edges = [0, *(np.flatnonzero(np.diff(hours)) + 1).tolist(), len(hours)]
        for start, stop in zip(edges, edges[1:], strict=False):
            self._hour = int(hours[start])
            yield start, stop

    def _record(self, examples: Examples) -> None:
        times, amounts, corrects = examples.event_time_ms, examples.amount, examples.corrects
        is_fraud, unusual = examples.is_fraud, unusual_amounts(examples.features)
        for rows in self.profiles.rows(examples.keys):
            record_verdicts(rows.values, rows.slots, times, amounts, unusual, is_fraud, corrects)
