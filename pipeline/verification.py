"""Every decision again, from what the logs keep of it, bit for bit.

A decision carries its features and names the versions that scored it; a version is the fold of the
training log up to the offset in its name (`version_fold.py`). So score, reasons, action and the
challengers' scores follow again; lists and mode are those of the controls log at the offset that it
names. That is so with any number of partitions: each partition's decisions have
rising versions, and merged by version they meet a fold that only goes on. Decisions follow each
other in runs of the same versions, and a run is scored at once.
"""

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from models.contract import Scored
from pipeline.controls import ControlLog, Controls
from pipeline.features import FeatureKernel
from pipeline.history import PREFIX
from pipeline.policy import Policy, Reasons
from pipeline.records import (
    ACTIONS,
    BREAKER,
    FEATURE_DTYPE,
    LIST_BLOCKED,
    Action,
    DecisionRecord,
    Mode,
    Taken,
    decode_decisions,
)
from pipeline.rules import NO_RULES, Rules, is_of_rules
from pipeline.topics import DECISIONS, TRANSACTIONS
from pipeline.version_fold import SnapshotChecks, VersionFold, split_version

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


class Recorded(Protocol):
    """A record as it stands in a log."""

    @property
    def partition(self) -> int:
        """Its partition."""

    @property
    def offset(self) -> int:
        """Its offset."""

    @property
    def value(self) -> bytes | None:
        """Its bytes."""

    @property
    def timestamp(self) -> int:
        """When it was appended, in milliseconds."""

    @property
    def key(self) -> bytes | None:
        """Its key."""


class Finding(NamedTuple):
    """Something that is not as it should be: where, what was expected, what came."""

    transaction_id: str
    place: str
    what: str
    expected: object
    got: object


class Expected(NamedTuple):
    """What a decision must say.

    The action is `None` where the thresholds of its policy or its rules are not known, and the
    rules are where their file is not.
    """

    score: float
    reasons: Reasons
    action: Action | None
    challengers: dict[str, float]
    members: dict[str, float]
    degraded: bool = False
    rules: list[str] | None = []  # noqa: RUF012 - never changed
    mode: Mode | None = None
    action_taken: Taken | None = None


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


@dataclass(slots=True)
class Run:
    """Decisions that follow each other in a partition and were scored by the same versions."""

    version: str
    challengers: tuple[str, ...]
    records: list[Recorded] = field(default_factory=list)
    decisions: list[DecisionRecord] = field(default_factory=list)

    @property
    def offset(self) -> int:
        """The training offset of the version; 0 where it names none."""
        parts = split_version(self.version)
        return parts[1] if parts else 0


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


class Recomputation:
    """Makes decisions again: score, reasons, action, what was taken, and the challengers' scores.

    Whether the breaker was open is taken from the reasons: only a decline can have become a review.

    Parameters
    ----------
    policies
        The thresholds that decisions may have been made by.
    champion_only
        Leave the challengers' scores as they are.
    rules
        What decided while there was no model.
    controls
        What operators said; `None`: nothing.
    """

    def __init__(
        self,
        kernel: FeatureKernel,
        fold: VersionFold,
        policies: Sequence[Policy],
        *,
        champion_only: bool = False,
        rules: Rules = NO_RULES,
        controls: ControlLog | None = None,
    ) -> None:
        self._kernel, self._fold = kernel, fold
        self._controls = controls
        self._rules = rules
        self._policies = {policy.version: policy for policy in policies}
        self._reasons = policies[0].reasons
        self._champion_only = champion_only

    def problem(self, decision: DecisionRecord) -> str | None:
        """Say why a decision cannot be made again, as far as it says so itself."""
        if decision.schema_hash != self._kernel.schema_hash:
            return "schema hash is of other features"
        if len(decision.features) != FEATURE_DTYPE.itemsize * len(self._kernel.names):
            return "features are of another length"
        if decision.control_offset is not None and self._state(decision.control_offset) is None:
            return "control offset names no record that counts"
        return None

    def _state(self, offset: int) -> Controls | None:
        if self._controls is None:
            return Controls("observe") if offset < 0 else None
        return self._controls.at(offset)

    def expected(self, run: Run) -> list[Expected] | str:
        """Give what the decisions of a run must say, or why nobody can know."""
        expected = self._judged(run)
        if isinstance(expected, str):
            return expected
        made = zip(run.decisions, expected, strict=True)
        return [self._overruled(decision, wanted) for decision, wanted in made]

    def _overruled(self, decision: DecisionRecord, wanted: Expected) -> Expected:
        """Let lists, breaker and mode follow the policy, as they did then."""
        offset = decision.control_offset
        state = None if offset is None else self._state(offset)
        if state is None:
            return wanted
        columns = {entity: [key] for entity, key in decision.keys.items()}
        reason = state.listed(columns, [decision.event_time]).get(0)
        if reason is not None:
            listed: Action = "decline" if reason == LIST_BLOCKED else "approve"
            wanted = wanted._replace(action=listed, reasons=[(reason, 0.0), *wanted.reasons])
        elif decision.reasons[:1] == [(BREAKER, 0.0)] and wanted.action in ("decline", None):
            action: Action | None = wanted.action and "review"
            wanted = wanted._replace(action=action, reasons=[(BREAKER, 0.0), *wanted.reasons])
        # Before any word of an operator the mode is that of the settings, which no log holds.
        mode = state.mode if state.mode_is_said else decision.mode
        taken = wanted.action if mode == "act" else "none"
        return wanted._replace(mode=mode, action_taken=taken)

    def _judged(self, run: Run) -> list[Expected] | str:
        """Give what the policy or the rules made of the decisions of a run."""
        joined = b"".join(decision.features for decision in run.decisions)
        features = np.frombuffer(joined, dtype=FEATURE_DTYPE).reshape(len(run.decisions), -1)
        if is_of_rules(run.version):
            return self._ruled(run, features)
        scored = self._scored(run.version, features)
        if isinstance(scored, str):
            return scored
        challengers: dict[str, list[float]] = {}
        members = dict(scored.members)
        for version in () if self._champion_only else run.challengers:
            watched = self._scored(version, features)
            if isinstance(watched, str):
                return watched
            challengers[version] = watched.scores.tolist()
            members |= watched.members
        beside = self._beside(run, features, scored)
        said = {name: scores.tolist() for name, scores in members.items()}
        return [
            Expected(
                score, beside[row].reasons, beside[row].action,
                run.decisions[row].challengers if self._champion_only
                else {version: scores[row] for version, scores in challengers.items()},
                run.decisions[row].members if self._champion_only
                else {name: scores[row] for name, scores in said.items()},
                rules=beside[row].rules,
            )
            for row, score in enumerate(scored.scores.tolist())
        ]  # fmt: skip

    def _ruled(self, run: Run, features: NDArray[np.float32]) -> list[Expected] | str:
        if run.version != self._rules.version:
            return "rules are of another file (--rules names it)"
        amounts = np.array([decision.amount for decision in run.decisions], dtype=np.int64)
        ruling = self._rules.judge(features, amounts)
        expected = []
        for row, decision in enumerate(run.decisions):
            policy = self._policies.get(decision.policy_version)
            action = ruling.actions[row : row + 1]
            # Without its thresholds it cannot be said which score stands for the action.
            score = decision.score if policy is None else float(policy.scores_of(action)[0])
            said = None if policy is None else ACTIONS[int(action[0])]
            expected.append(
                Expected(
                    score, ruling.reasons[row], said, {}, {}, degraded=True,
                    rules=ruling.held[row],
                )
            )  # fmt: skip
        return expected

    def _beside(self, run: Run, features: NDArray[np.float32], scored: Scored) -> list["_Beside"]:
        """Give what model, policy and the rules beside them say of each decision of a run."""
        amounts = np.array([decision.amount for decision in run.decisions], dtype=np.int64)
        none = np.zeros(len(amounts), dtype=np.int64)
        alone = self._reasons(scored.contributions)
        ruling = self._rules.overrule(features, amounts, none, alone)
        found = []
        for row, action in enumerate(self._actions(run, scored.scores)):
            decision = run.decisions[row]
            if not decision.rules_version:
                found.append(_Beside(alone[row], action, []))
            elif decision.rules_version == ruling.version:
                ruled = ACTIONS[int(ruling.actions[row])]
                stronger = None if action is None else max(action, ruled, key=ACTIONS.index)
                found.append(_Beside(ruling.reasons[row], stronger, ruling.held[row]))
            else:
                found.append(_Beside(_behind_rules(decision, alone[row]), None, None))
        return found

    def _scored(self, version: str, features: NDArray[np.float32]) -> Scored | str:
        model = self._fold.model(version)
        return model if isinstance(model, str) else model.score(features)

    def _actions(self, run: Run, scores: NDArray[np.float64]) -> list[Action | None]:
        actions: list[Action | None] = [None] * len(scores)
        used = [decision.policy_version for decision in run.decisions]
        for version in set(used) & set(self._policies):
            given = self._policies[version].actions(scores).tolist()
            for row in (row for row, name in enumerate(used) if name == version):
                actions[row] = ACTIONS[given[row]]
        return actions


class _Beside(NamedTuple):
    reasons: Reasons
    action: Action | None
    rules: list[str] | None


def _behind_rules(decision: DecisionRecord, alone: Reasons) -> Reasons:
    """Give its own reasons if the model's stand behind those of rules, else the model's alone."""
    count = len(decision.reasons) - len(alone)
    first = decision.reasons[: max(count, 0)]
    is_ruled = all(code in decision.rules and weight == 1.0 for code, weight in first)
    return [*first, *alone] if is_ruled else alone


def differences(decision: DecisionRecord, expected: Expected) -> list[tuple[str, object, object]]:
    """List what a decision says otherwise: what, what was expected, what came."""
    pairs: list[tuple[str, object, object]] = [
        ("score", expected.score, decision.score),
        ("reasons", expected.reasons, decision.reasons),
        ("challengers", expected.challengers, decision.challengers),
        ("members", expected.members, decision.members),
        ("degraded", expected.degraded, decision.degraded),
    ]
    if expected.rules is not None:
        pairs.append(("rules", expected.rules, decision.rules))
    if decision.control_offset is not None:
        pairs.append(("mode", expected.mode, decision.mode))
    if expected.action_taken is not None:
        pairs.append(("action_taken", expected.action_taken, decision.action_taken))
    if expected.action is not None:
        pairs.append(("action", expected.action, decision.action))
    return [pair for pair in pairs if pair[1] != pair[2]]


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
