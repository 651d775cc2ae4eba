"""The fold of the training log: the one writer of the models and of what labels teach the profiles.

Test, then train, in the order of the log. The trainer runs it beside Kafka, replay runs it in
memory; the same examples give the same models, bit for bit.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.contract import Model
from pipeline.durations import HOUR_MS
from pipeline.examples import Examples
from pipeline.feature_kernels import record_verdicts
from pipeline.features import unusual_amounts
from pipeline.places import Place
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

    Models that stand further than the fold remember what they learned before, and learn nothing
    twice: so a fold that begins before a snapshot hands its models their windows.
    """

    def __init__(
        self,
        schema: Schema,
        schema_hash: str,
        models: Sequence[Model],
        marks: dict[int, int] | None = None,
    ) -> None:
        self._names = [item.name for item in schema.keyed]
        self._schema, self._schema_hash = schema, schema_hash
        self.models = tuple(models)
        self.profiles = LearnedProfiles(schema)
        self.marks = dict(marks or {})
        self.counts: Counter[str] = Counter()
        # Examples that the fold has passed, and so the number of the next one.
        self._number = max((model.learned for model in models), default=0)
        self._hour = 0

    @property
    def offset(self) -> int:
        """How far the training log was folded: the offset of the next record."""
        return self.profiles.offset

    @property
    def place(self) -> Place:
        """Where the fold stands."""
        return Place(self.offset, self._number, dict(self.marks))

    def go_back(self, place: Place) -> None:
        """Fold again from a place, though the models may stand further."""
        self.profiles.offset, self._number = place.offset, place.learned
        self.marks = dict(place.marks)

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
            part = slice(start, stop)
            for model in self.models:
                said = {name: scores[part] for name, scores in examples.members.items()}
                self._teach(model, said, features[part], is_fraud[part], weights[part])
            self._number += stop - start
        if profiles:
            self._record(examples)
        self.counts["learned"] += len(examples)

    def _teach(
        self, model: Model, said: Mapping[str, NDArray[np.float64]], *columns: NDArray[Any]
    ) -> None:
        """Let a model learn the examples of an hour; those that it has learned it remembers."""
        first, rows = self._number, len(columns[0])
        learned = min(max(0, model.learned - first), rows)
        if learned:
            start = min(max(0, model.window_start - first), learned)
            model.remember(*(column[start:learned] for column in columns))
        if learned < rows:
            model.tick(self._hour)
            rest = {name: scores[learned:] for name, scores in said.items()}
            features, is_fraud, weights = (column[learned:] for column in columns)
            model.learn_decided(features, is_fraud, weights, rest)

    def _hours(self, event_time_ms: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
        """Cut examples where the hour of their event time, which never goes back, moves on."""
        hours = np.maximum.accumulate(np.maximum(event_time_ms // HOUR_MS, self._hour))
        edges = [0, *(np.flatnonzero(np.diff(hours)) + 1).tolist(), len(hours)]
        for start, stop in zip(edges, edges[1:], strict=False):
            self._hour = int(hours[start])
            yield start, stop

    def _record(self, examples: Examples) -> None:
        times, amounts, corrects = examples.event_time_ms, examples.amount, examples.corrects
        is_fraud, unusual = examples.is_fraud, unusual_amounts(examples.features, self._schema)
        for rows in self.profiles.rows(examples.keys):
            record_verdicts(rows.values, rows.slots, times, amounts, unusual, is_fraud, corrects)
