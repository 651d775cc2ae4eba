"""Reads the recorded topics for those who make decisions again (`pipeline/verification.py`)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from consumers.control_topic import read_controls
from consumers.log_reader import LogReader
from consumers.model_topic import read_models
from pipeline.errors import DataError, SettingError
from pipeline.feature_verification import FeaturesVerified, FeatureVerification
from pipeline.features import FeatureKernel
from pipeline.partitioner import partition_of
from pipeline.policy import Policy
from pipeline.recomputation import Expected, Recomputation, Run, differences
from pipeline.records import DecisionRecord, decode_decisions, decode_examples
from pipeline.rules import is_of_rules, load_rules
from pipeline.schema import Schema
from pipeline.settings import Settings
from pipeline.signing import ModelVerifier
from pipeline.topics import DECISIONS, TRAINING, TRANSACTIONS
from pipeline.verification import (
    Verification,
    Verified,
    place_of,
)
from pipeline.version_fold import TrainingLog, TrainingRecords, VersionFold

Thresholds = tuple[float, float]
"""From which score on a transaction is reviewed, and from which it is declined."""


@dataclass(frozen=True, slots=True)
class Recomputed:
    """One decision made again; `expected` is a sentence where that could not be done."""

    place: str
    decision: DecisionRecord
    expected: Expected | str
    different: list[tuple[str, object, object]]
    learned: int

    @property
    def is_equal(self) -> bool:
        """Whether all of it was made again, and is the same."""
        known = isinstance(self.expected, Expected) and self.expected.action is not None
        return known and not self.different


class RecordedLogs:
    """The recorded topics of one Kafka, up to the ends that they have when this is made.

    Parameters
    ----------
    policies
        Thresholds that decisions may have been made by, besides those of the settings.
    """

    def __init__(
        self,
        servers: str,
        schema: Schema,
        settings: Settings,
        *,
        policies: Sequence[Thresholds] = (),
        champion_only: bool = False,
    ) -> None:
        self._servers, self._schema, self._settings = servers, schema, settings
        self._champion_only = champion_only
        # In this order: whatever a decision stands on was there before it.
        self._begins, self._ends = self._bounds(DECISIONS)
        self._transactions = self._bounds(TRANSACTIONS)
        begins, ends = self._bounds(TRAINING)
        if begins[0] > 0:
            raise DataError(
                f"the training log begins at {begins[0]}: what was deleted cannot be folded again"
            )
        self._training_end = ends[0]
        kernel = FeatureKernel(schema)
        given = [(settings.review_score_min, settings.decline_score_min), *policies]
        self._policies = [
            Policy(kernel.table, review_score_min=review, decline_score_min=decline)
            for review, decline in given
        ]
        names = (settings.model, *settings.challenger_names)
        bodies, refused = read_models(servers).checked(ModelVerifier(settings))
        self.fold = VersionFold(
            schema,
            names[:1] if champion_only else names,
            training_log(servers),
            end=self._training_end,
            options=settings.model_options,
            published=bodies,
        )
        self.fold.checks.refused = refused
        self._recomputation = Recomputation(
            kernel,
            self.fold,
            self._policies,
            champion_only=champion_only,
            rules=load_rules(settings, schema),
            controls=read_controls(servers, schema, settings).log,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.fold.close()

    @property
    def decisions(self) -> int:
        """How many records `decisions` holds."""
        return sum(self._ends.values()) - sum(self._begins.values())

    @property
    def transactions(self) -> int:
        """How many records `transactions` holds."""
        begins, ends = self._transactions
        return sum(ends.values()) - sum(begins.values())

    def verify(self, progress: Callable[[Verified], None]) -> Verified:
        """Make all decisions again."""
        with ExitStack() as stack:
            chunks = [self._chunks(stack, DECISIONS, p, self._ends) for p in sorted(self._ends)]
            verification = Verification(self._recomputation, self._transactions[1])
            return verification.run(chunks, self.fold, progress)

    def verify_features(self, progress: Callable[[FeaturesVerified], None]) -> FeaturesVerified:
        """Make the features of all decisions again; there must be one partition."""
        self.check_one_partition()
        log, settings = training_log(self._servers), replace(self._settings, partitions=1)
        run = FeatureVerification(self._schema, settings, log, end=self._training_end)
        with ExitStack() as stack:
            transactions = self._chunks(stack, TRANSACTIONS, 0, self._transactions[1])
            return run.run(transactions, self._chunks(stack, DECISIONS, 0, self._ends), progress)

    def check_one_partition(self) -> None:
        """Refuse a Kafka whose features nobody can make again."""
        begins, ends = self._transactions
        if len(ends) > 1:
            raise SettingError(
                f"features can be made again with one partition only ({TRANSACTIONS!r} has "
                f"{len(ends)}): partitions share the profiles of their terminals, and which of "
                "them was faster stands in no log"
            )
        if begins[0] > 0:
            raise DataError(
                f"the log of {TRANSACTIONS!r} begins at {begins[0]}: profiles cannot be folded "
                "again without the transactions that its retention has deleted"
            )
        with LogReader(self._servers, DECISIONS, [0]) as reader:
            chunk = next(reader.chunks(), [])
        first = next(decode_decisions(record.value for record in chunk[:1]), None)
        if first is not None and first.source[0] != TRANSACTIONS:
            raise DataError(
                "the first decisions are of a history that was read from a file: profiles cannot "
                "be folded again without its transactions"
            )

    def find(self, transaction_id: str, key: str | None) -> list[Recomputed]:
        """Find the decisions of a transaction and make them again, each distinct one once.

        `key` is the transaction's partition key: with it, one partition is read instead of all.
        """
        numbers = sorted(self._ends)
        if key is not None:
            numbers = [partition_of(key.encode(), len(numbers))]
        found: dict[bytes | None, Any] = {}
        with ExitStack() as stack:
            for number in numbers:
                for chunk in self._chunks(stack, DECISIONS, number, self._ends):
                    for record in chunk:
                        if record.key == transaction_id.encode():
                            found.setdefault(record.value, record)
        decoded = zip(found.values(), decode_decisions(found), strict=True)
        return [self._recomputed(record, decision) for record, decision in decoded if decision]

    def _recomputed(self, record: Any, decision: DecisionRecord) -> Recomputed:
        challengers = tuple(decision.challengers)
        run = Run(decision.model_version, challengers, [record], [decision])
        problem = self._recomputation.problem(decision)
        expected = problem or self._recomputation.expected(run)
        if isinstance(expected, str):
            return Recomputed(place_of(record), decision, expected, [], 0)
        different = differences(decision, expected[0])
        learned = 0
        if not is_of_rules(decision.model_version):
            model = self.fold.model(decision.model_version)
            assert not isinstance(model, str), model
            learned = model.learned
        return Recomputed(place_of(record), decision, expected[0], different, learned)

    def _bounds(self, topic: str) -> tuple[dict[int, int], dict[int, int]]:
        with LogReader(self._servers, topic) as reader:
            return reader.begins, reader.ends

    def _chunks(
        self, stack: ExitStack, topic: str, partition: int, ends: Mapping[int, int]
    ) -> Iterator[list[Any]]:
        reader = stack.enter_context(LogReader(self._servers, topic, [partition]))
        return reader.chunks(ends)


def training_log(servers: str) -> TrainingLog:
    """Give the training log as the core reads it."""

    def read(start: int) -> TrainingRecords:
        with LogReader(servers, TRAINING) as reader:
            reader.seek(start)
            for chunk in reader.chunks():
                examples = decode_examples(record.value for record in chunk)
                offsets = (int(record.offset) for record in chunk)
                yield from zip(offsets, examples, strict=True)

    return read
