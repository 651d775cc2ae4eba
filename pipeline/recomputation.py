"""What one decision must say, made again from what it names: model, rules, lists and mode.

Decisions follow each other in runs of the same versions, and a run is scored at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.contract import Scored
from pipeline.controls import ControlLog, Controls
from pipeline.features import FeatureKernel
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
)
from pipeline.rules import NO_RULES, Rules, is_of_rules
from pipeline.version_fold import VersionFold
from pipeline.version_names import split_version


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
