"""A mixture of other models that follows the best of them.

The log-odds of an event are the weighted mean of what the members say, so reasons stay exact: the
contributions are the same mean of theirs. The weights sum to 1 and are learned, one label at a
time, by exponentiated gradient on the log loss of the mixture: a member that would have moved the
score the right way gains, whether alone it is the better one or not. A small share of the weight
is always spread evenly, so that a member that was bad for long is taken up again when times change.

Weights are learned by what the members said when the event was decided, as the training example
brings it. Asked anew when the label comes, an online member has learned the other labels of the
same attack a moment ago; it would look better than it was (docs/decisions/0025-mixture.md).

A member that knows nothing has no weight. When it knows something it begins with its even share.

>>> model = Ensemble(features=("hour",), members="additive,logistic")
>>> hours = np.tile(np.array([[2.0], [3.0], [4.0]], dtype=np.float32), (500, 1))
>>> is_fraud = np.tile(np.array([0, 1, 0], dtype=np.int8), 500)
>>> before = model.learn(hours, is_fraud, np.ones(1500))
>>> model.shares.round(1)
array([1., 0.])
>>> model.score(hours[:3]).scores.round(1)
array([0., 1., 0.])
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Self

import numpy as np

from models import states
from models.compiled import Float32s, Floats, Int8s, kernel
from models.contract import Arrays, Header, Scored, limited, score_of
from models.options import ModelOptions
from models.verbs import ArrayModel
from pipeline.errors import SettingError, SnapshotError

MEMBERS_MAX = 8

# How far a label moves the weights, and how much of them is spread evenly at each; both chosen on
# the first days of three streams (docs/decisions/0025-mixture.md).
RATE, EVEN = 0.03, 1e-5


@kernel
def logit_of(score: float) -> float:
    """Give the log-odds of a score."""
    return math.log(score) - math.log1p(-score)


@kernel
def mixed_row(scores: Floats, weights: Floats) -> float:
    """Give the mixture's score of one event by what each member says of it."""
    logit = 0.0
    for member in range(len(weights)):
        logit += weights[member] * logit_of(scores[member])
    return score_of(logit)


@kernel
def mixed(scores: Floats, weights: Floats) -> Floats:
    """Give the mixture's score for each row of the members' scores."""
    found = np.empty(len(scores))
    for row in range(len(scores)):
        found[row] = mixed_row(scores[row], weights)
    return found


@kernel
def weigh(said: Floats, is_fraud: int, trust: float, weights: Floats, ready: Int8s) -> None:
    """Move the weights by what the members said of one event; NaN is a member not asked.

    Weight moves among those that were asked, and the rest keep theirs.
    """
    asked, mass, logit = 0, 0.0, 0.0
    for member in range(len(weights)):
        if ready[member] == 1 and not np.isnan(said[member]):
            asked += 1
            mass += weights[member]
            logit += weights[member] * logit_of(said[member])
    if asked < 2:  # noqa: PLR2004 - one alone is compared with nobody
        return
    if asked == ready.sum():
        # Not their sum: rounding would add up over the years.
        mass = 1.0
    step = RATE * min(1.0, trust) * (score_of(logit / mass) - is_fraud)
    total = 0.0
    for member in range(len(weights)):
        if ready[member] == 1 and not np.isnan(said[member]):
            weights[member] *= math.exp(-step * logit_of(said[member]))
            total += weights[member]
    for member in range(len(weights)):
        if ready[member] == 1 and not np.isnan(said[member]):
            weights[member] *= (1.0 - EVEN) * mass / total
            weights[member] += EVEN * mass / asked


@kernel
def mix_and_weigh(
    now: Floats, said: Floats, is_fraud: Int8s, trust: Floats, weights: Floats, ready: Int8s
) -> Floats:
    """Give the mixture's score of each event from before its label moved the weights."""
    found = np.empty(len(now))
    for row in range(len(now)):
        found[row] = mixed_row(now[row], weights)
        weigh(said[row], is_fraud[row], trust[row], weights, ready)
    return found


class Ensemble(ArrayModel):
    """Other models, mixed in log-odds.

    Parameters
    ----------
    features
        Names of the columns. None: they are taken from the dicts and frames that are learned.
    members
        Names of the models, separated by commas.
    options
        How the members learn.

    References
    ----------
    Kivinen and Warmuth, Exponentiated Gradient versus Gradient Descent for Linear Predictors,
    Information and Computation 1997; Herbster and Warmuth, Tracking the Best Expert, Machine
    Learning 1998 (the share).
    """

    name: ClassVar[str] = "ensemble"

    def __init__(
        self,
        features: tuple[str, ...] | None = None,
        members: str = "additive,boosted,neural",
        options: ModelOptions | None = None,
    ) -> None:
        self.members, self.options = members, options
        names = names_of(members)
        self._members = [_made(name, features or (), options) for name in names]
        count = len(self._members)
        self.shares = np.full(count, 1.0 / count)
        self._ready = np.zeros(count, dtype=np.int8)
        self._remembered = 0
        super().__init__(features)

    @classmethod
    def made(cls, features: tuple[str, ...], options: ModelOptions) -> Self:
        """Make a model that has learned nothing, as the settings want it."""
        return cls(features, options.members, options)

    @property
    def member_names(self) -> tuple[str, ...]:
        """Names of the members."""
        return tuple(member.name for member in self._members)

    @property
    def knows_something(self) -> bool:
        """Whether a member does."""
        return bool(self._ready.any())

    @property
    def learned(self) -> int:
        """How many examples were learned."""
        return self._members[0].learned

    @property
    def window_start(self) -> int:
        """The number of the first example that a member must remember when it is made again."""
        return min(member.window_start for member in self._members)

    def score(self, features: Float32s) -> Scored:
        """Score events, a row each; a contribution is the mean of the members' contributions."""
        rows = self._checked(features)
        scored = [member.score(rows) for member in self._members]
        contributions = np.zeros(rows.shape)
        bias = 0.0
        for weight, found in zip(self.shares.tolist(), scored, strict=True):
            contributions += weight * found.contributions
            bias += weight * found.bias
        said = np.column_stack([found.scores for found in scored])
        whole = limited(mixed(said, self.shares), contributions, bias)
        members = {
            name: found.scores
            for name, found, ready in zip(self.member_names, scored, self._ready, strict=True)
            if ready
        }
        return replace(whole, members=members)

    def scores(self, features: Float32s) -> Floats:
        """Give the scores alone, where nobody asks why; the same bits as `score` gives."""
        return mixed(self._said(self._checked(features)), self.shares)

    def member_scores(self, features: Float32s) -> Mapping[str, Floats]:
        """Give the scores of the members that know something, by name."""
        rows = self._checked(features)
        return {
            member.name: member.scores(rows)
            for member, ready in zip(self._members, self._ready, strict=True)
            if ready
        }

    def _said(self, rows: Float32s) -> Floats:
        return np.column_stack([member.scores(rows) for member in self._members])

    def weights(self, limit: int) -> list[tuple[str, float]]:
        """Give the share of each member in the mixture, the largest first."""
        shares = zip(self.member_names, self.shares.tolist(), strict=True)
        return sorted(shares, key=lambda pair: -pair[1])[:limit]

    def tick(self, hour: int) -> None:
        """Hear that the event time of what is learned reached this hour of the epoch."""
        for member in self._members:
            member.tick(hour)
        self._look()

    def learn(self, features: Float32s, is_fraud: Int8s, weights: Floats) -> Floats:
        """Test, then train, event by event; give the scores from before each was learned.

        Weights are learned by what the members say now: right where the label follows at once.
        """
        return self._learn(features, is_fraud, weights, None)

    def learn_decided(
        self,
        features: Float32s,
        is_fraud: Int8s,
        weights: Floats,
        said: Mapping[str, Floats],
    ) -> Floats:
        """Learn events that were decided before; `said` is what members said then, by name."""
        unknown = np.full(len(features), np.nan)
        columns = [said.get(name, unknown) for name in self.member_names]
        return self._learn(features, is_fraud, weights, np.column_stack(columns))

    def _learn(
        self, features: Float32s, is_fraud: Int8s, weights: Floats, said: Floats | None
    ) -> Floats:
        rows = self._checked(features)
        self._checked_labels(len(rows), is_fraud, weights)
        scores = np.empty(len(rows))
        start = 0
        while start < len(rows):
            part = slice(start, start + next_look(self.learned) - self.learned)
            given = None if said is None else said[part]
            scores[part] = self._learn_part(rows[part], is_fraud[part], weights[part], given)
            self._look()
            start = part.stop
        return scores

    def _learn_part(
        self, rows: Float32s, is_fraud: Int8s, weights: Floats, said: Floats | None
    ) -> Floats:
        now = np.column_stack([member.learn(rows, is_fraud, weights) for member in self._members])
        given = now if said is None else said
        return mix_and_weigh(now, given, is_fraud, weights, self.shares, self._ready)

    def _look(self) -> None:
        """Let members that have come to know something have their even share."""
        if self._ready.all():
            return
        for place, member in enumerate(self._members):
            if member.knows_something and not self._ready[place]:
                count = int(self._ready.sum()) + 1
                self.shares *= (1.0 - 1.0 / count) * self._ready
                self.shares[place] = 1.0 / count
                self._ready[place] = 1

    def remember(self, features: Float32s, is_fraud: Int8s, weights: Floats) -> None:
        """Take up again, in order, the examples from `window_start` to where the model stands."""
        first, rows = self._remembered, len(features)
        for member in self._members:
            start = min(max(0, member.window_start - first), rows)
            member.remember(features[start:], is_fraud[start:], weights[start:])
        self._remembered += rows

    def _add_columns(self, count: int) -> None:
        """Let the members make room for that many more features."""
        for member in self._members:
            member._extend(tuple(self._names[len(member.feature_names) :]))

    def state(self) -> tuple[Header, Arrays]:
        """Give all that the model is, to be kept; the arrays are copies."""
        parts: dict[str, object] = {}
        arrays: Arrays = {"shares": self.shares.copy(), "ready": self._ready.copy()}
        for member in self._members:
            parts[member.name], given = member.state()
            arrays |= {f"{member.name}.{name}": array for name, array in given.items()}
        header: Header = {"members": self.members, "parts": parts}
        header |= {"names": list(self._names), "open": self.features is None}
        return header, arrays

    @classmethod
    def from_state(cls, header: Header, arrays: Arrays) -> Self:
        """Make the model again; it goes on bit for bit as the first would have."""
        names = states.names(header, "names")
        try:
            model = cls(names, states.text(header, "members"))
        except SettingError as error:
            raise SnapshotError(f"state: {error}") from error
        if states.truth(header, "open"):
            model.features = None
        parts = header.get("parts")
        if not isinstance(parts, dict):
            raise SnapshotError(f"state: parts must be the members' states (got {parts!r})")
        model._members = [
            _again(type(member), parts.get(member.name), arrays) for member in model._members
        ]
        model._restore_shares(arrays)
        return model

    def _restore_shares(self, arrays: Arrays) -> None:
        count = len(self._members)
        self.shares = states.array(arrays, "shares", np.float64, (count,))
        self._ready = states.array(arrays, "ready", np.int8, (count,))
        if (self.shares < 0.0).any() or abs(float(self.shares.sum()) - 1.0) > 1e-6:  # noqa: PLR2004
            raise SnapshotError("state: shares must be from 0 on and sum to 1")
        if any(member.feature_names != self.feature_names for member in self._members):
            raise SnapshotError("state: members must have the features of the whole")
        if len({member.learned for member in self._members}) > 1:
            raise SnapshotError("state: members must have learned the same examples")
        self._remembered = self.window_start


def next_look(learned: int) -> int:
    """Say after how many examples it is looked, who of the members knows something.

    >>> [next_look(learned) for learned in (0, 1, 2, 3, 100, 70_000)]
    [1, 2, 4, 4, 128, 131072]
    """
    return 1 << learned.bit_length()


def names_of(members: str) -> tuple[str, ...]:
    """Read the names of the members.

    >>> names_of("additive, boosted")
    ('additive', 'boosted')
    """
    names = tuple(name.strip() for name in members.split(","))
    if not 1 <= len(names) <= MEMBERS_MAX or len(set(names)) < len(names):
        raise SettingError(f"members must be 1 to {MEMBERS_MAX} different models (got {members!r})")
    if Ensemble.name in names:
        raise SettingError(f"members must be models other than {Ensemble.name!r} (got {members!r})")
    return names


def _made(name: str, features: tuple[str, ...], options: ModelOptions | None) -> ArrayModel:
    # The table of all models holds this one too.
    from models import MODELS, make_model  # noqa: PLC0415

    if name not in MODELS:
        # A River model is kept as a pickle, and a mixture holds no pickles.
        raise SettingError(f"members must be of {', '.join(sorted(MODELS))} (got {name!r})")
    return make_model(name, features, options)


def _again(kind: type[ArrayModel], header: object, arrays: Arrays) -> ArrayModel:
    """Make a member again; its arrays carry its name."""
    prefix = f"{kind.name}."
    if not isinstance(header, dict):
        raise SnapshotError(f"state: parts must have {kind.name!r} (got {header!r})")
    own = {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
    try:
        return kind.from_state(header, own)
    except SnapshotError as error:
        raise SnapshotError(str(error).replace("state: ", f"state: {prefix}", 1)) from error
