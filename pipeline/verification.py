"""Every decision again, from what the logs keep of it, bit for bit.

A decision carries its features and names the versions that scored it; a version is the fold of the
training log up to the offset in its name (`version_fold.py`). So score, reasons, action and the
challengers' scores follow again; lists and mode are those of the controls log at the offset that it
names (`recomputation.py`). That is so with any number of partitions: each partition's decisions
have rising versions, and merged by version they meet a fold that only goes on.
"""

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeGuard

import numpy as np

from pipeline.history import PREFIX
from pipeline.recomputation import Recomputation, Recorded, Run, differences
from pipeline.records import (
    DecisionRecord,
    decode_decisions,
)
from pipeline.topics import DECISIONS, TRANSACTIONS
from pipeline.version_fold import SnapshotChecks, VersionFold

# Decisions scored at once.
RUN_DECISIONS_MAX = 2_000
# So many findings are kept to be shown; all are counted.
FINDINGS_MAX = 10
# No two decisions of a partition lie further apart in a file.
PLACES_AHEAD_MAX = 1 << 24
NOT_RECOMPUTED = "not recomputed"
RULES_UNKNOWN = (
    "rules beside the model are of another file (--rules names it); score and model reasons are "
    "equal"
)
POLICY_UNKNOWN = "policy is of other thresholds (--policy names them); the rest is equal"


class Finding(NamedTuple):
    """Something that is not as it should be: where, what was expected, what came."""

    transaction_id: str
    place: str
    what: str
    expected: object
    got: object


@dataclass(slots=True)
class Verified:
    """What was found of the decisions; `distinct` is equal + different + not recomputed."""

    finished: bool = True
    seconds: float = 0.0
    read: int = 0
    distinct: int = 0
    repeated: int = 0
    conflicting: int = 0
    equal: int = 0
    different: int = 0
    not_recomputed: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    examples: int = 0
    snapshots: SnapshotChecks = field(default_factory=SnapshotChecks)

    @property
    def recomputed(self) -> int:
        """How many decisions were made again."""
        return self.equal + self.different

    @property
    def is_equal(self) -> bool:
        """Whether everything that was read was made again, and is the same."""
        whole = self.finished and self.equal == self.distinct and not self.conflicting
        return whole and not self.snapshots.different and not self.snapshots.refused

    def find(self, finding: Finding) -> None:
        """Keep a finding to be shown, if it is among the first."""
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(finding)


class FirstDecisions:
    """The bytes that were read first of the decision of each transaction, as 64-bit hashes.

    A transaction is named by its place in its log. That takes 8 bytes a transaction, and only for
    places that have a decision.

    Parameters
    ----------
    grows
        Nobody knows where the log ends: it was a file (`pipeline/history.py`).
    """

    def __init__(self, ends: Mapping[int, int], *, grows: bool = False) -> None:
        self._hashes = {partition: np.zeros(end, np.int64) for partition, end in ends.items()}
        self._grows = grows

    def holds(self, partition: int, offset: int) -> bool:
        """Say whether the log has such a place."""
        if partition not in self._hashes:
            return False
        hashes = self._hashes[partition]
        if self._grows and len(hashes) <= offset < len(hashes) + PLACES_AHEAD_MAX:
            grown = np.zeros(2 * offset + 1, np.int64)
            grown[: len(hashes)] = hashes
            self._hashes[partition] = hashes = grown
        return offset < len(hashes)

    def first(self, partition: int, offset: int, value: bytes) -> bool | None:
        """Say whether these bytes are the place's first; `None` if they are the same again."""
        hashes, found = self._hashes[partition], hash(value) or 1
        known = int(hashes[offset])
        if known == found:
            return None
        if known == 0:
            hashes[offset] = found
        return known == 0


class Verification:
    """One pass over recorded decisions.

    Parameters
    ----------
    ends
        The offset after the last record of each partition of `transactions`.
    """

    def __init__(self, recomputation: Recomputation, ends: Mapping[int, int]) -> None:
        self._recomputation = recomputation
        unknown = dict.fromkeys(ends, 0)
        self._firsts = {
            TRANSACTIONS: FirstDecisions(ends),
            PREFIX + TRANSACTIONS: FirstDecisions(unknown, grows=True),
        }
        self.result = Verified()

    def run(
        self,
        partitions: Sequence[Iterable[Sequence[Recorded]]],
        fold: VersionFold,
        progress: Callable[[Verified], None],
    ) -> Verified:
        """Make all decisions again; an interrupt ends it early, with what was found until then.

        Each of `partitions` gives the records of one partition, in order, some at a time.
        """
        started = time.perf_counter()
        result = self.result
        try:
            runs = [self._runs(chunks) for chunks in partitions]
            for run in heapq.merge(*runs, key=lambda run: run.offset):
                self._compare(run)
                result.seconds, result.examples = time.perf_counter() - started, fold.examples
                progress(result)
            fold.check_rest()
        except KeyboardInterrupt:
            result.finished = False
        result.seconds, result.examples = time.perf_counter() - started, fold.examples
        result.snapshots = fold.checks
        for version, why in fold.checks.refused.items():
            result.find(Finding("", "models", f"snapshot {version}", "a good signature", why))
        for version in fold.checks.different:
            result.find(Finding("", "models", f"snapshot {version}", "the fold", "other bytes"))
        return result

    def _runs(self, chunks: Iterable[Sequence[Recorded]]) -> Iterator[Run]:
        run = Run("", ())
        for chunk in chunks:
            self.result.read += len(chunk)
            decoded = decode_decisions(record.value for record in chunk)
            for record, decision in zip(chunk, decoded, strict=True):
                if not self._is_to_be_made(decision, record):
                    continue
                versions = (decision.model_version, tuple(decision.challengers))
                is_full = len(run.records) >= RUN_DECISIONS_MAX
                if is_full or versions != (run.version, run.challengers):
                    if run.records:
                        yield run
                    run = Run(*versions)
                run.records.append(record)
                run.decisions.append(decision)
        if run.records:
            yield run

    def _is_to_be_made(
        self, decision: DecisionRecord | None, record: Recorded
    ) -> TypeGuard[DecisionRecord]:
        """Pass over what was published again, and what cannot be made again at all."""
        if decision is None:
            self._give_up(record, None, "record is not a decision")
            return False
        topic, partition, offset = decision.source
        firsts = self._firsts.get(topic) if partition == record.partition else None
        if firsts is None or not firsts.holds(partition, offset):
            self._give_up(record, decision, "source is not a place of the same partition")
            return False
        is_first = firsts.first(partition, offset, record.value or b"")
        if is_first is None:
            self.result.repeated += 1
            return False
        if not is_first:
            self.result.conflicting += 1
            source = f"{topic}[{partition}] offset {offset}"
            self._find(record, decision, "conflict", f"one decision of {source}", "another one")
        problem = self._recomputation.problem(decision)
        if problem is not None:
            self._give_up(record, decision, problem)
        return problem is None

    def _compare(self, run: Run) -> None:
        expected = self._recomputation.expected(run)
        if isinstance(expected, str):
            for record, decision in zip(run.records, run.decisions, strict=True):
                self._give_up(record, decision, expected)
            return
        result = self.result
        for row, (decision, wanted) in enumerate(zip(run.decisions, expected, strict=True)):
            if different := differences(decision, wanted):
                result.distinct += 1
                result.different += 1
                for what, right, given in different:
                    self._find(run.records[row], decision, what, right, given)
            elif wanted.action is None:
                unknown = RULES_UNKNOWN if wanted.rules is None else POLICY_UNKNOWN
                self._give_up(run.records[row], decision, unknown)
            else:
                result.distinct += 1
                result.equal += 1

    def _give_up(self, record: Recorded, decision: DecisionRecord | None, reason: str) -> None:
        result = self.result
        result.distinct += 1
        if reason not in result.not_recomputed:
            self._find(
                record, decision, NOT_RECOMPUTED, reason, decision and decision.model_version
            )
        result.not_recomputed[reason] += 1

    def _find(
        self,
        record: Recorded,
        decision: DecisionRecord | None,
        what: str,
        expected: object,
        got: object,
    ) -> None:
        transaction_id = decision.transaction_id if decision else ""
        self.result.find(Finding(transaction_id, place_of(record), what, expected, got))


def place_of(record: Recorded) -> str:
    """Name a decision's place in its log."""
    return f"{DECISIONS}[{record.partition}] offset {record.offset}"
