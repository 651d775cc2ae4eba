"""Any classifier of River by its dotted name, behind the contract of our models.

`river.naive_bayes.GaussianNB` as the name of a model is River's class of that name; `forest` is
its adaptive random forest, `anomaly` (`anomaly.py`) its half-space trees. Arguments come from the
setting `river_options`. River's trees and forests are given values as they are, everything else
standard values (`scaling.py`); what is missing or infinite is left out of the event.

What River keeps has no form but a pickle, and whoever can put a pickle where it is read runs any
program there. So there is no snapshot of such a model unless `river_pickle` says that all who can
write to the models topic are trusted. Replay needs none.

>>> model = river_class("river.naive_bayes.GaussianNB")(("amount",))
>>> amounts = np.tile(np.array([[10.0], [20.0], [12.0]], dtype=np.float32), (200, 1))
>>> _ = model.learn(amounts, np.tile(np.array([0, 1, 0], dtype=np.int8), 200), np.ones(600))
>>> model.score(amounts[:2]).scores.round(2)
array([0.  , 0.99])
>>> model.state()
Traceback (most recent call last):
pipeline.errors.SnapshotError: river.naive_bayes.GaussianNB: a River model is kept as a pickle, ...
"""

import importlib
import inspect
import json
import math
import pickle
import re
from functools import cache
from typing import Any, ClassVar, Self

import numpy as np
from river import base
from river.__version__ import __version__ as river_version

from models import states
from models.compiled import Float32s, Floats, Int8s
from models.contract import LOGIT_MAX, Arrays, Header, Scored, limited, score_of
from models.options import ModelOptions
from models.scaling import COUNT, MEAN, Scaler
from models.verbs import ArrayModel
from pipeline.errors import SettingError, SnapshotError

RIVER = "river."
DOTTED = re.compile(r"river(\.[a-z_]+)+\.[A-Z][A-Za-z0-9]*")
# These split by thresholds, and need no scale.
UNSCALED = ("river.forest.", "river.tree.")

SEED = 7
PRIOR = 0.01
# The prior weighs as much as so many examples in the share of frauds.
PRIOR_EXAMPLES = 1000.0
# A leaf of a few examples says exactly 0 or 1. River's word counts as that of a hundred examples,
# one of which is an average one, so that a log loss stays finite.
WORD_EXAMPLES = 100.0

Row = dict[str, float]


class RiverModel(ArrayModel):
    """A River classifier as a model.

    Contributions are by occlusion: one feature after the other is set to its running mean, once in
    the order of the columns and once in the opposite one, and the changes of the log-odds are
    averaged. They add up to the distance from the event that is usual in everything. An event that
    is less suspicious than that has no reasons to find, and its distance is divided equally. Only
    `score` does this, which costs two scores of River for each feature.

    Parameters
    ----------
    features
        Names of the columns. None: they are taken from the dicts and frames that are learned.
    arguments
        Arguments of River's class. Text that begins with `river.` makes an object of that class.
    pickles
        Whether the state may be given, as a pickle.
    """

    name: ClassVar[str] = ""
    place: ClassVar[str] = ""
    """The dotted name of River's class."""

    def __init__(
        self,
        features: tuple[str, ...] | None = None,
        arguments: dict[str, Any] | None = None,
        pickles: bool = False,
    ) -> None:
        self.arguments, self.pickles = arguments, pickles
        self._learned = self._frauds = 0
        self._scaler = Scaler(0)
        self._river = built(self.name, self.place, {**self.defaults(), **(arguments or {})})
        self._weighs = "w" in inspect.signature(self._river.learn_one).parameters
        self._is_scaled = not self.place.startswith(UNSCALED)
        super().__init__(features)

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Give the arguments of River's class where nothing else is said."""
        return {}

    @classmethod
    def made(cls, features: tuple[str, ...], options: ModelOptions) -> Self:
        """Make a model that has learned nothing, as the settings want it."""
        arguments = options.river_arguments.get(cls.name)
        # Many of River's classes look at their arguments only when they learn.
        trial = cls(("value",), arguments)
        try:
            trial.learn(np.ones((2, 1), np.float32), np.array([0, 1], np.int8), np.ones(2))
        except Exception as error:
            raise SettingError(f"river_options: {cls.name} cannot learn: {error}") from error
        return cls(features, arguments, options.river_pickle)

    @property
    def learned(self) -> int:
        """How many examples were learned."""
        return self._learned

    @property
    def fraud_share(self) -> float:
        """The share of frauds among what was learned, with a prior."""
        return (self._frauds + PRIOR * PRIOR_EXAMPLES) / (self._learned + PRIOR_EXAMPLES)

    def score(self, features: Float32s) -> Scored:
        """Score events, a row each."""
        rows = self._checked(features)
        usual = self._usual()
        bias = self._logit(usual)
        scores = np.empty(len(rows))
        contributions = np.empty(rows.shape)
        for number, present in enumerate(self._presents(rows)):
            logit = self._logit(present)
            scores[number] = score_of(logit)
            if logit > bias:
                there = self._occluded(self._names, present, usual)
                back = self._occluded(self._names[::-1], present, usual)
                contributions[number] = (np.array(there) + np.array(back[::-1])) / 2.0
            else:
                contributions[number] = (logit - bias) / max(1, rows.shape[1])
        return limited(scores, contributions, bias)

    def scores(self, features: Float32s) -> Floats:
        """Give the scores alone, where nobody asks why; the same bits as `score` gives."""
        presents = self._presents(self._checked(features))
        return np.array([score_of(self._logit(present)) for present in presents], dtype=np.float64)

    def learn(self, features: Float32s, is_fraud: Int8s, weights: Floats) -> Floats:
        """Test, then train, event by event; give the scores from before each was learned."""
        rows = self._checked(features)
        self._checked_labels(len(rows), is_fraud, weights)
        scores = np.empty(len(rows))
        for number in range(len(rows)):
            row = rows[number : number + 1]
            (present,) = self._presents(row)
            scores[number] = score_of(self._logit(present))
            self._teach(present, int(is_fraud[number]), float(weights[number]))
            self._scaler.learn(row)
            self._learned += 1
            self._frauds += int(is_fraud[number])
        return scores

    def _teach(self, present: Row, is_fraud: int, weight: float) -> None:
        """Let River learn an event; one that knows no weights leaves out those that weigh 0."""
        if self._weighs:
            self._river.learn_one(present, bool(is_fraud), w=weight)
        elif weight > 0.0:
            self._river.learn_one(present, bool(is_fraud))

    def _logit(self, present: Row) -> float:
        """Give the log-odds of River's probability, of which a part is the share of frauds."""
        share = self.fraud_share
        given = float(self._river.predict_proba_one(present).get(True, share))
        if not math.isfinite(given):
            given = share
        held = min(1.0, max(0.0, given))
        mixed = (held * (WORD_EXAMPLES - 1.0) + share) / WORD_EXAMPLES
        logit = math.log(mixed) - math.log1p(-mixed)
        return min(LOGIT_MAX, max(-LOGIT_MAX, logit))

    def _presents(self, rows: Float32s) -> list[Row]:
        """Give each row as River wants it, without the values that are missing or infinite."""
        values = self._scaler.scale(rows) if self._is_scaled else rows
        return [
            {name: value for name, value in zip(self._names, row, strict=True) if usable(value)}
            for row in values.tolist()
        ]

    def _usual(self) -> Row:
        """Give the event that has the mean of every feature that ever had a value."""
        cells = zip(self._names, self._scaler.cells, strict=True)
        return {
            name: 0.0 if self._is_scaled else float(cell[MEAN])
            for name, cell in cells
            if cell[COUNT] > 0.0
        }

    def _occluded(self, names: list[str], present: Row, usual: Row) -> list[float]:
        """Give the change of the log-odds as one feature after the other is set to its mean."""
        event = dict(present)
        logits = [self._logit(event)]
        for name in names:
            if name in usual:
                event[name] = usual[name]
            else:
                event.pop(name, None)
            logits.append(self._logit(event))
        return [before - after for before, after in zip(logits, logits[1:], strict=False)]

    def _add_columns(self, count: int) -> None:
        self._scaler.add_columns(count)

    def state(self) -> tuple[Header, Arrays]:
        """Give all that the model is, if it was made with `pickles`."""
        if not self.pickles:
            raise SnapshotError(refusal(self.name))
        header: Header = {"names": list(self._names), "open": self.features is None}
        header |= {"learned": self._learned, "frauds": self._frauds, "river": river_version}
        header["arguments"] = json.dumps(self.arguments, sort_keys=True)
        pickled = np.frombuffer(pickle.dumps(self._river), dtype=np.int8)
        return header, {"pickle": pickled, "scaling": self._scaler.cells.copy()}

    @classmethod
    def from_state(cls, header: Header, arrays: Arrays) -> Self:
        """Refuse: only `unpickled`, which is asked for by name, reads a pickle."""
        raise SnapshotError(refusal(cls.name))

    @classmethod
    def unpickled(cls, header: Header, arrays: Arrays) -> Self:
        """Make the model again of a state that is trusted: it may run any program."""
        if (version := states.text(header, "river")) != river_version:
            raise SnapshotError(f"state: River must be {river_version} (got {version})")
        try:
            arguments = json.loads(states.text(header, "arguments"))
            model = cls(states.names(header, "names"), arguments, pickles=True)
        except (ValueError, SettingError) as error:
            raise SnapshotError(f"state: {error}") from error
        if states.truth(header, "open"):
            model.features = None
        model._learned = states.integer(header, "learned")
        model._frauds = states.integer(header, "frauds")
        model._scaler.restore(arrays, "scaling")
        pickled = arrays.get("pickle")
        if pickled is None or pickled.dtype != np.int8:
            raise SnapshotError("state: pickle must be int8")
        model._river = _loaded(pickled.tobytes(), type(model._river))
        return model


def _loaded(data: bytes, wanted: type) -> Any:
    try:
        found = pickle.loads(data)  # noqa: S301 - asked for by `river_pickle`
    # Unpickling runs what the bytes say: it can fail in any way there is.
    except Exception as error:
        raise SnapshotError(f"state: pickle cannot be read: {error}") from error
    if type(found) is not wanted:
        raise SnapshotError(f"state: pickle must hold {wanted.__name__} (got {type(found)})")
    return found


class Forest(RiverModel):
    """River's adaptive random forest: ten trees, each replaced when its errors drift."""

    name: ClassVar[str] = "forest"
    place: ClassVar[str] = "river.forest.ARFClassifier"


@cache
def river_class(name: str) -> type[RiverModel]:
    """Give the model that a dotted name of River stands for.

    >>> river_class("river.preprocessing.StandardScaler")
    Traceback (most recent call last):
    pipeline.errors.SettingError: model 'river.preprocessing.StandardScaler' is no classifier
    """
    found = found_class(name)
    if not issubclass(found, base.Classifier):
        raise SettingError(f"model {name!r} is no classifier")
    own = {"name": name, "place": name, "__doc__": found.__doc__, "__reduce__": _reduced}
    return type("Dotted", (RiverModel,), own)


def _reduced(model: RiverModel) -> tuple[Any, ...]:
    # Python looks a class up by its module to copy an object; this one is in none.
    return _blank, (model.name,), model.__dict__


def _blank(name: str) -> RiverModel:
    found = river_class(name)
    return found.__new__(found)


def found_class(place: str) -> type:
    """Give a class of River by its dotted name."""
    try:
        if not DOTTED.fullmatch(place):
            raise AttributeError("a name is like river.tree.HoeffdingTreeClassifier")
        module, _, name = place.rpartition(".")
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SettingError(f"River has no {place!r}: {error}") from error
    if not isinstance(found, type):
        raise SettingError(f"River's {place!r} is no class")
    return found


def built(name: str, place: str, arguments: dict[str, Any]) -> Any:
    """Make an object of River's class; chance, where it has any, is seeded."""
    found = found_class(place)
    known = inspect.signature(found).parameters
    for argument in arguments:
        if argument not in known:
            raise SettingError(
                f"river_options: {name} has no {argument!r}: known are {', '.join(known)}"
            )
    given = {
        key: built(name, value, {}) if str(value).startswith(RIVER) else value
        for key, value in arguments.items()
    }
    if "seed" in known:
        given = {"seed": SEED, **given}
    try:
        return found(**given)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise SettingError(f"river_options: {name} cannot be made: {error}") from error


def usable(value: float) -> bool:
    """Say whether River is given a value: not one that is missing or infinite."""
    return math.isfinite(value)


def refusal(name: str) -> str:
    """Say why a River model has no snapshot."""
    return (
        f"{name}: a River model is kept as a pickle, which can run any program: it serves in "
        "replay, and live only with river_pickle = true, where all who can write models are trusted"
    )
